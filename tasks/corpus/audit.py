"""The accounting: what became of every document of a run, from manifest, ledger and the output's listing alone.

documents = converted + skipped + failed + quarantined + remaining; partial and duplicates are subsets of converted
(DESIGN section 4, promise 2). `reconcile` is pure.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Iterable
from enum import IntEnum

from pydantic import BaseModel, ConfigDict

from tasks.corpus.failures import Failure
from tasks.corpus.ledger import Outcome, Publisher, Record
from tasks.corpus.manifest import Row


class Fate(IntEnum):
    """Where a document stands."""

    REMAINING = 0
    CONVERTED = 1
    SKIPPED = 2
    FAILED = 3
    QUARANTINED = 4


class Account(BaseModel):
    """A run's accounting. `closes` says whether it adds up."""

    model_config = ConfigDict(frozen=True)

    documents: int
    converted: int
    skipped: int
    failed: int
    quarantined: int
    remaining: int
    partial: int
    recovered: int
    duplicates: int
    """Documents that more than one life published; must be 0."""
    lost: int
    """Documents recorded as converted whose output isn't there (any more)."""
    pages: int
    categories: dict[str, int] = {}
    """Failed and quarantined documents by category."""
    duplicate_keys: list[str] = []
    lost_keys: list[str] = []

    @property
    def closes(self) -> bool:
        """Every document has one fate, nothing was published twice, nothing published is missing."""
        total = self.converted + self.skipped + self.failed + self.quarantined + self.remaining
        return total == self.documents and self.duplicates == 0 and self.lost == 0

    @property
    def failure_rate(self) -> float:
        """Failed and quarantined documents over all that have an outcome (0 where none has)."""
        closed = self.documents - self.remaining
        return (self.failed + self.quarantined) / closed if closed else 0.0


class Failed(BaseModel):
    """One failed document, as reports show it."""

    model_config = ConfigDict(frozen=True)

    index: int
    key: str
    name: str
    outcome: Outcome
    failure: Failure
    worker: int | None = None
    attempt: int | None = None


class Reconciliation(BaseModel):
    """The account, the failures behind it, and the partial documents' keys."""

    account: Account
    failures: list[Failed]
    partial: list[str]


SHOWN = 20
"""Keys named in an account at most."""


def reconcile(
    rows: Iterable[Row],
    records: Iterable[Record],
    outputs: Container[str] | None,
    content_hash: Callable[[str], str | None] = lambda name: None,
) -> Reconciliation:
    """Everything that the ledger says, held against the manifest and the outputs that are there.

    Args:
        rows: of the manifest, in order.
        records: of all lives, each life's in order.
        outputs: names that exist; None leaves that comparison out (then nothing is lost or recovered).
        content_hash: sha256 of an output's content, asked only for an output with an intent and no outcome.

    An output with an intent and no publishing record is the run's own (recovered) if its content is what the intent
    announced; otherwise somebody else's (skipped).

    Published twice is a document that two lives say they created (CONVERTED: first-hand), or that was published with two
    contents. RECOVERED alone accuses nobody: which of several lives put the same content there is an inference.
    """
    publisher: dict[int, Publisher] = {}
    content: dict[int, int] = {}
    known: dict[Publisher, Publisher] = {}
    twice: set[int] = set()
    # Small tuples, not records: a million of these fit into the parent's memory.
    published: dict[int, tuple[int, bool, bool]] = {}
    intents: dict[int, set[str]] = {}
    last: dict[int, Record] = {}
    for record in records:
        if record.outcome.published:
            by = known.setdefault(record.published_by, record.published_by)
            if record.outcome is Outcome.CONVERTED and publisher.setdefault(record.index, by) != by:
                twice.add(record.index)
            # 60 bits of the hash: a million of them fit into the parent's memory, too.
            mark = int(record.sha256[:15], 16) if record.sha256 is not None else None
            if mark is not None and content.setdefault(record.index, mark) != mark:
                twice.add(record.index)
            published[record.index] = (record.pages or 0, record.partial, record.outcome is Outcome.RECOVERED)
            # Asked for only where nobody says that it was published: a million intents would not fit beside all this.
            intents.pop(record.index, None)
        elif record.outcome is Outcome.INTENT and record.sha256 is not None and record.index not in published:
            intents.setdefault(record.index, set()).add(record.sha256)
        elif record.outcome.final:
            newest = last.get(record.index)
            if newest is None or _order(record) >= _order(newest):
                last[record.index] = record

    fates = array("B")
    failures: list[Failed] = []
    partial: list[str] = []
    duplicates: list[str] = []
    lost: list[str] = []
    recovered = pages = 0
    for row in rows:
        fate = Fate.REMAINING
        if row.index in published:
            its_pages, is_partial, is_recovered = published[row.index]
            fate = Fate.CONVERTED
            pages += its_pages
            recovered += is_recovered
            if is_partial:
                partial.append(row.key)
            if row.index in twice:
                duplicates.append(row.key)
            if outputs is not None and row.name not in outputs:
                lost.append(row.key)
        elif row.done:
            fate = Fate.SKIPPED
        elif outputs is not None and row.index in intents and row.name in outputs:
            own = content_hash(row.name) in intents[row.index]
            fate = Fate.CONVERTED if own else Fate.SKIPPED
            recovered += own
        elif row.index in last:
            record = last[row.index]
            if record.outcome is Outcome.SKIPPED:
                fate = Fate.SKIPPED
            elif record.failure is not None:
                fate = Fate.QUARANTINED if record.outcome is Outcome.QUARANTINED else Fate.FAILED
                failures.append(
                    Failed(
                        index=row.index,
                        key=row.key,
                        name=row.name,
                        outcome=record.outcome,
                        failure=record.failure,
                        worker=record.worker,
                        attempt=record.attempt,
                    )
                )
        elif row.failure is not None:
            fate = Fate.FAILED
            failures.append(
                Failed(index=row.index, key=row.key, name=row.name, outcome=Outcome.FAILED, failure=row.failure)
            )
        fates.append(fate)

    categories: dict[str, int] = {}
    for failed in failures:
        categories[failed.failure.category.value] = categories.get(failed.failure.category.value, 0) + 1
    account = Account(
        documents=len(fates),
        converted=fates.count(Fate.CONVERTED),
        skipped=fates.count(Fate.SKIPPED),
        failed=fates.count(Fate.FAILED),
        quarantined=fates.count(Fate.QUARANTINED),
        remaining=fates.count(Fate.REMAINING),
        partial=len(partial),
        recovered=recovered,
        duplicates=len(duplicates),
        lost=len(lost),
        pages=pages,
        categories=dict(sorted(categories.items(), key=lambda item: (-item[1], item[0]))),
        duplicate_keys=duplicates[:SHOWN],
        lost_keys=lost[:SHOWN],
    )
    return Reconciliation(account=account, failures=failures, partial=partial)


def settled(record: Record, epoch: int, retry_failed: bool) -> bool:
    """Whether a record closes its document for lives of parent `epoch`: the resume rule. Pure.

    Published and skipped documents are closed for good; permanent failures until --retry-failed; failures that trying
    again can mend until the next start of the run.
    """
    if not record.outcome.final:
        return False
    if record.failure is None:
        return True
    if record.epoch == epoch:
        return True
    return not record.failure.retryable and not retry_failed


def _order(record: Record) -> int:
    # Every life needs a claim of its own, and claims count up: no clock is asked.
    return record.claim
