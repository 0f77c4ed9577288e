"""Figures from records alone: every one that the records can fill, and no crash on those they
cannot."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr

from jaxinit.analysis import store, study_figures, survival, table
from jaxinit.analysis.figure import as_text
from jaxinit.analysis.outcome import Outcome
from jaxinit.study import Study

STUDY = Study(
    schemes=("orthogonal", "small_normal", "uniform01", "identity"),
    lrs=(0.1, 0.3),
    target=0.9,
    seeds=3,
    tune_seeds=2,
    epochs=4,
)


ROW = {"converged": 2, "seeds": 2, "epochs": 3.0, "epochs_low": 2.0, "epochs_high": 4.0}


def records(higher_is_better: int = 1, report: bool = True) -> xr.Dataset:
    about = {
        "task": "t",
        "metric_name": "accuracy",
        "higher_is_better": higher_is_better,
        "chance": 0.1,
        "target": 0.9,
    }
    made = store.empty_records(STUDY, 8, about)
    draws = np.random.default_rng(0)
    for s in range(4):
        for lr in range(2):
            for seed in range(5):
                if seed >= 2 and (lr != 0 or not report):
                    continue
                end = 32 if s == 2 else int(draws.integers(3, 30))
                kind = (
                    Outcome.CENSORED
                    if s == 2
                    else Outcome.DIVERGED
                    if (s, lr) == (3, 1)
                    else Outcome.CONVERGED
                )
                made.metric.values[s, lr, seed, :end] = np.linspace(0.1, 0.91, end)
                made.outcome.values[s, lr, seed] = kind
                made.last_epoch.values[s, lr, seed] = end / 8
    return made


def test_three_figures_in_two_formats(tmp_path: Path) -> None:
    before = matplotlib.get_backend()
    paths = study_figures.draw_all(records(), tmp_path / "figures")
    assert [path.stem for path in paths] == ["epochs_by_rate", "share_converged", "learning_curves"]
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
    assert all(path.stat().st_size > 10_000 for path in paths)
    assert matplotlib.get_backend() == before


def test_an_interrupted_study_draws_what_it_has(tmp_path: Path) -> None:
    tuning_only = study_figures.draw_all(records(report=False), tmp_path)
    assert [path.stem for path in tuning_only] == ["epochs_by_rate"]
    unfinished = records(report=False)
    unfinished.outcome.values[0, 0, 0] = Outcome.UNFINISHED
    assert study_figures.draw_all(unfinished, tmp_path) == []


@pytest.mark.parametrize(
    "figure",
    [study_figures.share_converged, study_figures.epochs_by_rate, study_figures.learning_curves],
)
def test_one_panel_a_scheme_the_fastest_first_with_labels(figure) -> None:
    import matplotlib.pyplot as plt

    drawn = figure(records(higher_is_better=0 if figure is study_figures.learning_curves else 1))
    titles = [axes.get_title(loc="left").split(",")[0] for axes in drawn.axes if axes.get_visible()]
    assert sorted(titles) == sorted(STUDY.schemes)
    effort = [
        survival.restricted_mean(table.times_of(records(), scheme, 0.1, "report"), 4.0)
        for scheme in titles
    ]
    assert effort == sorted(effort)
    assert drawn.axes[3].get_xlabel()
    assert drawn.get_supylabel()
    assert [text.get_text() for text in drawn.legends[0].get_texts()][:2] == [
        "this scheme",
        "baseline, small_normal",
    ]
    plt.close(drawn)


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    names = ["$\\frac{1}$", "_a", "a $b$ c", r"\$d\$"]
    data = records().assign_coords(scheme=names).assign_attrs(baseline=names[0], task="$t$ $u")
    assert len(study_figures.draw_all(data, tmp_path)) == 3
    drawn = study_figures.share_converged(data)
    shown = {
        axes.title.get_text() or axes.get_title(loc="left")
        for axes in drawn.axes
        if axes.get_visible()
    }
    assert shown == {as_text(f"{name}, rate 0.1") for name in names}
    for axes in drawn.axes[: len(names)]:
        text, is_formula = axes._left_title._preprocess_math(axes.get_title(loc="left"))
        assert not is_formula
        assert text.removesuffix(", rate 0.1") in names
    plt.close(drawn)
    rows = [{"setting": "$c$", "scheme": name} | ROW for name in names]
    plt.close(study_figures.forest(rows, "$title$"))


def test_the_survival_panel_shows_the_kaplan_meier_estimate() -> None:
    import matplotlib.pyplot as plt

    data = records()
    drawn = study_figures.share_converged(data)
    panel = next(axes for axes in drawn.axes if axes.get_title(loc="left").startswith("orthogonal"))
    own = next(line for line in panel.lines if line.get_color() == "black")
    time, share, _, _ = survival.kaplan_meier(table.times_of(data, "orthogonal", 0.1, "report"))
    np.testing.assert_allclose(own.get_xdata()[:-1], time)
    np.testing.assert_allclose(own.get_ydata()[:-1], share)
    plt.close(drawn)
