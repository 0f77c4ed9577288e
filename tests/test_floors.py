"""Imports point down, from folder to folder: reads every import of the package, also those inside
functions."""

import ast
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "jaxinit"
# From the ground up. A folder, or a file beside the folders, imports from the floors below and from
# itself.
FLOORS = [
    {"options", "names"},
    {"spec", "theory", "study"},
    {"initializers", "introspect", "tasks", "analysis"},
    {"models", "schemes", "console"},
    {"signals"},
    {"calibrate"},
    {"engine"},
    {"finetune"},
    {"auditing"},
    {"words"},
    {"cli"},
    {"reproduce"},
]
FLOOR = {place: floor for floor, places in enumerate(FLOORS) for place in places}
WITHOUT_JAX = {"analysis", "theory", "study", "options", "names"}
STDLIB_ONLY = {
    Path("names.py"),
    Path("options.py"),
    Path("study.py"),
    Path("analysis/folder.py"),
    Path("analysis/outcome.py"),
}
DOORS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}  # the ways in, above all floors
FILES = [path.relative_to(PACKAGE) for path in sorted(set(PACKAGE.rglob("*.py")) - DOORS)]
PLACES = ("models", "tasks")  # tested as wholes


def place(path: Path) -> str:
    """The folder of a file, or the file's own name beside the folders."""
    return path.parts[0].removesuffix(".py")


def module(path: Path) -> str:
    return ".".join(("jaxinit", *path.with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, absolute; of `from a import b` both a.b, where that is a
    module, and a."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found |= inner or {node.module or ""}
    return found


MODULES = {module(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path: Path) -> None:
    here = place(path)
    assert here in FLOOR, f"{here} has no floor; add it to FLOORS and to CONTRIBUTING.md"
    for name in imports(path):
        if name.startswith("jaxinit."):
            there = name.split(".")[1]
            assert there == here or FLOOR[there] < FLOOR[here], (
                f"{here} (floor {FLOOR[here]}) imports {there}"
            )


def test_no_circle_inside_a_folder() -> None:
    arrows = {module(path): imports(path) & MODULES - {module(path)} for path in FILES}
    left = dict(arrows)
    while left:
        ends = {name for name, needed in left.items() if not needed & left.keys()}
        assert ends, f"these import each other: {', '.join(sorted(left))}"
        left = {name: needed for name, needed in left.items() if name not in ends}


@pytest.mark.parametrize("path", [path for path in FILES if place(path) in WITHOUT_JAX], ids=str)
def test_analysis_never_imports_jax(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"jax", "flax", "optax"}


@pytest.mark.parametrize("path", sorted(STDLIB_ONLY), ids=str)
def test_the_question_needs_the_standard_library_only(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} <= {*sys.stdlib_module_names, "jaxinit"}


def test_every_floor_is_inhabited() -> None:
    assert {place(path) for path in FILES} == set(FLOOR)


def test_tests_mirror_the_package() -> None:
    """Every file has its test at the same place, but for models and tasks, which are tested as
    wholes."""
    tested = {path.with_name(f"test_{path.name}") for path in FILES if path.stem != "__init__"}
    mirrored = {path for path in tested if path.parts[0] not in PLACES}
    missing = [str(path) for path in sorted(mirrored) if not (TESTS / path).exists()]
    assert not missing, f"no tests: {missing}"
