"""The question: defaults, JSON, the command line that repeats it, and settings that make no
sense."""

import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxinit.options import OPTIONS, TransformerOptions, docstrings
from jaxinit.study import (
    MODELS,
    MODELS_TAKING,
    TASKS_TAKING,
    BadStudy,
    Study,
    check_name,
    check_settings,
    descriptions,
    model_options,
)

STUDY = Study(lrs=(0.1, 0.3))


def test_seeds_that_tune_never_report() -> None:
    assert list(STUDY.tuning) == [0, 1, 2]
    assert list(STUDY.reporting) == list(range(3, 11))
    for untuned in (replace(STUDY, lrs=(0.1,)), replace(STUDY, search="ladder")):
        assert not list(untuned.tuning)
        assert list(untuned.reporting) == list(range(8))


def test_another_first_seed_replicates_a_study_on_other_seeds() -> None:
    other = replace(STUDY, first_seed=11)
    assert list(other.tuning) == [11, 12, 13]
    assert list(other.reporting) == list(range(14, 22))
    assert other.folder != STUDY.folder
    assert "--first-seed 11" in other.command()
    assert list(replace(other, search="ladder").reporting) == list(range(11, 19))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": "random"}, "no search is called 'random'"),
        ({"search": "ladder", "lrs": (0.1,)}, "needs 2 or more rates to choose among, got 0.1"),
        ({"search": "ladder", "tune_seeds": 2}, "a ladder has none; leave --tune-seeds out"),
        ({"search": "grid", "tune_seeds": 0}, "needs --tune-seeds 1 or more"),
        ({"first_seed": -1}, "first_seed must be 0 to 1073741824, got -1"),
    ],
)
def test_a_search_that_cannot_choose_is_refused(change: dict, message: str) -> None:
    with pytest.raises(BadStudy, match=message):
        check_settings(replace(STUDY, **change))


def test_searches_that_can_choose_are_taken() -> None:
    for change in ({"search": "ladder"}, {"search": "ladder", "lrs": ()}, {"search": "grid"}):
        check_settings(replace(STUDY, **change))
    check_settings(replace(STUDY, lrs=(0.1,), tune_seeds=0))


def test_json_round_trip(tmp_path: Path) -> None:
    study = replace(STUDY, schemes=("orthogonal", "small_normal"), clip=1.0, length=3)
    (tmp_path / "study.json").write_text(json.dumps({"study": study.plain(), "other": 1}))
    assert Study.from_json(tmp_path / "study.json") == study


def test_the_command_names_what_is_not_default() -> None:
    words = shlex.split(
        replace(STUDY, tune_seeds=5, task="text", text="my book.txt", stateful=True).command()
    )
    told = [
        "--task",
        "text",
        "--text",
        "my book.txt",
        "--lrs",
        "0.1",
        "0.3",
        "--tune-seeds",
        "5",
        "--stateful",
    ]
    assert words == ["jaxinit", "run", *told]


def test_one_question_one_folder() -> None:
    assert STUDY.folder == Study(lrs=(0.1, 0.3)).folder
    assert STUDY.folder != replace(STUDY, seeds=9).folder
    assert STUDY.folder.name.startswith("rnn-digits_rows-")
    assert replace(STUDY, model="../my net").folder.parent == STUDY.folder.parent


def made_with(**settings: Any) -> Study:
    """As `Study(**settings)` outside of the suite, whose type checker would be the first to
    refuse."""
    study = Study()
    for name, value in settings.items():
        object.__setattr__(study, name, value)
    study.__post_init__()
    return study


def test_numbers_are_pythons_own_whatever_they_were() -> None:
    own = Study(
        hidden=64, lrs=(0.1, 1.0), clip=1.0, schemes=("small_normal", "orthogonal"), text="a.txt"
    )
    values: dict[str, Any] = {
        "hidden": np.int64(64),
        "lrs": [np.float32(0.1), 1],
        "clip": np.int8(1),
        "schemes": ["small_normal", np.str_("orthogonal")],
        "text": Path("a.txt"),
        "residual": np.bool_(False),
    }
    given = made_with(**values)
    assert given == own
    assert given.plain() == own.plain()
    assert given.folder == own.folder
    assert [type(rate) for rate in given.lrs] == [float, float]
    assert (type(given.hidden), type(given.residual), type(given.schemes[1])) == (int, bool, str)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lrs", ("0.01",), "lrs wants a number, got '0.01'"),
        ("lrs", 0.1, "lrs wants several values, such as (0.1,); got 0.1"),
        ("lrs", np.array(0.1), "lrs wants several values"),
        ("lrs", (None,), "lrs wants a number, got None"),
        (
            "schemes",
            "orthogonal",
            "schemes wants several values, such as ('orthogonal',); got 'orthogonal'",
        ),
        ("schemes", (1,), "schemes wants a name or an object of yours, got 1"),
        ("hidden", None, "hidden wants a whole number, got None"),
        ("hidden", 64.0, "hidden wants a whole number, got 64.0"),
        ("hidden", True, "hidden wants a whole number, got True"),
        ("hidden", "64", "hidden wants a whole number, got '64'"),
        ("clip", 1j, "clip wants a number, got 1j"),
        ("clip", np.array([1.0]), "clip wants a number, got array([1.])"),
        ("l2", 10**400, "l2 must be at most 3.4e+38, got a number beyond float64"),
        ("residual", 2, "residual wants True or False, got 2"),
        ("residual", np.array([1, 0]), "residual wants True or False"),
        ("model", None, "model wants a name or an object of yours, got None"),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(BadStudy, match=re.escape(message)):
        made_with(**{name: value})


def test_the_help_names_the_tasks_that_take_a_setting() -> None:
    texts = docstrings(Study)
    for setting, takers in TASKS_TAKING.items():
        if setting != "length":
            assert f"{', '.join(takers[:-1])} and {takers[-1]}" in texts[setting]


@pytest.mark.parametrize("model", MODELS)
def test_the_help_of_a_model_has_the_settings_that_it_takes_and_no_others(model: str) -> None:
    texts = descriptions(model)
    for field in fields(Study):
        takers = MODELS_TAKING.get(field.name, MODELS)
        assert (field.name in texts) == (model in takers), field.name
    assert all(text.endswith((".", ").")) for text in texts.values())


def test_the_help_says_what_a_setting_left_out_means_for_the_model() -> None:
    assert descriptions("rnn")["activation"].endswith("Default: tanh.")
    assert descriptions("vit")["activation"].endswith("Default: gelu.")
    assert "Default" not in descriptions("lstm")["norm"]


@pytest.mark.parametrize("model", MODELS)
def test_a_setting_left_out_is_the_default_of_the_models_option(model: str) -> None:
    options = OPTIONS[model]
    assert options(**model_options(Study(model=model, layers=2))) == options(layers=2)


def test_settings_are_options_by_another_name_where_they_mean_something_else() -> None:
    text = Study(model="lstm", task="text", stateful=True, batch=7, unroll=3)
    assert model_options(text)["stateful"] == 7
    assert model_options(text)["unroll"] == 3
    block = TransformerOptions(**model_options(Study(model="vit", post_norm=True, norm="none")))
    assert (block.placed, block.norm) == ("post", None)


def test_a_model_of_the_callers_own_is_given_what_is_not_default() -> None:
    own = model_options(Study(model="own", norm="layer", layers=3))
    assert own == {"layers": 3, "norm": "layer"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lrs": (0.1, -0.3)},
            "learning rates must be positive, finite and different, .* got 0.1 -0.3",
        ),
        ({"lrs": (0.1, 0.1)}, "positive, finite and different"),
        ({"lrs": (float("inf"),)}, "positive, finite and different"),
        ({"lrs": (1e39,)}, "positive, finite and different, 1.2e-38 to 3.4e\\+38"),
        ({"lrs": (1e-40,)}, "positive, finite and different"),
        ({"lrs": (0.1, 0.1 + 1e-12)}, "positive, finite and different"),
        ({"seeds": 10**30}, "seeds must be 2 to 100000, got 1000000000000000000000000000000"),
        ({"hidden": 10**400}, "hidden must be 1 to 2147483647, got a number of 1329 bits"),
        ({"hidden": 2**31}, "hidden must be 1 to 2147483647, got 2147483648"),
        ({"epochs": 2**30}, "epochs times evaluations must be at most 16777216"),
        ({"heads": 7}, "--heads is an option of transformer, vit; leave it out"),
        ({"stateful": True}, "--stateful is an option of text, words, penn_treebank; leave it out"),
        (
            {"length": 4},
            "--length is an option of adding, copy.*; leave it out.* in place of task "
            "'digits_rows'",
        ),
        (
            {"model": "lru", "unroll": 2},
            "--unroll is an option of rnn, lstm, gru, mgu; leave it out",
        ),
        ({"variational": True}, "give --dropout too"),
        ({"leak": 0.0}, "leak must be above 0 and at most 1, got 0"),
        ({"leak": float("nan")}, "leak must be above 0"),
        ({"clip": float("inf")}, "clip must be positive"),
        ({"l2": 1e39}, "l2 must be 0 or more"),
        ({"dropout": 1 - 1e-12}, "dropout must be 0 or more and below 1"),
        ({"dropout": float("nan")}, "dropout must be 0 or more and below 1"),
        ({"target": 1e39}, "target must be a number"),
        ({"model": "a\nb"}, "a name has 1 to 100 characters that can be printed"),
        ({"schemes": ("small_normal", "")}, "a name has 1 to 100 characters"),
        ({"seeds": 1}, "seeds must be 2 to 100000, got 1 .an interval needs two."),
        ({"tune_seeds": 0}, "needs --tune-seeds 1 or more; or give a single --lrs"),
        ({"hidden": 0}, "hidden must be 1 to 2147483647, got 0"),
        ({"epochs": -1}, "epochs must be 1 to "),
        ({"schemes": ()}, "one or more different names, got none"),
        ({"schemes": ("orthogonal", "orthogonal")}, "one or more different names"),
        ({"baseline": "pytorch"}, "the baseline 'pytorch' is not among the schemes"),
        ({"clip": 0.0}, "clip must be positive, .* got 0"),
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
    with pytest.raises(
        BadStudy, match="no scheme is called 'ortogonal'; the nearest is 'orthogonal'"
    ):
        check_name("scheme", "ortogonal", ["identity", "orthogonal"])
