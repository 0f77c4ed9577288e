"""The answer of an audit: a row for every parameter, and findings, the worst first."""

import datetime
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from jaxinit.analysis import store
from jaxinit.analysis.page import Block, Cell, Facts, Lines, Page, Section, Sign, Table
from jaxinit.analysis.report import Column, print_columns, terminal_or_page
from jaxinit.auditing.findings import SEVERITIES, Finding, worst_first

SHOWN = 40  # rows in a terminal; all of them are in JSON
ALIKE = 3  # findings of one kind that are shown with their numbers
MARKS = {"serious": "!!", "warning": "! ", "note": "  "}


@dataclass(frozen=True)
class Row:
    """One parameter: `std` as measured and as expected under the declared scheme or the law that it
    is recognized as (NaN where none is), `noise` the relative standard error of the measured one,
    `z` how many of them it is away, `memory` the half-life of a gate's state at the start, in
    steps."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    fan_in: int
    fan_out: int
    law: str
    p: float
    mean: float
    std: float
    expected: float
    source: str
    noise: float
    z: float
    memory: float


@dataclass(frozen=True)
class Report:
    """What an audit found.

    `findings` have `severity` (serious, warning, note), `what`, `parameter`, `evidence`, `cause`
    and `repair`; `scheme` is the declared one, `recognized` what most kernels follow."""

    model: str
    scheme: str
    recognized: str
    parameters: int
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]

    @property
    def serious(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "serious")

    def with_findings(self, more: Sequence[Finding]) -> "Report":
        """The same report with more findings, the worst first."""
        return replace(self, findings=tuple(worst_first([*self.findings, *more])))

    def to_json(self) -> str:
        """All of it, NaN as null."""
        content = asdict(self)
        content["findings"] = [finding._asdict() for finding in self.findings]
        return json.dumps(_without_nan(content), indent=1)

    def print(self, console: Console | None = None) -> None:
        """Print the table, and the findings below it."""
        console = console or terminal_or_page()
        console.print(Text(self.headline(), "bold"))
        _print_table(self.rows, console)
        if any(not math.isnan(row.memory) for row in self.rows):
            console.print("memory: half-life of a state at the start, in steps", highlight=False)
        if len(self.rows) > SHOWN:
            console.print(f"... and {len(self.rows) - SHOWN} more; --json has all")
        for _, alike in groupby(self.findings, lambda finding: (finding.severity, finding.what)):
            _print_findings([*alike], console)
        counts = [sum(f.severity == severity for f in self.findings) for severity in SEVERITIES]
        console.print(
            f"{counts[0]} serious, {counts[1]} warnings, {counts[2]} notes", highlight=False
        )

    def headline(self) -> str:
        """What was audited."""
        against = f"; declared: {self.scheme}" if self.scheme else ""
        seen = f"; {self.recognized}" if self.recognized else ""
        return f"{self.model}: {self.parameters:,} parameters in {len(self.rows)}{against}{seen}"

    def page(self, command: str = "") -> Page:
        """All of it as a page: the findings, the worst first, and every parameter; by which
        versions, and the command that does it once more, where there is one."""
        counts = [sum(f.severity == severity for f in self.findings) for severity in SEVERITIES]
        today = datetime.date.today().isoformat()
        facts = {"looked at": today, "versions": store.versions_in_words()}
        how: list[Block] = [Facts("", facts)]
        if command:
            how.append(Lines("Once more", [command], command=True))
        return Page(
            title=f"Is this model initialized as it should be? {self.model}",
            subtitle=self.headline(),
            answer=f"{counts[0]} serious, {counts[1]} warnings, {counts[2]} notes.",
            sections=[
                Section("Findings", [_findings_table(self.findings)]),
                Section("Parameters", [_parameters_table(self.rows)]),
                Section("How it was measured", how),
            ],
        )

    def __str__(self) -> str:
        console = Console(width=120, force_terminal=False)
        with console.capture() as captured:
            self.print(console)
        return captured.get()


def _print_table(rows: Sequence[Row], console: Console) -> None:
    columns = [Column(name) for name in ("shape", "role", "law", "std", "expected", "z")]
    memories = any(not math.isnan(row.memory) for row in rows)
    if memories:
        columns.append(Column("memory"))
    shown = []
    for row in rows[:SHOWN]:
        cells = [
            row.name,
            "x".join(map(str, row.shape)) or "scalar",
            row.role,
            _law(row),
            _number(row.std, ".3g"),
            f"{_number(row.expected, '.3g')} {row.source}".strip(),
            _number(row.z, "+.1f"),
        ]
        if memories:
            cells.append(_number(row.memory, ".3g"))
        shown.append(cells)
    print_columns(console, ["parameter"], columns, shown, apart=1, folded=True)


def _findings_table(findings: Sequence[Finding]) -> Table:
    signs: dict[str, Sign | None] = {"serious": "bad", "warning": "open", "note": None}
    columns = ("severity", "what", "parameter", "evidence", "likely", "repair")
    rows = []
    for number, finding in enumerate(findings):
        # Sorted by how bad they are, not by the word.
        severity = Cell(finding.severity, float(number), sign=signs[finding.severity])
        said = (finding.what, finding.parameter, finding.evidence, finding.cause, finding.repair)
        rows.append([severity, *(Cell(text) for text in said)])
    records = [finding._asdict() for finding in findings]
    note = "" if findings else "Nothing was found."
    return Table("", columns, rows, note, records=records, words=True)


def _parameters_table(rows: Sequence[Row]) -> Table:
    numbers = ("fan in", "fan out", "std", "expected", "z", "memory")
    columns = ("parameter", "shape", "role", "law", *numbers, "expected by")
    shown, records = [], []
    for row in rows:
        words = (row.name, "x".join(map(str, row.shape)) or "scalar", row.role, _law(row))
        values = (row.fan_in, row.fan_out, row.std, row.expected, row.z, row.memory)
        formats = ("d", "d", ".3g", ".3g", "+.1f", ".3g")
        cells = [Cell(word) for word in words]
        for value, spec in zip(values, formats, strict=True):
            cells.append(Cell(_number(value, spec), float(value)))
        shown.append([*cells, Cell(row.source)])
        records.append(asdict(row))
    note = "memory: half-life of a state at the start, in steps"
    return Table("", columns, shown, note, frozenset(numbers), records)


def _law(row: Row) -> str:
    if row.law == "constant":
        return f"constant {row.mean:.3g}"
    return row.law.removesuffix(" normal")


def _number(value: float, spec: str) -> str:
    return "" if math.isnan(value) else format(value, spec)


def _print_findings(alike: Sequence[Finding], console: Console) -> None:
    """Findings of one kind: the numbers of some, and what to do."""
    first = alike[0]
    often = f" ({len(alike)} times)" if len(alike) > 1 else ""
    console.print(Text(f"{MARKS[first.severity]} {first.severity}: {first.what}{often}", "bold"))
    for finding in alike[:ALIKE]:
        at = f"{finding.parameter}: " if finding.parameter else ""
        _indented(console, f"{at}{finding.evidence}")
    if len(alike) > ALIKE:
        others = [finding.parameter for finding in alike[ALIKE:]]
        _indented(console, f"and {', '.join(others)}")
    for label, said in (
        ("likely", dict.fromkeys(finding.cause for finding in alike)),
        ("repair", dict.fromkeys(finding.repair for finding in alike)),
    ):
        for line in filter(None, list(said)[:ALIKE]):
            _indented(console, f"{label}: {line}")


def _indented(console: Console, line: str) -> None:
    console.print(Padding(Text(line), (0, 0, 0, 5)))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
