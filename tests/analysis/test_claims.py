"""Claims: estimates, bounds and single numbers against bands."""

import numpy as np
import pytest
from ended_trials import records, times
from scipy import stats

from jaxinit.analysis.claims import (
    Band,
    Comparison,
    at_least,
    at_most,
    judge,
    make_claim,
    near,
    ratio_claim,
    verdict,
)


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (3, 5, "=", "supported"),
        (1.5, 5, "=", "too noisy to tell"),
        (1.1, 1.9, "=", "refuted"),
        (11, 15, "=", "refuted"),
        (3, 5, ">=", "supported with a condition"),
        (1.5, 5, ">=", "too noisy to tell"),
        (1.1, 1.9, ">=", "too noisy to tell"),
        (11, 15, ">=", "refuted"),
        (0.5, 1.2, "<=", "refuted"),
        (3, 5, "<=", "too noisy to tell"),
        (3, 5, "?", "too noisy to tell"),
    ],
)
def test_verdicts(low: float, high: float, kind: str, expected: str) -> None:
    assert verdict(low, high, (2.0, 10.0), kind) == expected


def test_claims_are_judged_with_their_conditions() -> None:
    claim = Comparison("X", "fast beats slow", "fast", "slow", (2.0, 10.0))
    (row,) = judge(records(), [claim, Comparison("Y", "unknown", "other", "slow", (1, 2))])
    assert row["measured"] == pytest.approx(26 / 9)
    assert row["measured_is"] == ">="
    assert "2 of 3 slow trials did not converge" in row["note"]
    assert "lower bound" in row["note"]
    assert row["published"] is None


def test_a_measured_claim_has_its_interval_and_its_verdict() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, 20)
    row = make_claim("X1", "a number", values, "1", (0.8, 1.2), "made up")
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert row["verdict"] == "supported"
    assert (
        make_claim("X1", "a number", values, "1", (1.0, 1.2), "")["verdict"] == "too noisy to tell"
    )
    assert make_claim("X1", "a number", values, "2", (1.8, np.inf), "")["verdict"] == "refuted"
    single = make_claim("X1", "a number", 3.0, "2", (1.8, np.inf), "no seeds")
    assert (single["verdict"], single["low"], single["band"]) == ("supported", None, [1.8, None])


def test_a_ratio_as_a_claim_says_when_it_is_a_bound() -> None:
    slow, fast = times(8.0, 9.0, 10.0, censored=(10.0,)), times(2.0, 3.0, 2.0, 3.0)
    row = ratio_claim("X", "what", slow, fast, 10.0, "none", (1.05, np.inf))
    assert row["measured"] == pytest.approx(37 / 10)
    assert row["measured_is"] == ">="
    assert row["verdict"] == "supported with a condition"
    assert "4 of 4 converged, 3 of the baseline; the ratio is >= this" in row["note"]
    assert row["band"] == [1.05, None]


@pytest.mark.parametrize(
    ("band", "verdict"),
    [
        (at_least(0.9), "supported"),
        (at_least(1.2), "refuted"),
        (at_least(1.0), "too noisy to tell"),
        (at_most(1.2), "supported"),
        (at_most(0.9), "refuted"),
        (at_most(1.0), "too noisy to tell"),
        (near(1.0, 0.1), "supported"),
        (near(1.3, 0.1), "refuted"),
        (near(1.0, 0.01), "too noisy to tell"),
    ],
)
def test_an_estimate_is_judged_against_a_band(band: Band, verdict: str) -> None:
    claim = make_claim("X", "a mean of 1", [0.95, 1.0, 1.05, 1.0], "a band", band, "")
    assert claim["verdict"] == verdict


def test_a_band_includes_its_ends_and_is_stored_without_infinities() -> None:
    assert make_claim("X", "a number", 0.5, "", at_least(0.5), "")["verdict"] == "supported"
    assert make_claim("X", "a number", 0.5, "", at_most(0.5), "")["verdict"] == "supported"
    assert make_claim("X", "a number", 0.5, "", near(0.25, 0.25), "")["verdict"] == "supported"
    assert make_claim("X", "a number", 0.5, "", at_least(0.5), "")["band"] == [0.5, None]
    assert make_claim("X", "a number", 0.5, "", at_most(0.5), "")["band"] == [None, 0.5]
    with pytest.raises(ValueError, match="a tolerance is 0 or more, got -1"):
        near(0.0, -1.0)
