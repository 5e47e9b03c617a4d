"""A sandbox, and others that help it over long documents: on its own share of the cores, and on those that lie idle.

Helpers take one page at a time, from a document's end, so they may come and go at any page. How many there are changes no byte
of the result (tasks/engines/shares.py), only when it is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.corpus.failures import ConversionError
from tasks.engines.protocol import UNKEPT, EngineResult, Journal
from tasks.engines.sandbox import Aborted, Kept, Sandbox
from tasks.engines.shares import Shares

WORTH_SECONDS: Final = 10.0
"""A document whose rest takes less gets no more helpers: one takes 3 s of a core to load its engine."""
LOOK_SECONDS: Final = 1.0
IDLE: Final = 0.8
"""Cores that must lie idle for a helper beyond the own share."""
BUSY: Final = 0.6
"""Share of a core: such a helper leaves where it gets less."""

_LEAVE_SECONDS = 2.0
"""For a helper to hear that there are no more pages; one that is still loading then is ended."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """How things are."""

    left: float | None
    """Seconds of the leader's work that helpers could take; None where nobody knows."""
    idle: float
    """Cores that did nothing since the last look."""
    memory: int
    """Bytes that are left to the crew."""
    largest: int
    """Bytes of its largest process."""
    loading: bool = False
    """A helper was called that is not at work yet: the cores are less idle than they seem."""
    starved: bool = False
    """A helper beyond the own share is kept from the cores by others."""


def wanted(seen: Seen, helpers: int, own: int, most: int) -> int:
    """How many helpers there should be from now on: as many as there are, one more, or one fewer. Pure.

    Args:
        own: how many there may be whatever else the machine does.
        most: how many there may be while cores lie idle.
    """
    if helpers and (seen.memory < 0 or (seen.starved and helpers > own)):
        return helpers - 1
    if seen.left is None or seen.left < WORTH_SECONDS or seen.memory < seen.largest:
        return helpers
    if helpers < own or (helpers < most and not seen.loading and seen.idle >= IDLE):
        return helpers + 1
    return helpers


@dataclass(frozen=True, slots=True)
class _Job:
    """The document in hand."""

    pdf: Path
    scratch: Path
    passwords: list[str]
    progress: Callable[[int, int], None] | None
    kept: Kept
    share: Shares
    begun: float


@dataclass(slots=True, eq=False)
class _Helper:
    number: int
    sandbox: Sandbox
    thread: threading.Thread | None = None
    working: bool = False
    leaving: bool = False
    cpu: float = 0.0


class Crew:
    """One sandbox to whoever uses it, by one thread; `kill` may come from any.

    Args:
        leader: opens the documents, and puts them together.
        make: another sandbox in the same folder.
        own: helpers that it may have whatever else the machine does.
        most: helpers that it may have while cores lie idle.
        idle: how many cores did nothing since it was last asked.
        free: bytes of memory that the machine has left; None where nobody knows.
        memory: bytes that all processes together may have in memory.
    """

    def __init__(
        self,
        leader: Sandbox,
        make: Callable[[], Sandbox],
        *,
        own: int,
        most: int,
        idle: Callable[[], float],
        free: Callable[[], int | None],
        memory: int,
    ) -> None:
        self._leader, self._make = leader, make
        self._own, self._most = own, max(own, most)
        self._idle, self._free, self._memory = idle, free, memory
        self._lock = threading.Lock()
        self._warm: list[Sandbox] = []
        self._helpers: list[_Helper] = []
        self._killed = False
        self._error: BaseException | None = None

    # -- as a sandbox ---------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The leader's child's process id, if there is one."""
        return self._leader.pid

    def start(self) -> None:
        """Spawn the leader's child without waiting; lifts a `kill`."""
        with self._lock:
            self._killed = False
        self._leader.start()

    def ready(self, timeout: float) -> dict[str, str]:
        """Wait for the leader's engine."""
        return self._leader.ready(timeout)

    def recycle(self) -> None:
        """Replace the children."""
        self._leader.recycle()
        for sandbox in self._take_warm():
            sandbox.close()

    def kill(self) -> None:
        """End all children now."""
        with self._lock:
            self._killed = True
            others = [helper.sandbox for helper in self._helpers] + self._warm
        self._leader.kill()
        for sandbox in others:
            sandbox.kill()

    def close(self) -> None:
        """`kill`, for good."""
        self.kill()
        self._leader.close()
        for sandbox in self._take_warm():
            sandbox.close()

    def convert(
        self,
        pdf: Path,
        scratch: Path,
        passwords: list[str],
        progress: Callable[[int, int], None] | None = None,
        journal: Journal = UNKEPT,
    ) -> EngineResult:
        """Convert a document, as a sandbox does."""
        kept = Kept(journal)
        share = Shares(kept.done.__contains__)
        job = _Job(pdf, scratch, passwords, progress, kept, share, time.monotonic())
        self._error = None
        calling = threading.Thread(target=self._call, args=(job,), name="crew", daemon=True)
        calling.start()
        patience: float | None = 0.0
        try:
            result = self._leader.convert(pdf, scratch, passwords, progress, kept, share)
            patience = _LEAVE_SECONDS
        except Aborted:
            patience = 0.0 if self._killed else None
            raise
        finally:
            share.close()
            calling.join()
            self._dismiss(patience)
        if self._error is not None:
            raise self._error
        return result

    # -- helpers --------------------------------------------------------------------------------------------------

    def _call(self, job: _Job) -> None:
        """Look again and again how many helpers there should be."""
        share, number, looked = job.share, 0, time.monotonic()
        self._idle()
        while not share.wait(LOOK_SECONDS):
            since, looked = looked, time.monotonic()
            idle = self._idle()
            if not share.opened:
                continue
            with self._lock:
                here = [
                    one for one in self._helpers if not one.leaving and one.thread is not None and one.thread.is_alive()
                ]
            count = wanted(self._look(share, here, idle, looked - since), len(here), self._own, self._most)
            if count < len(here):
                here[-1].leaving = True
                share.leave(here[-1].number)
            elif count > len(here):
                number += 1
                try:
                    self._begin(_Helper(number, self._another()), job)
                except (OSError, RuntimeError) as error:  # no more processes, files or threads
                    _log.warning("no helper can be started: %s", error)
                    return

    def _look(self, share: Shares, here: list[_Helper], idle: float, seconds: float) -> Seen:
        starved, sizes = False, [usage[1]] if (usage := self._leader.usage()) is not None else []
        for place, helper in enumerate(here):
            if (usage := helper.sandbox.usage()) is None:
                continue
            used, helper.cpu = usage[0] - helper.cpu, usage[0]
            sizes.append(usage[1])
            # A child that was replaced used less than its predecessor.
            starved = starved or (place >= self._own and helper.working and 0 <= used < BUSY * seconds)
        left, free = self._memory - sum(sizes), self._free()
        return Seen(
            left=share.seconds_left(),
            idle=idle,
            memory=left if free is None else min(left, free),
            largest=max(sizes, default=0),
            loading=any(not helper.working for helper in here),
            starved=starved and idle < 1 - BUSY,
        )

    def _another(self) -> Sandbox:
        with self._lock:
            return self._warm.pop() if self._warm else self._make()

    def _begin(self, helper: _Helper, job: _Job) -> None:
        with self._lock:
            if self._killed:
                helper.sandbox.close()
                return
            helper.sandbox.start()
            helper.thread = threading.Thread(
                target=self._help, args=(helper, job), name=f"helper-{helper.number}", daemon=True
            )
            self._helpers.append(helper)
        helper.thread.start()

    def _help(self, helper: _Helper, job: _Job) -> None:
        """One helper's part in one document."""

        def begun(page: int, pages: int) -> None:
            helper.working = True
            if job.progress is not None:
                job.progress(page, pages)

        try:
            again = True
            while again:
                spent = job.kept.spent + time.monotonic() - job.begun
                again = helper.sandbox.help(
                    helper.number, job.pdf, job.scratch, job.passwords, begun, job.kept, job.share, spent
                )
        except Aborted:
            pass
        except (ConversionError, OSError) as error:
            _log.warning("a helper is given up: %s", error)
        except BaseException as error:  # noqa: BLE001 - the caller's own, of `progress` or the journal: raised where it waits
            self._error = error

    def _dismiss(self, patience: float | None) -> None:
        """The document is over. Children that always have a core are kept warm.

        Args:
            patience: seconds for a helper to end; None: as long as it takes to be done with the page in hand, which is of use.
        """
        with self._lock:
            helpers, self._helpers = self._helpers, []
        for helper in helpers:
            if helper.thread is None:
                continue
            helper.thread.join(patience)
            if helper.thread.is_alive():
                helper.sandbox.kill()
                helper.thread.join()
        with self._lock:
            for helper in helpers:
                if len(self._warm) < self._own and not self._killed:
                    self._warm.append(helper.sandbox)
                else:
                    helper.sandbox.close()

    def _take_warm(self) -> list[Sandbox]:
        with self._lock:
            warm, self._warm = self._warm, []
        return warm
