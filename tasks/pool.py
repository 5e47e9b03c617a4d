"""The engine of one process: documents in, results out. One document a sandbox, or many at a time on one device."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tasks.cores import IdleCores, free_memory, usable_cores
from tasks.engines.crew import Crew
from tasks.engines.protocol import UNKEPT, EngineName, EngineResult, Journal, Limits
from tasks.engines.sandbox import Aborted, Sandbox
from tasks.local_disk import local_disk


class Pool(Protocol):
    """What a worker needs of an engine."""

    @property
    def documents(self) -> int:
        """How many documents to have in flight, once ready: some more than it converts at a time, for fetching and publishing."""
        ...

    @property
    def in_hand(self) -> int:
        """How many to have claimed just now: fewer where each takes long, since others could begin them sooner."""
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
        self,
        pdf: Path,
        name: str,
        passwords: list[str],
        assets: Path,
        on_page: Callable[[int, int], None],
        journal: Journal = UNKEPT,
    ) -> EngineResult:
        """Convert a local file, which is moved. Any thread.

        Args:
            name: the document's key.
            assets: a folder that no sandbox can reach, for the result's assets; the files of pages that are done lie in it.
            on_page: called with (page begun or done, pages).
            journal: gets the pages as they are done, and has those that need not be converted again.

        Raises ConversionError, Aborted after `kill` or where the journal stops.
        """
        ...

    def appetite(self, timeout: float) -> bool:
        """Whether another document would be begun soon; waits for it up to `timeout` seconds."""
        ...

    def refresh(self) -> None:
        """Have the next document converted in a fresh process; only while none is in hand."""
        ...

    def kill(self) -> None:
        """Abort what is in hand."""
        ...

    def close(self) -> None:
        """End all processes."""
        ...


QUICK_SECONDS = 10.0
"""Documents that take longer are not claimed ahead: fetching one in between costs less than keeping it from an idle worker."""


class SandboxPool:
    """The worker's engine slots: each a sandbox, used by one document at a time.

    Args:
        make: a sandbox for a folder.
        helped: the crew of a sandbox and its folder; None: none has helpers.
    """

    def __init__(
        self,
        make: Callable[[Path], Sandbox],
        slots: int,
        scratch: Path,
        helped: Callable[[Sandbox, Path], Crew] | None = None,
    ) -> None:
        self.documents = slots + 2
        self._quick = False
        """The last document took little time: the next ones may be fetched meanwhile."""
        self.notes: list[str] = []
        self._all: list[Sandbox | Crew] = []
        self._crews: dict[Sandbox, Crew] = {}
        self._moved = threading.Condition()
        self._inside = 0
        self._free: queue.SimpleQueue[tuple[Sandbox, Path]] = queue.SimpleQueue()
        for slot in range(slots):
            folder = scratch / f"slot-{slot}"
            folder.mkdir()
            sandbox = make(folder)
            if helped is not None:
                self._crews[sandbox] = helped(sandbox, folder)
            self._all.append(self._crews.get(sandbox, sandbox))
            self._free.put((sandbox, folder))

    @property
    def in_hand(self) -> int:
        """One for each sandbox; two more while they take no longer than fetching and publishing is worth."""
        return self.documents if self._quick else len(self._all)

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
        self,
        pdf: Path,
        name: str,
        passwords: list[str],
        assets: Path,
        on_page: Callable[[int, int], None],
        journal: Journal = UNKEPT,
    ) -> EngineResult:
        """Convert a document in the next free sandbox; waits for one."""
        with self._entered(), self.slot() as (sandbox, folder):
            if journal.stops():
                raise Aborted("stopped before the first page")
            with local_disk():
                mine = Path(tempfile.mkdtemp(prefix="document-", dir=folder))
            try:
                local, theirs = mine / "document.pdf", mine / "assets"
                with local_disk():
                    mine.chmod(0o755)
                    pdf.rename(local)
                    theirs.mkdir()
                begun = time.monotonic()
                journal.begin()
                result = self._crews.get(sandbox, sandbox).convert(local, theirs, passwords, on_page, journal)
                seconds = time.monotonic() - begun
                self._quick = seconds < QUICK_SECONDS
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

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self._moved:
            self._inside += 1
        try:
            yield
        finally:
            with self._moved:
                self._inside -= 1
                self._moved.notify_all()

    def appetite(self, timeout: float) -> bool:
        """Whether another document would be begun soon: one for each sandbox, and one that waits for the next free one."""
        with self._moved:
            return self._moved.wait_for(lambda: self._inside <= len(self._all), timeout)

    def refresh(self) -> None:
        """Replace the children, which may have been harmed by what they did before."""
        for sandbox in self._all:
            sandbox.recycle()

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
    idle: bool = True,
) -> Pool:
    """The pool of an engine, not started.

    Args:
        options: the engine's, from the run's identity.
        slots: documents that are converted at a time (not dolphin).
        threads: of an engine slot; None: its share of this machine's cores.
        device_slots: sequences that the device reads at a time (dolphin); None: by its memory.
        idle: long documents may use cores beyond that share while they lie idle (not dolphin).
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

    def helped(sandbox: Sandbox, place: Path) -> Crew:
        return Crew(
            sandbox,
            lambda: make(place, 1),
            own=within - 1,
            most=cores - 1 if idle else 0,
            idle=IdleCores(),
            free=free_memory,
            memory=limits.memory_mb << 20,
        )

    return SandboxPool(lambda place: make(place, within), slots, scratch, helped)
