"""The page of whatever a folder holds: a study, an experiment, a probe or a coordinate check."""

from pathlib import Path

from jaxinit.analysis.coordinates import KIND
from jaxinit.analysis.coordinates_page import coordinates_page
from jaxinit.analysis.experiment_page import experiment_page
from jaxinit.analysis.folder import MANIFEST, Folder
from jaxinit.analysis.page import REPORT, Page
from jaxinit.analysis.probe_page import probe_page
from jaxinit.analysis.store import STATE
from jaxinit.analysis.study_page import read, study_page
from jaxinit.study import BadStudy

# By the kind of answer.
PAGES = {"experiment": experiment_page, "probe": probe_page, KIND: coordinates_page}


def page_of(path: Path) -> Page:
    """The page of a folder. Raises: BadStudy where it holds none of them."""
    try:
        held = Folder(path).manifest()
    except BadStudy:
        return study_page(read(path))  # whose files may be there all the same
    if held is not None and held.kind in PAGES:
        return PAGES[held.kind](path)
    return study_page(read(path))


def is_current(path: Path) -> bool:
    """Whether a folder has a page that is no older than what it is made of; that of claims is made
    of other folders, and written when they have ended."""
    page = path / REPORT
    if not page.is_file():
        return False
    if not (path / MANIFEST).is_file():
        return True
    written = page.stat().st_mtime
    made_of = (*path.rglob(MANIFEST), *path.rglob(STATE))  # of an experiment: its studies' too
    return all(part.stat().st_mtime <= written for part in made_of)
