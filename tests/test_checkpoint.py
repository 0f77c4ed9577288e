"""Checkpoints: what was saved comes back, and whatever does not fit is listed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit.checkpoint import load_checkpoint, save_checkpoint
from jaxinit.introspect import functional
from jaxinit.models import MLP
from jaxinit.schemes import xavier_rnn
from jaxinit.spec import draw


@pytest.fixture
def model():
    from flax import nnx

    return functional(lambda: MLP(4, 3, 2, rngs=nnx.Rngs(0)))


def test_what_was_saved_comes_back(model, tmp_path: Path) -> None:
    values = draw(xavier_rnn, jax.random.key(0), model.leaves)
    save_checkpoint(tmp_path / "a" / "m.safetensors", values)
    found = load_checkpoint(tmp_path / "a" / "m.safetensors", model.leaves)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)


def test_pytorchs_layout_and_names(model, tmp_path: Path) -> None:
    values = draw(xavier_rnn, jax.random.key(0), model.leaves)
    other = {
        "fc.weight": values["layers.0.kernel"].T.astype(jnp.bfloat16),
        "fc.bias": values["layers.0.bias"],
        "head.weight": jnp.zeros((5, 3)),
    }
    save_checkpoint(tmp_path / "m.safetensors", other)
    names = {"layers.0.kernel": "fc.weight", "layers.0.bias": "fc.bias", "readout.kernel": "head.weight"}
    found = load_checkpoint(
        tmp_path / "m.safetensors", model.leaves, names=names, transposed=("*.kernel",), new=("readout.*",)
    )
    assert sorted(found) == ["layers.0.bias", "layers.0.kernel"]
    assert found["layers.0.kernel"].dtype == jnp.float32
    np.testing.assert_allclose(found["layers.0.kernel"], values["layers.0.kernel"], rtol=2**-8)


def test_all_that_does_not_fit_is_listed(model, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", {"layers.0.kernel": jnp.zeros((3, 4)), "extra": jnp.zeros(7)})
    with pytest.raises(ValueError, match="does not fit") as error:
        load_checkpoint(tmp_path / "m.safetensors", model.leaves, names={"nothing": "x"})
    for part in (
        "layers.0.kernel (3, 4), whose transpose fits",
        "the model has (4, 3)",
        "missing: layers.0.bias (3,)",
        "missing: readout.kernel (3, 2)",
        "not in the model: extra (7,)",
        "the model has not: nothing",
    ):
        assert part in str(error.value)
    (tmp_path / "bad").write_text("no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "bad", model.leaves)
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "absent", model.leaves)
