"""Figures of studies, from records and their statistics only: small multiples, one panel a scheme,
readable in grey.

Each panel shows one scheme in black over all the others in light grey; the baseline is dashed
everywhere.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from jaxinit.analysis import survival, table
from jaxinit.analysis.figure import MOST_COLUMNS, as_text, heading, save, small_multiples, style
from jaxinit.analysis.outcome import LOST, Outcome
from jaxinit.analysis.records import schemes_of, select
from jaxinit.analysis.table import SettingRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# How lines look, as arguments of `plot`: the panel's own scheme, the baseline, all others.
OWN = {"color": "black", "linewidth": 1.8, "zorder": 3}
BASELINE = {"color": "0.35", "linewidth": 1.3, "linestyle": (0, (4, 2)), "zorder": 2}
OTHERS = {"color": "0.8", "linewidth": 0.9, "zorder": 1}
BAND = {"color": "0.55", "alpha": 0.35, "linewidth": 0, "zorder": 2}
TARGET = {"color": "0.35", "linewidth": 1.0, "linestyle": ":", "zorder": 2}

# How a trial ended, as a mark and its face.
MARKS: dict[Outcome, tuple[str | int, str]] = {
    Outcome.CONVERGED: ("o", "black"),
    Outcome.CENSORED: ("^", "white"),
    Outcome.DIVERGED: ("x", "black"),
    Outcome.FAILED: ("x", "white"),
    Outcome.STOPPED: (6, "black"),  # matplotlib.markers.CARETUP: the time is longer
}

# Ticks in a decade of a logarithmic axis, by the ratio of the axis's ends at most: matplotlib's own
# are too few on a short axis and collide on a long one.
FINEST = (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9)
FINE = (1, 1.5, 2, 3, 4, 5, 7)
COARSE = (1, 2, 5)
COARSEST = (1,)
TICKS = ((2.0, FINEST), (6.0, FINE), (60.0, COARSE), (float("inf"), COARSEST))

LEGEND_HEIGHT = 0.28  # inches below the panels
HEADLINE_HEIGHT = 0.68  # and above them

Draw = Callable[["Axes", str, dict], None]


def draw_all(records: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that the records can fill, as PNG and SVG in `folder`; the paths of the PNGs.

    Where another setting is searched beside the rate, they show each scheme at its best value of
    it.
    """
    records = table.at_best_value(records)
    figures: dict[str, Callable[[xr.Dataset], Figure]] = {}
    if len(set(records.lr.values)) > 1:
        figures["epochs_by_rate"] = epochs_by_rate
    if table.reported(records):
        figures |= {"share_converged": share_converged, "learning_curves": learning_curves}
    with style():
        return [save(draw(records), folder, name) for name, draw in figures.items()]


def share_converged(records: xr.Dataset) -> "Figure":
    """Share of trials that have reached the target against epochs (1 - Kaplan-Meier), with its 95 %
    band."""
    curves = {}
    for scheme in table.reported(records):
        curves[scheme] = survival.kaplan_meier(table.times_reported(records, scheme))

    def draw(axes: "Axes", scheme: str, line: dict) -> None:
        # The last step goes on to the budget.
        time, share, low, high = (np.append(curve, curve[-1]) for curve in curves[scheme])
        time[-1] = records.attrs["budget"]
        axes.step(time, share, where="post", **line)
        if line is OWN:
            axes.fill_between(time, low, high, step="post", **BAND)

    figure, panels = _panels(records, draw, "share of trials converged", "epochs")
    for axes in panels:
        _epoch_axis(axes, records)
        axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
    note = "1 - Kaplan-Meier; band: 95 %, pointwise"
    _headline(figure, records, "Who has converged by when", note)
    return figure


def epochs_by_rate(records: xr.Dataset) -> "Figure":
    """Restricted mean epochs to target against the learning rate, with every trial as a dot.

    A trial that the search stopped is marked where it was stopped, which is a lower bound; the line
    leaves out rates whose trials all were.
    """
    horizon = records.attrs["budget"]
    rates = np.unique(records.lr.values)
    curves = {}
    for name in schemes_of(records):
        trials = select(records, name)
        trials = trials.isel(trial=np.flatnonzero(trials.outcome.values != Outcome.STOPPED))
        tried = np.unique(trials.lr.values)
        means = []
        for rate in tried:
            times = _times_drawn(select(trials, name, lr=rate), horizon)
            means.append(np.minimum(times, horizon).mean())
        curves[name] = tried, means

    def draw(axes: "Axes", scheme: str, line: dict) -> None:
        axes.plot(*curves[scheme], **line)
        if line is not OWN:
            return
        trials = select(records, scheme)
        _draw_trials(axes, trials, horizon)
        if (trials.outcome.values == Outcome.CONVERGED).any():
            for sample in table.samples_of(records, scheme):
                axes.axvline(sample.rate, color="0.35", linewidth=0.8, zorder=1)

    xlabel = f"learning rate ({records.attrs['optimizer']})"
    figure, panels = _panels(records, draw, "epochs to target", xlabel)
    for axes in panels:
        axes.set(
            xscale="log", ylim=(0, horizon * 1.04), xlim=(rates.min() / 1.5, rates.max() * 1.5)
        )
        _ticks_by_span(axes)
    note = (
        "● converged   △ not within the budget   × diverged   ▴ stopped: another rate was better   "
        "│ reported"
    )
    _headline(figure, records, "Each scheme at every learning rate that was tried", note)
    return figure


def _draw_trials(axes: "Axes", trials: xr.Dataset, horizon: float) -> None:
    """Every trial of a scheme as a mark at its time, a diverged one at the budget."""
    outcomes = trials.outcome.values
    times = _times_drawn(trials, horizon)
    for outcome, (marker, face) in MARKS.items():
        chosen = outcomes == outcome
        if not chosen.any():
            continue
        axes.plot(
            trials.lr.values[chosen],
            times[chosen],
            linestyle="none",
            marker=marker,
            color="black",
            mfc=face,
            mew=0.9,
            ms=4.5,
            zorder=4,
            clip_on=False,  # marks at the budget lie on the edge
        )


def _times_drawn(trials: xr.Dataset, horizon: float) -> np.ndarray:
    """When each trial ended, one that is lost at the budget."""
    lost = np.isin(trials.outcome.values, LOST)
    return np.where(lost, horizon, trials.last_epoch.values)


def learning_curves(records: xr.Dataset) -> "Figure":
    """Median validation metric against epochs on the reporting seeds, with the range over seeds as
    a band.

    A trial that has ended keeps its last value, and the curve stops when the last of them ends.
    """
    rates = table.reported(records)
    epoch = records.epoch.values

    def draw(axes: "Axes", scheme: str, line: dict) -> None:
        metric = _held_metric(select(records, scheme, "report", rates[scheme]))
        end = metric.shape[1]
        if not end:  # no trial could be run
            return
        median = np.median(metric, axis=0)
        axes.plot(epoch[:end], median, **line)
        if line is OWN:
            axes.fill_between(epoch[:end], metric.min(axis=0), metric.max(axis=0), **BAND)
            axes.plot(epoch[end - 1], median[-1], "o", color="black", markersize=4, zorder=4)

    figure, panels = _panels(records, draw, as_text(records.attrs["metric_name"]), "epochs")
    for axes in panels:
        axes.axhline(records.attrs["target"], **TARGET)
        _epoch_axis(axes, records)
        if records.attrs["higher_is_better"]:
            axes.set_ylim(0, 1.03)
        else:
            axes.set_yscale("log")
    note = "median and range over seeds; a curve ends (●) when its last seed has ended"
    _headline(figure, records, "Learning curves at each scheme's best rate", note, has_target=True)
    return figure


def _held_metric(trials: xr.Dataset) -> np.ndarray:
    """The metric of trials that ran, each held at its last value until the last has ended:
    `[trial, evaluation]`."""
    ends = np.rint(trials.last_epoch.values * trials.attrs["evaluations_per_epoch"]).astype(int)
    ran = ends > 0
    ends = ends[ran]
    metric = trials.metric.transpose("trial", "epoch").values[ran]
    evaluations = np.minimum(np.arange(ends.max(initial=0)), ends[:, None] - 1)
    return np.take_along_axis(metric, evaluations, axis=1)


def forest(rows: Sequence[SettingRow], title: str) -> "Figure":
    """Epochs to target of every scheme, a panel for each setting, with 95 % intervals and how many
    trials converged.

    Filled: all trials converged; open: some did not, and the mean is a lower bound; beside it how
    many of how many.
    """
    settings: dict[str, list[SettingRow]] = {}
    for row in rows:
        settings.setdefault(row["setting"], []).append(row)
    most = max(map(len, settings.values()))
    figure, panels = small_multiples(
        len(settings), panel=(4.0, 0.75 + 0.2 * most), margin=(1.2, 0.7), least_width=8.5
    )
    for axes, (setting, its_rows) in zip(panels, settings.items(), strict=True):
        # The first row is the fastest, and y grows upwards.
        upwards = its_rows[::-1]
        for y, row in enumerate(upwards):
            _draw_row(axes, y, row)
        names = [as_text(row["scheme"]) for row in upwards]
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set(
            title=as_text(setting),
            xscale="log",
            xlabel="epochs to target",
            ylim=(-0.6, len(names) - 0.4),
        )
        _ticks_by_span(axes)
        axes.grid(axis="x", color="0.9", linewidth=0.7)
    counts = sorted({row["seeds"] for row in rows})
    n = " or ".join(map(str, counts))
    text = (
        f"{as_text(title)}\nrestricted mean up to the budget, 95 % interval, n = {n} seeds, each "
        "scheme at its own best rate; right: how many converged\nopen: some did not converge, so "
        "the mean is a lower bound"
    )
    heading(figure, text, size=8)
    return figure


def _draw_row(axes: "Axes", y: int, row: SettingRow) -> None:
    """A scheme's mean and interval at height y, and at the right how many trials converged."""
    if row["epochs_low"] is not None and row["epochs_high"] is not None:
        interval = [row["epochs_low"], row["epochs_high"]]
        axes.plot(interval, [y, y], color="0.5", linewidth=1.4, zorder=1)
    face = "black" if row["converged"] == row["seeds"] else "white"
    axes.plot(row["epochs"], y, "o", color="black", mfc=face, ms=4.5, zorder=2)
    axes.annotate(
        f"{row['converged']}/{row['seeds']}",
        (1.01, y),
        xycoords=("axes fraction", "data"),
        fontsize=6.5,
        va="center",
        color="0.25",
    )


def _ticks_by_span(axes: "Axes") -> None:
    """Ticks of a logarithmic x axis, the finer the less it spans."""
    low, high = axes.get_xlim()
    for most, steps in TICKS:
        if high / low <= most:
            _log_ticks(axes, low, high, steps)
            return


def _log_ticks(axes: "Axes", low: float, high: float, steps: Sequence[float]) -> None:
    """Ticks of a logarithmic x axis from `low` to `high`, at the given steps of every decade."""
    ticks = []
    for power in range(-3, 6):
        for step in steps:
            tick = step * 10.0**power
            if low <= tick <= high:
                ticks.append(tick)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


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
    records: xr.Dataset, draw: Draw, ylabel: str, xlabel: str
) -> tuple["Figure", list["Axes"]]:
    """One panel a scheme on shared axes, the fastest first.

    `draw(axes, scheme, line)` is called for the others, the baseline, and the panel's own scheme,
    which lies above all.
    """
    schemes = _by_speed(records)
    best = table.best_points(records)
    baseline = records.attrs["baseline"]
    figure, panels = small_multiples(
        len(schemes), panel=(2.6, 1.8), margin=(0.6, 1.2), least_width=5.6, shared=True
    )
    for axes, scheme in zip(panels, schemes, strict=True):
        for other in schemes:
            if other not in (scheme, baseline):
                draw(axes, other, OTHERS)
        if baseline in schemes and scheme != baseline:
            draw(axes, baseline, BASELINE)
        draw(axes, scheme, OWN)
        title = scheme
        if scheme in best:
            rate, also = best[scheme]
            title += f", rate {rate:g}"
            if also is not None:
                title += f", {records.attrs['also']} {also:g}"
        axes.set_title(as_text(title), fontsize=9, loc="left")
    for axes in _lowest(panels):
        axes.set_xlabel(xlabel)
        axes.tick_params(labelbottom=True)  # also above a panel that is hidden
    figure.supylabel(ylabel, fontsize=9)
    return figure, panels


def _lowest(panels: Sequence["Axes"]) -> Sequence["Axes"]:
    """The panels that have none below them: the last of each column."""
    columns = min(MOST_COLUMNS, len(panels))
    return panels[-columns:]


def _epoch_axis(axes: "Axes", records: xr.Dataset) -> None:
    """Epochs on a log scale, from the first evaluation to the budget."""
    first = 1 / records.attrs["evaluations_per_epoch"]
    last = records.attrs["budget"]
    axes.set(xscale="log", xlim=(first * 0.9, last * 1.05))
    _log_ticks(axes, first, last, COARSE)


def _headline(
    figure: "Figure", records: xr.Dataset, title: str, note: str, has_target: bool = False
) -> None:
    """What the figure shows, in which setting, and how to read it; then the layout, once for all
    formats."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    about = records.attrs
    sign = "≥" if about["higher_is_better"] else "≤"
    setting = f"{about['model']}, {about['hidden']} units, {about['task']}, {about['optimizer']}"
    target = f"target: {about['metric_name']} {sign} {about['target']:.4g}"
    text = as_text(f"{setting}; {target}\n{note}")
    inch = 1 / figure.get_figheight()  # in fractions of the figure, as all below
    figure.text(0.02, 1 - 0.08 * inch, title, fontsize=11, va="top")
    figure.text(0.02, 1 - 0.33 * inch, text, fontsize=8, va="top", color="0.25")
    lines = {
        "this scheme": OWN,
        f"baseline, {about['baseline']}": BASELINE,
        "the other schemes": OTHERS,
    }
    if has_target:
        lines["target"] = TARGET
    figure.legend(
        [Line2D([], [], **line) for line in lines.values()],
        [as_text(label) for label in lines],
        loc="lower left",
        ncols=len(lines),
        frameon=False,
        fontsize=8,
        bbox_to_anchor=(0.01, 0),
    )
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    height = 1 - (LEGEND_HEIGHT + HEADLINE_HEIGHT) * inch
    layout.set(rect=(0, LEGEND_HEIGHT * inch, 1, height))
    layout.execute(figure)
    figure.set_layout_engine("none")
