"""What a start of a run found settled already, as one small object: its workers need not read what former lives wrote.

A bit a document, compressed. The parent writes it before its first worker starts; the ledgers of all former lives are in it.
"""

from __future__ import annotations

import zstandard

from tasks.corpus import paths
from tasks.corpus.audit import settled
from tasks.corpus.failures import NotFound
from tasks.corpus.ledger import Record
from tasks.corpus.partition import Bitmap
from tasks.corpus.store import Store


class SettledBy:
    """Finds the documents that records close for lives of later parents than those that wrote them."""

    def __init__(self, documents: int, retry_failed: bool) -> None:
        self.found = Bitmap(documents)
        self._documents, self._retry_failed = documents, retry_failed

    def __call__(self, record: Record) -> None:
        """Take a record in."""
        if record.index < self._documents and settled(record, record.epoch + 1, self._retry_failed):
            self.found.add(record.index)


def write_settled(runs: Store, run_id: str, epoch: int, found: Bitmap) -> None:
    """Write what parent `epoch` found. Raises StoreError."""
    runs.put(paths.settled(run_id, epoch), zstandard.ZstdCompressor(write_checksum=True).compress(found.to_bytes()))


def read_settled(runs: Store, run_id: str, epoch: int, documents: int) -> Bitmap | None:
    """What parent `epoch` found settled; None where it said nothing that can be read. Raises StoreError."""
    try:
        data = zstandard.ZstdDecompressor().decompress(runs.read(paths.settled(run_id, epoch)))
    except (NotFound, zstandard.ZstdError):
        return None
    return Bitmap.from_bytes(documents, data)
