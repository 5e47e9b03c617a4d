"""Checkpoints: finished pages of unfinished documents, so that another life of a worker goes on behind them.

A document's pages lie in segments, which are never rewritten: each is written once, under a name of its own, by the life that
finished the pages. A segment is lines of JSON, compressed: a header that says what it belongs to, with the sha256 of all that
follows, and a page a line. One that does not fit its header, or what is asked for, is ignored: that costs nothing but work.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.corpus import paths
from tasks.corpus.failures import Category, NotFound, StoreError
from tasks.corpus.names import printable
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store

MOST_BYTES: Final = 256 << 20
"""Of a segment, unpacked. Longer ones are not read; what is written is far shorter (`SEGMENT_BYTES`)."""
SEGMENT_BYTES: Final = 32 << 20
"""More pages than fit in so many bytes go into several segments; one page alone may be longer."""

_log = logging.getLogger(__name__)


class SavedPage(NamedTuple):
    """A finished page. `number` is 1-based."""

    number: int
    payload: str
    """The engine's own, opaque here."""
    files: Mapping[str, bytes] = {}
    """Files that belong to it, by plain names."""

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.payload) + sum(len(data) * 4 // 3 for data in self.files.values())


class Belonging(NamedTuple):
    """What finished pages are pages of."""

    content: str
    """sha256 of the PDF, hexadecimal."""
    engine: str
    """The engine's fingerprint."""
    document: int
    """Its index in the run's manifest: documents of the same content have checkpoints of their own."""


class Header(BaseModel):
    """The first line of a segment."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    content: str
    engine: str
    document: int
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """Of the document's time limit that were spent when its pages were done, in this and all earlier lives."""
    sha256: str
    """Of the bytes behind this line."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    payload: str
    files: dict[str, str] = {}


@dataclass(slots=True)
class Checkpoint:
    """What is kept of a document."""

    pages: dict[int, SavedPage] = field(default_factory=dict)
    seconds: float = 0.0
    """Of the document's time limit that were spent on them."""
    keys: list[str] = field(default_factory=list)
    """Of all its segments, those that were ignored too."""


class Foreign(ValueError):
    """What was read is no segment of these pages. The message says why."""


def pack(of: Belonging, pages: Iterable[SavedPage], seconds: float) -> bytes:
    """A segment. Pure. Raises UnicodeEncodeError for a payload that is no text."""
    lines = [
        _dump(
            {
                "number": page.number,
                "payload": page.payload,
                "files": {name: base64.b64encode(data).decode() for name, data in page.files.items()},
            }
        )
        for page in pages
    ]
    body = b"".join(lines)
    header = Header(**of._asdict(), seconds=seconds, sha256=hashlib.sha256(body).hexdigest())
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(_dump(header.model_dump()) + body)


def unpack(data: bytes, of: Belonging, most_pages: int) -> tuple[list[SavedPage], float]:
    """The pages of a segment, and the seconds spent. Pure. Raises Foreign for whatever is not exactly that."""
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(io.BytesIO(data)) as stream:
            plain = stream.read(MOST_BYTES + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Foreign(f"it cannot be unpacked: {error}") from None
    if len(plain) > MOST_BYTES:
        raise Foreign("it is too long")
    first, _, body = plain.partition(b"\n")
    try:
        header = Header.model_validate_json(first)
    except ValidationError:
        raise Foreign("it has no header") from None
    if header.schema_version != SCHEMA:
        raise Foreign(f"it is of version {header.schema_version}")
    if (header.content, header.engine, header.document) != of:
        raise Foreign("it is another document's, or another engine's")
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise Foreign("it is damaged")
    try:
        return [_page(line, most_pages) for line in body.splitlines()], header.seconds
    except ValueError as error:  # pydantic's and base64's errors are ValueErrors
        raise Foreign(f"it has a page that makes no sense: {type(error).__name__}") from None


def _page(line: bytes, most_pages: int) -> SavedPage:
    found = _Line.model_validate_json(line)
    if found.number > most_pages:
        raise ValueError("no such page")
    if not all(_plain(name) for name in found.files):
        raise ValueError("no plain file name")
    return SavedPage(
        found.number,
        found.payload,
        {name: base64.b64decode(text, validate=True) for name, text in found.files.items()},
    )


def _plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name and len(name.encode()) <= 255


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class Checkpoints:
    """One life's hand on the checkpoints of a run. Thread-safe."""

    def __init__(self, store: Store, run_id: str, worker: int, attempt: int) -> None:
        self._store = store
        self._run_id = run_id
        self._life = f"{worker}-{attempt}"
        self._lock = threading.Lock()
        self._written = 0
        self._may_delete = True

    def load(self, of: Belonging, most_pages: int) -> Checkpoint:
        """What is kept of a document: nothing where nothing can be trusted. Raises StoreError."""
        found = Checkpoint()
        for info in list(self._store.list(paths.checkpoint(self._run_id, *of))):
            found.keys.append(info.key)
            try:
                data = self._store.read(info.key) if info.size <= MOST_BYTES else b""
                pages, seconds = unpack(data, of, most_pages)
            except NotFound:
                continue
            except Foreign as error:
                _log.warning("the checkpoint %s is ignored: %s", printable(info.key), error)
                continue
            found.seconds = max(found.seconds, seconds)
            for page in pages:
                # Two lives may have finished the same page: either will do.
                found.pages.setdefault(page.number, page)
        return found

    def write(self, of: Belonging, pages: Iterable[SavedPage], seconds: float) -> Iterator[str]:
        """Keep finished pages. Gives the key of each segment right before it is written: to be gone through to its end.

        Raises StoreError, UnicodeEncodeError.
        """
        for some in _portions(pages):
            with self._lock:
                unique = f"{self._life}-{self._written:06d}"
                self._written += 1
            key = paths.segment(self._run_id, *of, unique)
            yield key
            # False means that our own earlier try did arrive: nobody else has this name.
            self._store.create(key, pack(of, some, seconds))

    def remove(self, keys: Iterable[str]) -> None:
        """Delete segments. Where the store refuses that, or fails, they are left to the sweep: said once, and never an error."""
        for key in keys:
            if not self._may_delete:
                return
            try:
                self._store.delete(key)
            except StoreError as error:
                # A store that refuses once will refuse always.
                self._may_delete = error.category is not Category.FORBIDDEN
                _log.warning("the checkpoint %s is left to be swept: %s", printable(key), error)


def sweep(store: Store, run_id: str) -> int:
    """Delete all checkpoints of a run whose documents are settled; how many objects that were.

    One listing, and nothing more where there are none. Raises StoreError: they cost a little, and harm nobody.
    """
    count = 0
    for info in list(store.list(paths.checkpoints(run_id))):
        store.delete(info.key)
        count += 1
    return count


def _portions(pages: Iterable[SavedPage]) -> Iterator[list[SavedPage]]:
    some: list[SavedPage] = []
    size = 0
    for page in pages:
        if some and size + page.size > SEGMENT_BYTES:
            yield some
            some, size = [], 0
        some.append(page)
        size += page.size
    if some:
        yield some
