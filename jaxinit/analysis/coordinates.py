"""Whether the sizes of signals stay the same as a network grows wider, or deeper: slopes, and what
passes.

coordinates.nc -> slopes, each with its interval -> pass or fail

Source: Yang et al. (2021), Tensor Programs V, appendix D.1; here with numbers, and for updates and
gradients too. Against depth: Dey et al. (2025), CompleteP, section 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

SIZES = "coordinates.nc"
KIND = "coordinate check"  # of a folder's answer
# Of log10(size) against log10(width). A slope is flat if its interval reaches down to SLOPE, and
# none is above STEEP; none is below -STEEP: what is random in a change falls as 1/sqrt(width) and
# lifts the sizes of narrow networks.
SLOPE, STEEP = 0.1, 0.2
NOT_FLAT, TOO_NOISY = "not flat", "too noisy to tell: more seeds"
KINDS = {
    "forward": "size of products",
    "update": "size of their changes",
    "gradient": "size of weight gradients",
}
NAMED = ("scores", "branch")  # endings of the values that a model names by `checkpoint_name`
# Of signals that no one parameter makes, which have no gradient; the others have all kinds.
KINDS_OF = {
    **dict.fromkeys((*NAMED, "logits"), ("forward", "update")),
    "part": ("update",),
}
# What is said of them in `Slope`.
MAY_SHRINK = (
    *(("query", kind) for kind in KINDS),
    ("key", "gradient"),
    *(("scores", kind) for kind in KINDS),
    ("part", "update"),
    ("readout", "forward"),
    ("logits", "forward"),
    ("branches", "forward"),
)


class Slope(NamedTuple):
    """How one signal grows with width or depth: its slope, a 95 % interval over seeds, whether that
    allows for flat.

    `forward`: the size after the last step. `update`: the size of what the steps have changed in
    it. `gradient`: the size of dC/dW at initialization, W with its multiplier, times the width
    but for the readout, since its entries go as 1/width elsewhere.
    Against width, the signals are the product of every kernel, with the rule's multiplier; the
    scores of every attention before the softmax and what every branch adds to the stream, biases
    included (values that the model names `....scores` and `....branch`, as the Transformer does);
    and the network's output (`logits`). Of scores also what the change of one kind of parameter
    alone does to them (`....scores by query bias`): a part that grows is hidden in the sum for as
    long as it is small.
    Scores and the answer at initialization may shrink with the width, since queries and keys, or
    the readout's rows, do not point the same way before they are trained; what training adds to
    scores goes from 1/sqrt(width) to flat as they come to. So scores and their parts, the answer's
    size, the readout's product, queries and gradients of keys are judged for growth only.
    Against depth: of the sum of all branches ("branches", with the gradient of the embedding) and
    of the answer ("readout"), as they are; the sum at initialization may shrink, as it does under
    CompleteP.

    `note` says why a signal fails: not flat, not finite, or nothing to judge (it is zero, or has
    not moved). A gradient that is zero at initialization at every size, as below a zero readout, is
    left to the signal's update, and noted.

    `noisy`: the interval holds slopes that would pass, and one beyond ±0.2 that would not. The
    verdict is that of the mean all the same; more seeds would settle it.
    """

    scheme: str
    parameter: str
    kind: str
    slope: float
    low: float
    high: float
    passed: bool
    note: str = ""
    noisy: bool = False


def slopes(found: xr.Dataset) -> list[Slope]:
    """The slope of every signal, over all widths or depths, by least squares on each seed; in the
    order of the data."""
    axis = found.attrs["axis"]
    rows = []
    for scheme in found.scheme.values:
        for parameter in found.parameter.values:
            signal = found.sel(scheme=scheme, parameter=parameter).transpose(axis, "seed")
            for kind in kinds_of(signal.role.item()):
                rows.append(_judged(signal, str(scheme), str(parameter), kind, axis))
    return rows


def kinds_of(role: str) -> tuple[str, ...]:
    """The kinds of size that a signal of this role has."""
    return KINDS_OF.get(role, tuple(KINDS))


def compared(signal: xr.Dataset, kind: str) -> NDArray[np.floating]:
    """The sizes of one kind of one signal as they are compared: gradients times the width, since
    they fall as 1/width but in the readout."""
    sizes = signal[kind].values.astype(float)
    by_width = signal.attrs["axis"] == "width" and kind == "gradient"
    if by_width and signal.role.item() != "readout":
        sizes = sizes * signal.width.values[:, None]
    return sizes


def _judged(signal: xr.Dataset, scheme: str, parameter: str, kind: str, axis: str) -> Slope:
    """The slope of one kind of size of one signal; `signal` is over (axis, seed)."""
    role, sizes = signal.role.item(), signal[kind].values
    refused = _nothing_to_judge(signal, kind, axis)
    if refused:
        left_to_update = (
            kind == "gradient" and not sizes.any() and bool(signal["update"].values.any())
        )
        note = "zero at initialization: judged by its update" if left_to_update else refused
        return Slope(scheme, parameter, kind, np.nan, np.nan, np.nan, left_to_update, note)
    logs = np.log10(signal[axis].values.astype(float))
    by_seed = np.polyfit(logs, np.log10(compared(signal, kind)), 1)[0]
    middle, half = float(by_seed.mean()), 0.0
    if len(by_seed) > 1:
        half = float(
            stats.t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
        )
    low, high = middle - half, middle + half
    may_shrink = (role, kind) in MAY_SHRINK
    flat = low <= SLOPE and abs(middle) < STEEP
    passed = flat or (middle < 0 and may_shrink)
    noisy = low < STEEP < high or (low < -STEEP < high and not may_shrink)
    notes = [NOT_FLAT] * (not passed) + [TOO_NOISY] * noisy
    return Slope(scheme, parameter, kind, middle, low, high, passed, "; ".join(notes), noisy)


def _nothing_to_judge(signal: xr.Dataset, kind: str, axis: str) -> str:
    """Why the sizes of a signal have no slope; empty where they have one."""
    sizes, role = signal[kind].values, signal.role.item()
    if not np.isfinite(sizes).all():
        return f"not finite at {axis} {_first(signal, ~np.isfinite(sizes), axis)}"
    if not sizes.any():
        return (
            "nothing to judge: it has not moved"
            if kind == "update"
            else "nothing to judge: it is zero"
        )
    if not sizes.all():
        return f"zero at {axis} {_first(signal, sizes == 0, axis)}, not at others"
    within_rounding = sizes < signal.attrs["rounding"] * signal["forward"].values
    if kind == "update" and role != "part" and within_rounding.any():
        where = _first(signal, within_rounding, axis)
        return (
            f"nothing to judge: at {axis} {where} it moved by no more than rounding; raise the "
            "rate or the steps"
        )
    return ""


def _first(signal: xr.Dataset, where: np.ndarray, axis: str) -> int:
    """The first width or depth at which `where`, `[axis, seed]`, holds for a seed."""
    return int(signal[axis].values[where.any(1)][0])


def verdict(rows: Sequence[Slope], scheme: str) -> str:
    """Whether a scheme passes, in how many slopes it does not, and how many are too noisy to tell.

    Raises: ValueError for a scheme that has no rows.
    """
    mine = [row for row in rows if row.scheme == scheme]
    failed = sum(not row.passed for row in mine)
    noisy = sum(row.noisy for row in mine)
    passed = passes(rows, scheme)
    words = "passes" if passed else f"fails in {failed} of {len(mine)} slopes"
    return f"{words} ({noisy} of {len(mine)} {TOO_NOISY})" if noisy else words


def passes(rows: Sequence[Slope], scheme: str) -> bool:
    """Whether every signal of a scheme passes: it is flat or, as some may, falls.

    Raises: ValueError for a scheme that has no rows.
    """
    mine = [row for row in rows if row.scheme == scheme]
    if not mine:
        there = ", ".join(dict.fromkeys(row.scheme for row in rows)) or "none"
        raise ValueError(
            f"no slopes of a scheme {scheme!r}, so nothing to judge; there are those of {there}"
        )
    return all(row.passed for row in mine)
