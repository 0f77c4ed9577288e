"""The page of an experiment: its claims, its rows, and every study that it ran.

folder -> summary.json, and the folders of studies below it -> Page
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxinit.analysis import store, study_page
from jaxinit.analysis.claims import IN_WORDS, counted, measured_of
from jaxinit.analysis.folder import MANIFEST, Folder, folder_name, quoted
from jaxinit.analysis.page import Block, Cell, Facts, Lines, Page, Picture, Section, Table
from jaxinit.analysis.store import SUMMARY, Result
from jaxinit.analysis.study_page import Parts
from jaxinit.study import BadStudy

MOST_PICTURES = (
    5 * 2**19
)  # bytes of figures and their numbers in a page, which take a third more there
OF_ALL = ("about", "table", "claims", "studies")  # in every summary.json; the rest is its own
LONGEST = 2000  # characters of what an experiment keeps beside its rows


def experiment_page(path: Path, results: Iterable[Result] = ()) -> Page:
    """The page of an experiment's folder, of whatever can be read of it; `results` are those of its
    studies that have been read already. Raises: BadStudy for a folder that holds none."""
    folder = Folder(path)
    held = folder.manifest()
    if held is None or held.kind != "experiment":
        raise BadStudy(
            f"{path} holds no experiment; give the folder that `jaxinit reproduce` named"
        )
    missing: list[str] = []
    summary: dict[str, Any] = {}
    if SUMMARY in held.files:
        try:
            summary = json.loads(folder.read(SUMMARY))
        except BadStudy as error:
            missing.append(str(error))
    else:
        missing.append(
            f"the experiment has not ended, and has no {SUMMARY}; go on with: "
            f"{_command(held.question)} --out {quoted(path)}"
        )
    studies = _studies(path, {result.folder: result for result in results}, missing)
    about = summary.get("about") or held.question
    return Page(
        title=f"{about.get('experiment', path.name)}, size {about.get('size', '?')}",
        subtitle=f"{path}; written {held.written}",
        answer=_answer(summary),
        sections=_sections(path, summary, about, studies),
        warnings=[*missing, *_warnings(studies)],
        schemes=_schemes(summary, studies),
    )


def _studies(path: Path, known: Mapping[Path, Result], missing: list[str]) -> dict[str, Parts]:
    """The studies below a folder, by their paths in it; what cannot be read is `missing`."""
    found = {}
    for manifest in sorted(path.rglob(MANIFEST)):
        if manifest.parent == path:
            continue
        name = str(manifest.parent.relative_to(path))
        if manifest.parent in known:
            found[name] = study_page.parts_of(known[manifest.parent])
            continue
        try:
            if (held := Folder(manifest.parent).manifest()) and held.kind == "study":
                found[name] = study_page.read(manifest.parent)
        except BadStudy as error:
            missing.append(f"{name}: {error}")
    return found


def _answer(summary: Mapping[str, Any]) -> str:
    """The first claim with its interval, and how many hold of all."""
    if not summary:
        return "There is no answer yet; what its studies have is below."
    claims = summary.get("claims", [])
    if not claims:
        return "It makes no claims; see its rows."
    first = claims[0]
    claimed = f", claimed: {first['published']}" if first["published"] else ""
    verdict = IN_WORDS[first["verdict"]]
    said = f"{first['statement']}: {measured_of(first)}{claimed}; {verdict}."
    return f"{said} {counted(claims)}" if len(claims) > 1 else said


def _warnings(studies: Mapping[str, Parts]) -> list[str]:
    lines = []
    for name, parts in studies.items():
        lines += [f"{name}: {line}" for line in study_page.warnings_of(parts)]
    return lines


def _schemes(summary: Mapping[str, Any], studies: Mapping[str, Parts]) -> list[str]:
    """All schemes, in the order of the studies, so that each has one colour on the whole page."""
    order: dict[str, None] = {}
    for parts in studies.values():
        order |= dict.fromkeys(study_page.schemes(parts))
    for row in summary.get("table", []):
        if "scheme" in row:
            order[str(row.get("drawn_by", row["scheme"]))] = None
    return list(order)


def _sections(
    path: Path, summary: Mapping[str, Any], about: Mapping[str, Any], studies: Mapping[str, Parts]
) -> list[Section]:
    sections = []
    if summary.get("claims"):
        sections.append(Section("Claims", [study_page.claims_table(summary["claims"])]))
    if summary.get("table"):
        sections.append(Section("Rows", [_rows(summary["table"])]))
    if figures := _figures(path):
        sections.append(Section("Figures", figures))
    for name, value in summary.items():
        if name not in OF_ALL:
            sections.append(Section(name.replace("_", " "), [_own(value)], folded=True))
    for name, parts in _in_order(summary, studies).items():
        said = Lines("", [study_page.answer(parts)])
        blocks: list[Block] = [said, *study_page.blocks_of(parts)]
        sections.append(Section(f"Study: {name}", blocks, folded=True))
    sections.append(Section("How it was measured", _how(path, about)))
    return sections


def _figures(path: Path) -> list[Block]:
    """The figures of the experiment's own with their numbers; where they are too many for a page,
    the names of the last."""
    blocks: list[Block] = []
    room, left = MOST_PICTURES, []
    figures = path / "figures"
    for file in sorted(figures.rglob("[!.]*.png")):
        numbers = file.with_suffix(".csv")
        content = numbers.read_bytes() if numbers.exists() else b""
        room -= file.stat().st_size + len(content)
        if room < 0:
            left.append(f"{file.relative_to(figures)}: {file}")
        else:
            title = str(file.relative_to(figures).with_suffix("")).replace("_", " ")
            blocks.append(Picture(title, file.read_bytes(), content))
    return [*blocks, Lines("Beside this page", left)] if left else blocks


def _in_order(summary: Mapping[str, Any], studies: Mapping[str, Parts]) -> dict[str, Parts]:
    """The studies as the experiment names and orders them, then those that it does not."""
    settings = [str(row["setting"]) for row in summary.get("table", ()) if "setting" in row]
    left, named = dict(studies), {}
    for name in (*summary.get("studies", ()), *settings):
        parts = left.pop(folder_name(name), None)
        if parts is not None:
            named[name] = parts
    return named | left


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of an experiment: those of studies, or others of its own."""
    if all("setting" in row and "ratio_is" in row for row in rows):
        return study_page.settings_table([*rows])  # type: ignore[arg-type]
    return _plain_table(rows)


def _plain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows whose entries are numbers or words."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells, numeric = [], set()
    for row in rows:
        entries = []
        for name in columns:
            value = row.get(name)
            scheme = str(value) if name == "scheme" else ""
            if isinstance(value, int | float) and not isinstance(value, bool):
                numeric.add(name)
                text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
                entries.append(Cell(text, float(value)))
            else:
                entries.append(Cell(_as_text(value), scheme=scheme))
        cells.append(entries)
    shown = [name.replace("_", " ") for name in columns]
    numbers = frozenset(name.replace("_", " ") for name in numeric)
    records = [dict(row) for row in rows]
    return Table("", shown, cells, numeric=numbers, records=records)


def _own(value: Any) -> Block:
    """What an experiment keeps of its own: a table, facts, or as it is."""
    rows = isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    if rows:
        return _rows(value)
    if isinstance(value, dict):
        return Facts("", {str(key): _as_text(entry) for key, entry in value.items()})
    return Lines("", [_as_text(value)])


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _how(path: Path, about: Mapping[str, Any]) -> list[Block]:
    facts = {}
    for name in ("experiment", "size", "first_seed", "date", "seconds", "cores", "commit"):
        if about.get(name) is not None:
            facts[name.replace("_", " ")] = str(about[name])
    facts["versions"] = store.versions_in_words(about.get("versions", {}))
    return [
        Facts("", {name: value for name, value in facts.items() if value}),
        Lines("Once more", [_command(about)], command=True),
    ]


def _command(about: Mapping[str, Any]) -> str:
    words = f"jaxinit reproduce {about.get('experiment', '?')} --size {about.get('size', '?')}"
    if about.get("first_seed"):
        words += f" --first-seed {about['first_seed']}"
    return words
