"""Shapeset-3x2: one or two grey triangles, parallelograms or ellipses on 32 x 32 pixels, drawn on
the device, endless.

Source: Glorot & Bengio (2010), section 2.1, with the parameters of the authors' generator. Written
anew from those parameters. Departures: an overlapping second shape has 12 candidates, of which the
first that fits is taken, where the original tries 50 times; where none fits the last is kept (about
one pair in 250).
"""

import math
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxinit.spec import named_key
from jaxinit.tasks.base import Data, Task, accuracy, cross_entropy

SIDE = 32
VERTICES = (3, 4, 20)  # of each kind; an ellipse is a polygon of many
CORNERS = max(VERTICES)
KINDS = ("triangle", "parallelogram", "ellipse")
# The class of the kinds of one shape, or of two in either order; what is shown, not how.
CLASSES = ("T", "P", "E", "TP", "PE", "TE", "TT", "PP", "EE")
PAIRS = np.asarray([[6, 3, 5], [3, 7, 4], [5, 4, 8]])
PRIORS = (1 / 6,) * 3 + (1 / 9,) * 3 + (1 / 18,) * 3
CANDIDATES = 12
MOST_OVERLAP = 0.5
EXAMPLES = 1000  # an epoch of 100 of the paper's batches, of 10 each
VALID = 2000
BLOCK = 20_000  # pictures that a pool draws at once: more would need the memory of all of them
# Of each kind's polygon, over the area of the circle around it.
AREAS = np.asarray([n * math.sin(2 * math.pi / n) / (2 * math.pi) for n in VERTICES])


class Shape(NamedTuple):
    """A convex polygon: its corners in order (repeated where there are fewer), its centre, its size
    before turning."""

    corners: Float[Array, "20 2"]
    centre: Float[Array, "2"]
    size: Float[Array, "2"]
    kind: Int[Array, ""]


def shapeset() -> Task:
    """Which of nine sets of shapes is shown: validation accuracy, chance 1/6 (always one single
    shape).

    Pixels in [-1, 1], 1024 inputs at one step. An epoch is 1000 fresh images; validation is on
    2000, drawn once for each seed. Source: Glorot & Bengio (2010), section 2.1.
    """

    def split(data: Data, key: Key[Array, ""]) -> Data:
        return data | _validation(key)

    def tickets(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Array:
        del data
        return jax.random.key_data(jax.random.split(key, (steps, batch)))

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        del data
        return jax.vmap(picture)(jax.random.wrap_key_data(ticket))

    return Task(
        name="shapeset",
        in_features=SIDE * SIDE,
        length=1,
        out_features=len(CLASSES),
        readout="last",
        examples=EXAMPLES,
        data=_validation_once(named_key(jax.random.key(0), "shapeset valid")),
        tickets=tickets,
        batch=batch,
        loss=cross_entropy,
        metric=accuracy,
        metric_name="validation accuracy",
        higher_is_better=True,
        chance=1 / 6,
        target=0.35,
        why="65 % error: five hidden layers of 200 tanh units reach it within 30,000 updates "
        "under either 2010 initialization",
        split=split,
    )


def from_pool(images: int, examples: int = EXAMPLES) -> Task:
    """`shapeset` with `images` drawn beforehand: an epoch is `examples` of them, picked at random,
    with replacement.

    For many trials on few cores: an image is kept as 1024 bytes, and its batch costs less than
    drawing it. The pool and the validation set of `shapeset` lie in one row, of which each seed
    validates on another stretch of as many, and trains on the rest.
    Raises: ValueError for fewer than one image.
    """
    if images < 1:
        raise ValueError(f"a pool of shapes needs 1 image or more, got {images}")
    endless = shapeset()
    keys = jax.random.split(named_key(jax.random.key(0), "shapeset pool"), images)
    greys, classes = [], []
    for start in range(0, images, BLOCK):
        x, y = _pictures(keys[start : start + BLOCK])
        greys.append(_as_bytes(x))
        classes.append(y)
    greys.append(_as_bytes(endless.data["valid_x"]))
    classes.append(endless.data["valid_y"])
    pool = {
        "pictures": jnp.concatenate(greys),
        "classes": jnp.concatenate(classes),
        "valid_start": jnp.int32(images),
    }

    def read(data: Data, places: Array) -> tuple[Array, Array]:
        grey = data["pictures"][places].astype(jnp.float32)
        return grey / 127.5 - 1, data["classes"][places]

    # A stretch is as good as any choice, since pictures are independent.
    def split(data: Data, key: Key[Array, ""]) -> Data:
        start = jax.random.randint(key, (), 0, images + 1)
        valid_x, valid_y = read(data, start + jnp.arange(VALID))
        return data | {"valid_start": start, "valid_x": valid_x, "valid_y": valid_y}

    # With replacement, as the endless task draws: an epoch need not visit every picture.
    def tickets(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Array:
        del data
        return jax.random.randint(key, (steps, batch), 0, images)

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        # What trains begins after the stretch that validates, and goes on at the row's start.
        begin = data["valid_start"] + VALID
        return read(data, (begin + ticket) % (images + VALID))

    return replace(
        endless,
        name="shapeset_pool",
        examples=examples,
        data=endless.data | pool,
        tickets=tickets,
        batch=batch,
        split=split,
    )


def _as_bytes(x: Float[Array, "n 1 1024"]) -> UInt8[Array, "n 1 1024"]:
    """Pictures as the bytes that their greys were drawn as."""
    return jnp.round((x + 1) * 127.5).astype(jnp.uint8)


def picture(key: Key[Array, ""]) -> tuple[Float[Array, "1 1024"], Int[Array, ""]]:
    """One image, as one step of 1024 pixels in [-1, 1], and its class."""
    keys = {name: named_key(key, name) for name in ("count", "kinds", "first", "second", "greys")}
    two = jax.random.bernoulli(keys["count"])
    kinds = jax.random.randint(keys["kinds"], (2,), 0, 3)
    first = _shape(keys["first"], kinds[0])
    second = _second_shape(keys["second"], kinds[1], first)

    light_key, dark_key, swap_key = jax.random.split(keys["greys"], 3)
    light = _grey(light_key, (2,), 0.55, 1.0)
    dark = _grey(dark_key, (), 0.0, 0.45)
    image = jnp.where(_inside(first), light[0], dark)
    image = jnp.where(_inside(second) & two, light[1], image)
    image = jnp.where(jax.random.bernoulli(swap_key), 1 - image, image)
    pixels = (2 * image - 1).reshape(1, -1)
    class_of_pair = jnp.asarray(PAIRS)[kinds[0], kinds[1]]
    return pixels, jnp.where(two, class_of_pair, kinds[0])


def _validation(key: Key[Array, ""]) -> Data:
    x, y = jax.vmap(picture)(jax.random.split(key, VALID))
    return {"valid_x": x, "valid_y": y}


# One program for all the tasks and pools that a process makes.
_validation_once = jax.jit(_validation)
_pictures = jax.jit(jax.vmap(picture))


def _second_shape(key: Key[Array, ""], kind: Int[Array, ""], first: Shape) -> Shape:
    """The first of some candidates that leaves enough of the other shape to be seen, or the last.

    All candidates are drawn: a program that maps over pictures has no loop that ends early.
    """
    candidate_keys = jax.random.split(key, CANDIDATES)
    candidates = jax.vmap(lambda candidate_key: _shape(candidate_key, kind))(candidate_keys)
    fits = jax.vmap(lambda shape: _overlap(first, shape) <= MOST_OVERLAP)(candidates)
    chosen = jnp.where(fits.any(), jnp.argmax(fits), CANDIDATES - 1)
    return jax.tree.map(lambda leaf: leaf[chosen], candidates)


def _grey(key: Key[Array, ""], shape: tuple[int, ...], low: float, high: float) -> Array:
    """Greys between two, of the 256 that a byte holds."""
    drawn = jax.random.uniform(key, shape, jnp.float32, low, high)
    return jnp.round(255 * drawn) / 255


def _shape(key: Key[Array, ""], kind: Int[Array, ""]) -> Shape:
    """A regular polygon, turned a little, stretched along its axes, turned at will, put somewhere
    inside."""
    a_little, scale, at_will, place = jax.random.split(key, 4)
    n = jnp.asarray(VERTICES, jnp.float32)[kind]
    # Kinds of fewer corners repeat their last one, so that all are arrays of one shape.
    number = jnp.minimum(jnp.arange(CORNERS, dtype=jnp.float32), n - 1)
    lean = jax.random.uniform(a_little, (), jnp.float32, -1.0, 1.0) * math.pi / n
    angle = -math.pi / 2 + math.pi / n + 2 * math.pi * number / n + lean
    size = SIDE * jnp.sort(jax.random.uniform(scale, (2,), jnp.float32, 0.2, 0.8))[::-1]
    x = 0.5 * size[0] * jnp.cos(angle)
    y = 0.5 * size[1] * jnp.sin(angle)
    turn = jax.random.uniform(at_will, (), jnp.float32, 0.0, 2 * math.pi)
    turned_x = x * jnp.cos(turn) - y * jnp.sin(turn)
    turned_y = x * jnp.sin(turn) + y * jnp.cos(turn)
    around = jnp.stack([turned_x, turned_y], 1)
    # A pixel of background stays at every edge.
    low = 1 - around.min(0)
    high = SIDE - 1 - around.max(0)
    centre = low + jax.random.uniform(place, (2,)) * (high - low)
    return Shape(around + centre[None], centre, size, kind)


def _inside(shape: Shape) -> Array:
    """Which pixel centres are on the inner side of every edge: `[1024]`."""
    here = shape.corners
    there = jnp.roll(here, -1, axis=0)
    edge = there - here
    # a x + b y + c is positive to the left of an edge, which is inside: corners run against the
    # clock.
    a = -edge[:, 1]
    b = edge[:, 0]
    c = -(a * here[:, 0] + b * here[:, 1])
    centres = jnp.arange(SIDE, dtype=jnp.float32) + 0.5
    along_x = a[:, None] * centres[None] + c[:, None]
    along_y = b[:, None] * centres[None]
    by_edge = along_x[:, None, :] + along_y[:, :, None]
    return jnp.min(by_edge, axis=0).reshape(-1) >= 0


def _overlap(first: Shape, second: Shape) -> Array:
    """An estimate of the share of the first shape that the second covers, from their extents along
    the line between."""
    between = second.centre - first.centre
    distance = jnp.maximum(jnp.linalg.norm(between), 1e-3)  # centres may coincide
    line = between / distance
    reach_of_first = jnp.max((first.corners - first.centre[None]) @ line)
    reach_of_second = jnp.max((second.centre[None] - second.corners) @ line)
    reach = reach_of_first + reach_of_second
    factor = jnp.where(reach >= distance, 1 - 2.0 ** (-(reach - distance) / distance), 0.0)
    return _area(second) * factor / _area(first)


def _area(shape: Shape) -> Array:
    """The area, but for a factor that all shapes have in common."""
    return shape.size[0] * shape.size[1] * jnp.asarray(AREAS, jnp.float32)[shape.kind]
