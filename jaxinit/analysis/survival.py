"""Times to target with censoring: survival curves, restricted means, corrected p-values.

A time to target is an event where the trial converged and a lower bound where it did not. A
censored trial was followed to the budget; a diverged one never converges however long one waits, so
it is followed to the budget too: stopping its clock when it diverged would make a scheme look
better the sooner it fails.

Pure functions of arrays, which know nothing of records, models or training.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

LEVEL = 0.95


@dataclass(frozen=True)
class Times:
    """Times to target of the trials of one scheme.

    `time` is in epochs, `event` is true where the target was reached.
    """

    time: np.ndarray
    event: np.ndarray

    def __post_init__(self):
        if self.time.shape != self.event.shape or self.time.ndim != 1 or not self.time.size:
            raise ValueError(
                f"times and events pair up in one axis, got {self.time.shape} and "
                f"{self.event.shape}"
            )

    @property
    def censored_data(self) -> scipy_stats.CensoredData:
        return scipy_stats.CensoredData(
            uncensored=self.time[self.event], right=self.time[~self.event]
        )


def kaplan_meier(times: Times) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The share converged by each time, with a pointwise 95 % band: (time, share, low, high), all
    from time 0.

    Share = 1 - S(t), S(t) = prod over t_i <= t of (1 - d_i / n_i), d_i events among n_i trials
    still running; the band is Greenwood's on the log(-log) scale (exponential Greenwood), which
    stays within 0 and 1.
    Where it is undefined (no event yet, or nobody left), the band is Clopper and Pearson's for that
    share of n.
    Source: Kaplan & Meier (1958) eq. 2a; `scipy.stats.ecdf` on censored data.
    """
    survival = scipy_stats.ecdf(times.censored_data).sf
    with warnings.catch_warnings():
        # SciPy warns where the band is undefined; those points are filled below.
        warnings.simplefilter("ignore", RuntimeWarning)
        band = survival.confidence_interval(LEVEL, method="log-log")
    time = np.concatenate([[0.0], survival.quantiles])
    share = np.concatenate([[0.0], 1 - survival.probabilities])
    # The upper end of survival is the lower end of the share converged.
    low = np.concatenate([[np.nan], 1 - band.high.probabilities])
    high = np.concatenate([[np.nan], 1 - band.low.probabilities])
    n = len(times.time)
    for k in np.flatnonzero(np.isnan(low) | np.isnan(high)):
        converged = round(share[k] * n)
        exact = scipy_stats.binomtest(converged, n).proportion_ci(LEVEL, method="exact")
        low[k] = exact.low
        high[k] = exact.high
    return time, share, low, high


def restricted_mean(times: Times, horizon: float) -> float:
    """Restricted mean time to target: the area under S(t) from 0 to `horizon`, in epochs.

    Where every unconverged trial was followed to the horizon this is the mean of min(t, horizon).
    Source: Irwin (1949); Royston & Parmar (2013).
    """
    return float(_restricted_means(times.time[None], times.event[None], horizon)[0])


def _restricted_means(time: np.ndarray, event: np.ndarray, horizon: float) -> np.ndarray:
    """`restricted_mean` along the last axis."""
    if np.all(event | (time >= horizon)):
        return np.minimum(time, horizon).mean(-1)
    # The last key of lexsort is the first criterion: by time, and at a tie events come before
    # censorings, since a trial censored at the time of an event was still at risk.
    order = np.lexsort((~event, time), axis=-1)
    time = np.take_along_axis(time, order, -1)
    event = np.take_along_axis(event, order, -1)
    # S falls by the factor 1 - 1/n at each event, n trials being still there.
    at_risk = np.arange(time.shape[-1], 0, -1)
    survival = np.cumprod(np.where(event, 1 - 1 / at_risk, 1.0), axis=-1)
    # S is a staircase: the step that ends at a time has the height from before it.
    edges = np.concatenate([np.zeros_like(time[..., :1]), time], axis=-1)
    edges = np.minimum(edges, horizon)
    before = np.concatenate([np.ones_like(survival[..., :1]), survival[..., :-1]], axis=-1)
    area = np.sum(before * np.diff(edges, axis=-1), axis=-1)
    return area + survival[..., -1] * (horizon - edges[..., -1])


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given: max over j <= k of min(1, (m - j + 1)
    p_(j)).

    Controls the family-wise error rate under any dependence. Source: Holm (1979), section 3.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    stepped = np.minimum(1.0, p[order] * factors)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted
