"""Figures from records alone: every one that the records can fill, and no crash on those they
cannot."""

import csv
import json
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from ended_trials import Ended
from ended_trials import records as records_of
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection as FillBetween

from jaxinit.analysis import curves, study_figures, survival, table
from jaxinit.analysis.figure import MARKS, as_text, looks
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.study_figures import OWN

SCHEMES = ("orthogonal", "small_normal", "uniform01", "identity")
ROW = {
    "baseline": "small_normal",
    "converged": 2,
    "diverged": 0,
    "seeds": 2,
    "epochs": 3.0,
    "epochs_low": 2.0,
    "epochs_high": 4.0,
}


def outcome_of(scheme: str, rate: float) -> Outcome:
    if scheme == "uniform01":
        return Outcome.CENSORED
    return Outcome.DIVERGED if (scheme, rate) == ("identity", 0.3) else Outcome.CONVERGED


def records(higher_is_better: int = 1, report: bool = True, search: str = "grid") -> xr.Dataset:
    """A grid of two rates, the first of which is reported, or a ladder, which reports both; trials
    of another were stopped."""
    draws = np.random.default_rng(0)
    trials = []
    for scheme, rate in product(SCHEMES, (0.1, 0.3)):
        outcome = outcome_of(scheme, rate)
        on_all_seeds = report and (rate == 0.1 or search == "ladder")
        for seed in range(5 if on_all_seeds else 2):
            epochs = 4.0 if outcome == Outcome.CENSORED else int(draws.integers(8, 30)) / 8
            purpose = "report" if search == "ladder" or seed >= 2 else "tune"
            trials.append(Ended(scheme, rate, seed, epochs, outcome, purpose))
    if search == "ladder":
        for scheme in SCHEMES:
            trials.append(Ended(scheme, 0.03, 0, 2.0, Outcome.STOPPED, "coarse"))
    return records_of(
        trials,
        higher_is_better=higher_is_better,
        search=search,
        baseline="small_normal",
        budget=4.0,
        evaluations_per_epoch=8,
        target=0.9,
    )


def test_the_numbers_of_the_figures_are_those_of_the_records(tmp_path: Path) -> None:
    ended = records(search="ladder")
    study_figures.draw_all(ended, tmp_path)
    found = {}
    for name in ("answer", "epochs_by_rate", "learning_curves"):
        with (tmp_path / f"{name}.csv").open() as file:
            found[name] = list(csv.DictReader(file))
    for row in table.rows_without_tests(ended, "small_normal"):
        of_scheme = [one for one in found["answer"] if one["y"] == row["scheme"]]
        (mean,) = (one["x"] for one in of_scheme if one["curve"] == "mean")
        assert float(mean) == pytest.approx(row["epochs"], rel=1e-5)
    trials = [one for one in found["epochs_by_rate"] if one["curve"].startswith("trials, ")]
    assert len(trials) == ended.sizes["trial"]
    for scheme, rate in table.reported(ended).items():
        course = curves.course(ended, scheme, rate)
        rows = [one for one in found["learning_curves"] if one["curve"] == scheme]
        band = [float(one["high"]) for one in rows if one["high"]]
        np.testing.assert_allclose(band, course.high, rtol=1e-5)


def test_four_figures_in_two_formats_with_their_numbers(tmp_path: Path) -> None:
    before = matplotlib.get_backend()
    paths = study_figures.draw_all(records(), tmp_path / "figures")
    names = ["answer", "epochs_by_rate", "share_converged", "learning_curves"]
    assert [path.stem for path in paths] == names
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {
        ".csv",
        ".png",
        ".svg",
    }
    assert all(path.stat().st_size > 10_000 for path in paths)
    assert matplotlib.get_backend() == before


def test_an_interrupted_study_draws_what_it_has(tmp_path: Path) -> None:
    tuning_only = records(report=False)
    tuning_only.outcome.values[0] = Outcome.UNFINISHED
    paths = study_figures.draw_all(tuning_only, tmp_path)
    assert [path.stem for path in paths] == ["epochs_by_rate"]
    one_rate = tuning_only.isel(trial=np.flatnonzero(tuning_only.lr.values == 0.1))
    assert study_figures.draw_all(one_rate, tmp_path) == []


def test_a_ladder_shows_every_trial_and_the_rates_that_are_reported() -> None:
    data = records(search="ladder")
    drawn = study_figures.epochs_by_rate(data)
    panel = next(axes for axes in drawn.axes if axes.get_title(loc="left").startswith("orthogonal"))
    marks = {line.get_marker(): line for line in panel.lines if line.get_marker() != "None"}
    np.testing.assert_array_equal(marks[6].get_xdata(), [0.03])
    np.testing.assert_array_equal(marks[6].get_ydata(), [2.0])
    trials = [line for line in panel.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in trials if line.get_marker() == "o") == 10
    reported = {line.get_xdata()[0] for line in panel.lines if len(set(line.get_xdata())) == 1}
    assert reported >= {0.1, 0.3}


@pytest.mark.parametrize(
    "figure",
    [study_figures.share_converged, study_figures.epochs_by_rate, study_figures.learning_curves],
)
def test_one_panel_a_scheme_the_fastest_first_with_labels(figure) -> None:
    drawn = figure(records(higher_is_better=0 if figure is study_figures.learning_curves else 1))
    titles = [axes.get_title(loc="left").split(",")[0] for axes in drawn.axes if axes.get_visible()]
    assert sorted(titles) == sorted(SCHEMES)
    effort = [
        survival.restricted_mean(table.times_reported(records(), scheme), 4.0) for scheme in titles
    ]
    assert effort == sorted(effort)
    assert drawn.axes[3].get_xlabel()
    assert drawn.get_supylabel()
    assert [text.get_text() for text in drawn.legends[0].get_texts()][:2] == [
        "the panel's scheme",
        "baseline, small_normal",
    ]


def test_names_are_drawn_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxinit.analysis.figure.FORMATS", ("png",))

    names = ["$\\frac{1}$", "_a", "a $b$ c", r"\$d\$"]
    data = records()
    called = dict(zip(SCHEMES, names, strict=True))
    of_trials = np.array([called[scheme] for scheme in data.scheme.values], object)
    data = data.assign_coords(scheme=("trial", of_trials))
    data = data.assign_attrs(baseline=names[0], schemes=json.dumps(names), task="$t$ $u")
    assert len(study_figures.draw_all(data, tmp_path)) == 4
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
    rows = [{"setting": "$c$", "scheme": name} | ROW for name in names]
    study_figures.forest(rows, "$title$")


def test_the_survival_panel_shows_the_kaplan_meier_estimate() -> None:
    data = records()
    drawn = study_figures.share_converged(data)
    panel = next(axes for axes in drawn.axes if axes.get_title(loc="left").startswith("orthogonal"))
    color = looks(SCHEMES)["orthogonal"]["color"]
    own = next(line for line in panel.lines if line.get_color() == color)
    time, share, _, _ = survival.kaplan_meier(table.times_reported(data, "orthogonal"))
    np.testing.assert_allclose(own.get_xdata()[:-1], time)
    np.testing.assert_allclose(own.get_ydata()[:-1], share)


def test_the_answer_shows_intervals_and_what_did_not_converge() -> None:
    data = records()
    rows = table.rows_without_tests(data, "small_normal")
    figure = study_figures.answer(data)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[::-1] == [row["scheme"] for row in rows]
    dots = [line for line in axes.lines if line.get_marker() in MARKS]
    assert [line.get_xdata()[0] for line in dots][::-1] == [row["epochs"] for row in rows]
    hollow = [label for label, dot in zip(labels, dots, strict=True) if dot.get_mfc() == "white"]
    assert hollow == ["uniform01"]
    arrows = [text.xy for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert arrows == [(4.0 * study_figures.BEYOND, labels.index("uniform01"))]
    shares = [text.get_text() for text in axes.texts]
    assert shares.count("3/3") == 3
    assert "0/3" in shares
    baseline = next(row for row in rows if row["scheme"] == "small_normal")
    ends = [list(line.get_xdata()) for line in axes.lines]
    assert [baseline["epochs"], baseline["epochs"]] in ends
    assert [baseline["epochs_low"], baseline["epochs_high"]] in ends
    low, high = axes.get_xlim()
    assert all(low < end < high for line in ends for end in line)


def test_the_diverged_are_told_from_the_censored() -> None:
    lost = ROW | {"setting": "a", "scheme": "s", "converged": 0, "diverged": 1}
    figure = study_figures.forest([lost], "title")  # pyright: ignore[reportArgumentType]
    assert "0/2, 1 diverged" in [text.get_text() for text in figure.axes[0].texts]


def test_a_scheme_has_one_color_and_mark_in_every_figure() -> None:
    data = records()
    expected = looks(SCHEMES)
    (axes,) = study_figures.answer(data).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    dots = [line for line in axes.lines if line.get_marker() in MARKS]
    for label, dot in zip(labels, dots, strict=True):
        assert look_of(dot) == expected[label]
    for draw in (
        study_figures.share_converged,
        study_figures.epochs_by_rate,
        study_figures.learning_curves,
    ):
        figure = draw(data)
        for panel in filter(Axes.get_visible, figure.axes):
            scheme = panel.get_title(loc="left").split(",")[0]
            # Others are grey, and the baseline is dashed.
            own = [line for line in panel.lines if line.get_linewidth() == OWN["linewidth"]]
            assert [look_of(line) for line in own[:1]] == [expected[scheme]]
            dashed = [look_of(line) for line in panel.lines if line.get_linestyle() == "--"]
            assert dashed == [expected["small_normal"]] * (scheme != "small_normal")
    rows = [{"setting": "a", "scheme": name} | ROW for name in reversed(SCHEMES)]
    figure = study_figures.forest(rows, "title", SCHEMES)  # pyright: ignore[reportArgumentType]
    dots = [line for line in figure.axes[0].lines if line.get_marker() in MARKS]
    assert [look_of(dot) for dot in dots] == [expected[name] for name in SCHEMES]


def look_of(line) -> dict[str, str]:
    return {"color": line.get_color(), "marker": line.get_marker()}


def test_bands_hide_no_curve() -> None:
    figure = study_figures.share_converged(records())
    for panel in filter(Axes.get_visible, figure.axes):
        (slab,) = [shape for shape in panel.collections if isinstance(shape, FillBetween)]
        assert slab.get_alpha() <= 0.2
        assert slab.get_zorder() < min(line.get_zorder() for line in panel.lines)
