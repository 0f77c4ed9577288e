"""How far long work has come, on the error stream: in place in a terminal, a line every half minute
where there is none, objects of JSON for programs.

    shown(kind)                a command says how, for all that runs inside
    work("probing", 6) as it   whatever takes long says what it does, one work inside another
    it.at(2)                   and how far it has come
"""

import json
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jaxinit.analysis.report import Terminal, packed

Item = TypeVar("Item")
Kind: TypeAlias = Literal["text", "json", "quiet"]
EVERY = 30.0  # seconds between two lines where there is no terminal
OFTEN = 1.0  # seconds between two objects of JSON
WINDOW = 30.0  # seconds over which the speed is measured
BAR = 10  # columns of the bar
BAR_FROM = 80  # and of a terminal that has room for it
# Seconds of work that tell a speed, which a first piece, that also compiles, may not.
MEASURED = 2.0
LONG = 3.0  # seconds after which work that is not counted says how long it has taken


class Best(NamedTuple):
    """The trial that converged first so far."""

    scheme: str = ""
    epochs: float = math.inf

    def after(self, scheme: str, epochs: float) -> "Best":
        return Best(scheme, epochs) if epochs < self.epochs else self

    def __str__(self) -> str:
        return f"{self.scheme} {self.epochs:.3g} epochs" if self.scheme else "none yet"


class Trials(NamedTuple):
    """How many trials of a study have ended, of about how many, and the best of them."""

    ended: int
    about: int
    best: Best


class Standing(NamedTuple):
    """How far work has come: what it does, and how much of a total is done, 0 where nobody
    knows."""

    phase: str
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    trials: Trials | None = None  # of a study, whose total is estimated


def likely_total(courses: Iterable[tuple[int, bool]], trials: int, budget: int) -> float:
    """The evaluations that a study is likely to make in all: every trial as many as those that have
    ended on average, the budget while none has.

    `courses` has the evaluations of every known trial and whether it has ended, `trials` how many
    there will be. Never fewer than were made.
    """
    ended = []
    under_way = []
    for evaluations, over in courses:
        (ended if over else under_way).append(evaluations)
    length = sum(ended) / len(ended) if ended else float(budget)
    unknown = max(trials - len(ended) - len(under_way), 0)
    return sum(ended) + sum(max(length, made) for made in under_way) + unknown * length


class Work:
    """Work that takes long: where it stands, since when, and how fast it goes."""

    def __init__(self, screen: "Screen | None", standing: Standing, at_once: bool):
        self.screen, self.standing, self.at_once = screen, standing, at_once
        self.restart()

    def at(self, done: float, phase: str = "") -> None:
        """So much is done, and perhaps another phase begun."""
        self.stands(self.standing._replace(done=done, phase=phase or self.standing.phase))

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, each of which is done when the next is asked for."""
        for item in items:
            yield item
            self.at(self.standing.done + 1)

    def stands(self, standing: Standing) -> None:
        """It stands so now."""
        anew = standing.phase != self.standing.phase
        self.standing = standing
        if anew:
            self.restart()
        self.samples.append((time.monotonic(), standing.done))
        if self.first and len(self.samples) > 2:
            self.samples.popleft()  # the first piece of work compiles too
            self.first = False
        while len(self.samples) > 2 and self.samples[-1][0] - self.samples[1][0] > WINDOW:
            self.samples.popleft()
        if self.screen is not None:
            measured = self.samples[-1][0] - self.began >= MEASURED and standing.done > 0
            self.screen.changed(anew, self.at_once and measured)

    def restart(self) -> None:
        """Forget how fast it went: another phase has begun, or other work has come between."""
        self.began = time.monotonic()
        self.samples = deque([(self.began, self.standing.done)])
        self.first = True

    def left(self) -> float | None:
        """The seconds left at the speed measured, None while there is none."""
        (before, from_), (now, to) = self.samples[0], self.samples[-1]
        if not self.standing.total or to <= from_ or now <= before:
            return None
        if self.first and now - before < MEASURED:
            return None
        return max(self.standing.total - to, 0.0) * (now - before) / (to - from_)

    def share(self) -> float | None:
        """How much of it is done, None where nobody knows."""
        if not self.standing.total:
            return None
        return min(self.standing.done / self.standing.total, 1.0)


class Screen:
    """Where and how progress is shown. Only what is under way is: each work inside another hides
    it."""

    def __init__(self, kind: Kind = "text", verbose: bool = False, console: Console | None = None):
        self.kind, self.verbose = kind, verbose
        self.console = console or Terminal(file=sys.stderr)
        self.works: list[Work] = []
        self.parts: list[str] = []  # of what the work is a part, as "study 2 of 5"
        self._shows = False
        self._live: Live | None = None
        self._over = threading.Event()
        self._began = time.monotonic()
        self._said: float | None = None
        self._lock = threading.RLock()  # which a signal's handler may take again

    def begin(self, work: Work) -> None:
        self.works.append(work)
        if not self._shows:
            self._start()
        self.changed(True, False)

    def end(self) -> None:
        if len(self.works) == 1:
            if self.kind == "json" and self.works[0].standing.total:
                self._print(self.works[0])
            self.pause()
        self.works.pop()
        if self.works:
            self.works[-1].restart()

    def pause(self) -> None:
        """Show nothing until other work begins."""
        self._shows = False
        self._over.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def changed(self, anew: bool, at_once: bool) -> None:
        """Show where the work stands, if it is time to: `anew` where it has just begun, `at_once`
        where its first line is not to wait."""
        waited = time.monotonic() - (self._said or self._began)
        due = waited >= EVERY or (at_once and self._said is None)
        if self.kind == "json":
            due = anew or waited >= OFTEN
        if due and self._live is None and self.kind != "quiet":
            self._print(self.works[-1])

    def say(self, line: str, kind: str = "remark", before: str = "jaxinit: ") -> None:
        """Print a line that is no progress."""
        if self.kind == "json":
            self._write(json.dumps({kind: line.strip()}))
        else:
            self._write(f"{before}{line}")

    def picture(self, width: int) -> str:
        """What a terminal of so many columns shows: a line if it fits, else several, none of them
        cut, and the bar only where there is room."""
        works = self.works[-1:]  # at once: another thread may end it
        if not works:
            return ""
        bar = ""
        share = works[0].share()
        if share is not None and width >= BAR_FROM:
            done, rest = "━─" if self.console.encoding.lower().startswith("utf") else "=-"
            bar = done * round(BAR * share) + rest * (BAR - round(BAR * share))
        return "\n".join(packed(self.phrases(works[0], bar), width, ", "))

    def phrases(self, work: Work, bar: str = "") -> list[str]:
        """What is said of work, phrase by phrase."""
        standing, share, left = work.standing, work.share(), work.left()
        said = [*self.parts]
        if share is None:
            said.append(standing.phase)
            if time.monotonic() - work.began >= LONG:
                said.append(f"{in_words(time.monotonic() - work.began)} so far")
        else:
            about = "about " if standing.trials else ""
            counts = f"{int(standing.done):,} of {about}{round(standing.total):,} {standing.unit}"
            gap = f" {bar} " if bar else ", "
            said.append(f"{standing.phase}{gap}{int(100 * share)} % ({counts.rstrip()})")
        if standing.trials:
            ended, about, best = standing.trials
            said.append(f"{ended:,} of about {about:,} trials ended")
            said.append(f"best {best}")
        if left is not None and left >= 0.5:
            said.append(f"about {in_words(left)} left")
        return said

    def _as_json(self, work: Work) -> dict[str, Any]:
        standing, left = work.standing, work.left()
        said: dict[str, Any] = {"phase": standing.phase}
        if self.parts:
            said["part"] = ", ".join(self.parts)
        if standing.total:
            said |= {"done": round(float(standing.done), 2), "total": math.ceil(standing.total)}
            said |= {"unit": standing.unit, "seconds_left": None if left is None else round(left)}
        if standing.trials:
            ended, about, best = standing.trials
            said |= {"ended": ended, "trials": about}
            said["best"] = best._asdict() if best.scheme else None
        return said

    def _start(self) -> None:
        """Begin to refresh what is shown, from another thread: work may take minutes at a time."""
        self._shows = True
        if self.kind == "text" and (self.console.is_interactive or self.console.is_jupyter):
            self._live = Live(
                get_renderable=self._text,
                console=self.console,
                transient=True,  # the answer is what stays
                redirect_stdout=sys.stdout.isatty(),  # else it would go to the error stream
            )
            self._live.start(refresh=True)
        elif self.kind != "quiet":
            self._over = threading.Event()
            threading.Thread(target=self._tick, args=(self._over,), daemon=True).start()

    def _text(self) -> Text:
        text = Text(self.picture(self.console.width), overflow="fold")
        text.highlight_regex("━+", "bar.complete")
        return text

    def _tick(self, over: threading.Event) -> None:
        while not over.wait(1.0):
            waited = time.monotonic() - (self._said or self._began)
            works = self.works[-1:]
            if works and waited >= EVERY:
                self._print(works[0])

    def _print(self, work: Work) -> None:
        """Print a line, or an object, on where the work stands."""
        self._said = time.monotonic()
        if self.kind == "json":
            self._write(json.dumps(self._as_json(work)))
        else:
            self.say(", ".join(self.phrases(work)))

    def _write(self, line: str) -> None:
        try:
            with self._lock:
                # what a terminal shows in place goes on below it
                print(line, file=sys.stderr if self._live else self.console.file, flush=True)
        except OSError:  # nobody reads it any more, which is no reason to end the work
            self.kind = "quiet"


_screen: ContextVar[Screen | None] = ContextVar("screen", default=None)


@contextmanager
def shown(
    kind: Kind = "text", verbose: bool = False, console: Console | None = None
) -> Iterator[Screen]:
    """Show the progress of all that runs in here; `verbose`: details too."""
    screen = Screen(kind, verbose, console)
    token = _screen.set(screen)
    try:
        yield screen
    finally:
        screen.pause()
        _screen.reset(token)


@contextmanager
def allowed(wanted: bool) -> Iterator[None]:
    """Show progress as a caller has said, or as text where none has; nothing if it is not
    wanted."""
    if wanted and _screen.get() is not None:
        yield
        return
    with shown("text" if wanted else "quiet"):
        yield


@contextmanager
def work(phase: str, total: float = 0.0, unit: str = "", at_once: bool = False) -> Iterator[Work]:
    """Work that takes long; shown where somebody has said how.

    `at_once`: where there is no terminal, its first line does not wait.
    """
    screen = _screen.get()
    begun = Work(screen, Standing(phase, 0.0, total, unit), at_once)
    if screen is None:
        yield begun
        return
    screen.begin(begun)
    try:
        yield begun
    finally:
        screen.end()


@contextmanager
def part(name: str) -> Iterator[None]:
    """Name what all work in here is a part of, as "study 2 of 5"."""
    screen = _screen.get()
    if screen is None:
        yield
        return
    screen.parts.append(name)
    try:
        yield
    finally:
        screen.parts.pop()


def now(phase: str) -> None:
    """Say what the work that is under way does now."""
    screen = _screen.get()
    if screen is not None and screen.works:
        screen.works[-1].at(0.0, phase)


def pause() -> None:
    """Show no progress until other work begins: an answer is printed now."""
    screen = _screen.get()
    if screen is not None:
        screen.pause()


def note(line: str) -> None:
    """Print a line as it is, unless somebody has asked for quiet."""
    screen = _screen.get()
    if screen is None or screen.kind != "quiet":
        (screen or Screen("text")).say(line, before="")


def say(line: str) -> None:
    """Print a line that is no progress, on the error stream, whoever has asked for quiet."""
    (_screen.get() or Screen("quiet")).say(line)


def detail(line: str) -> None:
    """Print a line for those who asked for details."""
    screen = _screen.get()
    if screen is not None and screen.verbose:
        screen.say(line, "detail")


def in_words(seconds: float) -> str:
    """A duration: `40 s`, `2 min`, `1 h 20 min`."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
