"""The pictures of docs/gallery.md, each drawn again by the commands that stand above it.

    python scripts/gallery.py                    # all of them, which takes minutes
    python scripts/gallery.py lens coordinates   # these alone
    python scripts/gallery.py --kept FOLDER      # what is run goes there, and is not run again

The README's picture is one of them.
"""

import hashlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tyro
from PIL import Image

from jaxinit.analysis.page import REPORT
from jaxinit.console import exit_code
from jaxinit.study import BadStudy

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gallery.md"
FIGURES = ROOT / "docs" / "figures"
WIDTH = 1000  # small files, of which a reader sees no more
BLOCK = re.compile(r"^```bash\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^]]+\]\(figures/(\w+)\.png\)")


class Section(NamedTuple):
    """A part of the page: commands, and the names of the pictures below them."""

    commands: list[str]
    pictures: list[str]


def sections(page: str) -> list[Section]:
    _, *parts = BLOCK.split(page)
    blocks = zip(parts[::2], parts[1::2], strict=True)
    return [Section(block.splitlines(), PICTURE.findall(below)) for block, below in blocks]


def folder_of(command: str) -> str:
    """What the folder of a command's results is called, on whatever line it stands."""
    verb, *words = shlex.split(command)[1:]
    name = re.sub(r"\W+", "-", " ".join([verb, *words[:1]]))
    return f"{name}-{hashlib.sha256(command.encode()).hexdigest()[:8]}"


def draw(command: str, out: Path) -> None:
    """Carry out a command of the page, with its results in a folder of its own; what fails as a
    check, in its figures too, exits with 1."""
    _, verb, *options = shlex.split(command)
    words = [sys.executable, "-m", "jaxinit", verb, *options, "--out", str(out)]
    subprocess.run(words, check=False, cwd=ROOT)


def drawn(name: str, folders: Sequence[Path]) -> Path:
    """The first picture of a name that the commands of a section have drawn."""
    for folder in folders:
        for path in sorted((folder / "figures").rglob(f"{name}.png")):
            return path
    raise BadStudy(f"no command above {name} in {PAGE.name} draws a figure of that name")


def shrink(picture: Path, to: Path) -> None:
    with Image.open(picture) as image:
        small = image.convert("RGB")
    small.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    # the median cut would change the colors of schemes, of which a figure has few pixels
    palette = small.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(to, optimize=True)


def main(names: tyro.conf.Positional[tuple[str, ...]] = (), kept: Path | None = None) -> int:
    """Draw the pictures of docs/gallery.md again, by the commands that stand above them.

    Args:
        names: Pictures, such as lens. Default: all.
        kept: Folder of the results, in which a command that was carried out is not once more.
    """
    found = sections(PAGE.read_text())
    unknown = set(names) - {name for section in found for name in section.pictures}
    if unknown:
        raise BadStudy(f"{PAGE.name} has no picture {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        place = kept or Path(temporary)
        for section in found:
            wanted = [name for name in section.pictures if not names or name in names]
            folders = []
            for command in section.commands if wanted else []:
                folders.append(place / folder_of(command))
                if not (folders[-1] / REPORT).exists():  # which is written last
                    draw(command, folders[-1])
            for name in wanted:
                shrink(drawn(name, folders), FIGURES / f"{name}.png")
                print(FIGURES / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: tyro.cli(main)))
