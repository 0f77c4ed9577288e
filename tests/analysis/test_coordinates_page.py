"""The page of a coordinate check says which schemes pass, and has every slope."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pages import Read, asks_for_nothing

from jaxinit.analysis import store
from jaxinit.analysis.coordinates import KIND, KINDS, SIZES
from jaxinit.analysis.coordinates_page import coordinates_page
from jaxinit.analysis.page import rendered
from jaxinit.study import ASKED, BadStudy

WIDTHS = np.array([64, 128, 256])
ATTRS = {"model": "mlp", "optimizer": "adam", "axis": "width", "steps": 10, "rounding": 1e-5}


def sizes() -> xr.Dataset:
    """Of a scheme whose sizes stay, and of one whose sizes grow as the width."""
    axes = ("width", "scheme", "seed", "parameter")
    growth = np.stack([np.ones(3), WIDTHS / 64], axis=1)[:, :, None, None]
    all_of = growth * np.ones((3, 2, 2, 1))
    variables: Any = dict.fromkeys(KINDS, (axes, all_of))
    variables["gradient"] = (axes, all_of / WIDTHS[:, None, None, None])
    coords = {
        "width": WIDTHS,
        "scheme": ["<b>flat</b>", "grows"],
        "parameter": ["w"],
        "role": ("parameter", ["hidden"]),
    }
    return xr.Dataset(variables, coords, ATTRS)


def test_which_pass_and_by_which_slopes(tmp_path: Path) -> None:
    asked = {"width": WIDTHS.tolist(), "steps": 10, "rate": 0.001}
    question = {"study": ASKED["coordcheck"].plain(), **asked}
    store.write_answer(tmp_path / "c", KIND, question, {SIZES: store.netcdf(sizes())})
    read = Read(rendered(coordinates_page(tmp_path / "c")))
    assert asks_for_nothing(read)
    assert "<b>flat</b> passes; grows fails in 3 of 3 slopes." in read.texts["p"]
    slopes = [round(float(row["slope"]), 6) + 0.0 for row in read.records()]
    assert slopes == [1, 1, 1, 0, 0, 0], "what fails comes first"
    assert [row["passed"] for row in read.records()] == ["False"] * 3 + ["True"] * 3
    again = "jaxinit coordcheck --widths 64 128 256 --steps 10 --rate 0.001"
    assert read.texts["pre"] == [again]
    assert len(read.numbers["charts"]) == 3
    forward, _, gradient = (chart["lines"][1]["y"] for chart in read.numbers["charts"])
    assert forward == gradient == [1, 2, 4]


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="holds no coordinate check"):
        coordinates_page(tmp_path)
