"""The question: what a study asks, checked as far as it can be without JAX.

    Study -> resolve -> initial parameters -> trials -> records -> summary

Importing this module imports nothing but the standard library: the command line reads `Study` for
its options.
"""

import difflib
import hashlib
import json
import math
import operator
import re
import shlex
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePath
from typing import Any, TypeAlias, get_args

from jaxinit.names import Named, name_of
from jaxinit.options import (
    LEAST,
    OPTIONS,
    ConvolutionalOptions,
    RecurrentOptions,
    TransformerOptions,
    alternatives,
    choices,
    docstrings,
    models_of,
    models_taking,
)

# Five rates over two decades each; for SGD, trial runs had the best rate of every scheme inside.
RATES = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "momentum": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.0001, 0.0003, 0.001, 0.003, 0.01),
}

RECURRENT = models_of(RecurrentOptions)
ATTENTION = models_of(TransformerOptions)
PICTURES = models_of(ConvolutionalOptions)
MODELS = tuple(OPTIONS)

SYNTHETIC = (
    "adding",
    "copy",
    "copy_variable",
    "multiplication",
    "temporal_order",
    "temporal_order_3",
    "parity",
)
ON_TEXT = ("text", "words", "penn_treebank")
# Which tasks take a setting that not all of them take.
TASKS_TAKING: dict[str, tuple[str, ...]] = {
    "length": (*SYNTHETIC, *ON_TEXT, "mnist", "mnist_permuted", "fashion_mnist", "cifar10"),
    "text": ("text", "words"),
    "stateful": ON_TEXT,
}

MOST = 2**31 - 1  # arrays are addressed by 31 bits
# Ranges of whole numbers that have others than 1 to `MOST`: what a study can be about.
RANGES = {
    "layers": (1, 1000),
    "seeds": (2, 100_000),
    "tune_seeds": (0, 100_000),
    "first_seed": (0, 2**30),
}
SEARCHES = ("ladder", "grid")
SEARCHED_TOO = ("warmup", "weight_decay", "l2", "clip", "clip_value")  # settings of a study
SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt")
DTYPES = ("float32", "bfloat16")
PRECISIONS = ("highest", "high", "default")
MOST_EVALUATIONS = 2**24  # of one trial
OWN = ("model", "task", "schemes", "optimizer", "baseline")  # may be objects of the caller's
MOST_NAMED = 100  # characters in the name of a scheme, a model or a task
LARGEST = (2 - 2.0**-23) * 2.0**127  # the largest float32


class BadStudy(ValueError):
    """A study that cannot be run as asked; the message is one line that says what to do."""


class NoDevice(Exception):
    """A device that was asked for is not there; the message is one line that says what to do."""


class Interrupted(Exception):
    """A study was stopped before its end; what was computed is kept."""


# A name, or in Python an object: a model's constructor, a task or what makes one, a scheme or an
# initializer, what makes an optimizer for a rate. The command line reads a string, as the defaults
# are.
Name: TypeAlias = Any
Names: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Study:
    """What is asked: a model, a task and an optimizer, and the schemes, rates and seeds to compare
    on them.

    Model, task, optimizer and schemes are names, or in Python objects of your own, which are kept
    under the names by which they can be found, `module:NAME` or `FILE.py:NAME`; an object that has
    none is kept under a digest, and only the program that makes it can go on with its study.

    Units: `epochs` is the budget of a trial in passes over the training set; `evaluations` is how
    often an epoch is evaluated, and so the resolution of the answer. Of a grid, `tune_seeds` seeds
    choose each scheme's rate and the next `seeds` report it; of a ladder, all of its trials are on
    `seeds` seeds. None means the default of the task, the model or the optimizer.
    """

    model: Name = "rnn"
    """rnn, lstm, gru, mgu, lru, glr, rg_lru, mlp, cnn, resnet, transformer or vit (see `jaxinit
    list models`)."""
    hidden: int = 128
    """Units in every hidden layer."""
    layers: int = 1
    """Hidden layers."""
    # Options of some of the models. What each of them means, and for which models, is said in
    # `options`; those with a docstring here are written in another way there.
    activation: str | None = None
    norm: str | None = None
    residual: bool = False
    bidirectional: bool = False
    peepholes: bool = False
    heads: int = 4
    post_norm: bool = False
    """Normalize the sum of each branch and the residual stream instead of the branch's input."""
    gate: bool = False
    scalar_bias: bool = False
    skip_scale: float = 1.0
    learned_skip: bool = False
    leak: float | None = None
    learned_start: bool = False
    embedding: int | None = None
    channels: int = 1
    stages: int = 1

    task: Name = "digits_rows"
    """digits_rows, adding, copy, text, ... (see `jaxinit list tasks`), or arrays of yours: FILE.npz
    with x and y, X.npy,Y.npy, FILE.csv:COLUMN; or a folder of *.txt, FOLDER/."""
    length: int | None = None
    """Length of a sequence, for tasks that have no fixed one (not digits_*). Default: the
    task's."""
    text: str | None = None
    """A text file of yours, or a folder of *.txt, for text and words. Default: the embedded
    text."""
    schemes: Names = (
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
    """The initialization schemes to compare (see `jaxinit list schemes`): a name, one with
    settings, as 'chrono(longest=784)', or one calibrated, as orthogonal+lsuv."""
    search: str | None = None
    """How each scheme's learning rate is found. ladder: six rates a decade, refined around the best
    and grown beyond its ends, the two best reported together, so that intervals contain the choice;
    grid: all of --lrs, the best of which is reported as if it had been given. Default: ladder, or
    grid where --lrs are given."""
    lrs: tuple[float, ...] = ()
    """The learning rates of the grid, or the rungs of the ladder, which then cannot grow. Default:
    of a grid five over two decades, by optimizer."""
    search_also: tuple[str | float, ...] = ()
    """Another setting to search beside the rate, and its values: momentum 0.8 0.9 0.95, warmup,
    weight_decay, l2, clip, clip_value, or an argument of the optimizer's. Every scheme searches its
    rate at each value; its best two pairs of both are its answer."""
    optimizer: Name = "sgd"
    """sgd, momentum (0.9), adam, another of Optax's by its name, as adamw, lion or muon, or where
    to find a function of the learning rate that makes one: mine.py:tx."""
    warmup: float = 0.0
    """Share of the budget in which the rate grows linearly from 0."""
    schedule: str = "constant"
    """The course of the rate after that, over the budget: constant, linear, cosine or
    inverse_sqrt."""
    seeds: int = 8
    """Seeds at each rate that is reported; 2 or more, 4 for a verdict."""
    tune_seeds: int = 3
    """Other seeds, which choose the rate of a grid."""
    first_seed: int = 0
    """The first seed: the same study with others replicates it."""
    epochs: int = 20
    """Budget of a trial; one that has not reached the target by then is censored."""
    evaluations: int = 4
    """Evaluations an epoch: the resolution of the answer."""
    target: float | None = None
    """Validation metric that counts as converged, on average over an epoch. Default: the task's."""
    batch: int = 32
    """Examples a step."""
    unroll: int | None = None  # as `activation`, and so are the next, `variational` and `truncate`
    segment: int | None = None
    clip: float | None = None
    """Bound on the global norm of the gradient. Default: none."""
    clip_value: float | None = None
    """Bound on the size of every entry of the gradient, after that on the norm. Default: none."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on all parameters."""
    l2: float = 0.0
    """L2 regularization: this times half the sum of the squares of all parameters is added to the
    loss."""
    dropout: float = 0.0
    """Share of units dropped in training: of hidden layers (mlp), of non-recurrent connections
    (recurrent networks)."""
    variational: bool = False
    truncate: int | None = None
    stateful: bool = False
    """Start each training batch from the states the last one ended with, on text, words and
    penn_treebank."""
    dtype: str = "float32"
    """What the model computes in, forward and backward: float32, or bfloat16, to which parameters
    and features are cast. Losses, metrics, normalizations and softmaxes are float32."""
    param_dtype: str = "float32"
    """What parameters and the optimizer's state are kept in: float32, or bfloat16. Steps are
    computed in float32 and rounded, so that bfloat16 loses those below 1/512 of a parameter."""
    matmul_precision: str = "highest"
    """Of matrix products of float32: highest, all its digits on every device; high or default, as
    many as the device has fast (TF32 on GPUs, bfloat16 on TPUs)."""
    baseline: Name = "small_normal"
    """The scheme that the ratios compare with."""

    def __post_init__(self) -> None:
        """Every number as Python's own, so that equal studies have equal records. Raises: BadStudy
        for another type."""
        for field in fields(self):
            object.__setattr__(
                self, field.name, _plain(field.name, field.type, getattr(self, field.name))
            )

    @classmethod
    def from_json(cls, path: str | Path) -> "Study":
        """The study that a `study.json` describes: `run(Study.from_json(path))` runs it again.

        Raises: BadStudy for a file that cannot be read or describes no study.
        """
        try:
            stored = json.loads(Path(path).read_bytes())["study"]
        except OSError as error:
            raise BadStudy(
                f"{path} cannot be read: {error.strerror}; give the study.json of a study"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadStudy(
                f"{path} describes no study, or is damaged; give the study.json of a study"
            ) from error
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

    def command(self, verb: str = "run", **more: Any) -> str:
        """The command line that runs this study, or probes or checks its network: with what differs
        from what the verb asks by itself, and the verb's own options."""
        usual = ASKED[verb].__dict__
        differing = {name: value for name, value in self.__dict__.items() if value != usual[name]}
        words = ["jaxinit", verb]
        for name, value in (differing | more).items():
            words.append(option(name) if value is not False else option(f"no_{name}"))
            if not isinstance(value, bool):
                words += map(str, value if isinstance(value, tuple) else (value,))
        return shlex.join(words)

    def plain(self) -> dict[str, Any]:
        """The study as JSON keeps it."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def also(self) -> tuple[str, tuple[float, ...]] | None:
        """The other setting that is searched, and its values; None where there is none."""
        if not self.search_also:
            return None
        name, *values = self.search_also
        return str(name), tuple(map(float, values))

    def at_one_rate(self, rate: float) -> "Study":
        """The same question where nothing is searched for and nothing compared with a baseline."""
        first = next(iter(self.schemes), "")
        return replace(self, search="grid", lrs=(rate,), search_also=(), baseline=first)

    @property
    def tuning(self) -> range:
        """The seeds that choose each scheme's rate and do not report it, of a grid of several
        rates."""
        choosing = self.search != "ladder" and len(self.lrs) > 1
        return range(self.first_seed, self.first_seed + self.tune_seeds * choosing)

    @property
    def reporting(self) -> range:
        """The seeds that report, which follow those that tune."""
        return range(self.tuning.stop, self.tuning.stop + self.seeds)

    @property
    def folder(self) -> Path:
        """results/<model>-<task>-<six digits of the study's hash>: the same question always has the
        same folder."""
        digest = hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()
        # a caller's own may hold what a path cannot
        name = re.sub(r"[^\w.+-]", "_", f"{self.model}-{self.task}")
        return Path("results") / f"{name}-{digest[:6]}"


def _models_taking() -> dict[str, tuple[str, ...]]:
    """The models that take a setting that not all of them take, derived from their options."""
    table = {}
    for field in fields(Study):
        takers = models_taking(OPTION_OF.get(field.name, field.name))
        of_some = 0 < len(takers) < len(MODELS)
        if of_some and field.name != "length":  # that of a study is its task's
            table[field.name] = takers
    return table


OPTION_OF = {"post_norm": "placed"}  # settings whose option has another name
MODELS_TAKING = _models_taking()
DEFAULTS = {field.name: field.default for field in fields(Study)}


def model_options(study: Study) -> dict[str, Any]:
    """The options of the study's model, as its constructor takes them.

    What the task decides is not among them. A caller's own model is given the settings that are not
    at their defaults.
    """
    options: dict[str, Any] = {"layers": study.layers}
    for setting, takers in MODELS_TAKING.items():
        value = getattr(study, setting)
        changed = value != DEFAULTS[setting]
        if changed or (study.model in takers and value is not None):
            options[setting] = value
    if "post_norm" in options:
        options["placed"] = "post" if options.pop("post_norm") else "pre"
    if "stateful" in options:
        options["stateful"] = study.batch if study.stateful else None
    return options


def descriptions(model: str) -> dict[str, str]:
    """What there is to say of every setting of a study of a model; those that the model does not
    take are left out."""
    of_study, of_model = docstrings(Study), docstrings(OPTIONS[model])
    defaults = {field.name: field.default for field in fields(OPTIONS[model])}
    texts = {}
    for setting, default in DEFAULTS.items():
        if model not in MODELS_TAKING.get(setting, MODELS):
            continue
        if setting in of_study:
            texts[setting] = of_study[setting]
            continue
        texts[setting] = of_model[setting]
        if default is None and defaults[setting] is not None:
            texts[setting] += f" Default: {defaults[setting]}."
    return texts


def check_settings(
    study: Study,
    models_taking: Mapping[str, Collection[str]] = MODELS_TAKING,
    tasks_taking: Mapping[str, Collection[str]] = TASKS_TAKING,
) -> None:
    """Raises: BadStudy for settings out of range, not taken by the model or the task, or senseless
    together."""
    check_scheme_names(study)
    check_counts(study)
    check_numbers(study)
    check_taken(study, "model", models_taking)
    check_taken(study, "task", tasks_taking)
    check_combinations(study)
    if study.model in MODELS:
        check_model_options(study)


def check_scheme_names(study: Study) -> None:
    """Raises: BadStudy unless the schemes have different names that can be printed, and the
    baseline is one of them."""
    if not study.schemes or len(set(study.schemes)) < len(study.schemes):
        raise BadStudy(
            f"schemes must be one or more different names, got {' '.join(study.schemes) or 'none'}"
        )
    for name in (*study.schemes, study.model, study.task, study.optimizer):
        if not name.isprintable() or not 0 < len(name) <= MOST_NAMED:
            raise BadStudy(
                f"a name has 1 to {MOST_NAMED} characters that can be printed, got "
                f"{name[:MOST_NAMED]!r}"
            )
    if study.baseline not in study.schemes:
        raise BadStudy(
            f"the baseline {study.baseline!r} is not among the schemes "
            f"({', '.join(study.schemes)}); add it to --schemes, or choose another with --baseline"
        )


def check_counts(study: Study) -> None:
    """Raises: BadStudy for a whole number that is out of range."""
    for field in fields(study):
        value = getattr(study, field.name)
        if int not in alternatives(field.type) or value is None:
            continue
        low, high = RANGES.get(field.name, (1, MOST))
        if not low <= value <= high:
            why = " (an interval needs two)" if field.name == "seeds" else ""
            raise BadStudy(f"{field.name} must be {low} to {high}, got {_shown(value)}{why}")
    if study.epochs * study.evaluations > MOST_EVALUATIONS:
        raise BadStudy(
            f"epochs times evaluations must be at most {MOST_EVALUATIONS}, got {study.epochs} x "
            f"{study.evaluations}"
        )


def check_rates(study: Study) -> None:
    """Raises: BadStudy for learning rates that are not different numbers of float32."""
    rates = [_float32(rate) for rate in study.lrs]
    in_range = all(LEAST <= rate <= LARGEST for rate in rates)
    if not in_range or len(set(rates)) < len(rates):
        raise BadStudy(
            f"learning rates must be positive, finite and different, {LEAST:.2g} to {LARGEST:.2g} "
            f"(float32), got {' '.join(f'{rate:.9g}' for rate in study.lrs)}"
        )


def check_numbers(study: Study) -> None:
    """Raises: BadStudy for a number that is out of range, or that float32, in which all is
    computed, does not hold."""
    check_rates(study)
    for name in ("clip", "clip_value", "skip_scale"):
        value = getattr(study, name)
        if value is not None and not LEAST <= value <= LARGEST:
            without = "1" if name == "skip_scale" else "none"
            raise BadStudy(
                f"{name} must be positive, {LEAST:.2g} to {LARGEST:.2g}, got {value:g}; leave it "
                f"out for {without}"
            )
    for name in ("weight_decay", "l2"):
        value = getattr(study, name)
        if value != 0 and not LEAST <= value <= LARGEST:
            raise BadStudy(f"{name} must be 0 or more, at most {LARGEST:.2g}; got {value:g}")
    most_dropped = 1 - 2.0**-24  # the largest float32 below 1
    if study.dropout != 0 and not LEAST <= study.dropout <= most_dropped:
        raise BadStudy(f"dropout must be 0 or more and below 1, got {study.dropout:g}")
    if study.warmup != 0 and not LEAST <= study.warmup <= most_dropped:
        raise BadStudy(
            f"warmup is a share of the budget, 0 or more and below 1; got {study.warmup:g}"
        )
    if study.target is not None and not abs(study.target) <= LARGEST:
        raise BadStudy(f"target must be a number of at most {LARGEST:.2g}, got {study.target:g}")


def check_combinations(study: Study) -> None:
    """Raises: BadStudy for settings that make no sense together."""
    check_search(study)
    check_also(study)
    check_name("schedule", study.schedule, SCHEDULES)
    check_name("dtype", study.dtype, DTYPES)
    check_name("param_dtype", study.param_dtype, DTYPES)
    check_precision(study)
    if study.variational and not study.dropout:
        raise BadStudy(
            "variational says how units are dropped; give --dropout too, or leave --variational out"
        )
    if study.skip_scale != 1 and study.learned_skip:
        raise BadStudy(
            "learned_skip starts at 1 and is learned; leave --skip-scale or --learned-skip out"
        )


def check_precision(study: Study) -> None:
    """Raises: BadStudy for a precision of matrix products that there is not."""
    check_name("matmul_precision", study.matmul_precision, PRECISIONS)


def check_search(study: Study) -> None:
    """Raises: BadStudy for a search that cannot choose a rate."""
    if study.search is not None:
        check_name("search", study.search, SEARCHES)
    if study.search != "ladder":
        if study.tune_seeds < 1 and len(study.lrs) > 1:
            raise BadStudy(
                "choosing among learning rates needs --tune-seeds 1 or more; or give a single --lrs"
            )
        return
    if len(study.lrs) == 1:
        raise BadStudy(
            f"a ladder needs 2 or more rates to choose among, got {study.lrs[0]:g}; leave --lrs "
            "out for one that begins where its optimizer usually learns, or give --search grid"
        )
    if study.tune_seeds != DEFAULTS["tune_seeds"]:
        raise BadStudy(
            "tune_seeds are seeds that choose among the rates of a grid, and a ladder has none; "
            "leave --tune-seeds out, or give --search grid"
        )


def check_also(study: Study) -> None:
    """Raises: BadStudy unless the other setting that is searched is a name with two or more
    different values that the setting may have, and that is not given beside it.

    Whether an optimizer has it is known to who makes the optimizer.
    """
    if not study.search_also:
        return
    name, *words = map(str, study.search_also)
    example = "such as --search-also weight_decay 0 0.01 0.1"
    try:
        values = [_float32(float(word)) for word in words]
    except ValueError:
        raise BadStudy(
            f"search_also is a setting and its values, {example}; got {name} {' '.join(words)}"
        ) from None
    if len(set(values)) < max(2, len(values)) or not all(map(math.isfinite, values)):
        raise BadStudy(
            f"search_also wants two or more different values of {name}, {example}; got "
            f"{' '.join(words) or 'none'}"
        )
    if name not in SEARCHED_TOO:
        return
    if getattr(study, name) != DEFAULTS[name]:
        raise BadStudy(f"{option(name)} is searched by --search-also; leave one of them out")
    for value in values:
        check_numbers(replace(study, search_also=(), **{name: value}))


def check_model_options(study: Study) -> None:
    """Raises: BadStudy for what the configuration of the study's model refuses."""
    options = OPTIONS[study.model]
    if study.norm is not None:
        norms = [norm for norm in choices(options, "norm") if norm is not None]
        if study.norm not in norms:
            raise BadStudy(
                f"norm of {study.model!r} is {', '.join(norms)} or left out; got {study.norm!r}"
            )
    try:
        options(**model_options(study))
    except ValueError as error:
        raise BadStudy(str(error)) from error


def check_taken(study: Study, kind: str, table: Mapping[str, Collection[str]]) -> None:
    """Raises: BadStudy for a setting that is not its default, and that the study's model (or task)
    does not take."""
    name = getattr(study, kind)
    for setting, takers in table.items():
        if getattr(study, setting) != DEFAULTS[setting] and name not in takers:
            raise BadStudy(
                f"{option(setting)} is an option of {', '.join(takers)}; leave it out, or use one "
                f"of them in place of {kind} {name!r}"
            )


def option(setting: str) -> str:
    """A setting as the command line writes it."""
    return f"--{setting.replace('_', '-')}"


def _plain(name: str, kind: Any, value: Any) -> Any:
    """A setting of a study as Python's own type. Raises: BadStudy, saying which type it must
    have."""
    kinds = get_args(kind) or (kind,)
    if value is None and type(None) in kinds:
        return None
    if kind in (Names, tuple[float, ...], tuple[str | float, ...]):
        if (
            isinstance(value, str)
            or not isinstance(value, Iterable)
            or getattr(value, "shape", None) == ()
        ):
            examples = {"schemes": "('orthogonal',)", "search_also": "('weight_decay', 0, 0.1)"}
            example = examples.get(name, "(0.1,)")
            raise BadStudy(f"{name} wants several values, such as {example}; got {value!r}")
        if kind == tuple[str | float, ...]:  # a name and numbers, as a command line has them
            return tuple(item if isinstance(item, str) else f"{item:.9g}" for item in value)
        return tuple(_plain(name, kinds[0], item) for item in value)
    if name in OWN:
        return _named(name, value)
    if str in kinds:
        if not isinstance(value, str | PurePath):
            raise BadStudy(f"{name} wants a name, got {value!r}")
        return str(value)
    if bool in kinds:
        if getattr(value, "shape", ()) != () or value not in (True, False):
            raise BadStudy(f"{name} wants True or False, got {value!r}")
        return bool(value)
    return _whole(name, value) if int in kinds else _real(name, value)


def _named(name: str, value: Any) -> str:
    """The name of a model, a task, an optimizer or a scheme; of an object one that knows it."""
    if isinstance(value, Named):
        return value
    if isinstance(value, str | PurePath):
        return str(value)
    if name == "optimizer":
        check_makes_optimizer(value)
    pair = isinstance(value, tuple) and len(value) == 2 and all(map(callable, value))
    # A task has tickets, and is not called; a pair is a model's init and apply.
    if callable(value) or hasattr(value, "tickets") or (pair and name == "model"):
        return name_of(value)
    raise BadStudy(f"{name} wants a name or an object of yours, got {value!r}")


def check_makes_optimizer(value: Any) -> None:
    """Raises: BadStudy for an optimizer where a function that makes one is wanted."""
    if hasattr(value, "init") and hasattr(value, "update"):
        raise BadStudy(
            "an optimizer that is made has one learning rate, and a study searches for the best; "
            "give the function of the rate that makes it, such as optax.adamw, or "
            "lambda lr: optax.adamw(lr, weight_decay=0.01)"
        )


def _whole(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise BadStudy(f"{name} wants a whole number, got {value!r}") from None


def _real(name: str, value: Any) -> float:
    """A number; one of less precision by its shortest decimal form, so that float32's 0.1 is
    0.1."""
    if isinstance(value, bool | str | bytes) or getattr(value, "shape", ()) != ():
        raise BadStudy(f"{name} wants a number, got {value!r}")
    try:
        return float(str(value)) if hasattr(value, "shape") else float(value)
    except (TypeError, ValueError):
        raise BadStudy(f"{name} wants a number, got {value!r}") from None
    except OverflowError:
        raise BadStudy(
            f"{name} must be at most {LARGEST:.2g}, got a number beyond float64"
        ) from None


def _float32(value: float) -> float:
    """The float32 nearest to a number; infinite beyond its range."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.inf


def _shown(value: int) -> str:
    return str(value) if value.bit_length() < 128 else f"a number of {value.bit_length()} bits"


# Others call their schemes by the given names of their authors.
FAMILY_NAMES = {"kaiming": "he", "xavier": "glorot"}


def check_name(kind: str, name: str, table: Iterable[str]) -> None:
    """Raises: BadStudy with the nearest name when `name` is not in the table."""
    names = list(table)
    if name in names:
        return
    there_are = f"(there are {', '.join(names)})"
    if "," in name:
        raise BadStudy(f"no {kind} is called {name!r}; names are separated by spaces {there_are}")
    author, _, law = name.partition("_")
    family = FAMILY_NAMES.get(author, author)
    likely = f"{family}_{law}" if law else family
    of_family = [known for known in names if known.startswith(f"{family}_")]
    near = difflib.get_close_matches(likely, names, 1, cutoff=0.5)  # else none is meant
    if of_family and (not near or near[0] not in of_family):
        near = of_family
    said = f"; the nearest is {near[0]!r}" if near else ""
    raise BadStudy(f"no {kind} is called {name!r}{said} {there_are}")


# What a command asks where nothing else is said: the main job; both initializations of Glorot &
# Bengio (2010); muP beside the same law without it.
ASKED = {
    "run": Study(),
    "probe": Study(
        model="mlp",
        layers=0,
        hidden=200,
        schemes=("glorot_standard", "glorot_normalized"),
        baseline="glorot_standard",
        seeds=3,
    ),
    "coordcheck": Study(
        model="mlp",
        layers=3,
        optimizer="adam",
        schemes=("mup", "xavier_rnn"),
        baseline="mup",
        seeds=5,
    ),
}
