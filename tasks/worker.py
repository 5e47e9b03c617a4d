"""One worker's life: take an attempt's number, claim, convert, record, steal, end. No prefect here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.candidates import Candidates
from tasks.corpus import names, paths
from tasks.corpus.claims import Claim, Claims, Holder
from tasks.corpus.failure_file import FailureFile
from tasks.corpus.failures import Fenced, PdfFlowsError
from tasks.corpus.ledger import Counts, LedgerWriter, Record
from tasks.corpus.lives import take_number, this_life
from tasks.corpus.manifest import Manifest, Row
from tasks.corpus.runs import read_run
from tasks.corpus.store import open_store
from tasks.document import DocumentConverter, Life
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.patience import patient
from tasks.pool import Pool, open_pool
from tasks.pulse import Pulse
from tasks.scratch import scratch_folder

SHOWN_WARNINGS = 3
"""Of a document's, in the log; the ledger has twenty."""
PROGRESS_EVERY = 50
PROGRESS_SECONDS = 60.0
READY_SECONDS = 180.0

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
        # Reentrant: a signal handler may call `drain` while its own thread holds it.
        self._lock = threading.RLock()
        self._pool: Pool | None = None
        self._converter: DocumentConverter | None = None
        self._error: BaseException | None = None

    # -- the life -------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        """The whole life. Raises ConversionError (engine can't load), StoreError, Fenced; returns also when drained."""
        settings = self._settings
        runs = open_store(settings.runs, writable=True)
        spec = read_run(runs, settings.run_id)
        identity = spec.identity
        source, output = open_store(identity.input), open_store(identity.output, writable=True)
        self._source, self._output = source, output
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
                attempt = patient()(
                    take_number, runs, prefix, "start.json", this_life(settings.epoch, self._flow_run_id)
                )
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
                    self.drain,
                    settings.beat_seconds,
                )
                self._pulse, self._claims, self._me = pulse, claims, me
                with pulse:
                    # From here on it beats: loading a large manifest or a slow engine must not look like a frozen worker.
                    manifest = Manifest(scratch / "manifest")
                    patient()(runs.fetch, spec.manifest, manifest.path)
                    self._candidates = Candidates(
                        runs,
                        spec,
                        manifest,
                        claims,
                        me,
                        workers=settings.workers,
                        epoch=settings.epoch,
                        retry_failed=settings.retry_failed,
                        patient=patient,
                    )
                    pulse.assign(self._candidates.assigned)
                    self._log.info(
                        "[Worker %d] Starting processing: %d PDFs assigned", settings.worker, self._candidates.assigned
                    )
                    versions = pool.ready(READY_SECONDS)
                    for note in pool.notes:
                        self._log.info("[Worker %d] %s", settings.worker, note)
                    self._converter = DocumentConverter(
                        life=life,
                        source=source,
                        output=output,
                        runs=runs,
                        claims=claims,
                        ledger=ledger,
                        pool=pool,
                        limits=limits,
                        rendering=Rendering.model_validate(identity.rendering),
                        passwords=self._passwords,
                        retries=settings.retries,
                        retry_failed=settings.retry_failed,
                        versions=lambda: versions,
                        scratch=scratch,
                        check_life=self._check_life,
                        on_page=lambda row, page, pages: pulse.page(page),
                        patient=patient,
                    )
                    self._begun = time.monotonic()
                    self._said = 0
                    self._said_at = self._begun
                    try:
                        self._work()
                    finally:
                        summary = self._finish(ledger)
                return summary
            finally:
                self._finished.set()
                pool.close()

    def drain(self, reason: str, grace: float = 20.0) -> None:
        """Stop claiming; what is in hand may end within `grace` seconds, then it is given back."""
        with self._lock:
            if self._stopping is not None:
                return
            self._stopping = reason
        self._log.warning("[Worker %d] Stopping: %s", self._settings.worker, reason)
        if self._converter is not None:
            self._converter.drain()

        def kill() -> None:
            if not self._finished.wait(grace):
                self._killing.set()
                if self._pool is not None:
                    self._pool.kill()

        threading.Thread(target=kill, name="drain", daemon=True).start()

    # -- work -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Own partitions first, then others' far ends; a few documents in flight so that fetching and publishing overlap."""
        assert self._pool is not None
        in_flight = self._pool.documents
        room = threading.Semaphore(in_flight)
        with ThreadPoolExecutor(in_flight, thread_name_prefix="document") as pool:
            for row, claim in self._claimed(room):
                future = pool.submit(self._one, row, claim)
                future.add_done_callback(lambda done: self._after(done, room))
        if self._error is not None:
            raise self._error

    def _after(self, done: Future[None], room: threading.Semaphore) -> None:
        error = done.exception()
        if error is not None and self._error is None:
            self._error = error
            self.drain(f"{type(error).__name__}: {error}")
        room.release()

    def _claimed(self, room: threading.Semaphore) -> Iterator[tuple[Row, Claim]]:
        """Documents that this life just claimed; claims only when there is room."""
        candidates = self._candidates
        for row, n in self._next(candidates):
            room.acquire()
            self._wait_for_appetite()
            if self._stopping is not None:
                room.release()
                return
            claim = patient()(self._claims.take, candidates.partition(row.index), row.index, n)
            # What another life took is no longer this one's, what is taken from another is.
            candidates.reassign((claim is not None) - candidates.is_mine(row.index))
            self._pulse.assign(candidates.assigned)
            if claim is None:
                room.release()
                continue
            yield row, claim

    def _wait_for_appetite(self) -> None:
        """What is claimed before the engine wants it is kept from other workers."""
        while self._stopping is None and self._pool is not None and not self._pool.appetite(1.0):
            continue

    def _next(self, candidates: Candidates) -> Iterator[tuple[Row, int]]:
        yield from candidates.own()
        found = self._settings.steal
        while found and self._stopping is None:
            found = False
            for candidate in candidates.far_ends():
                found = True
                yield candidate

    def _one(self, row: Row, claim: Claim) -> None:
        converter = self._converter
        if converter is None or self._killing.is_set():
            patient()(self._claims.release, claim)
            return
        self._pulse.begin(names.printable(row.key))
        try:
            record = converter.settle(row, claim) or self._around(row, lambda: converter.convert(row, claim))
        finally:
            self._pulse.end(names.printable(row.key))
        if record.outcome.final:
            self._candidates.finish(row.index)
        if (record.worker, record.attempt) == (self._me.worker, self._me.attempt):
            self._pulse.outcome(record)
            self._tell(row, record)
        else:
            # A former holder's own record: that life counted it, and said so.
            self._candidates.reassign(-1)

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
        try:
            patient(30.0)(ledger.flush)
        except PdfFlowsError as error:
            # Unwritten outcomes are found again: outputs by their intents, failures by another try.
            self._log.warning(
                "[Worker %d] The ledger's last records could not be written: %s", self._settings.worker, error
            )
        self._pulse.assign(self._candidates.assigned)
        self._pulse.close(self._stopping or "complete")
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
