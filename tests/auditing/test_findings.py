"""Faults that are planted in small models are found, and their controls are clean."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audited import DEPTH, WIDTH, Bare, Language, Layered, Mamba, random_model, time_steps
from flax import nnx
from jax.nn import initializers as theirs
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxinit
from jaxinit import initializers
from jaxinit.auditing import audit
from jaxinit.auditing.findings import Finding, half_lives, look
from jaxinit.auditing.inventory import entries_of
from jaxinit.spec import Override, along


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def found(model: Any, **options: Any) -> list[Finding]:
    """The findings that are more than notes."""
    return [f for f in audit(model, **options).findings if f.severity != "note"]


def conv(init: Any, window: int = 3, groups: int = 1, inputs: int = 64) -> nnx.Module:
    return nnx.Conv(
        inputs, 64, (window, window), feature_group_count=groups, kernel_init=init, rngs=rngs()
    )


def gru(init: Any = None) -> nnx.Module:
    given = {} if init is None else {"recurrent_kernel_init": init}
    return nnx.GRUCell(64, 64, rngs=rngs(), **given)


def per_gate(init: Any, gates: int) -> Any:
    """A fused kernel drawn gate by gate."""

    def drawn(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, gates)
        parts = [init(k, (shape[0], shape[1] // gates), dtype) for k in keys]
        return jnp.concatenate(parts, axis=1)

    return drawn


def general(init: Any) -> nnx.Module:
    return nnx.LinearGeneral(
        64, 64, batch_axis={0: 16}, axis=-1, kernel_init=init, use_bias=False, rngs=rngs()
    )


def by_copy(dims: str, init: Any) -> Any:
    return lambda key, shape, dtype=jnp.float32: along(dims, init)(key, shape, dtype)


def narrow(init: Any, dtype: Any) -> nnx.Module:
    return nnx.Linear(256, 256, kernel_init=init, param_dtype=dtype, rngs=rngs())


def delta(tap: int) -> nnx.Module:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        matrix = initializers.orthogonal()(key, shape[-2:], dtype)
        return jnp.zeros(shape, dtype).at[tap, tap].set(matrix)

    return conv(init, window=4)


def scale(value: float) -> nnx.Module:
    model = Layered(nnx.Linear(64, 64, rngs=rngs()))
    model.layer_scale = nnx.Param(jnp.full(64, value))
    return model


def twice(same: bool) -> nnx.Module:
    first, second = (nnx.Linear(64, 64, rngs=nnx.Rngs(seed)) for seed in (0, 0 if same else 1))
    return Layered(first, second)


def stacked(split: bool) -> nnx.Module:
    if not split:
        return nnx.vmap(lambda _: nnx.Linear(64, 64, rngs=nnx.Rngs(0)))(jnp.arange(3))

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> nnx.Linear:
        return nnx.Linear(64, 64, rngs=rngs)

    return make(nnx.Rngs(0))


def attention(**options: bool) -> nnx.Module:
    model = nnx.MultiHeadAttention(4, 64, decode=False, rngs=rngs(), **options)
    return jaxinit.reinitialize(model, jaxinit.SCHEMES["xavier_rnn"], jax.random.key(0))


def replicated(differ: bool) -> nnx.Module:
    devices = jax.devices()[:2]
    mesh = Mesh(np.asarray(devices), ("data",))
    base = jax.random.normal(jax.random.key(0), (64, 64))
    parts = [jax.device_put(base + k * differ, device) for k, device in enumerate(devices)]
    sharding = NamedSharding(mesh, PartitionSpec())
    model = nnx.Linear(64, 64, rngs=rngs())
    array = jax.make_array_from_single_device_arrays((64, 64), sharding, parts)
    model.kernel.set_value(array)
    return model


he_out = theirs.variance_scaling(2.0, "fan_out", "truncated_normal")
ROOT = (2 * DEPTH) ** -0.5

# What is planted, what finds it, and the same without the fault.
PLANTED: dict[str, tuple[Callable[[], Any], str, str, Callable[[], Any], dict]] = {
    "fused orthogonal gates": (
        gru,
        "one orthogonal matrix for all gates",
        "mean singular value of a gate 0.5",
        lambda: gru(per_gate(initializers.orthogonal(), 3)),
        {},
    ),
    "fused Glorot gates": (
        lambda: gru(theirs.glorot_uniform()),
        "independent axes counted in a fan",
        "0.7[01]* times",
        lambda: gru(per_gate(theirs.glorot_uniform(), 3)),
        {},
    ),
    "bfloat16 sampled directly": (
        lambda: narrow(theirs.he_normal(), jnp.bfloat16),
        "sampled in low precision",
        "128 different values",
        lambda: narrow(initializers.he(), jnp.bfloat16),
        {},
    ),
    "float16 sampled directly": (
        lambda: narrow(theirs.lecun_normal(), jnp.float16),
        "sampled in low precision",
        "different values",
        lambda: narrow(initializers.lecun(), jnp.float16),
        {},
    ),
    "batch axes in a fan": (
        lambda: general(theirs.lecun_normal()),
        "independent axes counted in a fan",
        "0.25 times",
        lambda: general(initializers.normal(64**-0.5)),
        {},
    ),
    "experts as a window": (
        lambda: Bare(theirs.lecun_normal()(jax.random.key(0), (12, 64, 64))),
        "a first axis counted as a window",
        "0.289 times|0.289 or",
        lambda: Bare(along(".io", initializers.lecun())(jax.random.key(0), (12, 64, 64))),
        {},
    ),
    "heads as fans": (
        lambda: Bare(theirs.lecun_normal()(jax.random.key(0), (64, 8, 8))),
        "a first axis counted as a window",
        "LeCun's of",
        lambda: Bare(along("i.o", initializers.lecun())(jax.random.key(0), (64, 8, 8))),
        {},
    ),
    "groups in a fan": (
        lambda: conv(he_out, groups=64),
        "independent axes counted in a fan",
        "0.1[0-9]* times",
        lambda: conv(by_copy("ww.o", initializers.normal((2 / 9) ** 0.5)), groups=64),
        {},
    ),
    "a rule that matches nothing": (
        lambda: Language(rngs()),
        "the declared scheme does not fit the model",
        "attn.c_proj",
        lambda: Language(rngs()),
        {"scheme": Override(jaxinit.SCHEMES["gpt2"], {"*attn.c_proj*": initializers.zeros})},
    ),
    "the residual factor never applied": (
        lambda: Language(rngs(), o_proj=0.02, fc2=0.02),
        "another standard deviation than declared",
        "2.8[0-9]* times.*sqrt\\(2 x 4\\)",
        lambda: Language(rngs()),
        {"scheme": "gpt2"},
    ),
    "one block where there are four": (
        lambda: Language(rngs(), o_proj=0.02 * 0.5**0.5, fc2=0.02 * 0.5**0.5),
        "a factor by another depth",
        "1/sqrt\\(2\\)",
        lambda: Language(rngs()),
        {},
    ),
    "layers where blocks are meant": (
        lambda: Language(rngs(), o_proj=0.02 / DEPTH**0.5, fc2=0.02 / DEPTH**0.5),
        "a factor by another depth",
        "1/sqrt\\(4\\)",
        lambda: Language(rngs()),
        {},
    ),
    "the factor on the queries": (
        lambda: Language(rngs(), q_proj=0.02 * ROOT, o_proj=0.02),
        "a factor by depth on the wrong kernel",
        "1/sqrt\\(2 x 4\\)",
        lambda: Language(rngs()),
        {},
    ),
    "dt_bias of 1": (
        lambda: Mamba(jnp.ones(64)),
        "a memory of no use at the start",
        "half-life 0.06",
        lambda: Mamba(time_steps()),
        {},
    ),
    "dt_bias of 0": (
        lambda: Mamba(jnp.zeros(64)),
        "a memory of no use at the start",
        "half-life 0.1",
        lambda: Mamba(time_steps()),
        {},
    ),
    "an even window off its centre": (
        lambda: delta(2),
        "the tap is beside the centre",
        r"at \(2, 2\).*centre|\(1, 1\)",
        lambda: delta(1),
        {},
    ),
    "LayerScale reset to ones": (
        lambda: scale(1.0),
        "LayerScale starts at 1",
        "every entry is 1",
        lambda: scale(1e-5),
        {},
    ),
    "the same key twice": (
        lambda: twice(True),
        "the same draw twice",
        "equal to layers.1.kernel",
        lambda: twice(False),
        {},
    ),
    "layers stacked from one key": (
        lambda: stacked(False),
        "copies with the same draw",
        "1 different draws",
        lambda: stacked(True),
        {},
    ),
    "an init that is never called": (
        lambda: Layered(nnx.Linear(64, 64, rngs=rngs())),
        "not what the scheme draws",
        "truncated normal of 0.12",
        lambda: jaxinit.reinitialize(
            Layered(nnx.Linear(64, 64, rngs=rngs())), "orthogonal", jax.random.key(1)
        ),
        {"scheme": "orthogonal"},
    ),
    "one-sided": (
        lambda: Layered(nnx.Linear(64, 64, kernel_init=theirs.uniform(), rngs=rngs())),
        "all entries of one sign",
        "mean 0.00",
        lambda: Layered(
            nnx.Linear(64, 64, kernel_init=initializers.uniform(-0.01, 0.01), rngs=rngs())
        ),
        {},
    ),
    "a kernel of one number": (
        lambda: Layered(nnx.Linear(64, 64, kernel_init=theirs.constant(0.1), rngs=rngs())),
        "a kernel of one number",
        "every entry is 0.1",
        lambda: Layered(nnx.Linear(64, 64, rngs=rngs())),
        {},
    ),
    "normalized queries under muP": (
        lambda: attention(normalize_qk=True, use_bias=False),
        "the multiplier of the scores is divided out",
        "normalized",
        lambda: attention(normalize_qk=False, use_bias=False),
        {"scheme": "mup(base_width=32)", "width": 64},
    ),
    "a bias of the queries under muP": (
        lambda: attention(normalize_qk=False, use_bias=True),
        "the bias of the queries is not scaled with them",
        "grows with the width",
        lambda: attention(normalize_qk=False, use_bias=False),
        {"scheme": "mup(base_width=32)", "width": 64},
    ),
    "not finite": (
        lambda: Layered(nnx.Linear(64, 64, bias_init=theirs.constant(jnp.nan), rngs=rngs())),
        "not finite",
        "64 NaN and 0 infinite of 64",
        lambda: Layered(nnx.Linear(64, 64, rngs=rngs())),
        {},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    make, what, evidence, _, options = PLANTED[name]
    findings = [f for f in found(make(), **options) if f.what == what]
    assert findings, [f.what for f in found(make(), **options)]
    assert re.search(evidence, findings[0].evidence), findings[0].evidence
    assert findings[0].repair
    assert findings[0].cause


@pytest.mark.parametrize("name", [n for n in PLANTED if n != "a rule that matches nothing"])
def test_its_control_is_clean(name: str) -> None:
    _, _, _, control, options = PLANTED[name]
    assert found(control(), **options) == []


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_replicas_that_differ_are_found() -> None:
    (finding,) = found(replicated(True))
    assert finding.what == "replicas differ"
    assert "up to 1 apart" in finding.evidence
    assert found(replicated(False)) == []


def test_weights_that_were_drawn_again_after_loading_are_found() -> None:
    model = Language(rngs())
    loaded = {entry.name: entry.values() for entry in entries_of(model)}
    assert found(model, weights=loaded) == []
    model.lm_head = nnx.Linear(WIDTH, 100, use_bias=False, rngs=nnx.Rngs(1))
    (finding,) = found(model, weights=loaded)
    assert (finding.what, finding.parameter) == ("not what was loaded", "lm_head.kernel")
    assert found(model, weights=loaded, fresh=("lm_head.*",)) == []


def test_half_lives_are_those_of_a_simulation() -> None:
    bias = time_steps()
    entries = {entry.name: entry for entry in entries_of(Mamba(bias))}
    items = {name: look(entry, None, jax.random.key(0)) for name, entry in entries.items()}
    steps = half_lives(items["dt_bias"], items)
    assert steps is not None
    dt = np.logaddexp(0, np.asarray(bias))
    decay = np.exp(-dt * np.linspace(1, 16, 64))
    by_hand = np.asarray([np.argmax(d ** np.arange(20_000) <= 0.5) for d in decay])
    assert np.abs(np.ceil(steps) - by_hand).max() <= 1


def false_alarms(count: int) -> list[tuple[int, Finding]]:
    """The serious findings of correct models, under their schemes and without."""
    alarms = []
    for seed in range(count):
        model, scheme = random_model(seed)
        serious = [*audit(model, scheme).serious, *audit(model).serious]
        alarms += [(seed, finding) for finding in serious[:1]]
    return alarms


def test_correct_models_are_not_blamed() -> None:
    assert false_alarms(6) == []


@pytest.mark.slow
def test_one_error_rate_holds_for_whole_models() -> None:
    """500 correct models, each with a chance of 0.001 of a serious finding: 5 or more have a
    probability of 0.0002."""
    assert len(false_alarms(500)) < 5
