"""From records to summary.json: the table, the claims, the counts, and what a reader must know to
read them.

Needs the records and study.json and nothing else, so that any folder can be summarized again.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import xarray as xr

from jaxinit.analysis.claims import FEWEST, Claim, Comparison, judge
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.table import AtTarget, Pair, Row, at_targets, make_pairs, make_table
from jaxinit.study import RECURRENT, Study

XAVIER_CLAIM = (
    "Xavier cuts the epochs needed to converge by 2 to 10 times in deep and recurrent networks"
)


MOST = 1000  # seeds that anyone would run to tell two schemes apart


class Summary(TypedDict):
    """The content of summary.json of a study.

    calibrations: what they report, by scheme and quantity; target: of the metric; target_because:
    the rule that it comes from; budget: in epochs; trials: how many have ended; pairs: every two
    schemes; targets: the ratios at easier targets; epochs_trained: of all trials; notes: what a
    reader must know to read the table.
    `wall_s`, `compilations` and `compile_s` are sums over all lives: a study that was stopped has
    several.
    """

    calibrations: Mapping[str, Any]
    baseline: str
    target: float
    target_because: str
    metric: str
    budget: float
    trials: int
    epochs_trained: float
    table: list[Row]
    pairs: list[Pair]
    targets: list[AtTarget]
    claims: list[Claim]
    notes: list[str]
    compilations: int
    compile_s: float
    wall_s: float


def summarize(records: xr.Dataset, study: Study, about: Mapping[str, Any]) -> Summary:
    """The answer of a study. `about` is what study.json says: calibrations, and the lives of the
    study."""
    pairs = make_pairs(records)
    rows = make_table(records, study.baseline, pairs)
    comparisons = comparisons_of(study)
    lives = about.get("lives", [])
    return Summary(
        calibrations=about.get("calibrations", {}),
        baseline=study.baseline,
        target=records.attrs["target"],
        target_because=about.get("target_because", ""),
        metric=records.attrs["metric_name"],
        budget=records.attrs["budget"],
        trials=int((records.outcome.values != Outcome.UNFINISHED).sum()),
        epochs_trained=float(records.last_epoch.values.sum()),
        table=rows,
        pairs=pairs,
        targets=at_targets(records, study.baseline),
        claims=judge(records, comparisons, family=len(comparisons)),
        notes=_notes(records, study, about, rows, pairs),
        compilations=sum(life["compilations"] for life in lives),
        compile_s=sum(life["compile_s"] for life in lives),
        wall_s=sum(life["wall_s"] for life in lives),
    )


def comparisons_of(study: Study) -> list[Comparison]:
    """The claims that every study of its kind is asked about."""
    if study.model not in RECURRENT:
        return []
    comparisons = []
    for name, baseline in (("A10.small_normal", "small_normal"), ("A10.uniform01", "uniform01")):
        statement = f"{XAVIER_CLAIM} (xavier_rnn against {baseline})"
        comparisons.append(Comparison(name, statement, "xavier_rnn", baseline, band=(2.0, 10.0)))
    return comparisons


def _notes(
    records: xr.Dataset,
    study: Study,
    about: Mapping[str, Any],
    rows: list[Row],
    pairs: list[Pair],
) -> list[str]:
    return [
        *_notes_on_method(records, study, about),
        *_notes_on_also(study, rows),
        *_notes_on_rows(rows),
        *_notes_on_pairs(rows, pairs),
        *notes_on_failures(about),
        *_notes_on_lives(records, about),
        *_notes_on_calibrations(about),
    ]


def _notes_on_method(records: xr.Dataset, study: Study, about: Mapping[str, Any]) -> list[str]:
    """What the numbers are, how finely they are resolved, and how sure they are."""
    per_epoch = records.attrs["evaluations_per_epoch"]
    rate = "the one rate given"
    intervals = "95 %, Student's t on the logarithm; the rate is held fixed"
    if study.search == "ladder":
        ladder = f"the {len(study.lrs)} given" if study.lrs else "a ladder of six a decade"
        rate = f"the two best rates of {ladder}"
        intervals = "95 %, Student's t on the logarithm, the choice of the rate included"
    elif study.tuning:
        rate = f"the rate of the grid that was best on {len(study.tuning)} other seeds"
        intervals += ": they say nothing of rates between those of the grid"
    notes = [
        f"converged: {records.attrs['metric_name']} at the target on average over an epoch, "
        f"which is evaluated {per_epoch} times",
        f"epochs: {study.seeds} seeds, at {rate}; restricted to the budget of {study.epochs} "
        "epochs where trials were lost",
        f"intervals: {intervals}",
    ]
    if about.get("target_because"):
        notes.insert(0, f"the target: {about['target_because']}")
    if per_epoch != study.evaluations:
        notes.append(
            f"{study.evaluations} evaluations an epoch do not divide its batches; {per_epoch} were "
            "made"
        )
    return notes


def _notes_on_also(study: Study, rows: list[Row]) -> list[str]:
    """The value of the other setting that was best for each scheme."""
    if study.also is None:
        return []
    name, values = study.also
    tried = ", ".join(f"{value:g}" for value in values)
    at_an_end = [
        row["scheme"]
        for row in rows
        if row["converged"] and row.get("also") in (min(values), max(values))
    ]
    note = (
        f"{name} was searched beside the rate, each scheme at each of {tried}: the choice of both "
        "is in the intervals"
    )
    if at_an_end:
        note += f"; best at an end of these, another may do better: {', '.join(at_an_end)}"
    return [note]


def _notes_on_rows(rows: list[Row]) -> list[str]:
    """Which schemes might do better, and which never reached the target."""
    beyond = []
    never = []
    shares: dict[str, None] = {}  # one for all rows of like counts
    for row in rows:
        of_all = f"{row['converged']} of {row['seeds']}"
        low, high = 100 * row["share_low"], 100 * row["share_high"]
        shares[f"{of_all} is {low:.0f} to {high:.0f} %"] = None
        if not row["converged"]:
            never.append(row["scheme"])
        elif row["unresolved"]:
            beyond.append(f"{row['scheme']} ({row['lr']:g}: {row['unresolved']})")
    notes = []
    if rows and len(never) == len(rows):
        notes.append(
            "no scheme reached the target within the budget, so there is nothing to compare; give "
            "more --epochs, or an easier --target"
        )
    if rows and min(row["seeds"] for row in rows) < FEWEST:
        notes.append(f"no verdict below {FEWEST} seeds")
    if beyond:
        notes.append(f"*best rate unresolved, another may do better: {', '.join(beyond)}")
    if shares:
        notes.append(f"share of seeds that converge, exact at 95 %: {', '.join(shares)}")
    if never:
        notes.append(
            "never reached the target, so their rate means little and ratios are bounds: "
            f"{', '.join(never)}"
        )
    return notes


def _notes_on_pairs(rows: list[Row], pairs: list[Pair]) -> list[str]:
    """How many seeds would tell the fastest scheme from those that it is not told apart from."""
    needed = []
    for row in rows[1:]:
        if not set(row["letters"]) & set(rows[0]["letters"]):
            continue
        for pair in pairs:
            if {pair["scheme"], pair["other"]} == {rows[0]["scheme"], row["scheme"]}:
                seeds = pair["seeds_needed"]
                if seeds is not None:
                    needed.append(f"{row['scheme']} {seeds}" if seeds < MOST else row["scheme"])
    if not needed:
        return []
    return [
        f"seeds that would tell {rows[0]['scheme']} apart, were the differences as they are here "
        f"(without a number: {MOST} or more): {', '.join(needed)}"
    ]


def notes_on_failures(about: Mapping[str, Any]) -> list[str]:
    """Which trials could not be run, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for trial, reason in about.get("failures", {}).items():
        by_reason.setdefault(reason, []).append(trial)
    return [
        f"failed, and counted with those that diverged: {', '.join(trials)} ({reason})"
        for reason, trials in by_reason.items()
    ]


def _notes_on_lives(records: xr.Dataset, about: Mapping[str, Any]) -> list[str]:
    """What an interruption or a resume by force did."""
    notes = []
    started = records.last_epoch.values > 0
    ended = records.outcome.values != Outcome.UNFINISHED
    unfinished = int((started & ~ended).sum())
    if unfinished:
        notes.append(f"interrupted: {unfinished} trials have not ended, and are left out")
    return notes + notes_on_force(about)


def notes_on_force(about: Mapping[str, Any]) -> list[str]:
    """What was not the same when a study was gone on with by force."""
    forced = [life["forced"] for life in about.get("lives", ()) if life["forced"]]
    return [f"resumed by force under other conditions: {'; '.join(what)}" for what in forced]


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
