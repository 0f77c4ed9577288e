"""The page of a probe has a verdict for every scheme, and the sizes of its signals."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from pages import Read, asks_for_nothing

from jaxinit.analysis import store
from jaxinit.analysis.page import rendered
from jaxinit.analysis.probe_page import probe_page
from jaxinit.study import BadStudy, Study

ATTRS = {"model": "mlp", "hidden": 8, "layers": 2, "activation": "tanh", "task": "t", "examples": 3}
NAMES = ("activation", "gradient", "weight_gradient", "product")


def signals() -> xr.Dataset:
    """Of a scheme whose signals keep their size, and one whose signals fall by two decades a
    kernel."""
    steady, falling = np.ones(3), 1e-4 ** np.arange(3)
    mean_square = np.stack([steady, falling])[:, None, :, None, None] * np.ones((2, 2, 3, 1, 1))
    axes = ("scheme", "seed", "parameter", "step", "copy")
    variables = {f"{name}_mean_square": (axes, mean_square) for name in NAMES}
    nothing = np.zeros_like(mean_square)
    for name in ("activation_zero", "activation_saturated", "product_not_finite"):
        variables[name] = (axes, nothing)
    variables["gradient_not_finite"] = (axes, nothing)
    coords = {
        "scheme": ["<b>steady</b>", "falling"],
        "parameter": ["a", "b", "c"],
        "role": ("parameter", ["input", "hidden", "readout"]),
    }
    return xr.Dataset(variables, coords, ATTRS)


def test_verdicts_and_sizes(tmp_path: Path) -> None:
    question = {"study": Study(model="mlp", first_seed=7).plain()}
    store.write_answer(tmp_path / "p", "probe", question, {"signals.nc": store.netcdf(signals())})
    read = Read(rendered(probe_page(tmp_path / "p")))
    assert asks_for_nothing(read)
    assert read.texts["p"][1] == "<b>steady</b>: healthy; falling: vanishing."
    assert [row["kind"] for row in read.records()][:2] == ["healthy", "healthy"]
    assert len(read.numbers["charts"]) == 3
    falling = read.numbers["charts"][0]["lines"][1]
    assert falling["y"] == [1, 0.01, 0.0001]
    assert dict(zip(read.texts["dt"], read.texts["dd"], strict=True))["first seed"] == "7"


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="holds no probe"):
        probe_page(tmp_path)
