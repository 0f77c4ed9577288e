"""Schemes: which law each parameter of a model is drawn from, by its role; `SCHEMES` has all of
them by name."""

from jaxinit.schemes.catalogue import SCHEMES, SETTINGS, scheme_named, signature_of
from jaxinit.schemes.combine import by_role, scale, with_bias
from jaxinit.schemes.plain import (
    chrono,
    forget_bias,
    griffin,
    mamba,
    min_gru,
    xavier_rnn,
    zaremba,
)
from jaxinit.schemes.transformer import deepnorm_pair, encoder_decoder

__all__ = [
    "SCHEMES",
    "SETTINGS",
    "by_role",
    "chrono",
    "deepnorm_pair",
    "encoder_decoder",
    "forget_bias",
    "griffin",
    "mamba",
    "min_gru",
    "scale",
    "scheme_named",
    "signature_of",
    "with_bias",
    "xavier_rnn",
    "zaremba",
]
