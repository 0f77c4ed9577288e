"""How far work has come: what is estimated, and what a terminal, a log and a program see of it."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from short_study import SHORT, STUDY

from jaxinit.engine import campaign, progress
from jaxinit.engine.coordcheck import coordinate_check
from jaxinit.engine.survey import survey
from jaxinit.finetune import pretrain
from jaxinit.study import Study

TRIALS = progress.Trials(45, 216, progress.Best("orthogonal", 3.2))
STANDING = progress.Standing("training", 1234, 3300, "evaluations", TRIALS)
PHRASES = (
    "37 % (1,234 of about 3,300 evaluations)",
    "45 of about 216 trials ended",
    "best orthogonal 3.2 epochs",
    "about 2 min left",
)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    return clock


def half_way(work: progress.Work, clock: Clock) -> None:
    """Bring a study to 1,234 of 3,300 evaluations, two minutes before its end."""
    speed = (3300 - 1234) / 120
    for ago in (9, 6, 3, 0):
        work.stands(STANDING._replace(done=1234 - ago * speed))
        clock.now += 3 if ago else 0


def objects(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_trials_to_come_are_as_long_as_those_that_have_ended() -> None:
    assert progress.likely_total([], 10, 40) == 400
    assert progress.likely_total([(3, False)], 10, 40) == 400
    ended = [(10, True), (20, True)]
    assert progress.likely_total(ended, 10, 40) == 150
    assert progress.likely_total([*ended, (5, False)], 10, 40) == 150
    assert progress.likely_total([*ended, (30, False)], 3, 40) == 60, "it is longer than the others"
    assert progress.likely_total([*ended, (30, True)], 1, 40) == 60, "there are more than expected"


@pytest.mark.parametrize(
    ("width", "bar", "lines"),
    [(60, False, 3), (80, True, 2), (200, True, 1)],
)
def test_what_a_terminal_shows_is_whole_at_any_width(
    width: int, bar: bool, lines: int, clock: Clock
) -> None:
    console = Console(width=width, file=io.StringIO())
    with progress.shown(console=console) as screen, progress.work("preparing") as work:
        half_way(work, clock)
        picture = screen.picture(width)
    shown = picture.splitlines()
    assert len(shown) == lines
    assert max(map(len, shown)) <= width
    assert ("━━━━──────" in picture) == bar
    for phrase in PHRASES:
        assert phrase in " ".join(shown)


def test_a_terminal_that_knows_ascii_alone_has_a_bar_too(clock: Clock) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with (
        progress.shown(console=Console(width=200, file=file)) as screen,
        progress.work("preparing") as work,
    ):
        half_way(work, clock)
        assert "training ====------ 37 %" in screen.picture(200)


def test_a_terminal_shows_it_in_place_and_keeps_none_of_it() -> None:
    out = io.StringIO()
    console = Console(width=60, file=out, force_terminal=True, _environ={"TERM": "xterm"})
    with progress.shown(console=console), progress.work("drawing", 2, "schemes") as work:
        work.at(1)
    assert "drawing, 0 % (0 of 2 schemes)" in out.getvalue()
    assert "drawing, 50 % (1 of 2 schemes)" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K"), "the line is cleared"


def test_without_a_terminal_a_line_comes_every_half_minute(clock: Clock) -> None:
    out = io.StringIO()
    with (
        progress.shown(console=Console(file=out)),
        progress.work("preparing", at_once=True) as work,
    ):
        half_way(work, clock)
        assert out.getvalue().count("\n") == 1, "the first after the first pieces"
        clock.now += 20
        work.stands(STANDING)
        assert out.getvalue().count("\n") == 1
        clock.now += 10
        work.stands(STANDING._replace(done=1800))
    first, second = out.getvalue().splitlines()
    assert first.startswith("jaxinit: training, 3")
    assert first.endswith(" left")
    assert " trials ended, best orthogonal 3.2 epochs, about " in first
    assert second.startswith("jaxinit: training, 54 % (1,800 of about 3,300 evaluations), 45 of")


def test_the_line_has_it_all(clock: Clock) -> None:
    out = io.StringIO()
    with progress.shown(console=Console(file=out)), progress.work("preparing") as work:
        half_way(work, clock)
        clock.now += progress.EVERY
        work.stands(STANDING._replace(done=1234 + 30 * (3300 - 1234) / 120))
    assert out.getvalue() == (
        "jaxinit: training, 53 % (1,750 of about 3,300 evaluations), 45 of about 216 trials "
        "ended, best orthogonal 3.2 epochs, about 90 s left\n"
    )


def test_work_that_tells_nothing_is_shown_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.5)
    monkeypatch.setattr(progress, "LONG", 0.5)
    out = io.StringIO()
    with progress.shown(console=Console(file=out)), progress.work("compiling"):
        time.sleep(1.4)
    assert out.getvalue() == "jaxinit: compiling, 1 s so far\n"


def test_a_first_piece_that_compiles_tells_no_speed(clock: Clock) -> None:
    with progress.work("training", 100) as work:
        clock.now += 1.5
        work.at(0.1)
        assert work.left() is None
        clock.now += 1.0
        work.at(10.1)
        assert work.left() == pytest.approx(8.99)
    with progress.work("training", 100) as long:
        clock.now += 60
        long.at(1)
        assert long.left() == pytest.approx(99 * 60)


def test_other_work_that_comes_between_does_not_count_as_slow(clock: Clock) -> None:
    with progress.shown("quiet"), progress.work("training", 100) as work:
        for _ in range(3):
            clock.now += 1
            work.at(work.standing.done + 10)
        with progress.work("compiling"):
            clock.now += 1000
        clock.now += 3
        work.at(60)
        assert work.left() == pytest.approx(4)


def test_programs_get_an_object_a_line(clock: Clock) -> None:
    out = io.StringIO()
    with (
        progress.shown("json", console=Console(file=out)),
        progress.part("study 2 of 5"),
        progress.work("preparing") as work,
    ):
        half_way(work, clock)
        progress.say("a remark")
    *_, last, remark, end = objects(out)
    assert remark == {"remark": "a remark"}
    assert last == end
    assert last == {
        "phase": "training",
        "part": "study 2 of 5",
        "done": 1234.0,
        "total": 3300,
        "unit": "evaluations",
        "seconds_left": 120,
        "ended": 45,
        "trials": 216,
        "best": {"scheme": "orthogonal", "epochs": 3.2},
    }


def test_quiet_leaves_remarks_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("quiet"), progress.work("preparing", at_once=True) as work:
        half_way(work, clock)
        progress.note("1/5 a study")
        progress.detail("a detail")
        progress.say("a remark")
    assert capsys.readouterr().err == "jaxinit: a remark\n"


def test_details_are_for_those_who_ask(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(verbose=True):
        progress.detail("a detail")
    with progress.shown():
        progress.detail("another")
    assert capsys.readouterr().err == "jaxinit: a detail\n"


def test_output_that_nobody_reads_any_more_ends_no_work(clock: Clock) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with progress.shown(console=Console(file=Closed())) as screen:
        with progress.work("preparing", at_once=True) as work:
            half_way(work, clock)
        assert screen.kind == "quiet"


def test_a_caller_may_forbid_it(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("json"), progress.allowed(False), progress.work("drawing", 2) as work:
        work.at(1)
    with progress.work("drawing", 2) as work:
        work.at(1)
    assert capsys.readouterr().err == ""
    with progress.shown("json"), progress.allowed(True), progress.work("drawing", 2):
        pass
    assert json.loads(capsys.readouterr().err.splitlines()[0])["phase"] == "drawing"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40.4, "40 s"), (120, "2 min"), (3600, "1 h"), (4800, "1 h 20 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert progress.in_words(seconds) == words


LOOKED_AT = Study(hidden=8, schemes=("small_normal", "orthogonal+lsuv"), seeds=2, batch=64)


@pytest.mark.parametrize(
    ("look", "phases"),
    [
        pytest.param(
            lambda: survey(LOOKED_AT, examples=8),
            ["drawing", "calibrating orthogonal+lsuv (1 of 1)", "measuring signals"],
            marks=pytest.mark.slow,
        ),
        (
            lambda: coordinate_check(
                Study(hidden=8, schemes=("small_normal",), seeds=2), (4, 8), steps=1
            ),
            ["drawing", "training and measuring"],
        ),
        (
            lambda: pretrain(Study(hidden=8, schemes=("small_normal",), seeds=2, epochs=2)),
            ["drawing", "pre-training"],
        ),
    ],
)
def test_whatever_takes_long_shows_something(
    look: Callable[[], object], phases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    out = io.StringIO()
    with progress.shown("json", console=Console(file=out)):
        look()
    seen = objects(out)
    assert list(dict.fromkeys(one["phase"] for one in seen)) == phases
    assert seen[-1]["done"] == seen[-1]["total"] > 1


def test_a_study_counts_its_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    out = io.StringIO()
    with progress.shown("json", console=Console(file=out)):
        result = campaign.run(STUDY, out=tmp_path / "s")
    seen = objects(out)
    assert [one["phase"] for one in seen][-1] == "comparing schemes"
    training = [one for one in seen if one["phase"] == "training"]
    done = [one["done"] for one in training]
    assert done == sorted(done)
    assert all(one["done"] <= one["total"] for one in training)
    assert training[0]["trials"] == result.summary["trials"] == training[-1]["ended"]
    assert training[0]["total"] == result.summary["trials"] * 3 * 4, "the budget of each"
    assert any(0 < one["done"] < one["total"] and not one["ended"] for one in training), (
        "the first pieces are told before a trial has ended"
    )
    last = training[-1]
    evaluations = round(result.records.last_epoch.values.sum() * 4)
    assert last["done"] == last["total"] == evaluations
    converged = result.records.last_epoch.values[result.records.outcome.values == 1]
    assert last["best"]["epochs"] == pytest.approx(converged.min())


def test_progress_of_a_study_is_silent_where_it_is_not_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign.run(SHORT, out=tmp_path / "s", progress=False)
    assert capsys.readouterr().err == ""
