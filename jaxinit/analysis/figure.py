"""What all figures share: a style that is quiet and readable in grey, panels on a grid, and files
that are written whole."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
MARKS = ("o", "s", "^", "v", "D", "P", "X", "*")
LAST_GREY = 0.75
MOST_COLUMNS = 3  # of small multiples

Size = tuple[float, float]  # width and height in inches


def grid(
    rows: int,
    columns: int,
    panel: Size,
    margin: Size = (0.0, 0.0),
    *,
    sharex: Any = False,
    sharey: Any = False,
) -> tuple["Figure", NDArray[Any]]:
    """A figure of rows and columns of panels, `panels[row, column]`, in which no label is cut.

    Its size is that of all panels, and once a margin; axes are shared as matplotlib's `subplots`
    does.
    """
    import matplotlib.pyplot as plt

    size = (margin[0] + columns * panel[0], margin[1] + rows * panel[1])
    return plt.subplots(
        rows,
        columns,
        figsize=size,
        layout="constrained",
        squeeze=False,
        sharex=sharex,
        sharey=sharey,
    )


def small_multiples(
    count: int, panel: Size, margin: Size, least_width: float, *, shared: bool = False
) -> tuple["Figure", list["Axes"]]:
    """A figure of `count` panels in rows of at most three, on shared axes or each on its own.

    A single panel or two make the figure no narrower than `least_width`, which its text needs.
    """
    columns = min(MOST_COLUMNS, count)
    rows = -(-count // columns)
    width = max(margin[0], least_width - columns * panel[0])
    figure, panels = grid(rows, columns, panel, (width, margin[1]), sharex=shared, sharey=shared)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    return figure, list(panels.flat[:count])


def label_edges(
    panels: NDArray[Any], titles: Sequence[str], ylabels: Sequence[str], xlabel: str
) -> None:
    """Label a grid at its edges: a title above each column, labels left of each row and below."""
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(as_text(title), fontsize=9)
    for axes, label in zip(panels[:, 0], ylabels, strict=True):
        axes.set_ylabel(label)
    for axes in panels[-1]:
        axes.set_xlabel(xlabel)


def heading(figure: "Figure", text: str, size: float = 9) -> None:
    """Put text above all panels, from the left edge on."""
    figure.suptitle(text, fontsize=size, x=0.01, ha="left")


def legend(place: "Axes | Figure", lines: Mapping[str, Any], **options: Any) -> None:
    """A legend of lines by their names.

    Names are not given to the lines themselves, since matplotlib leaves out a label that begins
    with "_".
    """
    names = [as_text(name) for name in lines]
    place.legend(list(lines.values()), names, frameon=False, fontsize=7, **options)


def grey(k: int, count: int, lightest: float = LAST_GREY) -> str:
    """The color of line k of `count`: from black to `lightest`, where 1 is white."""
    return str(lightest * k / max(count - 1, 1))


def band(axes: "Axes", x: ArrayLike, low: ArrayLike, high: ArrayLike, color: str) -> None:
    """A transparent band about a line of the same color, for the range over seeds."""
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def save(figure: "Figure", folder: Path, name: str) -> Path:
    """Write a figure as PNG and SVG in `folder`, and close it; the path of the PNG."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for format in FORMATS:
        path = folder / f"{name}.{format}"
        temporary = path.with_name(f".{path.name}")
        with warnings.catch_warnings():
            # A name in another script shows boxes.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(temporary, format=format, dpi=150)
        temporary.replace(path)
        # The layout depends on the format; all files of a figure keep that of the first.
        figure.set_layout_engine("none")
    plt.close(figure)
    return folder / f"{name}.png"


def as_text(name: object) -> str:
    """A name as a figure shows it, where matplotlib would read what stands between two dollar signs
    as a formula."""
    return str(name).replace("$", r"\$")


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib without a display and with quiet axes, for the figures drawn inside."""
    import matplotlib

    settings: Any = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "jaxinit",
        "axes.axisbelow": True,
    }
    before = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        with matplotlib.rc_context(settings):
            yield
    finally:
        matplotlib.use(before)


@contextmanager
def saved_figure(
    folder: Path,
    name: str,
    title: str,
    *,
    size: Size,
    columns: int = 1,
    rows: int = 1,
    **options: Any,
) -> Iterator[Sequence["Axes"]]:
    """The panels of a figure in this style, row by row, to be drawn on; at the end it gets its
    title and is saved."""
    import matplotlib.pyplot as plt

    with style():
        figure, panels = plt.subplots(
            rows, columns, figsize=size, layout="constrained", squeeze=False, **options
        )
        yield panels.ravel().tolist()
        heading(figure, as_text(title))
        save(figure, folder, name)


def lines(axes: "Axes", x: Any, curves: Mapping[str, Any], **line: Any) -> None:
    """A line with marks for each curve, from black to grey, by its name in the legend.

    Shapes: x `[x]`; a curve `[x]`, or `[x, seed]`, which is drawn as its mean over seeds with their
    range as a band. `line` are matplotlib's settings for all lines.
    """
    x = np.asarray(x)
    shared: dict[str, Any] = {"markersize": 4, "linewidth": 1} | line
    for k, (name, curve) in enumerate(curves.items()):
        values = np.asarray(curve)
        color = grey(k, len(curves), lightest=0.6)
        marker = MARKS[k % len(MARKS)]
        mean = values.mean(1) if values.ndim == 2 else values
        axes.plot(x, mean, color=color, marker=marker, label=as_text(name), **shared)
        if values.ndim == 2:
            band(axes, x, values.min(1), values.max(1), color)


def tick_at(axes: "Axes", values: Sequence[float]) -> None:
    """Ticks at these values of x alone, as a logarithmic axis would not have them."""
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
