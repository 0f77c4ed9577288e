"""A study whose trials have all ended, in a folder, for tests of what is read of one."""

from pathlib import Path
from typing import Any

import xarray as xr
from ended_study import STUDY, about, ended

from jaxinit.analysis import store
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.analysis.store import Result
from jaxinit.analysis.summary import summarize
from jaxinit.study import Study


def keep(
    path: Path,
    study: Study = STUDY,
    records: xr.Dataset | None = None,
    files: dict[str, bytes] | None = None,
    **changes: Any,
) -> Result:
    """Write a complete study and read it; `changes` are of what study.json says."""
    told = about("complete") | changes
    records = ended() if records is None else records
    answer = {
        store.RECORDS: store.netcdf(records),
        store.SUMMARY: to_json(summarize(records, study, told)),
    }
    folder = Folder(path)
    with folder.locked():
        store.write_study(folder, study, told, answer | (files or {}))
    return store.load(path)
