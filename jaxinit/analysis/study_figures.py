"""Figures, from records and their statistics only: small multiples, one panel a scheme, readable in
grey.

Each panel shows one scheme in black over all the others in light grey; the baseline is dashed
everywhere.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from jaxinit.analysis import survival, table
from jaxinit.analysis.figure import as_text, save, style
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.table import SettingRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN = {"color": "black", "linewidth": 1.8, "zorder": 3}
BASELINE = {"color": "0.35", "linewidth": 1.3, "linestyle": (0, (4, 2)), "zorder": 2}
OTHERS = {"color": "0.8", "linewidth": 0.9, "zorder": 1}
BAND = {"color": "0.55", "alpha": 0.35, "linewidth": 0, "zorder": 2}
TARGET = {"color": "0.35", "linewidth": 1.0, "linestyle": ":", "zorder": 2}

TICKS = (  # of a logarithmic axis, by the ratio of its ends at most
    (
        2.0,
        (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9),
    ),
    (6.0, (1, 1.5, 2, 3, 4, 5, 7)),
    (60.0, (1, 2, 5)),
    (float("inf"), (1,)),
)

Draw = Callable[["Axes", str, dict], None]


def draw_all(records: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that the records can fill, as PNG and SVG in `folder`; the paths of the PNGs."""
    figures: dict[str, Callable[[xr.Dataset], Figure]] = {}
    if table.tuned(records) and len(records.lr) > 1:
        figures["epochs_by_rate"] = epochs_by_rate
    if table.reported(records):
        figures |= {"share_converged": share_converged, "learning_curves": learning_curves}
    with style():
        return [save(draw(records), folder, name) for name, draw in figures.items()]


def share_converged(records: xr.Dataset) -> "Figure":
    """Share of trials that have reached the target against epochs (1 - Kaplan-Meier), with its 95 %
    band."""
    rates = table.reported(records)
    horizon = records.attrs["budget"]
    curves = {
        scheme: survival.kaplan_meier(table.times_of(records, scheme, lr, "report"))
        for scheme, lr in rates.items()
    }

    def draw(axes: "Axes", scheme: str, line: dict) -> None:
        time, share, low, high = (np.append(curve, curve[-1]) for curve in curves[scheme])
        time[-1] = horizon
        axes.step(time, share, where="post", **line)
        if line is OWN:
            axes.fill_between(time, low, high, step="post", **BAND)

    figure, panels = _panels(
        records, _by_speed(records), draw, "share of trials converged", "epochs"
    )
    for axes in panels:
        _epoch_axis(axes, records)
        axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
    _headline(
        figure,
        records,
        "Who has converged by when",
        "1 - Kaplan-Meier; band: 95 %, pointwise",
        has_target=False,
    )
    return figure


def epochs_by_rate(records: xr.Dataset) -> "Figure":
    """Restricted mean epochs to target against the learning rate on the tuning seeds, with every
    trial as a dot."""
    horizon, rates = records.attrs["budget"], records.lr.values
    schemes = [str(s) for s in records.scheme.values]
    effort = {
        s: [survival.restricted_mean(table.times_of(records, s, r, "tune"), horizon) for r in rates]
        for s in schemes
    }
    tuning = records.isel(seed=np.flatnonzero(records.phase.values == "tune"))
    marks = {
        Outcome.CONVERGED: ("o", "black"),
        Outcome.CENSORED: ("^", "white"),
        Outcome.DIVERGED: ("x", "black"),
    }

    def draw(axes: "Axes", scheme: str, line: dict) -> None:
        axes.plot(rates, effort[scheme], **line)
        if line is not OWN:
            return
        trials = tuning.sel(scheme=scheme)
        for outcome, (marker, face) in marks.items():
            where = trials.outcome.values == outcome
            if not where.any():
                continue
            epochs = (
                trials.last_epoch.values
                if outcome != Outcome.DIVERGED
                else np.full(where.shape, horizon)
            )
            at = np.broadcast_to(rates[:, None], where.shape)[where]
            axes.plot(
                at,
                epochs[where],
                marker,
                color="black",
                mfc=face,
                mew=0.9,
                ms=4.5,
                zorder=4,
                clip_on=False,
            )
        if (trials.outcome.values == Outcome.CONVERGED).any():
            axes.axvline(table.best_rate(records, scheme), color="0.35", linewidth=0.8, zorder=1)

    figure, panels = _panels(
        records,
        _by_speed(records),
        draw,
        "epochs to target",
        f"learning rate ({records.attrs['optimizer']})",
    )
    for axes in panels:
        axes.set(
            xscale="log", ylim=(0, horizon * 1.04), xlim=(rates.min() / 1.5, rates.max() * 1.5)
        )
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
    seeds = len(tuning.seed)
    text = (
        f"tuning seeds ({seeds}): ● converged   △ not within the budget   × diverged   │ rate "
        "chosen"
    )
    _headline(figure, records, "Each scheme at every learning rate", text)
    return figure


def learning_curves(records: xr.Dataset) -> "Figure":
    """Median validation metric against epochs on the reporting seeds, with the range over seeds as
    a band.

    A trial that has ended keeps its last value, and the curve stops when the last of them ends.
    """
    rates = table.reported(records)
    report = records.isel(seed=np.flatnonzero(records.phase.values == "report"))
    epoch = records.epoch.values

    def draw(axes: "Axes", scheme: str, line: dict) -> None:
        mine = report.sel(scheme=scheme, lr=rates[scheme])
        ends = np.rint(mine.last_epoch.values * records.attrs["evaluations_per_epoch"]).astype(int)
        metric = mine.metric.transpose("seed", "epoch").values[ends > 0]
        ends = ends[ends > 0]
        last = ends.max()
        held = np.take_along_axis(metric, np.minimum(np.arange(last), ends[:, None] - 1), axis=1)
        axes.plot(epoch[:last], np.median(held, axis=0), **line)
        if line is OWN:
            axes.fill_between(epoch[:last], held.min(axis=0), held.max(axis=0), **BAND)
            axes.plot(
                epoch[last - 1], np.median(held[:, -1]), "o", color="black", markersize=4, zorder=4
            )

    figure, panels = _panels(
        records, _by_speed(records), draw, as_text(records.attrs["metric_name"]), "epochs"
    )
    for axes in panels:
        axes.axhline(records.attrs["target"], **TARGET)
        _epoch_axis(axes, records)
        if records.attrs["higher_is_better"]:
            axes.set_ylim(0, 1.03)
        else:
            axes.set_yscale("log")
    _headline(
        figure,
        records,
        "Learning curves at each scheme's best rate",
        "median and range over seeds; a curve ends (●) when its last seed has ended",
        has_target=True,
    )
    return figure


def forest(rows: Sequence[SettingRow], title: str) -> "Figure":
    """Epochs to target of every scheme, a panel for each `cell`, with 95 % intervals and the trials
    that arrived.

    Filled: all trials arrived; open: some did not, and the mean is a lower bound; beside it how
    many of how many.
    """
    import matplotlib.pyplot as plt

    cells = list(dict.fromkeys(row["cell"] for row in rows))
    by_cell = {cell: [row for row in rows if row["cell"] == cell] for cell in cells}
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    most = max(map(len, by_cell.values()))
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(max(1.2 + 4.0 * columns, 8.5), 0.7 + lines * (0.75 + 0.2 * most)),
        layout="constrained",
        squeeze=False,
    )
    for axes, cell in zip(grid.flat, cells, strict=False):
        for y, row in enumerate(reversed(by_cell[cell])):
            whole = row["converged"] == row["seeds"]
            if row["epochs_low"] is not None:
                axes.plot(
                    [row["epochs_low"], row["epochs_high"]],
                    [y, y],
                    color="0.5",
                    linewidth=1.4,
                    zorder=1,
                )
            axes.plot(
                row["epochs"],
                y,
                "o",
                color="black",
                mfc="black" if whole else "white",
                ms=4.5,
                zorder=2,
            )
            axes.annotate(
                f"{row['converged']}/{row['seeds']}",
                (1.01, y),
                xycoords=("axes fraction", "data"),
                fontsize=6.5,
                va="center",
                color="0.25",
            )
        axes.set_yticks(
            range(len(by_cell[cell])),
            [as_text(row["scheme"]) for row in reversed(by_cell[cell])],
            fontsize=7,
        )
        axes.set(
            title=as_text(cell),
            xscale="log",
            xlabel="epochs to target",
            ylim=(-0.6, len(by_cell[cell]) - 0.4),
        )
        low, high = axes.get_xlim()
        fine = next(steps for most, steps in TICKS if high / low <= most)
        shown = [
            k * 10.0**power
            for power in range(-2, 5)
            for k in fine
            if low <= k * 10.0**power <= high
        ]
        axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axes.minorticks_off()
        axes.grid(axis="x", color="0.9", linewidth=0.7)
    for axes in list(grid.flat)[len(cells) :]:
        axes.set_visible(False)
    seeds = sorted({row["seeds"] for row in rows})
    n = " or ".join(map(str, seeds))
    figure.suptitle(
        f"{as_text(title)}\nrestricted mean up to the budget, 95 % interval, n = {n} seeds, each "
        "scheme at its own best rate; right: how many arrived\nopen: some did not arrive, so the "
        "mean is a lower bound",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return figure


def _by_speed(records: xr.Dataset) -> list[str]:
    """The schemes that have something to show, the fastest first."""
    rates, horizon = table.reported(records), records.attrs["budget"]
    effort = {
        s: survival.restricted_mean(table.times_of(records, s, lr, "report"), horizon)
        for s, lr in rates.items()
    }
    return sorted(effort, key=lambda s: (effort[s], s)) or [
        str(scheme) for scheme in records.scheme.values
    ]


def _panels(
    records: xr.Dataset, schemes: list[str], draw: Draw, y: str, x: str
) -> tuple["Figure", list["Axes"]]:
    """One panel a scheme on shared axes; `draw(axes, scheme, line)` is called for the others, the
    baseline, its own."""
    import matplotlib.pyplot as plt

    columns = min(3, len(schemes))
    rows = -(-len(schemes) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(2.6 * columns + 0.6, 5.6), 1.8 * rows + 1.2),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    rates, baseline = table.reported(records), records.attrs["baseline"]
    panels = list(grid.flat)
    for axes, scheme in zip(panels, schemes, strict=False):
        for other in schemes:
            if other not in (scheme, baseline):
                draw(axes, other, OTHERS)
        if baseline in schemes and scheme != baseline:
            draw(axes, baseline, BASELINE)
        draw(axes, scheme, OWN)
        rate = f", rate {rates[scheme]:g}" if scheme in rates else ""
        axes.set_title(as_text(f"{scheme}{rate}"), fontsize=9, loc="left")
    for axes in panels[len(schemes) :]:
        axes.set_visible(False)
    for k, axes in enumerate(panels[: len(schemes)]):
        if k + columns >= len(schemes):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
    figure.supylabel(y, fontsize=9)
    return figure, panels[: len(schemes)]


def _epoch_axis(axes: "Axes", records: xr.Dataset) -> None:
    """Epochs on a log scale, from the first evaluation to the budget."""
    first, last = 1 / records.attrs["evaluations_per_epoch"], records.attrs["budget"]
    axes.set(xscale="log", xlim=(first * 0.9, last * 1.05))
    ticks = [tick * 10.0**power for power in range(-3, 6) for tick in (1, 2, 5)]
    shown = [tick for tick in ticks if first <= tick <= last]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()


def _headline(
    figure: "Figure", records: xr.Dataset, title: str, note: str, has_target: bool = False
) -> None:
    """What the figure shows, of which cell, and how to read it; then the layout, once for all
    formats."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    a, inch = records.attrs, 1 / figure.get_figheight()
    sign = "≥" if a["higher_is_better"] else "≤"
    cell = f"{a['model']}, {a['hidden']} units, {a['task']}, {a['optimizer']}"
    target = f"target: {a['metric_name']} {sign} {a['target']:.4g}"
    figure.text(0.02, 1 - 0.08 * inch, title, fontsize=11, va="top")
    figure.text(
        0.02,
        1 - 0.33 * inch,
        as_text(f"{cell}; {target}\n{note}"),
        fontsize=8,
        va="top",
        color="0.25",
    )
    handles = [Line2D([], [], **OWN), Line2D([], [], **BASELINE), Line2D([], [], **OTHERS)]
    labels = ["this scheme", as_text(f"baseline, {a['baseline']}"), "the other schemes"]
    if has_target:
        handles.append(Line2D([], [], **TARGET))
        labels.append("target")
    figure.legend(
        handles,
        labels,
        loc="lower left",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        bbox_to_anchor=(0.01, 0),
    )
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    layout.set(rect=(0, 0.28 * inch, 1, 1 - (0.28 + 0.68) * inch))
    layout.execute(figure)
    figure.set_layout_engine("none")
