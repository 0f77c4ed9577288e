"""The table of a study whose every trial is known: which rates are reported, who is counted, in
which order, who is told apart from whom."""

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ended_trials import Ended, records, times, two_schemes

from jaxinit.analysis import table
from jaxinit.analysis.interval import compare, limits, permutation_p, share_interval
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import select
from jaxinit.analysis.survival import holm
from jaxinit.analysis.table import Row, at_targets, make_pairs, make_table, times_to, unresolved


def rows_of(data: xr.Dataset, baseline: str) -> list[Row]:
    return make_table(data, baseline, make_pairs(data))


def ladder(**attrs: Any) -> xr.Dataset:
    """Two schemes with two rates each that are reported, and others that the search has stopped."""
    ended = []
    for scheme, epochs in (("fast", 4.0), ("slow", 12.0)):
        for rate, slower in ((0.1, 1.0), (0.15, 1.25)):
            for seed in range(5):
                ended.append(Ended(scheme, rate, seed, slower * epochs + seed))
        for rate in (0.03, 0.32):
            ended.append(Ended(scheme, rate, 0, epochs, Outcome.STOPPED, "coarse"))
    return records(ended, **{"search": "ladder", "budget": 20.0, **attrs})


# Rates.


def test_the_rates_that_are_reported_are_those_with_reporting_trials() -> None:
    assert table.reported(two_schemes()) == {"fast": 1.0, "slow": 0.1}
    assert [sample.rate for sample in table.samples_of(ladder(), "fast")] == [0.1, 0.15]
    assert table.reported(ladder()) == {"fast": 0.1, "slow": 0.1}
    np.testing.assert_array_equal(
        table.times_reported(ladder(), "fast").time, [4.0, 5.0, 6.0, 7.0, 8.0]
    )


def test_of_reported_rates_the_one_with_the_smallest_restricted_mean_goes_first() -> None:
    ended = [Ended("a", 0.1, seed, 5.0) for seed in range(4)]
    ended += [Ended("a", 0.2, seed, 2.0) for seed in range(3)]
    ended.append(Ended("a", 0.2, 3, 1.0, Outcome.DIVERGED))
    assert table.reported(records(ended, budget=10.0)) == {"a": 0.2}  # 4 epochs, one seed lost
    (row,) = rows_of(records(ended, budget=10.0), "a")
    assert (row["lr"], row["lrs"]) == (0.2, [0.2, 0.1])
    assert row["epochs"] == pytest.approx(4.0)


def test_rates_of_a_ladder_are_doubtful_where_most_fail_above_and_of_a_grid_never_are() -> None:
    ended = [Ended("a", 0.1, seed, 5.0) for seed in range(4)]
    ended += [Ended("a", 0.2, seed, 1.0, Outcome.DIVERGED, "coarse") for seed in range(2)]
    (on_ladder,) = table.samples_of(records(ended, search="ladder"), "a")
    (on_grid,) = table.samples_of(records(ended, search="grid"), "a")
    assert (on_ladder.doubtful, on_grid.doubtful) == (True, False)


def test_nothing_reported_yet_gives_an_empty_table() -> None:
    ended = two_schemes()
    data = ended.isel(trial=np.flatnonzero(ended.purpose.values == "tune"))
    assert rows_of(data, "slow") == []
    assert make_pairs(data) == []
    assert at_targets(data, "slow") == []
    assert table.reported(data) == {}
    with pytest.raises(ValueError, match="no trial of scheme 'fast' has been reported"):
        table.times_reported(data, "fast")


def resolved_as(**epochs: float | list[Outcome]) -> str:
    """What is said of rate 0.2, at which a trial takes 5 epochs, among others."""
    rates = {"below": 0.1, "best": 0.2, "above": 0.4}
    ended = []
    for name, rate in rates.items():
        value = epochs.get(name, 5.5)
        if isinstance(value, list):
            ended += [Ended("a", rate, seed, 1.0, kind) for seed, kind in enumerate(value)]
        elif value:
            ended.append(Ended("a", rate, 0, value))
    return unresolved(records(ended, evaluations_per_epoch=10, budget=10.0), "a", 0.2)


def test_a_best_rate_is_unresolved_where_another_may_lie_beside_it() -> None:
    assert resolved_as(best=5.0) == ""
    assert resolved_as(best=5.0, below=6.2) == ""
    assert resolved_as(best=5.0, below=6.3) == "the time changes by more than a quarter to 0.1"
    assert resolved_as(best=5.0, above=0) == "at an end of the rates tried"
    assert resolved_as(best=5.0, below=0) == "at an end of the rates tried"
    assert resolved_as(best=5.0, above=0, below=0) == "", "the one rate given"
    lost = [Outcome.DIVERGED, Outcome.CENSORED, Outcome.CONVERGED]
    assert resolved_as(best=5.0, above=lost) == "most trials fail, or are much slower, at 0.4"


# Rows.


def test_table_counts_every_outcome_and_orders_by_speed() -> None:
    fast, slow = rows_of(two_schemes(), "slow")
    assert (fast["scheme"], fast["epochs"], fast["converged"]) == ("fast", pytest.approx(3), 3)
    assert [slow[k] for k in ("converged", "censored", "diverged", "seeds")] == [1, 1, 1, 3]
    assert slow["epochs"] == pytest.approx(26 / 3)
    assert slow["time"] == 6.0, "of those that converged"
    assert (slow["share_low"], slow["share_high"]) == share_interval(1, 3)
    assert fast["ratio"] == pytest.approx(26 / 9)
    assert (fast["ratio_is"], slow["ratio_is"]) == (">=", "=")
    assert fast["unresolved"] == "at an end of the rates tried"
    assert slow["p_holm"] is None


def test_intervals_of_rows_are_those_of_all_reported_rates() -> None:
    data = ladder()
    fast, _ = rows_of(data, "slow")
    samples = {scheme: table.samples_of(data, scheme) for scheme in ("fast", "slow")}
    own = limits(samples["fast"], 20.0)
    assert (fast["epochs_low"], fast["epochs_high"]) == (math.exp(own.low), math.exp(own.high))
    ratio = compare(samples["slow"], samples["fast"], 20.0)
    assert (fast["ratio"], fast["ratio_low"], fast["ratio_high"], fast["ratio_is"]) == ratio
    assert fast["p_holm"] == permutation_p(
        table.times_reported(data, "fast"), table.times_reported(data, "slow"), 20.0
    )


def test_a_baseline_against_itself_is_exactly_one_even_where_it_never_converges() -> None:
    ended = [Ended("a", 0.1, seed, 10.0, Outcome.CENSORED) for seed in range(4)]
    (row,) = rows_of(records(ended, baseline="a"), "a")
    assert [row[key] for key in ("ratio", "ratio_low", "ratio_high", "ratio_is")] == [1, 1, 1, "="]
    assert (row["time"], row["share_low"]) == (None, 0.0)


def test_one_seed_or_no_baseline_gives_a_row_without_intervals() -> None:
    single = [Ended("a", 0.1, 0, 2.0)]
    (row,) = rows_of(records(single), "a")
    assert (row["epochs"], row["epochs_low"], row["ratio"]) == (2.0, None, None)
    assert at_targets(records(single), "a") == []
    without = [Ended("a", 0.1, seed, 2.0 + seed) for seed in range(4)]
    (row,) = rows_of(records(without), "not there")
    assert row["epochs_low"] is not None
    assert (row["ratio"], row["p_holm"]) == (None, None)


# Pairs and letters.


def test_every_pair_is_compared_and_corrected_over_all_of_them() -> None:
    ended = []
    starts = {"a": (1.0, 0.5), "b": (7.0, 0.5), "c": (9.0, -0.5)}
    for scheme, (first, step) in starts.items():
        ended += [Ended(scheme, 0.1, seed, first + step * seed) for seed in range(4)]
    data = records(ended, baseline="a", budget=20.0, evaluations_per_epoch=2)
    pairs = make_pairs(data)
    assert [(pair["scheme"], pair["other"]) for pair in pairs] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    alone = []
    for pair in pairs:
        sides = [table.times_reported(data, pair[key]) for key in ("scheme", "other")]
        assert pair["ratio"] == pytest.approx(sides[0].time.mean() / sides[1].time.mean())
        alone.append(permutation_p(*sides, 20.0))
    assert [pair["p_holm"] for pair in pairs] == holm(alone).tolist()
    near, far = pairs[2]["seeds_needed"], pairs[0]["seeds_needed"]
    assert near is not None
    assert far is not None
    assert near > 4 == far


def some_p_values(case: int, names: str) -> dict[tuple[str, str], float]:
    draws = np.random.default_rng(case)
    p_values = {}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            p_values[a, b] = float(draws.choice([0.01, 0.5], p=(0.3, 0.7)))
    return p_values


@pytest.mark.parametrize("case", range(20))
def test_two_schemes_share_a_letter_exactly_where_they_are_not_told_apart(case: int) -> None:
    names = "pqrstuv"
    p_values = some_p_values(case, names)
    epochs = {name: times(float(ord(name))) for name in names}
    letters = table._letters(epochs, p_values, 1000.0)
    for (a, b), p in p_values.items():
        assert bool(set(letters[a]) & set(letters[b])) == (p >= table.DISTINCT)
    assert "a" in letters["p"], "the fastest has a"
    # No letter says what another one says too.
    groups = []
    for letter in set("".join(letters.values())):
        groups.append({name for name in names if letter in letters[name]})
    assert not any(one < other for one in groups for other in groups)


def test_letters_of_schemes_that_are_all_alike_and_all_apart() -> None:
    alike = dict.fromkeys(some_p_values(0, "pqr"), 0.5)
    epochs = {"r": times(1.0), "q": times(2.0), "p": times(3.0)}
    assert table._letters(epochs, alike, 10.0) == {"r": "a", "q": "a", "p": "a"}
    apart = dict.fromkeys(alike, 0.01)
    assert table._letters(epochs, apart, 10.0) == {"r": "a", "q": "b", "p": "c"}
    assert table._letter(25) == "z"
    assert table._letter(26) == "(26)"


# Targets.


def test_times_to_the_target_are_those_of_the_trials() -> None:
    for data in (two_schemes(), two_schemes(evaluations_per_epoch=4), ladder()):
        moved = times_to(data, data.attrs["target"])
        converged = data.outcome.values == Outcome.CONVERGED
        np.testing.assert_array_equal(moved.event, converged)
        np.testing.assert_array_equal(moved.time[converged], data.last_epoch.values[converged])
        diverged = data.outcome.values == Outcome.DIVERGED
        assert (moved.time[diverged] == data.attrs["budget"]).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_target_is_reached_on_average_over_an_epoch(sign: int) -> None:
    data = records([Ended("a", 0.1, 0, 5.0)], evaluations_per_epoch=2, higher_is_better=sign == 1)
    data.metric.values[0] = np.nan
    data.metric.values[0, :10] = sign * np.array([0, 9, 0, 1, 5, 4, 6, 7, 8, 9])
    for target, epochs in ((4.5, 1.0), (4.6, 3.5), (5.0, 3.5), (6.0, 4.0), (8.5, 5.0)):
        reached = times_to(data, sign * target)
        assert (reached.time[0], reached.event[0]) == (epochs, True)
    assert times_to(data, sign * 9.0).time[0] == 5.0
    assert not times_to(data, sign * 9.0).event[0]


def test_easier_targets_lie_between_chance_and_the_target() -> None:
    rows = at_targets(ladder(), "slow")
    assert [row["target"] for row in rows] == pytest.approx([0.3, 0.4, 0.46, 0.5])
    assert list(rows[-1]["ratios"]) == ["fast"]
    (fast, _) = rows_of(ladder(), "slow")
    own = (fast["ratio"], fast["ratio_low"], fast["ratio_high"], fast["ratio_is"])
    assert rows[-1]["ratios"]["fast"] == pytest.approx(own)
    falling = at_targets(ladder(higher_is_better=0, chance=100.0, target=1.0), "slow")
    assert [row["target"] for row in falling] == pytest.approx([10, 10**0.5, 10**0.2, 1])


def test_a_target_of_a_file_is_compared_as_training_does() -> None:
    data = records([Ended("a", 0.1, 0, 5.0)], target=0.7)
    assert float(np.float32(0.7)) < 0.7
    assert times_to(data, np.float64(0.7)).event[0]


def test_an_easier_target_is_reached_no_later() -> None:
    data = two_schemes(evaluations_per_epoch=4)
    fast = select(data, "fast", "report")
    before = np.zeros(3)
    for target in (0.2, 0.3, 0.4, 0.5):
        reached = times_to(fast, target)
        assert (reached.time >= before).all()
        before = reached.time


def setting_row(setting: str, scheme: str, epochs: float, converged: int = 5) -> dict[str, Any]:
    return {
        "setting": setting,
        "scheme": scheme,
        "epochs": epochs,
        "converged": converged,
        "seeds": 5,
    }


def test_profile_scores_are_areas_under_the_profile() -> None:
    rows = [
        setting_row("1", "a", 2.0),
        setting_row("1", "b", 4.0),
        setting_row("1", "c", 2.0, converged=2),
        setting_row("2", "a", 9.0),
        setting_row("2", "b", 3.0),
        setting_row("2", "c", 30.0),
        setting_row("2", "only here", 1.0),
    ]
    scores = table.profile_scores(rows)
    # a: the best, then 9 times the best; "only here" is the best of setting 2 with 1 epoch
    assert list(scores) == ["a", "b", "c"]
    assert scores["a"] == pytest.approx((1 + 0) / 2)
    assert scores["b"] == pytest.approx(((4 - 2) / 3 + (4 - 3) / 3) / 2)
    assert scores["c"] == 0.0
