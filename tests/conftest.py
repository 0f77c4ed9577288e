"""The suite is stricter than the users: 8 simulated devices, strict promotion, types checked at run
time."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

CACHE = "JAX_COMPILATION_CACHE_DIR"
MOST_MAPPINGS = 30_000  # of memory, of one worker
if CACHE not in os.environ:
    # What one test has compiled, others, the workers and the commands they start need not compile
    # again. JAX reads the name when it is imported, below.
    os.environ[CACHE] = tempfile.mkdtemp(prefix="jaxinit-compiled-")
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)
# But for small programs, as JAX does it: one of thousands ended its process while it was written.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")

# Most of the suite's time is XLA's compilation. Without LLVM's optimizations the engine's tests
# took 46 s, not 86; without the emitters of fused loops as MLIR, which jaxlib could do until 0.10,
# the Transformer's 41 s, not 62.
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags).strip()

# Tracing makes and drops many small objects, and Python looks through all that live for circles
# among them: with its own thresholds for 2 % and 13 % of the processor's time in two measurements.
# Neither the memory of a worker nor its mappings were more without.
gc.set_threshold(100_000, 20, 100)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# scripts/accelerator may ask for others.
jax.config.update("jax_num_cpu_devices", int(os.environ.get("JAX_NUM_CPU_DEVICES", "8")))
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

hook = install_import_hook("jaxinit", "strict.checked")
# for the whole session: every jaxinit module is imported by the tests, after this line
hook.__enter__()


_looked = time.monotonic()


@pytest.fixture(autouse=True)
def few_mappings() -> Generator[None, None, None]:
    """A compiled program holds mappings of memory, of which Linux gives a process 65,530: a worker
    that has run for ten minutes comes near, and ends without a word when it asks for more."""
    yield
    global _looked
    if time.monotonic() - _looked < 10:  # reading them takes a moment
        return
    _looked = time.monotonic()
    mappings = Path("/proc/self/maps")
    if mappings.is_file() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def no_open_figures() -> Generator[None, None, None]:
    """Matplotlib keeps figures that were drawn and not saved, and warns of them in whichever test
    of the worker has opened the twenty-first."""
    yield
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")


@pytest.fixture
def as_users_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without run-time types, for tests of whole commands, of whose time they were a quarter."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    # the suite has set its devices up
    monkeypatch.setattr("jaxinit.engine.sweep.one_device_per_core", lambda: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow; run with --slow")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    report = yield
    left_out = item.get_closest_marker("slow") and not item.config.getoption("--slow")
    if item.get_closest_marker("parity") and not left_out and os.environ.get("CI"):
        fail_if_skipped(report)
    return report


def fail_if_skipped(report: pytest.TestReport) -> None:
    """Where every package must be there, a test that needs one and was skipped has failed."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = (
            "skipped, though CI is set: install the extra `parity`, mup and xlstm "
            f"({report.longrepr})"
        )
