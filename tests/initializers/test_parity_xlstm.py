"""Laws that xLSTM's own package draws: its samples beside ours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxinit import initializers
from jaxinit.spec import along

pytestmark = pytest.mark.parity

HEADS = 20_000
GATES = ("input", "forget", "cell", "output")


def theirs(parameter: Any) -> np.ndarray:
    return parameter.detach().numpy().astype(np.float64).ravel()


def alike(ours: np.ndarray, other: np.ndarray) -> bool:
    """Whether two samples of one size can be of one law: its shape, and its mean and standard
    deviation within 4 standard errors of their differences."""
    count = len(other)
    assert len(ours) == count
    mean_difference = abs(ours.mean() - other.mean())
    std_ratio = ours.std() / other.std()
    return bool(
        stats.ks_2samp(ours, other).pvalue > 1e-3
        and mean_difference < 4 * other.std() * np.sqrt(2 / count)
        and abs(np.log(std_ratio)) < 4 / np.sqrt(count)
    )


def test_gate_biases_are_those_of_its_matrix_cell() -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    module = pytest.importorskip("xlstm.blocks.mlstm.cell", reason="xlstm is not installed")
    torch.manual_seed(0)
    cell = module.mLSTMCell(
        module.mLSTMCellConfig(context_length=1, embedding_dim=1, num_heads=HEADS)
    )
    init = along(".o", initializers.xlstm_biases(GATES))
    ours = np.asarray(init(jax.random.key(0), (len(GATES), HEADS), jnp.float32), np.float64)
    np.testing.assert_allclose(ours[1], theirs(cell.fgate.bias), rtol=1e-6)
    assert alike(ours[0], theirs(cell.igate.bias))
    assert not theirs(cell.fgate.weight).any()
    assert not theirs(cell.igate.weight).any()


@pytest.mark.parametrize("law", ["small_init", "wang"])
def test_kernels_are_those_of_its_blocks(law: str) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    module = pytest.importorskip("xlstm.components.init", reason="xlstm is not installed")
    torch.manual_seed(0)
    width, blocks = 128, 12
    kernel = torch.empty(width, width)
    if law == "small_init":
        module.small_init_init_(kernel, dim=width)
        init = initializers.small_init()
    else:
        module.wang_init_(kernel, dim=width, num_blocks=blocks)
        init = initializers.wang(blocks)
    ours = np.asarray(init(jax.random.key(0), (width, width), jnp.float32), np.float64).ravel()
    assert alike(ours, theirs(kernel))
    assert not alike(1.1 * ours, theirs(kernel))
