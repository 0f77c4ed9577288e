"""A study: schemes x learning rates x seeds on one cell, from the question to the answer on disk.

    Study -> checked against the tables of names -> starts drawn -> trials swept -> records.nc, summary.json, figures

Rates are chosen on tuning seeds and reported on others. Importing this module does not import JAX: the command line
reads `Study` to parse its options.
"""

import datetime
import difflib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxinit.outcome import Outcome

if TYPE_CHECKING:
    import xarray as xr

    from jaxinit.introspect import Apply
    from jaxinit.spec import Leaf, Scheme
    from jaxinit.sweep import Mapping as TrialMapping
    from jaxinit.sweep import Sweep
    from jaxinit.tasks import Task

# Five rates over two decades each; SGD's decade is where a trial run found the best rate of every scheme inside.
RATES = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "momentum": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.0001, 0.0003, 0.001, 0.003, 0.01),
}
EPOCHS_PER_CHUNK = 2
XAVIER_CLAIM = "Xavier cuts the epochs needed to converge by 2 to 10 times in deep and recurrent networks."


class BadStudy(ValueError):
    """A study that cannot be run as asked; the message is one line that says what to do."""


@dataclass(frozen=True)
class Study:
    """What is asked: one cell (model, task, optimizer) and the schemes, rates and seeds to compare on it.

    Units: `epochs` is the budget of a trial in passes over the training set; `evaluations` is how often an epoch is
    evaluated, and so the resolution of the answer. Seeds 0 to tune_seeds - 1 choose each scheme's rate, the next
    `seeds` report it. None means the default of the task, the model or the optimizer.
    """

    model: str = "rnn"
    hidden: int = 128
    layers: int = 1
    activation: str | None = None
    task: str = "digits_rows"
    length: int | None = None
    schemes: tuple[str, ...] = (
        "uniform01",
        "small_normal",
        "xavier_rnn",
        "glorot_uniform",
        "glorot_normal",
        "he_normal",
        "lecun_normal",
        "orthogonal",
        "identity",
    )
    lrs: tuple[float, ...] | None = None
    optimizer: str = "sgd"
    seeds: int = 8
    tune_seeds: int = 3
    epochs: int = 20
    evaluations: int = 8
    target: float | None = None
    batch: int = 32
    clip: float | None = None
    weight_decay: float = 0.0
    baseline: str = "small_normal"

    @classmethod
    def from_json(cls, path: str | Path) -> "Study":
        """The study that a `study.json` describes: `run(Study.from_json(path))` runs it again."""
        stored = json.loads(Path(path).read_text())["study"]
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})

    def command(self) -> str:
        """The command line that runs this study."""
        words = ["jaxinit run"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
                words.append(f"--{field.name.replace('_', '-')} {shown}")
        return " ".join(words)


class Cell(NamedTuple):
    """A checked study: its names resolved to a task, a pure model and schemes, its defaults filled in."""

    study: Study
    task: "Task"
    leaves: "tuple[Leaf, ...]"
    apply: "Apply"
    schemes: "dict[str, Scheme]"


class Result(NamedTuple):
    """A study as its folder holds it: what was asked, the records, and the answer."""

    study: Study
    records: "xr.Dataset"
    summary: dict[str, Any]
    folder: Path
    complete: bool


def run(
    study: Study,
    *,
    out: str | Path | None = None,
    schemes: "Mapping[str, Scheme] | None" = None,
    progress: bool = True,
    mapping: "TrialMapping | None" = None,
    slots_per_device: int = 16,
) -> Result:
    """Run a study, or read it when its folder holds it complete, and write its folder.

    `schemes` adds to the names that `study.schemes` may use. `mapping` says how a device runs its trials, one after
    another (`map`, the default on CPU) or together (`vmap`). Call `sweep.one_device_per_core()` first to use all
    cores. Ctrl-C ends the run early and keeps what was computed: the result is then not `complete`.
    Raises: BadStudy for anything wrong with the study or the folder, before any work is done.
    """
    began = time.time()
    cell = check(study, schemes)
    folder = Path(out) if out is not None else default_folder(cell.study)
    if _holds(folder, cell.study):
        return load(folder)

    from jaxinit import stats, sweep, train

    program = train.make_program(
        cell.apply,
        cell.task,
        cell.study.optimizer,
        batch=cell.study.batch,
        evaluations=cell.study.evaluations,
        epochs=min(EPOCHS_PER_CHUNK, cell.study.epochs),
    )
    _write_study(folder, cell, program.evaluations_per_epoch, "running")
    records = empty_records(cell, program.evaluations_per_epoch)
    complete = False
    with sweep.CompileCounter("training_program") as compiled, _progress(cell.study, progress) as report:
        try:
            starts = draw_starts(cell)
            import jax

            sweeper = sweep.Sweep(
                program,
                cell.task.data,
                slots_per_device * len(jax.devices()),
                jax.devices(),
                mapping or sweep.default_mapping(),
            )
            for phase in ("tune", "report"):
                seeds = np.flatnonzero(records.phase.values == phase)
                points = [
                    (scheme, rate, int(seed))
                    for scheme in cell.schemes
                    for rate in ([stats.best_rate(records, scheme)] if phase == "report" else cell.study.lrs or ())
                    for seed in seeds
                ]
                _fill(records, cell, sweeper, starts, points, report)
            complete = True
        except KeyboardInterrupt:
            pass
    summary = summarize(records, cell.study)
    summary |= {"compilations": compiled.count, "compile_s": compiled.seconds, "wall_s": time.time() - began}
    _write_atomically(folder / "records.nc", lambda path: _to_netcdf(records, path))
    _write_json(folder / "summary.json", summary)
    _write_study(folder, cell, program.evaluations_per_epoch, "complete" if complete else "interrupted")
    return load(folder)


def load(folder: str | Path) -> Result:
    """Read a study from its folder. Raises: BadStudy when the folder holds none, or none that has got far enough."""
    import xarray as xr

    folder = Path(folder)
    if not (folder / "study.json").exists():
        raise BadStudy(f"{folder} holds no study (no study.json); give the folder that `jaxinit run` printed")
    if not (folder / "records.nc").exists():
        raise BadStudy(f"the study in {folder} wrote no records yet; run it again: {_stored(folder)['command']}")
    with xr.open_dataset(folder / "records.nc", engine="h5netcdf") as file:
        records = file.load()
    summary = json.loads((folder / "summary.json").read_text())
    complete = _stored(folder)["status"] == "complete"
    return Result(Study.from_json(folder / "study.json"), records, summary, folder, complete)


def check(study: Study, schemes: "Mapping[str, Scheme] | None" = None) -> Cell:
    """Resolve the names of a study and check everything that can be checked before any work.

    Raises: BadStudy, one line that names what was got, what was expected and the nearest name.
    """
    from flax import nnx

    from jaxinit.introspect import functional
    from jaxinit.models import MODELS
    from jaxinit.models.common import ACTIVATIONS
    from jaxinit.schemes import SCHEMES
    from jaxinit.spec import rules
    from jaxinit.tasks import TASKS
    from jaxinit.train import OPTIMIZERS

    known = SCHEMES | dict(schemes or {})
    _known("model", study.model, MODELS)
    _known("task", study.task, TASKS)
    _known("optimizer", study.optimizer, OPTIMIZERS)
    for scheme in study.schemes:
        _known("scheme", scheme, known)
    if study.activation is not None:
        _known("activation", study.activation, ACTIVATIONS)
        if study.model in ("lstm", "gru"):
            raise BadStudy(f"model {study.model!r} has its own activations; leave --activation out, or use rnn or mlp")
    study = replace(study, lrs=tuple(study.lrs or RATES[study.optimizer]))
    _check_numbers(study)
    if not study.schemes or len(set(study.schemes)) < len(study.schemes):
        raise BadStudy(f"schemes must be one or more different names, got {' '.join(study.schemes) or 'none'}")
    if study.baseline not in study.schemes:
        raise BadStudy(
            f"the baseline {study.baseline!r} is not among the schemes ({', '.join(study.schemes)}); "
            "add it to --schemes, or choose another with --baseline"
        )
    if study.length is not None and study.task.startswith("digits"):
        raise BadStudy(f"task {study.task!r} has a fixed length; leave --length out, or use adding or copy")
    try:
        task = TASKS[study.task]() if study.length is None else TASKS[study.task](study.length)
        study = replace(study, target=task.target if study.target is None else study.target)
        task.check_target(study.target or 0.0)
        if study.batch > task.examples:
            raise BadStudy(f"batch is at most {task.examples}, the training examples of {task.name!r}; got {study.batch}")
        options: dict[str, Any] = {"layers": study.layers}
        if study.activation is not None:
            options["activation"] = study.activation
        in_features = task.in_features
        if study.model == "mlp":
            in_features *= task.length
            if task.readout == "all":
                raise BadStudy(f"task {task.name!r} wants an output at every step; model 'mlp' gives one; use rnn, lstm or gru")
        else:
            options["readout"] = task.readout
        make = MODELS[study.model]
        leaves, apply = functional(
            lambda: make(in_features, study.hidden, task.out_features, rngs=nnx.Rngs(0), **options)  # type: ignore[call-arg]
        )
        for name in study.schemes:
            rules(known[name], leaves)
    except BadStudy:
        raise
    except ValueError as error:
        raise BadStudy(str(error)) from error
    return Cell(study, task, leaves, apply, {name: known[name] for name in study.schemes})


def draw_starts(cell: Cell) -> "dict[str, dict[str, np.ndarray]]":
    """The starting parameters of every scheme and seed, drawn by one program: `{scheme: {name: [seed, ...]}}`.

    The base key of a seed does not depend on the scheme, so that draws are paired.
    """
    import jax
    import jax.numpy as jnp

    from jaxinit.spec import draw, named_key

    def one(scheme: "Scheme", seed: Any) -> Any:
        return draw(scheme, named_key(jax.random.key(seed), "parameters"), cell.leaves)

    seeds = jnp.arange(_seeds(cell.study))
    program = jax.jit(
        lambda seeds: {name: jax.vmap(lambda s, f=f: one(f, s))(seeds) for name, f in cell.schemes.items()}
    )
    return jax.tree.map(np.asarray, program(seeds))


def empty_records(cell: Cell, evaluations_per_epoch: int) -> "xr.Dataset":
    """The records of a study before any trial: NaN and UNFINISHED everywhere, all axes named."""
    import xarray as xr

    study, task = cell.study, cell.task
    rows = study.epochs * evaluations_per_epoch
    coords = {
        "scheme": list(study.schemes),
        "lr": list(study.lrs or ()),
        "seed": np.arange(_seeds(study)),
        "epoch": np.arange(1, rows + 1) / evaluations_per_epoch,
    }
    phase = ["tune"] * (_seeds(study) - study.seeds) + ["report"] * study.seeds
    grid = tuple(len(coords[name]) for name in ("scheme", "lr", "seed"))
    traces = {
        "train_loss": "mean training loss since the evaluation before",
        "grad_norm": "mean global gradient norm since the evaluation before",
        "valid_loss": "validation loss",
        "metric": task.metric_name,
    }
    variables: dict[str, Any] = {
        name: (("scheme", "lr", "seed", "epoch"), np.full((*grid, rows), np.nan, np.float32), {"long_name": text})
        for name, text in traces.items()
    }
    meanings = " ".join(outcome.name.lower() for outcome in Outcome)
    flags = {"flag_values": np.arange(len(Outcome), dtype=np.int8), "flag_meanings": meanings}
    variables["outcome"] = (("scheme", "lr", "seed"), np.zeros(grid, np.int8), flags)
    variables["last_epoch"] = (
        ("scheme", "lr", "seed"),
        np.zeros(grid),
        {"long_name": "epochs trained: the time to target of a converged trial", "units": "epochs"},
    )
    variables["phase"] = (("seed",), phase)
    attrs = {
        "model": study.model,
        "hidden": study.hidden,
        "layers": study.layers,
        "optimizer": study.optimizer,
        "batch": study.batch,
        "task": task.name,
        "metric": task.metric_name,
        "higher_is_better": int(task.higher_is_better),
        "target": float(study.target or 0.0),
        "chance": task.chance,
        "budget": float(study.epochs),
        "evaluations_per_epoch": evaluations_per_epoch,
        "baseline": study.baseline,
    }
    return xr.Dataset(variables, coords, attrs)


def summarize(records: "xr.Dataset", study: Study) -> dict[str, Any]:
    """The answer: the table, the claims, the counts, and what a reader must know to read them."""
    from jaxinit import stats

    outcome = records.outcome.values
    recurrent = study.model != "mlp"
    claims = [
        stats.Claim(
            "A10",
            f"{XAVIER_CLAIM} (xavier_rnn against {baseline})",
            "xavier_rnn",
            baseline,
            (2.0, 10.0),
        )
        for baseline in ("small_normal", "uniform01")
        if recurrent
    ]
    rows = stats.table(records, study.baseline)
    notes = [
        f"epochs: restricted mean up to the budget of {study.epochs} epochs, on {study.seeds} reporting seeds, at the "
        f"rate that was best on {study.tune_seeds} other seeds",
        f"resolution: one evaluation every 1/{records.attrs['evaluations_per_epoch']} epoch",
        "intervals: 95 %, percentile bootstrap over seeds, paired for the ratios; with few seeds they are too narrow",
    ]
    edge = [f"{row['scheme']} ({row['lr']:g})" for row in rows if row["lr_at_edge"] and row["converged"]]
    if edge:
        notes.append(f"best rate at the edge of the grid, a wider one might do better: {', '.join(edge)}")
    never = [row["scheme"] for row in rows if not row["converged"]]
    if never:
        notes.append(f"never reached the target, so their rate means little and ratios are bounds: {', '.join(never)}")
    unfinished = int(((records.last_epoch.values > 0) & (outcome == Outcome.UNFINISHED)).sum())
    if unfinished:
        notes.append(f"interrupted: {unfinished} trials are censored where they stopped")
    return {
        "baseline": study.baseline,
        "target": records.attrs["target"],
        "metric": records.attrs["metric"],
        "budget": records.attrs["budget"],
        "trials": int((outcome != Outcome.UNFINISHED).sum()),
        "tuning_seeds": study.tune_seeds,
        "table": rows,
        "claims": stats.judge(records, claims),
        "notes": notes,
    }


def default_folder(study: Study) -> Path:
    """results/<model>-<task>-<six digits of the study's hash>: the same question always has the same folder."""
    import hashlib

    digest = hashlib.sha256(json.dumps(_plain(study), sort_keys=True).encode()).hexdigest()
    return Path("results") / f"{study.model}-{study.task}-{digest[:6]}"


def _fill(
    records: "xr.Dataset",
    cell: Cell,
    sweeper: "Sweep",
    starts: "dict[str, dict[str, np.ndarray]]",
    points: list[tuple[str, float, int]],
    report: Callable[[str, int, str], None],
) -> None:
    """Sweep the trials at `points` (scheme, rate, seed) and put what they leave into `records`."""
    if not points:
        return
    params, trials = _queue(cell, starts, points, int(records.attrs["evaluations_per_epoch"]))
    places = [
        (list(cell.schemes).index(scheme), records.lr.values.tolist().index(rate), seed) for scheme, rate, seed in points
    ]
    traces = {name: records[name].values for name in ("train_loss", "grad_norm", "valid_loss", "metric")}
    outcome, last_epoch = records.outcome.values, records.last_epoch.values
    best = (math.inf, "")
    for rows in sweeper.run(params, trials):
        for row in rows:
            place = places[row.index]
            for name, values in row.records._asdict().items():
                traces[name][place][row.first : row.last] = values
            outcome[place] = row.outcome
            last_epoch[place] = row.last / records.attrs["evaluations_per_epoch"]
            scheme, rate, _ = points[row.index]
            if row.outcome is Outcome.CONVERGED:
                best = min(best, (float(last_epoch[place]), f"{scheme} at rate {rate:g}"))
        ended = sum(row.outcome is not Outcome.UNFINISHED for row in rows)
        report(str(records.phase.values[points[0][2]]), ended, f"{best[0]:.3g} epochs, {best[1]}" if best[1] else "none yet")


def _queue(cell: Cell, starts: Any, points: list[tuple[str, float, int]], evaluations_per_epoch: int) -> tuple[Any, Any]:
    """The parameters and the traced settings of the trials at `points`, the trial as leading axis."""
    import jax

    from jaxinit.spec import rules
    from jaxinit.train import Scales, Trial

    study, count = cell.study, len(points)
    stack = lambda trees: jax.tree.map(lambda *arrays: np.stack(arrays), *trees)
    params = stack([jax.tree.map(lambda a, seed=seed: a[seed], starts[scheme]) for scheme, _, seed in points])
    by_scheme = {name: rules(scheme, cell.leaves) for name, scheme in cell.schemes.items()}
    plain = all(
        (rule.multiplier, rule.lr_scale, rule.wd_scale) == (1, 1, 1) for of in by_scheme.values() for rule in of.values()
    )
    scales = None if plain else stack([Scales.of(by_scheme[scheme]) for scheme, _, _ in points])
    full = lambda value, dtype: np.full(count, value, dtype)
    trials = Trial(
        seed=np.asarray([seed for _, _, seed in points], np.int32),
        lr=np.asarray([rate for _, rate, _ in points], np.float32),
        clip=full(math.inf if study.clip is None else study.clip, np.float32),
        weight_decay=full(study.weight_decay, np.float32),
        target=full(study.target, np.float32),
        budget=full(study.epochs * evaluations_per_epoch, np.int32),
        scales=scales,
    )
    return params, trials


def _seeds(study: Study) -> int:
    """All seeds of a study. With a single rate there is nothing to tune, and all of them report."""
    return study.seeds + (study.tune_seeds if len(study.lrs or ()) > 1 else 0)


def _check_numbers(study: Study) -> None:
    for name in ("hidden", "layers", "epochs", "evaluations", "batch"):
        if getattr(study, name) < 1:
            raise BadStudy(f"{name} must be 1 or more, got {getattr(study, name)}")
    rates = study.lrs or ()
    if any(not (math.isfinite(rate) and rate > 0) for rate in rates) or len(set(rates)) < len(rates):
        raise BadStudy(f"learning rates must be positive, finite and different, got {' '.join(f'{r:g}' for r in rates)}")
    if study.seeds < 2:
        raise BadStudy(f"an interval needs 2 or more reporting seeds, got --seeds {study.seeds}")
    if study.tune_seeds < 1 and len(rates) > 1:
        raise BadStudy("choosing among learning rates needs --tune-seeds 1 or more; or give a single --lrs")
    if study.clip is not None and not study.clip > 0:
        raise BadStudy(f"clip must be positive, got {study.clip:g}; leave it out for no clipping")
    if not study.weight_decay >= 0:
        raise BadStudy(f"weight decay must not be negative, got {study.weight_decay:g}")
    if study.target is not None and not math.isfinite(study.target):
        raise BadStudy(f"target must be a number, got {study.target}")


def _known(kind: str, name: str, table: Iterable[str]) -> None:
    names = list(table)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, cutoff=0.0)[0]
        raise BadStudy(f"no {kind} is called {name!r}; the nearest is {near!r} (there are {', '.join(names)})")


def _plain(study: Study) -> dict[str, Any]:
    """A study as JSON keeps it."""
    return json.loads(json.dumps(asdict(study)))


def _stored(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "study.json").read_text())


def _holds(folder: Path, study: Study) -> bool:
    """Whether `folder` holds this very study, complete. Raises: BadStudy when it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise BadStudy(f"{folder} is a file; give --out a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / "study.json").exists():
        raise BadStudy(f"{folder} is not empty and holds no study; give --out a new folder (nothing was overwritten)")
    stored = _stored(folder)
    mine, its = _plain(study), stored["study"]
    other = [f"{key} is {its.get(key)!r}, not {mine.get(key)!r}" for key in sorted(mine | its) if mine.get(key) != its.get(key)]
    if other:
        raise BadStudy(
            f"{folder} holds another study ({'; '.join(other)}); give --out a new folder (nothing was overwritten)"
        )
    return stored["status"] == "complete"


def _write_study(folder: Path, cell: Cell, evaluations_per_epoch: int, status: str) -> None:
    import jax

    device = jax.devices()[0]
    packages = ("jaxinit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "xarray")
    tuning = _seeds(cell.study) - cell.study.seeds
    _write_json(
        folder / "study.json",
        {
            "study": _plain(cell.study),
            "command": cell.study.command(),
            "status": status,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seeds": {"tune": list(range(tuning)), "report": list(range(tuning, _seeds(cell.study)))},
            "evaluations_per_epoch": evaluations_per_epoch,
            "target_because": cell.task.why if cell.study.target == cell.task.target else "given by the user",
            "data_sha256": cell.task.fingerprint(),
            "parameters": int(sum(math.prod(leaf.shape) for leaf in cell.leaves)),
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
            "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
            "commit": _commit(),
        },
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, if it is one; with `+` when it has changes."""
    here = Path(__file__).parent
    git = lambda *words: subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout
    try:
        if not git("ls-files", "study.py"):
            return None
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_atomically(path, lambda to: to.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n"))


def _to_netcdf(records: "xr.Dataset", path: Path) -> None:
    packed = {str(name): {"zlib": True} for name in records.data_vars if records[name].dtype.kind == "f"}
    records.to_netcdf(path, engine="h5netcdf", encoding=packed)


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name in the same folder and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _progress(study: Study, shown: bool) -> Iterator[Callable[[str, int, str], None]]:
    """A progress bar over all trials of a study: `report(phase, trials ended, best so far)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = len(study.schemes) * (study.seeds + (_seeds(study) - study.seeds) * len(study.lrs or ()))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("trials, best {task.fields[best]}, left"),
        TimeRemainingColumn(),
    )
    what = {"tune": "tuning rates", "report": "reporting"}
    from rich.console import Console

    with Progress(*columns, console=Console(file=sys.stderr), disable=not shown) as bar:
        task = bar.add_task("compiling", total=total, best="none yet")
        yield lambda phase, ended, best: bar.update(task, advance=ended, best=best, description=what[phase])
