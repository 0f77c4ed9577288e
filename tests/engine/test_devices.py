"""The devices that were asked for, or a line; XLA's flag for GPUs, and nothing of it elsewhere."""

import jax
import pytest

from jaxinit.analysis import store
from jaxinit.engine import devices
from jaxinit.study import NoDevice


def on(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if JAX's devices were these."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)


@pytest.mark.parametrize("before", [None, "--xla_dump_to=a", devices.DETERMINISTIC])
def test_on_a_gpu_the_flag_is_set_once_and_recorded(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        monkeypatch.setenv("XLA_FLAGS", before)
    on("gpu", monkeypatch)
    devices.start(deterministic=True)
    flags = store.conditions()["arithmetic"]["XLA_FLAGS"].split()
    assert flags.count(devices.DETERMINISTIC) == 1
    assert before is None or before in flags


@pytest.mark.parametrize("before", [None, "--xla_dump_to=a"])
def test_without_a_gpu_the_flag_is_not_set(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        monkeypatch.setenv("XLA_FLAGS", before)
    on("cpu", monkeypatch)
    devices.start(deterministic=True)
    assert store.conditions()["arithmetic"]["XLA_FLAGS"] == (before or "")
    on("gpu", monkeypatch)
    devices.start()
    assert store.conditions()["arithmetic"]["XLA_FLAGS"] == (before or "")


def test_another_platform_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    on("gpu", monkeypatch)
    devices.start("gpu")
    with pytest.raises(NoDevice, match=r"^no TPU where one was asked for; there is \d+ .* device"):
        devices.start("tpu")


def test_the_cpu_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(jax.config, "update", lambda *setting: told.append(setting))
    on("cpu", monkeypatch)
    devices.start("cpu")
    assert told == [("jax_platforms", "cpu")]


def test_what_jax_says_is_part_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    known = jax.devices()

    fail = [True]

    def first_fails() -> list:
        if fail:
            fail.clear()
            raise RuntimeError("No visible GPU devices.\nSecond line (set JAX_PLATFORMS='')")
        return known

    monkeypatch.setattr(jax, "devices", first_fails)
    with pytest.raises(NoDevice) as refused:
        devices.start()
    line = str(refused.value)
    assert line.startswith("no GPU where one was asked for (No visible GPU devices. Second line); ")
    assert line.endswith(
        "install JAX for one (JAXINIT_ACCELERATOR=cuda12 scripts/quickstart), or unset "
        "JAX_PLATFORMS, which is 'cuda'"
    )
