"""Supervise: launch the workers, watch them, relaunch the dead, stop when there is cause, sum up."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from tasks.corpus import paths
from tasks.corpus.audit import Reconciliation, reconcile
from tasks.corpus.failures import Category, NotFound, PdfFlowsError, StoreError
from tasks.corpus.ledger import read_ledger
from tasks.corpus.lives import Heartbeat, Observer, fence, numbers, take_number, this_life
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store
from tasks.fleet.launcher import Handle, Launcher
from tasks.fleet.supervisor import Act, Fleet, Phase, WorkerState, due, ended
from tasks.plan import existing_outputs, load_manifest
from tasks.pulse import tripped
from tasks.report import Report, RunState, judge, write_report
from tasks.scratch import scratch_folder

TICK_SECONDS = 0.25
REFUSED_SECONDS = 10.0
"""How long the parent's heartbeat may be refused (disk full, read-only) before the run is stopped."""
DRAIN_SECONDS = 45.0
"""How long drained workers may take before they are killed (their own grace is 20 s)."""

_log = logging.getLogger("pdf_flows.supervise")
Log = logging.Logger | logging.LoggerAdapter[Any]


class Progress(BaseModel):
    """What all workers' heartbeats say together."""

    assigned: dict[int, int] = {}
    processed: dict[int, int] = {}
    failed: int = 0
    pages: int = 0


class ParentLease:
    """The parent's lease and heartbeat: while it beats, workers know that they have a parent, and no other parent starts."""

    def __init__(self, runs: Store, run_id: str, flow_run_id: str | None, seconds: float) -> None:
        self._runs = runs
        prefix = paths.parents(run_id)
        self.epoch = take_number(runs, prefix, "lease.json", this_life(flow_run_id=flow_run_id))
        self.prefix = paths.parent(run_id, self.epoch)
        self._seconds = seconds
        self._state = Heartbeat()
        self._refusal: tuple[float, StoreError] | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> ParentLease:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=30)
        self._state.ended = "ended" if error is None else f"{type(error).__name__}"
        self._beat()

    def stop(self, reason: str) -> None:
        """Tell every worker to stop claiming."""
        try:
            self._runs.create(f"{self.prefix}stop.json", reason.encode())
        except StoreError as failure:
            _log.warning("%s", failure)

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self._beat()

    def refusal(self) -> str | None:
        """Why nothing can be written down any more (a full disk, a read-only output), once that lasted a while."""
        if self._refusal is None or time.monotonic() - self._refusal[0] < REFUSED_SECONDS:
            return None
        return f"{self._refusal[1].category}: {self._refusal[1]}"

    def _beat(self) -> None:
        self._state.counter += 1
        try:
            self._runs.put(f"{self.prefix}heartbeat.json", self._state.model_dump_json().encode())
        except StoreError as failure:
            if failure.category not in (Category.DISK_FULL, Category.FORBIDDEN):
                _log.warning("%s", failure)
            elif self._refusal is None:
                self._refusal = (time.monotonic(), failure)
                _log.warning("%s", failure)
        else:
            self._refusal = None


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
            for act in ended(worker, status, now):
                if act is Act.FENCE:
                    self._fence(worker.worker, f"exit status {status}")
            if worker.due >= now and worker.phase.value == Phase.WAITING and not self._fleet.stopping:
                self._log.warning(
                    "Worker %d died (exit status %d): relaunched in %.0f s", worker.worker, status, worker.due - now
                )
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
            worker.launches += 1
            worker.phase = Phase.RUNNING

    def _look(self) -> None:
        """Read all heartbeats: progress, and the breaker over all workers together."""
        for worker in self._fleet.workers:
            self._look_at(worker)
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

    def _look_at(self, worker: WorkerState) -> None:
        try:
            attempt = self._newest_life(worker.worker)
            if attempt is None:
                return
            beat = self._observer.heartbeat(paths.life(self._spec.run_id, worker.worker, attempt))
        except StoreError as failure:
            _log.warning("%s", failure)
            return
        if beat is not None:
            life, before = self._beats.get(worker.worker, (attempt, Heartbeat()))
            worker.outcomes += max(0, beat.processed - (before.processed if life == attempt else 0))
            self._beats[worker.worker] = (attempt, beat)

    def _newest_life(self, worker: int) -> int | None:
        """The newest life's number; one request a look, not a listing of all that the worker ever wrote."""
        known = self._lives[worker]
        while self._runs.head(paths.life(self._spec.run_id, worker, known + 1) + "start.json") is not None:
            known += 1
        self._lives[worker] = known
        return known if known > self._former[worker] else None

    def _fence(self, worker: int, why: str) -> None:
        try:
            for attempt in numbers(self._runs, paths.worker(self._spec.run_id, worker)):
                prefix = paths.life(self._spec.run_id, worker, attempt)
                if self._observer.over(prefix) is None or self._observer.over(prefix) == "process gone":
                    fence(self._runs, prefix, why)
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


def reconcile_run(runs: Store, output: Store, spec: RunSpec) -> Reconciliation:
    """The run's accounting, from manifest, ledger and one listing of the output."""
    import hashlib

    def content(name: str) -> str | None:
        try:
            return hashlib.sha256(output.read(name)).hexdigest()
        except NotFound:
            return None

    with scratch_folder() as folder:
        manifest = load_manifest(runs, spec, folder)
        records = read_ledger(runs, [paths.workers(spec.run_id)])
        return reconcile(manifest.rows(), records, existing_outputs(output), content)


def conclude(
    runs: Store,
    output: Store,
    spec: RunSpec,
    *,
    stopped: str | None,
    seconds: float,
    pages_before: int,
    max_failure_rate: float,
) -> tuple[Report, Reconciliation]:
    """Account for the run and write its report."""
    result = reconcile_run(runs, output, spec)
    account = result.account
    state, why = judge(account, stopped, max_failure_rate)
    pages = max(0, account.pages - pages_before)
    report = Report(
        run_id=spec.run_id,
        state=state,
        why=why,
        input=spec.identity.input,
        output=spec.identity.output,
        **account.model_dump(
            include={
                "documents",
                "converted",
                "skipped",
                "partial",
                "failed",
                "quarantined",
                "remaining",
                "recovered",
                "duplicates",
                "lost",
                "pages",
                "categories",
            }
        ),
        seconds=round(seconds, 2),
        pages_per_second=round(pages / seconds, 3) if seconds > 0 else 0.0,
        engine=spec.identity.engine,
        report=f"{runs.url.rstrip('/')}/{paths.report(spec.run_id)}",
    )
    try:
        write_report(runs, report)
    except StoreError as failure:
        # Without it the run counts as unfinished, and the next call goes on with it.
        cause = stopped or f"{failure.category}: {failure}"
        return report.model_copy(update={"state": RunState.STOPPED, "why": cause}), result
    return report, result
