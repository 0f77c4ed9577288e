"""What Xavier does in a recurrent network, sentence by sentence: claims A1 to A3, A8, A12, A13.

A1: N(0, 1/fan_in) keeps signals; A2: with Whh ~ N(0, 1/n) the variance of the state stays near 1;
A3: an RNN of T steps is like a T-layer net, and "the variance of Whh above 1" explodes (which
quantity is it?); A8: sqrt(1/input size) normalizes for the vocabulary (what of one-hot inputs?);
A12: orthogonal matrices preserve norms exactly; A13: Xavier is the safe default for sigmoid and
tanh.

    python experiments/xavier_rnn.py                 quick: 64 and 256 units before training, digits by rows; minutes
    python experiments/xavier_rnn.py --size smoke    seconds: checks that all of it works
    python experiments/xavier_rnn.py --size paper    more seeds, wider: for an accelerator

Expect at quick: weights of variance 1/fan_in (A1), but a state of mean square 0.24 after 50 steps,
where mean-field theory puts its fixed point (A2: not near 1); in a linear network the gradient
changes by half of log10(n Var) decades a step at either width, so n times the variance, not the
entry's, is what counts, and under tanh it vanishes at n Var = 1.56 too (A3); one-hot inputs give
sums of mean square 1/vocabulary, not 1 (A8); an orthogonal matrix keeps norms exactly in a linear
network and loses four decades in 50 steps of tanh (A12).
Orthogonal needs 3.5 epochs under tanh, Xavier more than 8.7 (4 of 5 seeds arrive), and He is the
slower one under ReLU (A13, A11).
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim
from jaxinit.initializers import lecun, normal, orthogonal, vector
from jaxinit.reproduce import faster, finish, main_of, rows_of, run_all, times
from jaxinit.spec import Initializer, Leaf
from jaxinit.study import Study

LOOKED_AT = Study(
    model="rnn",
    task="adding",
    length=50,
    schemes=("xavier_rnn",),
    baseline="xavier_rnn",
    hidden=256,
    seeds=4,
)
TRAINED = Study(
    model="rnn",
    hidden=64,
    schemes=("xavier_rnn", "glorot_uniform", "orthogonal", "he_normal", "small_normal"),
    baseline="small_normal",
    lrs=(0.03, 0.1, 0.3, 1.0, 3.0),
    seeds=5,
    tune_seeds=2,
    epochs=25,
    evaluations=4,
)
GAINS = (0.8, 1.0, 1.25)


@dataclass(frozen=True)
class Size:
    """The network looked at before training, another width for A3, and the study trained with each
    activation."""

    start: Study
    width: int
    trained: Study


SIZES = {
    "smoke": Size(
        replace(LOOKED_AT, hidden=16, length=10, seeds=2),
        8,
        replace(TRAINED, hidden=8, seeds=2, epochs=1),
    ),
    "quick": Size(LOOKED_AT, 64, TRAINED),
    "paper": Size(
        replace(LOOKED_AT, hidden=1024, length=200, seeds=10),
        256,
        replace(TRAINED, hidden=512, seeds=20),
    ),
}


def recurrent(init: Initializer) -> Any:
    """`init` for the recurrent matrix, N(0, 1/fan_in) elsewhere, zero biases."""

    def scheme(leaf: Leaf) -> Initializer:
        return init if leaf.role == "recurrent" else vector(leaf) or lecun("normal")

    return scheme


def answer(size: Size, out: Path) -> int:
    from jaxinit.engine import sweep

    sweep.one_device_per_core()
    sweep.keep_compilations()
    claims = sizes_of_signals(size.start) + gradients(size) + norms(size.start)
    studies = {phi: replace(size.trained, activation=phi) for phi in ("tanh", "sigmoid", "relu")}
    results = run_all(studies, out)
    for phi in ("tanh", "sigmoid"):
        result = results[phi]
        arrived = times(result, "xavier_rnn").event.astype(float)
        what = f"{phi}: share of seeds that arrive under Xavier, N(0, 1/fan_in)"
        claims.append(
            make_claim("A13", what, arrived, "safe", (0.999, 1.0), "each at its best rate")
        )
        rows = {row["scheme"]: row["epochs"] for row in result.summary["table"]}
        fastest = min(rows, key=lambda name: rows[name])
        what = f"{phi}: times fewer epochs, Xavier against the fastest, {fastest}"
        pair = (result, "xavier_rnn"), (result, fastest)
        claims.append(faster("A13", what, *pair, "the default", (0.8, math.inf)))
    pair = (results["relu"], "he_normal"), (results["relu"], "xavier_rnn")
    claims.append(
        faster(
            "A11",
            "relu: times fewer epochs, He against Xavier",
            *pair,
            "He for ReLU",
            (1.05, math.inf),
        )
    )
    return finish(
        out,
        rows_of(results),
        claims,
        studies,
        "Xavier and the others in a vanilla RNN: epochs to 97 %",
    )


def sizes_of_signals(study: Study) -> list[Claim]:
    """A1, A2 and A8: variances of weights, sums and states."""
    from jaxinit.engine.survey import survey, through_time

    found = survey(study).sel(scheme="xavier_rnn")
    kernel = found.sel(parameter="layers.0.recurrent")
    spread = kernel.weight_mean_square.isel(step=0, copy=0) * float(kernel.fan_in)
    gain = (
        kernel.product_mean_square.isel(copy=0) / kernel.activation_mean_square.isel(copy=0)
    ).isel(step=-1)
    course = through_time(study).sel(scheme="xavier_rnn")
    state = course.mean_square.isel(layer=0, carry=0, step=-1)
    n = f"{study.hidden} tanh units, {study.length} steps of adding, before training"
    claims = [
        make_claim("A1", "fan_in times the variance of Whh", spread, "1", (0.97, 1.03), n),
        make_claim(
            "A1",
            "mean square of h Whh over that of h",
            gain,
            "1: neither amplified nor squashed",
            (0.9, 1.1),
            n,
        ),
        make_claim(
            "A2",
            "mean square of the state after the last step",
            state,
            "stays near 1",
            (0.8, 1.2),
            n,
        ),
        make_claim(
            "A2",
            "the same by mean-field theory",
            course.expected.isel(step=-1),
            "its own fixed point",
            (0.0, 0.8),
            n,
        ),
    ]
    text = survey(replace(study, task="text", length=20, hidden=min(study.hidden, 128))).sel(
        scheme="xavier_rnn"
    )
    for name, of, published, band in (
        ("dense inputs (adding)", found, "1: normalized", (0.5, 2.0)),
        ("one-hot characters", text, "1: normalized", (0.5, 2.0)),
    ):
        into = of.sel(parameter="layers.0.input")
        given = into.activation_mean_square.mean(("step", "copy"), skipna=True)
        square = into.product_mean_square.mean(("step", "copy"), skipna=True)
        if name.startswith("dense"):
            square = square / given
        what = f"{name}: mean square of x Wxh" + (
            " over that of an input" if name.startswith("dense") else ""
        )
        claims.append(make_claim("A8", what, square, published, band, f"{int(into.fan_in)} inputs"))
    return claims


def gradients(size: Size) -> list[Claim]:
    """A3: the slope of the gradient through time against the size of Whh, for two widths, linear
    and tanh."""
    from jaxinit.engine.survey import through_time

    claims = []
    for n in (size.width, size.start.hidden):
        for gain in GAINS:
            schemes = {"g": recurrent(normal(gain / math.sqrt(n)))}
            for phi in ("linear", "tanh"):
                study = replace(size.start, hidden=n, activation=phi, schemes=("g",), baseline="g")
                course = (
                    through_time(study, schemes=schemes)
                    .gradient.sel(scheme="g")
                    .isel(layer=0, carry=0)
                )
                logs = np.log10(np.maximum(course.transpose("seed", "step").values, 1e-18))
                slope = -np.polyfit(np.arange(logs.shape[1]), logs.T, 1)[0]
                expected = math.log10(gain)
                what = (
                    f"{n} units, {phi}, n Var = {gain**2:.2f}, entry variance {gain**2 / n:.4f}: "
                    "decades per step back"
                )
                note = (
                    "linear: half of log10(n Var), whatever the entry variance; tanh: less, by "
                    "its slopes"
                )
                band = (expected - 0.02, expected + 0.02)
                published = "explodes above a variance of 1, vanishes below"
                claims.append(make_claim("A3", what, slope, published, band, note))
    return claims


def norms(study: Study) -> list[Claim]:
    """A12: singular values of ds_T/ds_1 under an orthogonal matrix, linear and tanh."""
    from jaxinit.engine.survey import through_time

    claims = []
    for phi in ("linear", "tanh"):
        one = replace(study, activation=phi, schemes=("o",), baseline="o", seeds=2)
        of = (
            through_time(one, schemes={"o": recurrent(orthogonal())})
            .jacobian.sel(scheme="o")
            .isel(lag=-1)
        )
        for name, values in (("largest", of.max("index")), ("smallest", of.min("index"))):
            what = (
                f"{phi}: {name} singular value of the state's Jacobian over {study.length} steps, "
                "orthogonal"
            )
            claims.append(
                make_claim("A12", what, values, "1: norms exactly preserved", (0.999, 1.001), "")
            )
    return claims


main = main_of("xavier_rnn", __doc__, SIZES, answer)

if __name__ == "__main__":
    sys.exit(main())
