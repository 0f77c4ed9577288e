"""A wheel that was built from the source archive has all of the command, in another folder than the
checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPERIMENTS = {path.stem for path in (ROOT / "experiments").glob("*.py")}
SMALL = "--hidden 8 --seeds 2 --schemes small_normal orthogonal --baseline small_normal"
# all in one process of the environment: starting Python and JAX takes longer than any of them
COMMANDS = [
    "list",
    f"run {SMALL} --lrs 0.1 --epochs 1 --batch 128 --target 0.5 --out results/study",
    "plot results/study",
    "report results/study",
    f"probe {SMALL} --examples 20",
    f"coordcheck {SMALL} --widths 8 16 --steps 1",
    "reproduce saxe2013 --size smoke",
]
RUN_ALL = f"""
import sys
from pathlib import Path
import jaxinit
from jaxinit.cli import main

print(Path(jaxinit.__file__).resolve())
for words in {COMMANDS}:
    code = main(words.split())
    print(f"exit code of {{words.split()[0]}}: {{code}}", file=sys.stderr)
"""


def build(source: Path, kind: str, folder: Path) -> Path:
    """Build the sdist or the wheel of `source`, without a network: the backend is a development
    tool here."""
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        kind,
        "--directory",
        str(folder),
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.glob({"sdist": "*.tar.gz", "wheel": "*.whl"}[kind])
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder)) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def scripts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel, which borrows the other packages of this
    one."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = build(source, "wheel", folder)
    venv.create(folder / "venv")
    bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / Path(sys.executable).name
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    paths = sysconfig.get_paths(
        vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    )
    # A line of a .pth file adds a folder, but does not read the .pth files in it: the checkout
    # stays invisible.
    borrowed = Path(paths["purelib"]) / "borrowed.pth"
    borrowed.write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return bin_folder


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def test_the_source_archive_has_what_tests_and_scripts_need(source: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    here = {
        path for path in listed.stdout.splitlines() if not path.startswith((".ci/", "results/"))
    }
    packed = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert here - packed == set()


def test_the_command_and_the_module_say_their_version(scripts: Path, tmp_path: Path) -> None:
    for command in ([str(scripts / "jaxinit")], [str(scripts / "python"), "-m", "jaxinit"]):
        done = run([*command, "--version"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["jaxinit", "0.1.0"]


def test_every_command_works_from_a_wheel_in_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    done = run([str(scripts / "python"), "-c", RUN_ALL], tmp_path)
    for words in COMMANDS:
        command = words.split()[0]
        codes = ("0", "1") if command == "coordcheck" else ("0",)  # 1 is its verdict
        assert any(f"exit code of {command}: {code}\n" in done.stderr for code in codes), (
            done.stderr
        )
    package = Path(done.stdout.splitlines()[0]).parent
    assert ROOT not in package.parents
    assert (package / "py.typed").exists()
    listed = done.stdout.split("experiments:")[1]
    assert all(f"\n  {name} " in listed for name in EXPERIMENTS)
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"study", "saxe2013-smoke"} <= made
    assert {name.split("-")[0] for name in made} == {"study", "saxe2013", "probe", "coordcheck"}
    assert (tmp_path / "results" / "saxe2013-smoke" / "summary.json").exists()
    for name in ("study", "saxe2013-smoke"):
        assert (tmp_path / "results" / name / "report.html").exists()


def test_an_unknown_experiment_is_named_from_a_wheel_too(scripts: Path, tmp_path: Path) -> None:
    done = run([str(scripts / "jaxinit"), "reproduce", "glorot2011"], tmp_path)
    assert done.returncode == 2
    assert "no experiment is called 'glorot2011'; the nearest is 'glorot2010'" in done.stderr
