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
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

DIVERGED_AT, PROCESSES = 10.0, 2

Arrays = dict[str, np.ndarray]
# One trial: parameters, rate, data, orders of the epochs; evaluations until it converged, or the
# budget.
Trial = Callable[[Arrays, float, Arrays, list[np.ndarray], dict], int]


def initial(scheme: str, seed: int, inputs: int, n: int, outputs: int) -> Arrays:
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
            return q * np.sign(np.diag(r))  # of Haar's law, which QR alone is not
        if scheme == "glorot_uniform":
            return rng.uniform(-1, 1, size=shape) * math.sqrt(3 / average)
        spreads = {
            "small_normal": 0.01,
            "xavier_rnn": math.sqrt(1 / rows),
            "he_normal": math.sqrt(2 / rows),
            "lecun_normal": math.sqrt(1 / rows),
        }
        # Glorot's is that of the other matrices under `identity` and `orthogonal` too.
        return rng.normal(size=shape) * spreads.get(scheme, math.sqrt(1 / average))

    drawn = {"in": matrix(inputs, n), "rec": matrix(n, n, True), "out": matrix(n, outputs)}
    drawn |= {"bias": np.zeros(n), "out_bias": np.zeros(outputs)}
    return {name: value.astype(np.float32) for name, value in drawn.items()}


def torch_trial(
    params: Arrays, rate: float, data: Arrays, orders: list[np.ndarray], study: dict
) -> int:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    inputs, n = params["in"].shape
    net = torch.nn.RNN(inputs, n, batch_first=True)
    out = torch.nn.Linear(n, params["out"].shape[1])
    with torch.no_grad():
        for parameter, name in (
            (net.weight_ih_l0, "in"),
            (net.weight_hh_l0, "rec"),
            (net.bias_ih_l0, "bias"),
            (net.bias_hh_l0, "bias"),  # PyTorch has two, both of zero here
            (out.weight, "out"),
            (out.bias, "out_bias"),
        ):
            # PyTorch's matrices are outputs by inputs.
            parameter.copy_(torch.from_numpy(params[name].T.copy()))
    parameters = [*net.parameters(), *out.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=rate)
    tensors = {}
    for name, value in data.items():
        labels = name.endswith("_y")
        tensors[name] = torch.from_numpy(value.astype(np.int64) if labels else value)

    def logits_of(x: Any) -> Any:
        states, _ = net(x)
        return out(states[:, -1])

    def step(rows: np.ndarray) -> float:
        batch = torch.from_numpy(rows)
        optimizer.zero_grad()
        logits = logits_of(tensors["train_x"][batch])
        loss = torch.nn.functional.cross_entropy(logits, tensors["train_y"][batch])
        loss.backward()
        # Clips nothing: it computes the norm, which our records have too.
        torch.nn.utils.clip_grad_norm_(parameters, math.inf)
        optimizer.step()
        return loss.item()

    def accuracy() -> float:
        with torch.no_grad():
            logits = logits_of(tensors["valid_x"])
        return (logits.argmax(1) == tensors["valid_y"]).float().mean().item()

    return until_converged(step, accuracy, orders, study)


# What a process builds once: the network, the data, the jitted functions, and an optimizer for each
# rate. A trial that built its own would compile anew.
NNX: dict[Any, Any] = {}


def nnx_trial(
    params: Arrays, rate: float, data: Arrays, orders: list[np.ndarray], study: dict
) -> int:
    import jax.numpy as jnp
    import optax
    from flax import nnx

    if not NNX:
        NNX["data"] = {name: jnp.asarray(value) for name, value in data.items()}
        inputs, n = params["in"].shape
        NNX["net"] = nnx_net(inputs, n, params["out"].shape[1])
        NNX["update"], NNX["measure"] = nnx_functions()
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
        loss, _ = NNX["update"](net, optimizer, held["train_x"][rows], held["train_y"][rows])
        return loss

    def accuracy() -> float:
        return float(NNX["measure"](net, held["valid_x"], held["valid_y"]))

    return until_converged(step, accuracy, orders, study)


def nnx_net(inputs: int, n: int, outputs: int) -> Any:
    """A vanilla RNN of Flax's layers with a readout of its last state."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.rnn = nnx.RNN(nnx.SimpleCell(inputs, n, rngs=rngs), rngs=rngs)
            self.out = nnx.Linear(n, outputs, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            states: Any = self.rnn(x)
            return self.out(states[:, -1])

    return Net(nnx.Rngs(0))


def nnx_functions() -> tuple[Callable, Callable]:
    """A training step, with the norm of the gradient, and the accuracy, both compiled."""
    import optax
    from flax import nnx

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

    return update, measure


def until_converged(
    step: Callable, accuracy: Callable, orders: list[np.ndarray], study: dict
) -> int:
    """Evaluations until the target, which the last epoch's reach on average, or the whole budget
    for a trial that does not converge."""
    every = len(orders[0]) // study["evaluations"]
    accuracies: list[float] = []
    first = None
    for order in orders:
        for begin in range(0, len(order), every):
            losses = [step(rows) for rows in order[begin : begin + every]]
            # Read after the last step only: JAX need not wait for each.
            losses = [float(loss) for loss in losses]
            if first is None:
                first = losses[0]
            accuracies.append(float(accuracy()))
            last_epoch = accuracies[-study["evaluations"] :]
            whole = len(last_epoch) == study["evaluations"]
            if whole and np.mean(last_epoch) >= study["target"]:
                return len(accuracies)
            if not np.mean(losses) <= DIVERGED_AT * first:  # nan too
                return len(orders) * study["evaluations"]
    return len(accuracies)


def work(job: tuple[str, str, float, int, dict, Arrays]) -> tuple[str, float, int, int]:
    """One trial: its scheme, rate and seed, and the evaluations that it took."""
    kind, scheme, rate, seed, study, data = job
    count = len(data["train_y"])
    steps = count // study["batch"]
    draws = np.random.default_rng([seed, 1])
    orders = []
    for _ in range(study["epochs"]):
        order = draws.permutation(count)[: steps * study["batch"]]
        orders.append(order.reshape(steps, -1))
    inputs, classes = data["train_x"].shape[-1], int(data["train_y"].max()) + 1
    params = initial(scheme, seed, inputs, study["hidden"], classes)
    trial: Trial = {"torch": torch_trial, "nnx": nnx_trial}[kind]
    return scheme, rate, seed, trial(params, rate, data, orders, study)


def main(kind: str, folder: str) -> None:
    study = json.loads((Path(folder) / "study.json").read_text())["study"]
    data = dict(np.load(Path(folder) / "data.npz"))
    rates, tune = study["lrs"], study["tune_seeds"]
    # Spawned, since JAX and PyTorch have threads, which a forked process would lack.
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        tuning = []
        for scheme, rate, seed in product(study["schemes"], rates, range(tune)):
            tuning.append((kind, scheme, rate, seed, study, data))
        needed: dict[tuple[str, float], list[int]] = {}
        for scheme, rate, _, evaluations in pool.imap_unordered(work, tuning):
            needed.setdefault((scheme, rate), []).append(evaluations)
        means = {trials: np.mean(evaluations) for trials, evaluations in needed.items()}
        best = {}
        for scheme in study["schemes"]:
            of_rates = [means[scheme, rate] for rate in rates]
            best[scheme] = rates[int(np.argmin(of_rates))]
        reporting = []
        for scheme, seed in product(study["schemes"], range(tune, tune + study["seeds"])):
            reporting.append((kind, scheme, best[scheme], seed, study, data))
        epochs: dict[str, list[float]] = {}
        for scheme, _, _, evaluations in pool.imap_unordered(work, reporting):
            epochs.setdefault(scheme, []).append(evaluations / study["evaluations"])
    for scheme, values in sorted(epochs.items(), key=lambda item: np.mean(item[1])):
        print(f"{scheme:16} {best[scheme]:<6g} {np.mean(values):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
