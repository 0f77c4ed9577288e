"""The page of a coordinate check: which schemes pass, the slope of every signal, and their sizes.

coordinates.nc -> slopes, charts -> Page
"""

import math
from pathlib import Path

import numpy as np
import xarray as xr

from jaxinit.analysis import store
from jaxinit.analysis.coordinates import (
    KIND,
    KINDS,
    SIZES,
    Slope,
    compared,
    kinds_of,
    slopes,
    verdict,
)
from jaxinit.analysis.curves import over_seeds
from jaxinit.analysis.folder import Folder
from jaxinit.analysis.page import Block, Cell, Chart, Facts, Lines, Page, Section, Sign, Table
from jaxinit.analysis.study_page import OF_SIZES, SIZE, once_more
from jaxinit.study import BadStudy

MOST_DRAWN = 8  # signals of a kind


def coordinates_page(path: Path) -> Page:
    """The page of a coordinate check's folder. Raises: BadStudy where its sizes are missing or
    damaged."""
    folder = Folder(path)
    held = folder.manifest()
    if held is None or held.kind != KIND:
        raise BadStudy(f"{path} holds no {KIND}; give the folder that `jaxinit coordcheck` named")
    sizes = store.read_records(folder, SIZES)
    rows = slopes(sizes)
    schemes = [str(scheme) for scheme in sizes.scheme.values]
    about = sizes.attrs
    facts = {name.replace("_", " "): str(value) for name, value in about.items()}
    facts |= {"seeds": str(sizes.sizes["seed"])}
    facts |= {f"{about['axis']}s": ", ".join(map(str, sizes[about["axis"]].values))}
    asked, axis = held.question, about["axis"]
    own = {f"{axis}s": tuple(asked[axis]), "steps": asked["steps"], "rate": asked["rate"]}
    again = once_more("coordcheck", asked["study"], **own)
    return Page(
        title=f"Sizes of signals against {about['axis']}: {about['model']}, {about['optimizer']}",
        subtitle=f"{path}; written {held.written}",
        answer=f"{'; '.join(f'{scheme} {verdict(rows, scheme)}' for scheme in schemes)}.",
        sections=[
            Section("Slopes", [_slopes_table(sorted(rows, key=lambda row: row.passed))]),
            Section("Sizes", _charts(sizes)),
            Section("The question", [Facts("", facts), *again]),
        ],
        schemes=schemes,
    )


def _slopes_table(rows: list[Slope]) -> Table:
    cells = []
    for row in rows:
        sign: Sign = "good" if row.passed else "bad"
        slope = "" if math.isnan(row.slope) else f"{row.slope:+.2f}"
        interval = "" if math.isnan(row.low) else f"{row.low:+.2f} to {row.high:+.2f}"
        cells.append(
            [
                Cell(row.scheme, scheme=row.scheme),
                Cell(row.parameter),
                Cell(row.kind),
                Cell(slope, row.slope),
                Cell(interval, row.low),
                Cell("passes" if row.passed else "fails", sign=sign),
                Cell(row.note),
            ]
        )
    columns = ("scheme", "signal", "kind", "slope", "95 %", "verdict", "note")
    note = (
        "Of the logarithm of a size against that of the width, or depth. What is flat passes, and "
        "what may fall: scores and answers before training, queries, gradients of keys."
    )
    return Table(
        "",
        columns,
        cells,
        note=note,
        numeric=frozenset({"slope", "95 %"}),
        records=[row._asdict() for row in rows],
    )


def _charts(sizes: xr.Dataset) -> list[Block]:
    """Sizes against width or depth as they are compared, a chart for each signal, of every kind
    some from the first to the last."""
    axis = sizes.attrs["axis"]
    x = sizes[axis].values.astype(float)
    of_role = dict(zip(map(str, sizes.parameter.values), sizes.role.values.tolist(), strict=True))
    blocks: list[Block] = []
    left_out = 0
    for kind, label in KINDS.items():
        names = [name for name, role in of_role.items() if kind in kinds_of(role)]
        chosen = np.linspace(0, len(names) - 1, min(len(names), MOST_DRAWN)).round().astype(int)
        for name in (names[place] for place in chosen):
            by_scheme = {}
            for scheme in map(str, sizes.scheme.values):
                signal = sizes.sel(scheme=scheme, parameter=name).transpose(axis, "seed")
                size = compared(signal, kind)
                if np.isfinite(size).all() and (size > 0).all():
                    by_scheme[scheme] = over_seeds(x, size.T)
            left_out += sizes.sizes["scheme"] - len(by_scheme)
            if by_scheme:
                title = f"{name}: {label}"
                blocks.append(Chart(title, axis, SIZE, by_scheme, x_log=True, y_log=True))
    notes = [
        OF_SIZES,
        f"At most {MOST_DRAWN} signals of a kind; the table has all.",
    ]
    if axis == "width":
        notes.append("Gradients are times the width, but in the readout.")
    if left_out:
        notes.append(f"{left_out} curves are not drawn: their sizes are 0 or not finite somewhere.")
    return [*blocks, Lines("", notes)]
