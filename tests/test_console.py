"""Errors as one line and an exit code."""

import pytest

from jaxinit import console


def test_an_interrupted_study_exits_130_and_says_how_to_look(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert console.exit_code(interrupt) == 130
    assert "goes on from the last saved chunk" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "results/x"),
            "results/x: No space left on device; free some space; the same command goes on from "
            "there\n",
        ),
        (
            PermissionError(13, "Permission denied", "results"),
            "results: Permission denied; let it be read and written, or give another folder\n",
        ),
        (OSError("odd"), "the output: odd"),
        (
            MemoryError(),
            "out of memory (no more is known); make hidden, batch or length smaller, or give "
            "fewer seeds",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nmore"),
            "out of memory (RESOURCE_EXHAUSTED: 9 bytes more); make",
        ),
        (
            ValueError("two\nlines\x1b[0m"),
            "ValueError: two lines\\x1b[0m; run with JAXINIT_DEBUG=1 for the traceback",
        ),
    ],
)
def test_an_error_of_the_machine_is_one_line_and_exit_code_1(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.delenv(console.DEBUG, raising=False)
    assert console.exit_code(fail) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"jaxinit: {line}")
    assert said.count("\n") == 1
    monkeypatch.setenv(console.DEBUG, "1")
    assert console.exit_code(fail) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_setting_of_jax_that_no_program_can_run_under_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise ValueError("Disable jit is not supported in the AOT path.")

    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    assert console.exit_code(fail) == 1
    assert "; unset JAX_DISABLE_JIT, which is '1'" in capsys.readouterr().err
