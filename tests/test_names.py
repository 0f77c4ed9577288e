"""A caller's own objects are kept under names by which they can be found, or else under digests."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxinit.models import LSTM
from jaxinit.names import Named, find, name_of


def scaled(factor: float) -> Callable[[float], float]:
    return lambda x: factor * x


def test_what_can_be_imported_has_the_name_of_its_place() -> None:
    assert name_of(LSTM) == "jaxinit:LSTM"
    assert find("jaxinit.models.cells:LSTM") is LSTM
    assert find("jaxinit.models.cells:LSTM.step") is LSTM.step


def test_a_name_knows_its_object_wherever_it_goes() -> None:
    name = name_of(LSTM)
    for passed_on in (copy.deepcopy(name), copy.copy(name), pickle.loads(pickle.dumps(name))):
        assert isinstance(passed_on, Named)
        assert passed_on.object is LSTM
        assert passed_on == name


SCRIPT = """
import functools, sys
import numpy as np
from jaxinit.names import name_of

def build(n):
    return n

def make(factor):
    return lambda x: x * factor if x in {"a", "b", "c"} else None

variable = make(2.0)

if __name__ == "__main__":
    table = np.arange(4.0)
    several = [build, variable, make(3.0), make(4.0), functools.partial(build, table)]
    print(*(name_of(thing) for thing in several))
"""


def test_what_a_script_defines_has_the_name_of_its_file_and_the_rest_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    command = [sys.executable, "mine.py"]

    def names_in_a_process() -> list[str]:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    names = names_in_a_process()
    # hashes of sets and addresses differ from process to process
    assert names == names_in_a_process()
    build, variable, three, four, partial = names
    assert (build, variable) == ("mine.py:build", "mine.py:variable")
    assert three.startswith("lambda@")
    assert four.startswith("lambda@")
    assert partial.startswith("partial@")
    assert len({three, four, partial}) == 3
    monkeypatch.chdir(tmp_path)
    assert find("mine.py:build")(3) == 3


def test_a_digest_tells_what_a_closure_holds() -> None:
    assert name_of(scaled(2.0)) == name_of(scaled(2.0))
    assert name_of(scaled(2.0)) != name_of(scaled(3.0))
    arrays = [np.zeros(3), np.zeros(3), np.ones(3)]
    first, same, other = (name_of(scaled(array)) for array in arrays)  # type: ignore[arg-type]
    assert first == same != other


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:x", "importing no_such_module failed with ModuleNotFoundError"),
        ("gone.py:x", "there is no file gone.py; give its path"),
        ("math:no_such", "math has no 'no_such'; the nearest it has: "),
        (":x", "importing  failed"),
        ("math:", "math has no ''"),
    ],
)
def test_a_place_without_it_is_said(name: str, message: str) -> None:
    with pytest.raises(LookupError, match=message):
        find(name)


def test_a_file_that_fails_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    with pytest.raises(LookupError, match=r"importing .*broken.py failed with SystemExit: 3"):
        find(f"{tmp_path / 'broken.py'}:x")
