"""From statistics of signals to a judgement: healthy, vanishing, exploding, saturated or dead,
where and by how much.

Dataset of probes, one or more seeds -> slopes with their intervals -> verdicts, each with its
remedies"""

from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

Kind = Literal["healthy", "vanishing", "exploding", "saturated", "dead", "not finite"]
Numbers = NDArray[np.floating]

DECADES = 1.0  # what a signal may grow or shrink over the whole depth or length and be healthy
MOSTLY = 0.5  # the share of saturated entries that makes a layer saturated
DEAD = 0.95  # the share of zeros that makes it dead
FLOOR = 1e-18  # sizes below it have underflowed on the way, as squares of float32
SUDDEN = (
    1e-12  # a zero right after a size above this has not underflowed: it is one by construction
)

REMEDIES: dict[Kind, str] = {
    "healthy": "none needed",
    "vanishing": "variance by the activation's gain (by_gain, he_normal for ReLU), orthogonal "
    "kernels, lsuv, residual connections or normalization; in time a gated cell, an identity or "
    "orthogonal recurrent kernel, chrono biases",
    "exploding": "a smaller gain or spectral radius, orthogonal kernels, lsuv, clipping of "
    "gradients, a lower rate",
    "saturated": "a smaller gain, lsuv, softsign or ReLU in place of tanh or sigmoid, "
    "normalization before the activation",
    "not finite": "a smaller gain (the first kernel named is where it begins), a lower rate, "
    "clipping of gradients",
    "dead": "he_normal, a positive bias or a leaky ReLU, a lower rate",
}


class Verdict(NamedTuple):
    """One judgement. `change` is decades (powers of ten) per layer or step, with its 95 % interval
    over seeds.

    `along` is `layer` or `step`; `where` names the parameter with the most extreme value, `value`
    is that value.
    """

    signal: str
    along: Literal["layer", "step"]
    kind: Kind
    change: float
    low: float
    high: float
    where: str
    value: float

    def __str__(self) -> str:
        if self.kind == "not finite":
            return (
                f"not finite: {self.value:.0f} entries of {self.signal}s at {self.where}, the "
                "first where there are any"
            )
        if self.kind in ("saturated", "dead"):
            what = "saturated" if self.kind == "saturated" else "zero"
            return (
                f"{self.kind}: {self.value:.0%} of the {self.signal}s into {self.where} are {what}"
            )
        if np.isinf(self.change):
            return (
                f"{self.kind}: nothing of the {self.signal} is left, {self.value:.2g} at "
                f"{self.where}"
            )
        spread = "" if np.isnan(self.low) else f" ({self.low:+.3f} to {self.high:+.3f})"
        back = " going back" if self.signal == "gradient" else ""
        return (
            f"{self.kind}: {self.signal} changes by {self.change:+.3f}{spread} decades per "
            f"{self.along}{back}; {self.value:.2g} at {self.where}"
        )


def judge(probes: xr.Dataset) -> list[Verdict]:
    """The verdicts on a network's signals, the worst first.

    Slope of log10 of the root mean square against the layer (activations forward, gradients going
    back), and where there are steps, of the gradient against the step, going back; the mean over
    seeds, with a t interval. A signal that changes by more than one decade over the whole depth or
    length is vanishing or exploding.
    Shapes: `probes` as `probes.to_dataset` makes it, with or without a `seed` axis. Copies (gates)
    are pooled.
    """
    seeds = probes if "seed" in probes.dims else probes.expand_dims("seed")
    found = []
    for signal in ("activation", "gradient"):
        size = seeds[f"{signal}_mean_square"].mean("copy", skipna=True) ** 0.5
        by_layer = size.mean("step", skipna=True).transpose("seed", "parameter")
        kernels = seeds.role.values != "recurrent"
        if kernels.sum() > 2:
            values = by_layer.values[:, kernels]
            names = seeds.parameter.values[kernels]
            forward = signal == "activation"
            values, names = (values, names) if forward else (values[:, ::-1], names[::-1])
            found.append(_slope(signal, "layer", values, names))
        if signal == "gradient" and seeds.sizes["step"] > 2:
            courses = size.transpose("seed", "parameter", "step").values
            for row in np.flatnonzero(~np.isnan(courses).any((0, 2))):
                found.append(
                    _slope(signal, "step", courses[:, row, ::-1], seeds.parameter.values[[row]])
                )
    limits: tuple[tuple[Kind, str, float], ...] = (
        ("saturated", "activation_saturated", MOSTLY),
        ("dead", "activation_zero", DEAD),
    )
    for kind, what, limit in limits:
        share = seeds[what].mean(("seed", "copy", "step"), skipna=True).values
        worst = int(np.nanargmax(share))
        if share[worst] > limit:
            name = str(seeds.parameter.values[worst])
            found.append(
                Verdict(
                    "activation", "layer", kind, np.nan, np.nan, np.nan, name, float(share[worst])
                )
            )
    # where they first are, in the order in which the signal travels
    for signal in ("product", "gradient"):
        count = seeds[f"{signal}_not_finite"].sum(("seed", "copy", "step"), skipna=True).values
        places = np.flatnonzero(count)
        if len(places):
            first = int(places[0] if signal == "product" else places[-1])
            name = str(seeds.parameter.values[first])
            found.append(
                Verdict(
                    signal, "layer", "not finite", np.nan, np.nan, np.nan, name, float(count[first])
                )
            )
    order = {
        "not finite": -1,
        "dead": 0,
        "exploding": 1,
        "vanishing": 1,
        "saturated": 2,
        "healthy": 3,
    }
    return sorted(found, key=lambda verdict: order[verdict.kind])


def _slope_above_floor(logs: Numbers) -> float:
    """The slope of a course up to where it has underflowed; further on it would seem flat."""
    if logs[-1] <= np.log10(FLOOR) and len(logs) > 2 and logs[-2] > np.log10(SUDDEN):
        logs = logs[:-1]  # as of a forget gate at the first step, whose cell is still 0
    under = np.flatnonzero(logs <= np.log10(FLOOR))
    there = max(int(under[0]) + 1, 2) if len(under) else len(logs)
    return (
        float(np.polyfit(np.arange(there), logs[:there], 1)[0])
        if logs[0] > np.log10(FLOOR)
        else -np.inf
    )


def _slope(
    signal: str, along: Literal["layer", "step"], values: Numbers, names: NDArray
) -> Verdict:
    """The verdict on a course `[seed, place]`, places and their names in the order in which the
    signal travels."""
    logs = np.log10(np.maximum(values, FLOOR))
    slopes = np.asarray([_slope_above_floor(course) for course in logs])
    change, low, high = float(slopes.mean()), np.nan, np.nan
    if len(slopes) > 1 and np.isfinite(change):
        half = stats.t.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / np.sqrt(len(slopes))
        low, high = change - half, change + half
    total = change * (logs.shape[1] - 1)
    kind: Kind = "healthy" if abs(total) <= DECADES else "exploding" if total > 0 else "vanishing"
    where = str(names[-1]) if along == "layer" else f"the first step of {names[0]}"
    return Verdict(
        signal, along, kind, change, float(low), float(high), where, float(values[:, -1].mean())
    )
