"""Text: predict the next character or word, of any text file or of the embedded text (`grammar`),
0.5 MB.

    file, folder -> text -> whole numbers -> streams, read window after window -> Task

Streams are contiguous: row k of a batch goes on where row k of the batch before it ended, so that
states may be carried on (`stateful`); each epoch begins at another place. Every seed of a study
validates on another tenth of the text, unless its validation part is given.
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

SHARE = 10  # one part in so many validates, the last where no seed has drawn another
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
    """The next character of a text: bits a character on a tenth of it; chance is to know the
    frequencies only.

    x and y: whole numbers `[batch, length]`, characters of the text in order of their code points.
    `file` is a text file, or a folder, whose files `*.txt` are one text, by name. On the embedded
    text the target lies between its entropy, 1.17 bits, which no model can pass, and chance.
    Raises: ValueError for a file that is empty, not text or too short, one of whose tenths is
    unlike the rest, or a length below 1.
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


def is_folder_of_text(name: str) -> bool:
    """Whether a task's name is that of a folder, whose text `text` then is."""
    return name.endswith(("/", "\\")) or Path(name).is_dir()


def words(length: int = 20, file: str | Path | None = None) -> Task:
    """The next word of a text: perplexity on a tenth of it; chance is to know the frequencies only.

    Words and punctuation marks in small letters, the 2000 most frequent of all but the last tenth;
    others are one word, and line ends another. x and y: whole numbers `[batch, length]`.
    Raises: ValueError as `text`.
    """
    tokens = []
    for line in read(file).lower().splitlines():
        tokens += re.findall(r"\w+|[^\w\s]", line)
        tokens.append(END)
    held = len(tokens) // SHARE
    # The vocabulary is one for all seeds: the network has as many inputs and outputs.
    vocabulary = _frequent(tokens[:-held], WORDS)
    return _of_words("words", tokens, vocabulary, length)


def penn_treebank(length: int = 20) -> Task:
    """The next word of the Penn Treebank as Mikolov prepared it: perplexity on its validation part,
    10,000 words.

    The text is licensed: put ptb.train.txt and ptb.valid.txt where the error message says.
    Source: Zaremba et al. (2014), section 4.1.
    """

    def part(name: str) -> list[str]:
        file = f"ptb.{name}.txt"
        return decode(disk.verified("penn_treebank", file), file).replace("\n", f" {END} ").split()

    train, valid = part("train"), part("valid")
    vocabulary = _frequent(train, None)
    return _of_words("penn_treebank", [*train, *valid], vocabulary, length, len(valid))


def read(file: str | Path | None) -> str:
    """A text file of the user's, the text files of a folder, or the embedded text.

    Of a folder its files `*.txt`, by name, each after the one before and a line feed.
    Raises: ValueError for what is no text, saying why.
    """
    if file is None:
        return grammar.text()
    files = [Path(file)]
    try:
        if files[0].is_dir():
            files = sorted(entry for entry in files[0].iterdir() if entry.suffix == ".txt")
            if not files:
                raise ValueError(f"the folder {file} has no *.txt; put the texts there, in UTF-8")
        raw = _bytes(files, file)
    except OSError as error:
        raise ValueError(
            f"the text {error.filename or file} cannot be read: {error.strerror}; give the path of "
            "a text file, or of a folder of *.txt"
        ) from error
    content = "\n".join(decode(part, name) for part, name in zip(raw, files, strict=True))
    if not content.strip():
        raise ValueError(f"the text {file} is empty; give a file with some thousands of characters")
    return content


def _bytes(files: list[Path], of: str | Path) -> list[bytes]:
    """What files hold, looked at before any is read. Raises: ValueError for those that may have no
    end or do not fit."""
    total = 0
    for file in files:
        about = file.stat()
        # A device or a pipe may have no end; a folder is refused by the system when it is read.
        if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            raise ValueError(
                f"the text {file} is no regular file; save it to one and give its path"
            )
        total += about.st_size
    if total > MOST_BYTES:
        raise ValueError(
            f"the text {of} has {total / 2**30:.1f} GiB, and texts are held in memory: at most "
            f"{MOST_BYTES / 2**30:.0f} GiB; give a part of it"
        )
    return [file.read_bytes() for file in files]


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


def _frequent(tokens: list[str], most: int | None) -> list[str]:
    """The words that have a number of their own, with the one for all others; None for no limit."""
    named = None if most is None else most - 1  # one place is for all other words
    kept = [word for word, _ in Counter(tokens).most_common(named)]
    return sorted({*kept, UNKNOWN})


def _of_words(
    name: str, tokens: list[str], vocabulary: list[str], length: int, valid: int | None = None
) -> Task:
    known = set(vocabulary)
    known_tokens = [token if token in known else UNKNOWN for token in tokens]
    numbers = encode(known_tokens, vocabulary)
    return next_token(
        name, numbers, len(vocabulary), length, perplexity, "validation perplexity", valid
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

    The last `valid` numbers validate, in every seed. By default a tenth does, the last of `data`,
    and a contiguous one anywhere for each seed; it trains on what comes after and then on what
    comes before. `entropy` is what no prediction can pass, in units of `metric`, 0 where nobody
    knows it. Chance is to know the frequencies of all but the last tenth, or to call all numbers
    alike where that is better.
    Raises: ValueError for too few numbers, a validation part unlike the training part, or a length
    below 1.
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
    refuse_another_text(name, numbers, held, size, every_part=valid is None)
    starts = np.unique(np.linspace(0, held - length - 1, VALID).astype(int))
    # [window, step], counted from where the validation part begins
    windows = starts[:, None] + np.arange(length)
    labels = rest[windows + 1]
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

    def split(data: Data, key: Key[Array, ""]) -> Data:
        start = jax.random.randint(key, (), 0, len(train) + 1)
        places = start + jnp.asarray(windows, jnp.int32)
        whole = data["numbers"]
        return data | {
            "valid_start": start,
            "valid_x": whole[places],
            "valid_y": whole[places + 1],
        }

    def tickets(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Array:
        total = data["numbers"].shape[0] - held - 1
        offset = jax.random.randint(key, (), 0, total)
        # Every row of a batch reads a stretch of its own.
        apart = total // batch
        stream = apart * jnp.arange(batch)[None]
        window = length * jnp.arange(steps)[:, None]
        return (offset + stream + window) % total

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        whole = data["numbers"]
        count = whole.shape[0]
        # The last window goes on at the beginning of the training part.
        places = (ticket[:, None] + jnp.arange(length)[None]) % (count - held - 1)
        # That begins after the validation part and, at the end of the text, goes on at its start:
        # whichever part validates, it is read in place and copied nowhere.
        begin = data["valid_start"] + held
        return whole[(begin + places) % count], whole[(begin + places + 1) % count]

    return Task(
        name=name,
        in_features=size,
        length=length,
        out_features=size,
        readout="all",
        examples=min(EPOCH, len(train) - 1) // length,
        data={
            "numbers": jnp.asarray(numbers),
            "valid_start": jnp.int32(len(train)),
            "valid_x": jnp.asarray(rest[windows]),
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
        split=split if valid is None else None,
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


def refuse_another_text(
    name: str, numbers: np.ndarray, held: int, size: int, every_part: bool
) -> None:
    """Raises: ValueError when the last `held` numbers are unlike the others, in one line; with
    `every_part` also when any other part of that length is.

    Compared are the share of numbers that the training part has never seen (expected: the share of
    those that it has seen once, by Good and Turing) and the distance of frequencies, half the sum
    of |p - q| (expected: by chance about half the sum of sqrt(2 p (1/n + 1/m) / pi)). Small texts
    and large vocabularies are apart by chance alone.
    """
    n, m = len(numbers) - held, held
    of_all = np.bincount(numbers, minlength=size)
    ends = range(len(numbers), held - 1, -held) if every_part else [len(numbers)]
    for end in ends:
        part = np.bincount(numbers[end - held : end], minlength=size)
        others = of_all - part
        unseen = part[others == 0].sum() / m
        once = (others == 1).sum() / n
        pooled = of_all / (n + m)
        apart = np.abs(others / n - part / m).sum() / 2
        by_chance = np.sqrt(2 * pooled * (1 / n + 1 / m) / np.pi).sum() / 2
        if unseen > UNSEEN + 2 * once or apart > APART + by_chance:
            where = f"the last {m:,} characters or words, which validate,"
            if end < len(numbers):
                where = (
                    f"the {m:,} characters or words from the {end - held + 1:,}th on, on which a "
                    "seed may validate,"
                )
            raise ValueError(
                f"task {name!r}: {where} are another text than the others: {unseen:.0%} of them "
                f"never occur there, and {apart:.0%} would have to change for the frequencies to "
                "agree; give a text of one kind, or mix its parts"
            )
