"""What a process computes on: whether the devices that were asked for are there, and whether a GPU
computes the same bits every time. Settled before anything is computed."""

import os
from typing import Literal, TypeAlias

import jax

from jaxinit.engine.sweep import devices_in_words
from jaxinit.study import NoDevice

Platform: TypeAlias = Literal["cpu", "gpu", "tpu"]
ASKED, FLAGS = "JAX_PLATFORMS", "XLA_FLAGS"  # in the environment
# XLA's: no atomics whose order is by chance, and no kernel that is chosen by timing it, since the
# process that goes on with a study would time anew and might choose another.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
INSTALLED_FOR = {"gpu": "JAXINIT_ACCELERATOR=cuda12", "tpu": "JAXINIT_ACCELERATOR=tpu"}
LONGEST = 200  # characters of what JAX says
HINT = "(set JAX_PLATFORMS"  # with which JAX ends, and which we say ourselves


def start(platform: Platform | None = None, deterministic: bool = False) -> None:
    """Start JAX on the devices that were asked for: by `platform`, else by JAX_PLATFORMS, else on
    the best there are.

    With `deterministic`, XLA's flag of that name is set for GPUs, where it stays in XLA_FLAGS and
    so among the conditions that study.json has; elsewhere it would do nothing, and is taken back.
    To be called before the first JAX operation: JAX reads the flags when it starts.
    Raises: NoDevice, which says what there is instead and what to do.
    """
    before = os.environ.get(FLAGS)
    if deterministic and DETERMINISTIC not in (before or "").split():
        os.environ[FLAGS] = f"{before or ''} {DETERMINISTIC}".strip()
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # which JAX raises for what it cannot start
        asked = os.environ.get(ASKED)
        if not asked:
            raise
        raise NoDevice(lacking(platform or asked, str(error))) from error
    if platform is not None and jax.default_backend() != platform:
        raise NoDevice(lacking(platform))
    if jax.default_backend() != "gpu":
        _restore(before)


def _restore(flags: str | None) -> None:
    """XLA_FLAGS as it was."""
    if flags is None:
        os.environ.pop(FLAGS, None)
    else:
        os.environ[FLAGS] = flags


def lacking(asked: str, said: str = "") -> str:
    """A line on devices that there are not: what JAX says, what there is instead, what to do."""
    kind = "gpu" if asked in ("cuda", "rocm") else asked
    names = {"gpu": "GPU", "tpu": "TPU"}
    jax.config.update("jax_platforms", None)  # as where nothing is asked for
    said = " ".join(said.partition(HINT)[0].split())[:LONGEST]
    because = f" ({said})" if said else ""
    todo = "leave --platform out"
    if os.environ.get(ASKED):
        todo = f"unset {ASKED}, which is {os.environ[ASKED]!r}"
    if kind in INSTALLED_FOR:
        todo = f"install JAX for one ({INSTALLED_FOR[kind]} scripts/quickstart), or {todo}"
    return (
        f"no {names.get(kind, f'device of {kind!r}')} where one was asked for{because}; there is "
        f"{devices_in_words()}; {todo}"
    )
