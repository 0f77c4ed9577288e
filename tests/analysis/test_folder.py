"""A folder that keeps an answer: whole or not at all, verified, one writer at a time, whatever
kills it."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from jaxinit.analysis import folder as folders
from jaxinit.analysis.folder import LOCK, MANIFEST, Folder, differences
from jaxinit.study import BadStudy

QUESTION = {"study": {"seeds": 2, "rates": (0.1, 0.3)}, "examples": 10}
FILES = {"a.json": b'{"x": 1}\n', "b.bin": bytes(range(256))}


@pytest.fixture
def kept(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "answer")
    with folder.locked():
        folder.write("study", QUESTION, FILES)
    return folder


def test_what_is_written_is_read_and_only_that_lies_there(kept: Folder) -> None:
    assert {name: kept.read(name) for name in FILES} == FILES
    assert sorted(path.name for path in kept.path.iterdir()) == ["a.json", "b.bin", MANIFEST]
    held = kept.manifest()
    assert held is not None
    assert held.kind == "study"
    assert held.question == json.loads(json.dumps(QUESTION))


def test_an_answer_is_extended_by_the_same_question_only(kept: Folder) -> None:
    with kept.locked():
        kept.write("study", {"study": QUESTION["study"]}, {"c.txt": b"more"})
    assert kept.read("c.txt") == b"more"
    assert kept.read("a.json") == FILES["a.json"]
    other = {"study": {"seeds": 9, "rates": [0.1, 0.3]}}
    with pytest.raises(
        BadStudy, match=r"holds another study \(seeds is 2 there, 9 here\); give --out a new folder"
    ):
        kept.claim("study", other)
    with pytest.raises(BadStudy, match="holds a study, not a probe"):
        kept.claim("probe", QUESTION)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_every_damage_is_named(kept: Folder, name: str, damage: str) -> None:
    path = kept.path / name
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    damaged = {"flip": flipped, "cut": content[:-3], "empty": b"", "longer": content + b"{}"}
    path.write_bytes(damaged[damage])
    with pytest.raises(BadStudy, match=f"{name} is damaged") as caught:
        kept.read("a.json" if name == MANIFEST else name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(kept: Folder) -> None:
    (kept.path / "b.bin").unlink()
    with pytest.raises(
        BadStudy, match=r"b.bin is missing; restore it from a copy, or move the folder away"
    ):
        kept.read("b.bin")
    with pytest.raises(BadStudy, match=r"holds no z.nc"):
        kept.read("z.nc")


def test_a_manifest_of_another_version_is_refused(kept: Folder) -> None:
    body = json.loads((kept.path / MANIFEST).read_text())
    del body["sha256"]
    body["schema"] = 2
    body["sha256"] = folders.digest(folders._canonical(body))
    (kept.path / MANIFEST).write_bytes(folders.to_json(body))
    with pytest.raises(
        BadStudy, match=r"another version of jaxinit \(schema 2, this version reads 3\)"
    ):
        kept.manifest()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema", None, "another version"),
        ("kind", None, "kind is None"),
        ("kind", "", "kind is empty"),
        ("question", [1], r"question is \[1\]"),
        ("files", "abc", "files is 'abc'"),
        ("files", {"a.json": 3}, "SHA-256 is no text"),
        ("written", 7, "written is 7"),
    ],
)
def test_a_manifest_whose_hash_fits_and_whose_form_does_not_is_refused(
    kept: Folder, key: str, value: object, said: str
) -> None:
    body = json.loads((kept.path / MANIFEST).read_text())
    del body["sha256"], body[key]
    if value is not None:
        body[key] = value
    body["sha256"] = folders.digest(folders._canonical(body))
    (kept.path / MANIFEST).write_bytes(folders.to_json(body))
    with pytest.raises(BadStudy, match=said):
        kept.manifest()


def test_foreign_folders_files_and_older_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadStudy, match="is not empty and holds no study"):
        Folder(tmp_path).manifest()
    with pytest.raises(BadStudy, match="is a file; name a folder"):
        Folder(tmp_path / "notes.txt").manifest()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "study.json").write_text("{}")
    with pytest.raises(BadStudy, match="an older version of jaxinit wrote it"):
        Folder(tmp_path / "old").manifest()


def make_unreadable(path: Path, how: str) -> None:
    """Put a folder that holds something, or a link to itself, where a file was."""
    path.unlink(missing_ok=True)
    if how == "loop":
        path.symlink_to(path.name)
    else:
        path.mkdir()
        (path / "inside").write_text("mine")


@pytest.mark.parametrize("name", ["/dev/null/x", "x" * 300, "loop", "loop/x", "dangling"])
def test_a_path_that_can_be_no_folder_is_bad_input(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    expected = r"cannot be used: .* was expected; mend the path"
    with pytest.raises(BadStudy, match=expected) as caught, Folder(tmp_path / name).locked():
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["folder", "loop"])
def test_an_entry_that_is_no_file_any_more_is_named_and_can_be_written_again(
    kept: Folder, how: str
) -> None:
    make_unreadable(kept.path / "a.json", how)
    with pytest.raises(BadStudy, match=r"a.json is damaged"):
        kept.read("a.json")
    make_unreadable(kept.path / ".a.json.new", how)
    with kept.locked():
        kept.write("study", QUESTION, FILES)
    assert kept.read("a.json") == FILES["a.json"]
    for name in (LOCK, MANIFEST):
        make_unreadable(kept.path / name, how)
        with (
            pytest.raises(BadStudy, match=rf"{name} cannot be used: .*, where a file was expected"),
            kept.locked(),
        ):
            pass


@pytest.mark.parametrize("name", [".DS_Store", ".study.json.4711", ".a.json.new", LOCK])
def test_hidden_files_make_no_folder_occupied(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"left over")
    folder = Folder(tmp_path)
    assert folder.manifest() is None
    with folder.locked():
        folder.write("study", QUESTION, FILES)
    assert folder.read("a.json") == FILES["a.json"]
    assert not (tmp_path / ".a.json.new").exists()
    assert not (tmp_path / LOCK).exists()


def test_a_folder_made_for_nothing_is_removed_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Folder(tmp_path / "deep" / "er").locked():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with (
        pytest.raises(BadStudy, match=r"er cannot be locked \(No locks available\), and two"),
        Folder(tmp_path / "deep" / "er").locked(),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_moved_while_it_was_written_is_named(kept: Folder) -> None:
    with kept.locked():
        kept.check_there()
        kept.path.rename(kept.path.with_name("elsewhere"))
        with pytest.raises(BadStudy, match="was moved or removed while it was written"):
            kept.check_there()


# Writes a second answer into the folder named first, and dies at a call of a system function,
# counted from 1.
KILLED = """
import os, signal, sys
from pathlib import Path
from jaxinit.analysis.folder import Folder

path, step, calls = sys.argv[1], int(sys.argv[2]), 0

def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

os.fsync = counted(os.fsync)
Path.replace = counted(Path.replace)
folder = Folder(Path(path))
with folder.locked():
    folder.write("study", {"examples": 10}, {"a.json": b"new a", "b.bin": b"new b"})
"""

# Takes the lock of a folder and says so.
HOLDS = """
import sys, time
from pathlib import Path
from jaxinit.analysis.folder import Folder

with Folder(Path(sys.argv[1])).locked():
    print("taken", flush=True)
    time.sleep(60)
"""


def test_a_kill_at_any_moment_leaves_the_old_answer_or_the_new_one(tmp_path: Path) -> None:
    new = {"a.json": b"new a", "b.bin": b"new b"}
    answers = []
    for step in range(1, 40):
        folder = Folder(tmp_path / str(step))
        with folder.locked():
            folder.write("study", QUESTION, FILES)
        code = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder.path), str(step)]
        ).returncode
        assert code in (0, -signal.SIGKILL)
        read = {name: folder.read(name) for name in FILES}  # as it lies there
        assert read in (FILES, new)
        with folder.locked():  # and as the next writer leaves it
            pass
        assert {name: (folder.path / name).read_bytes() for name in FILES} == read
        assert sorted(path.name for path in folder.path.iterdir()) == ["a.json", "b.bin", MANIFEST]
        answers.append(read == new)
        if code == 0:
            break
    assert code == 0, "the last life was not killed"
    assert answers == sorted(answers), "once the new answer counts it stays"
    assert not answers[0]


def test_one_writer_at_a_time_and_the_lock_of_a_dead_one_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        with pytest.raises(BadStudy) as caught, Folder(tmp_path / "s").locked():
            pass
        process.kill()
    expected = rf"is being written by process {process.pid} on .*; wait for it, or give --out "
    assert re.search(expected, str(caught.value))
    assert (tmp_path / "s" / LOCK).exists()
    with Folder(tmp_path / "s").locked():
        pass
    assert not (tmp_path / "s").exists() or not list((tmp_path / "s").iterdir())


def test_a_disk_that_is_full_costs_nothing(kept: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    written = folders.write_synced

    def full(path: Path, content: bytes) -> None:
        if path.name == ".b.bin.new":
            path.write_bytes(content[:10])
            raise OSError(28, "No space left on device")
        written(path, content)

    monkeypatch.setattr(folders, "write_synced", full)
    with kept.locked(), pytest.raises(OSError, match="No space left"):
        kept.write("study", QUESTION, {"a.json": b"new", "b.bin": b"new"})
    assert {name: kept.read(name) for name in FILES} == FILES
    assert sorted(path.name for path in kept.path.iterdir()) == ["a.json", "b.bin", MANIFEST]


def test_a_disk_that_is_full_is_named_by_the_file() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        folders.write_synced(Path("/dev/full"), b"more")


def test_differences_name_nested_entries() -> None:
    there, here = {"study": {"a": 1, "b": 2}, "n": 3}, {"study": {"a": 1, "b": 5, "c": 6}, "n": 3}
    assert differences(there, here) == ["b is 2 there, 5 here", "c is None there, 6 here"]


def test_numbers_that_are_not_finite_never_cost_a_file() -> None:
    content = {"a": [float("nan"), 1.0], "b": {"c": (float("inf"), -0.5)}, "d": "nan"}
    assert json.loads(folders.to_json(content)) == {
        "a": [None, 1.0],
        "b": {"c": [None, -0.5]},
        "d": "nan",
    }


def test_files_and_their_names_reach_the_disk_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents before the manifest that lists them, and the manifest's name before anything else is
    done."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(number: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        sync(number)

    def renamed(path: Path, target: Path) -> Path:
        steps.append(f"rename {Path(target).name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    folder = Folder(tmp_path / "s")
    with folder.locked():
        steps.clear()
        folder.write("probe", {}, {"a": b"1", "b": b"2"})
        done = list(steps)
    written = [
        "sync .a.new",
        "sync .b.new",
        "sync .manifest.json.new",
        "rename manifest.json",
        "sync s",
    ]
    assert done == [*written, "rename a", "rename b", "sync s"]
