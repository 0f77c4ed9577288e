"""Schemes made of others: from a table of roles, scaled, with constants in the biases of gates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jaxtyping import Array, Float

from jaxinit import initializers, spec
from jaxinit.initializers import structured
from jaxinit.spec import Initializer, Leaf, Rule, Scheme, as_rule, under

Unmatched = Callable[[Sequence[Leaf]], list[str]]


def by_role(rules: dict[str, Rule | Initializer], name: str = "by_role") -> Scheme:
    """A scheme that answers each role by table.

    Raises, when drawn: ValueError for a role that the table lacks, and for one that no leaf has.
    """

    def scheme(leaf: Leaf) -> Rule | Initializer | None:
        return rules.get(leaf.role)

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        return sorted(set(rules) - {leaf.role for leaf in leaves})

    return named(name, scheme, by_role.__doc__, unmatched)


def scale(base: Scheme | Initializer, gain: float | Float[Array, ""]) -> Scheme:
    """`base` with every kernel multiplied by `gain`, which may be traced and so swept; biases stay.

    Raises: ValueError for a negative gain, where it is known.
    """
    if isinstance(gain, int | float) and gain < 0:
        raise ValueError(
            f"scale: a gain must not be negative, got {gain}; it multiplies a standard deviation"
        )

    def scheme(leaf: Leaf) -> Rule | Initializer | None:
        rule = spec.as_scheme(base)(leaf)
        if rule is None or not leaf.is_kernel:
            return rule
        rule = as_rule(rule)
        scaled = initializers.scaled(rule.draw, gain)
        return replace(rule, draw=scaled)

    def adapted(optimizer: str) -> Scheme:
        return scale(under(base, optimizer), gain)

    return named("scale", scheme, scale.__doc__, partial(spec.unmatched, base), adapted)


def with_bias(base: Scheme | Initializer, **values: float) -> Scheme:
    """`base` with the biases of the gates named set to constants: `with_bias(orthogonal,
    forget=1.0)`.

    A bias none of whose gates is named keeps what `base` says; where one is, the others are 0.
    Raises, when drawn: ValueError for a gate that no leaf has.
    """

    def scheme(leaf: Leaf) -> Rule | Initializer | None:
        rule = spec.as_scheme(base)(leaf)
        # A cell may hold each gate's bias in a parameter of its own, so not all names are in one.
        own = {gate: value for gate, value in values.items() if gate in leaf.gate}
        if leaf.role != "bias" or not own:
            return rule
        constants = structured.gate_biases(leaf.gate, **own)
        if isinstance(rule, Rule):  # the multiplier and the rates of `base` stay
            return replace(rule, draw=constants)
        return constants

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        gates: set[str] = set()
        for leaf in leaves:
            gates.update(leaf.gate)
        absent = [f"gate {gate}" for gate in values if gate not in gates]
        return [*spec.unmatched(base, leaves), *absent]

    def adapted(optimizer: str) -> Scheme:
        return with_bias(under(base, optimizer), **values)

    return named("with_bias", scheme, with_bias.__doc__, unmatched, adapted)


def named(
    name: str,
    scheme: Callable[[Leaf], Rule | Initializer | None],
    doc: str | None,
    unmatched: Unmatched | None = None,
    adapted: Callable[[str], Scheme] | None = None,
) -> Scheme:
    """`scheme` itself, with what `draw`, a study and the command line ask of one as its attributes.

    Its name and description; `unmatched`, its rules that match none of the leaves; `under`, the
    scheme with the rates of an optimizer (`spec.under`)."""
    attributed: Any = scheme
    attributed.__name__ = name
    attributed.__doc__ = doc
    attributed.unmatched = unmatched or _matches_everything
    if adapted is not None:
        attributed.under = adapted
    return attributed


def _matches_everything(leaves: Sequence[Leaf]) -> list[str]:
    del leaves
    return []
