"""What a study would run on and under here, and what is amiss: `jaxinit doctor`."""

import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.analysis import store
from jaxinit.console import UNFIT
from jaxinit.engine import memory, sweep
from jaxinit.tasks.disk import PINS, folders

OPTIONAL = {  # what each brings
    "distributed": "clusters: pip install 'jaxinit[cluster]'",
    "torch": "comparisons with PyTorch",
    "tensorboardX": "jaxinit export --to tensorboard",
    "wandb": "jaxinit export --to wandb",
}
GIB = 2**30
SIZE = 256  # of a matrix product that shows the precision of a device


class Line(NamedTuple):
    """A finding: what was looked at, what was found, and what to do where it is amiss."""

    what: str
    found: str
    repair: str = ""


def examine() -> Iterator[Line]:
    """Everything that a study's numbers or its time depend on, one after another."""
    conditions = store.conditions()
    versions = conditions["versions"]
    names = ("jaxinit", "python", "jax", "jaxlib", "flax", "optax", "numpy")
    yield Line("versions", ", ".join(f"{name} {versions[name]}" for name in names))
    yield Line("commit", conditions["commit"] or "none: an installed package")
    devices = jax.devices()
    free = f"{memory.free_memory(devices) / GIB:.1f} GiB free"
    each = f"{free} for each" if len(devices) > 1 else free
    yield Line("devices", f"{sweep.devices_in_words()}, {each}")
    yield Line("cores", f"{sweep.available_cores()}")
    yield precision()
    for name in UNFIT:
        if os.environ.get(name):
            yield Line(name, os.environ[name], f"unset {name}: no training program runs under it")
    if flags := os.environ.get("XLA_FLAGS"):
        yield Line("XLA_FLAGS", flags)
    yield kept_compilations(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
    for name, pinned in PINS.items():
        places = folders(name)
        there = next((str(place) for place in places if place.is_dir()), "")
        fetch = f"put it into {places[0]}" if pinned.licensed else f"scripts/fetch-data {name}"
        yield Line(f"data: {name}", there or f"not here; {fetch}")
    for name, brings in OPTIONAL.items():
        try:
            yield Line(name, version(name))
        except PackageNotFoundError:
            yield Line(name, f"not installed; for {brings}")
    yield writable(Path("results"))


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """What is measured."""
    return a @ b


def precision() -> Line:
    """How far a matrix product is from that of float64, in the precision of studies and in JAX's
    own."""
    a = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
    with jax.enable_x64(True):
        exact = np.asarray(jnp.asarray(a, "float64") @ jnp.asarray(a, "float64"), np.float32)
    errors = []
    for name in ("highest", "default"):
        with jax.default_matmul_precision(name):
            errors.append(float(abs(product(a, a).astype("float32") - exact).max()))
    highest, default = errors
    return Line(
        "matrix products",
        f"off by {highest:.1e} as studies compute them, by {default:.1e} by JAX's default",
        "" if highest < 1e-3 else "products of float32 are not those of float32 here",
    )


def kept_compilations(folder: str | None) -> Line:
    """Where compiled programs are kept, and how much there is."""
    if not folder:
        return Line(
            "compiled programs", "not kept", "every run compiles anew: let ~/.cache be written"
        )
    files = [path for path in Path(folder).glob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    return Line("compiled programs", f"{len(files)} in {folder}, {size:.0f} MiB")


def writable(folder: Path) -> Line:
    """Whether answers can be written where they go by default."""
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            return Line("answers", f"can be written to {folder.absolute()}")
    except OSError as error:
        return Line(
            "answers", f"{place}: {error.strerror}", "give --out a folder that can be written"
        )
