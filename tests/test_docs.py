"""What the README and the pages of docs/ show works: commands are carried out in tiny sizes, Python
runs, links lead somewhere, and the reference has every public name."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import marked, quick
from flax import nnx
from shown import PAGES, README, ROOT, all_commands, of_kind, python, tiny, with_fewer

import jaxinit
from jaxinit import cli
from jaxinit.engine.initial import calibrate_parameters, draw_parameters
from jaxinit.engine.resolve import resolve
from jaxinit.study import Study
from jaxinit.words import parsed

# A model of the reader's, which pages import or name.
MINE = """
import jaxinit
from flax import nnx


def build(rngs: nnx.Rngs):
    init = jaxinit.SCHEMES["gpt2"]
    return jaxinit.Transformer(16, 32, 16, layers=2, heads=2, init=init, rngs=rngs)
"""
DOCS = [page for page in PAGES if page != README and python(page)]
# More than about five seconds each, of the machine that the suite runs on.
LONG = {"own.md", "tutorial.md", "add-an-experiment.md"}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_users_run: None) -> Path:
    """An empty folder to be in, but for the text and the arrays that the commands name."""
    monkeypatch.chdir(tmp_path)
    inputs = np.random.default_rng(0).normal(size=(200, 4))
    np.savez(tmp_path / "data.npz", x=inputs, y=(inputs[:, 0] > 0).astype(int))
    (tmp_path / "book.txt").write_text(
        "It was the best of times, it was the worst of times. " * 100
    )
    return tmp_path


# Of these a study is drawn and calibrated for seconds, and its model is no other than in tests of
# its own.
LARGE = ("transformer", "vit", "cnn", "resnet", "metainit", "--length 100")
STUDIES = of_kind("run")


SMALL = [c for c in STUDIES if not any(words in c for words in LARGE)]


@pytest.mark.parametrize("command", quick(*SMALL[::2], of=STUDIES))
def test_every_study_passes_its_checks_and_draws_its_starts(
    command: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def up_to_training(study: Study, *options: object) -> int:
        resolved = resolve(study)
        calibrate_parameters(resolved, draw_parameters(resolved))
        checked.append(study)
        return 0

    monkeypatch.setattr("jaxinit.cli.carry_out", up_to_training)
    assert cli.main(tiny(command)) == 0
    assert len(checked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", STUDIES)
def test_every_study_runs(command: str, elsewhere: Path) -> None:
    assert cli.main(tiny(command)) == 0
    (folder,) = (elsewhere / "results").iterdir()
    assert cli.main(["plot", str(folder)]) == 0
    assert list((folder / "figures").glob("*.png"))


LOOKS = [*of_kind("probe"), *of_kind("coordcheck")]


@pytest.mark.slow  # each command has a test of its own
@pytest.mark.parametrize("command", LOOKS)
def test_every_look_before_training_runs(command: str, elsewhere: Path) -> None:
    words = tiny(command)
    assert cli.main(words) in ((0, 1) if words[0] == "coordcheck" else (0,))  # 1 is its verdict
    (folder,) = (elsewhere / "results").iterdir()
    assert list((folder / "figures").glob("*.png"))


def test_every_command_is_one() -> None:
    """Those that need a folder, a file of the reader's or a machine are read, and no more."""
    found = all_commands()
    assert len(found) > 40
    for command in found:
        words = shlex.split(command)[1:]
        if words[-1:] == ["--cluster"]:
            words.append("local")
        if words and not {"--help", cli.COMPLETION} & set(words):
            parsed(words, cli.COMMANDS, cli.ASKED, cli.ABOUT)
        if words[:1] == ["reproduce"]:
            assert words[1] in {*cli.experiments(), "NAME"}, command


@pytest.fixture
def importable(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That folder, with the reader's file and its weights; what is written there can be imported,
    and is forgotten at the end."""
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "mine.py").write_text(MINE)
    # A command that was given a file of this name, in another test, left its module.
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    before = set(sys.modules)
    model = importlib.import_module("mine").build(nnx.Rngs(0))
    jaxinit.save_checkpoint(elsewhere / "base.safetensors", jaxinit.introspect.values(model))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield elsewhere
    for name in set(sys.modules) - before:
        if name == "mine" or name.startswith("page_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page", [marked(page, page.name not in LONG) for page in DOCS], ids=[page.name for page in DOCS]
)
def test_the_python_of_a_page_runs(page: Path, importable: Path) -> None:
    """In sizes that take seconds; its own tests and its experiment are carried out."""
    name = f"page_{page.stem.replace('-', '_')}"
    (importable / f"{name}.py").write_text(with_fewer(python(page)))
    shown = importlib.import_module(name)
    for key, value in vars(shown).items():
        if key.startswith("test_"):
            value()
    if hasattr(shown, "main"):
        assert shown.main(["--size", "smoke"]) == 0


def anchor(heading: str) -> str:
    """As GitHub and MyST make it of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def headings(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {anchor(line) for line in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}


LINKED = [*PAGES, *sorted((ROOT / "docs").glob("*/*.md")), ROOT / "CONTRIBUTING.md"]


def test_every_link_leads_somewhere() -> None:
    lost = []
    for page in LINKED:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:", link):
                continue
            path, _, place = link.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (place and place not in headings(there)):
                lost.append(f"{page.name}: {link}")
    assert not lost


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES[1:]:
        assert page.stem == "index" or re.search(rf"^{page.stem}$", index, re.MULTILINE), page


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    missing = [name for name in jaxinit.__all__ if not re.search(rf"jaxinit\.{name}\b", text)]
    assert not missing
