"""The answer in words: the table, the claims and the notes of a summary, for a terminal."""

import errno
import os
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxinit.analysis.claims import Claim
from jaxinit.analysis.store import Result
from jaxinit.analysis.table import Row, SettingRow

NOT_JUDGED = "not judged at smoke size"
NO_SOURCE = "no source found"
# Headers of the tables; two lines each keep a table within 80 columns.
RATE = "rate"
EPOCHS = "epochs\n(95 %)"
TIMES_FEWER = "times fewer\n(95 %)"
COUNTS = "conv/\ncens/div"
RATIO_SIGNS = {"=": "", ">=": "≥", "<=": "≤", "?": "?"}
BOUNDS_IN_WORDS = {"=": "", ">=": "at least ", "<=": "at most ", "?": "no estimate: "}
ROW_WIDTH = 120  # what the rows of several studies need, whatever the terminal says


class Terminal(Console):
    """A console that lets its caller know that nobody reads any more, as `print` does."""

    def on_broken_pipe(self) -> None:
        # Rich would exit with 1, as if the machine were at fault.
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def print_answer(result: Result, console: Console | None = None) -> None:
    """Print the table, the claims and the notes of a result."""
    console = console or Terminal()
    summary = result.summary
    if not summary["table"]:
        _print(
            console, "No scheme has been reported yet: the run ended while rates were being chosen."
        )
        return
    console.print(_table_of_study(result, console))
    baseline = summary["baseline"]
    _print(
        console,
        f"times fewer: epochs of {baseline} / epochs of the scheme, paired by seed. p: log-rank "
        f"against {baseline}, Holm-corrected. conv/cens/div: trials converged, censored at "
        f"{summary['budget']:g} epochs, diverged.",
    )
    for claim in summary["claims"]:
        _print_claim(claim, console)
    for note in summary["notes"]:
        _print(console, f"- {note}")


def _table_of_study(result: Result, console: Console) -> Table:
    """The rows of a study, in 80 columns, under what was asked."""
    study = result.study
    summary = result.summary
    sign = "≥" if result.records.attrs["higher_is_better"] else "≤"
    title = (
        f"Epochs until {summary['metric']} {sign} {summary['target']:.4g}: {study.model}, "
        f"{study.hidden} units, {study.task}, {study.optimizer}"
    )
    table = Table(
        title=_text(console, title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
    table.add_column("scheme", no_wrap=True)
    for header in (RATE, EPOCHS, TIMES_FEWER, "p", COUNTS):
        table.add_column(header, justify="right", no_wrap=True)
    for row in summary["table"]:
        table.add_row(*[_text(console, entry) for entry in entries(row)])
    return table


def _print_claim(claim: Claim, console: Console) -> None:
    """Print a claim about epochs, as a summary of a study holds it, with its note."""
    bound = claim.get("measured_is", "=")
    sign = "" if bound == "=" else f"{bound} "
    measured = f"{sign}{claim['measured']:.2g} ({claim['low']:.2g} to {claim['high']:.2g})"
    _print(
        console,
        (claim["id"], "bold"),
        f" {claim['statement']}\n   measured {measured}; published: "
        f"{claim['published'] or NO_SOURCE}; ",
        (claim["verdict"] or NOT_JUDGED, "bold"),
        f"\n   {claim['note']}",
    )


def print_rows(rows: Sequence[SettingRow], console: Console | None = None) -> None:
    """Print the rows of several studies as one table, each with its setting."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("setting", no_wrap=True)
    table.add_column("scheme", no_wrap=True)
    for header in (RATE, EPOCHS, TIMES_FEWER, COUNTS):
        table.add_column(header, justify="right", no_wrap=True)
    console = console or Terminal(width=max(ROW_WIDTH, Terminal().width))
    before = None
    for row in rows:
        name, rate, epochs, ratio, _, counts = entries(row)
        setting = "" if row["setting"] == before else row["setting"]  # named once, at its first row
        shown = (setting, name, rate, epochs, ratio, counts)
        table.add_row(*[_text(console, entry) for entry in shown])
        before = row["setting"]
    console.print(table)


def print_claims(claims: Iterable[Claim]) -> None:
    """Print the claims of an experiment, a line each."""
    for claim in claims:
        bound = BOUNDS_IN_WORDS[claim.get("measured_is", "=")]
        measured = f"{bound}{claim['measured']:.4g}"
        if claim["low"] is not None:
            measured += f" ({claim['low']:.4g} to {claim['high']:.4g})"
        print(
            f"{claim['id']}: {claim['statement']}: {measured}; published: "
            f"{claim['published'] or NO_SOURCE}; {claim['verdict'] or NOT_JUDGED}"
        )


def entries(row: Row) -> list[str]:
    """One row of the table as text: scheme, rate, epochs, ratio, p and counts.

    What is only a bound is marked as one, and so is a best rate at the edge of the grid.
    """
    epochs = f"{row['epochs']:.2f}"
    if row["converged"] < row["seeds"]:
        epochs = f">{epochs}"
    if row["converged"] and row["epochs_low"] is not None:
        epochs += f" ({row['epochs_low']:.2f}-{row['epochs_high']:.2f})"
    edge = "*" if row["lr_at_edge"] and row["converged"] else ""
    rate = f"{row['lr']:g}{edge}"
    counts = f"{row['converged']}/{row['censored']}/{row['diverged']}"
    return [row["scheme"], rate, epochs, _ratio(row), _p_value(row), counts]


def _ratio(row: Row) -> str:
    if row["scheme"] == row["baseline"]:
        return "baseline"
    if row["ratio"] is None or row["ratio_is"] is None:
        return "-"
    sign = RATIO_SIGNS[row["ratio_is"]]
    return f"{sign}{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"


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
