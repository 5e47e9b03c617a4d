"""`review.html` in the system's Chromium: hostile Markdown does nothing in it, pictures are seen, it fits a phone and is dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_store import MemoryStore
from playwright.sync_api import Page
from review_kit import HOSTILE, reviewed_run
from test_report_browser import Seen
from ui import NoBrowser, chromium

from deployments.reviewing import review
from tasks.corpus.store import open_store

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300)]

ATTACK = "\n\n".join(HOSTILE)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    try:
        with chromium(tmp_path_factory.mktemp("browser")) as page:
            yield page
    except NoBrowser as error:
        pytest.fail(str(error))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a run with a hostile document, whose name is hostile, too."""
    folder = tmp_path_factory.mktemp("run")
    runs = MemoryStore()
    source, output = (open_store(str(folder / name), writable=True) for name in ("in", "out"))
    reviewed_run(runs, source, output, {0: f"{HOSTILE[1]}.pdf", 1: "a/usual.pdf"}, text=ATTACK)
    file = folder / "review.html"
    review(output, runs, None, most=9, to=str(file), source=None, password_file=None, as_json=False)
    return file.read_text()


def test_hostile_markdown_is_shown_and_does_nothing(page: Page, whole: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 1200, "height": 900})
    seen = Seen(page, whole, tmp_path)
    assert page.title().endswith(": worst pages")
    assert page.locator("pre").count() == 6
    for text in HOSTILE:
        assert text in (page.locator("pre").first.text_content() or "")
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    assert page.evaluate("document.querySelectorAll('script, iframe, object, base, pre *').length") == 0
    outside = [url for url in seen.requests if not url.startswith(("data:image/jpeg;base64,", seen.address))]
    assert outside == []
    assert seen.said == []


def test_the_policy_holds_what_gets_past_the_escaping(page: Page, whole: str, tmp_path: Path) -> None:
    injected = whole.replace("<main>", f"<main>{ATTACK.replace('</style>', '')}", 1)
    Seen(page, injected, tmp_path)
    assert page.title().endswith(": worst pages")
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    # Without the policy the same page does it: the test can fail.
    Seen(page, injected.replace("Content-Security-Policy", "X-Nothing"), tmp_path)
    assert page.title() == "owned"


def test_pictures_are_seen_beside_their_markdown(page: Page, whole: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 1200, "height": 900})
    Seen(page, whole, tmp_path)
    sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
    assert sizes == [[900, 1200]] * 6
    picture, text = (page.locator(f".pair > .{name}").first.bounding_box() for name in ("picture", "text"))
    assert picture is not None
    assert text is not None
    assert picture["x"] + picture["width"] <= text["x"]
    assert picture["y"] == text["y"]


@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_a_phone_and_a_desk(page: Page, whole: str, tmp_path: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    Seen(page, whole, tmp_path)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture = page.locator("img").first.bounding_box()
    assert picture is not None
    assert picture["width"] > 300


def test_it_is_dark_where_the_reader_is(page: Page, whole: str, tmp_path: Path) -> None:
    Seen(page, whole, tmp_path)
    page.emulate_media(color_scheme="dark")
    colour = page.evaluate("getComputedStyle(document.querySelector('.sheet')).backgroundColor")
    assert sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) < 3 * 60
    page.emulate_media(color_scheme=None)
