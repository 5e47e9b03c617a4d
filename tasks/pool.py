"""The engine of one process: documents in, results out. One document a sandbox, or many at a time on one device."""

from __future__ import annotations

import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tasks.cores import usable_cores
from tasks.engines.protocol import EngineName, EngineResult, Limits
from tasks.engines.sandbox import Sandbox
from tasks.local_disk import local_disk


class Pool(Protocol):
    """What a worker needs of an engine."""

    @property
    def documents(self) -> int:
        """How many documents to have in flight, once ready: some more than it converts at a time, for fetching and publishing."""
        ...

    @property
    def notes(self) -> list[str]:
        """What the log should say of it, once ready."""
        ...

    def start(self) -> None:
        """Begin to load, without waiting."""
        ...

    def ready(self, timeout: float) -> dict[str, str]:
        """Wait until loaded; the engine's versions. Raises ConversionError (ENGINE) where it can't be, UsageError."""
        ...

    def convert(
        self, pdf: Path, name: str, passwords: list[str], assets: Path, on_page: Callable[[int, int], None]
    ) -> EngineResult:
        """Convert a local file, which is moved. Any thread.

        Args:
            name: the document's key.
            assets: an empty folder that no sandbox can reach, for the result's assets.
            on_page: called with (page begun or done, pages).

        Raises ConversionError, Aborted after `kill`.
        """
        ...

    def appetite(self, timeout: float) -> bool:
        """Whether another document would be begun soon; waits for it up to `timeout` seconds."""
        ...

    def kill(self) -> None:
        """Abort what is in hand."""
        ...

    def close(self) -> None:
        """End all processes."""
        ...


class SandboxPool:
    """The worker's engine slots: each a sandbox, used by one document at a time."""

    def __init__(self, make: Callable[[Path], Sandbox], slots: int, scratch: Path) -> None:
        self.documents = slots + 2
        self.notes: list[str] = []
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

    def convert(
        self, pdf: Path, name: str, passwords: list[str], assets: Path, on_page: Callable[[int, int], None]
    ) -> EngineResult:
        """Convert a document in the next free sandbox; waits for one."""
        with self.slot() as (sandbox, folder):
            with local_disk():
                mine = Path(tempfile.mkdtemp(prefix="document-", dir=folder))
            try:
                local, theirs = mine / "document.pdf", mine / "assets"
                with local_disk():
                    mine.chmod(0o755)
                    pdf.rename(local)
                    theirs.mkdir()
                begun = time.monotonic()
                result = sandbox.convert(local, theirs, passwords, on_page)
                seconds = time.monotonic() - begun
                # Copied, not moved, before the slot goes to the next document: the child may hold its files open.
                kept = []
                with local_disk():
                    for number, asset in enumerate(result.assets):
                        copy = Path(shutil.copyfile(asset.path, assets / str(number)))
                        kept.append(asset.model_copy(update={"path": copy}))
                return result.model_copy(update={"assets": kept, "seconds": seconds})
            finally:
                shutil.rmtree(mine, ignore_errors=True)

    @contextmanager
    def slot(self) -> Iterator[tuple[Sandbox, Path]]:
        """A free sandbox, and the one folder that it can read and write; waits for one."""
        free = self._free.get()
        try:
            yield free
        finally:
            self._free.put(free)

    def appetite(self, timeout: float) -> bool:
        """Always: there are not more documents than `documents`."""
        return True

    def kill(self) -> None:
        """Abort what the children are doing."""
        for sandbox in self._all:
            sandbox.kill()

    def close(self) -> None:
        """End the children."""
        for sandbox in self._all:
            sandbox.close()


def open_pool(
    engine: EngineName,
    options: dict[str, Any],
    limits: Limits,
    scratch: Path,
    *,
    slots: int,
    threads: int | None,
    recycle_after: int,
    device_slots: int | None = None,
) -> Pool:
    """The pool of an engine, not started.

    Args:
        options: the engine's, from the run's identity.
        slots: documents that are converted at a time (not dolphin).
        threads: of an engine slot; None: its share of this machine's cores.
        device_slots: sequences that the device reads at a time (dolphin); None: by its memory.
    """
    cores = usable_cores()

    def make(place: Path, within: int) -> Sandbox:
        return Sandbox(
            engine, limits, threads=within, recycle_after=recycle_after, engine_options=options, scratch=place
        )

    if engine is EngineName.DOLPHIN:
        from tasks.engines.dolphin.pool import DolphinPool
        from tasks.engines.dolphin.settings import DolphinOptions
        from tasks.weights import checkpoint_folder

        chosen = DolphinOptions.model_validate(options)
        return DolphinPool(
            chosen,
            lambda: checkpoint_folder(chosen.model, chosen.revision),
            lambda place: make(place, 1),
            scratch,
            sandboxes=max(1, min(4, cores // 2)),
            preparers=max(1, min(8, cores - 1)),
            slots=device_slots,
            threads=threads,
        )
    within = threads or max(1, cores // slots)
    return SandboxPool(lambda place: make(place, within), slots, scratch)
