"""Look inside a pure function: every product with one of its parameters, in the order in which data
meets them.

    function -> jaxpr -> the same computation, with statistics of each product, and of its
                         gradient, beside its result

The function is traced, and its equations are run again one by one, through `jit`, `jax.checkpoint`,
custom derivatives, `lax.scan`, `lax.cond` and `lax.switch`. A custom derivative around a product
gives way to the derivative of the program itself; one around anything else stays. Which parameter,
and which of its copies (gates, heads), stands in a product is followed through what only moves
entries: reshaping, transposing, slicing, stacking. Parameters that are joined along an output axis
have one product, which is cut back into theirs. So any model can be watched as it is, without
hooks.

What is kept is what a `Measure` makes of an array, on the device: statistics, never the array
itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinit.signals import jaxprs, origins
from jaxinit.signals.interpreter import Interpreter, Measure, Site
from jaxinit.signals.jaxprs import Program
from jaxinit.signals.origins import Origins
from jaxinit.spec import Leaf

Params: TypeAlias = dict[str, Array]

PICKED = ("embedding", "input")  # roles of parameters whose picked rows count as products


class Moments(NamedTuple):
    """Number, sum and sum of squares of a product's entries, by copy of the parameter.

    Shapes: `[copies]`, all float32.
    """

    entries: Float[Array, " copies"]
    total: Float[Array, " copies"]
    squares: Float[Array, " copies"]

    @property
    def mean(self) -> Array:
        return self.total / jnp.maximum(self.entries, 1)

    @property
    def mean_square(self) -> Array:
        return self.squares / jnp.maximum(self.entries, 1)

    @property
    def variance(self) -> Array:
        return self.mean_square - self.mean**2


def moments(entries: Float[Array, "groups entries"]) -> Moments:
    """The measure that can be pooled."""
    wide = entries.astype(jnp.float32)
    count = jnp.full(len(wide), wide.shape[1], jnp.float32)
    return Moments(count, wide.sum(1), (wide**2).sum(1))


def by_copy(measure: Measure, leaf: Leaf, values: Array) -> Any:
    """Measure an array of a parameter's shape, each of its copies apart: `[copies, ...]`."""
    copy_axes, others = [], []
    for axis, letter in enumerate(leaf.dims):
        if letter == ".":
            copy_axes.append(axis)
        else:
            others.append(axis)
    copies_first = values.transpose(*copy_axes, *others)
    return measure(copies_first.reshape(leaf.copies, -1))


def products(
    function: Callable[..., Any], leaves: Iterable[Leaf], params: Params, *arguments: Any
) -> tuple[Any, dict[str, Moments]]:
    """The result of `function(params, *arguments)`, and the moments of every product with a
    parameter.

    A product is a matrix product or a convolution with a parameter, or rows picked from one whose
    role is `embedding` or `input`; the moments of one that is used more than once (steps of a loop,
    tied weights) are pooled.
    Shapes: `{name: Moments}`, `[copies]` each, in the order in which the data meets the parameters.
    Can be jitted, mapped and differentiated.
    Products of a branch that is not taken count as none. Assumes that a loop with an unknown number
    of turns (`while`) holds no product with a parameter; one that is there is left out.
    """
    leaves = tuple(leaves)
    result, sites = watched(function, leaves, moments, params, None, *arguments)
    copies = {leaf.name: leaf.copies for leaf in leaves}
    pooled: dict[str, Moments] = {}
    for site in sites:
        site_moments = _over_loops(site, copies[site.name])
        if site.name in pooled:
            site_moments = jax.tree.map(jnp.add, pooled[site.name], site_moments)
        pooled[site.name] = site_moments
    return result, pooled


def _over_loops(site: Site, copies: int) -> Moments:
    """The moments of a site summed over the turns of the loops around it, for all copies of its
    parameter."""
    made = ~jnp.isnan(site.product.entries)  # not so in a branch that was not taken
    numbers = site.copies.reshape(-1)

    def summed(by_turn: Array) -> Array:
        of_made = jnp.where(made, by_turn, 0)
        return jax.ops.segment_sum(of_made.reshape(-1), numbers, copies)

    return jax.tree.map(summed, site.product)


def watched(
    function: Callable[..., Any],
    leaves: Iterable[Leaf],
    measure: Measure,
    params: Params,
    taps: Sequence[Any] | None,
    *arguments: Any,
) -> tuple[Any, list[Site]]:
    """The result of `function(params, *arguments)`, and a site for every product with a parameter,
    in data order.

    `taps`, where given, are zeros of the shapes of the sites' `product`: the gradient with respect
    to them is the measure of the gradient with respect to each product (a measure is not linear: it
    is not a gradient, but takes the same way back). `jax.eval_shape` of this function without taps
    tells their shapes.
    """
    by_name = {leaf.name: leaf for leaf in leaves}
    traced = jaxprs.traced(function, params, *arguments)
    copies, whole = origins.numbered(by_name.values())
    # JAX flattens a dictionary by its sorted keys, and the parameters come first. No other argument
    # is one.
    argument_origins: Origins = [whole.get(name) for name in sorted(params)]
    argument_origins += [None] * (len(traced.arguments) - len(params))
    rows = frozenset(name for name, leaf in by_name.items() if leaf.role in PICKED)
    interpreter = Interpreter(measure, copies, rows).with_taps(taps)
    evaluated = interpreter.run(traced.program, traced.arguments, argument_origins)
    return traced.result(evaluated.results), evaluated.sites


def named(function: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, Array]]:
    """The result of `function(*arguments)`, and every value that it names by
    `jax.ad_checkpoint.checkpoint_name`.

    In the order in which they are computed; of a name that is given twice, the first. Names inside
    loops are left out.
    """
    traced = jaxprs.traced(function, *arguments)
    by_name: dict[str, Array] = {}
    results = _collect_named(traced.program, traced.arguments, by_name)
    return traced.result(results), by_name


def _collect_named(
    program: Program, arguments: Sequence[Any], by_name: dict[str, Array]
) -> list[Any]:
    """Evaluate a program; named values are put into `by_name` on the way."""
    values = jaxprs.Values(program, arguments)
    for equation in program.jaxpr.eqns:
        inputs = values.read(equation.invars)
        inner = jaxprs.called(equation)
        if inner is None:
            results = jaxprs.evaluate(program.jaxpr, equation, inputs)
        else:
            results = _collect_named(inner, inputs, by_name)
        if equation.primitive.name == "name":
            by_name.setdefault(equation.params["name"], results[0])
        values.write(equation.outvars, results)
    return values.read(program.jaxpr.outvars)
