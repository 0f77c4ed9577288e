"""The page of a probe: what its signals are judged to be, and their sizes.

signals.nc -> verdicts, charts -> Page
"""

from pathlib import Path

from jaxinit.analysis import store
from jaxinit.analysis.folder import Folder
from jaxinit.analysis.health import Verdict, judge, remedies
from jaxinit.analysis.page import Cell, Facts, Page, Section, Sign, Table
from jaxinit.analysis.study_page import SIGNALS, signal_charts
from jaxinit.study import BadStudy, Study


def probe_page(path: Path) -> Page:
    """The page of a probe's folder. Raises: BadStudy where its signals are missing or damaged."""
    folder = Folder(path)
    held = folder.manifest()
    if held is None or held.kind != "probe":
        raise BadStudy(f"{path} holds no probe; give the folder that `jaxinit probe` named")
    signals = store.read_records(folder, SIGNALS)
    schemes = [str(scheme) for scheme in signals.scheme.values]
    verdicts = {scheme: judge(signals.sel(scheme=scheme)) for scheme in schemes}
    worst = {scheme: judged[0].kind if judged else "?" for scheme, judged in verdicts.items()}
    about = signals.attrs
    facts = {name: str(about[name]) for name in about}
    facts["seeds"] = str(signals.sizes["seed"])
    asked, usual = held.question.get("study", {}), Study().plain()
    for name, value in asked.items():
        if name not in {*facts, "schemes", "baseline"} and value != usual.get(name):
            facts[name.replace("_", " ")] = str(value)
    return Page(
        title=f"Signals before training: {about['model']}, {about['hidden']} units",
        subtitle=f"{path}; written {held.written}",
        answer=f"{'; '.join(f'{scheme}: {kind}' for scheme, kind in worst.items())}.",
        sections=[
            Section("Verdicts", [_verdicts_table(verdicts)]),
            Section("Signals", signal_charts(signals)),
            Section("The question", [Facts("", facts)]),
        ],
        schemes=schemes,
    )


def _verdicts_table(verdicts: dict[str, list[Verdict]]) -> Table:
    rows, records = [], []
    for scheme, judged in verdicts.items():
        for verdict in judged:
            sign: Sign = "good" if verdict.kind == "healthy" else "bad"
            kind = Cell(verdict.kind, sign=sign)
            rows.append(
                [
                    Cell(scheme, scheme=scheme),
                    kind,
                    Cell(str(verdict)),
                    Cell(remedies(verdict.kind, verdict.along, scheme)),
                ]
            )
            records.append({"scheme": scheme, **verdict._asdict()})
    columns = ("scheme", "verdict", "what was seen", "to try")
    return Table("", columns, rows, records=records, words=True)
