"""The training program: parameters and traced hyperparameters of one trial in, records out.

Written for one trial; `sweep` maps it. Whatever is swept (initial parameters, seed, learning rate,
clipping, decay, target, budget) is traced, so every scheme shares one compilation; what shapes the
program (model, task, optimizer, batch) is fixed in `Program`. A run advances in chunks of epochs,
and a trial that has ended does nothing more. A chunk may be cut anywhere between two steps, to the
same records.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import window
from jaxinit.engine import schedules
from jaxinit.introspect import Functional, Params, Training, widened
from jaxinit.spec import Rule, named_key
from jaxinit.tasks import Task
from jaxinit.tasks.base import Data, Seen, count_of

# An optimizer's state; older releases spell optax.OptState with names only they can resolve.
OptimizerState: TypeAlias = PyTree
# What makes an optimizer for a learning rate, which is traced, and so is an argument of its own.
Optimizer: TypeAlias = Callable[..., optax.GradientTransformation]
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
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
        scales = cls({}, {}, {})
        for name, rule in rules.items():
            scales.multiplier[name] = jnp.float32(rule.multiplier)
            scales.lr[name] = jnp.float32(rule.lr_scale)
            scales.decay[name] = jnp.float32(rule.wd_scale)
        return scales


class Trial(NamedTuple):
    """What is traced. `scales` is None in a study none of whose schemes scales anything, which
    costs nothing.

    Units: `lr` and `weight_decay` per step (decoupled decay: p <- p - lr * weight_decay * p, biases
    included); `l2` is the factor of half the sum of squares that is added to the loss; `clip` is a
    bound on the global gradient norm, `clip_value` on the size of each entry, infinite for none;
    `budget` is a number of evaluations. `dropout` is None in a study without, and then no noise is
    drawn, but for that of modules with dropout of their own. `warmup` is the share of the budget in
    which the rate grows from 0, None where the rate is constant and no factor is computed.
    `of_optimizer` is an argument of the optimizer's by its name, where one is searched.
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
    warmup: Float[Array | np.ndarray, ""] | None = None
    of_optimizer: dict[str, Float[Array | np.ndarray, ""]] | None = None


class State(NamedTuple):
    """A trial in progress: all that the next chunk needs."""

    params: Params  # in the dtype that they are kept in
    running: Params  # running statistics, of models that have them
    opt: OptimizerState
    first_loss: Float[Array, ""]  # of the first batch; NaN before it
    recent: Float[Array, "window"]  # the last metrics, the newest last; NaN before there were any
    evaluations: Int[Array, ""]
    outcome: Int[Array, ""]
    at: Int[Array, ""]  # steps into its chunk of epochs
    losses: Float[Array, "steps"]  # of the steps of the interval under way
    norms: Float[Array, "steps"]


class Records(NamedTuple):
    """What one evaluation leaves: means over the interval's steps, and the state at its end. NaN
    once ended."""

    train_loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    valid_loss: Float[Array, ""]
    metric: Float[Array, ""]


KeyArray: TypeAlias = Key[Array, ""]
# Tickets of batches, keys of their noise, and keys that the loss sees.
Plan: TypeAlias = tuple[Any, Array | None, Array | None]


@dataclass(frozen=True, eq=False)
class Program:
    """The training program of one setting, advancing by `epochs` epochs at a call.

    Each epoch visits `task.examples // batch` batches (an incomplete last one is dropped) in an
    order given by the trial's seed and the epoch's number alone, and is evaluated at equal
    intervals, as near to `evaluations` times as divides the number of batches. Which examples train
    and which validate is the seed's own too (`Task.split`), the same for all schemes. The
    validation set passes through the model `at_once` examples at a time (default: all of it). A
    loss that sees a key has one for every step, and one of the seed in validation.
    `schedule` is the course of the rate (`schedules.factor`), of trials that have a `warmup`.
    Raises: ValueError for a batch larger than the training set.
    """

    model: Functional
    task: Task
    optimizer: Optimizer
    _: KW_ONLY
    batch: int
    evaluations: int
    epochs: int
    at_once: int | None = None
    schedule: str = "constant"

    def __post_init__(self):
        if not 1 <= self.batch <= self.task.examples:
            raise ValueError(
                f"batch must be 1 to {self.task.examples}, the training examples of "
                f"{self.task.name!r}; got {self.batch}"
            )

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self.task.examples // self.batch

    @property
    def evaluations_per_epoch(self) -> int:
        return nearest_divisor(self.steps, self.evaluations)

    @property
    def interval(self) -> int:
        """The number of steps from one evaluation to the next."""
        return self.steps // self.evaluations_per_epoch

    @property
    def chunk(self) -> int:
        """The number of steps of a chunk of epochs."""
        return self.epochs * self.steps

    @property
    def window(self) -> int:
        """Over how many evaluations the metric is averaged to be compared with the target."""
        return window(self.evaluations_per_epoch)

    @property
    def rows(self) -> int:
        """The number of evaluations of a chunk: the most that one call of `advance` records."""
        return self.epochs * self.evaluations_per_epoch

    def made(self, trial: Trial) -> optax.GradientTransformation:
        """The optimizer of a trial."""
        return self.optimizer(trial.lr, **(trial.of_optimizer or {}))

    def initial_state(self, params: Params, trial: Trial) -> State:
        """The state of a trial before its first step."""
        return State(
            params,
            dict(self.model.running),
            self.made(trial).init(params),  # which may hold the rate
            first_loss=jnp.float32(jnp.nan),
            recent=jnp.full(self.window, jnp.nan, jnp.float32),
            evaluations=jnp.int32(0),
            outcome=jnp.int32(Outcome.UNFINISHED),
            at=jnp.int32(0),
            losses=jnp.zeros(self.interval, jnp.float32),
            norms=jnp.zeros(self.interval, jnp.float32),
        )

    def advance(
        self,
        data: Data,
        state: State,
        trial: Trial,
        steps: Int[Array, ""] | None = None,
        at: Int[Array, ""] | None = None,
    ) -> tuple[State, Records]:
        """The state after `steps` more steps, none of them beyond the end of the chunk, and the
        records of the evaluations on the way, NaN where there are fewer than `rows`.

        `at` is where in its chunk the trial is, if not told by its state: of trials that run
        together all are at one place, and loops with bounds of their own would be as long as the
        longest and evaluate at every step.
        """
        key = jax.random.key(trial.seed)
        data = self.task.of_seed(data, named_key(key, "split"))
        order_key = named_key(key, "data order")
        noise_key = named_key(key, "dropout")
        loss_key = named_key(key, "loss") if "key" in self.task.loss_sees else None

        begin = state.at if at is None else at
        end = jnp.int32(self.chunk)
        if steps is not None:
            end = jnp.minimum(begin + steps, end)
        nothing = jnp.full(self.rows, jnp.nan, jnp.float32)
        train = partial(self.train_interval, data, trial)

        def epoch(carry: tuple[Array, State, Records]) -> tuple[Array, State, Records]:
            at, state, records = carry
            plan = self.plan(data, state, trial, order_key, noise_key, loss_key)
            stop = jnp.minimum(end, next_multiple(at, self.steps))

            def interval(carry: tuple[Array, State, Records]) -> tuple[Array, State, Records]:
                at, state, records = carry
                number = at % self.steps // self.interval
                batches = jax.tree.map(lambda entries: entries[number], plan)
                first = at % self.interval
                last = first + jnp.minimum(stop, next_multiple(at, self.interval)) - at
                # Under vmap both branches are computed, under map a trial at rest costs nothing.
                running = state.outcome == Outcome.UNFINISHED
                state, record = jax.lax.cond(running, train, rest, state, batches, first, last)
                row = at // self.interval - begin // self.interval
                records = jax.tree.map(lambda rows, one: rows.at[row].set(one), records, record)
                return at + last - first, state, records

            return jax.lax.while_loop(lambda carry: carry[0] < stop, interval, (at, state, records))

        begun = begin, state, Records(*[nothing] * len(Records._fields))
        _, state, records = jax.lax.while_loop(lambda carry: carry[0] < end, epoch, begun)
        return state._replace(at=end % self.chunk), records

    def plan(
        self,
        data: Data,
        state: State,
        trial: Trial,
        order_key: KeyArray,
        noise_key: KeyArray,
        loss_key: KeyArray | None,
    ) -> Plan:
        """The batches of the epoch that a trial is in, or begins next, `[intervals, steps]`."""
        # A running trial enters every epoch having ended the one before, so that its own count
        # of evaluations numbers the epoch.
        intervals = self.evaluations_per_epoch
        number = state.evaluations // intervals
        order = jax.random.fold_in(order_key, number)
        tickets = self.task.tickets(data, order, self.steps, self.batch)
        keys = loss_keys = None
        if trial.dropout is not None or self.model.noisy:
            keys = jax.random.split(jax.random.fold_in(noise_key, number), self.steps)
        if loss_key is not None:
            loss_keys = jax.random.split(jax.random.fold_in(loss_key, number), self.steps)

        def by_interval(entries: Array) -> Array:
            return entries.reshape(intervals, self.interval, *entries.shape[1:])

        return jax.tree.map(by_interval, (tickets, keys, loss_keys))

    def train_interval(
        self, data: Data, trial: Trial, state: State, plan: Plan, first: Array, last: Array
    ) -> tuple[State, Records]:
        """Train on the batches `first` to `last` of those between two evaluations and, after the
        last of all, evaluate."""
        pace = self.pace(state, trial, plan)

        def step(number: Array, carry: Any) -> Any:
            params, running, opt, losses, norms = carry
            (ticket, key, loss_key), factor = jax.tree.map(lambda a: a[number], (plan, pace))
            noise = Training()
            if key is not None:
                noise = Training(key, 0.0 if trial.dropout is None else trial.dropout)
            x, y = self.task.batch(data, ticket)
            descend_from = jax.value_and_grad(self.loss, has_aux=True)
            (loss, running), grads = descend_from(params, running, trial, noise, x, y, loss_key)
            params, opt, norm = self.descend(params, grads, opt, trial, factor)
            return params, running, opt, losses.at[number].set(loss), norms.at[number].set(norm)

        carry = state.params, state.running, state.opt, state.losses, state.norms
        params, running, opt, losses, norms = jax.lax.fori_loop(first, last, step, carry)
        state = state._replace(params=params, running=running, opt=opt, losses=losses, norms=norms)
        whole = last == self.interval
        return jax.lax.cond(whole, partial(self.evaluate, data, trial), rest, state)

    def evaluate(self, data: Data, trial: Trial, state: State) -> tuple[State, Records]:
        """Look at the validation set after the last step of an interval, and judge."""
        valid_loss, metric = self.validate(state.params, state.running, trial, data)
        losses, norms = state.losses, state.norms
        record = Records(jnp.mean(losses), jnp.mean(norms), valid_loss, metric)
        first_loss = jnp.where(jnp.isnan(state.first_loss), losses[0], state.first_loss)
        evaluations = state.evaluations + 1
        recent = jnp.append(state.recent[1:], metric)
        outcome = self.outcome(record, first_loss, recent, evaluations, trial)
        state = state._replace(
            first_loss=first_loss, recent=recent, evaluations=evaluations, outcome=outcome
        )
        return state, record

    def pace(self, state: State, trial: Trial, plan: Plan) -> Array | None:
        """The factor of the rate at every step of a plan; None where there is none."""
        if trial.warmup is None:
            return None
        steps = jax.tree.leaves(plan)[0].shape[0]
        number = state.evaluations * steps + jnp.arange(steps)
        budget, warmup = jnp.asarray(trial.budget * steps), jnp.asarray(trial.warmup)
        return schedules.factor(self.schedule, number, budget, warmup)

    def loss(
        self,
        params: Params,
        running: Params,
        trial: Trial,
        noise: Training,
        x: Any,
        y: Array,
        key: KeyArray | None = None,
    ) -> tuple[Array, Params]:
        """The loss of one batch in training, and the running statistics after it; `key` is what the
        loss sees."""
        weights = effective(params, trial)

        def apply(x: Any) -> Array:
            return self.model.learn(weights, running, x, noise)[0]

        outputs, after = self.model.learn(weights, running, x, noise)
        return self.task.loss_of(outputs, y, Seen(weights, key, x, apply)), after

    def descend(
        self,
        params: Params,
        grads: Params,
        opt: OptimizerState,
        trial: Trial,
        pace: Array | None = None,
    ) -> tuple[Params, OptimizerState, Array]:
        """One step of the optimizer, including L2, clipping, weight decay and the scheme's rates.

        `grads` are those of the loss alone; `pace` is a factor of the rate, and so of the updates,
        which Optax's optimizers make in proportion to it. Parameters and a state of narrow floats
        are widened for the step, and rounded once after it. Returns the norm of the gradient (with
        L2) beside the parameters and the optimizer's state.
        """
        kept = params, opt
        narrow = any(jnp.finfo(p.dtype).bits < 32 for p in params.values())
        if narrow:
            params, grads, opt = widened((params, grads, opt))
        grads = jax.tree.map(lambda g, p: g + trial.l2 * p, grads, params)
        norm = optax.tree.norm(grads)
        shrink = jnp.where(norm > trial.clip, trial.clip / norm, 1.0)

        def clipped(g: Array) -> Array:
            return jnp.clip(g * shrink, -trial.clip_value, trial.clip_value)

        def move(p: Array, update: Array, lr: Array, decay: Array) -> Array:
            moved = lr * (update - trial.lr * trial.weight_decay * decay * p)
            return p + (moved if pace is None else pace * moved)

        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            optimizer = self.made(trial)
            updates, opt = optimizer.update(jax.tree.map(clipped, grads), opt, params)
        if trial.scales is None:
            lr = decay = dict.fromkeys(params, jnp.float32(1))
        else:
            lr, decay = trial.scales.lr, trial.scales.decay
        moved = jax.tree.map(move, params, updates, lr, decay)
        if narrow:
            moved, opt = jax.tree.map(lambda a, like: a.astype(like.dtype), (moved, opt), kept)
        return moved, opt, norm

    def validate(
        self, params: Params, running: Params, trial: Trial, data: Data
    ) -> tuple[Array, Array]:
        """The loss and the metric on the validation set.

        A loss that sees x sees all of it, and one that sees `apply` a model that is not mapped over
        blocks: what they make of all that validate is in memory together, whatever `at_once`.
        """
        x, y = data["valid_x"], data["valid_y"]
        weights = effective(params, trial)
        apply = partial(self.model.apply, weights | running)
        outputs = self.in_blocks(apply, x)
        if not self.task.loss_sees:
            return self.task.loss(outputs, y), self.task.metric(outputs, y)
        key = None
        if "key" in self.task.loss_sees:  # the same at every evaluation
            key = named_key(jax.random.key(trial.seed), "validation loss")
        loss = self.task.loss_of(outputs, y, Seen(weights, key, x, apply))
        if self.task.metric is self.task.loss:
            return loss, loss
        return loss, self.task.metric(outputs, y)

    def in_blocks(self, apply: Callable[[Any], Array], x: Any) -> Array:
        """The outputs of all inputs, `at_once` examples at a time."""
        count, at_once = count_of(x), self.at_once
        if at_once is None or count <= at_once:
            return apply(x)
        # The last block overlaps the one before: nothing is padded, no example is invented.
        rest = count % at_once

        def blocks(a: Array) -> Array:
            if rest:
                a = jnp.concatenate([a[: count - rest], a[count - at_once :]])
            return a.reshape(-1, at_once, *a.shape[1:])

        outputs = jax.lax.map(apply, jax.tree.map(blocks, x))
        outputs = outputs.reshape(-1, *outputs.shape[2:])
        if rest:
            outputs = jnp.concatenate([outputs[: count - rest], outputs[-rest:]])
        return outputs

    def outcome(
        self,
        record: Records,
        first_loss: Array,
        recent: Array,
        evaluations: Array,
        trial: Trial,
    ) -> Array:
        """How a trial stands after an evaluation: diverged before converged before censored.

        Converged is who reaches the target on average over the last epoch (`records.WINDOW`):
        a single evaluation that does is a lucky one, the luckier the more there are.
        """
        metric = jnp.mean(recent)
        bounded = record.train_loss <= DIVERGED_AT * first_loss
        diverged = ~(bounded & jnp.isfinite(record.valid_loss))
        sign = 1.0 if self.task.higher_is_better else -1.0
        converged = sign * metric >= sign * trial.target
        censored = evaluations >= trial.budget
        return jnp.select(
            [diverged, converged, censored],
            [
                jnp.int32(Outcome.DIVERGED),
                jnp.int32(Outcome.CONVERGED),
                jnp.int32(Outcome.CENSORED),
            ],
            jnp.int32(Outcome.UNFINISHED),
        )


def effective(params: Params, trial: Trial) -> Params:
    """The parameters that the forward pass sees: those of the trial times their multipliers."""
    if trial.scales is None:
        return params
    return jax.tree.map(jnp.multiply, widened(params), trial.scales.multiplier)


def rest(state: State, *_: Any) -> tuple[State, Records]:
    """What a trial does that has ended, or that is not yet to be evaluated: nothing, and the
    records say so."""
    nothing = jnp.float32(jnp.nan)
    return state, Records(nothing, nothing, nothing, nothing)


def next_multiple(number: Array, of: int) -> Array:
    """The least multiple that is larger than a number."""
    return (number // of + 1) * of


def nearest_divisor(n: int, wanted: int) -> int:
    """The divisor of `n` nearest to `wanted`, the smaller of two."""
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: (abs(d - wanted), d))
