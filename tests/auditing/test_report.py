"""A report in a terminal, as JSON, and as an assertion."""

import io
import json

import jax.numpy as jnp
import pytest
from audited import Language
from flax import nnx
from pages import Read, asks_for_nothing
from rich.console import Console

import jaxinit
from jaxinit.analysis.page import rendered
from jaxinit.auditing import assert_well_initialized, audit
from jaxinit.auditing.findings import Finding
from jaxinit.models import GLR
from jaxinit.schemes import scheme_named


def test_the_table_names_the_law_of_every_kernel() -> None:
    text = str(audit(nnx.Linear(64, 64, rngs=nnx.Rngs(0))))
    assert "LeCun's law, truncated: the default of Flax's layers" in text
    assert "0 serious, 0 warnings, 0 notes" in text


def test_json_has_everything_and_no_nan() -> None:
    report = audit(Language(nnx.Rngs(0)), "llama")
    content = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert len(content["rows"]) == len(report.rows)
    assert content["findings"][0]["severity"] == "serious"
    assert set(content["findings"][0]) == {
        "severity",
        "what",
        "parameter",
        "evidence",
        "cause",
        "repair",
    }


def test_findings_come_the_worst_first_and_alike_ones_together() -> None:
    note = Finding("note", "a", "p", "e", "", "")
    serious = Finding("serious", "b", "q", "f", "", "")
    report = audit(nnx.Linear(4, 4, rngs=nnx.Rngs(0))).with_findings([note, serious])
    assert [finding.severity for finding in report.findings] == ["serious", "note"]
    many = audit(Language(nnx.Rngs(0)), "llama")
    assert str(many).count("another standard deviation than declared") == 1


def test_the_page_has_every_finding_and_every_parameter() -> None:
    report = audit(Language(nnx.Rngs(0)), "llama")
    read = Read(rendered(report.page()))
    assert asks_for_nothing(read)
    findings, parameters = read.records(0), read.records(1)
    assert [finding["what"] for finding in findings] == [f.what for f in report.findings]
    assert [row["name"] for row in parameters] == [row.name for row in report.rows]
    assert f"{len(report.serious)} serious" in read.texts["p"][1]


def test_an_assertion_for_a_users_own_tests() -> None:
    model = Language(nnx.Rngs(0))
    assert_well_initialized(model, "gpt2")
    model.lm_head.kernel.set_value(jnp.ones((64, 100)))
    with pytest.raises(AssertionError, match=r"lm_head\.kernel: .*constant 1"):
        jaxinit.assert_well_initialized(model, "gpt2")


def test_the_memory_of_gates_at_the_start() -> None:
    """sigmoid(b) a step: ln 2 / -ln sigmoid(0) = 1, and ln 2 / -ln sigmoid(3) = 14.3."""
    cell = nnx.OptimizedLSTMCell(8, 8, rngs=nnx.Rngs(0))
    rows = {row.name: row.memory for row in audit(cell).rows}
    assert rows["dense_h.bias"] == pytest.approx(1.0)
    fresh = jaxinit.reinitialize(
        cell, jaxinit.SCHEMES["forget_bias"], nnx.Rngs(0).params(), exclude=()
    )
    rows = {row.name: row.memory for row in audit(fresh).rows}
    assert rows["dense_h.bias"] == pytest.approx(2.21, rel=0.01)


@pytest.mark.parametrize(("scheme", "expected"), [("min_gru", 1.0), ("min_gru(0.9)", 6.58)])
def test_the_memory_of_a_gated_linear_recurrence_at_the_start(scheme: str, expected: float) -> None:
    """ln 2 / -ln of the share that is kept a step; below 2 steps it is found."""
    model = jaxinit.reinitialize(
        GLR(4, 8, 2, rngs=nnx.Rngs(0)), scheme_named(scheme), nnx.Rngs(0).params()
    )
    report = audit(model)
    rows = {row.name: row.memory for row in report.rows}
    assert rows["layers.0.step_bias"] == pytest.approx(expected, rel=1e-3)
    too_short = [f.parameter for f in report.findings if f.what.startswith("a memory of no use")]
    assert too_short == (["layers.0.step_bias"] if expected < 2 else [])
    assert not report.serious, "as it is published"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_width_cuts_a_number(width: int) -> None:
    report = audit(Language(nnx.Rngs(0)), "llama")
    out = io.StringIO()
    report.print(Console(width=width, file=out))
    text = out.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    words = text.replace(";", "").split()
    for row in report.rows[:40]:
        assert row.name in words
        assert f"{row.std:.3g}" in words
