"""The training program: parameters and traced hyperparameters of one trial in, records out.

Written for one trial; `sweep` maps it. Whatever is swept (start, seed, rate, clipping, decay,
target, budget) is traced, so every scheme shares one compilation; what shapes the program (model,
task, optimizer, batch) is fixed in `make_program`. A run advances in chunks of epochs, and a trial
that has ended does nothing more.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxinit.analysis.outcome import Outcome
from jaxinit.introspect import Functional, Params, Training
from jaxinit.spec import Rule, named_key
from jaxinit.tasks import Task
from jaxinit.tasks.base import Data

# Directions of descent at unit rate; the traced rate multiplies them afterwards.
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": optax.identity,
    "momentum": lambda: optax.trace(decay=0.9),
    "adam": optax.scale_by_adam,
}
DIVERGED_AT = 10.0  # times the first batch's loss


class Scales(NamedTuple):
    """The factors of a scheme's rules by parameter name: forward multiplier, learning rate, weight
    decay."""

    multiplier: dict[str, Float[Array, ""]]
    lr: dict[str, Float[Array, ""]]
    decay: dict[str, Float[Array, ""]]

    @classmethod
    def of(cls, rules: dict[str, Rule]) -> "Scales":
        pick = lambda what: {name: jnp.float32(getattr(rule, what)) for name, rule in rules.items()}
        return cls(pick("multiplier"), pick("lr_scale"), pick("wd_scale"))


class Trial(NamedTuple):
    """What is traced. `scales` is None in a study none of whose schemes scales anything, which
    costs nothing.

    Units: `lr` and `weight_decay` per step (decoupled decay: p <- p - lr * weight_decay * p, biases
    included); `l2` is the factor of half the sum of squares that is added to the loss; `clip` is a
    bound on the global gradient norm, `clip_value` on the size of each entry, infinite for none;
    `budget` is a number of evaluations. `dropout` is None in a study without, and then no noise is
    drawn, but for that of modules with dropout of their own.
    """

    seed: Int[Array | np.ndarray, ""]
    lr: Float[Array | np.ndarray, ""]
    clip: Float[Array | np.ndarray, ""]
    clip_value: Float[Array | np.ndarray, ""]
    l2: Float[Array | np.ndarray, ""]
    weight_decay: Float[Array | np.ndarray, ""]
    target: Float[Array | np.ndarray, ""]
    budget: Int[Array | np.ndarray, ""]
    scales: Scales | None = None
    dropout: Float[Array | np.ndarray, ""] | None = None


class State(NamedTuple):
    """A trial in progress: all that the next chunk needs."""

    params: Params
    running: Params  # running statistics, of models that have them
    opt: optax.OptState
    first_loss: Float[Array, ""]  # of the first batch; NaN before it
    evaluations: Int[Array, ""]
    outcome: Int[Array, ""]


class Records(NamedTuple):
    """What one evaluation leaves: means over the interval's steps, and the state at its end. NaN
    once ended."""

    train_loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    valid_loss: Float[Array, ""]
    metric: Float[Array, ""]


class Program(NamedTuple):
    """`start(params) -> state` and `advance(data, state, trial) -> (state, records)`, records of
    `rows` evaluations.

    `descend(params, gradients of the loss, optimizer state, trial) -> (params, optimizer state,
    gradient norm)` is one step of the optimizer, with all that bounds, decays and scales it.
    """

    start: Callable[[Params], State]
    advance: Callable[[Data, State, Trial], tuple[State, Records]]
    descend: Callable[[Params, Params, optax.OptState, Trial], tuple[Params, optax.OptState, Array]]
    rows: int
    evaluations_per_epoch: int


def make_program(
    model: Functional,
    task: Task,
    optimizer: str,
    *,
    batch: int,
    evaluations: int,
    epochs: int,
    at_once: int | None = None,
) -> Program:
    """The training program of one setting, advancing by `epochs` epochs at a call.

    Each epoch visits `task.examples // batch` batches (an incomplete last one is dropped) in an
    order given by the trial's seed and the epoch's number alone, and is evaluated at equal
    intervals, as near to `evaluations` times as divides the number of batches. The validation set
    passes through the model `at_once` examples at a time (default: all of it).
    Raises: ValueError for an unknown optimizer, or a batch larger than the training set.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"no optimizer is called {optimizer!r}; there are {', '.join(OPTIMIZERS)}")
    if not 1 <= batch <= task.examples:
        raise ValueError(
            f"batch must be 1 to {task.examples}, the training examples of {task.name!r}; got "
            f"{batch}"
        )
    steps = task.examples // batch
    intervals = nearest_divisor(steps, evaluations)
    tx = OPTIMIZERS[optimizer]()

    def scaled(params: Params, trial: Trial) -> Params:
        return (
            params
            if trial.scales is None
            else jax.tree.map(jnp.multiply, params, trial.scales.multiplier)
        )

    def loss_of(params: Params, running: Params, trial: Trial, noise: Training, x: Array, y: Array):
        outputs, running = model.learn(scaled(params, trial), running, x, noise)
        return task.loss(outputs, y), running

    def validate(params: Params, running: Params, trial: Trial, data: Data) -> tuple[Array, Array]:
        """The loss and the metric on the validation set."""
        x, y = data["valid_x"], data["valid_y"]
        params, count = scaled(params, trial) | running, x.shape[0]
        if at_once is None or count <= at_once:
            outputs = model.apply(params, x)
        else:
            rest = (
                count % at_once
            )  # the last block overlaps the one before: nothing is padded, no example is invented
            blocks = jnp.concatenate([x[: count - rest], x[count - at_once :]]) if rest else x
            by_block = blocks.reshape(-1, at_once, *x.shape[1:])
            outputs = jax.lax.map(lambda block: model.apply(params, block), by_block)
            outputs = outputs.reshape(-1, *outputs.shape[2:])
            outputs = (
                jnp.concatenate([outputs[: count - rest], outputs[-rest:]]) if rest else outputs
            )
        return task.loss(outputs, y), task.metric(outputs, y)

    def start(params: Params) -> State:
        return State(
            params,
            dict(model.running),
            tx.init(params),
            jnp.float32(jnp.nan),
            jnp.int32(0),
            jnp.int32(Outcome.UNFINISHED),
        )

    def descend(
        params: Params, grads: Params, opt: optax.OptState, trial: Trial
    ) -> tuple[Params, optax.OptState, Array]:
        grads = jax.tree.map(lambda g, p: g + trial.l2 * p, grads, params)
        norm = optax.tree.norm(grads)
        shrink = jnp.where(norm > trial.clip, trial.clip / norm, 1.0)
        bounded = lambda g: jnp.clip(g * shrink, -trial.clip_value, trial.clip_value)
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            updates, opt = tx.update(jax.tree.map(bounded, grads), opt, params)

        def move(p: Array, u: Array, lr: Array, decay: Array) -> Array:
            return p - trial.lr * lr * (u + trial.weight_decay * decay * p)

        ones = dict.fromkeys(params, jnp.float32(1))
        lr, decay = (trial.scales.lr, trial.scales.decay) if trial.scales else (ones, ones)
        return jax.tree.map(move, params, updates, lr, decay), opt, norm

    def advance(data: Data, state: State, trial: Trial) -> tuple[State, Records]:
        order_key, noise_key = (
            named_key(jax.random.key(trial.seed), name) for name in ("data order", "dropout")
        )

        def step(carry: tuple[Params, Params, optax.OptState], at: tuple[Array, Array | None]):
            params, running, opt = carry
            ticket, key = at
            noise = (
                Training()
                if key is None
                else Training(key, 0.0 if trial.dropout is None else trial.dropout)
            )
            x, y = task.batch(data, ticket)
            of_loss = jax.value_and_grad(loss_of, has_aux=True)
            (loss, running), grads = of_loss(params, running, trial, noise, x, y)
            params, opt, norm = descend(params, grads, opt, trial)
            return (params, running, opt), (loss, norm)

        def interval(state: State, plan: tuple[Array, Array | None]) -> tuple[State, Records]:
            carry = state.params, state.running, state.opt
            (params, running, opt), (losses, norms) = jax.lax.scan(step, carry, plan)
            valid_loss, metric = validate(params, running, trial, data)
            record = Records(jnp.mean(losses), jnp.mean(norms), valid_loss, metric)
            first_loss = jnp.where(jnp.isnan(state.first_loss), losses[0], state.first_loss)
            evaluations = state.evaluations + 1
            bounded = (record.train_loss <= DIVERGED_AT * first_loss) & jnp.isfinite(valid_loss)
            better = jnp.greater_equal if task.higher_is_better else jnp.less_equal
            outcome = jnp.select(
                [~bounded, better(record.metric, trial.target), evaluations >= trial.budget],
                [
                    jnp.int32(Outcome.DIVERGED),
                    jnp.int32(Outcome.CONVERGED),
                    jnp.int32(Outcome.CENSORED),
                ],
                jnp.int32(Outcome.UNFINISHED),
            )
            return State(params, running, opt, first_loss, evaluations, outcome), record

        def rest(state: State, plan: tuple[Array, Array | None]) -> tuple[State, Records]:
            del plan
            return state, Records(*[jnp.float32(jnp.nan)] * len(Records._fields))

        def interval_if_running(
            state: State, plan: tuple[Array, Array | None]
        ) -> tuple[State, Records]:
            return jax.lax.cond(state.outcome == Outcome.UNFINISHED, interval, rest, state, plan)

        def epoch(state: State, _: None) -> tuple[State, Records]:
            # A running trial enters every epoch having ended the one before, so its own count
            # numbers the epoch.
            number = state.evaluations // intervals
            tickets = task.tickets(data, jax.random.fold_in(order_key, number), steps, batch)
            quiet = trial.dropout is None and not model.noisy
            keys = None if quiet else jax.random.split(jax.random.fold_in(noise_key, number), steps)
            by_interval = lambda of: of.reshape(intervals, steps // intervals, *of.shape[1:])
            return jax.lax.scan(
                interval_if_running, state, jax.tree.map(by_interval, (tickets, keys))
            )

        state, records = jax.lax.scan(epoch, state, None, length=epochs)
        return state, jax.tree.map(lambda r: r.reshape(-1), records)

    return Program(start, advance, descend, epochs * intervals, intervals)


def nearest_divisor(n: int, wanted: int) -> int:
    """The divisor of `n` nearest to `wanted`, the smaller of two."""
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: (abs(d - wanted), d))
