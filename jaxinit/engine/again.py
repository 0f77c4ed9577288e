"""Studies that there are already: more schemes and seeds for one, the same once more, and what one
would cost."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinit.analysis import store
from jaxinit.analysis.answer import Answer
from jaxinit.analysis.folder import Folder, quoted
from jaxinit.analysis.records import Courses, Point
from jaxinit.analysis.search import plan_of, searches_of, trials_of_a_search
from jaxinit.analysis.store import Result
from jaxinit.engine import sweep
from jaxinit.engine.campaign import (
    check_resume,
    check_slots,
    default_slots,
    place,
    run,
    task_attributes,
)
from jaxinit.engine.cluster import Cluster
from jaxinit.engine.identity import changed, combined, identify
from jaxinit.engine.initial import draw_seed, kept
from jaxinit.engine.resolve import Resolved, check_memory, memory_needs, resolve
from jaxinit.engine.sharded import check_sharded
from jaxinit.study import BadStudy, Name, Study

SECONDS = 1.0  # of training, by which a study's time is estimated


def extend(
    path: str | Path,
    schemes: Sequence[Name] = (),
    seeds: int | None = None,
    *,
    mapping: sweep.Mapping | None = None,
    cluster: Cluster | None = None,
    slots_per_device: int | None = None,
    force_resume: bool = False,
    **options: Any,
) -> Answer:
    """Add schemes, seeds or both to a finished study: what its folder holds is kept, what it lacks
    is trained, and the records are those of the larger study run anew. Options are those of `run`.

    An extension that was stopped goes on by the same call.
    Raises: BadStudy where there is nothing to add, where the folder's study is not complete and
    not one with these schemes and seeds, or where what its names stand for has changed.
    """
    held = store.load(path)
    new = [scheme for scheme in schemes if scheme not in held.study.schemes]
    if seeds is not None and seeds < held.study.seeds:
        raise BadStudy(
            f"the study in {path} has {held.study.seeds} seeds, and trials are never taken away; "
            f"give more, got {seeds}"
        )
    larger = replace(
        held.study, schemes=(*held.study.schemes, *new), seeds=seeds or held.study.seeds
    )
    how: dict[str, Any] = {
        "mapping": mapping or _mapping(held, cluster),
        "cluster": cluster,
        "slots_per_device": slots_per_device,
        "force_resume": force_resume,
        **options,
    }
    if not held.complete:
        if larger == held.study and (schemes or seeds):  # an extension that was stopped
            return run(larger, out=path, **how)
        raise BadStudy(
            f"the study in {path} is not complete; go on with it first: jaxinit resume "
            f"{quoted(Path(path))}"
        )
    if larger == held.study:
        raise BadStudy(
            f"the study in {path} has all of these schemes and seeds; name others, or more seeds"
        )
    check_slots(slots_per_device)
    mapping = how["mapping"]
    check_resume(Path(path), held.about["lives"][-1], place(mapping, cluster), force_resume)
    resolved = resolve(larger, None, options.get("tasks"), options.get("models"))
    larger = resolved.study
    with sweep.numerics(larger):
        identity = identify(resolved)
        program = resolved.program(mapping or sweep.default_mapping())
        recorded = store.size_of_records(larger, program.evaluations_per_epoch)
        if mapping == "sharded":
            check_sharded(resolved)
        else:
            check_memory(resolved, jax.device_count(), recorded=recorded)
    there = held.about["identity"]
    here = identity | {
        part: {name: digest for name, digest in identity[part].items() if name in there[part]}
        for part in ("schemes", "calibrations")
    }
    changes = changed(there, here, larger)
    if changes:
        raise BadStudy(f"{path} cannot be extended: {'; '.join(changes)}")
    digest = combined(identity, larger.plain())
    per_epoch = program.evaluations_per_epoch
    courses = Courses(
        store.attributes(larger, per_epoch, task_attributes(resolved), digest),
        larger.epochs * per_epoch,
    )
    courses.take(held.records)
    about = {name: value for name, value in held.about.items() if name not in store.OF_THE_STUDY}
    about |= {"identity": identity, "digest": digest, "status": "interrupted"}
    folder = Folder(Path(path))
    with folder.locked():
        none = np.zeros(0, np.int64)
        arrays = courses.arrays() | {"seats": none}
        store.write_state(folder.path, arrays, digest, held.about["lives"])
        store.write_study(folder, larger, about, instead=held.study)
    return run(larger, out=path, **how)


def _mapping(held: Result, cluster: Cluster | None) -> sweep.Mapping | None:
    """How a study was run, which is how it goes on here."""
    return held.about["lives"][-1]["device"]["mapping"] if cluster is None else None


class Rerun(NamedTuple):
    """A study, the same once more, and in what their records differ, in words."""

    first: Result
    second: Result
    differences: list[str]


def rerun(
    path: str | Path, out: str | Path, *, cluster: Cluster | None = None, **options: Any
) -> Rerun:
    """Run the study of a folder again in a new one, and compare the records bit for bit.

    Under other versions, processors or devices they may part by rounding; how the conditions differ
    is among the differences.
    """
    first = store.load(path)
    new = Path(out)
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise BadStudy(f"{out} is not empty; give --out a new folder for the study run again")
    options = {"mapping": _mapping(first, cluster)} | options
    if options["mapping"] == "vmap":  # where their number shapes the program
        options = {"slots_per_device": first.about.get("slots_per_device")} | options
    second = run(first.study, out=out, cluster=cluster, **options)
    return Rerun(first, second, differences(first, second))


def differences(first: Result, second: Result) -> list[str]:
    """In what the records of two runs of a study differ."""
    if first.records.identical(second.records):
        return []
    one, other = ({_point(trial): trial for trial in _trials(r)} for r in (first, second))
    lines = []
    if one.keys() != other.keys():
        only = [sorted(a.keys() - b.keys()) for a, b in ((one, other), (other, one))]
        lines.append(f"{len(only[0])} trials are in the first alone, {len(only[1])} in the second")
    parted = []
    for point in sorted(one.keys() & other.keys()):
        for name in (*first.records.data_vars, "purpose"):
            a, b = one[point][name], other[point][name]
            if not a.equals(b):  # NaN equals NaN
                parted.append((point, name))
                break
    if parted:
        (scheme, rate, seed, _), name = parted[0]
        lines.append(
            f"{len(parted)} of {len(one.keys() & other.keys())} trials differ, the first of them "
            f"{scheme} at {rate:g}, seed {seed}, in {name}"
        )
    last, now = first.about["lives"][-1], second.about["lives"][-1]
    lines += store.changed_conditions(last, now)
    return lines or ["the attributes of the records"]


def _trials(result: Result) -> list[Any]:
    return [result.records.isel(trial=k) for k in range(result.records.sizes["trial"])]


def _point(trial: Any) -> tuple[str, float, int, float]:
    also = float(trial.also) if "also" in trial.coords else 0.0
    return str(trial.scheme.values), float(trial.lr), int(trial.seed), also


class Forecast(NamedTuple):
    """What a study would cost. Units: seconds, bytes; `seconds` is where no trial ends before the
    budget, which most do."""

    trials: int
    slots: int
    epochs: int
    seconds: float
    memory: int
    parameters: int


def forecast(
    study: Study, slots_per_device: int | None = None, *, out: str | Path | None = None
) -> Forecast:
    """What a study would cost here: its training program is compiled and runs for a second, and
    nothing is written. Raises: BadStudy as `run`, also of its folder `out`."""
    check_slots(slots_per_device)
    resolved = resolve(study)
    study = resolved.study
    Folder(Path(out or study.folder)).claim("study", {"study": study.plain()})
    mapping, devices = sweep.default_mapping(), jax.devices()
    slots = slots_per_device or default_slots(study, mapping, len(devices))
    with sweep.numerics(study):
        program = resolved.program(mapping)
        recorded = store.size_of_records(study, program.evaluations_per_epoch)
        needs = memory_needs(resolved, slots * len(devices), recorded=recorded)
        many = sweep.Sweep(program, resolved.task.data, slots * len(devices), devices, mapping)
        seconds = _seconds_of_a_step(resolved, many)
    trials = searches_of(study) * trials_of_a_search(study)
    turns = -(-trials // len(devices)) if mapping == "map" else -(-trials // many.slots)
    return Forecast(
        trials,
        many.slots // len(devices),
        study.epochs,
        turns * study.epochs * program.steps * seconds,
        sum(need.bytes for need in needs),
        sum(math.prod(leaf.shape) for leaf in resolved.model.leaves),
    )


def _seconds_of_a_step(resolved: Resolved, many: sweep.Sweep) -> float:
    """How long a step takes: of one trial on each device, or of as many as it has slots."""
    study = resolved.study
    scheme, also = study.schemes[0], study.also[1][0] if study.also else None
    point = Point(scheme, plan_of(study).rate(0), study.first_seed, also)
    drawn = jax.tree.map(np.asarray, {scheme: draw_seed(resolved, scheme, point.seed)})
    params = kept(resolved, drawn)[scheme]
    trial = resolved.trial(point, many.program.evaluations_per_epoch)
    together = len(many.devices) if many.mapping == "map" else many.slots
    waiting = [sweep.Joining(number, trial, params) for number in range(together)]

    def order(room: int) -> sweep.Orders:
        del room
        joining, waiting[:] = list(waiting), []
        return sweep.Orders(joining)

    began = math.inf
    for _ in many.run(order, waiting[0]):
        began = min(began, time.monotonic())  # compiled by now
        if time.monotonic() - began > SECONDS:
            break
    return many.pace.seconds
