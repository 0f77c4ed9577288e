"""A folder that keeps one answer: several files written as one, verified when read, one writer at a
time.

    files -> .NAME.new, synced -> manifest.json renamed: from here on they count
          -> each renamed to NAME

The manifest has the SHA-256 of every file. A reader takes a file, or its `.new` twin, whichever the
manifest means, so a kill at any moment leaves the old answer or the new one and never a mixture.
What the manifest does not list, as the state of a running study, figures and the lock, is no part
of the answer.
"""

import datetime
import errno
import fcntl
import hashlib
import itertools
import json
import math
import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxinit.study import BadStudy

# Of the files below a manifest; what was written before there were manifests counts as 1.
SCHEMA = 3
MANIFEST = "manifest.json"
LOCK = ".lock"
# What the system says of a path that can hold no answer, whoever asks.
BAD_PATH = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)


class Manifest(NamedTuple):
    """What a folder holds: `kind` of answer, `question` asked, and the SHA-256 of each file by
    name."""

    kind: str
    question: dict[str, Any]
    files: dict[str, str]
    written: str


@dataclass(frozen=True)
class Folder:
    """A folder of answers by its path, which need not exist yet."""

    path: Path

    def manifest(self) -> Manifest | None:
        """What the folder holds, None for nothing.

        Raises: BadStudy for a file in place of the folder, files of somebody else's, a manifest
        that is damaged, or a folder of another version.
        """
        with _usable(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise BadStudy(f"{self.path} is a file; name a folder")
            try:
                content = (self.path / MANIFEST).read_bytes()
            except FileNotFoundError:
                self._check_free()
                return None
        return self._parse(content)

    def claim(self, kind: str, question: Mapping[str, Any]) -> Manifest | None:
        """The manifest of this very answer, None where there is none yet.

        Questions are compared by the keys that both have.
        Raises: BadStudy, saying what differs, when the folder holds another answer; nothing is ever
        overwritten.
        """
        held = self.manifest()
        if held is None:
            return None
        if held.kind != kind:
            raise BadStudy(
                f"{self.path} holds {a(held.kind)}, not {a(kind)}; give --out a new folder "
                "(nothing was overwritten)"
            )
        asked = plain(question)
        common = held.question.keys() & asked.keys()
        there = {key: held.question[key] for key in common}
        here = {key: asked[key] for key in common}
        changes = differences(there, here)
        if changes:
            raise another(self.path, kind, changes)
        return held

    def holds(self, name: str) -> bool:
        """Whether the manifest lists a file."""
        held = self.manifest()
        return held is not None and name in held.files

    def read(self, name: str) -> bytes:
        """The content of a file that the manifest lists, verified.

        Raises: BadStudy for a file that is not listed, missing or damaged.
        """
        before = None
        while True:
            held = self.manifest()
            if held is None or name not in held.files:
                raise BadStudy(f"{self.path} holds no {name}; give the folder that jaxinit printed")
            content, fault = self._read_either(name, held.files[name])
            if content is not None:
                return content
            # Between our two looks a writer may have renamed the file, or have begun anew. Only
            # when the manifest has not changed either is nobody writing.
            if held == before:
                raise BadStudy(
                    f"{self.path / name} is {fault}; restore it from a copy, or {self._again(name)}"
                )
            before = held

    def _read_either(self, name: str, expected: str) -> tuple[bytes | None, str]:
        """The content of a file or of its `.new` twin, whichever has the expected SHA-256; None
        for neither, and what is wrong."""
        fault = "missing"
        for path in (self.path / name, self._new(name)):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in BAD_PATH:
                    raise
                content = None  # a folder or a loop of links in its place
            if content is not None and digest(content) == expected:
                return content, ""
            fault = "damaged: its content is not what was written"
        return None, fault

    def write(
        self,
        kind: str,
        question: Mapping[str, Any],
        files: Mapping[str, bytes],
        instead: Mapping[str, Any] | None = None,
    ) -> None:
        """Write files as one, beside those that the folder holds already; needs the lock
        (`locked`). With `instead`, the folder holds an answer to that question, and is to hold one
        to `question` from now on.

        Raises: OSError as the system does, with nothing changed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        held = self.claim(kind, question if instead is None else instead)
        listed = {}
        asked = plain(question)
        if held is not None:
            listed = dict(held.files)
            asked = held.question | asked
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            for name, content in files.items():
                write_synced(self._new(name), content)
                listed[name] = digest(content)
            body = {
                "schema": SCHEMA,
                "kind": kind,
                "question": asked,
                "written": now,
                "files": listed,
            }
            body["sha256"] = digest(_canonical(body))
            write_synced(self._new(MANIFEST), to_json(body))
        except OSError:  # as when the disk is full: the manifest still means the old files
            for name in (*files, MANIFEST):
                self._new(name).unlink(missing_ok=True)
            raise
        # The one step that counts: before it readers find the old answer, after it the new one, the
        # files of which still bear their `.new` names.
        self._new(MANIFEST).replace(self.path / MANIFEST)
        sync_folder(self.path)
        for name in files:
            self._put(name)
        sync_folder(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The right to write, for one process at a time; the system takes it back from a process
        that dies.

        What a dead writer left half done is finished or cleared first.
        Raises: BadStudy when another process has it, saying which.
        """
        self.manifest()  # refuses what is no folder of ours before anything is made
        path = self.path / LOCK
        with _usable(self.path):
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = _take(path)
            except BaseException:
                _remove_empty(missing)
                raise
        try:
            with _usable(self.path):
                self._recover()
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(lock)
            _remove_empty(missing)

    def check_there(self) -> None:
        """Raises: BadStudy where the lock that this process holds is not in the folder any more."""
        if not (self.path / LOCK).exists():
            raise BadStudy(
                f"{self.path} was moved or removed while it was written; move it back, or go on "
                "where it is now with: jaxinit resume FOLDER"
            )

    def _recover(self) -> None:
        """Finish the renames that a dead writer still owed, and remove what it wrote in vain."""
        held = self.manifest()
        listed = {} if held is None else held.files
        for name, expected in listed.items():
            twin = self._new(name)
            if twin.is_file() and digest(twin.read_bytes()) == expected:
                self._put(name)
        for left in self.path.glob(".*.new"):
            if left.is_dir() and not left.is_symlink():
                _move_aside(left)
            else:
                left.unlink()
        sync_folder(self.path)

    def _put(self, name: str) -> None:
        """Put what was written in its place, moving aside a folder that lies there."""
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            _move_aside(path)
        self._new(name).replace(path)

    def _new(self, name: str) -> Path:
        return self.path / f".{name}.new"

    def _again(self, name: str) -> str:
        if name == "summary.json":
            return f"make it again from the records: jaxinit plot {quoted(self.path)}"
        return "move the folder away and run the same command again"

    def _check_free(self) -> None:
        """Raises: BadStudy for a folder that holds something, though no manifest; hidden files do
        not count."""
        if not self.path.exists():
            return
        names = [entry.name for entry in self.path.iterdir()]
        visible = [name for name in names if not name.startswith(".")]
        if "study.json" in visible:
            raise BadStudy(
                f"{self.path} has a study.json and no {MANIFEST}: an older version of jaxinit "
                "wrote it, or the manifest was lost; name another folder (nothing was overwritten)"
            )
        if visible:
            raise BadStudy(
                f"{self.path} is not empty and holds no study; name the folder of one, or another "
                "for a new one (nothing was overwritten)"
            )

    def _parse(self, content: bytes) -> Manifest:
        path = self.path / MANIFEST
        try:
            body = json.loads(content)
            sha256 = body.pop("sha256")
            sound = digest(_canonical(body)) == sha256
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            sound = False
            body = {}
        if not sound:
            raise BadStudy(
                f"{path} is damaged: its content is not what was written; restore it from a copy, "
                "or move the folder away and run the same command again"
            )
        if body.get("schema") != SCHEMA:
            raise BadStudy(
                f"{self.path} was written by another version of jaxinit (schema "
                f"{body.get('schema')}, this version reads {SCHEMA}); read it with that version, "
                "or name another folder"
            )
        wrong = _faults(body)
        if wrong:
            raise BadStudy(
                f"{path} is no manifest of jaxinit ({'; '.join(wrong)}; expected text for kind and "
                "written, tables for question and files); restore it from a copy, or move the "
                "folder away and run the same command again"
            )
        return Manifest(body["kind"], body["question"], body["files"], body["written"])


def _faults(body: Mapping[str, Any]) -> list[str]:
    """What a manifest of this version lacks, though its checksum is right."""
    faults = []
    for key, type_ in (("kind", str), ("question", dict), ("files", dict), ("written", str)):
        if not isinstance(body.get(key), type_):
            faults.append(f"{key} is {body.get(key)!r:.80}")
    if faults:
        return faults
    digests_are_text = all(isinstance(sha256, str) for sha256 in body["files"].values())
    if not body["kind"] or not digests_are_text:
        return ["kind is empty, or a file's SHA-256 is no text"]
    return []


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two questions, in words, nested ones by the name of the entry."""
    changes = []
    for key in sorted(there.keys() | here.keys()):
        before, now = there.get(key), here.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            changes += differences(before, now)
        else:
            changes.append(f"{key} is {before!r} there, {now!r} here")
    return changes


def another(path: Path, kind: str, changes: list[str], look: str = "") -> BadStudy:
    """The error of a folder that holds another answer of a kind, with what differs, and where to
    `look` at it."""
    return BadStudy(
        f"{path} holds another {kind} ({'; '.join(changes)}); give --out a new folder{look} "
        "(nothing was overwritten)"
    )


def folder_name(name: str) -> str:
    """The name of a study without what a shell would want quoted, as spaces and commas."""
    letters = [letter if letter.isalnum() or letter in "-.=" else "_" for letter in name]
    return "".join(letters)


def a(kind: str) -> str:
    """A kind of answer with its article."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """A question as JSON gives it back."""
    return json.loads(to_json(content))


def to_json(content: Mapping[str, Any]) -> bytes:
    """Strict JSON; numbers that are not finite, which it cannot hold, become null."""
    return (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode()


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it has reached the disk. Raises: OSError that names the file."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # write and fsync, which a full disk fails, know no name
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name under which a file is written: it takes the place of `path` when it is whole, and
    what could not be written goes."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        yield fresh
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Wait until renames in a folder have reached the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn what the system says of paths that can hold no answer into BadStudy."""
    try:
        yield
    except OSError as error:
        if error.errno not in BAD_PATH:
            raise
        name = str(error.filename or path)
        expected = "a path"
        if name == str(path):
            expected = "a folder"
        elif Path(name).parent == path:
            expected = "a file"
        raise BadStudy(
            f"{name} cannot be used: {error.strerror}, where {expected} was expected; mend the "
            "path, or give another folder"
        ) from None


def _move_aside(folder: Path) -> None:
    """Give a folder that lies in the place of a file another name, as `summary.json.1`."""
    name = folder.name.removeprefix(".")
    for k in itertools.count(1):
        path = folder.with_name(f"{name}.{k}")
        if not os.path.lexists(path):
            folder.rename(path)
            return


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for nothing, the innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # it holds something
            return


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(content), sort_keys=True, separators=(",", ":")).encode()


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _take(path: Path) -> int:
    """Open and lock a file: its descriptor. Raises: BadStudy when another process holds it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 500).decode(errors="replace").strip() or "another process"
            os.close(lock)
            raise BadStudy(
                f"{path.parent} is being written by {holder}; wait for it, or give --out another "
                "folder"
            ) from None
        except OSError as error:  # as a network file system without a server of locks
            os.close(lock)
            path.unlink(missing_ok=True)
            raise BadStudy(
                f"{path.parent} cannot be locked ({error.strerror}), and two commands might write "
                "it at once; give --out a folder on a file system that has locks"
            ) from error
        # The holder before may have removed the file between our two calls: then this lock is of a
        # file without a name, and the next process would lock another one.
        try:
            same = os.stat(path).st_ino == os.fstat(lock).st_ino
        except FileNotFoundError:
            same = False
        if same:
            break
        os.close(lock)
    now = datetime.datetime.now().isoformat(timespec="seconds")
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())
    return lock
