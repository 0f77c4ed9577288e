"""A folder has the page of what it holds, and a page is made again when it is older."""

import os
from pathlib import Path

import pytest
from kept_study import keep

from jaxinit.analysis.folder import Folder
from jaxinit.analysis.page import REPORT, write
from jaxinit.analysis.pages import is_current, page_of
from jaxinit.study import BadStudy


def test_each_kind_has_its_page(tmp_path: Path) -> None:
    keep(tmp_path / "s")
    assert page_of(tmp_path / "s").title.endswith("rnn, 128 units, digits_rows, sgd")
    folder = Folder(tmp_path / "e")
    with folder.locked():
        folder.write("experiment", {"experiment": "e", "size": "smoke"}, {})
    assert page_of(tmp_path / "e").title == "e, size smoke"
    with pytest.raises(BadStudy, match="holds no study"):
        page_of(tmp_path / "none")


def test_a_page_is_current_until_its_study_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    keep(path)
    assert not is_current(path)
    write(page_of(path), path / REPORT)
    assert is_current(path)
    later = (path / REPORT).stat().st_mtime + 10
    os.utime(path / "manifest.json", (later, later))
    assert not is_current(path)
