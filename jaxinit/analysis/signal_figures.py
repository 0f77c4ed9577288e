"""Figures of signals in the spirit of Glorot & Bengio (2010): histograms and sizes by layer, sizes
by step.

Layers go from black (the first) to light grey (the last); bands are the range over seeds; theory is
a thin dotted line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from jaxinit import theory
from jaxinit.analysis.figure import (
    LAST_GREY,
    MARKS,
    as_text,
    band,
    grey,
    grid,
    heading,
    label_edges,
    legend,
    save,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "activation": "activations",
    "gradient": "back-propagated gradients",
    "weight_gradient": "weight gradients",
}
COORDINATES = {
    "forward": "size of products",
    "update": "size of their changes",
    "gradient": "size of weight gradients",
}
LAST_SCHEME = 0.6  # the grey of the last scheme, whose marks have to stay readable
MOST_DECADES = 24  # of an axis of sizes
FEWEST_DECADES = 2  # of the axes of a coordinate check
THEORY = {"linewidth": 0.9, "linestyle": ":"}


def draw_all(signals: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that the signals can fill, as PNG and SVG in `folder`; the paths of the PNGs."""
    figures = {"histograms": histograms, "sizes": sizes}
    if signals.sizes["step"] > 2:
        figures["through_time"] = by_step
    with style():
        return [save(draw(signals), folder, name) for name, draw in figures.items()]


def histograms(signals: xr.Dataset) -> "Figure":
    """Densities of activations, back-propagated gradients and weight gradients, a line for each
    layer."""
    schemes = _names(signals.scheme)
    figure, panels = grid(len(NAMES), len(schemes), panel=(2.6, 2.0), margin=(2.2, 1.2))
    for row, signal in enumerate(NAMES):
        for column, scheme in enumerate(schemes):
            _draw_densities(panels[row, column], signals.sel(scheme=scheme), signal)
    label_edges(panels, schemes, [f"density of\n{name}" for name in NAMES.values()], "value")
    note = (
        "hidden layers, black: the first, light grey: the last; activations as the next kernel "
        "sees them"
    )
    return _finish(figure, signals, "Signals by layer", note)


def _draw_densities(axes: "Axes", signals: xr.Dataset, signal: str) -> None:
    """The density of a signal of one scheme in every hidden layer."""
    count = len(signals.parameter)
    # The inputs, and what the loss gives the readout, belong to no hidden layer.
    outside = 0 if signal == "activation" else count - 1
    widest = 0.0
    for k in range(count):
        layer = signals.isel(parameter=k)
        size = float(np.sqrt(layer[f"{signal}_mean_square"].mean(skipna=True)))
        if k == outside or not size > 0:
            continue
        density = layer[f"{signal}_histogram"].mean(("seed", "step", "copy"), skipna=True).values
        # Histograms are of signals over their size, so that all layers have the same bins.
        axes.plot(signals.bin.values * size, density / size, color=grey(k, count), linewidth=1.1)
        widest = max(widest, 3 * size)
    axes.set(xlim=(-widest or -1, widest or 1), yticks=[])
    axes.ticklabel_format(axis="x", scilimits=(-2, 2))
    axes.spines["left"].set_visible(False)


def sizes(signals: xr.Dataset) -> "Figure":
    """Root mean squares against the layer, a mark for each scheme, with what theory says of
    them."""
    figure, panels = grid(1, len(NAMES), panel=(3.0, 3.8), margin=(1.4, 0.0))
    layers = np.flatnonzero(signals.role.values != "recurrent")
    place = np.arange(len(layers))
    lines = {}
    for axes, (signal, name) in zip(panels[0], NAMES.items(), strict=True):
        for k, scheme in enumerate(_names(signals.scheme)):
            kernels = signals.sel(scheme=scheme).isel(parameter=layers)
            mean_square = kernels[f"{signal}_mean_square"].mean(("step", "copy"), skipna=True)
            size = (mean_square**0.5).transpose("seed", "parameter")
            look = _scheme_look(k, signals.sizes["scheme"])
            (lines[scheme],) = axes.plot(place, size.mean("seed"), **look)
            band(axes, place, size.min("seed"), size.max("seed"), look["color"])
            expected = _expected(kernels, signal)
            if expected is not None:
                axes.plot(place, expected, color=look["color"], **THEORY)
        axes.set(
            yscale="log", title=name, xlabel="kernel, from the input on", ylabel="root mean square"
        )
        axes.set_xticks(place, [str(k + 1) for k in place])
    legend(panels[0, 0], lines)
    note = "mean over seeds; band: their range"
    if _expected(signals.isel(scheme=0), "activation") is not None:
        note += "; dotted: mean-field theory from the first kernel on"
    return _finish(figure, signals, "Sizes of signals by layer", note)


def by_step(signals: xr.Dataset) -> "Figure":
    """Root mean square of the gradient at every step of the recurrent kernels, a line for each
    gate."""
    kernels = np.flatnonzero(signals.role.values == "recurrent")
    schemes = _names(signals.scheme)
    figure, panels = grid(
        len(kernels), len(schemes), panel=(2.5, 2.5), margin=(1.4, 1.0), sharey=True
    )
    for row, kernel in enumerate(kernels):
        for column, scheme in enumerate(schemes):
            gradients = signals.gradient_mean_square.sel(scheme=scheme).isel(parameter=kernel)
            _draw_gates(panels[row, column], gradients**0.5)
    names = [as_text(name) for name in signals.parameter.values[kernels]]
    ylabels = [f"gradient at\n{name}\n(root mean square)" for name in names]
    label_edges(panels, schemes, ylabels, "time step")
    return _finish(
        figure, signals, "Gradients through time", "a line for each gate, from the first (black) on"
    )


def _draw_gates(axes: "Axes", gradients: xr.DataArray) -> None:
    """Gradients of one recurrent kernel against the step, a line for each gate that has any."""
    has_values = gradients.notnull().any(("seed", "step")).values
    gates = np.flatnonzero(has_values).tolist()
    steps = np.arange(1, gradients.sizes["step"] + 1)
    for gate in gates:
        size = gradients.isel(copy=gate).transpose("seed", "step").mean("seed")
        size = size.where(size > 0)  # before the first state some gates have none
        axes.plot(steps, size, color=grey(gate, len(gates)), linewidth=1.1)
    axes.set(yscale="log", xlabel="time step")


def lens(courses: xr.Dataset) -> "Figure":
    """Back through time, a mark for each scheme: gradients of the states, sizes of the states,
    Jacobians between them.

    `courses` as `survey.through_time` returns them. One row a layer; the Jacobians are those of the
    last one.
    """
    layers = courses.sizes["layer"]
    figure, panels = grid(layers, 3, panel=(3.5, 2.9), margin=(0.5, 1.3))
    with_theory = not np.isnan(courses.expected).all()
    lines = {}
    for k, scheme in enumerate(_names(courses.scheme)):
        course = courses.sel(scheme=scheme)
        look = _scheme_look(k, courses.sizes["scheme"]) | {"linewidth": 1.1}
        for layer in range(layers):
            lines[scheme] = _draw_gradients_back(
                panels[layer, 0], course.gradient.isel(layer=layer), look
            )
            _draw_variances(panels[layer, 1], course.isel(layer=layer), look)
        _draw_jacobians(panels[-1, 2], course.jacobian, look)
        if not np.isnan(course.expected).all():
            expected = course.expected.mean("seed")
            panels[0, 1].plot(courses.step.values, expected, color=look["color"], **THEORY)
    for layer in range(layers):
        panels[layer, 0].set_ylabel(f"|dC/ds|, layer {layer + 1}")
    if with_theory:
        panels[0, 1].set_ylabel("variance of h; dotted: mean-field")
    for axes in panels[:-1, 2]:
        axes.set_visible(False)
    for axes in panels.flat:
        _limit_decades(axes)
    legend(panels[0, 0], lines)
    lengths = ", ".join(f"{name} {memory(courses, name)}" for name in courses.scheme.values)
    note = f"band: range over seeds; steps back until the gradient has fallen to 1/e: {lengths}"
    return _finish(figure, courses, "Through time", note)


def _draw_gradients_back(axes: "Axes", gradients: xr.DataArray, look: dict[str, Any]) -> Any:
    """Norms of the gradients of one layer's states against the steps back; returns the line."""
    norm = xr.ufuncs.sqrt((gradients**2).sum("carry")).transpose("seed", "step")
    norm = norm.where(norm > 0)  # what has underflowed has no place on a logarithmic axis
    steps = gradients.step.values
    back = steps[-1] - steps
    (line,) = axes.plot(back, norm.mean("seed"), markevery=_mark_every(steps), **look)
    band(axes, back, norm.min("seed"), norm.max("seed"), look["color"])
    axes.set(yscale="log", xlabel="steps back from the last")
    return line


def _draw_variances(axes: "Axes", course: xr.Dataset, look: dict[str, Any]) -> None:
    """Variances of one layer's first carry, its output, against the step."""
    variance = (course.mean_square - course["mean"] ** 2).isel(carry=0)
    steps = course.step.values
    # Of a constant state the difference may be rounded to below 0.
    mean = variance.clip(0).mean("seed")
    axes.plot(steps, mean, markevery=_mark_every(steps), **look)
    axes.set(yscale="log", xlabel="time step", ylabel="variance of h")


def _draw_jacobians(axes: "Axes", jacobian: xr.DataArray, look: dict[str, Any]) -> None:
    """Singular values of Jacobians against the lag: the largest, and dashed the median."""
    values = jacobian.where(jacobian > 0).transpose("seed", "lag", "index")
    largest = xr.ufuncs.log10(values.isel(index=0)).mean("seed")
    median = xr.ufuncs.log10(values.median("index")).mean("seed")
    axes.plot(jacobian.lag, 10.0**largest, **look)
    axes.plot(
        jacobian.lag, 10.0**median, color=look["color"], linewidth=look["linewidth"], linestyle="--"
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="lag",
        ylabel="singular values of ds_T/ds_t\n(largest; dashed: median)",
    )


def _mark_every(steps: NDArray) -> int:
    """Every how many steps a line of a course has a mark, so that it has about eight."""
    return max(len(steps) // 8, 1)


def _limit_decades(axes: "Axes") -> None:
    """Cut an axis of sizes off below, where one that underflows would press all others together."""
    low, high = axes.get_ylim()
    lowest = high / 10**MOST_DECADES
    if low < lowest:
        axes.set_ylim(lowest, high)


def coordinates(check: xr.Dataset) -> "Figure":
    """Sizes of signals against the width or depth, a row for each scheme, a line for each
    parameter.

    `check` as `coordcheck.coordinate_check` or `depth_check` return it.
    """
    schemes = _names(check.scheme)
    axis = check.attrs["axis"]
    figure, panels = grid(
        len(schemes),
        len(COORDINATES),
        panel=(3.0, 2.4),
        margin=(1.0, 1.4),
        sharex=True,
        sharey="col",
    )
    lines = {}
    for row, scheme in enumerate(schemes):
        for axes, (kind, label) in zip(panels[row], COORDINATES.items(), strict=True):
            signal = check[kind].sel(scheme=scheme).transpose("parameter", axis, "seed")
            lines |= _draw_against_size(axes, signal, check[axis].values)
            axes.set_title(as_text(f"{scheme}: {label}"))
    for axes in panels[0]:
        _widen_to_decades(axes)
    for axes in panels[-1]:
        axes.set_xlabel("units" if axis == "width" else "layers")
    if check.sizes["parameter"] <= 2 * len(MARKS):
        legend(figure, lines, loc="outside lower center", ncols=4)
    heading(figure, _about_check(check), size=8)
    return figure


def _draw_against_size(axes: "Axes", signal: xr.DataArray, sizes: NDArray) -> dict[str, Any]:
    """Lines of a signal `[parameter, size, seed]` by the names of the parameters."""
    lines = {}
    count = signal.sizes["parameter"]
    for k, parameter in enumerate(_names(signal.parameter)):
        look = _look(k, count, LAST_GREY)
        (lines[parameter],) = axes.plot(
            sizes, signal.isel(parameter=k).mean("seed"), linewidth=1, markersize=3, **look
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    return lines


def _widen_to_decades(axes: "Axes") -> None:
    """Let an axis of sizes span two decades at least, or a tenth of one looks steep."""
    low, high = axes.get_ylim()
    missing = max(0.0, 1 - np.log10(high / low) / FEWEST_DECADES)
    axes.set_ylim(low / 10**missing, high * 10**missing)


def _about_check(check: xr.Dataset) -> str:
    about = check.attrs
    model = as_text(about["model"])
    task = as_text(about["task"])
    if about["axis"] == "width":
        fixed = f"{about['layers']} layer(s)"
        reading = (
            "flat lines carry rates from narrow to wide (weight gradients fall as 1/width but in "
            "the readout)"
        )
    else:
        fixed = f"{about['units']} units"
        reading = "flat lines carry rates from shallow to deep"
    return (
        f"Coordinate check: {model}, {fixed}, {task}, {about['optimizer']} at rate "
        f"{about['rate']:g}, {about['steps']} steps, n = {check.sizes['seed']} seeds\n{reading}"
    )


def memory(courses: xr.Dataset, scheme: str) -> str:
    """The memory length of the last layer in steps: its median over seeds, and their range."""
    lengths = np.sort(courses.memory.sel(scheme=scheme).isel(layer=-1).values)
    shown = []
    for length in lengths:
        shown.append(f"{length:g}" if np.isfinite(length) else "more than the sequence has")
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
    for row, variable in enumerate(rows):
        first = 1 if variable.startswith("activation") else 0
        hidden = courses[variable].isel(parameter=slice(first, first + count - 1))
        means = hidden.mean(("step", "copy"), skipna=True)
        for column, scheme in enumerate(schemes):
            axes = panels[row, column]
            for k in range(count - 1):
                values = means.sel(scheme=scheme).isel(parameter=k)
                axes.plot(courses.epoch.values, values, color=grey(k, count - 1), linewidth=1.2)
    label_edges(panels, schemes, list(rows.values()), "epochs")
    text = as_text(f"{title}\n{note}")
    heading(figure, f"{text}\nblack: the first hidden layer, light grey: the last")
    return figure


def _expected(signals: xr.Dataset, signal: str) -> NDArray[np.floating] | None:
    """Root mean squares by mean-field theory for a plain net, from the first product on and the
    last gradient back.

    Only these two are taken from measurements; weights enter with the variances that were drawn.
    None where theory has nothing to say.
    """
    name = signals.attrs["activation"]
    plain = signals.attrs["model"] == "mlp" and name in theory.ACTIVATIONS
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


def _look(k: int, count: int, lightest: float) -> dict[str, Any]:
    """The shade and the mark of line k of `count`, as arguments of `plot`."""
    return {"color": grey(k, count, lightest), "marker": MARKS[k % len(MARKS)]}


def _scheme_look(k: int, count: int) -> dict[str, Any]:
    return _look(k, count, LAST_SCHEME) | {"markersize": 4}


def _finish(figure: "Figure", signals: xr.Dataset, title: str, note: str) -> "Figure":
    """Put above a figure what it shows, of which network, and how to read it."""
    about = signals.attrs
    network = (
        f"{about['model']}, {about['layers']} layer(s) of {about['hidden']} units, "
        f"{about['activation']}, {about['task']}"
    )
    seeds = signals.sizes["seed"]
    lines = [title, f"{network}; {about['examples']} examples, n = {seeds} seeds", note]
    heading(figure, as_text("\n".join(lines)))
    return figure
