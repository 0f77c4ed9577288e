"""The command line: `run`, `resume`, `extend`, `rerun`, `probe`, `coordcheck`, `audit`,
`reproduce`, `claims`, `list`, `plot`, `report`, `open`, `compare`, `export`, `doctor`. It parses
before JAX is imported."""

import ast
import inspect
import math
import os
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from json import loads
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import tyro

from jaxinit.analysis.folder import Folder, quoted
from jaxinit.console import (
    CLOSED,
    DEBUG,
    FAILED,
    INTERRUPTED,
    PEER_GONE,
    REFUSED,
    exit_code,
    handled,
    make_printable,
)
from jaxinit.study import (
    ASKED,
    RECURRENT,
    BadStudy,
    Study,
    check_name,
)
from jaxinit.words import COMPLETION, completion, parsed, with_address

if TYPE_CHECKING:
    import xarray as xr

    from jaxinit.analysis.health import Verdict
    from jaxinit.analysis.store import Result
    from jaxinit.engine.cluster import Cluster
    from jaxinit.engine.peers import Peers

ABOUT = f"""Does it matter how this network is initialized? Measure it.

Exit codes: 0; {REFUSED} where the input is at fault; {FAILED} where the machine is (memory, disk,
permissions), of coordcheck where the first scheme fails, and of audit on a serious finding;
{INTERRUPTED} when interrupted; {PEER_GONE} when another process of a model that several share is
gone; {CLOSED} when nobody reads the output any more. Each but the first comes with one line that
says why. {DEBUG}=1 in the environment shows the traceback too. --version prints the version."""


@dataclass(frozen=True)
class Processes:
    """Several processes with one model between them."""

    distributed: bool = False
    """This is one of several processes that share one trial at a time, as --sharded does with the
    devices of one. All are given the same command; the first has the folder and the answer. SLURM,
    MPI and Kubernetes say how many and which; elsewhere the next three do."""
    coordinator_address: str | None = None
    """HOST:PORT on which process 0 listens."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which this is, from 0 on."""


ALONE = Processes()


def run(
    study: tyro.conf.OmitArgPrefixes[Study] = ASKED["run"],
    out: Path | None = None,
    slots: int | None = None,
    force_resume: bool = False,
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    deterministic: bool = False,
    cluster: str | None = None,
    sharded: bool = False,
    processes: tyro.conf.OmitArgPrefixes[Processes] = ALONE,
    signals: int = 0,
    dry_run: bool = False,
    quiet: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> int:
    """Measure epochs to convergence for each initialization scheme, each at its own best learning
    rate.

    Without options this is the main job: a vanilla RNN on handwritten digits, nine schemes, less
    than a minute on two cores. The same command run again reads the answer from its folder.

    Args:
        study: The study.
        out: Folder of the answer. Default: results/<model>-<task>-<hash>.
        slots: Trials that a device holds at once. Default: 16 on CPU, more in studies of thousands
            of trials; on accelerators all that may run together, fewer where memory does not hold
            them.
        force_resume: Go on under other versions or another commit; the answer says so.
        platform: Where to run, or not at all: cpu, gpu or tpu. Default: the best there is.
        deterministic: On a GPU, the same records bit for bit in every run, and after a kill too,
            at some cost in time; elsewhere they always are.
        cluster: Train on the workers of a Dask scheduler, tcp://HOST:PORT or tls://HOST:PORT;
            without an address on ones that are started here, a core or a GPU each.
        sharded: One trial at a time, its parameters split over all devices: for models that are
            larger than one of them.
        processes: Several processes with one model between them.
        signals: On how many validation examples to record activations and gradients by layer during
            training, of one seed of each scheme at its best rate, for the report. 0: none.
        dry_run: Say how many trials there would be, their time and memory, and write nothing.
        quiet: No progress, only the answer.
        json: The answer as one object of JSON, what summary.json has and the folder; progress as
            objects too, one a line, on the error stream.
        verbose: Also what compiles and for how long, slots and memory, and where states are saved.
    """
    if dry_run:
        distributed = processes.distributed
        others = {"cluster": cluster, "sharded": sharded, "distributed": distributed, "json": json}
        return exit_code(lambda: say_cost(study, out, slots, platform, others))

    def carried() -> "Result | int":
        if (sharded or processes.distributed) and cluster:
            split = "--sharded" if sharded else "--distributed"
            raise BadStudy(f"{split} and --cluster exclude each other; give one of them")
        asked = _asked(quiet=quiet, json=json, verbose=verbose)
        return carry_out(
            study,
            out,
            slots,
            force_resume,
            platform,
            deterministic,
            cluster,
            asked,
            sharded,
            processes,
            signals,
        )

    return exit_code(carried)


def _asked(**flags: bool) -> str:
    """The one of the flags that is given, empty for none. Raises: BadStudy for several."""
    given = [name for name, wanted in flags.items() if wanted]
    if len(given) > 1:
        words = " and ".join(f"--{name}" for name in given)
        raise BadStudy(f"{words} exclude each other; give one of them")
    return "".join(given)


def resume(
    folder: tyro.conf.Positional[Path],
    /,
    slots: int | None = None,
    force_resume: bool = False,
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    deterministic: bool = False,
    cluster: str | None = None,
    processes: tyro.conf.OmitArgPrefixes[Processes] = ALONE,
    quiet: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> int:
    """Go on with the study of a folder, wherever and however it was stopped.

    Args:
        folder: The folder of the study.
        slots: Trials that a device holds at once.
        force_resume: Go on under other versions or another commit; the answer says so.
        platform: As of run.
        deterministic: As of run.
        cluster: As of run.
        processes: As of run; all of them must see the folder.
        quiet: As of run.
        json: As of run.
        verbose: As of run.
    """
    from jaxinit.analysis.store import stored

    def go_on() -> "Result | int":
        about = stored(folder)
        study = Study.from_plain(about["study"])
        sharded = not cluster and about["device"]["mapping"] == "sharded"
        return carry_out(
            study,
            folder,
            slots,
            force_resume,
            platform,
            deterministic,
            cluster,
            _asked(quiet=quiet, json=json, verbose=verbose),
            sharded,
            processes,
        )

    return exit_code(go_on)


def extend(
    folder: tyro.conf.Positional[Path],
    /,
    schemes: tuple[str, ...] = (),
    seeds: int | None = None,
    slots: int | None = None,
    force_resume: bool = False,
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    deterministic: bool = False,
    cluster: str | None = None,
    quiet: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> int:
    """Add schemes, seeds or both to a finished study: what there is is kept, what lacks is trained.

    Args:
        folder: The folder of the study.
        schemes: Schemes to add.
        seeds: How many seeds there are to be at each rate that is reported, more than there are.
        slots: Trials that a device holds at once.
        force_resume: Under other versions or another commit; the answer says so.
        platform: As of run.
        deterministic: As of run.
        cluster: As of run.
        quiet: As of run.
        json: As of run.
        verbose: As of run.
    """

    def more() -> "Result":
        from jaxinit.engine import again

        start(platform, deterministic, cluster)
        asked = _asked(quiet=quiet, json=json, verbose=verbose)
        with workers(cluster, asked, platform, deterministic) as there:
            result = again.extend(
                folder,
                schemes,
                seeds,
                slots_per_device=slots,
                force_resume=force_resume,
                cluster=there,
            )
        return show(result, asked)

    return exit_code(more)


def rerun(
    folder: tyro.conf.Positional[Path],
    /,
    check: bool = False,
    out: Path | None = None,
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    deterministic: bool = False,
    cluster: str | None = None,
    quiet: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> int:
    """Run the study of a folder once more, in a new one; with --check say whether the records are
    the same bit for bit, and exit with 1 where they are not.

    Args:
        folder: The folder of the study.
        check: Compare the records.
        out: The new folder. Default: that of the study, with -rerun.
        platform: As of run.
        deterministic: As of run.
        cluster: As of run.
        quiet: As of run.
        json: As of run; the new study's answer, and the comparison on the error stream.
        verbose: As of run.
    """

    def once_more() -> int:
        from jaxinit.engine import again

        whole = folder.resolve()  # `.` has no name
        start(platform, deterministic, cluster)
        asked = _asked(quiet=quiet, json=json, verbose=verbose)
        with workers(cluster, asked, platform, deterministic) as there:
            both = again.rerun(folder, out or whole.with_name(f"{whole.name}-rerun"), cluster=there)
        show(both.second, asked)
        if not both.second.complete:
            return INTERRUPTED
        if not check:
            return 0
        stream = sys.stderr if asked == "json" else sys.stdout
        if not both.differences:
            print(f"the records are the same, bit for bit, as those of {folder}", file=stream)
            return 0
        print(f"the records are not those of {folder}:", file=stream)
        for difference in both.differences:
            print(f"- {difference}", file=stream)
        return FAILED

    return exit_code(once_more)


def say_cost(
    study: Study,
    out: Path | None,
    slots: int | None,
    platform: Literal["cpu", "gpu", "tpu"] | None,
    others: Mapping[str, object],
) -> int:
    """Print what a study would cost in this process; with none of the `others`, of which it knows
    nothing."""
    from jaxinit.engine import again
    from jaxinit.engine.sweep import devices_in_words

    given = [f"--{name}" for name, value in others.items() if value]
    if given:
        raise BadStudy(f"--dry-run measures this process; leave out {' and '.join(given)}")
    start(platform)
    cost = again.forecast(study, slots, out=out)
    hours, minutes = divmod(round(cost.seconds / 60), 60)
    longest = f"{hours} h {minutes} min" if hours else f"{cost.seconds / 60:.1f} min"
    print(f"trials: about {cost.trials}, of at most {cost.epochs} epochs each")
    print(f"model: {cost.parameters:,} parameters")
    print(f"memory: about {cost.memory / 2**20:,.0f} MiB, {cost.slots} trials a device at once")
    print(
        f"time: at most {longest} on {devices_in_words()}; trials that converge sooner end sooner"
    )
    print("nothing was written")
    return 0


def list_names(
    what: tyro.conf.Positional[
        Literal["schemes", "calibrations", "initializers", "models", "tasks", "experiments", "all"]
    ] = "all",
    /,
    verbose: bool = False,
) -> int:
    """List the schemes, calibrations, initializers, models, tasks or experiments, with a line on
    each.

    Args:
        what: Which of them.
        verbose: All that is known of each: formula, shapes, source.
    """
    tables = _tables()
    for kind, table in tables.items():
        if what == "all":
            print(f"{kind}:")
        if what in (kind, "all"):
            _print_table(kind, table, verbose, alone=what == kind)
    return 0


def _tables() -> dict[str, Mapping[str, object]]:
    """What there is of each kind, by name; an entry's docstring says what it is."""
    from jaxinit.calibrate import CALIBRATIONS
    from jaxinit.initializers import CATALOGUE
    from jaxinit.models import MODELS
    from jaxinit.tasks import TASKS

    initializers = {name: function for name, (function, _) in CATALOGUE.items()}
    described = {}
    for name, path in experiments().items():
        described[name] = SimpleNamespace(__doc__=docstring(path))
    return {
        "schemes": _schemes_as_written(),
        "calibrations": CALIBRATIONS,
        "initializers": initializers,
        "models": MODELS,
        "tasks": TASKS,
        "experiments": described,
    }


def _schemes_as_written() -> dict[str, object]:
    """The schemes, those with settings as the call that changes them.

    Some of the latter have no defaults, so that a call is the only way to write them.
    """
    from jaxinit.schemes import SCHEMES, SETTINGS, signature_of

    calls = {name: f"{name}{signature_of(factory)}" for name, factory in SETTINGS.items()}
    written: dict[str, object] = {}
    for name, scheme in SCHEMES.items():
        written[calls.pop(name, name)] = scheme
    for name, call in calls.items():
        written[call] = SETTINGS[name]
    return written


def _print_table(kind: str, table: Mapping[str, object], verbose: bool, alone: bool) -> None:
    """A line on each entry of a table, or all that its docstring says."""
    from jaxinit.initializers import CATALOGUE

    width = max(len(name) for name in table if "(" not in name)
    for name, item in table.items():
        text = inspect.getdoc(item) or ""
        summary = " ".join(text.partition("\n\n")[0].split())
        if verbose:
            print(f"  {name}")
            for line in text.splitlines():
                print(f"      {line}".rstrip())
            if kind == "initializers":
                print(f"      Variance: {CATALOGUE[name][1]}")
            print()
        elif kind == "initializers" and alone:
            print(f"  {name:{width}}  variance {CATALOGUE[name][1]:20}  {summary}{_source(text)}")
        else:
            print(f"  {name:{width}}  {summary}")


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def _source(text: str) -> str:
    """The source that a docstring names, on one line; empty when it names none."""
    _, label, rest = text.partition("Source: ")
    if not label:
        return ""
    paragraph = rest.split("\n\n")[0]
    return f" [{' '.join(paragraph.split()).rstrip('.')}]"


def probe(
    study: tyro.conf.OmitArgPrefixes[Study] = ASKED["probe"],
    examples: int = 300,
    only: str = "*",
    out: Path | None = None,
    sharded: bool = False,
    quiet: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> int:
    """Look at a network's signals before training: figures by layer and by step, and a verdict for
    each scheme.

    Of recurrent networks also how far back the gradient reaches (lens.png): gradients and sizes of
    the states by step, Jacobians between steps, and the steps back in which the gradient falls to
    1/e.

    Healthy, vanishing, exploding, saturated or dead, where and by how much: vanishing or exploding
    is what changes by more than a decade over all layers or steps. Nothing is trained, so
    that rates, epochs and targets do not matter. Example: jaxinit probe --model rnn --task adding
    --length 100 --schemes orthogonal irnn

    Args:
        study: What is looked at; 0 layers are five of mlp, one of others.
        examples: How many examples of the validation set to look at.
        only: A pattern: which kernels to look at, such as "layers.*".
        out: Folder of the answer. Default: results/probe-<model>-<task>-<hash>.
        sharded: One seed at a time, its parameters split over all devices, for models that are
            larger than one of them; without lens.png.
        quiet: As of run.
        json: The verdicts and the folder as one object of JSON; progress as of run.
        verbose: As of run.
    """

    def looked() -> int:
        asked = _asked(quiet=quiet, json=json, verbose=verbose)
        layers = study.layers or (5 if study.model == "mlp" else 1)
        return look(replace(study, layers=layers), examples, only, out, sharded, asked)

    return exit_code(looked)


def look(
    study: Study,
    examples: int,
    only: str,
    out: Path | None,
    sharded: bool = False,
    asked: str = "",
) -> int:
    """Probe a network, draw its figures and print the verdicts, as an object where JSON is `asked`
    for."""
    from jaxinit.analysis.figure import save, style
    from jaxinit.analysis.folder import to_json
    from jaxinit.analysis.signal_figures import draw_all, lens
    from jaxinit.engine.survey import survey, through_time, verdicts

    start()
    folder = out or study.folder.with_name(f"probe-{study.folder.name}")
    courses = None
    with followed(asked):
        signals = survey(study, examples=examples, only=only, out=folder, sharded=sharded)
        if study.model in RECURRENT and not study.bidirectional and not sharded:
            courses = through_time(study, examples=examples, out=folder)
    figures = draw_all(signals, folder / "figures")
    if courses is not None:
        with style():
            figures.append(save(lens(courses), folder / "figures", "lens"))
    judged = verdicts(signals)
    page = _write_report(folder)
    if asked == "json":
        answer: dict[str, Any] = {"folder": str(folder), "report": str(page)}
        answer["verdicts"] = {name: [v._asdict() for v in its] for name, its in judged.items()}
        if courses is not None:
            last = courses.memory.isel(layer=-1)
            answer["memory"] = {name: last.sel(scheme=name).values.tolist() for name in judged}
        print(to_json(answer).decode(), end="")
        return 0
    _print_verdicts(judged, courses)
    print(f"signals: {folder}; figures: {' '.join(map(str, figures))}")
    print(f"report: {page}; see it with: jaxinit open {quoted(folder)}")
    return 0


def _print_verdicts(judged: "Mapping[str, list[Verdict]]", courses: "xr.Dataset | None") -> None:
    """Every scheme's verdicts and what to try, and how far back its gradient reaches."""
    from jaxinit.analysis.health import remedies
    from jaxinit.analysis.signal_figures import memory

    for scheme, its in judged.items():
        if not its:
            print(f"{scheme}: nothing to judge")
            continue
        worst = its[0].kind
        print(f"{scheme}: {worst}")
        for verdict in its:
            print(f"  {verdict}")
        if worst != "healthy":
            print(f"  try: {remedies(worst, its[0].along, scheme)}")
    if courses is None:
        return
    for scheme in judged:
        length = memory(courses, scheme)
        print(
            f"{scheme}: the gradient falls to 1/e in {length} steps back, of "
            f"{courses.sizes['step']}"
        )


def coordcheck(
    study: tyro.conf.OmitArgPrefixes[Study] = ASKED["coordcheck"],
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024),
    depths: tuple[int, ...] = (),
    steps: int = 10,
    rate: float = 0.001,
    out: Path | None = None,
    quiet: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> int:
    """Coordinate check: do signals, their updates and gradients keep their size as the network
    grows wider, or deeper?

    A slope with its interval for the product of every kernel, for attention scores, for what every
    branch adds, and for the network's output, and pass or fail for every scheme: a slope is flat if
    it is between -0.2 and 0.2 and its interval reaches 0.1 or below; scores and outputs before
    training may fall too. A learning rate does not carry over from narrow to wide where it fails;
    whether it does where it passes is measured by jaxinit reproduce mup_transfer. Example:
    jaxinit coordcheck --model transformer --task text --length 16 --schemes mup llama

    Args:
        study: The network, the task, the schemes, the optimizer and the number of seeds.
        widths: Units at which to look, two or more, none below the base width of a muP (64 unless
            it is given: 'mup(base_width=32)').
        depths: Layers at which to look, two or more, instead of widths: the check against depth.
        steps: Training steps on one batch before looking, one or more.
        rate: Learning rate of the steps.
        out: Folder of the answer. Default: results/coordcheck-<model>-<task>-<hash>, of depths
            results/depthcheck-<model>-<task>-<hash>.
        quiet: As of run.
        json: The slopes, which schemes pass and the folder as one object of JSON; progress as of
            run.
        verbose: As of run.
    """

    def checked() -> int:
        asked = _asked(quiet=quiet, json=json, verbose=verbose)
        return check_coordinates(study, widths, depths, steps, rate, out, asked)

    return exit_code(checked)


def check_coordinates(
    study: Study,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    steps: int,
    rate: float,
    out: Path | None,
    asked: str = "",
) -> int:
    """Run a coordinate check, draw it, print its slopes, as an object where JSON is `asked` for,
    and write its page; 1 when the first scheme fails."""
    from jaxinit.analysis.coordinates import passes, slopes, verdict
    from jaxinit.analysis.figure import save, style
    from jaxinit.analysis.folder import to_json
    from jaxinit.analysis.signal_figures import coordinates
    from jaxinit.engine.coordcheck import coordinate_check, depth_check

    start()
    folder = out or study.folder.with_name(
        f"{'depth' if depths else 'coord'}check-{study.folder.name}"
    )
    check = depth_check if depths else coordinate_check
    with followed(asked):
        sizes = check(study, depths or widths, steps=steps, rate=rate, out=folder)
    rows = slopes(sizes)
    with style():
        path = save(coordinates(sizes), folder / "figures", "coordinates")
    page = _write_report(folder)
    code = 0 if passes(rows, study.schemes[0]) else 1
    if asked == "json":
        answer: dict[str, Any] = {"folder": str(folder), "report": str(page)}
        answer["passes"] = {scheme: passes(rows, scheme) for scheme in study.schemes}
        answer["slopes"] = [row._asdict() for row in rows]
        print(to_json(answer).decode(), end="")
        return code
    for scheme in study.schemes:
        print(f"{scheme}: {verdict(rows, scheme)}")
        for row in rows:
            if row.scheme != scheme:
                continue
            words = [row.note]
            if not math.isnan(row.slope):
                words.insert(0, f"slope {row.slope:+.2f} ({row.low:+.2f} to {row.high:+.2f})")
            print(f"  {row.parameter:28} {row.kind:8} {'  '.join(words)}".rstrip())
    print(f"sizes and slopes: {folder}; figure: {path}")
    print(f"report: {page}; see it with: jaxinit open {quoted(folder)}")
    return code


def audit(
    model: tyro.conf.Positional[str],
    /,
    batch: str | None = None,
    scheme: str | None = None,
    loss: str | None = None,
    weights: Path | None = None,
    json: bool = False,
    report: Path | None = None,
) -> int:
    """Is a model initialized the way you think it is? The law of every parameter, and what is
    wrong.

    Exit code 1 on a serious finding. Example: jaxinit audit mine.py:build --scheme gpt2

    Args:
        model: FILE.py:NAME, a model or a function of rngs that builds one (and of in_features,
            out_features, where --batch says them), or a *.safetensors file.
        batch: Examples, FILE.npz with x and y, of which the first 256 are looked at: also what only
            shows when the model runs.
        scheme: The scheme that it is meant to follow; every parameter is compared with a draw.
        loss: cross_entropy or squared_error. Default: by y.
        weights: What was loaded into it, *.safetensors: which parameters hold other values?
        json: All of it as JSON.
        report: A page of it too, FILE.html.
    """
    return exit_code(lambda: look_at_values(model, batch, scheme, loss, weights, json, report))


def look_at_values(
    place: str,
    batch: str | None,
    scheme: str | None,
    loss: str | None,
    weights: Path | None,
    as_json: bool,
    page: Path | None = None,
) -> int:
    """Audit what a name stands for and print it; 1 on a serious finding."""
    from jaxinit import auditing
    from jaxinit.auditing.built import batch_of, built, drawn_twice

    examples = None if batch is None else batch_of(batch)
    model = auditing.adapted(built(place, examples), examples)
    report = auditing.audit(model, scheme, examples, loss=loss, weights=weights)
    report = report.with_findings(drawn_twice(place, model, examples))
    if page is not None:
        from jaxinit.analysis.page import write

        options = {
            "batch": batch,
            "scheme": scheme,
            "loss": loss,
            "weights": weights,
            "report": page,
        }
        words = ["jaxinit", "audit", place]
        for name, value in options.items():
            words += [f"--{name}", str(value)] if value is not None else []
        write(report.page(shlex.join(words)), page)
    if as_json:
        print(report.to_json())
    else:
        report.print()
        if page is not None:
            print(f"report: {page}")
    return 1 if report.serious else 0


def reproduce(
    name: tyro.conf.Positional[str],
    /,
    size: Literal["smoke", "quick", "paper"] = "quick",
    out: Path | None = None,
    first_seed: int = 0,
    quiet: bool = False,
    cluster: str | None = None,
) -> int:
    """Run an experiment that reproduces a paper or answers a question; `jaxinit list experiments`
    names them.

    Args:
        name: The experiment, such as glorot2010.
        size: smoke (seconds), quick (minutes on two cores) or paper (for an accelerator).
        out: Folder of the results. Default: results/<name>-<size>.
        first_seed: Measure it once more on other seeds, from this one on.
        quiet: No progress, only the answer.
        cluster: As of run; what an experiment has of its own trains here.
    """
    known = experiments()

    def checked() -> int:
        check_name("experiment", name, known)
        arguments = ["--size", size, "--first-seed", str(first_seed)]
        if out is not None:
            arguments += ["--out", str(out)]
        if quiet:
            arguments.append("--quiet")
        if cluster is not None:
            arguments += ["--cluster", cluster]
        return runpy.run_path(str(known[name]))["main"](arguments)

    return exit_code(checked)


def claims(
    only: tuple[str, ...] = (),
    size: Literal["smoke", "quick", "paper"] = "quick",
    out: Path = Path("results/claims"),
) -> int:
    """Measure every statement that this project judges, experiment by experiment, and make a page
    of them: statement, published number, ours with its interval, verdict, command.

    The same command goes on where it was stopped; what has been measured is read. All of them at
    size quick take some two hours on two cores. An experiment that fails costs no other.

    Args:
        only: Claims by their ids, such as A10 or D3, and the experiments that have them.
        size: As of reproduce.
        out: Folder of the page, and of a folder for each experiment.
    """
    from jaxinit.analysis.claims_page import chosen, claims_page, is_named
    from jaxinit.analysis.page import REPORT, write
    from jaxinit.analysis.report import print_claims
    from jaxinit.analysis.store import SUMMARY

    def measured() -> int:
        named = {n: path for n, path in experiments().items() if is_named(path.read_text(), only)}
        if not named:
            raise BadStudy(f"no experiment has a claim {' or '.join(only)}; leave --only out")
        summaries, pages, missing, code = {}, {}, [], 0
        out.mkdir(parents=True, exist_ok=True)
        for k, name in enumerate(named):
            folder = Folder(out / f"{name}-{size}")
            try:
                if not folder.holds(SUMMARY):
                    print(f"{k + 1}/{len(named)} {name}", flush=True)
                    words = ["reproduce", name, "--size", size, "--out", str(folder.path)]
                    code = _in_a_process(words, quiet=bool(only))
                summaries[name] = loads(folder.read(SUMMARY))
                if (folder.path / REPORT).exists():
                    pages[name] = f"{folder.path.name}/{REPORT}"
            except BadStudy as error:
                missing.append(f"{name}: {error}")
            if code == INTERRUPTED:
                for other in list(named)[k + 1 :]:
                    missing.append(f"{other}: not measured yet; the same command goes on")
                break
        print_claims(c for its in summaries.values() for c in chosen(its["claims"], only))
        for line in missing:
            print(line, file=sys.stderr)
        file = f"{'-'.join(only)}.html" if only else REPORT  # which a part does not replace
        print(f"page: {write(claims_page(summaries, only, missing, pages), out / file)}")
        return code if code == INTERRUPTED else FAILED if missing else 0

    return exit_code(measured)


def _in_a_process(words: Sequence[str], quiet: bool = False) -> int:
    """The exit code of a command in a process of its own, where JAX starts anew and what fails
    costs nothing else; `quiet`, its answer is not printed. Signals are its: it saves what it has,
    and we go on when it has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxinit", *words], stdout=subprocess.DEVNULL if quiet else None
    )

    def pass_on(number: int, frame: object) -> None:
        if number == signal.SIGTERM:  # a terminal has sent Ctrl-C to both
            process.terminate()

    with handled(pass_on):
        return process.wait()


def experiments() -> dict[str, Path]:
    """The experiments by name: a wheel carries them inside the package, a checkout beside it."""
    package = Path(__file__).parent
    inside = package / "experiments"
    folder = inside if inside.is_dir() else package.parent / "experiments"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def export(
    folder: tyro.conf.Positional[Path],
    /,
    to: Literal["csv", "tensorboard", "wandb"] = "csv",
    all_trials: bool = False,
    out: Path | None = None,
) -> int:
    """Write the records of a study for other tools: every evaluation of every trial that reports.

    Args:
        folder: The folder of the study.
        to: A table, or runs of TensorBoard (pip install tensorboardX) or Weights & Biases (pip
            install wandb; WANDB_MODE=offline without an account).
        all_trials: Those too that chose the rate.
        out: The file, or the folder of runs. Default: records.csv, tensorboard or wandb in the
            folder of the study.
    """

    def written() -> int:
        from jaxinit.analysis.export import export as write
        from jaxinit.analysis.store import load

        place = out or folder / ("records.csv" if to == "csv" else to)
        count = write(load(folder), to, place, all_trials=all_trials)
        print(f"{count} trials: {place}")
        return 0

    return exit_code(written)


def doctor() -> int:
    """Say what a study would run on here (versions, devices, precision, caches, data), and what is
    amiss; exit code 1 where something is.
    """

    def look() -> int:
        from jaxinit.engine.doctor import examine

        start()
        amiss = 0
        for line in examine():
            print(f"{'!' if line.repair else ' '} {line.what:19} {line.found}")
            if line.repair:
                amiss += 1
                print(f"  {'':19} {line.repair}")
        return FAILED if amiss else 0

    return exit_code(look)


def print_version() -> int:
    """Print the version of the installed package."""
    print(f"jaxinit {version('jaxinit')}")
    return 0


def plot(folder: tyro.conf.Positional[Path], /) -> int:
    """Draw the figures of a finished or interrupted study again, from its records, and print its
    table.

    Args:
        folder: The folder of the study.
    """
    from jaxinit.analysis.store import summarize_again

    def look() -> int:
        result = summarize_again(folder)
        _show(result)
        if result.remark:
            print(result.remark)
        if not result.complete:
            again = f"jaxinit resume {quoted(folder)}"
            print(f"unfinished: {result.summary['trials']} trials have ended; go on with: {again}")
        return 0

    return exit_code(look)


def report(folder: tyro.conf.Positional[Path], /) -> int:
    """Write report.html into the folder of a study, an experiment, a probe or a coordinate check:
    one page that needs nothing else, of a study or an experiment also where it is unfinished or
    damaged.

    Args:
        folder: Its folder.
    """

    def written() -> int:
        print(f"report: {_write_report(folder)}")
        return 0

    return exit_code(written)


def open_report(folder: tyro.conf.Positional[Path], /) -> int:
    """Show the report of a study, an experiment, a probe or a coordinate check in the browser; it
    is written first where it is missing, or older than what it is about.

    Args:
        folder: Its folder.
    """
    import webbrowser

    from jaxinit.analysis.page import REPORT
    from jaxinit.analysis.pages import is_current

    def shown() -> int:
        page = folder / REPORT if is_current(folder) else _write_report(folder)
        opened = webbrowser.open(page.resolve().as_uri())
        print(f"report: {page}" if opened else f"no browser was found; the report: {page}")
        return 0

    return exit_code(shown)


def _write_report(folder: Path) -> Path:
    """Write the page of what a folder holds, and say what is missing of it."""
    from jaxinit.analysis.page import REPORT, write
    from jaxinit.analysis.pages import page_of

    page = page_of(folder)
    for line in page.warnings:
        print(f"jaxinit: {line}", file=sys.stderr)
    return write(page, folder / REPORT)


def compare(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
) -> int:
    """Say whether two studies agree, such as a study and the same with another --first-seed.

    For every scheme that both report: the epochs of the first over those of the second, and the
    same of the ratio against the baseline, each with its interval at 95 % over all schemes.

    Args:
        first: The folder of a study.
        second: The folder of another.
        out: A page of it too, FILE.html.
    """
    from jaxinit.analysis.report import print_agreements
    from jaxinit.analysis.store import load

    def look() -> int:
        both = load(first), load(second)
        print_agreements(*both)
        if out is not None:
            from jaxinit.analysis.comparison_page import comparison_page
            from jaxinit.analysis.page import write

            print(f"report: {write(comparison_page(*both, out), out)}")
        return 0

    return exit_code(look)


def start(
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    deterministic: bool = False,
    cluster: str | None = None,
    processes: Processes = ALONE,
) -> "Peers | None":
    """Start JAX, on all cores or on what is asked for; where workers train, this process leaves
    their GPUs alone. With other processes: what this one is among them."""
    from jaxinit.engine import devices, peers, sweep

    which = (processes.coordinator_address, processes.num_processes, processes.process_id)
    if not processes.distributed and which != (None, None, None):
        raise BadStudy(
            "--coordinator-address, --num-processes and --process-id say which of several "
            "processes this is; give --distributed too"
        )
    sweep.one_device_per_core()
    sweep.keep_compilations()
    if not processes.distributed:
        devices.start("cpu" if cluster else platform, deterministic and not cluster)
        return None
    joined = peers.join(*which, platform)
    devices.start(platform, deterministic)
    return joined


@contextmanager
def followed(asked: str) -> Iterator[None]:
    """What runs inside shows how far it has come, as it is `asked`: quiet, json or verbose."""
    from jaxinit.engine import progress

    kinds: Any = {"quiet": "quiet", "json": "json"}
    with progress.shown(kinds.get(asked, "text"), asked == "verbose"):
        yield


@contextmanager
def workers(
    cluster: str | None,
    asked: str = "",
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    deterministic: bool = False,
) -> "Iterator[Cluster | None]":
    """The cluster of an address, None for none; what runs inside is `followed` as `asked`."""
    from jaxinit.engine.cluster import Cluster

    with followed(asked):
        if cluster is None:
            yield None
            return
        with Cluster(cluster, platform, deterministic) as there:
            yield there


def carry_out(
    study: Study,
    out: Path | None,
    slots: int | None = None,
    force_resume: bool = False,
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    deterministic: bool = False,
    cluster: str | None = None,
    asked: str = "",
    sharded: bool = False,
    processes: Processes = ALONE,
    signals: int = 0,
) -> "Result | int":
    """Run a study on all cores, a cluster or with other processes, draw its figures and print its
    answer; `asked` how: quiet, json or verbose."""
    from jaxinit.engine.campaign import follow, run

    peers = start(platform, deterministic, cluster, processes)
    if peers is not None and not peers.leads:
        return 0 if follow(study, peers) else INTERRUPTED
    with workers(cluster, asked, platform, deterministic) as there:
        result = run(
            study,
            out=out,
            slots_per_device=slots,
            force_resume=force_resume,
            cluster=there,
            mapping="sharded" if sharded or processes.distributed else None,
            peers=peers,
            signals=signals,
        )
    return show(result, asked)


def show(result: "Result", asked: str = "") -> "Result":
    """Print a result that was computed or read, draw its figures, and say where it is; as an object
    where JSON is `asked` for."""
    if asked == "json":
        _draw(result)
        _report(result)
        _print_json(result)
        return result
    _show(result)
    counts = (
        f"{result.summary['trials']} trials, {result.summary['compilations']} compilation(s) of "
        "the training program"
    )
    where = "" if result.read_back else f" on {result.devices}"
    print(f"{counts}, {result.summary['wall_s']:.0f} s{where}")
    if result.read_back:
        print(f"read from {result.folder}, {result.origin}")
    if not result.complete:
        folder = quoted(result.folder)
        print(
            f"interrupted: what was computed is in {result.folder}; look at it with: jaxinit plot "
            f"{folder}"
        )
        print(f"go on with: jaxinit resume {folder}")
    return result


def _show(result: "Result") -> None:
    """Print an answer and draw its figures, where its folder can be written."""
    from jaxinit.analysis.report import print_answer

    print_answer(result)
    print(f"answer and records: {result.folder}; {_draw(result)}")
    print(_report(result))


def _draw(result: "Result") -> str:
    """Draw the figures of an answer, where its folder can be written; says where they are."""
    from jaxinit.analysis.study_figures import draw_all

    try:
        paths = draw_all(result.records, result.folder / "figures")
    except OSError as error:
        return f"no figures: {error.strerror or error}"
    return f"figures: {' '.join(map(str, paths)) or 'none yet'}"


def _report(result: "Result") -> str:
    """Write the page of an answer, where its folder can be written; says how to see it."""
    from jaxinit.analysis.study_page import write_study

    try:
        path = write_study(result)
    except OSError as error:
        return f"no report: {error.strerror or error}"
    return f"report: {path}; see it with: jaxinit open {quoted(result.folder)}"


def _print_json(result: "Result") -> None:
    """Print an answer for programs: what summary.json has, its folder, and whether it is whole."""
    from jaxinit.analysis.folder import to_json

    about = {"folder": str(result.folder), "complete": result.complete}
    print(to_json({**about, **result.summary}).decode(), end="")


COMMANDS = {
    "run": run,
    "resume": resume,
    "extend": extend,
    "rerun": rerun,
    "probe": probe,
    "coordcheck": coordcheck,
    "audit": audit,
    "reproduce": reproduce,
    "claims": claims,
    "list": list_names,
    "plot": plot,
    "report": report,
    "open": open_report,
    "compare": compare,
    "export": export,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `jaxinit` command."""
    make_printable()
    words = with_address(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        return exit_code(print_version)
    if words[:1] == [COMPLETION]:
        return exit_code(lambda: print_completion(words))
    return exit_code(lambda: parsed(words, COMMANDS, ASKED, ABOUT)())


def print_completion(words: Sequence[str]) -> int:
    """Print what a shell is to source, so that it completes our words."""
    print(completion(words, COMMANDS, ASKED, ABOUT))
    return 0


def command() -> None:
    """The `jaxinit` command as a process: it ends when its answer is there, also while a program
    still compiles that was asked for before somebody interrupted."""
    code = main()
    sweep, peers = (sys.modules.get(f"jaxinit.engine.{name}") for name in ("sweep", "peers"))
    # Without JAX nothing compiles. With others JAX would wait for them.
    if (sweep is not None and sweep.compiling()) or (peers is not None and peers.joined()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
