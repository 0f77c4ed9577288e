"""Text: predict the next character or word. The embedded text is Python's own help on its topics, 0.5 MB of English.

    file -> text -> whole numbers -> streams, read window after window -> Task

Streams are contiguous: row k of a batch goes on where row k of the batch before it ended, so that states may be carried
on (`stateful`); each epoch begins at another place.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxinit.tasks import disk
from jaxinit.tasks.base import Data, Task, cross_entropy

SHARE = 10  # one part in so many, the last, validates
VALID = 512  # windows that validate, evenly spaced
WORDS = 2000  # of a vocabulary: the most frequent of the training part
EPOCH = 80_000  # characters or words in an epoch, at most: the fineness of the answer on long texts
UNKNOWN, END = "<unk>", "<eos>"


def text(length: int = 50, file: str | Path | None = None) -> Task:
    """The next character of a text: bits a character on its last tenth; chance is to know the frequencies only.

    x and y: whole numbers `[batch, length]`, characters of the text in order of their code points.
    Raises: ValueError for a file that is empty, not text or too short, or a length below 1.
    """
    content = read(file)
    vocabulary = sorted(set(content))
    return next_token(
        "text", encode(content, vocabulary), len(vocabulary), length, bits, "validation bits per character"
    )


def words(length: int = 20, file: str | Path | None = None) -> Task:
    """The next word of a text: perplexity on its last tenth; chance is to know the frequencies only.

    Words and punctuation marks in small letters, the 2000 most frequent of the training part; others are one word, and
    line ends another. x and y: whole numbers `[batch, length]`.
    Raises: ValueError as `text`.
    """
    found = [word for line in read(file).lower().splitlines() for word in (*re.findall(r"\w+|[^\w\s]", line), END)]
    return _of_words("words", found[: -(len(found) // SHARE)], found[-(len(found) // SHARE) :], WORDS, length)


def penn_treebank(length: int = 20) -> Task:
    """The next word of the Penn Treebank as Mikolov prepared it: perplexity on its validation part, 10,000 words.

    The text is licensed: put ptb.train.txt and ptb.valid.txt where the error message says.
    Source: Zaremba et al. (2014), section 4.1.
    """
    read_part = lambda part: disk.verified("penn_treebank", f"ptb.{part}.txt").decode().replace("\n", END).split()
    return _of_words("penn_treebank", read_part("train"), read_part("valid"), None, length)


def read(file: str | Path | None) -> str:
    """A text file of the user's, or the embedded text. Raises: ValueError for what is no text, saying why."""
    if file is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"the text {file} cannot be read: {error.strerror}; give the path of a text file") from error
    if not raw.strip():
        raise ValueError(f"the text {file} is empty; give a file with some thousands of characters")
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is no UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}); convert it"
        ) from error
    if "\0" in content:
        raise ValueError(f"{file} is binary (byte {raw.index(0)} is 0); give a text file")
    return content


def encode(content: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """Whole numbers, one for each character (or word): its place in the vocabulary.

    Raises: ValueError for those outside the vocabulary, naming the first few and where they are.
    """
    place = {character: number for number, character in enumerate(vocabulary)}
    numbers = np.asarray([place.get(character, -1) for character in content], np.int32)
    outside = np.flatnonzero(numbers < 0)
    if len(outside):
        named = ", ".join(f"{content[k]!r} at {k}" for k in outside[:3])
        raise ValueError(
            f"{len(outside)} characters are outside the vocabulary of {len(place)}: {named}; add or replace them"
        )
    return numbers


def bits(logits: Float[Array, "*batch n"], y: Int[Array, "*batch"]) -> Float[Array, ""]:
    """Mean cross-entropy in bits."""
    return cross_entropy(logits, y) / math.log(2)


def perplexity(logits: Float[Array, "*batch n"], y: Int[Array, "*batch"]) -> Float[Array, ""]:
    """exp of the mean cross-entropy in nats."""
    return jnp.exp(cross_entropy(logits, y))


def _of_words(name: str, train: list[str], valid: list[str], most: int | None, length: int) -> Task:
    count = Counter(train)
    kept = [word for word, _ in count.most_common(None if most is None else most - 1)]
    vocabulary = sorted({*kept, UNKNOWN})
    known = set(vocabulary)
    numbers = encode([word if word in known else UNKNOWN for word in (*train, *valid)], vocabulary)
    return next_token(name, numbers, len(vocabulary), length, perplexity, "validation perplexity", len(valid))


def next_token(
    name: str,
    numbers: np.ndarray,
    size: int,
    length: int,
    metric: Callable[..., Any],
    metric_name: str,
    valid: int | None = None,
) -> Task:
    """A task on whole numbers below `size`: predict number k + 1 from those up to k, in windows of `length`.

    The last `valid` numbers validate (default: a tenth). Raises: ValueError for too few numbers, or a length below 1.
    """
    if length < 1:
        raise ValueError(f"task {name!r} needs a length of 1 or more, got {length}")
    held = len(numbers) // SHARE if valid is None else valid
    train, rest = numbers[: len(numbers) - held], numbers[len(numbers) - held :]
    if len(rest) <= length or size < 2:
        raise ValueError(
            f"task {name!r}: the text has {len(numbers):,} characters or words ({size} different), of which {held:,} "
            f"validate: too few for windows of {length}; give a longer text or a smaller --length"
        )
    starts = np.unique(np.linspace(0, len(rest) - length - 1, VALID).astype(int))
    windows = lambda first: np.stack([rest[k + first : k + first + length] for k in starts])
    share = np.bincount(train, minlength=size) + 1.0
    unigram = jnp.log(jnp.asarray(share / share.sum(), jnp.float32))
    y = jnp.asarray(windows(1))
    chance = float(metric(jnp.broadcast_to(unigram, (*y.shape, size)), y))
    examples = min(EPOCH, len(train) - 1) // length

    def tickets(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Array:
        total = data["train"].shape[0] - 1
        offset = jax.random.randint(key, (), 0, total)
        apart = total // batch
        return (offset + apart * jnp.arange(batch)[None] + length * jnp.arange(steps)[:, None]) % total

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        whole, total = data["train"], data["train"].shape[0] - 1
        at = (ticket[:, None] + jnp.arange(length)[None]) % total  # the last window goes on at the beginning
        return whole[at], whole[at + 1]

    return Task(
        name=name,
        in_features=size,
        length=length,
        out_features=size,
        readout="all",
        examples=examples,
        data={"train": jnp.asarray(train), "valid_x": jnp.asarray(windows(0)), "valid_y": y},
        tickets=tickets,
        batch=batch,
        loss=cross_entropy,
        metric=metric,
        metric_name=metric_name,
        higher_is_better=False,
        chance=chance,
        target=0.6 * chance if metric is bits else 0.35 * chance,
        why="a share of what the frequencies alone give (0.6 of the bits, 0.35 of the perplexity)",
    )
