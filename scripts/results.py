"""Pages of numbers, made from the summaries that are kept in docs/summaries.

    python scripts/results.py                     # make all pages again
    python scripts/results.py --keep FOLDER ...   # keep the summaries of these runs first
    python scripts/results.py --main FOLDER ...   # keep the main job, and its replications
    python scripts/results.py --check             # say which page differs from them; exit code 1

The pages: docs/results.md (the main job, and every claim of every experiment), docs/coverage.md,
the README's rows of the main job with what they say, its findings and its sentence on coverage, the
tutorial's table, and the last part of an experiment's docstring, from "Expect at quick" on.
"""

import ast
import io
import json
import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxinit.analysis import store
from jaxinit.analysis.claims import judged, measured_of
from jaxinit.analysis.report import Terminal, entries_by_setting, print_table
from jaxinit.analysis.store import SUMMARY
from jaxinit.console import exit_code
from jaxinit.study import BadStudy

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "summaries"
MAIN_JOB = "digits_rows"
COVERAGE = "coverage"
REPLICATIONS = "replications"
SHOWN = 8  # claims of an experiment in its docstring
WIDTH = 100
MADE = "Made by `scripts/results.py` from [summaries](summaries/README.md): not edited by hand."
# Between these, in the README, is what this script makes.
TABLE = "<!-- the main job, by scripts/results.py -->", "<!-- end of the main job -->"
COVERED = "<!-- coverage, by scripts/results.py -->", "<!-- end of coverage -->"
FINDINGS = "<!-- findings, by scripts/results.py -->", "<!-- end of the findings -->"
IN_FRONT = ("xavier_rnn", "orthogonal", "identity", "small_normal", "uniform01")  # of the README
# What the README says was found: a sentence, and the claims that its numbers are, by experiment and
# statement.
FOUND = (
    (
        "**Forget gates as long as the task.** Biases of its length, `chrono(50)`, bring an LSTM "
        "to the target of adding over 50 steps {} times sooner than a forget bias of 1; `chrono` "
        "above is of 100 steps, its default.",
        (
            "chrono2018",
            "lstm of 32, adding, T=50: times fewer epochs, chrono against a forget bias of 1",
        ),
    ),
    (
        "**A deep Transformer trains without warm-up where its branches start small.** 16 blocks "
        "with ReZero's gates need {} times fewer epochs than plain post-norm, with pre-norm {}.",
        (
            "deep_transformers",
            "ReZero: times fewer epochs than plain post-norm, 16 blocks, no warm-up",
        ),
        (
            "deep_transformers",
            "pre-norm: times fewer epochs than plain post-norm, 16 blocks, no warm-up",
        ),
    ),
    (
        "**muP carries learning rates.** From 64 to 1,024 units the best rate under Adam moves by "
        "{} octaves, without it by {}.",
        ("mup_transfer", "mup: octaves that the best rate moves from 64 to 1024 units under adam"),
        (
            "mup_transfer",
            "xavier_rnn: octaves that the best rate moves from 64 to 1024 units under adam",
        ),
    ),
    (
        "**Xavier does not keep the gradient of a tanh RNN.** With 256 units it changes by {} "
        "decades with each step back; without the tanh by {}.",
        (
            "xavier_rnn",
            "256 units, tanh, n Var = 1.00, entry variance 0.0039: decades per step back",
        ),
        (
            "xavier_rnn",
            "256 units, linear, n Var = 1.00, entry variance 0.0039: decades per step back",
        ),
    ),
    (
        "**Sinusoidal kernels are not told apart from random ones of their variance.** Against "
        "PyTorch's default an MLP needs {} times fewer epochs, against Glorot's law {}, which is "
        "open; not at the published scale.",
        ("recent_starts", "MLP, SGD: times fewer epochs, sinusoidal against PyTorch's default"),
        ("recent_starts", "MLP, SGD: times fewer epochs, sinusoidal against Glorot's law"),
    ),
)
LIST_COLUMNS = ("experiment", "what it is about", "holds", "does not", "open", "seconds")
CLAIM_COLUMNS = ("claim", "statement", "published", "measured (95 %)", "")
ROW_COLUMNS = ("setting", "scheme", "rate", "epochs (95 %)", "times fewer (95 %)", "conv/cens/div")
COVERAGE_COLUMNS = (
    "population",
    "scheme",
    "ratio",
    "ratio, all seeds",
    "ratio, grid",
    "epochs",
    "epochs, all seeds",
    "epochs, grid",
    "false",
    "width",
    "trained",
    "trained, grid",
)


@dataclass(frozen=True)
class Asked:
    """What is to be done."""

    keep: tuple[Path, ...] = ()
    """Folders of experiments at size quick whose summaries are to be kept."""
    main: tuple[Path, ...] = ()
    """Folders of the main job: the one that begins at seed 0, then its replications."""
    check: bool = False
    """Write nothing; say what differs."""


def main(argv: Sequence[str] | None = None) -> int:
    asked = tyro.cli(Asked, args=argv, prog="results", description=__doc__)
    return exit_code(lambda: carry_out(asked))


def carry_out(asked: Asked) -> int:
    for folder in asked.keep:
        keep(folder)
    if asked.main:
        keep_main(asked.main)
    differing = []
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            differing.append(path)
            if not asked.check:
                path.write_text(text)
    for path in differing:
        print(f"{'differs' if asked.check else 'written'}: {path.relative_to(ROOT)}")
    return int(asked.check and bool(differing))


def keep(folder: Path) -> None:
    """Copy the summary of a run, without what its experiment's source says and beyond six digits.

    Raises: BadStudy for a folder without the summary of an experiment at size quick.
    """
    path = folder / SUMMARY
    if not path.is_file():
        raise BadStudy(
            f"{folder} has no {SUMMARY}; give the folder of an experiment that has ended"
        )
    summary = json.loads(path.read_text())
    about = summary.get("about", {})
    if about.get("size") != "quick":
        raise BadStudy(
            f"{folder} is of size {about.get('size')!r}; what is kept everyone can repeat: quick"
        )
    if about.get("first_seed"):
        raise BadStudy(f"{folder} begins at seed {about['first_seed']}; what is kept begins at 0")
    for name in ("studies", "study"):
        summary.pop(name, None)
    write(about["experiment"], rounded(summary))


def keep_main(folders: Sequence[Path]) -> None:
    """Keep the summary of the main job, and how its replications agree: of each scheme that
    converges everywhere the means over all of them, and in how many the interval of one holds the
    mean of the others."""
    first, *others = (store.load(folder) for folder in folders)
    if first.study.first_seed or not all(other.study.first_seed for other in others):
        raise BadStudy("--main takes the study that begins at seed 0 first, then those that do not")
    if len(others) == 1:
        raise BadStudy("whether replications agree takes two of them, got one; give --main another")
    # Every digit, so that the README's table is the one that the terminal prints.
    write(MAIN_JOB, first.summary)
    if not others:
        return
    schemes = {}
    for scheme in first.study.schemes:
        rows = []
        for other in others:
            rows += [row for row in other.summary["table"] if row["scheme"] == scheme]
        if rows and all(row["converged"] for row in rows):
            schemes[scheme] = {name: agreement(rows, name) for name in ("epochs", "ratio")}
    begin = [other.study.first_seed for other in others]
    replications = {"studies": len(others), "first_seeds": begin, "schemes": schemes}
    write(REPLICATIONS, rounded(replications))


def agreement(rows: Sequence[Any], name: str) -> dict[str, Any] | None:
    """The geometric mean of a number of all rows, and in how many of them its interval holds that
    of the others."""
    if any(row[name] is None for row in rows):
        return None
    logs = [math.log(row[name]) for row in rows]
    held = 0
    for row, log in zip(rows, logs, strict=True):
        mean = math.exp((sum(logs) - log) / (len(logs) - 1))
        held += row[f"{name}_low"] <= mean <= row[f"{name}_high"]
    return {"mean": math.exp(sum(logs) / len(logs)), "held": held}


def write(name: str, summary: Any) -> None:
    text = json.dumps(summary, indent=1, sort_keys=True) + "\n"
    (KEPT / f"{name}.json").write_text(text)


def rounded(value: Any) -> Any:
    """The same with every number in six digits."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return value


def pages() -> dict[Path, str]:
    """The text that every page should have."""
    kept = {path.stem: json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))}
    main_job, coverage, replications = (
        kept.pop(name) for name in (MAIN_JOB, COVERAGE, REPLICATIONS)
    )
    readme = ROOT / "README.md"
    in_front = [row for row in main_job["table"] if row["scheme"] in IN_FRONT]
    answer = f"{main_table(in_front)}\n\n{front_words(main_job, replications)}"
    front = between(readme.read_text(), *TABLE, answer)
    front = between(front, *COVERED, coverage_words(coverage))
    whole = f"{main_table(main_job['table'])}\n\n{main_words(main_job, replications)}"
    tutorial = ROOT / "docs" / "tutorial.md"
    texts = {
        tutorial: between(tutorial.read_text(), *TABLE, main_table(main_job["table"])),
        ROOT / "docs" / "results.md": results_page(kept, whole),
        ROOT / "docs" / "coverage.md": coverage_page(coverage),
        readme: between(front, *FINDINGS, findings(kept)),
    }
    for name, summary in kept.items():
        path = ROOT / "experiments" / f"{name}.py"
        texts[path] = with_expectation(path.read_text(), expectation(summary))
    return texts


# The pages.


def results_page(kept: Mapping[str, Any], main_job: str) -> str:
    """The main job, and every claim of every experiment, with its verdict."""
    lines = ["# Results", "", MADE, "", "## The main job", "", main_job, "", "## Experiments", ""]
    lines += wrapped(
        "Each experiment at size quick, on two cores. Intervals are at 95 %; where a rate was "
        "searched for on a ladder, its choice is in them, and where it is that of a grid it is "
        "held fixed. A claim is settled at 99 %, a ratio of epochs at 99.5 %, and where ratios are "
        "read together at 100 % less 0.5 % over their number; a claim with two ends is two claims. "
        "`jaxinit reproduce NAME` measures it again, other seeds and sizes too."
    )
    lines += ["", list_of_experiments(kept)]
    for name, summary in kept.items():
        lines += section(name, summary)
    return "\n".join(lines) + "\n"


def list_of_experiments(kept: Mapping[str, Any]) -> str:
    """Every experiment in a line: what it asks, and how many claims hold, do not, or are open."""
    lines = []
    for path in sorted((ROOT / "experiments").glob("*.py")):
        name = path.stem
        cells: list[Any] = [f"`{name}`", title_of(name)]
        if name in kept:
            summary = kept[name]
            cells[0] = f"[`{name}`](#{name})"
            counts = Counter()
            for claim in summary["claims"]:
                counts.update(claim["parts"].values())
            cells += [counts[verdict] for verdict in ("supported", "refuted", "open")]
            cells.append(summary["about"]["seconds"])
        else:
            cells += ["-"] * 4
        lines.append(cells)
    return "\n".join(table(LIST_COLUMNS, lines))


def title_of(name: str) -> str:
    """The first paragraph of an experiment's docstring, in one line."""
    return docstring(name).split("\n\n")[0].replace("\n", " ")


def section(name: str, summary: Mapping[str, Any]) -> list[str]:
    """What one experiment asked and found."""
    about = summary["about"]
    versions = about["versions"]
    lines = ["", f"## {name}", "", *wrapped(title_of(name)), ""]
    lines += wrapped(
        f"{about['date']}, {about['seconds']} s on {about['cores']} cores, JAX {versions['jax']}, "
        f"Python {versions['python']}, commit {short(about['commit'])}."
    )
    claims = []
    for claim in summary["claims"]:
        published = claim["published"] or "no source found"
        claims.append(
            (claim["id"], claim["statement"], published, measured_of(claim), judged(claim))
        )
    lines += ["", *table(CLAIM_COLUMNS, claims)]
    rows = summary["table"]
    if rows and "setting" in rows[0]:
        lines += ["", *table(ROW_COLUMNS, entries_by_setting(rows))]
    return lines


def short(commit: str | None) -> str:
    """A commit in eight digits, with the + of one that had changes."""
    if commit is None:
        return "unknown"
    return commit[:8] + ("+" if commit.endswith("+") else "")


def coverage_page(coverage: Mapping[str, Any]) -> str:
    """How often intervals hold the truth, those of the grid with its bootstrap beside them."""
    lines = ["# Do the intervals cover?", "", MADE, ""]
    lines += wrapped(
        "Whole studies played on populations that were measured at all rates "
        "(scripts/populations), and on synthetic ones of which a share of the seeds is lost: "
        "`scripts/coverage --seeds N`. In each the share of studies whose 95 % interval holds the "
        "truth, of the ratio against the baseline and of a scheme's epochs: the restricted mean "
        "where the study lost trials, else the time given convergence, which is what it prints. "
        "`all seeds` is the same of the mean over all seeds, lost ones at the budget, whatever "
        "the study saw: one that happened to lose no trial cannot know of those that others lose, "
        "and covers less. `grid` is that of "
        "five rates a half decade apart, the best of which is held fixed, and a percentile "
        "bootstrap. `false` is how often a claim whose band ends at the truth is settled, wrongly, "
        "on the worse of its two sides; `width` the median of the logarithm of the ratio's "
        "interval; `trained` the epochs of a scheme's trials."
    )
    for seeds, rows in sorted(coverage.items(), key=lambda item: int(item[0])):
        lines += ["", f"## {seeds} seeds, {rows[0]['studies']} studies each", ""]
        shown = []
        for entry in rows:
            cells = (
                entry["population"],
                entry["scheme"],
                percent(entry["ratio_coverage"]),
                percent(entry["ratio_coverage_restricted"]),
                percent(entry["grid_ratio_coverage"]),
                percent(entry["epochs_coverage"]),
                percent(entry["epochs_coverage_restricted"]),
                percent(entry["grid_epochs_coverage"]),
                percent(entry["false_proved"]),
                "" if entry["log_width"] is None else f"{entry['log_width']:.2f}",
                f"{entry['epochs_trained']:.0f}",
                f"{entry['epochs_trained_grid']:.0f}",
            )
            shown.append(cells)
        lines += table(COVERAGE_COLUMNS, shown)
    return "\n".join(lines) + "\n"


def main_table(rows: Sequence[Any]) -> str:
    """Rows of the main job as the terminal shows them, indented."""
    printed = io.StringIO()
    print_table(rows, Terminal(file=printed, width=80))
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    return "\n".join(f"    {line}".rstrip() for line in lines if line)


def front_words(summary: Mapping[str, Any], replications: Mapping[str, Any]) -> str:
    """What the README's rows say, in three sentences."""
    rows = {row["scheme"]: row for row in summary["table"]}
    xavier = rows["xavier_rnn"]
    alike = sharing_a_letter(xavier, rows)
    (pair,) = (
        pair
        for pair in summary["pairs"]
        if {pair["scheme"], pair["other"]} == {"xavier_rnn", "he_normal"}
    )
    again = replications["schemes"]["xavier_rnn"]["ratio"]["mean"]
    text = (
        f"A vanilla RNN on handwritten digits, {xavier['seeds']} seeds: epochs until the "
        f"{summary['metric']} is {100 * summary['target']:.0f} %, `times fewer` against a Gaussian "
        "of standard deviation 0.01. Tutorials repeat that Xavier initialization cuts the epochs "
        f'"by 2 to 10 times": against that Gaussian it does ({xavier["ratio"]:.1f}; {again:.1f} in '
        f"{replications['studies']} studies with other seeds), against {len(alike) - 1} other "
        "schemes nothing of the kind is seen, and to tell it from He's would take some "
        f"{pair['seeds_needed']} seeds. Schemes that share a letter are not told apart; "
        f"conv/cens/div: seeds that converged, did not within {summary['budget']:g} epochs, "
        "diverged; `*`: a note doubts the rate. [All nine](docs/results.md)."
    )
    return "\n".join(wrapped(text))


def sharing_a_letter(row: Mapping[str, Any], rows: Mapping[str, Any]) -> list[str]:
    """The schemes that are not told apart from that of a row, itself among them."""
    return [name for name, other in rows.items() if set(other["letters"]) & set(row["letters"])]


def findings(kept: Mapping[str, Any]) -> str:
    """What experiments have found, a sentence each, with the numbers of their claims."""
    lines = []
    for sentence, *of_claims in FOUND:
        numbers = []
        for name, statement in of_claims:
            (claim,) = (c for c in kept[name]["claims"] if c["statement"] == statement)
            numbers.append(measured_of(claim))
        name = of_claims[0][0]
        text = f"{sentence.format(*numbers)} [`{name}`](docs/results.md#{name})"
        lines.append("\n".join(textwrap.wrap(f"- {text}", 150, subsequent_indent="  ")))
    return "\n".join(lines)


def main_words(summary: Mapping[str, Any], replications: Mapping[str, Any]) -> str:
    """What the main job says, in words."""
    baseline = summary["baseline"]
    rows = {row["scheme"]: row for row in summary["table"]}
    pairs = {}
    for pair in summary["pairs"]:
        pairs[pair["scheme"], pair["other"]] = pair
        inverse = {"ratio": 1 / pair["ratio"], "low": 1 / pair["high"], "high": 1 / pair["low"]}
        pairs[pair["other"], pair["scheme"]] = pair | inverse
    best = max(rows.values(), key=lambda row: row["ratio"] or 0)
    alike = sharing_a_letter(best, rows)
    claims = {claim["id"]: claim for claim in summary["claims"]}
    parts = claims[f"A10.{baseline}"]["parts"]
    schemes = replications["schemes"]
    held = sorted(its["epochs"]["held"] for its in schemes.values())
    held_ratios = sorted(its["ratio"]["held"] for its in schemes.values() if its["ratio"])
    count = replications["studies"]
    he = pairs["xavier_rnn", "he_normal"]["seeds_needed"]
    xavier = rows["xavier_rnn"]
    again = {name: f"{schemes[name]['ratio']['mean']:.1f}" for name in ("xavier_rnn", "identity")}
    paragraphs = (
        f"Epochs until the {summary['metric']} is {100 * summary['target']:.0f} %, what linear "
        "discriminant analysis reaches; `times fewer` is against the baseline, a Gaussian of "
        f"standard deviation 0.01. {count} studies like it with other seeds have "
        f"{again['xavier_rnn']} for Xavier and {again['identity']} for identity; in {held[0]} to "
        f"{held[-1]} of them a scheme's interval holds the mean of the others, of ratios in "
        f"{held_ratios[0]} to {held_ratios[-1]}.",
        'Notes and tutorials repeat that Xavier initialization cuts the epochs to convergence "by '
        f'2 to 10 times". Against the small Gaussian it needs {xavier["ratio"]:.1f} times fewer '
        f"({said(parts)}); against U[0, 1], which never converges, at least "
        f"{pairs['uniform01', 'xavier_rnn']['low']:.1f}. Against He's, LeCun's and an orthogonal "
        f"initialization nothing of the kind is seen: {len(alike)} schemes share a "
        f"letter, and to tell Xavier from He's would take some {he} seeds "
        "(`xavier_rnn`, N(0, 1/fan_in) as notes write it, *is* LeCun's law; Glorot's own are "
        "`glorot_normal` and `glorot_uniform`). An identity recurrent matrix, which preserves "
        f"norms exactly, needs {rows['identity']['ratio']:.2f} times fewer than the small Gaussian "
        f"under tanh ({rows['identity']['ratio_low']:.2f} to "
        f"{rows['identity']['ratio_high']:.2f}, p = {rows['identity']['p_holm']:.2g}). This is one "
        "task and one network; `jaxinit reproduce rnn_convergence` measures thirteen settings.",
    )
    return "\n\n".join("\n".join(wrapped(text)) for text in paragraphs)


def said(parts: Mapping[str, str]) -> str:
    """The verdicts of a claim's parts."""
    words = {"supported": "holds", "refuted": "does not hold", "open": "is open"}
    return ", ".join(f"{part} {words[verdict]}" for part, verdict in parts.items())


def coverage_words(coverage: Mapping[str, Any]) -> str:
    """In how many studies of eight seeds the intervals hold the truth."""
    ours, grid, unseen = [], [], []
    for entry in coverage["8"]:
        ours += [entry["ratio_coverage"], entry["epochs_coverage"]]
        grid += [entry["grid_ratio_coverage"], entry["grid_epochs_coverage"]]
        if entry["epochs_coverage_restricted"] != entry["epochs_coverage"]:
            unseen += [entry["ratio_coverage_restricted"], entry["epochs_coverage_restricted"]]
    ends = []
    for shares in (ours, grid, unseen):
        known = [share for share in shares if share is not None]
        ends += [100 * min(known), 100 * max(known)]
    text = (
        "- **Intervals contain the choice of the rate.** Whole studies of eight seeds, played on "
        "measured and synthetic populations, put the truth inside their 95 % interval in "
        f"{ends[0]:.1f} to {ends[1]:.1f} % of cases, where a grid of factor three with the usual "
        f"bootstrap does in {ends[2]:.0f} to {ends[3]:.0f} %. Where seeds are lost, of which a "
        f"study may see none, {ends[4]:.0f} to {ends[5]:.0f} % hold the mean over all seeds "
        "([docs/coverage.md](docs/coverage.md))."
    )
    return "\n".join(textwrap.wrap(text, 120, subsequent_indent="  ", break_on_hyphens=False))


# Docstrings.


def expectation(summary: Mapping[str, Any]) -> str:
    """The last part of a docstring: what to expect."""
    about, claims = summary["about"], summary["claims"]
    lines = textwrap.wrap(
        f"Expect at quick ({about['date']}, {about['seconds']} s on {about['cores']} cores; all "
        "claims and intervals: docs/results.md):",
        WIDTH,
    )
    for claim in claims[:SHOWN]:
        text = f"{claim['id']}: {claim['statement']}: {measured_of(claim)}; {judged(claim)}."
        lines += textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")
    if len(claims) > SHOWN:
        lines.append(f"- and {len(claims) - SHOWN} more claims.")
    return "\n".join(lines)


def with_expectation(source: str, text: str) -> str:
    """An experiment's source with the end of its docstring, from "Expect at quick" on, replaced."""
    head, quotes, rest = source.partition('\n"""\n')
    before, found, _ = head.partition("Expect at quick")
    if not (quotes and found):
        raise BadStudy('an experiment\'s docstring must end with a part "Expect at quick"')
    return before + text.replace("\\", "\\\\") + quotes + rest


def docstring(name: str) -> str:
    source = (ROOT / "experiments" / f"{name}.py").read_text()
    return ast.get_docstring(ast.parse(source)) or ""


# Text.


def between(text: str, begin: str, end: str, middle: str) -> str:
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise BadStudy(f"there is no {begin!r} and {end!r} in the page")
    return pattern.sub(lambda _: f"{begin}\n\n{middle}\n\n{end}", text)


def table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [row(columns), "|" + "---|" * len(columns), *map(row, rows)]


def row(cells: Iterable[Any]) -> str:
    """A row of it; a bar would end a cell."""
    texts = [str(cell).replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(texts)} |"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
