"""One document's way: fetch, sandbox, publish - with retries, and with a record at its end whatever happened.

No prefect here: `tasks/convert.py` wraps this in a task run.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from tasks.corpus import names
from tasks.corpus.audit import settled
from tasks.corpus.checkpoints import Checkpoints
from tasks.corpus.claims import Claim, Claims, Holder
from tasks.corpus.failures import Category, ConversionError, Failure, NotFound, Phase, StoreError
from tasks.corpus.ledger import LedgerWriter, Outcome, Publisher, Record, read_ledger
from tasks.corpus.manifest import Row
from tasks.corpus.paths import life as life_prefix
from tasks.corpus.store import Store, content_sha256
from tasks.corpus.trust import PageScore, Trust
from tasks.engines.markdown import Origin, assemble, assemble_whole, page_ranges, ways_of
from tasks.engines.protocol import EngineResult, Limits, Page, Rendering
from tasks.engines.sandbox import Aborted, OutOfTime
from tasks.journal import DocumentJournal, Journals
from tasks.local_disk import local_disk
from tasks.pool import Pool
from tasks.publish import Publishing, stamp_of
from tasks.saving import SAVE_SECONDS

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)

DEATHS_TO_QUARANTINE = 2
"""A document whose sandbox child died so often is quarantined (DESIGN section 4, promise 6)."""


@dataclass(frozen=True, slots=True)
class Life:
    """Who is converting: stamps every record."""

    run_id: str
    worker: int
    attempt: int
    epoch: int
    engine: str


@dataclass(slots=True)
class _Try:
    """What one try at a document learned, kept for the record."""

    seconds: dict[str, float] = field(default_factory=dict)
    source_sha256: str | None = None
    deaths: int = 0
    tries: int = 0
    folder: Path | None = None
    """For the document and its assets, as long as it is in hand."""
    journal: DocumentJournal | None = None


class DocumentConverter:
    """Takes claimed documents to their records.

    Args:
        fingerprint: the engine's (`tasks/fingerprint.py`); None: finished pages are not saved.
        save_seconds: of an engine's work that a death may repeat.
    """

    def __init__(
        self,
        *,
        life: Life,
        source: Store,
        output: Store,
        runs: Store,
        claims: Claims,
        ledger: LedgerWriter,
        pool: Pool,
        limits: Limits,
        rendering: Rendering,
        passwords: list[str],
        retries: int,
        retry_failed: bool,
        versions: Callable[[], dict[str, str]],
        scratch: Path,
        check_life: Callable[[Claim], None],
        on_page: Callable[[Row, int, int], None],
        patient: Callable[[], Retrying],
        fingerprint: str | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self._life = life
        self._source = source
        self._output = output
        self._runs = runs
        self._claims = claims
        self._ledger = ledger
        self._pool = pool
        self._limits = limits
        self._rendering = rendering
        self._passwords = passwords
        self._retries = retries
        self._retry_failed = retry_failed
        self._versions = versions
        self._scratch = scratch
        self._publishing = Publishing(output, ledger, life.run_id, check_life, claims.mine)
        self._on_page = on_page
        self._patient = patient
        self._draining = threading.Event()
        self._until: float | None = None
        saved = Checkpoints(runs, life.run_id, life.worker, life.attempt) if fingerprint is not None else None
        self._journals = Journals(saved, fingerprint or "", limits.max_pages, lambda: self._until, save_seconds)

    def drain(self, seconds: float = 20.0) -> None:
        """Stop: documents whose rest fits into so many seconds may be finished, others end as released at a page's end.

        Nothing is tried again. Told again, the shorter time counts.
        """
        until = time.monotonic() + seconds
        self._until = until if self._until is None else min(self._until, until)
        self._draining.set()

    def close(self) -> None:
        """At the life's end: wait some seconds for checkpoints that are being deleted. Those that are not are swept."""
        self._journals.close()

    def settle(self, row: Row, claim: Claim) -> Record | None:
        """The record of a document that needs no work: a former holder's own, or a new one for an output that exists.

        Called before a task run is made of the document: a skip is none. A store that fails longer than the patience lasts
        settles nothing; `convert` meets the same trouble, and records it.
        """
        try:
            former = self._patiently(self._former, claim)
            for record in former:
                if settled(record, self._life.epoch, self._retry_failed):
                    return record
            found = self._patiently(self._existing, row, claim, former)
        except StoreError:
            return None
        if found is not None:
            self._ledger.add(found)
        return found

    def convert(self, row: Row, claim: Claim) -> Record:
        """The document's record: an outcome, or RELEASED if the drain came first.

        Raises Fenced, and StoreError where a claim can't even be given back; every other error becomes the record.
        """
        begun = time.monotonic()
        state = _Try()
        try:
            record = self._outcome(row, claim, state)
            if state.journal is not None:
                self._end(state.journal, record)
        finally:
            if state.folder is not None:
                shutil.rmtree(state.folder, ignore_errors=True)
        state.seconds["total"] = time.monotonic() - begun
        record = record.model_copy(
            update={
                "seconds": {name: round(value, 4) for name, value in state.seconds.items()},
                "source_sha256": record.source_sha256 or state.source_sha256,
            }
        )
        self._ledger.add(record)
        if record.outcome is Outcome.RELEASED:
            self._claims.release(claim)
        return record

    def _outcome(self, row: Row, claim: Claim, state: _Try) -> Record:
        try:
            if self._draining.is_set():
                return self._record(row, claim, Outcome.RELEASED)
            return self._with_retries(row, claim, state)
        except Aborted:
            return self._record(row, claim, Outcome.RELEASED)
        except ConversionError as error:
            if self._draining.is_set() and self._cut_short(error.failure, state):
                return self._record(row, claim, Outcome.RELEASED)
            failure = error.failure.model_copy(update={"attempts": max(1, state.tries)})
            quarantined = state.deaths >= DEATHS_TO_QUARANTINE
            if quarantined:
                failure = failure.model_copy(update={"retryable": False})
            return self._record(row, claim, Outcome.QUARANTINED if quarantined else Outcome.FAILED, failure=failure)

    def _end(self, journal: DocumentJournal, record: Record) -> None:
        """What becomes of the finished pages: kept for whoever goes on, or of no more use."""
        failure = record.failure
        if record.outcome is Outcome.RELEASED:
            journal.keep()
        elif failure is None or not failure.retryable or failure.category is Category.TIMEOUT:
            # Time that ran out would be out at once the next time: such a document begins anew.
            journal.discard()

    def _cut_short(self, failure: Failure, state: _Try) -> bool:
        """Whether only the drain kept the document from another try: it never counts against a document."""
        return failure.category is Category.CRASHED or (failure.retryable and state.tries <= self._retries)

    # -- before any work ------------------------------------------------------------------------------------------

    def _former(self, claim: Claim) -> list[Record]:
        """What the former holders of the claim recorded of its document."""
        holders = dict.fromkeys(self._holders(claim))
        prefixes = [life_prefix(self._life.run_id, holder.worker, holder.attempt) for holder in holders]
        return [record for record in read_ledger(self._runs, prefixes, parallel=4) if record.index == claim.index]

    def _existing(self, row: Row, claim: Claim, former: list[Record]) -> Record | None:
        """The record of an output that is there: recovered if a former holder announced it, else somebody else's."""
        if self._output.head(row.name) is None:
            return None
        intent = self._fulfilled(row, [record for record in former if record.outcome is Outcome.INTENT])
        if intent is None:
            return self._record(row, claim, Outcome.SKIPPED)
        return self._record(
            row,
            claim,
            Outcome.RECOVERED,
            sha256=intent.sha256,
            source_sha256=intent.source_sha256,
            pages=intent.pages,
            gaps=intent.gaps,
            ways=intent.ways,
            trust=intent.trust,
            publisher=Publisher(intent.worker, intent.attempt),
        )

    def _fulfilled(self, row: Row, intents: list[Record]) -> Record | None:
        """The intent that the output fulfils, the newest first; None where the output is not this run's."""
        if not intents:
            return None
        newest_first = intents[::-1]
        if stamp := dict(self._output.metadata(row.name)):
            return next((intent for intent in newest_first if stamp_of(self._life.run_id, intent) == stamp), None)
        content = content_sha256(self._output, row.name)
        return next((intent for intent in newest_first if intent.sha256 == content), None)

    def _holders(self, claim: Claim) -> Iterator[Holder]:
        for n in range(claim.n):
            try:
                yield self._claims.holder(claim.partition, claim.index, n)
            except NotFound:
                continue

    # -- the work -------------------------------------------------------------------------------------------------

    def _with_retries(self, row: Row, claim: Claim, state: _Try) -> Record:
        def again(error: BaseException) -> bool:
            if not isinstance(error, ConversionError) or self._draining.is_set():
                return False
            failure = error.failure
            if failure.category is Category.CRASHED:
                state.deaths += 1
                if state.deaths >= DEATHS_TO_QUARANTINE:
                    return False
            if isinstance(error, OutOfTime) and failure.retryable and state.journal is not None:
                state.journal = state.journal.renewed()
            return failure.retryable

        def count(_: RetryCallState) -> None:
            state.tries += 1

        retrying = Retrying(
            stop=stop_after_attempt(1 + self._retries),
            wait=wait_exponential_jitter(initial=1, max=30, jitter=1),
            retry=retry_if_exception(again),
            before=count,
            sleep=lambda seconds: self._wait(seconds),
            reraise=True,
        )
        return retrying(self._once, row, claim, state)

    def _patiently(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The step's result; a store that fails is waited for as claims do, rather than the engine's work done again."""
        patient = self._patient()
        return patient.copy(
            sleep=lambda seconds: self._wait(seconds),
            stop=lambda attempt: self._draining.is_set() or patient.stop(attempt),
        )(step, *args, **kwargs)

    def _wait(self, seconds: float) -> None:
        self._draining.wait(seconds)

    def _once(self, row: Row, claim: Claim, state: _Try) -> Record:
        with local_disk():
            if state.folder is None:
                state.folder = Path(tempfile.mkdtemp(prefix="document-", dir=self._scratch))
                (state.folder / "assets").mkdir()
            pdf, assets = state.folder / "document.pdf", state.folder / "assets"
            pdf.unlink(missing_ok=True)
        begun = time.monotonic()
        with _store_phase(Phase.FETCH):
            self._patiently(self._fetch, row, pdf)
        state.seconds["fetch"] = time.monotonic() - begun
        with pdf.open("rb") as file:
            state.source_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if state.journal is None or state.journal.content != state.source_sha256:
            state.journal = self._journal(row, claim, state.source_sha256, assets)
        journal = state.journal

        def on_page(page: int, pages: int) -> None:
            journal.count(pages)
            self._on_page(row, page, pages)

        begun = time.monotonic()
        with local_disk():
            result = self._pool.convert(pdf, row.key, self._passwords, assets, on_page, journal)
        state.seconds["engine"] = result.seconds or time.monotonic() - begun
        begun = time.monotonic()
        record = self._publish(row, claim, result, state)
        state.seconds["publish"] = time.monotonic() - begun
        return record

    def _journal(self, row: Row, claim: Claim, content: str, assets: Path) -> DocumentJournal:
        """The document's journal, with what former holders of the claim saved; the first one has none to look for."""
        journal = self._journals.open(content, row.index, assets)
        if claim.n > 0:
            try:
                with local_disk():
                    self._patiently(journal.load)
            except StoreError as error:
                _log.warning("the checkpoint of %s can't be read, it begins anew: %s", names.printable(row.key), error)
        return journal

    def _fetch(self, row: Row, pdf: Path) -> None:
        if row.size > self._limits.max_bytes:
            raise ConversionError.of(
                Category.TOO_LARGE, Phase.FETCH, f"{row.size:,} bytes, the limit is {self._limits.max_bytes:,}"
            )
        info = self._source.fetch(row.key, pdf)
        pdf.chmod(0o644)
        if info.size != row.size or info.etag != row.etag:
            raise ConversionError.of(
                Category.CHANGED,
                Phase.FETCH,
                "the document is not the version that the manifest froze: start a new run for the new one",
            )

    def _publish(self, row: Row, claim: Claim, result: EngineResult, state: _Try) -> Record:
        pages = result.pages
        assets: list[tuple[str, Path]] = []
        prefix = names.assets_prefix(row.name)
        here = prefix.rsplit("/", 2)[-2] + "/"
        links: dict[str, str] = {}
        for asset in result.assets:
            with asset.path.open("rb") as content:
                file = f"{hashlib.file_digest(content, 'sha256').hexdigest()}.{asset.extension}"
            assets.append((prefix + file, asset.path))
            if asset.placeholder:
                links[asset.placeholder] = quote(here + file)
        origin = Origin(
            source=row.key,
            sha256=state.source_sha256 or "",
            pages=len(pages),
            engine=self._life.engine,
            versions=self._versions(),
            attached=result.attached,
        )
        if result.whole is not None:
            text = assemble_whole(_linked(result.whole, links), self._rendering, origin)
        else:
            linked = [page.model_copy(update={"text": _linked(page.text, links)}) for page in pages]
            text = assemble(linked, self._rendering, origin)
        data = text.encode()
        digest = hashlib.sha256(data).hexdigest()
        gaps = [page.number for page in pages if page.gap is not None]
        facts = {"sha256": digest, "pages": len(pages), "gaps": gaps, "source_sha256": state.source_sha256}
        facts["ways"] = {way: page_ranges(numbers) for way, numbers in ways_of(pages).items()}
        facts["trust"] = _trust(pages)
        intent = self._record(row, claim, Outcome.INTENT, **facts)
        with _store_phase(Phase.PUBLISH):
            own = self._patiently(self._publishing.publish, claim, data, assets, intent)
        if not own:
            return self._record(row, claim, Outcome.SKIPPED)
        if state.journal is not None:
            facts["resumed"] = state.journal.resumed
        return self._record(row, claim, Outcome.CONVERTED, bytes=len(data), warnings=result.warnings[:20], **facts)

    def _record(self, row: Row, claim: Claim, outcome: Outcome, **facts: object) -> Record:
        return Record.model_validate(
            {
                "worker": self._life.worker,
                "attempt": self._life.attempt,
                "epoch": self._life.epoch,
                "index": row.index,
                "key": row.key,
                "name": row.name,
                "outcome": outcome,
                "claim": claim.n,
                "at": round(time.time(), 3),
                "engine": self._life.engine,
                **facts,
            }
        )


def _trust(pages: Sequence[Page]) -> Trust | None:
    """What the record says of the pages' scores."""
    return Trust.of(
        PageScore(
            page=page.number, score=page.trust.score, parts={str(part): x for part, x in page.trust.parts.items()}
        )
        for page in pages
        if page.trust is not None
    )


def _linked(text: str, links: dict[str, str]) -> str:
    """The text with its assets' placeholders replaced by relative links."""
    if not links:
        return text
    # In one pass, the longest first: a placeholder may begin another one, and a link may contain one.
    any_of_them = "|".join(re.escape(placeholder) for placeholder in sorted(links, key=len, reverse=True))
    return re.sub(any_of_them, lambda match: links[match[0]], text)


@contextmanager
def _store_phase(phase: Phase) -> Iterator[None]:
    """Store errors as the document's failure."""
    try:
        yield
    except NotFound as error:
        raise ConversionError.of(
            Category.MISSING, phase, "listed, but it is gone (or a link that leads nowhere)"
        ) from error
    except StoreError as error:
        raise ConversionError(
            Failure(category=error.category, phase=phase, message=str(error), retryable=error.category.transient)
        ) from error
