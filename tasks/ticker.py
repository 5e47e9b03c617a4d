"""A step that is done again and again in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls `step` every `seconds` from `start` to `stop`. The step handles its own errors."""

    def __init__(self, name: str, seconds: float, step: Callable[[], object]) -> None:
        self._seconds = seconds
        self._step = step
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """The first step comes after `seconds`."""
        self._thread.start()

    def stop(self, patience: float = 30.0) -> None:
        """No further step; waits for one under way."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout=patience)

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self._step()
