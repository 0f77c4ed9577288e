"""The answer in words: bounds are marked, and the table fits a terminal."""

import io
from pathlib import Path
from typing import Any, cast

import pytest
import xarray as xr
from rich.console import Console

from jaxinit.analysis import report
from jaxinit.analysis.agreement import Agreement
from jaxinit.analysis.claims import make_claim
from jaxinit.analysis.store import Result
from jaxinit.study import Study

ROW = {
    "scheme": "glorot_uniform",
    "baseline": "small_normal",
    "lr": 0.003,
    "unresolved": "",
    "epochs": 12.34,
    "epochs_low": 11.11,
    "epochs_high": 13.33,
    "ratio": 4.36,
    "ratio_low": 3.84,
    "ratio_high": 5.05,
    "ratio_is": "=",
    "p_holm": 0.0003,
    "letters": "ab",
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
    "statement": "Xavier is faster",
    "measured": 8.42,
    "measured_is": ">=",
    "low": 7.9,
    "high": 9.1,
    "published": None,
    "parts": {"at least 2": "supported", "at most 10": "open"},
    "verdict": "open",
    "note": "8 seeds",
}
AT = {
    "glorot_uniform": (4.36, 3.84, 5.05, "="),
    "uniform01": (0.5, 0.4, 0.6, "<="),
}
TARGETS = [{"target": target, "ratios": AT} for target in (0.535, 0.752, 0.883, 0.97)]
SUMMARY = {
    "baseline": "small_normal",
    "target": 0.97,
    "metric": "validation accuracy",
    "budget": 20.0,
    "table": [ROW, BASELINE, NEVER],
    "targets": TARGETS,
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
    at = [{"target": 0.5, "ratios": {name: (2.0, 1.0, 3.0, "=")}}] * 2
    assert printed(SUMMARY | {"table": [row, BASELINE], "targets": at}).count(name) == 2
    printed(SUMMARY | {"claims": [CLAIM | {"statement": name}]})
    report.print_rows([row])
    lines = capsys.readouterr().out
    assert f"setting {name}" in lines
    assert lines.count(name) == 2


def test_a_terminal_without_signs_sees_the_same_table_in_ascii() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    text = printed(SUMMARY, out)
    assert "validation accuracy >= 0.97" in text
    assert "<=5.05" in text
    assert "<=0.6" in text
    rows = [line for line in text.splitlines() if "8/0/0" in line or "0/5/3" in line]
    assert len({len(line) for line in rows}) == 1, "columns are aligned"


def test_the_tables_are_whole_in_eighty_columns() -> None:
    text = printed(SUMMARY)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    assert "glorot_uniform 0.003 12.3 (11.1-13.3) 4.36 (3.84-5.05) 0.0003 ab 8/0/0" in said
    assert "validation accuracy ≥ 0.97" in text
    assert "scheme 0.535 0.752 0.883 0.97" in said
    assert f"glorot_uniform {' '.join(['4.4 (3.8-5.0)'] * 4)}" in said
    assert "share a letter are not told apart" in said


def test_wide_numbers_leave_the_tables_whole() -> None:
    wide = ROW | {"ratio": 12.36, "ratio_low": 10.84, "ratio_high": 115.05, "letters": "abc"}
    wide |= {"lr": 0.0032, "unresolved": "at an end of the rates tried"}
    wide |= {"epochs": 123.4, "epochs_low": 99.96, "epochs_high": 151.2}
    ratios = {"glorot_uniform": (12.36, 10.84, 115.05, "=")}
    at = [{"target": target, "ratios": ratios} for target in (0.535, 0.752, 0.883, 0.97)]
    text = printed(SUMMARY | {"table": [wide, BASELINE], "targets": at})
    assert "…" not in text
    said = " ".join(text.split())
    assert "0.0032* 123 (100.0-151) 12.4 (10.8-115) 0.0003 abc 8/0/0" in said
    assert f"glorot_uniform {' '.join(['12 (11-115)'] * 4)}" in said


def test_of_what_is_only_a_bound_the_bound_is_given() -> None:
    text = " ".join(printed(SUMMARY).split())
    assert "uniform01 0.003 >20.0 ≤5.05" in text, "the upper end, above which nothing lies"
    assert f"uniform01 {' '.join(['≤0.6'] * 4)}" in text
    assert "0/5/3" in text
    for bound, shown in ((">=", "≥3.84"), ("<=", "≤5.05"), ("?", "?"), ("=", "4.36 (3.84-5.05)")):
        assert report.entries(ROW | {"ratio_is": bound})[3] == shown
    assert report.entries(BASELINE)[3] == "baseline"


def test_easier_targets_are_shown_where_there_are_several_schemes_and_targets() -> None:
    assert "easier targets" in printed(SUMMARY)
    assert "easier targets" not in printed(SUMMARY | {"table": [BASELINE]})
    assert "easier targets" not in printed(SUMMARY | {"targets": []})


def test_an_unresolved_best_rate_is_marked() -> None:
    unresolved = ROW | {"unresolved": "at an end of the rates tried"}
    assert report.entries(unresolved)[1] == "0.003*"
    # The rate of a scheme that never converges means little anyhow.
    assert report.entries(unresolved | {"converged": 0})[1] == "0.003"
    assert report.entries(ROW | {"p_holm": 1e-6})[4] == "<1e-4"
    assert report.entries(ROW | {"ratio": None})[3] == "-"
    assert report.entries(ROW | {"epochs_low": None})[2] == "12.3"


def test_nothing_reported_yet_is_said() -> None:
    assert "No scheme has been reported yet" in printed(SUMMARY | {"table": []})


def test_claims_of_experiments_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        make_claim("X1", "A number", [1.0, 1.2], "about 1", (0.0, 2.5), ""),
        make_claim("X2", "Another", 3.0, "2", (0.0, 2.5), "", exact=True),
    ]
    report.print_claims(rows)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("X1: A number. Published: about 1. Measured: 1.1 (")
    assert second == (
        "X2: Another. Published: 2. Measured: 3. At least 0: holds; at most 2.5: does not hold."
    )


def test_a_claim_without_a_verdict_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    unjudged = CLAIM | {"parts": {"at least 2": None}, "verdict": None}
    report.print_claims([unjudged])
    assert capsys.readouterr().out.endswith("At least 2: not judged at smoke size.\n")
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
    assert sum("≤5.05" in line for line in lines) == 2
    assert sum("0/5/3" in line for line in lines) == 2


def test_a_claim_that_is_a_bound_says_what_is_sure() -> None:
    said = " ".join(printed(SUMMARY).split())
    assert (
        "A10 Xavier is faster. Published: no source found. Measured: at least 7.9. At least 2: "
        "holds; at most 10: open. 8 seeds" in said
    )


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1234.5, 3, "1234"),
        (12.34, 3, "12.3"),
        (1.0, 3, "1.00"),
        (0.98, 3, "0.98"),
        (0.0344, 3, "0.034"),
        (0.0344, 2, "0.03"),
        (0.0004, 2, "0.0004"),
        (0.0, 3, "0.00"),
    ],
)
def test_zeros_after_the_point_are_no_digits(value: float, digits: int, shown: str) -> None:
    assert report.in_digits(value, digits) == shown


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_no_width_cuts_a_number(width: int) -> None:
    out = io.StringIO()
    console = Console(width=width, file=out)
    records = xr.Dataset(attrs={"higher_is_better": 1})
    report.print_answer(Result(Study(), records, SUMMARY, Path("r"), True), console)
    report.print_rows([ROW | {"setting": "lstm, T=64"}], console)
    text = out.getvalue()
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for number in ("12.3 (11.1-13.3)", "4.36 (3.84-5.05)", "4.4 (3.8-5.0)", "8/0/0", "0.003"):
        assert number in " ".join(text.split()), number


def test_where_a_table_is_too_wide_its_rows_are_stacked() -> None:
    out = io.StringIO()
    report.print_table([ROW, BASELINE], Console(width=60, file=out), "Epochs", also="momentum")
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[:5] == [
        "Epochs",
        "glorot_uniform",
        "  rate, momentum: 0.003; epochs (95 %): 12.3 (11.1-13.3);",
        "  times fewer (95 %): 4.36 (3.84-5.05); p: 0.0003;",
        "  letters: ab; conv/cens/div: 8/0/0",
    ]
    assert "times fewer (95 %): baseline" in lines[7]
    assert "p: ;" not in out.getvalue(), "what is empty is left out"


def test_agreements_are_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Agreement("small_normal", (1.02, 0.93, 1.11), (0.98, 0.91, 1.06), 8)
    monkeypatch.setattr(report, "agreements", lambda *_: [one])
    monkeypatch.setattr(report, "differences_of", lambda *_: [])
    monkeypatch.setattr(report, "seeds_in_common", lambda *_: [])
    result = Result(Study(), xr.Dataset(), SUMMARY, Path("r"), True)
    for width in (40, 80, 200):
        out = io.StringIO()
        report.print_agreements(result, result, Console(width=width, file=out))
        said = " ".join(out.getvalue().split())
        assert "1.02 (0.93-1.11)" in said
        assert "0.98 (0.91-1.06)" in said
        assert "…" not in said


def test_a_page_is_wide_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert report.terminal_or_page().width == report.PAGE
    monkeypatch.setenv("COLUMNS", "60")
    assert report.terminal_or_page().width == 60


def test_lines_are_packed_between_their_parts() -> None:
    assert report.packed(["aa", "bb", "cc"], 7, ", ") == ["aa, bb,", "cc"]
    assert report.packed(["a" * 9, "b"], 4, "; ") == ["a" * 9 + ";", "b"]
    assert report.packed([], 4, "; ") == []
