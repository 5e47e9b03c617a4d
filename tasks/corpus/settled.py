"""What a parent found settled, as one small object: its workers need not read what others wrote.

A bit a document, compressed. The parent writes it before its first worker starts, and anew while it runs, from the ledgers that
its page reads anyway. It is that parent's own object, named by its epoch: nobody else writes it, bits are only ever added, and
a reader needs one GET and no listing. It may be behind what is settled and never ahead; who may convert a document is for
claims and the create-if-absent publish to say, whatever stands here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import zstandard
from pydantic import BaseModel, ValidationError

from tasks.corpus import paths
from tasks.corpus.audit import settled
from tasks.corpus.failures import NotFound
from tasks.corpus.ledger import Record
from tasks.corpus.partition import Bitmap
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store

_MOST_HEADER = 1000
"""Bytes."""


class SettledBy:
    """Finds the documents that records close.

    Args:
        epoch: for lives of this parent; None: of any later parent than the one whose life wrote the record.
    """

    def __init__(self, documents: int, retry_failed: bool, epoch: int | None = None) -> None:
        self.found = Bitmap(documents)
        self._documents, self._retry_failed, self._epoch = documents, retry_failed, epoch

    def __call__(self, record: Record) -> None:
        """Take a record in."""
        epoch = record.epoch + 1 if self._epoch is None else self._epoch
        if 0 <= record.index < self._documents and settled(record, epoch, self._retry_failed):
            self.found.add(record.index)


class _Header(BaseModel):
    """The first line."""

    schema_version: int = SCHEMA
    run_id: str
    epoch: int
    documents: int
    live: bool


@dataclass(frozen=True)
class Told:
    """What a parent said."""

    found: Bitmap
    live: bool
    """All but what the last minutes settled is in it; else what lives of its own settled is not."""


def encode_settled(run_id: str, epoch: int, documents: int, told: Told) -> bytes:
    """The object's bytes. Pure."""
    head = _Header(run_id=run_id, epoch=epoch, documents=documents, live=told.live).model_dump_json().encode()
    return zstandard.ZstdCompressor(write_checksum=True).compress(head + b"\n" + told.found.to_bytes())


def decode_settled(run_id: str, epoch: int, documents: int, data: bytes) -> Told | None:
    """What `encode_settled` was given; None for what is damaged, of another version, run or parent. Pure."""
    try:
        size = zstandard.frame_content_size(data)
        # A damaged size must not cost memory.
        if not 0 <= size <= _MOST_HEADER + len(Bitmap(documents).to_bytes()):
            return None
        line, _, bits = zstandard.ZstdDecompressor().decompress(data).partition(b"\n")
        head = _Header.model_validate_json(line)
    except (zstandard.ZstdError, ValidationError):
        return None
    if head != _Header(run_id=run_id, epoch=epoch, documents=documents, live=head.live):
        return None
    found = Bitmap.from_bytes(documents, bits)
    return Told(found, head.live) if found is not None else None


def read_settled(runs: Store, run_id: str, epoch: int, documents: int) -> Told | None:
    """What parent `epoch` says is settled; None where it says nothing that can be read. Raises StoreError."""
    try:
        data = runs.read(paths.settled(run_id, epoch))
    except NotFound:
        return None
    return decode_settled(run_id, epoch, documents, data)


class SettledBoard:
    """What parent `epoch` tells its workers. Thread-safe; says nothing before `begin`."""

    def __init__(self, runs: Store, run_id: str, epoch: int, documents: int, retry_failed: bool) -> None:
        self._runs, self._run_id, self._epoch, self._documents = runs, run_id, epoch, documents
        self._by = SettledBy(documents, retry_failed, epoch)
        self._lock = threading.Lock()
        self._begun = False
        self._told = -1
        """Documents in what was written last."""

    def take(self, record: Record) -> None:
        """A record of the ledger."""
        with self._lock:
            self._by(record)

    def begin(self, found: Bitmap, *, resumed: bool) -> None:
        """What was settled before this start; written at once. Raises StoreError.

        Args:
            resumed: former lives may have done much, and all of that is in it. In a run's first minute, nothing is.
        """
        with self._lock:
            self._by.found |= found
            self._write(live=resumed)
            self._begun = True
            self._told = -1

    def publish(self) -> None:
        """All that was taken in, if there is news. Raises StoreError."""
        with self._lock:
            if self._begun and len(self._by.found) != self._told:
                self._write(live=True)

    def _write(self, *, live: bool) -> None:
        told = Told(self._by.found, live)
        data = encode_settled(self._run_id, self._epoch, self._documents, told)
        self._runs.put(paths.settled(self._run_id, self._epoch), data)
        self._told = len(told.found)
