"""What the experiments share: their command line, studies run one after another, rows, claims,
summary and figure.

sizes -> studies -> results -> rows and claims -> summary.json, figures
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from jaxinit.analysis import store, survival, table
from jaxinit.analysis.claims import Claim, make_claim, no_verdicts, ratio_claim
from jaxinit.analysis.figure import as_text, save, style
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.analysis.report import print_claims, print_rows
from jaxinit.analysis.store import Result
from jaxinit.analysis.study_figures import forest
from jaxinit.analysis.table import SettingRow
from jaxinit.console import exit_code
from jaxinit.study import Interrupted, Study

if TYPE_CHECKING:
    from jaxinit.spec import Scheme
    from jaxinit.tasks import Task

Results = dict[str, Result]


@dataclass(frozen=True)
class Settings:
    """What every experiment is asked."""

    size: Literal["smoke", "quick", "paper"] = "quick"
    """smoke: seconds, checks that all of it works, no verdicts; quick: minutes on two cores; paper:
    an accelerator."""
    out: Path | None = None
    """Folder of the results. Default: results/<name>-<size>."""


def main_of(
    name: str, about: str | None, sizes: Mapping[str, Any], carry_out: Callable[[Any, Path], int]
) -> Any:
    """The `main(argv)` of an experiment: `carry_out(sizes[size], folder)` with an exit code.

    `about` is its docstring, which `--help` shows. At size smoke no claim gets a verdict: so little
    says nothing.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        settings = tyro.cli(Settings, args=argv, prog=name, description=about)
        out = settings.out or Path("results") / f"{name}-{settings.size}"

        def alone() -> int:
            folder = Folder(out)
            with folder.locked():
                folder.write("experiment", {"experiment": name, "size": settings.size}, {})
                return carry_out(sizes[settings.size], out)

        with no_verdicts() if settings.size == "smoke" else nullcontext():
            return exit_code(alone)

    return main


def run_all(
    studies: Mapping[str, Study],
    out: Path,
    *,
    schemes: "Mapping[str, Scheme] | None" = None,
    tasks: "Mapping[str, Callable[..., Task]] | None" = None,
    models: Mapping[str, Callable[..., Any]] | None = None,
    signals: int = 0,
) -> Results:
    """Run studies one after another on all cores, each in a folder of its own below `out`.

    What is complete already is read. Raises: Interrupted when one was stopped.
    """
    from jaxinit.engine import campaign, sweep

    sweep.one_device_per_core()
    sweep.keep_compilations()
    results = {}
    for k, (name, study) in enumerate(studies.items()):
        print(f"{k + 1}/{len(studies)} {name}", file=sys.stderr)
        folder = out / "".join(
            letter if letter.isalnum() or letter in "-.=" else "_" for letter in name
        )
        results[name] = campaign.run(
            study, out=folder, schemes=schemes, tasks=tasks, models=models, signals=signals
        )
        if not results[name].complete:
            raise Interrupted
        if results[name].read_back:
            print(f"  read from {folder}, {results[name].origin}", file=sys.stderr)
    return results


def write_summary(out: Path, content: Mapping[str, Any]) -> None:
    """Write an experiment's summary.json into its folder, which `main_of` has locked."""
    Folder(out).write("experiment", {}, {store.SUMMARY: to_json(content)})


def rows_of(results: Results) -> list[SettingRow]:
    """The tables of all studies, one below the other, each row with the name of its `cell`."""
    rows = []
    for name, result in results.items():
        for row in result.summary["table"]:
            rows.append(SettingRow(cell=name, **row))
    return rows


def as_one(results: Results, cell: str, baseline: str) -> list[SettingRow]:
    """The rows of studies with one scheme each as those of one `cell`: named by their study, the
    fastest first.

    Ratios are against the study `baseline`, as in `table.make_table` but for the log-rank test.
    """
    scheme = lambda name: results[name].study.schemes[0]
    against = times(results[baseline], scheme(baseline))
    horizon = float(results[baseline].study.epochs)
    rows = []
    for row, name in zip(rows_of(results), results, strict=True):
        ratio = survival.compare(against, times(results[name], scheme(name)), horizon)
        row["cell"] = cell
        row["scheme"] = name
        row["drawn_by"] = scheme(name)
        row["baseline"] = baseline
        row["ratio"] = ratio.value
        row["ratio_low"] = ratio.low
        row["ratio_high"] = ratio.high
        row["ratio_is"] = ratio.bound if name != baseline else "="
        row["p_holm"] = None
        rows.append(row)
    return sorted(rows, key=table.by_speed)


def times(result: Result, scheme: str) -> survival.Times:
    """The times to target of the reporting seeds of a scheme at its best rate."""
    return table.times_of(result.records, scheme, table.reported(result.records)[scheme], "report")


def best(result: Result, scheme: str) -> np.ndarray:
    """The best metric that each reporting seed of a scheme reached, at its best rate: `[seed]`.

    A trial that diverged keeps what it had reached; one that never had a finite metric counts as
    the chance level.
    """
    records = result.records
    of = records.metric.sel(scheme=scheme, lr=table.reported(records)[scheme])
    values = (
        of.isel(seed=np.flatnonzero(records.phase.values == "report"))
        .transpose("seed", "epoch")
        .values
    )
    higher = records.attrs["higher_is_better"]
    finite = np.where(np.isfinite(values), values, -np.inf if higher else np.inf)
    found = finite.max(1) if higher else finite.min(1)
    return np.where(np.isfinite(found), found, records.attrs["chance"])


def faster(
    name: str,
    what: str,
    results: tuple[Result, str],
    against: tuple[Result, str],
    published: str,
    band: tuple[float, float],
    note: str = "",
) -> Claim:
    """The claim that one (result, scheme) needs so many times fewer epochs than another, each at
    its best rate."""
    pair = times(*against), times(*results)
    horizon = float(min(results[0].study.epochs, against[0].study.epochs))
    return ratio_claim(name, what, *pair, horizon, published, band, note)


def lower_rate(result: Result, scheme: str, what: str) -> Claim:
    """C5: the best metric of a scheme at its best rate less that at ten times it (or the nearest),
    on tuning seeds."""
    records = result.records
    rates, rate = records.lr.values, table.best_rate(records, scheme)
    high = float(rates[np.abs(np.log(rates / (10 * rate))).argmin()])
    tuning = (
        records.sel(scheme=scheme)
        .isel(seed=np.flatnonzero(records.phase.values == "tune"))
        .metric.max("epoch")
    )
    gap = tuning.sel(lr=rate).values - tuning.sel(lr=high).values
    note = f"{len(gap)} tuning seed(s)" + ("; no higher rate in the grid" if high <= rate else "")
    statement = (
        f"{what}: best accuracy of the {scheme} start at its best rate, {rate:g}, less that at "
        f"{high:g}"
    )
    value = gap if len(gap) > 1 else float(gap[0])
    return make_claim("C5", statement, value, "a lower rate helps", (0.01, 1.0), note)


def losses(result: Result, scheme: str) -> np.ndarray:
    """The last training loss by rate and tuning seed; where a trial diverged, the worst of all:
    `[lr, seed]`."""
    records = result.records.sel(scheme=scheme)
    of = records.train_loss.isel(seed=np.flatnonzero(records.phase.values == "tune"), epoch=-1)
    values = of.transpose("lr", "seed").values
    return np.where(np.isfinite(values), values, np.nanmax(values))


def optimum(result: Result, scheme: str) -> np.ndarray:
    """log2 of the best rate of every tuning seed, by a parabola through the best rate and its
    neighbours: `[seed]`."""
    rates = np.log2(result.records.lr.values)
    found = []
    for course in np.log(losses(result, scheme)).T:
        k = int(np.clip(course.argmin(), 1, len(rates) - 2))
        a, b, _ = np.polyfit(rates[k - 1 : k + 2], course[k - 1 : k + 2], 2)
        top = -b / (2 * a) if a > 0 else rates[course.argmin()]
        found.append(float(np.clip(top, rates[0], rates[-1])))
    return np.asarray(found)


def draw_transfer(results: Results, title: str, folder: Path) -> None:
    """The training loss against the rate, a panel for each scheme, a line for each study (a width,
    or a depth)."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.signal_figures import MARKS

    first = next(iter(results.values()))
    schemes, rates = first.study.schemes, first.records.lr.values
    with style():
        figure, panels = plt.subplots(
            1,
            len(schemes),
            figsize=(1.5 + 3.2 * len(schemes), 3.4),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
        for axes, scheme in zip(panels[0], schemes, strict=True):
            for k, (name, result) in enumerate(results.items()):
                of, grey = losses(result, scheme), str(0.6 * k / max(len(results) - 1, 1))
                axes.plot(
                    rates,
                    of.mean(1),
                    color=grey,
                    marker=MARKS[k],
                    markersize=4,
                    linewidth=1,
                    label=name,
                )
                axes.fill_between(rates, of.min(1), of.max(1), color=grey, alpha=0.2, linewidth=0)
            axes.set(xscale="log", yscale="log", xlabel=f"learning rate ({first.study.optimizer})")
            axes.set_title(as_text(scheme))
        panels[0][0].set_ylabel("training loss")
        panels[0][0].legend(frameon=False, fontsize=7)
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        save(figure, folder, "transfer")


def finish(
    out: Path,
    rows: list[SettingRow],
    claims: list[Claim],
    studies: Mapping[str, Study],
    title: str = "",
    **more: Any,
) -> int:
    """Write summary.json, draw the rows, print both, and say where they are; the exit code.

    `rows` is empty where epochs to a target are not the question.
    """
    shown = {name: study.plain() for name, study in studies.items()}
    write_summary(out, {"table": rows, "claims": claims, "studies": shown, **more})
    if rows:
        with style():
            save(forest(rows, title), out / "figures", "epochs")
        print_rows(rows)
    print_claims(claims)
    print(f"summary, records and figures: {out}")
    return 0
