"""What the command line audits: files, functions and batches."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxinit.cli import main

MINE = """
import numpy
from flax import nnx

class Net(nnx.Module):
    def __init__(self, rngs, inputs=8, outputs=10, init=nnx.initializers.he_normal()):
        self.a = nnx.Linear(inputs, 32, kernel_init=init, rngs=rngs)
        self.b = nnx.Linear(32, outputs, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))

def build(rngs):
    return Net(rngs)

def sized(in_features, out_features, rngs):
    return Net(rngs, in_features, out_features)

def unseeded(rngs):
    net = Net(rngs)
    net.a.kernel.set_value(numpy.random.normal(size=(8, 32)).astype("float32"))
    return net

def flat(rngs):
    return Net(rngs, init=nnx.initializers.constant(0.1))

def broken(rngs):
    raise RuntimeError("no such layer")

def asks(depth, rngs):
    return Net(rngs)

model = 3

from flax import linen

class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(x)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_audited.py").write_text(MINE)
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(64, 8)).astype(np.float32), draws.integers(0, 10, 64)
    np.savez("b.npz", x=x, y=y)
    np.savez("labels.npz", x=x, y=2 * y)
    x[0, 0] = np.nan
    np.savez("nan.npz", x=x, y=y)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("mine_audited.py:build", 0, "He's law, truncated"),
        ("mine_audited.py:Net", 0, "He's law, truncated"),
        ("mine_audited.py:build --scheme he_normal", 0, "declared: he_normal"),
        ("mine_audited.py:sized --batch b.npz", 0, "ln 10 = 2.3"),
        ("mine_audited.py:build --scheme gpt2", 1, "the declared scheme does not fit"),
        ("mine_audited.py:build --scheme orthogonal", 1, "than declared"),
        ("mine_audited.py:Dense --batch b.npz", 0, "LeCun's law, truncated"),
        ("mine_audited.py:flat", 1, "a kernel of one number"),
        ("mine_audited.py:unseeded", 0, "two builds of one seed differ"),
    ],
)
def test_models_of_a_file(words: str, code: int, said: str, capsys) -> None:
    assert main(["audit", *words.split()]) == code
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mine_audited.py:nothing", "mine_audited.py has no 'nothing'"),
        ("none.py:build", "there is no file none.py"),
        ("mine_audited.py", "is no FILE.py:NAME, nor a file of *.safetensors"),
        ("none.safetensors", "there is no file none.safetensors"),
        ("mine_audited.py:broken", "failed to build: RuntimeError: no such layer (mine_audited.py"),
        ("mine_audited.py:asks", "asks for depth, which an audit does not know"),
        ("mine_audited.py:sized", "--batch says in_features and out_features"),
        ("mine_audited.py:model", "int holds no arrays"),
        ("mine_audited.py:Dense", "has no parameters before it sees inputs"),
        ("mine_audited.py:build --batch labels.npz", "labels are 0 to 18 and the model has 10"),
        ("mine_audited.py:build --batch none.npz", "none.npz cannot be read"),
        ("mine_audited.py:build --batch nan.npz", "1 of 512 entries of x are not finite"),
        ("mine_audited.py:build --scheme he", "no scheme is called 'he'"),
    ],
)
def test_bad_input_is_one_line(words: str, said: str, capsys) -> None:
    assert main(["audit", *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_json_of_a_command(capsys) -> None:
    assert main(["audit", "mine_audited.py:build", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["parameters"] == 8 * 32 + 32 + 32 * 10 + 10
