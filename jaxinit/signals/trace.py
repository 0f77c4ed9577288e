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

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinit.spec import Leaf

Params: TypeAlias = dict[str, Array]
# Statistics of `[groups, entries]`, as a tree of arrays `[groups, ...]`.
Measure: TypeAlias = Callable[[Float[Array, "groups entries"]], Any]

PRODUCTS = {"dot_general", "conv_general_dilated", "gather"}
# What leaves entries as they are, and only moves them.
MOVES = {
    "reshape",
    "transpose",
    "squeeze",
    "slice",
    "broadcast_in_dim",
    "expand_dims",
    "rev",
    "split",
    "unstack",
    "stack",
    "concatenate",
}
CASTS = {
    "convert_element_type",
    "copy",
    "copy_p",
    "name",
    "reduce_precision",
    "stop_gradient",
    "optimization_barrier",
}
INNER = {  # the parameter that holds the inner program of what only calls it
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
}


class Origin(NamedTuple):
    """Which copy of which parameter each entry of a value comes from: its number among the copies
    of all parameters."""

    number: np.ndarray  # int, of the value's shape


class Site(NamedTuple):
    """One product as it is met: its parameter, the copies that it is of, and what was measured.

    Shapes: `copies` `[*loops, groups]`, one axis for each loop around it; `product` `[*loops,
    groups, ...]`; `given`, the measure of what the parameter multiplies, `[*loops, 1, ...]`. Both
    are NaN for a product of a branch that was not taken.
    """

    name: str
    copies: np.ndarray
    product: Any
    given: Any


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
    return Moments(jnp.full(len(wide), wide.shape[1], jnp.float32), wide.sum(1), (wide**2).sum(1))


def copies_of(leaf: Leaf, first: int = 0) -> np.ndarray:
    """The number, from `first` on, of the copy that each entry of a parameter belongs to: an int
    array of its shape."""
    numbers = np.arange(first, first + leaf.copies, dtype=np.int32)
    return np.broadcast_to(numbers.reshape(leaf.copy_shape), leaf.shape)


def by_copy(measure: Measure, leaf: Leaf, values: Array) -> Any:
    """Measure an array of a parameter's shape, each of its copies apart: `[copies, ...]`."""
    axes = [axis for axis, letter in enumerate(leaf.dims) if letter == "."]
    others = [axis for axis in range(values.ndim) if axis not in axes]
    return measure(values.transpose(*axes, *others).reshape(leaf.copies, -1))


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
    out, sites = watched(function, leaves, moments, params, None, *arguments)
    counts = {leaf.name: leaf.copies for leaf in leaves}
    pooled: dict[str, Moments] = {}
    for site in sites:
        made = ~jnp.isnan(site.product.entries)  # not so in a branch that was not taken
        add = lambda of, site=site, made=made: jax.ops.segment_sum(
            jnp.where(made, of, 0).reshape(-1), site.copies.reshape(-1), counts[site.name]
        )
        of = jax.tree.map(add, site.product)
        pooled[site.name] = (
            jax.tree.map(jnp.add, pooled[site.name], of) if site.name in pooled else of
        )
    return out, pooled


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
    flat, tree = jax.tree.flatten((params, arguments))

    def plain(*flat: Any) -> Any:
        params, arguments = jax.tree.unflatten(tree, flat)
        return function(params, *arguments)

    traced, shape = jax.make_jaxpr(plain, return_shape=True)(*flat)
    names = sorted(params)  # the order in which a dictionary is flattened
    copies = [leaf.copies for leaf in by_name.values()]
    first = dict(
        zip(by_name, np.cumsum([0, *copies]).tolist(), strict=False)
    )  # the number of each one's first copy
    origins: list[Origin | None] = [
        Origin(copies_of(by_name[name], first[name])) if name in by_name else None for name in names
    ]
    origins += [None] * (len(flat) - len(names))
    rows = frozenset(name for name, leaf in by_name.items() if leaf.role in ("embedding", "input"))
    owner = np.repeat(np.arange(len(copies)), copies)
    look = _Look(measure, rows, owner, tuple(first.items()), None if taps is None else iter(taps))
    out, _, sites = look.run(traced.jaxpr, traced.consts, flat, origins)
    return jax.tree.unflatten(jax.tree.structure(shape), out), sites


def named(function: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, Array]]:
    """The result of `function(*arguments)`, and every value that it names by
    `jax.ad_checkpoint.checkpoint_name`.

    In the order in which they are computed; of a name that is given twice, the first. Names inside
    loops are left out."""
    flat, tree = jax.tree.flatten(arguments)
    plain = lambda *flat: function(*jax.tree.unflatten(tree, flat))
    traced, shape = jax.make_jaxpr(plain, return_shape=True)(*flat)
    values: dict[str, Array] = {}
    out = _collect_named(traced.jaxpr, traced.consts, flat, values)
    return jax.tree.unflatten(jax.tree.structure(shape), out), values


def _collect_named(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], found: dict[str, Array]
) -> list[Any]:
    """Evaluate a jaxpr; named values are put into `found` on the way."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)
    read = lambda var: var.val if isinstance(var, jex.Literal) else values[var]
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        given = [read(var) for var in equation.invars]
        if kind in INNER:
            out = _collect_named(*_opened(equation.params[INNER[kind]]), given, found)
        else:
            variables = [var for var in equation.invars if not isinstance(var, jex.Literal)]
            out = _alone(jaxpr, equation, variables)(*[read(var) for var in variables])
        if kind == "name":
            found.setdefault(equation.params["name"], out[0])
        values |= zip(equation.outvars, out, strict=True)
    return [read(var) for var in jaxpr.outvars]


def _alone(jaxpr: Any, equation: Any, variables: Sequence[Any]) -> Callable[..., list[Any]]:
    """One equation of a jaxpr as a function of those of its inputs that are not literals."""
    one = jaxpr.replace(
        constvars=[], invars=list(variables), outvars=equation.outvars, eqns=[equation]
    )
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(one, ()))


Origins: TypeAlias = list[Origin | None]


class _Look(NamedTuple):
    """How to look: what to measure, the parameters whose rows are picked, and the taps that are
    still to be used.

    `owner` gives the place in `known` of the parameter that a number belongs to, `known` its name
    and first number.
    """

    measure: Measure
    rows: frozenset[str]
    owner: np.ndarray
    known: tuple[tuple[str, int], ...]
    taps: Iterator[Any] | None

    def run(
        self,
        jaxpr: Any,
        consts: Sequence[Any],
        arguments: Sequence[Any],
        origins: Sequence[Origin | None],
    ) -> tuple[list[Any], Origins, list[Site]]:
        """Evaluate a jaxpr; beside its results, where each comes from and the products that were
        met."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= zip(jaxpr.invars, arguments, strict=True)
        known: dict[Any, Origin] = {
            var: of for var, of in zip(jaxpr.invars, origins, strict=True) if of is not None
        }
        sites: list[Site] = []
        read = lambda var: var.val if isinstance(var, jex.Literal) else values[var]
        origin_of = lambda var: None if isinstance(var, jex.Literal) else known.get(var)
        for equation in jaxpr.eqns:
            given, of = (
                [read(var) for var in equation.invars],
                [origin_of(var) for var in equation.invars],
            )
            variables = [var for var in equation.invars if not isinstance(var, jex.Literal)]
            out, come_from, met = self.step(equation, _alone(jaxpr, equation, variables), given, of)
            sites += met
            values |= zip(equation.outvars, out, strict=True)
            known |= {
                var: of
                for var, of in zip(equation.outvars, come_from, strict=True)
                if of is not None
            }
        return (
            [read(var) for var in jaxpr.outvars],
            [origin_of(var) for var in jaxpr.outvars],
            sites,
        )

    def step(
        self, equation: Any, alone: Callable[..., Any], given: list[Any], of: Origins
    ) -> tuple[list[Any], Origins, list[Site]]:
        """Evaluate one equation; `alone` does so as JAX would, given those of its inputs that are
        not literals."""
        kind = equation.primitive.name
        nothing: Origins = [None] * len(equation.outvars)
        if any(of):
            if kind in INNER:
                inner = _opened(equation.params[INNER[kind]])
                if kind.startswith("custom") and not _has_product(inner[0]):
                    return (
                        alone(*_of_variables(equation, given)),
                        self.seen(inner, given, of)[0],
                        [],
                    )
                return self.run(*inner, given, of)
            if kind == "scan":
                return self.scan(equation, given, of)
            if kind == "cond":
                return self.branches(equation, given, of)
        out = alone(*_of_variables(equation, given))
        if not any(of):
            return out, nothing, []
        if kind in MOVES and all(of):
            # What moves entries moves the numbers of their copies, though those are whole where the
            # entries are not.
            with jax.ensure_compile_time_eval(), jax.enable_checks(False):
                moved = alone(*[jnp.asarray(origin.number) for origin in of if origin])
            return out, [Origin(np.asarray(number)) for number in moved], []
        if kind in CASTS:
            return out, of[: len(out)], []
        if kind in ("mul", "div") and any(np.ndim(value) == 0 for value in given):  # a multiplier
            return (
                out,
                [next(origin for origin in of if origin)] if np.ndim(out[0]) else nothing,
                [],
            )
        place = None
        if kind == "dot_general" and not all(of):
            place = _of_product(out[0], of, equation.params["dimension_numbers"])
        elif kind == "conv_general_dilated" and of[1] is not None:
            place = _of_convolution(of[1], equation.params["dimension_numbers"])
        elif (
            kind == "gather"
            and of[0] is not None
            and len(names := self.names(of[0])) == 1
            and names <= self.rows
        ):
            place = np.asarray([dict(self.known)[name] for name in names], np.int32), ()
        if place is None or not out[0].size:
            return out, nothing, []
        y, other = out[0], given[0 if of[0] is None else 1]
        other = other if jnp.issubdtype(other.dtype, jnp.floating) else y
        number, axes = place
        sites = []
        for name, copy in self.apart(number).items():
            y, site = self.site(y, other, name, copy, axes)
            sites.append(site)
        return [y], nothing, sites

    def names(self, origin: Origin) -> set[str]:
        """The parameters that entries come from."""
        return {self.known[place][0] for place in np.unique(self.owner[_bare(origin.number)])}

    def apart(self, number: np.ndarray) -> dict[str, np.ndarray]:
        """The copies of each parameter among numbers, -1 where they are another's, in the order in
        which they stand."""
        owner, found = self.owner[number], {}
        for place in dict.fromkeys(owner.reshape(-1).tolist()):
            name, first = self.known[place]
            found[name] = np.where(owner == place, number - first, -1)
        return found

    def site(
        self, y: Array, other: Array, name: str, copy: np.ndarray, axes: tuple[int, ...]
    ) -> tuple[Array, Site]:
        """Measure `y`, whose entries along `axes` belong to the copies `copy`, and what the
        parameter multiplied.

        Entries of the copy -1 belong to another parameter.
        """
        copies = np.unique(copy[copy >= 0])
        measured = partial(_by_copy, self.measure, axes, copy.tobytes(), str(copy.dtype))
        site = Site(name, copies, measured(y), self.measure(other.reshape(1, -1)))
        return (y if self.taps is None else _tapped(measured, y, next(self.taps))), site

    def seen(
        self, inner: tuple[Any, Sequence[Any]], given: Sequence[Any], of: Origins
    ) -> tuple[Origins, list[Site], list[Any]]:
        """Where the results of an inner program come from, its sites, and the shapes of what they
        measure."""
        origins: Origins = []
        sites: list[Site] = []

        def look(given: Sequence[Any]) -> list[Any]:
            _, origins[:], sites[:] = self._replace(taps=None).run(*inner, given, of)
            return [(site.product, site.given) for site in sites]

        shapes = jax.eval_shape(look, list(given))
        return origins, sites, shapes

    def branches(
        self, equation: Any, given: list[Any], of: Origins
    ) -> tuple[list[Any], Origins, list[Site]]:
        """A choice: what differs between the branches is measured where it is made, and NaN where
        it is not.

        Products of two branches with the same copies of one parameter, of the same shapes, are one
        site.
        """
        index, *operands = given
        inner = [_opened(branch) for branch in equation.params["branches"]]
        slots: dict[
            tuple[Any, ...], tuple[Site, Any]
        ] = {}  # by what tells sites apart: one of each, and its shapes
        in_branch: list[list[tuple[Any, ...]]] = []
        come_from: list[Origins] = []
        for one in inner:
            origins, sites, shapes = self.seen(one, operands, of[1:])
            mine: list[tuple[Any, ...]] = []
            for site, shape in zip(sites, shapes, strict=True):
                alike = site.name, site.copies.tobytes(), str(shape)
                number = sum(key[:-1] == alike for key in mine)
                mine.append((*alike, number))
                slots.setdefault(mine[-1], (site, shape))
            in_branch.append(mine)
            come_from.append(origins)
        taps = None if self.taps is None else {key: next(self.taps) for key in slots}

        def branch(k: int) -> Callable[..., Any]:
            def run(operands: list[Any], taps: Sequence[Any] | None) -> tuple[list[Any], list[Any]]:
                by_key = None if taps is None else dict(zip(slots, taps, strict=True))
                mine = None if by_key is None else iter([by_key[key] for key in in_branch[k]])
                out, _, sites = self._replace(taps=mine).run(*inner[k], operands, of[1:])
                measured = {
                    key: (site.product, site.given)
                    for key, site in zip(in_branch[k], sites, strict=True)
                }
                return out, [
                    measured.get(key, _not_made(shape)) for key, (_, shape) in slots.items()
                ]

            return run

        flat = None if taps is None else list(taps.values())
        out, measured = jax.lax.switch(
            index, [branch(k) for k in range(len(inner))], operands, flat
        )
        sites = [
            Site(site.name, site.copies, *of_site)
            for (site, _), of_site in zip(slots.values(), measured, strict=True)
        ]
        return out, [_agreed(origins) for origins in zip(*come_from, strict=True)], sites

    def scan(
        self, equation: Any, given: list[Any], of: Origins
    ) -> tuple[list[Any], Origins, list[Site]]:
        """A loop: what stays the same keeps where it comes from, slices of stacked parameters are
        their own copies."""
        settings, (body, body_consts) = equation.params, _opened(equation.params["jaxpr"])
        deeper = lambda outer, inner: [
            a.aval.ndim > b.aval.ndim for a, b in zip(outer, inner, strict=True)
        ]
        carries = deeper(equation.outvars, body.outvars).count(
            False
        )  # what is stacked has an axis more outside
        consts = deeper(equation.invars, body.invars).count(False) - carries
        # Flax carries a cell's parameters through its loop, and hands them on as they are: they are
        # constants too.
        kept = [body.outvars[k] is body.invars[consts + k] for k in range(carries)]
        inside: Origins = []
        by_turn: dict[
            str, np.ndarray
        ] = {}  # the numbers of the copies of a stacked parameter, turn after turn
        for k, origin in enumerate(of):
            if consts <= k < consts + carries:
                inside.append(origin if kept[k - consts] else None)
            elif k >= consts and origin is not None:
                owner = self.owner[_bare(origin.number)]
                one = (
                    owner == owner[:1]
                ).all()  # else other parameters in other turns: not one site
                inside.append(Origin(origin.number[0]) if one else None)
                by_turn |= dict.fromkeys(self.names(origin), origin.number) if one else {}
            else:
                inside.append(origin)
        found: list[Site] = []  # what the body says of its products, apart from their statistics

        def turn(
            carry: list[Any], x: tuple[list[Any], Any]
        ) -> tuple[list[Any], tuple[list[Any], Any]]:
            xs, taps = x
            look = self._replace(taps=None if taps is None else iter(taps))
            out, _, sites = look.run(body, body_consts, [*given[:consts], *carry, *xs], inside)
            found[:] = sites
            return out[:carries], (out[carries:], [(site.product, site.given) for site in sites])

        first, stacked = given[consts : consts + carries], given[consts + carries :]
        taps = None
        if self.taps is not None:
            jax.eval_shape(turn, first, ([x[0] for x in stacked], None))
            taps = [next(self.taps) for _ in found]
        after, (ys, measured) = jax.lax.scan(
            turn,
            first,
            (stacked, taps),
            settings["length"],
            settings["reverse"],
            settings["unroll"],
        )
        sites = []
        for site, (product, other) in zip(found, measured, strict=True):
            copies = np.broadcast_to(site.copies, (settings["length"], *site.copies.shape))
            if (
                site.name in by_turn
            ):  # the copy that the number of the first turn stands for in each turn
                whole = (
                    by_turn[site.name].reshape(settings["length"], -1) - dict(self.known)[site.name]
                )
                where = [int(np.argmax(whole[0] == number)) for number in site.copies.reshape(-1)]
                copies = whole[:, where].reshape(settings["length"], *site.copies.shape)
            sites.append(Site(site.name, copies, product, other))
        come_from: Origins = [of[consts + k] if kept[k] else None for k in range(carries)]
        return [*after, *ys], come_from + [None] * len(ys), sites


def _bare(number: np.ndarray) -> np.ndarray:
    """An array without what a broadcast repeats: of a large parameter that nothing has moved, a few
    entries."""
    return number[tuple(slice(None if stride else 1) for stride in number.strides)]


def _opened(inner: Any) -> tuple[Any, Sequence[Any]]:
    """An inner program and its constants, closed or not: that differs between primitives and
    releases of JAX."""
    return (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())


def _of_variables(equation: Any, given: Sequence[Any]) -> list[Any]:
    """Those of an equation's inputs that are not literals."""
    return [
        value
        for value, var in zip(given, equation.invars, strict=True)
        if not isinstance(var, jex.Literal)
    ]


def _has_product(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            return True
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(value) and _has_product(_opened(value)[0]):
                return True
    return False


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _agreed(origins: Sequence[Origin | None]) -> Origin | None:
    """Where a result comes from whichever branch is taken; None where that depends on it."""
    first, *others = origins
    for other in others:
        if first is None or other is None or not np.array_equal(first.number, other.number):
            return None
    return first


def _not_made(shapes: Any) -> Any:
    """What stands for the measure of a product that was not made."""
    blank = lambda of: jnp.full(
        of.shape, jnp.nan if jnp.issubdtype(of.dtype, jnp.inexact) else 0, of.dtype
    )
    return jax.tree.map(blank, shapes)


def _by_copy(measure: Measure, axes: tuple[int, ...], copy: bytes, dtype: str, y: Array) -> Any:
    """Measure the entries of each copy together, those of the copy -1 aside: `[copies,
    entries]`."""
    of = np.frombuffer(copy, dtype)
    if (of == of[0]).all():
        return measure(y.reshape(1, -1))
    others = tuple(axis for axis in range(y.ndim) if axis not in axes)
    order = np.argsort(of, kind="stable")[np.count_nonzero(of < 0) :]
    copies = len(np.unique(of[order]))
    if copies == 1:  # in the order of a product of its own
        return measure(y.transpose(*others, *axes).reshape(-1, len(of))[:, order].reshape(1, -1))
    return measure(y.transpose(*axes, *others).reshape(len(of), -1)[order].reshape(copies, -1))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tapped(measured: Callable[[Array], Any], y: Array, tap: Any) -> Array:
    """`y`; on the way back, its gradient leaves its measure in the place of the tap's."""
    del measured, tap
    return y


_tapped.defvjp(
    lambda measured, y, tap: (_tapped(measured, y, tap), None),
    lambda measured, _, dy: (dy, measured(dy)),
)


def _of_product(y: Array, of: Origins, numbers: Any) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """A matrix product; axes of the result: batch, free axes of the left side, free axes of the
    right."""
    (left_sum, right_sum), (left_batch, right_batch) = numbers
    right = of[1] is not None
    origin = of[1] if right else of[0]
    assert origin is not None
    summed, batch = (right_sum, right_batch) if right else (left_sum, left_batch)
    free = [axis for axis in range(origin.number.ndim) if axis not in summed and axis not in batch]
    number = origin.number.transpose([*batch, *free, *summed])
    kept = number.shape[: len(batch) + len(free)]
    flat = number.reshape(*kept, -1)
    if (flat != flat[..., :1]).any():  # it sums over copies: not one copy's product
        return None
    first = y.ndim - len(free) if right else len(batch)
    return flat[..., 0].reshape(-1), (*range(len(batch)), *range(first, first + len(free)))


def _of_convolution(origin: Origin, numbers: Any) -> tuple[np.ndarray, tuple[int, ...]] | None:
    by_output = np.moveaxis(origin.number, numbers.rhs_spec[0], 0).reshape(
        origin.number.shape[numbers.rhs_spec[0]], -1
    )
    if (by_output != by_output[:, :1]).any():
        return None
    return by_output[:, 0], (numbers.out_spec[1],)
