"""Figures of signals in the spirit of Glorot & Bengio (2010): histograms and sizes by layer, sizes
by step.

Schemes have the colors and marks that they have in figures of studies; layers go from dark (the
first) to light (the last); bands are the range over seeds; theory is a thin dotted line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from jaxinit import theory
from jaxinit.analysis.coordinates import KINDS
from jaxinit.analysis.curves import (
    CUT,
    OVER_SEEDS,
    Curve,
    back_through_time,
    jacobians,
    over_seeds,
)
from jaxinit.analysis.figure import (
    MARKS,
    MOST_COLUMNS,
    Look,
    as_text,
    band,
    grid,
    heading,
    label_edges,
    legend,
    log_ticks,
    looks,
    name_panel,
    save,
    shade,
    style,
    tick_at,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "activation": "activations",
    "gradient": "back-propagated gradients",
    "weight_gradient": "weight gradients",
}
OWN = "this network"  # what stands for a scheme where there is none
WIDEST = 4.0  # a histogram's axis, at most, in those of the scheme in the middle
FEWEST_DECADES = 2  # of the axes of a coordinate check
MOST_NAMED = 5  # layers that a legend names
THEORY: Look = {"linewidth": 0.9, "linestyle": ":", "label": "theory"}
LINE: Look = {"linewidth": 1.1, "markersize": 4}


def draw_all(signals: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that the signals can fill, as PNG and SVG in `folder`; the paths of the PNGs."""
    with style():
        return [save(figure, folder, name) for name, figure in plot_signals(signals).items()]


def plot_signals(signals: xr.Dataset) -> "dict[str, Figure]":
    """The figures that signals can fill, by name: `histograms` of two kernels or more, `sizes` by
    layer where some kernel is not recurrent, and `through_time` of those that are, over more than
    two steps.

    Takes what `survey` returns, over schemes and seeds, and what `probe` does, of one network.
    Several probes of one architecture are compared as schemes: `xr.concat(probes, pd.Index(names,
    name="scheme"))`. Whoever draws many closes them: `matplotlib.pyplot.close(figure)`.
    Raises: ValueError for probes whose parameters differ.
    """
    if signals.role.dims != ("parameter",):
        raise ValueError("signals of networks with other parameters; draw each by itself")
    of_schemes = signals if "scheme" in signals.dims else signals.expand_dims(scheme=[OWN])
    whole = of_schemes if "seed" in of_schemes.dims else of_schemes.expand_dims("seed")
    draws = {}
    if whole.sizes["parameter"] > 1:
        draws["histograms"] = histograms
    if (whole.role.values != "recurrent").any():
        draws["sizes"] = sizes
    if whole.sizes["step"] > 2 and "recurrent" in whole.role:
        draws["through_time"] = by_step
    with style():
        return {name: draw(whole) for name, draw in draws.items()}


def histograms(signals: xr.Dataset) -> "Figure":
    """Densities of activations, back-propagated gradients and weight gradients, a row for each
    scheme, a line for each layer; all schemes in the same bins."""
    schemes = _names(signals.scheme)
    height = 1.15 if len(schemes) > MOST_COLUMNS else 1.6
    figure, panels = grid(
        len(schemes), len(NAMES), panel=(2.7, height), margin=(0.2, 1.5), sharex="col"
    )
    look_of = looks(schemes)
    names = _names(signals.parameter[:-1])
    lines: dict[str, Any] = {}
    for column, signal in enumerate(NAMES):
        # The inputs, and what the loss gives the readout, belong to no hidden layer.
        hidden = slice(1, None) if signal == "activation" else slice(None, -1)
        layers = signals.isel(parameter=hidden)
        edges = _common_edges(layers, signal)
        for axes, scheme in zip(panels[:, column], schemes, strict=True):
            lines |= _draw_densities(axes, layers.sel(scheme=scheme), signal, edges, names)
        panels[-1, column].set_xlabel(f"value of {NAMES[signal]}")
    for axes, scheme in zip(panels[:, 0], schemes, strict=True):
        name_panel(axes, scheme, look_of[scheme])
        axes.set_ylabel("density")
    ordered = {name: lines[name] for name in names if name in lines}
    title = "layer, by its kernel"
    legend(figure, _some(ordered), title=title)
    note = "activations as the next kernel sees them"
    if len(schemes) > 1:
        note = f"all schemes on the same axis and bins, each panel to its own height; {note}"
    return _finish(figure, signals, "Signals by layer", note)


def _common_edges(layers: xr.Dataset, signal: str) -> NDArray:
    """Edges of the bins of all schemes, wide enough for every scheme that is not far wider than the
    others."""
    mean_square = layers[f"{signal}_mean_square"].mean(("seed", "step", "copy"), skipna=True)
    widths = 3 * np.sqrt(mean_square.max("parameter").values)
    widths = widths[np.isfinite(widths) & (widths > 0)]
    width = min(widths.max(), WIDEST * np.median(widths)) if len(widths) else 1.0
    return np.linspace(-width, width, layers.sizes["bin"] + 1)


def _draw_densities(
    axes: "Axes", layers: xr.Dataset, signal: str, edges: NDArray, names: list[str]
) -> dict[str, Any]:
    """The density of a signal of one scheme in every hidden layer; the lines, by layer."""
    count = layers.sizes["parameter"]
    bins = layers.bin.values
    own_edges = np.append(bins, 2 * bins[-1] - bins[-2]) - (bins[1] - bins[0]) / 2
    lines = {}
    mean_square = layers[f"{signal}_mean_square"].mean(("seed", "step", "copy"), skipna=True)
    sizes = np.sqrt(mean_square.values)
    for k, size in enumerate(sizes.tolist()):
        layer = layers.isel(parameter=k)
        if not 0 < size <= edges[-1]:
            continue
        density = layer[f"{signal}_histogram"].mean(("seed", "step", "copy"), skipna=True).values
        # Histograms are of signals over their size: what lies below each edge is put into the
        # common bins.
        below = np.concatenate([[0.0], np.cumsum(density * np.diff(own_edges))])
        shares = np.diff(np.interp(edges, own_edges * size, below))
        middles = (edges[1:] + edges[:-1]) / 2
        (lines[names[k]],) = axes.plot(
            middles, shares / np.diff(edges), color=shade(k, count), linewidth=1.1
        )
    if not lines:
        why = "far wider than the others" if (sizes > edges[-1]).any() else "zero"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None), yticks=[])
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.spines["left"].set_visible(False)
    return lines


def _some(lines: dict[str, Any]) -> dict[str, Any]:
    """The lines that a legend of layers names: all, or some from the first to the last."""
    names = list(lines)
    places = np.linspace(0, len(names) - 1, min(len(names), MOST_NAMED)).round().astype(int)
    return {names[place]: lines[names[place]] for place in places}


def sizes(signals: xr.Dataset) -> "Figure":
    """Root mean squares against the layer, a mark for each scheme, with what theory says of
    them."""
    figure, panels = grid(1, len(NAMES), panel=(3.2, 2.6), margin=(0.0, 1.5))
    layers = np.flatnonzero(signals.role.values != "recurrent")
    place = np.arange(1, len(layers) + 1)
    lines = {}
    for axes, (signal, name) in zip(panels[0], NAMES.items(), strict=True):
        for scheme, look in looks(_names(signals.scheme)).items():
            kernels = signals.sel(scheme=scheme).isel(parameter=layers)
            mean_square = kernels[f"{signal}_mean_square"].mean(("step", "copy"), skipna=True)
            size = (mean_square**0.5).transpose("seed", "parameter").values
            backwards = signal != "activation"
            lines[scheme] = _draw_sizes(axes, over_seeds(place, size, backwards), look)
            expected = _expected(kernels, signal)
            if expected is not None:
                _draw_theory(axes, lines[scheme], expected)
        axes.set(title=name, xlabel="kernel, from the input on", ylabel="root mean square")
        axes.locator_params(axis="x", integer=True)
        _finish_sizes(axes)
    legend(figure, lines)
    note = CUT
    if signals.sizes["seed"] > 1:
        note = f"{OVER_SEEDS}; {CUT}"
    if _expected(signals.isel(scheme=0), "activation") is not None:
        note += "; dotted: mean-field theory from the first kernel on"
    return _finish(figure, signals, "Sizes of signals by layer", note)


def _draw_sizes(axes: "Axes", curve: Curve, look: Look) -> Any:
    """Sizes over seeds on a logarithmic axis, with their band and some marks."""
    places = np.flatnonzero(np.isfinite(curve.y))
    marked = places[:: max(len(places) // 8, 1)].tolist()
    (line,) = axes.plot(curve.x, curve.y, markevery=marked, **look, **LINE)
    band(axes, curve.x, curve.low, curve.high, look["color"])
    axes.set_yscale("log")
    return line


def _draw_theory(axes: "Axes", line: Any, expected: NDArray | xr.DataArray) -> None:
    """What theory expects of a line, as far as it is drawn."""
    x, drawn = line.get_data()
    axes.plot(x, np.where(np.isfinite(drawn), expected, np.nan), color=line.get_color(), **THEORY)


def _finish_sizes(axes: "Axes", fewest: float = 1.0) -> None:
    """Let a logarithmic y axis span some decades at least, or a tenth of one looks steep; ticks at
    powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim()
    missing = max(0.0, fewest - np.log10(high / low)) / 2
    axes.set_ylim(low / 10**missing, high * 10**missing)
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_formatter(NullFormatter())


def by_step(signals: xr.Dataset) -> "Figure":
    """Root mean square of the gradient at every step of the recurrent kernels, a row for each
    kernel, a column for each gate, a line for each scheme."""
    kernels = np.flatnonzero(signals.role.values == "recurrent")
    gradients = signals.gradient_mean_square.isel(parameter=kernels) ** 0.5
    in_use = gradients.notnull().any(("scheme", "seed", "step", "parameter")).values
    gates = np.flatnonzero(in_use).tolist()
    steps = np.arange(1, signals.sizes["step"] + 1)
    figure, panels = grid(
        len(kernels),
        len(gates),
        panel=(2.4, 2.1),
        margin=(max(1.2, 5.5 - 2.4 * len(gates)), 1.5),
        sharex=True,
        sharey=True,
    )
    lines = {}
    for row in range(len(kernels)):
        for axes, gate in zip(panels[row], gates, strict=True):
            for scheme, look in looks(_names(signals.scheme)).items():
                course = gradients.sel(scheme=scheme).isel(parameter=row, copy=gate)
                # Before the first state some gates have no gradient at all.
                size = course.transpose("seed", "step").values
                lines[scheme] = _draw_sizes(axes, over_seeds(steps, size, backwards=True), look)
    _finish_sizes(panels[0, 0])  # and with it all others
    names = str(signals.attrs.get("gates", "")).split()
    titles = [f"{names[gate]} gate" if gate < len(names) else "" for gate in gates]
    ylabels = [f"gradient at\n{as_text(name)}" for name in _names(signals.parameter[kernels])]
    label_edges(panels, titles, ylabels, "time step")
    legend(figure, lines)
    note = f"root mean square, {OVER_SEEDS}; {CUT}"
    return _finish(figure, signals, "Gradients through time", note)


def lens(courses: xr.Dataset) -> "Figure":
    """Back through time, a mark for each scheme: gradients of the states, sizes of the states,
    Jacobians between them.

    `courses` as `survey.through_time` returns them. One row a layer; the Jacobians are those of the
    last one.
    """
    layers = courses.sizes["layer"]
    figure, panels = grid(layers, 3, panel=(3.3, 2.6), margin=(0.0, 1.6))
    with_theory = not np.isnan(courses.expected).all()
    lines = {}
    for scheme, look in looks(_names(courses.scheme)).items():
        course = courses.sel(scheme=scheme)
        name = f"{scheme}: {memory(courses, scheme)}"
        for layer in range(layers):
            gradient, variance = back_through_time(course, layer)
            lines[name] = _draw_sizes(panels[layer, 0], gradient, look)
            of_layer = _draw_sizes(panels[layer, 1], variance, look)
            if not layer and not np.isnan(course.expected).all():
                _draw_theory(panels[0, 1], of_layer, course.expected.mean("seed"))
        _draw_jacobians(panels[-1, 2], course, look)
    for layer in range(layers):
        panels[layer, 0].set(
            xlabel="steps back from the last", ylabel=f"|dC/ds|, layer {layer + 1}"
        )
        panels[layer, 1].set(xlabel="time step", ylabel=f"variance of h, layer {layer + 1}")
    if with_theory:
        panels[0, 1].set_ylabel("variance of h; dotted: mean-field")
    for axes in panels[:-1, 2]:
        axes.set_visible(False)
    for axes in panels.flat:
        if axes.get_visible():
            _finish_sizes(axes)
    title = "steps back until the gradient has fallen to 1/e (range over seeds)"
    legend(figure, lines, title=title)
    note = f"{OVER_SEEDS}; {CUT}"
    return _finish(figure, courses, "Through time", note)


def _draw_jacobians(axes: "Axes", course: xr.Dataset, look: Look) -> None:
    """Singular values of Jacobians against the lag: the largest, and dashed the median."""
    largest, median = jacobians(course)
    _draw_sizes(axes, largest, look)
    name = as_text(f"{course.scheme.item()}, median")
    _draw_sizes(axes, median, {"color": look["color"], "linestyle": "--", "label": name})
    axes.set(
        xscale="log", xlabel="lag", ylabel="singular values of ds_T/ds_t\n(largest; dashed: median)"
    )
    log_ticks(axes)


def coordinates(check: xr.Dataset) -> "Figure":
    """Sizes of signals against the width or depth, a row for each scheme, a line for each
    parameter.

    `check` as `coordcheck.coordinate_check` or `depth_check` return it.
    """
    schemes = _names(check.scheme)
    axis = check.attrs["axis"]
    figure, panels = grid(
        len(schemes),
        len(KINDS),
        panel=(2.9, 1.7),
        margin=(0.4, 1.4),
        sharex=True,
        sharey="col",
    )
    look_of = looks(schemes)
    lines = {}
    for row, scheme in enumerate(schemes):
        for axes, (kind, label) in zip(panels[row], KINDS.items(), strict=True):
            signal = check[kind].sel(scheme=scheme).transpose("parameter", axis, "seed")
            lines |= _draw_against_size(axes, signal, check[axis].values)
            axes.set_ylabel(label)
        name_panel(panels[row, 0], scheme, look_of[scheme])
    for axes in panels[0]:
        _finish_sizes(axes, FEWEST_DECADES)
    for axes in panels[-1]:
        axes.set_xlabel("units" if axis == "width" else "layers")
    if check.sizes["parameter"] <= 2 * len(MARKS):
        legend(figure, lines)
    heading(figure, _about_check(check), size=8)
    return figure


def _draw_against_size(axes: "Axes", signal: xr.DataArray, sizes: NDArray) -> dict[str, Any]:
    """Lines of a signal `[parameter, size, seed]` by the names of the parameters."""
    lines = {}
    count = signal.sizes["parameter"]
    for k, parameter in enumerate(_names(signal.parameter)):
        look: Look = {"color": shade(k, count), "marker": MARKS[k % len(MARKS)]}
        values = signal.isel(parameter=k).transpose("seed", ...).values
        lines[parameter] = _draw_sizes(axes, over_seeds(sizes, values), look)
    axes.set_xscale("log")
    tick_at(axes, sizes.tolist())
    return lines


def _about_check(check: xr.Dataset) -> str:
    about = check.attrs
    model = as_text(about["model"])
    task = as_text(about["task"])
    if about["axis"] == "width":
        fixed = f"{about['layers']} layer(s)"
        reading = (
            "rates that carry over to wider networks need flat lines (weight gradients fall as "
            "1/width but in the readout)"
        )
    else:
        fixed = f"{about['units']} units"
        reading = "rates that carry over to deeper networks need flat lines"
    return (
        f"Coordinate check: {model}, {fixed}, {task}, {about['optimizer']} at rate "
        f"{about['rate']:g}, {about['steps']} steps, n = {check.sizes['seed']} seeds\n{reading}"
    )


def memory(courses: xr.Dataset, scheme: str) -> str:
    """The memory length of the last layer in steps: its median over seeds, and their range."""
    lengths = np.sort(courses.memory.sel(scheme=scheme).isel(layer=-1).values)
    longest = courses.sizes["step"] - 2  # from the last state but one to the first
    shown = []
    for length in lengths:
        shown.append(f"{length:g}" if np.isfinite(length) else f"more than {longest}")
    median = shown[(len(shown) - 1) // 2]
    return median if shown[0] == shown[-1] else f"{median} ({shown[0]} to {shown[-1]})"


def through_training(courses: xr.Dataset, rows: dict[str, str], title: str, note: str) -> "Figure":
    """Statistics of every hidden layer against epochs of training, a column for each scheme, a line
    for each layer.

    `courses` as `engine.run(signals=...)` records them; `rows` maps variables of it to labels.
    Activations are shown as the next kernel sees them, without the inputs; other signals without
    the readout's.
    """
    schemes = _names(courses.scheme)
    figure, panels = grid(
        len(rows), len(schemes), panel=(2.9, 2.1), margin=(1.6, 1.0), sharex=True, sharey="row"
    )
    count = courses.sizes["parameter"]
    lines = {}
    for row, variable in enumerate(rows):
        first = 1 if variable.startswith("activation") else 0
        hidden = courses[variable].isel(parameter=slice(first, first + count - 1))
        means = hidden.mean(("step", "copy"), skipna=True)
        for column, scheme in enumerate(schemes):
            axes = panels[row, column]
            for k in range(count - 1):
                values = means.sel(scheme=scheme).isel(parameter=k)
                (lines[str(k + 1)],) = axes.plot(
                    courses.epoch.values, values, color=shade(k, count - 1), linewidth=1.2
                )
    label_edges(panels, schemes, list(rows.values()), "epochs")
    for axes, (scheme, look) in zip(panels[0], looks(schemes).items(), strict=True):
        axes.set_title("")
        name_panel(axes, scheme, look)
    legend(figure, _some(lines), title="hidden layer")
    heading(figure, as_text(f"{title}\n{note}"))
    return figure


def _expected(signals: xr.Dataset, signal: str) -> NDArray[np.floating] | None:
    """Root mean squares by mean-field theory for a plain net, from the first product on and the
    last gradient back.

    Only these two are taken from measurements; weights enter with the variances that were drawn.
    None where theory has nothing to say.
    """
    name = str(signals.attrs.get("activation"))  # of a network of the caller nothing is known
    plain = signals.attrs.get("model") == "mlp" and name in theory.ACTIVATIONS
    if not plain or signal == "weight_gradient":
        return None

    def average(variable: str) -> NDArray[np.floating]:
        axes = [axis for axis in ("seed", "step", "copy") if axis in signals.dims]
        return signals[variable].mean(axes, skipna=True).values

    variances = average("weight_mean_square")
    q = [float(average("product_mean_square")[0])]
    activation = [float(average("activation_mean_square")[0])]
    slopes = []
    for k in range(1, len(variances)):
        activation.append(theory.variance_map(name, q[-1], 1.0))
        slopes.append(theory.chi(name, 1.0, q[-1]))
        q.append(float(signals.fan_in[k] * variances[k]) * activation[-1])
    if signal == "activation":
        return np.sqrt(activation)
    back = [float(average("gradient_mean_square")[-1])]
    for k in range(len(variances) - 1, 0, -1):
        back.append(back[-1] * float(signals.fan_out[k] * variances[k]) * slopes[k - 1])
    return np.sqrt(back[::-1])


def _names(coordinate: xr.DataArray) -> list[str]:
    return [str(name) for name in coordinate.values]


def _finish(figure: "Figure", signals: xr.Dataset, title: str, note: str) -> "Figure":
    """Put above a figure what it shows, of which network, and how to read it."""
    about = signals.attrs
    lines = [title, note]
    if "model" in about:
        network = (
            f"{about['model']}, {about['layers']} layer(s) of {about['hidden']} units, "
            f"{about['activation']}, {about['task']}"
        )
        seeds = signals.sizes["seed"]
        lines[1:1] = [f"{network}; {about['examples']} examples, n = {seeds} seeds"]
    heading(figure, as_text("\n".join(lines)))
    return figure
