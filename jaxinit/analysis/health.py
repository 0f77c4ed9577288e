"""From statistics of signals to a judgement: healthy, vanishing, exploding, saturated or dead,
where and by how much.

Dataset of probes, one or more seeds -> slopes with their intervals -> verdicts, each with its
remedies
"""

from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

Kind = Literal["healthy", "vanishing", "exploding", "saturated", "dead", "not finite"]
Along = Literal["layer", "step"]  # which way a signal changes
Numbers = NDArray[np.floating]

DECADES = 1.0  # what a signal may grow or shrink over the whole depth or length and be healthy
# Activations that no large entry saturates.
UNBOUNDED = ("linear", "relu", "leaky_relu", "elu", "gelu", "silu")
MOSTLY = 0.5  # the share of saturated entries that makes a layer saturated
DEAD = 0.95  # the share of zeros that makes it dead
FLOOR = 1e-18  # sizes below it have underflowed on the way, as squares of float32
# A zero right after a size above this has not underflowed: it is one by construction.
SUDDEN = 1e-12

# In what order verdicts are read, the worst first.
SEVERITY: dict[Kind, int] = {
    "not finite": -1,
    "dead": 0,
    "exploding": 1,
    "vanishing": 1,
    "saturated": 2,
    "healthy": 3,
}

REMEDIES: dict[Kind, tuple[str, ...]] = {
    "healthy": ("none needed",),
    "vanishing": (
        "variance by the activation's gain (by_gain, he_normal for ReLU)",
        "orthogonal kernels",
        "lsuv",
        "residual connections or normalization",
    ),
    "exploding": (
        "a smaller gain",
        "orthogonal kernels",
        "lsuv",
        "clipping of gradients",
        "a lower rate",
    ),
    "saturated": (
        "a smaller gain",
        "lsuv",
        "softsign or ReLU in place of tanh or sigmoid",
        "normalization before the activation",
    ),
    "not finite": (
        "a smaller gain (the first kernel named is where it begins)",
        "a lower rate",
        "clipping of gradients",
    ),
    "dead": ("he_normal", "a positive bias or a leaky ReLU", "a lower rate"),
}
# Against what happens from step to step, where it is the recurrent kernels and gates that matter.
REMEDIES_IN_TIME: dict[Kind, tuple[str, ...]] = {
    "vanishing": (
        "an identity or orthogonal recurrent kernel",
        "a gated cell with chrono biases",
    ),
    "exploding": (
        "a smaller spectral radius of the recurrent kernel",
        "an orthogonal one",
        "clipping of gradients",
        "a lower rate",
    ),
}
# What schemes are whose names have these words: none is advised to become what it is.
IS_ALREADY = {
    "by_gain": ("by_gain", "he_normal", "he_uniform"),
    "he_normal": ("he_normal",),
    "lsuv": ("lsuv",),
    "chrono": ("chrono",),
}
# And whose kernels are orthogonal, as the identity is: those between layers, or the recurrent ones.
IS_ORTHOGONAL: dict[Along, tuple[str, ...]] = {
    "layer": ("orthogonal", "identity"),
    "step": ("orthogonal", "identity", "irnn", "keras", "flax_linen", "flax_nnx"),
}


def remedies(kind: Kind, along: Along = "layer", scheme: str = "") -> str:
    """What helps against a verdict, but for what a scheme of this name already is."""
    there_are = REMEDIES_IN_TIME.get(kind, REMEDIES[kind]) if along == "step" else REMEDIES[kind]
    known = IS_ALREADY | {"orthogonal": IS_ORTHOGONAL[along]}
    is_already = [
        advice for advice, words in known.items() if any(word in scheme for word in words)
    ]
    pieces = []
    for piece in there_are:
        if not any(advice in piece for advice in is_already):
            pieces.append(piece)
    return ", ".join(pieces)


class Verdict(NamedTuple):
    """One judgement. `change` is decades (powers of ten) per layer or step, with its 95 % interval
    over seeds.

    `along` is `layer` or `step`; `where` names the parameter with the most extreme value, `value`
    is that value.
    """

    signal: str
    along: Along
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
            entries = "saturated" if self.kind == "saturated" else "zero"
            share = f"{self.value:.0%} of the {self.signal}s into {self.where}"
            return f"{self.kind}: {share} are {entries}"
        if np.isinf(self.change):
            return (
                f"{self.kind}: nothing of the {self.signal} is left, {self.value:.2g} at "
                f"{self.where}"
            )
        spread = "" if np.isnan(self.low) else f" ({self.low:+.3f} to {self.high:+.3f})"
        back = " going back" if self.signal == "gradient" else ""
        return (
            f"{self.kind}: {self.signal} changes by {self.change:+.3f}{spread} decades per "
            f"{self.along}{back}; root mean square {self.value:.2g} at {self.where}"
        )


def judge(probes: xr.Dataset) -> list[Verdict]:
    """The verdicts on a network's signals, the worst first.

    Slope of log10 of the root mean square against the layer (activations forward, gradients going
    back), and where there are steps, of the gradient against the step, going back; the mean over
    seeds, with a t interval. A signal that changes by more than one decade over the whole depth or
    length is vanishing or exploding.
    Entries beyond 0.98 are saturated, unless the attribute `activation` names one without bounds.
    Shapes: `probes` as `probes.to_dataset` makes it, with or without a `seed` axis. Copies (gates)
    are pooled.
    """
    seeds = probes if "seed" in probes.dims else probes.expand_dims("seed")
    verdicts = [
        *_slopes_along_layers(seeds, "activation"),
        *_slopes_along_layers(seeds, "gradient"),
        *_slopes_along_steps(seeds),
        *_shares_above(seeds, "dead", "activation_zero", DEAD),
        *_first_not_finite(seeds, "product"),
        *_first_not_finite(seeds, "gradient"),
    ]
    if seeds.attrs.get("activation") not in UNBOUNDED:
        verdicts += _shares_above(seeds, "saturated", "activation_saturated", MOSTLY)
    return sorted(verdicts, key=lambda verdict: SEVERITY[verdict.kind])


def _slopes_along_layers(seeds: xr.Dataset, signal: str) -> list[Verdict]:
    """How a signal changes from kernel to kernel, where there are three or more."""
    kernels = seeds.role.values != "recurrent"
    if kernels.sum() <= 2:
        return []
    size = _size(seeds, signal).mean("step", skipna=True)
    values = size.transpose("seed", "parameter").values[:, kernels]
    names = seeds.parameter.values[kernels]
    if signal == "gradient":  # it travels from the last kernel to the first
        values = values[:, ::-1]
        names = names[::-1]
    return [_judge_course(signal, "layer", values, str(names[-1]))]


def _slopes_along_steps(seeds: xr.Dataset) -> list[Verdict]:
    """How the gradient of every recurrent kernel changes going back through time."""
    if seeds.sizes["step"] <= 2:
        return []
    courses = _size(seeds, "gradient").transpose("seed", "parameter", "step").values
    verdicts = []
    # Kernels that are used once have a gradient at one step, and nan at the others.
    for row in np.flatnonzero(~np.isnan(courses).any((0, 2))):
        where = f"the first step of {seeds.parameter.values[row]}"
        verdicts.append(_judge_course("gradient", "step", courses[:, row, ::-1], where))
    return verdicts


def _size(seeds: xr.Dataset, signal: str) -> xr.DataArray:
    """The root mean square of a signal, copies pooled."""
    return seeds[f"{signal}_mean_square"].mean("copy", skipna=True) ** 0.5


def _shares_above(seeds: xr.Dataset, kind: Kind, variable: str, limit: float) -> list[Verdict]:
    """The layer with the largest share of saturated or dead entries, if that is above a limit; what
    the first kernel is given, the network's inputs, are no activations."""
    share = seeds[variable].mean(("seed", "copy", "step"), skipna=True).values
    if seeds.role.values[0] == "input":
        share = np.append(0.0, share[1:])
    worst = int(np.nanargmax(share))
    if share[worst] <= limit:
        return []
    return [_judge_place(seeds, "activation", kind, worst, float(share[worst]))]


def _first_not_finite(seeds: xr.Dataset, signal: str) -> list[Verdict]:
    """Where a signal first has entries that are not finite, in the order in which it travels."""
    count = seeds[f"{signal}_not_finite"].sum(("seed", "copy", "step"), skipna=True).values
    places = np.flatnonzero(count)
    if not len(places):
        return []
    first = int(places[-1] if signal == "gradient" else places[0])
    return [_judge_place(seeds, signal, "not finite", first, float(count[first]))]


def _judge_place(seeds: xr.Dataset, signal: str, kind: Kind, place: int, value: float) -> Verdict:
    """The verdict on one layer, which has no slope."""
    where = str(seeds.parameter.values[place])
    return Verdict(signal, "layer", kind, np.nan, np.nan, np.nan, where, value)


def _judge_course(signal: str, along: Along, sizes: Numbers, where: str) -> Verdict:
    """The verdict on a course of sizes `[seed, place]`, places in the order in which the signal
    travels; `where` names the last."""
    logs = np.log10(np.maximum(sizes, FLOOR))
    slopes = np.asarray([_slope_above_floor(course) for course in logs])
    n = len(slopes)
    change = float(slopes.mean())
    low = high = np.nan
    if n > 1 and np.isfinite(change):
        half = stats.t.ppf(0.975, n - 1) * slopes.std(ddof=1) / np.sqrt(n)
        low = float(change - half)
        high = float(change + half)
    total = change * (logs.shape[1] - 1)
    kind: Kind = "vanishing"
    if abs(total) <= DECADES:
        kind = "healthy"
    elif total > 0:
        kind = "exploding"
    return Verdict(signal, along, kind, change, low, high, where, float(sizes[:, -1].mean()))


def _slope_above_floor(logs: Numbers) -> float:
    """The slope of a course up to where it has underflowed; further on it would seem flat."""
    floor = np.log10(FLOOR)
    if not logs[0] > floor:  # nan, of what is not finite, counts as nothing left
        return -np.inf
    if logs[-1] <= floor and len(logs) > 2 and logs[-2] > np.log10(SUDDEN):
        logs = logs[:-1]  # as of a forget gate at the first step, whose cell is still 0
    underflowed = np.flatnonzero(logs <= floor)
    # The first place that has underflowed still tells how steep the way to it was.
    n = max(int(underflowed[0]) + 1, 2) if len(underflowed) else len(logs)
    return float(np.polyfit(np.arange(n), logs[:n], 1)[0])
