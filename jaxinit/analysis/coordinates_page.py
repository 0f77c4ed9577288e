"""The page of a coordinate check: which schemes pass, the slope of every signal, and their sizes.

coordinates.nc -> slopes, charts -> Page
"""

import math
from pathlib import Path

import numpy as np
import xarray as xr

from jaxinit.analysis import store
from jaxinit.analysis.coordinates import COORDINATES, KIND, KINDS, Slope, passes, slopes
from jaxinit.analysis.curves import Curve
from jaxinit.analysis.folder import Folder
from jaxinit.analysis.page import Block, Cell, Chart, Facts, Lines, Page, Section, Sign, Table
from jaxinit.study import BadStudy

IN_WORDS = {
    "forward": "size after the last step",
    "update": "size of what the steps have changed",
    "gradient": "size of the gradient before training",
}
MOST_DRAWN = 8  # signals of a kind


def coordinates_page(path: Path) -> Page:
    """The page of a coordinate check's folder. Raises: BadStudy where its sizes are missing or
    damaged."""
    folder = Folder(path)
    held = folder.manifest()
    if held is None or held.kind != KIND:
        raise BadStudy(f"{path} holds no {KIND}; give the folder that `jaxinit coordcheck` named")
    sizes = store.read_records(folder, COORDINATES)
    rows = slopes(sizes)
    schemes = [str(scheme) for scheme in sizes.scheme.values]
    verdicts = {scheme: "passes" if passes(rows, scheme) else "fails" for scheme in schemes}
    about = sizes.attrs
    facts = {name.replace("_", " "): str(value) for name, value in about.items()}
    facts |= {"seeds": str(sizes.sizes["seed"])}
    facts |= {f"{about['axis']}s": ", ".join(map(str, sizes[about["axis"]].values))}
    return Page(
        title=f"Sizes of signals against {about['axis']}: {about['model']}, {about['optimizer']}",
        subtitle=f"{path}; written {held.written}",
        answer=f"{'; '.join(f'{scheme} {verdict}' for scheme, verdict in verdicts.items())}.",
        sections=[
            Section("Slopes", [_slopes_table(rows)]),
            Section("Sizes", _charts(sizes)),
            Section("The question", [Facts("", facts)]),
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
                Cell(interval),
                Cell("passes" if row.passed else "fails", sign=sign),
                Cell(row.note),
            ]
        )
    columns = ("scheme", "signal", "kind", "slope", "95 %", "verdict", "note")
    note = "Of the logarithm of a size against that of the width, or depth; passes where flat."
    return Table(
        "",
        columns,
        cells,
        note=note,
        numeric=frozenset({"slope", "95 %"}),
        records=[row._asdict() for row in rows],
    )


def _charts(sizes: xr.Dataset) -> list[Block]:
    """Sizes against width or depth, of some signals from the first to the last, a chart for each
    kind of one."""
    names = [str(name) for name in sizes.parameter.values]
    chosen = np.linspace(0, len(names) - 1, min(len(names), MOST_DRAWN)).round().astype(int)
    drawn = [names[place] for place in dict.fromkeys(chosen.tolist())]
    axis = sizes.attrs["axis"]
    blocks: list[Block] = []
    for kind in KINDS:
        for name in drawn:
            by_scheme = {}
            for scheme in map(str, sizes.scheme.values):
                size = sizes[kind].sel(scheme=scheme, parameter=name).transpose("seed", axis).values
                if np.isfinite(size).all() and (size > 0).all():  # else no logarithm is one
                    x = sizes[axis].values.astype(float)
                    by_scheme[scheme] = Curve(x, size.mean(0), size.min(0), size.max(0))
            if by_scheme:
                title = f"{name}: {IN_WORDS[kind]}"
                blocks.append(
                    Chart(title, axis, "root mean square", by_scheme, x_log=True, y_log=True)
                )
    note = "Mean over seeds; band: their range."
    if len(drawn) < len(names):
        note += f" {len(drawn)} of {len(names)} signals; the table has all."
    return [*blocks, Lines("", [note])]
