"""The question: what a study asks, checked as far as it can be without JAX.

    Study -> cell.check -> starts -> trials -> records -> summary

Importing this module imports nothing but the standard library: the command line reads `Study` for its options.
"""

import difflib
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# Five rates over two decades each; for SGD, trial runs had the best rate of every scheme inside.
RATES = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "momentum": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.0001, 0.0003, 0.001, 0.003, 0.01),
}


RECURRENT = ("rnn", "lstm", "gru", "mgu", "lru")
ATTENTION = ("transformer", "vit")
RECURRENT_ONLY = (
    "unroll",
    "segment",
    "bidirectional",
    "learned_start",
    "embedding",
    "variational",
    "truncate",
    "stateful",
)


class BadStudy(ValueError):
    """A study that cannot be run as asked; the message is one line that says what to do."""


class Interrupted(Exception):
    """A study was stopped before its end; what was computed is kept."""


@dataclass(frozen=True)
class Study:
    """What is asked: one cell (model, task, optimizer) and the schemes, rates and seeds to compare on it.

    Units: `epochs` is the budget of a trial in passes over the training set; `evaluations` is how often an epoch is
    evaluated, and so the resolution of the answer. Seeds 0 to tune_seeds - 1 choose each scheme's rate, the next
    `seeds` report it. None means the default of the task, the model or the optimizer.
    """

    model: str = "rnn"
    """rnn, lstm, gru, mgu, lru, mlp, transformer or vit (see `jaxinit list models`)."""
    hidden: int = 128
    """Units in every hidden layer."""
    layers: int = 1
    """Hidden layers."""
    activation: str | None = None
    """tanh, relu, sigmoid, softsign, gelu, ... for rnn and mlp. Default: tanh."""
    norm: str | None = None
    """layer or batch normalization of pre-activations; recurrent networks take layer. Default: none. For
    transformer and vit: layer (the default), rms or none."""
    residual: bool = False
    """Add the input of every hidden layer but the first to its output, for mlp."""
    bidirectional: bool = False
    """Read every layer's input from both ends, for recurrent networks."""
    peepholes: bool = False
    """Let the gates see the cell, for lstm."""
    heads: int = 4
    """Heads of attention, for transformer and vit."""
    post_norm: bool = False
    """Normalize the sum of each branch and the stream instead of the branch's input, for transformer and vit."""
    gate: bool = False
    """Multiply every branch by a learned scalar that starts at 0 (ReZero), for transformer and vit."""
    scalar_bias: bool = False
    """Add a learned scalar before every kernel and activation function (Fixup), for transformer and vit."""
    skip_scale: float = 1.0
    """Multiply the stream by it where a branch is added (DeepNorm), for transformer and vit."""
    learned_skip: bool = False
    """Learn such a factor for each branch and unit, from 1 (Admin), for transformer and vit."""
    leak: float | None = None
    """Share of the new state in each state, for rnn. Default: all of it."""
    learned_start: bool = False
    """Train the states before the first step too, for recurrent networks."""
    embedding: int | None = None
    """Units of an embedding before the first layer, for recurrent networks. Default: none."""
    task: str = "digits_rows"
    """digits_rows, adding, copy, text, ... (see `jaxinit list tasks`)."""
    length: int | None = None
    """Length of a sequence, where the task has no fixed one. Default: the task's."""
    text: str | None = None
    """A text file of yours, for the tasks text and words. Default: the embedded text."""
    schemes: tuple[str, ...] = (
        "uniform01",
        "small_normal",
        "xavier_rnn",
        "glorot_uniform",
        "glorot_normal",
        "he_normal",
        "lecun_normal",
        "orthogonal",
        "identity",
    )
    """The initialization schemes to compare (see `jaxinit list schemes`): a name, one with settings, as
    'chrono(longest=784)', or one calibrated, as orthogonal+lsuv."""
    lrs: tuple[float, ...] = ()
    """The grid of learning rates that every scheme is tuned on. Default: five over two decades, by optimizer."""
    optimizer: str = "sgd"
    """sgd, momentum (0.9) or adam."""
    seeds: int = 8
    """Seeds that report, at each scheme's best rate; 2 or more."""
    tune_seeds: int = 3
    """Other seeds, which choose the rate."""
    epochs: int = 20
    """Budget of a trial; one that has not reached the target by then is censored."""
    evaluations: int = 8
    """Evaluations an epoch: the resolution of the answer."""
    target: float | None = None
    """Validation metric that counts as converged. Default: the task's."""
    batch: int = 32
    """Examples a step."""
    unroll: int | None = None
    """Time steps written out in each turn of the compiled time loop. Default: 1, the fastest where it was measured."""
    segment: int | None = None
    """Time steps between two states kept for the backward pass. Default: all, or sqrt(length) for long sequences."""
    clip: float | None = None
    """Bound on the global norm of the gradient. Default: none."""
    clip_value: float | None = None
    """Bound on the size of every entry of the gradient, after that on the norm. Default: none."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on all parameters."""
    l2: float = 0.0
    """L2 regularization: this times half the sum of the squares of all parameters is added to the loss."""
    dropout: float = 0.0
    """Share of units dropped in training: of hidden layers (mlp), of non-recurrent connections (recurrent networks)."""
    variational: bool = False
    """Drop the same units at every step, and of the states passed on too, for recurrent networks."""
    truncate: int | None = None
    """Time steps after which the gradient is cut, for recurrent networks. Default: the whole sequence."""
    stateful: bool = False
    """Start each training batch from the states the last one ended with, for the tasks on text."""
    baseline: str = "small_normal"
    """The scheme that the ratios compare with."""

    @classmethod
    def from_json(cls, path: str | Path) -> "Study":
        """The study that a `study.json` describes: `run(Study.from_json(path))` runs it again.

        Raises: BadStudy for a file that cannot be read or describes no study.
        """
        try:
            stored = json.loads(Path(path).read_bytes())["study"]
        except OSError as error:
            raise BadStudy(f"{path} cannot be read: {error.strerror}; give the study.json of a study") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadStudy(f"{path} describes no study, or is damaged; give the study.json of a study") from error
        return cls.from_plain(stored)

    @classmethod
    def from_plain(cls, stored: Mapping[str, Any]) -> "Study":
        """The study of `plain`. Raises: BadStudy for settings that this version does not have."""
        settings: dict[str, Any] = {}
        for name, value in stored.items():
            settings[name] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**settings)
        except TypeError as error:
            raise BadStudy(
                f"no study of this version of jaxinit ({error}); read it with the one that wrote it"
            ) from error

    def command(self) -> str:
        """The command line that runs this study."""
        words = ["jaxinit", "run"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            words.append(f"--{field.name.replace('_', '-')}")
            if value is not True:
                words += map(str, value if isinstance(value, tuple) else (value,))
        return shlex.join(words)

    def plain(self) -> dict[str, Any]:
        """The study as JSON keeps it."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def tuning(self) -> range:
        """The seeds that choose each scheme's rate; none when there is a single rate."""
        return range(self.tune_seeds if len(self.lrs) > 1 else 0)

    @property
    def reporting(self) -> range:
        """The seeds that report, which follow those that tune."""
        return range(len(self.tuning), len(self.tuning) + self.seeds)

    @property
    def folder(self) -> Path:
        """results/<model>-<task>-<six digits of the study's hash>: the same question always has the same folder."""
        digest = hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()
        return Path("results") / f"{self.model}-{self.task}-{digest[:6]}"


def check_settings(study: Study) -> None:
    """Raises: BadStudy for settings that make no sense together, whatever the model and the task."""
    if not study.schemes or len(set(study.schemes)) < len(study.schemes):
        raise BadStudy(f"schemes must be one or more different names, got {' '.join(study.schemes) or 'none'}")
    if study.baseline not in study.schemes:
        raise BadStudy(
            f"the baseline {study.baseline!r} is not among the schemes ({', '.join(study.schemes)}); "
            "add it to --schemes, or choose another with --baseline"
        )
    for name in ("hidden", "layers", "epochs", "evaluations", "batch", "heads"):
        if getattr(study, name) < 1:
            raise BadStudy(f"{name} must be 1 or more, got {getattr(study, name)}")
    for name in RECURRENT_ONLY:
        value = getattr(study, name)
        if value is None or value is False:
            continue
        option = name.replace("_", "-")
        if study.model not in RECURRENT:
            raise BadStudy(f"model {study.model!r} has no time loop; leave --{option} out, or use rnn, lstm or gru")
        if value < 1:
            raise BadStudy(f"{name} must be 1 or more, got {value}")
    for name, model in (("peepholes", "lstm"), ("leak", "rnn")):
        if getattr(study, name) and study.model != model:
            raise BadStudy(f"{name} is an option of {model}; leave it out, or use it in place of {study.model!r}")
    rates = study.lrs
    if any(not (math.isfinite(rate) and rate > 0) for rate in rates) or len(set(rates)) < len(rates):
        raise BadStudy(
            f"learning rates must be positive, finite and different, got {' '.join(f'{r:g}' for r in rates)}"
        )
    if study.seeds < 2:
        raise BadStudy(f"an interval needs 2 or more reporting seeds, got --seeds {study.seeds}")
    if study.tune_seeds < 1 and len(rates) > 1:
        raise BadStudy("choosing among learning rates needs --tune-seeds 1 or more; or give a single --lrs")
    for name in ("clip", "clip_value"):
        value = getattr(study, name)
        if value is not None and not value > 0:
            raise BadStudy(f"{name} must be positive, got {value:g}; leave it out for no clipping")
    for name in ("weight_decay", "l2"):
        if not 0 <= getattr(study, name) < math.inf:
            raise BadStudy(f"{name} must be 0 or more, and finite; got {getattr(study, name):g}")
    if not 0 <= study.dropout < 1:
        raise BadStudy(f"dropout must be 0 or more and below 1, got {study.dropout:g}")
    norms = (None, "layer", "rms", "none") if study.model in ATTENTION else (None, "layer", "batch")
    if study.norm not in norms:
        raise BadStudy(f"norm of {study.model!r} is {', '.join(map(str, norms[1:]))} or left out; got {study.norm!r}")
    for name in ("post_norm", "gate", "scalar_bias", "learned_skip"):
        if getattr(study, name) and study.model not in ATTENTION:
            raise BadStudy(f"{name} is an option of {', '.join(ATTENTION)}; leave it out of a study of {study.model!r}")
    if study.skip_scale != 1 and (study.model not in ATTENTION or study.learned_skip or not study.skip_scale > 0):
        raise BadStudy(
            f"skip_scale is positive, and an option of {', '.join(ATTENTION)} without learned_skip; got "
            f"{study.skip_scale:g} for {study.model!r}"
        )
    if study.model != "mlp" and (study.norm == "batch" or study.residual):
        raise BadStudy(
            f"batch normalization and residual are options of mlp; leave them out, or use it instead of {study.model!r}"
        )
    if study.target is not None and not math.isfinite(study.target):
        raise BadStudy(f"target must be a number, got {study.target}")


def check_name(kind: str, name: str, table: Iterable[str]) -> None:
    """Raises: BadStudy with the nearest name when `name` is not in the table."""
    names = list(table)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, cutoff=0.0)[0]
        raise BadStudy(f"no {kind} is called {name!r}; the nearest is {near!r} (there are {', '.join(names)})")
