"""Signals that wake the main thread, whichever thread the kernel gives them to.

A handler of Python's runs in the main thread. The kernel prefers that thread, but gives the signal to another one while the
main thread has other signals to see to: when a stopped process group was just resumed, for one. Then the signal is only noted,
and a main thread that waits for a lock hears of it when that wait is over: a worker went on as long as its document took.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WAKE = signal.SIGURG
"""Ignored by whoever has no handler for it, and sent by nobody here."""


@contextmanager
def waking_main() -> Iterator[None]:
    """While it lasts, a signal that has a handler interrupts what the main thread waits for. To be entered in that thread."""
    main = threading.main_thread().ident
    assert main is not None
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def wake() -> None:
        # The kernel's side of every handler writes the signal's number, in whichever thread it runs.
        while numbers := os.read(heard, 64):
            if numbers.strip(bytes([WAKE])):
                signal.pthread_kill(main, WAKE)

    former = signal.signal(WAKE, lambda number, frame: None)
    former_fd = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    thread = threading.Thread(target=wake, name="wake", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former_fd)
        signal.signal(WAKE, former)
        os.close(told)
        thread.join()
        os.close(heard)
