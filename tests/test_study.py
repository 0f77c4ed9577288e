"""The question: defaults, JSON, the command line that repeats it, and settings that make no sense."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from jaxinit.study import BadStudy, Study, check_name, check_settings

STUDY = Study(lrs=(0.1, 0.3))


def test_seeds_that_tune_never_report() -> None:
    assert list(STUDY.tuning) == [0, 1, 2]
    assert list(STUDY.reporting) == list(range(3, 11))
    single = replace(STUDY, lrs=(0.1,))
    assert not list(single.tuning)
    assert list(single.reporting) == list(range(8))


def test_json_round_trip(tmp_path: Path) -> None:
    study = replace(STUDY, schemes=("orthogonal", "small_normal"), clip=1.0, length=3)
    (tmp_path / "study.json").write_text(json.dumps({"study": study.plain(), "other": 1}))
    assert Study.from_json(tmp_path / "study.json") == study


def test_the_command_names_what_is_not_default() -> None:
    words = shlex.split(replace(STUDY, tune_seeds=5, task="adding").command())
    assert words == ["jaxinit", "run", "--task", "adding", "--lrs", "0.1", "0.3", "--tune-seeds", "5"]


def test_one_question_one_folder() -> None:
    assert STUDY.folder == Study(lrs=(0.1, 0.3)).folder
    assert STUDY.folder != replace(STUDY, seeds=9).folder
    assert STUDY.folder.name.startswith("rnn-digits_rows-")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrs": (0.1, -0.3)}, "learning rates must be positive, finite and different, got 0.1 -0.3"),
        ({"lrs": (0.1, 0.1)}, "positive, finite and different"),
        ({"lrs": (float("inf"),)}, "positive, finite and different"),
        ({"seeds": 1}, "an interval needs 2 or more reporting seeds, got --seeds 1"),
        ({"tune_seeds": 0}, "needs --tune-seeds 1 or more; or give a single --lrs"),
        ({"hidden": 0}, "hidden must be 1 or more, got 0"),
        ({"epochs": -1}, "epochs must be 1 or more"),
        ({"schemes": ()}, "one or more different names, got none"),
        ({"schemes": ("orthogonal", "orthogonal")}, "one or more different names"),
        ({"baseline": "pytorch"}, "the baseline 'pytorch' is not among the schemes"),
        ({"clip": 0.0}, "clip must be positive, got 0"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        ({"target": float("nan")}, "target must be a number"),
    ],
)
def test_bad_settings_are_one_line(change: dict, message: str) -> None:
    with pytest.raises(BadStudy, match=message) as caught:
        check_settings(replace(STUDY, **change))
    assert "\n" not in str(caught.value)


def test_unknown_names_come_with_the_nearest() -> None:
    check_name("scheme", "a", ["a"])
    with pytest.raises(BadStudy, match="no scheme is called 'ortogonal'; the nearest is 'orthogonal'"):
        check_name("scheme", "ortogonal", ["identity", "orthogonal"])
