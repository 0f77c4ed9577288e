"""A page needs nothing else, and whatever stands in it is text."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from pages import Read, asks_for_nothing

from jaxinit.analysis import page
from jaxinit.analysis.curves import Curve, line
from jaxinit.analysis.figure import COLORS
from jaxinit.analysis.page import Against, Cell, Chart, Facts, Lines, Page, Section, Table
from jaxinit.study import BadStudy

EVIL = "<script>alert(1)</script>"
WORSE = "</script><img src=x onerror=alert(1)> \"&'{{ 7*7 }}"


def a_page() -> Page:
    curve = Curve(np.array([1.0, 2.0]), np.array([0.123456, np.nan]), *np.ones((2, 2)))
    cells = [[Cell(EVIL, scheme=EVIL), Cell("1", 1.0, (0.5, 1.0, 2.0))], [Cell(WORSE), Cell("-")]]
    records = [{"scheme": EVIL, "x": 1}, {"scheme": WORSE, "x": None}]
    blocks = [
        Table(WORSE, ("scheme", "x"), cells, EVIL, frozenset({"x"}), records),
        Chart(EVIL, WORSE, "y", {EVIL: curve, WORSE: line([1], [2])}, WORSE),
        Facts(EVIL, {EVIL: WORSE}),
        Lines(WORSE, [EVIL, WORSE]),
        Lines("", [EVIL], command=True),
    ]
    sections = [Section(EVIL, blocks), Section(WORSE, blocks, folded=True), Section("x", [])]
    return Page(WORSE, EVIL, WORSE, sections, [EVIL], [EVIL, WORSE])


def test_names_with_markup_are_text_everywhere() -> None:
    read = Read(page.rendered(a_page()))
    assert len(read.scripts) == 2, "the numbers and the page's own"
    assert asks_for_nothing(read)
    assert [EVIL, "1"] in read.cells
    assert [WORSE, "-"] in read.cells
    assert read.texts["h1"] == [WORSE]
    assert read.numbers["schemes"] == [EVIL, WORSE]
    assert [row["scheme"] for row in read.records()] == [EVIL, WORSE]


def test_what_is_drawn_has_no_more_digits_than_can_be_seen() -> None:
    chart = Read(page.rendered(a_page())).numbers["charts"][0]
    assert chart["lines"][0] == {
        "s": 0,
        "x": [1, 2],
        "y": [0.1235, None],
        "low": [1, 1],
        "high": [1, 1],
    }
    assert chart["lines"][1] == {"s": 1, "x": [1], "y": [2]}


def test_colors_begin_again_where_those_of_the_figures_do() -> None:
    names = [f"scheme {k}" for k in range(len(COLORS) + 1)]
    table = Table("", ("scheme",), [[Cell(name, scheme=name)] for name in names])
    text = page.rendered(Page("", "", "", [Section("", [table])], schemes=names))
    assert re.findall(r'class="swatch s(\d)"', text) == [*map(str, range(len(COLORS))), "0"]
    assert re.findall(r"^\.s(\d) \{", text, re.MULTILINE) == [*map(str, range(len(COLORS)))]
    assert f"const COLORS = {len(COLORS)};" in text


def test_embedded_json_is_what_it_was() -> None:
    content = {"a": [WORSE, EVIL, " \u2028 <!-- é"]}
    text = page.embedded(content)
    assert not set("<>&") & set(text)
    assert json.loads(text) == content


def test_a_value_is_drawn_over_the_band_that_was_claimed() -> None:
    """On a scale of its own with a tenth of room on both sides; one without an end is cut."""
    places = Against((2.0, 3.0, 5.0), (1.0, math.inf)).places()
    assert places == ([29.2, 50.0, 91.7], [8.3, 100.0])
    at_least = Against((2.0, 2.0, math.inf), (1.0, 3.0)).places()
    assert at_least == ([50.0, 50.0, 100.0], [8.3, 91.7])


def test_intervals_lie_on_a_logarithmic_scale_for_rows_that_are_alike() -> None:
    spans = {"a": (1.0, 2.0, 4.0), "b": (4.0, 8.0, 16.0), "c": (100.0, 200.0, 400.0)}
    rows = [
        [Cell("same" if name < "c" else "other"), Cell(name, 1.0, spans[name])] for name in spans
    ]
    table = Table("", ("setting", "x"), rows, scale_by="setting")
    assert [table.places(row, row[1]) for row in rows] == [
        [0.0, 25.0, 50.0],
        [50.0, 75.0, 100.0],
        [0.0, 50.0, 100.0],
    ]


def test_the_baseline_is_a_line_through_the_intervals_on_its_scale() -> None:
    spans = [(1.0, 2.0, 4.0), (4.0, 8.0, 16.0), (1.0, 3.0, 9.0)]
    rows = [[Cell(name), Cell("", 1.0, span)] for name, span in zip("aab", spans, strict=True)]
    rows[1][1] = Cell("", 1.0, spans[1], hollow=True, baseline=True)
    table = Table("", ("setting", "x"), rows, scale_by="setting")
    assert [table.line(row, 1) for row in rows] == [75.0, 75.0, None]
    assert table.line(rows[0], 0) is None
    text = page.rendered(Page("", "", "", [Section("", [table])]))
    assert text.count('class="baseline"') == 2
    assert text.count('class="hollow"') == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("records.nc", r"into a file \*\.html, got .*records\.nc; name one"),
        ("no/page.html", "there is no folder .*no for page.html"),
        ("folder.html", r"into a file \*\.html"),
    ],
)
def test_a_page_overwrites_pages_alone(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "records.nc").write_text("kept")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(BadStudy, match=message):
        page.write(a_page(), tmp_path / name)
    assert (tmp_path / "records.nc").read_text() == "kept"
    written = page.write(a_page(), tmp_path / "page.html")
    assert written.read_text(encoding="utf-8") == page.rendered(a_page())
    assert not list(tmp_path.glob(".*"))
