"""An HTML page as a browser reads it, for tests: what it holds, and what it would ask for."""

import csv
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

EMPTY = {"meta", "link", "input", "br", "hr", "img"}
ADDRESSES = ("href", "src", "action", "data", "poster", "srcset", "formaction")


@dataclass
class Read(HTMLParser):
    """A page by its tags and texts. Raises: AssertionError where a tag is not closed in order."""

    page: str
    asked: list[str] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(self.page)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    @property
    def numbers(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def records(self, table: int = 0) -> list[dict[str, str]]:
        """The rows of a table as it is taken away."""
        return list(csv.DictReader(io.StringIO(self.numbers["tables"][table]["csv"])))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [f"{tag} {name}={value}" for name, value in attrs if name in ADDRESSES]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag in EMPTY:
            return
        self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # of a drawing

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data: str) -> None:
        if not self.open:
            return
        if self.open[-1] == "script":
            self.scripts[-1] += data
        elif {"td", "th"} & {*self.open}:
            self.cells[-1][-1] += data.strip()
        elif data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def asks_for_nothing(read: Read) -> bool:
    """Whether a page names nothing outside itself: its own marks (`#part-1`), and what it holds."""
    held = ("img src=data:image/png;base64,", "a href=data:text/csv;base64,")
    return all(
        "=#" in one or one == "link href=data:," or one.startswith(held) for one in read.asked
    )
