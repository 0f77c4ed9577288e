"""Draw a model anew under a scheme, and say first what would be drawn.

model, scheme -> plan: a line for every parameter
model, scheme, key -> the same model with fresh parameters
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key
from rich.console import Console
from rich.text import Text

from jaxinit import spec
from jaxinit.analysis.report import Column, print_columns
from jaxinit.auditing.inventory import Entry, entries_in, entries_of, module_of, name_in_tree
from jaxinit.introspect.parameters import cut, joined, variables_of
from jaxinit.schemes import scheme_named
from jaxinit.spec import Initializer, Leaf, Rule, Scheme
from jaxinit.study import BadStudy

Model = TypeVar("Model")


class Planned(NamedTuple):
    """What a scheme says of one parameter: `law` is the name of its initializer, `multiplier`,
    `lr_scale` and `wd_scale` as in `spec.Rule`."""

    name: str
    shape: tuple[int, ...]
    dims: str
    role: str
    layer: int
    n_layers: int
    fan_in: int
    fan_out: int
    law: str
    multiplier: float
    lr_scale: float
    wd_scale: float


@dataclass(frozen=True)
class Plan:
    """What would be drawn, a line for every parameter; `unknown` are those whose axes nobody has
    said, which a scheme cannot draw."""

    scheme: str
    lines: tuple[Planned, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        console = Console(width=120, force_terminal=False)
        with console.capture() as captured:
            console.print(Text(self._headline(), "bold"))
            _print_table(self.lines, console)
            if self.unknown:
                names = ", ".join(self.unknown)
                console.print(f"not drawn, say dims= and roles= of: {names}", highlight=False)
        return captured.get()

    def _headline(self) -> str:
        total = sum(int(np.prod(line.shape)) for line in self.lines)
        return f"{self.scheme}: {total:,} parameters in {len(self.lines)}"


def plan(model: Any, scheme: str | Scheme | Initializer, **declared: Any) -> Plan:
    """What a scheme would draw, without drawing: the law and the factors of every parameter.

    model: as `audit` takes it; shapes will do (`nnx.eval_shape`, `jax.eval_shape`), so that models
    larger than the memory are planned in seconds.
    Raises: BadStudy for a scheme that there is not, or that does not fit the model.
    """
    entries = entries_of(model, **declared)
    known = scheme_of(scheme)
    rules = _rules(known, [entry.leaf for entry in entries if entry.leaf is not None])
    lines = []
    for entry in entries:
        leaf = entry.leaf
        if leaf is None:
            continue
        rule = rules[leaf.name]
        lines.append(
            Planned(
                leaf.name,
                leaf.shape,
                leaf.dims,
                leaf.role,
                leaf.layer,
                leaf.n_layers,
                leaf.fan_in,
                leaf.fan_out,
                describe(rule, leaf),
                rule.multiplier,
                rule.lr_scale,
                rule.wd_scale,
            )
        )
    unknown = tuple(entry.name for entry in entries if entry.leaf is None)
    return Plan(spec.scheme_name(known), tuple(lines), unknown)


def describe(rule: Rule, leaf: Leaf) -> str:
    """The law of a rule in words, with its standard deviation where that is known without a
    draw."""
    law = getattr(rule.draw, "law", "")
    if not law:
        law = getattr(rule.draw, "__qualname__", type(rule.draw).__name__).split(".")[0]
    spread = getattr(rule.draw, "spread", None)
    if spread is None or law in ("zeros", "ones"):
        return law
    std = spread(spec.asked_of(leaf.shape, leaf.dims))
    return f"{law}, std {float(std):.3g}" if std else law


def reinitialize(
    model: Model,
    scheme: str | Scheme | Initializer,
    key: Key[Array, ""],
    *,
    exclude: str | Sequence[str] = (),
    **declared: Any,
) -> Model:
    """A copy of a model with fresh parameters under a scheme: role by role, gates and heads apart.

    model: an nnx.Module, or a tree of parameters (Linen, Haiku, Equinox, `{name: array}`).
    exclude: patterns of names whose values stay, as those that were loaded.
    The dtype and the sharding of every parameter stay; what is tied stays tied; what is no
    parameter (statistics, counters, keys) stays as it is. The key of a parameter is `key` folded
    with its name, so that sharded models draw what others draw.
    Raises: BadStudy for a scheme that there is not or that does not fit; parameters whose axes are
    not known and that are not excluded; a pattern that matches nothing; a scheme with multipliers,
    which an array cannot carry.
    """
    if not jnp.issubdtype(getattr(key, "dtype", np.int32), jax.dtypes.prng_key):
        raise BadStudy(f"key is jax.random.key(seed), got {key!r}")
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    module = module_of(model, **declared)
    entries = entries_in(module)
    names = [entry.name for entry in entries]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadStudy(
                f"the pattern {pattern!r} of exclude matches no parameter; they are "
                f"{', '.join(names)}"
            )
    fresh = [entry for entry in entries if not _matches(entry, patterns)]
    unknown = [entry.name for entry in fresh if entry.leaf is None]
    if unknown:
        raise BadStudy(
            f"the axes of {', '.join(unknown)} are not known; say dims= and roles= of them, or "
            "leave them as they are with exclude="
        )
    drawn_leaves = [entry.leaf for entry in fresh if entry.leaf is not None]
    known = scheme_of(scheme)
    rules = _rules(known, drawn_leaves)
    scaled = [name for name, rule in rules.items() if rule.multiplier != 1.0]
    if scaled:
        raise BadStudy(
            f"scheme {spec.scheme_name(known)!r} multiplies {', '.join(scaled[:3])} in the forward "
            "pass, which values alone cannot carry; train it with jaxinit.run"
        )
    values: dict[str, Array] = {}
    for leaf in drawn_leaves:
        values |= spec.draw(lambda _, rule=rules[leaf.name]: rule, key, [leaf])
    stored = _stored(module, fresh, values)
    return _filled(model, stored)


def _matches(entry: Entry, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(entry.name, pattern) for pattern in patterns)


def scheme_of(scheme: str | Scheme | Initializer) -> Scheme:
    """The scheme of a name, or that is given."""
    return scheme_named(scheme) if isinstance(scheme, str) else spec.as_scheme(scheme)


def _rules(scheme: Scheme, leaves: Sequence[Leaf]) -> dict[str, Rule]:
    try:
        return spec.rules(scheme, leaves)
    except ValueError as error:
        raise BadStudy(str(error)) from error


def _stored(
    module: nnx.Module, fresh: Sequence[Entry], values: dict[str, Array]
) -> dict[str, Array]:
    """The arrays that the model stores, by the names of its variables, dtype and sharding kept."""
    variables = variables_of(module)
    stored: dict[str, Array] = {}
    for name in dict.fromkeys(entry.variable for entry in fresh):
        variable = variables[name]
        before = variable.get_value()
        # Parts that are excluded keep their values.
        parts = cut(name, variable, jnp.asarray(before)) | values
        whole = joined(name, variable, parts).astype(before.dtype)
        sharding = getattr(before, "sharding", None)
        stored[name] = whole if sharding is None else jax.device_put(whole, sharding)
    return stored


def _filled(model: Any, stored: dict[str, Array]) -> Any:
    """A copy of a model with these arrays in the places of its own."""
    if isinstance(model, nnx.Module):
        copy = nnx.clone(model)
        for name, variable in variables_of(copy).items():
            if name in stored:
                variable.set_value(stored[name])
        return copy

    def place(path: tuple[Any, ...], value: Any) -> Any:
        new = stored.get(name_in_tree(path))
        if new is None:
            return value
        return np.asarray(new) if isinstance(value, np.ndarray) else new

    return jax.tree.map_with_path(place, model)


def _print_table(lines: Sequence[Planned], console: Console) -> None:
    names = ("shape", "role", "block", "fans", "law", "times", "rate", "decay")
    rows = []
    for line in lines:
        block = f"{line.layer} of {line.n_layers}" if line.n_layers else ""
        rows.append(
            (
                line.name,
                "x".join(map(str, line.shape)) or "scalar",
                line.role,
                block,
                f"{line.fan_in}, {line.fan_out}",
                line.law,
                f"{line.multiplier:.3g}",
                f"{line.lr_scale:.3g}",
                f"{line.wd_scale:.3g}",
            )
        )
    print_columns(console, ["parameter"], [*map(Column, names)], rows, apart=1, folded=True)
