"""The split of a seed: of fixed examples another part validates, generated ones are drawn anew, and
a given one stays."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every, quick
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit.tasks import TASKS, Task, disk
from jaxinit.tasks.base import Data
from jaxinit.tasks.shapeset import from_pool
from jaxinit.tasks.text import bits, next_token

DIGITS = ("digits_rows", "digits_pixels", "digits_permuted", "digits_patches")
GENERATED = (
    "adding",
    "copy",
    "copy_variable",
    "multiplication",
    "temporal_order",
    "temporal_order_3",
    "parity",
    "shapeset",
)
PARTS = ("train_x", "train_y", "valid_x", "valid_y")


def splits_of(task: Task, *seeds: int) -> list[dict[str, np.ndarray]]:
    """By one program for all seeds."""
    of_seed = jax.jit(task.of_seed)
    return [jax.tree.map(np.asarray, of_seed(task.data, jax.random.key(seed))) for seed in seeds]


def greys(x: np.ndarray) -> np.ndarray:
    """The whole numbers, 0 to 16, that digits are before they are standardized, a row a picture."""
    flat = x.reshape(len(x), -1)
    return np.rint(16 * (flat - flat.min()) / np.ptp(flat)).astype(int)


def rows(data: dict[str, np.ndarray]) -> np.ndarray:
    """All examples of both parts, each with its label, sorted."""
    pictures = greys(np.concatenate([data["train_x"], data["valid_x"]]))
    labels = np.concatenate([data["train_y"], data["valid_y"]])
    both = np.column_stack([pictures, labels])
    return both[np.lexsort(both.T)]


@pytest.mark.parametrize("name", DIGITS)
def test_every_seed_partitions_the_same_digits(name: str) -> None:
    task = TASKS[name]()
    stored = jax.tree.map(np.asarray, dict(task.data))
    validating = {np.sort(greys(stored["valid_x"]), 0).tobytes()}
    for own in splits_of(task, *range(4)):
        assert {part: own[part].shape for part in PARTS} == {
            part: stored[part].shape for part in PARTS
        }
        np.testing.assert_array_equal(rows(own), rows(stored))
        validating.add(np.sort(greys(own["valid_x"]), 0).tobytes())
        assert own["train_x"].mean() == pytest.approx(0, abs=1e-5)
        assert own["train_x"].std() == pytest.approx(1, abs=1e-5)
        # The validation part is on the scale of the training part.
        whole = np.concatenate([own["train_x"], own["valid_x"]])
        assert np.ptp(own["train_x"]) == pytest.approx(np.ptp(whole), rel=1e-6)
    assert len(validating) == 5


def test_every_example_validates_as_often_as_any_other() -> None:
    """517 of 1797 pictures, over 400 seeds: counts of a binomial law."""
    task = TASKS["digits_rows"]()
    numbered = task.data | {
        "train_y": jnp.arange(1280, dtype=jnp.int32),
        "valid_y": jnp.arange(1280, 1797, dtype=jnp.int32),
    }
    keys = jax.random.split(jax.random.key(0), 400)
    valid = jax.jit(jax.vmap(lambda key: task.of_seed(numbered, key)["valid_y"]))(keys)
    counts = np.bincount(np.ravel(valid), minlength=1797)
    share = 517 / 1797
    spread = np.sqrt(400 * share * (1 - share))
    assert np.abs(counts - 400 * share).max() < 5 * spread
    assert counts.std() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(
    "name", quick(DIGITS[0], "adding", "text", of=[*DIGITS[:1], "adding", "text", "shapeset"])
)
def test_the_split_depends_on_the_seed_alone_and_maps(name: str) -> None:
    task = TASKS[name]()
    again, first, second = splits_of(task, 3, 3, 4)
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    together = jax.jit(jax.vmap(task.of_seed, (None, 0)))(task.data, keys)
    for part in ("valid_x", "valid_y"):
        np.testing.assert_array_equal(first[part], again[part])
        assert (first[part] != second[part]).any()
        for row, alone in enumerate((first, second)):
            np.testing.assert_allclose(together[part][row], alone[part], atol=1e-6)


@pytest.mark.parametrize("name", every(2, of=GENERATED))
def test_generated_tasks_draw_their_validation_set_from_the_seed(name: str) -> None:
    task = TASKS[name]()
    first, second = splits_of(task, 0, 1)
    for other in (second["valid_x"], np.asarray(task.data["valid_x"])):
        assert first["valid_x"].shape == other.shape
        assert (first["valid_x"] != other).any()
    ticket = task.tickets(task.data, jax.random.key(5), 2, 64)[0]
    # What is not the validation set stays.
    batch = jax.jit(task.batch)
    for part, drawn in zip(batch(task.data, ticket), batch(first, ticket), strict=True):
        np.testing.assert_array_equal(part, drawn)


def test_a_pool_of_shapes_trains_on_all_pictures_but_those_that_validate() -> None:
    pool = from_pool(64)
    count = len(pool.data["classes"])
    # Numbers in the place of classes show which pictures are read.
    numbered = pool.data | {"classes": jnp.arange(count, dtype=jnp.int32)}
    starts = set()
    of_seed, batch = jax.jit(pool.of_seed), jax.jit(pool.batch)
    pictures = np.asarray(pool.data["pictures"])
    for seed in range(4):
        own = of_seed(numbered, jax.random.key(seed))
        x, trained = map(np.asarray, batch(own, jnp.arange(64)))
        own = jax.tree.map(np.asarray, own)
        parts = np.concatenate([trained, own["valid_y"]])
        np.testing.assert_array_equal(np.sort(parts), np.arange(count))
        starts.add(int(own["valid_start"]))
        for picture, number in ((x[3], trained[3]), (own["valid_x"][5], own["valid_y"][5])):
            grey = pictures[int(number)].astype(np.float32)
            np.testing.assert_allclose(picture, grey / 127.5 - 1, atol=1e-6)
    assert len(starts) == 4
    np.testing.assert_allclose(
        pool.data["valid_x"], pictures[64:] / np.float32(127.5) - 1, atol=1e-6
    )


@given(
    seed=st.integers(0, 2**31 - 1),
    count=st.sampled_from((200, 399)),
    length=st.sampled_from((1, 7, 15)),
    batch=st.sampled_from((1, 4)),
)
@settings(max_examples=25, deadline=None)
def test_texts_train_on_all_but_the_stretch_that_validates(
    seed: int, count: int, length: int, batch: int
) -> None:
    """Numbers that stand for their own places show which of them are read."""
    places = np.arange(count, dtype=np.int32)
    text = np.random.default_rng(0).integers(0, 2, count).astype(np.int32)
    task = next_token("text", text, 2, length, bits, "validation bits per character")
    data: Data = task.of_seed(task.data | {"numbers": jnp.asarray(places)}, jax.random.key(seed))
    held = count // 10
    start = int(data["valid_start"])
    assert 0 <= start <= count - held
    windows = np.concatenate([np.asarray(data["valid_x"]), np.asarray(data["valid_y"])[:, -1:]], 1)
    assert (np.diff(windows) == 1).all()
    assert (windows.min(), windows.max()) == (start, start + held - 1)
    seen = set()
    for epoch in range(4):
        key = jax.random.key(epoch)
        tickets = task.tickets(data, key, task.examples // batch, batch)
        x, y = task.batch(data, tickets.reshape(-1))
        # One step on in the training part, which is read in a circle around the validation part.
        part = (np.asarray([x, y]) - start - held) % count
        np.testing.assert_array_equal(part[0] + 1, part[1])
        seen.update(np.ravel(x).tolist(), np.ravel(y).tolist())
    assert not seen & set(range(start, start + held))
    assert len(seen) > 0.9 * (count - held)


def test_the_stored_split_of_a_text_is_its_last_tenth() -> None:
    task = TASKS["text"]()
    numbers = np.asarray(task.data["numbers"])
    held = len(numbers) // 10
    assert int(task.data["valid_start"]) == len(numbers) - held
    np.testing.assert_array_equal(task.data["valid_x"][0], numbers[-held:][:50])
    total = len(numbers) - held - 1
    x, _ = task.batch(task.data, jnp.asarray([0, total - 50]))
    np.testing.assert_array_equal(x[0], numbers[:50])
    np.testing.assert_array_equal(x[1], numbers[total - 50 : total])
    starts = {int(own["valid_start"]) for own in splits_of(task, *range(8))}
    assert len(starts) == 8


def test_a_text_with_a_part_of_another_kind_anywhere_is_refused(tmp_path: Path) -> None:
    """Some seed would validate on it. A given validation part is the only one that is looked at."""
    path = tmp_path / "inserted.txt"
    plain = "some plain words. " * 500
    path.write_text(plain[:4000] + "0123456789" * 100 + plain[4000:])
    message = r"from the \S+th on, on which a seed may validate, are another text"
    with pytest.raises(ValueError, match=message):
        TASKS["text"](length=10, file=path)
    numbers = np.concatenate([np.zeros(500), np.ones(500), np.arange(500) % 2]).astype(np.int32)
    task = next_token("given", numbers, 2, 10, bits, "validation bits", valid=300)
    assert task.split is None


def test_a_given_split_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "VALID", 20)
    pictures = np.random.default_rng(0).integers(0, 256, (60, 784), np.uint8)
    labels = (np.arange(60) % 10).astype(np.uint8)
    of_files = disk._pictures("mnist", pictures, labels, 28, target=0.9)
    own = replace(TASKS["digits_rows"](), split=None)
    for task in (of_files, own):
        assert task.split is None
        data = task.of_seed(task.data, jax.random.key(1))
        assert data is task.data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:-1], r"a seed's valid_x must be .*float32 \[517, 8, 8\]; .* \[516, 8, 8\]"),
        (lambda x: x.astype(jnp.int32), r"its split gives int32 \[517, 8, 8\]"),
    ],
)
def test_a_split_of_other_shapes_is_refused(change, message: str) -> None:
    def split(data: Data, key: jax.Array) -> Data:
        del key
        return data | {"valid_x": change(data["valid_x"])}

    with pytest.raises(ValueError, match=message):
        replace(TASKS["digits_rows"](), split=split)
