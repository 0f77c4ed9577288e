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
    kernel; those of the seeds are half and twice that."""
    steady, falling = np.ones(3), 1e-4 ** np.arange(3)
    of_seeds = np.array([0.25, 4.0])[:, None, None, None]
    mean_square = np.stack([steady, falling])[:, None, :, None, None] * of_seeds
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
    assert falling["y"] == [1, 0.01, 0.0001]  # the geometric mean
    assert falling["low"] == [0.5, 0.005, 0.00005]
    assert read.texts["pre"][0].startswith(
        "jaxinit probe --hidden 128 --layers 1 --schemes uniform"
    )
    assert "--first-seed 7" in read.texts["pre"][0]
    assert dict(zip(read.texts["dt"], read.texts["dd"], strict=True))["first seed"] == "7"


def through_time() -> xr.Dataset:
    """Gradients of states, two numbers each, that fall by a decade a step back, or stay."""
    steps = np.arange(1, 5)
    falls = 10.0 ** (steps - 4)
    gradient = np.stack([np.ones(4), falls])[:, None, None, None] * np.ones((2, 2, 1, 2, 1))
    axes = ("scheme", "seed", "layer", "carry", "step")
    states = {
        "mean_square": (axes, np.full(gradient.shape, 1.25)),
        "mean": (axes, gradient * 0 + 1),
    }
    singular = np.stack([falls[::-1], 0.01 * falls[::-1], 1e-9 * falls[::-1]], -1)
    jacobian = np.broadcast_to(singular, (2, 2, 4, 3))
    variables = {
        "gradient": (axes, gradient),
        **states,
        "memory": (("scheme", "seed", "layer"), np.broadcast_to([[[np.inf]], [[1.0]]], (2, 2, 1))),
        "jacobian": (("scheme", "seed", "lag", "index"), jacobian),
    }
    coords = {"scheme": ["<b>steady</b>", "falling"], "step": steps, "lag": steps}
    return xr.Dataset(variables, coords, ATTRS)


def test_what_was_seen_by_step_is_shown_or_named_as_missing(tmp_path: Path) -> None:
    files = {
        "signals.nc": store.netcdf(signals()),
        "through_time.nc": store.netcdf(through_time()),
    }
    store.write_answer(tmp_path / "p", "probe", {"study": Study().plain()}, files)
    read = Read(rendered(probe_page(tmp_path / "p")))
    assert read.texts["p"][1] == (
        "<b>steady</b>: healthy, the gradient falls to 1/e in more than 2 steps back; falling: "
        "vanishing, the gradient falls to 1/e in 1 steps back."
    )
    back, variance, largest, median = read.numbers["charts"][3:]
    assert back["lines"][1]["x"] == [3, 2, 1, 0]
    np.testing.assert_allclose(back["lines"][1]["y"], np.sqrt(2) * 10.0 ** np.arange(-3, 1), 1e-3)
    assert variance["lines"][0]["y"] == [0.25] * 4
    assert largest["lines"][0]["y"] == [1, 0.1, 0.01, 0.001]
    assert median["lines"][0]["y"] == [0.01, 0.001, 1e-4, 1e-5]
    (tmp_path / "p" / "through_time.nc").write_bytes(b"torn")
    torn = Read(rendered(probe_page(tmp_path / "p")))
    assert len(torn.numbers["charts"]) == 3
    assert any("through_time.nc is damaged" in text for text in torn.texts["li"])


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="holds no probe"):
        probe_page(tmp_path)
