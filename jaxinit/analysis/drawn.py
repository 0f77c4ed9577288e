"""The numbers behind a figure, read off what was drawn: lines, bands, maps.

Figure -> comma-separated values, a row for each point
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

COLUMNS = ("panel", "title", "curve", "across", "x", "up", "y", "low", "high", "value")
ELSEWHERE = "_elsewhere"  # the label of what another panel shows as its own, or of no meaning
BAND = "_band of "  # before the label of a band: what begins with _ is in no legend
UNNAMED = re.compile(r"_(child|container)\d+|_nolegend_|")  # labels that Matplotlib gives
BESIDE = 0.25  # units of an axis with names, whose places are 1 apart or more: so near is the same
COLORBAR = "<colorbar>"  # the label that Matplotlib gives its axes
ROUNDED = 0.06  # of a number, at most, between a tick and its label

Row: TypeAlias = dict[str, Any]
Look: TypeAlias = tuple[str, str, str]  # color, mark and style: by these a legend names a line


def as_csv(figure: "Figure") -> str:
    """The numbers that a figure shows, as CSV; empty where it shows none.

    A row for each point of a line (`x`, `y`; of error bars also `low` and `high`), each place of a
    band (`x`, `low`, `high`) and each cell of a map (`x`, `y`, `value`); `across` and `up` are the
    labels of the axes. A line across the whole panel has a `y` alone, or an `x`. Panels are
    numbered from the first row on.
    Assumes two axes; surfaces, contours, patches, `scatter`, texts, images without axes and lines
    labelled `ELSEWHERE` are left out.
    """
    rows = []
    named = _legends(figure)
    shown = []
    for axes in figure.axes:
        if axes.get_visible() and axes.axison and axes.get_label() != COLORBAR:
            shown.append(axes)
    for number, axes in enumerate(shown, 1):
        label = {"title": _title(axes, shown), "across": _label(axes, "x"), "up": _label(axes, "y")}
        label = {name: _plain(text) for name, text in label.items()}
        rows += [{"panel": number} | label | row for row in _of_panel(axes, named)]
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _of_panel(axes: "Axes", named: dict[Look, str]) -> Iterator[Row]:
    from matplotlib.container import ErrorbarContainer

    across, up = _words(axes.xaxis), _words(axes.yaxis)
    name_of_color = {color: name for (color, _, _), name in reversed(named.items())}
    of_bars = set()
    for bars in axes.containers:
        if isinstance(bars, ErrorbarContainer):
            of_bars |= {bars.lines[0], *bars.lines[1]}
            for x, y, low, high in _with_errors(bars):
                ends = {"low": _number(low), "high": _number(high)}
                yield {"curve": _own_name(bars), "x": across(x), "y": up(y)} | ends
    for line in axes.lines:
        if line in of_bars or line.get_label() == ELSEWHERE:
            continue
        curve = _own_name(line) or named.get(_look(line), "")
        for x, y in _points(axes, line):
            yield {"curve": curve, "x": across(x), "y": up(y)}
    for filled in axes.collections:
        if hasattr(filled, "get_coordinates"):
            yield from _of_mesh(filled, across, up)
        elif _is_band(filled):
            name = _own_name(filled) or name_of_color.get(_color(filled.get_facecolor()[0]), "")
            for place in filled.get_paths():
                for x, low, high in _edges(place.vertices):
                    ends = {"low": _number(low), "high": _number(high)}
                    yield {"curve": name, "x": across(x)} | ends
    for image in axes.images:
        values = np.ma.filled(np.ma.asarray(image.get_array()), np.nan)
        if values.ndim == 2:
            for (y, x), value in np.ndenumerate(values):
                yield {"x": across(x), "y": up(y), "value": _number(value)}


def _own_name(artist: "Artist | ErrorbarContainer") -> str:
    """The label that an artist was given, or none where it has that of Matplotlib."""
    label = str(artist.get_label())
    return "" if UNNAMED.fullmatch(label) else _plain(label.removeprefix(BAND))


def _points(axes: "Axes", line: "Line2D") -> Iterator[tuple[float, float]]:
    """The points of a line in the units of its axes: of one across a panel (`axhline`) a single
    one, without the coordinate that it has none of."""
    x, y = (np.asarray(values, float).tolist() for values in line.get_data(orig=False))
    if line.get_transform() == axes.get_yaxis_transform():
        yield np.nan, y[0]
    elif line.get_transform() == axes.get_xaxis_transform():
        yield x[0], np.nan
    else:
        yield from zip(x, y, strict=True)


def _with_errors(bars: "ErrorbarContainer") -> Iterator[tuple[float, float, float, float]]:
    """x, y and the ends of the upright bars of `errorbar`."""
    points, _, (segments, *_) = bars.lines
    x, y = (np.asarray(values, float) for values in points.get_data(orig=False))
    for place, value, ((_, low), (_, high)) in zip(x, y, segments.get_segments(), strict=True):
        yield float(place), float(value), float(low), float(high)


def _is_band(filled: Any) -> bool:
    from matplotlib.collections import PolyCollection

    # The exact class, or the one that newer releases of Matplotlib have for `fill_between`.
    return type(filled).__name__ in (PolyCollection.__name__, "FillBetweenPolyCollection")


def _edges(vertices: Any) -> Iterator[tuple[float, float, float]]:
    """x, lower and upper edge of what `fill_between` drew.

    Its outline has a corner, one edge, a corner, the other edge backwards, and the first again.
    """
    count = (len(vertices) - 3) // 2
    one, other = vertices[1 : count + 1], vertices[count + 2 : 2 * count + 2][::-1]
    for (x, a), (_, b) in zip(one, other, strict=True):
        yield float(x), float(min(a, b)), float(max(a, b))


def _of_mesh(mesh: Any, across: Callable, up: Callable) -> Iterator[Row]:
    """The cells of `pcolormesh`, at their middles."""
    corners = mesh.get_coordinates()
    middles = (corners[1:, 1:] + corners[:-1, :-1]) / 2
    values = np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan).reshape(middles.shape[:2])
    for place, value in np.ndenumerate(values):
        x, y = middles[place]
        yield {"x": across(x), "y": up(y), "value": _number(value)}


def _words(axis: "Axis") -> Callable[[float], str]:
    """How a coordinate is written: by its tick's label where that is a name, as of schemes, or
    another number, as of values that stand side by side."""
    from matplotlib.ticker import FixedLocator

    names = {}
    if isinstance(axis.get_major_locator(), FixedLocator):
        labels = [_plain(tick.get_text()) for tick in axis.get_ticklabels()]
        for place, label in zip(axis.get_majorticklocs(), labels, strict=False):
            if label and not _says_place(label, float(place)):
                names[float(place)] = label
    places = np.array([*names])

    def written(value: float) -> str:
        if names and not np.isnan(value):
            distances = np.abs(places - value)
            # Marks may stand side by side around a tick.
            if distances.min() < BESIDE:
                return names[places[distances.argmin()].item()]
        return _number(value)

    return written


def _says_place(label: str, place: float) -> bool:
    """Whether a tick's label is its place, in fewer digits."""
    try:
        return math.isclose(float(label), place, rel_tol=ROUNDED)
    except ValueError:
        return False


def _number(value: float) -> str:
    """Six digits; nothing of what is no number."""
    return "" if np.isnan(value) else f"{value:.6g}"


def _legends(figure: "Figure") -> dict[Look, str]:
    """The names of all legends by how their lines look; the first that has a look names it."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    named: dict[Look, str] = {}
    for legend in filter(None, legends):
        for look, name in _entries(legend):
            named.setdefault(look, name)
    return named


def _entries(legend: "Legend") -> Iterable[tuple[Look, str]]:
    from matplotlib.lines import Line2D

    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        if isinstance(handle, Line2D):
            yield _look(handle), _plain(text.get_text())


def _look(line: "Line2D") -> Look:
    return _color(line.get_color()), str(line.get_marker()), str(line.get_linestyle())


def _color(color: Any) -> str:
    from matplotlib.colors import to_hex

    return to_hex(color)


def _title(axes: "Axes", shown: Sequence["Axes"]) -> str:
    """What is above a panel: in a grid that may stand above its column, or above the first panel of
    its row."""
    own = _above(axes)
    place = axes.get_subplotspec()
    if own or place is None:
        return own
    titles = []
    for other in shown:
        spec = other.get_subplotspec()
        tops_column = spec and spec.is_first_row() and spec.colspan == place.colspan
        begins_row = spec and spec.is_first_col() and spec.rowspan == place.rowspan
        if tops_column or begins_row:
            titles.append(_above(other))
    return ", ".join(filter(None, titles))


def _above(axes: "Axes") -> str:
    return axes.get_title() or axes.get_title(loc="left")


def _label(axes: "Axes", name: str) -> str:
    """The label of an axis: of panels in a grid that of the edge, or of the figure."""
    label = getattr(axes, f"get_{name}label")()
    if label:
        return label
    for other in getattr(axes, f"get_shared_{name}_axes")().get_siblings(axes):
        if label := getattr(other, f"get_{name}label")():
            return label
    return getattr(axes.figure, f"get_sup{name}label")()


def _plain(text: str) -> str:
    """A text in one line, with the dollar signs that a figure escapes."""
    return text.replace(r"\$", "$").replace("\n", " ")
