"""SIGTERM for a worker within a flow run: tasks/convert.py."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tasks.convert import drained_by_sigterm


class Prefects(BaseException):
    """What Prefect's handler raises in the midst of anything."""


class Life:
    """A worker that ends when it is told to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.over = threading.Event()

    def drain(self, why: str) -> None:
        self.told.append(why)
        self.over.set()


@pytest.fixture(autouse=True)
def _prefects_handler() -> Iterator[None]:
    def handle(number: int, frame: Any) -> None:
        raise Prefects

    former = signal.signal(signal.SIGTERM, handle)
    yield
    signal.signal(signal.SIGTERM, former)


def live(*, in_flow_run: bool) -> Life:
    life = Life()
    with drained_by_sigterm(cast(Any, life), in_flow_run=in_flow_run):
        os.kill(os.getpid(), signal.SIGTERM)
        assert life.over.wait(10)
    return life


def test_a_second_one_behind_the_workers_end_does_not_crash_its_flow_run() -> None:
    assert live(in_flow_run=True).told == ["terminated"]
    # The host's watcher was first, ECS is second; the flow run's state is on its way.
    os.kill(os.getpid(), signal.SIGTERM)


def test_outside_of_a_flow_run_the_former_handler_is_back() -> None:
    live(in_flow_run=False)
    with pytest.raises(Prefects):
        os.kill(os.getpid(), signal.SIGTERM)
