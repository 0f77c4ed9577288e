"""Initialization from a trained model: its values as a scheme, and what new parts do to it before
the first step.

    values of a trained model -> `pretrained`, a scheme like any other -> step-0 report

A study compares such a scheme with others at its own best rate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxinit.analysis.records import Point
from jaxinit.engine import sweep, training
from jaxinit.engine.initial import draw_parameters, kept, of_points
from jaxinit.engine.progress import allowed, work
from jaxinit.engine.resolve import Resolved, resolve
from jaxinit.introspect import Params
from jaxinit.spec import (
    Initializer,
    Joint,
    Leaf,
    Rule,
    Scheme,
    as_scheme,
    canonical_order,
    matches,
    sampling_dtype,
    unmatched,
)
from jaxinit.study import BadStudy, Study


def pretrained(
    values: Mapping[str, Array], new: Scheme | Initializer, *, frozen: bool = False
) -> Scheme:
    """A trained model as a scheme: its values by name, and `new` for every parameter that it lacks.

    For another head leave its kernel and bias out of `values`. With `frozen`, what is trained
    already stands still (rates and decay times 0): a linear probe, if the head is all that is new.
    Raises, when drawn: ValueError for a value of another shape than the parameter's, or that no
    parameter is named as, and for rules of `new` that match nothing in the whole model.
    """

    def answer(leaf: Leaf) -> Rule | Initializer | None:
        if leaf.name not in values:
            by_new = as_scheme(new)
            return by_new(leaf)
        value = jnp.asarray(values[leaf.name])
        if value.shape != leaf.shape:
            raise ValueError(
                f"the trained value of {leaf.name!r} has shape {value.shape}, the parameter "
                f"{leaf.shape}; leave it out to draw it anew, or extend it (extend_vocabulary)"
            )
        order = canonical_order(leaf.dims)

        def stored(
            key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /
        ) -> Array:
            # Asked for in the layout that `spec.along` turns into the parameter's.
            return value.transpose(order).reshape(shape).astype(dtype)

        draw = Joint(stored)  # the copies are not alike: the whole array is asked for at once
        if frozen:
            return Rule(draw, lr_scale=0.0, wd_scale=0.0)
        return Rule(draw)

    def idle(leaves: Sequence[Leaf]) -> list[str]:
        strangers = sorted(set(values) - {leaf.name for leaf in leaves})
        return [*strangers, *unmatched(new, leaves)]

    # What `spec` asks of a scheme beside its answers.
    scheme: Any = answer
    scheme.__name__ = "pretrained"
    scheme.__doc__ = pretrained.__doc__
    scheme.unmatched = idle
    return scheme


class StepZero(NamedTuple):
    """What new parts do to a trained model before the first step.

    `shift`: the largest change of an output that both have, over the standard deviation of the
    outputs before; `kl`: the mean of KL(before || after) in nats, of softmax over all classes of
    each; `gradient`: the norm of the loss's gradient in every new part, 0 where a part cannot
    learn.
    """

    shift: float
    kl: float
    gradient: dict[str, float]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {norm:.3g}" for name, norm in self.gradient.items())
        return (
            f"shift {self.shift:.2g} of the outputs' spread, KL {self.kl:.3g} nats; gradient "
            f"norms: {parts}"
        )


def step_zero(
    before: Float[Array, "*batch c"],
    after: Callable[[Params, Array], Array],
    params: Params,
    batch: tuple[Array, Array],
    loss: Callable[[Array, Array], Array],
    new: Sequence[str],
    rows: slice | None = None,
) -> StepZero:
    """The report on a model with new parts, before it is trained.

    `before` are the outputs of the trained model, `after(params, x)` those of the new one; `new`
    are patterns for the names of the new parts; `rows` takes those rows of their gradients (of a
    table) alone.
    Units: see `StepZero`; dtypes: any, compared in float32 or wider. Assumes that shared classes
    come first.
    Raises: ValueError for a pattern that matches no parameter.
    """
    x, y = batch
    new_names = _matching_names(params, new)
    outputs, slopes = _outputs_and_slopes(after, loss, params, x, y)
    before = _wide(before)
    outputs = _wide(outputs)
    shared = min(before.shape[-1], outputs.shape[-1])
    moved = jnp.max(jnp.abs(outputs[..., :shared] - before[..., :shared]))
    spread = jnp.std(before)
    shift = jnp.where(moved == 0, 0, moved / spread)  # 0 also where the outputs have no spread
    kl = divergence(before, outputs)
    norms: dict[str, float] = {}
    for name in new_names:
        slope = slopes[name]
        if rows is not None:
            slope = slope[rows]
        norms[name] = float(jnp.linalg.norm(_wide(slope)))
    return StepZero(float(shift), float(kl), norms)


def _matching_names(params: Params, patterns: Sequence[str]) -> list[str]:
    """The parameters whose names match a pattern, in their order. Raises: ValueError for a pattern
    that matches none."""
    # Leaves without a role, so that patterns match names alone.
    leaves = [Leaf(name, w.shape, "o" * w.ndim, "") for name, w in params.items()]
    matching: set[str] = set()
    for pattern in patterns:
        names = [leaf.name for leaf in leaves if matches(pattern, leaf)]
        if not names:
            raise ValueError(
                f"step_zero: {pattern!r} matches no parameter; they are {', '.join(params)}"
            )
        matching.update(names)
    return [name for name in params if name in matching]


def _wide(x: Array) -> Array:
    """An array in float32 or wider."""
    return x.astype(sampling_dtype(x.dtype))


@partial(jax.jit, static_argnums=(0, 1))
def _outputs_and_slopes(
    after: Any, loss: Any, params: Params, x: Array, y: Array
) -> tuple[Array, Params]:
    """The outputs of a model and the gradient of its loss; compiled once for all its values."""

    def loss_of(params: Params) -> Array:
        return loss(after(params, x), y)

    return after(params, x), jax.grad(loss_of)(params)


def divergence(
    before: Float[Array, "*batch c"], after: Float[Array, "*batch k"]
) -> Float[Array, ""]:
    """KL(before || after) of the softmax over all classes of each, in nats, mean over the batch.

    dtypes: computed in float32 or wider. Assumes that the classes that both have come first, and
    that `before` has no others.
    """
    shared = min(before.shape[-1], after.shape[-1])
    # Over all classes first, since new classes take probability from the old.
    log_p = jax.nn.log_softmax(_wide(before))[..., :shared]
    log_q = jax.nn.log_softmax(_wide(after))[..., :shared]
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    return jnp.mean(kl)


class Trained(NamedTuple):
    """A model trained here: what its study resolved to, its values, and the validation metric that
    they reach."""

    resolved: Resolved
    values: Params
    metric: float


def pretrain(
    study: Study,
    *,
    schemes: Mapping[str, Scheme] | None = None,
    tasks: Mapping[str, Callable[..., Any]] | None = None,
    models: Mapping[str, Callable[..., nnx.Module]] | None = None,
    progress: bool = True,
) -> Trained:
    """Train one model: the first scheme of a study, at the first rate of its grid, on its first
    reporting seed.

    It trains for all its epochs, whatever the target.
    Raises: BadStudy as `resolve.resolve`, for a scheme with forward multipliers (values alone
    cannot carry them), and for a run that diverges.
    """
    study = replace(
        study,
        search="grid",
        lrs=study.lrs[:1],
        search_also=(),
        schemes=study.schemes[:1],
        baseline=study.schemes[0],
    )
    resolved = resolve(study, schemes, tasks, models)
    scheme = resolved.study.schemes[0]
    if any(rule.multiplier != 1 for rule in resolved.rules[scheme].values()):
        raise BadStudy(
            f"{scheme} multiplies parameters in the forward pass, which values alone cannot carry "
            "on"
        )
    with allowed(progress), sweep.numerics(study):
        return _train_alone(resolved)


def _train_alone(resolved: Resolved) -> Trained:
    """The only scheme of a study trained at its only rate. Raises: BadStudy if it diverges."""
    study = resolved.study
    program = training.Program(
        resolved.model,
        resolved.task,
        resolved.optimizer,
        batch=study.batch,
        evaluations=study.evaluations,
        epochs=1,
        schedule=study.schedule,
    )
    lr = study.lrs[0]
    point = Point(study.schemes[0], lr, study.reporting[0])
    (params,) = of_points(kept(resolved, draw_parameters(resolved)), [point], study.first_seed)
    trial = resolved.trial(point, program.evaluations_per_epoch)
    # No metric reaches an infinite target, so that the trial trains for all its epochs.
    out_of_reach = jnp.inf if resolved.task.higher_is_better else -jnp.inf
    trial = trial._replace(target=out_of_reach)
    state = program.initial_state(jax.tree.map(jnp.asarray, params), trial)
    advance = jax.jit(program.advance)  # an epoch, so that progress can be shown after each
    metric = math.nan
    with work("pre-training", study.epochs, "epochs") as shown:
        for _ in shown.each(range(study.epochs)):
            state, records = advance(resolved.task.data, state, trial)
            metric = float(records.metric[-1])
    if not math.isfinite(metric):
        raise BadStudy(f"pre-training diverged at a rate of {lr:g}; choose a lower one")
    return Trained(resolved, state.params, metric)
