"""The layout engine: plain pymupdf4llm 2.0 (layout mode) with its own decision about OCR.

It is given one page at a time, so that each can be handed over as soon as it is done. A page's Markdown depends on the others
in one thing: the levels of headings are those of the document's font sizes, and come last.

Around it: the progress of pages, refusal of pages that are too large to render, and a way down for pages on which the library
raises: they (and all that follow a third one) give their plain text layer instead, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import compress, pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines import memory
from tasks.engines.layout import threads as thread_bounds
from tasks.engines.markdown import clean
from tasks.engines.protocol import EngineResult, Handover, Inspection, Limits, Page, Progress

ENGINE_VERSION: Final = "1"
"""Of this engine's own code: changed when the same libraries give another text, or a page's payload is another."""
_LIBRARIES: Final = ("pymupdf", "pymupdf4llm", "pymupdf-layout", "rapidocr", "onnxruntime", "opencv-python-headless")
_MOST_RAISED: Final = 3
_HEADINGS: Final = frozenset({"title", "section-header"})
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
        from pymupdf4llm.helpers import document_layout, utils

        from tasks.engines import opening

        self._options = options
        self._opening: ModuleType = opening
        self._library: ModuleType = document_layout
        self._ocr = _GuardedOcr(opening.reason)
        # It loads every page and walks the form tree of the document for a table that Markdown never shows.
        utils.extract_form_fields_with_pages = lambda *_args, **_kwargs: {}
        document_layout.pymupdf.TOOLS.mupdf_display_errors(False)
        document_layout.pymupdf.TOOLS.mupdf_display_warnings(False)

    @property
    def versions(self) -> dict[str, str]:
        """The libraries, whose models come inside them, and this engine's own."""
        return {library: version(library) for library in _LIBRARIES} | {"layout": ENGINE_VERSION}

    def inspect(self, pdf: Path, passwords: list[str], limits: Limits) -> Inspection:
        """Open only. Raises ConversionError."""
        document = self._opening.open_document(pdf, passwords, limits)
        try:
            encrypted = bool(document.metadata and document.metadata.get("encryption"))
            return Inspection(pages=document.page_count, encrypted=encrypted)
        finally:
            document.close()

    def convert(
        self, pdf: Path, scratch: Path, passwords: list[str], limits: Limits, progress: Progress, handover: Handover
    ) -> EngineResult:
        """Convert one document. Raises ConversionError; MemoryError and the like pass."""
        conversion = _Conversion(self._opening, self._library, self._ocr, self._options, limits, pdf, passwords)
        return conversion.run(progress, handover)


class _GuardedOcr:
    """pymupdf4llm's own OCR function, but an error in it costs the page its OCR and not the document its conversion."""

    def __init__(self, reason: Callable[[BaseException], str]) -> None:
        self._reason = reason
        self._run: Callable[..., None] | None = None
        self.reasons: list[str] = []
        """Why there is none, of the pages since it was emptied."""

    def __call__(self, page: Any, **kwargs: Any) -> None:
        if self._run is None:
            # RapidOCR takes longer to import than all the rest, and most documents never need it.
            from pymupdf4llm.ocr import rapidocr_api

            self._run = rapidocr_api.exec_ocr
        try:
            self._run(page, **kwargs)
        except Exception as error:  # noqa: BLE001 - MuPDF, NumPy, OpenCV and ONNX each raise their own
            self.reasons.append(self._reason(error))


class LaidPage(BaseModel):
    """One page, laid out: all but the levels of its headings, which depend on the other pages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: list[str] = [""]
    """The text before, between and behind the places where the marks of headings go."""
    sizes: list[int] = []
    """Font sizes of the headings, in points."""
    plain: str | None = None
    """Why it is only the text layer."""
    raised: bool = False
    """Because the library raised."""
    gap: str | None = None
    ocr: list[str] = []
    """Why it has no OCR."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.parts) != len(self.sizes) + 1:
            raise ValueError("parts and headings do not fit")
        return self


class _Conversion:
    """One document's way through the library and, where that raises, down to its text layer."""

    def __init__(
        self,
        opening: ModuleType,
        library: ModuleType,
        ocr: _GuardedOcr,
        options: LayoutOptions,
        limits: Limits,
        pdf: Path,
        passwords: list[str],
    ) -> None:
        self._opening, self._library, self._ocr = opening, library, ocr
        self._options, self._limits = options, limits
        self._pdf, self._passwords = pdf, passwords
        self._document = self._open()
        self._raised: list[str] = []
        """Why the library raised, page after page."""
        self._same: dict[int, LaidPage] = {}
        """Pages by their object's number in the file: one that occurs twice was changed when it was converted."""

    def run(self, progress: Progress, handover: Handover) -> EngineResult:
        try:
            count = self._document.page_count
            done = {number: page for number in handover.done if (page := handover.known(number, LaidPage)) is not None}
            # Of all pages: a broken one can make MuPDF repair the file, and what comes then must not depend on what was done.
            lost, plain = self._survey(range(1, count + 1))
            if len(lost) == count:
                raise self._unreadable(Phase.OPEN, lost[1])
            pages = []
            for number in range(1, count + 1):
                page = done.get(number)
                if page is None:
                    progress(number, count)
                    page = self._page(number, lost.get(number), plain.get(number))
                    handover.finish(number, page.model_dump_json())
                if page.raised:
                    self._raised.append(page.plain or "")
                self._same.setdefault(self._object(number), page)
                pages.append(page)
            return self._result(pages)
        finally:
            self._document.close()

    def _open(self) -> Any:
        return self._opening.open_document(self._pdf, self._passwords, self._limits)

    def _survey(self, numbers: Iterable[int]) -> tuple[dict[int, str], dict[int, str]]:
        """The pages that cannot be loaded, and those that are too large to render (at 72 dpi: a pixel a point); why."""
        lost, plain = {}, {}
        for number in numbers:
            try:
                rect = self._document.load_page(number - 1).rect
            except self._opening.DAMAGE as error:
                lost[number] = self._opening.reason(error)
                continue
            if rect.width * rect.height > self._limits.max_pixels:
                plain[number] = f"too large to render ({rect.width:.0f} x {rect.height:.0f} points)"
        return lost, plain

    def _object(self, number: int) -> int:
        """The page's object in the file; a number of its own where that is broken."""
        try:
            return int(self._document.page_xref(number - 1)) or -number
        except self._opening.DAMAGE:
            return -number

    def _page(self, number: int, lost: str | None, plain: str | None) -> LaidPage:
        if lost is not None:
            return LaidPage(gap=lost)
        if (same := self._same.get(self._object(number))) is not None:
            return same
        if plain is not None:
            return self._text_layer(number, plain)
        if len(self._raised) >= _MOST_RAISED:
            return self._text_layer(number, self._raised[-1])
        self._ocr.reasons = []
        try:
            return self._laid(number)
        except Exception as error:  # noqa: BLE001 - what it raises on a document is not its to choose
            reason = self._opening.reason(error)
        # What it did to the page so far (OCR text, rotation) must not show.
        self._document.close()
        self._document = self._open()
        return self._text_layer(number, reason, raised=True)

    def _laid(self, number: int) -> LaidPage:
        """The page by the library: as it does a whole document's, but the levels of the headings."""
        found = self._library.parse_document(
            self._document,
            pages=[number - 1],
            force_text=True,
            use_ocr=self._options.ocr,
            ocr_dpi=self._options.ocr_dpi,
            ocr_function=self._ocr,
        )
        boxes = found.pages[0].boxes
        headings = [box.boxclass in _HEADINGS for box in boxes]
        for box in compress(boxes, headings):
            box.header_level = 0
        (chunk,) = found.to_markdown(page_chunks=True)
        text, sizes = chunk["text"], [int(box.max_fontsize) for box in compress(boxes, headings)]
        places = [int(box["pos"][0]) for box in compress(chunk["page_boxes"], headings)]
        parts = [clean(text[start:end]) for start, end in pairwise([0, *places, len(text)])]
        return LaidPage(parts=parts, sizes=sizes, ocr=self._ocr.reasons)

    def _result(self, laid: list[LaidPage]) -> EngineResult:
        marks = self._marks({size for page in laid for size in page.sizes})
        warnings = [f"page {number}: no OCR: {reason}" for number, page in enumerate(laid, 1) for reason in page.ocr]
        if attached := self._opening.attachments(self._document):
            warnings.append(f"{attached} attached file(s) not converted")
        pages = []
        for number, page in enumerate(laid, 1):
            if page.plain is not None:
                warnings.append(f"page {number}: text layer only: {page.plain}")
            marked = zip([marks[size] for size in page.sizes], page.parts[1:], strict=True)
            text = page.parts[0] + "".join(mark + part for mark, part in marked)
            pages.append(Page(number=number, text=text, gap=page.gap))
        if all(page.gap is not None for page in pages):
            raise self._unreadable(Phase.CONVERT, pages[0].gap or "")
        if not any(_VISIBLE.search(page.text) for page in pages) and self._has_text():
            raise ConversionError.of(
                Category.NO_TEXT, Phase.CONVERT, "the pages have text, and the engine returned none"
            )
        return EngineResult(pages=pages, warnings=warnings)

    def _marks(self, sizes: set[int]) -> dict[int, str]:
        """The mark of a heading by its font size, given all that the document has; the library's own rule."""
        boxes = {size: SimpleNamespace(boxclass="title", max_fontsize=size, header_level=0) for size in sizes}
        self._library.update_header_tags([SimpleNamespace(boxes=boxes.values())], sizes)
        return {size: "#" * box.header_level for size, box in boxes.items()}

    def _unreadable(self, phase: Phase, reason: str) -> ConversionError:
        if memory.words_say_so(reason):
            message = f"over the memory limit, {self._limits.memory_mb} MiB"
            return ConversionError.of(Category.MEMORY, phase, message, retryable=False)
        return ConversionError.of(Category.DAMAGED, phase, f"no page can be read: {reason}")

    def _text_layer(self, number: int, plain: str | None, *, raised: bool = False) -> LaidPage:
        try:
            text = clean(self._document.load_page(number - 1).get_text())
        except self._opening.DAMAGE as error:
            return LaidPage(plain=plain, raised=raised, gap=self._opening.reason(error))
        return LaidPage(parts=[text], plain=plain, raised=raised)

    def _has_text(self) -> bool:
        """Whether a page has a text layer, before the engine did anything to it."""
        self._document.close()
        self._document = self._open()
        layers = (self._text_layer(number, None) for number in range(1, self._document.page_count + 1))
        return any(_VISIBLE.search(layer.parts[0]) for layer in layers)
