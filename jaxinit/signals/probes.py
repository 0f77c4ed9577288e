"""Probes: what a network's signals look like, layer by layer and step by step, as arrays of
statistics.

    model, parameters, batch -> (activation, product, gradient, weight gradient)
                                by parameter, copy and step

One forward and one backward pass, compiled together; the statistics are taken on the device, and
only they leave it. `signals` is pure, for one draw, and maps over seeds; `probe` is the same for a
module, as an xarray Dataset.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx
from jaxtyping import Array, Float
from scipy.sparse.linalg import LinearOperator, svds

from jaxinit import introspect
from jaxinit.signals import trace
from jaxinit.spec import Leaf

Params: TypeAlias = dict[str, Array]
Loss: TypeAlias = Callable[[Array, Array], Array]

SIGNALS = ("activation", "product", "gradient", "weight_gradient", "weight", "update")
OF_COPIES = (
    "weight_gradient",
    "weight",
    "update",
)  # signals that are of the parameter, not of its products
EDGES = np.linspace(-4.0, 4.0, 82)  # of histograms, in units of the root mean square
SAMPLE = (
    1024,
    4096,
    # fewest and most entries, evenly spaced, of order statistics, shares and histograms; 1/16
    # between
)
PERCENTILE = 0.98  # what counts as the high end of a signal
SATURATED = 0.98  # of a bounded activation's range
EXACT = 256  # inputs or outputs up to which a Jacobian is computed whole


class Stats(NamedTuple):
    """Statistics of an array's entries, by group. Entries that are not finite are counted, and left
    out of the rest.

    Shapes: `[groups]` each, `histogram` `[groups, 81]`; float32. `high` is the 98th percentile of
    |x|; `saturated` the share of |x| above 0.98, `zero` that of exact zeros; `histogram` is a
    density over `EDGES`, in units of the root mean square. `high`, the shares and the histogram are
    those of 1024 to 4096 entries, evenly spaced, or of all.
    """

    mean: Float[Array, "*groups"]
    mean_square: Float[Array, "*groups"]
    high: Float[Array, "*groups"]
    saturated: Float[Array, "*groups"]
    zero: Float[Array, "*groups"]
    not_finite: Float[Array, "*groups"]
    histogram: Float[Array, "*groups bins"]


def stats(entries: Float[Array, "groups entries"]) -> Stats:
    """The statistics of every row, through which no gradient passes."""
    wide = jax.lax.stop_gradient(entries).astype(jnp.float32)
    finite = jnp.isfinite(wide)
    clean = jnp.where(finite, wide, 0)
    finite_count = finite.sum(1).astype(jnp.float32)
    count = jnp.maximum(finite_count, 1)
    square = jnp.sum(clean**2, 1) / count
    n = wide.shape[1]
    wanted = min(max(n // 16, SAMPLE[0]), SAMPLE[1])
    stride = next(
        k for k in range(-(-n // wanted), n + 1) if math.gcd(k, n) == 1
    )  # so that no column is passed over
    sample, there = clean[:, ::stride], finite[:, ::stride].astype(jnp.float32)
    share = lambda which: jnp.sum(jnp.where(which, there, 0), 1) / jnp.maximum(there.sum(1), 1)
    size = jnp.sqrt(square)[:, None]
    scaled = sample / jnp.where(size > 0, size, 1)
    place = jnp.clip(
        jnp.floor((scaled - EDGES[0]) / (EDGES[1] - EDGES[0])), -1, len(EDGES) - 1
    ).astype(int)
    density = jax.vmap(lambda row: jnp.bincount(row + 1, length=len(EDGES) + 1)[1:-1])(
        place
    ).astype(jnp.float32)
    return Stats(
        mean=clean.sum(1) / count,
        mean_square=square,
        high=_high(jnp.abs(sample)),
        saturated=share(jnp.abs(sample) > SATURATED),
        zero=share(sample == 0),
        not_finite=n - finite_count,
        histogram=density / (sample.shape[1] * (EDGES[1] - EDGES[0])),
    )


def _high(size: Float[Array, "groups entries"]) -> Float[Array, " groups"]:
    """The 98th percentile of every row, to 1e-6 of its largest, by bisection: 50 times faster than
    a sort on CPU."""
    most = (1 - PERCENTILE) * size.shape[1]

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        above = jnp.sum((size > middle[:, None]).astype(jnp.float32), 1) > most
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    return jax.lax.fori_loop(0, 20, halve, (jnp.zeros(len(size), size.dtype), size.max(1)))[1]


def signals(
    apply: Callable[[Params, Array], Array],
    loss: Loss,
    leaves: Sequence[Leaf],
    params: Params,
    batch: tuple[Array, Array],
    only: str = "*",
    update: Callable[[Params], Params] | None = None,
) -> dict[str, dict[str, Any]]:
    """Statistics of every signal at every kernel: `{parameter: {signal: Stats}}`, and its `place`
    in data order.

    activation: what the kernel multiplies, its layer's input. product: x W, the pre-activation
    without its bias. gradient: dC/d(x W), the back-propagated gradient, where C is the mean loss of
    the batch times its size, so that it is that of an example. weight_gradient: dC/dW of the mean
    loss. weight: W itself. update: what `update` makes of the weight gradients of all parameters,
    where it is given: the step that an optimizer would take.
    `only` is a pattern on names. A product of a branch that is not taken (`lax.cond`) is NaN, and
    so is its gradient. Shapes: Stats of `[steps, copies]`, without the first axis where no loop
    uses the kernel, and without copies for the activation; weights, their gradients and updates
    have copies only.
    Raises: ValueError when `only` matches no kernel, for a batch without examples, and where no
    product with any of them is seen; warns of those that are not seen while others are, and leaves
    them out.
    """
    x, y = batch
    if not x.shape[0]:
        raise ValueError(f"a probe needs one example or more, got a batch of shape {x.shape}")
    kept = tuple(leaf for leaf in leaves if leaf.is_kernel and fnmatchcase(leaf.name, only))
    if not kept:
        raise ValueError(
            f"the filter {only!r} matches no kernel; there are "
            f"{', '.join(leaf.name for leaf in leaves)}"
        )
    look = lambda p, taps: trace.watched(apply, kept, stats, p, taps, x)
    names: list[tuple[str, np.ndarray]] = []

    def shapes(p: Params) -> list[Stats]:
        sites = look(p, None)[1]
        names[:] = [(site.name, site.copies) for site in sites]
        return [site.product for site in sites]

    taps = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(shapes, params))

    def cost(p: Params, taps: list[Stats]) -> tuple[Array, list[tuple[Stats, Stats]]]:
        out, sites = look(p, taps)
        return loss(out, y), [(site.product, site.given) for site in sites]

    (slopes, gradients), measured = jax.grad(cost, argnums=(0, 1), has_aux=True)(params, taps)
    size = float(x.shape[0])
    whole = {"weight_gradient": slopes, "weight": params} | (
        {} if update is None else {"update": update(slopes)}
    )
    found: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[int]] = {}  # the copies of a parameter whose products have been met
    for (name, copies), (product, given), gradient in zip(names, measured, gradients, strict=True):
        loops = copies.ndim - 1
        made = ~jnp.isnan(product.mean)  # not so in a branch that was not taken
        gradient = jax.tree.map(partial(_where, made), _times(gradient, size))
        of = {"product": product, "gradient": gradient}
        numbers = copies.reshape(-1, copies.shape[-1])[0].tolist()
        if name not in found:
            without = lambda a, loops=loops: a.reshape(*a.shape[:loops], *a.shape[loops + 1 :])
            found[name] = of | {"activation": jax.tree.map(without, given)}
            seen[name] = numbers
        elif not set(seen[name]) & set(
            numbers
        ):  # another gate; a second use (tied, unrolled by hand) is left out
            order = np.argsort([*seen[name], *numbers])
            join = lambda a, b, loops=loops, order=order: jnp.concatenate([a, b], loops).take(
                order, loops
            )
            for what, values in of.items():
                found[name][what] = jax.tree.map(join, found[name][what], values)
            seen[name] = sorted([*seen[name], *numbers])
    unseen = [
        leaf.name for leaf in kept if leaf.name not in found and leaf.role != "position"
    ]  # which is added
    if unseen:
        message = (
            f"no product with {', '.join(unseen)} is seen: it is made inside a loop with an "
            "unknown number of turns (while), or with something computed from the parameter"
        )
        if not found:
            raise ValueError(message)
        warnings.warn(f"{message}; the signals leave it out", stacklevel=2)
    for leaf in kept:
        if leaf.name in found:
            found[leaf.name] |= {
                what: trace.by_copy(stats, leaf, of[leaf.name]) for what, of in whole.items()
            }
    for place, of in enumerate(found.values()):
        of["place"] = jnp.int32(place)  # a compiled function returns its dictionaries by name
    return found


def _where(made: Array, values: Array) -> Array:
    """The values where they were made, NaN elsewhere; `values` may have more axes behind."""
    return jnp.where(made.reshape(made.shape + (1,) * (values.ndim - made.ndim)), values, jnp.nan)


def _times(of: Stats, factor: float) -> Stats:
    """The statistics of the entries times a factor; shares and histogram (in units of the root mean
    square) stay."""
    return of._replace(
        mean=of.mean * factor, mean_square=of.mean_square * factor**2, high=of.high * factor
    )


def probe(
    model: nnx.Module, batch: tuple[Array, Array], loss: Loss, *, only: str = "*"
) -> xr.Dataset:
    """Every signal of a module in training, without noise: a Dataset over (parameter, step, copy),
    NaN for none.

    Variables `<signal>_<statistic>` as in `signals` and `Stats`, and `gradient_norm` of each
    kernel.
    Raises: ValueError as `signals`, and for a module whose parameters declare no dims and role.
    """
    pure = introspect.functional(lambda: model)
    params = introspect.values(model)
    look = jax.jit(lambda p, b: signals(pure.as_trained, loss, pure.leaves, p, b, only))
    return to_dataset(look(params, batch), pure.leaves)


def to_dataset(found: dict[str, dict[str, Any]], leaves: Sequence[Leaf]) -> xr.Dataset:
    """What `signals` found, in the order of the leaves' layers, where their number is known, and of
    the data."""
    by_name = {leaf.name: leaf for leaf in leaves}
    layer = lambda name: by_name[name].layer if by_name[name].n_layers else 0
    order = sorted(found, key=lambda name: (layer(name), int(found[name]["place"])))
    host = {name: jax.tree.map(np.asarray, found[name]) for name in order}
    steps = max(
        (of["product"].mean.shape[0] for of in host.values() if of["product"].mean.ndim > 1),
        default=1,
    )
    copies = max(of["weight"].mean.shape[0] for of in host.values())
    variables: dict[str, Any] = {}
    for signal in (signal for signal in SIGNALS if signal in host[order[0]]):
        for what in Stats._fields:
            more = (len(EDGES) - 1,) if what == "histogram" else ()
            block = np.full((len(order), steps, copies, *more), np.nan, np.float32)
            for row, name in enumerate(order):
                values = getattr(host[name][signal], what)
                if signal == "activation":  # the same for every copy
                    values = values[..., None, :] if more else values[..., None]
                if signal in OF_COPIES or values.ndim == 1 + len(more):
                    values = values[None]
                block[row, : values.shape[0], : values.shape[1]] = values
            axes = ("parameter", "step", "copy", *(("bin",) if more else ()))
            variables[f"{signal}_{what}"] = (axes, block)
    sizes = np.asarray([np.prod(by_name[name].shape) / by_name[name].copies for name in order])
    norm = np.sqrt(np.nansum(variables["weight_gradient_mean_square"][1][:, 0] * sizes[:, None], 1))
    variables["gradient_norm"] = (("parameter",), norm)
    fans = {
        what: ("parameter", [getattr(by_name[name], what) for name in order])
        for what in ("fan_in", "fan_out")
    }
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    layers = ("parameter", [by_name[name].layer for name in order])
    roles = ("parameter", [by_name[name].role for name in order])
    return xr.Dataset(
        variables, {"parameter": order, "layer": layers, "role": roles, "bin": middles} | fans
    )


def spectra(
    leaves: Sequence[Leaf], params: dict[str, np.ndarray], parameters: Sequence[str]
) -> dict[str, Any]:
    """Spectral radius and norm of every copy of the recurrent kernels, on the host: variables of a
    Dataset of signals.

    `recurrent_radius` and `recurrent_norm` over (parameter, copy), NaN where a kernel is not square
    or not recurrent."""
    by_name = {leaf.name: leaf for leaf in leaves}
    copies = max(by_name[name].copies for name in parameters)
    found = np.full((2, len(parameters), copies), np.nan, np.float32)
    for row, name in enumerate(parameters):
        if by_name[name].role == "recurrent":
            w = np.asarray(params[name], np.float64).reshape(-1, *by_name[name].shape[-2:])
            sound = np.isfinite(w).all((1, 2))
            found[0, row, : len(w)][sound] = np.abs(np.linalg.eigvals(w[sound])).max(1)
            found[1, row, : len(w)][sound] = np.linalg.norm(w[sound], 2, axis=(1, 2))
    axes = ("parameter", "copy")
    return {"recurrent_radius": (axes, found[0]), "recurrent_norm": (axes, found[1])}


def jacobian_singular_values(
    apply: Callable[[Params, Array], Array], params: Params, x: Array, count: int | None = None
) -> np.ndarray:
    """Singular values of the input-output Jacobian dy/dx of each example, largest first.

    Exact, all of them, where inputs and outputs have at most 256 entries each or `count` is None;
    else the `count` largest by Lanczos iteration on products with the Jacobian and its transpose.
    Shapes: x `[examples, ...]`; result `[examples, min(count, inputs, outputs)]`.
    Raises: ValueError for a batch without examples, or a count below 1.
    """
    if x.shape[0] < 1:
        raise ValueError(f"a Jacobian needs one example or more, got a batch of shape {x.shape}")
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more singular values, got {count}")
    of = lambda one: apply(params, one[None])[0].reshape(-1)
    inputs = int(np.prod(x.shape[1:]))
    outputs = jax.eval_shape(of, x[0]).shape[0]
    if count is None or max(inputs, outputs) <= EXACT or count >= min(inputs, outputs):
        whole = jax.jit(jax.vmap(lambda one: jax.jacrev(of)(one).reshape(outputs, inputs)))(x)
        return np.linalg.svd(np.asarray(whole), compute_uv=False)[:, :count]

    def back(one: Array, dy: Array) -> Array:
        return jax.vjp(of, one)[1](dy)[0]

    @jax.jit
    def forth(
        one: Array, dx: Array
    ) -> Array:  # the transpose of the transpose, since loops by hand have no jvp
        return jax.vjp(lambda dy: back(one, dy), jnp.zeros(outputs, one.dtype))[1](dx)[0]

    back = jax.jit(back)
    make_operator: Any = LinearOperator
    largest: Any = svds
    found = []
    for one in x:
        operator = make_operator(
            (outputs, inputs),
            matvec=lambda v, one=one: np.asarray(
                forth(one, jnp.asarray(v, one.dtype).reshape(one.shape))
            ),
            rmatvec=lambda u, one=one: np.asarray(
                back(one, jnp.asarray(u, one.dtype).reshape(-1))
            ).reshape(-1),
            dtype=np.float32,
        )
        found.append(
            np.sort(largest(operator, k=count, return_singular_vectors=False, random_state=0))[::-1]
        )
    return np.stack(found)


def layer_jacobian_singular_values(
    apply: Callable[[Params, Array], Array],
    leaves: Sequence[Leaf],
    params: Params,
    x: Array,
    slopes: Callable[[Array], Array],
) -> dict[str, np.ndarray]:
    """Singular values of dz^{i+1}/dz^i = diag(phi'(z^i)) W^{i+1}, for every hidden kernel and
    example, largest first.

    `slopes` gives phi' from phi(z), as `models.bptt.SLOPES` does; z is the pre-activation.
    Shapes: x `[examples, ...]`; results `[examples, min(inputs, outputs)]`.
    Assumes kernels `io` that multiply the activations of the layer before.
    Source: Glorot & Bengio (2010), section 4.2.1.
    """
    hidden = tuple(leaf for leaf in leaves if leaf.dims == "io" and leaf.role == "hidden")
    keep = lambda entries: entries
    sites = trace.watched(apply, hidden, keep, params, None, x)[1]
    found = {}
    for site in sites:
        w = np.asarray(params[site.name])
        activation = site.given.reshape(-1, w.shape[0])
        of_slopes = np.asarray(slopes(activation))
        found[site.name] = np.linalg.svd(of_slopes[:, :, None] * w, compute_uv=False)
    return found


def correlations(
    apply: Callable[[Params, Array], Array], leaves: Sequence[Leaf], params: Params, x: Array
) -> dict[str, np.ndarray]:
    """The cosine between the products of every two examples, at every kernel: how a net tells its
    inputs apart.

    Shapes: `{parameter: [examples, examples]}`. Assumes products with one row an example (no loops,
    no copies).
    """
    keep = lambda entries: entries
    found = {}
    for site in trace.watched(
        apply, [leaf for leaf in leaves if leaf.dims == "io"], keep, params, None, x
    )[1]:
        rows = np.asarray(site.product).reshape(x.shape[0], -1)
        size = np.linalg.norm(rows, axis=1)
        found[site.name] = (rows @ rows.T) / np.maximum(size[:, None] * size, 1e-30)
    return found
