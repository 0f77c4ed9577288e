"""The page of an experiment has its claims, its rows and its studies, and says what is missing."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from ended_study import STUDY
from kept_study import keep
from pages import Read, asks_for_nothing

from jaxinit.analysis.claims import at_least, make_claim, no_verdicts
from jaxinit.analysis.experiment_page import experiment_page
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.analysis.page import rendered
from jaxinit.study import BadStudy

ASKED = {"experiment": "an_experiment", "size": "quick", "first_seed": 0}


def write(path: Path, content: dict[str, Any] | None) -> None:
    files = {} if content is None else {"summary.json": to_json({"about": ASKED, **content})}
    folder = Folder(path)
    with folder.locked():
        folder.write("experiment", ASKED, files)


def page_of(path: Path) -> Read:
    return Read(rendered(experiment_page(path)))


def lines(read: Read) -> str:
    return "\n".join(text for texts in read.texts.values() for text in texts)


def test_claims_rows_and_studies_are_on_one_page(tmp_path: Path) -> None:
    write(tmp_path, None)
    result = keep(tmp_path / "rnn__T=8")
    keep(tmp_path / "deep" / "T=16")
    rows = [{"setting": "rnn, T=8", **row} for row in result.summary["table"]]
    claims = [
        make_claim("A", "a first", [1.0, 1.1, 0.9, 1.0], "1", at_least(0.5)),
        make_claim("B", "a second", [1.0, 1.1, 0.9, 1.0], "3", at_least(2.5)),
    ]
    write(tmp_path, {"table": rows, "claims": claims, "studies": {}, "scores": {"orthogonal": 0.5}})
    read = page_of(tmp_path)
    assert asks_for_nothing(read)
    assert (
        "a first: 1 (0.87 to 1.13), claimed: 1; holds. 2 claims (holds: 1, does not hold: 1)."
        in lines(read)
    )
    verdicts = [row[5] for row in read.cells if len(row) == 7 and row[0] in "AB"]
    assert verdicts == ["at least 0.5: holds", "at least 2.5: does not hold"]
    assert len(read.numbers["charts"]) == 6
    assert read.numbers["schemes"] == list(STUDY.schemes)
    assert [row[0] for row in read.cells if len(row) == 10] == ["setting"] + ["rnn, T=8"] * 2
    assert [title for title in read.texts["h2"] if title.startswith("Study: ")] == [
        "Study: rnn, T=8",
        "Study: deep/T=16",
    ]
    assert "jaxinit reproduce an_experiment --size quick" in lines(read)
    assert "0.5" in read.texts["dd"]
    assert Read(rendered(experiment_page(tmp_path, [result]))).numbers == read.numbers


def test_its_figures_are_in_the_page_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"claims": []})
    (tmp_path / "figures").mkdir()
    for name, size in (("figure_1", 300), ("figure_2", 800)):
        (tmp_path / "figures" / f"{name}.png").write_bytes(b"x" * size)
    monkeypatch.setattr("jaxinit.analysis.experiment_page.MOST_PICTURES", 1000)
    text = rendered(experiment_page(tmp_path))
    assert text.count('<img src="data:image/png;base64,eHh4') == 1
    assert 'alt="figure 1"' in text
    assert "figure_2.png: " in text
    assert asks_for_nothing(Read(text))


def test_a_figure_has_its_numbers_beside_it(tmp_path: Path) -> None:
    write(tmp_path, {"claims": []})
    (tmp_path / "figures" / "adam").mkdir(parents=True)
    (tmp_path / "figures" / "adam" / "of_all.png").write_bytes(b"x")
    (tmp_path / "figures" / "adam" / "of_all.csv").write_text("panel,x\n1,2\n")
    (tmp_path / "figures" / "photo.png").write_bytes(b"y")
    (tmp_path / "figures" / ".photo.png.new").write_bytes(b"half")
    (tmp_path / "figures" / ".other.png").write_bytes(b"half")
    text = rendered(experiment_page(tmp_path))
    assert asks_for_nothing(Read(text))
    (kept,) = re.findall(r'href="data:text/csv;base64,([^"]+)" download="([^"]+)"', text)
    assert base64.b64decode(kept[0]).decode() == "panel,x\n1,2\n"
    assert kept[1] == "adam_of_all.csv"
    assert Read(text).texts["h3"] == ["adam/of all", "photo", "Once more"]


def test_rows_of_its_own_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = [{"scheme": "<b>", "error": 0.25, "lrs": [1, 2]}, {"scheme": "x", "error": None}]
    with no_verdicts():
        claim = make_claim("A", "a claim", [1.0, 2.0], "1", at_least(0.5))
    write(tmp_path, {"table": rows, "claims": [claim]})
    read = page_of(tmp_path)
    assert ["<b>", "0.25", "[1, 2]"] in read.cells
    assert ["x", "", ""] in read.cells
    assert "claimed: 1; not judged at smoke size." in lines(read)


def test_an_unfinished_or_damaged_experiment_shows_the_rest(tmp_path: Path) -> None:
    write(tmp_path, None)
    keep(tmp_path / "T=8")
    keep(tmp_path / "torn")
    (tmp_path / "torn" / "manifest.json").write_text("{")
    read = page_of(tmp_path)
    assert "has not ended" in lines(read)
    assert "go on with: jaxinit reproduce an_experiment --size quick --out" in lines(read)
    assert "torn: " in lines(read)
    with (folder := Folder(tmp_path / "later")).locked():
        folder.write("experiment", ASKED | {"first_seed": 100}, {})
    assert "jaxinit reproduce an_experiment --size quick --first-seed 100 --out" in lines(
        page_of(tmp_path / "later")
    )
    assert len(read.numbers["charts"]) == 3
    write(tmp_path, {"table": [], "claims": []})
    (tmp_path / "summary.json").write_text("{}")
    assert "summary.json is damaged" in lines(page_of(tmp_path))


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="holds no experiment"):
        experiment_page(tmp_path)
