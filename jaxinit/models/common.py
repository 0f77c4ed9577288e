"""What every model shares: the nonlinearities, the readout, and the border where `init=` meets the
parameters."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Shaped

from jaxinit.initializers.basic import glorot_scheme
from jaxinit.introspect import ALWAYS_WIDE, Place, Training, fill, name_of, param
from jaxinit.options import positive_integer
from jaxinit.spec import Initializer, Override, Rule, Scheme

# features `[b, t, i]`, or whole numbers `[b, t]`; see `sequences`
Inputs = Shaped[Array | np.ndarray, "b t ..."]

EPSILON = 1e-5  # under the square root of a normalization
NORMS: dict[str, Callable[..., nnx.Module]] = {
    "layer": nnx.LayerNorm,
    "batch": partial(nnx.BatchNorm, momentum=0.9),
}

# The roles that each of the arguments decides that override a scheme, named as Flax names them.
ROLES = {
    "kernel_init": ("input", "hidden"),
    "recurrent_init": ("recurrent",),
    "readout_init": ("readout",),
    "bias_init": ("bias",),
    "embedding_init": ("embedding",),
    "position_init": ("position",),
    "query_init": ("query",),
    "key_init": ("key",),
    "value_init": ("value",),
    "attention_out_init": ("attention_out",),
    "ffn_in_init": ("ffn_in",),
    "ffn_out_init": ("ffn_out",),
}


def start(model: nnx.Module, rngs: nnx.Rngs, roles: set[str], inits: Mapping[str, Any]) -> None:
    """Draw the parameters of a module under construction: the last line of its constructor.

    `inits` may hold `init`, a scheme (default: Glorot's), and an initializer for each argument of
    `ROLES` that decides one of the module's `roles`; None stands for the scheme.
    Raises: TypeError for another argument.
    """
    scheme: Scheme | Initializer = inits.get("init", glorot_scheme)
    overrides: dict[str, Rule | Initializer] = {}
    for argument, initializer in inits.items():
        if argument == "init" or initializer is None:
            continue
        decided = [role for role in ROLES.get(argument, ()) if role in roles]
        if not decided:
            known = ["init"]
            for name, its_roles in ROLES.items():
                if roles.intersection(its_roles):
                    known.append(name)
            raise TypeError(
                f"{type(model).__name__} takes no {argument}; it takes {', '.join(known)}"
            )
        for role in decided:
            overrides[role] = initializer
    if overrides:
        scheme = Override(scheme, overrides)
    fill(model, scheme, rngs.params())


def sizes(**given: Any) -> tuple[int, ...]:
    """Sizes as Python's own integers, in the order given; a size may be of any integral type.

    Raises: ValueError as `positive_integer`.
    """
    return tuple(positive_integer(name, size) for name, size in given.items())


def dtype_of(model: nnx.Module) -> np.dtype:
    """The dtype of a module's parameters, which is the one that it computes in; those of the roles
    `ALWAYS_WIDE` have no say.

    Raises: ValueError for parameters of different dtypes, with one name for each.
    """
    named: dict[np.dtype, str] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if variable.get_metadata().get("role") not in ALWAYS_WIDE:
            named.setdefault(np.dtype(variable.get_value().dtype), name_of(path))
    if len(named) > 1:
        several = ", ".join(f"{dtype} ({name})" for dtype, name in named.items())
        raise ValueError(
            f"{type(model).__name__} computes in the dtype of its parameters, got several: "
            f"{several}; cast all of them to one"
        )
    return next(iter(named))


def at_least_float32(dtype: np.dtype) -> np.dtype:
    if jnp.finfo(dtype).bits < 32:
        return np.dtype(np.float32)
    return dtype


def wide(values: Array) -> Array:
    """The values in float32 where they are narrower."""
    return values.astype(at_least_float32(values.dtype))


def sequences(x: Inputs, in_features: int, dtype: np.dtype) -> Array:
    """Sequences as a network takes them: features in its dtype, whole numbers `[batch, time]` as
    they are.

    Raises: ValueError for another shape, or for sequences without a step.
    """
    whole_numbers = x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer)
    if not whole_numbers and (x.ndim != 3 or x.shape[2] != in_features):
        raise ValueError(
            f"x has the shape {x.shape} and the dtype {x.dtype}, expected features [batch, time, "
            f"{in_features}] or whole numbers [batch, time] below {in_features}"
        )
    if not x.shape[1]:
        raise ValueError(
            f"x has the shape {x.shape}, which is no time step; give sequences of 1 or more"
        )
    return jnp.asarray(x, None if whole_numbers else dtype)


def resolve_lengths(
    lengths: Array | np.ndarray | None, mask: Array | np.ndarray | None, b: int, t: int
) -> Array | None:
    """The lengths that `lengths` and `mask` say, checked where they are known, brought to 0 to T
    where they are traced.

    Raises: ValueError for another shape or dtype, for lengths of 0 or beyond T, for a mask that is
    not true up to a sequence's end and false from there, and where the two disagree.
    """
    if lengths is None and mask is None:
        return None
    if lengths is not None and lengths.shape != (b,):
        raise ValueError(
            f"lengths has the shape {lengths.shape}, expected {(b,)}: one for each sequence"
        )
    if lengths is not None and not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths has the dtype {lengths.dtype}, expected whole numbers")
    if mask is not None and mask.shape != (b, t):
        raise ValueError(
            f"mask has the shape {mask.shape}, expected {(b, t)}: one for each step of each "
            "sequence"
        )
    ends = []
    if lengths is not None:
        ends.append(lengths)
    if mask is not None:
        ends.append(ends_of(mask))
    # A traced value has no entries to look at yet: it is checked as far as its shape goes.
    known = [np.asarray(end) for end in ends if not isinstance(end, Tracer)]
    for end in known:
        outside = np.flatnonzero((end < 1) | (end > t))
        if len(outside):
            wrong = outside[0]
            raise ValueError(
                f"lengths must be 1 to {t}, the steps there are; sequence {wrong} has {end[wrong]}"
            )
    if len(known) == 2:
        by_length, by_mask = known
        apart = np.flatnonzero(by_length != by_mask)
        if len(apart):
            wrong = apart[0]
            raise ValueError(
                f"lengths and mask disagree: sequence {wrong} has length {by_length[wrong]}, and "
                f"its mask is true for {by_mask[wrong]} steps; give one of them"
            )
    shortest = jnp.asarray(ends[0], jnp.int32)
    for end in ends[1:]:
        shortest = jnp.minimum(shortest, jnp.asarray(end, jnp.int32))
    return jnp.clip(shortest, 0, t)


def ends_of(mask: Array | np.ndarray) -> Array | np.ndarray:
    """The number of steps before the first that is false.

    Raises: ValueError for a mask that is true again after that, where it is not traced.
    """
    # The running product is 1 up to the first false, and 0 from there on.
    if isinstance(mask, Tracer):
        unbroken = jnp.cumprod(mask.astype(jnp.int32), axis=1)
        return unbroken.sum(1, dtype=jnp.int32)
    steps = np.asarray(mask, bool)
    ends = np.cumprod(steps, axis=1).sum(1)
    if (steps.sum(1) != ends).any():
        raise ValueError(
            "mask must be true for the first steps of each sequence and false after its end, "
            "without gaps"
        )
    return ends


def norm_named(
    name: str | None, features: int, rngs: nnx.Rngs, **place: Unpack[Place]
) -> nnx.Module:
    """Flax's layer or batch normalization, with scale and bias under declared roles.

    Raises: ValueError for another name.
    """
    if name not in NORMS:
        raise ValueError(f"norm is {' or '.join(map(repr, NORMS))} or None, got {name!r}")
    meta = place | {"kind": "norm", "activation": "linear", "inputs": features}
    # Flax makes these parameters itself, so their roles go along as its keywords.
    return NORMS[name](
        features,
        epsilon=EPSILON,
        rngs=rngs,
        scale_metadata={"dims": "o", "role": "scale", **meta},
        bias_metadata={"dims": "o", "role": "bias", **meta},
    )


def normalize(norm: nnx.Module, x: Array, training: Training | None) -> Array:
    """`norm(x)`: batch normalization by the batch in training, by its running statistics in
    evaluation.

    Running statistics keep their dtype.
    """
    apply: Any = norm
    # Flax takes the statistics in float32, whatever x is, so here dtypes have to mix.
    with jax.numpy_dtype_promotion("standard"):
        if not isinstance(norm, nnx.BatchNorm):
            return apply(x).astype(x.dtype)
        if training is None:
            return apply(x, use_running_average=True).astype(x.dtype)
        # A step moves a running mean by a tenth of the difference, which a narrow dtype would
        # round: they are widened for the step, and narrowed again after it.
        running = (norm.mean, norm.var)
        dtypes = [variable[...].dtype for variable in running]
        for variable in running:
            variable.set_value(variable[...].astype(at_least_float32(x.dtype)))
        y = apply(x, use_running_average=False)
        for variable, dtype in zip(running, dtypes, strict=True):
            variable.set_value(variable[...].astype(dtype))
        return y.astype(x.dtype)


def dropped(x: Float[Array, "..."], training: Training | None, place: int) -> Float[Array, "..."]:
    """`x` with entries put to 0 with the probability of `training`, the others scaled to keep the
    mean.

    `place` tells one use in a step from another. Source: Srivastava et al. (2014), in its inverted
    form.
    """
    if training is None or training.key is None:
        return x
    share = 1 - training.dropout
    kept = jax.random.bernoulli(jax.random.fold_in(training.key, place), share, x.shape)
    # The share in the dtype of x: a traced float32 one would widen the result.
    scaled = x / jnp.asarray(share, x.dtype)
    return jnp.where(kept, scaled, 0)


def scalars(count: int, wanted: bool, **place: Unpack[Place]) -> list[nnx.Param | None]:
    """Biases of one number each, where they are wanted."""
    if not wanted:
        return [None] * count
    return [param((), "", "bias", **place) for _ in range(count)]


def plus(y: Float[Array, "..."], bias: nnx.Param | None) -> Float[Array, "..."]:
    if bias is None:
        return y
    return y + jnp.broadcast_to(bias[...], y.shape)


class Dense(nnx.Module):
    """y = x W + b, with W `[inputs, outputs]`, under a declared role."""

    def __init__(self, in_features: int, out_features: int, role: str, **place: Unpack[Place]):
        self.kernel = param((in_features, out_features), "io", role, **place)
        beside: Place = {**place, "inputs": in_features, "partner": role}
        self.bias = param((out_features,), "o", "bias", **beside)

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        y = x @ self.kernel[...]
        return y + jnp.broadcast_to(self.bias[...], y.shape)
