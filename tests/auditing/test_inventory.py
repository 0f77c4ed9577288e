"""The parameters of any model, with the axes and roles that layers and names say."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audited import Language, Mamba, time_steps
from flax import linen, nnx

from jaxinit.auditing import audit
from jaxinit.auditing.inventory import entries_of, matrices, role_named
from jaxinit.finetune import save_checkpoint
from jaxinit.study import BadStudy


def said(model: Any, **declared: Any) -> dict[str, tuple[str, str]]:
    """Axes and role by name."""
    return {
        entry.name: (entry.leaf.dims, entry.leaf.role) if entry.leaf else ("", "unknown")
        for entry in entries_of(model, **declared)
    }


def test_names_say_the_roles_of_a_transformer_and_the_number_of_its_blocks() -> None:
    entries = {entry.name: entry for entry in entries_of(Language(nnx.Rngs(0)))}
    roles = {name: entry.leaf.role for name, entry in entries.items() if entry.leaf}
    assert roles["blocks.1.q_proj.kernel"] == "query"
    assert roles["blocks.1.o_proj.kernel"] == "attention_out"
    assert roles["blocks.1.fc1.kernel"] == "ffn_in"
    assert roles["blocks.1.fc2.kernel"] == "ffn_out"
    assert roles["lm_head.kernel"] == "readout"
    leaf = entries["blocks.2.fc2.kernel"].leaf
    assert leaf is not None
    assert (leaf.layer, leaf.n_layers) == (2, 4)


def test_what_the_caller_says_goes_before_names() -> None:
    assert said(Language(nnx.Rngs(0)), roles={"*.fc1": "hidden"})["blocks.0.fc1.kernel"] == (
        "io",
        "hidden",
    )


def test_linens_parameters() -> None:
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = linen.RNN(linen.GRUCell(8))(x)
            return linen.Dense(3, name="head")(x)

    params = Model().init(jax.random.key(0), jnp.ones((2, 5, 4)))
    found = said(params)
    assert found["GRUCell_0.hn.kernel"] == ("io", "recurrent")
    assert found["GRUCell_0.in.kernel"] == ("io", "input")
    assert found["head.kernel"] == ("io", "readout")


def test_equinoxs_trees_hold_functions_too() -> None:
    class Linear(NamedTuple):
        weight: jax.Array
        bias: jax.Array
        activation: Any

    tree = {"layers": [Linear(jnp.ones((6, 4)), jnp.zeros(6), jax.nn.relu)]}
    assert said(tree) == {
        "layers.0.weight": ("oi", "hidden"),
        "layers.0.bias": ("o", "bias"),
    }


def test_pytorchs_names(tmp_path: Any) -> None:
    state = {
        "lstm.weight_ih_l0": np.ones((32, 5), np.float32),
        "lstm.weight_hh_l0": np.ones((32, 8), np.float32),
        "lstm.bias_ih_l0": np.ones(32, np.float32),
        "h.0.attn.c_attn.weight": np.ones((8, 24), np.float32),
        "h.0.attn.c_proj.weight": np.ones((8, 8), np.float32),
        "h.0.mlp.c_fc.weight": np.ones((8, 32), np.float32),
        "h.0.ln_1.weight": np.ones(8, np.float32),
        "wte.weight": np.ones((20, 8), np.float32),
        "conv.weight": np.ones((4, 3, 5, 5), np.float32),
        "mha.in_proj_weight": np.ones((24, 8), np.float32),
    }
    save_checkpoint(tmp_path / "model.safetensors", state)
    found = said(tmp_path / "model.safetensors")
    assert found["lstm.weight_hh_l0"] == (".oi", "recurrent")
    assert found["lstm.bias_ih_l0"] == (".o", "bias")
    assert found["h.0.attn.c_attn.weight.query"] == ("io", "query")  # inputs first, as in GPT-2
    assert found["h.0.mlp.c_fc.weight"] == ("io", "ffn_in")
    assert found["h.0.attn.c_proj.weight"] == ("io", "attention_out")
    assert found["h.0.ln_1.weight"] == ("o", "scale")
    assert found["wte.weight"] == ("io", "embedding")
    assert found["conv.weight"] == ("oiww", "hidden")
    assert found["mha.in_proj_weight.value"] == ("oi", "value")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.layers.3.self_attn.o_proj.weight", "attention_out"),
        ("transformer.h.0.mlp.c_proj.weight", "ffn_out"),
        ("decoder.output", None),
        ("blocks.1.mlp.up_proj.kernel", "ffn_in"),
        ("lm_head.weight", "readout"),
    ],
)
def test_roles_by_name(name: str, role: str | None) -> None:
    assert role_named(name) == role


def test_values_of_gates_are_apart() -> None:
    cell = nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))
    (entry,) = [e for e in entries_of(cell) if e.name == "dense_h.kernel"]
    apart = matrices(entry, entry.values())
    assert apart is not None
    stored = np.asarray(cell.dense_h.kernel.get_value())
    np.testing.assert_array_equal(apart[1], stored[:, 4:8])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nnx.Dropout(0.1), "Dropout has no parameters to audit"),
        ({}, "dict holds no arrays"),
        (3, "int holds no arrays"),
        ("none.safetensors", "cannot be read"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, message: str) -> None:
    with pytest.raises(BadStudy, match=message):
        entries_of(model)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(BadStudy, match="matches no parameter"):
        entries_of(Language(nnx.Rngs(0)), roles={"nothing.*": "query"})


@pytest.mark.parity
def test_pytorchs_own_layers_are_clean_under_pytorchs_scheme() -> None:
    """Biases have the inputs of the kernel beside them, those of LSTMs the units; normalizations
    and attention have none."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict(
        {
            "emb": torch.nn.Embedding(100, 64),
            "a": torch.nn.Linear(64, 48),
            "conv": torch.nn.Conv2d(8, 16, 3),
            "lstm": torch.nn.LSTM(32, 64),
            "gru": torch.nn.GRU(32, 64),
            "norm": torch.nn.LayerNorm(64),
            "batch": torch.nn.BatchNorm1d(64),
            "mha": torch.nn.MultiheadAttention(64, 4),
            "head": torch.nn.Linear(64, 3),
        }
    )
    state = {name: value.detach().numpy() for name, value in layers.state_dict().items()}
    assert [f for f in audit(state, "pytorch").findings if f.severity != "note"] == []


def test_vectors_of_linear_recurrences_are_known_by_name() -> None:
    assert said(Mamba(time_steps())) == {
        "A_log": ("o", "log_rate"),
        "dt_bias": ("o", "step_bias"),
    }
