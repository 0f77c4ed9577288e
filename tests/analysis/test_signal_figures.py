"""Figures of signals: what is drawn, labelled and left out."""

from itertools import combinations
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from flax import nnx
from matplotlib.colors import to_rgba_array

import jaxinit
from jaxinit.analysis import curves, signal_figures
from jaxinit.analysis.coordinates import KINDS
from jaxinit.analysis.figure import COLORS, looks, style
from jaxinit.engine.survey import survey
from jaxinit.study import Study


@pytest.fixture(scope="module")
def deep() -> xr.Dataset:
    return survey(
        Study(
            model="mlp",
            layers=4,
            hidden=300,
            schemes=("glorot_standard", "glorot_normalized"),
            seeds=2,
        )
    )


@pytest.fixture(scope="module")
def recurrent() -> xr.Dataset:
    return survey(Study(model="lstm", hidden=8, schemes=("glorot_uniform",), seeds=2), examples=20)


@pytest.mark.slow
def test_theory_passes_through_the_points(deep: xr.Dataset) -> None:
    for scheme in deep.scheme.values:
        of = deep.sel(scheme=scheme)
        for signal in ("activation", "gradient"):
            expected = signal_figures._expected(of, signal)
            measured = np.sqrt(of[f"{signal}_mean_square"].mean(("seed", "step", "copy")))
            np.testing.assert_allclose(measured, expected, rtol=0.12)
    assert signal_figures._expected(of, "weight_gradient") is None


def test_histograms_leave_out_inputs_and_readout(deep: xr.Dataset) -> None:
    with style():
        axes = signal_figures.histograms(deep).axes
        assert [len(one.lines) for one in axes] == [4, 4, 4, 4, 4, 4]
        assert axes[0].get_title(loc="left") == "glorot_standard"
        labelled = signal_figures.sizes(deep).axes
    assert all(one.get_xlabel() and one.get_ylabel() and one.get_title() for one in labelled)


def test_the_probe_of_one_network_has_figures_and_several_are_schemes() -> None:
    def probed(seed: int, layers: int = 3) -> xr.Dataset:
        model = jaxinit.MLP(5, 8, 3, layers=layers, rngs=nnx.Rngs(seed))
        x, y = jnp.ones((6, 1, 5)), jnp.zeros(6, int)
        return jaxinit.probe(model, (x, y), "cross_entropy")

    one = jaxinit.plot_signals(probed(0))
    assert list(one) == ["histograms", "sizes"]
    (legend,) = one["sizes"].legends
    assert [text.get_text() for text in legend.texts] == [signal_figures.OWN]
    names = ["one", "other"]
    both = xr.concat([probed(0), probed(1)], pd.Index(names, name="scheme"))
    (legend,) = jaxinit.plot_signals(both)["sizes"].legends
    assert [text.get_text() for text in legend.texts] == names
    deeper = xr.concat(
        [probed(0), probed(1, layers=4)], pd.Index(names, name="scheme"), join="outer"
    )
    with pytest.raises(ValueError, match="other parameters; draw each by itself"):
        jaxinit.plot_signals(deeper)


def test_a_single_kernel_has_the_figures_that_it_can_fill() -> None:
    def figures(model: nnx.Module, kernel: str) -> list[str]:
        batch = jnp.ones((6, 4, 5)), jnp.zeros(6, int)
        return [*jaxinit.plot_signals(jaxinit.probe(model, batch, "cross_entropy", only=kernel))]

    net = jaxinit.RNN(5, 8, 3, rngs=nnx.Rngs(0))
    assert figures(net, "*recurrent*") == ["through_time"]
    assert figures(net, "*readout*") == ["sizes"]


@pytest.mark.slow
def test_a_recurrent_net_has_a_figure_through_time(recurrent: xr.Dataset, tmp_path: Path) -> None:
    paths = signal_figures.draw_all(recurrent, tmp_path)
    assert [path.stem for path in paths] == ["histograms", "sizes", "through_time"]
    with style():
        figure = signal_figures.by_step(recurrent)
    titles = ["input gate", "forget gate", "cell gate", "output gate"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert [len(axes.lines) for axes in figure.axes] == [1] * 4, "a line for each scheme"
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    low, high = figure.axes[0].get_ylim()
    for axes in figure.axes:
        drawn = axes.lines[0].get_ydata()
        assert low < np.nanmin(drawn)
        assert np.nanmax(drawn) < high


def test_courses_of_training_leave_out_inputs_and_readout(deep: xr.Dataset) -> None:
    courses = deep.isel(seed=[0, 1, 0]).rename(seed="epoch").assign_coords(epoch=[0.0, 1.0, 2.0])
    with style():
        rows = {"activation_mean": "mean", "weight_gradient_mean_square": "square"}
        axes = signal_figures.through_training(courses, rows, "title", "note").axes
        assert [len(one.lines) for one in axes] == [4] * 4
    assert axes[0].get_ylabel() == "mean"
    assert axes[2].get_xlabel() == "epochs"


def test_names_are_drawn_as_they_are(
    deep: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxinit.analysis.figure.FORMATS", ("png",))
    named = deep.assign_coords(scheme=["_$a$", "$\\frac{1}$"])
    assert len(signal_figures.draw_all(named, tmp_path)) == 2
    with style():
        (legend,) = signal_figures.sizes(named).legends
    assert [text.get_text() for text in legend.get_texts()] == [r"_\$a\$", r"\$\frac{1}\$"]


def test_histograms_of_all_schemes_share_their_axis_and_bins(deep: xr.Dataset) -> None:
    with style():
        figure = signal_figures.histograms(deep)
    standard, normalized = figure.axes[:3], figure.axes[3:]
    for upper, lower in zip(standard, normalized, strict=True):
        assert upper.get_xlim() == lower.get_xlim()
        for line in (*upper.lines, *lower.lines):
            np.testing.assert_array_equal(line.get_xdata(), upper.lines[0].get_xdata())
            width = line.get_xdata()[1] - line.get_xdata()[0]
            assert line.get_ydata().sum() * width == pytest.approx(1, abs=0.02)
    # As the paper has it: with the standard initialization the last activations are the narrowest.
    last = standard[0].lines[-1].get_ydata().max()
    assert last > 2 * normalized[0].lines[-1].get_ydata().max()


def test_histograms_name_their_layers_and_say_what_is_not_drawn(deep: xr.Dataset) -> None:
    scales = xr.DataArray([1.0, 1.0, 1.0, 1e12, 0.0], dims="scheme")
    five = deep.isel(scheme=[0, 0, 1, 1, 1]).assign_coords(scheme=list("abcde"))
    for signal in signal_figures.NAMES:
        name = f"{signal}_mean_square"
        five[name] = five[name] * scales
    with style():
        figure = signal_figures.histograms(five)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == deep.parameter.values[:-1].tolist()
    said = [[text.get_text() for text in axes.texts] for axes in figure.axes[::3]]
    assert said == [[], [], [], ["far wider than the others"], ["zero"]]


def through_time(gradient: list[list[float]]) -> xr.Dataset:
    """Courses of two schemes whose gradients are given by seed and step, the last step first."""
    of_scheme = np.asarray(gradient)[:, None, None, ::-1]
    axes = ("scheme", "seed", "layer", "carry", "step")
    gradients = np.stack([of_scheme, np.ones_like(of_scheme)])
    seeds, steps = of_scheme.shape[0], of_scheme.shape[-1]
    # The median of the singular values is lost in rounding at the third lag.
    values = np.stack([np.ones(3), [1.0, 1e-9, 1e-20], np.zeros(3)], axis=-1)
    jacobian = np.broadcast_to(values, (2, seeds, 3, 3))
    attrs = {"model": "rnn", "layers": 1, "hidden": 2, "activation": "tanh", "task": "t"}
    return xr.Dataset(
        {
            "gradient": (axes, gradients),
            "mean": (axes, np.zeros_like(gradients)),
            "mean_square": (axes, np.abs(gradients)),
            "memory": (("scheme", "seed", "layer"), np.ones((2, seeds, 1))),
            "jacobian": (
                ("scheme", "seed", "lag", "index"),
                jacobian,
            ),
            "expected": (("scheme", "seed", "step"), np.full((2, seeds, steps), np.nan)),
        },
        {"scheme": ["vanishing", "constant"], "step": np.arange(1, steps + 1), "lag": [1, 2, 4]},
        attrs | {"examples": 1},
    )


def test_nothing_is_drawn_below_rounding_and_no_mean_jumps() -> None:
    courses = through_time([[1, 1e-4, 1e-10, 1e-18, 1e-30], [1, 1e-6, 1e-14, 0, 0]])
    with style():
        figure = signal_figures.lens(courses)
    gradients, variances, jacobians = figure.axes
    drawn = gradients.lines[0].get_ydata()[::-1]
    np.testing.assert_allclose(drawn[:3], [1, 1e-5, 1e-12])
    assert np.isnan(drawn[3:]).all()
    np.testing.assert_allclose(jacobians.lines[1].get_ydata(), [1, 1e-9, np.nan])
    for axes in (gradients, variances, jacobians):
        sizes = np.concatenate([line.get_ydata() for line in axes.lines])
        assert np.nanmin(sizes) > curves.ROUNDING
        low, high = axes.get_ylim()
        for shape in axes.collections:  # the bands, which a 0 would let flood the axis
            heights = np.concatenate([path.vertices[:, 1] for path in shape.get_paths()])
            assert low < heights.min()
            assert heights.max() < high
        assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))
    assert "below 1e-16 of its largest" in figure.get_suptitle()


def test_a_band_that_reaches_zero_does_not_flood_an_axis(deep: xr.Dataset) -> None:
    dead = deep.copy(deep=True)
    dead.activation_mean_square[{"scheme": 0, "seed": 1, "parameter": 3}] = 0
    with style():
        axes = signal_figures.sizes(dead).axes[0]
    low, high = axes.get_ylim()
    assert high / low < 1e3
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, False, False, True, False]


def test_a_scheme_has_the_color_and_mark_of_its_place_in_every_figure(deep: xr.Dataset) -> None:
    names = [f"scheme {k}" for k in range(9)]
    nine = deep.isel(scheme=[0, 1] * 4 + [0]).assign_coords(scheme=names)
    expected = looks(names)
    with style():
        sizes, histograms = signal_figures.sizes(nine), signal_figures.histograms(nine)
    for axes in sizes.axes:
        lines = [line for line in axes.lines if line.get_linestyle() == "-"]
        found = [{"color": line.get_color(), "marker": line.get_marker()} for line in lines]
        assert found == list(expected.values())
    marks = [axes.collections[-1].get_facecolor()[0] for axes in histograms.axes[::3]]
    np.testing.assert_allclose(marks, to_rgba_array(COLORS))
    with style():
        lens = signal_figures.lens(through_time([[1, 0.1], [1, 0.2]]))
    assert [line.get_color() for line in lens.axes[0].lines] == list(COLORS[:2])


def test_ticks_of_a_coordinate_check_do_not_collide() -> None:
    axes = ("scheme", "parameter", "width", "seed")
    sizes = np.full((3, 2, 5, 2), 0.3)
    check = xr.Dataset(
        dict.fromkeys(KINDS, (axes, sizes)),
        {"scheme": list("abc"), "parameter": ["k", "l"], "width": [64, 128, 256, 512, 1024]},
        {"axis": "width", "model": "mlp", "task": "t", "layers": 2, "optimizer": "sgd"}
        | {"rate": 0.1, "steps": 1},
    )
    with style():
        figure = signal_figures.coordinates(check)
        figure.draw_without_rendering()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            labels = [label for label in axis.get_ticklabels(which="both") if label.get_text()]
            boxes = [label.get_window_extent() for label in labels if label.get_visible()]
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    for panel, name in zip(figure.axes[::3], "abc", strict=True):
        assert panel.get_title(loc="left") == name
