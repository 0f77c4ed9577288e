"""Initializers: laws that draw an array from a key, a shape and a dtype; `CATALOGUE` has all of
them by name.

`basic` has those that draw entry by entry, and orthogonal matrices; `truncated` cut Gaussians;
`structured` those whose entries depend on each other; `memory` those that say how long a unit
remembers; `sampling` what they share.
"""

from collections.abc import Callable

from jaxinit.initializers.basic import (
    VECTORS,
    by_gain,
    constant,
    disc,
    glorot,
    glorot_scheme,
    he,
    identity,
    lecun,
    normal,
    ones,
    orthogonal,
    scaled,
    small_init,
    uniform,
    variance_scaling,
    vector,
    wang,
    zeros,
)
from jaxinit.initializers.memory import (
    decay_logit,
    inverse_softplus,
    log_decay,
    log_phase,
    log_rate,
    s4d_inv,
    s4d_lin,
    s4d_real,
    time_steps,
    xlstm_biases,
)
from jaxinit.initializers.structured import (
    chrono,
    delta_orthogonal,
    dirac,
    gate_biases,
    gaussian_at_radius,
    hippo_legs,
    mimetic,
    mimetic_whole,
    positive_definite_identity,
    ring,
    sinusoidal,
    sparse,
    spectral,
    spectral_radius,
    zero_hadamard,
)
from jaxinit.initializers.truncated import truncated_normal, truncated_std

# Every initializer by name, with the variance of its entries (n inputs, m outputs, i.e. fan in and
# fan out).
CATALOGUE: dict[str, tuple[Callable, str]] = {
    "constant": (constant, "0"),
    "zeros": (zeros, "0"),
    "ones": (ones, "0"),
    "uniform": (uniform, "(high - low)^2 / 12"),
    "normal": (normal, "std^2"),
    "truncated_normal": (truncated_normal, "std^2"),
    "variance_scaling": (variance_scaling, "scale / n"),
    "glorot": (glorot, "2 / (n + m)"),
    "he": (he, "2 / ((1 + a^2) n)"),
    "lecun": (lecun, "1 / n"),
    "by_gain": (by_gain, "g^2 / n or g^2 / m"),
    "small_init": (small_init, "2 / (5 n)"),
    "wang": (wang, "4 / (L^2 m)"),
    "orthogonal": (orthogonal, "gain^2 / max(n, m)"),
    "identity": (identity, "-"),
    "delta_orthogonal": (delta_orthogonal, "-"),
    "dirac": (dirac, "-"),
    "sparse": (sparse, "k std^2 / n"),
    "gaussian_at_radius": (gaussian_at_radius, "about radius^2 / n"),
    "positive_definite_identity": (positive_definite_identity, "-"),
    "ring": (ring, "(low^2 + high^2) / 2"),
    "hippo_legs": (hippo_legs, "-"),
    "zero_hadamard": (zero_hadamard, "-"),
    "sinusoidal": (sinusoidal, "2 / (n + m)"),
    "spectral": (spectral, "set by the norm"),
    "gate_biases": (gate_biases, "0"),
    "chrono": (chrono, "of log U[1, T - 1]"),
    "time_steps": (time_steps, "about log(high / low)^2 / 12"),
    "log_rate": (log_rate, "of log U[low, high]"),
    "decay_logit": (decay_logit, "-"),
    "s4d_real": (s4d_real, "-"),
    "s4d_lin": (s4d_lin, "-"),
    "s4d_inv": (s4d_inv, "-"),
    "xlstm_biases": (xlstm_biases, "-"),
}

__all__ = [
    "CATALOGUE",
    "VECTORS",
    "disc",
    "glorot_scheme",
    "inverse_softplus",
    "log_decay",
    "log_phase",
    "mimetic",
    "mimetic_whole",
    "scaled",
    "spectral_radius",
    "truncated_std",
    "vector",
    *CATALOGUE,  # pyright: ignore[reportUnsupportedDunderAll]
]
