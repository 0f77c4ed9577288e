"""Trials over slots and devices: the same as one by one, whatever the mapping; one compilation; NaN
stays at home."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx
from pieces import in_pieces

from jaxinit.analysis.outcome import Outcome
from jaxinit.engine import sweep as sweeps
from jaxinit.engine.sweep import CompileCounter, Joining, Orders, Sweep, over_devices
from jaxinit.engine.training import OPTIMIZERS, Program, Trial
from jaxinit.introspect import functional
from jaxinit.models import RNN
from jaxinit.schemes import SCHEMES
from jaxinit.spec import draw
from jaxinit.study import BadStudy, Interrupted
from jaxinit.tasks import TASKS

TASK = TASKS["digits_rows"]()
MODEL = functional(lambda: RNN(8, 16, 10, rngs=nnx.Rngs(0)))
PROGRAM = Program(MODEL, TASK, OPTIMIZERS["sgd"], batch=128, evaluations=2, epochs=1)
COUNT = 11
SEEDS = jnp.arange(COUNT)
DRAWN = jax.jit(jax.vmap(lambda s: draw(SCHEMES["orthogonal"], jax.random.key(s), MODEL.leaves)))(
    SEEDS
)
PARAMS = [{name: np.asarray(value[k]) for name, value in DRAWN.items()} for k in range(COUNT)]


@pytest.fixture(autouse=True)
def whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch)


def trials(lr: float = 0.05, budget: int = 6, target: float = 0.99) -> Trial:
    full = lambda value, dtype=np.float32: np.full(COUNT, value, dtype)
    return Trial(
        seed=np.arange(COUNT, dtype=np.int32),
        lr=full(lr),
        clip=full(np.inf),
        clip_value=full(np.inf),
        l2=full(0),
        weight_decay=full(0),
        target=full(target),
        budget=full(budget, np.int32),
    )


def sweep(mapping: str, devices: int, slots: int = 4, memory: int | None = None) -> Sweep:
    return Sweep(PROGRAM, TASK.data, slots, jax.devices()[:devices], mapping, memory)


def joining(params: Sequence[dict[str, np.ndarray]], settings: Trial) -> list[Joining]:
    return [Joining(k, _trial(settings, k), start) for k, start in enumerate(params)]


def _trial(settings: Trial, number: int) -> Trial:
    return jax.tree.map(lambda a: a[number], settings)


def run(
    many: Sweep, params: Sequence[dict[str, np.ndarray]], settings: Trial
) -> Iterator[tuple[list[sweeps.Row], sweeps.Running]]:
    """All trials to their ends, in the order of their numbers."""
    waiting = joining(params, settings)

    def order(room: int) -> Orders:
        joined = waiting[:room]
        del waiting[:room]
        return Orders(joined)

    return many.run(order, waiting[0])


def told(*orders: Orders) -> Callable[[int], Orders]:
    """These orders, a chunk each, whatever room there is; then none."""
    left = list(orders)

    def order(room: int) -> Orders:
        return left.pop(0) if left else Orders()

    return order


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
        one = jax.tree.map(lambda a, k=k: a[k], settings)
        state = PROGRAM.initial_state(jax.tree.map(jnp.asarray, params[k]), one)
        while int(state.outcome) == Outcome.UNFINISHED:
            first = int(state.evaluations)
            state, records = advance(TASK.data, state, one)
            metric[k, first : int(state.evaluations)] = np.asarray(records.metric)[
                : int(state.evaluations) - first
            ]
        outcome[k] = Outcome(int(state.outcome))
    return metric, outcome


@pytest.fixture(scope="module")
def one_by_one() -> tuple[float, np.ndarray, dict[int, Outcome]]:
    """A target that about half of the trials reach, and what they do when run one by one."""
    best = np.nanmax(looped(trials())[0], axis=1)
    target = float(np.sort(best)[COUNT // 2])
    return target, *looped(trials(target=target))


@pytest.mark.parametrize(
    ("mapping", "devices"),
    quick(("vmap", 8), of=[("map", 1), ("map", 2), ("map", 8), ("vmap", 1), ("vmap", 8)]),
)
def test_mapped_equals_looped_on_a_stable_scheme(mapping: str, devices: int, one_by_one) -> None:
    target, expected, ends = one_by_one
    got, outcome = collect(run(sweep(mapping, devices), PARAMS, trials(target=target)))
    assert len(set(ends.values())) == 2, (
        "some converge and some are censored, or the test shows little"
    )
    assert outcome == ends
    # Accuracy on 517 images moves in steps of 1/517; rounding may tip one image over a short stable
    # run.
    np.testing.assert_allclose(got, expected, atol=1.01 / 517)


def test_one_compilation_however_many_trials_and_chunks() -> None:
    with CompileCounter("training_program") as compiled:
        many = sweep("map", 2)
        collect(run(many, PARAMS, trials()))
        list(run(many, PARAMS[:3], trials(lr=0.02)))
    assert compiled.count == 1
    assert compiled.seconds > 0


def test_a_nan_in_one_trial_touches_no_other() -> None:
    poisoned = [
        jax.tree.map(lambda a, k=k: a * np.float32(np.nan if k == 4 else 1), PARAMS[k])
        for k in range(COUNT)
    ]
    for mapping in ("map", "vmap"):
        clean, _ = collect(run(sweep(mapping, 2), PARAMS, trials()))
        got, outcome = collect(run(sweep(mapping, 2), poisoned, trials()))
        assert outcome[4] is Outcome.DIVERGED
        others = [k for k in range(COUNT) if k != 4]
        np.testing.assert_array_equal(got[others], clean[others])


def test_every_trial_ends_once_and_slots_are_refilled() -> None:
    settings = trials()._replace(budget=np.arange(1, COUNT + 1, dtype=np.int32))
    chunks = run(sweep("map", 2, slots=2), PARAMS, settings)
    rows = [row for chunk, _ in chunks for row in chunk]
    ends = {row.number: row.last for row in rows if row.outcome is not Outcome.UNFINISHED}
    assert ends == {k: k + 1 for k in range(COUNT)}
    assert all(len(row.records.metric) == row.last - row.first for row in rows)


@pytest.mark.parametrize("mapping", ["map", "vmap"])
def test_a_trial_that_is_given_up_leaves_its_slot_to_another(mapping: str) -> None:
    whole, _ = collect(run(sweep(mapping, 2), PARAMS[:5], trials()))
    *four, last = joining(PARAMS[:5], trials())
    order = told(Orders(four), Orders([last], given_up=[1]))
    metric, outcome = collect(sweep(mapping, 2).run(order, last))
    others = [0, 2, 3, 4]
    assert sorted(outcome) == others
    np.testing.assert_array_equal(metric[others], whole[others])
    assert np.isnan(metric[1, PROGRAM.rows :]).all()


def test_the_room_is_that_of_the_trials_that_have_ended() -> None:
    budget = np.asarray([2, 4, 2, 4, 4], np.int32)
    *four, last = joining(PARAMS[:5], trials()._replace(budget=budget))
    order, rooms = told(Orders(four), Orders([last])), []

    def noted(room: int) -> Orders:
        rooms.append(room)
        return order(room)

    collect(sweep("map", 2).run(noted, last))
    assert rooms == [4, 2, 3, 4]


def test_a_trial_ends_at_the_budget_that_it_is_given_while_it_runs() -> None:
    both = joining(PARAMS[:2], trials())
    order = told(Orders(both), Orders(budgets={1: 3}))
    ends = {}
    for rows, _ in sweep("map", 2).run(order, both[0]):
        ends |= {row.number: (row.last, row.outcome) for row in rows}
    assert ends == {0: (6, Outcome.CENSORED), 1: (3, Outcome.CENSORED)}


def test_a_trial_goes_on_from_the_state_in_which_it_was_saved() -> None:
    whole, _ = collect(run(sweep("map", 2), PARAMS[:2], trials()))
    _, running = next(run(sweep("map", 2), PARAMS[:2], trials()))
    first, second = joining(PARAMS[:2], trials())
    saved = second._replace(state=running.seats()[1].state)
    metric, _ = collect(sweep("map", 2).run(told(Orders([first, saved])), first))
    np.testing.assert_array_equal(metric[0], whole[0])
    np.testing.assert_array_equal(metric[1, PROGRAM.rows :], whole[1, PROGRAM.rows :])
    assert np.isnan(metric[1, : PROGRAM.rows]).all()


@pytest.mark.parametrize(
    ("steps", "mapping"), quick((1, "map"), (7, "vmap"), of=product([1, 7], ["map", "vmap"]))
)
def test_chunks_cut_anywhere_leave_the_same_records(
    mapping: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = np.asarray([2, 3, 4, 3, 2], np.int32)
    settings = trials()._replace(budget=budget)
    many = sweep(mapping, 2)
    whole = collect(run(many, PARAMS[:5], settings))
    in_pieces(monkeypatch, steps)
    pieces = list(run(many, PARAMS[:5], settings))
    assert len(pieces) >= 2 * PROGRAM.chunk // steps  # of two epochs, the longest trial's
    cut = collect(pieces)
    np.testing.assert_array_equal(cut[0], whole[0])
    assert cut[1] == whole[1]


def test_a_trial_goes_on_in_the_midst_of_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = collect(run(sweep("map", 2), PARAMS[:2], trials()))
    in_pieces(monkeypatch, PROGRAM.interval + 1)
    _, running = next(run(sweep("map", 2), PARAMS[:2], trials()))
    assert list(running.at.values()) == [PROGRAM.interval + 1] * 2
    in_pieces(monkeypatch)
    saved = [
        joined._replace(state=seat.state)
        for joined, seat in zip(joining(PARAMS[:2], trials()), running.seats(), strict=True)
    ]
    metric, _ = collect(sweep("map", 2).run(told(Orders(saved)), saved[0]))
    np.testing.assert_array_equal(metric[:2, 1:], whole[:2, 1:])
    assert np.isnan(metric[:, 0]).all()


@pytest.mark.parametrize(("mapping", "trials_at_once"), [("map", 2), ("vmap", 100)])
def test_a_piece_takes_about_as_long_as_it_should(
    mapping: sweeps.Mapping, trials_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    pace = sweeps.Pace(PROGRAM, mapping, devices=2)
    assert pace.steps(1) == 1
    assert pace.trials(100) == trials_at_once

    def row(number: int) -> sweeps.Row:
        return sweeps.Row(number, 0, 0, None, Outcome.UNFINISHED)  # pyright: ignore[reportArgumentType]

    def at(place: int) -> dict[int, int]:
        return dict.fromkeys(range(4), place)

    pace.took(0.8, [row(k) for k in range(4)], at(0), at(2))
    # Two steps of two trials a device in turn, or two of all together.
    assert pace.seconds == pytest.approx(0.2 if mapping == "map" else 0.4)
    assert pace.steps(4) == 3
    assert pace.trials(100) == (14 if mapping == "map" else 100)
    pace.took(60.0, [row(0)], at(0), at(1))
    assert pace.steps(1) == 1
    pace.took(1e-9, [row(0)], at(0), at(1))
    assert pace.steps(1) == PROGRAM.chunk


@pytest.mark.parametrize(
    ("steps", "mapping"),
    quick((5, "vmap"), of=product([2**30, 5], ["map", "vmap"])),
)
def test_a_device_that_runs_out_of_memory_goes_on_with_fewer_trials(
    mapping: str, steps: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """At its third piece, whose trials are saved if they are between two chunks."""
    whole, ends = collect(run(sweep(mapping, 2, slots=8), PARAMS, trials()))
    in_pieces(monkeypatch, steps)
    many = sweep(mapping, 2, slots=8)
    piece, pieces = many._piece, []

    def full(program: Callable, running: sweeps.Running, steps: int):
        pieces.append(len(running.slots))
        if len(pieces) >= 3 and len(running.slots) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return piece(program, running, steps)

    many._piece = full
    metric, outcome = collect(run(many, PARAMS, trials()))
    assert outcome == ends
    np.testing.assert_allclose(metric, whole, rtol=1e-5)
    assert many.slots == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "jaxinit: out of memory: from here on 2 trials at a time"
    )
    assert max(pieces[-3:]) <= 2


def test_a_device_that_says_so_when_it_compiles_is_given_fewer_trials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As TPUs do."""
    many = sweep("vmap", 2, slots=8)
    compile_for = many._program

    def full(slots: int, *args: Any) -> Any:
        if slots > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return compile_for(slots, *args)

    monkeypatch.setattr(many, "_program", full)
    assert len(collect(run(many, PARAMS, trials()))[1]) == len(PARAMS)
    assert many.slots == 4
    assert "there are 4 at a time" in capsys.readouterr().err


def test_where_not_even_one_trial_has_room_the_error_is_the_devices_own() -> None:
    many = sweep("map", 1, slots=2)

    def full(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    many._piece = full
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        list(run(many, PARAMS[:2], trials()))


def by_device(running: sweeps.Running, devices: int) -> list[set[int]]:
    """The trials on each device."""
    width = len(running.states.outcome) // devices
    trials = [set() for _ in range(devices)]
    for number, slot in running.slots.items():
        trials[slot // width].add(number)
    return trials


def test_running_trials_are_dealt_out_evenly_over_the_devices() -> None:
    many = sweep("map", 4, slots=16)
    budget = np.full(6, 4, np.int32)
    _, running = next(run(many, PARAMS[:6], trials()._replace(budget=budget)))
    assert sorted(map(len, by_device(running, 4))) == [1, 1, 2, 2]


def test_trials_stay_on_their_devices_until_one_has_more_than_its_share() -> None:
    # Trials 0, 2, 4, 6 lie on one device, 1, 3, 5 on the other, whose trials end first.
    budget = np.asarray([8, 2, 8, 2, 8, 2, 8], np.int32)
    many = sweep("map", 2, slots=8)
    chunks = run(many, PARAMS[:7], trials()._replace(budget=budget))
    seen = [by_device(running, 2) for _, running in chunks]
    assert seen[0] == [{0, 2, 4, 6}, set()]  # after one chunk, of two evaluations
    assert seen[1] == [{0, 4}, {2, 6}]
    assert seen[1] == seen[2]


def test_states_pass_from_chunk_to_chunk_without_being_copied() -> None:
    many = sweep("map", 2, slots=12)
    entered, left = [], []
    piece = many._piece

    def spied(program: Callable, running: sweeps.Running, steps: int):
        entered.append(running.states)
        rows, after = piece(program, running, steps)
        left.append(after.states)
        return rows, after

    many._piece = spied
    list(run(many, PARAMS, trials()))
    assert len(left) > 2
    assert all(a is b for a, b in zip(left, entered[1:], strict=False))


@pytest.mark.slow
def test_under_vmap_the_slots_shrink_to_powers_of_two_and_under_map_they_stay() -> None:
    budget = np.asarray([2] * 8 + [4] * 3, np.int32)  # evaluations: 11 trials run, then 3
    for mapping, expected in (("vmap", {16, 4}), ("map", {16})):
        with CompileCounter("training_program") as compiled:
            many = sweep(mapping, 2, slots=16)
            chunks = run(many, PARAMS, trials()._replace(budget=budget))
            rows = [row for chunk, _ in chunks for row in chunk]
        assert {row.number: row.last for row in rows} == dict(enumerate(budget.tolist()))
        assert set(many._compiled) == expected
        assert compiled.count == len(expected)


@pytest.mark.accelerator
def test_slots_are_as_many_as_the_memory_of_a_device_holds(
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    (device,) = jax.devices()[:1]
    free, stats = sweeps.free_memory([device]), device.memory_stats()
    assert free > 2**20
    assert stats is None or free <= stats["bytes_limit"]
    whole = sweep("vmap", 1)
    rows, _ = next(run(whole, PARAMS, trials()))
    assert len(rows) == whole.slots == 4
    state = jax.eval_shape(PROGRAM.initial_state, PARAMS[0], _trial(trials(), 0))
    one_slot = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), (state, _trial(trials(), 0))
    )
    needed = whole._needs(one_slot)
    record_property("measured", f"4 trials need {needed / 2**20:.1f} MiB of {free / 2**20:,.0f}")
    fewer = sweep("vmap", 1, memory=needed - 1)
    rows, _ = next(run(fewer, PARAMS, trials()))
    assert len(rows) == fewer.slots == 2
    assert fewer._needs(one_slot) < needed
    assert "there are 2 at a time" in capsys.readouterr().err


@pytest.mark.slow  # five compilations
def test_more_slots_than_memory_holds_are_split_and_said_so(
    capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep("vmap", 1, slots=16)
    next(run(whole, PARAMS, trials()))
    assert capsys.readouterr().err == ""
    needs = whole._compiled[16].memory_analysis()
    bytes_for_16 = (
        needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes
    )
    split = sweep("vmap", 1, slots=16, memory=bytes_for_16 // 2 + 1)
    rows, _ = next(run(split, PARAMS, trials()))
    assert split.slots in (4, 8)
    assert len(rows) == split.slots
    assert "jaxinit: 16 trials at a time need more than the" in (said := capsys.readouterr().err)
    assert f"there are {split.slots} at a time" in said
    hopeless = sweep("vmap", 1, slots=1, memory=1000)
    next(run(hopeless, PARAMS, trials()))
    assert "may not fit: make batch, hidden or length smaller" in capsys.readouterr().err
    monkeypatch.setattr(sweeps, "free_memory", lambda devices: 1000)
    with pytest.raises(
        BadStudy, match=r"a trial needs \d+ MiB on each device and 0 MiB are free; make batch"
    ):
        next(run(sweep("vmap", 1, slots=1), PARAMS, trials()))


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_sets_up_nothing_and_the_call_gives_a_device_per_core() -> None:
    done = run_python(
        "import jaxinit, jaxinit.engine, jax; from jaxinit.engine import sweep\n"
        "from jax._src import xla_bridge as b\n"
        "assert not b.backends_are_initialized()\n"
        "sweep.one_device_per_core(3); print(jax.device_count())"
    )
    assert done.stdout.split() == ["3"], done.stderr


@pytest.mark.slow
def test_compilations_are_kept_for_the_next_process(tmp_path) -> None:
    code = (
        "import jax, sys; from jaxinit.engine import sweep; sweep.keep_compilations()\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "jax.jit(lambda x: x + 1)(1.0); print(jax.config.jax_compilation_cache_dir)"
    )
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == str(tmp_path / "jaxinit"), done.stderr
    assert list((tmp_path / "jaxinit").iterdir())
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine")},
    )
    assert elsewhere.stdout.strip() == str(tmp_path / "mine")


def test_programs_are_not_kept_where_no_folder_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/x")
    before = jax.config.jax_compilation_cache_dir
    sweeps.keep_compilations()
    sweeps.keep_compilations()
    assert jax.config.jax_compilation_cache_dir == before
    said = capsys.readouterr().err
    assert said.startswith("jaxinit: compiled programs are not kept: ")
    assert said.count("\n") == 1


def test_a_late_call_says_what_to_do() -> None:
    done = run_python(
        "import jax; jax.devices(); from jaxinit.engine import sweep; sweep.one_device_per_core(3)"
    )
    assert "JAX was already initialized with 1 device(s)" in done.stderr
    assert (
        "call jaxinit.engine.sweep.one_device_per_core() before the first JAX operation"
        in done.stderr
    )


def test_rows_are_dealt_over_all_devices_and_come_back_in_order() -> None:
    a, b = np.arange(11, dtype=np.float32), np.arange(22, dtype=np.float32).reshape(11, 2)
    total, pair = over_devices(lambda a, b: (a + b.sum(), b), a, b)
    np.testing.assert_array_equal(total, a + b.sum(1))
    np.testing.assert_array_equal(pair, b)


def test_a_compilation_ends_the_wait_when_somebody_asks_to_stop() -> None:
    """The signal comes while a program compiles that takes long."""
    asked: list[int] = []
    done = threading.Event()

    class Lowered:
        def compile(self) -> str:
            asked.append(1)
            assert done.wait(60)
            return "program"

    with pytest.raises(Interrupted):
        sweeps.compiled(Lowered(), lambda: bool(asked))
    assert sweeps.compiling()
    done.set()
    assert sweeps.compiled(Lowered(), lambda: False) == "program"
    for thread in list(sweeps._compilations):
        thread.join(60)
    assert not sweeps.compiling()


def test_what_a_compilation_raises_is_raised() -> None:
    class Lowered:
        def compile(self) -> None:
            raise ValueError("no such operation")

    with pytest.raises(ValueError, match="no such operation"):
        sweeps.compiled(Lowered(), lambda: False)
