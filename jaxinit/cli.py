"""The command line: `jaxinit run`, `jaxinit list`, `jaxinit plot`. Options are read before JAX is imported."""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jaxinit.study import BadStudy, Study

if TYPE_CHECKING:
    from jaxinit.store import Result

STUDY = Study()  # the main job
INTERRUPTED = 130  # what a shell reports for Ctrl-C


def run(study: tyro.conf.OmitArgPrefixes[Study] = STUDY, out: Path | None = None) -> int:
    """Measure epochs to convergence for each initialization scheme, each at its own best learning rate.

    Without options this is the main job: a vanilla RNN on handwritten digits, nine schemes, five rates, about a
    minute on two cores. The same command run again reads the answer from its folder.

    Args:
        study: The study.
        out: Folder for the records, the summary and the figures. Default: results/<model>-<task>-<hash>.
    """
    return exit_code(lambda: carry_out(study, out))


def list_names(
    what: tyro.conf.Positional[Literal["schemes", "calibrations", "initializers", "models", "tasks", "all"]] = "all",
    /,
    verbose: bool = False,
) -> int:
    """List the schemes, calibrations, initializers, models or tasks, with a line on each.

    Args:
        what: Which of them.
        verbose: All that is known of each: formula, shapes, source.
    """
    from jaxinit.calibrate import CALIBRATIONS
    from jaxinit.models import MODELS
    from jaxinit.schemes import SCHEMES
    from jaxinit.structured import CATALOGUE
    from jaxinit.tasks import TASKS

    initializers = {name: function for name, (function, _) in CATALOGUE.items()}
    tables = {
        "schemes": SCHEMES,
        "calibrations": CALIBRATIONS,
        "initializers": initializers,
        "models": MODELS,
        "tasks": TASKS,
    }
    for kind, table in tables.items():
        if what not in (kind, "all"):
            continue
        if what == "all":
            print(f"{kind}:")
        width = max(map(len, table))
        for name, item in table.items():
            text = inspect.getdoc(item) or ""
            if verbose:
                indented = "\n".join(f"      {line}".rstrip() for line in text.splitlines())
                variance = f"      Variance: {CATALOGUE[name][1]}\n" if kind == "initializers" else ""
                print(f"  {name}\n{indented}\n{variance}")
            elif kind == "initializers" and what == kind:
                print(f"  {name:{width}}  variance {CATALOGUE[name][1]:20}  {text.splitlines()[0]}{_source(text)}")
            else:
                print(f"  {name:{width}}  {text.splitlines()[0]}")
    return 0


def _source(text: str) -> str:
    """The source that a docstring names, on one line; empty when it names none."""
    _, found, rest = text.partition("Source: ")
    return f" [{' '.join(rest.split(chr(10) * 2)[0].split()).rstrip('.')}]" if found else ""


def plot(folder: tyro.conf.Positional[Path], /) -> int:
    """Draw the figures of a finished or interrupted study again, from its records, and print its table.

    Args:
        folder: The folder of the study.
    """
    from jaxinit.store import load

    _show(load(folder))
    return 0


def carry_out(study: Study, out: Path | None) -> "Result":
    """Run a study on all cores, draw its figures and print its answer: what the command and the experiments do."""
    from jaxinit import sweep
    from jaxinit.engine import run

    sweep.one_device_per_core()
    sweep.keep_compilations()
    result = run(study, out=out)
    _show(result)
    counts = (
        f"{result.summary['trials']} trials, {result.summary['compilations']} compilation(s) of the training program"
    )
    print(f"{counts}, {result.summary['wall_s']:.0f} s")
    if not result.complete:
        print(f"interrupted: what was computed is in {result.folder}; look at it with: jaxinit plot {result.folder}")
        print("the same command goes on from there")
    return result


def _show(result: "Result") -> None:
    from jaxinit.plot import draw_all
    from jaxinit.report import print_answer

    print_answer(result)
    paths = draw_all(result.records, result.folder / "figures")
    print(f"answer and records: {result.folder}; figures: {' '.join(map(str, paths)) or 'none yet'}")


def exit_code(command: Callable[[], "Result | int"]) -> int:
    """Run `command`: 0 or its own code, 2 for a request that cannot be carried out, 130 when interrupted."""
    try:
        done = command()
    except BadStudy as error:
        print(f"jaxinit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxinit: stopped at once; the same command goes on from the last saved chunk", file=sys.stderr)
        return INTERRUPTED
    if isinstance(done, int):
        return done
    return 0 if done.complete else INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `jaxinit` command."""
    commands = {"run": run, "list": list_names, "plot": plot}
    about = "Does it matter how this network is initialized? Measure it."
    return exit_code(
        lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="jaxinit", description=about, args=argv)
    )


if __name__ == "__main__":
    sys.exit(main())
