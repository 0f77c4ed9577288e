"""The table of a study whose every trial is known: which rate is chosen, who is counted, in which
order."""

from typing import Any

import numpy as np
import pytest
from ended_trials import S, records

from jaxinit.analysis import table
from jaxinit.analysis.table import make_table


def test_rates_are_chosen_on_the_tuning_seeds_only() -> None:
    data = records()
    assert table.best_rate(data, "fast") == 1.0
    assert table.best_rate(data, "slow") == 0.1
    worse = data.copy(deep=True)
    worse.last_epoch.loc[{"scheme": "fast", "lr": 1.0, "seed": [1, 2, 3]}] = 9.0
    assert table.best_rate(worse, "fast") == 1.0


def test_rates_that_never_reach_the_target_are_ranked_by_their_best_metric() -> None:
    data = records()
    data.outcome.loc[{"seed": 0}] = int(S)
    data.last_epoch.loc[{"seed": 0}] = 10.0
    data.metric.loc[{"scheme": "slow", "lr": 1.0, "seed": 0, "epoch": 4}] = 0.9
    assert table.best_rate(data, "slow") == 1.0
    data.attrs["higher_is_better"] = 0
    data.metric.loc[{"scheme": "slow", "lr": 0.1, "seed": 0, "epoch": 4}] = 0.1
    assert table.best_rate(data, "slow") == 0.1


def test_a_diverged_trial_counts_as_never_converging_not_as_a_short_one() -> None:
    times = table.times_of(records(), "slow", 0.1, "report")
    np.testing.assert_array_equal(times.time, [6, 10, 10])
    np.testing.assert_array_equal(times.event, [True, False, False])


def test_table_counts_every_outcome_and_orders_by_speed() -> None:
    fast, slow = make_table(records(), "slow")
    assert (fast["scheme"], fast["epochs"], fast["converged"]) == ("fast", pytest.approx(3), 3)
    assert [slow[k] for k in ("converged", "censored", "diverged", "seeds")] == [1, 1, 1, 3]
    assert slow["epochs"] == pytest.approx(26 / 3)
    assert fast["ratio"] == pytest.approx(26 / 9)
    assert (fast["ratio_is"], slow["ratio_is"]) == (">=", "=")
    assert fast["lr_at_edge"]
    assert slow["p_holm"] is None


def test_nothing_reported_yet_gives_an_empty_table() -> None:
    data = records().isel(seed=[0])
    assert make_table(data, "slow") == []
    assert table.tuned(data)
    assert table.reported(data) == {}


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
