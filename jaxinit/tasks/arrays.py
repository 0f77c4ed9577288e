"""A task from arrays of the caller's own, or from a file of them.

x, y -> loss, metric, chance, target by a rule that knows no scheme -> Task
FILE.npz, X.npy,Y.npy, FILE.csv:COLUMN -> x, y -> Task
"""

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from jaxinit.tasks.base import (
    Data,
    Task,
    accuracy,
    count_of,
    cross_entropy,
    is_tree,
    repartitioned,
    shuffled,
    squared_error,
    taken,
)
from jaxinit.tasks.losses import cost_of_zeros, names_seen

VALIDATE = 0.2  # the share of examples that validate where no validation set is given
FEWEST = 10  # examples
HALFWAY = "halfway between what guessing reaches and all there is"


class Scale(NamedTuple):
    """What a metric means: what guessing reaches, the target, and why it is that."""

    chance: float
    target: float
    why: str


def task(
    x: Any,
    y: ArrayLike | None = None,
    *,
    valid: tuple[Any, ArrayLike | None] | None = None,
    loss: str | Callable[..., Array] | None = None,
    target: float | None = None,
    out_features: int | None = None,
    name: str = "own",
) -> Task:
    """A task on arrays: their loss, metric and target by what they are.

    Whole numbers y are classes: cross-entropy, accuracy. Real numbers y are learnt by squared
    error. `loss` is "cross_entropy", "squared_error", or a function of a batch's outputs and y,
    which is the metric too, and then `target` must be given. Without y, it is x itself, as numbers
    in a row. Default target: of classes what the nearest class mean of the same inputs classifies,
    of numbers the error of least squares; halfway from chance to all where that is no better than
    chance.
    A loss of yours sees more by the names of its arguments: `loss(outputs, y, *, params, key, x,
    apply)`, any of them. `params` are the parameters by name, `key` is one for this step, x are the
    batch's inputs in the shapes below with their axis of time, and `apply(x)` is the model, whose
    derivatives with respect to x can be taken. In validation the key is the same every time, and x
    is all that validate.
    Shapes: x `[n, features]`, `[n, time, features]`, pictures `[n, rows, columns, channels]`, read
    row by row, or whole numbers `[n, time]`, which stand for one-hot vectors; y `[n]` or `[n,
    outputs]`, and whole numbers `[n, time]` where every step has a class. x may be a dictionary or
    a tuple of arrays `[n, ...]`, which a model of yours is given as they are; its features and
    steps are those of the first. `valid` is a pair of the same; without it a fifth of the examples
    validate, drawn anew for every seed. `out_features` is the number of outputs: the classes, or
    the columns of y, if not given.
    Assumes inputs of the caller's scale: they are not standardized; a loss that is above 0.
    Raises: ValueError for arrays that do not pair, for values that are not finite, for classes
    below 0 or beyond `out_features`, for a loss or target that is missing or out of range, and for
    a loss that fails on outputs of 0, or is no number, not finite or not above 0 there.
    """
    pairs = [(x, y)] if valid is None else [(x, y), valid]
    xs, ys = [], []
    for (part_x, part_y), kind in zip(pairs, ("", "valid "), strict=False):
        xs.append(_inputs(part_x, f"{kind}x"))
        if y is None and part_y is None:
            ys.append(_as_labels(xs[-1]))
        elif y is None or part_y is None:
            raise ValueError("y and valid y are given both, or neither, valid=(x, None)")
        else:
            ys.append(_outputs(part_y, f"{kind}y"))
    _check_pairs(xs, ys)
    classes = np.issubdtype(ys[0].dtype, np.integer)
    kind = loss if loss is not None else ("cross_entropy" if classes else "squared_error")
    loss_named(kind)  # refused here, before all else of it
    if kind == "cross_entropy" and not classes:
        raise ValueError(f"cross-entropy needs whole numbers as classes, got y {ys[0].dtype}")
    if kind == "squared_error":
        ys = [_columns(y) for y in ys]
    every_step = bool(classes) and kind != "squared_error" and ys[0].ndim == 2
    length, in_features = _sizes([jax.tree.leaves(x)[0] for x in xs])
    if every_step and ys[0].shape[1] != length:
        raise ValueError(f"y has a class for {ys[0].shape[1]} steps, and x has {length}")
    out_features = _number_of_outputs(ys, kind, out_features)
    if valid is None:
        xs, ys = _split(xs[0], ys[0])
    data = {
        "train_x": jax.tree.map(jnp.asarray, xs[0]),
        "train_y": jnp.asarray(ys[0]),
        "valid_x": jax.tree.map(jnp.asarray, xs[1]),
        "valid_y": jnp.asarray(ys[1]),
    }
    loss_sees = ()
    if callable(kind):
        metric = learnt_by = kind
        loss_sees = names_seen(kind)
        if target is None:
            raise ValueError("with a loss of your own give its target too, target=...")
        scale = Scale(math.nan, target, "given")
    else:
        learnt_by = LOSSES[kind]
        metric, scale = _metric(kind, data, in_features, target)
    made = Task(
        name=name,
        in_features=in_features,
        length=length,
        out_features=out_features,
        readout="all" if every_step else "last",
        examples=len(ys[0]),
        data=data,
        tickets=shuffled,
        batch=taken,
        loss=learnt_by,
        metric=metric,
        metric_name="validation accuracy" if kind == "cross_entropy" else "validation loss",
        higher_is_better=kind == "cross_entropy",
        chance=scale.chance,
        target=scale.target,
        why=scale.why,
        split=None if valid is not None else repartitioned,
        loss_sees=loss_sees,
    )
    if callable(kind) and "params" not in loss_sees:  # their shapes are the model's
        made = replace(made, chance=cost_of_zeros(made, {}))
    return made


LOSSES: dict[str, Callable[..., Array]] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
}


def loss_named(loss: str | Callable[..., Array]) -> Callable[..., Array]:
    """A loss by its name, or as it is. Raises: ValueError for a name that is none."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        names = ", ".join(map(repr, LOSSES))
        raise ValueError(f"loss is {names} or a function of (outputs, y), got {loss!r}")
    return LOSSES[loss]


def is_file_of_arrays(name: str) -> bool:
    """Whether a task's name is that of a file that `task_from_file` reads."""
    return any(name.partition(":")[0].endswith(end) for end in (".npz", ".npy", ".csv"))


def task_from_file(name: str) -> Task:
    """The task of a file of arrays.

    `FILE.npz` has x and y, and where they are valid_x and valid_y; `X.npy,Y.npy` are a pair;
    `FILE.csv:COLUMN` is a table with a header, whose other columns are inputs, and whose COLUMN
    holds numbers to learn, or, where they are whole numbers or words, classes.
    Raises: ValueError, one line, for a file that cannot be read or lacks what it needs, and as
    `task`.
    """
    path = name.partition(":")[0]
    arrays = arrays_of_file(name)
    valid = None
    if "valid_x" in arrays or "valid_y" in arrays:
        if "valid_x" not in arrays or "valid_y" not in arrays:
            raise ValueError(f"{path} has one of valid_x and valid_y; it needs both, or neither")
        valid = arrays["valid_x"], arrays["valid_y"]
    try:
        return task(arrays["x"], arrays["y"], valid=valid, name=name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def arrays_of_file(name: str) -> dict[str, Any]:
    """The arrays x and y of a file, and what else it has, as `task_from_file` reads it. Raises:
    ValueError, one line."""
    path, _, column = name.partition(":")
    try:
        if path.endswith(".csv"):
            arrays = _table(path, column)
        elif path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        else:
            arrays = _pair(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    if "x" not in arrays or "y" not in arrays:
        raise ValueError(f"{path} must have arrays x and y, and has {', '.join(arrays)}")
    return arrays


def _pair(paths: str) -> dict[str, Any]:
    names = paths.split(",")
    if len(names) != 2:
        raise ValueError(f"inputs and outputs are two files, X.npy,Y.npy; got {paths}")
    arrays = [np.load(name, allow_pickle=False) for name in names]
    return dict(zip("xy", arrays, strict=True))


def _table(path: str, column: str) -> dict[str, Any]:
    """The inputs and the outputs of a table with a header."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *lines = [line for line in csv.reader(file) if line] or [[]]
    if column not in header:
        raise ValueError(
            f"{path} must be asked with the column to learn, as {path}:COLUMN; it has "
            f"{', '.join(header) or 'nothing'}"
        )
    place = header.index(column)
    rows = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise ValueError(f"{path}, line {number}: {len(line)} values under {len(header)} names")
        inputs = line[:place] + line[place + 1 :]
        try:
            rows.append([float(value) for value in inputs])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: inputs must be numbers: {error}") from error
    return {"x": np.asarray(rows), "y": _learnt([line[place] for line in lines])}


def _learnt(values: list[str]) -> np.ndarray:
    """Numbers, or the place of each word among all of them, in the order of the alphabet."""
    try:
        return np.asarray([int(value) for value in values])
    except ValueError:
        pass
    try:
        return np.asarray([float(value) for value in values])
    except ValueError:
        return np.unique(values, return_inverse=True)[1]


def _inputs(x: Any, name: str) -> Any:
    """Inputs as `[n, time, features]` in float32, or as whole numbers `[n, time]`; several as they
    are, in float32 and int32."""
    if isinstance(x, Mapping) or (isinstance(x, tuple) and all(map(_holds_arrays, x))):
        if not jax.tree.leaves(x):
            raise ValueError(f"{name} is empty: it holds no array")
        return jax.tree.map_with_path(
            lambda path, leaf: _as_given(leaf, name + jax.tree_util.keystr(path)), x
        )
    array = _numbers(x, name)
    if np.issubdtype(array.dtype, np.integer) and array.ndim == 2:
        if array.dtype == np.uint8:
            raise ValueError(
                f"{name} [n, {array.shape[1]}] in uint8 may be pixels or symbols: give pixels as "
                "float32, symbols, which stand for one-hot vectors, as int32"
            )
        if array.min() < 0:
            raise ValueError(
                f"{name}: whole numbers [n, time] stand for one-hot vectors and must be 0 or more, "
                f"got {array.min()}; give real numbers as float32"
            )
        return array.astype(np.int32)
    if not 2 <= array.ndim <= 4:
        raise ValueError(
            f"{name} must be [n, features], [n, time, features] or [n, rows, columns, channels], "
            f"got the shape {list(array.shape)}"
        )
    length = 1 if array.ndim == 2 else array.shape[1]
    return array.astype(np.float32).reshape(len(array), length, -1)


def _holds_arrays(entry: Any) -> bool:
    return hasattr(entry, "shape") or isinstance(entry, Mapping | tuple)


def _as_given(values: ArrayLike, name: str) -> np.ndarray:
    """Numbers in float32 or int32."""
    array = _numbers(values, name)
    whole = np.issubdtype(array.dtype, np.integer)
    return array.astype(np.int32 if whole else np.float32)


def _outputs(y: ArrayLike, name: str) -> np.ndarray:
    array = _as_given(y, name)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must be [n], [n, outputs] or [n, time], got {list(array.shape)}")
    return array


def _as_labels(x: Any) -> np.ndarray:
    """Inputs as what is to be learnt of them: all numbers of an example in a row."""
    if is_tree(x):
        raise ValueError("without y there is one input, which is y too; got several: give y")
    return _columns(x)


def _sizes(firsts: list[np.ndarray]) -> tuple[int, int]:
    """The steps and the features of the inputs, of which the first array of each part is given."""
    first = firsts[0]
    if np.issubdtype(first.dtype, np.integer) and first.ndim <= 2:  # one-hot vectors
        return math.prod(first.shape[1:]), int(max(x.max() for x in firsts)) + 1
    if first.ndim <= 2:
        return 1, math.prod(first.shape[1:])
    return first.shape[1], math.prod(first.shape[2:])


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    """Raises: ValueError for what is no array of numbers, is empty, or has values that are not
    finite."""
    array = np.asarray(values)
    if array.dtype == bool:
        array = array.astype(int)
    if not np.issubdtype(array.dtype, np.integer) and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} must be numbers, got {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} is empty: its shape is {list(array.shape)}")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        first = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"{name} has {bad} values of {array.size} that are not finite, the first at {first}"
        )
    return array


def _columns(y: np.ndarray) -> np.ndarray:
    """Numbers to learn as `[n, outputs]`."""
    return y.astype(np.float32).reshape(len(y), -1)


def _check_pairs(xs: list[Any], ys: list[np.ndarray]) -> None:
    """Raises: ValueError for arrays that do not belong together."""
    for x, y, name in zip(xs, ys, ("", "valid "), strict=False):
        for path, leaf in jax.tree.leaves_with_path(x):
            if len(leaf) != len(y):
                place = f"{name}x{jax.tree_util.keystr(path)}"
                raise ValueError(f"{place} has {len(leaf)} examples and {name}y {len(y)}")
    for arrays, name in ((xs, "x"), (ys, "y")):
        for other in arrays[1:]:
            if _kind(other) != _kind(arrays[0]):
                raise ValueError(
                    f"valid {name} must be as {name}, {_described(arrays[0])}, got "
                    f"{_described(other)}"
                )
    if len(ys[0]) < FEWEST:
        raise ValueError(f"a task needs {FEWEST} examples or more, got {len(ys[0])}")


def _kind(x: Any) -> Any:
    """What arrays that belong together have in common."""
    leaves, structure = jax.tree.flatten(x)
    return structure, [(leaf.shape[1:], leaf.dtype) for leaf in leaves]


def _described(x: Any) -> str:
    return ", ".join(
        f"{jax.tree_util.keystr(path)} {leaf.dtype} {list(leaf.shape)}".strip()
        for path, leaf in jax.tree.leaves_with_path(x)
    )


def _number_of_outputs(ys: list[np.ndarray], kind: Any, given: int | None) -> int:
    """Raises: ValueError for classes below 0 or beyond the number that is given, and for another
    number of outputs than columns, where their difference is squared."""
    if kind == "squared_error":
        if given not in (None, ys[0].shape[1]):
            raise ValueError(
                f"out_features is {given} and y has {ys[0].shape[1]} columns, and squared error "
                "takes their difference; leave out_features out, or give a loss of your own"
            )
        return ys[0].shape[1]
    if not np.issubdtype(ys[0].dtype, np.integer):
        return given if given is not None else int(np.prod(ys[0].shape[1:], dtype=int))
    least, most = min(y.min() for y in ys), max(y.max() for y in ys)
    if least < 0 or (given is not None and most >= given):
        allowed = "0 or more" if given is None else f"from 0 to {given - 1}"
        raise ValueError(f"classes must be {allowed}, got {least} to {most}")
    number = int(most) + 1 if given is None else given
    if kind == "cross_entropy" and number < 2:
        raise ValueError("y has one class only: there is nothing to learn")
    return number


def _split(x: Any, y: np.ndarray) -> tuple[list[Any], list[np.ndarray]]:
    """A split that belongs to no seed; those of seeds are drawn from both parts together."""
    # The legacy generator, whose stream is frozen.
    mixed = np.random.RandomState(0).permutation(len(y))
    validating = max(1, round(VALIDATE * len(y)))
    parts = mixed[validating:], mixed[:validating]
    xs = [jax.tree.map(lambda leaf, part=part: leaf[part], x) for part in parts]
    return xs, [y[part] for part in parts]


def _metric(
    kind: str, data: Data, in_features: int, target: float | None
) -> tuple[Callable[[Array, Array], Array], Scale]:
    """The metric, with its chance level and its target."""
    train_y, valid_y = np.asarray(data["train_y"]), np.asarray(data["valid_y"])
    if kind == "cross_entropy":
        metric, best = accuracy, 1.0
        chance = float(np.bincount(train_y.ravel()).max() / train_y.size)
        reached = _by_nearest_mean(data, in_features)
        why = f"the nearest class mean classifies {reached:.3g} of the same examples"
        better = chance < reached < 1
    else:
        metric, best = squared_error, 0.0
        chance = float(np.mean((valid_y - train_y.mean(0)) ** 2))
        reached = _by_least_squares(data, in_features)
        why = f"a linear map by least squares has {reached:.3g} on the same examples"
        better = 0 < reached < chance
    if target is not None:
        return metric, Scale(chance, target, "given")
    if better:
        return metric, Scale(chance, reached, why)
    return metric, Scale(chance, (chance + best) / 2, HALFWAY)


def _features(x: Any, in_features: int) -> np.ndarray:
    """All inputs of an example in a row; of whole numbers alone, how often each occurs."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    if not is_tree(x) and np.issubdtype(arrays[0].dtype, np.integer):
        counts = [np.bincount(row, minlength=in_features) for row in arrays[0]]
        return np.asarray(counts, float)
    rows = [array.reshape(count_of(x), -1).astype(float) for array in arrays]
    return np.concatenate(rows, axis=1)


def _by_nearest_mean(data: Data, in_features: int) -> float:
    """The accuracy of the nearest class mean; 0 where every step has a class."""
    y = np.asarray(data["train_y"])
    if y.ndim > 1:
        return 0.0
    x, valid_x = (_features(data[f"{part}_x"], in_features) for part in ("train", "valid"))
    classes = np.unique(y)
    means = np.stack([x[y == label].mean(0) for label in classes])
    # |x - m|^2 but for |x|^2, which is the same for all means.
    distance = (means**2).sum(1) - 2 * valid_x @ means.T
    return float((classes[distance.argmin(1)] == np.asarray(data["valid_y"])).mean())


def _by_least_squares(data: Data, in_features: int) -> float:
    """The squared error of a linear map, with a constant."""
    x, valid_x = (_features(data[f"{part}_x"], in_features) for part in ("train", "valid"))
    x, valid_x = (np.c_[part, np.ones(len(part))] for part in (x, valid_x))
    weights = np.linalg.lstsq(x, np.asarray(data["train_y"], float), rcond=None)[0]
    return float(np.mean((valid_x @ weights - np.asarray(data["valid_y"])) ** 2))
