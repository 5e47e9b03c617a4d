"""The layout engine: plain pymupdf4llm 2.0 (layout mode) with its own decision about OCR.

Around it: the progress of pages, refusal of pages that are too large to render, and a way down for documents on which the
library raises: the pages that raise (three at most, then all) give their plain text layer instead, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines import memory
from tasks.engines.layout import threads as thread_bounds
from tasks.engines.markdown import clean
from tasks.engines.protocol import EngineResult, Inspection, Limits, Page, Progress

_LIBRARIES: Final = ("pymupdf", "pymupdf4llm", "pymupdf-layout", "rapidocr", "onnxruntime", "opencv-python-headless")
_MAX_ROUNDS: Final = 3
_VISIBLE = re.compile(r"\S")


class LayoutOptions(BaseModel):
    """Settings of the layout engine. Identity of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ocr: bool = True
    """RapidOCR on the pages where the library decides that it is needed."""
    ocr_dpi: int = 150
    """Resolution at which pages are rendered for OCR."""


class LayoutEngine:
    """Born-digital PDFs, and scans by way of OCR, to Markdown. Loads its libraries and models when it is made."""

    name = "layout"

    def __init__(self, options: LayoutOptions, threads: int) -> None:
        thread_bounds.bound(threads)
        import pymupdf4llm
        from pymupdf4llm.helpers import document_layout, utils

        from tasks.engines import opening

        self._options = options
        self._opening: ModuleType = opening
        self._to_markdown: Callable[..., list[dict[str, Any]]] = pymupdf4llm.to_markdown
        self._ocr = _GuardedOcr(opening.reason)
        # It loads every page and walks the form tree of the document for a table that Markdown never shows.
        utils.extract_form_fields_with_pages = lambda *_args, **_kwargs: {}
        document_layout.pymupdf.TOOLS.mupdf_display_errors(False)
        document_layout.pymupdf.TOOLS.mupdf_display_warnings(False)

    @property
    def versions(self) -> dict[str, str]:
        """The libraries; their models come inside them."""
        return {library: version(library) for library in _LIBRARIES}

    def inspect(self, pdf: Path, passwords: list[str], limits: Limits) -> Inspection:
        """Open only. Raises ConversionError."""
        document = self._opening.open_document(pdf, passwords, limits)
        try:
            encrypted = bool(document.metadata and document.metadata.get("encryption"))
            return Inspection(pages=document.page_count, encrypted=encrypted)
        finally:
            document.close()

    def convert(
        self, pdf: Path, scratch: Path, passwords: list[str], limits: Limits, progress: Progress
    ) -> EngineResult:
        """Convert one document. Raises ConversionError; MemoryError and the like pass."""
        return _Conversion(self._opening, self._to_markdown, self._ocr, self._options, limits).run(
            pdf, passwords, progress
        )


class _GuardedOcr:
    """pymupdf4llm's own OCR function, but an error in it costs the page its OCR and not the document its conversion."""

    def __init__(self, reason: Callable[[BaseException], str]) -> None:
        self._reason = reason
        self._run: Callable[..., None] | None = None
        self.warnings: list[str] = []

    def __call__(self, page: Any, **kwargs: Any) -> None:
        if self._run is None:
            # RapidOCR takes longer to import than all the rest, and most documents never need it.
            from pymupdf4llm.ocr import rapidocr_api

            self._run = rapidocr_api.exec_ocr
        try:
            self._run(page, **kwargs)
        except Exception as error:  # noqa: BLE001 - MuPDF, NumPy, OpenCV and ONNX each raise their own
            self.warnings.append(f"page {page.number + 1}: no OCR: {self._reason(error)}")


class _Conversion:
    """One document's way through the library and, where that raises, down to its text layer."""

    def __init__(
        self,
        opening: ModuleType,
        to_markdown: Callable[..., list[dict[str, Any]]],
        ocr: _GuardedOcr,
        options: LayoutOptions,
        limits: Limits,
    ) -> None:
        self._opening, self._to_markdown, self._ocr = opening, to_markdown, ocr
        self._options, self._limits = options, limits
        self._plain: dict[int, str] = {}
        """Pages that are not for the library, and why."""
        self._lost: dict[int, str] = {}
        """Pages that cannot even be loaded, and why."""

    def run(self, pdf: Path, passwords: list[str], progress: Progress) -> EngineResult:
        self._ocr.warnings = []
        document = self._opening.open_document(pdf, passwords, self._limits)
        try:
            count = document.page_count
            self._survey(document)
            if len(self._lost) == count:
                raise self._unreadable(Phase.OPEN, self._lost[1])
            texts: dict[int, str] = {}
            for _ in range(_MAX_ROUNDS):
                wanted = [number for number in range(1, count + 1) if number not in self._plain | self._lost]
                if not wanted:
                    break
                self._ocr.warnings = []
                at = _Reached(progress, count)
                try:
                    texts = self._convert_pages(document, wanted, at)
                    break
                except Exception as error:  # noqa: BLE001 - what it raises on a document is not its to choose
                    reason = self._opening.reason(error)
                    self._plain[at.page or wanted[0]] = reason
                # What it did to the document so far (OCR text, rotation) would be done twice.
                document.close()
                document = self._opening.open_document(pdf, passwords, self._limits)
            else:
                self._plain |= dict.fromkeys(wanted, reason)
            return self._result(document, count, texts)
        finally:
            document.close()

    def _survey(self, document: Any) -> None:
        """Find the pages that cannot be loaded and those that are too large to render (at 72 dpi: a pixel a point)."""
        for number in range(1, document.page_count + 1):
            try:
                rect = document.load_page(number - 1).rect
            except self._opening.DAMAGE as error:
                self._lost[number] = self._opening.reason(error)
                continue
            if rect.width * rect.height > self._limits.max_pixels:
                self._plain[number] = f"too large to render ({rect.width:.0f} x {rect.height:.0f} points)"

    def _convert_pages(self, document: Any, wanted: list[int], at: _Reached) -> dict[int, str]:
        document.on_page = at
        try:
            chunks = self._to_markdown(
                document,
                page_chunks=True,
                pages=[number - 1 for number in wanted],
                use_ocr=self._options.ocr,
                ocr_dpi=self._options.ocr_dpi,
                ocr_function=self._ocr,
            )
        finally:
            document.on_page = None
        return {int(chunk["metadata"]["page_number"]): clean(chunk["text"]) for chunk in chunks}

    def _result(self, document: Any, count: int, texts: dict[int, str]) -> EngineResult:
        warnings = list(self._ocr.warnings)
        if attached := self._opening.attachments(document):
            warnings.append(f"{attached} attached file(s) not converted")
        pages = []
        for number in range(1, count + 1):
            if number in texts:
                pages.append(Page(number=number, text=texts[number]))
            elif number in self._lost:
                pages.append(Page(number=number, text="", gap=self._lost[number]))
            else:
                warnings.append(f"page {number}: text layer only: {self._plain[number]}")
                pages.append(self._text_layer(document, number))
        if all(page.gap is not None for page in pages):
            raise self._unreadable(Phase.CONVERT, pages[0].gap or "")
        if not any(_VISIBLE.search(page.text) for page in pages) and self._has_text(document, pages):
            raise ConversionError.of(
                Category.NO_TEXT, Phase.CONVERT, "the pages have text, and the engine returned none"
            )
        return EngineResult(pages=pages, warnings=warnings)

    def _unreadable(self, phase: Phase, reason: str) -> ConversionError:
        if memory.words_say_so(reason):
            message = f"over the memory limit, {self._limits.memory_mb} MiB"
            return ConversionError.of(Category.MEMORY, phase, message, retryable=False)
        return ConversionError.of(Category.DAMAGED, phase, f"no page can be read: {reason}")

    def _text_layer(self, document: Any, number: int) -> Page:
        try:
            return Page(number=number, text=clean(document.load_page(number - 1).get_text()))
        except self._opening.DAMAGE as error:
            return Page(number=number, text="", gap=self._opening.reason(error))

    def _has_text(self, document: Any, pages: list[Page]) -> bool:
        layers = (self._text_layer(document, page.number).text for page in pages if page.gap is None)
        return any(_VISIBLE.search(layer) for layer in layers)


class _Reached:
    """Passes on the progress, and remembers the page in hand."""

    def __init__(self, progress: Progress, pages: int) -> None:
        self._progress, self._pages = progress, pages
        self.page: int | None = None

    def __call__(self, page: int) -> None:
        self.page = page
        self._progress(page, self._pages)
