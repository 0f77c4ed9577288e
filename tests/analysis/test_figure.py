"""Panels, labels and files of figures."""

from pathlib import Path

import numpy as np
import pytest

from jaxinit.analysis.figure import (
    grey,
    grid,
    heading,
    label_edges,
    legend,
    lines,
    save,
    saved_figure,
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


def test_a_grid_grows_with_its_panels_and_is_labelled_at_its_edges() -> None:
    import matplotlib.pyplot as plt

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
    plt.close(figure)


@pytest.mark.parametrize(
    ("count", "shape", "hidden"), [(1, (1, 1), 0), (2, (1, 2), 0), (4, (2, 3), 2)]
)
def test_small_multiples_fill_rows_of_three(
    count: int, shape: tuple[int, int], hidden: int
) -> None:
    import matplotlib.pyplot as plt

    with style():
        figure, panels = small_multiples(
            count, panel=(2.0, 1.0), margin=(0.5, 0.0), least_width=5.0
        )
    assert len(panels) == count
    assert len(figure.axes) == shape[0] * shape[1]
    assert sum(not axes.get_visible() for axes in figure.axes) == hidden
    width = max(0.5 + 2.0 * shape[1], 5.0)
    assert tuple(figure.get_size_inches()) == (width, shape[0])
    plt.close(figure)


def test_a_legend_has_every_name_as_it_is() -> None:
    import matplotlib.pyplot as plt

    with style():
        figure, panels = grid(1, 1, panel=(3.0, 2.0))
        lines = {name: panels[0, 0].plot([0, 1])[0] for name in ("_hidden", "$x$")}
        legend(panels[0, 0], lines)
        shown = panels[0, 0].get_legend().get_texts()
    assert [text.get_text() for text in shown] == ["_hidden", r"\$x\$"]
    plt.close(figure)


def test_lines_go_from_black_to_light_grey() -> None:
    assert [grey(k, 3) for k in range(3)] == ["0.0", "0.375", "0.75"]
    assert grey(0, 1) == "0.0"
    assert grey(1, 2, lightest=0.6) == "0.6"


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
