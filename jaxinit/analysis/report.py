"""The answer in words: the table, the claims and the notes of a summary, for a terminal."""

import errno
import os
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxinit.analysis.agreement import agreements, differences_of, seeds_in_common
from jaxinit.analysis.claims import Claim, sentence
from jaxinit.analysis.interval import Bound
from jaxinit.analysis.store import Result
from jaxinit.analysis.summary import Summary
from jaxinit.analysis.table import Row, SettingRow

# Headers of the tables; two lines each keep a table within 80 columns.
RATE = "rate"
EPOCHS = "epochs\n(95 %)"
TIMES_FEWER = "times fewer\n(95 %)"
COUNTS = "conv/\ncens/div"
DIGITS = 3  # of epochs and ratios: more would not fit, nor be known
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
    print_table(summary["table"], console, _title(result), result.records.attrs.get("also", ""))
    baseline = summary["baseline"]
    _print(
        console,
        f"times fewer: epochs of {baseline} / epochs of the scheme. p: permutation of seeds "
        f"against {baseline}, Holm-corrected. Schemes that share a letter are not told apart. "
        f"conv/cens/div: trials converged, censored at {summary['budget']:g} epochs, diverged.",
    )
    if len(summary["targets"]) > 1 and len(summary["table"]) > 1:
        console.print(_table_of_targets(summary, console))
    for claim in summary["claims"]:
        _print_claim(claim, console)
    for note in summary["notes"]:
        _print(console, f"- {note}")


def print_table(rows: Sequence[Row], console: Console, title: str = "", also: str = "") -> None:
    """Print the rows of a study, in 80 columns, under what was asked; `also` is the name of the
    setting that is searched beside the rate, if any."""
    table = Table(
        title=_text(console, title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
    table.add_column("scheme", no_wrap=True)
    rate = _text(console, f"{RATE},\n{also}" if also else RATE)
    for header in (rate, EPOCHS, TIMES_FEWER, "p", "", COUNTS):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*[_text(console, entry) for entry in entries(row)])
    console.print(table)


def _title(result: Result) -> str:
    """What was asked of a study."""
    study, summary = result.study, result.summary
    sign = "≥" if result.records.attrs["higher_is_better"] else "≤"
    return (
        f"Epochs until {summary['metric']} {sign} {summary['target']:.4g}: {study.model}, "
        f"{study.hidden} units, {study.task}, {study.optimizer}"
    )


def _table_of_targets(summary: Summary, console: Console) -> Table:
    """How many times fewer epochs at easier targets, from the same records."""
    table = Table(
        title="Times fewer epochs at easier targets, at the same rates",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
    table.add_column("scheme", no_wrap=True)
    for at in summary["targets"]:
        table.add_column(f"{at['target']:.3g}", justify="right", no_wrap=True)
    for row in summary["table"]:
        if row["scheme"] == summary["baseline"]:
            continue
        cells = [row["scheme"]]
        for at in summary["targets"]:
            cells.append(_with_bound(*at["ratios"][row["scheme"]], digits=2))
        table.add_row(*[_text(console, cell) for cell in cells])
    return table


def _print_claim(claim: Claim, console: Console) -> None:
    """Print a claim about epochs, as a summary of a study holds it, with its note."""
    _print(console, (claim["id"], "bold"), f" {sentence(claim)}\n   {claim['note']}")


def print_agreements(first: Result, second: Result, console: Console | None = None) -> None:
    """Print whether two studies agree, scheme by scheme, and in what they were asked otherwise."""
    console = console or Terminal()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("scheme", no_wrap=True)
    for header in ("epochs,\nfirst / second", "times fewer,\nfirst / second", ""):
        table.add_column(header, justify="right", no_wrap=True)
    found = agreements(first, second)
    for one in found:
        ratio = "-"
        if one.ratio is not None:
            ratio = _with_bound(*one.ratio, "=", 3)
        elif one.scheme == first.study.baseline:
            ratio = "baseline"
        epochs = _with_bound(*one.epochs, "=", 3)
        verdict = {True: "agree", False: "DIFFER", None: "none converged"}[one.agree]
        cells = (one.scheme, epochs, ratio, verdict)
        table.add_row(*[_text(console, cell) for cell in cells])
    console.print(table)
    agreeing = sum(one.agree is True for one in found)
    unknown = sum(one.agree is None for one in found)
    rest = f"; of {unknown} no trial converged" if unknown else ""
    _print(console, f"{agreeing} of {len(found)} schemes agree (95 % over all of them){rest}.")
    for setting, (there, here) in differences_of(first, second).items():
        _print(console, f"- {setting} is {there} in the first, {here} in the second")
    common = seeds_in_common(first, second)
    if common:
        _print(
            console,
            f"- {common} seeds are the same in both, which makes them agree more than they should; "
            "give one of them another --first-seed",
        )


def print_rows(rows: Sequence[SettingRow], console: Console | None = None) -> None:
    """Print the rows of several studies as one table, each with its setting."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("setting", no_wrap=True)
    table.add_column("scheme", no_wrap=True)
    for header in (RATE, EPOCHS, TIMES_FEWER, COUNTS):
        table.add_column(header, justify="right", no_wrap=True)
    console = console or Terminal(width=max(ROW_WIDTH, Terminal().width))
    for shown in entries_by_setting(rows):
        table.add_row(*[_text(console, entry) for entry in shown])
    console.print(table)


def print_claims(claims: Iterable[Claim]) -> None:
    """Print the claims of an experiment, a line each."""
    for claim in claims:
        print(f"{claim['id']}: {sentence(claim)}")


def entries(row: Row) -> list[str]:
    """One row of the table as text: scheme, rate (and what is searched beside it), epochs, ratio,
    p, letters and counts.

    Of what is only a bound the bound is given, and an unresolved best rate is marked.
    """
    epochs = _number(row["epochs"], DIGITS)
    if not row["converged"]:
        epochs = f">{epochs}"
    elif row["epochs_low"] is not None:
        assert row["epochs_high"] is not None
        low = _number(row["epochs_low"], DIGITS)
        high = _number(row["epochs_high"], DIGITS)
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
    return _with_bound(row["ratio"], row["ratio_low"], row["ratio_high"], row["ratio_is"], DIGITS)


def _with_bound(ratio: float, low: float, high: float, bound: Bound, digits: int) -> str:
    """A ratio with its interval; of a bound the end that is sure, and nothing where none is."""
    value, least, most = (_number(number, digits) for number in (ratio, low, high))
    if bound == ">=":
        return f"≥{least}"
    if bound == "<=":
        return f"≤{most}"
    if bound == "?":
        return "?"
    return f"{value} ({least}-{most})"


def _number(value: float, digits: int) -> str:
    """A number in so many digits, or all of those before its point."""
    before = len(str(int(value)))
    return f"{value:.{max(digits - before, 0)}f}"


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
