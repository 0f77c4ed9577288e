"""Claims: estimates, bounds and single numbers against bands, and verdicts that more seeds or more
epochs do not take back."""

import json
from itertools import pairwise

import numpy as np
import pytest
from cases import every
from ended_trials import Ended, records, sample, times, two_schemes
from scipy import stats

from jaxinit.analysis.claims import (
    FEWEST,
    WRONG,
    WRONG_RATIO,
    Band,
    Claim,
    Comparison,
    at_least,
    at_most,
    judge,
    make_claim,
    measured_of,
    near,
    no_verdicts,
    ratio_claim,
    sentence,
    verdict,
    verdicts,
)
from jaxinit.analysis.folder import to_json
from jaxinit.analysis.interval import Sample, compare
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.survival import Times

AROUND_ONE = [0.95, 1.0, 1.05, 1.0]


@pytest.mark.parametrize(
    ("low", "high", "kind", "least", "most"),
    [
        (3, 5, "=", "supported", "supported"),
        (1.5, 5, "=", "open", "supported"),
        (1.1, 1.9, "=", "refuted", "supported"),
        (11, 15, "=", "supported", "refuted"),
        (9, 15, "=", "supported", "open"),
        (3, 5, ">=", "supported", "open"),
        (1.5, 5, ">=", "open", "open"),
        (1.1, 1.9, ">=", "open", "open"),
        (11, 15, ">=", "supported", "refuted"),
        (0.5, 1.2, "<=", "refuted", "supported"),
        (3, 5, "<=", "open", "supported"),
        (3, 5, "?", "open", "open"),
    ],
)
def test_at_least_and_at_most_are_two_verdicts(
    low: float, high: float, kind, least: str, most: str
) -> None:
    parts = verdicts(low, high, (2.0, 10.0), kind)
    assert parts == {"at least 2": least, "at most 10": most}


def test_a_band_has_a_verdict_for_each_of_its_finite_ends() -> None:
    assert verdicts(3, 5, at_least(2)) == {"at least 2": "supported"}
    assert verdicts(3, 5, at_most(2)) == {"at most 2": "refuted"}
    assert set(verdicts(3, 5, near(2, 1))) == {"at least 1", "at most 3"}


@pytest.mark.parametrize(
    ("band", "verdict"),
    [
        (at_least(0.8), "supported"),
        (at_least(1.2), "refuted"),
        (at_least(1.0), "open"),
        (at_most(1.2), "supported"),
        (at_most(0.8), "refuted"),
        (at_most(1.0), "open"),
        (near(1.0, 0.2), "supported"),
        (near(1.3, 0.1), "refuted"),
        (near(1.0, 0.01), "open"),
        ((1.0, 1.2), "open"),
        ((0.8, 1.0), "open"),
        ((1.2, 1.0), "refuted"),
    ],
)
def test_a_band_holds_where_all_its_ends_do_and_fails_where_one_does(
    band: Band, verdict: str
) -> None:
    assert make_claim("X", "a mean of 1", AROUND_ONE, "a band", band)["verdict"] == verdict


def test_a_mean_has_its_interval_at_95_percent_and_its_verdict_at_99() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, 20)
    row = make_claim("X1", "a number", values, "1", (0.8, 1.2), "made up")
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["note"] == "20 seeds, 95 % interval; made up"
    sure = stats.ttest_1samp(values, 0).confidence_interval(1 - WRONG).low
    for end, expected in ((sure - 1e-9, "supported"), (sure + 1e-9, "open")):
        assert make_claim("X1", "a number", values, "1", at_least(end))["verdict"] == expected
    assert interval.low > sure


def test_a_claim_that_is_true_at_its_end_is_settled_as_rarely_as_is_said() -> None:
    draws = np.random.default_rng(1)
    tries = 4000
    refuted = 0
    for _ in range(tries):
        values = draws.normal(1.0, 0.1, 5)
        refuted += make_claim("X", "", values, "", at_least(1.0))["verdict"] == "refuted"
    one_sided = WRONG / 2
    noise = 4 * np.sqrt(one_sided * (1 - one_sided) / tries)
    assert refuted / tries == pytest.approx(one_sided, abs=noise)


@pytest.mark.parametrize("band", [at_least(0.5), at_most(0.5), near(5.0, 1.0)])
def test_fewer_than_four_seeds_settle_nothing(band: Band) -> None:
    assert FEWEST == 4
    for values in (3.0, [3.0], [3.0, 3.0], [3.0, 3.0, 3.0]):
        assert make_claim("X", "a number", values, "", band)["verdict"] == "open"
    assert make_claim("X", "a number", [3.0] * 4, "", band)["verdict"] != "open"


def test_a_single_number_is_open_unless_it_is_exact() -> None:
    single = make_claim("X1", "a number", 3.0, "2", at_least(1.8), "no seeds")
    assert (single["verdict"], single["low"], single["band"]) == ("open", None, [1.8, None])
    exact = make_claim("X1", "a number", 3.0, "2", at_least(1.8), exact=True)
    assert (exact["verdict"], exact["low"]) == ("supported", None)
    several = make_claim("X1", "numbers", [1.0, 3.0], "2", at_least(1.8), exact=True)
    assert several["verdict"] == "open", "one holds and another does not"


def test_a_share_has_its_exact_interval() -> None:
    row = make_claim("X", "share of seeds", [True] * 5, "all", at_least(0.9))
    assert row["low"] == pytest.approx(0.025 ** (1 / 5))  # 0.48
    assert (row["high"], row["verdict"]) == (1.0, "open")
    settled = make_claim("X", "share of seeds", [True] * 5, "most", at_least(0.3))
    assert settled["verdict"] == "supported"
    assert make_claim("X", "share", [False] * 8, "most", at_least(0.5))["verdict"] == "refuted"
    # A number that may be 0 is no outcome.
    assert make_claim("X", "a place", [0.0] * 5, "", at_most(0.2))["verdict"] == "supported"


def test_a_band_includes_its_ends_and_is_stored_without_infinities() -> None:
    for band in (at_least(0.5), at_most(0.5), near(0.25, 0.25)):
        claim = make_claim("X", "a number", 0.5, "", band, exact=True)
        assert claim["verdict"] == "supported"
    assert make_claim("X", "a number", 0.5, "", at_least(0.5))["band"] == [0.5, None]
    assert make_claim("X", "a number", 0.5, "", at_most(0.5))["band"] == [None, 0.5]
    with pytest.raises(ValueError, match="a tolerance is 0 or more, got -1"):
        near(0.0, -1.0)


def test_nothing_is_judged_where_it_is_not_to_be() -> None:
    with no_verdicts():
        row = make_claim("X", "a number", AROUND_ONE, "", near(1, 0.5))
        assert verdict(1, 2, at_least(0)) is None
    assert row["verdict"] is None
    assert row["parts"] == {"at least 0.5": None, "at most 1.5": None}
    assert verdict(1, 2, at_least(0)) == "supported"


# Ratios.

SLOW = [sample(8.0, 9.0, 9.5, 8.5, censored=(10.0,))]
FAST = [sample(2.0, 2.1, 2.0, 1.9, 2.0)]


def test_a_ratio_as_a_claim_says_when_it_is_a_bound() -> None:
    row = ratio_claim("X", "what", SLOW, FAST, 10.0, None, (1.05, np.inf))
    assert row["measured"] == pytest.approx(45 / 10)
    assert (row["measured_is"], row["verdict"]) == (">=", "supported")
    assert row["note"] == "5 of 5 converged, 4 of 5 of the baseline"
    assert row["band"] == [1.05, None]
    assert (row["low"], row["high"]) == tuple(compare(SLOW, FAST, 10.0))[1:3]
    most = ratio_claim("X", "what", SLOW, FAST, 10.0, None, (1.05, 100.0))
    assert most["parts"] == {"at least 1.05": "supported", "at most 100": "open"}


def test_ratios_of_fewer_than_four_seeds_settle_nothing() -> None:
    slow, fast = [sample(9.0, 9.0, 9.1)], [sample(1.0, 1.0, 1.1)]
    row = ratio_claim("X", "what", slow, fast, 10.0, None, (2.0, 10.0))
    assert set(row["parts"].values()) == {"open"}
    assert "no verdict below 4 seeds" in row["note"]


def test_claims_that_are_read_together_are_settled_together() -> None:
    """Each at its share of what may be wrong of all of them."""
    for family in (1, 20):
        low = compare(SLOW, FAST, 10.0, 1 - WRONG_RATIO / family).low
        for end, expected in ((low - 1e-9, "supported"), (low + 1e-9, "open")):
            row = ratio_claim("X", "", SLOW, FAST, 10.0, None, at_least(end), family=family)
            assert row["verdict"] == expected
    assert "settled as one of 20" in row["note"]
    assert row["low"] == compare(SLOW, FAST, 10.0).low, "what is printed is of one claim"


def restricted(every_time: np.ndarray, budget: float) -> list[Sample]:
    return [Sample(0.1, Times(np.minimum(every_time, budget), every_time <= budget))]


def by_budget(slow: np.ndarray, fast: np.ndarray) -> list[Claim]:
    """The claim of 2 to 10 times as it stands at growing budgets."""
    claims = []
    for budget in np.geomspace(4, 1000, 16):
        sides = restricted(slow, budget), restricted(fast, budget)
        claims.append(ratio_claim("X", "", *sides, budget, None, (2.0, 10.0)))
    return claims


def random_times(draws: np.random.Generator, mean: float, seeds: int) -> np.ndarray:
    return np.exp(draws.normal(np.log(mean), draws.choice([0.1, 0.3]), seeds))


@pytest.mark.parametrize("case", every(4, of=range(40)))
def test_a_larger_budget_takes_no_verdict_back(case: int) -> None:
    """Where what is lost is lost for ever, and the others have converged by the least budget."""
    draws = np.random.default_rng(case)
    seeds = int(draws.choice([4, 5, 8]))
    sides = []
    for mean in (3.5, float(draws.choice([0.2, 0.5, 1.0, 1.7]))):
        every_time = np.minimum(random_times(draws, mean, seeds), 3.9)
        every_time[draws.random(seeds) < draws.choice([0, 0.3, 1])] = np.inf
        sides.append(every_time)
    for before, later in pairwise(by_budget(*sides)):
        for part, settled in before["parts"].items():
            if settled != "open":
                assert later["parts"][part] == settled


@pytest.mark.parametrize("case", every(4, of=range(40)))
def test_a_larger_budget_never_turns_a_verdict_into_its_opposite(case: int) -> None:
    """Whatever converges later."""
    draws = np.random.default_rng(case)
    seeds = int(draws.choice([4, 5, 8]))
    sides = []
    for mean in (6.0, float(draws.choice([0.5, 1.0, 3.0]))):
        every_time = random_times(draws, mean, seeds)
        late = draws.random(seeds) < draws.choice([0, 0.3])
        sides.append(np.where(late, every_time * draws.uniform(2, 20), every_time))
    claims = by_budget(*sides)
    for part in ("at least 2", "at most 10"):
        assert len({claim["parts"][part] for claim in claims} - {"open"}) <= 1


def test_claims_of_a_study_are_judged_with_what_they_are_of() -> None:
    claim = Comparison("X", "fast beats slow", "fast", "slow", (2.0, 10.0))
    unknown = Comparison("Y", "unknown", "other", "slow", (1, 2))
    (row,) = judge(two_schemes(), [claim, unknown])
    assert row["measured"] == pytest.approx(26 / 9)
    assert row["measured_is"] == ">="
    assert row["published"] is None
    assert row["note"] == (
        "3 of 3 converged, 1 of 3 of the baseline; rnn on t, each scheme at its own best rate "
        "(fast 1, slow 0.1), budget 10 epochs; no verdict below 4 seeds"
    )


def test_a_scheme_of_which_one_seed_has_run_is_not_judged() -> None:
    ended = [Ended("a", 0.1, 0, 2.0), Ended("a", 0.1, 1, 2.0), Ended("b", 0.1, 0, 2.0)]
    data = records(ended, baseline="a")
    assert judge(data, [Comparison("X", "", "b", "a", (1, 2))]) == []


# In words.


def test_a_claim_reads_as_sentences() -> None:
    row = make_claim("X", "The mean is about one", AROUND_ONE, "1", near(1, 0.2))
    assert sentence(row) == (
        "The mean is about one. Published: 1. Measured: 1 (0.935 to 1.06). At least 0.8: holds; "
        "at most 1.2: holds."
    )
    with no_verdicts():
        row = make_claim("X", "A number", 3.0, "2", at_least(1))
    assert sentence(row) == (
        "A number. Published: 2. Measured: 3. At least 1: not judged at smoke size."
    )


def test_a_number_that_is_not_finite_is_said_before_and_after_it_is_stored() -> None:
    claim = make_claim("B", "It grows", [1.0, np.inf, 2.0, 1.0], "1", at_most(2.0))
    stored = json.loads(to_json(claim))
    assert claim["verdict"] == "open"
    assert claim["note"] == "4 seeds, of which 3 gave a finite number"
    assert measured_of(claim) == measured_of(stored) == "no finite number"
    assert "Measured: no finite number" in sentence(stored)


def test_of_a_bound_the_sentence_gives_what_is_sure() -> None:
    row = ratio_claim("X", "Faster", SLOW, FAST, 10.0, None, (2.0, 3.0))
    assert row["low"] is not None
    assert sentence(row) == (
        f"Faster. Published: no source found. Measured: at least {row['low']:.3g}. "
        "At least 2: holds; at most 3: does not hold."
    )
    other = ratio_claim("X", "Faster", FAST, SLOW, 10.0, None, at_least(2.0))
    assert f"Measured: at most {other['high']:.3g}. At least 2: does not hold." in sentence(other)
    lost = [Sample(0.1, times(censored=(10.0,) * 4))]
    neither = ratio_claim("X", "Faster", lost, lost, 10.0, None, at_least(2.0))
    assert "Measured: no estimate" in sentence(neither)
    assert sentence(neither).endswith("At least 2: open.")


def test_a_diverged_seed_makes_a_bound_as_a_censored_one_does() -> None:
    def claim(outcome: Outcome) -> Claim:
        ended = [Ended("fast", 0.1, seed, 2.0) for seed in range(4)]
        ended += [Ended("slow", 0.1, seed, 8.0) for seed in range(3)]
        last = 1.0 if outcome == Outcome.DIVERGED else 10.0
        data = records([*ended, Ended("slow", 0.1, 3, last, outcome)])
        (row,) = judge(data, [Comparison("X", "", "fast", "slow", (2.0, 10.0))])
        return row

    assert claim(Outcome.DIVERGED) == claim(Outcome.CENSORED)
    assert claim(Outcome.DIVERGED)["measured_is"] == ">="
