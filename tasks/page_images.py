"""Pictures of pages of documents in a store, rendered in the sandbox: this process opens no PDF."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pymupdf

from tasks.corpus.failures import ConversionError, NotFound, StoreError
from tasks.corpus.ledger import Record
from tasks.corpus.store import Store
from tasks.engines.pagememory import RenderedPage
from tasks.engines.protocol import EngineName, Limits
from tasks.engines.sandbox import Sandbox

SIDE: Final = 1200
"""Pixels of a picture's longer side: small print can be read."""
QUALITIES: Final = (65, 45, 25)
"""Of JPEG, the best first: the next one is taken where a picture would be too large."""
MOST_FETCHED: Final = 500_000_000
"""Bytes: larger documents are not fetched for a picture."""


class PageImages:
    """Renders pages. A context manager; one thread.

    Args:
        source: where the documents are.
        scratch: an existing folder for this alone.
        passwords: to try on encrypted documents.
        limits: what a document may cost; those of the run.
    """

    def __init__(self, source: Store, scratch: Path, passwords: list[str], limits: Limits) -> None:
        self._source, self._passwords = source, passwords
        self._folder = scratch / "pages"
        self._folder.mkdir()
        self._sandbox = Sandbox(EngineName.DOLPHIN, limits, engine_options={"side": SIDE}, scratch=self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.close()

    def of(self, record: Record, pages: Sequence[int], room: int) -> tuple[dict[int, bytes | str], bool]:
        """JPEGs of some pages of a document, or why there is none; and whether the document is the one that was converted.

        Args:
            room: bytes that one may have.
        """
        pdf = self._folder / "document.pdf"
        try:
            info = self._source.head(record.key)
            if info is None:
                return dict.fromkeys(pages, "the PDF is not in the input any more"), True
            if info.size > MOST_FETCHED:
                return dict.fromkeys(pages, f"the PDF is too large to fetch for a picture ({info.size:,} bytes)"), True
            self._source.fetch(record.key, pdf)
        except NotFound:
            return dict.fromkeys(pages, "the PDF is not in the input any more"), True
        except StoreError as error:
            return dict.fromkeys(pages, f"the PDF can't be read: {error}"), True
        try:
            with pdf.open("rb") as file:
                same = record.source_sha256 in (None, hashlib.file_digest(file, "sha256").hexdigest())
            return {page: self._picture(pdf, page, room) for page in pages}, same
        finally:
            pdf.unlink(missing_ok=True)

    def _picture(self, pdf: Path, page: int, room: int) -> bytes | str:
        found: list[bytes | str] = []

        def take(rendered: RenderedPage) -> None:
            found.append(_jpeg(rendered, room) if rendered.gap is None else rendered.gap)

        try:
            self._sandbox.render(pdf, self._passwords, take, first=page, last=page)
        except ConversionError as error:
            return error.failure.message
        return found[0] if found else "the PDF has no such page any more"


def _jpeg(page: RenderedPage, room: int) -> bytes | str:
    picture = pymupdf.Pixmap(pymupdf.csRGB, page.width, page.height, bytes(page.samples), False)
    for quality in QUALITIES:
        data: bytes = picture.tobytes("jpeg", jpg_quality=quality)
        if len(data) <= room:
            return data
    return "its picture would be too large"
