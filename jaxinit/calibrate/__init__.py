"""Calibrations: correct initial parameters by what they do to data, before training.

    (problem, parameters, batches) -> parameters, and what is worth knowing of them

All but one only rescale: a kernel is multiplied by one factor for each of its independent copies
(gates, heads), so that the law of a scheme keeps its shape (`admin` rescales the residual stream
and no kernel). `scbi` puts a regression of the labels in the place of the readout. All are pure:
they can be jitted and mapped over seeds. `CALIBRATIONS` is the table of names; a study's
`orthogonal+lsuv` is the scheme `orthogonal`, calibrated by `lsuv`.

Parameters that a calibration cannot treat raise ValueError, with the parameter and the reason.
Inside `jit` no value is known: `Calibrated.failures` then holds what has to be checked outside
(`checked`).
"""

from collections.abc import Callable

from jaxinit.calibrate.branch_scales import admin
from jaxinit.calibrate.first_step import gradinit
from jaxinit.calibrate.label_regression import scbi
from jaxinit.calibrate.problem import (
    SMALLEST_FACTOR,
    Batch,
    Calibrated,
    Factors,
    Params,
    Problem,
    checked,
)
from jaxinit.calibrate.quotient import gradient_quotient, metainit
from jaxinit.calibrate.unit_variance import ROUNDING, TABLES, lsuv

CALIBRATIONS: dict[str, Callable[[Problem, Params, Batch], Calibrated]] = {
    "lsuv": lsuv,
    "metainit": metainit,
    "gradinit": gradinit,
    "admin": admin,
    "scbi": scbi,
}

__all__ = [
    "CALIBRATIONS",
    "ROUNDING",
    "SMALLEST_FACTOR",
    "TABLES",
    "Batch",
    "Calibrated",
    "Factors",
    "Params",
    "Problem",
    "admin",
    "checked",
    "gradient_quotient",
    "gradinit",
    "lsuv",
    "metainit",
    "scbi",
]
