"""Candidates: which documents a life may claim next - its own partitions' first, then others' far ends.

Within a partition the heaviest document comes first, so that no long one is left for the end; a partition's far end, from which
idle workers steal, is its light one.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tenacity import Retrying

from tasks.corpus import paths
from tasks.corpus.audit import settled
from tasks.corpus.claims import Claimed, Claims, Holder
from tasks.corpus.failures import Category
from tasks.corpus.ledger import Record, read_ledger
from tasks.corpus.lives import Observer, fence
from tasks.corpus.manifest import Manifest, Row
from tasks.corpus.partition import Bitmap, documents_of, in_turn, partition_of, partitions_of_worker
from tasks.corpus.rowtable import RowTable
from tasks.corpus.runs import RunSpec
from tasks.corpus.settled import Told, read_settled
from tasks.corpus.store import Store

LOSSES = 4
"""Documents that others were faster to take before a partition's claims are listed again: a listing of a large one costs more."""
SPREAD = 64
"""So many at a far end are taken in an order of each thief's own: in one order, all thieves would run for the same document."""
LEDGER_SECONDS = 60.0
"""What the living settled is not read again sooner: it spares a thief a look at every claim that they hold and are done with."""
READERS = 16
"""Claims read at a time."""
AHEAD = 256
"""Claims of a partition that are read at once, where one of them has to be."""
STALE_SECONDS = 5.0
"""A partition's claims are not listed again sooner, and a life that was seen to live is not looked at again sooner."""

_RELEASED = 1 << 31


class ClaimTable:
    """The newest claim on every document, as the last listings showed it: 4 bytes a document."""

    def __init__(self, documents: int, listed: Callable[[int], Iterator[Claimed]]) -> None:
        self._listed = listed
        self._newest = array("I", bytes(4 * documents))

    def refresh(self, partition: int) -> None:
        """List a partition's claims anew. Raises StoreError."""
        for claimed in self._listed(partition):
            self.note(claimed)

    def note(self, claimed: Claimed) -> None:
        """A claim that was seen, or taken."""
        if claimed.index < len(self._newest):
            self._newest[claimed.index] = (claimed.n + 1) | (_RELEASED if claimed.released else 0)

    def newest(self, index: int) -> Claimed | None:
        """The newest claim on a document, as far as it was seen."""
        value = self._newest[index]
        return Claimed(index, (value & ~_RELEASED) - 1, bool(value & _RELEASED)) if value else None


class Candidates:
    """One life's view of what is left to do. Memory: 20 bytes and a few bits a document; the rows are on the disk.

    Args:
        scratch: a folder for the rows.
        me: this life; its own claims are never candidates.
        epoch: of the supervising parent: failures of this start are not tried again.
        retry_failed: failures for good are candidates, too.
        sample: documents to begin with (the canary's).
        readers: read claims side by side.
        rows: a table that was made before, of documents none of which is done or hopeless; else one is made.
        parent: epoch of the parent that supervises by now, where another one may have taken the run over.
    """

    def __init__(
        self,
        runs: Store,
        spec: RunSpec,
        manifest: Manifest,
        scratch: Path,
        claims: Claims,
        me: Holder,
        *,
        workers: int,
        epoch: int,
        retry_failed: bool,
        patient: Callable[[], Retrying],
        sample: Iterable[int] = (),
        parent: Callable[[], int] | None = None,
        rows: RowTable | None = None,
        readers: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs, self._spec, self._claims, self._me = runs, spec, claims, me
        self._epoch = epoch
        self._parent = parent or (lambda: epoch)
        self._retry_failed = retry_failed
        self._patient = patient
        self._clock = clock
        self._sample = list(sample)
        self._passed_by: set[int] = set()
        """Documents of the sample that others have, or had."""
        self._mine = frozenset(partitions_of_worker(me.worker, workers, spec.partitions))
        self._observer = Observer(runs, clock)
        self._readers = readers or ThreadPoolExecutor(READERS, thread_name_prefix="claims")
        self._lock = threading.Lock()
        self._finished = Bitmap(spec.documents)
        self._taken = Bitmap(spec.documents)
        self._lost: Counter[int] = Counter()
        """Documents of a partition that others were faster to take, since its claims were last listed for that."""
        self._asked = self._caught_up = float("-inf")
        """When it was asked what others settled, and when that was answered."""
        self._table = ClaimTable(spec.documents, claims.listed)
        self._refreshed: dict[int, float] = {}
        self._living: dict[Holder, float] = {}
        self._holders: dict[int, tuple[int, Holder]] = {}
        """Claims' numbers and holders, by document: a claim never changes, so none is read twice."""
        self._read: set[Holder] = set()
        """Lives whose last segments were read since they were over."""
        self.heaviest: int | None = None
        """Documents that weigh more are left to others (a rebalance recommendation)."""
        self._passed: set[int] = set()
        self._rows = rows or RowTable(manifest, scratch / "rows.jsonl", self._look)
        patient()(self._look_back)
        self._assigned = Bitmap(spec.documents)
        for index in self._finished.outside(self._documents(sorted(self._mine))).tolist():
            self._assigned.add(index)

    def close(self) -> None:
        """Let the readers and the rows' file go."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._rows.close()

    def is_mine(self, index: int) -> bool:
        """Whether a document is of the partitions that this worker begins with."""
        return self.partition(index) in self._mine

    def partition(self, index: int) -> int:
        """The partition that a document's claims are filed under."""
        return partition_of(index, self._spec.partitions)

    def weight(self, index: int) -> int:
        """What a document weighs: see `tasks/corpus/rowtable.py`."""
        return self._rows.weight(index)

    @property
    def passed_over(self) -> int:
        """Documents that were left to others for their weight, and that this life did not see taken or settled."""
        with self._lock:
            return sum(index not in self._finished for index in self._passed)

    def too_heavy(self, index: int) -> bool:
        """Whether a document is left to others for its weight."""
        if self.heaviest is None or self._rows.weight(index) <= self.heaviest:
            return False
        with self._lock:
            self._passed.add(index)
        return True

    def finish(self, index: int) -> None:
        """A document needs no more work. Thread-safe."""
        with self._lock:
            self._finished.add(index)

    @property
    def sample_left(self) -> int | None:
        """Documents of the sample that are not done, nor others' to do; None without one."""
        with self._lock:
            left = sum(index not in self._finished and index not in self._passed_by for index in self._sample)
        return left if self._sample else None

    @property
    def assigned(self) -> int:
        """Documents that are this life's to do, as far as it knows: what others take from it is taken off."""
        with self._lock:
            return len(self._assigned)

    def reassign(self, index: int, mine: bool) -> None:
        """A document is this life's to do, or is not any more. Thread-safe."""
        with self._lock:
            (self._assigned.add if mine else self._assigned.discard)(index)

    def own(self) -> Iterator[tuple[Row, int]]:
        """Documents of the sample, then of the own partitions, that are worth a claim, with the claim's number."""
        for partition in sorted(self._mine):
            self._patient()(self._table.refresh, partition)
            self._refreshed[partition] = self._clock()
        for index in self._sample:
            if not self.is_mine(index):
                self._refresh(self.partition(index))
            found = list(self._worth(index))
            if not found:
                self._passed_by.add(index)
            yield from found
        mine = self._documents(sorted(self._mine))
        for index in self._rows.heaviest_first(self._finished.outside(mine)):
            found = list(self._worth(index))
            if not found and index not in self._taken:
                self.reassign(index, False)
            yield from found

    def far_ends(self) -> Iterator[tuple[Row, int]]:
        """From each partition, beginning behind the own ones: what is unclaimed, from its far end, and what the dead left.

        Comes to its end when a pass over all partitions found nothing that is free.
        """
        if self._clock() - self._caught_up >= LEDGER_SECONDS:
            self._patient()(self._catch_up)
        partitions = self._spec.partitions
        first = (max(self._mine, default=self._me.worker % partitions) + 1) % partitions
        for p in in_turn(first, partitions, self._me.worker):
            lightest_first = self._rows.heaviest_first(self._finished.outside(self._documents([p])))[::-1]
            if lightest_first:
                self._refresh(p)
            for index in spread(lightest_first, f"{self._me.worker} {p}"):
                yield from self._worth(index)

    def _worth(self, index: int) -> Iterator[tuple[Row, int]]:
        """The document with its claim's number, if it is worth a claim."""
        if index in self._finished:
            return
        newest = self._table.newest(index)
        if newest is not None and not self._patient()(self._free, newest):
            return
        if not self.too_heavy(index):
            yield self._rows[index], 0 if newest is None else newest.n + 1

    def _refresh(self, partition: int) -> bool:
        """List a partition's claims, unless that was done a moment ago. Whether it was done now."""
        now = self._clock()
        if now - self._refreshed.get(partition, float("-inf")) < STALE_SECONDS:
            return False
        self._patient()(self._table.refresh, partition)
        self._refreshed[partition] = now
        return True

    def took(self, index: int, n: int, mine: bool) -> None:
        """This life tried to take claim `n`: somebody has it now. Where that is often another life, the listing is old."""
        self._table.note(Claimed(index, n, False))
        # What another life took is no longer this one's, what is taken from another is.
        self.reassign(index, mine)
        if mine:
            self._taken.add(index)
            return
        partition = self.partition(index)
        self._lost[partition] += 1
        if self._lost[partition] >= LOSSES and self._refresh(partition):
            del self._lost[partition]

    def _free(self, newest: Claimed) -> bool:
        """Whether a claim may be taken over: given back, or its holder's life is over without having settled it."""
        if newest.released:
            return True
        known = self._holders.get(newest.index)
        if known is None or known[0] != newest.n:
            # Before claims are read one by one: most documents that others claimed a while ago are settled by now.
            if self._clock() - self._asked >= LEDGER_SECONDS and self._hear() and newest.index in self._finished:
                return False
            self._read_holders(newest)
        holder = self._holders[newest.index][1]
        if holder.same(self._me):
            return False
        now = self._clock()
        if now - self._living.get(holder, float("-inf")) < STALE_SECONDS:
            return False
        prefix = paths.life(self._spec.run_id, holder.worker, holder.attempt)
        verdict = self._observer.over(prefix)
        if verdict is None:
            self._living[holder] = now
            return False
        if not verdict.startswith(("fenced", "ended")):
            why = f"{verdict}, seen by worker {self._me.worker}/{self._me.attempt}"
            # Blames nobody: what ended it, a document or whoever ended all of this host's processes, only its parent can tell.
            fence(self._runs, prefix, why)
        if holder not in self._read:
            # Its last segments may have come after this life's first look: read them before taking anything over.
            self._mark(read_ledger(self._runs, [prefix]))
            self._read.add(holder)
        return newest.index not in self._finished

    def _read_holders(self, newest: Claimed) -> None:
        """Find out who holds a claim, and the others of its partition that were not read yet."""
        partition = self.partition(newest.index)
        unread = [newest]
        for index in self._finished.outside(self._documents([partition])).tolist():
            other = self._table.newest(index)
            if other is None or other.released or other == newest or index in self._taken:
                continue
            if index not in self._holders or self._holders[index][0] != other.n:
                unread.append(other)
                if len(unread) >= AHEAD:
                    break

        def read(claimed: Claimed) -> Holder:
            return self._claims.holder(partition, claimed.index, claimed.n)

        for claimed, holder in zip(unread, self._readers.map(read, unread), strict=True):
            self._holders[claimed.index] = (claimed.n, holder)

    def _documents(self, partitions: list[int]) -> NDArray[np.int64]:
        return documents_of(partitions, self._spec.documents, self._spec.partitions)

    def _look(self, row: Row) -> None:
        """Find the documents that need no work: done, or failed for good before the run began."""
        hopeless = row.failure is not None and (row.failure.category is Category.NAME or not self._retry_failed)
        if row.done or hopeless:
            self.finish(row.index)

    def _look_back(self) -> None:
        """What former lives settled, as the parent found it; where it said nothing, all that they ever wrote."""
        told = read_settled(self._runs, self._spec.run_id, self._epoch, self._spec.documents)
        if told is not None:
            self._take_in(told)
        else:
            self._mark(read_ledger(self._runs, [paths.workers(self._spec.run_id)]))

    def _catch_up(self) -> None:
        """What others settled meanwhile, as the parent keeps it; where it does not, all that they wrote."""
        if not self._hear():
            self._caught_up = self._clock()
            self._mark(read_ledger(self._runs, [paths.workers(self._spec.run_id)]))

    def _hear(self) -> bool:
        """What others settled meanwhile, as the parent keeps it. Whether it does."""
        told = read_settled(self._runs, self._spec.run_id, self._parent(), self._spec.documents)
        self._asked = self._clock()
        if told is None or not told.live:
            return False
        self._caught_up = self._asked
        self._take_in(told)
        self._holders = {index: held for index, held in self._holders.items() if index not in self._finished}
        return True

    def _take_in(self, told: Told) -> None:
        with self._lock:
            self._finished |= told.found

    def _mark(self, records: Iterator[Record]) -> None:
        for record in records:
            if settled(record, self._epoch, self._retry_failed):
                self.finish(record.index)


def spread(indices: Sequence[int], whose: str) -> Iterator[int]:
    """Indices, shuffled within windows of up to `SPREAD` of them, the same for the same `whose`. Pure.

    A window is a quarter of them at most: of a few documents the order stays.
    """
    window = max(1, min(SPREAD, len(indices) // 4))
    turn = random.Random(whose)  # noqa: S311 - an order of work
    for begin in range(0, len(indices), window):
        some = list(indices[begin : begin + window])
        turn.shuffle(some)
        yield from some
