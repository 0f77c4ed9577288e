"""The page of two studies that are compared: do they agree, scheme by scheme?

two results -> agreements -> Page, with all of each study below
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxinit.analysis.agreement import (
    Agreement,
    agreements,
    differences_of,
    how_many_agree,
    seeds_in_common,
)
from jaxinit.analysis.folder import quoted
from jaxinit.analysis.page import Block, Cell, Lines, Page, Section, Sign, Table
from jaxinit.analysis.report import DIGITS, with_bound
from jaxinit.analysis.store import Result
from jaxinit.analysis.study_page import blocks_of, parts_of, scheme_cells, warnings_of


def comparison_page(first: Result, second: Result, out: Path) -> Page:
    """Whether two studies agree, scheme by scheme; the page goes to `out`. Raises: BadStudy where
    they cannot be compared."""
    found = agreements(first, second)
    both = {"the first": first, "the second": second}
    warned = []
    for name, result in both.items():
        warned += [f"{name}: {line}" for line in warnings_of(parts_of(result))]
    warned += seeds_in_common(first, second)
    order = dict.fromkeys([*map(str, first.study.schemes), *map(str, second.study.schemes)])
    blocks: list[Block] = [_agreement_table(found, first, second)]
    changed = differences_of(first, second)
    if changed:
        blocks.append(Lines("Asked otherwise", changed))
    parts = [Section("Scheme by scheme", blocks)]
    for name, result in both.items():
        title = f"{name.capitalize()}: {result.folder}"
        parts.append(Section(title, blocks_of(parts_of(result)), folded=True))
    folders = f"{quoted(first.folder)} {quoted(second.folder)}"
    command = f"jaxinit compare {folders} --out {quoted(out)}"
    parts.append(Section("Once more", [Lines("", [command], command=True)]))
    return Page(
        title="Do two studies agree?",
        subtitle=f"{first.folder} and {second.folder}",
        answer=how_many_agree(found),
        sections=parts,
        warnings=warned,
        schemes=list(order),
    )


def _agreement_table(found: Sequence[Agreement], first: Result, second: Result) -> Table:
    rows, records = [], []
    epochs = [{row["scheme"]: row for row in r.summary["table"]} for r in (first, second)]
    signs: dict[bool | None, tuple[str, Sign]] = {
        True: ("agree", "good"),
        False: ("differ", "bad"),
        None: ("none converged", "open"),
    }
    for one in found:
        cells = [Cell(one.scheme, scheme=one.scheme)]
        record: dict[str, Any] = {"scheme": one.scheme}
        for name, by_scheme in zip(("first", "second"), epochs, strict=True):
            cells.append(scheme_cells(by_scheme[one.scheme])[2])
            record[f"epochs_{name}"] = by_scheme[one.scheme]["epochs"]
        cells.append(Cell(with_bound(*one.epochs, "=", DIGITS), one.epochs[0]))
        ratio = "-" if one.scheme != first.study.baseline else "baseline"
        if one.ratio is not None:
            ratio = with_bound(*one.ratio, "=", DIGITS)
        cells.append(Cell(ratio, None if one.ratio is None else one.ratio[0]))
        word, sign = signs[one.agree]
        cells.append(Cell(word, sign=sign))
        rows.append(cells)
        record |= dict(zip(("epochs", "epochs_low", "epochs_high"), one.epochs, strict=True))
        ratios = one.ratio or (None,) * 3
        record |= dict(zip(("ratio", "ratio_low", "ratio_high"), ratios, strict=True))
        records.append(record | {"agree": one.agree})
    columns = (
        "scheme",
        "epochs, first",
        "epochs, second",
        "epochs, first / second",
        "times fewer, first / second",
        "",
    )
    note = (
        "The ratio of the epochs, and that of how many times fewer they are than the baseline's, "
        "with intervals at 95 % over all schemes: a scheme agrees where each of them holds 1."
    )
    return Table("", columns, rows, note, frozenset(columns[1:5]), records)
