"""How LoRA starts: A random and B = 0 (Init[A]), A = 0 and B random (Init[B]), both made of the
kernel (PiSSA, OLoRA), or both random (claims B1, B6, D3; not at the published scale).

The questions: does an adapted model begin as the model itself (B6); does Init[A] allow a larger
rate and converge sooner, as Hayou et al. (2024) say on average (B1); does its largest stable rate
fall with the width n as n^(-1/2) where Init[B]'s falls as n^(-1); and do PiSSA (Meng et al. 2024),
OLoRA (Büyükakyüz 2024) and orthogonal factors converge more rapidly than Init[A] (D3)? On a linear
layer with a teacher of low rank (B1), and on a character model that is trained here and then
adapted to the same text with small and capital letters swapped.

    python experiments/lora_init.py                 quick: layers of 64 to 4096, a model of width 32; minutes on 2 cores
    python experiments/lora_init.py --size smoke    seconds: checks that all of it works
    python experiments/lora_init.py --size paper    layers to 16384, a model of width 512: for an accelerator

Epochs to a target are those of each initialization at its own best rate, searched for on a ladder.
All seeds begin at one trained model, of which every kernel is adapted, tables too. PiSSA and OLoRA
draw nothing: their seeds differ by the order of the examples. On linear layers, whose rates are an
octave apart, teacher, factors and inputs are drawn for every seed. Departures: a small character
model and a linear layer in place of language models, not at the published scale; the new text
differs from the old by its letters only. CorDA, of which D3 speaks too, is not measured: it needs
the covariance of each kernel's inputs. Size paper adds width and steps.

Expect at quick (2026-11-29, 315 s on 2 cores; all claims and intervals: docs/results.md):
- B1: Init[A]: slope of the largest stable rate against the width: -1.12 (-1.27 to -0.978); at least
  -0.7: does not hold; at most -0.3: holds.
- B1: Init[B]: slope of the largest stable rate against the width: -1.56 (-1.78 to -1.34); at least
  -1.2: does not hold; at most -0.8: holds.
- B1: slope of the largest stable rate of Init[A] over that of Init[B] against the width: 0.433
  (0.184 to 0.683); at least 0.25: open.
- B1: slope of the best rate of Init[A] over that of Init[B] against the width: 1.13 (1.04 to 1.23);
  at least 0.25: holds.
- B1: 64 inputs and outputs: octaves between the best rates of Init[A] and Init[B]: -6 (-6 to -6);
  at least 0.5: does not hold.
- B1: 64 inputs and outputs: decades between the losses of Init[B] and Init[A], each at its best
  rate: 2.1 (1.84 to 2.35); at least 0.02: holds.
- B1: 256 inputs and outputs: octaves between the best rates of Init[A] and Init[B]: -3 (-3.66 to
  -2.34); at least 0.5: does not hold.
- B1: 256 inputs and outputs: decades between the losses of Init[B] and Init[A], each at its best
  rate: 1.06 (0.628 to 1.48); at least 0.02: holds.
- and 18 more claims.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, make_claim, near
from jaxinit.reproduce import (
    Results,
    Side,
    alone,
    as_one,
    faster,
    finish,
    make_main,
    optimum,
    rows_of,
    run_all,
    seeds_of_run,
    smoke,
    train_first,
)
from jaxinit.study import Study

if TYPE_CHECKING:
    from jaxinit.finetune.trained import Trained

OF_KERNELS = ("pissa", "olora")  # starts whose factors are made of the trained kernels
TRAINED = Study(
    model="transformer",
    hidden=32,
    layers=2,
    task="as_it_is",
    length=32,
    schemes=("xavier_transformer",),
    baseline="xavier_transformer",
    optimizer="adam",
    lrs=(0.003,),
    epochs=12,
    evaluations=2,
)
ADAPTED = replace(
    TRAINED,
    model="adapted",
    task="swapped",
    schemes=("init_a", "init_a_gaussian", "init_b", "lora_orthogonal", *OF_KERNELS),
    baseline="init_a",
    search="ladder",
    lrs=(),
    seeds=5,
    epochs=4,
    evaluations=6,
    target=3.2,
)
# A grid: the best rate of every seed is asked for, by the training loss after a fixed time.
AT_RATES = replace(
    ADAPTED,
    schemes=("init_a", "init_b"),
    search="grid",
    lrs=(0.001, 0.003, 0.01, 0.03, 0.1),
    seeds=2,
    tune_seeds=5,
    epochs=2,
    evaluations=1,
    target=0.1,  # out of reach
)
LARGER = 0.58  # octaves: 1.5 times


@dataclass(frozen=True)
class Size:
    """What is trained, how it is adapted and at which rank, the study of the rates; draws before
    the first step; the layers of the teacher, their seeds and steps."""

    trained: Study
    adapted: Study
    rates: Study
    rank: int
    draws: int
    widths: tuple[int, ...]
    seeds: int
    steps: int


SIZES = {
    "smoke": Size(
        smoke(TRAINED, layers=1),
        smoke(ADAPTED, layers=1),
        smoke(AT_RATES, layers=1, lrs=AT_RATES.lrs[1:4], tune_seeds=2),
        2,
        2,
        (16, 32),
        2,
        20,
    ),
    "quick": Size(TRAINED, ADAPTED, AT_RATES, 4, 5, (64, 256, 1024, 4096), 6, 200),
    "paper": Size(
        replace(TRAINED, hidden=512, layers=8, epochs=100),
        replace(ADAPTED, hidden=512, layers=8, seeds=10, epochs=20),
        replace(AT_RATES, hidden=512, layers=8, tune_seeds=10, epochs=5),
        8,
        10,
        (64, 256, 1024, 4096, 16384),
        10,
        1000,
    ),
}


def measure(size: Size, out: Path) -> int:
    claims = on_layers(size)
    trained = train_first(size.trained, out, TASKS)
    models, schemes = starts(trained, size.rank)
    reports = step_zero(size, trained, models, schemes)
    full = replace(
        size.adapted,
        model="transformer",
        schemes=("pretrained", "xavier_transformer"),  # all of the trained model, and a new one
        baseline="xavier_transformer",
    )
    lora = {}
    for name in size.adapted.schemes:
        model = name if name in OF_KERNELS else "adapted"
        lora[name] = alone(size.adapted, name, model=model)
    studies = lora | {"full": full, "rates": size.rates}
    results = run_all(studies, out, schemes=schemes, tasks=TASKS, models=models)
    sides = {name: (results[name], name) for name in lora}
    claims += on_step_zero(reports) + on_training(results, sides) + on_starts(sides)
    title = f"Adapting to swapped letters: epochs to {size.adapted.target:g} bits per character"
    rows = as_one({name: results[name] for name in lora}, "LoRA", size.adapted.baseline)
    # Of the study of the rates epochs to a target are not the question.
    rows += rows_of({"full": results["full"]})
    return finish(out, studies, results, claims, title, rows=rows, step_zero=reports)


def starts(trained: "Trained", rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Models by name, and schemes: the trained model with LoRA of a rank, four initializations of
    its factors, those made of its kernels, and the trained model as it is.

    Factors made of kernels leave another rest frozen, so that each kind is a model of its own.
    """
    from flax import nnx

    from jaxinit import finetune, introspect

    base = trained.resolved.model.filled(trained.values)

    def adapted(factors: Any = None) -> Callable[..., Any]:
        # What a study gives is as in the trained model, and its schemes draw the factors.
        def make(*sizes: int, **options: Any) -> Any:
            return finetune.LoRA(base, rank, factors=factors, rngs=nnx.Rngs(0))

        return make

    models = {"adapted": adapted()}
    schemes = {
        "init_a": finetune.lora_kaiming,
        "init_a_gaussian": finetune.lora_gaussian,
        "init_b": finetune.lora_init_b,
        "lora_orthogonal": finetune.lora_orthogonal,
        "pretrained": finetune.pretrained(trained.values, finetune.lora_kaiming),
    }
    for name in OF_KERNELS:
        models[name] = adapted(getattr(finetune, name))
        values = introspect.values(models[name]())
        schemes[name] = finetune.pretrained(values, finetune.lora_kaiming)
    return models, schemes


def step_zero(
    size: Size, trained: "Trained", models: dict[str, Any], schemes: dict[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """What each initialization of the factors does to the trained model before the first step, a
    number for each draw."""
    import jax

    from jaxinit import finetune
    from jaxinit.introspect import functional
    from jaxinit.spec import draw

    task = trained.resolved.task
    data = TASKS["swapped"](size.adapted.length).data
    batch = data["valid_x"][:64], data["valid_y"][:64]
    before = trained.resolved.model.apply(trained.values, batch[0])
    # One of each, so that a kind is compiled once.
    made = {name: functional(make) for name, make in models.items()}
    reports: dict[str, dict[str, list[float]]] = {}
    for name in size.adapted.schemes:
        model = made.get(name, made["adapted"])
        shifts, into_a, into_b = [], [], []
        for seed in seeds_of_run(size.draws):
            params = draw(schemes[name], jax.random.key(seed), model.leaves)
            report = finetune.step_zero(before, model.apply, params, batch, task.loss, ("lora_*",))
            shifts.append(report.shift)
            into_a.append(norm_into("_a", report.gradient))
            into_b.append(norm_into("_b", report.gradient))
        reports[name] = {"shift": shifts, "gradient_in_a": into_a, "gradient_in_b": into_b}
        print(
            f"step 0, {name}: shift {np.max(shifts):.2g}, gradient norm into A "
            f"{np.mean(into_a):.3g}, B {np.mean(into_b):.3g}"
        )
    return reports


def norm_into(factor: str, norms: dict[str, float]) -> float:
    """The norm of the gradient into all factors A (`_a`) or B (`_b`), of the norms by parameter."""
    own = [norm for leaf, norm in norms.items() if factor in leaf]
    return float(np.linalg.norm(own))


def on_step_zero(reports: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """B6: an adapted model begins as the model itself."""
    claims = []
    for name, report in reports.items():
        statement = f"{name}: shift of the outputs at step 0, over their spread"
        note = "64 windows of the new text"
        # No draw has a say in it but by rounding: what is added to the model is 0.
        band, shift = (0.0, 1e-5), report["shift"]
        claims.append(make_claim("B6", statement, shift, "0", band, note, exact=True))
    return claims


def on_training(results: Results, sides: dict[str, Side]) -> list[Claim]:
    """B1 on the character model: best rates, and epochs to the target."""
    full, rates = results["full"], results["rates"]
    study = rates.study
    statement = "octaves between the best rates of Init[A] and Init[B]"
    apart = optimum(rates, "init_a") - optimum(rates, "init_b")
    note = f"character model, training loss after {study.epochs} epochs, {len(study.lrs)} rates"
    claims = [make_claim("B1", statement, apart, "above 0", at_least(LARGER), note)]
    init_a, init_b, gaussian = sides["init_a"], sides["init_b"], sides["init_a_gaussian"]
    pretrained, anew = (full, "pretrained"), (full, "xavier_transformer")
    average = "at least as fast, on average"
    pairs = (
        ("Init[A] against Init[B]", init_a, init_b, average),
        ("Gaussian A against Kaiming's", gaussian, init_a, "no number"),
        ("Init[A] against training all of the trained model", init_a, pretrained, "no number"),
        ("the trained model against a new one", pretrained, anew, "no number"),
    )
    for pair, side, against, published in pairs:
        statement = f"times fewer epochs, {pair}"
        band, family = at_least(1.05), len(pairs)
        claims.append(faster("B1", statement, side, against, published, band, family=family))
    return claims


def on_starts(sides: dict[str, Side]) -> list[Claim]:
    """D3: starts from which both factors learn at once, against Init[A]."""
    rapidly = "converges more rapidly"
    starts = (
        ("PiSSA", "pissa", rapidly),
        ("OLoRA", "olora", rapidly),
        ("orthogonal factors", "lora_orthogonal", "no number"),
    )
    against, band, family = sides["init_a"], at_least(1.0), len(starts)
    claims = []
    for start, name, published in starts:
        statement = f"times fewer epochs, {start} against Init[A]"
        side = sides[name]
        claims.append(faster("D3", statement, side, against, published, band, family=family))
    return claims


def of_text(swapped: bool) -> Any:
    """The embedded text as it is, or with small and capital letters swapped, in the vocabulary of
    both."""
    from jaxinit.tasks.text import bits, encode, next_token, read

    def make(length: int = 32) -> Any:
        content = read(None)
        # Of both, so that the adapted model has the tables of the trained one.
        vocabulary = sorted({*content, *content.swapcase()})
        name = "as_it_is"
        if swapped:
            name, content = "swapped", content.swapcase()
        numbers = encode(content, vocabulary)
        return next_token(
            name, numbers, len(vocabulary), length, bits, "validation bits per character"
        )

    return make


TASKS = {"as_it_is": of_text(swapped=False), "swapped": of_text(swapped=True)}
RATES = 2.0 ** np.arange(-10, 7)  # on the linear layer


def on_layers(size: Size) -> list[Claim]:
    """B1 on a linear layer: how stable and best rates go with the width, and which initialization
    ends lower."""
    octaves = np.log2(RATES)
    ends, best, stable = {}, {}, {}
    for init in "AB":
        # [width, rate, seed]
        by_width = np.stack([layer_losses(size, n, init) for n in size.widths])
        ends[init] = np.nan_to_num(by_width, nan=np.inf)  # one that diverged is never the best
        best[init] = octaves[ends[init].argmin(1)]
        # The largest rate that ends below the loss at the beginning: the first one from the end.
        is_stable = ends[init] <= 1
        from_the_end = is_stable[:, ::-1].argmax(1)
        stable[init] = octaves[len(RATES) - 1 - from_the_end]
    note = (
        f"linear layers of {size.widths[0]} to {size.widths[-1]}, rank {size.rank}, {size.steps} "
        "steps of Adam, rates an octave apart"
    )
    widths = np.log2(size.widths)
    claims = []
    for init, expected in (("A", -0.5), ("B", -1.0)):
        slope = np.polyfit(widths, stable[init], 1)[0]
        statement = f"Init[{init}]: slope of the largest stable rate against the width"
        claims.append(
            make_claim("B1", statement, slope, f"{expected:g}", near(expected, 0.2), note)
        )
    for kind, rates in (("largest stable", stable), ("best", best)):
        slope = np.polyfit(widths, rates["A"] - rates["B"], 1)[0]
        statement = f"slope of the {kind} rate of Init[A] over that of Init[B] against the width"
        claims.append(make_claim("B1", statement, slope, "0.5: grows", at_least(0.25), note))
    for k, n in enumerate(size.widths):
        statement = f"{n} inputs and outputs: octaves between the best rates of Init[A] and Init[B]"
        apart = best["A"][k] - best["B"][k]
        claims.append(make_claim("B1", statement, apart, "above 0", at_least(0.5), note))
        statement = (
            f"{n} inputs and outputs: decades between the losses of Init[B] and Init[A], each at "
            "its best rate"
        )
        lead = np.log10(ends["B"][k].min(0) / ends["A"][k].min(0))
        claims.append(
            make_claim("B1", statement, lead, "at least 0, on average", at_least(0.02), note)
        )
    return claims


def layer_losses(size: Size, n: int, init: str) -> np.ndarray:
    """The mean of the last ten losses over the first, on a teacher of low rank: `[rate, seed]`.

    A loop of its own: teacher and inputs are drawn anew for every seed and step, where the engine's
    tasks are one for all trials of a study; and a trial that diverges has to go on, since what is
    asked is the rate from which on it does. All rates of a seed have the same teacher and inputs.
    """
    import jax
    import jax.numpy as jnp
    import optax

    rank, adam = size.rank, optax.scale_by_adam()

    def trial(key: Any, rate: Any) -> Any:
        keys = jax.random.split(key, 4)
        into = jax.random.normal(keys[0], (n, rank))
        out = jax.random.normal(keys[1], (rank, n)) / (n * rank) ** 0.5
        # The random factor is N(0, 1/fan_in).
        if init == "A":
            a = jax.random.normal(keys[2], (n, rank)) / n**0.5
            b = jnp.zeros((rank, n))
        else:
            a = jnp.zeros((n, rank))
            b = jax.random.normal(keys[2], (rank, n)) / rank**0.5

        def cost(factors: Any, x: Any) -> Any:
            a, b = factors
            return jnp.mean((x @ a @ b - x @ into @ out) ** 2)

        def step(state: Any, key: Any) -> Any:
            factors, moments = state
            x = jax.random.normal(key, (64, n))
            value, slopes = jax.value_and_grad(cost)(factors, x)
            updates, moments = adam.update(slopes, moments)
            factors = jax.tree.map(lambda w, u: w - rate * u, factors, updates)
            return (factors, moments), value

        factors = (a, b)
        state = factors, adam.init(factors)
        _, losses = jax.lax.scan(step, state, jax.random.split(keys[3], size.steps))
        return jnp.mean(losses[-10:]) / losses[0]

    @jax.jit
    def at_all_rates(key: Any) -> Any:
        # Mapped over rates inside a seed, so that inputs and targets are made once for all rates.
        return jax.vmap(lambda rate: trial(key, rate))(jnp.asarray(RATES, jnp.float32))

    by_seed = []
    with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
        for seed in seeds_of_run(size.seeds):
            by_seed.append(np.asarray(at_all_rates(jax.random.key(seed))))
    return np.stack(by_seed, axis=1)


main = make_main("lora_init", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
