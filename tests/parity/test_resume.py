"""Documents of the dolphin engine that go on in another life: pages that are known are not read again, the bytes are the same."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from parity import kit
from parity.test_pool import running, scratch
from tasks.engines.dolphin.pool import DolphinPool
from tasks.engines.protocol import EngineResult, FinishedPage
from tasks.engines.sandbox import Aborted

__all__ = ["scratch"]


class Kept:
    """A journal that remembers, and stops as soon as it has so many pages."""

    def __init__(self, done: dict[int, FinishedPage] | None = None, stop_at: int = 10**9) -> None:
        self.done = done or {}
        self.spent = 0.0
        self.stop_at = stop_at
        self.lock = threading.Lock()
        self.pages: dict[int, FinishedPage] = {}
        self.full = threading.Event()

    def begin(self, *, among_others: bool = False) -> None:
        assert among_others

    def finish(self, page: FinishedPage) -> None:
        with self.lock:
            assert page.number not in self.pages
            self.pages[page.number] = page
        if len(self.pages) >= self.stop_at:
            self.full.set()

    def stops(self) -> bool:
        return self.full.is_set()


def convert(
    pool: DolphinPool, document: str, folder: Path, journal: Kept, assets: Path | None = None
) -> tuple[EngineResult, list[tuple[str, str, bytes]]]:
    """The result, and its assets with what they hold."""
    copy = Path(tempfile.mkdtemp(dir=folder)) / "copy.pdf"
    shutil.copy(kit.FIXTURES / f"{document}.pdf", copy)
    assets = assets or new_assets(folder)
    result = pool.convert(copy, f"{document}.pdf", [], assets, lambda page, pages: None, journal)
    held = [(asset.path.name, asset.placeholder, asset.path.read_bytes()) for asset in result.assets]
    return result.model_copy(update={"assets": []}), held


def new_assets(folder: Path, *figures: Path) -> Path:
    assets = Path(tempfile.mkdtemp(dir=folder)) / "assets"
    assets.mkdir()
    for figure in figures:
        shutil.copy(figure, assets)
    return assets


@pytest.mark.parametrize(
    "options",
    [
        {"markdown": "upstream", "stop_loops": False, "json_output": True},
        pytest.param({"json_output": True}, marks=pytest.mark.slow),
    ],
)
def test_a_document_is_the_same_whatever_was_known_of_it(scratch: Path, options: dict[str, Any]) -> None:
    with running(scratch, "1.5", **options) as pool:
        for document in kit.DOCUMENTS:
            whole, made = Kept(), new_assets(scratch)
            expected = convert(pool, document, scratch, whole, made)
            numbers = sorted(whole.pages)
            assert numbers == list(range(1, len(expected[0].pages) + 1))
            for known in ([], numbers[:1], numbers[1:], numbers[::2], numbers):
                done = {n: FinishedPage.model_validate_json(whole.pages[n].model_dump_json()) for n in known}
                figures = [made / name for page in done.values() for name in page.files]
                rest = Kept(done)
                assert convert(pool, document, scratch, rest, new_assets(scratch, *figures)) == expected
                assert sorted(rest.pages) == [number for number in numbers if number not in known]


@pytest.mark.slow
def test_pages_whose_figures_are_lost_or_that_make_no_sense_are_read_again(scratch: Path) -> None:
    with running(scratch, "1.5", markdown="upstream", stop_loops=False) as pool:
        whole = Kept()
        expected = convert(pool, "articles", scratch, whole)
        with_figures = {number for number, page in whole.pages.items() if page.files}
        assert with_figures
        rest = Kept(dict(whole.pages))
        assert convert(pool, "articles", scratch, rest) == expected
        assert rest.pages.keys() == with_figures
        bad = {n: page.model_copy(update={"payload": "{" * (n % 2) + "}"}) for n, page in whole.pages.items()}
        bad[1] = whole.pages[2].model_copy(update={"number": 1})
        again = Kept(bad)
        assert convert(pool, "articles", scratch, again) == expected
        assert again.pages.keys() == whole.pages.keys()


@pytest.mark.slow
def test_a_stop_ends_a_document_when_the_pages_in_flight_are_done(scratch: Path) -> None:
    with running(scratch, "1.5", markdown="upstream", stop_loops=False) as pool:
        pool._room = threading.Semaphore(1)
        made = new_assets(scratch)
        expected = convert(pool, "articles", scratch, Kept())
        stopped = Kept(stop_at=1)
        with pytest.raises(Aborted):
            convert(pool, "articles", scratch, stopped, made)
        assert sorted(stopped.pages) == [1]
        figures = [made / name for page in stopped.pages.values() for name in page.files]
        rest = Kept(dict(stopped.pages))
        assert convert(pool, "articles", scratch, rest, new_assets(scratch, *figures)) == expected
        assert 1 not in rest.pages


def test_a_kill_leaves_only_what_was_read(scratch: Path) -> None:
    """No page that the kill made a gap of is taken for a page."""
    with running(scratch, "1.5", markdown="upstream", stop_loops=False) as pool:
        expected = convert(pool, "articles", scratch, whole := Kept())
        del expected
        killed = Kept(stop_at=1)
        threading.Thread(target=lambda: killed.full.wait(60) and pool.kill(), daemon=True).start()
        with pytest.raises(Aborted):
            for _ in range(50):
                convert(pool, "articles", scratch, killed)
                killed.pages.clear()
        for number, page in killed.pages.items():
            assert page.payload == whole.pages[number].payload
