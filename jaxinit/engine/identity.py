"""What a study is, in digests: its data, task, model, schemes, calibrations and precision, whatever
they are called.

A name tells nothing of what it stands for: a file may have been replaced, a caller's model changed.
A program is known by its jaxpr in a canonical form, free of addresses and of the names that a
process gives.
"""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxinit.analysis.folder import Folder, another
from jaxinit.console import in_one_line
from jaxinit.engine import sweep
from jaxinit.engine.resolve import Resolved
from jaxinit.introspect import Training
from jaxinit.names import without_address
from jaxinit.spec import draw
from jaxinit.study import BadStudy, Study
from jaxinit.tasks import Task
from jaxinit.tasks.base import Seen

PRECISION = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_random_seed_offset",
)
Identity = dict[str, Any]


def identify(resolved: Resolved) -> Identity:
    """The identity of a study by part: SHA-256 digests, by name where a part has several.

    data: the arrays of the task. task: its loss, metric and batches. split: how a seed draws its
    own. model: its parameters, what it computes when it is evaluated and, with its gradient, when
    it is trained, with noise and without. optimizer: its first step. schemes: how each draws and
    scales every parameter. calibrations: their source. precision: what JAX is told of it.
    """
    with sweep.numerics(resolved.study):
        return _identity(resolved)


def _identity(resolved: Resolved) -> Identity:
    """As `identify`, in the arithmetic of the study."""
    return {
        "data": resolved.task.fingerprint(),
        "task": _task_digest(resolved),
        "split": _split_digest(resolved.task),
        "model": _model_digest(resolved),
        "optimizer": _optimizer_digest(resolved),
        "schemes": {name: scheme_digest(resolved, name) for name in resolved.schemes},
        "calibrations": {
            name: _source_digest(call) for name, call in resolved.calibrations.items()
        },
        "precision": {name.removeprefix("jax_"): getattr(jax.config, name) for name in PRECISION},
    }


def changed(there: Mapping[str, Any], here: Mapping[str, Any], study: Study) -> list[str]:
    """In what two identities of studies with the same settings differ, in words."""
    changes = []
    subjects = {
        "data": f"the data of task {study.task!r} differ",
        "task": f"loss, metric or batches of task {study.task!r} differ",
        "split": f"how a seed splits the data of task {study.task!r} differs",
        "model": f"what model {study.model!r} computes differs",
        "optimizer": f"what optimizer {study.optimizer!r} computes differs",
    }
    for part, sentence in subjects.items():
        if there.get(part) != here[part]:
            changes.append(sentence)
    for name, digest in here["schemes"].items():
        if there.get("schemes", {}).get(name) != digest:
            changes.append(f"the draws of scheme {name!r} differ")
    for name, digest in here["calibrations"].items():
        if there.get("calibrations", {}).get(name) != digest:
            changes.append(f"the calibration of {name!r} differs")
    for name, value in here["precision"].items():
        before = there.get("precision", {}).get(name)
        if before != value:
            changes.append(f"{name} is {before!r} there, {value!r} here")
    return changes


def scheme_digest(resolved: Resolved, scheme: str) -> str:
    """How a scheme draws and scales every parameter of the study's model."""
    leaves = resolved.model.leaves
    digest = hashlib.sha256()
    for name, rule in resolved.rules[scheme].items():
        digest.update(f"{name} {rule.multiplier} {rule.lr_scale} {rule.wd_scale}\n".encode())
    try:
        program = program_digest(
            lambda key: draw(resolved.schemes[scheme], key, leaves), jax.random.key(0)
        )
    except Exception as error:
        raise BadStudy(
            f"scheme {scheme!r} cannot be drawn ({in_one_line(error)}); mend it, or leave it out"
        ) from error
    digest.update(program.encode())
    return digest.hexdigest()


def program_digest(function: Callable[..., Any], *arguments: Any) -> str:
    """The SHA-256 of a function's jaxpr for arguments of these shapes, constants included.

    Equal for equal programs in any process; a function that a primitive only refers to counts by
    its name, a callback by its code and what it holds.
    """
    digest = hashlib.sha256()
    _Canonical(digest).closed(jax.make_jaxpr(function)(*arguments))
    return digest.hexdigest()


def combined(identity: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """One digest of a study's settings and its identity: what records and states carry."""
    content = json.dumps([settings, identity], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def claim(
    folder: Folder, kind: str, question: Mapping[str, Any], resolved: Resolved
) -> dict[str, Any]:
    """A question with the identity of what it is asked of, where the folder holds no other answer.

    Raises: BadStudy, saying what differs, as `Folder.claim`; also for other contents under the same
    names.
    """
    here = identify(resolved)
    held = folder.claim(kind, question)
    changes = (
        [] if held is None else changed(held.question.get("identity", here), here, resolved.study)
    )
    if changes:
        raise another(folder.path, kind, changes)
    return {**question, "identity": here}


def _task_digest(resolved: Resolved) -> str:
    task, study = resolved.task, resolved.study
    digest = hashlib.sha256()
    numbers = (task.in_features, task.length, task.out_features, task.readout, task.examples)
    answer = (task.metric_name, task.higher_is_better, task.chance)
    digest.update(repr((numbers, answer)).encode())
    first = _first_batch(task, study.batch)
    digest.update(program_digest(first, task.data, jax.random.key(0)).encode())
    params = resolved.shapes
    x, y = task.data["valid_x"], task.data["valid_y"]
    judges = [task.loss, task.metric]
    if task.loss_sees:  # of the loss a program of all that it may see
        judges = [] if task.metric is task.loss else [task.metric]
        seeing = program_digest(
            partial(_validation_loss, resolved), params, jax.random.key(0), x, y
        )
        digest.update(f"{task.loss_sees} {seeing}".encode())
    outputs = jax.eval_shape(resolved.model.apply, params, x)
    for judge in judges:
        digest.update(program_digest(judge, outputs, y).encode())
    return digest.hexdigest()


def _validation_loss(resolved: Resolved, params: Any, key: Any, x: Any, y: Any) -> Any:
    """The loss of the model when it is evaluated."""
    apply = partial(resolved.model.apply, params)
    return resolved.task.loss_of(apply(x), y, Seen(params, key, x, apply))


def _split_digest(task: Task) -> str:
    return program_digest(task.of_seed, task.data, jax.random.key(0))


def _model_digest(resolved: Resolved) -> str:
    task = resolved.task
    digest = hashlib.sha256(repr(resolved.model.leaves).encode())
    params = resolved.shapes
    digest.update(program_digest(resolved.model.apply, params, task.data["valid_x"]).encode())
    x, y = jax.eval_shape(_first_batch(task, resolved.study.batch), task.data, jax.random.key(0))

    def trained(noise: Training | None, params: Any, running: Any, key: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> Any:
            noisy = noise or Training(key, jnp.float32(0.5))

            def apply(x: Any) -> Any:
                return resolved.model.learn(params, running, x, noisy)[0]

            outputs, after = resolved.model.learn(params, running, x, noisy)
            return task.loss_of(outputs, y, Seen(params, key, x, apply)), after

        return jax.value_and_grad(loss, has_aux=True)(params)

    # With noise, and as studies without dropout and calibrations train.
    for noise in (None, Training()):
        program = partial(trained, noise)
        digest.update(
            program_digest(
                program, params, resolved.model.running, jax.random.key(0), x, y
            ).encode()
        )
    return digest.hexdigest()


def _optimizer_digest(resolved: Resolved) -> str:
    """Its first step, as a function of the rate: a later one is the same program."""
    params = resolved.shapes

    def step(lr: Any, params: Any, grads: Any) -> Any:
        optimizer = resolved.optimizer(lr)
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            return optimizer.update(grads, optimizer.init(params), params)

    return program_digest(step, jnp.float32(1), params, params)


def _first_batch(task: Task, size: int) -> Callable[[Any, Any], Any]:
    """The first batch of an epoch, as a function of the data and the key of the epoch's order."""

    def first(data: Any, key: Any) -> Any:
        tickets = task.tickets(data, key, task.examples // size, size)
        return task.batch(data, jax.tree.map(lambda ticket: ticket[0], tickets))

    return first


def _source_digest(function: Callable[..., Any]) -> str:
    """The source of a calibration of ours: of all files of its folder, since they share code."""
    folder = Path(inspect.getfile(inspect.unwrap(function))).parent
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class _Canonical:
    """Writes jaxprs into a digest, variables numbered in the order in which they are met."""

    def __init__(self, digest: Any):
        self.digest = digest
        self.seen: list[Any] = []

    def write(self, *words: Any) -> None:
        self.digest.update((" ".join(map(str, words)) + "\n").encode())

    def closed(self, closed: Any) -> None:
        self.jaxpr(closed.jaxpr)
        for constant in closed.consts:
            self.value(constant)

    def jaxpr(self, jaxpr: Any) -> None:
        numbers: dict[Any, int] = {}

        def named(atom: Any) -> str:
            if isinstance(atom, jex.Literal):
                return f"{np.asarray(atom.val).tolist()!r}:{atom.aval}"
            number = numbers.setdefault(atom, len(numbers))
            return f"v{number}:{atom.aval}"

        self.write("in", *map(named, (*jaxpr.constvars, *jaxpr.invars)))
        for equation in jaxpr.eqns:
            self.write(equation.primitive.name, *map(named, equation.invars))
            for name in sorted(equation.params):
                self.write(name)
                if name == "callback":
                    self.function(equation.params[name])
                else:
                    self.value(equation.params[name])
            self.write("->", *map(named, equation.outvars))
        self.write("out", *map(named, jaxpr.outvars))

    def value(self, value: Any) -> None:
        """A parameter of an equation, or a constant."""
        if isinstance(value, jex.ClosedJaxpr):
            self.closed(value)
        elif isinstance(value, jex.Jaxpr):
            self.jaxpr(value)
        elif isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            self.value(jax.random.key_data(value))
        elif isinstance(value, np.ndarray | jax.Array):
            array = np.asarray(value)
            self.write("array", array.dtype, array.shape)
            self.digest.update(np.ascontiguousarray(array).tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                self.write(key)
                self.value(value[key])
        elif isinstance(value, set | frozenset):
            self.write("set", *sorted(map(_text, value)))
        elif isinstance(value, tuple | list):
            self.write(type(value).__name__, len(value))
            for entry in value:
                self.value(entry)
        else:
            self.write(_text(value))

    def function(self, function: Any) -> None:
        """What a callback computes on the host, of which a jaxpr says nothing: its code and the
        values it holds."""
        function = getattr(function, "callback_func", function)  # JAX's own wrapping
        if isinstance(function, functools.partial):
            self.value((function.args, function.keywords))
            return self.function(function.func)
        if inspect.ismethod(function):
            self.held(function.__self__)
            return self.function(function.__func__)
        self.write(_text(function))
        code = getattr(function, "__code__", None)
        if code is None:  # in C, or an object that is called
            return self.held(function)
        self.code(code)
        closed = [closed.cell_contents for closed in function.__closure__ or ()]
        for value in (
            *(function.__defaults__ or ()),
            *(function.__kwdefaults__ or {}).values(),
            *closed,
        ):
            self.held(value)
        self.globals(function)

    def globals(self, function: Any) -> None:
        """What a function of the caller's reads from its module: numbers, texts, arrays, and
        functions, each once."""
        if "site-packages" in function.__code__.co_filename:
            return
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            own = inspect.isfunction(value) and value.__module__ == function.__module__
            if own and value not in self.seen:
                self.seen.append(value)
                self.function(value)
            elif isinstance(
                value, int | float | complex | str | tuple | list | dict | np.ndarray | jax.Array
            ):
                self.write(name)
                self.value(value)

    def held(self, value: Any) -> None:
        """A value that a function on the host holds: an object by its attributes."""
        if inspect.isfunction(value) or isinstance(value, functools.partial):
            self.function(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type | np.ndarray | jax.Array):
            self.write(_text(type(value)))
            for name, attribute in sorted(vars(value).items()):
                self.write(name)
                self.value(attribute)
        else:
            self.value(value)

    def code(self, code: Any) -> None:
        self.write(code.co_code.hex(), *code.co_names)
        for constant in code.co_consts:
            if inspect.iscode(constant):
                self.code(constant)
            else:
                self.write(_text(constant))


def _text(value: Any) -> str:
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return without_address(value)
