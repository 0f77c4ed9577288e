"""Tasks: splits, laws of the generated data, chance levels exactly, targets that make sense."""

import gzip
import hashlib
import io
import itertools
import math
import pickle
import sys
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit.spec import named_key
from jaxinit.tasks import TASKS, disk
from jaxinit.tasks.base import cross_entropy, patches, squared_error
from jaxinit.tasks.text import encode

KEY = jax.random.key(0)
BATCH = 64
EMBEDDED = [name for name in TASKS if name.removesuffix("_permuted").removesuffix("_patches") not in disk.PINS]


def epoch(task, key=KEY, steps: int = 4):
    """The batches of `steps` steps."""
    batches = [task.batch(task.data, ticket) for ticket in task.tickets(task.data, key, steps, BATCH)]
    return tuple(np.concatenate([np.asarray(b[k]) for b in batches]) for k in (0, 1))


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_task_holds_its_shapes(name: str) -> None:
    task = TASKS[name]()
    x, y = epoch(task)
    whole_numbers = np.issubdtype(x.dtype, np.integer)
    assert x.shape == (4 * BATCH, task.length, *(() if whole_numbers else (task.in_features,)))
    assert len(y) == len(x)
    assert task.data["valid_x"].shape[1:] == x.shape[1:]
    width = (task.length, task.out_features) if task.readout == "all" else (task.out_features,)
    loss = task.loss(jnp.zeros((len(y), *width)), jnp.asarray(y))
    assert math.isfinite(float(loss))
    task.check_target(task.target)
    assert task.name == name
    assert TASKS[name]().fingerprint() == task.fingerprint()


@pytest.mark.parametrize("name", EMBEDDED)
def test_order_comes_from_the_key_alone(name: str) -> None:
    task = TASKS[name]()
    same, other = epoch(task), epoch(task, jax.random.key(1))
    np.testing.assert_array_equal(same[0], epoch(task)[0])
    assert (same[0] != other[0]).any()


def test_digits_split_is_fixed_standardized_and_disjoint() -> None:
    rows, pixels = TASKS["digits_rows"](), TASKS["digits_pixels"]()
    train, valid = (np.asarray(rows.data[k]) for k in ("train_x", "valid_x"))
    assert (len(train), len(valid)) == (1280, 517)
    assert train.mean() == pytest.approx(0, abs=1e-5)
    assert train.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(train.reshape(1280, 64, 1), pixels.data["train_x"])
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in valid)
    counts = np.bincount(rows.data["valid_y"], minlength=10)
    assert counts.min() > 35  # no class is missing


def test_an_epoch_of_digits_visits_every_image_once() -> None:
    task = TASKS["digits_rows"]()
    order = np.asarray(task.tickets(task.data, KEY, 40, 32))
    np.testing.assert_array_equal(np.sort(order.ravel()), np.arange(1280))


@pytest.mark.parametrize("length", [2, 7, 50])
def test_adding_marks_one_number_in_each_half(length: int) -> None:
    x, y = epoch(TASKS["adding"](length))
    marks = x[..., 1]
    assert set(np.unique(marks)) <= {0.0, 1.0}
    assert (marks[:, : length // 2].sum(1) == 1).all()
    assert (marks[:, length // 2 :].sum(1) == 1).all()
    np.testing.assert_allclose((x[..., 0] * marks).sum(1), y, rtol=1e-6)


def test_adding_chance_is_a_sixth() -> None:
    task = TASKS["adding"](10)
    y = np.concatenate([epoch(task, jax.random.key(k), 40)[1] for k in range(4)])
    error = np.asarray((y - 1) ** 2, np.float64)
    assert task.chance == pytest.approx(1 / 6)
    assert error.mean() == pytest.approx(task.chance, abs=4 * float(error.std()) / math.sqrt(len(y)))
    assert float(squared_error(jnp.ones((len(y), 1)), jnp.asarray(y))) == pytest.approx(error.mean(), rel=1e-5)


@pytest.mark.parametrize(("length", "published"), [(20, 0.5199), (50, 0.2971), (100, 0.1733), (200, 0.0945)])
def test_copy_chance_is_the_memoryless_cost(length: int, published: float) -> None:
    task = TASKS["copy"](length)
    assert task.chance == pytest.approx(10 * math.log(8) / (length + 20), rel=1e-12)
    assert task.chance == pytest.approx(published, abs=5e-5)
    # The best predictor without memory: certain blanks, then uniform over the eight symbols.
    logits = np.full((BATCH, task.length, 9), -1e4, np.float32)
    logits[:, : length + 10, 8] = 0
    logits[:, length + 10 :, :8] = 0
    y = task.data["valid_y"][:BATCH]
    assert float(cross_entropy(jnp.asarray(logits), y)) == pytest.approx(task.chance, rel=1e-5)  # a float32 mean


def test_copy_repeats_ten_symbols_after_the_delimiter() -> None:
    x, y = epoch(TASKS["copy"](5))
    symbols = x.argmax(-1)
    np.testing.assert_array_equal(symbols[:, :10], y[:, -10:])
    assert (symbols[:, 10:14] == 8).all()
    assert (symbols[:, 14] == 9).all()
    assert (symbols[:, 15:] == 8).all()
    assert (y[:, :-10] == 8).all()
    assert symbols[:, :10].max() < 8


def test_generated_examples_are_fresh_in_every_epoch() -> None:
    task = TASKS["adding"](20)
    seen = {example.tobytes() for k in range(3) for example in epoch(task, jax.random.key(k))[0]}
    assert len(seen) == 3 * 4 * BATCH
    assert not any(np.asarray(example).tobytes() in seen for example in task.data["valid_x"])


@pytest.mark.parametrize(
    ("name", "target"), [("digits_rows", 1.01), ("digits_rows", 0.1), ("adding", 0.0), ("adding", 0.2), ("copy", -1.0)]
)
def test_targets_out_of_reach_are_refused(name: str, target: float) -> None:
    with pytest.raises(ValueError, match=f"target {target:g} is out of reach or says nothing: on task '{name}'"):
        TASKS[name]().check_target(target)


@pytest.mark.parametrize(
    ("name", "length"),
    [("adding", 1), ("copy", 0), ("multiplication", 1), ("temporal_order", 9), ("parity", 0), ("text", 0)],
)
def test_lengths_that_make_no_sense_are_refused(name: str, length: int) -> None:
    with pytest.raises(ValueError, match=f"task '{name}' .* got {length}"):
        TASKS[name](length)


shapeset = sys.modules["jaxinit.tasks.shapeset"]  # the package has a function of that name


def test_shapeset_has_its_class_priors_and_its_greys() -> None:
    keys = jax.random.split(jax.random.key(0), 6000)
    x, y = jax.jit(jax.vmap(shapeset.picture))(keys)
    share = np.bincount(np.asarray(y), minlength=9) / len(keys)
    priors = np.asarray(shapeset.PRIORS)
    assert priors.sum() == pytest.approx(1)
    np.testing.assert_allclose(share, priors, atol=4.5 * np.sqrt(priors * (1 - priors) / len(keys)).max())
    greys = np.asarray(x).reshape(6000, 32, 32)
    assert np.abs(greys).max() <= 1 + 1e-6
    assert abs(greys.mean()) < 0.03
    assert greys.std() == pytest.approx(0.61, abs=0.02)  # measured with an independent program
    counts = np.asarray([len(np.unique(picture)) for picture in greys[:500]])
    single = np.asarray(y[:500]) < 3
    assert set(counts[single]) == {2}, "one shape: its grey and the background's"
    assert set(counts[~single]) <= {2, 3}
    assert (counts[~single] == 3).mean() > 0.95, "the second shape seldom hides the first"
    edge = np.concatenate([greys[:, 0], greys[:, -1], greys[:, :, 0], greys[:, :, -1]], 1)
    assert (np.ptp(edge, axis=1) == 0).all(), "shapes stay a pixel inside"


def test_a_pool_of_shapes_holds_the_same_pictures() -> None:
    pool = shapeset.from_pool(64)
    x, y = pool.batch(pool.data, jnp.arange(4))
    keys = jax.random.split(named_key(jax.random.key(0), "shapeset pool"), 64)
    x_again, y_again = jax.vmap(shapeset.picture)(keys[:4])
    np.testing.assert_allclose(x, x_again, atol=1 / 127)
    np.testing.assert_array_equal(y, y_again)
    assert pool.examples == shapeset.EXAMPLES
    assert int(pool.tickets(pool.data, jax.random.key(0), 100, 10).max()) == 63


def test_permuted_digits_are_the_same_digits_in_an_order_of_their_own() -> None:
    plain, permuted = TASKS["digits_pixels"](), TASKS["digits_permuted"]()
    a, b = (np.asarray(task.data["valid_x"])[:, :, 0] for task in (plain, permuted))
    assert (a != b).any()
    np.testing.assert_array_equal(np.sort(a, 1), np.sort(b, 1))
    order = np.argsort(np.abs(a[:, :, None] - b[:, None, :]).sum(0), 0)[0]  # which pixel of a each one of b is
    np.testing.assert_array_equal(a[:, order], b)


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in MNIST's format, of noise, pinned in the place of the real one."""
    rng = np.random.default_rng(0)
    contents = {
        disk.IDX[0]: bytes(16) + rng.integers(0, 256, (300, 784), np.uint8).tobytes(),
        disk.IDX[1]: bytes(8) + (np.arange(300) % 10).astype(np.uint8).tobytes(),
    }
    pinned = disk.Pinned({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    monkeypatch.setitem(disk.PINS, "mnist", pinned)
    monkeypatch.setattr(disk, "VALID", 100)
    monkeypatch.setenv("JAXINIT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mnist").mkdir()
    for name, content in contents.items():
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    return tmp_path / "mnist"


def test_pictures_are_read_from_verified_files_in_steps_of_any_length(small_mnist: Path) -> None:
    whole, rows, pixels = (TASKS["mnist"](length) for length in (1, 28, 784))
    assert (rows.length, rows.in_features, rows.examples, len(rows.data["valid_y"])) == (28, 28, 200, 100)
    x, y = epoch(rows, steps=3)
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(1, abs=0.02)
    assert sorted(set(y.tolist())) == list(range(10))
    for task in (whole, pixels):
        np.testing.assert_array_equal(
            np.asarray(task.data["valid_x"]).ravel(), np.asarray(rows.data["valid_x"]).ravel()
        )
    with pytest.raises(ValueError, match=r"length must divide its 784 values a picture, got 30"):
        TASKS["mnist"](30)


def test_files_that_are_missing_torn_or_others_are_named(small_mnist: Path) -> None:
    path = small_mnist / f"{disk.IDX[0]}.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-2000])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is torn .* run scripts/fetch-data again"):
        TASKS["mnist"]()
    path.write_bytes(gzip.compress(gzip.decompress(good)[:-784], 1))
    with pytest.raises(ValueError, match=r"truncated or corrupted: its 234,432 bytes have the sha256 \w+, expected"):
        TASKS["mnist"]()
    path.unlink()
    with pytest.raises(ValueError, match=r"needs the file train-images.*none of: .*mnist.* the embedded task 'digits"):
        TASKS["mnist"]()


def test_no_pickle_is_read_unverified_and_none_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXINIT_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(disk, "VALID", 20)
    (tmp_path / "cifar10").mkdir()

    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    def archive(last: object) -> bytes:
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            for k in range(1, 6):
                rows = np.random.default_rng(k).integers(0, 256, (20, 3072), np.uint8)
                batch = {b"data": rows, b"labels": [k] * 20, b"more": last if k == 5 else 0}
                content = pickle.dumps(batch, protocol=2)
                info = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{k}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return raw.getvalue()

    def put(content: bytes, pinned: bool) -> None:
        (tmp_path / "cifar10" / disk.CIFAR).write_bytes(content)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if pinned:
            monkeypatch.setitem(disk.PINS, "cifar10", disk.Pinned({disk.CIFAR: digest}, hash="md5"))

    put(archive(0), pinned=False)
    with pytest.raises(ValueError, match="have the md5"):
        TASKS["cifar10"]()
    put(archive(0), pinned=True)
    task = TASKS["cifar10"]()
    assert (task.length, task.in_features, task.examples) == (32, 96, 80)
    first = np.random.default_rng(1).integers(0, 256, (20, 3072), np.uint8)[0]
    stored = np.asarray(task.data["train_x"][0]).reshape(32, 32, 3)
    np.testing.assert_array_equal(stored[5, 7], first.reshape(3, 32, 32)[:, 5, 7])
    put(archive(Evil()), pinned=True)
    with pytest.raises(pickle.UnpicklingError, match=r"print, which is no array"):
        TASKS["cifar10"]()


def test_a_variable_copy_answers_right_after_its_delimiter() -> None:
    length = 7
    x, y = epoch(TASKS["copy_variable"](length))
    symbols, delimiter = x.argmax(-1), (x.argmax(-1) == 9).argmax(1)
    assert (x.argmax(-1) == 9).sum() == len(x)
    assert set(delimiter) == set(range(10, 10 + length))
    for k in range(20):
        answer = slice(delimiter[k] + 1, delimiter[k] + 11)
        np.testing.assert_array_equal(y[k, answer], symbols[k, :10])
        assert (np.delete(y[k], range(answer.start, answer.stop)) == 8).all()
        assert (np.delete(symbols[k], [*range(10), delimiter[k]]) == 8).all()


def test_multiplication_multiplies_and_its_chance_is_known() -> None:
    task = TASKS["multiplication"](9)
    x, y = epoch(task, steps=160)
    marked = np.where(x[..., 1] > 0, x[..., 0], 1)
    np.testing.assert_allclose(marked.prod(1), y, rtol=1e-6)
    error = np.asarray((y - 0.25) ** 2, np.float64)
    assert error.mean() == pytest.approx(task.chance, abs=4 * float(error.std()) / math.sqrt(len(y)))


@pytest.mark.parametrize(("name", "tenths"), [("temporal_order", (1, 5)), ("temporal_order_3", (1, 3, 6))])
def test_temporal_order_is_told_by_the_marked_symbols(name: str, tenths: tuple[int, ...]) -> None:
    x, y = epoch(TASKS[name](60))
    symbols = x.argmax(-1)
    marked = symbols < 2
    assert (marked.sum(1) == len(tenths)).all()
    places = np.nonzero(marked)[1].reshape(-1, len(tenths))
    for k, tenth in enumerate(tenths):
        assert set(places[:, k]) == set(range(6 * tenth, 6 * tenth + 6))
    kinds = np.take_along_axis(symbols, places, 1)
    np.testing.assert_array_equal((kinds * 2 ** np.arange(len(tenths))).sum(1), y)
    counts = np.bincount(y, minlength=2 ** len(tenths))
    assert counts.min() > len(y) / len(counts) - 5 * math.sqrt(len(y) / len(counts))


def test_parity_counts_the_ones() -> None:
    x, y = epoch(TASKS["parity"](5))
    np.testing.assert_array_equal((x[..., 0] > 0).sum(1) % 2, y)


def test_streams_of_text_go_on_from_batch_to_batch(tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_text("abcdefghijklmnopqrstuvwxyz" * 100)
    task = TASKS["text"](length=7, file=path)
    batches = [task.batch(task.data, ticket) for ticket in task.tickets(task.data, KEY, 3, 4)]
    total = len(task.data["train"]) - 1
    for (x, y), (later, _) in itertools.pairwise(batches):
        np.testing.assert_array_equal(y[:, :-1], x[:, 1:])
        ends = np.asarray(y[:, -1]) == np.asarray(later[:, 0])
        assert ends.mean() >= 0.75, "one stream at most passes the end of the text"
        inside = (np.asarray(y) - np.asarray(x)) % 26 == 1
        assert inside.mean() > 0.95
    assert total > 1000
    assert task.in_features == 26
    assert task.chance == pytest.approx(math.log2(26), rel=0.01)
    np.testing.assert_array_equal((task.data["valid_x"] + 1) % 26, task.data["valid_y"])
    perfect = 1e3 * jax.nn.one_hot(task.data["valid_y"], 26)
    assert float(task.metric(perfect, task.data["valid_y"])) == pytest.approx(0, abs=1e-6)


def test_words_have_one_number_each_and_rare_ones_share_one(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("the cat, the Dog.\n" * 400)
    task = TASKS["words"](length=5, file=path)
    assert task.in_features == 7  # the cat dog , . <eos> <unk>
    uniform = jnp.zeros((*task.data["valid_y"].shape, 7))
    assert float(task.metric(uniform, task.data["valid_y"])) == pytest.approx(7, rel=1e-5)
    assert TASKS["words"]().in_features == 2000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; give a file"),
        (b"  \n", "is empty"),
        (b"abc\x00def", r"is binary \(byte 3 is 0\)"),
        (b"abc\xff\xfe", r"no UTF-8 text \(byte 3 is 0xff\)"),
        (b"too short", "too few for windows of 50"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TASKS["text"](file=path)


def test_text_that_is_missing_or_holds_other_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        TASKS["text"](file=tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"2 characters are outside the vocabulary of 3: 'd' at 1, 'e' at 3"):
        encode("adbec", "abc")
    with pytest.raises(ValueError, match="it is licensed, so put it into"):
        TASKS["penn_treebank"]()


def test_patches_hold_neighbours() -> None:
    """Every patch of a picture is a square of it, all colours together."""
    pixels, of_patches = TASKS["digits_pixels"](), TASKS["digits_patches"]()
    picture = np.asarray(pixels.data["valid_x"][3]).reshape(8, 8)
    np.testing.assert_array_equal(of_patches.data["valid_x"][3, 5], picture[2:4, 2:4].ravel())
    coloured = np.arange(4 * 4 * 3).reshape(4, 4, 3)
    np.testing.assert_array_equal(patches(4, 2, 3).reshape(4, -1)[1], coloured[:2, 2:].ravel())
    with pytest.raises(ValueError, match="must divide the picture's 8, got 3"):
        patches(8, 3)
