"""The end of a ledger: a life's records as they come, each segment read once.

A writer numbers its segments without a gap and never rewrites one, so a reader asks for the next number until there is
none. Where it is far behind, it takes 32 segments at a time, as the writer merged them.
"""

from __future__ import annotations

from tasks.corpus.failures import NotFound, StoreError
from tasks.corpus.ledger import MERGED, Record, parse_segment
from tasks.corpus.store import Store


class LedgerTail:
    """One life's ledger from its beginning. Costs one request more than there are new segments.

    Args:
        prefix: of the life, ends with "/".
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._next = 0
        self.unreadable = 0
        """Segments that made no sense and were passed over."""

    def read(self, most: int) -> tuple[list[Record], bool]:
        """The records of up to about `most` further segments, and whether that was all there is. Raises StoreError."""
        found: list[Record] = []
        until = self._next + most
        while self._next < until:
            name = f"ledger-{self._next:06d}.jsonl"
            try:
                data = self._store.read(self._prefix + name)
            except NotFound:
                return found, True
            step = 1
            if self._next % MERGED == 0 and (merged := self._merged()) is not None:
                data, step = merged, MERGED
            try:
                found += parse_segment(data, self._prefix + name)
            except StoreError:
                self.unreadable += step
            self._next += step
        return found, False

    def _merged(self) -> bytes | None:
        last = self._next + MERGED - 1
        try:
            return self._store.read(f"{self._prefix}ledger+{self._next:06d}-{last:06d}.jsonl")
        except NotFound:
            return None
