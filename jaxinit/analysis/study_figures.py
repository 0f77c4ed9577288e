"""Figures of studies, from records and their statistics only: the answer, and small multiples, one
panel a scheme.

Each panel shows one scheme in its own color over all the others in light grey; the baseline is
dashed everywhere.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from jaxinit.analysis import curves, survival, table
from jaxinit.analysis.drawn import ELSEWHERE
from jaxinit.analysis.figure import (
    MOST_COLUMNS,
    Look,
    as_text,
    band,
    heading,
    legend,
    log_ticks,
    looks,
    name_panel,
    save,
    small_multiples,
    style,
)
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import asked_of, schemes_of, select
from jaxinit.analysis.table import Row, SettingRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is added to the look of a scheme in its own panel, and to that of the baseline in others; and
# how all others look there.
OWN: Look = {"linewidth": 1.6, "markersize": 4.5, "zorder": 3}
BASELINE: Look = {"linewidth": 1.0, "markersize": 3, "linestyle": (0, (4, 2)), "zorder": 2}
OTHERS: Look = {"color": "0.72", "linewidth": 0.9, "zorder": 1, "label": ELSEWHERE}
TARGET: Look = {"color": "0.35", "linewidth": 1.0, "linestyle": ":", "zorder": 2}
MARKS_APART = 0.15  # of a panel's diagonal, between the marks of a curve

# How a trial ended, as a mark and its face.
OUTCOMES: dict[Outcome, tuple[str | int, str]] = {
    Outcome.CONVERGED: ("o", "0.3"),
    Outcome.CENSORED: ("^", "white"),
    Outcome.DIVERGED: ("x", "0.3"),
    Outcome.FAILED: ("x", "white"),
    Outcome.STOPPED: (6, "0.3"),  # matplotlib.markers.CARETUP: the time is longer
}
ROOM = 1.05  # by which the axis of epochs goes beyond what it shows
BEYOND = 1.3  # by which the arrow of a scheme that never converged does
READING = "hollow: some did not converge, a lower bound; arrow: none did; line and band: baseline"

Draw = Callable[["Axes", str, Look], None]


def draw_all(records: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that the records can fill, as PNG and SVG in `folder`; the paths of the PNGs.

    Where another setting is searched beside the rate, all but the answer show each scheme at its
    best value of it.
    """
    every_value = records
    records = table.at_best_value(records)
    figures: dict[str, Callable[[xr.Dataset], Figure]] = {}
    if table.reported(records):
        figures["answer"] = lambda _: answer(every_value)
    if len(set(records.lr.values)) > 1:
        figures["epochs_by_rate"] = epochs_by_rate
    if table.reported(records):
        figures |= {"share_converged": share_converged, "learning_curves": learning_curves}
    with style():
        return [save(draw(records), folder, name) for name, draw in figures.items()]


def answer(records: xr.Dataset) -> "Figure":
    """Epochs to the target of every scheme, the best first, with 95 % intervals, how many trials
    converged, and the baseline as a thin line in its band."""
    rows = table.rows_without_tests(records, records.attrs["baseline"])
    figure, (axes,) = small_multiples(
        1, panel=(6.8, 0.6 + 0.27 * len(rows)), margin=(0.0, 1.0), least_width=6.8
    )
    _draw_rows(axes, rows, looks(asked_of(records)))
    axes.annotate("converged", (1.02, 1), xycoords="axes fraction", fontsize=8, va="bottom")
    note = (
        f"mean up to the budget of {records.attrs['budget']:g} epochs, 95 % interval, each scheme "
        f"at its best rate\n{READING}"
    )
    _headline(figure, records, "Epochs to the target", note)
    return figure


def forest(rows: Sequence[SettingRow], title: str, schemes: Iterable[str] = ()) -> "Figure":
    """`answer` of several studies, a panel for each setting. `schemes` are those of the studies, in
    their order, which gives each its color and mark; others come after them."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        settings.setdefault(row["setting"], []).append(row)
    most = max(map(len, settings.values()))
    figure, panels = small_multiples(
        len(settings), panel=(4.0, 0.75 + 0.2 * most), margin=(1.2, 0.7), least_width=8.5
    )
    look_of = looks([*schemes, *(row["scheme"] for row in rows)])
    for axes, (setting, its_rows) in zip(panels, settings.items(), strict=True):
        _draw_rows(axes, its_rows, look_of)
        axes.set_title(as_text(setting), fontsize=9)
    counts = sorted({row["seeds"] for row in rows})
    n = " or ".join(map(str, counts))
    text = (
        f"{as_text(title)}\nmean up to the budget, 95 % interval, n = {n} seeds, each scheme at "
        f"its best rate; right: how many converged\n{READING}"
    )
    heading(figure, text, size=8)
    return figure


def _draw_rows(axes: "Axes", rows: Sequence[Row], look_of: dict[str, Look]) -> None:
    """A row for each scheme, the first on top, over the baseline's line and band."""
    upwards = rows[::-1]
    for y, row in enumerate(upwards):
        look = look_of[row["scheme"]]
        _draw_row(axes, y, row, look)
        if row["scheme"] == row["baseline"]:
            line: Look = {"linewidth": 0.8, "zorder": 0.6, "label": "baseline"}
            axes.axvline(row["epochs"], color=look["color"], **line)
            span = _interval(row)
            if span:
                axes.axvspan(*span, color=look["color"], alpha=0.12, linewidth=0, zorder=0.5)
    names = [as_text(row["scheme"]) for row in upwards]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set(xscale="log", xlabel="epochs to the target", ylim=(-0.6, len(names) - 0.4))
    low, high = axes.get_xlim()
    axes.set_xlim(low / ROOM, high * ROOM)
    axes.grid(axis="x", color="0.92", linewidth=0.7)
    log_ticks(axes)


def _draw_row(axes: "Axes", y: int, row: Row, look: Look) -> None:
    """A scheme's mean and interval at height y, and at the right how its trials ended."""
    epochs = row["epochs"]
    if not row["converged"]:  # at the budget, and nobody knows how far beyond
        arrow = {"arrowstyle": "-|>", "color": look["color"], "linewidth": 1.4}
        axes.annotate("", (epochs * BEYOND, y), (epochs, y), arrowprops=arrow)
        axes.plot(epochs * BEYOND, y, alpha=0, label=ELSEWHERE)  # the arrow needs the room
    interval = _interval(row)
    if interval:
        axes.plot(interval, [y, y], color=look["color"], linewidth=1.4, label="95 % interval")
    face = look["color"] if row["converged"] == row["seeds"] else "white"
    axes.plot(epochs, y, **look, mfc=face, markersize=6, linestyle="none", zorder=3, label="mean")
    ended = f"{row['converged']}/{row['seeds']}"
    if row["diverged"]:
        ended += f", {row['diverged']} diverged"
    place = ("axes fraction", "data")
    axes.annotate(ended, (1.02, y), xycoords=place, fontsize=7, va="center", color="0.25")


def _interval(row: Row) -> tuple[float, float] | None:
    """The interval of a scheme's epochs; None where the mean is at the budget, and of one seed."""
    low, high = row["epochs_low"], row["epochs_high"]
    if not row["converged"] or low is None or high is None:
        return None
    return low, high


def share_converged(records: xr.Dataset) -> "Figure":
    """Share of trials that have reached the target against epochs (1 - Kaplan-Meier), with its 95 %
    band."""
    curve_of = {s: curves.share_converged(records, s) for s in table.reported(records)}

    def draw(axes: "Axes", scheme: str, line: Look) -> None:
        time, share, _, _ = curve_of[scheme]
        axes.step(time, share, where="post", markevery=MARKS_APART, **line)

    def detail(axes: "Axes", scheme: str, look: Look) -> None:
        time, _, low, high = curve_of[scheme]
        band(axes, time, low, high, look["color"], step="post", **_named(scheme))

    figure, panels = _panels(records, draw, detail, "share of trials converged", "epochs")
    for axes in panels:
        _epoch_axis(axes, records)
        axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
    note = "1 - Kaplan-Meier; band: 95 %, pointwise"
    _headline(figure, records, "Who has converged by when", note)
    return figure


def epochs_by_rate(records: xr.Dataset) -> "Figure":
    """Restricted mean epochs to target against the learning rate, with every trial as a dot.

    A trial that the search stopped is marked where it was stopped, which is a lower bound. The line
    leaves out trials that were stopped or still run.
    """
    horizon = records.attrs["budget"]
    rates = np.unique(records.lr.values)
    mean_at = {name: curves.time_by_rate(records, name) for name in schemes_of(records)}

    def draw(axes: "Axes", scheme: str, line: Look) -> None:
        axes.plot(mean_at[scheme].x, mean_at[scheme].y, **line)

    def detail(axes: "Axes", scheme: str, look: Look) -> None:
        trials = select(records, scheme)
        _draw_trials(axes, trials)
        if (trials.outcome.values == Outcome.CONVERGED).any():
            for sample in table.samples_of(records, scheme):
                axes.axvline(
                    sample.rate, color=look["color"], linewidth=0.8, zorder=1, label="reported rate"
                )

    xlabel = f"learning rate ({records.attrs['optimizer']})"
    figure, panels = _panels(records, draw, detail, "epochs to the target", xlabel)
    for axes in panels:
        axes.set(
            xscale="log", ylim=(0, horizon * 1.04), xlim=(rates.min() / 1.5, rates.max() * 1.5)
        )
        log_ticks(axes)
    note = (
        "trials: ● converged   △ not within the budget   × diverged   ▴ stopped early   │ reported"
    )
    _headline(figure, records, "Each scheme at every learning rate that was tried", note)
    return figure


def _draw_trials(axes: "Axes", trials: xr.Dataset) -> None:
    """Every trial of a scheme as a mark at its time, a diverged one at the budget."""
    outcomes = trials.outcome.values
    times = curves.when_ended(trials)
    for outcome, (marker, face) in OUTCOMES.items():
        chosen = outcomes == outcome
        if not chosen.any():
            continue
        axes.plot(
            trials.lr.values[chosen],
            times[chosen],
            linestyle="none",
            marker=marker,
            color="0.3",
            mfc=face,
            mew=0.7,
            ms=3,
            zorder=4,
            clip_on=False,  # marks at the budget lie on the edge
            label=f"trials, {outcome.name.lower()}",
        )


def learning_curves(records: xr.Dataset) -> "Figure":
    """Median validation metric against epochs on the reporting seeds, with the range over seeds as
    a band.

    A trial that has ended keeps its last finite value, and the curve stops when the last of them
    ends.
    """
    courses = {}
    for scheme, rate in table.reported(records).items():
        course = curves.course(records, scheme, rate)
        if len(course.x):  # some trial could be run
            courses[scheme] = course

    def draw(axes: "Axes", scheme: str, line: Look) -> None:
        if scheme in courses:
            axes.plot(courses[scheme].x, courses[scheme].y, markevery=MARKS_APART, **line)

    def detail(axes: "Axes", scheme: str, look: Look) -> None:
        if scheme in courses:
            past, median, low, high = courses[scheme]
            band(axes, past, low, high, look["color"], **_named(scheme))
            axes.plot(past[-1], median[-1], **look, **_named(scheme), markersize=7, zorder=4)

    ylabel = as_text(records.attrs["metric_name"])
    figure, panels = _panels(records, draw, detail, ylabel, "epochs", target=TARGET)
    for axes in panels:
        axes.axhline(records.attrs["target"], **TARGET)
        _epoch_axis(axes, records)
        if records.attrs["higher_is_better"]:
            axes.set_ylim(0, 1.03)
        else:
            axes.set_yscale("log")
    note = (
        "median and range over seeds; a curve ends, at a large mark, when its last seed has ended"
    )
    _headline(figure, records, "Learning curves at each scheme's best rate", note)
    return figure


def _by_speed(records: xr.Dataset) -> list[str]:
    """The schemes that have something to show, the fastest first."""
    horizon = records.attrs["budget"]
    order = []
    for scheme in table.reported(records):
        times = table.times_reported(records, scheme)
        order.append((survival.restricted_mean(times, horizon), scheme))
    if not order:  # rates are still being chosen
        return schemes_of(records)
    return [scheme for _, scheme in sorted(order)]


def _panels(
    records: xr.Dataset, draw: Draw, detail: Draw, ylabel: str, xlabel: str, **extra: Look
) -> tuple["Figure", list["Axes"]]:
    """One panel a scheme on shared axes, the fastest first.

    `draw(axes, scheme, line)` draws the curves of the others, of the baseline, and of the panel's
    own scheme, which lies above all; `detail(axes, scheme, look)` what only its own panel
    has; `extra` are more lines for the legend.
    """
    from matplotlib.lines import Line2D

    schemes = _by_speed(records)
    look_of = looks(asked_of(records))
    best = table.best_points(records)
    baseline = records.attrs["baseline"]
    figure, panels = small_multiples(
        len(schemes), panel=(2.6, 1.8), margin=(0.6, 1.2), least_width=6.4, shared=True
    )
    for axes, scheme in zip(panels, schemes, strict=True):
        for other in schemes:
            if other not in (scheme, baseline):
                draw(axes, other, OTHERS)
        if baseline in schemes and scheme != baseline:
            draw(axes, baseline, look_of[baseline] | BASELINE | {"label": ELSEWHERE})
        draw(axes, scheme, look_of[scheme] | OWN | _named(scheme))
        detail(axes, scheme, look_of[scheme])
        title = scheme
        if scheme in best:
            rate, also = best[scheme]
            title += f", rate {rate:g}"
            if also is not None:
                title += f", {records.attrs['also']} {also:g}"
        name_panel(axes, title, look_of[scheme])
    for axes in _lowest(panels):
        axes.set_xlabel(xlabel)
        axes.tick_params(labelbottom=True)  # also above a panel that is hidden
    figure.supylabel(ylabel, fontsize=9)
    shown: dict[str, Look] = {"the panel's scheme": {"color": "black"} | OWN}
    if baseline in schemes:
        shown[f"baseline, {baseline}"] = look_of[baseline] | BASELINE
    shown |= {"the other schemes": OTHERS} | extra
    lines = {name: Line2D([], [], **line) for name, line in shown.items()}
    legend(figure, lines)
    return figure, panels


def _named(name: str) -> Look:
    """What gives a line its name in the numbers of the figure; legends have their own."""
    return {"label": as_text(name)}


def _lowest(panels: Sequence["Axes"]) -> Sequence["Axes"]:
    """The panels that have none below them: the last of each column."""
    columns = min(MOST_COLUMNS, len(panels))
    return panels[-columns:]


def _epoch_axis(axes: "Axes", records: xr.Dataset) -> None:
    """Epochs on a log scale, from the first evaluation to the budget."""
    first = 1 / records.attrs["evaluations_per_epoch"]
    axes.set(xscale="log", xlim=(first * 0.9, records.attrs["budget"] * 1.1))
    log_ticks(axes)


def _headline(figure: "Figure", records: xr.Dataset, title: str, note: str) -> None:
    """What the figure shows, in which setting, and how to read it."""
    about = records.attrs
    sign = "≥" if about["higher_is_better"] else "≤"
    setting = f"{about['model']}, {about['hidden']} units, {about['task']}, {about['optimizer']}"
    target = f"target: {about['metric_name']} {sign} {about['target']:.4g}"
    heading(figure, as_text(f"{title}\n{setting}; {target}\n{note}"))
