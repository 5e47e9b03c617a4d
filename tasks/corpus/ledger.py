"""The ledger: one record for every outcome of every document, in segments that are never rewritten.

A life writes `ledger-<seq>.jsonl` below its own prefix, and 32 of them once more as `ledger+<first>-<last>.jsonl`: who reads
a large run's ledger reads those. An intent record is durable before the publishing PUT, so that an output without an outcome (a
lost response, a kill at the wrong instant) can be told from somebody else's.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from tasks.corpus.failures import Failure, StoreError
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store
from tasks.corpus.trust import Trust

FLUSH_SECONDS = 30.0
"""A record never waits longer."""
MERGED = 32
"""Segments that are written once more as one object: who reads the ledger of a large run reads those."""
MOST_UNMERGED = 1 << 24
"""Bytes of segments that a writer keeps for merging; beyond them (the store refused for long) it merges no more."""


class Outcome(StrEnum):
    """What became of a document in one life's hands."""

    INTENT = "intent"
    """About to publish; not an outcome yet."""
    CONVERTED = "converted"
    RECOVERED = "recovered"
    """Published by an earlier life of this run that could not say so."""
    SKIPPED = "skipped"
    """The output was there already and is not this run's."""
    FAILED = "failed"
    QUARANTINED = "quarantined"
    """Its sandbox child died twice: not tried again unless asked."""
    RELEASED = "released"
    """Given back unfinished (drain); not an outcome either."""

    @property
    def final(self) -> bool:
        """Whether it closes the document's account."""
        return self not in (Outcome.INTENT, Outcome.RELEASED)

    @property
    def published(self) -> bool:
        """Whether this run put the output there."""
        return self in (Outcome.CONVERTED, Outcome.RECOVERED)


class Publisher(NamedTuple):
    """The life that put an output there."""

    worker: int
    attempt: int


class Record(BaseModel):
    """One line of a ledger."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    worker: int
    attempt: int
    epoch: int
    index: int
    key: str
    name: str
    outcome: Outcome
    claim: int = 0
    at: float
    """Seconds since 1970 by the writer's clock: for people, never compared."""
    sha256: str | None = None
    """Of the Markdown (intent, converted, recovered)."""
    source_sha256: str | None = None
    bytes: int | None = None
    pages: int | None = None
    resumed: int = 0
    """Pages taken from a checkpoint of an earlier life."""
    gaps: list[int] = Field(default_factory=list)
    """Pages that are named gaps in the output: the document is partial."""
    ways: dict[str, str] = Field(default_factory=dict)
    """How the pages' text was come by, where the engine has several ways: the way -> its pages, such as "1-6,8"."""
    trust: Trust | None = None
    """How far the text can be trusted, where the engine can tell."""
    warnings: list[str] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict)
    """fetch, engine, publish, total."""
    engine: str | None = None
    failure: Failure | None = None
    publisher: Publisher | None = None
    """Of a recovered output: the life whose intent it fulfils."""

    @property
    def partial(self) -> bool:
        """Published with named gaps."""
        return bool(self.gaps)

    @property
    def published_by(self) -> Publisher:
        """The life that put the output there, for a published record."""
        return self.publisher or Publisher(self.worker, self.attempt)


class Counts(BaseModel):
    """What became of a life's documents so far."""

    assigned: int = 0
    """To do or done, as far as the life knows."""
    converted: int = 0
    skipped: int = 0
    failed: int = 0
    released: int = 0
    pages: int = 0

    @computed_field
    @property
    def processed(self) -> int:
        """Documents with an outcome."""
        return self.converted + self.skipped + self.failed

    def count(self, record: Record) -> None:
        """One more document's end."""
        if record.outcome.published:
            self.converted += 1
            self.pages += record.pages or 0
        elif record.outcome is Outcome.SKIPPED:
            self.skipped += 1
        elif record.outcome is Outcome.RELEASED:
            self.released += 1
        else:
            self.failed += 1


class LedgerWriter:
    """Writes one life's segments. Thread-safe; concurrent flushes share one segment (group commit).

    Args:
        prefix: of the life, ends with "/".
        clock: monotonic seconds.
    """

    def __init__(self, store: Store, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self._adding = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[Record] = []
        self._oldest: float | None = None
        self._unsure: tuple[int, bytes] | None = None
        self._added = 0
        self._written = 0
        self._next = 0
        self._unmerged: list[bytes] = []
        self._merging = True

    def add(self, record: Record) -> int:
        """Take a record in; durable after the next flush. Returns the place to hand to `flush`."""
        with self._adding:
            self._waiting.append(record)
            if self._oldest is None:
                self._oldest = self._clock()
            self._added += 1
            return self._added

    def flush(self, upto: int | None = None) -> None:
        """Make all records (those up to `upto`) durable. Raises StoreError; nothing is lost then, flush again."""
        with self._writing:
            if upto is not None and self._written >= upto:
                return
            if self._unsure is not None:
                # A segment whose PUT failed may be there after all: the same bytes under the same name settle it.
                self._create(*self._unsure)
            with self._adding:
                records, added = self._waiting, self._added
                if not records:
                    return
                self._waiting, self._oldest = [], None
            data = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records).encode()
            self._unsure = (added, data)
            self._create(added, data)

    def flush_if_due(self, age: float = FLUSH_SECONDS / 2) -> None:
        """Flush where the oldest record has waited `age` seconds."""
        with self._adding:
            due = self._unsure is not None or (self._oldest is not None and self._clock() - self._oldest >= age)
        if due:
            self.flush()

    def _create(self, added: int, data: bytes) -> None:
        # False means that our own earlier try did arrive: nobody else writes below this life's prefix.
        self._store.create(f"{self._prefix}ledger-{self._next:06d}.jsonl", data)
        self._next += 1
        self._written = added
        self._unsure = None
        if self._merging:
            self._unmerged.append(data)
            if len(self._unmerged) >= MERGED:
                self._merge()

    def _merge(self) -> None:
        """Write the last segments once more, as one. Nothing depends on it: a store that fails is asked again later."""
        first, last = self._next - len(self._unmerged), self._next - 1
        try:
            self._store.create(f"{self._prefix}ledger+{first:06d}-{last:06d}.jsonl", b"".join(self._unmerged))
        except StoreError:
            self._merging = sum(map(len, self._unmerged)) <= MOST_UNMERGED
            if self._merging:
                return
        self._unmerged = []


_SEGMENT = re.compile(r"ledger-(\d+)\.jsonl\Z")
_MERGED = re.compile(r"ledger\+(\d+)-(\d+)\.jsonl\Z")


def segments(keys: Iterable[str]) -> Iterator[str]:
    """The keys of a sorted listing that have to be read: merged segments, and those that are in no merged one. Pure; streams.

    "+" sorts before "-", so that a life's merged segments come before the others.
    """
    folder, covered = "", list[tuple[int, int]]()
    for key in keys:
        here, _, name = key.rpartition("/")
        if here != folder:
            folder, covered = here, []
        if (merged := _MERGED.match(name)) is not None:
            first, last = int(merged[1]), int(merged[2])
            if not any(begin <= first and last <= end for begin, end in covered):
                covered.append((first, last))
                yield key
        elif (one := _SEGMENT.match(name)) is not None:
            number = int(one[1])
            if not any(begin <= number <= end for begin, end in covered):
                yield key


def parse_segment(data: bytes, key: str) -> list[Record]:
    """The records of a segment. Raises StoreError for one that can't be read, rather than lose an outcome silently."""
    try:
        return [Record.model_validate_json(line) for line in data.splitlines() if line]
    except ValidationError as error:
        raise StoreError(f"the ledger segment {key} can't be read: {error.errors()[0]['msg']}") from error


def read_ledger(store: Store, prefixes: Iterable[str], *, parallel: int = 16) -> Iterator[Record]:
    """All records below the prefixes: in order within a life, lives in order of their keys; `parallel` reads at a time."""
    with ThreadPoolExecutor(parallel, thread_name_prefix="ledger") as pool:
        for prefix in prefixes:
            keys = segments(info.key for info in store.list(prefix))
            while some := list(islice(keys, 512)):
                for key, data in zip(some, pool.map(store.read, some), strict=True):
                    yield from parse_segment(data, key)
