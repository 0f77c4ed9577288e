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
RATIO_SIGNS = {"=": "", ">=": "≥", "<=": "≤", "?": "?"}
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
    study = result.study
    table = Table(
        title=_text(
            console,
            f"Epochs until {summary['metric']} {_sign(result)} {summary['target']:.4g}: "
            f"{study.model}, {study.hidden} units, {study.task}, {study.optimizer}",
        ),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
    table.add_column("scheme", no_wrap=True)
    for header in ("rate", "epochs\n(95 %)", "times fewer\n(95 %)", "p", "conv/\ncens/div"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in summary["table"]:
        table.add_row(*[_text(console, cell) for cell in cells(row)])
    console.print(table)
    _print(
        console,
        f"times fewer: epochs of {summary['baseline']} / epochs of the scheme, paired by seed. p: "
        f"log-rank against {summary['baseline']}, Holm-corrected. conv/cens/div: trials converged, "
        f"censored at {summary['budget']:g} epochs, diverged.",
    )
    for claim in summary["claims"]:
        sign = "" if claim["measured_is"] == "=" else f"{claim['measured_is']} "
        _print(
            console,
            (claim["id"], "bold"),
            f" {claim['statement']}\n   measured {sign}{claim['measured']:.2g} ({claim['low']:.2g} "
            f"to {claim['high']:.2g}); published: {claim['published'] or 'no source found'}; ",
            (claim["verdict"] or NOT_JUDGED, "bold"),
            f"\n   {claim['note']}",
        )
    for note in summary["notes"]:
        _print(console, f"- {note}")


def print_rows(rows: Sequence[SettingRow], console: Console | None = None) -> None:
    """Print the rows of several studies (`make_table`), each with its `cell`, as one table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("cell", no_wrap=True)
    table.add_column("scheme", no_wrap=True)
    for header in ("rate", "epochs\n(95 %)", "times fewer\n(95 %)", "conv/\ncens/div"):
        table.add_column(header, justify="right", no_wrap=True)
    before = None
    console = console or Terminal(width=max(ROW_WIDTH, Terminal().width))
    for row in rows:
        name, rate, epochs, ratio, _, counts = cells(row)
        cell = row["cell"] if row["cell"] != before else ""
        table.add_row(*[_text(console, part) for part in (cell, name, rate, epochs, ratio, counts)])
        before = row["cell"]
    console.print(table)


def print_claims(claims: Iterable[Claim]) -> None:
    """Print the claims of an experiment (`make_claim`), a line each."""
    for claim in claims:
        spread = "" if claim["low"] is None else f" ({claim['low']:.4g} to {claim['high']:.4g})"
        sign = {">=": "at least ", "<=": "at most ", "?": "no estimate: "}.get(
            claim.get("measured_is", "="), ""
        )
        print(
            f"{claim['id']}: {claim['statement']}: {sign}{claim['measured']:.4g}{spread}; "
            f"published: {claim['published'] or 'no source found'}; "
            f"{claim['verdict'] or NOT_JUDGED}"
        )


def cells(row: Row) -> list[str]:
    """One row of the table as text; a bound is marked as one."""
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


def _sign(result: Result) -> str:
    return "≥" if result.records.attrs["higher_is_better"] else "≤"


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
