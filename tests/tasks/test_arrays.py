"""Tasks from arrays and files of the caller's own."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import task
from jaxinit.engine.resolve import resolve
from jaxinit.study import BadStudy, Study
from jaxinit.tasks import task_from_file

RNG = np.random.default_rng(0)
N = 200
LABELS = RNG.integers(0, 3, N)
# Three classes a standard deviation wide, three apart: the nearest mean errs now and then.
INPUTS = RNG.normal(size=(N, 4)) + 3 * np.eye(3, 4)[LABELS] / 2**0.5


def test_whole_numbers_are_classes_and_the_nearest_mean_sets_the_target() -> None:
    made = task(INPUTS, LABELS)
    assert (made.in_features, made.length, made.out_features) == (4, 1, 3)
    assert (made.examples, made.data["valid_x"].shape) == (160, (40, 1, 4))
    assert made.metric_name == "validation accuracy"
    assert made.higher_is_better
    train_y = np.asarray(made.data["train_y"])
    assert made.chance == pytest.approx(np.bincount(train_y).max() / 160)
    x, valid_x = (np.asarray(made.data[f"{part}_x"])[:, 0] for part in ("train", "valid"))
    means = np.stack([x[train_y == label].mean(0) for label in range(3)])
    nearest = ((valid_x[:, None] - means) ** 2).sum(-1).argmin(1)
    assert made.target == pytest.approx((nearest == made.data["valid_y"]).mean())
    assert 0.6 < made.target < 1
    assert f"{made.target:.3g}" in made.why


def test_every_seed_draws_its_own_split_of_all_examples() -> None:
    made = task(INPUTS, LABELS)
    splits = [made.of_seed(made.data, jax.random.key(seed)) for seed in (0, 1)]
    assert not np.array_equal(splits[0]["valid_x"], splits[1]["valid_x"])
    for split in splits:
        everything = np.concatenate([split["train_x"], split["valid_x"]])[:, 0]
        assert np.array_equal(np.sort(everything, 0), np.sort(INPUTS.astype(np.float32), 0))


def test_a_validation_set_that_is_given_stays() -> None:
    made = task(INPUTS, LABELS, valid=(INPUTS[:20], LABELS[:20]))
    assert made.examples == N
    for seed in (0, 1):
        split = made.of_seed(made.data, jax.random.key(seed))
        assert np.array_equal(split["valid_y"], LABELS[:20])


def test_real_numbers_are_learnt_by_squared_error_to_what_least_squares_reaches() -> None:
    y = INPUTS @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.3 * RNG.normal(size=N)
    made = task(INPUTS, y)
    assert (made.out_features, made.metric_name) == (1, "validation loss")
    assert not made.higher_is_better
    assert made.target == pytest.approx(0.09, rel=0.5)
    # Guessing the mean costs the variance.
    assert made.chance == pytest.approx(y.var(), rel=0.3)
    outputs = made.data["valid_y"] + 2
    assert float(made.loss(outputs, made.data["valid_y"])) == pytest.approx(4)


def test_where_a_linear_rule_is_no_better_than_chance_the_target_is_halfway() -> None:
    # The parity of two signs: no class has a mean of its own.
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]] * 50)
    made = task(signs.astype(float), (signs.prod(1) > 0).astype(int))
    assert made.target == pytest.approx((1 + made.chance) / 2)
    assert "halfway" in made.why


def test_sequences_pictures_tokens_and_a_class_at_every_step() -> None:
    sequences = task(RNG.normal(size=(N, 7, 2)), LABELS)
    assert (sequences.length, sequences.in_features, sequences.readout) == (7, 2, "last")
    pictures = task(RNG.normal(size=(N, 5, 6, 3)), LABELS)
    assert (pictures.length, pictures.in_features) == (5, 18)
    tokens = task(RNG.integers(0, 11, (N, 9)), LABELS)
    assert (tokens.length, tokens.in_features) == (9, 11)
    steps = task(RNG.normal(size=(N, 7, 2)), RNG.integers(0, 4, (N, 7)))
    assert (steps.readout, steps.out_features) == ("all", 4)


def test_a_loss_of_the_callers_is_the_metric_too() -> None:
    def absolute(outputs: Any, y: Any) -> Any:
        return jnp.mean(jnp.abs(outputs[:, 0] - y))

    y = RNG.normal(size=N)
    made = task(INPUTS, y, loss=absolute, target=0.3)
    assert made.metric is absolute
    assert made.target == 0.3
    # Outputs of 0: the mean of a normal variable's size.
    assert made.chance == pytest.approx((2 / np.pi) ** 0.5, rel=0.25)
    with pytest.raises(ValueError, match="give its target too"):
        task(INPUTS, y, loss=absolute)
    # Two numbers to learn are no classes of two steps.
    pair = task(INPUTS, RNG.normal(size=(N, 2)), loss=absolute_of_all, target=0.3)
    assert (pair.readout, pair.out_features) == ("last", 2)


def absolute_of_all(outputs: Any, y: Any) -> Any:
    return jnp.mean(jnp.abs(outputs - y))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (INPUTS[:-1], LABELS, {}, "x has 199 examples and y 200"),
        (INPUTS[:5], LABELS[:5], {}, "needs 10 examples or more, got 5"),
        (np.where(INPUTS > 4, np.nan, INPUTS), LABELS, {}, "x has .* not finite, the first at"),
        (INPUTS, LABELS - 1, {}, "classes must be 0 or more, got -1 to 1"),
        (INPUTS, LABELS, {"out_features": 2}, "classes must be from 0 to 1, got 0 to 2"),
        (INPUTS, LABELS * 0, {}, "one class only"),
        (INPUTS, LABELS.astype(float), {"loss": "cross_entropy"}, "whole numbers as classes"),
        (INPUTS, LABELS, {"loss": "hinge"}, "loss is 'cross_entropy', 'squared_error' or"),
        (INPUTS[:, 0], LABELS, {}, r"x must be \[n, features\]"),
        (INPUTS.astype(str), LABELS, {}, "x must be numbers"),
        (INPUTS[:0], LABELS[:0], {}, "x is empty"),
        (INPUTS.astype(int) - 9, LABELS, {}, "one-hot vectors and must be 0 or more"),
        (INPUTS.astype(np.uint8), LABELS, {}, "in uint8 may be pixels or symbols"),
        (INPUTS, LABELS, {"valid": (INPUTS[:9, :3], LABELS[:9])}, "valid x must be as x"),
        (INPUTS, LABELS, {"valid": (INPUTS[:9], LABELS[:8])}, "valid x has 9 examples and valid y"),
    ],
)
def test_arrays_that_make_no_task_are_refused_in_one_line(
    x: Any, y: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        task(x, y, **options)
    assert "\n" not in str(caught.value)


def test_files_hold_the_same_task(tmp_path: Path) -> None:
    made = task(INPUTS, LABELS)
    np.savez(tmp_path / "own.npz", x=INPUTS, y=LABELS)
    np.save(tmp_path / "x.npy", INPUTS)
    np.save(tmp_path / "y.npy", LABELS)
    words = np.array(["ant", "bee", "cat"])[LABELS]
    lines = [
        ",".join([*map(repr, map(float, x)), word]) for x, word in zip(INPUTS, words, strict=True)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d,animal", *lines]))
    for name in (
        f"{tmp_path}/own.npz",
        f"{tmp_path}/x.npy,{tmp_path}/y.npy",
        f"{tmp_path}/t.csv:animal",
    ):
        assert task_from_file(name).fingerprint() == made.fingerprint(), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.npz", "gone.npz cannot be read: No such file"),
        ("half.npz", "must have arrays x and y, and has x"),
        ("valid.npz", "has one of valid_x and valid_y"),
        ("x.npy", "are two files"),
        ("t.csv", "asked with the column to learn, as .*t.csv:COLUMN; it has a, b"),
        ("t.csv:c", "asked with the column to learn"),
        ("ragged.csv:b", "line 3: 1 values under 2 names"),
        ("words.csv:b", "line 2: inputs must be numbers"),
    ],
)
def test_files_that_hold_no_task_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("half.npz", x=INPUTS)
    np.savez("valid.npz", x=INPUTS, y=LABELS, valid_x=INPUTS)
    np.save("x.npy", INPUTS)
    Path("t.csv").write_text("a,b\n1,2\n")
    Path("ragged.csv").write_text("a,b\n1,2\n3\n")
    Path("words.csv").write_text("a,b\nred,2\n")
    with pytest.raises(BadStudy, match=message) as caught:
        resolve(Study(model="mlp", task=name))
    assert "\n" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", x=INPUTS, y=LABELS)
    resolved = resolve(Study(model="mlp", hidden=8, task="own.npz"))
    assert resolved.task.examples == 160
    assert resolved.study.target == pytest.approx(resolved.task.target)
    kernel = next(leaf for leaf in resolved.model.leaves if leaf.role == "input")
    assert kernel.shape == (4, 8)


def test_a_study_of_a_folder_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("abc de" * 500)
    for name in ("texts", "texts/", str(tmp_path / "texts")):
        resolved = resolve(Study(model="rnn", hidden=4, batch=10, task=name, length=6))
        assert (resolved.task.out_features, resolved.task.length) == (6, 6)
    Path("empty").mkdir()
    for name, message in (
        ("gone/", "the text gone/? cannot be read: No such file.*or of a folder of"),
        ("empty/", "the folder empty/ has no"),
        ("gone", "no task is called 'gone'"),
    ):
        with pytest.raises(BadStudy, match=message) as caught:
            resolve(Study(model="rnn", task=name))
        assert "\n" not in str(caught.value)


def test_squared_error_takes_as_many_outputs_as_there_are_numbers() -> None:
    with pytest.raises(ValueError, match="out_features is 2 and y has 1 columns"):
        task(INPUTS, RNG.normal(size=N), out_features=2)
