"""Text: predict the next character or word, of any text file or of the embedded text (`grammar`),
0.5 MB.

    file -> text -> whole numbers -> streams, read window after window -> Task

Streams are contiguous: row k of a batch goes on where row k of the batch before it ended, so that
states may be carried on (`stateful`); each epoch begins at another place.
"""

import codecs
import math
import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxinit.tasks import disk, grammar
from jaxinit.tasks.base import Data, Task, check_length, cross_entropy

SHARE = 10  # one part in so many, the last, validates
VALID = 512  # windows that validate, evenly spaced
WORDS = 2000  # of a vocabulary: the most frequent of the training part
EPOCH = 80_000  # characters or words in an epoch, at most: the fineness of the answer on long texts
MOST_BYTES = 2**32  # of a file
UNKNOWN, END = "<unk>", "<eos>"
# A target on the embedded text leaves this share of what there is to learn above its entropy.
TO_LEARN = 0.5
# How far a validation part may be from the training part, beyond what chance does.
UNSEEN = 0.05
APART = 0.5
# The encodings that a mark at the start of a file names; UTF-32's begins with UTF-16's, so it is
# looked for first.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text(length: int = 50, file: str | Path | None = None) -> Task:
    """The next character of a text: bits a character on its last tenth; chance is to know the
    frequencies only.

    x and y: whole numbers `[batch, length]`, characters of the text in order of their code points.
    On the embedded text the target lies between its entropy, 1.17 bits, which no model can pass,
    and chance.
    Raises: ValueError for a file that is empty, not text or too short, whose last tenth is unlike
    the rest, or a length below 1.
    """
    content = read(file)
    # In order of code points: that of a set differs from one process to the next.
    vocabulary = sorted(set(content))
    entropy = 0.0 if file is not None else grammar.entropy()
    return next_token(
        "text",
        encode(content, vocabulary),
        len(vocabulary),
        length,
        bits,
        "validation bits per character",
        entropy=entropy,
    )


def words(length: int = 20, file: str | Path | None = None) -> Task:
    """The next word of a text: perplexity on its last tenth; chance is to know the frequencies
    only.

    Words and punctuation marks in small letters, the 2000 most frequent of the training part;
    others are one word, and line ends another. x and y: whole numbers `[batch, length]`.
    Raises: ValueError as `text`.
    """
    tokens = []
    for line in read(file).lower().splitlines():
        tokens += re.findall(r"\w+|[^\w\s]", line)
        tokens.append(END)
    held = len(tokens) // SHARE
    return _of_words("words", tokens[:-held], tokens[-held:], WORDS, length)


def penn_treebank(length: int = 20) -> Task:
    """The next word of the Penn Treebank as Mikolov prepared it: perplexity on its validation part,
    10,000 words.

    The text is licensed: put ptb.train.txt and ptb.valid.txt where the error message says.
    Source: Zaremba et al. (2014), section 4.1.
    """

    def part(name: str) -> list[str]:
        file = f"ptb.{name}.txt"
        return decode(disk.verified("penn_treebank", file), file).replace("\n", f" {END} ").split()

    return _of_words("penn_treebank", part("train"), part("valid"), None, length)


def read(file: str | Path | None) -> str:
    """A text file of the user's, or the embedded text. Raises: ValueError for what is no text,
    saying why."""
    if file is None:
        return grammar.text()
    try:
        about = Path(file).stat()
        # A device or a pipe may have no end; a folder is refused by the system when it is read.
        if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            raise ValueError(
                f"the text {file} is no regular file; save it to one and give its path"
            )
        if about.st_size > MOST_BYTES:
            raise ValueError(
                f"the text {file} has {about.st_size / 2**30:.1f} GiB, and texts are held in "
                f"memory: at most {MOST_BYTES / 2**30:.0f} GiB; give a part of it"
            )
        raw = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(
            f"the text {file} cannot be read: {error.strerror}; give the path of a text file"
        ) from error
    content = decode(raw, file)
    if not content.strip():
        raise ValueError(f"the text {file} is empty; give a file with some thousands of characters")
    return content


def decode(raw: bytes, file: str | Path) -> str:
    """The characters of a file: the same book is the same text whatever system wrote it.

    UTF-8, or UTF-16 or UTF-32 with a byte order mark; the mark is dropped, and every line ends with
    one line feed, whether CR LF, CR or LF was there. Nothing else is changed: composed and
    decomposed accents stay what they are. Raises: ValueError for bytes of no such encoding, or with
    zeros among them.
    """
    encoding = "utf-8"
    for mark, marked_encoding in MARKS:
        if raw.startswith(mark):
            encoding = marked_encoding
            break
    try:
        content = raw.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"{file} is no {name} text (byte {error.start} is 0x{raw[error.start]:02x}); convert "
            "it to UTF-8"
        ) from error
    zero = content.find("\0")
    if zero >= 0:
        place = len(content[:zero].encode(encoding))
        raise ValueError(
            f"{file} is binary (byte {place} is 0); give a text file, in UTF-8 or with a byte "
            "order mark"
        )
    return content.replace("\r\n", "\n").replace("\r", "\n")


def encode(content: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """Whole numbers, one for each character (or word): its place in the vocabulary.

    Raises: ValueError for those outside the vocabulary, naming the first few and where they are.
    """
    number_of = {character: number for number, character in enumerate(vocabulary)}
    numbers = np.asarray([number_of.get(character, -1) for character in content], np.int32)
    outside = np.flatnonzero(numbers < 0)
    if len(outside):
        named = ", ".join(f"{content[k]!r} at {k}" for k in outside[:3])
        raise ValueError(
            f"{len(outside)} characters are outside the vocabulary of {len(number_of)}: {named}; "
            "add or replace them"
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
    named = None if most is None else most - 1  # one place is for all other words
    kept = [word for word, _ in count.most_common(named)]
    vocabulary = sorted({*kept, UNKNOWN})
    known = set(vocabulary)
    tokens = [word if word in known else UNKNOWN for word in (*train, *valid)]
    numbers = encode(tokens, vocabulary)
    return next_token(
        name, numbers, len(vocabulary), length, perplexity, "validation perplexity", len(valid)
    )


def next_token(
    name: str,
    numbers: np.ndarray,
    size: int,
    length: int,
    metric: Callable[..., Any],
    metric_name: str,
    valid: int | None = None,
    entropy: float = 0.0,
) -> Task:
    """A task on whole numbers below `size`: predict number k + 1 from those up to k, in windows of
    `length`.

    The last `valid` numbers validate (default: a tenth); `entropy` is what no prediction can pass,
    in units of `metric`, 0 where nobody knows it. Chance is to know the frequencies of the training
    part, or to call all numbers alike where that is better. Raises: ValueError for too few numbers,
    a validation part unlike the training part, or a length below 1.
    """
    check_length(name, length, 1)
    held = len(numbers) // SHARE if valid is None else valid
    train = numbers[: len(numbers) - held]
    rest = numbers[len(numbers) - held :]
    if len(rest) <= length or size < 2:
        raise ValueError(
            f"task {name!r}: the text has {len(numbers):,} characters or words ({size} different), "
            f"of which {held:,} validate: too few for windows of {length}; give a longer text or a "
            "smaller --length"
        )
    refuse_another_text(name, train, rest, size)
    starts = np.unique(np.linspace(0, len(rest) - length - 1, VALID).astype(int))
    inputs = np.stack([rest[k : k + length] for k in starts])
    labels = np.stack([rest[k + 1 : k + 1 + length] for k in starts])
    chance = _chance(train, labels, size, metric)
    if entropy:
        target = entropy + TO_LEARN * (chance - entropy)
        why = (
            f"{TO_LEARN:.0%} of the way from chance to the entropy of the text, {entropy:.3f}, "
            "which no model can pass"
        )
    else:
        target = (0.6 if metric is bits else 0.35) * chance
        why = "a share of what the frequencies alone give (0.6 of the bits, 0.35 of the perplexity)"

    def tickets(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Array:
        total = data["train"].shape[0] - 1
        offset = jax.random.randint(key, (), 0, total)
        # Every row of a batch reads a stretch of its own.
        apart = total // batch
        stream = apart * jnp.arange(batch)[None]
        window = length * jnp.arange(steps)[:, None]
        return (offset + stream + window) % total

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        whole = data["train"]
        total = whole.shape[0] - 1
        # The last window goes on at the beginning of the text.
        places = (ticket[:, None] + jnp.arange(length)[None]) % total
        return whole[places], whole[places + 1]

    return Task(
        name=name,
        in_features=size,
        length=length,
        out_features=size,
        readout="all",
        examples=min(EPOCH, len(train) - 1) // length,
        data={
            "train": jnp.asarray(train),
            "valid_x": jnp.asarray(inputs),
            "valid_y": jnp.asarray(labels),
        },
        tickets=tickets,
        batch=batch,
        loss=cross_entropy,
        metric=metric,
        metric_name=metric_name,
        higher_is_better=False,
        chance=chance,
        target=float(f"{target:.4g}"),
        why=why,
        entropy=entropy,
    )


def _chance(train: np.ndarray, labels: np.ndarray, size: int, metric: Callable[..., Any]) -> float:
    """The metric of what knows the frequencies of the training part, or calls all numbers alike.

    In float64, and targets are rounded to four digits, so that no version of JAX gives another.
    """
    # One more of each, so that a number that was never seen costs no infinity.
    counts = np.bincount(train, minlength=size) + 1.0
    by_frequencies = _cost(counts, labels)
    by_an_even_guess = _cost(np.ones(size), labels)
    nats = float(min(by_frequencies, by_an_even_guess))
    return nats / math.log(2) if metric is bits else math.exp(nats)


def _cost(weights: np.ndarray, labels: np.ndarray) -> np.floating:
    """The mean cross-entropy in nats of one guess for all steps, whose odds are the weights."""
    return -np.log(weights / weights.sum())[labels].mean()


def refuse_another_text(name: str, train: np.ndarray, rest: np.ndarray, size: int) -> None:
    """Raises: ValueError when the part that validates is unlike the part that trains, in one line.

    Compared are the share of numbers that the training part has never seen (expected: the share of
    those that it has seen once, by Good and Turing) and the distance of frequencies, half the sum
    of |p - q| (expected: by chance about half the sum of sqrt(2 p (1/n + 1/m) / pi)). Small texts
    and large vocabularies are apart by chance alone.
    """
    n, m = len(train), len(rest)
    count = np.bincount(train, minlength=size)
    held = np.bincount(rest, minlength=size)
    unseen = held[count == 0].sum() / m
    once = (count == 1).sum() / n
    pooled = (count + held) / (n + m)
    apart = np.abs(count / n - held / m).sum() / 2
    by_chance = np.sqrt(2 * pooled * (1 / n + 1 / m) / np.pi).sum() / 2
    if unseen > UNSEEN + 2 * once or apart > APART + by_chance:
        raise ValueError(
            f"task {name!r}: the last {m:,} characters or words, which validate, are "
            f"another text than those before: {unseen:.0%} of them never occur there, and "
            f"{apart:.0%} would have to change for the frequencies to agree; give a text of one "
            "kind, or mix its parts"
        )
