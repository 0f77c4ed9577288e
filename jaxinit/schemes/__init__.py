"""Schemes: what law each parameter of a model gets, by its role; `SCHEMES` has all of them by name."""

from jaxinit.schemes.plain import SCHEMES, SETTINGS, scheme_named

__all__ = ["SCHEMES", "SETTINGS", "scheme_named"]
