"""A signal that another thread takes wakes the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from tasks.waking import WAKE, waking_main

PATIENCE_SECONDS = 10.0


@pytest.fixture
def former() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR1, WAKE)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("former")
def test_a_signal_that_another_thread_takes_interrupts_an_untimed_wait() -> None:
    held, said = threading.Lock(), list[str]()

    def release(who: str) -> None:
        said.append(who)
        if held.locked():
            held.release()

    def handle(number: int, frame: FrameType | None) -> None:
        release("handler")

    signal.signal(signal.SIGUSR1, handle)
    held.acquire()
    late = threading.Timer(PATIENCE_SECONDS, release, ["nobody told the main thread"])
    late.start()
    other = threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    with waking_main():
        other.start()
        held.acquire()
    late.cancel()
    assert said == ["handler"]


@pytest.mark.usefixtures("former")
def test_it_leaves_everything_as_it_was() -> None:
    def mine(number: int, frame: FrameType | None) -> None: ...

    signal.signal(WAKE, mine)
    before = signal.set_wakeup_fd(-1)
    try:
        with waking_main():
            assert "wake" in [thread.name for thread in threading.enumerate()]
        assert "wake" not in [thread.name for thread in threading.enumerate()]
        assert signal.getsignal(WAKE) is mine
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.set_wakeup_fd(before)


@pytest.mark.usefixtures("former")
def test_what_a_handler_raises_comes_out_of_the_wait() -> None:
    class Told(Exception):
        """By the handler."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Told

    signal.signal(signal.SIGUSR1, handle)
    never = threading.Lock()
    never.acquire()
    other = threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    with pytest.raises(Told), waking_main():
        other.start()
        never.acquire(timeout=PATIENCE_SECONDS)
