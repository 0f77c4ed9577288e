"""Run a program again and measure every product with a parameter on the way.

    program, values, their origins -> results, their origins, a site for every product

An `Interpreter` has a method for every kind of equation that has to do with parameters: what only
moves entries moves their origins too; products are measured; inner programs are entered; loops and
choices are built anew, with the measurements among their results. Everything else is evaluated as
JAX would.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinit.signals import jaxprs, origins
from jaxinit.signals.jaxprs import Program
from jaxinit.signals.origins import Copies, Origin, Origins, Outputs

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
# What leaves every entry in its place.
CASTS = {
    "convert_element_type",
    "copy",
    "copy_p",
    "name",
    "reduce_precision",
    "stop_gradient",
    "optimization_barrier",
}


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


class Evaluated(NamedTuple):
    """The results of an equation or a program, where each comes from, and the products that were
    met."""

    results: list[Any]
    origins: Origins
    sites: list[Site]

    @property
    def measured(self) -> list[tuple[Any, Any]]:
        """What was measured, site by site."""
        return [(site.product, site.given) for site in self.sites]


class Step(NamedTuple):
    """An equation of a jaxpr with the values of its inputs and their origins."""

    jaxpr: Any
    equation: Any
    inputs: list[Any]
    origins: Origins

    @property
    def kind(self) -> str:
        return self.equation.primitive.name

    def evaluate(self) -> list[Any]:
        return jaxprs.evaluate(self.jaxpr, self.equation, self.inputs)

    def without_origins(self, results: list[Any]) -> Evaluated:
        return Evaluated(results, [None] * len(results), [])


class Seen(NamedTuple):
    """What is known of an inner program without its values: the origins of its results, its sites
    (their measurements are no values) and the shapes of these."""

    origins: Origins
    sites: list[Site]
    shapes: list[Any]


class Interpreter(NamedTuple):
    """What to measure, the numbering of the parameters' copies, the parameters whose picked rows
    count as products (`rows`), and the taps that are still to be used, if there are any."""

    measure: Measure
    copies: Copies
    rows: frozenset[str]
    taps: Iterator[Any] | None = None

    def run(
        self, program: Program, arguments: Sequence[Any], argument_origins: Origins
    ) -> Evaluated:
        """Evaluate a program."""
        jaxpr = program.jaxpr
        values = jaxprs.Values(program, arguments)
        known: dict[Any, Origin | None] = {}
        known.update(zip(jaxpr.invars, argument_origins, strict=True))
        sites: list[Site] = []
        for equation in jaxpr.eqns:
            inputs = values.read(equation.invars)
            step = Step(jaxpr, equation, inputs, _origins_of(equation.invars, known))
            evaluated = self.step(step)
            values.write(equation.outvars, evaluated.results)
            known.update(zip(equation.outvars, evaluated.origins, strict=True))
            sites += evaluated.sites
        return Evaluated(values.read(jaxpr.outvars), _origins_of(jaxpr.outvars, known), sites)

    def look(self, program: Program, arguments: Sequence[Any], argument_origins: Origins) -> Seen:
        """What a program would give, without a value and without using up taps."""
        seen: list[Evaluated] = []

        def measured(arguments: Sequence[Any]) -> list[Any]:
            # eval_shape hands out shapes of arrays and nothing else, so the rest leaves by the
            # list.
            evaluated = self.with_taps(None).run(program, arguments, argument_origins)
            seen.append(evaluated)
            return evaluated.measured

        shapes = jax.eval_shape(measured, list(arguments))
        return Seen(seen[-1].origins, seen[-1].sites, shapes)

    def with_taps(self, taps: Sequence[Any] | None) -> "Interpreter":
        """The same with other taps, for an inner program."""
        # An iterator of its own: the inner program must use up its taps and none of the outer's.
        if taps is None:
            return self._replace(taps=None)
        return self._replace(taps=iter(taps))

    def next_taps(self, count: int) -> list[Any] | None:
        """The taps of the next so many sites, where there are any taps."""
        if self.taps is None:
            return None
        return [next(self.taps) for _ in range(count)]

    def step(self, step: Step) -> Evaluated:
        """Evaluate one equation."""
        if not any(step.origins):
            return step.without_origins(step.evaluate())
        if step.kind in jaxprs.CALLS:
            return self.call(step)
        if step.kind == "scan":
            return self.scan(step)
        if step.kind == "cond":
            return self.branches(step)
        if step.kind in MOVES:
            return self.move(step)
        if step.kind in CASTS:
            return self.cast(step)
        if step.kind in ("mul", "div"):
            return self.multiply(step)
        if step.kind in PRODUCTS:
            return self.product(step)
        return step.without_origins(step.evaluate())

    def call(self, step: Step) -> Evaluated:
        """What only calls an inner program: enter it."""
        inner = jaxprs.called(step.equation)
        assert inner is not None
        if step.kind.startswith("custom") and not jaxprs.contains(inner.jaxpr, PRODUCTS):
            # Entering would replace the custom derivative by the program's own. That is right
            # around a product, which could not be measured otherwise, and wrong around weights that
            # are rounded with a straight-through gradient.
            results = step.evaluate()
            return Evaluated(results, self.look(inner, step.inputs, step.origins).origins, [])
        return self.run(inner, step.inputs, step.origins)

    def move(self, step: Step) -> Evaluated:
        """What moves entries: move the numbers of their copies by the same equation."""
        results = step.evaluate()
        numbers = [origin.numbers for origin in step.origins if origin is not None]
        if len(numbers) < len(step.origins):  # entries of parameters beside others
            return step.without_origins(results)
        # Computed now, though the model is being traced: which copies a product is of must not
        # depend on data. Without checks, since the equation says float and the numbers are whole.
        with jax.ensure_compile_time_eval(), jax.enable_checks(False):
            moved = step._replace(inputs=numbers).evaluate()
        return Evaluated(results, [Origin(np.asarray(array)) for array in moved], [])

    def cast(self, step: Step) -> Evaluated:
        """What leaves every entry in its place."""
        results = step.evaluate()
        return Evaluated(results, step.origins[: len(results)], [])

    def multiply(self, step: Step) -> Evaluated:
        """A product with a number is still the parameter: models multiply weights by constants."""
        results = step.evaluate()
        # A parameter that is a number itself, as a gate is, is no kernel: what it multiplies may be
        # data, whose next product must not be taken for one of two parameters.
        array_origins: Origins = []
        for value, origin in zip(step.inputs, step.origins, strict=True):
            if np.ndim(value) > 0:
                array_origins.append(origin)
        has_number = len(array_origins) < len(step.inputs)
        if not has_number or not any(array_origins):
            return step.without_origins(results)
        return Evaluated(results, [array_origins[0]], [])

    def product(self, step: Step) -> Evaluated:
        """A matrix product, a convolution or picked rows: a site for each parameter in it."""
        results = step.evaluate()
        outputs = self.outputs(step, results[0])
        if outputs is None or not results[0].size:
            return step.without_origins(results)
        y = results[0]
        first, second, *_ = step.inputs
        other = first if step.origins[0] is None else second
        if not jnp.issubdtype(other.dtype, jnp.floating):
            other = y  # rows were picked by whole numbers, which have no statistics
        sites = []
        # A product of joined parameters has a site for each; `y` goes through all of their taps.
        for name, copies in self.copies.by_parameter(outputs.numbers).items():
            y, site = self.site(y, other, name, copies, outputs.axes)
            sites.append(site)
        return Evaluated([y], [None], sites)

    def outputs(self, step: Step, y: Array) -> Outputs | None:
        """The copies that the outputs of a product belong to; None where it is not one with a
        parameter alone."""
        left, right, *_ = step.origins
        dimension_numbers = step.equation.params["dimension_numbers"]
        if step.kind == "dot_general":
            if left is not None and right is not None:  # of two parameters: no data
                return None
            return origins.of_product(y.ndim, (left, right), dimension_numbers)
        if step.kind == "conv_general_dilated":
            if right is None:
                return None
            return origins.of_convolution(right, dimension_numbers)
        if left is None:  # the rows of something else are picked
            return None
        names = self.copies.parameters(left)
        if len(names) != 1 or not names <= self.rows:
            return None
        first = self.copies.first(names.pop())
        return Outputs(np.asarray([first], np.int32), ())

    def site(
        self, y: Array, other: Array, name: str, copies: np.ndarray, axes: tuple[int, ...]
    ) -> tuple[Array, Site]:
        """Measure `y`, whose entries along `axes` belong to the copies `copies` of a parameter (-1
        for those of another), and `other`, which it multiplies."""
        by_copy = _ByCopy(self.measure, axes, copies.tobytes(), str(copies.dtype))
        own = np.unique(copies[copies >= 0])
        site = Site(name, own, by_copy(y), self.measure(other.reshape(1, -1)))
        if self.taps is not None:
            y = _tapped(by_copy, y, next(self.taps))
        return y, site

    def branches(self, step: Step) -> Evaluated:
        """A choice: what differs between the branches is measured where it is made, and NaN where
        it is not.

        Products of two branches with the same copies of one parameter, of the same shapes, are one
        site.
        """
        index, *operands = step.inputs
        operand_origins = step.origins[1:]
        branches: list[_Branch] = []
        for closed in step.equation.params["branches"]:
            program = jaxprs.opened(closed)
            seen = self.look(program, operands, operand_origins)
            branches.append(_Branch(program, seen, _keys(seen)))
        sites, shapes = _sites_of_any(branches)
        taps = self.next_taps(len(sites))

        def run_branch(
            branch: _Branch, operands: list[Any], taps: Any
        ) -> tuple[list[Any], list[Any]]:
            if taps is not None:
                tap_of = dict(zip(sites, taps, strict=True))
                taps = [tap_of[key] for key in branch.keys]
            interpreter = self.with_taps(taps)
            evaluated = interpreter.run(branch.program, operands, operand_origins)
            # All branches of a switch have to return the same: a place for each site of any of
            # them, in the order of `sites`.
            measured = {key: _not_made(shape) for key, shape in shapes.items()}
            measured.update(zip(branch.keys, evaluated.measured, strict=True))
            return evaluated.results, list(measured.values())

        functions = [partial(run_branch, branch) for branch in branches]
        results, measured = jax.lax.switch(index, functions, operands, taps)
        measured_sites = []
        for site, (product, given) in zip(sites.values(), measured, strict=True):
            measured_sites.append(site._replace(product=product, given=given))
        by_branch = [branch.seen.origins for branch in branches]
        result_origins: Origins = []
        for in_every_branch in zip(*by_branch, strict=True):
            result_origins.append(origins.agreed(in_every_branch))
        return Evaluated(results, result_origins, measured_sites)

    def scan(self, step: Step) -> Evaluated:
        """A loop: what stays the same keeps its origin, slices of stacked parameters are their own
        copies."""
        loop = _opened_loop(step.equation)
        inside = self.origins_inside(loop, step.origins)
        constants, first, stacked = loop.parted(step.inputs)
        # The sites of one turn: their names and copies are known while it is traced, and only
        # measurements can leave the loop as values.
        turn_sites: list[Site] = []

        def turn(carry: list[Any], per_turn: tuple[list[Any], Any]) -> tuple[list[Any], Any]:
            slices, taps = per_turn
            interpreter = self.with_taps(taps)
            evaluated = interpreter.run(loop.body, [*constants, *carry, *slices], inside)
            turn_sites[:] = evaluated.sites
            after, ys = evaluated.results[: loop.carries], evaluated.results[loop.carries :]
            return after, (ys, evaluated.measured)

        if self.taps is not None:
            # A look without taps, to know how many of them are the loop's.
            slices = [array[0] for array in stacked]
            jax.eval_shape(turn, first, (slices, None))
        taps = self.next_taps(len(turn_sites))
        settings = step.equation.params
        after, (ys, measured) = jax.lax.scan(
            turn,
            first,
            (stacked, taps),
            settings["length"],
            settings["reverse"],
            settings["unroll"],
        )
        numbers_of = self.numbers_by_turn(loop, step.origins)
        sites = []
        for site, (product, given) in zip(turn_sites, measured, strict=True):
            copies = _copies_by_turn(site.copies, settings["length"], numbers_of.get(site.name))
            sites.append(Site(site.name, copies, product, given))
        result_origins = loop.kept(step.origins) + [None] * len(ys)
        return Evaluated([*after, *ys], result_origins, sites)

    def origins_inside(self, loop: "_Loop", outside: Origins) -> Origins:
        """The origins of the arguments of a loop's body."""
        constants, _, stacked = loop.parted(outside)
        inside = constants + loop.kept(outside)
        for origin in stacked:
            # Where turns have different parameters, a product inside is not one site.
            if origin is not None and self.copies.same_in_every_turn(origin):
                inside.append(Origin(origin.numbers[0]))
            else:
                inside.append(None)
        return inside

    def numbers_by_turn(self, loop: "_Loop", outside: Origins) -> dict[str, np.ndarray]:
        """The copies of every parameter that is stacked and sliced by a loop, turn after turn:
        `[turns, entries]`."""
        copies = {}
        _, _, stacked = loop.parted(outside)
        for origin in stacked:
            if origin is None or not self.copies.same_in_every_turn(origin):
                continue
            by_turn = origin.numbers.reshape(len(origin.numbers), -1)
            for name in self.copies.parameters(origin):
                copies[name] = by_turn - self.copies.first(name)
        return copies


class _Loop(NamedTuple):
    """A scan's body, and the numbers of its constants and of its carried values; what follows in
    its inputs is stacked, a slice for each turn.

    `keeps` says of every carried value whether the body hands it on as it is.
    """

    body: Program
    constants: int
    carries: int
    keeps: list[bool]

    def parted(self, of_inputs: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """What belongs to the constants, the carried values and the stacked arrays."""
        stacked = self.constants + self.carries
        return of_inputs[: self.constants], of_inputs[self.constants : stacked], of_inputs[stacked:]

    def kept(self, of_inputs: Origins) -> Origins:
        """The origins of carried values, in all turns and afterwards."""
        _, carried, _ = self.parted(of_inputs)
        kept: Origins = []
        for keeps, origin in zip(self.keeps, carried, strict=True):
            kept.append(origin if keeps else None)
        return kept


def _opened_loop(equation: Any) -> _Loop:
    """A scan taken apart, by the shapes of what goes in and out: how it stores the numbers differs
    between releases of JAX."""
    body = jaxprs.opened(equation.params["jaxpr"])
    inputs, results = body.jaxpr.invars, body.jaxpr.outvars
    carries = _count_unstacked(equation.outvars, results)
    constants = _count_unstacked(equation.invars, inputs) - carries
    # Flax carries a cell's parameters through its loop, and hands them on as they are: they are
    # constants too.
    carried = inputs[constants : constants + carries]
    keeps = [after is before for after, before in zip(results, carried, strict=False)]
    return _Loop(body, constants, carries, keeps)


def _count_unstacked(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """How many variables are the same outside of a loop: those that are stacked have one axis more
    there."""
    count = 0
    for outside, inside in zip(outer, inner, strict=True):
        if outside.aval.ndim == inside.aval.ndim:
            count += 1
    return count


def _copies_by_turn(copies: np.ndarray, turns: int, numbers: np.ndarray | None) -> np.ndarray:
    """The copies of a site in every turn of a loop: `[turns, *copies]`.

    `copies` are those of the first turn; `numbers` `[turns, entries]`, where the parameter is
    stacked, are the copies of its entries in every turn.
    """
    if numbers is None:
        return np.broadcast_to(copies, (turns, *copies.shape))
    # Where a copy's first entry stands in the first turn, its counterpart stands in each.
    first_turn = numbers[0]
    places = []
    for copy in copies.reshape(-1):
        places.append(int(np.argmax(first_turn == copy)))
    return numbers[:, places].reshape(turns, *copies.shape)


# What tells the sites of branches apart: parameter, copies, shapes, and how many such sites of its
# branch come before.
Key: TypeAlias = tuple[str, bytes, str, int]


class _Branch(NamedTuple):
    """A branch of a choice, what a look at it has shown, and the keys of its sites. Equal ones in
    two branches stand for one site."""

    program: Program
    seen: Seen
    keys: list[Key]


def _keys(branch: Seen) -> list[Key]:
    keys: list[Key] = []
    before: Counter[tuple[str, bytes, str]] = Counter()
    for site, shape in zip(branch.sites, branch.shapes, strict=True):
        kind = (site.name, site.copies.tobytes(), str(shape))
        keys.append((*kind, before[kind]))
        before[kind] += 1
    return keys


def _sites_of_any(branches: Sequence[_Branch]) -> tuple[dict[Key, Site], dict[Key, Any]]:
    """The sites of all branches and the shapes of their measurements, those that are alike once."""
    sites: dict[Key, Site] = {}
    shapes: dict[Key, Any] = {}
    for branch in branches:
        seen = branch.seen
        for key, site, shape in zip(branch.keys, seen.sites, seen.shapes, strict=True):
            sites.setdefault(key, site)
            shapes.setdefault(key, shape)
    return sites, shapes


def _not_made(shapes: Any) -> Any:
    """What stands for the measure of a product that was not made: NaN, and 0 for whole numbers."""

    def blank(shape: jax.ShapeDtypeStruct) -> Array:
        value = jnp.nan if jnp.issubdtype(shape.dtype, jnp.inexact) else 0
        return jnp.full(shape.shape, value, shape.dtype)

    return jax.tree.map(blank, shapes)


@dataclass(frozen=True)
class _ByCopy:
    """Measure the entries of each copy together, and those of the copy -1 not at all.

    The entries along `axes` of the array belong to the copies. These are bytes, so that the object
    can be hashed, as `jax.custom_vjp` wants of what it does not differentiate.
    """

    measure: Measure
    axes: tuple[int, ...]
    copies: bytes
    dtype: str

    def __call__(self, y: Array) -> Any:
        copies = np.frombuffer(self.copies, self.dtype)
        if (copies == copies[0]).all():
            return self.measure(y.reshape(1, -1))
        others = tuple(axis for axis in range(y.ndim) if axis not in self.axes)
        # Columns by copy; those of the copy -1 come first, and are left out. Stable, so that the
        # entries of a copy stay in the order of the product.
        first_own = np.count_nonzero(copies < 0)
        order = np.argsort(copies, kind="stable")[first_own:]
        groups = len(np.unique(copies[order]))
        if groups == 1:
            # One copy among other parameters: the entries in the order of a product of its own, so
            # that measures that depend on it (a sample's) agree with that.
            columns = y.transpose(*others, *self.axes).reshape(-1, len(copies))[:, order]
            return self.measure(columns.reshape(1, -1))
        rows = y.transpose(*self.axes, *others).reshape(len(copies), -1)[order]
        return self.measure(rows.reshape(groups, -1))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tapped(measured: Callable[[Array], Any], y: Array, tap: Any) -> Array:
    """`y`; on the way back, its gradient leaves its measure in the place of the tap's."""
    del measured, tap
    return y


def _tapped_forward(measured: Callable[[Array], Any], y: Array, tap: Any) -> tuple[Array, None]:
    return _tapped(measured, y, tap), None


def _tapped_backward(measured: Callable[[Array], Any], _: None, dy: Array) -> tuple[Array, Any]:
    return dy, measured(dy)


_tapped.defvjp(_tapped_forward, _tapped_backward)


def _origins_of(variables: Sequence[Any], known: dict[Any, Origin | None]) -> Origins:
    """The origins of variables; literals, which cannot be looked up, have none."""
    variable_origins: Origins = []
    for variable in variables:
        if isinstance(variable, jaxprs.Literal):
            variable_origins.append(None)
        else:
            variable_origins.append(known.get(variable))
    return variable_origins
