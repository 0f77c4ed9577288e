"""Scaling rules across width and depth: muP and its kin.

    leaf (role, layer, n_layers, width) -> rule (draw, multiplier, scales of rate and decay)

In all of them m is the width of the model over the base width, at which the rates are meant.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jaxinit.initializers.basic import lecun, normal, vector, zeros
from jaxinit.schemes.combine import named
from jaxinit.schemes.needs import (
    EDGES,
    INTO_STREAM,
    SCALED_BRANCH,
    TABLES,
    blocks,
    partner,
    without_branches,
    without_edges,
)
from jaxinit.spec import Initializer, Leaf, Rule, Scheme, as_rule, as_scheme, under, unmatched

DESCENT = ("sgd", "momentum")


def mup(base_width: int = 64, optimizer: str | None = None, zero_readout: bool = False) -> Scheme:
    """Maximal update parametrization, base_width 64 unless given: a width's best rate is that of
    any other.

    N(0, 1/fan_in), rates and the readout scaled by the width over `base_width` (m).
    Readout: variance 1/(m fan_in), rate 1/m. Hidden kernels: rate 1/m under Adam, 1 under SGD.
    Inputs, tables, scales and biases, but for the readout's: rate 1 under Adam, m under SGD. Single
    numbers, as gates: rate 1, since their gradients sum over the width. Queries times m^(-1/2),
    kernel and bias, so that scores go as 1/d; where queries are normalized, the scale of their
    normalization has that factor instead, since a norm divides by any before it. Decoupled decay
    keeps its size: its scale is the inverse of the rate's. At the base width it is `xavier_rnn`.
    Under Muon an update of a matrix has the spectral norm max(1, sqrt(fan_out / fan_in)) whatever
    its width, which is what muP asks of all but the readout: its rate is m^(-1/2). Parameters that
    are no matrices have Adam's rates, as Optax's `muon` trains them.
    `optimizer` is adam, muon, sgd or momentum; None: that of the study, and Adam where there is
    none.
    Assumes leaves that know the `width` of their model, and as many heads as at the base width. For
    a tied readout give the model `tied_scale` 1/m.
    Raises: ValueError for another optimizer or a base width below 1; and, when drawn, for a width
    below the base's or unknown, and for a bias of which it is unknown what it is added to.
    Source: Yang et al. (2021), Tensor Programs V, table 3; Adam's row holds for any optimizer of
    its kind. For Muon Yang, Simon & Bernstein (2023), A spectral condition for feature learning,
    condition 1, with matrices stored as [fan_in, fan_out].
    """
    _check_base(base_width)

    def made_for(optimizer: str) -> Scheme:
        alike = _optimizers("mup", optimizer, also=("muon",))

        def scheme(leaf: Leaf) -> Rule:
            m = _width_ratio(leaf, base_width)
            by_muon = optimizer == "muon" and len(leaf.shape) == 2
            if leaf.role == "readout":
                draw = zeros if zero_readout else normal(1 / math.sqrt(m * leaf.fan_in))
                rate = m**-0.5 if by_muon else 1 / m
                return Rule(draw, lr_scale=rate, wd_scale=1 / rate, optimizers=alike)
            is_hidden = leaf.is_kernel and leaf.role not in EDGES
            rate = 1.0
            if is_hidden and optimizer not in DESCENT and not by_muon:
                rate = 1 / m
            elif not is_hidden and optimizer in DESCENT and _grows_out(leaf):
                rate = m
            draw = vector(leaf) or lecun("normal")
            # Decoupled decay is multiplied by the rate, so its scale takes that of the rate out.
            return Rule(draw, _query_scale(leaf, m), rate, 1 / rate, optimizers=alike)

        return named("mup", scheme, mup.__doc__, without_edges)

    return _adapting(made_for, optimizer)


def u_mup(base_width: int = 64) -> Scheme:
    """Unit-scaled muP for Adam, base_width 64 unless given: kernels N(0, 1), sizes in multipliers,
    rates alone to tune.

    With m the width over `base_width`: hidden kernels have multiplier fan_in^(-1/2) and rate
    m^(-1/2), the input kernel likewise and rate 1, the readout multiplier 1/fan_in and rate 1,
    tables multiplier 1 and rate m^(-1/2), vectors rate 1. What makes queries has the factor
    m^(-1/2) beside, as in `mup`.
    Assumes and raises: as `mup`; a study with another optimizer than Adam refuses it.
    Source: Blake et al. (2024), u-muP, table 2. Departures: no scaling of gradients and of
    activation functions, and rates relative to those of the base width.
    """
    _check_base(base_width)
    adam = ("adam",)

    def scheme(leaf: Leaf) -> Rule:
        m = _width_ratio(leaf, base_width)
        if leaf.role == "readout":
            return Rule(normal(1.0), multiplier=1 / leaf.fan_in, optimizers=adam)
        if leaf.role in TABLES:
            return Rule(normal(1.0), lr_scale=m**-0.5, wd_scale=m**0.5, optimizers=adam)
        if not leaf.is_kernel:
            return Rule(vector(leaf) or zeros, _query_scale(leaf, m), optimizers=adam)
        multiplier = leaf.fan_in**-0.5 * _query_scale(leaf, m)
        rate = 1.0 if leaf.role in EDGES else m**-0.5
        return Rule(normal(1.0), multiplier, rate, 1 / rate, optimizers=adam)

    return named("u_mup", scheme, u_mup.__doc__, without_edges)


def spectral_mup(base_width: int = 64, optimizer: str | None = None) -> Scheme:
    """Spectral muP, base_width 64 unless given: kernels and updates of spectral norm about
    sqrt(fan_out / fan_in).

    N(0, s^2) with s = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in); rates fan_out / fan_in under
    SGD, 1 / fan_in under Adam, relative to those of the base width; vectors and tables count a
    fan_in of 1, since a one-hot input has. No roles are needed but those of queries, whose factor
    is that of `mup`.
    Assumes, `optimizer`, and raises: as `mup`.
    Source: Yang, Simon & Bernstein (2023), A spectral condition for feature learning, section 4,
    eq. 5 and 6.
    """
    _check_base(base_width)

    def made_for(optimizer: str) -> Scheme:
        alike = _optimizers("spectral_mup", optimizer)
        is_adam = optimizer == "adam"

        def scheme(leaf: Leaf) -> Rule:
            m = _width_ratio(leaf, base_width)
            # What the two fans have grown by since the base width; Adam's steps do not see outputs.
            fan_out_ratio = fan_in_ratio = 1.0
            if _grows_out(leaf) and not is_adam:
                fan_out_ratio = m
            if leaf.is_kernel and leaf.role not in EDGES:
                fan_in_ratio = m
            rate = fan_out_ratio / fan_in_ratio
            one_hot = leaf.role in TABLES or not leaf.is_kernel
            fan_in = 1 if one_hot else leaf.fan_in
            std = min(1.0, math.sqrt(leaf.fan_out / fan_in)) / math.sqrt(fan_in)
            draw = vector(leaf) or normal(std)
            return Rule(draw, _query_scale(leaf, m), rate, 1 / rate, optimizers=alike)

        return named("spectral_mup", scheme, spectral_mup.__doc__, without_edges)

    return _adapting(made_for, optimizer)


def depth_mup(
    base: Scheme | Initializer, base_depth: int, alpha: float = 0.5, optimizer: str | None = None
) -> Scheme:
    """`base` with every branch of a residual network times (n_layers / base_depth)^-alpha, for
    transfer across depth.

    The factor is the forward multiplier of the kernels into the residual stream and of their
    biases. With r = n_layers / base_depth, the rates of all that is in the blocks (kernels, biases,
    scales, gates) go as r^(alpha - 1) under Adam and as r^(2 alpha - 1) under SGD, whose gradients
    have the factor too. alpha 1/2: depth-muP; 1: CompleteP. `draw` refuses a model without such
    kernels.
    `optimizer`: as `mup`, for the base too.
    Raises: ValueError for another optimizer, a base depth below 1 or an alpha beyond 0 to 2.
    Source: Yang et al. (2023), Tensor Programs VI; Dey et al. (2025), CompleteP, table 1, for Adam;
    the rate under SGD is that for which the sum of the branches changes alike.
    """
    if base_depth < 1:
        raise ValueError(f"depth_mup: base_depth must be 1 or more, got {base_depth}")
    if not 0 <= alpha <= 2:
        raise ValueError(
            f"depth_mup: alpha must be 0 to 2 (1/2 is depth-muP, 1 CompleteP), got {alpha}"
        )

    def made_for(optimizer: str) -> Scheme:
        alike = _optimizers("depth_mup", optimizer)
        rate_power = alpha - 1 if optimizer == "adam" else 2 * alpha - 1
        base_under = under(as_scheme(base), optimizer)

        def scheme(leaf: Leaf) -> Rule | None:
            answer = base_under(leaf)
            if answer is None:
                return None
            rule = as_rule(answer)
            if not _in_block(leaf):
                return rule
            ratio = blocks(leaf, "depth_mup") / base_depth
            # A bias that is added to the branch's last product is scaled with it.
            into_stream = leaf.role in INTO_STREAM or partner(leaf, "depth_mup") in INTO_STREAM
            branch_factor = ratio**-alpha if into_stream else 1.0
            rate = ratio**rate_power
            return replace(
                rule,
                multiplier=rule.multiplier * branch_factor,
                lr_scale=rule.lr_scale * rate,
                wd_scale=rule.wd_scale / rate,
                optimizers=rule.optimizers or alike,
            )

        def missing(leaves: Sequence[Leaf]) -> list[str]:
            return [*unmatched(base_under, leaves), *without_branches(leaves)]

        return named("depth_mup", scheme, depth_mup.__doc__, missing)

    return _adapting(made_for, optimizer)


def _adapting(made_for: Callable[[str], Scheme], optimizer: str | None) -> Scheme:
    """The scheme that `made_for` makes for an optimizer; for None Adam's, which `spec.under` turns
    into another's."""
    # One made for an optimizer keeps its rates whatever the study, which then may refuse it.
    scheme: Any = made_for(optimizer or "adam")
    if optimizer is None:
        scheme.under = made_for
    return scheme


def _in_block(leaf: Leaf) -> bool:
    """Whether a leaf is part of a residual branch, once in every block."""
    if leaf.is_kernel:  # by the roles that only branches have
        return leaf.role in (*INTO_STREAM, *SCALED_BRANCH, "query", "key")
    # Vectors are in blocks and outside: the layer of those after the blocks is the number of these.
    after_the_blocks = 0 < leaf.n_layers <= leaf.layer
    of_an_end = leaf.partner in (*EDGES, "readout")
    in_some_blocks = leaf.role in ("bias", "scale", "residual_gate")
    return in_some_blocks and not after_the_blocks and not of_an_end


def _query_scale(leaf: Leaf, m: float) -> float:
    """m^(-1/2) for the last parameters that set the size of queries, else 1.

    They are the kernel and the bias, or the scale of a norm after them, which divides out any
    factor before it."""
    makes_queries = "query" in (leaf.role, partner(leaf, "mup"))
    return m**-0.5 if makes_queries and not leaf.normalized else 1.0


def _check_base(base_width: int) -> None:
    if base_width < 1:
        raise ValueError(f"mup: base_width must be a positive number of units, got {base_width}")


def _optimizers(scheme: str, optimizer: str, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The optimizers that share the rates of `optimizer`: those of gradient descent, or it alone;
    `also` are those that a scheme knows beside Adam and them."""
    alone = ("adam", *also)
    if optimizer in alone:
        return (optimizer,)
    if optimizer in DESCENT:
        return DESCENT
    known = f"{', '.join(alone)}, {' and '.join(DESCENT)}"
    raise ValueError(f"{scheme} knows the rates of {known}, got {optimizer!r}")


def _grows_out(leaf: Leaf) -> bool:
    """Whether a leaf has an entry for every unit of the stream or of a layer: not the readout, nor
    a single number."""
    is_single_number = not leaf.dims
    of_readout = "readout" in (leaf.role, partner(leaf, "mup"))
    return not of_readout and not is_single_number


def _width_ratio(leaf: Leaf, base_width: int) -> float:
    """m, the width of a leaf's model over the base width.

    Raises: ValueError where the width is unknown, or below the base width."""
    if not leaf.width:
        raise ValueError(
            f"mup needs the width of the model, which parameter {leaf.name!r} does not know"
        )
    if leaf.width < base_width:
        raise ValueError(
            f"mup: the base width is at most that of the model, got a base of {base_width} and a "
            f"model of {leaf.width}; say which width's rates are meant, as in "
            f"'mup(base_width={leaf.width})'"
        )
    return leaf.width / base_width
