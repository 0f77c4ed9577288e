"""The page of a probe: what its signals are judged to be, and their sizes.

signals.nc, through_time.nc -> verdicts, charts -> Page
"""

from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from jaxinit.analysis import store
from jaxinit.analysis.curves import back_through_time, jacobians
from jaxinit.analysis.folder import Folder
from jaxinit.analysis.health import Verdict, judge, remedies
from jaxinit.analysis.page import (
    Block,
    Cell,
    Chart,
    Facts,
    Lines,
    Page,
    Section,
    Sign,
    Table,
)
from jaxinit.analysis.signal_figures import memory
from jaxinit.analysis.study_page import OF_SIZES, SIGNALS, once_more, signal_charts
from jaxinit.study import BadStudy, Study

THROUGH_TIME = "through_time.nc"


def probe_page(path: Path) -> Page:
    """The page of a probe's folder. Raises: BadStudy where its signals are missing or damaged."""
    folder = Folder(path)
    held = folder.manifest()
    if held is None or held.kind != "probe":
        raise BadStudy(f"{path} holds no probe; give the folder that `jaxinit probe` named")
    signals = store.read_records(folder, SIGNALS)
    schemes = [str(scheme) for scheme in signals.scheme.values]
    courses, missing = _through_time(folder, held.files)
    verdicts = {scheme: judge(signals.sel(scheme=scheme)) for scheme in schemes}
    about = signals.attrs
    facts = {name: str(about[name]) for name in about}
    facts["seeds"] = str(signals.sizes["seed"])
    asked, usual = held.question["study"], Study().plain()
    for name, value in asked.items():
        if name not in {*facts, "schemes", "baseline"} and value != usual.get(name):
            facts[name.replace("_", " ")] = str(value)
    sections = [
        Section("Verdicts", [_verdicts_table(verdicts)]),
        Section("Signals", signal_charts(signals)),
    ]
    said = []
    for scheme, judged in verdicts.items():
        said.append(f"{scheme}: {judged[0].kind if judged else 'nothing to judge'}")
        if courses is not None:
            said[-1] += f", the gradient falls to 1/e in {memory(courses, scheme)} steps back"
    if courses is not None:
        sections.append(Section("Through time", _time_charts(courses)))
    own = {name: value for name, value in held.question.items() if name in ("examples", "only")}
    again = once_more("probe", asked, **own)
    sections.append(Section("The question", [Facts("", facts), *again]))
    return Page(
        title=f"Signals before training: {about['model']}, {about['hidden']} units",
        subtitle=f"{path}; written {held.written}",
        answer=f"{'; '.join(said)}.",
        sections=sections,
        warnings=missing,
        schemes=schemes,
    )


def _through_time(folder: Folder, files: Iterable[str]) -> tuple[xr.Dataset | None, list[str]]:
    """What was seen by step, None for a network without steps; and what is missing of it."""
    if THROUGH_TIME not in files:
        return None, []
    try:
        return store.read_records(folder, THROUGH_TIME), []
    except BadStudy as error:
        return None, [str(error)]


def _time_charts(courses: xr.Dataset) -> list[Block]:
    """Gradients of the states back from the last step, their variance, and singular values of the
    Jacobians between steps."""
    by_scheme = {str(s): courses.sel(scheme=s) for s in courses.scheme.values}
    blocks: list[Block] = []
    for layer in range(courses.sizes["layer"]):
        back, sizes = {}, {}
        for scheme, course in by_scheme.items():
            back[scheme], sizes[scheme] = back_through_time(course, layer)
        of = f", layer {layer + 1}" if courses.sizes["layer"] > 1 else ""
        blocks += [
            Chart(
                f"Gradient of the state{of}", "steps back from the last", "norm", back, y_log=True
            ),
            Chart(f"Variance of h{of}", "time step", "variance", sizes, y_log=True),
        ]
    largest, median = {}, {}
    for scheme, course in by_scheme.items():
        largest[scheme], median[scheme] = jacobians(course)
    for which, values in (("Largest", largest), ("Median", median)):
        title = f"{which} singular value of the Jacobian between steps"
        blocks.append(Chart(title, "lag", "singular value", values, x_log=True, y_log=True))
    note = f"{OF_SIZES} The Jacobians are of the last layer, for one example."
    return [*blocks, Lines("", [note])]


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
