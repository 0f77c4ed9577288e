"""A result that shows itself: its table as text and as a frame, its figure, both in a notebook."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ended_study import STUDY
from kept_study import keep

from jaxinit.analysis.answer import Answer, load


@pytest.fixture
def kept(tmp_path: Path) -> Answer:
    return load(keep(tmp_path / "s").folder)


def test_its_repr_is_the_table(kept: Answer, capsys: pytest.CaptureFixture) -> None:
    said = repr(kept)
    assert all(scheme in said for scheme in STUDY.schemes)
    assert "times fewer" in said
    kept.show()
    assert capsys.readouterr().out.strip() == said.strip()


def test_a_frame_has_a_row_for_each_scheme(kept: Answer) -> None:
    frame = kept.to_pandas()
    assert set(frame.index) == set(STUDY.schemes)
    for row in kept.summary["table"]:
        assert frame.loc[row["scheme"], "epochs"] == row["epochs"]


def test_the_figure_is_the_answer(kept: Answer) -> None:
    figure = kept.plot()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == [
        "orthogonal",
        "small_normal",
    ]


def test_in_a_notebook_table_and_figure_appear_and_names_are_text(kept: Answer) -> None:
    shown = kept._repr_html_()
    assert "<pre>" in shown
    assert 'src="data:image/png;base64,' in shown
    named: Any = {**kept.summary}
    named["notes"] = ["<b>"]
    assert "<b>" not in kept._replace(summary=named)._repr_html_()


def test_it_is_still_a_result(kept: Answer) -> None:
    study, records, *_ = kept
    assert study == STUDY
    assert isinstance(kept._replace(remark="x"), Answer)
    assert np.isfinite(records.lr).all()
