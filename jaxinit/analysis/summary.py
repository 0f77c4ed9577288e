"""From records to summary.json: the table, the claims, the counts, and what a reader must know to
read them.

Needs the records and study.json and nothing else, so that any folder can be summarized again.
"""

from collections.abc import Mapping
from typing import Any

import xarray as xr

from jaxinit.analysis.claims import Comparison, judge
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.table import Row, make_table
from jaxinit.study import RECURRENT, Study

XAVIER_CLAIM = (
    "Xavier cuts the epochs needed to converge by 2 to 10 times in deep and recurrent networks."
)


def summarize(records: xr.Dataset, study: Study, about: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a study. `about` is what study.json says: calibrations, and the lives of the
    study.

    `wall_s`, `compilations` and `compile_s` are sums over all lives: a study that was stopped has
    several.
    """
    outcome = records.outcome.values
    comparisons = []
    if study.model in RECURRENT:
        for baseline in ("small_normal", "uniform01"):
            statement = f"{XAVIER_CLAIM} (xavier_rnn against {baseline})"
            comparisons.append(
                Comparison("A10", statement, "xavier_rnn", baseline, band=(2.0, 10.0))
            )
    rows = make_table(records, study.baseline)
    lives = about.get("lives", [])
    spent = {
        name: sum(life[name] for life in lives) for name in ("compilations", "compile_s", "wall_s")
    }
    return {
        "calibrations": about.get("calibrations", {}),
        "baseline": study.baseline,
        "target": records.attrs["target"],
        "metric": records.attrs["metric_name"],
        "budget": records.attrs["budget"],
        "trials": int((outcome != Outcome.UNFINISHED).sum()),
        "table": rows,
        "claims": judge(records, comparisons),
        "notes": _notes(records, study, about, rows),
        **spent,
    }


def _notes(
    records: xr.Dataset, study: Study, about: Mapping[str, Any], rows: list[Row]
) -> list[str]:
    per_epoch = records.attrs["evaluations_per_epoch"]
    chosen = (
        f"the rate that was best on {len(study.tuning)} other seeds"
        if study.tuning
        else "the one rate given"
    )
    notes = [
        f"epochs: restricted mean up to the budget of {study.epochs} epochs, {study.seeds} seeds, "
        f"at {chosen}",
        f"resolution: one evaluation every 1/{per_epoch} epoch",
        "intervals: 95 %, percentile bootstrap over seeds, paired for the ratios; with few seeds "
        "they are too narrow",
    ]
    if per_epoch != study.evaluations:
        notes.append(
            f"{study.evaluations} evaluations an epoch do not divide its batches; {per_epoch} were "
            "made"
        )
    edge = [
        f"{row['scheme']} ({row['lr']:g})" for row in rows if row["lr_at_edge"] and row["converged"]
    ]
    if edge:
        notes.append(
            f"*best rate at the edge of the grid, a wider grid might do better: {', '.join(edge)}"
        )
    never = [row["scheme"] for row in rows if not row["converged"]]
    if never:
        notes.append(
            "never reached the target, so their rate means little and ratios are bounds: "
            f"{', '.join(never)}"
        )
    started = records.last_epoch.values > 0
    unfinished = int((started & (records.outcome.values == Outcome.UNFINISHED)).sum())
    if unfinished:
        notes.append(f"interrupted: {unfinished} trials are censored where they stopped")
    for life in about.get("lives", []):
        if life["forced"]:
            notes.append(f"resumed by force under other conditions: {'; '.join(life['forced'])}")
    for name, report in about.get("calibrations", {}).items():
        numbers = ", ".join(
            f"{quantity} {spread['median']:.3g}" for quantity, spread in report.items()
        )
        notes.append(
            f"{name}: {numbers} (medians over seeds; `jaxinit list calibrations --verbose` says "
            "what they are)"
        )
    return notes
