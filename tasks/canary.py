"""The canary as a governor: one worker converts a sample, then the others are launched, or the run is stopped."""

from __future__ import annotations

import heapq
import logging
from array import array
from collections.abc import Callable, Iterable

from tasks.corpus import paths
from tasks.corpus.failures import NotFound, StoreError
from tasks.corpus.manifest import Row
from tasks.corpus.partition import Bitmap
from tasks.corpus.rowtable import weight_of
from tasks.corpus.store import Store
from tasks.fleet import canary
from tasks.fleet.canary import Verdict
from tasks.fleet.supervisor import Fleet
from tasks.governing import Ruling, Seen
from tasks.treasury import Treasury

_log = logging.getLogger("pdf_flows.canary")


class Waiting:
    """What waits when a run starts: its weight, and a sample by size."""

    def __init__(self, rows: Iterable[Row], settled: Bitmap) -> None:
        self._indices, self._weights = array("I"), array("Q")
        for row in rows:
            if not row.done and row.failure is None and row.index not in settled:
                self._indices.append(row.index)
                self._weights.append(weight_of(row))
        self.weight = float(sum(self._weights))

    def sample(self, count: int) -> list[int]:
        """Indices of `count` documents, evenly by size, the heaviest first: they take longest."""
        places = canary.by_size(self._weights, count)
        return [self._indices[p] for p in heapq.nlargest(len(places), places, key=self._weights.__getitem__)]


def read_verdict(runs: Store, run_id: str) -> Verdict | None:
    """What a former start's canary came to, None where there was none. Raises StoreError."""
    try:
        return Verdict(runs.read(paths.canary(run_id)).decode(errors="replace"))
    except (NotFound, ValueError):
        return None


def keep_verdict(runs: Store, run_id: str, verdict: Verdict) -> None:
    """Write a verdict down. A store that fails now only makes the next start ask again."""
    try:
        runs.put(paths.canary(run_id), verdict.value.encode())
    except StoreError as failure:
        _log.warning("%s", failure)


class Canary:
    """Holds all workers but the first back until the sample has been converted.

    Args:
        documents: of the sample.
        workers: that the run is to have.
        weight: of all documents that wait.
        deadline: seconds from the start, None without one.
        keep: called with each new verdict, for a start that comes after this one.
    """

    def __init__(
        self,
        documents: int,
        workers: int,
        weight: float,
        *,
        max_failure_rate: float,
        treasury: Treasury | None,
        budget: float | None,
        deadline: float | None,
        keep: Callable[[Verdict], None] = lambda verdict: None,
    ) -> None:
        self._documents, self._workers, self._weight = documents, workers, weight
        self._max_failure_rate, self._treasury = max_failure_rate, treasury
        self._budget, self._deadline = budget, deadline
        self._verdict = Verdict.PENDING
        self._keep = keep
        keep(self._verdict)

    def launching(self, worker: int, launch: int) -> None:
        """Nothing to do."""

    def govern(self, fleet: Fleet, seen: Seen, now: float) -> Ruling:
        """Wait for the sample, then judge it once."""
        if self._verdict is not Verdict.PENDING:
            return Ruling()
        self._verdict, why = canary.judge(self._sample(seen))
        if self._verdict is not Verdict.PENDING:
            self._keep(self._verdict)
        match self._verdict:
            case Verdict.PASSED:
                # A wish to scale that came meanwhile counts for more.
                wanted = None if fleet.by_hand else self._workers
                return Ruling(wanted=wanted, say=[why])
            case Verdict.FAILED:
                return Ruling(stop=f"{why}; --canary 0 goes on without one")
            case _:
                return Ruling()

    def _sample(self, seen: Seen) -> canary.Sample:
        totals = seen.totals
        money = self._treasury.money() if self._treasury is not None else None
        elapsed = self._treasury.elapsed if self._treasury is not None else 0.0
        # What a life did and could not say before it died is done all the same: its successor finds it.
        left = min((b.sample_left for b in seen.beats.values() if b.sample_left is not None), default=self._documents)
        return canary.Sample(
            documents=self._documents,
            done=max(totals.sampled, self._documents - left),
            published=totals.converted,
            failed=totals.failed,
            processed=totals.processed,
            ended=any(beat.ended == "complete" for beat in seen.beats.values()),
            max_failure_rate=self._max_failure_rate,
            pace=totals.weight / totals.working_seconds if totals.weight and totals.working_seconds > 0 else None,
            left=max(0.0, self._weight - totals.weight),
            workers=self._workers,
            usd_per_hour=self._treasury.rate.likely if self._treasury is not None else None,
            spent=money.spent if money is not None else 0.0,
            budget=self._budget,
            seconds_left=None if self._deadline is None else self._deadline - elapsed,
        )
