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
from jaxinit.analysis.figure import as_text, save, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "activation": "activations",
    "gradient": "back-propagated gradients",
    "weight_gradient": "weight gradients",
}
MARKS = ("o", "s", "^", "v", "D", "P", "X", "*")
LAST_GREY = 0.75
FEWEST_DECADES = 24  # of an axis of sizes, at most


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
    import matplotlib.pyplot as plt

    schemes = [str(name) for name in signals.scheme.values]
    figure, grid = plt.subplots(
        len(NAMES),
        len(schemes),
        figsize=(2.2 + 2.6 * len(schemes), 7.2),
        layout="constrained",
        squeeze=False,
    )
    for row, (signal, name) in enumerate(NAMES.items()):
        for column, scheme in enumerate(schemes):
            axes, of = grid[row, column], signals.sel(scheme=scheme)
            widest = 0.0
            for k, parameter in enumerate(signals.parameter.values):
                if k == (0 if signal == "activation" else len(signals.parameter) - 1):
                    # the inputs, and what the loss gives the readout, are no hidden layer's
                    continue
                one = of.sel(parameter=parameter)
                size = float(np.sqrt(one[f"{signal}_mean_square"].mean(skipna=True)))
                density = (
                    one[f"{signal}_histogram"].mean(("seed", "step", "copy"), skipna=True).values
                )
                if not size > 0:
                    continue
                grey = LAST_GREY * k / max(len(signals.parameter) - 1, 1)
                axes.plot(signals.bin.values * size, density / size, color=str(grey), linewidth=1.1)
                widest = max(widest, 3 * size)
            axes.set(xlim=(-widest or -1, widest or 1), yticks=[])
            axes.ticklabel_format(axis="x", scilimits=(-2, 2))
            axes.spines["left"].set_visible(False)
            if row == 0:
                axes.set_title(as_text(scheme), fontsize=9)
            if column == 0:
                axes.set_ylabel(f"density of\n{name}")
            if row == len(NAMES) - 1:
                axes.set_xlabel("value")
    note = (
        "hidden layers, black: the first, light grey: the last; activations as the next kernel "
        "sees them"
    )
    return _finish(figure, signals, "Signals by layer", note)


def sizes(signals: xr.Dataset) -> "Figure":
    """Root mean squares against the layer, a mark for each scheme, with what theory says of
    them."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(NAMES), figsize=(10.4, 3.8), layout="constrained")
    layers = np.flatnonzero(signals.role.values != "recurrent")
    # by scheme: names are given to the legend, which leaves out a label that begins with "_"
    lines = {}
    for axes, (signal, name) in zip(panels, NAMES.items(), strict=True):
        for k, scheme in enumerate(signals.scheme.values):
            of = signals.sel(scheme=scheme).isel(parameter=layers)
            size = (
                of[f"{signal}_mean_square"].mean(("step", "copy"), skipna=True) ** 0.5
            ).transpose("seed", "parameter")
            place, grey = np.arange(len(layers)), str(0.6 * k / max(signals.sizes["scheme"] - 1, 1))
            (lines[as_text(scheme)],) = axes.plot(
                place, size.mean("seed"), color=grey, marker=MARKS[k % len(MARKS)], markersize=4
            )
            axes.fill_between(
                place, size.min("seed"), size.max("seed"), color=grey, alpha=0.2, linewidth=0
            )
            expected = _expected(of, signal)
            if expected is not None:
                axes.plot(place, expected, color=grey, linewidth=0.9, linestyle=":")
        axes.set(
            yscale="log", title=name, xlabel="kernel, from the input on", ylabel="root mean square"
        )
        axes.set_xticks(range(len(layers)), [str(k + 1) for k in range(len(layers))])
    panels[0].legend(list(lines.values()), list(lines), frameon=False, fontsize=7)
    line = (
        "; dotted: mean-field theory from the first kernel on"
        if _expected(signals.isel(scheme=0), "activation") is not None
        else ""
    )
    return _finish(
        figure, signals, "Sizes of signals by layer", f"mean over seeds; band: their range{line}"
    )


def by_step(signals: xr.Dataset) -> "Figure":
    """Root mean square of the gradient at every step of the recurrent kernels, a line for each
    gate."""
    import matplotlib.pyplot as plt

    kernels = np.flatnonzero(signals.role.values == "recurrent")
    schemes = [str(name) for name in signals.scheme.values]
    figure, grid = plt.subplots(
        len(kernels),
        len(schemes),
        figsize=(1.4 + 2.5 * len(schemes), 1 + 2.5 * len(kernels)),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for row, kernel in enumerate(kernels):
        for column, scheme in enumerate(schemes):
            axes = grid[row, column]
            course = signals.sel(scheme=scheme).isel(parameter=kernel).gradient_mean_square ** 0.5
            gates = np.flatnonzero(~np.isnan(course).all(("seed", "step")).values)
            for gate in gates:
                values = course.isel(copy=gate).transpose("seed", "step")
                grey = str(LAST_GREY * gate / max(len(gates) - 1, 1))
                size = values.mean("seed").where(
                    lambda of: of > 0
                )  # before the first state some gates have none
                axes.plot(np.arange(1, values.sizes["step"] + 1), size, color=grey, linewidth=1.1)
            axes.set(yscale="log", xlabel="time step")
            if row == 0:
                axes.set_title(as_text(scheme), fontsize=9)
            if column == 0:
                axes.set_ylabel(
                    f"gradient at\n{as_text(signals.parameter.values[kernel])}\n(root mean square)"
                )
    return _finish(
        figure, signals, "Gradients through time", "a line for each gate, from the first (black) on"
    )


def lens(courses: xr.Dataset) -> "Figure":
    """Back through time, a mark for each scheme: gradients of the states, sizes of the states,
    Jacobians between them.

    `courses` as `survey.through_time` returns them. One row a layer; the Jacobians are those of the
    last one.
    """
    import matplotlib.pyplot as plt

    layers, steps = courses.sizes["layer"], courses.step.values
    figure, grid = plt.subplots(
        layers, 3, figsize=(11, 1.3 + 2.9 * layers), layout="constrained", squeeze=False
    )
    every, lines = max(len(steps) // 8, 1), {}
    for k, scheme in enumerate(courses.scheme.values):
        of = courses.sel(scheme=scheme)
        line: Any = {"color": str(0.6 * k / max(courses.sizes["scheme"] - 1, 1)), "linewidth": 1.1}
        marked = line | {"marker": MARKS[k % len(MARKS)], "markersize": 4, "markevery": every}
        for layer in range(layers):
            gradient = np.sqrt((of.gradient.isel(layer=layer) ** 2).sum("carry")).transpose(
                "seed", "step"
            )
            gradient = gradient.where(gradient > 0)
            lags = steps[-1] - steps
            (lines[as_text(scheme)],) = grid[layer, 0].plot(lags, gradient.mean("seed"), **marked)
            grid[layer, 0].fill_between(
                lags,
                gradient.min("seed"),
                gradient.max("seed"),
                color=line["color"],
                alpha=0.2,
                linewidth=0,
            )
            spread = (of.mean_square - of["mean"] ** 2).isel(layer=layer, carry=0)
            grid[layer, 1].plot(steps, spread.clip(0).mean("seed"), **marked)
            if layer == 0 and not np.isnan(of.expected).all():
                grid[layer, 1].plot(
                    steps,
                    of.expected.mean("seed"),
                    color=line["color"],
                    linewidth=0.9,
                    linestyle=":",
                )
        values = of.jacobian.where(of.jacobian > 0).transpose("seed", "lag", "index")
        middle = (
            np.log10(values.isel(index=0)).mean("seed"),
            np.log10(values.median("index")).mean("seed"),
        )
        grid[-1, 2].plot(courses.lag, 10.0 ** middle[0], **marked | {"markevery": 1})
        grid[-1, 2].plot(courses.lag, 10.0 ** middle[1], **line | {"linestyle": "--"})
    theory_shown = not np.isnan(courses.expected).all()
    for layer in range(layers):
        grid[layer, 0].set(
            yscale="log", xlabel="steps back from the last", ylabel=f"|dC/ds|, layer {layer + 1}"
        )
        note = "; dotted: mean-field" if layer == 0 and theory_shown else ""
        grid[layer, 1].set(yscale="log", xlabel="time step", ylabel=f"variance of h{note}")
        if layer < layers - 1:
            grid[layer, 2].set_visible(False)
    grid[-1, 2].set(
        xscale="log",
        yscale="log",
        xlabel="lag",
        ylabel="singular values of ds_T/ds_t\n(largest; dashed: median)",
    )
    for axes in grid.flat:
        low, high = axes.get_ylim()
        if low < high / 10**FEWEST_DECADES:  # what underflows would press all else together
            axes.set_ylim(high / 10**FEWEST_DECADES, high)
    grid[0, 0].legend(list(lines.values()), list(lines), frameon=False, fontsize=7)
    lengths = ", ".join(f"{name} {memory(courses, name)}" for name in courses.scheme.values)
    note = f"band: range over seeds; steps back until the gradient has fallen to 1/e: {lengths}"
    return _finish(figure, courses, "Through time", note)


def coordinates(found: xr.Dataset) -> "Figure":
    """Sizes of signals against the width or depth, a row for each scheme, a line for each
    parameter."""
    import matplotlib.pyplot as plt

    kinds = {
        "forward": "size of products",
        "update": "size of their changes",
        "gradient": "size of weight gradients",
    }
    schemes, axis = [str(name) for name in found.scheme.values], found.attrs["axis"]
    figure, grid = plt.subplots(
        len(schemes),
        len(kinds),
        figsize=(10, 1.4 + 2.4 * len(schemes)),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey="col",
    )
    sizes, last = found[axis].values, max(found.sizes["parameter"] - 1, 1)
    lines = {}
    for row, scheme in enumerate(schemes):
        for axes, (kind, label) in zip(grid[row], kinds.items(), strict=True):
            for k, parameter in enumerate(found.parameter.values):
                size = found[kind].sel(scheme=scheme, parameter=parameter).transpose(axis, "seed")
                look = {
                    "color": str(LAST_GREY * k / last),
                    "marker": MARKS[k % len(MARKS)],
                    "markersize": 3,
                }
                (lines[as_text(parameter)],) = axes.plot(
                    sizes, size.mean("seed"), linewidth=1, **look
                )
            axes.set(xscale="log", yscale="log", title=as_text(f"{scheme}: {label}"))
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.tick_params(axis="x", which="minor", bottom=False)
    for column in grid.T:
        low, high = column[
            0
        ].get_ylim()  # shared: two decades at least, or a tenth of one looks steep
        short = max(0.0, 1 - np.log10(high / low) / 2)
        column[0].set_ylim(low / 10**short, high * 10**short)
    for axes in grid[-1]:
        axes.set_xlabel("units" if axis == "width" else "layers")
    if found.sizes["parameter"] <= 2 * len(MARKS):
        figure.legend(
            list(lines.values()),
            list(lines),
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=7,
        )
    a = found.attrs
    other = f"{a['layers']} layer(s)" if axis == "width" else f"{a['units']} units"
    note = " (weight gradients fall as 1/width but in the readout)" if axis == "width" else ""
    wider = "narrow to wide" if axis == "width" else "shallow to deep"
    figure.suptitle(
        f"Coordinate check: {as_text(a['model'])}, {other}, {as_text(a['task'])}, {a['optimizer']} "
        f"at rate {a['rate']:g}, {a['steps']} steps, n = {found.sizes['seed']} seeds\nflat lines "
        f"carry rates from {wider}{note}",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return figure


def memory(courses: xr.Dataset, scheme: str) -> str:
    """The memory length of the last layer in steps: its median over seeds, and their range."""
    values = np.sort(courses.memory.sel(scheme=scheme).isel(layer=-1).values)
    shown = [
        f"{value:g}" if np.isfinite(value) else "more than the sequence has" for value in values
    ]
    middle = shown[(len(shown) - 1) // 2]
    return middle if shown[0] == shown[-1] else f"{middle} ({shown[0]} to {shown[-1]})"


def through_training(courses: xr.Dataset, rows: dict[str, str], title: str, note: str) -> "Figure":
    """Statistics of every hidden layer against epochs of training, a column for each scheme, a line
    for each layer.

    `courses` as `engine.run(signals=...)` records them; `rows` maps variables of it to labels.
    Activations are shown as the next kernel sees them, without the inputs; other signals without
    the readout's.
    """
    import matplotlib.pyplot as plt

    schemes = [str(name) for name in courses.scheme.values]
    figure, grid = plt.subplots(
        len(rows),
        len(schemes),
        figsize=(1.6 + 2.9 * len(schemes), 1 + 2.1 * len(rows)),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey="row",
    )
    count = courses.sizes["parameter"]
    for row, (what, label) in enumerate(rows.items()):
        for column, scheme in enumerate(schemes):
            axes = grid[row, column]
            shown = range(1, count) if what.startswith("activation") else range(count - 1)
            for place, k in enumerate(shown):
                values = (
                    courses[what]
                    .sel(scheme=scheme)
                    .isel(parameter=k)
                    .mean(("step", "copy"), skipna=True)
                )
                grey = str(LAST_GREY * place / max(count - 2, 1))
                axes.plot(courses.epoch.values, values, color=grey, linewidth=1.2)
            if row == 0:
                axes.set_title(as_text(scheme), fontsize=9)
            if column == 0:
                axes.set_ylabel(label)
            if row == len(rows) - 1:
                axes.set_xlabel("epochs")
    figure.suptitle(
        as_text(f"{title}\n{note}") + "\nblack: the first hidden layer, light grey: the last",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure


def _expected(of: xr.Dataset, signal: str) -> NDArray[np.floating] | None:
    """Root mean squares by mean-field theory for a plain net, from the first product on and the
    last gradient back."""
    name = of.attrs["activation"]
    plain = of.attrs["model"] == "mlp" and name in theory.ACTIVATIONS
    if not plain or signal == "weight_gradient":
        return None
    mean = lambda what: (
        of[what]
        .mean([axis for axis in ("seed", "step", "copy") if axis in of.dims], skipna=True)
        .values
    )
    spread = mean("weight_mean_square")
    q = [float(mean("product_mean_square")[0])]
    activation = [float(mean("activation_mean_square")[0])]
    slopes = []
    for k in range(1, len(spread)):
        activation.append(theory.variance_map(name, q[-1], 1.0))
        slopes.append(theory.chi(name, 1.0, q[-1]))
        q.append(float(of.fan_in[k] * spread[k]) * activation[-1])
    if signal == "activation":
        return np.sqrt(activation)
    back = [float(mean("gradient_mean_square")[-1])]
    for k in range(len(spread) - 1, 0, -1):
        back.append(back[-1] * float(of.fan_out[k] * spread[k]) * slopes[k - 1])
    return np.sqrt(back[::-1])


def _finish(figure: "Figure", signals: xr.Dataset, title: str, note: str) -> "Figure":
    a = signals.attrs
    what = (
        f"{a['model']}, {a['layers']} layer(s) of {a['hidden']} units, {a['activation']}, "
        f"{a['task']}"
    )
    figure.suptitle(
        as_text(
            f"{title}\n{what}; {a['examples']} examples, n = {signals.sizes['seed']} seeds\n{note}"
        ),
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure
