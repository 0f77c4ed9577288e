"""Schemes for any network: each answers a leaf with the law that its source gives to that role.

The first paragraph of each docstring is its description. Unless that says otherwise, a scheme
initializes every bias to 0, the forget gate's too, and the scale of every normalization to 1. The
defaults of other libraries are in `frameworks`."""

import math
from collections.abc import Sequence
from typing import Any

from jaxinit import initializers
from jaxinit.initializers import structured
from jaxinit.initializers.basic import glorot_scheme, normal, vector
from jaxinit.schemes.combine import named, with_bias
from jaxinit.schemes.needs import TABLES
from jaxinit.spec import Initializer, Leaf, Scheme

# Vectors that Zaremba et al. draw like any other weight; "start" is a learned initial state.
LEARNED = ("bias", "peephole", "start")
TIME_CONSTANTS = ("step_bias", "log_rate")  # of a gated linear recurrence


def uniform01(leaf: Leaf) -> Initializer:
    """U[0, 1] for every matrix, zero biases: naive (mean 0.5, variance 1/12, whatever the size)."""
    return vector(leaf) or initializers.uniform(0.0, 1.0)


def small_normal(leaf: Leaf) -> Initializer:
    """N(0, 0.01^2) for every matrix, zero biases: small at any size."""
    return vector(leaf) or initializers.normal(0.01)


def xavier_rnn(leaf: Leaf) -> Initializer:
    """N(0, 1/fan_in) for Wxh, Whh and Why, zero biases: LeCun's law, "Xavier" in notes on RNNs.

    Glorot and Bengio's own laws are `glorot_normal` and `glorot_uniform`.
    """
    return vector(leaf) or initializers.lecun("normal")


def glorot_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 2/(fan_in + fan_out), zero biases: Glorot & Bengio (2010),
    JAX's law."""
    return vector(leaf) or initializers.glorot("truncated_normal")


def he_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 2/fan_in, zero biases: He et al. (2015), meant for ReLU."""
    return vector(leaf) or initializers.he("truncated_normal")


def lecun_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 1/fan_in, zero biases: LeCun et al. (1998), Flax's own
    default."""
    return vector(leaf) or initializers.lecun("truncated_normal")


def orthogonal(leaf: Leaf) -> Initializer:
    """Haar-orthogonal recurrent and hidden matrices (one per gate), Glorot uniform elsewhere, zero
    biases."""
    if leaf.role in ("recurrent", "hidden"):
        return initializers.orthogonal()
    return glorot_scheme(leaf)


def identity(leaf: Leaf) -> Initializer:
    """Identity recurrent and hidden matrices (one per gate), Glorot uniform elsewhere, zero
    biases."""
    if leaf.role in ("recurrent", "hidden"):
        return initializers.identity()
    return glorot_scheme(leaf)


def irnn(leaf: Leaf) -> Initializer:
    """Identity recurrent matrix, N(0, 0.001^2) elsewhere, zero biases: Le et al. (2015), meant for
    a ReLU RNN."""
    if leaf.role == "recurrent":
        return initializers.identity()
    return vector(leaf) or normal(0.001)


def np_rnn(leaf: Leaf) -> Initializer:
    """Normalized positive definite Whh, He normal elsewhere, zero biases: Talathi & Vartak (2016).

    Departure: the paper's own factor on the input matrix is quoted in two forms by others; this is
    He's.
    """
    if leaf.role == "recurrent":
        return structured.positive_definite_identity()
    return vector(leaf) or initializers.he("normal")


def smart_tanh(leaf: Leaf) -> Initializer:
    """15 non-zeros a unit at spectral radius 0.95 for Whh, N(0, 0.01^2) elsewhere: Pascanu et al.
    (2013)."""
    if leaf.role != "recurrent":
        return vector(leaf) or normal(0.01)
    incoming = min(15, leaf.fan_in)  # a narrow layer has fewer than the paper's 15
    return structured.sparse(incoming, 0.01, spectral_radius=0.95)


def saxe_orthogonal(leaf: Leaf) -> Initializer:
    """(Semi-)orthogonal kernels in every role, zero biases: Saxe et al. (2014), for gain 1."""
    return vector(leaf) or initializers.orthogonal()


def delta_orthogonal(leaf: Leaf) -> Initializer:
    """Convolutions orthogonal at their central pixel and 0 around it, other kernels orthogonal:
    Xiao et al. (2018).

    The gain is 1, for a linear or a tanh network. Zero biases. A convolution needs as many outputs
    as inputs, or more. Source: section 2.3, and algorithm 1.
    """
    if leaf.is_kernel and "w" in leaf.dims:
        return structured.delta_orthogonal()
    return vector(leaf) or initializers.orthogonal()


def sinusoidal(leaf: Leaf) -> Initializer:
    """Kernels of sine waves of variance 2/(fan_in + fan_out), not random; zero biases:
    Fernandez-Hernandez et al. (2025).

    Tables are N(0, 1), which the authors' code leaves to PyTorch; of heads and gates each has waves
    of its own. A square kernel has half its rank: `initializers.sinusoidal`.
    """
    if leaf.role in TABLES:
        return normal(1.0)
    return vector(leaf) or structured.sinusoidal(copy_axes=leaf.dims.count("."))


def glorot_standard(leaf: Leaf) -> Initializer:
    """U(+-1/sqrt(fan_in)), variance 1/(3 fan_in), zero biases: the baseline of Glorot & Bengio
    (2010), eq. 1."""
    return vector(leaf) or initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def zaremba(limit: float = 0.1) -> Scheme:
    """U(+-limit) for every parameter, biases included: Zaremba et al. (2014), 0.1 small, 0.05
    medium, 0.04 large."""
    if not 0 < limit < math.inf:
        raise ValueError(f"zaremba: limit must be positive and finite, got {limit}")

    def scheme(leaf: Leaf) -> Initializer:
        if leaf.role not in LEARNED:
            default = vector(leaf)
            if default is not None:
                return default
        return initializers.uniform(-limit, limit)

    return named("zaremba", scheme, zaremba.__doc__)


def chrono(longest: int = 100) -> Scheme:
    """Glorot kernels; gate biases that spread memory over 1 to `longest` steps: Tallec & Ollivier
    (2018), eq. 16."""
    if longest < 3:
        raise ValueError(f"chrono: longest must be 3 steps or more, got {longest}")

    def scheme(leaf: Leaf) -> Initializer:
        if leaf.role == "bias" and leaf.gate:
            return structured.chrono(leaf.gate, longest)
        return glorot_scheme(leaf)

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        if any(leaf.gate for leaf in leaves):
            return []
        return ["the biases of gates"]

    return named("chrono", scheme, chrono.__doc__, unmatched)


def forget_bias(value: float = 1.0) -> Scheme:
    """Glorot uniform kernels; the forget bias of an LSTM at `value`, other biases 0: Jozefowicz et
    al. (2015)."""
    if not math.isfinite(value):
        raise ValueError(f"forget_bias: value must be finite, got {value}")
    scheme: Any = with_bias(glorot_scheme, forget=value)
    # The same rule under a name of its own, and still refused by a model without a forget gate.
    return named("forget_bias", scheme, forget_bias.__doc__, scheme.unmatched)


def mamba(low: float = 1e-3, high: float = 0.1) -> Scheme:
    """Time steps log-uniform on [low, high], rates A ~ U[1, 16], LeCun kernels: Mamba-2.

    For a `glr`, half of whose units then remember for 9.8 steps or more
    (`theory.median_half_life`). Source: Dao & Gu (2024), and its code; see
    `initializers.time_steps`, and `log_rate` on gated DeltaNet's rates. Departure: their kernels
    are PyTorch's, of a third of the variance.
    """
    if not 0 < low < high:
        raise ValueError(f"mamba: time steps must be 0 < low < high, got low={low}, high={high}")

    def scheme(leaf: Leaf) -> Initializer:
        if leaf.role == "step_bias":
            return initializers.time_steps(low, high)
        if leaf.role == "log_rate":
            return initializers.log_rate()
        return vector(leaf) or initializers.lecun("truncated_normal")

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        return absent(leaves, TIME_CONSTANTS)

    return named("mamba", scheme, mamba.__doc__, unmatched)


def min_gru(retention: float = 0.5) -> Scheme:
    """Rates of 1, kernels U(+-1/sqrt(fan_in)): a `glr` that starts as the minimal GRU, Feng et al.
    (2024).

    At A = 1 a `glr` keeps exp(-softplus(u)) = 1 - sigmoid(u) of a state, and so is s_t = (1 - z_t)
    s_{t-1} + z_t (x_t B) with a gate z_t = sigmoid(x_t W + c) that sees the input alone. c gives a
    unit that sees nothing the `retention`, the share of its state that it keeps a step: 0.5 as in
    the source, a half-life of one step.
    Raises: ValueError for a retention outside of (0, 1).
    Source: the paper's equations; PyTorch's kernels and no biases as in minGRU-pytorch (lucidrains,
    commit 38b26e1, 2025-03-13), another author's code. Departures: A is learned, from 1 on; x_t B
    is not made positive, as that code does for a scan of logarithms.
    """
    if not 0 < retention < 1:
        raise ValueError(f"min_gru: retention must be between 0 and 1, got {retention}")
    step_bias = math.log1p(-retention) - math.log(retention)

    def scheme(leaf: Leaf) -> Initializer:
        if leaf.role == "step_bias":
            return initializers.constant(step_bias)
        if leaf.role == "log_rate":
            return initializers.zeros
        return vector(leaf) or initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        return absent(leaves, TIME_CONSTANTS)

    return named("min_gru", scheme, min_gru.__doc__, unmatched)


def griffin(low: float = 0.9, high: float = 0.999, power: float = 8.0) -> Scheme:
    """Decays with a^power on the ring from low to high, LeCun kernels: De et al. (2024), for an
    rg_lru.

    The paper has a^8 there, its code (recurrentgemma) `griffin(power=1)`. Gates start half open, so
    that a unit decays by a^4 a step. Source: section 2.4; kernels: the code.
    """
    if not (0 < low < high < 1 and 0 < power < math.inf):
        raise ValueError(
            "griffin: decays must be 0 < low < high < 1 and the power positive and finite, got "
            f"low={low}, high={high}, power={power}"
        )

    def scheme(leaf: Leaf) -> Initializer:
        if leaf.role == "decay_logit":
            return initializers.decay_logit(low, high, power)
        return vector(leaf) or initializers.lecun("normal")

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        return absent(leaves, ("decay_logit",))

    return named("griffin", scheme, griffin.__doc__, unmatched)


def absent(leaves: Sequence[Leaf], roles: Sequence[str]) -> list[str]:
    """Those of the roles that no leaf has."""
    there = {leaf.role for leaf in leaves}
    return [f"the role {role}" for role in roles if role not in there]
