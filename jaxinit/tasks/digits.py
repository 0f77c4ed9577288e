"""Handwritten digits, embedded: the 1797 real 8x8 images that ship inside scikit-learn.

Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, test part, UCI
repository. Every seed of a study draws its own split of them.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxinit.tasks.base import (
    Data,
    Task,
    accuracy,
    cross_entropy,
    patches,
    repartitioned,
    shuffled,
    taken,
)

TRAIN = 1280  # 40 batches of 32; the other 517 images validate
# Why the targets are what they are: no initialization scheme has a say in them.
LINEAR = "linear discriminant analysis classifies 0.950 of the same pixels, mean of 20 splits"


def digits_rows() -> Task:
    """The digits read row by row: 8 steps of 8 pixels, 10 classes, validation accuracy."""
    return _digits(
        "digits_rows",
        length=8,
        target=0.95,
        why=LINEAR,
    )


def digits_pixels() -> Task:
    """The digits read pixel by pixel: 64 steps of 1, 10 classes, validation accuracy."""
    return _digits(
        "digits_pixels",
        length=64,
        target=0.90,
        why="the nearest class mean of the same pixels classifies 0.902, mean of 20 splits",
    )


def digits_permuted() -> Task:
    """`digits_pixels` with the pixels in an order drawn once, the same for all: memory without
    neighbourhood.

    Source: Le et al. (2015), section 4.2, who permute MNIST.
    """
    return _digits(
        "digits_permuted",
        length=64,
        target=0.80,
        why="eight times what guessing reaches",
        order=np.random.RandomState(1).permutation(64),
    )


def digits_patches() -> Task:
    """The digits as 16 patches of 2 x 2 pixels, for a Vision Transformer: 16 steps of 4, 10
    classes."""
    return _digits(
        "digits_patches",
        length=16,
        target=0.95,
        why=LINEAR,
        order=patches(8, 2),
    )


def _digits(
    name: str, length: int, target: float, why: str, order: np.ndarray | None = None
) -> Task:
    from sklearn.datasets import load_digits  # imported where used: it costs a second

    pixels, labels = load_digits(return_X_y=True)
    # The files hold one writer after another, so they are mixed before they are split; by the
    # legacy generator, whose stream is frozen.
    mixed = np.random.RandomState(0).permutation(len(labels))
    pixels = pixels[mixed]
    labels = labels[mixed]
    if order is not None:
        pixels = pixels[:, order]
    train = pixels[:TRAIN]
    standardized = (pixels - train.mean()) / train.std()
    x_nti = standardized.astype(np.float32).reshape(len(labels), length, -1)
    y_n = labels.astype(np.int32)
    return Task(
        name=name,
        in_features=x_nti.shape[2],
        length=length,
        out_features=10,
        readout="last",
        examples=TRAIN,
        data={
            "train_x": jnp.asarray(x_nti[:TRAIN]),
            "train_y": jnp.asarray(y_n[:TRAIN]),
            "valid_x": jnp.asarray(x_nti[TRAIN:]),
            "valid_y": jnp.asarray(y_n[TRAIN:]),
        },
        tickets=shuffled,
        batch=taken,
        loss=cross_entropy,
        metric=accuracy,
        metric_name="validation accuracy",
        higher_is_better=True,
        chance=0.1,
        target=target,
        why=why,
        split=_another_split,
    )


def _another_split(data: Data, key: Key[Array, ""]) -> Data:
    """The split of a seed. As in the stored one, the training part has mean 0 and variance 1."""
    split = repartitioned(data, key)
    mean = jnp.mean(split["train_x"])
    std = jnp.std(split["train_x"])
    for name in ("train_x", "valid_x"):
        split[name] = (split[name] - mean) / std
    return split
