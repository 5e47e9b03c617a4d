"""PDF pages to pixels as upstream renders them, in the sandbox's child. No model here, and no torch.

Source: upstream's `convert_pdf_to_images` (utils/utils.py): the longer side becomes 896 pixels. The PNG that it goes
through changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pymupdf

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines import memory, opening
from tasks.engines.doubts import trusted_layer
from tasks.engines.markdown import clean
from tasks.engines.pagememory import RenderedPage
from tasks.engines.protocol import Inspection, Limits

_TEXT: Final = pymupdf.TEXTFLAGS_TEXT | pymupdf.TEXT_PRESERVE_IMAGES
_SCAN: Final = 0.8
"""Share of the page that an image covers: text there is another program's OCR."""


class PageRenderer:
    """Renders documents. `side`: pixels of a page's longer side."""

    name = "dolphin"

    def __init__(self, side: int) -> None:
        self._side = side
        pymupdf.TOOLS.mupdf_display_errors(False)
        pymupdf.TOOLS.mupdf_display_warnings(False)

    @property
    def versions(self) -> dict[str, str]:
        """What decides the pixels."""
        return {"pymupdf": version("pymupdf")}

    def inspect(self, pdf: Path, passwords: list[str], limits: Limits) -> Inspection:
        """Open only. Raises ConversionError."""
        document = opening.open_document(pdf, passwords, limits)
        try:
            return Inspection(
                pages=document.page_count, encrypted=bool(document.metadata and document.metadata.get("encryption"))
            )
        finally:
            document.close()

    def render(
        self,
        pdf: Path,
        passwords: list[str],
        first: int,
        limits: Limits,
        emit: Callable[[RenderedPage], None],
        last: int | None = None,
    ) -> Inspection:
        """Emit page after page; one that cannot be rendered is a gap. Raises ConversionError, also for one over the memory."""
        document = opening.open_document(pdf, passwords, limits)
        try:
            pages = int(document.page_count)
            for number in range(first, min(pages, last or pages) + 1):
                emit(self._page(document, number, pages, limits))
                # MuPDF keeps what pages share (fonts, images); pages of a scan share nothing, and would fill the memory.
                pymupdf.TOOLS.store_shrink(50)
            return Inspection(pages=pages)
        finally:
            document.close()

    def _page(self, document: opening.Document, number: int, pages: int, limits: Limits) -> RenderedPage:
        try:
            page = document.load_page(number - 1)
            longer = max(page.rect.width, page.rect.height)
            if not 0 < longer < float("inf"):
                return RenderedPage(number, pages, gap="the page has no size")
            scale = self._side / longer
            pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale))
            layer = _layer(page)
        except (*opening.DAMAGE, MemoryError) as error:
            if memory.error_says_so(error):
                # Not a gap: what is left of the memory is not enough for the pages behind it, they need a new process.
                message = f"over the memory limit, {limits.memory_mb} MiB"
                raise ConversionError.of(
                    Category.MEMORY, Phase.CONVERT, message, retryable=False, page=number
                ) from None
            return RenderedPage(number, pages, gap=opening.reason(error))
        if not pixmap.width or not pixmap.height:
            return RenderedPage(number, pages, gap="the page has no size")
        return RenderedPage(number, pages, pixmap.width, pixmap.height, pixmap.samples, layer=layer)


def _layer(page: Any) -> str | None:
    """The page's text layer, where it is the author's own and makes sense."""
    try:
        found = page.get_textpage(flags=_TEXT)
        area = abs(page.rect)
        images = (pymupdf.Rect(info["bbox"]) for info in found.extractIMGINFO())
        if any(abs(image & found.rect) > _SCAN * area for image in images):
            return None
        return trusted_layer(clean(found.extractText()))
    except (*opening.DAMAGE, MemoryError):
        return None
