"""The manifest: the run's frozen, sorted list of documents, as zstd-compressed JSON lines.

Streamed both ways, so that a million rows need no memory to speak of: a worker reads its partition row by row and keeps
bitmaps only.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tasks.corpus.failures import Failure, Unreadable
from tasks.corpus.paths import SCHEMA

_CHUNK = 1 << 15
"""Compressed bytes read at a time."""
_encoder = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One document of the run."""

    index: int
    key: str
    """Relative to the input root."""
    name: str
    """Of its Markdown, relative to the output root."""
    size: int
    etag: str
    done: bool = False
    """Its output existed when the manifest was frozen: skipped."""
    stale: bool = False
    """Done, but its output was made from another version of the document."""
    failure: Failure | None = None
    """Failed before any work: a name that can't be supported, or a permanent failure of an earlier run."""
    pages: int | None = None


def encode(row: Row) -> str:
    """One line, without its newline."""
    data: dict[str, object] = {"index": row.index, "key": row.key, "name": row.name, "size": row.size, "etag": row.etag}
    if row.done:
        data["done"] = True
    if row.stale:
        data["stale"] = True
    if row.failure is not None:
        data["failure"] = row.failure.model_dump(mode="json")
    if row.pages is not None:
        data["pages"] = row.pages
    return _encoder.encode(data)


def decode(line: str) -> Row:
    """The row of a line. Raises ValueError or KeyError for anything else."""
    data = json.loads(line)
    failure = data.get("failure")
    return Row(
        index=data["index"],
        key=data["key"],
        name=data["name"],
        size=data["size"],
        etag=data["etag"],
        done=data.get("done", False),
        stale=data.get("stale", False),
        failure=Failure.model_validate(failure) if failure is not None else None,
        pages=data.get("pages"),
    )


class ManifestWriter:
    """Compresses rows as they come; `finish` gives the object's bytes."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._stream = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(self._buffer, closefd=False)
        self._lines: list[str] = [json.dumps({"schema": SCHEMA})]
        self.documents = 0

    def add(self, row: Row) -> None:
        """The next row; indices count from 0 without gaps."""
        if row.index != self.documents:
            raise ValueError(f"row {row.index} at place {self.documents}")
        self.documents += 1
        self._lines.append(encode(row))
        if len(self._lines) >= 4096:
            self._drain()

    def finish(self) -> bytes:
        """All of it, compressed."""
        self._drain()
        self._stream.close()  # type: ignore[no-untyped-call]
        return self._buffer.getvalue()

    def _drain(self) -> None:
        if self._lines:
            self._stream.write(("\n".join(self._lines) + "\n").encode())
            self._lines.clear()


class Manifest:
    """A manifest in a local file, read as a stream any number of times."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> Iterator[Row]:
        """All rows in order. Raises Unreadable where the file is not a manifest that this code can read."""
        return (row for _, row in self.lines())

    def lines(self) -> Iterator[tuple[str, Row]]:
        """All rows in order, each with its line. Raises as `rows`."""
        try:
            lines = self._lines()
            header = json.loads(next(lines, "null"))
            if not isinstance(header, dict) or header.get("schema") != SCHEMA:
                raise Unreadable(f"manifest of another version ({header!r}); this code reads version {SCHEMA}")
            for line in lines:
                yield line, decode(line)
        except (zstandard.ZstdError, ValueError, KeyError) as error:
            raise Unreadable(f"the manifest can't be read: {error}") from error

    def _lines(self) -> Iterator[str]:
        # Not a stream_reader: that one takes a file that was cut short for the end, and the run would lose documents.
        plain = zstandard.ZstdDecompressor().decompressobj()
        rest = b""
        with self.path.open("rb") as raw:
            while chunk := raw.read(_CHUNK):
                *lines, rest = (rest + plain.decompress(chunk)).split(b"\n")
                for line in lines:
                    yield line.decode()
        if not plain.eof or rest:
            raise Unreadable("the manifest can't be read: it is cut short")


def write_rows(rows: Iterable[Row]) -> tuple[bytes, int]:
    """All rows compressed, and their number."""
    writer = ManifestWriter()
    for row in rows:
        writer.add(row)
    return writer.finish(), writer.documents
