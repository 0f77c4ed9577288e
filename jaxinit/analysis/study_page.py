"""The page of a study.

folder -> what can be read of it, and what is missing -> sections -> Page
"""

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from jaxinit.analysis import curves, store
from jaxinit.analysis.claims import Claim, judged, measured_of
from jaxinit.analysis.curves import Curve
from jaxinit.analysis.folder import Folder, quoted
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.page import (
    REPORT,
    Against,
    Block,
    Cell,
    Chart,
    Facts,
    Lines,
    Page,
    Section,
    Sign,
    Table,
    write,
)
from jaxinit.analysis.records import asked_of, schemes_of
from jaxinit.analysis.report import DIGITS, MARKS, NONE_REPORTED, entries, in_digits, with_bound
from jaxinit.analysis.store import Result
from jaxinit.analysis.summary import Summary, notes_on_failures, notes_on_force, summarize
from jaxinit.analysis.table import Row, SettingRow, at_best_value, reported
from jaxinit.study import BadStudy, Study

SIGNALS = "signals.nc"
MOST_LAYERS = 6  # of which signals are drawn
NAMED = 8  # schemes in a sentence
SIZE = "root mean square"
SIZES = {
    "activation": "activations",
    "gradient": "gradients",
    "weight_gradient": "weight gradients",
}
COLUMNS = ("scheme", "rate", "epochs (95 %)", "times fewer (95 %)", "p", "letters")
COUNTS: dict[Literal["converged", "censored", "diverged"], str] = {  # and their headers
    "converged": "conv.",
    "censored": "cens.",
    "diverged": "div.",
}
NUMERIC = frozenset((*COLUMNS[1:5], *COUNTS.values()))
VERDICTS: dict[str | None, Sign | None] = {
    "supported": "good",
    "refuted": "bad",
    "open": "open",
    None: None,
}
HOW_TO_READ = (
    "times fewer: epochs of {baseline} over those of the scheme. p: permutation of seeds against "
    "{baseline}, Holm-corrected. Schemes that share a letter are not told apart. {marks}. "
    "*: another rate may do better, see the notes. conv., cens., div.: trials that converged, were "
    "censored at the budget, diverged. Intervals are drawn on a logarithmic scale; dashed: the "
    "baseline; hollow: some did not converge."
)
OF_SIZES = f"{curves.OVER_SEEDS.capitalize()}. {curves.CUT.capitalize()}."
OF_MARKS = "; ".join(f"{mark}: {meaning}" for mark, meaning in MARKS.items())


@dataclass(frozen=True)
class Parts:
    """What can be read of a study's folder: None, or empty, what cannot be; `missing` says why."""

    folder: Path
    about: Mapping[str, Any]
    study: Study | None
    records: xr.Dataset | None
    summary: Summary | None
    signals: xr.Dataset | None = None
    complete: bool = True
    missing: list[str] = field(default_factory=list)


def read(path: str | Path) -> Parts:
    """All that a study's folder holds that is not damaged, and of one without a manifest what its
    files say. Raises: BadStudy for a folder that holds no study."""
    folder = Folder(Path(path))
    try:
        return parts_of(store.load(path))
    except BadStudy as error:
        try:
            held = folder.manifest()
        except BadStudy as lost:
            return _unverified(folder.path, lost)
        if held is None or held.kind != "study":
            raise
        missing = [str(error)]

    def attempt(reading: Callable[[], Any]) -> Any:
        try:
            return reading()
        except BadStudy as error:
            if str(error) not in missing:
                missing.append(str(error))
            return None

    about = attempt(lambda: store.stored(path)) or {}
    complete = about.get("status", "complete") == "complete"
    study = attempt(lambda: Study.from_plain(held.question["study"]))
    records = summary = None
    if complete:
        records = attempt(lambda: store.read_records(folder))
        summary = attempt(lambda: json.loads(folder.read(store.SUMMARY)))
        if summary is None and records is not None and study is not None:
            summary = summarize(records, study, about)
    signals = None
    if folder.holds(SIGNALS):
        signals = attempt(lambda: store.read_records(folder, SIGNALS))
    return Parts(folder.path, about, study, records, summary, signals, complete, missing)


def _unverified(path: Path, lost: BadStudy) -> Parts:
    """A study whose manifest is lost or damaged, with its table made again of the records. Raises:
    `lost` where study.json or the records are no better, or of another version."""
    try:
        about = json.loads((path / store.STUDY).read_bytes())
        study = Study.from_plain(about["study"])
        content = io.BytesIO((path / store.RECORDS).read_bytes())
        with xr.open_dataset(content, engine="h5netcdf") as file:
            records = file.load()
        summary = summarize(records, study, about)
    except (OSError, ValueError, KeyError, TypeError, BadStudy):
        raise lost from None
    if about.get("schema") != store.SCHEMA:
        raise lost
    missing = [str(lost), "nothing could be verified: what is shown is what the files say now"]
    return Parts(path, about, study, records, summary, missing=missing)


def parts_of(result: Result) -> Parts:
    """A study that was read, with its signals where it has some."""
    signals, missing = None, []
    folder = Folder(result.folder)
    if folder.holds(SIGNALS):
        try:
            signals = store.read_records(folder, SIGNALS)
        except BadStudy as error:
            missing.append(str(error))
    if result.remark:
        missing.append(result.remark)
    return Parts(
        result.folder,
        result.about,
        result.study,
        result.records,
        result.summary,
        signals,
        result.complete,
        missing,
    )


def write_study(result: Result) -> Path:
    """Write report.html into the folder of a result."""
    return write(study_page(parts_of(result)), result.folder / REPORT)


def study_page(parts: Parts) -> Page:
    """The page of a study, of whatever can be read of it."""
    return Page(
        title=title_of(parts),
        subtitle=_subtitle(parts),
        answer=answer(parts),
        sections=sections(parts),
        warnings=warnings_of(parts),
        schemes=schemes(parts),
    )


def schemes(parts: Parts) -> list[str]:
    """The schemes of a study, in its order, by which they take their colours."""
    if parts.study is not None:
        return list(map(str, parts.study.schemes))
    if parts.records is not None:
        return asked_of(parts.records)
    return sorted(row["scheme"] for row in parts.summary["table"]) if parts.summary else []


def title_of(parts: Parts) -> str:
    """What was asked."""
    study = parts.study
    if study is None:
        return f"A study in {parts.folder}"
    asked = f"{study.model}, {study.hidden} units, {study.task}, {study.optimizer}"
    return f"Does it matter how this network is initialized? {asked}"


def _subtitle(parts: Parts) -> str:
    if "written" not in parts.about:
        return str(parts.folder)
    devices = store.devices_in_words(parts.about["device"])
    return f"{parts.folder}; computed {parts.about['written']} on {devices}"


def answer(parts: Parts) -> str:
    """The answer in a sentence or two, with its interval."""
    summary = parts.summary
    if summary is None:
        return "What is left of this study has no answer in it; see the warnings."
    rows = summary["table"]
    if not rows:
        return NONE_REPORTED
    first, baseline = rows[0], summary["baseline"]
    goal = f"{summary['metric']} {_sign(parts)} {summary['target']:.4g}"
    if not first["converged"]:
        return f"No scheme reached {goal} within {summary['budget']:g} epochs."
    said = f"{first['scheme']} converges first, to {goal} in {_with_interval(first)} epochs"
    said += _against_baseline(first, rows, baseline)
    alike = [row["scheme"] for row in rows[1:] if set(row["letters"]) & set(first["letters"])]
    if alike:
        more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
        said += f" Not told apart from it: {', '.join(alike[:NAMED])}{more}."
    elif len(rows) > 1 and first["letters"]:
        said += " Every other scheme is told apart from it."
    return said


def _against_baseline(first: Row, rows: Sequence[Row], baseline: str) -> str:
    """How the first row compares with the baseline, as the end of a sentence."""
    against = f"times fewer than {baseline}, the baseline"
    low, high = first["ratio_low"], first["ratio_high"]
    if first["scheme"] == baseline:
        return f": it is the baseline, and none of {len(rows)} schemes needs fewer."
    if low is None or high is None or first["ratio_is"] == "?":
        return "."
    if first["ratio_is"] == ">=":
        return f", at least {in_digits(low, DIGITS)} {against}."
    if first["ratio_is"] == "<=":
        return f", at most {in_digits(high, DIGITS)} {against}."
    assert first["ratio"] is not None
    value, least, most = (in_digits(number, DIGITS) for number in (first["ratio"], low, high))
    return f", {value} (95 %: {least} to {most}) {against}."


def _with_interval(row: Row) -> str:
    epochs = in_digits(row["epochs"], DIGITS)
    if row["converged"] < row["seeds"]:
        epochs = f"at least {epochs}"
    low, high = row["epochs_low"], row["epochs_high"]
    if low is None or high is None:
        return epochs
    return f"{epochs} (95 %: {in_digits(low, DIGITS)} to {in_digits(high, DIGITS)})"


def _sign(parts: Parts) -> str:
    higher = True
    if parts.records is not None:
        higher = bool(parts.records.attrs["higher_is_better"])
    elif "task" in parts.about:
        higher = bool(parts.about["task"]["higher_is_better"])
    return "≥" if higher else "≤"


def warnings_of(parts: Parts) -> list[str]:
    """What a reader must know before the numbers: what is missing, unfinished, lost or forced."""
    lines = list(parts.missing)
    if not parts.complete:
        ended = f": {parts.summary['trials']} trials have ended" if parts.summary else ""
        lines.append(
            f"unfinished{ended}; go on with: jaxinit resume {quoted(parts.folder)}, then make this "
            f"page again: jaxinit report {quoted(parts.folder)}"
        )
    lines += notes_on_failures(parts.about)
    for row in parts.summary["table"] if parts.summary else ():
        if row["diverged"]:
            lines.append(f"{row['scheme']}: {row['diverged']} of {row['seeds']} trials diverged")
    return lines + notes_on_force(parts.about)


def sections(parts: Parts) -> list[Section]:
    """All that is known of a study, in parts."""
    made = []
    if parts.summary is not None and parts.summary["table"]:
        made.append(Section("Schemes", _tables(parts.summary)))
    if parts.records is not None:
        charts = charts_of(parts.records)
        if charts:
            made.append(Section("Figures", charts))
    if parts.summary is not None and parts.summary["claims"]:
        made.append(Section("Claims", [claims_table(parts.summary["claims"])]))
    if parts.signals is not None:
        made.append(Section("Signals", signal_charts(parts.signals)))
    if parts.summary is not None:
        made.append(Section("Notes", [Lines("", parts.summary["notes"])]))
    made.append(Section("How it was measured", how(parts)))
    return made


def blocks_of(parts: Parts) -> list[Block]:
    """All that is known of a study, as a part of another page."""
    blocks: list[Block] = []
    for section in sections(parts):
        for block in section.blocks:
            named = block.title or section.title
            blocks.append(replace(block, title=named))
    return blocks


# Tables.


def _tables(summary: Summary) -> list[Block]:
    note = HOW_TO_READ.format(baseline=summary["baseline"], marks=OF_MARKS)
    blocks: list[Block] = [schemes_table(summary["table"], note)]
    if len(summary["targets"]) > 1 and len(summary["table"]) > 1:
        blocks.append(_targets_table(summary))
    return blocks


def schemes_table(rows: Sequence[Row], note: str = "") -> Table:
    """A row for each scheme, at its own best rate."""
    return Table(
        "Each scheme at its own best learning rate",
        (*COLUMNS, *COUNTS.values()),
        [scheme_cells(row) for row in rows],
        note,
        NUMERIC,
        [dict(row) for row in rows],
    )


def settings_table(rows: Sequence[SettingRow]) -> Table:
    """Rows of several studies, each with its setting."""
    note = HOW_TO_READ.format(baseline="the baseline", marks=OF_MARKS)
    return Table(
        "Each scheme at its own best learning rate, by setting",
        ("setting", *COLUMNS, *COUNTS.values()),
        [[Cell(row["setting"]), *scheme_cells(row)] for row in rows],
        note,
        NUMERIC,
        [dict(row) for row in rows],
        scale_by="setting",
    )


def scheme_cells(row: Row) -> list[Cell]:
    """One row as the terminal shows it, with what it is sorted by."""
    scheme, rate, epochs, ratio, p, letters, _ = entries(row)
    span = None
    if row["epochs_low"] is not None and row["epochs_high"] is not None:
        span = (row["epochs_low"], row["epochs"], row["epochs_high"])
    lost, is_baseline = row["converged"] < row["seeds"], scheme == row["baseline"]
    drawn_by = str(row.get("drawn_by", scheme))
    return [
        Cell(scheme, scheme=drawn_by),
        Cell(rate, row["lr"]),
        Cell(epochs, row["epochs"], span, hollow=lost, baseline=is_baseline),
        Cell(ratio, row["ratio"]),
        Cell(p, row["p_holm"]),
        Cell(letters),
        *(Cell(str(row[count]), row[count]) for count in COUNTS),
    ]


def _targets_table(summary: Summary) -> Table:
    """How many times fewer epochs at easier targets."""
    targets = [f"{at['target']:.3g}" for at in summary["targets"]]
    rows, records = [], []
    for row in summary["table"]:
        scheme = row["scheme"]
        if scheme == summary["baseline"]:
            continue
        cells = [Cell(scheme, scheme=scheme)]
        for at in summary["targets"]:
            value, low, high, bound = at["ratios"][scheme]
            cells.append(Cell(with_bound(value, low, high, bound, digits=2), value))
            records.append(
                {
                    "scheme": scheme,
                    "target": at["target"],
                    "ratio": value,
                    "low": low,
                    "high": high,
                    "ratio_is": bound,
                }
            )
        rows.append(cells)
    return Table(
        "Times fewer epochs at easier targets, at the same rates",
        ("scheme", *targets),
        rows,
        numeric=frozenset(targets),
        records=records,
    )


def claims_table(claims: Sequence[Claim]) -> Table:
    """Every claim: what was published, what was measured, the band, the verdict."""
    rows, records = [], []
    for claim in claims:
        rows.append(
            [
                Cell(claim["id"]),
                Cell(claim["statement"]),
                Cell(claim["published"] or "no source found"),
                Cell(measured_of(claim), claim["measured"], against=_against(claim)),
                Cell(", ".join(claim["parts"])),
                Cell(judged(claim), sign=VERDICTS[claim["verdict"]]),
                Cell(claim["note"]),
            ]
        )
        records.append({key: _flat(value) for key, value in claim.items()})
    columns = ("claim", "statement", "published", "measured (95 %)", "band", "verdict", "note")
    numeric = frozenset(columns[3:4])
    note = "Drawn: the measured value and its interval, over the band that was claimed, shaded."
    return Table("", columns, rows, note=note, numeric=numeric, records=records, words=True)


def _against(claim: Claim) -> Against | None:
    """The drawing of a claim: what was measured over its band; none where nothing was."""
    value = claim["measured"]
    kind = claim.get("measured_is", "=")
    if value is None or not math.isfinite(value) or kind == "?":
        return None
    low, high = (value if end is None else end for end in (claim["low"], claim["high"]))
    if kind == ">=":
        high = math.inf
    if kind == "<=":
        low = -math.inf
    least, most = claim["band"]
    return Against(
        (low, value, high),
        (-math.inf if least is None else least, math.inf if most is None else most),
    )


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


# Charts.


def charts_of(records: xr.Dataset) -> list[Block]:
    """Share converged, rates and learning curves, of what the records can fill; where another
    setting is searched beside the rate, at its best value."""
    records = at_best_value(records)
    rates = reported(records)
    charts: list[Block] = []
    if rates:
        charts.append(_share_chart(records, rates))
    if len(set(records.lr.values.tolist())) > 1:
        charts.append(_rate_chart(records))
    if rates:
        charts.append(_course_chart(records, rates))
    return charts


def _share_chart(records: xr.Dataset, rates: Mapping[str, float]) -> Chart:
    return Chart(
        "Who has converged by when",
        "epochs",
        "share of trials converged",
        {scheme: curves.share_converged(records, scheme) for scheme in rates},
        "1 - Kaplan-Meier at each scheme's best rate; band: 95 %, pointwise.",
        steps=True,
        x_range=(0, records.attrs["budget"]),
        y_range=(0, 1),
    )


def _rate_chart(records: xr.Dataset) -> Chart:
    schemes = schemes_of(records)
    return Chart(
        "Every learning rate that was tried",
        f"learning rate ({records.attrs['optimizer']})",
        "epochs to target",
        {scheme: curves.time_by_rate(records, scheme) for scheme in schemes},
        "Line: mean, restricted to the budget, at which lost trials lie. Every trial: ● converged, "
        "△ not within the budget, × diverged or failed, ∧ stopped, as another rate was better.",
        {scheme: curves.trials_of(records, scheme) for scheme in schemes},
        x_log=True,
        y_range=(0, records.attrs["budget"] * 1.02),
    )


def _course_chart(records: xr.Dataset, rates: Mapping[str, float]) -> Chart:
    about = records.attrs
    by_scheme = {scheme: curves.course(records, scheme, rate) for scheme, rate in rates.items()}
    positive = all((curve.low > 0).all() for curve in by_scheme.values())
    first, last = 1 / about["evaluations_per_epoch"], about["budget"]
    return Chart(
        "Learning curves at the best rate",
        "epochs",
        about["metric_name"],
        by_scheme,
        "Median over seeds; band: their range; dotted: the target. A curve ends when its last seed "
        "has ended.",
        x_log=True,
        y_log=positive and not about["higher_is_better"],
        x_range=(first, last) if first < last else None,
        target=about["target"],
    )


def signal_charts(signals: xr.Dataset) -> list[Block]:
    """Sizes of signals by layer: during training where there are epochs, else before it."""
    names = [str(name) for name in signals.parameter.values]
    of = [str(scheme) for scheme in signals.scheme.values]
    blocks: list[Block] = []
    if "epoch" not in signals.dims:
        places = np.arange(1, len(names) + 1)
        for signal, label in SIZES.items():
            sizes = {s: _size(signals.sel(scheme=s), signal, places, "parameter") for s in of}
            blocks.append(Chart(label, "kernel, from the input on", SIZE, sizes, y_log=True))
        numbered = [f"{place} {name}" for place, name in enumerate(names, 1)]
        note = f"{OF_SIZES} Kernels: {', '.join(numbered)}."
        return [*blocks, Lines("", [note])]
    epochs = signals.epoch.values
    chosen = np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST_LAYERS)).round())
    for k in chosen.astype(int).tolist():
        layer = signals.isel(parameter=k)
        for signal, label in SIZES.items():
            sizes = {s: _size(layer.sel(scheme=s), signal, epochs, "epoch") for s in of}
            blocks.append(Chart(f"{names[k]}: {label}", "epochs", SIZE, sizes, y_log=True))
    note = (
        "Of the first seed that reports, at each scheme's best rate; epoch 0 is before the first "
        "step. Gradients are those that are propagated back to a kernel's product. A size of 0 is "
        "not drawn."
    )
    return [*blocks, Lines("", [note])]


def _size(signals: xr.Dataset, signal: str, x: np.ndarray, axis: str) -> Curve:
    """Root mean squares of a signal along an axis, with their range over seeds where there are
    several; none where one is 0."""
    mean_square = signals[f"{signal}_mean_square"].mean(("step", "copy"), skipna=True)
    size = mean_square**0.5
    if "seed" not in size.dims:
        return curves.line(x, size.where(size > 0).transpose(axis).values)
    backwards = signal != "activation"
    return curves.over_seeds(x, size.transpose("seed", axis).values, backwards)


# How it was measured.


def once_more(verb: str, study: Mapping[str, Any], **own: Any) -> list[Block]:
    """The command that asks a question of a network again, of the study as JSON keeps it and with
    the verb's own options; nothing where this version does not know such a study."""
    try:
        command = Study.from_plain(study).command(verb, **own)
    except BadStudy:
        return []
    return [Lines("Once more", [command], command=True)]


def how(parts: Parts) -> list[Block]:
    """The question, the conditions, and the commands that redo it."""
    blocks: list[Block] = []
    if parts.study is not None:
        blocks.append(Facts("The question", _question(parts, parts.study)))
    if parts.about:
        blocks.append(Facts("The conditions", _conditions(parts)))
        folder = quoted(parts.folder)
        commands = [str(parts.about["command"]), f"jaxinit rerun {folder} --check"]
        blocks.append(Lines("Once more", commands, command=True))
    return blocks


def _question(parts: Parts, study: Study) -> dict[str, str]:
    about, summary = parts.about, parts.summary
    model = f"{study.model}, {study.layers} layer(s) of {study.hidden} units"
    if about.get("parameters"):
        model += f", {about['parameters']:,} parameters"
    task = str(study.task)
    if "task" in about and "examples" in about["task"]:
        task += f", {about['task']['examples']:,} training examples"
    facts = {"task": task, "model": model, "optimizer": f"{study.optimizer}, batch {study.batch}"}
    if summary is not None:
        facts["target"] = f"{summary['metric']} {_sign(parts)} {summary['target']:.4g}"
        facts["why this target"] = summary["target_because"] or "not said"
    each = about.get("evaluations_per_epoch", study.evaluations)  # that divide its batches
    facts["budget"] = f"{study.epochs} epochs, {each} evaluations each"
    facts["seeds"] = _seeds(study)
    facts["search of the rate"] = _search(study)
    facts["baseline"] = str(study.baseline)
    asked = study.plain()
    said = {*facts, "schemes", "hidden", "layers", "batch", "epochs", "evaluations", "seeds"}
    said |= {"tune_seeds", "first_seed", "search", "lrs", "search_also"}
    defaults = Study().plain()
    for name, value in asked.items():
        if name not in said and value != defaults[name]:
            facts[name.replace("_", " ")] = str(value)
    if parts.records is not None:
        outcomes = Counter(Outcome(code) for code in parts.records.outcome.values.tolist())
        counted = [f"{outcomes[o]} {o.name.lower()}" for o in Outcome if outcomes[o]]
        facts["trials"] = ", ".join(counted) or "none"
    return facts


def _seeds(study: Study) -> str:
    seeds = f"{study.seeds} that report, from {study.reporting.start} on"
    if study.tuning:
        seeds += f"; {len(study.tuning)} others choose the rate"
    return seeds


def _search(study: Study) -> str:
    rates = ", ".join(f"{rate:g}" for rate in study.lrs)
    kind = {"ladder": "six rates a decade, the two best reported", "grid": "a grid"}
    search = kind.get(study.search or "", str(study.search))
    if rates:
        search += f": {rates}"
    if study.also is not None:
        name, values = study.also
        search += f"; and {name}: {', '.join(f'{value:g}' for value in values)}"
    return search


def _conditions(parts: Parts) -> dict[str, str]:
    about = parts.about
    facts = {"written": about.get("written", "")}
    facts["device"] = store.devices_in_words(about["device"]) if "device" in about else ""
    facts["processor"] = about.get("arithmetic", {}).get("processor", "")
    facts["commit"] = about.get("commit") or "no checkout"
    facts["versions"] = store.versions_in_words(about.get("versions", {}))
    if parts.summary is not None:
        wall, compiling = parts.summary["wall_s"], parts.summary["compile_s"]
        facts["time"] = f"{wall:.0f} s, of which {compiling:.0f} s compiling"
        facts["trained"] = f"{parts.summary['epochs_trained']:,.0f} epochs of all trials"
    return {name: value for name, value in facts.items() if value}
