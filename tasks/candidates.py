"""Candidates: which documents a life may claim next - its own partitions' first, then others' far ends."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from tenacity import Retrying

from tasks.corpus import paths
from tasks.corpus.audit import settled
from tasks.corpus.claims import Claimed, Claims, Holder
from tasks.corpus.failures import Category, StoreError
from tasks.corpus.ledger import Record, read_ledger
from tasks.corpus.lives import Observer, fence
from tasks.corpus.manifest import Manifest, Row
from tasks.corpus.partition import Bitmap, partition_of, partitions_of_worker
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store

STEAL_BATCH = 8
"""Documents taken from a partition's far end before the claims are listed again."""


class ClaimCursor:
    """Walks a partition's claims along with its documents, both in order of the index: no claim is held in memory."""

    def __init__(self, listed: Callable[[], Iterator[Claimed]], patient: Callable[[], Retrying]) -> None:
        self._listed = listed
        self._patient = patient
        self._claims: Iterator[Claimed] | None = None
        self._next: Claimed | None = None
        patient()(self._advance, 0)

    def at(self, index: int) -> Claimed | None:
        """The newest claim on a document; indices must come in rising order."""
        if self._next is not None and self._next.index < index:
            self._patient()(self._advance, index)
        return self._next if self._next is not None and self._next.index == index else None

    def _advance(self, index: int) -> None:
        if self._claims is None:
            self._claims = self._listed()
        try:
            self._next = next((claimed for claimed in self._claims if claimed.index >= index), None)
        except StoreError:
            self._claims = None  # a listing that broke off is begun again
            raise


class Candidates:
    """One life's view of what is left to do. Memory: two bits a document, whatever the partition's size.

    Args:
        me: this life; its own claims are never candidates.
        epoch: of the supervising parent: failures of this start are not tried again.
        retry_failed: failures for good are candidates, too.
    """

    def __init__(
        self,
        runs: Store,
        spec: RunSpec,
        manifest: Manifest,
        claims: Claims,
        me: Holder,
        *,
        workers: int,
        epoch: int,
        retry_failed: bool,
        patient: Callable[[], Retrying],
    ) -> None:
        self._runs, self._spec, self._manifest, self._claims, self._me = runs, spec, manifest, claims, me
        self._epoch = epoch
        self._retry_failed = retry_failed
        self._patient = patient
        self._mine = frozenset(partitions_of_worker(me.worker, workers, spec.partitions))
        self._observer = Observer(runs, time.monotonic)
        self._lock = threading.Lock()
        self._finished = Bitmap(spec.documents)
        self._read: set[Holder] = set()
        """Lives whose last segments were read since they were over."""
        patient()(self._look_back)
        self.assigned = sum(self.is_mine(i) and i not in self._finished for i in range(spec.documents))
        """Documents that are this life's to do, as far as it knows: what others take from it is taken off."""

    def is_mine(self, index: int) -> bool:
        """Whether a document is of the partitions that this worker begins with."""
        return self.partition(index) in self._mine

    def partition(self, index: int) -> int:
        """The partition that a document's claims are filed under."""
        return partition_of(index, self._spec.partitions)

    def finish(self, index: int) -> None:
        """A document needs no more work. Thread-safe."""
        with self._lock:
            self._finished.add(index)

    def reassign(self, documents: int) -> None:
        """So many documents more (or less, below 0) are this life's to do. Thread-safe."""
        with self._lock:
            self.assigned += documents

    def own(self) -> Iterator[tuple[Row, int]]:
        """Documents of the own partitions that are worth a claim, with the claim's number."""
        claims = self._cursors(self._mine)
        for row in self._open():
            if not self.is_mine(row.index):
                continue
            newest = claims[self.partition(row.index)].at(row.index)
            if newest is None:
                yield row, 0
            elif self._patient()(self._free, newest):
                yield row, newest.n + 1
            else:
                self.reassign(-1)

    def far_ends(self) -> Iterator[tuple[Row, int]]:
        """Up to STEAL_BATCH unclaimed documents of each partition, from its far end; and what the dead left."""
        everybody = range(self._spec.partitions)
        claims = self._cursors(everybody)
        ends: dict[int, deque[Row]] = {p: deque(maxlen=STEAL_BATCH) for p in everybody}
        left: list[tuple[Row, int]] = []
        for row in self._open():
            p = self.partition(row.index)
            newest = claims[p].at(row.index)
            if newest is None:
                ends[p].append(row)
            elif len(left) < STEAL_BATCH and self._patient()(self._free, newest):
                left.append((row, newest.n + 1))
        yield from left
        for end in sorted(ends.values(), key=len, reverse=True):
            for row in reversed(end):
                yield row, 0

    def _open(self) -> Iterator[Row]:
        return (row for row in self._manifest.rows() if row.index not in self._finished)

    def _cursors(self, partitions: Iterable[int]) -> dict[int, ClaimCursor]:
        return {p: ClaimCursor(partial(self._claims.listed, p), self._patient) for p in partitions}

    def _free(self, newest: Claimed) -> bool:
        """Whether a claim may be taken over: given back, or its holder's life is over without having settled it."""
        if newest.released:
            return True
        holder = self._claims.holder(self.partition(newest.index), newest.index, newest.n)
        if holder == self._me:
            return False
        prefix = paths.life(self._spec.run_id, holder.worker, holder.attempt)
        verdict = self._observer.over(prefix)
        if verdict is None:
            return False
        if not verdict.startswith(("fenced", "ended")):
            fence(self._runs, prefix, f"{verdict}, seen by worker {self._me.worker}/{self._me.attempt}")
        if holder not in self._read:
            # Its last segments may have come after this life's first look: read them before taking anything over.
            self._mark(read_ledger(self._runs, [prefix]))
            self._read.add(holder)
        return newest.index not in self._finished

    def _look_back(self) -> None:
        """Find the documents that need no work: done, failed for good, or settled by an earlier life."""
        for row in self._manifest.rows():
            hopeless = row.failure is not None and (row.failure.category is Category.NAME or not self._retry_failed)
            if row.done or hopeless:
                self.finish(row.index)
        self._mark(read_ledger(self._runs, [paths.workers(self._spec.run_id)]))

    def _mark(self, records: Iterator[Record]) -> None:
        for record in records:
            if settled(record, self._epoch, self._retry_failed):
                self.finish(record.index)
