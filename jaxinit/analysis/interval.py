"""Intervals of a scheme's time to target at its best rate, and of ratios of two, with the choice of
the rate inside them.

    times at the reported rates -> Limits of the logarithm -> epochs, ratios, p-values, seeds needed

What is estimated is the smallest mean over rates, each scheme at its own. The best rates are
reported together, since nobody knows which of them is the best: the lower limit is the lowest of
theirs, the upper one that of their mean, which is never below the smallest. Where trials were lost
the mean is the restricted one up to the budget, from two parts: the share that converges and the
time given that it does. Where none was lost it is the time given convergence, and the share says
how many may still be lost.

Everything is on the logarithm of the time, with Student's t: percentile bootstraps of 3 to 8 seeds
cover 75 to 88 % where they say 95.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from jaxinit.analysis.search import REPORTED
from jaxinit.analysis.survival import LEVEL, Times

RESAMPLES = 20_000  # permutations at most; 8 seeds against 8 have 12,870
MANY = 1000  # seeds of both, whose permutations need not be made
POWER = 0.8
FEWEST = 4  # seeds that can tell two schemes apart, or settle a claim

Bound = Literal["=", ">=", "<=", "?"]


class Limits(NamedTuple):
    """An estimate of a logarithm, with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """The times of a scheme at one of the rates that are reported, a seed each.

    doubtful: most trials at this rate or the next larger one fail, so that the upper limit is not
    left to it; also: the value of the other setting that is searched, if any.
    """

    rate: float
    times: Times
    doubtful: bool = False
    also: float | None = None

    @property
    def seeds(self) -> int:
        return len(self.times.time)

    @property
    def lost(self) -> int:
        return int((~self.times.event).sum())


class Parts(NamedTuple):
    """The time given convergence at one rate: its logarithm's estimate and standard error, and what
    each seed contributes to it. NaN where no trial converged."""

    mean: float
    error: float
    influence: np.ndarray
    converged: int


def limits(
    samples: Sequence[Sample], horizon: float, level: float = LEVEL, samples_compared: int = 1
) -> Limits:
    """The logarithm of a scheme's epochs at its best rate, with its interval.

    m_r = log mean of the times at rate r, se_r = sd / (mean sqrt(n)); value = min_r m_r,
    low = min_r (m_r - t se_r), high = mean_r m_r + t se(mean_r m_r), t the quantile of Student's
    distribution with n - 1 degrees of freedom, of `high` for two rates at half of the error. Where
    a rate is doubtful, `high` is that of the other. Where the best one is, only one of the two
    limits can miss, so each is taken at one side, and `value` is the mean of both.
    Where another setting is searched too, r is any pair of one of its values and one of the two
    rates reported there, and `high` is of the pairs in contention: the best two, and all others
    that are not told apart from the best (m_r - m_best <= t se of the difference, seed by seed).
    Where trials were lost, m_r = log(tau + p (horizon - tau)) with tau the mean time of those that
    converged and p the share lost, of this rate for `low`, of all that are not doubtful for `high`;
    the limits of tau (t) and p (Jeffreys) are joined by their squares (MOVER).
    `samples_compared` is 2 for the limits that a ratio is made of, whose errors are added: each has
    then twice the degrees of freedom (Welch, for like variances).
    Shapes: every sample has the same number of seeds, two or more. Units: epochs, `horizon` too.
    Raises: ValueError for fewer than two seeds.
    Source: Berger (1982), intersection-union, for `low`; Zou & Donner (2008) for joined limits;
    Brown, Cai & DasGupta (2001), section 3, for the share.
    """
    seeds = min(sample.seeds for sample in samples)
    if seeds < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {seeds}")
    parts = [_parts(sample.times) for sample in samples]
    means = []
    for sample, part in zip(samples, parts, strict=True):
        means.append(_two_part(part, sample.lost, sample.seeds, horizon, 0.5, 1).value)
    trusted = _trusted(samples)
    one_sided = int(np.argmin(means)) not in trusted
    quantile = level if one_sided else (1 + level) / 2
    trusted = _contending(trusted, means, parts, quantile)
    # Seeds that fail at one rate may fail at the other: pooled, but not counted twice.
    lost = sum(samples[k].lost for k in trusted) / sum(samples[k].seeds for k in trusted)
    lows, highs = [], []
    for k, (sample, part) in enumerate(zip(samples, parts, strict=True)):
        own = _two_part(part, sample.lost, sample.seeds, horizon, quantile, samples_compared)
        lows.append(own.low)
        if k in trusted and part.converged:
            pooled = lost * sample.seeds
            both = _two_part(part, pooled, sample.seeds, horizon, quantile, samples_compared)
            highs.append(both.high)
    low = min(lows)
    high = np.mean(highs) if highs else np.log(horizon)
    if not lost:
        high = _high_of_mean([parts[k] for k in trusted], quantile, samples_compared)
    value = min(means)
    if one_sided:
        value = (value + means[trusted[0]]) / 2
    return Limits(float(np.clip(value, low, max(low, high))), float(low), float(max(high, low)))


def _trusted(samples: Sequence[Sample]) -> list[int]:
    """The rates that are not doubtful; all of them where all are."""
    trusted = [k for k, sample in enumerate(samples) if not sample.doubtful]
    return trusted or list(range(len(samples)))


def _contending(
    places: Sequence[int], means: Sequence[float], parts: Sequence[Parts], quantile: float
) -> list[int]:
    """The places of the best two of some samples, and of all others that are not told apart from
    the best, the best first.

    Of many that are equal the best two look better than they are; the mean of all of them does not.
    """
    order = sorted(places, key=means.__getitem__)
    first = order[0]
    contending = order[:REPORTED]
    for place in order[REPORTED:]:
        both = parts[place], parts[first]
        seeds = min(part.converged for part in both)
        if seeds < 2:  # nothing is known of their spread
            contending.append(place)
            continue
        error = _standard_error(both[0].influence[:seeds] - both[1].influence[:seeds])
        if means[place] - means[first] <= _t(quantile, seeds - 1) * error:
            contending.append(place)
    return contending


def _high_of_mean(parts: Sequence[Parts], quantile: float, samples_compared: int) -> float:
    """The upper limit of the mean over rates of the logarithms, where no trial was lost."""
    together = _mean_part(parts)
    error = (1 - quantile) / min(len(parts), REPORTED)
    t = _t(1 - error, samples_compared * (together.converged - 1))
    return together.mean + t * together.error


def _two_part(
    part: Parts, lost: float, seeds: int, horizon: float, quantile: float, samples_compared: int
) -> Limits:
    """The logarithm of a restricted mean: of the time given convergence, and the share lost."""
    if not part.converged:
        # How soon some seeds might converge nobody knows.
        low = horizon * _jeffreys(1 - quantile, seeds, seeds)
        return Limits(float(np.log(horizon)), float(np.log(low)), float(np.log(horizon)))
    t = _t(quantile, max(samples_compared * (part.converged - 1), 1))
    time = np.exp(part.mean)
    time_low = time * np.exp(-t * part.error)
    time_high = min(time * np.exp(t * part.error), horizon)
    if not lost:
        return Limits(part.mean, part.mean - t * part.error, part.mean + t * part.error)
    share = lost / seeds
    share_low = _jeffreys(1 - quantile, lost, seeds)
    share_high = _jeffreys(quantile, lost, seeds)
    wait = horizon - time
    mean = time + share * wait
    below = np.hypot((1 - share) * (time - time_low), wait * (share - share_low))
    above = np.hypot((1 - share) * (time_high - time), wait * (share_high - share))
    low = max(mean - below, time_low)
    high = min(mean + above, horizon)
    return Limits(float(np.log(mean)), float(np.log(low)), float(np.log(high)))


def _parts(times: Times) -> Parts:
    converged = times.time[times.event]
    if not converged.size:
        return Parts(np.nan, np.nan, converged, 0)
    mean = converged.mean()
    influence = converged / mean
    if len(converged) < 2:
        # One time says nothing of their spread: half of it, which is more than seeds have shown.
        return Parts(float(np.log(mean)), 0.5, influence, 1)
    return Parts(float(np.log(mean)), _standard_error(influence), influence, len(converged))


def ratio_limits(baseline: Limits, scheme: Limits, correlation: float = 0.0) -> Limits:
    """The logarithm of how many times fewer epochs a scheme needs than a baseline.

    d = b - s; low = d - sqrt(x^2 + y^2 - 2 r x y) with x = b - b_low, y = s_high - s, and high
    likewise: limits of the difference of two estimates from their own limits (MOVER), each made
    with `samples_compared=2`. r is their correlation, 0 of studies that share no seed.
    Source: Zou & Donner (2008), eq. 3; Zou (2007), eq. 7, with a correlation.
    """

    def distance(x: float, y: float) -> float:
        return max(x**2 + y**2 - 2 * correlation * x * y, 0.0) ** 0.5

    difference = baseline.value - scheme.value
    below = distance(baseline.value - baseline.low, scheme.high - scheme.value)
    above = distance(baseline.high - baseline.value, scheme.value - scheme.low)
    return Limits(difference, difference - below, difference + above)


def correlation(baseline: Sequence[Sample], scheme: Sequence[Sample], horizon: float) -> float:
    """The correlation of two schemes' log times over the n seeds that converge under both, less one
    standard error: tanh(artanh r - 1 / sqrt(n - 3)), 0 or more and at most 1 - 1 / sqrt(n), since
    times on a grid of evaluations may agree by chance.

    A seed has the same split, data order and base key under all schemes, which makes ratios surer
    than their two sides. With so few seeds the estimate itself is rough, hence the standard error:
    `scripts/coverage` has what it buys, and that intervals still cover.
    Assumes that the times of both are in the order of their seeds; 0 where they have different
    numbers, or fewer than four converge under both.
    Source: Fisher (1921), for the transformation and its standard error.
    """
    sides = [best(samples, horizon) for samples in (baseline, scheme)]
    if len(sides[0].time) != len(sides[1].time):
        return 0.0
    both = sides[0].event & sides[1].event
    n = int(both.sum())
    logs = [np.log(side.time[both]) for side in sides]
    if n < 4 or any(np.ptp(log) == 0 for log in logs):
        return 0.0
    most = 1 - 1 / n**0.5
    estimate = float(np.corrcoef(logs)[0, 1])
    if abs(estimate) > 1 - 1e-9:
        return most if estimate > 0 else 0.0
    lowered = math.tanh(math.atanh(estimate) - 1 / (n - 3) ** 0.5)
    return min(max(0.0, lowered), most)


def log_ratio(
    baseline: Sequence[Sample], scheme: Sequence[Sample], horizon: float, level: float = LEVEL
) -> Limits:
    """`ratio_limits` of two schemes of one study, made narrower by its paired seeds where none was
    lost.

    Two intervals more are then at hand, each of differences of log times seed by seed, with n - 1
    degrees of freedom; what all of them hold is reported.
    - Whatever the two best rates are: low = min_i (b_i - mean_j s_j - t se), high =
      max_j (mean_i b_i - s_j + t se), over the reported rates i of the baseline, j of the scheme.
    - Where both name the same rate r as their best: b_r - s_r -+ t se. Schemes that train nearly
      alike err alike in the choice, which a correlation of their times at one rate cannot see.
    Source: Berger (1982), intersection-union, for the first. The second assumes that the best rates
    of such a pair are the same; `scripts/coverage` has how often all of it together covers.
    """
    slower, sooner = (limits(side, horizon, level, 2) for side in (baseline, scheme))
    ends = ratio_limits(slower, sooner, correlation(baseline, scheme, horizon))
    for low, high in _paired(baseline, scheme, level):
        ends = Limits(ends.value, max(ends.low, low), min(ends.high, high))
    return ends


def _paired(
    baseline: Sequence[Sample], scheme: Sequence[Sample], level: float
) -> list[tuple[float, float]]:
    """Intervals of a logarithm of a ratio from differences seed by seed, as in `log_ratio`."""
    both = [*baseline, *scheme]
    if any(sample.lost or sample.doubtful for sample in both):
        return []
    times = np.unique(np.concatenate([sample.times.time for sample in both]))
    if len({sample.seeds for sample in both}) > 1 or len(times) < 2:
        return []
    t = _t((1 + level) / 2, both[0].seeds - 1)
    # Times lie on a grid of evaluations, on which seeds may agree by chance: each of them is
    # rounded by a uniform part of a step.
    rounding = np.diff(times).min() / 12**0.5

    def end(a: Parts, b: Parts, side: float) -> float:
        """The difference of two logarithms, so many standard errors away."""
        least = rounding * np.hypot(np.exp(-a.mean), np.exp(-b.mean)) / len(a.influence) ** 0.5
        error = max(_standard_error(a.influence - b.influence), least)
        return a.mean - b.mean + side * error

    slower, sooner = ([_parts(sample.times) for sample in side] for side in (baseline, scheme))
    slower_mean, sooner_mean = (_mean_of_contending(side, level) for side in (slower, sooner))
    lows = [end(part, sooner_mean, -t) for part in slower]
    highs = [end(slower_mean, part, t) for part in sooner]
    intervals = [(min(lows), max(highs))]
    i, j = (int(np.argmin([part.mean for part in side])) for side in (slower, sooner))
    if (baseline[i].rate, baseline[i].also) == (scheme[j].rate, scheme[j].also):
        intervals.append((end(slower[i], sooner[j], -t), end(slower[i], sooner[j], t)))
    return intervals


def _mean_of_contending(parts: Sequence[Parts], level: float) -> Parts:
    means = [part.mean for part in parts]
    places = _contending(range(len(parts)), means, parts, (1 + level) / 2)
    return _mean_part([parts[k] for k in places])


def _mean_part(parts: Sequence[Parts]) -> Parts:
    """The mean over rates of the logarithms, where no trial was lost."""
    seeds = min(part.converged for part in parts)
    influence = np.mean([part.influence[:seeds] for part in parts], axis=0)
    mean = float(np.mean([part.mean for part in parts]))
    return Parts(mean, _standard_error(influence), influence, seeds)


class Ratio(NamedTuple):
    """How many times fewer epochs, with its 95 % interval, and whether it is exact or a bound."""

    value: float
    low: float
    high: float
    bound: Bound


def compare(
    baseline: Sequence[Sample],
    scheme: Sequence[Sample],
    horizon: float,
    level: float = LEVEL,
) -> Ratio:
    """How many times fewer epochs `scheme` needs than `baseline`, each at its own best rate."""
    ends = log_ratio(baseline, scheme, horizon, level)
    value, low, high = (float(np.exp(end)) for end in ends)
    return Ratio(value, low, high, bound(best(baseline, horizon), best(scheme, horizon)))


def best(samples: Sequence[Sample], horizon: float) -> Times:
    """The times at the best rate."""
    return by_speed(samples, horizon)[0].times


def by_speed(samples: Sequence[Sample], horizon: float) -> list[Sample]:
    """The rates by their restricted means, the best first; doubtful ones after those that are
    not."""
    trusted = _trusted(samples)
    order = []
    for place, sample in enumerate(samples):
        mean = np.where(sample.times.event, sample.times.time, horizon).mean()
        order.append((place not in trusted, float(mean), place))
    return [samples[place] for *_, place in sorted(order)]


def bound(baseline: Times, scheme: Times) -> Bound:
    """What the ratio of restricted means says of the ratio of means: `=`, `>=`, `<=` or `?`.

    A trial that did not converge makes its scheme's mean a lower bound: of the numerator (`>=`), of
    the denominator (`<=`), or of both (`?`).
    """
    numerator_is_exact = bool(baseline.event.all())
    denominator_is_exact = bool(scheme.event.all())
    if numerator_is_exact and denominator_is_exact:
        return "="
    if denominator_is_exact:
        return ">="
    if numerator_is_exact:
        return "<="
    return "?"


def share_interval(converged: int, seeds: int, level: float = LEVEL) -> tuple[float, float]:
    """The share of seeds that converge, with its exact interval.

    Source: Clopper & Pearson (1934); `scipy.stats.binomtest`.
    """
    exact = scipy_stats.binomtest(converged, seeds).proportion_ci(level, method="exact")
    return float(exact.low), float(exact.high)


def permutation_p(a: Times, b: Times, horizon: float) -> float:
    """Two-sided p-value that two schemes have the same times, by permuting their seeds: exact up to
    20,000 permutations, as 8 seeds against 8 have, and by their normal limit from 1,000 seeds on:
    d / (s sqrt(1/n_a + 1/n_b)), with s the standard deviation of all.

    The statistic is the difference d of the means of log time, a lost trial at the horizon. Treats
    the samples as independent, which is conservative for seeds that share their data.
    Source: Fisher (1935); Hoeffding (1951), theorem 4, for the limit;
    `scipy.stats.permutation_test`.
    """
    logs = [np.log(np.where(side.event, side.time, horizon)) for side in (a, b)]
    together = np.concatenate(logs)
    if np.ptp(together) == 0:
        return 1.0
    if math.comb(len(together), len(logs[0])) <= RESAMPLES:
        sums = together[_choices(len(together), len(logs[0]))].sum(1)
        observed = logs[0].sum()
        centre = together.mean() * len(logs[0])
        # Times lie on a grid of evaluations: equal sums differ by rounding.
        as_far = np.abs(sums - centre) >= np.abs(observed - centre) - 1e-9
        return float(as_far.mean())
    if len(together) >= MANY:
        spread = together.std(ddof=1) * sum(1 / len(side) for side in logs) ** 0.5
        z = (logs[0].mean() - logs[1].mean()) / spread
        return float(2 * scipy_stats.norm.sf(abs(z)))

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray | np.floating:
        return x.mean(axis) - y.mean(axis)

    test = scipy_stats.permutation_test(
        logs, difference, n_resamples=RESAMPLES - 1, rng=np.random.default_rng(0)
    )
    return float(test.pvalue)


def apart_p(a: Sequence[Sample], b: Sequence[Sample], horizon: float) -> float:
    """Two-sided p-value that two schemes have the same times, each at its best of the rates that
    are reported, whichever that is: the largest of `permutation_p` over them.

    Source: Berger (1982), intersection-union.
    """
    return max(permutation_p(x.times, y.times, horizon) for x, y in product(a, b))


def seeds_to_tell(ratio: Limits, seeds: int) -> int | None:
    """How many seeds would tell two schemes apart whose logarithm of a ratio is this, of so many
    seeds: at 95 %, with a power of 0.8; None where they do not differ at all. At least four, since
    permutations of fewer (3 against 3: 20 of them) tell nothing apart at 95 %.

    n' = n ((z_0.975 + z_0.8) / (d / se))^2, d and se of the logarithm of the ratio, se its
    interval's width over twice the quantile that made it. A plan, from an estimate: the next study
    tells.
    """
    if ratio.value == 0:
        return None
    error = (ratio.high - ratio.low) / (2 * _t(0.975, 2 * (seeds - 1)))
    needed = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(POWER)
    return max(FEWEST, int(np.ceil(seeds * (needed * error / abs(ratio.value)) ** 2)))


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


@cache
def _t(quantile: float, freedom: int) -> float:
    return float(scipy_stats.t.ppf(quantile, freedom))


@cache
def _jeffreys(quantile: float, lost: float, seeds: int) -> float:
    """A quantile of the share lost, given how many were; 1 where all may be."""
    if lost >= seeds and quantile > 0.5:
        return 1.0
    return float(scipy_stats.beta.ppf(quantile, lost + 0.5, seeds - lost + 0.5))


@cache
def _choices(n: int, k: int) -> np.ndarray:
    """Every choice of k of n."""
    return np.asarray(list(combinations(range(n), k)))
