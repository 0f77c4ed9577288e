"""What all figures share: a color and a mark for each scheme, a style that is quiet and readable in
grey, panels on a grid, and files that are written whole."""

import base64
import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxinit.analysis import drawn
from jaxinit.analysis.folder import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FORMATS = ("png", "svg")
# Those of Okabe & Ito (2008), apart for the color-blind too: without yellow, which is lost on
# white, and with two dark ones of Tol's.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
    "#882255",
    "#332288",
    "#000000",
)
# Their number has no divisor in common with that of the colors, so that pairs of both last long.
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LAST_SHADE = 0.85  # of the map of layers, whose end is lost on white
MOST_COLUMNS = 3  # of small multiples
MOST_TICKS = 10
LETTER = 0.54  # the width of a letter on average, of its size

# Ticks in a decade of a logarithmic axis, from many to few: those are taken that fit.
STEPS = (
    (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9),
    (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 2, 5),
    (1,),
)

Size = tuple[float, float]  # width and height in inches
Look = dict[str, Any]  # how a line is drawn, as arguments of `plot`


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The color and the mark of every name, by its place in the list.

    The list is that of the study, and not of what a figure shows or in which order, so that a
    scheme looks the same in every figure. The first 90 all differ.
    """
    found = {}
    for k, name in enumerate(dict.fromkeys(names)):
        found[name] = {"color": COLORS[k % len(COLORS)], "marker": MARKS[k % len(MARKS)]}
    return found


def shade(k: int, count: int) -> str:
    """The color of layer k of `count`: from dark to light, in grey too."""
    import matplotlib
    from matplotlib.colors import to_hex

    return to_hex(matplotlib.colormaps["viridis"](LAST_SHADE * k / max(count - 1, 1)))


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
    """Put text above all panels, from the left edge on, in lines that fit."""
    letters = int(figure.get_figwidth() * 72 / (LETTER * size))
    wrapped = [textwrap.fill(line, letters) for line in text.split("\n")]
    figure.suptitle("\n".join(wrapped), fontsize=size, x=0.01, ha="left")


def name_panel(axes: "Axes", text: str, look: Look) -> None:
    """Put a name above a panel, from its left edge on, behind the mark of what it names."""
    from matplotlib.transforms import ScaledTranslation

    axes.set_title(as_text(text), fontsize=9, loc="left")
    before_title = ScaledTranslation(-8 / 72, 9 / 72, axes.figure.dpi_scale_trans)
    axes.scatter([0], [1], s=20, transform=axes.transAxes + before_title, clip_on=False, **look)


def legend(figure: "Figure | SubFigure", lines: Mapping[str, Any], title: str = "") -> None:
    """A legend of lines by their names below all panels, where it hides nothing, in as many columns
    as fit.

    Names are not given to the lines themselves, since matplotlib leaves out a label that begins
    with "_".
    """
    names = [as_text(name) for name in lines]
    size = 7
    widest = max(map(len, names), default=0) * size * LETTER + 5 * size  # with its line
    columns = int(figure.bbox.width / figure.dpi * 72 / widest)
    figure.legend(
        list(lines.values()),
        names,
        title=title,
        loc="outside lower center",
        ncols=min(max(columns, 1), 5),
        frameon=False,
        fontsize=size,
        title_fontsize=size,
    )


def band(
    axes: "Axes",
    x: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    color: str,
    label: str = "",
    **options: Any,
) -> None:
    """A transparent band behind all lines in the color of its own, for the range over seeds; no
    legend has its label, which is that of its line."""
    look: dict[str, Any] = {"color": color, "alpha": 0.12, "linewidth": 0, "zorder": 0.5}
    label = drawn.BAND + label if label else ""
    axes.fill_between(x, low, high, label=label, **look, **options)


def save(figure: "Figure", folder: Path, name: str) -> Path:
    """Write a figure as PNG and SVG in `folder`, its numbers beside them as CSV, and close it; the
    path of the PNG."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    try:
        if numbers := drawn.as_csv(figure):
            with replacing(folder / f"{name}.csv") as fresh:
                fresh.write_text(numbers, encoding="utf-8")
        for format in FORMATS:
            with replacing(folder / f"{name}.{format}") as fresh, warnings.catch_warnings():
                # A name in another script shows boxes.
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
                figure.savefig(fresh, format=format, dpi=150)
            # The layout depends on the format; all files of a figure keep that of the first.
            figure.set_layout_engine("none")
    finally:
        plt.close(figure)
    return folder / f"{name}.png"


def as_html(draw: Callable[[], "Figure"]) -> str:
    """A figure as an image inside a page; it is closed."""
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    with style():
        figure = draw()
        figure.savefig(content, format="png", dpi=100, bbox_inches="tight")
        plt.close(figure)
    return f'<img src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'


def as_text(name: object) -> str:
    """A name as a figure shows it, where matplotlib would read what stands between two dollar signs
    as a formula."""
    return str(name).replace("$", r"\$")


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib without a display and with quiet axes, for the figures drawn inside."""
    import matplotlib
    from cycler import cycler

    settings: Any = {
        "axes.prop_cycle": cycler(color=COLORS),
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


def lines(
    axes: "Axes", x: Any, curves: Mapping[str, Any], schemes: Iterable[str] = (), **line: Any
) -> None:
    """A line with marks for each curve, by its name in the legend.

    Shapes: x `[x]`; a curve `[x]`, or `[x, seed]`, which is drawn as its mean over seeds with their
    range as a band. Curves of `schemes`, a study's in its order, look as they do there. `line` are
    matplotlib's settings for all lines.
    """
    x = np.asarray(x)
    shared: dict[str, Any] = {"markersize": 4, "linewidth": 1} | line
    look_of = looks([*schemes, *curves])
    for name in curves:
        look = look_of[name]
        values = np.asarray(curves[name])
        mean = values.mean(1) if values.ndim == 2 else values
        axes.plot(x, mean, label=as_text(name), **look, **shared)
        if values.ndim == 2:
            band(axes, x, values.min(1), values.max(1), look["color"], label=as_text(name))


def tick_at(axes: "Axes", values: Sequence[float]) -> None:
    """Ticks at these values of x alone, as a logarithmic axis would not have them."""
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


def log_ticks(axes: "Axes") -> None:
    """Ticks of a logarithmic x axis between its limits, as many as do not touch each other."""
    low, high = axes.get_xlim()
    size = 8  # points of the labels, with a letter's room between them
    letters = axes.bbox.width / axes.figure.dpi * 72 / size / LETTER
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in STEPS:
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        width = sum(len(f"{tick:g}") + 1.5 for tick in ticks)
        if len(ticks) <= MOST_TICKS and width <= letters:
            break
    # Between two values of the finest steps there is none.
    tick_at(axes, ticks or [float(f"{limit:.3g}") for limit in (low, high)])
