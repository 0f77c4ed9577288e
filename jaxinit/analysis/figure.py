"""What all figures share: a style that is quiet and readable in grey, and files that are written
whole."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")


def save(figure: "Figure", folder: Path, name: str) -> Path:
    """Write a figure as PNG and SVG in `folder`, and close it; the path of the PNG."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for format in FORMATS:
        path = folder / f"{name}.{format}"
        temporary = path.with_name(f".{path.name}")
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Glyph .* missing from font"
            )  # a name in another script shows boxes
            figure.savefig(temporary, format=format, dpi=150)
        temporary.replace(path)
        figure.set_layout_engine("none")  # it stays as the first drawing laid it out
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
