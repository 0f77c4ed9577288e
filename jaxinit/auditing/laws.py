"""Which law the entries of a parameter follow: measured, never assumed.

    values -> Measured: moments, the law that fits best, its p-value

A matrix is asked first whether it is a constant, an identity, orthogonal or mostly zero; the rest
is compared with a Gaussian, a truncated one and a uniform law of its own standard deviation, and
with a uniform logarithm, by Kolmogorov's distance.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

MOST = 20_000  # entries that a law is compared with: a subsample of larger parameters
CHUNK = 1 << 22  # entries at a time, so that float64 is never made of all of them
ROWS = 64  # of a matrix, whose orthogonality is looked at
PLAYED = 2000  # samples behind the p-values
FEWEST = 8  # entries below which nothing is said of their law
CUT = 2.0  # standard deviations at which JAX truncates, before the correction
CORRECTION = 0.87962566103423978  # the standard deviation of a Gaussian cut at 2
RANDOM = ("normal", "truncated normal", "uniform", "orthogonal", "log-uniform", "sparse")


class Measured(NamedTuple):
    """One copy, or all copies, of a parameter.

    `law` fits best, with the p-value of its fit (NaN where none is tested); `error` is the standard
    error of `std` under the measured kurtosis, 0 of a constant; `distinct` is the number of
    different values in the first `MOST` entries.
    """

    size: int
    mean: float
    std: float
    error: float
    least: float
    most: float
    nans: int
    infs: int
    zeros: int
    distinct: int
    law: str
    p: float

    @property
    def finite(self) -> bool:
        return not (self.nans or self.infs)

    @property
    def rms(self) -> float:
        return math.hypot(self.mean, self.std)


def measure(values: np.ndarray, matrices: np.ndarray | None = None) -> Measured:
    """The moments of an array, and its law.

    `matrices` is the same array as `[copies, inputs, outputs]` where it is a kernel, for what only
    a matrix can be: an identity, or orthogonal.
    Memory: a chunk of it beside it, whatever its size.
    """
    flat = values.reshape(-1)
    nans = infs = zeros = 0
    total = 0.0
    least, most = math.inf, -math.inf
    for chunk in _chunks(flat):
        nans += int(np.isnan(chunk).sum())
        infs += int(np.isinf(chunk).sum())
        zeros += int((chunk == 0).sum())
        total += float(chunk.sum())
        least, most = min(least, float(chunk.min())), max(most, float(chunk.max()))
    some = sample(flat, MOST)
    distinct = len(np.unique(some))
    if nans or infs:
        nan = math.nan
        return Measured(
            flat.size, nan, nan, nan, least, most, nans, infs, zeros, distinct, "not finite", nan
        )
    mean = total / flat.size
    second = fourth = 0.0
    for chunk in _chunks(flat):
        squares = (chunk - mean) ** 2
        second += float(squares.sum())
        fourth += float((squares**2).sum())
    variance = second / flat.size
    std = math.sqrt(variance)
    kurtosis = fourth / flat.size / variance**2 if variance > 0 else 1.0
    error = std * math.sqrt(max(kurtosis - 1, 0.0) / (4 * flat.size))
    law, p = _law(some, matrices, std, zeros / flat.size, least == most)
    return Measured(flat.size, mean, std, error, least, most, nans, infs, zeros, distinct, law, p)


def _chunks(flat: np.ndarray):
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK].astype(np.float64)


def sample(flat: np.ndarray, most: int) -> np.ndarray:
    """Entries spread over the whole, at most so many, in float64."""
    if flat.size <= most:
        return flat.astype(np.float64)
    places = np.random.default_rng(0).integers(0, flat.size, most)
    return flat[places].astype(np.float64)


def _law(
    sample: np.ndarray,
    matrices: np.ndarray | None,
    std: float,
    zeros: float,
    is_constant: bool,
) -> tuple[str, float]:
    """The law that fits best, and the p-value of its fit."""
    if is_constant:
        return ("zero" if sample[0] == 0 else "constant"), math.nan
    if matrices is not None:
        structure = _structure(matrices)
        if structure:
            return structure, math.nan
    if zeros > 0.5:
        return "sparse", math.nan
    if len(sample) < FEWEST:
        return "too few entries", math.nan
    fits = {}
    centred = np.abs(sample.mean()) < 6 * std / math.sqrt(len(sample))
    if centred:
        scaled = sample / math.sqrt(np.mean(sample**2))
        for name in ("normal", "truncated normal", "uniform"):
            fits[name] = distance(scaled, name)
    else:
        spread = (sample - sample.mean()) / sample.std()
        fits["uniform"] = distance(spread, "uniform")
        fits["normal"] = distance(spread, "normal")
    if (sample > 0).all():
        logs = np.log(sample)
        if np.ptp(logs) > 0.7:  # below a factor of two no logarithm is told from its argument
            fits["log-uniform"] = distance((logs - logs.mean()) / logs.std(), "uniform")
    best = min(fits, key=fits.__getitem__)
    return best, p_value(fits[best], "uniform" if best == "log-uniform" else best)


def _structure(matrices: np.ndarray) -> str:
    """What the copies of a kernel `[copies, inputs, outputs]` are as matrices; empty where they are
    none of it."""
    seen = {_structure_of(matrix) for matrix in matrices[:8]}
    return seen.pop() if len(seen) == 1 else ""


def _structure_of(matrix: np.ndarray) -> str:
    rows, columns = matrix.shape
    if min(rows, columns) < 2:
        return ""
    few = matrix[:ROWS, :ROWS].astype(np.float64)
    diagonal = np.diagonal(few)
    away = few - np.diag(diagonal) if few.shape[0] == few.shape[1] else None
    if away is not None and diagonal.any() and np.ptp(diagonal) == 0 and not away.any():
        nonzero = np.count_nonzero(matrix)
        if nonzero == min(rows, columns):
            return "identity"
    return "orthogonal" if is_orthogonal(matrix) else ""


def is_orthogonal(matrix: np.ndarray) -> bool:
    """Whether the shorter side of a matrix has orthogonal vectors of one length, to rounding: some
    of them are looked at."""
    # The vectors along the shorter side are those that can all be orthogonal.
    vectors = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    chosen = vectors[:ROWS].astype(np.float64)
    if len(chosen) < 2:
        return False
    gram = chosen @ chosen.T
    length = np.diagonal(gram).mean()
    if length == 0:
        return False
    narrow = matrix.dtype.itemsize < 4
    allowed = 0.05 if narrow else 1e-3
    return bool(np.abs(gram / length - np.eye(len(chosen))).max() < allowed)


def distance(scaled: np.ndarray, law: str) -> float:
    """Kolmogorov's distance from a law of mean 0 and variance 1, times the root of the number of
    entries."""
    ordered = np.sort(scaled)
    below = _cdf(ordered, law)
    n = len(ordered)
    steps = np.arange(1, n + 1) / n
    return math.sqrt(n) * float(max((steps - below).max(), (below - steps + 1 / n).max()))


def _cdf(x: np.ndarray, law: str) -> np.ndarray:
    if law == "normal":
        return scipy_stats.norm.cdf(x)
    if law == "uniform":
        return np.clip((x / math.sqrt(3) + 1) / 2, 0, 1)
    least = scipy_stats.norm.cdf(-CUT)
    inside = (scipy_stats.norm.cdf(x * CORRECTION) - least) / (1 - 2 * least)
    return np.clip(inside, 0, 1)


def p_value(distance: float, law: str) -> float:
    """How often samples of a law are as far from it when their scale is measured too."""
    return float((1 + (_played(law) >= distance).sum()) / (PLAYED + 1))


@cache
def _played(law: str) -> np.ndarray:
    """The distances of samples of a law from it, each scaled by its own mean square: they hardly
    depend on the number of entries."""
    draws = np.random.default_rng(0)
    shape = (PLAYED, 400)
    if law == "uniform":
        drawn = draws.uniform(-1, 1, shape)
    elif law == "normal":
        drawn = draws.normal(size=shape)
    else:
        least = scipy_stats.norm.cdf(-CUT)
        drawn = scipy_stats.norm.ppf(draws.uniform(least, 1 - least, shape))
    scaled = drawn / np.sqrt((drawn**2).mean(1, keepdims=True))
    return np.asarray([distance(row, law) for row in scaled])
