"""The schemes: each answers a leaf with the law that its source gives to that role, on one screen.

`SCHEMES` is the table of names; the first line of each docstring is its description. None of these raises the
forget bias of an LSTM: with them every bias starts at 0.
"""

from jaxinit import initializers
from jaxinit.initializers import glorot_scheme, zeros
from jaxinit.spec import Initializer, Leaf, Scheme


def uniform01(leaf: Leaf) -> Initializer:
    """U[0, 1] for every matrix, zero biases: the naive start (mean 0.5, variance 1/12, whatever the size)."""
    return zeros if leaf.role == "bias" else initializers.uniform(0.0, 1.0)


def small_normal(leaf: Leaf) -> Initializer:
    """N(0, 0.01^2) for every matrix, zero biases: small at any size."""
    return zeros if leaf.role == "bias" else initializers.normal(0.01)


def xavier_rnn(leaf: Leaf) -> Initializer:
    """N(0, 1/fan_in) for Wxh, Whh and Why, zero biases: "Xavier" as the notes on character RNNs write it."""
    return zeros if leaf.role == "bias" else initializers.lecun("normal")


def glorot_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 2/(fan_in + fan_out), zero biases: Glorot & Bengio (2010), JAX's law."""
    return zeros if leaf.role == "bias" else initializers.glorot("truncated_normal")


def he_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 2/fan_in, zero biases: He et al. (2015), meant for ReLU."""
    return zeros if leaf.role == "bias" else initializers.he("truncated_normal")


def lecun_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 1/fan_in, zero biases: LeCun et al. (1998), Flax's own default."""
    return zeros if leaf.role == "bias" else initializers.lecun("truncated_normal")


def orthogonal(leaf: Leaf) -> Initializer:
    """Haar-orthogonal recurrent and hidden matrices (one per gate), Glorot uniform elsewhere, zero biases."""
    return initializers.orthogonal() if leaf.role in ("recurrent", "hidden") else glorot_scheme(leaf)


def identity(leaf: Leaf) -> Initializer:
    """Identity recurrent and hidden matrices (one per gate), Glorot uniform elsewhere, zero biases."""
    return initializers.identity() if leaf.role in ("recurrent", "hidden") else glorot_scheme(leaf)


SCHEMES: dict[str, Scheme] = {
    "uniform01": uniform01,
    "small_normal": small_normal,
    "xavier_rnn": xavier_rnn,
    "glorot_uniform": glorot_scheme,
    "glorot_normal": glorot_normal,
    "he_normal": he_normal,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
    "identity": identity,
}
