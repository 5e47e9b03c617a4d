"""A tally of a ledger: what people want to see of any number of records, in three bytes a document and a few lists.

Records of several lives come in any order; what is settled does not come undone: published over skipped over failed, and
of two failures that of the later claim counts. The accounting proper is `tasks/corpus/audit.py`, which holds the ledger against
the output.
"""

from __future__ import annotations

import heapq
import math
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from tasks.corpus.failures import Category, Failure, Phase
from tasks.corpus.ledger import Outcome, Record
from tasks.corpus.trust import GOOD

SLOWEST = 25
DOUBTFUL = 15
"""Documents with the worst scores that are kept."""
EXAMPLES = 40
"""Documents kept of each cause: some may succeed later, and are no examples then."""
LONGEST = 500
"""Characters kept of a message."""
BUCKETS = 240
"""Of the time line, at most."""
BUCKET_SECONDS = 10.0
_YEAR_2001, _YEAR_2100 = 978_307_200.0, 4_102_444_800.0
_CONVERTED, _PARTIAL, _SKIPPED, _CAUSES = 1, 2, 3, 4
"""What a document's byte says; from `_CAUSES` on the number of its cause: 20 categories in 5 phases, quarantined or not."""


class Cause(NamedTuple):
    """What failures are grouped by."""

    category: Category
    phase: Phase
    quarantined: bool


class Example(NamedTuple):
    """One failed document of a cause."""

    document: int
    """Its index."""
    key: str
    message: str
    retryable: bool
    page: int | None
    worker: int
    attempt: int


class Slow(NamedTuple):
    """A document that took long; sorts by its seconds."""

    seconds: float
    document: int
    """Its index."""
    key: str
    name: str
    pages: int
    worker: int
    attempt: int
    partial: bool


class Doubtful(NamedTuple):
    """A document whose worst page cannot be trusted much; sorts by that, the worst last."""

    minus: float
    """Its worst page's score, negative."""
    document: int
    """Its index."""
    key: str
    name: str
    page: int
    """Number of the worst page."""
    mean: float
    pages: int
    worker: int
    attempt: int

    @property
    def worst(self) -> float:
        """The score of its worst page."""
        return -self.minus


T = TypeVar("T", Slow, Doubtful)


@dataclass
class LifeTally:
    """What one life recorded."""

    outcomes: int = 0
    pages: int = 0
    first: float | None = None
    """Seconds since 1970 of its first record, by its own clock."""
    last: float | None = None


class TimeLine:
    """Pages by time, in buckets that grow wider as the run grows longer: bounded, whatever the run."""

    def __init__(self) -> None:
        self.width = BUCKET_SECONDS
        """Seconds of a bucket."""
        self.buckets: dict[int, int] = {}
        """Number of the bucket (its begin over `width`): pages."""
        self._first: int | None = None
        self._last: int | None = None

    def add(self, at: float, pages: int) -> None:
        """Pages were done at `at`, in seconds since 1970; a clock that is decades off is passed over."""
        if not (math.isfinite(at) and _YEAR_2001 < at < _YEAR_2100):
            return
        bucket = int(at // self.width)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + pages
        self._first = bucket if self._first is None else min(self._first, bucket)
        self._last = bucket if self._last is None else max(self._last, bucket)
        while self._last - self._first >= BUCKETS:
            self.width *= 2
            self._first, self._last = self._first // 2, self._last // 2
            wider: dict[int, int] = {}
            for number, count in self.buckets.items():
                wider[number // 2] = wider.get(number // 2, 0) + count
            self.buckets = wider

    def points(self) -> list[tuple[float, float]]:
        """Begin of each bucket in seconds since 1970, and pages a second in it; empty ones, too."""
        if not self.buckets:
            return []
        return [
            (number * self.width, self.buckets.get(number, 0) / self.width)
            for number in range(min(self.buckets), max(self.buckets) + 1)
        ]


@dataclass
class Tally:
    """Feed it records; ask it at any time."""

    documents: int
    """Of the manifest."""
    pages: int = 0
    resumed_pages: int = 0
    """Taken from checkpoints."""
    engine_seconds: float = 0.0
    outcomes: int = 0
    """Records that closed a document."""
    failures: int = 0
    """Of them."""
    repeated: int = 0
    """Of them, those of documents that had one already: tried again by a later start, or found published."""
    lives: dict[tuple[int, int], LifeTally] = field(default_factory=dict)
    line: TimeLine = field(default_factory=TimeLine)
    _fates: bytearray = field(init=False)
    _claims: array[int] = field(init=False)
    _codes: dict[Cause, int] = field(default_factory=dict)
    _examples: dict[Cause, list[Example]] = field(default_factory=dict)
    _counts: array[int] = field(init=False)
    _slowest: list[Slow] = field(default_factory=list)
    _doubtful: list[Doubtful] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fates = bytearray(self.documents)
        self._claims = array("H", bytes(2 * self.documents))
        self._counts = array("Q", bytes(8 * 256))

    def add(self, record: Record) -> None:
        """Take a record in; one of a document that is not the run's is passed over."""
        if not 0 <= record.index < self.documents or not record.outcome.final:
            return
        life = self.lives.setdefault((record.worker, record.attempt), LifeTally())
        life.outcomes += 1
        life.first = record.at if life.first is None else min(life.first, record.at)
        life.last = record.at if life.last is None else max(life.last, record.at)
        self.outcomes += 1
        self.failures += record.failure is not None
        former = self._fates[record.index]
        self.repeated += former != 0
        if record.outcome.published:
            if former not in (_CONVERTED, _PARTIAL):
                self._publish(record, life)
        elif record.outcome is Outcome.SKIPPED:
            if former not in (_CONVERTED, _PARTIAL):
                self._settle(record, _SKIPPED)
        elif record.failure is not None and (former == 0 or (former >= _CAUSES and self._newer(record))):
            self._fail(record, record.failure)

    def _newer(self, record: Record) -> bool:
        """Of a later claim than the one that counts now."""
        return min(record.claim, 65535) >= self._claims[record.index]

    def _publish(self, record: Record, life: LifeTally) -> None:
        self._settle(record, _PARTIAL if record.partial else _CONVERTED)
        pages, total = record.pages or 0, record.seconds.get("total", 0.0)
        self.pages += pages
        life.pages += pages
        self.resumed_pages += record.resumed
        self.engine_seconds += record.seconds.get("engine", 0.0)
        self.line.add(record.at, pages)
        slow = Slow(total, record.index, record.key, record.name, pages, record.worker, record.attempt, record.partial)
        _keep(self._slowest, slow, SLOWEST)
        if (trust := record.trust) is not None and trust.worst < GOOD:
            of = (record.index, record.key, record.name, trust.pages[0].page, trust.mean, pages)
            _keep(self._doubtful, Doubtful(-trust.worst, *of, record.worker, record.attempt), DOUBTFUL)

    def _fail(self, record: Record, failure: Failure) -> None:
        cause = Cause(failure.category, failure.phase, record.outcome is Outcome.QUARANTINED)
        if cause not in self._codes:
            self._codes[cause] = _CAUSES + len(self._codes)
        self._settle(record, self._codes[cause])
        examples = self._examples.setdefault(cause, [])
        if len(examples) < EXAMPLES and all(example.document != record.index for example in examples):
            examples.append(
                Example(
                    record.index,
                    record.key,
                    failure.message[:LONGEST],
                    failure.retryable,
                    failure.page,
                    record.worker,
                    record.attempt,
                )
            )

    def _settle(self, record: Record, code: int) -> None:
        former = self._fates[record.index]
        if former:
            self._counts[former] -= 1
        self._fates[record.index] = code
        self._counts[code] += 1
        self._claims[record.index] = min(record.claim, 65535)

    # -- what it came to --------------------------------------------------------------------------------------------

    @property
    def converted(self) -> int:
        """Published by this run."""
        return self._counts[_CONVERTED] + self._counts[_PARTIAL]

    @property
    def partial(self) -> int:
        """Of them, with named gaps."""
        return self._counts[_PARTIAL]

    @property
    def skipped(self) -> int:
        """Somebody else's output was there."""
        return self._counts[_SKIPPED]

    @property
    def failed(self) -> int:
        """Failed and quarantined."""
        return sum(self._counts[_CAUSES:])

    @property
    def settled(self) -> int:
        """Documents with an outcome."""
        return self.converted + self.skipped + self.failed

    def causes(self) -> list[tuple[Cause, int]]:
        """How many documents failed of what, the most first."""
        found = [(cause, self._counts[code]) for cause, code in self._codes.items() if self._counts[code]]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def categories(self) -> dict[str, int]:
        """How many documents failed, by category alone, the most first."""
        found: dict[str, int] = {}
        for cause, count in self.causes():
            found[cause.category.value] = found.get(cause.category.value, 0) + count
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def examples(self, cause: Cause) -> list[Example]:
        """Documents that failed of it, and have not succeeded since."""
        code = self._codes.get(cause, 0)
        return [example for example in self._examples.get(cause, []) if self._fates[example.document] == code]

    def slowest(self) -> list[Slow]:
        """Documents that took longest, the slowest first."""
        return sorted(self._slowest, reverse=True)

    def doubtful(self) -> list[Doubtful]:
        """Documents with the worst pages, the worst first."""
        return sorted(self._doubtful, reverse=True)


def _keep(heap: list[T], item: T, most: int) -> None:
    """Into a heap of the `most` largest."""
    if len(heap) < most:
        heapq.heappush(heap, item)
    elif item > heap[0]:
        heapq.heapreplace(heap, item)
