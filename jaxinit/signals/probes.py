"""Probes: what a network's signals look like, layer by layer and step by step, as arrays of
statistics.

    model, parameters, batch -> (activation, product, gradient, weight gradient)
                                by parameter, copy and step

One forward and one backward pass, compiled together; the statistics are taken on the device, and
only they leave it. `signals` is pure, for one draw, and maps over seeds; `probe` is the same for a
module, as an xarray Dataset.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx
from jaxtyping import Array

from jaxinit import introspect
from jaxinit.signals import trace
from jaxinit.signals.statistics import EDGES, Stats, stats
from jaxinit.spec import Leaf
from jaxinit.tasks.arrays import loss_named

Params: TypeAlias = dict[str, Array]
Loss: TypeAlias = Callable[[Array, Array], Array]

SIGNALS = ("activation", "product", "gradient", "weight_gradient", "weight", "update")


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
    so is its gradient.
    Shapes: Stats of `[steps, copies]`, without the first axis where no loop uses the kernel, and
    without copies for the activation; weights, their gradients and updates have copies only.
    Raises: ValueError when `only` matches no kernel, for a batch without examples, and where no
    product with any of them is seen; warns of those that are not seen while others are, and leaves
    them out.
    """
    x, _ = batch
    if not x.shape[0]:
        raise ValueError(f"a probe needs one example or more, got a batch of shape {x.shape}")
    kernels = _selected(leaves, only)
    weight_gradients, uses = _forward_and_back(apply, loss, kernels, params, batch)
    use_of = _by_kernel(uses)
    _check_seen(kernels, use_of)
    weight_signals = {"weight_gradient": weight_gradients, "weight": params}
    if update is not None:
        weight_signals["update"] = update(weight_gradients)
    leaf_of = {leaf.name: leaf for leaf in kernels}
    by_kernel: dict[str, dict[str, Any]] = {}
    for place, (name, use) in enumerate(use_of.items()):
        kernel_signals: dict[str, Any] = {
            "product": use.product,
            "gradient": use.gradient,
            "activation": use.activation,
        }
        for signal, arrays in weight_signals.items():
            kernel_signals[signal] = trace.by_copy(stats, leaf_of[name], arrays[name])
        # A compiled function returns its dictionaries sorted by name, so the order has to be said.
        kernel_signals["place"] = jnp.int32(place)
        by_kernel[name] = kernel_signals
    return by_kernel


def _selected(leaves: Sequence[Leaf], only: str) -> tuple[Leaf, ...]:
    """The kernels whose names match a pattern. Raises: ValueError where none does."""
    kernels = []
    for leaf in leaves:
        if leaf.is_kernel and fnmatchcase(leaf.name, only):
            kernels.append(leaf)
    if not kernels:
        names = [leaf.name for leaf in leaves]
        raise ValueError(f"the filter {only!r} matches no kernel; there are {', '.join(names)}")
    return tuple(kernels)


class _Use(NamedTuple):
    """A kernel, or some of its copies, as it is used once: what goes in, what comes out, and the
    gradient of that.

    Shapes: Stats of `[*loops, copies]`; `activation` of `[*loops]`. `copies` are those of the first
    turn of all loops, and `loops` is their number.
    """

    name: str
    copies: list[int]
    loops: int
    product: Stats
    gradient: Stats
    activation: Stats

    def joined(self, other: "_Use") -> "_Use":
        """Two uses of different copies of one kernel as one, in the order of the copies."""
        copies = [*self.copies, *other.copies]
        order = np.argsort(copies)

        def join(one: Array, another: Array) -> Array:
            side_by_side = jnp.concatenate([one, another], other.loops)
            return side_by_side.take(order, other.loops)

        return self._replace(
            copies=sorted(copies),
            product=jax.tree.map(join, self.product, other.product),
            gradient=jax.tree.map(join, self.gradient, other.gradient),
        )


def _forward_and_back(
    apply: Callable[[Params, Array], Array],
    loss: Loss,
    kernels: Sequence[Leaf],
    params: Params,
    batch: tuple[Array, Array],
) -> tuple[Params, list[_Use]]:
    """The gradient of the mean loss, and every use of a kernel in data order, by one forward and
    one backward pass."""
    x, y = batch

    def watched(params: Params, taps: Sequence[Any] | None) -> tuple[Array, list[trace.Site]]:
        return trace.watched(apply, kernels, stats, params, taps, x)

    # Names and copies, which are known while the function is traced. They leave by this list, since
    # what JAX transforms returns arrays only.
    names_and_copies: list[tuple[str, np.ndarray]] = []

    def product_stats(params: Params) -> list[Stats]:
        _, sites = watched(params, None)
        names_and_copies[:] = [(site.name, site.copies) for site in sites]
        return [site.product for site in sites]

    def zeros(shape: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros(shape.shape, shape.dtype)

    # A look by shapes alone, since how many products there are has to be known to tap them.
    taps = jax.tree.map(zeros, jax.eval_shape(product_stats, params))

    def cost(params: Params, taps: Sequence[Any]) -> tuple[Array, list[tuple[Stats, Stats]]]:
        outputs, sites = watched(params, taps)
        return loss(outputs, y), [(site.product, site.given) for site in sites]

    differentiated = jax.grad(cost, argnums=(0, 1), has_aux=True)(params, taps)
    (weight_gradients, gradients), measured = differentiated
    uses = []
    for (name, copies), (product, given), gradient in zip(
        names_and_copies, measured, gradients, strict=True
    ):
        # The loss is a mean over examples: its gradient times their number is that of an example.
        example_gradient = gradient.scaled(float(x.shape[0]))
        uses.append(_use(name, copies, product, example_gradient, given))
    return weight_gradients, uses


def _use(name: str, copies: np.ndarray, product: Stats, gradient: Stats, given: Stats) -> _Use:
    """A site as the use of a kernel. `copies` `[*loops, copies]` are the copies that are used."""
    loops = copies.ndim - 1
    first_turn = copies.reshape(-1, copies.shape[-1])[0].tolist()
    made = ~jnp.isnan(product.mean)  # not so in a branch that was not taken

    def without_copies(statistic: Array) -> Array:
        return statistic.squeeze(loops)  # what goes in is one for all copies

    activation = jax.tree.map(without_copies, given)
    return _Use(name, first_turn, loops, product, gradient.where(made), activation)


def _by_kernel(uses: Iterable[_Use]) -> dict[str, _Use]:
    """The uses of each kernel as one: its gates joined, a second use of a copy (tied weights, or
    loops that are unrolled by hand) left out."""
    by_kernel: dict[str, _Use] = {}
    for use in uses:
        if use.name not in by_kernel:
            by_kernel[use.name] = use
            continue
        before = by_kernel[use.name]
        if not set(before.copies) & set(use.copies):
            by_kernel[use.name] = before.joined(use)
    return by_kernel


def _check_seen(kernels: Sequence[Leaf], by_kernel: dict[str, _Use]) -> None:
    """Warn of kernels without a product, or raise where all are. Positions are added, and need
    none."""
    unseen = []
    for leaf in kernels:
        if leaf.name not in by_kernel and leaf.role != "position":
            unseen.append(leaf.name)
    if not unseen:
        return
    message = (
        f"no product with {', '.join(unseen)} is seen: it is made inside a loop with an unknown "
        "number of turns (while), or with something computed from the parameter"
    )
    if not by_kernel:
        raise ValueError(message)
    warnings.warn(f"{message}; the signals leave it out", stacklevel=3)


def probe(
    model: nnx.Module, batch: tuple[Array, Array], loss: Loss | str, *, only: str = "*"
) -> xr.Dataset:
    """Every signal of a module in training, without noise: a Dataset over (parameter, step, copy),
    NaN for none.

    `loss` is a function of (outputs, y), or cross_entropy or squared_error by name. Variables are
    `<signal>_<statistic>` as in `signals` and `Stats`, and `gradient_norm` of each kernel.
    Raises: ValueError as `signals`, for a loss that there is not, and for a module whose parameters
    declare no dims and role.
    """
    cost = loss_named(loss)
    pure = introspect.functional(lambda: model)
    params = introspect.values(model)

    @jax.jit
    def look(params: Params, batch: tuple[Array, Array]) -> dict[str, dict[str, Any]]:
        return signals(pure.as_trained, cost, pure.leaves, params, batch, only)

    return to_dataset(look(params, batch), pure.leaves)


def to_dataset(kernel_signals: dict[str, dict[str, Any]], leaves: Sequence[Leaf]) -> xr.Dataset:
    """What `signals` returns as a Dataset, in the order of the leaves' layers, where their number
    is known, and of the data."""
    by_name = {leaf.name: leaf for leaf in leaves}

    def layer_and_place(name: str) -> tuple[int, int]:
        leaf = by_name[name]
        layer = leaf.layer if leaf.n_layers else 0
        return layer, int(kernel_signals[name]["place"])

    order = sorted(kernel_signals, key=layer_and_place)
    ordered = [by_name[name] for name in order]
    kernels = [jax.tree.map(np.asarray, kernel_signals[name]) for name in order]
    variables: dict[str, Any] = {}
    for signal in SIGNALS:
        if signal in kernels[0]:  # updates are there where an optimizer was given
            variables |= _variables(signal, kernels)
    _, by_step = variables["weight_gradient_mean_square"]
    mean_square = by_step[:, 0]  # weights have no steps: theirs stands at the first
    entries_per_copy = np.asarray([np.prod(leaf.shape) / leaf.copies for leaf in ordered])
    sum_of_squares = np.nansum(mean_square * entries_per_copy[:, None], 1)
    variables["gradient_norm"] = (("parameter",), np.sqrt(sum_of_squares))

    def attribute(name: str) -> tuple[str, list[Any]]:
        return "parameter", [getattr(leaf, name) for leaf in ordered]

    coordinates = {
        "parameter": order,
        "layer": attribute("layer"),
        "role": attribute("role"),
        "bin": (EDGES[1:] + EDGES[:-1]) / 2,
        "fan_in": attribute("fan_in"),
        "fan_out": attribute("fan_out"),
    }
    return xr.Dataset(variables, coordinates)


def _variables(signal: str, kernels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The variables of one signal over (parameter, step, copy), and bins for histograms; NaN where
    a kernel has fewer steps or copies than another."""
    most_steps = most_copies = 1
    for kernel in kernels:
        product_means = kernel["product"].mean
        weight_means = kernel["weight"].mean
        if product_means.ndim > 1:
            most_steps = max(most_steps, product_means.shape[0])
        most_copies = max(most_copies, weight_means.shape[0])
    variables = {}
    for statistic in Stats._fields:
        axes = ("parameter", "step", "copy")
        shape = (len(kernels), most_steps, most_copies)
        bins = 0  # trailing axes of a kernel's values
        if statistic == "histogram":
            axes = (*axes, "bin")
            shape = (*shape, len(EDGES) - 1)
            bins = 1
        block = np.full(shape, np.nan, np.float32)
        for row, kernel in enumerate(kernels):
            values = getattr(kernel[signal], statistic)
            if signal == "activation":  # one for all copies, which stands at the first
                values = np.expand_dims(values, values.ndim - bins)
            if values.ndim == 1 + bins:  # no loop, or the parameter's own: at the first step
                values = values[None]
            steps, copies = values.shape[:2]
            block[row, :steps, :copies] = values
        variables[f"{signal}_{statistic}"] = (axes, block)
    return variables


def spectra(
    leaves: Sequence[Leaf], params: dict[str, np.ndarray], parameters: Sequence[str]
) -> dict[str, Any]:
    """Spectral radius and norm of every copy of the recurrent kernels, on the host: variables of a
    Dataset of signals.

    `recurrent_radius` and `recurrent_norm` over (parameter, copy), NaN where a kernel is not square
    or not recurrent.
    """
    by_name = {leaf.name: leaf for leaf in leaves}
    copies = max(by_name[name].copies for name in parameters)
    radius = np.full((len(parameters), copies), np.nan, np.float32)
    norm = np.full_like(radius, np.nan)
    for row, name in enumerate(parameters):
        leaf = by_name[name]
        if leaf.role != "recurrent" or leaf.shape[-2] != leaf.shape[-1]:
            continue
        kernels = np.asarray(params[name], np.float64).reshape(-1, *leaf.shape[-2:])
        is_finite = np.isfinite(kernels).all((1, 2))  # of others LAPACK has no eigenvalues
        finite = kernels[is_finite]
        eigenvalues = np.linalg.eigvals(finite)
        radius[row, : len(kernels)][is_finite] = np.abs(eigenvalues).max(1)
        norm[row, : len(kernels)][is_finite] = np.linalg.norm(finite, 2, axis=(1, 2))
    axes = ("parameter", "copy")
    return {"recurrent_radius": (axes, radius), "recurrent_norm": (axes, norm)}


def correlations(
    apply: Callable[[Params, Array], Array], leaves: Sequence[Leaf], params: Params, x: Array
) -> dict[str, np.ndarray]:
    """The cosine between the products of every two examples, at every kernel: how a net tells its
    inputs apart.

    Shapes: `{parameter: [examples, examples]}`. Assumes products with one row an example (no loops,
    no copies).
    """
    kernels = [leaf for leaf in leaves if leaf.dims == "io"]
    _, sites = trace.watched(apply, kernels, lambda entries: entries, params, None, x)
    cosines = {}
    for site in sites:
        rows = np.asarray(site.product).reshape(x.shape[0], -1)
        norms = np.linalg.norm(rows, axis=1)
        cosines[site.name] = (rows @ rows.T) / np.maximum(norms[:, None] * norms, 1e-30)
    return cosines
