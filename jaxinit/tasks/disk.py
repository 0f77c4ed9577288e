"""Files on disk: MNIST, Fashion-MNIST, CIFAR-10, Penn Treebank, found and verified, never
downloaded by a study.

    folders -> bytes, their hash checked -> pictures and labels -> Task

`scripts/fetch-data` brings the files. Their hashes are those of the decompressed content, so that a
copy recompressed by a distribution is as good. CIFAR-10 comes as pickles, which may run code: its
archive is verified first, then read by an unpickler that knows nothing but arrays.
"""

import gzip
import hashlib
import io
import lzma
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinit.tasks.base import Data, Task, accuracy, check_length, cross_entropy, patches, shuffled

VALID = 10_000  # the last training pictures validate; the test pictures stay untouched
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}
IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR = "cifar-10-python.tar.gz"


@dataclass(frozen=True)
class Pinned:
    """A data set's files with the digests of their content, system folders that may hold it, and a
    stand-in.

    What is licensed cannot be fetched: the user supplies it.
    """

    files: dict[str, str]
    hash: str = "sha256"
    system: tuple[str, ...] = ()
    embedded: str = "digits_rows"
    licensed: bool = False


PINS = {
    "mnist": Pinned(
        dict(
            zip(
                IDX,
                (
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
                strict=True,
            )
        )
    ),
    "fashion_mnist": Pinned(
        dict(
            zip(
                IDX,
                (
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                ),
                strict=True,
            )
        ),
        system=("/usr/share/datasets/fashion-mnist",),
    ),
    "penn_treebank": Pinned(
        {
            "ptb.train.txt": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
            "ptb.valid.txt": "aa0affc06ff7c36e977d7cd49e3839bf",
            "ptb.test.txt": "8b80168b89c18661a38ef683c0dc3721",
        },
        hash="md5",
        embedded="words",
        licensed=True,
    ),
    "cifar10": Pinned({CIFAR: "c58f30108f718f92721af3b95e74349a"}, hash="md5", embedded="shapeset"),
}


def mnist(length: int = 28) -> Task:
    """MNIST's handwritten digits (files: scripts/fetch-data): `length` steps of 784 / length
    pixels, 10 classes.

    50,000 train and 10,000 of the training file validate, in every seed; the test file is not used.
    `length` 1 is a whole picture at once, 28 its rows, 784 its pixels. Source: LeCun et al. (1998).
    """
    return _pictures("mnist", *idx("mnist"), length, target=0.95)


def mnist_permuted(length: int = 784) -> Task:
    """`mnist` with its pixels in an order drawn once: neighbours in time are no neighbours in the
    picture.

    Source: Le et al. (2015), section 4.2.
    """
    return _pictures("mnist_permuted", *idx("mnist"), length, target=0.9, permuted=True)


def fashion_mnist(length: int = 28) -> Task:
    """Fashion-MNIST's ten kinds of clothes (files: scripts/fetch-data), read as `mnist` is.

    Source: Xiao, Rasul & Vollgraf (2017).
    """
    return _pictures("fashion_mnist", *idx("fashion_mnist"), length, target=0.85)


def cifar10(length: int = 32) -> Task:
    """CIFAR-10's photographs of ten kinds (archive: scripts/fetch-data): `length` steps of 3072 /
    length values.

    40,000 train and 10,000 of the training batches validate. `length` 1 is a whole picture at once,
    32 its rows. Source: Krizhevsky (2009).
    """
    x, y = _cifar(verified("cifar10", CIFAR))
    return _pictures("cifar10", x, y, length, target=0.45)


def cifar10_patches(size: int = 4) -> Task:
    """`cifar10` as patches of 4 x 4 pixels, for a Vision Transformer: 64 steps of 48."""
    x, y = _cifar(verified("cifar10", CIFAR))
    return _pictures(
        "cifar10_patches", x[:, patches(32, size, 3)], y, (32 // size) ** 2, target=0.45
    )


def verified(name: str, file: str) -> bytes:
    """The content of a data set's file, decompressed, from the first folder that has it.

    Raises: ValueError when no folder has it (saying where it looked, where to put it and what to
    use instead), when the system does not let it be read, and when it is not what it should be.
    """
    pinned = PINS[name]
    places = folders(name)
    for folder in places:
        for suffix, unpack in PACKED.items():
            path = folder / f"{file}{suffix}"
            try:
                raw = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue  # another form or another folder may have it
            except OSError as error:
                raise ValueError(
                    f"task {name!r} cannot read {path}: {error.strerror}; make it a file that you "
                    f"may read, or use the embedded task {pinned.embedded!r} instead"
                ) from error
            return check(pinned, file, raw, unpack, str(path))
    fetch = f"fetch it with scripts/fetch-data {name}, or"
    if pinned.licensed:
        fetch = "it is licensed, so"
    raise ValueError(
        f"task {name!r} needs the file {file}, which is in none of: {', '.join(map(str, places))}; "
        f"{fetch} put it into {places[0]}, or use the embedded task {pinned.embedded!r} instead"
    )


def check(
    pinned: Pinned, file: str, raw: bytes, unpack: Callable[[bytes], bytes], where: str
) -> bytes:
    """The content of a file, decompressed. Raises: ValueError when it is torn or its digest is not
    the pinned one."""
    remedy = "get it again" if pinned.licensed else "delete it and run scripts/fetch-data again"
    try:
        content = unpack(raw)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{where} is torn ({error}); {remedy}") from error
    digest = hashlib.new(pinned.hash, content, usedforsecurity=False).hexdigest()
    if digest != pinned.files[file]:
        raise ValueError(
            f"{where} is truncated or corrupted: its {len(content):,} bytes have the {pinned.hash} "
            f"{digest}, expected {pinned.files[file]}; {remedy}"
        )
    return content


def folders(name: str) -> list[Path]:
    """Where a data set is looked for: $JAXINIT_DATA_DIR, the cache folder, where a system package
    puts it.

    An account without a home has no cache folder unless $XDG_CACHE_HOME names one.
    Raises: ValueError when there is no folder at all.
    """
    places = []
    if given := os.environ.get("JAXINIT_DATA_DIR"):
        places.append(Path(given) / name)
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        places.append(cache / "jaxinit" / "data" / name)
    except RuntimeError as error:
        if not places:
            raise ValueError(f"{error}; say with JAXINIT_DATA_DIR where data sets are") from error
    return [*places, *map(Path, PINS[name].system)]


def idx(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The training pictures `[n, pixels]` and labels `[n]` of a data set in MNIST's format,
    uint8."""
    train_pictures, train_labels, _, _ = IDX
    # The first bytes say the sizes, which the digest has verified already.
    pictures = np.frombuffer(verified(name, train_pictures), np.uint8, offset=16)
    labels = np.frombuffer(verified(name, train_labels), np.uint8, offset=8)
    return pictures.reshape(-1, 784), labels


class _Arrays(pickle.Unpickler):
    """Reads CIFAR-10's dictionaries of arrays, and refuses anything else."""

    KNOWN = frozenset({("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode")})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.KNOWN:
            return super().find_class(module, name)
        # The module that NumPy rebuilds arrays by has changed its name since 2009.
        if name == "_reconstruct" and module.startswith("numpy"):
            return super().find_class("numpy._core.multiarray", name)
        raise pickle.UnpicklingError(
            f"a batch of CIFAR-10 asks for {module}.{name}, which is no array"
        )


def _cifar(archive: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The training pictures, rows of (pixel, colour), and labels."""
    pictures, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for k in range(1, 6):
            member = tar.extractfile(f"cifar-10-batches-py/data_batch_{k}")
            assert member is not None
            batch = _Arrays(member, encoding="bytes").load()
            by_colour = batch[b"data"].reshape(-1, 3, 32, 32)
            by_pixel = by_colour.transpose(0, 2, 3, 1)
            pictures.append(by_pixel.reshape(-1, 3072))
            labels.append(np.asarray(batch[b"labels"], np.uint8))
    return np.concatenate(pictures), np.concatenate(labels)


def _pictures(
    name: str,
    pictures: np.ndarray,
    labels: np.ndarray,
    length: int,
    target: float,
    permuted: bool = False,
) -> Task:
    """A task on pictures `[n, values]`, uint8, which are kept as bytes and standardized batch by
    batch."""
    count = pictures.shape[1]
    check_length(name, length, 1)
    if count % length:
        raise ValueError(
            f"task {name!r}: length must divide its {count} values a picture, got {length}"
        )
    if permuted:
        pictures = pictures[:, np.random.RandomState(0).permutation(count)]
    train = pictures[:-VALID]
    valid = pictures[-VALID:]
    mean = float(train.mean())
    std = float(train.std())

    def standardized(x: Array) -> Array:
        y = (x.astype(jnp.float32) - mean) / std
        return y.reshape(-1, length, count // length)

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        return standardized(data["train_x"][ticket]), data["train_y"][ticket]

    return Task(
        name=name,
        in_features=count // length,
        length=length,
        out_features=10,
        readout="last",
        examples=len(train),
        data={
            "train_x": jnp.asarray(train),
            "train_y": jnp.asarray(labels[:-VALID].astype(np.int32)),
            "valid_x": standardized(jnp.asarray(valid)),
            "valid_y": jnp.asarray(labels[-VALID:].astype(np.int32)),
        },
        tickets=shuffled,
        batch=batch,
        loss=cross_entropy,
        metric=accuracy,
        metric_name="validation accuracy",
        higher_is_better=True,
        chance=0.1,
        target=target,
        why="a round number below what a small net reaches; set another with --target",
    )
