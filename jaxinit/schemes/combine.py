"""Schemes made of schemes: by a table of roles, scaled, with constants in the biases of gates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jaxtyping import Array, Float

from jaxinit import initializers, spec
from jaxinit.initializers import structured
from jaxinit.spec import Initializer, Leaf, Rule, Scheme, under

Unmatched = Callable[[Sequence[Leaf]], list[str]]


def by_role(rules: dict[str, Rule | Initializer], name: str = "by_role") -> Scheme:
    """A scheme that answers each role by table; `draw` refuses a role that is missing, and one that
    no leaf has."""
    unmatched = lambda leaves: sorted(set(rules) - {leaf.role for leaf in leaves})
    return named(name, lambda leaf: rules.get(leaf.role), by_role.__doc__, unmatched)


def scale(base: Scheme | Initializer, gain: float | Float[Array, ""]) -> Scheme:
    """`base` with every kernel multiplied by `gain`, which may be traced and so swept; biases stay.

    Raises: ValueError for a negative gain, where it is known.
    """
    if isinstance(gain, int | float) and gain < 0:
        raise ValueError(
            f"scale: a gain must not be negative, got {gain}; it multiplies a standard deviation"
        )

    def of(leaf: Leaf) -> Rule | Initializer | None:
        rule = spec.as_scheme(base)(leaf)
        if rule is None or not leaf.is_kernel:
            return rule
        rule = rule if isinstance(rule, Rule) else Rule(rule)
        return replace(rule, draw=initializers.scaled(rule.draw, gain))

    adapted = lambda optimizer: scale(under(base, optimizer), gain)
    return named("scale", of, scale.__doc__, partial(spec.unmatched, base), adapted)


def with_bias(base: Scheme | Initializer, **values: float) -> Scheme:
    """`base` with the biases of the gates named set to constants: `with_bias(orthogonal,
    forget=1.0)`.

    A leaf none of whose gates is named keeps what `base` says; the other gates of one that is start
    at 0. `draw` refuses a gate that no leaf has.
    """

    def of(leaf: Leaf) -> Rule | Initializer | None:
        mine = {gate: value for gate, value in values.items() if gate in leaf.gate}
        rule = spec.as_scheme(base)(leaf)
        if leaf.role != "bias" or not mine:
            return rule
        constants = structured.gate_biases(leaf.gate, **mine)
        return replace(rule, draw=constants) if isinstance(rule, Rule) else constants

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        there = {gate for leaf in leaves for gate in leaf.gate}
        return [
            *spec.unmatched(base, leaves),
            *(f"gate {gate}" for gate in values if gate not in there),
        ]

    adapted = lambda optimizer: with_bias(under(base, optimizer), **values)
    return named("with_bias", of, with_bias.__doc__, unmatched, adapted)


def named(
    name: str,
    scheme: Callable[[Leaf], Rule | Initializer | None],
    doc: str | None,
    unmatched: Unmatched | None = None,
    adapted: Callable[[str], Scheme] | None = None,
) -> Scheme:
    """Give a scheme that a function made its name, its description, its rules that match nothing,
    and `spec.under`."""
    one: Any = scheme
    one.__name__, one.__doc__ = name, doc
    one.unmatched = unmatched or (lambda leaves: [])
    if adapted is not None:
        one.under = adapted
    return one
