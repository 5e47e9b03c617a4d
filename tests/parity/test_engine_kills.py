"""The engine when its processes die, when it is stopped, and when documents are bad: nothing lost, nothing wrong, no hang."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pymupdf
import pytest

from parity import kit
from parity.test_pool import convert, running, scratch
from tasks.corpus.failures import Category, ConversionError
from tasks.engines.dolphin import clients
from tasks.engines.dolphin.clients import MOST_STARTS, EngineLost
from tasks.engines.dolphin.pool import DolphinPool
from tasks.engines.process import ChildProcess
from tasks.engines.protocol import EngineResult, Limits
from tasks.engines.sandbox import Aborted

__all__ = ["scratch"]

UPSTREAM = {"markdown": "upstream", "stop_loops": False}


def golden(document: str) -> str:
    return kit.golden("1.5", "markdown", f"{document}.md").read_text("utf-8")


def convert_file(pool: DolphinPool, data: bytes, folder: Path) -> EngineResult:
    place = Path(tempfile.mkdtemp(dir=folder))
    copy, assets = place / "copy.pdf", place / "assets"
    copy.write_bytes(data)
    assets.mkdir()
    return pool.convert(copy, "folder/articles.pdf", [], assets, lambda page, pages: None)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def killing(pid: Callable[[], int | None], seconds: float, times: int = 1) -> Iterator[list[int]]:
    """SIGKILL for whatever process `pid` names, again and again, while something else goes on."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(killed) < times and not over.wait(seconds):
            found = pid()
            if found is not None and found not in killed and alive(found):
                os.kill(found, signal.SIGKILL)
                killed.append(found)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_the_device_process_may_die_in_the_midst_of_work(scratch: Path) -> None:
    """What it had in hand is read again; the result is the same to the byte."""
    with running(scratch, "1.5", **UPSTREAM) as pool, ThreadPoolExecutor(4) as threads:
        with killing(lambda: pool._device._process.pid if pool._device else None, 0.3) as killed:
            names = ["articles", "letters"] * 4
            found = list(threads.map(lambda name: convert(pool, name, scratch)[0].whole, names))
        assert killed
        assert found == [golden(name) for name in names]


@pytest.mark.slow
def test_preparers_may_die(scratch: Path) -> None:
    with running(scratch, "1.5", **UPSTREAM) as pool, ThreadPoolExecutor(4) as threads:

        def pid() -> int | None:
            return next((child.pid for child in pool._preparers._all if child.alive), None) if pool._preparers else None

        with killing(pid, 0.4) as killed:
            names = ["articles", "letters"] * 4
            found = list(threads.map(lambda name: convert(pool, name, scratch)[0].whole, names))
        assert killed
        assert found == [golden(name) for name in names]


@pytest.mark.slow
def test_a_device_that_never_stays_alive_ends_the_engine(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded time, with the reason; documents are not to blame."""
    with running(scratch, "1.5") as pool:
        device = pool._device
        assert device is not None
        monkeypatch.setattr(device, "_module", "tasks.no_such_module")
        os.kill(device._process.pid or 0, signal.SIGKILL)
        with pytest.raises(EngineLost, match=r"does not stay alive: .*no_such_module"):
            convert(pool, "letters", scratch)


@pytest.mark.slow
def test_a_device_that_is_killed_before_it_answers_is_not_started_for_ever(scratch: Path) -> None:
    with running(scratch, "1.5") as pool:
        device = pool._device
        assert device is not None
        began = time.monotonic()
        with (
            killing(lambda: device._process.pid, 0.02, times=100) as killed,
            pytest.raises(EngineLost, match="does not stay alive: it ended with status -9"),
        ):
            convert(pool, "letters", scratch)
        assert len(killed) == MOST_STARTS
        assert time.monotonic() - began < 20
        # And it stays lost: nobody waits for what is asked for later.
        with pytest.raises(EngineLost):
            convert(pool, "letters", scratch)


@pytest.mark.soak
def test_a_device_that_hangs_is_started_anew(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "STUCK_SECONDS", 20.0)
    with running(scratch, "1.5", **UPSTREAM) as pool:
        device = pool._device
        assert device is not None
        hangs = device._process
        os.kill(hangs.pid or 0, signal.SIGSTOP)
        assert convert(pool, "letters", scratch)[0].whole == golden("letters")
        assert device._process is not hangs
        assert not hangs.alive


@pytest.mark.slow
def test_a_device_started_while_the_engine_is_closed_is_ended_too(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(scratch, "1.5") as pool:
        device = pool._device
        assert device is not None
        spawn, closed = device._spawn, threading.Event()
        started: list[ChildProcess] = []

        def slowly() -> ChildProcess:
            assert closed.wait(30)
            started.append(spawn())
            return started[0]

        monkeypatch.setattr(device, "_spawn", slowly)
        process = device._process
        process.kill()
        assert process.wait(10)
        time.sleep(0.2)  # it sees the end, and starts another one
        device.close()
        closed.set()
        deadline = time.monotonic() + 10
        while not (started and not started[0].alive) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert started
        assert not started[0].alive


@pytest.mark.slow
def test_an_image_that_comes_too_late_is_not_taken_for_the_next_one(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = ChildProcess.kill

    def late(self: ChildProcess) -> None:
        os.kill(self.pid or 0, signal.SIGCONT)
        time.sleep(0.5)  # it answers in the meantime
        kill(self)

    with running(scratch, "1.5", **UPSTREAM) as pool:
        convert(pool, "letters", scratch)
        preparers, arena = pool._preparers, pool._arena
        assert preparers is not None
        assert arena is not None
        page = arena.put(kit.render("letters")[0])
        message = {"op": "elements", "page": page}
        with monkeypatch.context() as patch:
            patch.setattr(ChildProcess, "kill", late)
            patch.setattr(clients, "PREPARE_TIMEOUT", 0.1)
            for child in preparers._all:
                os.kill(child.pid or 0, signal.SIGSTOP)
            with pytest.raises(ConversionError, match="not prepared within"):
                preparers.request(message | {"layout": "[0,0,100,100][para]"})
        with pytest.raises(ConversionError, match="no request is called 'nonsense'"):
            preparers.request(message | {"op": "nonsense"})
        arena.give_back(page)


def test_kill_aborts_at_once_and_leaves_no_process(scratch: Path) -> None:
    with running(scratch, "1.5") as pool, ThreadPoolExecutor(6) as threads:
        assert pool._device is not None
        assert pool._preparers is not None
        pids = [pool._device._process.pid, *(child.pid for child in pool._preparers._all)]
        pids += [sandbox.pid for sandbox in pool._sandboxes]
        futures = [threads.submit(convert, pool, "articles", scratch) for _ in range(12)]
        time.sleep(0.4)
        began = time.monotonic()
        pool.kill()
        errors = [future.exception(30) for future in futures]
        assert time.monotonic() - began < 15
        assert any(isinstance(error, Aborted) for error in errors)
        assert all(error is None or isinstance(error, Aborted) for error in errors)
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids if pid is not None) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids if pid is not None)


def with_page_2(content: bytes) -> bytes:
    """The articles with another page object for page 2, at the same place in the file."""
    data = (kit.FIXTURES / "articles.pdf").read_bytes()
    with pymupdf.open(stream=data, filetype="pdf") as document:
        start = data.index(b"\n%d 0 obj\n" % document.page_xref(1))
    start, end = data.index(b"<<", start), data.index(b"endobj", start)
    assert len(content) < end - start
    return data[:start] + content.ljust(end - start - 1) + b"\n" + data[end:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "kept", "gap"),
    [
        # Nothing is as wide as a pixel: MuPDF gives a pixmap without pixels.
        (b"<</Type/Page/MediaBox[0 0 1 1000000]/Parent 2 0 R>>", [1, None, 3, 4, 5], "no size"),
        # Not a page: MuPDF leaves it out, and does not find as many as it counted.
        (b"<</Type/Pages/Kids 2 0 R>>", [1, 3, 4, 5, None], "page not in document"),
    ],
)
def test_a_page_that_cannot_be_loaded_is_a_gap(page: bytes, kept: list[int | None], gap: str, scratch: Path) -> None:
    """The pages around it are what they are without it."""
    with running(scratch, "1.5") as pool:
        whole = convert(pool, "articles", scratch)[0].pages
        result = convert_file(pool, with_page_2(page), scratch).pages
    assert [found.number for found in result] == [1, 2, 3, 4, 5]
    for found, number in zip(result, kept, strict=True):
        if number is None:
            assert gap in (found.gap or "")
            assert found.text == ""
        else:
            assert found.gap is None
            # Figures are named after the page's number.
            assert found.text.replace(f"page_00{found.number}", f"page_00{number}") == whole[number - 1].text


def with_a_bomb_as_page_2() -> bytes:
    """The articles with a page 2 that would take years, and all memory."""
    with pymupdf.open(kit.FIXTURES / "articles.pdf") as document:
        xref = 0
        for level in range(12):
            # Each level draws the one below ten times.
            called, xref = xref, document.get_new_xref()
            resources = f"/Resources<</XObject<</F {called} 0 R>>>>" if called else ""
            document.update_object(xref, f"<</Type/XObject/Subtype/Form/BBox[0 0 612 792]{resources}>>")
            document.update_stream(xref, b"/F Do " * 10 if level else b"0 0 m 600 700 l S ")
        page = document[1]
        content = document.get_new_xref()
        document.update_object(content, "<<>>")
        document.update_stream(content, b"/F Do")
        document.xref_set_key(page.xref, "Resources", f"<</XObject<</F {xref} 0 R>>>>")
        document.xref_set_key(page.xref, "Contents", f"{content} 0 R")
        return bytes(document.tobytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "gap"),
    [
        (Limits(page_timeout=2), "over the time limit of page 2, 2 s"),
        pytest.param(Limits(page_timeout=60, memory_mb=700), "over the memory limit, 700 MiB", marks=pytest.mark.slow),
    ],
)
def test_only_the_page_over_its_limits_is_a_gap(limits: Limits, gap: str, scratch: Path) -> None:
    """The pages after it are rendered all the same, by another process."""
    with running(scratch, "1.5", limits=limits) as pool:
        whole = convert(pool, "articles", scratch)[0].pages
        result = convert_file(pool, with_a_bomb_as_page_2(), scratch).pages
    assert [found.number for found in result] == [1, 2, 3, 4, 5]
    assert gap in (result[1].gap or "")
    assert [found for found in result if found.number != 2] == [found for found in whole if found.number != 2]


@pytest.mark.slow
def test_where_all_pages_are_over_their_time_the_document_fails(scratch: Path) -> None:
    with running(scratch, "1.5", limits=Limits(page_timeout=1e-4)) as pool, pytest.raises(ConversionError) as error:
        convert(pool, "letters", scratch)
    assert error.value.failure.category in (Category.TIMEOUT, Category.DAMAGED)
    assert "over the time limit of page 1, 0.0001 s" in error.value.failure.message


def test_bad_documents_have_their_usual_categories_and_disturb_no_other(scratch: Path) -> None:
    with pymupdf.open(kit.FIXTURES / "letters.pdf") as document:
        locked = document.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="secret")
    bad = {
        Category.ENCRYPTED: locked,
        Category.NOT_A_PDF: b"\x89PNG and so on",
        Category.EMPTY: b"",
        Category.DAMAGED: b"%PDF-1.7 and nothing else",
    }
    with running(scratch, "1.5", limits=Limits(max_pages=4), **UPSTREAM) as pool, ThreadPoolExecutor(6) as threads:
        good = [threads.submit(convert, pool, "letters", scratch) for _ in range(3)]
        failing = {category: threads.submit(convert_file, pool, data, scratch) for category, data in bad.items()}
        failing[Category.TOO_LARGE] = threads.submit(convert, pool, "articles", scratch)
        for category, future in failing.items():
            error = future.exception(60)
            assert isinstance(error, ConversionError)
            assert error.failure.category is category, error
        assert [future.result()[0].whole for future in good] == [golden("letters")] * 3
        assert pool._arena is not None
        assert pool._arena.used == 0


@pytest.mark.slow
def test_fast_images_are_read_too(scratch: Path) -> None:
    """Other pixels, but the tiny checkpoint reads most of them all the same."""
    with running(scratch, "1.5", images="fast") as pool:
        result, _ = convert(pool, "letters", scratch)
    assert [page.gap for page in result.pages] == [None] * len(result.pages)
    assert "Dear captain" in result.pages[0].text
