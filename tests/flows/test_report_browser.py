"""`report.html` in the system's Chromium: it loads nothing and runs nothing, fits a phone, and has a dark side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from memory_store import MemoryStore
from pictured_run import pictured_run
from playwright.sync_api import Page
from report_kit import HOSTILE, hostile_run, html
from ui import NoBrowser, chromium

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    try:
        with chromium(tmp_path_factory.mktemp("browser")) as page:
            yield page
    except NoBrowser as error:
        pytest.fail(str(error))


class Seen:
    """What a page asked for, said and ran while it was shown."""

    def __init__(self, page: Page, text: str, folder: Path) -> None:
        self.requests: list[str] = []
        self.said: list[str] = []
        file = folder / "report.html"
        file.write_text(text, encoding="utf-8")
        self.address = file.as_uri()

        def note_request(request: object) -> None:
            self.requests.append(request.url)

        def note_line(line: object) -> None:
            self.said.append(line.text)

        page.on("request", note_request)
        page.on("console", note_line)
        try:
            page.goto(self.address)
            page.wait_for_timeout(500)
        finally:
            page.remove_listener("request", note_request)
            page.remove_listener("console", note_line)


@pytest.fixture
def listening() -> Iterator[tuple[str, list[str]]]:
    """A web server on the loopback, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_it_makes_no_request_and_shows_hostile_names_as_text(page: Page, tmp_path: Path) -> None:
    seen = Seen(page, html(hostile_run(MemoryStore())), tmp_path)
    assert seen.requests == [seen.address]
    assert seen.said == []
    assert (
        page.evaluate("document.scripts.length + document.images.length + document.querySelectorAll('base').length")
        == 0
    )
    assert HOSTILE[0] in page.inner_text("body")
    assert page.title() == "20261127-184000-ab12: stopping"


def test_the_policy_stops_what_would_get_past_the_escaping(
    page: Page, tmp_path: Path, listening: tuple[str, list[str]]
) -> None:
    address, asked = listening
    whole = html(hostile_run(MemoryStore()))
    injected = (
        "<script>document.title = 'owned'</script>"
        f"<img src='{address}/image' onerror=\"document.title = 'owned'\"><link rel='stylesheet' href='{address}/style'>"
        f"<style>body {{ background: url({address}/background) }}</style><iframe src='{address}/frame'></iframe>"
        f"<script src='{address}/script'></script><object data='{address}/object'></object>"
        "<p id='styled' style='position: fixed'>x</p>"
    )
    seen = Seen(page, whole.replace("<main>", f"<main>{injected}", 1), tmp_path)
    assert page.title() == "20261127-184000-ab12: stopping"
    assert asked == []
    assert page.evaluate("getComputedStyle(document.getElementById('styled')).position") == "static"
    assert any("Content Security Policy" in line for line in seen.said)
    # Without the policy the same page does all of it: the test can fail.
    Seen(
        page, whole.replace("<main>", f"<main>{injected}", 1).replace("Content-Security-Policy", "X-Nothing"), tmp_path
    )
    assert page.title() == "owned"
    assert "/image" in asked


@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_a_phone_and_a_desk(page: Page, tmp_path: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for name, text in (
        ("hostile", html(hostile_run(MemoryStore()))),
        ("usual", html(pictured_run(MemoryStore(), "s3://harbour-library/markdown"))),
    ):
        Seen(page, text, tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        charts = page.locator("svg.chart").all()
        assert len(charts) == 3
        boxes = [chart.bounding_box() for chart in charts]
        assert all(box is not None and box["width"] > 300 and box["x"] + box["width"] <= width for box in boxes)


def test_it_is_dark_where_the_reader_is(page: Page, tmp_path: Path) -> None:
    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    Seen(page, html(hostile_run(MemoryStore())), tmp_path)
    page.emulate_media(color_scheme="light")
    assert brightness() > 3 * 200
    page.emulate_media(color_scheme="dark")
    assert brightness() < 3 * 60
    page.emulate_media(color_scheme=None)
