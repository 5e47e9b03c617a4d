"""Supervise: launch the workers, watch them, relaunch the dead, stop when there is cause, sum up."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from tasks.corpus import paths
from tasks.corpus.failures import PdfFlowsError, StoreError
from tasks.corpus.lives import Heartbeat, Observer, fence, numbers
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store
from tasks.fleet.launcher import Handle, Launcher
from tasks.fleet.supervisor import Fleet, Phase, WorkerState, due, ended, stuck
from tasks.lease import ParentLease
from tasks.pulse import tripped

TICK_SECONDS = 0.25
DRAIN_SECONDS = 45.0
"""How long drained workers may take before they are killed (their own grace is 20 s)."""
BLIND_SECONDS = 20.0
"""After so long without a look at a worker's heartbeat its silence is counted anew: the parent may have slept, not the worker."""

_log = logging.getLogger("pdf_flows.supervise")
Log = logging.Logger | logging.LoggerAdapter[Any]


class Progress(BaseModel):
    """What all workers' heartbeats say together."""

    assigned: dict[int, int] = {}
    processed: dict[int, int] = {}
    failed: int = 0
    pages: int = 0


class Supervision:
    """One parent's watch over a run. `stop` may be called from a signal handler or another thread."""

    def __init__(
        self,
        runs: Store,
        spec: RunSpec,
        lease: ParentLease,
        launcher: Launcher,
        workers: int,
        log: Log,
        *,
        look_seconds: float,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs, self._spec, self._lease, self._launcher, self._log = runs, spec, lease, launcher, log
        self._look_seconds = look_seconds
        self._on_progress = on_progress
        self._clock = clock
        self._fleet = Fleet([WorkerState(k) for k in range(workers)])
        self._handles: dict[int, Handle] = {}
        self._beats: dict[int, tuple[int, Heartbeat]] = {}
        self._lives: dict[int, int] = {}
        for worker in range(workers):
            self._lives[worker] = max(numbers(runs, paths.worker(spec.run_id, worker)), default=-1)
        self._former = dict(self._lives)
        """The newest lives of an earlier start: what they said last (a breaker that tripped) is no news of this one."""
        self._observer = Observer(runs, clock)
        self._launched: dict[int, tuple[int, float]] = {}
        """For each worker that runs: its newest life before the launch, and when its process was first seen to run."""
        self._looked = clock()
        self._reason: str | None = None
        self._stop_by: float | None = None

    def stop(self, reason: str) -> None:
        """Stop claiming; what is in hand may end."""
        if self._reason is None:
            self._reason = reason

    def kill(self) -> None:
        """End all workers now."""
        for handle in self._handles.values():
            handle.kill()

    def run(self) -> str | None:
        """Until nobody runs and nobody will. Returns why the run was stopped, None if it wasn't.

        An exception from a signal may interrupt it; call `stop`, then `run` again.
        """
        last_look = 0.0
        while True:
            self._step()
            if self._fleet.over:
                break
            if self._clock() - last_look >= self._look_seconds:
                last_look = self._clock()
                self._look()
            time.sleep(TICK_SECONDS)
        self._look()
        given_up = [w.worker for w in self._fleet.workers if w.phase is Phase.GIVEN_UP]
        if self._reason is None and given_up:
            self._reason = f"worker {given_up[0]} died again and again without progress: {self._cause(given_up[0])}"
        return self._reason

    def _step(self) -> None:
        now = self._clock()
        self._launcher.poll()
        for worker in self._fleet.workers:
            if worker.phase is not Phase.RUNNING:
                continue
            status = self._handles[worker.worker].poll()
            if status is None:
                continue
            del self._handles[worker.worker]
            self._look_at(worker)
            if ended(worker, status, now):
                self._bury(worker, status, now)
        if (refusal := self._lease.refusal()) is not None:
            self.stop(refusal)
        if self._reason is not None and not self._fleet.stopping:
            self._fleet.stopping = True
            self._stop_by = now + DRAIN_SECONDS
            self._log.warning("Stopping: %s", self._reason)
            self._lease.stop(self._reason)
            for handle in self._handles.values():
                handle.drain()
        if self._stop_by is not None and now >= self._stop_by:
            for handle in list(self._handles.values()):
                handle.kill()
        for worker in due(self._fleet, now):
            self._handles[worker.worker] = self._launcher.launch(worker.worker, worker.launches)
            self._launched[worker.worker] = (self._lives[worker.worker], now)
            worker.launches += 1
            worker.phase = Phase.RUNNING

    def _look(self) -> None:
        """Read all heartbeats: progress, who is stuck, and the breaker over all workers together."""
        now = self._clock()
        if now - self._looked >= max(BLIND_SECONDS, 4 * self._look_seconds):
            self._observer.forget()
        self._looked = now
        for worker in self._fleet.workers:
            if self._look_at(worker):
                self._end_if_stuck(worker)
        newest = {k: beat for k, (_, beat) in self._beats.items()}
        beats = newest.values()
        self._on_progress(
            Progress(
                assigned={k: beat.assigned for k, beat in newest.items()},
                processed={k: beat.processed for k, beat in newest.items()},
                failed=sum(beat.failed for beat in beats),
                pages=sum(beat.pages for beat in beats),
            )
        )
        categories = {beat.streak_category for beat in beats if beat.processed}
        if len(categories) == 1:
            (category,) = categories
            processed, streak = sum(beat.processed for beat in beats), sum(beat.streak for beat in beats)
            if tripped(processed, streak, category):
                message = next(beat.streak_message for beat in beats if beat.processed)
                self.stop(f"breaker: {category}: {message} ({streak} documents in a row)")
        for beat in beats:
            if beat.ended is not None and beat.ended.startswith("breaker"):
                self.stop(beat.ended)

    def _look_at(self, worker: WorkerState) -> bool:
        """Read one worker's heartbeat; False where the store did not answer."""
        try:
            attempt = self._newest_life(worker.worker)
            if attempt is None:
                return True
            beat = self._observer.heartbeat(paths.life(self._spec.run_id, worker.worker, attempt))
        except StoreError as failure:
            _log.warning("%s", failure)
            self._observer.forget()
            return False
        if beat is not None:
            life, before = self._beats.get(worker.worker, (attempt, Heartbeat()))
            worker.outcomes += max(0, beat.processed - (before.processed if life == attempt else 0))
            self._beats[worker.worker] = (attempt, beat)
        return True

    def _end_if_stuck(self, worker: WorkerState) -> None:
        """A life that beats no more (frozen, its host lost) would hold its documents for ever: its successor gets them."""
        handle = self._handles.get(worker.worker)
        if handle is None:
            return
        now = self._clock()
        before, since = self._launched[worker.worker]
        life = self._lives[worker.worker]
        beat = None
        if life > before:
            seen = self._beats.get(worker.worker)
            beat = seen[1] if seen is not None and seen[0] == life else None
            still = self._observer.stood(paths.life(self._spec.run_id, worker.worker, life), beat)
        elif handle.begun:
            still = now - since
        else:
            self._launched[worker.worker] = (before, now)
            return
        over = beat is not None and beat.ended is not None
        if not stuck(still=still, beaten=beat is not None, over=over):
            return
        self._log.warning("Worker %d has not been heard of for %.0f s: it is ended", worker.worker, still)
        status = 0 if over else -signal.SIGKILL
        if status:
            # Before the kill: where that takes its time, the life may not publish meanwhile.
            self._fence(worker.worker, f"not heard of for {still:.0f} s")
        handle.kill()
        del self._handles[worker.worker]
        if ended(worker, status, now):
            self._bury(worker, status, now)

    def _newest_life(self, worker: int) -> int | None:
        """The newest life's number; one request a look, not a listing of all that the worker ever wrote."""
        known = self._lives[worker]
        while self._runs.head(paths.life(self._spec.run_id, worker, known + 1) + "start.json") is not None:
            known += 1
        self._lives[worker] = known
        return known if known > self._former[worker] else None

    def _bury(self, worker: WorkerState, status: int, now: float) -> None:
        """Fence a life that died: its successor takes over at once what it held."""
        self._fence(worker.worker, f"exit status {status}")
        if worker.phase is Phase.WAITING and not self._fleet.stopping:
            wait = max(0.0, worker.due - now)
            self._log.warning("Worker %d died (exit status %d): relaunched in %.0f s", worker.worker, status, wait)

    def _fence(self, worker: int, why: str) -> None:
        try:
            attempt = self._newest_life(worker)
            if attempt is not None:
                fence(self._runs, paths.life(self._spec.run_id, worker, attempt), why)
        except StoreError as failure:
            _log.warning("%s", failure)

    def _cause(self, worker: int) -> str:
        try:
            self._runs.probe()
        except PdfFlowsError as failure:
            return str(failure)
        return f"see the log of worker {worker}"


def end_former_lives(runs: Store, run_id: str) -> int:
    """Fence all lives that an earlier parent of the run left; end those that are processes of this host."""
    observer = Observer(runs, time.monotonic)
    count = 0
    for worker in numbers(runs, paths.workers(run_id)):
        for attempt in numbers(runs, paths.worker(run_id, worker)):
            prefix = paths.life(run_id, worker, attempt)
            verdict = observer.over(prefix)
            if verdict is not None and verdict != "process gone":
                continue
            count += 1
            fence(runs, prefix, "another parent took the run over")
            life = observer.life(prefix)
            if verdict is None and life is not None and life.process.here() and not life.process.gone():
                os.kill(life.process.pid, signal.SIGKILL)
    return count
