"""A page of results: one HTML file that needs nothing else and asks for nothing, from tables,
charts, facts and notes.

    Page -> template, style and script of assets/ -> text

What a page shows of a study, an experiment or an audit is said where those are; here is how it
looks. All text is escaped, names of schemes too.
"""

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import jinja2
import numpy as np

from jaxinit.analysis.curves import Curve, Trials, thinned
from jaxinit.analysis.folder import replacing
from jaxinit.study import BadStudy

ASSETS = Path(__file__).parent / "assets"
REPORT = "report.html"
DIGITS = 4  # of what is drawn
LONG = 40  # characters of a cell that needs a wide column

Span: TypeAlias = tuple[float, float, float]  # a value between its limits
Sign: TypeAlias = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Against:
    """A value with its interval, drawn over the band that was claimed of it, on a linear scale of
    its own; an end that is not finite lies beyond what is drawn."""

    span: Span
    band: tuple[float, float]

    def places(self) -> tuple[list[float], list[float]]:
        """Where the span and the band lie, from 0 to 100."""
        ends = [end for end in (*self.span, *self.band) if math.isfinite(end)]
        room = 0.1 * (max(ends) - min(ends)) or 1.0
        left, width = min(ends) - room, max(ends) - min(ends) + 2 * room

        def place(end: float) -> float:
            return round(min(max(100 * (end - left) / width, 0.0), 100.0), 1)

        return [place(end) for end in self.span], [place(end) for end in self.band]


@dataclass(frozen=True)
class Cell:
    """An entry of a table: its text, what it is sorted by where that is a number, an interval to be
    drawn (on the scale of its column, or against a band), and whether it is good or bad news. A
    `hollow` interval is that of a bound; a `baseline`'s middle is a line through the others."""

    text: str
    value: float | None = None
    span: Span | None = None
    sign: Sign | None = None
    scheme: str = ""  # whose colour it has
    against: Against | None = None
    hollow: bool = False
    baseline: bool = False

    @property
    def order(self) -> str:
        """What the page sorts by: empty for text."""
        return "" if self.value is None or not math.isfinite(self.value) else repr(self.value)


@dataclass(frozen=True)
class Table:
    """Rows of cells under their headers; `numeric` names the columns of numbers, and `records` are
    the rows as data, all of their entries, for whoever takes the table away. On a phone the rows of
    a table of `words` are stacked. Intervals are drawn on one scale for all rows that are alike in
    the column `scale_by`."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    numeric: frozenset[str] = frozenset()
    records: Sequence[Mapping[str, Any]] = ()
    words: bool = False
    scale_by: str = ""

    @property
    def kind(self) -> str:
        return "table"

    def limits(self, row: Sequence[Cell]) -> tuple[float, float]:
        """The ends of all intervals that are drawn on the scale of a row."""
        ends = []
        for other in self.rows:
            if self._scale(other) == self._scale(row):
                ends += [end for cell in other for end in cell.span or () if end > 0]
        return min(ends), max(ends)

    def line(self, row: Sequence[Cell], column: int) -> float | None:
        """Where the baseline of the rows that share a row's scale lies among the intervals of a
        column."""
        for other in self.rows:
            cell = other[column]
            if cell.baseline and cell.span is not None and self._scale(other) == self._scale(row):
                return self.places(other, cell)[1]
        return None

    def places(self, row: Sequence[Cell], cell: Cell) -> list[float]:
        """Where the interval of a cell lies in its column, on a logarithmic scale from 0 to 100."""
        assert cell.span is not None
        least, most = self.limits(row)
        width = math.log(most / least) or 1.0
        return [round(100 * math.log(max(end, least) / least) / width, 1) for end in cell.span]

    def _scale(self, row: Sequence[Cell]) -> str:
        return row[self.columns.index(self.scale_by)].text if self.scale_by else ""

    def csv(self) -> str:
        """The records as comma-separated values."""
        names = list(dict.fromkeys(name for record in self.records for name in record))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return text.getvalue()


@dataclass(frozen=True)
class Chart:
    """Curves by scheme, and trials as points, on two axes; `target` is a line across."""

    title: str
    x: str
    y: str
    curves: Mapping[str, Curve]
    note: str = ""
    trials: Mapping[str, Trials] = field(default_factory=dict)
    x_log: bool = False
    y_log: bool = False
    steps: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    target: float | None = None

    @property
    def kind(self) -> str:
        return "chart"

    def numbers(self, number_of: Mapping[str, int]) -> dict[str, Any]:
        """What the script draws."""
        lines = []
        for scheme, curve in self.curves.items():
            seen = thinned(curve, logarithmic=self.x_log)
            entry = {"s": number_of[scheme], "x": rounded(seen.x), "y": rounded(seen.y)}
            if not np.isnan(seen.low).all():
                entry |= {"low": rounded(seen.low), "high": rounded(seen.high)}
            lines.append(entry)
        dots = []
        for scheme, trials in self.trials.items():
            dots.append(
                {
                    "s": number_of[scheme],
                    "x": rounded(trials.rate),
                    "y": rounded(trials.epochs),
                    "end": [outcome.name.lower() for outcome in trials.outcome],
                    "seed": trials.seed,
                }
            )
        return {
            "title": self.title,
            "x": self.x,
            "y": self.y,
            "xLog": self.x_log,
            "yLog": self.y_log,
            "steps": self.steps,
            "xRange": self.x_range,
            "yRange": self.y_range,
            "target": self.target,
            "lines": lines,
            "dots": dots,
        }


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    title: str
    pairs: Mapping[str, str]

    @property
    def kind(self) -> str:
        return "facts"


@dataclass(frozen=True)
class Lines:
    """Sentences, or commands to be copied."""

    title: str
    lines: Sequence[str]
    command: bool = False

    @property
    def kind(self) -> str:
        return "commands" if self.command else "lines"


@dataclass(frozen=True)
class Link:
    """Another page, by its path from this one's folder."""

    title: str
    path: str

    @property
    def kind(self) -> str:
        return "link"

    @property
    def address(self) -> str:
        return quote(self.path)


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn elsewhere, as PNG, and its numbers as CSV."""

    title: str
    png: bytes
    numbers: bytes = b""

    @property
    def kind(self) -> str:
        return "picture"

    @property
    def source(self) -> str:
        return data_address("image/png", self.png)

    @property
    def csv(self) -> str:
        return data_address("text/csv", self.numbers)

    @property
    def file(self) -> str:
        """What a reader's file of the numbers is called."""
        return f"{re.sub(r'[^a-zA-Z0-9.-]+', '_', self.title)}.csv"


def data_address(kind: str, content: bytes) -> str:
    """An address that is the content itself, of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


Block: TypeAlias = Table | Chart | Facts | Lines | Link | Picture


@dataclass(frozen=True)
class Section:
    """A part of a page; one that is `folded` shows its title until it is opened."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False

    @property
    def schemes_are_drawn(self) -> bool:
        return any(block.kind == "chart" for block in self.blocks)


@dataclass(frozen=True)
class Page:
    """A page: what it is about, the answer in a sentence, what a reader must be warned of, and its
    parts. `schemes` are in the order in which they take colours."""

    title: str
    subtitle: str
    answer: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    schemes: Sequence[str] = ()

    @property
    def open_sections(self) -> list[tuple[int, Section]]:
        """Those that are not folded, with their numbers: what a reader goes to."""
        numbered = enumerate(self.sections, 1)
        return [(number, section) for number, section in numbered if not section.folded]


def rendered(page: Page) -> str:
    """The page as HTML."""
    number_of = {scheme: number for number, scheme in enumerate(page.schemes)}
    charts, tables = [], []
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Chart):
                charts.append(block.numbers(number_of))
            elif isinstance(block, Table) and block.records:
                tables.append({"title": block.title, "csv": block.csv()})
    numbers = {"schemes": list(page.schemes), "charts": charts, "tables": tables}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        page=page,
        number_of=number_of,
        long=LONG,
        style=(ASSETS / "report.css").read_text(encoding="utf-8"),
        script=(ASSETS / "report.js").read_text(encoding="utf-8"),
        numbers=embedded(numbers),
    )


def write(page: Page, path: Path) -> Path:
    """Write a page into a file, in place of the page that was there.

    Raises: BadStudy for a path that is no *.html in a folder that exists.
    """
    if path.suffix != ".html" or path.is_dir():
        raise BadStudy(f"a page is written into a file *.html, got {path}; name one")
    if not path.parent.is_dir():
        raise BadStudy(f"there is no folder {path.parent} for {path.name}; name one that exists")
    put(rendered(page), path)
    return path


def put(text: str, path: Path) -> None:
    """Write a text as a whole: who reads the file meets the old one or the new one."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def embedded(content: Any) -> str:
    """JSON that no text in it can end: `<`, `>` and `&` are written as their numbers."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def rounded(values: Iterable[float]) -> list[float | None]:
    """Numbers in as many digits as can be seen, None for those that are not finite."""
    shown = []
    for value in values:
        number = float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
        shown.append(int(number) if number is not None and number == int(number) else number)
    return shown
