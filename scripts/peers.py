"""The convergence study of `jaxinit run`, done the way a PyTorch or a Flax NNX user would: what the
benchmark times.

A Python loop over the steps of one trial at a time, in two processes of one thread each, with the
same data, schemes, rates, seeds, evaluations and stopping rule as the study in the given folder.

    python scripts/peers.py torch|nnx STUDY_FOLDER
"""

import importlib
import json
import math
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIVERGED_AT, PROCESSES = 10.0, 2

Arrays = dict[str, np.ndarray]
# One trial: parameters, rate, data, orders of the epochs; evaluations until it converged, or the
# budget.
Trial = Callable[[Arrays, float, Arrays, list[np.ndarray], dict], int]


def start(scheme: str, seed: int, inputs: int, n: int, outputs: int) -> Arrays:
    """The three matrices of a vanilla RNN under the schemes of the study, and biases of zero."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, recurrent: bool = False) -> np.ndarray:
        average = (rows + columns) / 2
        shape = (rows, columns)
        if scheme == "uniform01":
            return rng.uniform(size=shape)
        if scheme == "identity" and recurrent:
            return np.eye(n)
        if scheme == "orthogonal" and recurrent:
            q, r = np.linalg.qr(rng.normal(size=shape))
            return q * np.sign(np.diag(r))
        if scheme == "glorot_uniform":
            return rng.uniform(-1, 1, size=shape) * math.sqrt(3 / average)
        spread = {
            "small_normal": 0.01,
            "xavier_rnn": math.sqrt(1 / (n if recurrent else rows)),
            "he_normal": math.sqrt(2 / rows),
            "lecun_normal": math.sqrt(1 / rows),
        }.get(scheme, math.sqrt(1 / average))
        return rng.normal(size=shape) * spread

    drawn = {"in": matrix(inputs, n), "rec": matrix(n, n, True), "out": matrix(n, outputs)}
    drawn |= {"bias": np.zeros(n), "out_bias": np.zeros(outputs)}
    return {name: value.astype(np.float32) for name, value in drawn.items()}


def torch_trial(
    params: Arrays, rate: float, data: Arrays, orders: list[np.ndarray], study: dict
) -> int:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    inputs, n = params["in"].shape
    net, out = torch.nn.RNN(inputs, n, batch_first=True), torch.nn.Linear(n, params["out"].shape[1])
    with torch.no_grad():
        for parameter, name in (
            (net.weight_ih_l0, "in"),
            (net.weight_hh_l0, "rec"),
            (net.bias_ih_l0, "bias"),
            (net.bias_hh_l0, "bias"),
            (out.weight, "out"),
            (out.bias, "out_bias"),
        ):
            parameter.copy_(torch.from_numpy(params[name].T.copy()))
    optimizer = torch.optim.SGD([*net.parameters(), *out.parameters()], lr=rate)
    tensors = {
        name: torch.from_numpy(value.astype(np.int64) if "_y" in name else value)
        for name, value in data.items()
    }
    loss_of = torch.nn.functional.cross_entropy

    def step(rows: np.ndarray) -> float:
        picked = torch.from_numpy(rows)
        optimizer.zero_grad()
        loss = loss_of(out(net(tensors["train_x"][picked])[0][:, -1]), tensors["train_y"][picked])
        loss.backward()
        # the recorded norm
        torch.nn.utils.clip_grad_norm_([*net.parameters(), *out.parameters()], math.inf)
        optimizer.step()
        return loss.item()

    def accuracy() -> float:
        with torch.no_grad():
            logits = out(net(tensors["valid_x"])[0][:, -1])
        return (logits.argmax(1) == tensors["valid_y"]).float().mean().item()

    return until_converged(step, accuracy, orders, study)


NNX: dict[
    Any, Any
] = {}  # what a process builds once: the jitted functions, and an optimizer for each rate


def nnx_trial(
    params: Arrays, rate: float, data: Arrays, orders: list[np.ndarray], study: dict
) -> int:
    import jax.numpy as jnp
    import optax
    from flax import nnx

    inputs, n = params["in"].shape

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.rnn = nnx.RNN(nnx.SimpleCell(inputs, n, rngs=rngs), rngs=rngs)
            self.out = nnx.Linear(n, params["out"].shape[1], rngs=rngs)

        def __call__(self, x: Any) -> Any:
            states: Any = self.rnn(x)
            return self.out(states[:, -1])

    if not NNX:
        NNX["net"] = Net(nnx.Rngs(0))
        NNX["data"] = {name: jnp.asarray(value) for name, value in data.items()}

        def loss_of(net: Any, x: Any, y: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

        @nnx.jit
        def update(net: Any, optimizer: Any, x: Any, y: Any) -> Any:
            value, grads = nnx.value_and_grad(loss_of)(net, x, y)
            optimizer.update(net, grads)
            return value, optax.tree.norm(grads)

        @nnx.jit
        def measure(net: Any, x: Any, y: Any) -> Any:
            return (net(x).argmax(1) == y).mean()

        NNX["update"], NNX["measure"] = update, measure
    if rate not in NNX:
        NNX[rate] = optax.sgd(rate)
    net: Any = NNX["net"]
    held = NNX["data"]
    net.rnn.cell.dense_i.kernel.set_value(jnp.asarray(params["in"]))
    net.rnn.cell.dense_i.bias.set_value(jnp.asarray(params["bias"]))
    net.rnn.cell.dense_h.kernel.set_value(jnp.asarray(params["rec"]))
    net.out.kernel.set_value(jnp.asarray(params["out"]))
    net.out.bias.set_value(jnp.asarray(params["out_bias"]))
    optimizer = nnx.Optimizer(net, NNX[rate], wrt=nnx.Param)

    def step(rows: np.ndarray) -> float:
        return NNX["update"](net, optimizer, held["train_x"][rows], held["train_y"][rows])[0]

    accuracy = lambda: float(NNX["measure"](net, held["valid_x"], held["valid_y"]))
    return until_converged(step, accuracy, orders, study)


def until_converged(
    step: Callable, accuracy: Callable, orders: list[np.ndarray], study: dict
) -> int:
    """Evaluations until the target, or the whole budget for a trial that does not converge."""
    every, first = len(orders[0]) // study["evaluations"], None
    evaluations = 0
    for order in orders:
        for begin in range(0, len(order), every):
            losses = [step(rows) for rows in order[begin : begin + every]]
            losses = [float(loss) for loss in losses]
            first = losses[0] if first is None else first
            evaluations += 1
            if accuracy() >= study["target"]:
                return evaluations
            if not np.mean(losses) <= DIVERGED_AT * first:
                return len(orders) * study["evaluations"]
    return evaluations


def work(job: tuple[str, str, float, int, dict, Arrays]) -> tuple[str, float, int, int]:
    kind, scheme, rate, seed, study, data = job
    count = len(data["train_y"])
    steps = count // study["batch"]
    draws = np.random.default_rng([seed, 1])
    orders = [
        draws.permutation(count)[: steps * study["batch"]].reshape(steps, -1)
        for _ in range(study["epochs"])
    ]
    params = start(
        scheme, seed, data["train_x"].shape[-1], study["hidden"], int(data["train_y"].max()) + 1
    )
    trial: Trial = {"torch": torch_trial, "nnx": nnx_trial}[kind]
    return scheme, rate, seed, trial(params, rate, data, orders, study)


def main(kind: str, folder: str) -> None:
    study = json.loads((Path(folder) / "study.json").read_text())["study"]
    data = dict(np.load(Path(folder) / "data.npz"))
    rates, tune = study["lrs"], study["tune_seeds"]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        job = lambda scheme, rate, seed: (kind, scheme, rate, seed, study, data)
        tuning = [
            job(scheme, rate, seed)
            for scheme in study["schemes"]
            for rate in rates
            for seed in range(tune)
        ]
        took: dict[tuple[str, float], list[int]] = {}
        for scheme, rate, _, evaluations in pool.imap_unordered(work, tuning):
            took.setdefault((scheme, rate), []).append(evaluations)
        best = {
            scheme: min(rates, key=lambda rate: np.mean(took[scheme, rate]))
            for scheme in study["schemes"]
        }
        seeds = range(tune, tune + study["seeds"])
        reporting = [
            job(scheme, best[scheme], seed) for scheme in study["schemes"] for seed in seeds
        ]
        epochs: dict[str, list[float]] = {}
        for scheme, _, _, evaluations in pool.imap_unordered(work, reporting):
            epochs.setdefault(scheme, []).append(evaluations / study["evaluations"])
    for scheme, values in sorted(epochs.items(), key=lambda item: np.mean(item[1])):
        print(f"{scheme:16} {best[scheme]:<6g} {np.mean(values):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
