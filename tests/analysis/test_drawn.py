"""The numbers of a figure are those that it shows, by the names that it gives them."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxinit.analysis import drawn
from jaxinit.analysis.figure import band, grid, legend, lines, looks, name_panel, save, style

X = np.array([1.0, 2.0, 4.0])
SEEDS = np.array([[1.0, 3.0], [2.0, 4.0], [np.nan, np.nan]])  # [x, seed]


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with style():
        yield


def rows(figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(drawn.as_csv(figure))))


def points(found: list[dict[str, str]], curve: str, *names: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in names) for row in found if row["curve"] == curve]


def test_a_line_gives_its_points_and_its_band_their_range() -> None:
    figure, ((axes,),) = grid(1, 1, (3, 2))
    lines(axes, X, {"a": SEEDS, "$b$": X**2})
    axes.set(title="of two", xlabel="rate", ylabel="epochs")
    found = rows(figure)
    of_line = [("1", "2", "", ""), ("2", "3", "", ""), ("4", "", "", "")]
    of_band = [("1", "", "1", "3"), ("2", "", "2", "4")]
    assert points(found, "a", "x", "y", "low", "high") == of_line + of_band
    assert points(found, "$b$", "x", "y") == [("1", "1"), ("2", "4"), ("4", "16")]
    assert {(row["panel"], row["title"], row["across"], row["up"]) for row in found} == {
        ("1", "of two", "rate", "epochs")
    }


def test_a_band_in_steps_keeps_its_edges() -> None:
    figure, ((axes,),) = grid(1, 1, (3, 2))
    band(axes, X, [1, 2, 3], [4, 5, 6], "#000000", step="post", label="a")
    edges = [
        (float(x), float(low), float(high))
        for x, low, high in points(rows(figure), "a", "x", "low", "high")
    ]
    assert set(edges) == {(1, 1, 4), (2, 1, 4), (2, 2, 5), (4, 2, 5), (4, 3, 6)}


def test_lines_without_a_name_have_that_of_the_legend() -> None:
    figure, panels = grid(2, 2, (3, 2), sharex="col")
    look_of = looks(["_a", "b"])
    for axes in panels.flat:
        drawn_lines = {name: axes.plot(X, X, **look)[0] for name, look in look_of.items()}
        band(axes, X, X, X, look_of["b"]["color"])
    panels[1, 0].set(xlabel="step", ylabel="size")
    panels[0, 1].set_title("second")
    name_panel(panels[1, 0], "lower row", look_of["b"])
    legend(figure, drawn_lines)
    found = rows(figure)
    assert [row["curve"] for row in found if row["y"]] == (["_a"] * 3 + ["b"] * 3) * 4
    assert {row["curve"] for row in found if row["low"]} == {"b"}
    titles = {row["panel"]: row["title"] for row in found}
    assert titles == {"1": "", "2": "second", "3": "lower row", "4": "second, lower row"}
    across = {row["panel"]: row["across"] for row in found}
    assert across == {"1": "step", "2": "", "3": "step", "4": ""}


def test_lines_across_have_one_coordinate_and_those_of_elsewhere_none() -> None:
    figure, ((axes,),) = grid(1, 1, (3, 2))
    axes.axhline(0.5, label="target")
    axes.axvline(2, label="rate")
    axes.plot(X, X, label=drawn.ELSEWHERE)
    found = rows(figure)
    assert [(row["curve"], row["x"], row["y"]) for row in found] == [
        ("target", "", "0.5"),
        ("rate", "2", ""),
    ]


def test_error_bars_give_their_ends_and_contours_nothing() -> None:
    figure, ((axes,),) = grid(1, 1, (3, 2))
    axes.errorbar([1, 2], [3.0, 5.0], yerr=[1.0, 0.5], capsize=2, label="measured")
    axes.contourf(np.arange(9.0).reshape(3, 3))
    found = rows(figure)
    assert points(found, "measured", "x", "y", "low", "high") == [
        ("1", "3", "2", "4"),
        ("2", "5", "4.5", "5.5"),
    ]
    assert len(found) == 2


def test_places_that_have_names_are_written_by_them() -> None:
    figure, ((axes,),) = grid(1, 1, (3, 2))
    axes.plot([10, 20.3], [0, 1], label="mean")
    axes.set_yticks([0, 1], ["orthogonal", "he_normal"])
    axes.set_xticks([10, 20.3], ["1e1", "20"])
    found = points(rows(figure), "mean", "x", "y")
    assert found == [("10", "orthogonal"), ("20.3", "he_normal")]
    axes.plot([10.2, 20.1], [0.5, 1.1], label="beside")
    axes.set_xticks([10, 20.3], ["1.5", "4"])
    assert points(rows(figure), "mean", "x") == [("1.5",), ("4",)]
    assert points(rows(figure), "beside", "x", "y") == [("1.5", "0.5"), ("4", "he_normal")]


@pytest.mark.parametrize("kind", ["image", "mesh"])
def test_a_map_gives_its_cells(kind: str) -> None:
    figure, ((axes,),) = grid(1, 1, (3, 2))
    values = np.arange(6.0).reshape(2, 3)
    if kind == "image":
        axes.imshow(values)
    else:
        mesh = axes.pcolormesh([-0.5, 0.5, 1.5, 2.5], [-0.5, 0.5, 1.5], values)
        figure.colorbar(mesh, ax=axes)
    found = [(row["x"], row["y"], row["value"]) for row in rows(figure)]
    assert found == [(f"{x}", f"{y}", f"{3 * y + x}") for y in range(2) for x in range(3)]


def test_a_figure_is_saved_with_its_numbers_and_a_picture_without(tmp_path: Path) -> None:
    figure, ((left, right),) = grid(1, 2, (3, 2))
    left.imshow(np.zeros((4, 4)))
    left.axis("off")
    right.plot(X, X, label="a")
    save(figure, tmp_path, "both")
    assert (tmp_path / "both.csv").read_text().count("\n") == 4
    picture, ((axes,),) = grid(1, 1, (3, 2))
    axes.imshow(np.zeros((4, 4)))
    axes.axis("off")
    save(picture, tmp_path, "picture")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "both.csv",
        "both.png",
        "both.svg",
        "picture.png",
        "picture.svg",
    ]
