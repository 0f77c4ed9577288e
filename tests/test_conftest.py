"""The suite's own rules: a parity test is marked, and where CI is set a skipped one has failed."""

import ast
from pathlib import Path

import pytest
from conftest import fail_if_skipped


def callers_of_importorskip(tree: ast.Module) -> set[str]:
    """The functions of a file that ask for an optional package, themselves or through another of
    the file."""
    bodies = {node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    asking = {"importorskip"}
    for _ in bodies:
        asking |= {
            name for name, body in bodies.items() if any(f"'{one}'" in body for one in asking)
        }
    return asking - {"importorskip"}


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.rglob("test_*.py")), ids=lambda path: path.stem
)
def test_a_test_of_optional_packages_is_marked(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            asks = node.name in callers_of_importorskip(tree) and path != Path(__file__)
            marked = any(
                ast.unparse(decorator) == "pytest.mark.parity" for decorator in node.decorator_list
            )
            assert marked or not asks or "pytestmark = pytest.mark.parity" in path.read_text(), (
                node.name
            )


@pytest.mark.parametrize(
    ("outcome", "after"), [("passed", "passed"), ("skipped", "failed"), ("failed", "failed")]
)
def test_a_skip_becomes_a_failure(outcome: str, after: str) -> None:
    reason = ("tests/test_frameworks.py", 45, "Skipped: the parity extra is not installed")
    report = pytest.TestReport("test", ("", 0, ""), {}, outcome, reason, "call")  # pyright: ignore[reportArgumentType]
    fail_if_skipped(report)
    assert report.outcome == after
    if outcome == "skipped":
        assert "install the extra `parity`, mup and xlstm" in str(report.longrepr)
