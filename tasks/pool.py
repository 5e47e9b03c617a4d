"""The engine slots of one process: sandboxes, each used by one document at a time."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.engines.sandbox import Sandbox


class SandboxPool:
    """The worker's engine slots: each a sandbox, used by one document at a time."""

    def __init__(self, make: Callable[[Path], Sandbox], slots: int, scratch: Path) -> None:
        self._all: list[Sandbox] = []
        self._free: queue.SimpleQueue[tuple[Sandbox, Path]] = queue.SimpleQueue()
        for slot in range(slots):
            folder = scratch / f"slot-{slot}"
            folder.mkdir()
            sandbox = make(folder)
            self._all.append(sandbox)
            self._free.put((sandbox, folder))

    def start(self) -> None:
        """Spawn and warm all children without waiting."""
        for sandbox in self._all:
            sandbox.start()

    def ready(self, timeout: float) -> dict[str, str]:
        """Wait for the children; the engine's versions. Raises ConversionError(ENGINE) where the engine can't load."""
        versions: dict[str, str] = {}
        for sandbox in self._all:
            versions = sandbox.ready(timeout)
        return versions

    @contextmanager
    def slot(self) -> Iterator[tuple[Sandbox, Path]]:
        """A free sandbox, and the one folder that it can read and write; waits for one."""
        free = self._free.get()
        try:
            yield free
        finally:
            self._free.put(free)

    def kill(self) -> None:
        """Abort what the children are doing."""
        for sandbox in self._all:
            sandbox.kill()

    def close(self) -> None:
        """End the children."""
        for sandbox in self._all:
            sandbox.close()
