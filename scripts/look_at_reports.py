"""Reports in a browser: opened from disk, sorted, filtered, by keyboard, in the dark, on a phone,
printed; what goes wrong is said.

    pip install -e '.[browser]'      # and Chromium: Debian's, or `playwright install chromium`
    python scripts/look_at_reports.py results/... [more folders or FILE.html] --pictures FOLDER

Exit code 1 where a page does not do what it should; 0, with a line, where there is no browser.
"""

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxinit.analysis.folder import Folder
from jaxinit.analysis.page import REPORT

WIDE, PHONE = (1280, 900), (390, 844)
LARGEST = {"study": 1_000_000}  # bytes of a page, by what its folder holds
LARGEST_OF_ALL = 5_000_000  # of others, of an experiment with thirteen studies too
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Asked:
    """What to look at."""

    pages: tyro.conf.Positional[tuple[Path, ...]]
    """Pages, or the folders that have a report."""
    pictures: Path | None = None
    """Folder of pictures of each page: wide, dark, phone, and as PDF. Default: none."""


def main(argv: Sequence[str] | None = None) -> int:
    asked = tyro.cli(Asked, args=argv, prog="look_at_reports", description=__doc__)
    if importlib.util.find_spec("playwright") is None:
        print("not looked at: there is no Playwright; pip install -e '.[browser]'")
        return 0
    wrong = 0
    with browser() as launched:
        if launched is None:
            return 0
        for path in asked.pages:
            page = path / REPORT if path.is_dir() else path
            faults = look(launched, page, asked.pictures)
            print(f"{page}: {'; '.join(faults) or 'as it should be'}")
            wrong += bool(faults)
    return 1 if wrong else 0


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, that of the system where there is one; None where there is none."""
    playwright: Any = importlib.import_module("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as driver:
        try:
            launched = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            print(f"not looked at: there is no Chromium ({str(error).splitlines()[0]})")
            yield None
            return
        yield launched
        launched.close()


def look(launched: Any, path: Path, pictures: Path | None) -> list[str]:
    """What is wrong with a page."""
    if not path.is_file():
        return ["there is no such page; make it with jaxinit report"]
    faults: list[str] = []
    held = Folder(path.parent).manifest() if path.name == REPORT else None
    largest = LARGEST.get(held.kind if held else "", LARGEST_OF_ALL)
    if path.stat().st_size > largest:
        faults.append(f"{path.stat().st_size / 1e6:.1f} MB, of {largest / 1e6:g} at most")
    name = re.sub(r"\W+", "-", str(path.with_suffix(""))).strip("-")

    def opened(size: tuple[int, int], **options: Any) -> Any:
        context = launched.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"an error: {error}"))
        page.on("console", lambda said: faults.append(f"the console says: {said.text}"))
        page.on("request", lambda request: requested(faults, request.url, path))
        page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        page.goto(path.resolve().as_uri())
        page.wait_for_timeout(300)
        return page

    def pictured(page: Any, kind: str) -> None:
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=pictures / f"{name}-{kind}.png", full_page=True)

    page = opened(WIDE, color_scheme="light")
    pictured(page, "wide")
    for folded in page.locator("details > summary").all():
        folded.click()
    page.wait_for_timeout(300)
    faults += wrong_with_tables(page)
    faults += wrong_with_charts(page)
    faults += wrong_with_theme(page)
    pictured(page, "dark")
    if pictures is not None:
        page.pdf(path=pictures / f"{name}.pdf", format="A4")
    phone = opened(PHONE, color_scheme="dark", device_scale_factor=2, has_touch=True)
    pictured(phone, "phone")
    if phone.evaluate("document.documentElement.scrollWidth > innerWidth"):
        faults.append("wider than a phone")
    return list(dict.fromkeys(faults))


def requested(faults: list[str], url: str, path: Path) -> None:
    own = (path.resolve().as_uri(), "data:,", "blob:")
    if not url.startswith(own):
        faults.append(f"asks for {url}")


def wrong_with_tables(page: Any) -> list[str]:
    """Headers sort by keyboard, and words filter."""
    faults = []
    head = page.locator("th:has(button)").first
    if not head.count():
        return []
    column = page.locator("table:has(th button)").first.locator("tbody tr td:first-child")
    head.locator("button").focus()
    sorted_cells = {}
    for order in ("ascending", "descending"):
        page.keyboard.press("Enter")
        if head.get_attribute("aria-sort") != order:
            faults.append(f"a header is not {order}")
        sorted_cells[order] = column.all_inner_texts()
    if sorted_cells["ascending"] != sorted_cells["descending"][::-1]:
        faults.append("rows are not sorted")
    field = page.locator("input[type=search]").first
    if field.count():
        filtered = page.locator(".wide:has(input[type=search])").first
        rows = filtered.locator("tbody tr:visible")
        before = rows.count()
        field.fill("no such row")
        left = rows.count()
        field.fill("")
        if left or rows.count() != before:
            faults.append(f"a filter leaves {left} rows, and {rows.count()} of {before} after it")
    return faults


def wrong_with_charts(page: Any) -> list[str]:
    """Curves are drawn and told of, by pointer and by keys; the legend hides them; CSV is given."""
    faults = []
    for figure in page.locator("figure.chart").all():
        title = figure.locator("h3").inner_text()
        drawn = figure.locator('path.curve:not([d=""]), .dot').count()
        if not drawn:
            faults.append(f"nothing is drawn of {title!r}")
        if "NaN" in figure.locator("svg").first.inner_html():
            faults.append(f"NaN in {title!r}")
    figure = page.locator("figure.chart").first
    if not figure.count():
        return faults
    figure.locator("svg").first.focus()
    page.keyboard.press("ArrowRight")
    first = figure.locator(".tip").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    if not first or figure.locator(".tip").inner_text() == first:
        faults.append("arrow keys tell nothing")
    page.keyboard.press("Escape")
    legend = page.locator(".legend button").first
    # The first scheme of a part may be in some of its charts alone.
    drawn = page.locator("path.curve, .dot").count()
    legend.click()
    if page.locator("path.curve, .dot").count() >= drawn:
        faults.append("the legend hides nothing")
    legend.click()
    with page.expect_download() as download:
        figure.locator("figcaption button").click()
    text = Path(download.value.path()).read_text()
    if len(text.splitlines()) < 2 or not text.startswith("scheme,"):
        faults.append("a chart's numbers are not given")
    return faults


def wrong_with_theme(page: Any) -> list[str]:
    """The button makes it dark."""
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.locator("#theme").click()
    return [] if page.evaluate(paper) != light else ["it does not become dark"]


if __name__ == "__main__":
    sys.exit(main())
