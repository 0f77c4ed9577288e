"""Verdicts on signals whose fate is known."""

from collections.abc import Callable
from functools import cache
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from cases import quick
from flax import nnx

import jaxinit
from jaxinit import spec
from jaxinit.analysis.health import Along, Kind, judge, remedies
from jaxinit.initializers import constant, orthogonal
from jaxinit.introspect import declare, functional
from jaxinit.models import MODELS
from jaxinit.schemes import SCHEMES, scale
from jaxinit.signals import probes
from jaxinit.tasks.base import cross_entropy


@cache
def looked_at(model: str, length: int, options: tuple) -> tuple[tuple[spec.Leaf, ...], Callable]:
    """The leaves of a model, and its signals at parameters, compiled."""
    x = jax.random.normal(jax.random.key(1), (64, length, 4))
    y = jax.random.randint(jax.random.key(2), (64,), 0, 5)
    inputs = 4 * length if model == "mlp" else 4
    leaves, apply, *_ = functional(
        lambda: MODELS[model](inputs, 64, 5, rngs=nnx.Rngs(0), **dict(options))
    )
    return leaves, jax.jit(lambda p: probes.signals(apply, cross_entropy, leaves, p, (x, y)))


def probed(
    model: str, scheme: spec.Scheme, seeds: int = 3, length: int = 30, **options
) -> xr.Dataset:
    leaves, signals = looked_at(model, length, tuple(options.items()))
    draws = [spec.draw(scheme, jax.random.key(seed), leaves) for seed in range(seeds)]
    found = [probes.to_dataset(signals(params), leaves) for params in draws]
    return xr.concat(found, "seed")


def found(dataset: xr.Dataset, signal: str, along: str = "layer"):
    return next(
        v
        for v in judge(dataset)
        if (v.signal, v.along) == (signal, along) and not np.isnan(v.change)
    )


@pytest.mark.parametrize(
    ("gain", "kind"),
    quick((1.7, "exploding"), of=[(0.5, "vanishing"), (1.0, "healthy"), (1.7, "exploding")]),
)
def test_a_linear_net_changes_by_its_gain(gain: float, kind: str) -> None:
    dataset = probed("mlp", scale(SCHEMES["saxe_orthogonal"], gain), layers=10, activation="linear")
    for signal in ("activation", "gradient"):
        verdict = found(dataset, signal)
        assert verdict.kind == kind
        assert verdict.change == pytest.approx(np.log10(gain), abs=0.05)
        assert verdict.low <= verdict.change <= verdict.high
    worst = judge(dataset)[0]
    assert worst.kind == kind
    assert "decades per layer" in str(worst)
    assert remedies(worst.kind)


@pytest.mark.parametrize(
    ("gain", "kind"), [(0.8, "vanishing"), (1.0, "healthy"), (1.2, "exploding")]
)
def test_a_linear_rnn_changes_by_its_gain_per_step(gain: float, kind: str) -> None:
    scheme = spec.Override(SCHEMES["xavier_rnn"], {"recurrent": orthogonal(gain)})
    verdict = found(probed("rnn", scheme, activation="linear"), "gradient", "step")
    assert verdict.kind == kind
    assert verdict.change == pytest.approx(np.log10(gain), abs=0.01)
    assert verdict.where == "the first step of layers.0.recurrent"


@pytest.mark.slow
def test_saturation_and_death_are_named_with_their_share() -> None:
    saturated = judge(probed("mlp", SCHEMES["uniform01"], seeds=1, layers=4))
    worst = next(v for v in saturated if v.kind == "saturated")
    assert worst.value > 0.9
    assert "are saturated" in str(worst)
    large = probed("mlp", SCHEMES["uniform01"], seeds=1, layers=4, activation="relu")
    named = large.assign_attrs(activation="relu")
    assert not [verdict for verdict in judge(named) if verdict.kind == "saturated"]
    dead = judge(
        probed("mlp", scale(SCHEMES["uniform01"], 0.0), seeds=1, layers=4, activation="relu")
    )
    assert dead[0].kind == "dead"
    assert "100% of the activations into" in str(dead[0])


def test_entries_that_are_not_finite_are_located() -> None:
    """Linear layers that overflow: the first products that do are named, not averaged away."""
    dataset = probed(
        "mlp", scale(SCHEMES["saxe_orthogonal"], 1e13), seeds=1, layers=4, activation="linear"
    )
    verdict = next(v for v in judge(dataset) if v.signal == "product")
    assert verdict.kind == "not finite"
    assert judge(dataset)[0].kind == "not finite"
    assert verdict.where == "layers.2.kernel"  # 1e13^3 is above the largest float32
    assert verdict.value > 0
    assert "the first where there are any" in str(verdict)


def test_inputs_are_no_activations_that_saturate() -> None:
    model = jaxinit.MLP(5, 8, 3, layers=2, rngs=nnx.Rngs(0))
    batch = jnp.ones((6, 1, 5)), jnp.zeros(6, int)
    verdicts = judge(jaxinit.probe(model, batch, "cross_entropy"))
    assert "saturated" not in {verdict.kind for verdict in verdicts}


def test_a_gradient_that_underflows_on_the_way_is_not_called_healthy() -> None:
    """Past the step where it is 0 a course is flat: the slope is that of what is above."""
    scheme = spec.Override(SCHEMES["xavier_rnn"], {"recurrent": orthogonal(0.1)})
    verdict = found(probed("rnn", scheme, activation="linear", length=200), "gradient", "step")
    assert verdict.kind == "vanishing"
    assert verdict.change == pytest.approx(-1, abs=0.05)
    nothing = judge(
        probed("rnn", spec.Override(SCHEMES["xavier_rnn"], {"readout": constant(0.0)}), length=5)
    )
    verdict = next(v for v in nothing if v.signal == "gradient" and v.along == "step")
    assert verdict.kind == "vanishing"
    assert "nothing of the gradient is left" in str(verdict)


class Chain(nnx.Module):
    """Four equal layers by the names given, used in the order of the names given."""

    def __init__(self, names: str):
        self.names = names
        for k, name in enumerate(names):
            init = nnx.initializers.normal(0.08)
            setattr(
                self, name, nnx.Linear(16, 16, use_bias=False, kernel_init=init, rngs=nnx.Rngs(k))
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        for name in self.names:
            x = jnp.tanh(getattr(self, name)(x))
        return x


@pytest.mark.slow
def test_a_verdict_does_not_depend_on_the_names_of_layers() -> None:
    x, y = jax.random.normal(jax.random.key(1), (64, 16)), jnp.zeros(64, int)
    verdicts = []
    for names in ("abcd", "dcba"):
        model = declare(Chain(names), roles={names[-1]: "readout"}, n_layers=4, width=16)
        signals = probes.probe(model, (x, y), cross_entropy)
        assert signals.parameter.values.tolist() == [f"{name}.kernel" for name in names]
        verdicts.append([found(signals, signal).change for signal in ("activation", "gradient")])
    np.testing.assert_allclose(verdicts[0], verdicts[1], rtol=1e-5)
    assert verdicts[0][0] < -0.4, "0.08 * sqrt(16) a layer"


@pytest.mark.slow
def test_a_gate_that_is_idle_at_the_first_step_does_not_vanish() -> None:
    """The forget gate of an LSTM multiplies a cell that is 0 then; the course of the other steps is
    what counts."""
    cell = nnx.RNN(nnx.LSTMCell(8, 16, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    last = nnx.Sequential(cell, lambda h: h[:, -1])
    x, y = jax.random.normal(jax.random.key(1), (64, 6, 8)), jnp.zeros(64, int)
    signals = probes.probe(declare(last, n_layers=1, width=16), (x, y), cross_entropy)
    changes = {v.where: v.change for v in judge(signals) if v.along == "step"}
    assert max(changes.values()) - min(changes.values()) < 0.3, changes


@pytest.mark.parametrize(
    ("scheme", "along", "left_out"),
    [
        ("orthogonal", "layer", "orthogonal"),
        ("saxe_orthogonal", "step", "orthogonal"),
        ("glorot_uniform+lsuv", "layer", "lsuv"),
        ("he_normal", "layer", "he_normal"),
        ("irnn", "step", "identity"),
        ("chrono(longest=100)", "step", "chrono"),
    ],
)
def test_no_scheme_is_advised_to_become_what_it_is(
    scheme: str, along: Along, left_out: str
) -> None:
    assert left_out in remedies("vanishing", along)
    assert left_out not in remedies("vanishing", along, scheme)
    for kind in get_args(Kind):
        assert remedies(kind, along, scheme)
        assert left_out not in remedies(kind, along, scheme)


def test_orthogonal_kernels_are_advised_to_schemes_that_do_not_draw_them() -> None:
    roles: dict[Along, str] = {"layer": "hidden", "step": "recurrent"}
    seen = []
    for name, scheme in SCHEMES.items():
        for along, role in roles.items():
            try:
                leaf = spec.Leaf("k", (16, 16), "io", role)
                drawn = spec.draw(scheme, jax.random.key(0), [leaf])
            except ValueError:
                continue  # of other models
            kernel = np.asarray(drawn["k"])
            gram = kernel @ kernel.T
            is_orthogonal = np.allclose(gram, gram[0, 0] * np.eye(16), atol=1e-4 * gram[0, 0])
            assert ("orthogonal" in remedies("vanishing", along, name)) != is_orthogonal, name
            seen.append(is_orthogonal)
    assert sum(seen) >= 8
    assert len(seen) >= 40


def test_what_is_advised_against_layers_has_nothing_of_time() -> None:
    """Gates and recurrent kernels help against what happens from step to step, and an MLP has
    none; residual connections do not."""
    for kind in get_args(Kind):
        layers, steps = (remedies(kind, along) for along in get_args(Along))
        assert not any(word in layers for word in ("recurrent", "gated", "chrono"))
        assert "residual" not in steps
