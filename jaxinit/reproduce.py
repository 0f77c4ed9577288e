"""What the experiments share: their command line, sizes, studies run one after another, claims,
summary and figures.

sizes -> studies -> results -> rows and claims -> summary.json, figures

An experiment's claims are made by `claims.make_claim` (a number) and by `faster` (a ratio of epochs
to the target).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import tyro
from scipy import stats

from jaxinit.analysis import store
from jaxinit.analysis.claims import (
    Band,
    Claim,
    at_least,
    make_claim,
    no_verdicts,
    open_where_failed,
    ratio_claim,
)
from jaxinit.analysis.experiment_page import experiment_page
from jaxinit.analysis.figure import as_text, legend, lines, save, saved_figure, style
from jaxinit.analysis.folder import Folder, folder_name, quoted, to_json
from jaxinit.analysis.interval import compare
from jaxinit.analysis.page import REPORT, write
from jaxinit.analysis.records import by_rate_and_seed, select
from jaxinit.analysis.report import print_claims, print_rows
from jaxinit.analysis.store import Result
from jaxinit.analysis.study_figures import forest
from jaxinit.analysis.survival import LEVEL, Times
from jaxinit.analysis.table import SettingRow, reported, samples_of, speed, times_reported
from jaxinit.cli import start, workers
from jaxinit.console import exit_code, in_one_line
from jaxinit.study import DEFAULTS, RATES, SYNTHETIC, BadStudy, Interrupted, NoDevice, Study

if TYPE_CHECKING:
    from jaxinit.engine.cluster import Cluster
    from jaxinit.finetune.trained import Trained
    from jaxinit.introspect import Functional
    from jaxinit.spec import Scheme
    from jaxinit.tasks import Task

Results = dict[str, Result]
OWN_BAND = "the band is from the project's own trial runs"  # a note of claims


class Run(NamedTuple):
    """A run of an experiment: its name and size, its first seed, when it began (`time.monotonic`),
    and the cluster that its studies may use."""

    experiment: str
    size: str
    first_seed: int
    began: float
    cluster: "Cluster | None" = None


_run: ContextVar[Run | None] = ContextVar("run", default=None)
Side = tuple[Result, str]  # of a comparison: the result of a study, and one of its schemes


# The command line and its sizes.


@dataclass(frozen=True)
class Settings:
    """What every experiment is asked."""

    size: Literal["smoke", "quick", "paper"] = "quick"
    """smoke: seconds, checks that all of it works, no verdicts; quick: minutes on two cores; paper:
    an accelerator."""
    out: Path | None = None
    """Folder of the results. Default: results/<name>-<size>, and -from-<first seed> but for 0."""
    first_seed: int = 0
    """The first seed of every study: another one repeats the experiment with other seeds."""
    quiet: bool = False
    """No progress, only the answer."""
    cluster: str | None = None
    """Train on the workers of a Dask scheduler, tcp://HOST:PORT, or `local` for ones that are
    started here; studies with objects of the experiment's own train in its process."""


def make_main(
    name: str, about: str | None, sizes: Mapping[str, Any], carry_out: Callable[[Any, Path], int]
) -> Any:
    """The `main(argv)` of an experiment: `carry_out(sizes[size], folder)` with an exit code.

    `about` is its docstring, which `--help` shows. At size smoke no claim gets a verdict: so little
    says nothing.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        settings = tyro.cli(Settings, args=argv, prog=name, description=about)
        first = settings.first_seed
        again = f"-from-{first}" if first else ""
        out = settings.out or Path("results") / f"{name}-{settings.size}{again}"

        def alone() -> int:
            from jaxinit.engine import progress

            folder = Folder(out)
            identity = {"experiment": name, "size": settings.size, "first_seed": first}
            with folder.locked():
                folder.write("experiment", identity, {})
                use_all_cores(settings.cluster)
                with (
                    _all_digits(),
                    workers(settings.cluster, "quiet" if settings.quiet else "") as there,
                    progress.work("measuring"),
                ):
                    _run.set(Run(name, settings.size, first, time.monotonic(), there))
                    return carry_out(sizes[settings.size], out)

        judging = no_verdicts() if settings.size == "smoke" else nullcontext()
        with judging:
            return exit_code(alone)

    return main


def _all_digits() -> AbstractContextManager[Any]:
    """Matrix products that are no study's, on any device, as those of studies are by default."""
    import jax

    return jax.default_matmul_precision(DEFAULTS["matmul_precision"])


def use_all_cores(cluster: str | None = None) -> None:
    """What an experiment needs before its first use of JAX: a device per core, and kept
    compilations."""
    start(cluster=cluster)


def smoke(study: Study, **changes: Any) -> Study:
    """A study at smoke size: everything in it runs, and its numbers mean nothing.

    8 units, at most two layers, one rate in the middle, two seeds, one epoch of large batches,
    short sequences where their length is free; `changes` go before these.
    """
    rates = study.lrs or RATES[study.optimizer]
    middle = len(rates) // 2
    small: dict[str, Any] = {
        "search": "grid",
        "hidden": min(study.hidden, 8),
        "layers": min(study.layers, 2),
        "lrs": rates[middle : middle + 1],
        "seeds": 2,
        "tune_seeds": 1,
        "epochs": 1,
        "evaluations": 1,
        "batch": max(study.batch, 64),
    }
    if study.task in SYNTHETIC:  # on text shorter windows would be more of them
        small["length"] = 10
    return replace(study, **small | changes)


# Studies and models.


def alone(study: Study, scheme: str, **changes: Any) -> Study:
    """A study of one scheme, which is its own baseline."""
    return replace(study, schemes=(scheme,), baseline=scheme, **changes)


def seeds_of_run(count: int) -> range:
    """The seeds of a run of an experiment, `--first-seed` the first of them."""
    run = _run.get()
    first = run.first_seed if run is not None else 0
    return range(first, first + count)


def _with_its_seeds(study: Study) -> Study:
    """A study with the seeds that the run asks for."""
    return replace(study, first_seed=study.first_seed + seeds_of_run(1).start)


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

    What is complete already is read. On the run's cluster go those whose schemes, tasks and models
    are all found by name. One that fails costs no other.
    Raises: Interrupted when one was stopped; what failed, by name, when all others have ended.
    """
    from jaxinit.engine import campaign, progress

    run = _run.get()
    by_name = not (schemes or tasks or models or signals)
    cluster = run.cluster if run is not None and by_name else None
    results: dict[str, Result] = {}
    failed: dict[str, Exception] = {}
    for k, (name, study) in enumerate(studies.items()):
        progress.note(f"{k + 1}/{len(studies)} {name}")
        folder = out / folder_name(name)
        try:
            with progress.part(f"study {k + 1} of {len(studies)} ({name})"):
                results[name] = campaign.run(
                    _with_its_seeds(study),
                    out=folder,
                    schemes=schemes,
                    tasks=tasks,
                    models=models,
                    signals=signals,
                    cluster=cluster,
                )
        except (Interrupted, NoDevice, OSError):  # which the next one would meet too
            raise
        except Exception as error:
            if len(studies) == 1:
                raise
            failed[name] = error
            progress.say(f"{name} failed: {in_one_line(error)}")
            continue
        if not results[name].complete:
            raise Interrupted
        if results[name].read_back:
            progress.note(f"  read from {folder}, {results[name].origin}")
    if failed:
        name, first = next(iter(failed.items()))
        kind = BadStudy if isinstance(first, BadStudy) else RuntimeError
        raise kind(
            f"{len(failed)} of {len(studies)} studies failed, the first of them {name} "
            f"({in_one_line(first)}); the others are kept in {out}, and the same command goes on"
        ) from first
    progress.now("claims")
    return results


def short_text() -> "Task":
    """The embedded text in windows of 16, 768 of them an epoch: about a sixth of the usual one.

    The metric is averaged over an epoch before it counts as converged, so that models which learn
    in less than the usual one would all need exactly one.
    """
    from jaxinit.tasks import TASKS

    return replace(TASKS["text"](16), name="short_text", examples=768)


def train_first(
    study: Study, out: Path, tasks: "Mapping[str, Callable[..., Task]] | None" = None
) -> "Trained":
    """The model that an experiment on trained models begins with: `finetune.pretrain`, kept in
    `out`."""
    from jaxinit import finetune
    from jaxinit.finetune import checkpoint

    trained = finetune.pretrain(_with_its_seeds(study), tasks=tasks)
    checkpoint.save_checkpoint(out / "trained.safetensors", trained.values)
    print(f"trained to a {trained.resolved.task.metric_name} of {trained.metric:.3g}")
    return trained


def before_training(
    model: "Functional", scheme: "Scheme", count: int, measure: Callable[[Any], Any]
) -> np.ndarray:
    """`measure(module)`, one or several numbers, of a model as a scheme draws and multiplies it:
    `[seed, ...]`, of so many seeds."""
    import jax

    from jaxinit.engine import progress
    from jaxinit.spec import draw, rules

    by_name = rules(scheme, model.leaves)

    @jax.jit
    def measured(params: Any) -> Any:
        return measure(model.filled(params))

    values = []
    with progress.work("measuring before training", count, "seeds") as measuring:
        for seed in measuring.each(seeds_of_run(count)):
            drawn = draw(scheme, jax.random.key(seed), model.leaves)
            params = {name: w * by_name[name].multiplier for name, w in drawn.items()}
            values.append(jax.tree.map(float, measured(params)))
    return np.asarray(values)


# What is read off results.


def times(result: Result, scheme: str) -> Times:
    """The times to target of the reporting seeds of a scheme at its best rate."""
    return times_reported(result.records, scheme)


def times_to(target: float, courses: np.ndarray, epochs: np.ndarray) -> Times:
    """The times at which courses `[seed, epoch]` of what falls in training first are at a target or
    below."""
    below = courses <= target
    reached = np.any(below, axis=1)
    first = epochs[below.argmax(1)]
    return Times(np.where(reached, first, epochs[-1]), reached)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds, Student's."""
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def best(result: Result, scheme: str) -> np.ndarray:
    """The best metric that each reporting seed of a scheme reached, at its best rate: `[seed]`.

    A trial that diverged keeps what it had reached; one that never had a finite metric counts as
    the chance level.
    """
    records = result.records
    at_best_rate = select(records, scheme, "report", reported(records)[scheme])
    values = at_best_rate.metric.transpose("trial", "epoch").values
    # What is not finite is made the worst there is, so that it is never the best.
    if records.attrs["higher_is_better"]:
        reached = np.where(np.isfinite(values), values, -np.inf).max(1)
    else:
        reached = np.where(np.isfinite(values), values, np.inf).min(1)
    return np.where(np.isfinite(reached), reached, records.attrs["chance"])


def losses(result: Result, scheme: str) -> np.ndarray:
    """The last training loss by rate and tuning seed; where a trial diverged, the worst of all:
    `[lr, seed]`."""
    tuning = by_rate_and_seed(result.records, scheme, "tune")
    values = tuning.train_loss.isel(epoch=-1).transpose("lr", "seed").values
    return np.where(np.isfinite(values), values, np.nanmax(values))


def optimum(result: Result, scheme: str) -> np.ndarray:
    """log2 of the best rate of every tuning seed, by a parabola through the best rate and its
    neighbours: `[seed]`."""
    rates = np.log2(by_rate_and_seed(result.records, scheme, "tune").lr.values)
    optima = []
    for course in np.log(losses(result, scheme)).T:
        # A best rate at the edge of the grid has a neighbour on one side only: the next has two.
        k = int(np.clip(course.argmin(), 1, len(rates) - 2))
        three = slice(k - 1, k + 2)
        a, b, _ = np.polyfit(rates[three], course[three], 2)
        # Where the three points open downwards there is no vertex to take.
        vertex = -b / (2 * a) if a > 0 else rates[course.argmin()]
        optima.append(float(np.clip(vertex, rates[0], rates[-1])))
    return np.asarray(optima)


def transfer_claims(
    name: str, ends: Sequence[Result], between: str, expected: Mapping[str, tuple[str, Band]]
) -> list[Claim]:
    """By how many octaves the best rate of each scheme moves from the first of `ends` to the last;
    `expected` has what was published, and its band."""
    claims = []
    for scheme, (published, band) in expected.items():
        statement = f"{scheme}: octaves that the best rate moves {between}"
        shift = optimum(ends[-1], scheme) - optimum(ends[0], scheme)
        note = "training loss after a fixed number of epochs"
        claims.append(make_claim(name, statement, shift, published, band, note))
    return claims


def rows_of(results: Results) -> list[SettingRow]:
    """The tables of all studies, one below the other, each row with the name of its `setting`."""
    rows = []
    for name, result in results.items():
        for row in result.summary["table"]:
            rows.append(SettingRow(setting=name, **row))
    return rows


def as_one(results: Results, setting: str, baseline: str) -> list[SettingRow]:
    """The rows of studies with one scheme each as those of one `setting`: named by their study,
    the fastest first.

    Ratios are against the study `baseline`, as in `table.make_table` but for the tests.
    """
    schemes = {name: result.study.schemes[0] for name, result in results.items()}
    against = samples_of(results[baseline].records, schemes[baseline])
    horizon = float(results[baseline].study.epochs)
    rows = []
    for row, name in zip(rows_of(results), results, strict=True):
        ratio = compare(against, samples_of(results[name].records, schemes[name]), horizon)
        row["setting"] = setting
        row["scheme"] = name
        row["drawn_by"] = schemes[name]
        row["baseline"] = baseline
        row["ratio"] = ratio.value
        row["ratio_low"] = ratio.low
        row["ratio_high"] = ratio.high
        row["ratio_is"] = ratio.bound if name != baseline else "="
        row["p_holm"] = None  # the test is of schemes within a study
        rows.append(row)
    return sorted(rows, key=speed)


# Claims.


def faster(
    name: str,
    statement: str,
    scheme: Side,
    against: Side,
    published: str,
    band: tuple[float, float],
    note: str = "",
    *,
    family: int = 1,
) -> Claim:
    """The claim that one scheme needs so many times fewer epochs than another, each at its best
    rate: one of a `family` of claims that are read together."""
    horizon = float(min(scheme[0].study.epochs, against[0].study.epochs))
    slower = samples_of(against[0].records, against[1])
    sooner = samples_of(scheme[0].records, scheme[1])
    claim = ratio_claim(
        name, statement, slower, sooner, horizon, published, band, note, family=family
    )
    return open_where_failed(claim, [(result.records, its) for result, its in (scheme, against)])


def at_all_rates(study: Study, scheme: str) -> Study:
    """A scheme of a study at every rate of the usual grid, six seeds each: for `lower_rate`."""
    grid: dict[str, Any] = {"search": "grid", "lrs": RATES[study.optimizer]}
    seeds: dict[str, Any] = {"tune_seeds": 6, "seeds": 2}
    return alone(study, scheme, **grid, **seeds)


def lower_rate(name: str, result: Result, where: str) -> Claim:
    """The claim that a lower rate helps: the best metric at the best rate less that at ten times it
    (or the nearest), of a study `at_all_rates`."""
    (scheme,) = result.study.schemes
    tuning = by_rate_and_seed(result.records, scheme, "tune")
    rates = tuning.lr.values
    metric = tuning.metric.max("epoch").transpose("lr", "seed").fillna(0.0).values
    gaps, chosen = [], set()
    for seed in range(metric.shape[1]):
        # Chosen on the other seeds, where there are others: the best of one's own is a lucky one.
        others = np.delete(metric, seed, axis=1) if metric.shape[1] > 1 else metric
        rate = rates[others.mean(1).argmax()]
        high = rates[np.abs(np.log(rates / (10 * rate))).argmin()]
        chosen.add(f"{rate:g}" if high > rate else f"{rate:g}, the highest of the grid")
        gaps.append(metric[rates == rate, seed] - metric[rates == high, seed])
    note = f"{len(gaps)} tuning seeds, the rate of each chosen on the others: {', '.join(chosen)}"
    if len(gaps) == 1:
        note = f"one tuning seed, which chose the rate too: {', '.join(chosen)}"
    statement = (
        f"{where}: best accuracy of the {scheme} initialization at its best rate, less that at ten "
        "times it"
    )
    return make_claim(name, statement, np.ravel(gaps), "a lower rate helps", at_least(0.01), note)


# Figures, and the end.


def draw_transfer(results: Results, title: str, folder: Path) -> None:
    """The training loss against the rate, a panel for each scheme, a line for each study (a width,
    or a depth)."""
    first = next(iter(results.values()))
    schemes = first.study.schemes
    rates = by_rate_and_seed(first.records, schemes[0], "tune").lr.values
    size = (1.5 + 3.2 * len(schemes), 3.4)
    with saved_figure(
        folder, "transfer", title, size=size, columns=len(schemes), sharey=True
    ) as panels:
        for axes, scheme in zip(panels, schemes, strict=True):
            lines(axes, rates, {name: losses(result, scheme) for name, result in results.items()})
            axes.set(xscale="log", yscale="log", xlabel=f"learning rate ({first.study.optimizer})")
            axes.set_title(as_text(scheme))
        panels[0].set_ylabel("training loss")
        legend(panels[0].figure, dict(zip(results, panels[0].lines, strict=True)))


def finish(
    out: Path,
    studies: Mapping[str, Study],
    results: Results,
    claims: list[Claim],
    title: str = "",
    *,
    rows: list[SettingRow] | None = None,
    **more: Any,
) -> int:
    """Write summary.json, draw the rows, print both, and say where they are; the exit code.

    `rows` are those of all results, or others in their place; none where epochs to a target are not
    the question.
    """
    if rows is None:
        rows = rows_of(results)
    from jaxinit.engine import progress

    settings = {name: _with_its_seeds(study).plain() for name, study in studies.items()}
    write_summary(out, {"table": rows, "claims": claims, "studies": settings, **more})
    if rows:
        with style():
            schemes = [scheme for study in studies.values() for scheme in study.schemes]
            save(forest(rows, title, schemes), out / "figures", "epochs")
    progress.pause()  # an answer follows, which is to stay
    if rows:
        print_rows(rows)
    return _say(claims, out, results.values())


def conclude(
    out: Path,
    rows: list[dict[str, Any]],
    claims: list[Claim],
    shown: Iterable[str],
    **more: Any,
) -> int:
    """`finish` for rows of another kind, which are printed as the lines `shown`."""
    from jaxinit.engine import progress

    write_summary(out, {"table": rows, "claims": claims, **more})
    progress.pause()
    for line in shown:
        print(line)
    return _say(claims, out)


def write_summary(out: Path, content: Mapping[str, Any]) -> None:
    """Write an experiment's summary.json into its folder, which `make_main` has locked: the
    content, and `about`, what was run, when, for how long, and under which versions."""
    about: dict[str, Any] = {}
    run = _run.get()
    if run is not None:
        from jaxinit.engine.sweep import available_cores

        conditions = store.conditions()
        about = {
            "experiment": run.experiment,
            "size": run.size,
            "first_seed": run.first_seed,
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": round(time.monotonic() - run.began),
            "cores": available_cores(),
            "commit": conditions["commit"],
            "versions": conditions["versions"],
        }
    Folder(out).write("experiment", {}, {store.SUMMARY: to_json({"about": about, **content})})


def _say(claims: list[Claim], out: Path, results: Iterable[Result] = ()) -> int:
    print_claims(claims)
    print(f"summary, records and figures: {out}")
    path = write(experiment_page(out, results), out / REPORT)
    print(f"report: {path}; see it with: jaxinit open {quoted(out)}")
    return 0
