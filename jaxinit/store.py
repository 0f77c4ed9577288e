"""The folder of a study: study.json, records.nc and summary.json, each written whole or not at all.

Analysis, figures and reports read these files and nothing else. While a study runs, its state lies beside them, so
that the same command goes on where it was stopped or killed.
"""

import datetime
import hashlib
import io
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from jaxinit.outcome import Outcome
from jaxinit.study import BadStudy, Study

TRACES = {
    "train_loss": "mean training loss since the evaluation before",
    "grad_norm": "mean global gradient norm since the evaluation before",
    "valid_loss": "validation loss",
    "metric": "validation metric",
}
STATE, SPARE = "state.bin", "state.before.bin"
PACKAGES = ("jaxinit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "xarray")


class Result(NamedTuple):
    """A study as its folder holds it: what was asked, the records, the answer, and whether every trial ran."""

    study: Study
    records: xr.Dataset
    summary: dict[str, Any]
    folder: Path
    complete: bool


def load(folder: str | Path) -> Result:
    """Read a study from its folder. Raises: BadStudy when the folder holds none, or one without records yet."""
    folder = Path(folder)
    if not (folder / "study.json").exists():
        raise BadStudy(f"{folder} holds no study (no study.json); give the folder that `jaxinit run` printed")
    stored = _stored(folder)
    if not (folder / "records.nc").exists():
        raise BadStudy(f"the study in {folder} wrote no records yet; run it again: {stored['command']} --out {folder}")
    with xr.open_dataset(folder / "records.nc", engine="h5netcdf") as file:
        records = file.load()
    summary = json.loads((folder / "summary.json").read_text())
    return Result(Study.from_json(folder / "study.json"), records, summary, folder, stored["status"] == "complete")


def holds(folder: Path, study: Study, own_schemes: dict[str, str] | None = None) -> bool:
    """Whether `folder` holds this very study, complete; an unfinished one may be gone on with.

    `own_schemes` has a digest of what each scheme of the caller's own draws.
    Raises: BadStudy when it holds anything else, saying what differs. Nothing is ever overwritten but the same study.
    """
    if folder.exists() and not folder.is_dir():
        raise BadStudy(f"{folder} is a file; give --out a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / "study.json").exists():
        raise BadStudy(f"{folder} is not empty and holds no study; give --out a new folder (nothing was overwritten)")
    stored = _stored(folder)
    mine, its = study.plain(), stored["study"]
    differs = [key for key in sorted(mine | its) if mine.get(key) != its.get(key)]
    what = [f"{key} is {its.get(key)!r} there, {mine.get(key)!r} here" for key in differs]
    digests = stored.get("own_schemes", {})
    changed = [name for name, digest in (own_schemes or {}).items() if digests.get(name) != digest]
    what += [f"the draws of scheme {name!r} differ" for name in changed]
    if what:
        raise BadStudy(
            f"{folder} holds another study ({'; '.join(what)}); give --out a new folder (nothing was overwritten)"
        )
    return stored["status"] == "complete"


def empty_records(study: Study, evaluations_per_epoch: int, about: dict[str, Any]) -> xr.Dataset:
    """The records of a study before any trial: all axes named, NaN and UNFINISHED everywhere.

    `about` says what the attributes cannot take from the study: task, metric, direction, chance.
    """
    rows = study.epochs * evaluations_per_epoch
    seeds = [*study.tuning, *study.reporting]
    coords = {
        "scheme": list(study.schemes),
        "lr": list(study.lrs),
        "seed": seeds,
        "epoch": np.arange(1, rows + 1) / evaluations_per_epoch,
    }
    grid = (len(study.schemes), len(study.lrs), len(seeds))
    trial = ("scheme", "lr", "seed")
    variables: dict[str, Any] = {
        name: ((*trial, "epoch"), np.full((*grid, rows), np.nan, np.float32), {"long_name": text})
        for name, text in TRACES.items()
    }
    meanings = " ".join(outcome.name.lower() for outcome in Outcome)
    flags = {"flag_values": np.arange(len(Outcome), dtype=np.int8), "flag_meanings": meanings}
    trained = {"long_name": "epochs trained: the time to target of a converged trial", "units": "epochs"}
    variables["outcome"] = (trial, np.zeros(grid, np.int8), flags)
    variables["last_epoch"] = (trial, np.zeros(grid), trained)
    variables["phase"] = (("seed",), ["tune"] * len(study.tuning) + ["report"] * len(study.reporting))
    attrs = {name: getattr(study, name) for name in ("model", "hidden", "layers", "optimizer", "batch", "baseline")}
    attrs |= {"budget": float(study.epochs), "evaluations_per_epoch": evaluations_per_epoch, **about}
    return xr.Dataset(variables, coords, attrs)


def write_study(folder: Path, study: Study, status: str, about: dict[str, Any]) -> None:
    """Write study.json: all that is needed to run the study again, and on what it ran."""
    content = {
        "study": study.plain(),
        "command": study.command(),
        "status": status,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seeds": {"tune": list(study.tuning), "report": list(study.reporting)},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        **about,
    }
    write_json(folder / "study.json", content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON; numbers that are not finite, which it cannot hold, become null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    _write_atomically(path, lambda to: to.write_text(text + "\n"))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_records(folder: Path, records: xr.Dataset, name: str = "records.nc") -> None:
    """Write records.nc (or `name`), NetCDF-4, compressed."""
    packed = {str(of): {"zlib": True} for of in records.data_vars if records[of].dtype.kind == "f"}
    _write_atomically(folder / name, lambda to: records.to_netcdf(to, engine="h5netcdf", encoding=packed))


def write_state(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write how far a running study is, with a checksum, keeping the state before as a spare."""
    payload = io.BytesIO()
    save: Any = np.savez
    save(payload, **arrays)
    content = payload.getvalue()
    path = folder / STATE
    if path.exists():
        path.replace(folder / SPARE)
    _write_atomically(path, lambda to: to.write_bytes(hashlib.sha256(content).digest() + content))


def read_state(folder: Path) -> tuple[dict[str, np.ndarray] | None, str]:
    """The last good state of an unfinished study, or None, and a line on what was found ("" for nothing).

    A torn file, whose checksum does not fit, is set aside with `.torn` added to its name.
    """
    torn = ""
    for name in (STATE, SPARE):
        path = folder / name
        if not path.exists():
            continue
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            with np.load(io.BytesIO(content[32:]), allow_pickle=False) as file:
                return dict(file), f"{torn}going on from {path}"
        path.replace(folder / f"{name}.torn")
        torn += f"{path} is torn and was set aside as {name}.torn; "
    return None, torn


def clear_state(folder: Path) -> None:
    """Remove the states of a study that is complete."""
    for name in (STATE, SPARE):
        (folder / name).unlink(missing_ok=True)


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name in the same folder and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _stored(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "study.json").read_text())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, if it is one; with `+` when it has changes."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
