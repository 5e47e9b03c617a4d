"""When the engine is lost, and when a document takes too long: it ends, soon, and what failed gets the blame."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymupdf
import pytest

from parity import kit
from parity.test_pool import running, scratch
from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines.dolphin.clients import EngineLost
from tasks.engines.dolphin.pool import DolphinPool
from tasks.engines.protocol import EngineResult, Limits

__all__ = ["scratch"]


def many_pages(count: int) -> bytes:
    """The letters, again and again."""
    with pymupdf.open() as document, pymupdf.open(kit.FIXTURES / "letters.pdf") as letters:
        while document.page_count < count:
            document.insert_pdf(letters)
        document.select(range(count))
        return bytes(document.tobytes())


def slow_pages(count: int, calls: int) -> bytes:
    """Each page draws a line `10 ** 4 * calls` times: some tenths of a second for 10 calls."""
    with pymupdf.open() as document:
        xref = 0
        for level in range(5):
            called, xref = xref, document.get_new_xref()
            resources = f"/Resources<</XObject<</F {called} 0 R>>>>" if called else ""
            document.update_object(xref, f"<</Type/XObject/Subtype/Form/BBox[0 0 612 792]{resources}>>")
            document.update_stream(xref, b"/F Do " * 10 if level else b"0 0 m 600 700 l S ")
        for _ in range(count):
            page = document.new_page()
            content = document.get_new_xref()
            document.update_object(content, "<<>>")
            document.update_stream(content, b"/F Do " * calls)
            document.xref_set_key(page.xref, "Resources", f"<</XObject<</F {xref} 0 R>>>>")
            document.xref_set_key(page.xref, "Contents", f"{content} 0 R")
        return bytes(document.tobytes())


def convert(
    pool: DolphinPool, data: bytes, folder: Path, on_page: Callable[[int, int], None] = lambda page, pages: None
) -> EngineResult:
    place = Path(tempfile.mkdtemp(dir=folder))
    copy, assets = place / "copy.pdf", place / "assets"
    copy.write_bytes(data)
    assets.mkdir()
    try:
        return pool.convert(copy, "a.pdf", [], assets, on_page)
    finally:
        shutil.rmtree(place)


def lose(pool: DolphinPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's process ends, and cannot be started anew."""
    assert pool._device is not None
    monkeypatch.setattr(pool._device, "_module", "tasks.no_such_module")
    os.kill(pool._device._process.pid or 0, signal.SIGKILL)


def test_a_long_document_does_not_go_on_without_an_engine(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other pages would be rendered for nothing, before anybody is told."""
    seen: list[int] = []
    with running(scratch, "1.5", slots=2) as pool:
        lose(pool, monkeypatch)
        began = time.monotonic()
        with pytest.raises(EngineLost, match="does not stay alive"):
            convert(pool, many_pages(60), scratch, lambda page, pages: seen.append(page))
        assert time.monotonic() - began < 20
    assert max(seen, default=0) < 30


@pytest.mark.slow
def test_without_an_engine_no_room_is_taken_for_good(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for room would wait for ever, where the error ought to be told."""
    with running(scratch, "1.5", slots=2) as pool:
        lose(pool, monkeypatch)
        for _ in range(4):
            with pytest.raises(EngineLost):
                convert(pool, many_pages(4), scratch)
        assert pool._arena is not None
        assert pool._arena.used == 0


@pytest.mark.slow
def test_pages_that_cannot_be_read_are_not_blamed_on_the_document(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all of them have failed before the last one is rendered: DAMAGED would be for good."""

    def fails(_: dict[str, Any]) -> Any:
        raise ConversionError.of(Category.CRASHED, Phase.CONVERT, "the process that prepares images died twice")

    with running(scratch, "1.5") as pool:
        assert pool._preparers is not None
        monkeypatch.setattr(pool._preparers, "request", fails)
        with pytest.raises(ConversionError) as caught:
            convert(pool, many_pages(2), scratch, lambda page, pages: time.sleep(0.2))
        assert pool._arena is not None
        assert pool._arena.used == 0
    assert caught.value.failure.category is Category.ENGINE
    assert "no page can be read" in caught.value.failure.message


@pytest.mark.slow
def test_the_documents_time_limit_is_its_own(scratch: Path) -> None:
    """Not that of the page that is in hand by then, and it does not begin anew behind that page."""
    with running(scratch, "1.5", limits=Limits(document_timeout=1.0, page_timeout=30)) as pool:
        began = time.monotonic()
        with pytest.raises(ConversionError) as caught:
            convert(pool, slow_pages(60, 10), scratch)
        assert time.monotonic() - began < 10
    failure = caught.value.failure
    assert failure.category is Category.TIMEOUT
    assert "the document's time limit, 1 s" in failure.message


@pytest.mark.slow
def test_pages_over_their_time_count_for_the_document(scratch: Path) -> None:
    """Else each of 5,000 bad pages would cost the whole time of a page."""
    with running(scratch, "1.5", limits=Limits(document_timeout=3.0, page_timeout=0.7)) as pool:
        began = time.monotonic()
        with pytest.raises(ConversionError) as caught:
            convert(pool, slow_pages(40, 10_000), scratch)
        assert time.monotonic() - began < 20
    assert caught.value.failure.category is Category.TIMEOUT
    assert "the document's time limit, 3 s" in caught.value.failure.message
