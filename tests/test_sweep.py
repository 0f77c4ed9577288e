"""Trials over slots and devices: the same as one by one, whatever the mapping; one compilation; NaN stays at home."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit.introspect import functional
from jaxinit.models import RNN
from jaxinit.outcome import Outcome
from jaxinit.schemes import SCHEMES
from jaxinit.spec import draw
from jaxinit.sweep import CompileCounter, Sweep
from jaxinit.tasks import TASKS
from jaxinit.train import Trial, make_program

TASK = TASKS["digits_rows"]()
LEAVES, APPLY = functional(lambda: RNN(8, 16, 10, rngs=nnx.Rngs(0)))
PROGRAM = make_program(APPLY, TASK, "sgd", batch=128, evaluations=2, epochs=1)
COUNT = 11
SEEDS = jnp.arange(COUNT)
PARAMS = jax.jit(jax.vmap(lambda s: draw(SCHEMES["orthogonal"], jax.random.key(s), LEAVES)))(SEEDS)


def trials(lr: float = 0.05, budget: int = 6, target: float = 0.99) -> Trial:
    full = lambda value, dtype=np.float32: np.full(COUNT, value, dtype)
    return Trial(
        np.arange(COUNT, dtype=np.int32), full(lr), full(np.inf), full(0), full(target), full(budget, np.int32)
    )


def sweep(mapping: str, devices: int, slots: int = 4) -> Sweep:
    return Sweep(PROGRAM, TASK.data, slots, jax.devices()[:devices], mapping)


def collect(rows_of_chunks) -> tuple[np.ndarray, dict[int, Outcome]]:
    metric, outcome = np.full((COUNT, 20), np.nan), {}
    for rows, _ in rows_of_chunks:
        for row in rows:
            metric[row.number, row.first : row.last] = row.records.metric
            assert row.outcome is Outcome.UNFINISHED or row.number not in outcome
            if row.outcome is not Outcome.UNFINISHED:
                outcome[row.number] = row.outcome
    return metric, outcome


def looped(settings: Trial, params=PARAMS) -> tuple[np.ndarray, dict[int, Outcome]]:
    """One trial after another, no mapping at all."""
    metric, outcome = np.full((COUNT, 20), np.nan), {}
    advance = jax.jit(PROGRAM.advance)
    for k in range(COUNT):
        state = PROGRAM.start(jax.tree.map(lambda a, k=k: a[k], params))
        one = jax.tree.map(lambda a, k=k: a[k], settings)
        while int(state.outcome) == Outcome.UNFINISHED:
            first = int(state.evaluations)
            state, records = advance(TASK.data, state, one)
            metric[k, first : int(state.evaluations)] = np.asarray(records.metric)[: int(state.evaluations) - first]
        outcome[k] = Outcome(int(state.outcome))
    return metric, outcome


@pytest.fixture(scope="module")
def one_by_one() -> tuple[float, np.ndarray, dict[int, Outcome]]:
    """A target that about half of the trials reach, and what they do when run one by one."""
    best = np.nanmax(looped(trials())[0], axis=1)
    target = float(np.sort(best)[COUNT // 2])
    return target, *looped(trials(target=target))


@pytest.mark.parametrize(("mapping", "devices"), [("map", 1), ("map", 2), ("map", 8), ("vmap", 1), ("vmap", 8)])
def test_mapped_equals_looped_on_a_stable_scheme(mapping: str, devices: int, one_by_one) -> None:
    target, expected, ends = one_by_one
    got, outcome = collect(sweep(mapping, devices).run(PARAMS, trials(target=target)))
    assert len(set(ends.values())) == 2, "some converge and some are censored, or the test shows little"
    assert outcome == ends
    # Accuracy on 517 images moves in steps of 1/517; rounding may tip one image over a short stable run.
    np.testing.assert_allclose(got, expected, atol=1.01 / 517)


def test_one_compilation_however_many_trials_and_chunks() -> None:
    with CompileCounter("training_program") as compiled:
        many = sweep("map", 2)
        collect(many.run(PARAMS, trials()))
        few = jax.tree.map(lambda a: a[:3], (PARAMS, trials(lr=0.02)))
        list(many.run(*few))
    assert compiled.count == 1
    assert compiled.seconds > 0


def test_a_nan_in_one_trial_touches_no_other() -> None:
    poisoned = {name: value.at[4].set(jnp.nan) for name, value in PARAMS.items()}
    for mapping in ("map", "vmap"):
        clean, _ = collect(sweep(mapping, 2).run(PARAMS, trials()))
        got, outcome = collect(sweep(mapping, 2).run(poisoned, trials()))
        assert outcome[4] is Outcome.DIVERGED
        others = [k for k in range(COUNT) if k != 4]
        np.testing.assert_array_equal(got[others], clean[others])


def test_every_trial_ends_once_and_slots_are_refilled() -> None:
    settings = trials()._replace(budget=np.arange(1, COUNT + 1, dtype=np.int32))
    rows = [row for chunk, _ in sweep("map", 2, slots=2).run(PARAMS, settings) for row in chunk]
    ends = {row.number: row.last for row in rows if row.outcome is not Outcome.UNFINISHED}
    assert ends == {k: k + 1 for k in range(COUNT)}
    assert all(len(row.records.metric) == row.last - row.first for row in rows)


def test_running_trials_are_dealt_out_evenly_over_the_devices() -> None:
    many = sweep("map", 4, slots=16)
    seen = []
    compiled = many._compiled
    many._compiled = lambda data, states, trials: (
        seen.append(np.asarray(states.outcome)) or compiled(data, states, trials)
    )
    list(many.run(*jax.tree.map(lambda a: a[:6], (PARAMS, trials()))))
    running = (seen[0].reshape(4, 4) == Outcome.UNFINISHED).sum(1)
    assert sorted(running) == [1, 1, 2, 2]


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_sets_up_nothing_and_the_call_gives_a_device_per_core() -> None:
    done = run_python(
        "import jaxinit, jaxinit.engine, jax; from jaxinit import sweep\n"
        "from jax._src import xla_bridge as b\n"
        "assert not b.backends_are_initialized()\n"
        "sweep.one_device_per_core(3); print(jax.device_count())"
    )
    assert done.stdout.split() == ["3"], done.stderr


def test_a_late_call_says_what_to_do() -> None:
    done = run_python("import jax; jax.devices(); from jaxinit import sweep; sweep.one_device_per_core(3)")
    assert "JAX was already initialized with 1 device(s)" in done.stderr
    assert "call jaxinit.sweep.one_device_per_core() before the first JAX operation" in done.stderr
