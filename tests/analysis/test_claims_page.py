"""The page of claims, from the summaries that are kept, and the command that makes it."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxinit import cli
from jaxinit.analysis.claims_page import chosen, claims_page, is_named
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.analysis.page import REPORT, rendered
from jaxinit.console import FAILED, INTERRUPTED, REFUSED

KEPT = Path(__file__).parent.parent.parent / "docs" / "summaries"


def kept(name: str) -> dict[str, Any]:
    return json.loads((KEPT / f"{name}.json").read_text())


def test_claims_are_chosen_by_id_by_their_experiment_and_by_what_they_are_against() -> None:
    claims = kept("uniform01")["claims"]
    assert {claim["id"] for claim in chosen(claims, ["A10"])} == {"uniform01.A10"}
    assert chosen(claims, []) == claims
    parts = kept("rnn_convergence")["claims"]
    assert {c["id"] for c in chosen(parts, ["A10"])} == {"A10.small_normal", "A10.uniform01"}
    assert not chosen(parts, ["A1"])


def test_an_experiment_is_named_by_the_claims_in_its_source() -> None:
    having = {
        name for name, path in cli.experiments().items() if is_named(path.read_text(), ["D3"])
    }
    assert having == {"lora_init"}


def test_a_page_has_every_claim_with_its_command_and_what_is_missing() -> None:
    summaries = {name: kept(name) for name in ("chrono2018", "lora_init")}
    pages = {"chrono2018": "chrono 2018/report.html"}
    page = rendered(claims_page(summaries, [], ["warmup: <not> measured"], pages))
    for name, summary in summaries.items():
        assert f"jaxinit reproduce {name} --size quick" in page
        assert all(claim["id"] in page for claim in summary["claims"])
    assert "&lt;not&gt; measured" in page
    assert page.count("not at the published scale</h2>") == 1, "of what others claim: D3"
    assert page.count('<a href="chrono%202018/report.html">') == 1


def test_claims_are_measured_once_and_one_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran = []

    def reproduce(words: list[str], quiet: bool) -> int:
        assert quiet, "all claims of an experiment would be printed"
        name, out = words[1], Path(words[-1])
        ran.append(name)
        if name == "uniform01":
            return FAILED
        folder = Folder(out)
        with folder.locked():
            folder.write("experiment", {}, {"summary.json": to_json(kept(name))})
        return 0

    monkeypatch.setattr(cli, "_in_a_process", reproduce)
    words = ["claims", "--only", "A10", "--out", str(tmp_path / "c")]
    assert cli.main(words) == FAILED
    assert ran == ["rnn_convergence", "uniform01"]
    said = capsys.readouterr()
    assert "A10.small_normal" in said.out
    assert "uniform01" in said.err
    assert (tmp_path / "c" / "A10.html").exists(), "which does not replace that of all claims"
    assert cli.main(words) == FAILED
    assert ran == ["rnn_convergence", "uniform01", "uniform01"]


def test_what_an_interrupted_run_has_not_measured_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cli, "_in_a_process", lambda words, quiet: INTERRUPTED)
    assert cli.main(["claims", "--only", "A10", "--out", str(tmp_path)]) == INTERRUPTED
    assert "uniform01: not measured yet; the same command goes on" in capsys.readouterr().err
    assert "uniform01: not measured yet" in (tmp_path / "A10.html").read_text()


def test_the_folder_of_claims_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / REPORT).write_text("the page of all claims")
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda page: shown.append(page) or True)
    assert cli.main(["open", str(tmp_path)]) == 0
    assert shown == [(tmp_path / REPORT).resolve().as_uri()]


def test_a_claim_that_nobody_has_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["claims", "--only", "Z99"]) == REFUSED
    assert "no experiment has a claim Z99" in capsys.readouterr().err
