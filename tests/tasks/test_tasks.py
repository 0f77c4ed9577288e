"""Tasks: splits, laws of the generated data, chance levels exactly, targets that make sense."""

import gzip
import hashlib
import io
import itertools
import math
import pickle
import re
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every, marked

from jaxinit.spec import named_key
from jaxinit.tasks import TASKS, disk, grammar
from jaxinit.tasks.base import cross_entropy, patches, squared_error
from jaxinit.tasks.text import decode, encode

KEY = jax.random.key(0)
BATCH = 64
EMBEDDED = [
    name
    for name in TASKS
    if name.removesuffix("_permuted").removesuffix("_patches") not in disk.PINS
]


def epoch(task, key=KEY, steps: int = 4):
    """The examples of `steps` steps, one batch after another."""
    inputs, labels = [], []
    for ticket in task.tickets(task.data, key, steps, BATCH):
        x, y = task.batch(task.data, ticket)
        inputs.append(np.asarray(x))
        labels.append(np.asarray(y))
    return np.concatenate(inputs), np.concatenate(labels)


def standard_error(values: np.ndarray) -> float:
    return float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("name", [marked(name, name != "shapeset") for name in EMBEDDED])
def test_every_task_holds_its_shapes(name: str) -> None:
    task = TASKS[name]()
    x, y = epoch(task)
    valid_x, valid_y = np.asarray(task.data["valid_x"]), np.asarray(task.data["valid_y"])
    whole_numbers = np.issubdtype(x.dtype, np.integer)
    of_example = (task.length,) if whole_numbers else (task.length, task.in_features)
    assert x.shape == (4 * BATCH, *of_example)
    assert len(y) == len(x)
    assert valid_x.shape[1:] == x.shape[1:]
    width = (task.length, task.out_features) if task.readout == "all" else (task.out_features,)
    loss = task.loss(jnp.zeros((len(y), *width)), jnp.asarray(y))
    assert math.isfinite(float(loss))
    task.check_target(task.target)
    assert task.name == name
    assert valid_x.dtype == x.dtype == (np.int32 if whole_numbers else np.float32)
    labels = task.loss is not squared_error
    assert valid_y.dtype == y.dtype == (np.int32 if labels else np.float32)
    if labels:
        seen = np.concatenate([y.ravel(), valid_y.ravel()])
        assert 0 <= seen.min() <= seen.max() < task.out_features
    assert TASKS[name]().fingerprint() == task.fingerprint()


@pytest.mark.parametrize("name", every(3, of=EMBEDDED))
def test_order_comes_from_the_key_alone(name: str) -> None:
    task = TASKS[name]()
    same, other = epoch(task), epoch(task, jax.random.key(1))
    np.testing.assert_array_equal(same[0], epoch(task)[0])
    assert (same[0] != other[0]).any()


def test_the_stored_split_of_digits_is_standardized_and_disjoint() -> None:
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
    errors = np.asarray((y - 1) ** 2, np.float64)
    assert task.chance == pytest.approx(1 / 6)
    assert errors.mean() == pytest.approx(task.chance, abs=4 * standard_error(errors))
    of_ones = squared_error(jnp.ones((len(y), 1)), jnp.asarray(y))
    assert float(of_ones) == pytest.approx(errors.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("length", "published"), [(20, 0.5199), (50, 0.2971), (100, 0.1733), (200, 0.0945)]
)
def test_copy_chance_is_the_memoryless_cost(length: int, published: float) -> None:
    task = TASKS["copy"](length)
    assert task.chance == pytest.approx(10 * math.log(8) / (length + 20), rel=1e-12)
    assert task.chance == pytest.approx(published, abs=5e-5)
    # The best predictor without memory: certain blanks, then uniform over the eight symbols.
    logits = np.full((BATCH, task.length, 9), -1e4, np.float32)
    logits[:, : length + 10, 8] = 0
    logits[:, length + 10 :, :8] = 0
    y = task.data["valid_y"][:BATCH]
    # a float32 mean
    assert float(cross_entropy(jnp.asarray(logits), y)) == pytest.approx(task.chance, rel=1e-5)


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
    seen = set()
    for k in range(3):
        x, _ = epoch(task, jax.random.key(k))
        seen.update(example.tobytes() for example in x)
    assert len(seen) == 3 * 4 * BATCH
    assert not any(np.asarray(example).tobytes() in seen for example in task.data["valid_x"])


@pytest.mark.parametrize(
    ("name", "target"),
    [("digits_rows", 1.01), ("digits_rows", 0.1), ("adding", 0.0), ("adding", 0.2), ("copy", -1.0)],
)
def test_targets_out_of_reach_are_refused(name: str, target: float) -> None:
    with pytest.raises(
        ValueError, match=f"target {target:g} is out of reach or says nothing: on task '{name}'"
    ):
        TASKS[name]().check_target(target)


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("adding", 1),
        ("copy", 0),
        ("copy_variable", 0),
        ("multiplication", 1),
        ("temporal_order", 9),
        ("temporal_order_3", 0),
        ("parity", 0),
        ("text", 0),
        ("words", -3),
        ("parity", True),
    ],
)
def test_lengths_that_make_no_sense_are_refused(name: str, length: int) -> None:
    got = re.escape(f"got {length!r}")
    with pytest.raises(
        ValueError, match=f"^task '{name}' .*needs a length of [0-9]+ or more, {got}$"
    ):
        TASKS[name](length)


shapeset = sys.modules["jaxinit.tasks.shapeset"]  # the package has a function of that name


def test_shapeset_has_its_class_priors_and_its_greys() -> None:
    keys = jax.random.split(jax.random.key(0), 6000)
    x, y = jax.jit(jax.vmap(shapeset.picture))(keys)
    share = np.bincount(np.asarray(y), minlength=9) / len(keys)
    priors = np.asarray(shapeset.PRIORS)
    assert priors.sum() == pytest.approx(1)
    largest_error = np.sqrt(priors * (1 - priors) / len(keys)).max()
    np.testing.assert_allclose(share, priors, atol=4.5 * largest_error)
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
    x_again, y_again = jax.jit(jax.vmap(shapeset.picture))(keys[:4])
    np.testing.assert_allclose(x, x_again, atol=1 / 127)
    np.testing.assert_array_equal(y, y_again)
    assert pool.examples == shapeset.EXAMPLES
    assert int(pool.tickets(pool.data, jax.random.key(0), 100, 10).max()) == 63
    with pytest.raises(ValueError, match="needs 1 image or more, got 0"):
        shapeset.from_pool(0)


def test_permuted_digits_are_the_same_digits_in_an_order_of_their_own() -> None:
    plain, permuted = TASKS["digits_pixels"](), TASKS["digits_permuted"]()
    a = np.asarray(plain.data["valid_x"])[:, :, 0]
    b = np.asarray(permuted.data["valid_x"])[:, :, 0]
    assert (a != b).any()
    np.testing.assert_array_equal(np.sort(a, 1), np.sort(b, 1))
    # Which pixel of a each one of b is: the one that differs from it in no picture.
    differences = np.abs(a[:, :, None] - b[:, None, :]).sum(0)
    order = np.argsort(differences, 0)[0]
    np.testing.assert_array_equal(a[:, order], b)


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in MNIST's format, of noise, pinned in the place of the real one."""
    rng = np.random.default_rng(0)
    contents = {
        disk.IDX[0]: bytes(16) + rng.integers(0, 256, (300, 784), np.uint8).tobytes(),
        disk.IDX[1]: bytes(8) + (np.arange(300) % 10).astype(np.uint8).tobytes(),
    }
    pinned = disk.Pinned(
        {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    )
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
    assert (rows.length, rows.in_features) == (28, 28)
    assert (rows.examples, len(rows.data["valid_y"])) == (200, 100)
    x, y = epoch(rows, steps=3)
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(1, abs=0.02)
    assert sorted(set(y.tolist())) == list(range(10))
    values = np.ravel(rows.data["valid_x"])
    for task in (whole, pixels):
        np.testing.assert_array_equal(np.ravel(task.data["valid_x"]), values)
    with pytest.raises(ValueError, match=r"length must divide its 784 values a picture, got 30"):
        TASKS["mnist"](30)


def test_files_that_are_missing_torn_or_others_are_named(small_mnist: Path) -> None:
    path = small_mnist / f"{disk.IDX[0]}.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-2000])
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte.gz is torn .* run scripts/fetch-data again"
    ):
        TASKS["mnist"]()
    path.write_bytes(gzip.compress(gzip.decompress(good)[:-784], 1))
    with pytest.raises(
        ValueError, match=r"truncated or corrupted: its 234,432 bytes have the sha256 \w+, expected"
    ):
        TASKS["mnist"]()
    path.unlink()
    with pytest.raises(
        ValueError,
        match=r"needs the file train-images.*none of: .*mnist.* the embedded task 'digits",
    ):
        TASKS["mnist"]()


def test_no_pickle_is_read_unverified_and_none_runs_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    symbols = x.argmax(-1)
    delimits = symbols == 9
    delimiter = delimits.argmax(1)
    assert delimits.sum() == len(x)
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
    errors = np.asarray((y - 0.25) ** 2, np.float64)
    assert errors.mean() == pytest.approx(task.chance, abs=4 * standard_error(errors))


@pytest.mark.parametrize(
    ("name", "tenths"), [("temporal_order", (1, 5)), ("temporal_order_3", (1, 3, 6))]
)
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
    for (x, y), (later, _) in itertools.pairwise(batches):
        np.testing.assert_array_equal(y[:, :-1], x[:, 1:])
        ends = np.asarray(y[:, -1]) == np.asarray(later[:, 0])
        assert ends.mean() >= 0.75, "one stream at most passes the end of the text"
        inside = (np.asarray(y) - np.asarray(x)) % 26 == 1
        assert inside.mean() > 0.95
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
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"abc\x00def", r"is binary \(byte 3 is 0\)"),
        (
            "abc".encode("utf-16-le"),
            r"is binary \(byte 1 is 0\); give a text file, in UTF-8 or with a byte order mark",
        ),
        (b"abc\xff\xfe", r"no UTF-8 text \(byte 3 is 0xff\); convert it to UTF-8"),
        (b"\xff\xfea\x00\x00\xd8", r"no UTF-16 text \(byte 4 is 0x00\)"),
        (b"too short", "too few for windows of 50"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        TASKS["text"](file=path)
    assert "\n" not in str(error.value)


def test_the_texts_of_a_folder_are_one_by_name(tmp_path: Path) -> None:
    pieces = {"b.txt": "the second line\n" * 200, "a.txt": "the first line\r\n" * 200}
    for name, content in {**pieces, "c.md": "no text of this task"}.items():
        (tmp_path / name).write_bytes(content.encode())
    joined = tmp_path / "joined"
    joined.write_text("the first line\n" * 200 + "\n" + "the second line\n" * 200)
    of_folder = TASKS["text"](length=5, file=tmp_path)
    assert of_folder.fingerprint() == TASKS["text"](length=5, file=joined).fingerprint()
    for short in tmp_path.glob("*.txt"):
        short.write_text("x")
    with pytest.raises(ValueError, match=r"the text has 3 characters or words .* too few"):
        TASKS["text"](file=tmp_path)


def test_text_that_is_missing_or_holds_other_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        TASKS["text"](file=tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"the folder .* has no \*\.txt; put the texts there"):
        TASKS["words"](file=tmp_path)
    for endless in ("/dev/zero", "/dev/null"):
        with pytest.raises(ValueError, match="is no regular file; save it to one"):
            TASKS["text"](file=endless)
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(2**33)  # of holes
    with pytest.raises(
        ValueError, match=r"has 8\.0 GiB, and texts are held in memory: at most 4 GiB"
    ):
        TASKS["text"](file=large)
    with pytest.raises(
        ValueError, match=r"2 characters are outside the vocabulary of 3: 'd' at 1, 'e' at 3"
    ):
        encode("adbec", "abc")
    with pytest.raises(ValueError, match="it is licensed, so put it into"):
        TASKS["penn_treebank"]()


BOOK = "L'\u00e9t\u00e9 \u00e0 la mer.\n\nTwo lines, one empty\n" * 60


@pytest.mark.parametrize(
    "raw",
    [
        BOOK.replace("\n", "\r\n").encode(),
        BOOK.replace("\n", "\r").encode(),
        BOOK.encode("utf-8-sig"),
        BOOK.replace("\n", "\r\n").encode("utf-8-sig"),
        BOOK.replace("\n", "\r\n").encode("utf-16"),
        b"\xfe\xff" + BOOK.encode("utf-16-be"),
        BOOK.encode("utf-32"),
    ],
    ids=["crlf", "cr", "bom", "bom and crlf", "utf-16 and crlf", "utf-16 be", "utf-32"],
)
def test_the_same_book_is_the_same_task_whatever_system_wrote_it(
    tmp_path: Path, raw: bytes
) -> None:
    plain, other = tmp_path / "plain.txt", tmp_path / "other.txt"
    plain.write_bytes(BOOK.encode())
    other.write_bytes(raw)
    assert decode(raw, other) == BOOK
    for name in ("text", "words"):
        here = TASKS[name](length=5, file=plain)
        there = TASKS[name](length=5, file=other)
        assert there.fingerprint() == here.fingerprint()
        assert there.in_features == here.in_features
        assert there.chance == here.chance
        assert there.target == here.target


def test_the_penn_treebank_is_read_as_texts_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token a line end, none for a carriage return or a byte order mark."""
    monkeypatch.setenv("JAXINIT_DATA_DIR", str(tmp_path))
    (tmp_path / "penn_treebank").mkdir()
    raw = ("the cat saw a dog \r\n" * 200).encode("utf-8-sig")
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    files = {f"ptb.{part}.txt": digest for part in ("train", "valid")}
    monkeypatch.setitem(
        disk.PINS, "penn_treebank", disk.Pinned(files, hash="md5", embedded="words", licensed=True)
    )
    for file in files:
        (tmp_path / "penn_treebank" / file).write_bytes(raw)
    task = TASKS["penn_treebank"](length=5)
    assert task.in_features == 7  # the cat saw a dog <eos> <unk>
    (tmp_path / "penn_treebank" / "ptb.train.txt").write_bytes(raw[:-1])
    with pytest.raises(ValueError, match=r"truncated or corrupted: .*; get it again$"):
        TASKS["penn_treebank"](length=5)


RUSSIAN = "".join(chr(0x430 + k * k % 32) for k in range(50))


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        ("some plain words. " * 500, RUSSIAN * 20),  # another script
        (RUSSIAN + "some plain words. " * 500, RUSSIAN * 20),  # seen once
        ("some plain words. " * 500, "\n" * 1000),  # nothing
        ("some plain words. " * 500, ("some plain words. " + RUSSIAN[:10]) * 36),  # a third of it
    ],
)
def test_a_validation_part_of_another_text_is_refused(
    tmp_path: Path, train: str, valid: str
) -> None:
    path = tmp_path / "two.txt"
    path.write_text(train + valid, "utf-8")
    with pytest.raises(
        ValueError, match=r"task 'text': the last \S+ characters .*, are another text .*% of"
    ) as error:
        TASKS["text"](length=10, file=path)
    assert "\n" not in str(error.value)


def test_words_of_another_text_are_refused_and_rare_words_are_not(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("some plain words of it.\n" * 450 + "other stuff comes last here.\n" * 50)
    with pytest.raises(ValueError, match=r"task 'words': the last 350 .* are another text"):
        TASKS["words"](length=5, file=path)
    drawn = np.random.default_rng(0).zipf(1.3, 3000)  # a third of the last tenth was never seen
    path.write_text(" ".join(f"w{number}" for number in drawn))
    assert math.isfinite(TASKS["words"](length=5, file=path).chance)


def test_no_target_is_above_what_an_even_guess_gives(tmp_path: Path) -> None:
    """Frequencies that changed would cost 3.4 bits, where two characters alike cost one."""
    path = tmp_path / "changed.txt"
    path.write_text("a" * 8910 + "b" * 90 + "ab" * 500)
    task = TASKS["text"](length=10, file=path)
    assert task.chance == pytest.approx(1, rel=1e-6)
    assert task.target == pytest.approx(0.6, rel=1e-6)
    even = float(task.metric(jnp.zeros((*task.data["valid_y"].shape, 2)), task.data["valid_y"]))
    assert task.target < even


def test_the_embedded_text_has_the_same_bytes_on_every_python() -> None:
    content = grammar.text()
    assert hashlib.sha256(content.encode("ascii")).hexdigest() == grammar.SHA256
    assert len(content) == 500_146
    with pytest.raises(
        ValueError, match=rf"has the SHA-256 [0-9a-f]{{64}}, expected {grammar.SHA256}"
    ):
        grammar.checked(content[1:])
    # Without any package, as another program would draw it.
    code = (
        f"import runpy; names = runpy.run_path({grammar.__file__!r}); text = names['text'](); "
        "print(len(text), names['hashlib'].sha256(text.encode()).hexdigest())"
    )
    alone = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert alone.stdout.split() == ["500146", grammar.SHA256]


def starters() -> dict[str, list[set[str]]]:
    """By symbol and alternative: the tokens that it can begin with, "" where it can be empty."""
    first: dict[str, set[str]] = {symbol: set() for symbol in grammar.rules()}

    def first_of(parts: tuple[str, ...]) -> set[str]:
        begins = {""}
        for part in parts:
            if "" in begins:
                begins = begins - {""} | first.get(part, {part})
        return begins

    # Symbols are defined by one another, so the sets grow until a sweep adds nothing.
    changed = True
    while changed:
        before = sum(map(len, first.values()))
        for symbol, alternatives in grammar.rules().items():
            for _, parts in alternatives:
                first[symbol] |= first_of(parts)
        changed = sum(map(len, first.values())) > before
    by_alternative = {}
    for symbol, alternatives in grammar.rules().items():
        by_alternative[symbol] = [first_of(parts) for _, parts in alternatives]
    return by_alternative


def followers(begins: dict[str, set[str]]) -> dict[str, set[str]]:
    """By symbol: the tokens that can come after it."""
    after: dict[str, set[str]] = {symbol: set() for symbol in grammar.rules()}
    changed = True
    while changed:
        before = sum(map(len, after.values()))
        for symbol, alternatives in grammar.rules().items():
            for _, parts in alternatives:
                later = after[symbol]
                for part in reversed(parts):
                    if part in after:
                        after[part] |= later
                    start = begins.get(part, {part})
                    later = (start - {""}) | later if "" in start else start
        changed = sum(map(len, after.values())) > before
    return after


def test_the_grammar_gives_every_text_one_derivation() -> None:
    """LL(1): the next token decides every choice, so the entropy of texts is that of
    derivations."""
    choices = starters()
    after = followers({symbol: set().union(*begins) for symbol, begins in choices.items()})
    for symbol, begins in choices.items():
        assert sum("" in tokens for tokens in begins) <= 1
        alternatives_of: Counter[str] = Counter()
        for tokens in begins:
            if "" in tokens:
                tokens = tokens - {""} | after[symbol]
            alternatives_of.update(tokens)
        assert max(alternatives_of.values()) == 1, f"{symbol}: {alternatives_of.most_common(1)}"
    parts_of_all = set()
    for alternatives in grammar.rules().values():
        for _, parts in alternatives:
            parts_of_all.update(parts)
    words = parts_of_all - set(grammar.rules()) - set(grammar.GAPS)
    in_small_letters = {word.lower() for word in words}
    assert len(in_small_letters) == len(words), "a capital at the start of a sentence hides nothing"
    assert {word for word in words if word in grammar.FUNCTION_WORDS} == grammar.FUNCTION_WORDS
    assert all(re.fullmatch(r"[A-Za-z]+|\d+|[.!?,;()\[\]]", word) for word in words)


def read_sentences() -> Iterator[tuple[str, float]]:
    """Every sentence of the embedded text and -log2 of its probability, by a parser that looks one
    token ahead."""
    choices = starters()
    chosen: dict[str, dict[str, tuple[float, tuple[str, ...]]]] = {}
    for symbol, alternatives in grammar.rules().items():
        total = sum(weight for weight, _ in alternatives)
        chosen[symbol] = {}
        for (weight, parts), begins in zip(alternatives, choices[symbol], strict=True):
            chosen[symbol] |= dict.fromkeys(begins, (-math.log2(weight / total), parts))
    spelled = {token.lower(): token for table in chosen.values() for token in table}
    for sentence in re.findall(r"[^.!?]+[.!?][ \n]", grammar.text()):
        pieces = re.findall(r"\w+|[^\w\s]", sentence)
        tokens = [spelled.get(pieces[0].lower(), pieces[0].lower()), *pieces[1:]]
        tokens.append("<space>" if sentence[-1] == " " else "<line>")
        assert grammar.spell(tokens) == sentence
        waiting, bits = ["sentence"], 0.0
        for token in tokens:
            while waiting[-1] != token:
                table = chosen[waiting.pop()]
                cost, parts = table[token] if token in table else table[""]
                bits += cost
                waiting.extend(reversed(parts))
            waiting.pop()
        while waiting:
            cost, parts = chosen[waiting.pop()][""]
            bits += cost
            waiting.extend(reversed(parts))
        yield sentence, bits


def test_the_entropy_of_the_text_is_that_of_its_sentences() -> None:
    """Mean -log2 p and mean length of the 8,000 sentences are the exact ones within four standard
    errors."""
    sentences = list(read_sentences())
    assert "".join(sentence for sentence, _ in sentences) == grammar.text()
    assert len(sentences) > 8000
    lengths = np.asarray([len(sentence) for sentence, _ in sentences], float)
    costs = np.asarray([bits for _, bits in sentences])
    exact_cost = grammar.expected(grammar.uncertainty, lambda token: 0.0)
    exact_length = grammar.expected(lambda choices: 0.0, grammar.width)
    assert grammar.entropy() == pytest.approx(exact_cost / exact_length)
    assert costs.mean() == pytest.approx(exact_cost, abs=4 * standard_error(costs))
    assert lengths.mean() == pytest.approx(exact_length, abs=4 * standard_error(lengths))
    # The error of a ratio is that of what is left of the costs, over the mean length.
    left = costs - grammar.entropy() * lengths
    room = 4 * standard_error(left) / lengths.mean()
    assert costs.sum() / lengths.sum() == pytest.approx(grammar.entropy(), abs=room)


@pytest.mark.slow
def test_no_count_of_characters_beats_the_entropy() -> None:
    """Contexts of up to seven characters, each order interpolated with the one below as Witten and
    Bell do."""
    content, order = grammar.text(), 7
    split = len(content) - len(content) // 10
    seen: list[defaultdict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(order + 1)]
    for k in range(order, split):
        for n in range(order + 1):
            seen[n][content[k - n : k]][content[k]] += 1
    bits = []
    for k in range(split, split + 20_000):
        p = 1 / 66
        for n in range(order + 1):
            counts = seen[n].get(content[k - n : k])
            if counts is None:
                break
            p = (counts[content[k]] + len(counts) * p) / (counts.total() + len(counts))
        bits.append(-math.log2(p))
    task = TASKS["text"]()
    assert grammar.entropy() < np.mean(bits) < task.target < task.chance


def test_the_target_of_the_text_lies_between_its_entropy_and_chance() -> None:
    task = TASKS["text"]()
    assert grammar.entropy() < task.target < task.chance
    assert task.entropy == grammar.entropy()
    assert task.target == 2.769
    with pytest.raises(
        ValueError, match=r"must be above the entropy of the text \(1\.168\) and below chance"
    ):
        task.check_target(1.1)


def test_a_task_that_is_not_what_it_says_is_refused_in_one_line() -> None:
    task = TASKS["digits_rows"]()
    whole = task.data | {"valid_x": task.data["valid_x"].astype(jnp.int32)}
    short = task.data | {"valid_y": task.data["valid_y"][:-1]}
    with pytest.raises(
        ValueError, match=r"'digits_rows': inputs .* are real numbers, got int32 \[517, 8, 8\]"
    ):
        replace(task, data=whole)
    with pytest.raises(
        ValueError,
        match=r"valid_x \[517, 8, 8\] and valid_y \[517\] do not fit 8 steps of 9 inputs",
    ):
        replace(task, in_features=9)
    with pytest.raises(ValueError, match=r"valid_y \[516\] do not fit"):
        replace(task, data=short)
    with pytest.raises(ValueError, match=r"readout 'all': expected \[n, 8, 8\] and \['n', 8\]"):
        replace(task, readout="all")


def test_what_the_system_says_of_a_file_is_one_line(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_mnist / f"{disk.IDX[0]}.gz"
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    message = (
        r"^task 'mnist' cannot read .*\.gz: Is a directory; make it a file that you may read, or "
        r"use .*'digits_rows'"
    )
    with pytest.raises(ValueError, match=message):
        TASKS["mnist"]()
    path.rmdir()
    path.write_bytes(content)
    read = Path.read_bytes

    def refused(self: Path) -> bytes:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    with monkeypatch.context() as here:
        here.setattr(Path, "read_bytes", refused)
        with pytest.raises(
            ValueError, match=r"cannot read .*\.gz: Permission denied; make it a file"
        ):
            TASKS["mnist"]()
    assert TASKS["mnist"]().name == "mnist"


def test_an_account_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAXINIT_DATA_DIR", raising=False)
    with pytest.raises(
        ValueError, match=r"home directory.*; say with JAXINIT_DATA_DIR where data sets are"
    ):
        TASKS["mnist"]()
    monkeypatch.setenv("JAXINIT_DATA_DIR", str(tmp_path))
    assert disk.folders("mnist") == [tmp_path / "mnist"]


def test_patches_hold_neighbours() -> None:
    """Every patch of a picture is a square of it, all colours together."""
    pixels, of_patches = TASKS["digits_pixels"](), TASKS["digits_patches"]()
    picture = np.asarray(pixels.data["valid_x"][3]).reshape(8, 8)
    np.testing.assert_array_equal(of_patches.data["valid_x"][3, 5], picture[2:4, 2:4].ravel())
    coloured = np.arange(4 * 4 * 3).reshape(4, 4, 3)
    np.testing.assert_array_equal(patches(4, 2, 3).reshape(4, -1)[1], coloured[:2, 2:].ravel())
    for size in (3, 0, -2):
        with pytest.raises(ValueError, match=f"must divide the picture's 8, got {size}"):
            patches(8, size)
