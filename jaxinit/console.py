"""Between the package and its caller's shell: exit codes, errors as one line, text that any
terminal can show."""

import codecs
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxinit.study import BadStudy, Interrupted, NoDevice

if TYPE_CHECKING:
    from jaxinit.analysis.store import Result

# the machine is at fault: memory, disk, permissions; and a scheme that fails a coordinate check
FAILED = 1
REFUSED = 2  # the input is at fault
PEER_GONE = 75  # another process of a model that several share is gone; a new start may mend it
INTERRUPTED = 130  # what a shell reports for Ctrl-C
CLOSED = 141  # and for output that nobody reads any more
LONGEST = 500  # characters of another program's message
# What to do where the system refuses a file.
ADVICE = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT), "free some space; the same command goes on from there"
)
ADVICE |= dict.fromkeys(
    (errno.EROFS, errno.EACCES), "let it be read and written, or give another folder"
)
# settings of JAX under which no training program can run
UNFIT = ("JAX_DISABLE_JIT", "JAX_TRANSFER_GUARD")
DEBUG = "JAXINIT_DEBUG"  # in the environment, set to anything: tracebacks too

# What a terminal that knows ASCII alone is shown.
ASCII = {
    "≥": ">=",
    "≤": "<=",
    "±": "+-",
    "×": "x",
    "–": "-",
    "—": "-",
    "…": "...",
    "≈": "~",
    "└": "+",
}
ASCII |= dict.fromkeys("─━", "-") | dict.fromkeys("│┃", "|") | dict.fromkeys("╭╮╰╯┌┐┘├┤", "+")


def exit_code(command: Callable[[], "Result | int"]) -> int:
    """Run `command`: 0 or its own code, or that of what went wrong, with a line on it; see
    `ABOUT`."""
    try:
        try:
            done = command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as `head` does: quietly, since what was computed is in the folder
        _drop_output()
        return CLOSED
    except BadStudy as error:
        return _fail(REFUSED, str(error))
    except NoDevice as error:
        return _fail(FAILED, str(error))
    except Interrupted:
        return _fail(INTERRUPTED, "interrupted; the same command goes on from there")
    except KeyboardInterrupt:
        return _fail(
            INTERRUPTED, "stopped at once; the same command goes on from the last saved chunk"
        )
    except OSError as error:
        _drop_output()  # if that is what cannot be written
        # the output is the caller's own
        advice = ADVICE.get(error.errno or 0) if error.filename else None
        refused = f"{error.filename or 'the output'}: {error.strerror or error}"
        return _fail(FAILED, f"{refused}; {advice}" if advice else refused)
    except Exception as error:
        return _fail(FAILED, _explained(error))
    if isinstance(done, int):
        return done
    return 0 if done.complete else INTERRUPTED


def _fail(code: int, message: str) -> int:
    """Say in one line what went wrong; its exit code."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
    line = " ".join(message.split())
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    print(f"jaxinit: {shown}", file=sys.stderr)
    return code


def in_one_line(error: object) -> str:
    """What an error says, however many lines it has; its kind where it says nothing."""
    return " ".join(str(error).split())[:LONGEST] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of a host or of a device that has no more memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to `handler` meanwhile; for the main thread, which alone hears them."""
    both = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in both}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def _explained(error: Exception) -> str:
    """What an error that nobody expected says, in one line, and what to do."""
    said = " ".join(str(error).split())[:LONGEST]
    if out_of_memory(error):
        return (
            f"out of memory ({said or 'no more is known'}); make hidden, batch or length smaller, "
            "or give fewer seeds"
        )
    for name in UNFIT:
        if os.environ.get(name):
            return f"{type(error).__name__}: {said}; unset {name}, which is {os.environ[name]!r}"
    return f"{type(error).__name__}: {said}; run with {DEBUG}=1 for the traceback"


def _drop_output() -> None:
    """Where standard output cannot be written, let nothing complain of it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_printable() -> None:
    """Let every text be printed: characters that the terminal's encoding lacks in others' place, or
    as their number."""

    def in_ascii(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        lacking = error.object[error.start : error.end]
        shown = [
            ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode()
            for letter in lacking
        ]
        return "".join(shown), error.end

    codecs.register_error("jaxinit", in_ascii)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the process
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115, for as long as the process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="jaxinit")
