"""A study resolved, once: its names turned into a task, a model, schemes and their rules, all of it
checked.

    Study -> resolve -> Resolved: what is drawn, trained, looked at and identified downstream
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.core import Tracer

from jaxinit import calibrate, introspect
from jaxinit.analysis.records import Point
from jaxinit.engine import memory, sweep, training
from jaxinit.introspect import Functional, Params, computing_in, functional, widened
from jaxinit.models import ACTIVATIONS, MODELS
from jaxinit.names import Named, find
from jaxinit.schemes import SCHEMES, scheme_named
from jaxinit.spec import Leaf, Rule, Scheme, rules, under
from jaxinit.study import (
    ATTENTION,
    DEFAULTS,
    MODELS_TAKING,
    MOST,
    PICTURES,
    RATES,
    RECURRENT,
    SEARCHED_TOO,
    SYNTHETIC,
    TASKS_TAKING,
    BadStudy,
    Study,
    check_also,
    check_makes_optimizer,
    check_name,
    check_settings,
    model_options,
    option,
)
from jaxinit.tasks import TASKS, Task, is_file_of_arrays, is_folder_of_text, task_from_file
from jaxinit.tasks.arrays import LOSSES
from jaxinit.tasks.base import Seen, count_of
from jaxinit.tasks.losses import caller_error, check_number, cost_of_zeros

# Of a study's settings, those that a caller's model takes where it names such an argument.
OWN_MODELS_TAKE = ("activation", "norm", "residual")
WIDTHS = ("hidden", "hidden_features")  # what the width of a model is called
WHILE_DRAWN = 3  # times the size of a validation set or of a model: what its drawing needs

EPOCHS_PER_CHUNK = 2
# examples on one core: what stays in its cache is faster than all at once (docs/performance.md)
VALIDATED_AT_ONCE = 64
Calibration: TypeAlias = Callable[
    [calibrate.Problem, Params, calibrate.Batch], calibrate.Calibrated
]


@dataclass(frozen=True, eq=False)
class Resolved:
    """A checked study: its defaults filled in, its names resolved to objects, once.

    `schemes` has the scheme that each name draws with, under the study's optimizer, `rules` what
    it says of every parameter, `calibrations` what corrects the draws of `scheme+calibration`.
    `model` is what is trained; `whole` is the same network with nothing that hides a product, and
    is what is looked at. `optimizer` makes what trains it, for a learning rate.
    """

    study: Study
    task: Task
    model: Functional
    whole: Functional
    optimizer: training.Optimizer
    schemes: dict[str, Scheme]
    rules: dict[str, dict[str, Rule]]
    calibrations: dict[str, Calibration]

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The parameters as they are kept, by shape and dtype alone."""
        dtype = jnp.dtype(self.study.param_dtype)
        return {leaf.name: jax.ShapeDtypeStruct(leaf.shape, dtype) for leaf in self.model.leaves}

    def multipliers(self, scheme: str) -> dict[str, float]:
        """What a scheme multiplies each parameter by in the forward pass."""
        return {leaf: rule.multiplier for leaf, rule in self.rules[scheme].items()}

    def effective(self, params: Params, multipliers: Mapping[str, Any]) -> Params:
        """Parameters as the forward pass sees them: times their multipliers."""
        return {leaf: w * multipliers[leaf] for leaf, w in widened(params).items()}

    def as_trained(self, params: Params, multipliers: Mapping[str, Any], x: jax.Array) -> jax.Array:
        """What a training step under a scheme computes, without its noise, by the whole model."""
        return self.whole.as_trained(self.effective(params, multipliers), x)

    def cost(self, params: Params, multipliers: Mapping[str, Any], x: Any, y: Any) -> jax.Array:
        """The loss of a batch as it is trained, without noise; the key that it sees is a fixed
        one."""
        return loss_as_trained(self.task, self.whole, self.effective(params, multipliers), x, y)

    def loss_of_outputs(self, x: Any) -> Callable[[Any, Any], jax.Array]:
        """The loss as a function of the outputs for inputs x and of y: what signals come back from.

        Raises: BadStudy for a loss that depends on parameters by another way than the outputs, and
        for several inputs.
        """
        check_one_input(self.task, "signals are")
        ways = [name for name in ("params", "apply") if name in self.task.loss_sees]
        if ways:
            raise BadStudy(
                f"signals come back from the outputs, and the loss of task {self.task.name!r} sees "
                f"{' and '.join(ways)} beside them; look at the network on a task without that"
            )
        if not self.task.loss_sees:
            return self.task.loss
        seen = Seen({}, jax.random.key(0), x, partial(self.whole.as_trained, {}))
        return lambda outputs, y: self.task.loss_of(outputs, y, seen)

    def trials(self, points: Sequence[Point], evaluations_per_epoch: int) -> training.Trial:
        """The traced settings of the trials at `points`, stacked."""
        study = self.study

        def same(value: float, dtype: Any) -> np.ndarray:
            return np.full(len(points), value, dtype)

        def unless(value: float | None) -> np.ndarray:
            return same(math.inf if value is None else value, np.float32)

        scales = None
        if self._scales():
            by_scheme = {name: training.Scales.of(by_leaf) for name, by_leaf in self.rules.items()}
            of_points = [by_scheme[point.scheme] for point in points]
            scales = jax.tree.map(lambda *scales: np.stack(scales), *of_points)
        trial = training.Trial(
            seed=np.asarray([point.seed for point in points], np.int32),
            lr=np.asarray([point.rate for point in points], np.float32),
            clip=unless(study.clip),
            clip_value=unless(study.clip_value),
            l2=same(study.l2, np.float32),
            weight_decay=same(study.weight_decay, np.float32),
            target=np.full(len(points), study.target, np.float32),
            budget=same(study.epochs * evaluations_per_epoch, np.int32),
            scales=scales,
            dropout=same(study.dropout, np.float32) if study.dropout else None,
            warmup=same(study.warmup, np.float32) if paced(study) else None,
        )
        if study.also is None:
            return trial
        setting, _ = study.also
        searched = np.asarray([point.also for point in points], np.float32)
        if setting in SEARCHED_TOO:
            return trial._replace(**{setting: searched})
        return trial._replace(of_optimizer={setting: searched})

    def trial(self, point: Point, evaluations_per_epoch: int) -> training.Trial:
        """The traced settings of the trial at a point."""
        return jax.tree.map(lambda a: a[0], self.trials([point], evaluations_per_epoch))

    def program(self, mapping: sweep.Mapping) -> training.Program:
        """The training program of a device that runs its trials so."""
        study = self.study
        return training.Program(
            self.model,
            self.task,
            self.optimizer,
            batch=study.batch,
            evaluations=study.evaluations,
            epochs=min(EPOCHS_PER_CHUNK, study.epochs),
            at_once=VALIDATED_AT_ONCE if mapping == "map" else None,
            schedule=study.schedule,
        )

    def _scales(self) -> bool:
        """Whether any scheme scales anything: a study without such schemes need not multiply."""
        for by_leaf in self.rules.values():
            for rule in by_leaf.values():
                if (rule.multiplier, rule.lr_scale, rule.wd_scale) != (1, 1, 1):
                    return True
        return False


def paced(study: Study) -> bool:
    """Whether the rate has a course, so that its factors must be computed."""
    searched = study.also is not None and study.also[0] == "warmup"
    return searched or bool(study.warmup) or study.schedule != "constant"


def resolve(
    study: Study,
    schemes: Mapping[str, Scheme] | None = None,
    tasks: Mapping[str, Callable[..., Task]] | None = None,
    models: Mapping[str, Callable[..., nnx.Module]] | None = None,
) -> Resolved:
    """Resolve the names of a study and check everything that can be checked before any work.

    Objects that the study holds, and names such as `FILE.py:NAME`, join `schemes`, `tasks` and
    `models`, which add to the names that it may use.
    Raises: BadStudy, one line that names what was got, what was expected and the nearest name.
    """
    with sweep.numerics(study):
        return _resolve(study, dict(schemes or {}), dict(tasks or {}), dict(models or {}))


def _resolve(
    study: Study,
    schemes: dict[str, Scheme],
    tasks: dict[str, Callable[..., Task]],
    models: dict[str, Callable[..., nnx.Module]],
) -> Resolved:
    """As `resolve`, in the arithmetic of the study."""
    check_also(study)
    optimizer = _optimizer(study)
    study, schemes, tasks, models = _with_objects(study, schemes, tasks, models)
    known_schemes = SCHEMES | schemes
    known_models: dict[str, Callable[..., nnx.Module]] = {**MODELS, **models}
    known_tasks = TASKS | tasks
    check_name("model", study.model, known_models)
    check_name("task", study.task, known_tasks)
    by_name, calibrations = _schemes(study, known_schemes)
    if study.activation is not None:
        check_name("activation", study.activation, ACTIVATIONS)
    search = study.search or ("grid" if study.lrs else "ladder")
    if search == "grid":
        study = replace(study, lrs=study.lrs or _grid(study.optimizer))
    study = replace(study, search=search)
    check_settings(study, *_takers(models, tasks))
    make = known_models[study.model]
    rules_of = {}
    try:
        task = _task(study, known_tasks[study.task])
        model = _functional(study, _model(study, task, make))
        if models or tasks:
            task = _tried(study, task, model)
        study = _with_target(study, task)
        for name, scheme in by_name.items():
            by_name[name], rules_of[name] = _under(scheme, name, model, study.optimizer)
    except BadStudy:
        raise
    except ValueError as error:
        raise BadStudy(str(error)) from error
    except Exception as error:
        if not (models or tasks or schemes):
            raise  # ours: a fault of this package
        raise BadStudy(
            f"what the study brings with it could not be built: {caller_error(error)}"
        ) from error
    if calibrations:
        check_one_input(task, "a calibration is")
    whole = _whole(study, task, model, make)
    if (study.dtype, study.param_dtype) != ("float32", "float32"):  # else there is nothing to cast
        model, whole = computing_in(model, study.dtype), computing_in(whole, study.dtype)
    return Resolved(study, task, model, whole, optimizer, by_name, rules_of, calibrations)


def _optimizer(study: Study) -> training.Optimizer:
    """What makes the study's optimizer for a rate: one of ours, or a function of the caller's.

    Raises: BadStudy for a name that is not known, an object that makes none, or one without the
    argument that is searched beside the rate.
    """
    make = _maker_of(study.optimizer)
    if study.also is None or study.also[0] in SEARCHED_TOO:
        return make
    setting, values = study.also
    _check_argument(study.optimizer, make, setting)
    return _tried_out(study.optimizer, make, {setting: values[0]})


def _check_argument(name: str, make: training.Optimizer, setting: str) -> None:
    """Raises: BadStudy unless an optimizer has an argument that can be searched."""
    numbers = []
    for argument in inspect.signature(make).parameters.values():
        if isinstance(argument.default, float | int) and not isinstance(argument.default, bool):
            numbers.append(argument.name)
    known = [*SEARCHED_TOO, *numbers]
    named = inspect.signature(make).parameters
    if setting not in known and (setting not in named or setting == "learning_rate"):
        near = difflib.get_close_matches(setting, known, 1, cutoff=0.0)[0]
        raise BadStudy(
            f"nothing that can be searched is called {setting!r} under optimizer {str(name)!r}; "
            f"the nearest is {near!r} (there are {', '.join(known)})"
        )


def _maker_of(name: str) -> training.Optimizer:
    """The function that a name of an optimizer stands for, tried out where it is not ours."""
    if name in training.OPTIMIZERS:
        return training.OPTIMIZERS[name]
    make = _object_of(name, {})
    if make is None:
        of_optax = _of_optax()
        check_name("optimizer", name, [*dict.fromkeys([*training.OPTIMIZERS, *of_optax])])
        make = of_optax[name]
    check_makes_optimizer(make)
    return _tried_out(name, make, {})


def _tried_out(
    name: str, make: training.Optimizer, arguments: Mapping[str, float]
) -> training.Optimizer:
    """A function that makes optimizers, after a step of what it makes. Raises: BadStudy."""
    wanted = "it must be a function of a learning rate that makes an Optax optimizer"
    traced = " and ".join(["a rate", *arguments])
    made = []

    def step(lr: jax.Array, arguments: Mapping[str, jax.Array]) -> Any:
        """As it is used: at a rate that is traced, on parameters that it is given."""
        made.append(make(lr, **arguments))
        if not isinstance(made[-1], optax.GradientTransformation):
            return lr
        weights = {"w": jnp.ones(2)}
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            return made[-1].update(weights, made[-1].init(weights), weights)

    try:
        jax.eval_shape(step, jnp.float32(0.1), jax.tree.map(jnp.float32, dict(arguments)))
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise BadStudy(
            f"optimizer {str(name)!r} failed with {type(error).__name__} at {traced} that is "
            f"traced: {reason}; {wanted} and needs no more than the gradient, such as optax.adamw"
        ) from error
    if not isinstance(made[-1], optax.GradientTransformation):
        raise BadStudy(
            f"optimizer {str(name)!r} made {type(made[-1]).__name__} for a rate; {wanted}, such as "
            "optax.adamw"
        )
    return make


def _of_optax() -> dict[str, training.Optimizer]:
    """The optimizers of Optax by name: its public functions of a learning rate first."""
    found = {}
    for module in (optax.contrib, optax):
        for name, make in vars(module).items():
            if name.startswith(("_", "scale_by_")) or not inspect.isfunction(make):
                continue
            first = next(iter(inspect.signature(make).parameters), None)
            if first == "learning_rate":
                found[name] = make
    return found


def _grid(optimizer: str) -> tuple[float, ...]:
    """The rates of a grid where none are given. Raises: BadStudy for a caller's optimizer."""
    if optimizer not in RATES:
        raise BadStudy(
            f"the rates of optimizer {optimizer!r} are not known; give those of the grid with "
            "--lrs, or leave --search grid out for a ladder, which finds them"
        )
    return RATES[optimizer]


def _with_objects(
    study: Study,
    schemes: dict[str, Scheme],
    tasks: dict[str, Callable[..., Task]],
    models: dict[str, Callable[..., nnx.Module]],
) -> tuple[Study, dict[str, Scheme], dict[str, Callable[..., Task]], dict[str, Any]]:
    """The study, and the names that it may use beside ours with the objects that it brings."""
    for name in (*study.schemes, study.baseline):
        scheme, _ = parts(name, SCHEMES | schemes)
        own = _object_of(name if isinstance(name, Named) else scheme, SCHEMES | schemes)
        if own is not None:
            schemes[str(scheme)] = own
    task = _object_of(study.task, TASKS | tasks)
    if task is None and is_file_of_arrays(study.task):
        task = partial(task_from_file, study.task)
    if task is None and study.task not in TASKS | tasks and is_folder_of_text(study.task):
        task = partial(_text_of, study.task)
    if task is not None:
        tasks[str(study.task)] = (lambda: task) if isinstance(task, Task) else task
    model = _object_of(study.model, MODELS | models)
    name = next((name for name, ours in MODELS.items() if ours is model), str(study.model))
    if model is not None and name not in MODELS:  # ours take all their options under our names
        models[name] = model if _makes(model) else lambda: model
    names = {
        "model": name,
        "task": str(study.task),
        "optimizer": str(study.optimizer),
        "schemes": tuple(map(str, study.schemes)),
        "baseline": str(study.baseline),
    }
    return replace(study, **names), schemes, tasks, models


def _makes(model: Any) -> bool:
    """Whether a caller's model is a function that makes one: neither a pair (init, apply), nor a
    Linen module, which is called with inputs."""
    is_module = hasattr(model, "init") and hasattr(model, "apply")
    return callable(model) and (inspect.isclass(model) or not is_module)


def _text_of(folder: str, /, length: int = 50) -> Task:
    """The next character of the texts in a folder."""
    return TASKS["text"](length=length, file=folder)


def _object_of(name: str, known: Mapping[str, Any]) -> Any:
    """The object that a name brings with it or says where to find; None for a name that is known,
    or that is none of these. Raises: BadStudy for a place without it."""
    if isinstance(name, Named):
        return name.object
    if name in known or ":" not in name or "(" in name or is_file_of_arrays(name):
        return None
    try:
        return find(name)
    except LookupError as error:
        raise BadStudy(str(error.args[0])) from error


def _whole(
    study: Study, task: Task, model: Functional, make: Callable[..., nnx.Module]
) -> Functional:
    """The model with nothing that hides a product: a time loop in one piece, its gradient uncut;
    blocks not scanned."""
    if study.model in ATTENTION:
        return functional(_model(study, task, partial(make, scan=False)))
    if study.model not in RECURRENT or study.bidirectional:
        return model
    in_one_piece = replace(study, segment=task.length, truncate=None)
    return functional(_model(in_one_piece, task, make))


def _schemes(
    study: Study, known: Mapping[str, Scheme]
) -> tuple[dict[str, Scheme], dict[str, Calibration]]:
    """The schemes of a study's names, and the calibrations of those that name one."""
    schemes, calibrations = {}, {}
    for name in study.schemes:
        scheme, calibration = parts(name, known)
        schemes[name] = scheme_named(scheme, known)
        if calibration:
            check_name("calibration", calibration, calibrate.CALIBRATIONS)
            calibrations[name] = calibrate.CALIBRATIONS[calibration]
    return schemes, calibrations


def loss_as_trained(task: Task, model: Functional, params: Params, x: Any, y: Any) -> jax.Array:
    """The loss of a batch in training without noise, the key that it sees a fixed one."""
    apply = partial(model.as_trained, params)
    return task.loss_of(apply(x), y, Seen(params, jax.random.key(0), x, apply))


def check_one_input(task: Task, what: str) -> None:
    """Raises: BadStudy for a task of several inputs; `what` is to be one for a single array."""
    if task.several_inputs:
        raise BadStudy(
            f"{what} for a task whose x is one array, and that of task {task.name!r} has "
            f"{len(jax.tree.leaves(task.data['valid_x']))}; join them into one"
        )


def _tried(study: Study, task: Task, model: Functional) -> Task:
    """The task, whose loss takes what the model gives; with its chance level, where that is a
    matter of the model's parameters.

    Raises: BadStudy for a model that fails on the inputs, or whose outputs are other than ours
    would be, for a loss that knows no others; ValueError, one line, for a loss that fails.
    """
    params = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for leaf in model.leaves}
    x, y = task.data["valid_x"], task.data["valid_y"]
    try:
        outputs = jax.eval_shape(model.as_trained, params, x)
    except Exception as error:
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(x)]
        raise BadStudy(
            f"model {study.model!r} failed on inputs {', '.join(map(str, shapes))} of task "
            f"{task.name!r}: {caller_error(error)}"
        ) from error
    got = getattr(outputs, "shape", type(outputs).__name__)
    steps = (task.length,) if task.readout == "all" else ()
    expected = (count_of(x), *steps, task.out_features)
    if task.loss in LOSSES.values() and got != expected:
        hint = "the last axis is out_features, the third argument that a model is built with"
        if len(got) > len(expected) and got[-1:] == expected[-1:]:
            hint = (
                f"inputs come as [examples, {task.length}, {task.in_features}], with an axis of "
                "time; flatten them, x.reshape(x.shape[0], -1), or give the last step's outputs "
                "(readout='last' of our models)"
            )
        raise BadStudy(
            f"model {study.model!r} gives outputs {got} and task {task.name!r} wants {expected}: "
            f"{hint}"
        )
    if math.isnan(task.chance):
        task = replace(task, chance=cost_of_zeros(task, params))
    check_number(
        lambda params: loss_as_trained(task, model, params, x, y),
        params,
        f"the model's outputs {got} and y {y.shape}",
    )
    return task


def _with_target(study: Study, task: Task) -> Study:
    """The study with its target, checked, like its batch, against the task. Raises: BadStudy."""
    if study.target is None:
        study = replace(study, target=task.target)
    assert study.target is not None
    task.check_target(study.target)
    if study.batch > task.examples:
        raise BadStudy(
            f"batch is at most {task.examples}, the training examples of {task.name!r}; got "
            f"{study.batch}"
        )
    return study


def _under(
    scheme: Scheme, name: str, model: Functional, optimizer: str
) -> tuple[Scheme, dict[str, Rule]]:
    """The scheme with its rates for the study's optimizer, and its rules.

    Raises: ValueError, as `rules`; BadStudy if it has none.
    """
    try:
        scheme = under(scheme, optimizer)
    except ValueError as error:
        raise BadStudy(f"scheme {name!r}: {error}; choose another with --optimizer") from error
    by_leaf = rules(scheme, model.leaves)
    for leaf, rule in by_leaf.items():
        factors = {"multiplier": rule.multiplier, "rate": rule.lr_scale, "decay": rule.wd_scale}
        for what, factor in factors.items():
            if not isinstance(factor, Tracer) and not math.isfinite(factor):
                raise BadStudy(
                    f"scheme {name!r} gives parameter {leaf!r} a {what} times {factor}; change its "
                    "settings"
                )
        if rule.optimizers and optimizer not in rule.optimizers:
            made_for = " or ".join(rule.optimizers)
            raise BadStudy(
                f"scheme {name!r} has rates for {made_for}, and the optimizer is {optimizer!r}; "
                f"use --optimizer {rule.optimizers[0]}, or another scheme"
            )
    return scheme, by_leaf


def check_memory(
    resolved: Resolved,
    trials_at_once: int,
    *,
    batch: int | None = None,
    model: Functional | None = None,
    recorded: int = 0,
) -> None:
    """Refuse a study that cannot fit into memory, before anything of it is allocated.

    Counted are the initial parameters of all schemes and seeds, which are drawn first; for each of
    the trials at once its parameters, their gradient, the optimizer's state and what the backward
    pass of one batch keeps (of `model`, by default the one that is trained); and `recorded` bytes
    of records. What else the compiled program needs is known only to its compiler.
    Raises: BadStudy that says what is needed, what is free, and which settings make most of it.
    """
    needs = memory_needs(resolved, trials_at_once, batch=batch, model=model, recorded=recorded)
    needed, free = sum(need.bytes for need in needs), memory.free_on_host()
    if jax.default_backend() != "cpu":
        free = min(free, memory.free_memory(jax.local_devices()))
    if needed > free:
        most = max(needs, key=lambda need: need.bytes)
        raise BadStudy(
            f"the study needs {_mebibytes(needed)} of memory and {_mebibytes(free)} are free; "
            f"{_mebibytes(most.bytes)} of it are {most.what}: {most.advice}"
        )


class Need(NamedTuple):
    """A part of the memory that a study needs, and what makes it smaller."""

    what: str
    bytes: int
    advice: str


def memory_needs(
    resolved: Resolved,
    trials_at_once: int,
    *,
    batch: int | None = None,
    model: Functional | None = None,
    recorded: int = 0,
) -> list[Need]:
    """What `check_memory` counts."""
    batch = batch or resolved.study.batch
    model = model or resolved.model
    with sweep.numerics(resolved.study):
        needs = [*_needs(resolved, trials_at_once, batch, model)]
    return [*needs, Need("the records", recorded, "make epochs, evaluations, seeds or lrs fewer")]


def _needs(
    resolved: Resolved, trials_at_once: int, batch: int, model: Functional
) -> Iterator[Need]:
    """What training needs memory for: the draws in float32, all else in what it is kept in."""
    study, leaves = resolved.study, resolved.model.leaves
    largest = _largest(leaves)
    width = _size_of(largest, study)
    length = "length" if study.length else "layers"
    schemes, seeds = len(resolved.schemes), len(study.tuning) + study.seeds
    params = resolved.shapes
    drawn = 4 * sum(math.prod(leaf.shape) for leaf in leaves)
    drawing = 8 * math.prod(largest.shape)  # random bits, and what is made of them
    yield Need(
        f"the initial parameters of {schemes} schemes x {seeds} seeds",
        seeds * (schemes * drawn + drawing),
        f"make {width}, seeds or schemes fewer",
    )
    optimizer = jax.eval_shape(resolved.optimizer(1.0).init, params)
    yield Need(
        f"the parameters and the optimizer of {trials_at_once} trials at once",
        trials_at_once
        * (2 * _bytes(params) + _bytes(optimizer)),  # the gradient is as large as they are
        f"make {width} smaller",
    )
    kept = _kept_for_backward(resolved.task, model, params, batch)
    yield Need(
        f"what the backward pass keeps of a batch of {batch}, {trials_at_once} times",
        trials_at_once * kept,
        f"make batch, {length} or hidden smaller",
    )


def _kept_for_backward(
    task: Task, model: Functional, params: Mapping[str, jax.ShapeDtypeStruct], batch: int
) -> int:
    """Bytes that the backward pass of one batch keeps, by shapes alone; those of the parameters are
    counted too."""
    data = task.data

    def of_batch(a: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype)

    x, y = jax.tree.map(of_batch, (data["valid_x"], data["valid_y"]))

    def backward(params: Params, x: Any, y: jax.Array) -> Any:
        return jax.vjp(lambda p: loss_as_trained(task, model, p, x, y), params)[1]

    return _bytes(jax.eval_shape(backward, params, x, y))


def _bytes(shapes: Any) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(shapes))


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _task(study: Study, make: Callable[..., Task]) -> Task:
    """The task, unless its validation set alone cannot fit into memory. Raises: BadStudy."""
    given: dict[str, Any] = {}
    if study.length is not None:
        given["length"] = study.length
    if study.text is not None:
        given["file"] = study.text
    if study.task in SYNTHETIC and study.length is not None and make is TASKS[study.task]:
        shapes = jax.eval_shape(lambda: make(**given).data)
        needed, free = WHILE_DRAWN * _bytes(shapes), memory.free_on_host()
        if needed > free:
            raise BadStudy(
                f"the validation set of task {study.task!r} needs {_mebibytes(needed)} of memory "
                f"at a length of {study.length}, and {_mebibytes(free)} are free; make length "
                "smaller"
            )
    return make(**given)


def _functional(study: Study, make: Callable[[], nnx.Module]) -> Functional:
    """The model as pure functions.

    Raises: BadStudy for a parameter of more elements than 31 bits count, and for a model that alone
    fills the memory."""

    def checked() -> nnx.Module:  # seen by its shapes first, before anything is allocated
        model = make()
        leaves = introspect.leaves(model)
        largest = _largest(leaves)
        if math.prod(largest.shape) > MOST:
            raise BadStudy(
                f"parameter {largest.name} has the shape {largest.shape}, "
                f"{math.prod(largest.shape)} numbers; at most {MOST} can be addressed: make "
                f"{_size_of(largest, study)} smaller"
            )
        # The start of running statistics is a value, for which the whole model is built once.
        copies = WHILE_DRAWN if nnx.to_flat_state(nnx.state(model, nnx.BatchStat)) else 1
        needed = 4 * copies * sum(math.prod(leaf.shape) for leaf in leaves)
        free = memory.free_on_host()
        if needed > free:
            raise BadStudy(
                f"the parameters need {_mebibytes(needed)} of memory and {_mebibytes(free)} are "
                f"free; make {_size_of(largest, study)} smaller"
            )
        return model

    return functional(checked)


def _largest(leaves: Sequence[Leaf]) -> Leaf:
    return max(leaves, key=lambda leaf: math.prod(leaf.shape))


def _size_of(leaf: Leaf, study: Study) -> str:
    """The setting that makes a parameter large, or that makes most of its kind."""
    if study.layers > study.hidden:
        return "layers"
    sizes = {study.length: "length", study.embedding: "embedding", study.hidden: "hidden"}
    return sizes.get(max(leaf.shape, default=1), "hidden")


def _takers(
    models: Mapping[str, Callable[..., nnx.Module]], tasks: Mapping[str, Callable[..., Task]]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Which models and which tasks take a setting, the caller's own by the arguments that they
    name."""
    models_taking = {setting: list(takers) for setting, takers in MODELS_TAKING.items()}
    tasks_taking = {setting: list(takers) for setting, takers in TASKS_TAKING.items()}
    for name, make in models.items():
        named, any_keyword = arguments_of(make)
        for setting in OWN_MODELS_TAKE:
            if any_keyword or setting in named:
                models_taking[setting].append(name)
    for name, make in tasks.items():
        named = inspect.signature(make).parameters
        tasks_taking["stateful"].append(name)  # what its batches are is the caller's affair
        for setting, argument in (("length", "length"), ("text", "file")):
            if argument in named:
                tasks_taking[setting].append(name)
    return models_taking, tasks_taking


def parts(name: str, known: Mapping[str, Scheme]) -> tuple[str, str]:
    """The scheme and the calibration (or "") of a name such as `orthogonal+lsuv`."""
    scheme, plus, calibration = name.rpartition("+")
    of_a_setting = calibration.endswith(")")  # the plus of forget_bias(+2)
    if name in known or not plus or not calibration or of_a_setting:
        return name, ""
    return scheme, calibration


def made(
    make: Callable[..., Any],
    sizes: tuple[int, int, int],
    rngs: nnx.Rngs,
    options: Mapping[str, Any],
) -> Any:
    """What a function makes of the arguments that it names, of `sizes` (in_features, hidden or
    hidden_features, out_features), `rngs` and `options`; all options if it takes any keyword.

    The sizes are given in this order to one that calls them something else.
    """
    named, any_keyword = arguments_of(make)
    given = {"rngs": rngs, **options}
    taken = given if any_keyword else {name: given[name] for name in named if name in given}
    if by_place(named):
        return make(*sizes, **taken)
    first, width, last = sizes
    by_name = {"in_features": first, "out_features": last} | dict.fromkeys(WIDTHS, width)
    return make(**{name: by_name[name] for name in named if name in by_name}, **taken)


def by_place(named: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function that makes a model has names of its own for the sizes that it needs."""
    known = {"in_features", "out_features", "rngs", *WIDTHS, *DEFAULTS, "readout"}
    for argument in named.values():
        if argument.kind is argument.VAR_POSITIONAL:
            return True
        has_place = argument.kind in (argument.POSITIONAL_ONLY, argument.POSITIONAL_OR_KEYWORD)
        if has_place and argument.default is argument.empty and argument.name not in known:
            return True
    return False


def _check_sizes_are_taken(study: Study, make: Callable[..., Any]) -> None:
    """Raises: BadStudy for a width or a depth that was asked of a caller's model, which takes
    none."""
    named, any_keyword = arguments_of(make)
    for setting, names in (("hidden", WIDTHS), ("layers", ("layers",))):
        changed = getattr(study, setting) != DEFAULTS[setting]
        taken = any_keyword or by_place(named) or any(name in named for name in names)
        if changed and not taken:
            raise BadStudy(
                f"{option(setting)} {getattr(study, setting)}: model {study.model!r} takes no "
                f"{' or '.join(names)}; leave it out, or give its function that argument"
            )


def arguments_of(make: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments of a function that makes a model, and whether it takes any other keyword."""
    if inspect.isclass(make):
        # Of a class of NNX itself nothing is seen but *args and **kwargs.
        _, *parameters = inspect.signature(make.__init__).parameters.values()
    else:
        parameters = list(inspect.signature(make).parameters.values())
    named, any_keyword = {}, False
    for argument in parameters:
        if argument.kind is argument.VAR_KEYWORD:
            any_keyword = True
        else:
            named[argument.name] = argument
    return named, any_keyword


def _model(study: Study, task: Task, make: Callable[..., nnx.Module]) -> Callable[[], nnx.Module]:
    """The constructor of the study's model for its task. Raises: BadStudy when the two do not
    fit."""
    every_step = task.readout == "all"
    instead = {"mlp": "rnn, lstm or gru", "vit": "transformer"}
    instead |= dict.fromkeys(PICTURES, "rnn, lstm or gru")
    if every_step and study.model in instead:
        raise BadStudy(
            f"task {task.name!r} wants an output at every step, {study.model!r} gives one; use "
            f"{instead[study.model]}"
        )
    if task.several_inputs and study.model in MODELS:
        raise BadStudy(
            f"the x of task {task.name!r} is {len(jax.tree.leaves(task.data['valid_x']))} arrays, "
            f"and model {study.model!r} takes one; join them, or give a model of yours that takes "
            "them"
        )
    if study.model not in MODELS:
        _check_sizes_are_taken(study, make)
    options = model_options(study)
    in_features = task.in_features
    if study.model == "mlp":
        in_features *= task.length
    elif study.model not in ("vit", *PICTURES):
        options["readout"] = task.readout
    if study.model in RECURRENT:
        for name in ("unroll", "truncate"):
            steps = getattr(study, name)
            if steps is not None and steps > task.length:
                raise BadStudy(
                    f"{name} is at most {task.length}, the steps of task {task.name!r}; got {steps}"
                )
    elif study.model not in ("mlp", *PICTURES):
        options["length"] = task.length

    def built() -> nnx.Module:
        rngs = nnx.Rngs(0)
        model = made(make, (in_features, study.hidden, task.out_features), rngs, options)
        if isinstance(model, nnx.Module):
            # What the caller declared stays; of Flax's own layers axes and roles are known.
            return model if study.model in MODELS else introspect.declare(model)
        two = jax.tree.map(lambda a: a[:2], task.data["valid_x"])
        return introspect.adapt(model, two, rngs=rngs)

    return built
