"""The pool of sandboxes: one document a sandbox, one more that waits, and no more than that are asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.engines.protocol import EngineResult, Page
from tasks.pool import SandboxPool


class Held:
    """A sandbox that converts when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.recycled = 0

    def start(self) -> None: ...

    def recycle(self) -> None:
        self.recycled += 1

    def convert(self, *_: Any) -> EngineResult:
        assert self.go.acquire(timeout=30)
        return EngineResult(pages=[Page(number=1, text="")])

    def kill(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_no_more_is_claimed_than_is_wanted_soon(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    made: list[Held] = []

    def make(folder: Path) -> Any:
        made.append(Held())
        return made[-1]

    pool = SandboxPool(make, 1, tmp_path)

    def convert(number: int) -> EngineResult:
        pdf, assets = tmp_path / f"{number}.pdf", tmp_path / f"assets-{number}"
        pdf.write_bytes(b"x")
        assets.mkdir()
        return pool.convert(pdf, pdf.name, [], assets, lambda page, pages: None)

    assert pool.appetite(0)
    first = threads.submit(convert, 1)
    assert pool.appetite(5)
    second = threads.submit(convert, 2)
    # One is converted, one waits: a third would be kept from other workers.
    for _ in range(100):
        if not pool.appetite(0):
            break
        threading.Event().wait(0.05)
    assert not pool.appetite(0.2)
    made[0].go.release()
    assert pool.appetite(10)
    made[0].go.release()
    assert len(first.result(30).pages) == len(second.result(30).pages) == 1
    pool.refresh()
    assert made[0].recycled == 1
