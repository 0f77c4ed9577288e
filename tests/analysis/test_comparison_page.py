"""The page of two studies says whether they agree, in what they differ, or why they cannot be
compared."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from ended_study import STUDY, about, ended
from ended_trials import Ended, courses
from kept_study import keep
from pages import Read, asks_for_nothing

from jaxinit.analysis import store
from jaxinit.analysis.comparison_page import comparison_page
from jaxinit.analysis.page import Table, rendered
from jaxinit.study import BadStudy


def test_two_studies_are_compared_on_a_page(tmp_path: Path) -> None:
    first = keep(tmp_path / "a")
    out = tmp_path / "both of them.html"
    second = keep(tmp_path / "b", replace(STUDY, first_seed=100, batch=64))
    page = comparison_page(first, second, out)
    read = Read(rendered(page))
    said = "\n".join(text for texts in read.texts.values() for text in texts)
    assert "schemes agree (95 % over all of them)" in said
    assert "batch is 32 in the first, 64 in the second" in said
    again = shlex.split(read.texts["pre"][-1])
    assert again == [
        "jaxinit",
        "compare",
        *map(str, (first.folder, second.folder)),
        "--out",
        str(out),
    ]
    assert len(read.numbers["charts"]) == 6
    assert {row["scheme"] for row in read.records()} == set(STUDY.schemes)
    assert asks_for_nothing(read)
    (table,) = (block for block in page.sections[0].blocks if isinstance(block, Table))
    baseline = next(row for row in table.rows if row[0].text == STUDY.baseline)
    for column in (1, 2):
        assert table.line(table.rows[0], column) == table.places(baseline, baseline[column])[1]
    other = replace(
        STUDY, schemes=("he_normal",), baseline="he_normal", search="grid", lrs=(0.1,), seeds=2
    )
    attrs = store.attributes(other, 4, about("complete")["task"], "d")
    trials = [Ended("he_normal", 0.1, seed, 1.0) for seed in (0, 1)]
    third = keep(tmp_path / "c", other, courses(trials, **attrs).dataset())
    with pytest.raises(BadStudy, match="report no scheme in common"):
        comparison_page(first, third, out)
    easier = ended().assign_attrs(target=0.5)
    fourth = keep(tmp_path / "d", replace(STUDY, first_seed=100, target=0.5), easier)
    with pytest.raises(BadStudy, match=r"do not compare: target is 0\.97 in the one, 0\.5 in the"):
        comparison_page(first, fourth, out)
