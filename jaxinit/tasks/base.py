"""What a task is: data on the device, loss, metric, the target that counts as converged, the chance
level."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Data = dict[str, Any]  # arrays by name; inputs may be a tree of arrays


class Seen(NamedTuple):
    """What a loss may see beside outputs and labels, each under the name of an argument of its own.

    `params` are the parameters as the forward pass sees them; `key` is the step's own, in
    validation one of the seed's; `x` are the inputs of the batch, or all that validate; `apply(x)`
    is the model at these parameters, of which derivatives with respect to x can be taken too: in
    training with the step's noise, so that it gives the same outputs again.
    """

    params: dict[str, Array]
    key: Key[Array, ""] | None
    x: Any
    apply: Callable[[Any], Array]


@dataclass(frozen=True)
class Task:
    """One problem to train on, written for one trial; every function is pure and maps under jit and
    vmap.

    An epoch is `examples` training examples. `tickets(data, key, steps, batch)` plans one: an array
    with a leading axis over the steps, and `batch(data, ticket) -> (x, y)` makes the batch of one
    step from its
    entry. So a fixed set is shuffled and a generated one is drawn, through the same two functions.
    Shapes: x `[batch, time, in_features]`, or whole numbers `[batch, time]` that stand for one-hot
    vectors, or, for a model of the caller's, a tree of arrays `[batch, ...]`; the validation set is
    `data["valid_x"]`, `data["valid_y"]`.
    `split(data, key)` is the data of one seed, with its own valid_x and valid_y and whatever
    tickets and batch read; None where the split is given. `data` itself has a split that belongs
    to no seed, which is what is looked at where nothing is trained.
    `loss` and `metric` take (outputs, y) and return the mean over the batch; `why` says why the
    target is that number. `loss_sees` names what else the loss sees (`Seen`), and so does a metric
    that is the loss; `chance` is NaN where that depends on the model's parameters.
    `entropy` is what no prediction can pass where lower is better, 0 where nobody knows it.
    Raises: ValueError when the validation set is not what the shapes say, or that of a seed has
    other shapes.
    """

    name: str
    in_features: int
    length: int
    out_features: int
    readout: Literal["last", "all"]
    examples: int
    data: Data
    tickets: Callable[[Data, Key[Array, ""], int, int], Array]
    batch: Callable[[Data, Any], tuple[Array, Array]]
    loss: Callable[..., Array]
    metric: Callable[..., Array]
    metric_name: str
    higher_is_better: bool
    chance: float
    target: float
    why: str
    entropy: float = 0.0
    split: Callable[[Data, Key[Array, ""]], Data] | None = None
    loss_sees: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("valid_x", "valid_y"):
            if name not in self.data:
                there = ", ".join(self.data) or "nothing"
                raise ValueError(f"task {self.name!r}: the data must have {name}, got {there}")
        self._check_shapes(self.data["valid_x"], self.data["valid_y"])
        of_seed = jax.eval_shape(self.of_seed, self.data, jax.random.key(0))
        for name in ("valid_x", "valid_y"):
            stored, drawn = _kinds(self.data[name]), _kinds(of_seed[name])
            if drawn != stored:
                raise ValueError(
                    f"task {self.name!r}: a seed's {name} must be as that of the data, "
                    f"{', '.join(stored)}; its split gives {', '.join(drawn)}"
                )

    def _check_shapes(self, x: Any, y: Array) -> None:
        """Raises: ValueError for a validation set that is not what the shapes say."""
        steps = (self.length,) if self.readout == "all" else ()
        if self.several_inputs:
            if any(leaf.shape[:1] != y.shape[:1] for leaf in jax.tree.leaves(x)):
                raise ValueError(
                    f"task {self.name!r}: every input must have the {len(y)} examples of valid_y, "
                    f"got {', '.join(_kinds(x))}"
                )
            return
        whole_numbers = jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == 2
        expected = (self.length,) if whole_numbers else (self.length, self.in_features)
        if not (jnp.issubdtype(x.dtype, jnp.floating) or whole_numbers):
            raise ValueError(
                f"task {self.name!r}: inputs of shape [n, length, in_features] are real numbers, "
                f"got {x.dtype} {list(x.shape)}; convert them to float32 (whole numbers [n, "
                "length] stand for one-hot vectors)"
            )
        if x.shape[1:] != expected or y.shape[: 1 + len(steps)] != (len(x), *steps):
            raise ValueError(
                f"task {self.name!r}: valid_x {list(x.shape)} and valid_y {list(y.shape)} do not "
                f"fit {self.length} steps of {self.in_features} inputs with readout "
                f"{self.readout!r}: expected [n, {', '.join(map(str, expected))}] and "
                f"{['n', *steps]}"
            )

    @property
    def several_inputs(self) -> bool:
        """Whether x is a tree of arrays, and not one array."""
        return is_tree(self.data["valid_x"])

    def loss_of(self, outputs: Any, y: Any, seen: Seen) -> Any:
        """The loss of a batch, with what it sees of all that it may."""
        return self.loss(outputs, y, **{name: getattr(seen, name) for name in self.loss_sees})

    def of_seed(self, data: Data, key: Key[Array, ""]) -> Data:
        """The data that one seed trains and validates on; `key` is the seed's, for this alone."""
        if self.split is None:
            return data
        return self.split(data, key)

    def fingerprint(self) -> str:
        """The SHA-256 of the data: what a record must name to be comparable."""
        digest = hashlib.sha256()
        named = {name: self.data[name] for name in sorted(self.data)}
        for name, leaf in _by_name(named).items():
            array = np.asarray(leaf)
            # The header keeps apart arrays whose bytes are the same in another shape or dtype.
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def check_target(self, target: float) -> None:
        """Raises: ValueError for a target that the metric cannot reach or that guessing reaches."""
        if self.higher_is_better:
            within = f"above chance ({self.chance:.4g}) and at most 1"
            good = self.chance < target <= 1.0
        else:
            bound = f"the entropy of the text ({self.entropy:.4g})" if self.entropy else "0"
            within = f"above {bound} and below chance ({self.chance:.4g})"
            good = self.entropy < target < self.chance
        if not good:
            raise ValueError(
                f"target {target:g} is out of reach or says nothing: on task {self.name!r} the "
                f"metric is {self.metric_name}, whose target must be {within}; the default is "
                f"{self.target:g}"
            )


def is_tree(x: Any) -> bool:
    """Whether inputs are several arrays, and not one."""
    return not jax.tree_util.all_leaves([x])


def count_of(x: Any) -> int:
    """The number of examples of inputs, one array or a tree of them."""
    return jax.tree.leaves(x)[0].shape[0]


def _by_name(data: Any) -> dict[str, Any]:
    """The arrays of a tree by their places in it: of a dictionary of arrays, by its names."""
    return {
        "/".join(str(getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path): leaf
        for path, leaf in jax.tree.leaves_with_path(data)
    }


def _kinds(x: Any) -> list[str]:
    """Types and shapes of an array, or of the arrays of a tree by their places."""
    return [
        f"{place} {leaf.dtype} {list(leaf.shape)}".strip() for place, leaf in _by_name(x).items()
    ]


def check_length(name: str, length: int, least: int, because: str = "") -> None:
    """Raises: ValueError for a length that is no whole number or too short for the task, `because`
    of what it does."""
    # To Python True is a whole number too.
    whole = isinstance(length, int | np.integer) and not isinstance(length, bool)
    if not whole or length < least:
        raise ValueError(
            f"task {name!r} {because}needs a length of {least} or more, got {length!r}"
        )


def patches(side: int, size: int, colours: int = 1) -> np.ndarray:
    """The order of a square picture's values, rows of (pixel, colour), in which patches of size x
    size lie together."""
    if size < 1 or side % size:
        raise ValueError(f"the side of a patch must divide the picture's {side}, got {size}")
    along = side // size
    # [row of patches, row in a patch, column of patches, column in a patch, colour]
    grid = np.arange(side**2 * colours).reshape(along, size, along, size, colours)
    return grid.transpose(0, 2, 1, 3, 4).ravel()


def shuffled(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Int[Array, "steps batch"]:
    """The order in which one epoch visits a fixed training set: a permutation, its last incomplete
    batch dropped."""
    order = jax.random.permutation(key, data["train_y"].shape[0])
    return order[: steps * batch].reshape(steps, batch)


def repartitioned(data: Data, key: Key[Array, ""]) -> Data:
    """Other examples validate: the training and the validation set are drawn anew from both
    together, of the same sizes."""
    trained = data["train_y"].shape[0]
    # One sort, where `jax.random.permutation` takes two from 1626 examples on; every chunk of
    # epochs pays for it. A tie only leaves two examples in their order.
    order = jnp.argsort(jax.random.bits(key, (trained + data["valid_y"].shape[0],)))
    split = dict(data)
    for part in ("x", "y"):
        pool = jax.tree.map(_joined, data[f"train_{part}"], data[f"valid_{part}"])
        split[f"train_{part}"] = jax.tree.map(lambda a: a[order[:trained]], pool)
        split[f"valid_{part}"] = jax.tree.map(lambda a: a[order[trained:]], pool)
    return split


def _joined(one: Array, other: Array) -> Array:
    return jnp.concatenate([one, other])


def taken(data: Data, ticket: Int[Array, " batch"]) -> tuple[Any, Array]:
    return jax.tree.map(lambda a: a[ticket], data["train_x"]), data["train_y"][ticket]


def cross_entropy(
    logits: Float[Array, "*batch classes"], y: Int[Array, "*batch"]
) -> Float[Array, ""]:
    """Mean over all labels of -log softmax(logits)[y], in nats."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, y[..., None], axis=-1))


def accuracy(logits: Float[Array, "*batch classes"], y: Int[Array, "*batch"]) -> Float[Array, ""]:
    """The share of labels whose logit is the largest; a tie goes to the first class."""
    return jnp.mean((jnp.argmax(logits, axis=-1) == y).astype(jnp.float32))


def squared_error(
    outputs: Float[Array, "batch outputs"],
    y: Float[Array, " batch"] | Float[Array, "batch outputs"],
) -> Float[Array, ""]:
    """Mean of (output - y)^2 over the batch and the outputs; of y `[batch]` there is one output."""
    if y.ndim == 1:
        outputs = outputs[:, 0]
    return jnp.mean((outputs - y) ** 2)
