"""The records of a study: what every trial left at each of its evaluations, and how it ended.

One row a trial, since every scheme has rates and seeds of its own: coordinates `scheme`, `lr` and
`seed`, and `purpose`, what the trial was last wanted for; where another setting is searched beside
the rate, the attribute `also` names it and the coordinate has its values. Variables over (trial,
epoch) are NaN from the end of the trial on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from jaxinit.analysis.outcome import LOST, Outcome
from jaxinit.analysis.search import End, Purpose
from jaxinit.analysis.survival import Times

TRACES = {
    "train_loss": "mean training loss since the evaluation before",
    "grad_norm": "mean global gradient norm since the evaluation before",
    "valid_loss": "validation loss",
    "metric": "validation metric",
}
# Epochs over which the metric is averaged before it is compared with the target: the shortest time
# over which ratios do not depend on how often an epoch is evaluated (docs/decisions).
WINDOW = 1
PURPOSES: tuple[Purpose, ...] = ("coarse", "fine", "tune", "report")


def window(evaluations_per_epoch: int) -> int:
    """How many evaluations `WINDOW` epochs have."""
    return WINDOW * evaluations_per_epoch


class Point(NamedTuple):
    """Which trial of a study: its scheme, its learning rate, its seed, and the value of the other
    setting that is searched, None where none is."""

    scheme: str
    rate: float
    seed: int
    also: float | None = None


@dataclass
class Course:
    """A trial so far: `traces` `[trace, evaluation]`, what it was last wanted for, how it stands,
    and how many evaluations it has had."""

    traces: np.ndarray
    purpose: Purpose
    outcome: Outcome = Outcome.UNFINISHED
    evaluations: int = 0

    def add(self, first: int, values: Mapping[str, np.ndarray], outcome: Outcome) -> None:
        """Put in what a trial did after its first evaluations."""
        for row, name in enumerate(TRACES):
            column = values[name]
            self.traces[row, first : first + len(column)] = column
            # One that is trained again is behind where it was stopped.
            self.evaluations = max(self.evaluations, first + len(column))
        self.outcome = outcome

    def stop(self, evaluations: int) -> None:
        """Drop what the trial did after so many evaluations, unless it ended by then."""
        if self.outcome != Outcome.UNFINISHED and self.evaluations <= evaluations:
            return
        self.traces[:, evaluations:] = np.nan
        self.evaluations = min(self.evaluations, evaluations)
        self.outcome = Outcome.STOPPED


@dataclass
class Courses:
    """The trials of a study under way, which become its records.

    `attrs` are those of the records; `evaluations` is the most that a trial can have.
    """

    attrs: dict[str, Any]
    evaluations: int
    by_point: dict[Point, Course] = field(default_factory=dict)

    def __post_init__(self):
        # A study asks for all ends after every piece: what is known of trials is not found anew.
        self._by_search: dict[tuple[str, float | None], list[Point]] = {}
        self._indexed = 0  # trials that these have; none is ever taken away
        self._ends: dict[Point, tuple[Outcome, int, End]] = {}

    def begin(self, point: Point, purpose: Purpose) -> None:
        """Make room for a trial."""
        traces = np.full((len(TRACES), self.evaluations), np.nan, np.float32)
        self.by_point[point] = Course(traces, purpose)

    def ended(self) -> int:
        """How many trials have ended."""
        outcomes = [course.outcome for course in self.by_point.values()]
        return sum(outcome != Outcome.UNFINISHED for outcome in outcomes)

    def ends(self, scheme: str, also: float | None = None) -> dict[tuple[float, int], End]:
        """How the trials of a scheme stand at a value of the other setting, by rate and seed: one
        that goes on as if it had been stopped where it is."""
        for point in islice(self.by_point, self._indexed, None):
            self._by_search.setdefault((point.scheme, point.also), []).append(point)
        self._indexed = len(self.by_point)
        ends = {}
        for point in self._by_search.get((scheme, also), ()):
            course = self.by_point[point]
            if course.evaluations or course.outcome is Outcome.FAILED:
                ends[point.rate, point.seed] = self._end(point, course)
        return ends

    def _end(self, point: Point, course: Course) -> End:
        known = self._ends.get(point)
        if known is None or known[:2] != (course.outcome, course.evaluations):
            metric = course.traces[list(TRACES).index("metric")]
            end = _end(course.outcome, course.evaluations, metric, self.attrs)
            self._ends[point] = known = course.outcome, course.evaluations, end
        return known[2]

    def dataset(self) -> xr.Dataset:
        """The records, ordered by scheme as the study names them, rate and seed."""
        schemes = list(self.attrs["schemes"])
        points = sorted(
            self.by_point,
            key=lambda point: (
                schemes.index(point.scheme),
                point.also or 0.0,
                point.rate,
                point.seed,
            ),
        )
        return _dataset(points, [self.by_point[point] for point in points], self)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, to be saved."""
        schemes = list(self.attrs["schemes"])
        table = np.asarray(
            [
                (
                    schemes.index(point.scheme),
                    point.seed,
                    PURPOSES.index(course.purpose),
                    course.outcome,
                    course.evaluations,
                )
                for point, course in self.by_point.items()
            ],
            np.int64,
        ).reshape(-1, 5)
        return {
            "trials": table,
            "rates": np.asarray([point.rate for point in self.by_point], np.float64),
            # NaN for None
            "also": np.asarray([point.also for point in self.by_point], np.float64),
            "traces": np.asarray([course.traces for course in self.by_point.values()], np.float32),
        }

    def take(self, records: xr.Dataset) -> None:
        """Take up the trials of the records of a study that differs in its schemes and seeds; what
        they are wanted for is to be said anew."""
        others = records.also.values if "also" in records.coords else [None] * len(records.trial)
        columns = (records.scheme, records.lr, records.seed, records.outcome)
        values = [column.values.tolist() for column in columns]
        traces = np.stack([records[name].transpose("trial", "epoch") for name in TRACES], axis=1)
        evaluations = np.rint(records.last_epoch.values * self.attrs["evaluations_per_epoch"])
        for *at, outcome, also, its, count in zip(
            *values, others, traces, evaluations, strict=True
        ):
            scheme, rate, seed = at
            point = Point(scheme, rate, seed, None if also is None else float(also))
            self.by_point[point] = Course(np.array(its), "coarse", Outcome(outcome), int(count))

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what `arrays` gave."""
        schemes = list(self.attrs["schemes"])
        columns = (arrays[name].tolist() for name in ("trials", "rates", "also"))
        for row, rate, also, traces in zip(*columns, arrays["traces"], strict=True):
            scheme, seed, purpose, outcome, evaluations = row
            point = Point(schemes[scheme], rate, seed, None if np.isnan(also) else also)
            self.by_point[point] = Course(
                np.array(traces), PURPOSES[purpose], Outcome(outcome), evaluations
            )


def _dataset(points: list[Point], courses: list[Course], all_of: Courses) -> xr.Dataset:
    attrs = {name: value for name, value in all_of.attrs.items() if name != "schemes"}
    per_epoch = attrs["evaluations_per_epoch"]
    shape = (len(points), len(TRACES), all_of.evaluations)
    traces = np.asarray([course.traces for course in courses], np.float32).reshape(shape)
    variables: dict[str, Any] = {}
    for row, (name, meaning) in enumerate(TRACES.items()):
        variables[name] = (("trial", "epoch"), traces[:, row], {"long_name": meaning})
    codes = {
        "flag_values": np.arange(len(Outcome), dtype=np.int8),
        "flag_meanings": " ".join(outcome.name.lower() for outcome in Outcome),
    }
    outcomes = np.asarray([course.outcome for course in courses], np.int8)
    variables["outcome"] = ("trial", outcomes, codes)
    trained = {
        "long_name": "epochs trained: the time to target of a converged trial",
        "units": "epochs",
    }
    epochs = np.asarray([course.evaluations / per_epoch for course in courses], np.float64)
    variables["last_epoch"] = ("trial", epochs, trained)
    coords = {
        "scheme": ("trial", np.asarray([point.scheme for point in points], object)),
        "lr": ("trial", np.asarray([point.rate for point in points], np.float64)),
        "seed": ("trial", np.asarray([point.seed for point in points], np.int64)),
        "purpose": ("trial", np.asarray([course.purpose for course in courses], object)),
        "epoch": np.arange(1, all_of.evaluations + 1) / per_epoch,
    }
    if "also" in attrs:
        coords["also"] = ("trial", np.asarray([point.also for point in points], np.float64))
    attrs["schemes"] = json.dumps(list(all_of.attrs["schemes"]))
    return xr.Dataset(variables, coords, attrs)


# What is read off records.


def schemes_of(records: xr.Dataset) -> list[str]:
    """The schemes that have trials, in the study's order."""
    return list(dict.fromkeys(map(str, records.scheme.values)))


def asked_of(records: xr.Dataset) -> list[str]:
    """The schemes of the study in its order, those without trials yet too."""
    return json.loads(records.attrs["schemes"])


def select(
    records: xr.Dataset, scheme: str, purpose: Purpose | None = None, lr: float | None = None
) -> xr.Dataset:
    """The trials of a scheme, of those only that were wanted for a purpose, or ran at a rate."""
    chosen = records.scheme.values == scheme
    if purpose is not None:
        chosen &= records.purpose.values == purpose
    if lr is not None:
        chosen &= records.lr.values == lr
    return records.isel(trial=np.flatnonzero(chosen))


def by_value(trials: xr.Dataset) -> dict[float | None, xr.Dataset]:
    """Trials by the value of the other setting that is searched; all of them where none is."""
    if "also" not in trials.coords:
        return {None: trials}
    values = trials.also.values
    return {v: trials.isel(trial=np.flatnonzero(values == v)) for v in np.unique(values).tolist()}


def by_rate_and_seed(records: xr.Dataset, scheme: str, purpose: Purpose) -> xr.Dataset:
    """The trials of a scheme for a purpose, of which every rate has all seeds: over (lr, seed,
    epoch).

    Raises: ValueError where some rate lacks a seed, as under a ladder.
    """
    trials = select(records, scheme, purpose).drop_vars(["scheme", "purpose"])
    rates, seeds = np.unique(trials.lr.values), np.unique(trials.seed.values)
    if len(rates) * len(seeds) != trials.sizes["trial"]:
        raise ValueError(
            f"the {purpose} trials of {scheme!r} are no grid: {trials.sizes['trial']} trials of "
            f"{len(rates)} rates and {len(seeds)} seeds; study with search='grid'"
        )
    return trials.set_index(trial=["lr", "seed"]).unstack("trial")


def have_run(trials: xr.Dataset) -> np.ndarray:
    """Which trials have begun, or could not be run and have failed."""
    return (trials.last_epoch.values > 0) | (trials.outcome.values == Outcome.FAILED)


def times_of(trials: xr.Dataset) -> Times:
    """The times to target of trials.

    Those that never ran are left out; an interrupted one is censored where it stopped, one that
    diverged or failed at the budget. Raises: ValueError when none has run.
    """
    outcome = trials.outcome.values
    last_epoch = trials.last_epoch.values
    ran = have_run(trials)
    time = np.where(np.isin(outcome, LOST), trials.attrs["budget"], last_epoch)
    event = outcome == Outcome.CONVERGED
    return Times(time[ran], event[ran])


def ends_of(records: xr.Dataset, scheme: str) -> dict[tuple[float, int], End]:
    """How the trials of a scheme ended, by rate and seed."""
    trials = select(records, scheme)
    per_epoch = records.attrs["evaluations_per_epoch"]
    columns = (trials.lr, trials.seed, trials.outcome, trials.last_epoch)
    ends = {}
    for (rate, seed, outcome, epochs), metric in zip(
        zip(*(column.values.tolist() for column in columns), strict=True),
        trials.metric.transpose("trial", "epoch").values,
        strict=True,
    ):
        if epochs > 0 or outcome == Outcome.FAILED:
            evaluations = round(epochs * per_epoch)
            ends[rate, seed] = _end(Outcome(outcome), evaluations, metric, records.attrs)
    return ends


def _end(outcome: Outcome, evaluations: int, metric: np.ndarray, attrs: Mapping[str, Any]) -> End:
    """How a trial ended, as the search needs it."""
    sign = 1.0 if attrs["higher_is_better"] else -1.0
    finite = sign * metric[np.isfinite(metric)]
    return End(
        evaluations / attrs["evaluations_per_epoch"],
        outcome == Outcome.CONVERGED,
        outcome in (Outcome.STOPPED, Outcome.UNFINISHED),
        float(finite.max()) if finite.size else -np.inf,
    )
