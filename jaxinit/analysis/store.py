"""The folder of a study: study.json, records.nc and summary.json, one answer that is written as a
whole.

Analysis, figures and reports read these files and nothing else. While a study runs, its state lies
beside them, so that the same command goes on where it was stopped or killed, and others can look at
what there is.
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr

from jaxinit.analysis import summary as summaries
from jaxinit.analysis.folder import (
    BAD_PATH,
    Folder,
    a,
    digest,
    quoted,
    replacing,
    sync_folder,
    to_json,
    write_synced,
)
from jaxinit.analysis.records import TRACES, Courses
from jaxinit.analysis.search import searches_of, trials_of_a_search
from jaxinit.study import BadStudy, Study

STUDY, RECORDS, SUMMARY = "study.json", "records.nc", "summary.json"
STATE, SPARE = "state.bin", "state.before.bin"
CHECKSUM = 32  # bytes of a SHA-256, before the content of what is sealed
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
PACKAGES = ("jaxinit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "xarray")
OF_THE_STUDY = ("schema", "study", "command", "seeds")  # in study.json, by the study alone
SCHEMA = 4  # of study.json and records.nc


class Result(NamedTuple):
    """A study as its folder holds it: what was asked, the records, the answer, and whether every
    trial ran.

    `about` is all of study.json. `read_back` says that nothing was computed: the answer was in the
    folder. `remark` says what is wrong with it, as when the last state of an unfinished study is
    torn; empty for nothing.
    """

    study: Study
    records: xr.Dataset
    summary: summaries.Summary
    folder: Path
    complete: bool
    about: Mapping[str, Any] = MappingProxyType({})
    read_back: bool = False
    remark: str = ""

    @property
    def origin(self) -> str:
        """Where and when this was computed, and on what: a line."""
        versions = self.about["versions"]
        return f"computed {self.about['written']} on {self.devices}, JAX {versions['jax']}"

    @property
    def devices(self) -> str:
        """What computed this: `2 cpu devices`, `1 NVIDIA H200 device`."""
        return devices_in_words(self.about["device"])


def devices_in_words(device: Mapping[str, Any]) -> str:
    """The devices of study.json: `2 cpu devices`, `1 NVIDIA H200 device`."""
    return f"{device['count']} {device['kind']} device{'s' * (device['count'] != 1)}"


def load(path: str | Path) -> Result:
    """Read a study from its folder, every file verified by its hash.

    Of a study that runs, or that was killed, the records are those of its last saved state.
    Raises: BadStudy when the folder holds none, one without records yet, or a file that is damaged,
    missing or of another version.
    """
    folder = Folder(Path(path))
    while True:
        about = stored(path)
        try:
            result = _load(folder, about)
        except BadStudy:
            if stored(path) == about:
                raise
        else:
            if stored(path) == about:
                return result
        # The study ended while it was read, and its states were cleared.


def _load(folder: Folder, about: dict[str, Any]) -> Result:
    study = Study.from_plain(about["study"])
    if about["status"] == "complete":
        records = read_records(folder)
        summary = cast(summaries.Summary, _read_json(folder, SUMMARY))
        return Result(study, records, summary, folder.path, True, about)
    records, remark = unfinished_records(folder, study, about)
    summary = summaries.summarize(records, study, about)
    return Result(study, records, summary, folder.path, False, about, remark=remark)


def summarize_again(path: str | Path) -> Result:
    """Read a study and make its summary anew from its records, whatever summary.json holds.

    Of a complete study summary.json is written again where it differs and the folder can be
    written.
    Raises: BadStudy as `load`, but not for summary.json.
    """
    folder = Folder(Path(path))
    about = stored(path)
    if about["status"] != "complete":
        return load(path)
    study = Study.from_plain(about["study"])
    records = read_records(folder)
    # As JSON gives it back, so that it compares with what is kept.
    summary = json.loads(to_json(summaries.summarize(records, study, about)))
    try:
        kept = _read_json(folder, SUMMARY)
    except BadStudy:
        kept = None
    if kept != summary:
        try:
            with folder.locked():
                folder.write("study", {"study": study.plain()}, {SUMMARY: to_json(summary)})
        except OSError:
            pass  # a folder that cannot be written still prints its answer
    return Result(study, records, summary, folder.path, True, about)


def stored(path: str | Path) -> dict[str, Any]:
    """The content of a folder's study.json. Raises: BadStudy when the folder holds no study, or a
    damaged one."""
    folder = Folder(Path(path))
    held = folder.manifest()
    if held is None or held.kind != "study":
        content = "no study" if held is None else f"{a(held.kind)} and no study"
        raise BadStudy(
            f"{folder.path} holds {content} (no study.json); give the folder that `jaxinit run` "
            "printed"
        )
    return _read_json(folder, STUDY)


def answered(folder: Folder, study: Study) -> dict[str, Any] | None:
    """study.json of a folder that holds this very question, complete or not; None for a folder with
    nothing.

    Raises: BadStudy when it holds anything else, saying what differs. Nothing is ever overwritten
    but the same study."""
    if folder.claim("study", {"study": study.plain()}) is None:
        return None
    return _read_json(folder, STUDY)


def read_records(folder: Folder, name: str = RECORDS) -> xr.Dataset:
    """A Dataset of a folder. Raises: BadStudy as `Folder.read`."""
    with xr.open_dataset(io.BytesIO(folder.read(name)), engine="h5netcdf") as file:
        return file.load()


def netcdf(records: xr.Dataset) -> bytes:
    """A Dataset as a NetCDF-4 file, compressed: made in memory, since HDF5 does not survive a full
    disk."""
    packed = {}
    for name, variable in records.data_vars.items():
        if variable.dtype.kind == "f":
            packed[str(name)] = {"zlib": True}
    content = io.BytesIO()
    records.to_netcdf(content, engine="h5netcdf", encoding=packed)
    return content.getvalue()


def unfinished_records(
    folder: Folder, study: Study, about: Mapping[str, Any]
) -> tuple[xr.Dataset, str]:
    """What is known of a study that is not complete, its last saved state, and what is wrong with
    later ones ("").

    Where no state is left, the records are those that the last interruption wrote.
    Raises: BadStudy where there are neither.
    """
    state, remark = read_state(folder.path, about["digest"], set_aside=False)
    if state is None:
        records = _interrupted_records(folder, about["digest"])
        if records is None:
            again = f"{about['command']} --out {quoted(folder.path)}"
            raise BadStudy(
                f"{remark}the study in {folder.path} has no records yet; run it again: {again}"
            )
        return records, (
            f"{remark}no saved state is left in {folder.path}; these are the records of its last "
            f"interruption, in {RECORDS}; to go on is to start anew"
        )
    attrs = attributes(study, about["evaluations_per_epoch"], about["task"], about["digest"])
    courses = Courses(attrs, study.epochs * about["evaluations_per_epoch"])
    courses.restore(state)
    records = courses.dataset()
    torn = remark.partition("going on from")[0]
    return records, torn and f"{torn}these are the records of the state saved before"


def _interrupted_records(folder: Folder, identity: str) -> xr.Dataset | None:
    """The records that an interruption of this very study wrote, None for none."""
    if not folder.holds(RECORDS):
        return None
    records = read_records(folder)
    return records if records.attrs.get("identity") == identity else None


def attributes(
    study: Study, evaluations_per_epoch: int, about: Mapping[str, Any], identity: str = ""
) -> dict[str, Any]:
    """The attributes of the records of a study.

    `about` says what they cannot take from the study: task, metric, direction, chance, target;
    `identity` is the digest of what was asked.
    """
    return {
        "model": study.model,
        "hidden": study.hidden,
        "layers": study.layers,
        "optimizer": study.optimizer,
        "batch": study.batch,
        "baseline": study.baseline,
        "search": study.search,
        "seeds": study.seeds,
        "budget": float(study.epochs),
        "evaluations_per_epoch": evaluations_per_epoch,
        **({"also": study.also[0]} if study.also else {}),
        **about,
        "schemes": study.schemes,
        "schema": SCHEMA,
        "identity": identity,
    }


def size_of_records(study: Study, evaluations_per_epoch: int) -> int:
    """Bytes of the records, all of whose traces are float32."""
    trials = searches_of(study) * trials_of_a_search(study)
    entries = trials * study.epochs * evaluations_per_epoch
    return entries * len(TRACES) * np.dtype(np.float32).itemsize


def write_study(
    folder: Folder,
    study: Study,
    about: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    instead: Study | None = None,
) -> None:
    """Write study.json, all that is needed to run the study again and on what it ran, and other
    files with it; `instead` of a study that the folder holds, if any."""
    content = {
        "schema": SCHEMA,  # and all of OF_THE_STUDY
        "study": study.plain(),
        "command": study.command(),
        "seeds": {"tune": list(study.tuning), "report": list(study.reporting)},
        **about,
    }
    folder.write(
        "study",
        {"study": study.plain()},
        {**(files or {}), STUDY: to_json(content)},
        None if instead is None else {"study": instead.plain()},
    )


def conditions() -> dict[str, Any]:
    """Under what a study runs: versions of the packages, the commit, a digest of this package's
    source.

    And what XLA's arithmetic depends on beside these: its flags, and the processor that it compiles
    for.
    """
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    arithmetic = {name: os.environ.get(name, "") for name in FLAGS} | {"processor": _processor()}
    return {
        "versions": versions,
        "commit": _commit(),
        "source": _source_digest(),
        "arithmetic": arithmetic,
    }


def versions_in_words(of: Mapping[str, str | None] | None = None) -> str:
    """The versions of packages in a line: of `conditions`, or those that are here."""
    versions = conditions()["versions"] if of is None else of
    return ", ".join(f"{package} {number}" for package, number in versions.items() if number)


def _processor() -> str:
    """The name of the processor, where the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def changed_conditions(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between the conditions of two lives of a study, in words."""
    before, now = there["versions"], here["versions"]
    changes = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            changes.append(f"{name} {before.get(name)} there, {now.get(name)} here")
    for name, now in here["arithmetic"].items():
        before = there.get("arithmetic", {}).get(name, now)
        if before != now:
            changes.append(f"{name} {before!r} there, {now!r} here")
    if there["commit"] != here["commit"]:
        changes.append(f"commit {there['commit']} there, {here['commit']} here")
    elif there["source"] != here["source"]:
        changes.append("the source of jaxinit")
    return changes


def sealed(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A header and arrays as the content of a file, a checksum before it."""
    payload = io.BytesIO()
    save: Any = np.savez
    save(payload, header=np.frombuffer(to_json(header), np.uint8), **arrays)
    content = payload.getvalue()
    return hashlib.sha256(content).digest() + content


def opened(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The header and the arrays of what `sealed` made; None where the checksum is wrong."""
    checksum, payload = content[:CHECKSUM], content[CHECKSUM:]
    if hashlib.sha256(payload).digest() != checksum:
        return None
    with np.load(io.BytesIO(payload), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(arrays.pop("header").tobytes()), arrays


def write_state(
    path: Path, arrays: Mapping[str, np.ndarray], identity: str, lives: Sequence[Mapping]
) -> None:
    """Write how far a running study is, with a checksum, keeping the state before as a spare.

    `identity` is the digest of the study that it belongs to, `lives` what study.json says of the
    runs so far.
    """
    state = path / STATE
    with replacing(state) as fresh:
        write_synced(fresh, sealed({"identity": identity, "lives": list(lives)}, arrays))
        # A kill between the two renames leaves the spare alone, from which the study goes on.
        if state.exists():
            state.replace(path / SPARE)
    sync_folder(path)


def read_state(
    path: Path, identity: str, set_aside: bool = True
) -> tuple[dict[str, Any] | None, str]:
    """The last good state of an unfinished study, or None, and a line on what was found ("" for
    nothing).

    `lives` among its entries is what `write_state` was told. A file that is torn, whose checksum
    does not fit, or that belongs to another study, is set aside under another name, or left alone.
    """
    contents = _state_files(path)
    remarks = ""
    if len(contents) == 2 and contents[STATE] == contents[SPARE] != b"":
        # No two states are alike: each knows its time.
        remarks = f"{path / STATE} is a copy of {SPARE}; "
    elif list(contents) == [SPARE]:
        remarks = f"{path / STATE} is missing; "
    for name, content in contents.items():
        file = path / name
        state = opened(content)
        if state is not None and state[0]["identity"] == identity:
            header, arrays = state
            return {**arrays, "lives": header["lives"]}, f"{remarks}going on from {file}"
        fault = "torn" if state is None else "foreign"
        reason = "is torn" if state is None else "belongs to another study"
        if set_aside:
            file.replace(path / f"{name}.{fault}")
            reason += f" and was set aside as {name}.{fault}"
        remarks += f"{file} {reason}; "
    return None, remarks


def _state_files(path: Path) -> dict[str, bytes]:
    """The contents of the state and of its spare, of those that are there."""
    contents = {}
    for name in (STATE, SPARE):
        try:
            contents[name] = (path / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in BAD_PATH:
                raise
            # A folder or a loop of links in its place is set aside as a torn one is.
            contents[name] = b""
    return contents


def clear_state(path: Path) -> None:
    """Remove the states of a study that is complete."""
    for name in (STATE, SPARE):
        (path / name).unlink(missing_ok=True)


def write_answer(
    path: Path, kind: str, question: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    """Write the files of another kind of answer than a study: a probe, a coordinate check, an
    experiment.

    Raises: BadStudy when the folder holds anything else.
    """
    folder = Folder(path)
    with folder.locked():
        folder.write(kind, question, files)


def _read_json(folder: Folder, name: str) -> dict[str, Any]:
    content = json.loads(folder.read(name))
    if name == STUDY and content.get("schema") != SCHEMA:
        raise BadStudy(
            f"{folder.path / name} has schema {content.get('schema')}, and this version of jaxinit "
            f"reads {SCHEMA}; read it with the version that wrote it, or give --out a new folder"
        )
    return content


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source_digest() -> str:
    """The SHA-256 of this package's source files."""
    here = Path(__file__).parent
    sources = [file.read_bytes() for file in sorted(here.rglob("*.py"))]
    return digest(b"\0".join(sources))


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, if it is one; with `+` when it has
    changes."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
