"""Checkpoints: what was saved comes back, and whatever does not fit is listed."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect
from jaxinit.finetune.checkpoint import load_checkpoint, save_checkpoint
from jaxinit.introspect import functional
from jaxinit.models import MLP
from jaxinit.schemes import xavier_rnn
from jaxinit.spec import Leaf, draw


@pytest.fixture
def model():
    return functional(lambda: MLP(4, 3, 2, rngs=nnx.Rngs(0)))


def test_what_was_saved_comes_back(model, tmp_path: Path) -> None:
    values = draw(xavier_rnn, jax.random.key(0), model.leaves)
    save_checkpoint(tmp_path / "a" / "m.safetensors", values)
    loaded = load_checkpoint(tmp_path / "a" / "m.safetensors", model.leaves)
    assert loaded.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_pytorchs_layout_and_names(model, tmp_path: Path) -> None:
    values = draw(xavier_rnn, jax.random.key(0), model.leaves)
    other = {
        "fc.weight": values["layers.0.kernel"].T.astype(jnp.bfloat16),
        "fc.bias": values["layers.0.bias"],
        "head.weight": jnp.zeros((5, 3)),
    }
    save_checkpoint(tmp_path / "m.safetensors", other)
    names = {
        "layers.0.kernel": "fc.weight",
        "layers.0.bias": "fc.bias",
        "readout.kernel": "head.weight",
    }
    loaded = load_checkpoint(
        tmp_path / "m.safetensors",
        model.leaves,
        names=names,
        transposed=("*.kernel",),
        new=("readout.*",),
    )
    assert sorted(loaded) == ["layers.0.bias", "layers.0.kernel"]
    assert loaded["layers.0.kernel"].dtype == jnp.bfloat16  # what the file has
    wide = load_checkpoint(
        tmp_path / "m.safetensors",
        model.leaves,
        names=names,
        transposed=("*.kernel",),
        new=("readout.*",),
        dtype=jnp.float32,
    )["layers.0.kernel"]
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, values["layers.0.kernel"], rtol=2**-8)


def test_all_that_does_not_fit_is_listed(model, tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "m.safetensors", {"layers.0.kernel": jnp.zeros((3, 4)), "extra": jnp.zeros(7)}
    )
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


def test_any_layout_in_memory_is_saved_as_the_array_it_is(tmp_path: Path) -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("x",))
    arrays = {
        "transposed": whole.T,
        "strided": whole[::2, ::-1],
        "broadcast": np.broadcast_to(whole[:1], (5, 6)),
        "fortran": np.asfortranarray(whole),
        "big_endian": whole.astype(">f4"),
        "scalar": np.float32(3.0),
        "zero_axes": np.asarray(2.0, np.float32).T,
        "": whole,
        "jax_transposed": jnp.asarray(whole).T,
        "sharded": jax.device_put(
            whole, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        ),
        "sharded_across": jax.device_put(
            whole, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
        ),
    }
    save_checkpoint(tmp_path / "m.safetensors", arrays)
    leaves = []
    for name, array in arrays.items():
        leaves.append(Leaf(name, np.shape(array), "o" * np.ndim(array), "any"))
    loaded = load_checkpoint(tmp_path / "m.safetensors", leaves)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], np.asarray(array, np.float32), err_msg=name)


@pytest.mark.parametrize(
    "dtype",
    [
        "bfloat16",
        "float16",
        "float32",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "complex64",
        "int8",
        "bool",
    ],
)
def test_dtypes_come_back(dtype: str, tmp_path: Path) -> None:
    value = np.asarray([[0, 1, 1], [1, 0, 1]]).astype(jnp.dtype(dtype)).T
    save_checkpoint(tmp_path / "m.safetensors", {"w": value, "one": value[0, 0]})
    leaves = [Leaf("w", (3, 2), "io", "hidden"), Leaf("one", (), "", "scale")]
    loaded = load_checkpoint(tmp_path / "m.safetensors", leaves)
    for name, expected in (("w", value), ("one", value[0, 0])):
        assert loaded[name].dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(loaded[name]), expected)


@pytest.mark.parametrize(
    ("shape", "dims", "order"),
    [
        ((3, 5, 4, 6), "wwio", (2, 3, 1, 0)),  # [o, i, h, w]
        ((3, 4, 6), "wio", (2, 1, 0)),
        ((2, 3, 5, 4, 6), "wwwio", (2, 3, 4, 1, 0)),
        ((4, 6), "io", (1, 0)),
        ((6, 4), "oi", (0, 1)),
        ((6,), "o", (0,)),
        ((3, 3, 1, 6), "wwi.", (2, 3, 1, 0)),  # a channel each
    ],
)
def test_pytorchs_order_of_axes(
    shape: tuple[int, ...], dims: str, order: tuple[int, ...], tmp_path: Path
) -> None:
    their_shape = [shape[order.index(k)] for k in range(len(shape))]
    theirs = np.arange(math.prod(shape), dtype=np.float32).reshape(their_shape)
    save_checkpoint(tmp_path / "m.safetensors", {"w": theirs})
    leaf = Leaf("w", shape, dims, "hidden")
    loaded = load_checkpoint(tmp_path / "m.safetensors", [leaf], transposed=("w",))["w"]
    np.testing.assert_array_equal(loaded, theirs.transpose(order))


def test_heads_may_be_one_axis_and_gates_may_not(tmp_path: Path) -> None:
    theirs = np.arange(24, dtype=np.float32).reshape(6, 4)
    save_checkpoint(tmp_path / "m.safetensors", {"w": theirs})
    query = Leaf("w", (4, 2, 3), "i.o", "query")
    loaded = load_checkpoint(tmp_path / "m.safetensors", [query], transposed=("w",))["w"]
    np.testing.assert_array_equal(loaded, theirs.T.reshape(4, 2, 3))
    gated = Leaf("w", (4, 2, 3), "i.o", "input", gate=("update", "reset"))
    with pytest.raises(
        ValueError, match=r"of another shape: w \(6, 4\), the model has \(4, 2, 3\)"
    ):
        load_checkpoint(tmp_path / "m.safetensors", [gated], transposed=("w",))


def test_two_names_of_one_stored_array(tmp_path: Path) -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_checkpoint(tmp_path / "m.safetensors", {"wte": table})
    leaves = [
        Leaf("embedding", (4, 3), "io", "embedding"),
        Leaf("readout.kernel", (3, 4), "io", "readout"),
    ]
    names = {leaf.name: "wte" for leaf in leaves}
    loaded = load_checkpoint(
        tmp_path / "m.safetensors", leaves, names=names, transposed=("readout.kernel",)
    )
    np.testing.assert_array_equal(loaded["embedding"], table)
    np.testing.assert_array_equal(loaded["readout.kernel"], table.T)


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    bad = {
        "key": jax.random.key(0),
        "wide": np.zeros(2, np.complex128),
        "text": np.asarray("a"),
        "__metadata__": 1.0,
    }
    with pytest.raises(ValueError, match="cannot be written") as error:
        save_checkpoint(tmp_path / "m.safetensors", bad)
    for part in (
        "'key' ",
        "'wide' has dtype complex128",
        "'text' has dtype",
        "'__metadata__' is no name",
    ):
        assert part in str(error.value)
    assert not list(tmp_path.iterdir())


def test_damage_is_one_clear_error(tmp_path: Path) -> None:
    """Every truncation of a file and every single-bit flip, but for those that leave all values as
    they are."""
    path, leaf = tmp_path / "m.safetensors", Leaf("w", (3,), "o", "hidden")
    save_checkpoint(path, {"w": jnp.arange(3.0)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(
            ValueError, match=r"^the checkpoint .* (cannot be read|is damaged|does not fit)"
        ):
            load_checkpoint(path, [leaf])
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                loaded = load_checkpoint(path, [leaf])
            except ValueError as error:
                assert str(error).startswith("the checkpoint")  # noqa: PT017
            else:
                np.testing.assert_array_equal(loaded["w"], np.arange(3.0))
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path, [leaf])


@pytest.mark.parametrize("turned_back", [False, True])
@pytest.mark.parametrize("outputs", [4, 3])
def test_a_transposed_convolution_of_pytorch(
    turned_back: bool, outputs: int, tmp_path: Path
) -> None:
    """PyTorch's weight is [i, o, w], and y[j + k] += x[j] w[k] at stride 1."""
    torchs = np.random.default_rng(0).normal(size=(4, outputs, 3)).astype(np.float32)
    save_checkpoint(tmp_path / "m.safetensors", {"kernel": torchs})
    layer = nnx.ConvTranspose(
        4,
        outputs,
        (3,),
        padding="VALID",
        use_bias=False,
        transpose_kernel=turned_back,
        rngs=nnx.Rngs(0),
    )
    (leaf,) = introspect.leaves(introspect.declare(layer))
    layer.kernel.set_value(
        load_checkpoint(tmp_path / "m.safetensors", [leaf], transposed=("kernel",))["kernel"]
    )
    x = np.random.default_rng(1).normal(size=(1, 5, 4)).astype(np.float32)
    expected = np.zeros((1, 7, outputs), np.float32)
    for k in range(3):
        expected[:, k : k + 5] += x @ torchs[:, :, k]
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=1e-5)


def test_a_checkpoint_has_reached_the_disk_and_keeps_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    save_checkpoint(tmp_path / "w.safetensors", {"w": np.ones(3)})
    assert len(synced) == 2, "its contents, and its name in the folder"
    masked = np.ma.MaskedArray(np.ones(2), [True, False])
    with pytest.raises(
        ValueError, match="'w' is masked, and the format keeps no mask; fill it first"
    ):
        save_checkpoint(tmp_path / "m.safetensors", {"w": masked})
