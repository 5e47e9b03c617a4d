"""One worker's life: take an attempt's number, claim, convert, record, steal, end. No prefect here."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from tasks.corpus import names, paths
from tasks.corpus.audit import settled
from tasks.corpus.claims import Claim, Claimed, Claims, Holder
from tasks.corpus.failure_file import FailureFile
from tasks.corpus.failures import Category, Fenced, PdfFlowsError, StoreError
from tasks.corpus.ledger import LedgerWriter, Outcome, Record, read_ledger
from tasks.corpus.lives import Observer, fence, take_number, this_life
from tasks.corpus.manifest import Manifest, Row
from tasks.corpus.partition import Bitmap, partition_of, partitions_of_worker
from tasks.corpus.runs import read_run
from tasks.corpus.store import open_store
from tasks.document import DocumentConverter, Life, SandboxPool
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.engines.sandbox import Sandbox
from tasks.pulse import Pulse
from tasks.scratch import scratch_folder

STEAL_BATCH = 8
"""Documents taken from a partition's far end before the claims are listed again."""
PROGRESS_EVERY = 50
PROGRESS_SECONDS = 60.0
STORE_PATIENCE_SECONDS = 120.0
"""How long claims and ledger are tried again while the store fails, before the life ends."""
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
    threads: int = 1
    recycle_after: int = 50
    engine_options: dict[str, Any] = {}
    beat_seconds: float = 15.0


class Summary(BaseModel):
    """A life's end."""

    worker: int
    attempt: int
    assigned: int = 0
    converted: int = 0
    skipped: int = 0
    failed: int = 0
    released: int = 0
    pages: int = 0
    stopped: str | None = None
    """Why it stopped before its work was done."""


def patient(patience: float = STORE_PATIENCE_SECONDS) -> Retrying:
    """Tries again while the store fails; a full disk or a refusal is not waited out."""
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, StoreError) and error.category is Category.STORE),
        stop=stop_after_delay(patience),
        wait=wait_exponential_jitter(initial=0.5, max=15),
        reraise=True,
    )


class ClaimCursor:
    """Walks a partition's claims along with its documents, both in order of the index: no claim is held in memory."""

    def __init__(self, listed: Callable[[], Iterator[Claimed]]) -> None:
        self._listed = listed
        self._claims: Iterator[Claimed] | None = None
        self._next: Claimed | None = None
        patient()(self._advance, 0)

    def at(self, index: int) -> Claimed | None:
        """The newest claim on a document; indices must come in rising order."""
        if self._next is not None and self._next.index < index:
            patient()(self._advance, index)
        return self._next if self._next is not None and self._next.index == index else None

    def _advance(self, index: int) -> None:
        if self._claims is None:
            self._claims = self._listed()
        try:
            self._next = next((claimed for claimed in self._claims if claimed.index >= index), None)
        except StoreError:
            self._claims = None  # a listing that broke off is begun again
            raise


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
        self._pool: SandboxPool | None = None
        self._converter: DocumentConverter | None = None
        self._error: BaseException | None = None
        self.summary = Summary(worker=settings.worker, attempt=-1)

    # -- the life -------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        """The whole life. Raises ConversionError (engine can't load), StoreError, Fenced; returns also when drained."""
        settings = self._settings
        runs = open_store(settings.runs, writable=True)
        spec = read_run(runs, settings.run_id)
        identity = spec.identity
        source, output = open_store(identity.input), open_store(identity.output, writable=True)
        self._source, self._output, self._runs = source, output, runs
        limits = Limits.model_validate(identity.limits)
        with scratch_folder() as scratch:
            scratch.chmod(0o755)
            pool = SandboxPool(
                lambda place: Sandbox(
                    EngineName(identity.engine),
                    limits,
                    threads=settings.threads,
                    recycle_after=settings.recycle_after,
                    engine_options=settings.engine_options,
                    scratch=place,
                ),
                settings.slots,
                scratch,
            )
            self._pool = pool
            pool.start()
            try:
                prefix = paths.worker(settings.run_id, settings.worker)
                attempt = patient()(
                    take_number, runs, prefix, "start.json", this_life(settings.epoch, self._flow_run_id)
                )
                self.summary.attempt = attempt
                life = Life(settings.run_id, settings.worker, attempt, settings.epoch, identity.engine)
                own = paths.life(settings.run_id, settings.worker, attempt)
                ledger = LedgerWriter(runs, own)
                claims = Claims(runs, settings.run_id, Holder(worker=settings.worker, attempt=attempt))
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
                self._pulse, self._claims, self._ledger = pulse, claims, ledger
                manifest = Manifest(scratch / "manifest")
                patient()(runs.fetch, spec.manifest, manifest.path)
                self._manifest, self._partitions = manifest, spec.partitions
                self._finished_documents = patient()(self._bitmap, spec.documents)
                self._mine = set(partitions_of_worker(settings.worker, settings.workers, spec.partitions))
                self.summary.assigned = sum(
                    1
                    for row in manifest.rows()
                    if partition_of(row.index, spec.partitions) in self._mine
                    and row.index not in self._finished_documents
                )
                pulse.assign(self.summary.assigned)
                self._log.info(
                    "[Worker %d] Starting processing: %d PDFs assigned", settings.worker, self.summary.assigned
                )
                versions = pool.ready(READY_SECONDS)
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
                with pulse:
                    try:
                        self._work()
                    finally:
                        self._finish(ledger)
            finally:
                self._finished.set()
                pool.close()
        return self.summary

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
        in_flight = self._settings.slots + 2
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
        for row, n in self._candidates():
            room.acquire()
            if self._stopping is not None:
                room.release()
                return
            claim = patient()(self._claims.take, partition_of(row.index, self._partitions), row.index, n)
            mine = partition_of(row.index, self._partitions) in self._mine
            with self._lock:
                # What another life took is no longer this one's, what is taken from another is.
                self.summary.assigned += (claim is not None) - mine
            if claim is None:
                room.release()
                continue
            yield row, claim

    def _candidates(self) -> Iterator[tuple[Row, int]]:
        """Rows worth a claim, with the claim's number."""
        observer = Observer(self._runs, time.monotonic)
        claims = self._cursors(self._mine)
        for row in self._manifest.rows():
            p = partition_of(row.index, self._partitions)
            if p not in self._mine or row.index in self._finished_documents:
                continue
            newest = claims[p].at(row.index)
            if newest is None:
                yield row, 0
            elif patient()(self._free, p, newest, observer):
                yield row, newest.n + 1
            else:
                with self._lock:
                    self.summary.assigned -= 1
        while self._settings.steal and self._stopping is None:
            found = False
            for row, n in self._far_ends(observer):
                found = True
                yield row, n
            if not found:
                return

    def _far_ends(self, observer: Observer) -> Iterator[tuple[Row, int]]:
        """Up to STEAL_BATCH unclaimed documents of each partition, from its far end; and what the dead left."""
        everybody = range(self._partitions)
        claims = self._cursors(everybody)
        ends: dict[int, deque[Row]] = {p: deque(maxlen=STEAL_BATCH) for p in everybody}
        left: list[tuple[Row, int]] = []
        for row in self._manifest.rows():
            if row.index in self._finished_documents:
                continue
            p = partition_of(row.index, self._partitions)
            newest = claims[p].at(row.index)
            if newest is None:
                ends[p].append(row)
            elif len(left) < STEAL_BATCH and patient()(self._free, p, newest, observer):
                left.append((row, newest.n + 1))
        yield from left
        for p in sorted(ends, key=lambda p: -len(ends[p])):
            for row in reversed(ends[p]):
                yield row, 0

    def _cursors(self, partitions: Iterable[int]) -> dict[int, ClaimCursor]:
        return {p: ClaimCursor(partial(self._claims.listed, p)) for p in partitions}

    def _free(self, partition: int, newest: Claimed, observer: Observer) -> bool:
        """Whether a claim may be taken over: given back, or its holder's life is over without having settled it."""
        index = newest.index
        if newest.released:
            return True
        holder = self._claims.holder(partition, index, newest.n)
        if (holder.worker, holder.attempt) == (self._settings.worker, self.summary.attempt):
            return False
        prefix = paths.life(self._settings.run_id, holder.worker, holder.attempt)
        verdict = observer.over(prefix)
        if verdict is None:
            return False
        if not verdict.startswith(("fenced", "ended")):
            fence(self._runs, prefix, f"{verdict}, seen by worker {self._settings.worker}/{self.summary.attempt}")
        if (holder.worker, holder.attempt) not in self._read:
            # Its last segments may have come after this life's first look: read them before taking anything over.
            self._mark(read_ledger(self._runs, [prefix]))
            self._read.add((holder.worker, holder.attempt))
        return index not in self._finished_documents

    def _bitmap(self, documents: int) -> Bitmap:
        """Documents that need no work: done, failed for good, or settled by an earlier life."""
        done = Bitmap(documents)
        for row in self._manifest.rows():
            hopeless = row.failure is not None and (
                row.failure.category is Category.NAME or not self._settings.retry_failed
            )
            if row.done or hopeless:
                done.add(row.index)
        self._finished_documents = done
        self._read: set[tuple[int, int]] = set()
        self._mark(read_ledger(self._runs, [paths.workers(self._settings.run_id)]))
        return done

    def _mark(self, records: Iterator[Record]) -> None:
        for record in records:
            if settled(record, self._settings.epoch, self._settings.retry_failed):
                self._finished_documents.add(record.index)

    def _one(self, row: Row, claim: Claim) -> None:
        assert self._converter is not None
        converter = self._converter
        if self._killing.is_set():
            patient()(self._claims.release, claim)
            return
        self._pulse.begin(names.printable(row.key))
        try:
            looked_up, found = converter.settle(row, claim)
            record = found or self._around(row, lambda: converter.convert(row, claim, looked_up=looked_up))
        finally:
            self._pulse.end(names.printable(row.key))
        self._count(row, record)

    def _count(self, row: Row, record: Record) -> None:
        k = self._settings.worker
        with self._lock:
            if record.outcome.published:
                self.summary.converted += 1
                self.summary.pages += record.pages or 0
            elif record.outcome is Outcome.SKIPPED:
                self.summary.skipped += 1
            elif record.outcome is Outcome.RELEASED:
                self.summary.released += 1
            else:
                self.summary.failed += 1
            self._finished_documents.add(row.index) if record.outcome.final else None
        self._pulse.outcome(record, self.summary.assigned)
        if record.outcome.published:
            self._log.info(
                "[Worker %d] Converted: %s -> %s",
                k,
                names.printable(self._source.display(row.key)),
                names.printable(self._output.display(row.name)),
            )
        elif record.failure is not None:
            self._log.error(
                "[Worker %d] Failed: %s - Error: %s: %s",
                k,
                names.printable(self._source.display(row.key)),
                record.failure.category,
                record.failure.message,
            )
            self._on_failure(record)
        self._progress()

    def _progress(self) -> None:
        summary = self.summary
        processed = summary.converted + summary.skipped + summary.failed
        now = time.monotonic()
        with self._lock:
            if processed - self._said < PROGRESS_EVERY and now - self._said_at < PROGRESS_SECONDS:
                return
            self._said, self._said_at = processed, now
        total = max(summary.assigned, processed, 1)
        hours = (now - self._begun) / max(processed, 1) * (total - processed) / 3600
        self._log.info(
            "[Worker %d] Progress: %d/%d PDFs (%.2f%%) - ETA: %.1f hours",
            summary.worker,
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
                raise Fenced(f"worker {self._settings.worker}/{self.summary.attempt} was fenced")
            self._pulse.beat()

    def _finish(self, ledger: LedgerWriter) -> None:
        self.summary.stopped = self._stopping
        try:
            patient(30.0)(ledger.flush)
        except PdfFlowsError as error:
            # Unwritten outcomes are found again: outputs by their intents, failures by another try.
            self._log.warning(
                "[Worker %d] The ledger's last records could not be written: %s", self._settings.worker, error
            )
        self._pulse.close(self._stopping or "complete")
        summary = self.summary
        processed = summary.converted + summary.skipped + summary.failed
        self._log.info(
            "[Worker %d] Completed: %d/%d PDFs, %d failures",
            summary.worker,
            summary.converted,
            max(summary.assigned, processed),
            summary.failed,
        )
