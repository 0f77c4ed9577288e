"""The records of a study for other tools: a table of every evaluation, or runs of TensorBoard or
Weights & Biases, one for each trial."""

import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

from jaxinit.analysis.folder import folder_name
from jaxinit.analysis.records import TRACES
from jaxinit.analysis.store import Result
from jaxinit.study import BadStudy

Kind: TypeAlias = Literal["csv", "tensorboard", "wandb"]
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def export(result: Result, kind: Kind, out: Path, *, all_trials: bool = False) -> int:
    """Write the trials of a study that report, or all of them; how many there were.

    Each evaluation is a step, in evaluations from 1 on; `epoch` is among what is written. Runs are
    named SCHEME/RATE/SEED; what was asked is in their configuration.
    Raises: BadStudy where the tool's package is missing, `out` is there already, or there is no
    trial to write.
    """
    if out.exists():
        raise BadStudy(f"{out} is there already; give --out another name")
    trials = list(_trials(result, all_trials))
    if not trials:
        raise BadStudy(
            f"no trial of {result.folder} reports yet; give --all-trials, or go on first"
        )
    if kind == "csv":
        import pandas as pd

        out.parent.mkdir(parents=True, exist_ok=True)
        rows = [about | step for about, steps in trials for step in steps]
        pd.DataFrame(rows).to_csv(out, index=False)
        return len(trials)
    try:
        write = _tensorboard if kind == "tensorboard" else _wandb
        for about, steps in trials:
            write(result, out, about, steps)
    except ImportError as error:
        raise BadStudy(
            f"{kind} needs the package {PACKAGES[kind]} ({error}); install it with: pip install "
            f"{PACKAGES[kind]}"
        ) from error
    return len(trials)


def _trials(
    result: Result, all_trials: bool
) -> Iterator[tuple[dict[str, Any], list[dict[str, float]]]]:
    """What each trial is, and what every evaluation of it left."""
    records = result.records
    for k in range(records.sizes["trial"]):
        trial = records.isel(trial=k)
        about = {str(name): trial[name].item() for name in records.coords if name != "epoch"}
        if not all_trials and about["purpose"] != "report":
            continue
        steps = []
        for number, epoch in enumerate(records.epoch.values.tolist()):
            if epoch > trial.last_epoch:
                break
            step: dict[str, float] = {"step": number + 1, "epoch": epoch}
            steps.append(step | {name: float(trial[name][number]) for name in TRACES})
        yield about, steps


def _name(about: dict[str, Any]) -> str:
    """A path below any folder, whatever the scheme is called."""
    rate = f"{about['lr']:g}" + (f"-{about['also']:g}" if "also" in about else "")
    return f"{folder_name(about['scheme'])}/{rate}/{about['seed']}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tensorboard(
    result: Result, out: Path, about: dict[str, Any], steps: list[dict[str, float]]
) -> None:
    tensorboard = import_module("tensorboardX")
    with tensorboard.SummaryWriter(str(out / _name(about))) as writer:
        writer.add_text("study", f"{about['scheme']}: {result.study.command()}")
        for step in steps:
            for name in TRACES:
                if math.isfinite(step[name]):
                    writer.add_scalar(name, step[name], int(step["step"]))


def _wandb(result: Result, out: Path, about: dict[str, Any], steps: list[dict[str, float]]) -> None:
    wandb = import_module("wandb")
    # Where there is no key, WANDB_MODE=offline keeps the run in the folder.
    run = wandb.init(
        project="jaxinit",
        group=result.folder.name,
        name=_name(about),
        config=result.study.plain() | about,
        dir=_made(out),
        reinit=True,
    )
    for step in steps:
        run.log({name: value for name, value in step.items() if name != "step"}, int(step["step"]))
    run.finish()
