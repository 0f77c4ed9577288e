"""What `jaxinit doctor` finds, and what it finds amiss."""

import os
from pathlib import Path

import jax
import pytest

from jaxinit.engine import doctor
from jaxinit.engine.doctor import examine, kept_compilations, precision, writable


def test_a_sound_machine_has_nothing_amiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "kept_compilations", lambda folder: doctor.Line("programs", "0"))
    found = {line.what: line for line in examine()}
    assert not [line for line in found.values() if line.repair]
    assert f"jax {jax.__version__}" in found["versions"].found
    assert "8 cpu devices" in found["devices"].found
    assert "scripts/fetch-data mnist" in found["data: mnist"].found or found["data: mnist"].found


def test_settings_under_which_nothing_runs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_TRANSFER_GUARD", "disallow")  # JAX has read it by now
    (line,) = (line for line in examine() if line.what == "JAX_TRANSFER_GUARD")
    assert line.repair.startswith("unset JAX_TRANSFER_GUARD")


def test_products_of_fewer_digits_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not precision().repair

    def rounded(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot(a.astype("bfloat16"), b.astype("bfloat16"))

    monkeypatch.setattr(doctor, "product", rounded)
    assert precision().repair


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert writable(tmp_path / "results").repair


def test_where_programs_are_not_kept_every_run_compiles(tmp_path: Path) -> None:
    assert kept_compilations(None).repair
    (tmp_path / "program").write_bytes(bytes(2**20))
    assert kept_compilations(str(tmp_path)).found == f"1 in {tmp_path}, 1 MiB"
