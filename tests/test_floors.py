"""Imports point down: reads every import of the package, also those inside functions."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxinit"
FLOORS = [
    {"spec", "theory", "outcome", "study", "figure"},
    {"initializers", "introspect", "watch", "tasks", "stats", "folder", "verdict", "checkpoint"},
    {"structured", "models", "train", "calibrate", "probes", "plot", "portrait", "summary"},
    {"frameworks", "residual", "sweep", "lens", "store"},
    {"schemes", "report"},
    {"cell"},
    {"identity"},
    {"engine", "survey"},
    {"coordcheck", "finetune"},
    {"cli"},
    {"experiment"},
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
WITHOUT_JAX = {
    *("theory", "outcome", "study", "stats", "folder", "summary", "store", "verdict"),
    *("figure", "plot", "portrait", "report"),
}
STDLIB_ONLY = {"outcome", "study", "folder"}
DOORS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}  # the ways in, above all floors
FILES = sorted(set(PACKAGE.rglob("*.py")) - DOORS)


def home(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, absolute, `jaxinit.x` for `from jaxinit import x`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            found |= {f"jaxinit.{a.name}" for a in node.names} if node.module == "jaxinit" else {node.module or ""}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = home(path)
    assert here in FLOOR, f"{here} has no floor; add it to FLOORS and to CONTRIBUTING.md"
    for name in imports(path):
        if name.startswith("jaxinit."):
            there = name.split(".")[1]
            assert there == here or FLOOR[there] < FLOOR[here], f"{here} (floor {FLOOR[here]}) imports {there}"


@pytest.mark.parametrize("path", [p for p in FILES if home(p) in WITHOUT_JAX], ids=lambda path: path.stem)
def test_analysis_never_imports_jax(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"jax", "flax", "optax"}


@pytest.mark.parametrize("path", [p for p in FILES if home(p) in STDLIB_ONLY], ids=lambda path: path.stem)
def test_the_question_needs_the_standard_library_only(path: Path) -> None:
    import sys

    assert {name.split(".")[0] for name in imports(path)} <= {*sys.stdlib_module_names, "jaxinit"}


def test_every_floor_is_inhabited() -> None:
    assert {home(path) for path in FILES} == set(FLOOR)


def test_one_test_file_a_module() -> None:
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(FLOOR) <= tested
