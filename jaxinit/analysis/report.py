"""The answer in words: the table, the claims and the notes of a summary, for a terminal."""

import errno
import io
import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxinit.analysis.agreement import agreements, differences_of, how_many_agree, seeds_in_common
from jaxinit.analysis.claims import Claim, sentence
from jaxinit.analysis.interval import Bound
from jaxinit.analysis.store import Result
from jaxinit.analysis.summary import Summary
from jaxinit.analysis.table import Row, SettingRow

DIGITS = 3  # of epochs and ratios: more would not fit, nor be known
MARKS = {  # of epochs and ratios
    ">": "no seed converged",
    "≥": "at least so many, since some seeds did not converge",
    "≤": "at most so many, since some seeds did not converge",
    "?": "both schemes lost seeds, so that not even a bound is known",
}
PAGE = 120  # columns of what is printed where there is no terminal
NARROW = 20  # columns that a folded name needs
INDENT = 2  # of stacked entries
NONE_REPORTED = "No scheme has been reported yet: the run ended while rates were being chosen."


class Column(NamedTuple):
    """A column of a table: its header, in two lines where that keeps a table within 80 columns, and
    its name in stacked rows where that is another."""

    header: str
    stacked: str = ""

    @property
    def name(self) -> str:
        return self.stacked or self.header.replace("/\n", "/").replace("\n", " ")


RATE = Column("rate")
EPOCHS = Column("epochs\n(95 %)")
TIMES_FEWER = Column("times fewer\n(95 %)")
P_VALUE = Column("p")
LETTERS = Column("", "letters")
COUNTS = Column("conv/\ncens/div")


class Terminal(Console):
    """A console that lets its caller know that nobody reads any more, as `print` does."""

    def on_broken_pipe(self) -> None:
        # Rich would exit with 1, as if the machine were at fault.
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def terminal_or_page() -> Terminal:
    """The terminal as wide as it is, or where there is none, and nobody has set COLUMNS, a page."""
    console = Terminal()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Terminal(width=max(PAGE, console.width))


def packed(parts: Iterable[str], width: int, separator: str) -> list[str]:
    """Parts laid one after another in lines of at most so many columns; a part that is longer has a
    line of its own."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(joined := f"{lines[-1]}{separator}{part}") < width:
            lines[-1] = joined
            continue
        if lines:
            lines[-1] += separator.rstrip()
        lines.append(part)
    return lines


def print_columns(
    console: Console,
    names: Sequence[str],
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    apart: int = 0,
    folded: bool = False,
) -> None:
    """Print rows of names, then numbers: as a table where it fits, else each row stacked below its
    names, so that no number is cut.

    `apart` is the space between columns beyond the table's own; `folded` lets a table break its
    names where it is too wide.
    """
    shown = [[_text(console, cell) for cell in row] for row in rows]
    table = Table(
        title=_text(console, title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, apart, 0, 0),
    )
    for name in names:
        table.add_column(name, no_wrap=not folded, overflow="fold")
    for column in columns:
        table.add_column(_text(console, column.header), justify="right", no_wrap=True)
    for row in shown:
        table.add_row(*row)
    if _fits(table, console, len(names) if folded else 0):
        console.print(table)
        return
    if title:
        _print(console, (title, "bold"))
    for row in shown:
        _print_stacked(console, columns, row[: len(names)], row[len(names) :])


def _fits(table: Table, console: Console, folded: int) -> bool:
    """Whether a table is whole in the width of a console, its first columns folded."""
    options = console.options.update(max_width=10**6)
    needed = Measurement.get(console, options, table).maximum
    for column in table.columns[:folded]:
        widest = max(Measurement.get(console, options, cell).maximum for cell in column.cells)
        needed -= max(widest - NARROW, 0)
    return needed <= console.width


def _print_stacked(
    console: Console, columns: Sequence[Column], names: Sequence[Text], cells: Sequence[Text]
) -> None:
    """Print a row as its names, then its entries with their headers, wrapped between them."""
    for name in filter(None, names):
        console.print(name, style="bold", highlight=False, overflow="fold")
    pairs = []
    for column, cell in zip(columns, cells, strict=True):
        if cell:
            pairs.append(f"{column.name}: {cell.plain}" if column.name else cell.plain)
    for line in packed(pairs, console.width - INDENT, "; "):
        console.print(
            Padding(_text(console, line), (0, 0, 0, INDENT), expand=False), highlight=False
        )


def print_answer(result: Result, console: Console | None = None) -> None:
    """Print the table, the claims and the notes of a result."""
    console = console or Terminal()
    summary = result.summary
    if not summary["table"]:
        _print(console, NONE_REPORTED)
        return
    print_table(summary["table"], console, _title(result), result.records.attrs.get("also", ""))
    baseline = summary["baseline"]
    _print(
        console,
        f"times fewer: epochs of {baseline} / epochs of the scheme. p: permutation of seeds "
        f"against {baseline}, Holm-corrected. Schemes that share a letter are not told apart. "
        f"conv/cens/div: trials converged, censored at {summary['budget']:g} epochs, diverged."
        f"{_marks(summary['table'])}",
    )
    if len(summary["targets"]) > 1 and len(summary["table"]) > 1:
        _print_targets(summary, console)
    for claim in summary["claims"]:
        _print_claim(claim, console)
    for note in summary["notes"]:
        _print(console, f"- {note}")


def _marks(rows: Sequence[Row]) -> str:
    """What the marks mean that the rows have."""
    shown = " ".join(entry for row in rows for entry in entries(row)[2:4])
    there = [f" {mark}: {meaning}." for mark, meaning in MARKS.items() if mark in shown]
    return "".join(there)


def answer_in_words(result: Result, width: int = 100) -> str:
    """`print_answer` as text."""
    printed = io.StringIO()
    print_answer(result, Terminal(file=printed, width=width))
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()).strip("\n")


def print_table(rows: Sequence[Row], console: Console, title: str = "", also: str = "") -> None:
    """Print the rows of a study, in 80 columns, under what was asked; `also` is the name of the
    setting that is searched beside the rate, if any."""
    rate = Column(f"{RATE.header},\n{also}") if also else RATE
    columns = (rate, EPOCHS, TIMES_FEWER, P_VALUE, LETTERS, COUNTS)
    print_columns(console, ["scheme"], columns, map(entries, rows), title=title)


def _title(result: Result) -> str:
    """What was asked of a study."""
    study, summary = result.study, result.summary
    sign = "≥" if result.records.attrs["higher_is_better"] else "≤"
    return (
        f"Epochs until {summary['metric']} {sign} {summary['target']:.4g}: {study.model}, "
        f"{study.hidden} units, {study.task}, {study.optimizer}"
    )


def _print_targets(summary: Summary, console: Console) -> None:
    """Print how many times fewer epochs at easier targets, from the same records."""
    columns = [Column(f"{at['target']:.3g}") for at in summary["targets"]]
    rows = []
    for row in summary["table"]:
        if row["scheme"] == summary["baseline"]:
            continue
        cells = [row["scheme"]]
        for at in summary["targets"]:
            cells.append(with_bound(*at["ratios"][row["scheme"]], digits=2))
        rows.append(cells)
    title = "Times fewer epochs at easier targets, at the same rates"
    print_columns(console, ["scheme"], columns, rows, title=title)


def _print_claim(claim: Claim, console: Console) -> None:
    """Print a claim about epochs, as a summary of a study holds it, with its note."""
    _print(console, (claim["id"], "bold"), f" {sentence(claim)}\n   {claim['note']}")


def print_agreements(first: Result, second: Result, console: Console | None = None) -> None:
    """Print whether two studies agree, scheme by scheme, and in what they were asked otherwise."""
    console = console or Terminal()
    found = agreements(first, second)
    rows = []
    for one in found:
        ratio = "-"
        if one.ratio is not None:
            ratio = with_bound(*one.ratio, "=", 3)
        elif one.scheme == first.study.baseline:
            ratio = "baseline"
        epochs = with_bound(*one.epochs, "=", 3)
        verdict = {True: "agree", False: "DIFFER", None: "none converged"}[one.agree]
        rows.append((one.scheme, epochs, ratio, verdict))
    columns = [
        Column("epochs,\nfirst / second"),
        Column("times fewer,\nfirst / second"),
        Column(""),
    ]
    print_columns(console, ["scheme"], columns, rows)
    _print(console, how_many_agree(found))
    for line in [*differences_of(first, second), *seeds_in_common(first, second)]:
        _print(console, f"- {line}")


def print_rows(rows: Sequence[SettingRow], console: Console | None = None) -> None:
    """Print the rows of several studies as one table, each with its setting."""
    columns = (RATE, EPOCHS, TIMES_FEWER, COUNTS)
    shown = entries_by_setting(rows)
    print_columns(console or terminal_or_page(), ["setting", "scheme"], columns, shown, apart=1)


def print_claims(claims: Iterable[Claim]) -> None:
    """Print the claims of an experiment, a line each."""
    for claim in claims:
        print(f"{claim['id']}: {sentence(claim)}")


def entries(row: Row) -> list[str]:
    """One row of the table as text: scheme, rate (and what is searched beside it), epochs, ratio,
    p, letters and counts.

    Of what is only a bound the bound is given, and an unresolved best rate is marked.
    """
    epochs = in_digits(row["epochs"], DIGITS)
    if not row["converged"]:
        epochs = f">{epochs}"
    elif row["converged"] < row["seeds"]:
        epochs = f"≥{epochs}"
    if row["converged"] and row["epochs_low"] is not None:
        assert row["epochs_high"] is not None
        low = in_digits(row["epochs_low"], DIGITS)
        high = in_digits(row["epochs_high"], DIGITS)
        epochs += f" ({low}-{high})"
    mark = "*" if row["unresolved"] and row["converged"] else ""
    rate = f"{row['lr']:g}{mark}"
    also = row.get("also")
    if also is not None:
        rate += f", {also:g}"
    counts = f"{row['converged']}/{row['censored']}/{row['diverged']}"
    return [row["scheme"], rate, epochs, _ratio(row), _p_value(row), row["letters"], counts]


def entries_by_setting(rows: Iterable[SettingRow]) -> list[list[str]]:
    """Rows of several studies as text: setting, scheme, rate, epochs, ratio and counts; a setting
    is named once, at its first row."""
    shown = []
    before = None
    for row in rows:
        name, rate, epochs, ratio, _, _, counts = entries(row)
        setting = "" if row["setting"] == before else row["setting"]
        before = row["setting"]
        shown.append([setting, name, rate, epochs, ratio, counts])
    return shown


def _ratio(row: Row) -> str:
    if row["scheme"] == row["baseline"]:
        return "baseline"
    if row["ratio"] is None or row["ratio_is"] is None:
        return "-"
    assert row["ratio_low"] is not None
    assert row["ratio_high"] is not None
    return with_bound(row["ratio"], row["ratio_low"], row["ratio_high"], row["ratio_is"], DIGITS)


def with_bound(ratio: float, low: float, high: float, bound: Bound, digits: int) -> str:
    """A ratio with its interval; of a bound the end that is sure, and nothing where none is."""
    value, least, most = (in_digits(number, digits) for number in (ratio, low, high))
    if bound == ">=":
        return f"≥{least}"
    if bound == "<=":
        return f"≤{most}"
    if bound == "?":
        return "?"
    return f"{value} ({least}-{most})"


def in_digits(value: float, digits: int) -> str:
    """A positive number in so many digits, or all of those before its point; of one below 1 the
    zero before the point is one of them, the zeros behind it are not."""
    before = len(str(int(value)))
    zeros = -1 - math.floor(math.log10(value)) if 0 < value < 1 else 0
    return f"{value:.{max(digits - before + zeros, 0)}f}"


def _p_value(row: Row) -> str:
    p = row["p_holm"]
    if p is None:
        return ""
    return f"{p:.2g}" if p >= 1e-4 else "<1e-4"


def _text(console: Console, *parts: str | tuple[str, str]) -> Text:
    """Text as it is, whatever brackets and colons the names in it hold; a part with a style is
    (part, style).

    Signs that the terminal does not know are replaced here, since a table measures them.
    """
    text = Text.assemble(*parts)
    if not console.encoding.lower().startswith("utf"):
        text.plain = text.plain.replace("≥", ">=").replace("≤", "<=")
    return text


def _print(console: Console, *parts: str | tuple[str, str]) -> None:
    console.print(_text(console, *parts), highlight=False)
