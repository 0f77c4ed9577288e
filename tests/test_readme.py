"""What the README shows works: its Python runs as it stands. Its commands: tests/test_docs.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shown import FULL, README, python, with_fewer


@pytest.mark.parametrize("fewer", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_python_runs_as_it_stands(fewer: bool, tmp_path: Path) -> None:
    """But for the sizes of its studies, where `fewer`."""
    program, text = tmp_path / "readme.py", python(README)
    environment = dict(os.environ)
    if fewer:
        assert len(FULL.findall(text)) == 1
        text = with_fewer(text)
    else:  # optimized as for its reader: it trains for half a minute
        environment["XLA_FLAGS"] = ""
    program.write_text(text)
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "half" / "summary.json").exists()
