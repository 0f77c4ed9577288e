"""Panels, labels and files of figures."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jaxinit.analysis.figure import (
    COLORS,
    LAST_SHADE,
    grid,
    heading,
    label_edges,
    legend,
    lines,
    log_ticks,
    looks,
    name_panel,
    save,
    saved_figure,
    shade,
    small_multiples,
    style,
    tick_at,
)


def test_two_formats_are_written_whole_and_the_backend_is_put_back(tmp_path: Path) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    with style():
        figure, _ = plt.subplots()
        path = save(figure, tmp_path / "figures", "one")
    assert matplotlib.get_backend() == before
    assert path == tmp_path / "figures" / "one.png"
    assert sorted(file.name for file in path.parent.iterdir()) == ["one.png", "one.svg"]


def test_a_legend_names_lines_once_and_no_bands() -> None:
    with style():
        _, panels = grid(1, 1, panel=(3.0, 2.0))
        axes = panels[0, 0]
        lines(axes, [1, 2], {"a": np.array([[1.0, 2.0], [2.0, 3.0]]), "b": np.ones((2, 2))})
        legend_of_axes = axes.legend()
    assert [text.get_text() for text in legend_of_axes.get_texts()] == ["a", "b"]


def test_what_cannot_be_written_leaves_the_figure_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    def full(self: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    with style():
        figure, _ = plt.subplots()
        path = save(figure, tmp_path, "one")
        before = path.read_bytes()
        monkeypatch.setattr(Figure, "savefig", full)
        with pytest.raises(OSError, match="No space left"):
            save(plt.figure(), tmp_path, "one")
    assert not plt.get_fignums()
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.png", "one.svg"]


def test_a_grid_grows_with_its_panels_and_is_labelled_at_its_edges() -> None:
    with style():
        figure, panels = grid(2, 3, panel=(2.0, 1.5), margin=(1.0, 0.5))
        label_edges(panels, ["a", "$b$", "c"], ["upper", "lower"], "x")
        heading(figure, "above")
    assert panels.shape == (2, 3)
    assert tuple(figure.get_size_inches()) == (7.0, 3.5)
    assert [axes.get_title() for axes in panels[0]] == ["a", r"\$b\$", "c"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["upper", "lower"]
    assert [axes.get_xlabel() for axes in panels[1]] == ["x"] * 3
    assert not panels[0, 0].get_xlabel()
    assert figure.get_suptitle() == "above"


@pytest.mark.parametrize(
    ("count", "shape", "hidden"), [(1, (1, 1), 0), (2, (1, 2), 0), (4, (2, 3), 2)]
)
def test_small_multiples_fill_rows_of_three(
    count: int, shape: tuple[int, int], hidden: int
) -> None:
    with style():
        figure, panels = small_multiples(
            count, panel=(2.0, 1.0), margin=(0.5, 0.0), least_width=5.0
        )
    assert len(panels) == count
    assert len(figure.axes) == shape[0] * shape[1]
    assert sum(not axes.get_visible() for axes in figure.axes) == hidden
    width = max(0.5 + 2.0 * shape[1], 5.0)
    assert tuple(figure.get_size_inches()) == (width, shape[0])


def test_a_legend_has_every_name_as_it_is() -> None:
    with style():
        figure, panels = grid(1, 1, panel=(3.0, 2.0))
        lines = {name: panels[0, 0].plot([0, 1])[0] for name in ("_hidden", "$x$")}
        legend(figure, lines)
        shown = figure.legends[0].get_texts()
    assert [text.get_text() for text in shown] == ["_hidden", r"\$x\$"]


# From linear RGB, how the color-blind see it: Machado, Oliveira & Fernandes (2009), severity 1.
SEEN_BY = {
    "everyone": np.eye(3),
    "protanopes": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopes": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
# And to Oklab, in which distances are those that are seen: Ottosson (2020).
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_nine_colors_are_apart_for_all_eyes_and_seen_on_white(eyes: str) -> None:
    from matplotlib.colors import to_rgb

    rgb = np.array([to_rgb(color) for color in COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(SEEN_BY[eyes]), 0, 1)
    oklab = np.cbrt(seen @ np.transpose(TO_CONES)) @ np.transpose(TO_OKLAB)
    distances = np.linalg.norm(oklab[:, None] - oklab, axis=-1)[np.triu_indices(len(COLORS), 1)]
    assert len(COLORS) == 9
    assert distances.min() > 0.07  # the eight of Okabe & Ito: 0.076
    assert oklab[:, 0].max() < 0.8


def test_a_name_keeps_its_look_and_ninety_names_differ() -> None:
    names = [f"scheme {k}" for k in range(90)]
    many = looks(names)
    assert len({tuple(look.values()) for look in many.values()}) == 90
    first_nine = list(many.values())[:9]
    assert all(len({look[part] for look in first_nine}) == 9 for part in ("color", "marker"))
    assert looks(names[:2]) == {name: many[name] for name in names[:2]}
    assert looks(["a", "b", "a"]) == looks(["a", "b"])


def test_layers_go_from_dark_to_light_in_grey_too() -> None:
    from matplotlib.colors import to_rgb

    greys = [np.dot(to_rgb(shade(k, 6)), (0.299, 0.587, 0.114)) for k in range(6)]
    assert np.all(np.diff(greys) > 0.05)
    assert greys[-1] < LAST_SHADE
    assert shade(0, 1) == shade(0, 6)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (2.1, 2.9, ["2.2", "2.5", "2.8"]),
        (7.052, 7.948, ["7.05", "7.95"]),
        (1.9, 21.0, ["2", "5", "10", "20"]),
        (1e-4, 10.0, ["0.0001", "0.001", "0.01", "0.1", "1", "10"]),
    ],
)
def test_ticks_of_a_logarithmic_axis_do_not_collide(
    low: float, high: float, ticks: list[str]
) -> None:
    with style():
        figure, panels = grid(1, 1, panel=(3.2, 1.5))
        axes = panels[0, 0]
        axes.set(xscale="log", xlim=(low, high))
        log_ticks(axes)
        figure.draw_without_rendering()
    labels = axes.get_xticklabels()
    shown = [label.get_text() for label in labels]
    assert set(ticks) <= set(shown)
    assert not axes.get_xticks(minor=True).size
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_heading_is_broken_where_the_figure_ends() -> None:
    with style():
        figure, panels = grid(1, 1, panel=(4.0, 2.0))
        heading(figure, "title\n" + "a word or two " * 20)
        name_panel(panels[0, 0], "$a$", looks(["a"])["a"])
        figure.draw_without_rendering()
        title = figure.texts[0].get_window_extent()
    assert figure.get_suptitle().startswith("title\na word")
    assert title.x1 < figure.bbox.x1
    assert panels[0, 0].get_title(loc="left") == r"\$a\$"


def test_a_saved_figure_has_its_panels_its_title_and_a_line_for_each_curve(tmp_path: Path) -> None:
    x = (1, 10, 100)
    curves = {"one seed": [1.0, 2.0, 3.0], "two seeds": np.asarray([[0, 2], [1, 3], [2, 4]])}
    with saved_figure(tmp_path, "two", "A title", size=(4, 2), columns=2) as (left, right):
        left.set_xscale("log")
        lines(left, x, curves)
        tick_at(left, x)
        labels = [tick.get_text() for tick in left.get_xticklabels()]
    assert (tmp_path / "two.png").exists()
    assert left.figure is right.figure
    assert left.figure.get_suptitle() == "A title"
    assert [line.get_label() for line in left.lines] == list(curves)
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [1, 2, 3])
    assert len(left.collections) == 1  # the band of the curve with seeds
    assert labels == ["1", "10", "100"]
