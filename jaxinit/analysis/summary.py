"""From records to summary.json: the table, the claims, the counts, and what a reader must know to
read them.

Needs the records and study.json and nothing else, so that any folder can be summarized again.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import xarray as xr

from jaxinit.analysis.claims import Claim, Comparison, judge
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.table import Row, make_table
from jaxinit.study import RECURRENT, Study

XAVIER_CLAIM = (
    "Xavier cuts the epochs needed to converge by 2 to 10 times in deep and recurrent networks."
)


class Summary(TypedDict):
    """The content of summary.json of a study.

    calibrations: what they report, by scheme and quantity; target: of the metric; budget: in
    epochs; trials: how many have ended; notes: what a reader must know to read the table.
    `wall_s`, `compilations` and `compile_s` are sums over all lives: a study that was stopped has
    several.
    """

    calibrations: Mapping[str, Any]
    baseline: str
    target: float
    metric: str
    budget: float
    trials: int
    table: list[Row]
    claims: list[Claim]
    notes: list[str]
    compilations: int
    compile_s: float
    wall_s: float


def summarize(records: xr.Dataset, study: Study, about: Mapping[str, Any]) -> Summary:
    """The answer of a study. `about` is what study.json says: calibrations, and the lives of the
    study."""
    rows = make_table(records, study.baseline)
    lives = about.get("lives", [])
    return Summary(
        calibrations=about.get("calibrations", {}),
        baseline=study.baseline,
        target=records.attrs["target"],
        metric=records.attrs["metric_name"],
        budget=records.attrs["budget"],
        trials=int((records.outcome.values != Outcome.UNFINISHED).sum()),
        table=rows,
        claims=judge(records, _comparisons(study)),
        notes=_notes(records, study, about, rows),
        compilations=sum(life["compilations"] for life in lives),
        compile_s=sum(life["compile_s"] for life in lives),
        wall_s=sum(life["wall_s"] for life in lives),
    )


def _comparisons(study: Study) -> list[Comparison]:
    """The claims that every study of its kind is asked about."""
    if study.model not in RECURRENT:
        return []
    comparisons = []
    for baseline in ("small_normal", "uniform01"):
        statement = f"{XAVIER_CLAIM} (xavier_rnn against {baseline})"
        comparisons.append(Comparison("A10", statement, "xavier_rnn", baseline, band=(2.0, 10.0)))
    return comparisons


def _notes(
    records: xr.Dataset, study: Study, about: Mapping[str, Any], rows: list[Row]
) -> list[str]:
    return [
        *_notes_on_method(records, study),
        *_notes_on_rows(rows),
        *_notes_on_lives(records, about),
        *_notes_on_calibrations(about),
    ]


def _notes_on_method(records: xr.Dataset, study: Study) -> list[str]:
    """What the numbers are, how finely they are resolved, and how sure they are."""
    per_epoch = records.attrs["evaluations_per_epoch"]
    rate = "the one rate given"
    if study.tuning:
        rate = f"the rate that was best on {len(study.tuning)} other seeds"
    notes = [
        f"epochs: restricted mean up to the budget of {study.epochs} epochs, {study.seeds} seeds, "
        f"at {rate}",
        f"resolution: one evaluation every 1/{per_epoch} epoch",
        "intervals: 95 %, percentile bootstrap over seeds, paired for the ratios; with few seeds "
        "they are too narrow",
    ]
    if per_epoch != study.evaluations:
        notes.append(
            f"{study.evaluations} evaluations an epoch do not divide its batches; {per_epoch} were "
            "made"
        )
    return notes


def _notes_on_rows(rows: list[Row]) -> list[str]:
    """Which schemes might do better, and which never reached the target."""
    at_edge = []
    never = []
    for row in rows:
        if not row["converged"]:
            never.append(row["scheme"])
        elif row["lr_at_edge"]:
            at_edge.append(f"{row['scheme']} ({row['lr']:g})")
    notes = []
    if at_edge:
        names = ", ".join(at_edge)
        notes.append(f"*best rate at the edge of the grid, a wider grid might do better: {names}")
    if never:
        notes.append(
            "never reached the target, so their rate means little and ratios are bounds: "
            f"{', '.join(never)}"
        )
    return notes


def _notes_on_lives(records: xr.Dataset, about: Mapping[str, Any]) -> list[str]:
    """What an interruption or a resume by force did."""
    notes = []
    started = records.last_epoch.values > 0
    ended = records.outcome.values != Outcome.UNFINISHED
    unfinished = int((started & ~ended).sum())
    if unfinished:
        notes.append(f"interrupted: {unfinished} trials are censored where they stopped")
    for life in about.get("lives", []):
        if life["forced"]:
            notes.append(f"resumed by force under other conditions: {'; '.join(life['forced'])}")
    return notes


def _notes_on_calibrations(about: Mapping[str, Any]) -> list[str]:
    """What every calibration reports, a line each."""
    notes = []
    for name, report in about.get("calibrations", {}).items():
        medians = [f"{quantity} {spread['median']:.3g}" for quantity, spread in report.items()]
        notes.append(
            f"{name}: {', '.join(medians)} (medians over seeds; `jaxinit list calibrations "
            "--verbose` says what they are)"
        )
    return notes
