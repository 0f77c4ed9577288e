"""What the README and the pages of docs/ show: commands, programs, links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# what is added to a command so that it takes seconds; of an option given twice the last counts
TINY = {
    "run": "--hidden 8 --seeds 2 --tune-seeds 1 --lrs 0.01 --epochs 1 --evaluations 1 --batch 128",
    "probe": "--hidden 8 --seeds 2 --examples 10",
    "coordcheck": "--seeds 2 --widths 64 128 --steps 1",
}
FEWER = {"--length": "12", "--layers": "2"}
# of the studies in Python
FULL = re.compile(r"lrs=\(0\.1, 0\.3\), seeds=4, epochs=\d+")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Every block of code of a page: its language, "" where none is said, and its text. Lines that
    are indented by four are one too."""
    text = page.read_text()
    fenced = re.compile(r"^```(\S*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
    found = [(match[1], match[2]) for match in fenced.finditer(text)]
    indented = re.findall(r"^    (\S.*|    .*)$", fenced.sub("", text), flags=re.MULTILINE)
    return [*found, ("", "\n".join(indented))]


def commands(page: Path) -> list[str]:
    """Every `jaxinit` command of a page's blocks, continued lines joined, without its comment."""
    found = []
    for language, text in blocks(page):
        if language in ("python", "{eval-rst}", "{toctree}"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            match = re.match(r"(?:\s*)(?:srun |- run: |entry: )?(jaxinit( .*)?)$", line)
            if match:
                found.append(" ".join(re.split(r"\s#|\s&$", match[1])[0].split()))
    return list(dict.fromkeys(found))


def all_commands() -> list[str]:
    """Those of all pages, each once."""
    return list(dict.fromkeys(command for page in PAGES for command in commands(page)))


def of_kind(name: str) -> list[str]:
    """The commands that can be carried out here."""
    found = []
    for command in all_commands():
        words = command.split()
        if {"--help", "--dry-run", "--cluster", "--distributed"} & set(words):
            continue
        if words[1:2] == [name] and "gpu" not in words and "$" not in command:
            found.append(command)
    return found


def tiny(command: str) -> list[str]:
    """The words of a command after `jaxinit`, in the smallest sizes that take the same paths."""
    words = shlex.split(command)[1:]
    added = TINY[words[0]].split()
    if "--depths" in words:
        added = ["--seeds", "2", "--depths", "1", "2", "--steps", "1"]
    if any("mup" in word for word in words):
        added += ["--hidden", "64"]  # not below the base width that it names
    for option, value in FEWER.items():
        if option in words:
            added += [option, value]
    return [*words, *added]


def python(page: Path) -> str:
    """The Python of a page, one block after another."""
    return "\n".join(text for language, text in blocks(page) if language == "python")


def with_fewer(text: str) -> str:
    """Python whose studies are smaller."""
    return FULL.sub("lrs=(0.1,), seeds=2, epochs=1", text)
