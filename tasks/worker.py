"""One worker's life: take an attempt's number, claim, convert, record, steal, end. No prefect here."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.candidates import Candidates
from tasks.corpus import names, paths
from tasks.corpus.claims import SUSPECT_DEATHS, Claim, Claims, Holder, Suspicion
from tasks.corpus.failure_file import FailureFile
from tasks.corpus.failures import Category, Failure, Fenced, PdfFlowsError, Phase, UsageError
from tasks.corpus.ledger import Counts, LedgerWriter, Outcome, Record
from tasks.corpus.lives import Stage, take_number, take_this, this_life
from tasks.corpus.manifest import Manifest, Row
from tasks.corpus.runs import RunSpec, read_run
from tasks.corpus.store import open_store
from tasks.document import DocumentConverter, Life
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.fingerprint import engine_fingerprint
from tasks.fleet.imds import Imds
from tasks.fleet.machine import Machine, this_machine
from tasks.fleet.notice import Notice, NoticeKind, NoticeWatch, notice_file
from tasks.patience import patient
from tasks.pool import Pool, open_pool
from tasks.pulse import PARENT_PATIENCE_SECONDS, Pulse
from tasks.scratch import scratch_folder
from tasks.words import COMPLETE, FAULT

SHOWN_WARNINGS = 3
"""Of a document's, in the log; the ledger has twenty."""
PROGRESS_EVERY = 50
PROGRESS_SECONDS = 60.0
READY_SECONDS = 180.0
GRACE_SECONDS = 20.0
"""How long what is in hand may take when a worker is told to stop: less than the 30 s that Prefect leaves it after SIGTERM."""
NOTICE_SECONDS = 75.0
"""The same after a Spot notice: the machine goes two minutes after it, and the worker has to be out after 90 s."""
LAST_SECONDS = 30.0
"""Of a notice's time, kept for giving back, flushing and ending."""
ROOM_SECONDS = 0.1
"""How often a life whose hands are full looks whether it may claim another document."""
LONG_SECONDS = 120.0
"""Longer documents are not begun after a rebalance recommendation: a notice may follow, and leaves as long."""

Log = logging.Logger | logging.LoggerAdapter[Any]
Around = Callable[[Row, Callable[[], Record]], Record]
"""Runs one document's conversion, e.g. within a Prefect task run, and returns its record."""


class WorkerSettings(BaseModel):
    """What a life needs to know beyond run.json."""

    model_config = ConfigDict(frozen=True)

    runs: str
    run_id: str
    worker: int
    workers: int
    epoch: int = 0
    retries: int = 2
    retry_failed: bool = False
    steal: bool = True
    slots: int = 1
    threads: int | None = None
    """Of an engine slot; None: its share of this machine's cores."""
    recycle_after: int = 50
    device_slots: int | None = None
    """Sequences that the dolphin engine reads at a time; None: by the device's memory."""
    engine_options: dict[str, Any] = {}
    """Over those of the run's identity; for tests."""
    beat_seconds: float = 15.0
    launch: int | None = None
    """Which launch of this worker it is."""
    attempt: int | None = None
    """The number that it must have: all lives before it are over. None: the next one that is free."""
    budgeted: bool = False
    """Claim only while the parent's spend record advances."""
    parent_patience: float = PARENT_PATIENCE_SECONDS
    """Seconds without a heartbeat of the parent after which the life drains."""
    sample: list[int] = []
    """Documents to begin with: the canary's."""


class Summary(Counts):
    """A life's end."""

    worker: int
    attempt: int
    stopped: str | None = None
    """Why it stopped before its work was done."""


class Worker:
    """One life. `run` does it all; `drain` may be called from anywhere, any number of times."""

    def __init__(
        self,
        settings: WorkerSettings,
        log: Log,
        *,
        passwords: list[str] | None = None,
        around: Around = lambda row, work: work(),
        flow_run_id: str | None = None,
        on_failure: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._around = around
        self._on_failure = on_failure
        self._passwords = passwords or []
        self._flow_run_id = flow_run_id
        self._stopping: str | None = None
        self._killing = threading.Event()
        self._finished = threading.Event()
        self._kill_at = float("inf")
        self._rebalance = False
        self._claimed = 0
        """Documents that are claimed and not done."""
        self._stage: Callable[[Stage, str], None] = lambda stage, why: None
        # Reentrant: a signal handler may call `drain` while its own thread holds it.
        self._lock = threading.RLock()
        self._pool: Pool | None = None
        self._converter: DocumentConverter | None = None
        self._error: BaseException | None = None

    # -- the life -------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        """The whole life; returns also when drained.

        Raises ConversionError (engine can't load), StoreError, Fenced, NumberTaken (only where it must have a number).
        """
        settings = self._settings
        runs = open_store(settings.runs, writable=True)
        spec = patient()(read_run, runs, settings.run_id)
        identity = spec.identity
        source, output = open_store(identity.input), open_store(identity.output, writable=True)
        self._source, self._output, self._runs = source, output, runs
        limits = Limits.model_validate(identity.limits)
        with scratch_folder() as scratch:
            scratch.chmod(0o755)
            pool = open_pool(
                EngineName(identity.engine),
                identity.engine_options | settings.engine_options,
                limits,
                scratch,
                slots=settings.slots,
                threads=settings.threads,
                recycle_after=settings.recycle_after,
                device_slots=settings.device_slots,
            )
            self._pool = pool
            pool.start()
            try:
                prefix = paths.worker(settings.run_id, settings.worker)
                machine = self._machine(imds := Imds.from_env(os.environ))
                start = this_life(
                    settings.epoch, self._flow_run_id, launch=settings.launch, machine=machine.model_dump(mode="json")
                )
                if settings.attempt is None:
                    attempt = patient()(take_number, runs, prefix, "start.json", start)
                else:
                    attempt = patient()(take_this, runs, prefix, settings.attempt, "start.json", start)
                life = Life(settings.run_id, settings.worker, attempt, settings.epoch, identity.engine)
                own = paths.life(settings.run_id, settings.worker, attempt)
                ledger = LedgerWriter(runs, own)
                me = Holder(worker=settings.worker, attempt=attempt)
                claims = Claims(runs, settings.run_id, me)
                failures = FailureFile(runs, settings.run_id, settings.worker, identity.output)
                patient()(failures.load)
                pulse = Pulse(
                    runs,
                    settings.run_id,
                    settings.worker,
                    attempt,
                    settings.epoch,
                    ledger,
                    failures,
                    self._told_to_stop,
                    settings.beat_seconds,
                    budgeted=settings.budgeted,
                    parent_patience=settings.parent_patience,
                )
                self._pulse, self._claims, self._me, self._life = pulse, claims, me, life
                self._ledger, self._stage = ledger, pulse.stage
                with pulse, self._noticing(imds):
                    # From here on it beats: loading a large manifest or a slow engine must not look like a frozen worker.
                    manifest = Manifest(scratch / "manifest")
                    patient()(runs.fetch, spec.manifest, manifest.path)
                    self._candidates = Candidates(
                        runs,
                        spec,
                        manifest,
                        scratch,
                        claims,
                        me,
                        workers=settings.workers,
                        epoch=settings.epoch,
                        retry_failed=settings.retry_failed,
                        patient=patient,
                        sample=settings.sample,
                        parent=lambda: pulse.epoch,
                    )
                    pulse.assign(self._candidates.assigned)
                    self._log.info(
                        "[Worker %d] Starting processing: %d PDFs assigned", settings.worker, self._candidates.assigned
                    )
                    versions = self._ready(pool)
                    try:
                        if versions is not None:
                            self._begin(pool, versions, spec, scratch)
                            self._work()
                    finally:
                        summary = self._finish(ledger)
                return summary
            finally:
                self._finished.set()
                pool.close()

    def _begin(self, pool: Pool, versions: dict[str, str], spec: RunSpec, scratch: Path) -> None:
        """The engine is there: what takes documents through it."""
        settings, identity = self._settings, spec.identity
        for note in pool.notes:
            self._log.info("[Worker %d] %s", settings.worker, note)
        self._converter = DocumentConverter(
            life=self._life,
            source=self._source,
            output=self._output,
            runs=self._runs,
            claims=self._claims,
            ledger=self._ledger,
            pool=pool,
            limits=Limits.model_validate(identity.limits),
            rendering=Rendering.model_validate(identity.rendering),
            passwords=self._passwords,
            retries=settings.retries,
            retry_failed=settings.retry_failed,
            versions=lambda: versions,
            scratch=scratch,
            check_life=self._check_life,
            on_page=lambda row, page, pages: self._pulse.page(page),
            patient=patient,
            fingerprint=engine_fingerprint(
                EngineName(identity.engine),
                versions,
                identity.engine_options | settings.engine_options,
                Limits.model_validate(identity.limits),
            ),
        )
        self._stage(Stage.WORKING, "")
        self._begun = self._said_at = time.monotonic()
        self._said = 0

    def _ready(self, pool: Pool) -> dict[str, str] | None:
        """Wait for the engine; None where the life has to end before it is there.

        One that cannot be loaded is this life's last word: nobody need try it again and again.
        """
        try:
            return pool.ready(READY_SECONDS)
        except PdfFlowsError as error:
            if self._stopping is not None:
                return None
            self._pulse.close(f"{FAULT}{error}")
            raise

    def drain(self, reason: str, grace: float = GRACE_SECONDS) -> None:
        """Stop claiming; what is in hand may end within `grace` seconds, the rest stops at a page's end and is given back.

        Told again, the shorter time counts.
        """
        with self._lock:
            at = time.monotonic() + grace
            first = self._stopping is None
            if not first and at >= self._kill_at:
                return
            self._kill_at = at
            self._stopping = self._stopping or reason
        if self._converter is not None:
            self._converter.drain(grace)
        if not first:
            return
        self._stage(Stage.DRAINING, reason)
        self._log.warning("[Worker %d] Stopping: %s", self._settings.worker, reason)

        def kill() -> None:
            # Nothing is in hand before the engine is there.
            while self._converter is not None and (left := self._kill_at - time.monotonic()) > 0:
                if self._finished.wait(min(left, 0.5)):
                    return
            self._killing.set()
            if self._pool is not None:
                self._pool.kill()

        threading.Thread(target=kill, name="drain", daemon=True).start()

    def _told_to_stop(self, reason: str) -> None:
        """By the parent, by the breaker, or by a fence: a fenced life must not publish, so it need not finish anything."""
        self.drain(reason, 0.0 if reason.startswith("fenced") else GRACE_SECONDS)

    def _machine(self, imds: Imds) -> Machine:
        try:
            return this_machine(imds)
        except ValueError as error:
            raise UsageError(str(error)) from error

    @contextmanager
    def _noticing(self, imds: Imds) -> Iterator[None]:
        """Hear of it when this machine is taken away."""
        watch = NoticeWatch(self._noticed, file=notice_file(), imds=imds)
        watch.start()
        try:
            yield
        finally:
            watch.stop()

    def _noticed(self, notice: Notice) -> None:
        """The machine will go, or may."""
        if notice.kind is NoticeKind.REBALANCE:
            self._log.warning("[Worker %d] Rebalance recommendation: no long documents from now on", self._me.worker)
            self._rebalance = True
            return
        seconds = NOTICE_SECONDS if notice.seconds is None else notice.seconds - LAST_SECONDS
        self.drain("notice: the machine is taken away", max(0.0, min(NOTICE_SECONDS, seconds)))

    # -- work -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Own partitions first, then others' far ends; a few documents in flight so that fetching and publishing overlap."""
        assert self._pool is not None
        in_flight = self._pool.documents
        room = threading.Semaphore(in_flight)
        with ThreadPoolExecutor(in_flight, thread_name_prefix="document") as pool:
            for row, n in self._next(self._candidates):
                room.acquire()
                self._wait_until_wanted()
                if self._stopping is not None:
                    break
                if self._candidates.too_heavy(row.index):  # a rebalance recommendation came while it waited for room
                    room.release()
                    continue
                suspicion = Suspicion()
                if n >= SUSPECT_DEATHS:
                    suspicion = patient()(self._claims.suspicion, self._candidates.partition(row.index), row.index, n)
                others = in_flight - 1 if suspicion.suspect else 0
                for _ in range(others):  # it runs alone: whoever dies with it says what killed it
                    room.acquire()
                claim = self._claim(row, n, alone=suspicion.suspect)
                if claim is not None:
                    if suspicion.suspect:
                        self._pool.refresh()
                    # Alone to its end: the next document waits for the room that it gives back.
                    places = 1 + others
                    self._count_claimed(1)
                    future = pool.submit(self._one, row, claim, suspicion)
                    future.add_done_callback(lambda done, places=places: self._after(done, room, places))
                else:
                    room.release(1 + others)
        if self._error is not None:
            raise self._error

    def _after(self, done: Future[None], room: threading.Semaphore, places: int) -> None:
        self._count_claimed(-1)
        error = done.exception()
        if error is not None and self._error is None:
            self._error = error
            self.drain(f"{type(error).__name__}: {error}")
        room.release(places)

    def _count_claimed(self, change: int) -> None:
        with self._lock:
            self._claimed += change

    def _claim(self, row: Row, n: int, *, alone: bool) -> Claim | None:
        """Take the document, if no other life was faster."""
        candidates = self._candidates
        claim = patient()(partial(self._claims.take, candidates.partition(row.index), row.index, n, alone=alone))
        candidates.took(row.index, n, claim is not None)
        self._pulse.assign(candidates.assigned)
        self._pulse.sample(candidates.sample_left)
        return claim

    def _wait_until_wanted(self) -> None:
        """What is claimed before the engine wants it is kept from other workers; and nothing is claimed that may not be paid."""
        while self._stopping is None and self._pool is not None:
            if not self._pulse.may_claim():
                self._finished.wait(1.0)
            elif self._claimed >= self._pool.in_hand:
                self._finished.wait(ROOM_SECONDS)
            elif self._pool.appetite(1.0):
                break
        if self._rebalance:
            counts = self._pulse.progress
            if counts.weight and counts.working_seconds > 0:
                self._candidates.heaviest = int(counts.weight / counts.working_seconds * LONG_SECONDS)

    def _next(self, candidates: Candidates) -> Iterator[tuple[Row, int]]:
        yield from candidates.own()
        found = self._settings.steal
        while found and self._stopping is None:
            found = False
            for candidate in candidates.far_ends():
                found = True
                yield candidate

    def _one(self, row: Row, claim: Claim, suspicion: Suspicion) -> None:
        converter = self._converter
        if converter is None or self._killing.is_set():
            patient()(self._claims.release, claim)
            return
        self._pulse.begin(names.printable(row.key))
        try:
            record = (
                converter.settle(row, claim)
                or (self._quarantined(row, claim, suspicion) if suspicion.alone else None)
                or self._around(row, lambda: converter.convert(row, claim))
            )
        finally:
            self._pulse.end(names.printable(row.key))
        if record.outcome.final:
            self._candidates.finish(row.index)
            self._pulse.sample(self._candidates.sample_left)
        if (record.worker, record.attempt) == (self._me.worker, self._me.attempt):
            self._pulse.outcome(record, self._candidates.weight(row.index), row.index in self._settings.sample)
            self._tell(row, record)
        else:
            # A former holder's own record: that life counted it, and said so.
            self._candidates.reassign(row.index, False)

    def _quarantined(self, row: Row, claim: Claim, suspicion: Suspicion) -> Record:
        """The record of a document that killed a worker which had nothing else in hand, after it had been a suspect."""
        record = Record(
            worker=self._life.worker,
            attempt=self._life.attempt,
            epoch=self._life.epoch,
            index=row.index,
            key=row.key,
            name=row.name,
            outcome=Outcome.QUARANTINED,
            claim=claim.n,
            at=round(time.time(), 3),
            engine=self._life.engine,
            failure=Failure(
                category=Category.CRASHED,
                phase=Phase.CONVERT,
                message=f"{suspicion.deaths} workers died with it in hand, the last one with nothing else",
                retryable=False,
                attempts=suspicion.deaths,
            ),
        )
        self._ledger.add(record)
        return record

    def _tell(self, row: Row, record: Record) -> None:
        """The log lines of a document's end."""
        k = self._settings.worker
        source, output = (
            names.printable(shown) for shown in (self._source.display(row.key), self._output.display(row.name))
        )
        if record.outcome.published:
            self._log.info("[Worker %d] Converted: %s -> %s", k, source, output)
            for warning in record.warnings[:SHOWN_WARNINGS]:
                self._log.warning("[Worker %d] %s: %s", k, source, warning)
        elif record.failure is not None:
            failure = record.failure
            self._log.error("[Worker %d] Failed: %s - Error: %s: %s", k, source, failure.category, failure.message)
            self._on_failure(record)
        self._progress()

    def _progress(self) -> None:
        counts = self._pulse.counts
        processed = counts.processed
        now = time.monotonic()
        with self._lock:
            if processed - self._said < PROGRESS_EVERY and now - self._said_at < PROGRESS_SECONDS:
                return
            self._said, self._said_at = processed, now
        total = max(counts.assigned, processed, 1)
        hours = (now - self._begun) / max(processed, 1) * (total - processed) / 3600
        self._log.info(
            "[Worker %d] Progress: %d/%d PDFs (%.2f%%) - ETA: %.1f hours",
            self._settings.worker,
            processed,
            total,
            100 * processed / total,
            hours,
        )

    # -- the end --------------------------------------------------------------------------------------------------

    def _check_life(self, claim: Claim) -> None:
        """A holder in doubt reads its claim and its fence before it publishes."""
        self._pulse.raise_if_fenced()
        if self._pulse.in_doubt():
            if self._pulse.fenced() or not self._claims.mine(claim):
                raise Fenced(f"worker {self._settings.worker}/{self._me.attempt} was fenced")
            self._pulse.beat()

    def _finish(self, ledger: LedgerWriter) -> Summary:
        if self._converter is not None:
            self._converter.close()
        try:
            patient(30.0)(ledger.flush)
        except PdfFlowsError as error:
            # Unwritten outcomes are found again: outputs by their intents, failures by another try.
            self._log.warning(
                "[Worker %d] The ledger's last records could not be written: %s", self._settings.worker, error
            )
        self._pulse.assign(self._candidates.assigned)
        self._pulse.close(self._last_word())
        self._candidates.close()
        counts = self._pulse.counts
        self._log.info(
            "[Worker %d] Completed: %d/%d PDFs, %d failures",
            self._settings.worker,
            counts.converted,
            max(counts.assigned, counts.processed),
            counts.failed,
        )
        given = counts.model_dump(exclude={"processed"})
        return Summary(worker=self._me.worker, attempt=self._me.attempt, stopped=self._stopping, **given)

    def _last_word(self) -> str:
        """How the life ended; anything but COMPLETE says that there may be work left for another one."""
        if self._stopping is not None:
            return self._stopping
        return (
            f"{self._candidates.passed_over} long documents left to others"
            if self._candidates.passed_over
            else COMPLETE
        )
