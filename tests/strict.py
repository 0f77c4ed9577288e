"""The run-time type checker of the suite: beartype, with int accepted for float as Python does (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
