"""The gallery's pictures are those that its page shows, each under commands; what those draw is
what is kept."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxinit.analysis.figure import COLORS
from jaxinit.study import BadStudy

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
gallery: Any = importlib.import_module("gallery")


def test_every_picture_stands_under_commands_and_every_command_has_one() -> None:
    sections = gallery.sections(gallery.PAGE.read_text())
    assert all(section.commands and section.pictures for section in sections)
    shown = [name for section in sections for name in section.pictures]
    assert sorted(shown) == sorted(path.stem for path in gallery.FIGURES.iterdir())


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A page of two sections, of which `commands` are carried out; each draws `sizes`, the second
    `lens` too."""
    (tmp_path / "page.md").write_text(
        "```bash\njaxinit probe\njaxinit probe --layers 2\n```\n"
        "![Sizes](figures/sizes.png)\n![How far](figures/lens.png)\n"
        "```bash\njaxinit run\n```\n![The answer](figures/answer.png)\n"
    )
    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(gallery, "FIGURES", tmp_path / "figures")
    commands = []

    def draw(command: str, out: Path) -> None:
        commands.append(command)
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name in ("sizes", "lens") if "2" in command else ("sizes",):
            Image.new("RGB", (2000, 500), "white").save(out / "figures" / f"{name}.png")
        (out / "report.html").touch()

    monkeypatch.setattr(gallery, "draw", draw)
    return commands


def test_a_picture_is_that_of_the_first_command_that_draws_it(
    page: list[str], tmp_path: Path
) -> None:
    assert gallery.main(("lens", "sizes"), kept=tmp_path / "kept") == 0
    assert page == ["jaxinit probe", "jaxinit probe --layers 2"]
    for name in ("sizes", "lens"):
        with Image.open(tmp_path / "figures" / f"{name}.png") as image:
            assert image.size == (1000, 250)
            assert image.mode == "P"
    lines = gallery.PAGE.read_text()
    gallery.PAGE.write_text("```bash\njaxinit lens\n```\n![Other](figures/other.png)\n" + lines)
    gallery.main(("lens",), kept=tmp_path / "kept")
    assert len(page) == 2, "what was kept is carried out once more"
    next((tmp_path / "kept").rglob("report.html")).unlink()
    gallery.main(("lens",), kept=tmp_path / "kept")
    assert len(page) == 3, "what was stopped counts as carried out"


def test_a_small_picture_keeps_the_colors_of_schemes(tmp_path: Path) -> None:
    # bands, which have most of a figure's pixels, and a line of every color in them
    shades = np.random.default_rng(0).integers(128, 256, (900, 1800, 3), dtype=np.uint8)
    large = Image.fromarray(shades)
    for k, color in enumerate(COLORS):
        large.paste(color, (200 * k, 0, 200 * k + 8, 900))
    large.save(tmp_path / "large.png")
    gallery.shrink(tmp_path / "large.png", tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        small = image.convert("RGB")
    for k, color in enumerate(COLORS):
        seen = small.getpixel(((200 * k + 4) * 1000 // 1800, 400))
        np.testing.assert_allclose(seen, [int(color[i : i + 2], 16) for i in (1, 3, 5)], atol=8)


def test_what_the_page_or_its_commands_do_not_have_is_refused(page: list[str]) -> None:
    with pytest.raises(BadStudy, match="has no picture lenz"):
        gallery.main(("lenz",))
    assert not page
    with pytest.raises(BadStudy, match="no command above answer in"):
        gallery.main(("answer",))
