"""LoRA's two starts: A random and B = 0 (Init[A]), or A = 0 and B random (Init[B]) (claims B1, B6,
B9).

The questions: does an adapted model start as the model itself (B6, B9); does Init[A] allow a larger
rate and arrive sooner, as Hayou et al. (2024) say on average (B1); and does its largest stable rate
fall with the width n as n^(-1/2) where Init[B]'s falls as n^(-1)? On a linear layer with a teacher
of low rank, and on a character model that is trained here and then adapted to the same text with
small and capital letters swapped.

    python experiments/lora_init.py                 quick: layers of 64 to 4096, a model of width 64; minutes on 2 cores
    python experiments/lora_init.py --size smoke    seconds: checks that all of it works
    python experiments/lora_init.py --size paper    layers to 16384, a model of width 512: for an accelerator

Expect at quick: no output moves before the first step (1e-6 of their spread), and the factor that
is 0 has a gradient of 1.4 to 1.8 where the other has none. On the character model (on the text
before 2026-11-25; 8 seeds) the best rate of Init[A] is that of Init[B], and it is no faster (0.97
times, 0.94 to 1.01); a Gaussian A of 1/rank is 1.30 times (1.20 to 1.42) faster than Kaiming's;
training all of the trained model is twice as fast as adapting it (0.49, 0.47 to 0.52), and at least
6.6 times faster than training a new one. On linear layers (4 seeds, 200 steps of Adam) Init[A] ends
lower at every width, 70 times at 64 inputs and 11 times at 4096, but at a smaller rate:
Init[B]'s best rate is the larger one by 5.3 octaves at 64, 3.0 at 256, 0.8 at 1024, and level with
it at 4096 (0.3 octaves the other way, -0.5 to 1.0). The largest stable rate falls as n to the -1.0
(-1.2 to -0.8) under Init[A] and -1.5 (-2.0 to -1.0) under Init[B], both half a power steeper than
published (-0.5 and -1).
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis import table
from jaxinit.analysis.claims import Claim, make_claim
from jaxinit.reproduce import faster, finish, main_of, rows_of, run_all
from jaxinit.study import Study

TRAINED = Study(
    model="transformer",
    hidden=64,
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
    schemes=("init_a", "init_a_gaussian", "init_b"),
    baseline="init_b",
    lrs=(0.001, 0.003, 0.01, 0.03, 0.1),
    seeds=8,
    tune_seeds=2,
    epochs=3,
    evaluations=13,
    target=3.2,
)


@dataclass(frozen=True)
class Size:
    """What is trained, how it is adapted and at which rank, and the layers of the teacher."""

    trained: Study
    adapted: Study
    rank: int
    widths: tuple[int, ...]
    seeds: int
    steps: int


SIZES = {
    "smoke": Size(
        replace(TRAINED, hidden=16, layers=1, epochs=1),
        replace(ADAPTED, hidden=16, layers=1, lrs=(0.01,), seeds=2, epochs=1),
        2, (16, 32), 2, 20,
    ),
    "quick": Size(TRAINED, ADAPTED, 4, (64, 256, 1024, 4096), 4, 200),
    "paper": Size(
        replace(TRAINED, hidden=512, layers=8, epochs=100), replace(ADAPTED, hidden=512, layers=8, seeds=10, epochs=20),
        8, (64, 256, 1024, 4096, 16384), 10, 1000,
    ),
}  # fmt: skip


def measure(size: Size, out: Path) -> int:
    import jax
    from flax import nnx

    from jaxinit import finetune
    from jaxinit.engine import sweep
    from jaxinit.finetune import checkpoint
    from jaxinit.introspect import functional
    from jaxinit.models import Transformer
    from jaxinit.spec import draw

    sweep.one_device_per_core()
    sweep.keep_compilations()
    claims = on_layers(size)
    trained = finetune.pretrain(size.trained, tasks=TASKS)
    checkpoint.save_checkpoint(out / "trained.safetensors", trained.values)
    print(f"trained to {trained.metric:.3g} bits per character")

    def adapted(in_features: int, hidden: int, out_features: int, *, layers: int, readout: Any, length: int,
                rngs: nnx.Rngs):  # fmt: skip
        base = Transformer(
            in_features, hidden, out_features, layers=layers, readout=readout, length=length, rngs=rngs,
            init=finetune.pretrained(trained.values, finetune.lora_kaiming),
        )  # fmt: skip
        return finetune.LoRA(base, size.rank, rngs=rngs)

    own = {
        "init_a": finetune.lora_kaiming,
        "init_a_gaussian": finetune.lora_gaussian,
        "init_b": finetune.lora_init_b,
        "pretrained": finetune.pretrained(trained.values, finetune.lora_kaiming),
    }
    data = TASKS["swapped"](size.adapted.length).data
    batch = data["valid_x"][:64], data["valid_y"][:64]
    before = trained.resolved.model.apply(trained.values, batch[0])
    task, study = trained.resolved.task, size.adapted
    options: Any = {"layers": study.layers, "readout": "all", "length": study.length}
    model = functional(
        lambda: adapted(
            task.in_features, study.hidden, task.out_features, rngs=nnx.Rngs(0), **options
        )
    )
    reports = {}
    for name in study.schemes:
        start = draw(own[name], jax.random.key(0), model.leaves)
        report = finetune.step_zero(before, model.apply, start, batch, task.loss, ("lora_*",))
        reports[name] = report._asdict()
        sizes = {
            of: np.linalg.norm([g for name, g in report.gradient.items() if of in name])
            for of in ("_a", "_b")
        }
        print(
            f"step 0, {name}: shift {report.shift:.2g}, gradient norm into A {sizes['_a']:.3g}, B "
            f"{sizes['_b']:.3g}"
        )
        what = f"{name}: shift of the outputs at step 0, over their spread"
        claims.append(
            make_claim("B6", what, report.shift, "0", (0.0, 1e-5), "64 windows of the new text")
        )
    studies = {
        "LoRA": study,
        "full": replace(
            study,
            model="transformer",
            schemes=("pretrained", "xavier_transformer"),
            baseline="xavier_transformer",
        ),
    }
    results = run_all(studies, out, schemes=own, tasks=TASKS, models={"adapted": adapted})
    records = results["LoRA"].records
    ratio = table.best_rate(records, "init_a") / table.best_rate(records, "init_b")
    note = "character model; rates are a factor of 3 apart"
    claims.append(
        make_claim(
            "B1", "best rate of Init[A] over that of Init[B]", ratio, "above 1", (1.5, np.inf), note
        )
    )
    lora, full = results["LoRA"], results["full"]
    for what, of, against, published in (
        (
            "Init[A] against Init[B]",
            (lora, "init_a"),
            (lora, "init_b"),
            "at least as fast, on average",
        ),
        ("Gaussian A against Kaiming's", (lora, "init_a_gaussian"), (lora, "init_a"), "no number"),
        (
            "Init[A] against training all of the trained model",
            (lora, "init_a"),
            (full, "pretrained"),
            "no number",
        ),
        (
            "the trained model against a new one",
            (full, "pretrained"),
            (full, "xavier_transformer"),
            "no number",
        ),
    ):
        claims.append(
            faster("B1", f"times fewer epochs, {what}", of, against, published, (1.05, np.inf))
        )
    title = f"Adapting to swapped letters: epochs to {study.target:g} bits per character"
    return finish(out, rows_of(results), claims, studies, title, step_zero=reports)


def of_text(swapped: bool) -> Any:
    """The embedded text as it is, or with small and capital letters swapped, in the vocabulary of
    both."""
    from jaxinit.tasks.text import bits, encode, next_token, read

    def make(length: int = 32) -> Any:
        content = read(None)
        vocabulary = sorted({*content, *content.swapcase()})
        numbers = encode(content.swapcase() if swapped else content, vocabulary)
        name = "swapped" if swapped else "as_it_is"
        return next_token(
            name, numbers, len(vocabulary), length, bits, "validation bits per character"
        )

    return make


TASKS = {"as_it_is": of_text(swapped=False), "swapped": of_text(swapped=True)}


def on_layers(size: Size) -> list[Claim]:
    """B1 on a linear layer: how stable and best rates go with the width, and which start ends
    lower."""
    import jax
    import jax.numpy as jnp
    import optax

    rates = 2.0 ** np.arange(-10, 7)
    rank = size.rank

    def losses(n: int, init: str) -> np.ndarray:
        def trial(rate: Any, key: Any) -> Any:
            keys = jax.random.split(key, 4)
            into, out = (
                jax.random.normal(keys[0], (n, rank)),
                jax.random.normal(keys[1], (rank, n)) / (n * rank) ** 0.5,
            )
            random = jax.random.normal(keys[2], (n, rank) if init == "A" else (rank, n))
            a, b = (
                (random / n**0.5, jnp.zeros((rank, n)))
                if init == "A"
                else (jnp.zeros((n, rank)), random / rank**0.5)
            )
            cost = lambda ab, x: jnp.mean((x @ ab[0] @ ab[1] - x @ into @ out) ** 2)
            adam = optax.scale_by_adam()

            def step(state: Any, key: Any) -> Any:
                ab, opt = state
                value, slopes = jax.value_and_grad(cost)(ab, jax.random.normal(key, (64, n)))
                updates, opt = adam.update(slopes, opt)
                return (jax.tree.map(lambda w, u: w - rate * u, ab, updates), opt), value

            courses = jax.lax.scan(
                step, ((a, b), adam.init((a, b))), jax.random.split(keys[3], size.steps)
            )[1]
            return jnp.mean(courses[-10:]) / courses[0]

        seeds = jax.random.split(jax.random.key(0), size.seeds)
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            over_seeds = jax.jit(lambda rate: jax.lax.map(lambda key: trial(rate, key), seeds))
            return np.asarray([over_seeds(jnp.float32(rate)) for rate in rates])

    found, best, stable = {}, {}, {}
    for init in "AB":
        found[init] = np.nan_to_num(np.stack([losses(n, init) for n in size.widths]), nan=np.inf)
        best[init] = np.log2(rates)[found[init].argmin(1)]
        count = (
            len(rates) - 1 - (found[init] <= 1)[:, ::-1].argmax(1)
        )  # the largest rate that ends below the start
        stable[init] = np.log2(rates)[count]
    note = (
        f"linear layers of {size.widths[0]} to {size.widths[-1]}, rank {rank}, {size.steps} steps "
        "of Adam, octaves"
    )
    claims = []
    for init, expected in (("A", -0.5), ("B", -1.0)):
        slope = np.polyfit(np.log2(size.widths), stable[init], 1)[0]
        what = f"Init[{init}]: slope of the largest stable rate against the width"
        band = (expected - 0.2, expected + 0.2)
        claims.append(make_claim("B1", what, slope, f"{expected:g}", band, note))
    for kind, of in (("largest stable", stable), ("best", best)):
        slope = np.polyfit(np.log2(size.widths), of["A"] - of["B"], 1)[0]
        what = f"slope of the {kind} rate of Init[A] over that of Init[B] against the width"
        claims.append(make_claim("B1", what, slope, "0.5: grows", (0.25, np.inf), note))
    for k, n in enumerate(size.widths):
        what = f"{n} inputs and outputs: octaves between the best rates of Init[A] and Init[B]"
        claims.append(
            make_claim("B1", what, best["A"][k] - best["B"][k], "above 0", (0.5, np.inf), note)
        )
        what = (
            f"{n} inputs and outputs: decades between the losses of Init[B] and Init[A], each at "
            "its best rate"
        )
        lead = np.log10(found["B"][k].min(0) / found["A"][k].min(0))
        claims.append(make_claim("B1", what, lead, "at least 0, on average", (0.02, np.inf), note))
    return claims


main = main_of("lora_init", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
