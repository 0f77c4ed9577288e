"""The answer in words: bounds are marked, and the table fits a terminal."""

import io
from pathlib import Path
from typing import Any, cast

import pytest
import xarray as xr
from rich.console import Console

from jaxinit.analysis import report
from jaxinit.analysis.claims import make_claim
from jaxinit.analysis.store import Result
from jaxinit.study import Study

ROW = {
    "scheme": "glorot_uniform",
    "baseline": "small_normal",
    "lr": 0.003,
    "lr_at_edge": False,
    "epochs": 12.34,
    "epochs_low": 11.11,
    "epochs_high": 13.33,
    "ratio": 4.36,
    "ratio_low": 3.84,
    "ratio_high": 5.05,
    "ratio_is": "=",
    "p_holm": 0.0003,
    "seeds": 8,
    "converged": 8,
    "censored": 0,
    "diverged": 0,
}
BASELINE = ROW | {"scheme": "small_normal", "p_holm": None, "ratio": 1.0}
NEVER = ROW | {
    "scheme": "uniform01",
    "converged": 0,
    "censored": 5,
    "diverged": 3,
    "epochs": 20.0,
    "ratio_is": "<=",
}
CLAIM = {
    "id": "A10",
    "statement": "Xavier is faster.",
    "measured": 8.42,
    "measured_is": ">=",
    "low": 7.9,
    "high": 9.1,
    "published": None,
    "verdict": "supported with a condition",
    "note": "8 seeds",
}
SUMMARY = {
    "baseline": "small_normal",
    "target": 0.97,
    "metric": "validation accuracy",
    "budget": 20.0,
    "table": [ROW, BASELINE, NEVER],
    "claims": [CLAIM],
    "notes": ["a note"],
}


HOSTILE = ("[bold]a[/bold]", "[/b]", ":smile:", "$x$ and $y$", "[link=x]")


def printed(summary: dict, out: io.TextIOBase | None = None) -> str:
    out = out or io.StringIO()
    records = xr.Dataset(attrs={"higher_is_better": 1})
    report.print_answer(
        Result(Study(), records, summary, Path("r"), True), Console(width=80, file=cast(Any, out))
    )
    out.seek(0)
    return out.read()


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_printed_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = ROW | {"scheme": name, "setting": f"setting {name}"}
    text = printed(
        SUMMARY | {"table": [row], "metric": name, "notes": [f"note on {name}"], "baseline": name}
    )
    assert text.count(name) == 5  # title, row, twice below the table, note
    printed(SUMMARY | {"claims": [CLAIM | {"statement": name}]})
    report.print_rows([row])
    lines = capsys.readouterr().out
    assert f"setting {name}" in lines
    assert lines.count(name) == 2


def test_a_terminal_without_signs_sees_the_same_table_in_ascii() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    text = printed(SUMMARY, out)
    assert "validation accuracy >= 0.97" in text
    assert "<=4.36 (3.84-5.05)" in text
    rows = [line for line in text.splitlines() if "8/0/0" in line or "0/5/3" in line]
    assert len({len(line) for line in rows}) == 1, "columns are aligned"


def test_the_table_is_whole_in_eighty_columns() -> None:
    text = printed(SUMMARY)
    assert "…" not in text
    assert "glorot_uniform 0.003 12.34 (11.11-13.33) 4.36 (3.84-5.05)" in " ".join(text.split())
    assert "validation accuracy ≥ 0.97" in text


def test_what_is_only_a_bound_is_marked() -> None:
    text = " ".join(printed(SUMMARY).split())
    assert "uniform01 0.003 >20.00 ≤4.36" in text
    assert "0/5/3" in text
    assert (
        "measured >= 8.4 (7.9 to 9.1); published: no source found; supported with a condition"
        in text
    )


def test_a_best_rate_at_the_edge_is_marked() -> None:
    assert report.entries(ROW | {"lr_at_edge": True})[1] == "0.003*"
    assert report.entries(ROW | {"p_holm": 1e-6})[4] == "<1e-4"
    assert report.entries(ROW | {"ratio": None})[3] == "-"


def test_nothing_reported_yet_is_said() -> None:
    assert "No scheme has been reported yet" in printed(SUMMARY | {"table": []})


def test_claims_of_experiments_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        make_claim("X1", "a number", [1.0, 1.2], "about 1", (0.0, 2.5), ""),
        make_claim("X2", "another", 3.0, "2", (0.0, 2.5), ""),
    ]
    report.print_claims(rows)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("X1: a number: 1.1 (")
    assert second == "X2: another: 3; published: 2; refuted"


def test_a_claim_without_a_verdict_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    unjudged = CLAIM | {"verdict": None}
    report.print_claims([unjudged])
    assert capsys.readouterr().out.endswith("not judged at smoke size\n")
    assert "not judged at smoke size" in " ".join(printed(SUMMARY | {"claims": [unjudged]}).split())


def test_the_rows_of_several_studies_are_one_table() -> None:
    out = io.StringIO()
    rows = [
        row | {"setting": setting}
        for setting in ("rnn, T=8", "lstm, T=64")
        for row in (ROW, BASELINE, NEVER)
    ]
    report.print_rows(rows, Console(width=120, file=out))
    lines = out.getvalue().splitlines()
    assert sum("rnn, T=8" in line for line in lines) == 1, "a setting is named once"
    assert sum("≤4.36 (3.84-5.05)" in line for line in lines) == 2
    assert sum("0/5/3" in line for line in lines) == 2


def test_a_claim_that_is_a_bound_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_claims([CLAIM | {"published": None}])
    assert (
        "at least 8.42 (7.9 to 9.1); published: no source found; supported with a condition"
        in capsys.readouterr().out
    )
