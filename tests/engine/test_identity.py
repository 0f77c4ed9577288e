"""What a study is: digests that see contents, whatever the names, and that any process finds
alike."""

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit.engine.identity import changed, combined, identify, program_digest
from jaxinit.engine.resolve import Resolved, resolve
from jaxinit.initializers import normal, zeros
from jaxinit.models import MLP
from jaxinit.study import Study
from jaxinit.tasks import TASKS, Task

STUDY = Study(
    model="mlp", task="own", schemes=("mine",), baseline="mine", hidden=8, lrs=(0.1,), target=0.5
)


class Doubled(MLP):
    """An MLP whose output is multiplied by 2."""

    def __call__(self, x: jax.Array, training=None) -> jax.Array:
        return 2 * super().__call__(x, training)


def resolved(task: Task, law=None, model=MLP, study: Study = STUDY) -> Resolved:
    law = law or normal(0.1)
    schemes = {"mine": lambda leaf: zeros if leaf.role == "bias" else law}
    return resolve(study, schemes, {"own": lambda: task}, {"mlp": model})


@pytest.fixture(scope="module")
def task() -> Task:
    return replace(TASKS["digits_rows"](), name="own")


@pytest.mark.slow  # two processes; in this one others have it
def test_the_same_study_has_the_same_identity_in_every_process(task: Task) -> None:
    code = (
        "from jaxinit.engine.resolve import resolve; from jaxinit.engine.identity import *\nfrom "
        "jaxinit.study import Study\nresolved = resolve(Study(hidden=8, layers=2, "
        "schemes=('orthogonal',), baseline='orthogonal', dropout=0.1))\n"
        "print(combined(identify(resolved), resolved.study.plain()))"
    )
    run = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert first == second
    assert len(first.strip()) == 64
    mine = resolved(task)
    assert identify(mine) == identify(resolved(task))
    assert combined(identify(mine), {}) != combined(identify(mine), {"seeds": 3})


def altered(task: Task, name: str, change) -> Task:
    return replace(task, data=task.data | {name: change(task.data[name])})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: (altered(t, "train_x", lambda x: 0 * x), None, MLP),
            ["the data of task 'own' differ"],
        ),
        (
            lambda t: (altered(t, "train_y", lambda y: 9 - y), None, MLP),
            ["the data of task 'own' differ"],
        ),
        (
            lambda t: (altered(t, "valid_x", lambda x: x.at[0, 0, 0].add(1)), None, MLP),
            ["the data of task 'own' differ"],
        ),
        (
            lambda t: (replace(t, loss=lambda a, y: 3 * t.loss(a, y)), None, MLP),
            ["loss, metric or batches of task 'own' differ", "what model 'mlp' computes differs"],
        ),
        (
            lambda t: (replace(t, metric=lambda a, y: t.metric(-a, y)), None, MLP),
            ["loss, metric or batches of task 'own' differ"],
        ),
        (lambda t: (t, None, Doubled), ["what model 'mlp' computes differs"]),
        (lambda t: (t, normal(0.2), MLP), ["the draws of scheme 'mine' differ"]),
    ],
)
def test_what_is_not_the_same_is_named(task: Task, change, expected: list[str]) -> None:
    other, law, model = change(task)
    here = identify(resolved(other, law, model))
    assert changed(identify(resolved(task)), here, STUDY) == expected


def test_precision_and_calibrations_are_part_of_it(task: Task) -> None:
    study = replace(STUDY, schemes=("mine", "mine+lsuv"))
    before = identify(resolved(task, study=study))
    assert set(before["calibrations"]) == {"mine+lsuv"}
    other = replace(study, matmul_precision="default")
    words = changed(before, identify(resolved(task, study=other)), study)
    assert "default_matmul_precision is 'highest' there, 'default' here" in words
    assert before["precision"]["random_seed_offset"] == 0, "what every key is shifted by"
    old = before | {"calibrations": {"mine+lsuv": "another"}}
    assert changed(old, before, study) == ["the calibration of 'mine+lsuv' differs"]


def test_a_program_is_known_by_what_it_computes_and_not_by_its_names() -> None:
    x = jnp.ones((3, 2))
    table = np.arange(6.0, dtype=np.float32).reshape(3, 2)

    def plain(x: jax.Array) -> jax.Array:
        return jnp.tanh(x) + table

    def renamed(y: jax.Array) -> jax.Array:
        z = jnp.tanh(y)
        return z + table.copy()

    assert program_digest(plain, x) == program_digest(renamed, x)
    others = [
        lambda x: jnp.sin(x) + table,
        lambda x: jnp.tanh(x) + (table + 1),
        lambda x: jnp.tanh(x) + table * 1.0001,
        lambda x: table + jnp.tanh(x),
        lambda x: jax.lax.cond(x[0, 0] > 0, jnp.tanh, jnp.sin, x),
        lambda x: jax.lax.cond(x[0, 0] > 0, jnp.tanh, jnp.cos, x),
        lambda x: jax.lax.scan(lambda c, r: (c, jnp.tanh(r)), 0, x)[1],
        lambda x: jax.lax.scan(lambda c, r: (c, jnp.sin(r)), 0, x)[1],
        jax.nn.relu,
        jax.nn.leaky_relu,
    ]
    digests = [program_digest(function, x) for function in (plain, *others)]
    assert len(set(digests)) == len(digests)


def test_what_a_callback_computes_on_the_host_is_part_of_a_program() -> None:
    x = jnp.ones((3, 2))

    def calling(function, *held):
        found = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return lambda x: jax.pure_callback(
            functools.partial(function, *held), found, x, vmap_method="sequential"
        )

    def times(factor: float):
        return lambda x: factor * x

    same = [program_digest(calling(times(2.0)), x) for _ in range(2)]
    assert same[0] == same[1]
    others = [
        calling(times(3.0)),
        calling(lambda x: 2.0 + x),
        calling(lambda x: 2.0 * x),
        calling(np.multiply, 2.0),
    ]
    digests = [
        program_digest(other, x)
        for other in (*others, calling(np.multiply, 3.0), calling(np.add, 3.0))
    ]
    assert len({same[0], *digests}) == 1 + len(digests)


FACTOR = 2.0


def scaled(x):
    return FACTOR * x


def scaled_by_another(x):
    return scaled(x)


@pytest.mark.parametrize("function", [scaled, scaled_by_another])
def test_what_a_callback_reads_from_its_module_is_part_of_a_program(
    function, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = jnp.ones((3, 2))
    call = lambda x: jax.pure_callback(
        function, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
    )
    before = program_digest(call, x)
    assert program_digest(call, x) == before
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert program_digest(call, x) != before


class Quiet(MLP):
    """Computes something else where it is trained without noise, as studies without dropout
    train."""

    def __call__(self, x, training=None):
        quiet = training is not None and training.key is None
        return (2 if quiet else 1) * super().__call__(x, training)


def test_training_without_noise_is_part_of_a_model(task: Task) -> None:
    here = identify(resolved(task, model=Quiet))
    assert changed(identify(resolved(task)), here, STUDY) == ["what model 'mlp' computes differs"]


def test_every_named_scheme_has_draws_of_its_own(tmp_path: Path) -> None:
    names = (
        "small_normal",
        "xavier_rnn",
        "glorot_uniform",
        "glorot_normal",
        "he_normal",
        "orthogonal",
        "identity",
    )
    resolved = resolve(Study(hidden=8, schemes=names, baseline=names[0]))
    digests = identify(resolved)["schemes"]
    assert len(set(digests.values())) == len(names)
