"""A module as pure functions of its parameters: in evaluation and in training.

module -> leaves, apply (evaluation), learn (training: dropout, running statistics)
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Key, PyTree

from jaxinit import spec
from jaxinit.introspect.modes import FLAGS, Modes, check_dropout, modes_of
from jaxinit.introspect.parameters import Params, joined, leaves, name_of
from jaxinit.introspect.state import (
    FlatState,
    Held,
    check_carried,
    check_values,
    held_by,
    holds_more_than_parameters,
)
from jaxinit.spec import Leaf

Apply = Callable[[Params, Any], Array]  # inputs are an array, or a tree of arrays

# Roles whose values a narrow dtype has no digits for: decays of 0.999, angles and time steps.
ALWAYS_WIDE = ("log_decay", "log_phase", "decay_logit", "step_bias", "log_rate")


class Training(NamedTuple):
    """What a module needs to know of a training step: its noise. None in its place means
    evaluation.

    `key` is the step's own, None for no noise; `dropout` the probability that a unit is dropped,
    which may be traced."""

    key: Key[Array, ""] | None = None
    dropout: float | Array | np.ndarray = 0.0


# (params, running statistics, x, training) -> (y, running statistics after)
Learn = Callable[[Params, Params, Any, Training], tuple[Array, Params]]


class Functional(NamedTuple):
    """A module as pure functions; `params` is `{name: array}` as `spec.draw` returns it.

    `apply(params, x)` evaluates, as after `module.eval()`: no noise, normalization by the running
    statistics `params` holds under their names, or by the initial ones.
    `learn(params, running, x, training)` is a training step's forward pass, as after
    `module.train()`: normalization by the batch, and noise from the step's key alone; without one
    no noise.
    `running` holds the initial running statistics, and what else changes with training and is no
    parameter; most modules have none.
    `filled(params)` is the module itself with those parameters, in evaluation, for what only it can
    do.
    `noisy`: whether the module draws noise of its own (`nnx.Dropout`), and training needs a key."""

    leaves: tuple[Leaf, ...]
    apply: Apply
    learn: Learn
    running: Params
    filled: Callable[[Params], Any]
    noisy: bool = False

    def as_trained(self, params: Params, x: Any) -> Array:
        """What a training step computes, without its noise: what to probe and to calibrate."""
        return self.learn(params, self.running, x, Training())[0]


def functional(make: Callable[[], nnx.Module]) -> Functional:
    """The module that `make` builds, as leaves and pure functions; its parameters are not
    allocated.

    A module of ours has a second argument, `training`, if it takes noise; any other is put into
    evaluation or training by `eval()` and `train()`, on a copy, and by an argument of its call that
    says so: `train`, `is_training` or a bool `training` (True in training), `deterministic` or
    `use_running_average` (False in training).
    Running statistics (`nnx.BatchStat`) and variables of a type of the caller's are carried from
    step to step. Random state (`nnx.RngState`) is none: in training each stream starts from the
    step's key and the stream's name, else from where `make` put it. What is `Frozen`, or a plain
    array, is a constant; a module that has some is built once.
    dtypes: a parameter that the module keeps in another type than float32 is cast to that type when
    it is used.
    Raises: ValueError for a module with state of Flax's that cannot be carried (`nnx.Cache`,
    `nnx.Intermediate`, `nnx.Perturbation`), with dropout that has no random state, or with an array
    that an earlier trace left behind; when evaluated, for a `BatchNorm` or a `Dropout` that an
    argument inside the module puts into training all the same.
    """
    module: Any = nnx.eval_shape(make)  # no parameter is allocated
    declared = leaves(module)
    state: FlatState = nnx.to_flat_state(nnx.state(module))
    check_carried(state)
    held = Held({}, {}, {}, ())
    if holds_more_than_parameters(module, state):
        # An initial statistic is a value, and shapes have none. What `make` returns is the
        # caller's: it may be one that lives on, which eval() must not switch.
        module = nnx.merge(*nnx.split(make()))
        check_values(module)
        built = nnx.state(module)
        shapes = jax.eval_shape(lambda: built)  # the values of parameters are not kept
        state = nnx.to_flat_state(shapes)
        held = held_by(nnx.to_flat_state(built))
    check_dropout(module, seeded=bool(held.streams))
    call = inspect.signature(type(module).__call__).parameters
    flags = {name: trains for name, trains in FLAGS.items() if name in call}
    takes_training = "training" in call and not isinstance(call["training"].default, bool)
    if takes_training:
        del flags["training"]
    pure = _Pure(state, held, modes_of(module), flags, takes_training)
    return Functional(
        declared, pure.apply, pure.learn, held.running, pure.filled, bool(held.streams)
    )


def computing_in(model: Functional, dtype: DTypeLike) -> Functional:
    """The same functions computed in a narrower dtype than their parameters are kept in, or in a
    wider one.

    y = float32(f(dtype(params), dtype(x))). Whoever differentiates goes back through the casts, so
    that a gradient has the dtype of its parameter.
    dtypes: parameters and features are cast to `dtype`, outputs to float32. Whole numbers, running
    statistics and constants stay as they are, parameters of the roles `ALWAYS_WIDE` float32.
    Assumes a module that computes in the dtype of its parameters and inputs, as ours and Flax's do
    that are not told another. Of Flax's cells the carry is float32, and so is what its batch
    normalization puts out, beside float32 statistics: what follows computes in float32.
    Source: Micikevicius et al. (2018), section 3.1. Departure: no factor of the loss, which
    bfloat16, having the exponents of float32, does not need.
    """

    def cast(params: Params) -> Params:
        """The parameters among what is given; running statistics may be there too."""
        given = dict(params)
        for leaf in model.leaves:
            kept = jnp.float32 if leaf.role in ALWAYS_WIDE else dtype
            given[leaf.name] = given[leaf.name].astype(kept)
        return given

    def features(x: PyTree) -> Any:
        def narrowed(a: Array) -> Array:
            return jnp.asarray(a, dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        return jax.tree.map(narrowed, x)

    def apply(params: Params, x: Any) -> Array:
        return widened(model.apply(cast(params), features(x)))

    def learn(params: Params, running: Params, x: Any, training: Training) -> tuple[Array, Params]:
        y, running = model.learn(cast(params), running, features(x), training)
        return widened(y), running

    def filled(params: Params) -> Any:
        return model.filled(cast(params))

    return model._replace(apply=apply, learn=learn, filled=filled)


def widened(tree: PyTree) -> Any:
    """Arrays with floats narrower than float32 in float32, all others as they are."""

    def wide(a: Array) -> Array:
        narrow = jnp.issubdtype(a.dtype, jnp.floating) and jnp.finfo(a.dtype).bits < 32
        return a.astype(jnp.float32) if narrow else a

    return jax.tree.map(wide, tree)


@dataclass(frozen=True, eq=False)
class _Pure:
    """A module taken apart; every call puts it together with the parameters that it is given.

    `state` has the shapes of all variables; `flags` are the arguments of the module's call that
    tell it its mode, as they are in training; `takes_training` says that it takes a `Training`."""

    state: FlatState
    held: Held
    modes: Modes
    flags: dict[str, bool]
    takes_training: bool

    def filled(self, params: Params) -> Any:
        # `params` may have running statistics too: what comes later goes first.
        values = self.held.constants | self.held.running | params
        return self._module(self.modes.evaluating, values)

    def apply(self, params: Params, x: Any) -> Array:
        evaluating = {name: not trains for name, trains in self.flags.items()}
        return self.filled(params)(x, **evaluating)

    def learn(
        self, params: Params, running: Params, x: Any, training: Training
    ) -> tuple[Array, Params]:
        constants = self.held.constants
        if training.key is None:
            module = self._module(self.modes.quiet, constants | running | params)
        else:
            keys = self._stream_keys(training.key)
            # What comes later goes first: this step's keys before those that `make` left.
            module = self._module(self.modes.noisy, constants | keys | running | params)
        if self.takes_training:
            y = module(x, **self.flags, training=training)
        else:
            y = module(x, **self.flags)
        after: dict[str, Any] = {}
        for path, variable in nnx.to_flat_state(nnx.state(module)):
            after[name_of(path)] = variable
        return y, {name: after[name].get_value() for name in running}

    def _module(self, graph: Any, values: Params) -> Any:
        """The module of a graph, with its variables from `values`, by name."""
        flat: list[tuple[Any, Any]] = []
        for path, variable in self.state:
            name = name_of(path)
            if isinstance(variable, nnx.Param):
                stored = _as_kept(joined(name, variable, values), variable)
                flat.append((path, variable.replace(stored)))
            elif isinstance(variable, nnx.Variable):
                flat.append((path, variable.replace(values[name])))
            else:
                flat.append((path, self.held.plain[name]))
        return nnx.merge(graph, nnx.from_flat_state(flat))

    def _stream_keys(self, key: Key[Array, ""]) -> Params:
        """The keys that the random streams start a training step from."""
        constants = self.held.constants
        return {name: _reseeded(constants[name], key, name) for name in self.held.streams}


def _as_kept(value: Array, variable: nnx.Variable) -> Array:
    """A parameter's value in the type that its module keeps it in; float32 is what any may be
    computed in."""
    own_dtype = variable.get_value().dtype
    if own_dtype == jnp.float32:
        return value
    return value.astype(own_dtype)


def _reseeded(initial: Array, key: Key[Array, ""], name: str) -> Array:
    """The key, or the keys of stacked layers, that a random stream starts a training step from."""
    own_key = spec.named_key(key, name)
    impl = jax.random.key_impl(initial)
    if impl != jax.random.key_impl(key):
        # The module's own kind of generator: keys of two kinds differ in shape.
        own_key = jax.random.key(jax.random.bits(own_key), impl=impl)
    if not initial.shape:
        return own_key
    return jax.random.split(own_key, initial.shape)
