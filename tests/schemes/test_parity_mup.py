"""muP against Microsoft's own package: the same Transformer in PyTorch, every parameter after 20
steps."""

import math
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx
from jaxtyping import Array

from jaxinit.engine import training
from jaxinit.introspect import Apply, Functional, functional
from jaxinit.models import Transformer
from jaxinit.schemes.mup import mup
from jaxinit.spec import Rule, Scheme, draw, named_key, rules
from jaxinit.tasks import TASKS
from jaxinit.tasks.base import cross_entropy

pytestmark = pytest.mark.parity

BASE, WIDTH, HEADS = 8, 32, 2  # the width is 4 times the base's
M = WIDTH / BASE
VOCABULARY, LENGTH, BATCH, STEPS = 11, 6, 4, 20
RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 0.01, "adamw": 0.01}
DECAY = 0.1  # of adamw, decoupled
EPSILON = 1e-8  # of Adam, in both libraries


def tokens() -> np.ndarray:
    """A batch for every step, of one token more than the network sees."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (STEPS, BATCH, LENGTH + 1))


@cache
def make_model(tied: bool, qk_norm: bool) -> Functional:
    def build() -> Transformer:
        return Transformer(
            VOCABULARY,
            WIDTH,
            VOCABULARY,
            layers=2,
            heads=HEADS,
            length=LENGTH,
            tied=tied,
            tied_scale=1 / M if tied else 1.0,
            qk_norm=qk_norm,
            rngs=nnx.Rngs(0),
        )

    return functional(build)


def trained(
    model: Functional, scheme: Scheme, optimizer: str, initial: dict[str, Array]
) -> dict[str, Array]:
    """Our parameters after the steps, by the training program's own rule, in float64."""
    by_name = rules(scheme, model.leaves)

    def pick(field: str) -> dict[str, Array]:
        return {name: jnp.float64(getattr(rule, field)) for name, rule in by_name.items()}

    scales = training.Scales(pick("multiplier"), pick("lr_scale"), pick("wd_scale"))
    trial = training.Trial(
        seed=jnp.int32(0),
        lr=jnp.float64(RATES[optimizer]),
        clip=jnp.float64(jnp.inf),
        clip_value=jnp.float64(jnp.inf),
        l2=jnp.float64(0),
        weight_decay=jnp.float64(DECAY if optimizer == "adamw" else 0),
        target=jnp.float64(0),
        budget=jnp.int32(1),
        scales=scales,
    )
    rule = "adam" if optimizer == "adamw" else optimizer
    program = training.Program(
        model, TASKS["copy"](), training.OPTIMIZERS[rule], batch=BATCH, evaluations=1, epochs=1
    )

    @jax.jit
    def descend(
        params: dict[str, Array], gradient: dict[str, Array], state: Any
    ) -> tuple[dict[str, Array], Any]:
        params, state, _ = program.descend(params, gradient, state, trial)
        return params, state

    gradient_at = gradient_of(model.apply)
    params, state = initial, training.OPTIMIZERS[rule](trial.lr).init(initial)
    for batch in tokens():
        gradient = gradient_at(params, scales.multiplier, jnp.asarray(batch))
        params, state = descend(params, gradient, state)
    return params


@cache
def gradient_of(apply: Apply) -> Callable[..., dict[str, Array]]:
    """The gradient of a model's loss, compiled once for all optimizers."""

    def loss(params: dict[str, Array], multiplier: dict[str, Array], batch: Array) -> Array:
        effective = {name: value * multiplier[name] for name, value in params.items()}
        return cross_entropy(apply(effective, batch[:, :-1]), batch[:, 1:])

    return jax.jit(jax.grad(loss))


def their_model(width: int, tied: bool, qk_norm: bool) -> Any:
    """The same network in PyTorch as the package's guide writes it: MuReadout, and scores over d
    instead of sqrt(d)."""
    import mup as theirs
    import torch
    from torch import nn

    head = width // HEADS

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before_attention = nn.LayerNorm(width)
            self.before_feed = nn.LayerNorm(width)
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, width)
            self.value = nn.Linear(width, width)
            self.out = nn.Linear(width, width)
            self.inner = nn.Linear(width, 4 * width)
            self.outer = nn.Linear(4 * width, width)
            if qk_norm:
                self.query_norm = nn.RMSNorm(head, eps=1e-5)
                self.key_norm = nn.RMSNorm(head, eps=1e-5)

        def attend(self, x: Any) -> Any:
            q = self.query(x).unflatten(-1, (HEADS, head))
            k = self.key(x).unflatten(-1, (HEADS, head))
            v = self.value(x).unflatten(-1, (HEADS, head))
            if qk_norm:
                q, k = self.query_norm(q), self.key_norm(k)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            scores = q @ k.transpose(2, 3) * math.sqrt(BASE / HEADS) / head
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            return self.out((weights @ v).transpose(1, 2).flatten(2))

        def forward(self, x: Any) -> Any:
            x = x + self.attend(self.before_attention(x))
            return x + self.outer(nn.functional.gelu(self.inner(self.before_feed(x))))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, width)
            self.positions = nn.Embedding(LENGTH, width)
            self.blocks = nn.ModuleList([Block(), Block()])
            self.norm = nn.LayerNorm(width)
            if tied:
                self.readout = theirs.MuSharedReadout(self.embedding.weight, bias=False)
            else:
                self.readout = theirs.MuReadout(width, VOCABULARY)

        def forward(self, x: Any) -> Any:
            x = self.embedding(x) + self.positions(torch.arange(x.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.readout(self.norm(x))

    return Net().double()


def our_name(name: str) -> str:
    """Our name of one of their parameters."""
    if name in ("embedding.weight", "positions.weight"):
        return name.removesuffix(".weight")
    head, _, kind = name.rpartition(".")
    if "norm" in head.rpartition(".")[2] or "before" in head:
        head = head.replace("before_attention", "attended.norm")
        head = head.replace("before_feed", "fed.norm")
        head = head.replace("query_norm", "attention.query_norm")
        head = head.replace("key_norm", "attention.key_norm")
        return f"{head}.{'scale' if kind == 'weight' else 'bias'}"
    if head == "readout":
        return "readout.kernel" if kind == "weight" else "readout.bias"
    block, _, layer = head.rpartition(".")
    ours = {"inner": "ffn_in", "outer": "ffn_out"}.get(layer, f"attention.{layer}")
    return f"{block}.{ours}{'' if kind == 'weight' else '_bias'}"


def as_theirs(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One of our arrays in the layout of their parameter: Linear keeps [outputs, inputs], MuReadout
    times m."""
    if "embedding" in name or "positions" in name or len(shape) == 1:
        return value.reshape(shape)
    return value.reshape(shape[::-1]).T * (M if name.startswith("readout") else 1.0)


def their_parameters(
    optimizer: str, initial: dict[str, Array], tied: bool, qk_norm: bool
) -> dict[str, np.ndarray]:
    """Their parameters after the steps, from our initial ones, by their names."""
    import mup as theirs
    import torch

    net = their_model(WIDTH, tied, qk_norm)
    bases = their_model(BASE, tied, qk_norm), their_model(2 * BASE, tied, qk_norm)
    theirs.set_base_shapes(net, bases[0], delta=bases[1], rescale_params=False)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            value = np.asarray(initial[our_name(name)])
            in_their_layout = as_theirs(name, value, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(in_their_layout.copy()))
    # Their readout holds m times ours, so its gradient is 1/m of ours, and so must be what Adam
    # adds to its size.
    others, readout = [], []
    for parameter in net.parameters():
        if not tied and parameter is net.readout.weight:
            readout.append(parameter)
        else:
            others.append(parameter)
    lr = RATES[optimizer]
    if optimizer in ("sgd", "momentum"):
        momentum = 0.9 if optimizer == "momentum" else 0.0
        rule = theirs.MuSGD([{"params": [*others, *readout]}], lr=lr, momentum=momentum)
    else:
        groups: list[dict[str, Any]] = [{"params": others}]
        if readout:
            groups.append({"params": readout, "eps": EPSILON / M})
        if optimizer == "adamw":
            rule = theirs.MuAdamW(groups, lr=lr, eps=EPSILON, weight_decay=DECAY)
        else:
            rule = theirs.MuAdam(groups, lr=lr, eps=EPSILON)
    for batch in torch.from_numpy(tokens()):
        rule.zero_grad()
        logits = net(batch[:, :-1])
        targets = batch[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)
        loss.backward()
        rule.step()
    return {name: parameter.detach().numpy() for name, parameter in net.named_parameters()}


def differences(
    optimizer: str, tied: bool, qk_norm: bool = False, scheme: Scheme | None = None
) -> dict[str, float]:
    """The largest difference of every parameter after the steps, over the size of its largest
    entry."""
    pytest.importorskip("torch")
    pytest.importorskip("mup")
    with jax.enable_x64(True):
        model = make_model(tied, qk_norm)
        scheme = scheme or mup(BASE, "adam" if optimizer == "adamw" else optimizer)
        initial = draw(scheme, jax.random.key(0), model.leaves, jnp.float64)
        # Biases that are not zero, so that what scales them is seen from the first step.
        for leaf in model.leaves:
            if leaf.role == "bias":
                key = named_key(jax.random.key(1), leaf.name)
                initial[leaf.name] = 0.1 * jax.random.normal(key, leaf.shape, jnp.float64)
        ours = trained(model, scheme, optimizer, initial)
        after = {name: np.asarray(value) for name, value in ours.items()}
        before = {name: np.asarray(value) for name, value in initial.items()}
    by_name = {}
    for their_name, value in their_parameters(optimizer, initial, tied, qk_norm).items():
        name = our_name(their_name)
        first = as_theirs(their_name, before[name], value.shape)
        last = as_theirs(their_name, after[name], value.shape)
        # the softmax takes out what all scores share
        without_effect = their_name.endswith("key.bias") and not qk_norm
        assert without_effect or np.abs(value - first).max() > 1e-4, f"{name} was not trained"
        by_name[name] = float(np.abs(last - value).max() / np.abs(value).max())
    assert set(by_name) == {leaf.name for leaf in model.leaves}
    return by_name


# What is tied is a table's rule, of which the optimizers' kinds and their decay know nothing.
@pytest.mark.parametrize(
    ("optimizer", "tied"),
    quick(("sgd", True), ("adam", False), of=product(RATES, [False, True])),
)
def test_every_parameter_equals_microsofts(optimizer: str, tied: bool) -> None:
    by_name = differences(optimizer, tied)
    assert max(by_name.values()) < 1e-9, by_name  # float64: 20 steps of rounding


@pytest.mark.parametrize("optimizer", quick("sgd", of=["sgd", "adam"]))
def test_scores_over_d_under_normalized_queries_too(optimizer: str) -> None:
    by_name = differences(optimizer, False, qk_norm=True)
    assert max(by_name.values()) < 1e-9, by_name


@pytest.mark.slow
def test_a_bias_without_its_querys_multiplier_is_seen() -> None:
    right = mup(BASE, "sgd")

    def faulty(leaf: Any) -> Rule:
        rule: Any = right(leaf)
        multiplier = 1.0 if leaf.role == "bias" else rule.multiplier
        return Rule(rule.draw, multiplier, rule.lr_scale, rule.wd_scale)

    assert max(differences("sgd", False, scheme=faulty).values()) > 1e-3
