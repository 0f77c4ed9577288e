"""The statistics against hand-computed cases with censoring, and against the coverage they
claim."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from jaxinit.analysis import stats
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.stats import Times

# The 6-MP arm of Freireich et al. (1963), weeks of remission, the textbook case of Kaplan-Meier
# estimation:
# S(6) = .857, S(7) = .807, S(10) = .753, S(13) = .690, S(16) = .627, S(22) = .538, S(23) = .448.
SIX_MP = Times(
    np.array([6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35], float),
    np.array([True] * 9 + [False] * 12),
)
PLACEBO = Times(
    np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], float),
    np.ones(21, bool),
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def times(*values: float, censored: tuple[float, ...] = ()) -> Times:
    return Times(
        np.array([*values, *censored], float),
        np.array([True] * len(values) + [False] * len(censored)),
    )


def test_kaplan_meier_reproduces_the_textbook() -> None:
    t, share, low, high = stats.kaplan_meier(SIX_MP)
    survival = dict(zip(t, 1 - share, strict=True))
    expected = {0: 1.0, 6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, value in expected.items():
        assert survival[week] == pytest.approx(value, abs=5e-4)
    assert (low <= share).all()
    assert (share <= high).all()
    # At 10 weeks: Greenwood's variance sum is 3/(21*18) + 1/(17*16) + 1/(15*14), on the log(-log)
    # scale.
    k = int(np.flatnonzero(t == 10)[0])
    s = 18 / 21 * 16 / 17 * 14 / 15
    half = 1.959964 * np.sqrt(3 / (21 * 18) + 1 / (17 * 16) + 1 / (15 * 14)) / abs(np.log(s))
    assert low[k] == pytest.approx(1 - s ** np.exp(-half), abs=1e-5)
    assert high[k] == pytest.approx(1 - s ** np.exp(half), abs=1e-5)


def test_kaplan_meier_by_hand_with_a_censoring_between_two_events() -> None:
    # Events at 1 and 3, censored at 2: S(1) = 2/3, then one left of which one arrives: S(3) = 0.
    t, share, low, high = stats.kaplan_meier(times(1, 3, censored=(2,)))
    assert dict(zip(t, share, strict=True))[1] == pytest.approx(1 / 3)
    assert share[-1] == 1.0
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()


def test_kaplan_meier_without_any_event_is_zero_with_an_exact_band() -> None:
    _, share, low, high = stats.kaplan_meier(times(censored=(20.0,) * 8))
    assert not share.any()
    assert not low.any()
    assert high[-1] == pytest.approx(1 - 0.025 ** (1 / 8), abs=1e-6)  # Clopper-Pearson for 0 of 8


def test_restricted_mean_by_hand() -> None:
    # S = 1 to 1, 2/3 to 3, 0 after: 1 + 2 * 2/3.
    assert stats.restricted_mean(times(1, 3, censored=(2,)), 10) == pytest.approx(1 + 4 / 3)
    assert stats.restricted_mean(times(1, 3, censored=(2,)), 2) == pytest.approx(1 + 2 / 3)
    # Followed to the horizon: the mean of min(t, horizon).
    assert stats.restricted_mean(times(2, 4, censored=(10, 10)), 10) == pytest.approx(26 / 4)
    assert stats.restricted_mean(times(censored=(10, 10)), 10) == 10


def test_restricted_mean_is_the_area_under_the_curve() -> None:
    t, share, _, _ = stats.kaplan_meier(SIX_MP)
    edges = np.append(t[t < 30], 30)
    area = np.sum((1 - share[t < 30]) * np.diff(edges))
    assert stats.restricted_mean(SIX_MP, 30) == pytest.approx(area)


def test_restricted_mean_has_ties_of_events_and_censorings_in_the_right_order() -> None:
    # A trial censored at the very time of an event was still at risk: S(1) = 1 - 1/2.
    assert stats.restricted_mean(times(1, censored=(1,)), 3) == pytest.approx(1 + 2 / 2)


def test_log_rank_reproduces_the_textbook() -> None:
    # chi^2 = 16.79 on one degree of freedom for 6-MP against placebo, p = 4.2e-5.
    assert stats.log_rank(SIX_MP, PLACEBO) == pytest.approx(4.17e-5, rel=0.02)
    assert stats.log_rank(SIX_MP, PLACEBO) == pytest.approx(stats.log_rank(PLACEBO, SIX_MP))
    nothing = times(censored=(5.0, 5.0))
    assert stats.log_rank(nothing, nothing) == 1.0


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .2 times 4 3 2 1 = .04 .06 .06 .2, made monotone.
    np.testing.assert_allclose(stats.holm([0.03, 0.01, 0.2, 0.02]), [0.06, 0.04, 0.2, 0.06])
    np.testing.assert_allclose(stats.holm([0.5, 0.9]), [1.0, 1.0])
    assert len(stats.holm([])) == 0


def test_holm_keeps_the_family_wise_error() -> None:
    p = np.random.default_rng(1).uniform(size=(20_000, 8))
    wrong = np.mean([stats.holm(row.tolist()).min() < 0.05 for row in p])
    assert wrong == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 20_000))


def test_ratio_and_its_paired_interval() -> None:
    base, scheme = times(4, 8, 12, 16), times(2, 4, 6, 8)
    ratio, low, high = stats.ratio_interval(base, scheme, 100, rng())
    assert ratio == pytest.approx(2)
    # Paired: every seed has the ratio 2 exactly, so every resample has; unpaired resampling would
    # spread it.
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)
    same = stats.ratio_interval(base, base, 100, rng())
    assert same == pytest.approx((1, 1, 1))


def test_intervals_use_the_generator_they_are_given() -> None:
    one, two = (stats.mean_interval(SIX_MP, 30, np.random.default_rng(k)) for k in (1, 1))
    other = stats.mean_interval(SIX_MP, 30, np.random.default_rng(2))
    assert one == two
    assert one != other


@pytest.mark.slow
def test_intervals_cover_about_ninety_percent_with_eight_seeds() -> None:
    # What the docstring of mean_interval says of itself.
    draws = np.random.default_rng(3)
    hits = 0
    count = 400
    for _ in range(count):
        sample = draws.gamma(8.0, 0.3, size=8)
        low, high = stats.mean_interval(Times(sample, np.ones(8, bool)), 1e9, rng())
        hits += low <= 2.4 <= high
    assert hits / count == pytest.approx(0.90, abs=4 * np.sqrt(0.9 * 0.1 / count))


def test_bounds_say_which_side_is_open() -> None:
    full, part = times(1, 2), times(1, censored=(5,))
    assert [
        stats.bound(*pair) for pair in ((full, full), (part, full), (full, part), (part, part))
    ] == [
        "=",
        ">=",
        "<=",
        "?",
    ]


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
    assert stats.verdict(low, high, (2.0, 10.0), kind) == expected


C, S, D, U = Outcome.CONVERGED, Outcome.CENSORED, Outcome.DIVERGED, Outcome.UNFINISHED


def records() -> xr.Dataset:
    """Two schemes, two rates, one tuning and three reporting seeds; 10 epochs of budget."""
    outcome = np.array([[[S, U, U, U], [C, C, C, C]], [[C, C, D, S], [D, U, U, U]]], np.int8)
    last = np.array([[[10, 0, 0, 0], [2, 2, 3, 4]], [[6, 6, 1, 10], [1, 0, 0, 0]]], float)
    metric = np.where(last[..., None] > 0, 0.5, np.nan) * np.ones(10)
    trial = ("scheme", "lr", "seed")
    return xr.Dataset(
        {
            "outcome": (trial, outcome),
            "last_epoch": (trial, last),
            "metric": ((*trial, "epoch"), metric),
            "phase": (("seed",), ["tune", "report", "report", "report"]),
        },
        {"scheme": ["fast", "slow"], "lr": [0.1, 1.0], "seed": range(4), "epoch": range(1, 11)},
        {"budget": 10.0, "higher_is_better": 1, "model": "rnn", "task": "t"},
    )


def test_rates_are_chosen_on_the_tuning_seeds_only() -> None:
    data = records()
    assert stats.best_rate(data, "fast") == 1.0
    assert stats.best_rate(data, "slow") == 0.1
    worse = data.copy(deep=True)
    worse.last_epoch.loc[{"scheme": "fast", "lr": 1.0, "seed": [1, 2, 3]}] = 9.0
    assert stats.best_rate(worse, "fast") == 1.0


def test_rates_that_never_arrive_are_ranked_by_their_best_metric() -> None:
    data = records()
    data.outcome.loc[{"seed": 0}] = int(S)
    data.last_epoch.loc[{"seed": 0}] = 10.0
    data.metric.loc[{"scheme": "slow", "lr": 1.0, "seed": 0, "epoch": 4}] = 0.9
    assert stats.best_rate(data, "slow") == 1.0
    data.attrs["higher_is_better"] = 0
    data.metric.loc[{"scheme": "slow", "lr": 0.1, "seed": 0, "epoch": 4}] = 0.1
    assert stats.best_rate(data, "slow") == 0.1


def test_a_diverged_trial_counts_as_never_arriving_not_as_a_short_one() -> None:
    of = stats.times_of(records(), "slow", 0.1, "report")
    np.testing.assert_array_equal(of.time, [6, 10, 10])
    np.testing.assert_array_equal(of.event, [True, False, False])


def test_table_counts_every_outcome_and_orders_by_speed() -> None:
    fast, slow = stats.table(records(), "slow")
    assert (fast["scheme"], fast["epochs"], fast["converged"]) == ("fast", pytest.approx(3), 3)
    assert [slow[k] for k in ("converged", "censored", "diverged", "seeds")] == [1, 1, 1, 3]
    assert slow["epochs"] == pytest.approx(26 / 3)
    assert fast["ratio"] == pytest.approx(26 / 9)
    assert (fast["ratio_is"], slow["ratio_is"]) == (">=", "=")
    assert fast["lr_at_edge"]
    assert slow["p_holm"] is None


def test_claims_are_judged_with_their_conditions() -> None:
    claim = stats.Claim("X", "fast beats slow", "fast", "slow", (2.0, 10.0))
    (row,) = stats.judge(records(), [claim, stats.Claim("Y", "unknown", "other", "slow", (1, 2))])
    assert row["measured"] == pytest.approx(26 / 9)
    assert row["measured_is"] == ">="
    assert "2 of 3 slow trials did not arrive" in row["note"]
    assert "lower bound" in row["note"]
    assert row["published"] is None


def test_nothing_reported_yet_gives_an_empty_table() -> None:
    data = records().isel(seed=[0])
    assert stats.table(data, "slow") == []
    assert stats.tuned(data)
    assert stats.reported(data) == {}


def test_a_measured_claim_has_its_interval_and_its_verdict() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, 20)
    row = stats.claim_of("X1", "a number", values, "1", (0.8, 1.2), "made up")
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert row["verdict"] == "supported"
    assert (
        stats.claim_of("X1", "a number", values, "1", (1.0, 1.2), "")["verdict"]
        == "too noisy to tell"
    )
    assert stats.claim_of("X1", "a number", values, "2", (1.8, np.inf), "")["verdict"] == "refuted"
    single = stats.claim_of("X1", "a number", 3.0, "2", (1.8, np.inf), "no seeds")
    assert (single["verdict"], single["low"], single["band"]) == ("supported", None, [1.8, None])


def test_a_ratio_as_a_claim_says_when_it_is_a_bound() -> None:
    slow, fast = times(8.0, 9.0, 10.0, censored=(10.0,)), times(2.0, 3.0, 2.0, 3.0)
    row = stats.ratio_claim("X", "what", slow, fast, 10.0, "none", (1.05, np.inf))
    assert row["measured"] == pytest.approx(37 / 10)
    assert row["measured_is"] == ">="
    assert row["verdict"] == "supported with a condition"
    assert "4 of 4 arrived, 3 of the baseline; the ratio is >= this" in row["note"]
    assert row["band"] == [1.05, None]


def test_profile_scores_are_areas_under_the_profile() -> None:
    row = lambda cell, scheme, epochs, converged=5: {
        "cell": cell,
        "scheme": scheme,
        "epochs": epochs,
        "converged": converged,
        "seeds": 5,
    }
    rows = [
        row("1", "a", 2.0),
        row("1", "b", 4.0),
        row("1", "c", 2.0, 2),
        row("2", "a", 9.0),
        row("2", "b", 3.0),
    ]
    rows += [row("2", "c", 30.0), row("2", "only here", 1.0)]
    scores = stats.profile_scores(rows)
    # a: the best, then 9 times the best; "only here" is the best of cell 2 with 1 epoch
    assert list(scores) == ["a", "b", "c"]
    assert scores["a"] == pytest.approx((1 + 0) / 2)
    assert scores["b"] == pytest.approx(((4 - 2) / 3 + (4 - 3) / 3) / 2)
    assert scores["c"] == 0.0
