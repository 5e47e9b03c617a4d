"""The layout engine: pages to Markdown on a CPU, each by the best way that it allows.

A page's parts come from PyMuPDF's layout model, its text from the text layer or from RapidOCR, as the evidence of the page says
(`choice.py`); what is put together of them is this engine's own. A page that fails in one way is tried in a cheaper one, and
where it costs the process, the sandbox asks again and says so. Each page is handed over as soon as it is done: its Markdown
depends on the others in one thing, the levels of headings, which are those of the document's font sizes and come last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines import memory
from tasks.engines.layout import threads as thread_bounds
from tasks.engines.layout.choice import MOST_FALLEN, Way, after
from tasks.engines.layout.headings import marks
from tasks.engines.layout.ocr import Reader
from tasks.engines.markdown import clean
from tasks.engines.protocol import EngineResult, Fall, Handover, Inspection, Limits, Page, Progress
from tasks.engines.trust import GAP, PageTrust

if TYPE_CHECKING:
    from tasks.engines.layout.page import PageReader, Read

ENGINE_VERSION: Final = "3"
"""Of this engine's own code: changed when the same libraries give another text, or a page's payload is another."""
_LIBRARIES: Final = ("pymupdf", "pymupdf4llm", "pymupdf-layout", "rapidocr", "onnxruntime", "opencv-python-headless")
_VISIBLE = re.compile(r"\S")


class LayoutOptions(BaseModel):
    """Settings of the layout engine. Identity of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ocr: bool = True
    """RapidOCR on the pages whose text layer is missing, or not to be trusted."""
    ocr_dpi: int = 150
    """Resolution at which pages are first rendered for OCR; where the text is small, they are rendered again."""


class LayoutEngine:
    """Born-digital PDFs, and scans by way of OCR, to Markdown. Loads its libraries and models when it is made."""

    name = "layout"
    shares = True

    def __init__(self, options: LayoutOptions, threads: int) -> None:
        # Importing PyMuPDF loads its layout model: not before the threads are bounded.
        thread_bounds.bound(threads)
        import pymupdf
        import pymupdf.layout  # gives `Page.get_layout` its model

        from tasks.engines import opening
        from tasks.engines.layout.page import PageReader

        self._options = options
        self._opening: ModuleType = opening
        self._ocr = Reader() if options.ocr else None
        self._make_reader = PageReader
        pymupdf.TOOLS.unset_quad_corrections(True)
        pymupdf.TOOLS.mupdf_display_errors(False)
        pymupdf.TOOLS.mupdf_display_warnings(False)

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
        reader = self._make_reader(self._ocr, self._options.ocr_dpi, limits.max_pixels)
        return Conversion(self._opening, reader, limits, pdf, passwords).run(progress, handover)


class LaidPage(BaseModel):
    """One page, laid out: all but the levels of its headings, which depend on the other pages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: list[str] = [""]
    """The text before, between and behind the places where the marks of headings go."""
    sizes: list[int] = []
    """Font sizes of the headings, in points."""
    way: Way = Way.LAYOUT
    notes: list[str] = []
    """What is worth a warning."""
    failed: bool = False
    """The layout way was tried first and failed."""
    hurried: bool = False
    """It was not tried at all, since it had failed on pages before this one."""
    gap: str | None = None
    category: Category = Category.DAMAGED
    """Of the gap."""
    trust: PageTrust | None = None
    """None of pages that were not looked at."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.parts) != len(self.sizes) + 1:
            raise ValueError("parts and headings do not fit")
        return self


class Conversion:
    """One document's way through the pages' ways."""

    def __init__(
        self, opening: ModuleType, reader: PageReader, limits: Limits, pdf: Path, passwords: list[str]
    ) -> None:
        self._opening, self._reader, self._limits = opening, reader, limits
        self._pdf, self._passwords = pdf, passwords
        self._document = self._open()
        self._trouble = 0
        """Pages on which the layout way failed."""
        self._same: dict[int, LaidPage] = {}
        """Pages by their object's number in the file: one that occurs twice was changed when it was converted."""

    def run(self, progress: Progress, handover: Handover) -> EngineResult:
        """Page after page."""
        try:
            count = self._document.page_count
            # Of all pages: a broken one can make MuPDF repair the file, and what comes then must not depend on what was done.
            lost, large = self._survey(range(1, count + 1))
            if len(lost) == count:
                raise self._unreadable(Phase.OPEN, Category.DAMAGED, lost[1])
            uses = Counter(map(self._object, range(1, count + 1)))
            pages = []
            for number in handover.turns(count):
                page, hurried = handover.known(number, LaidPage), self._trouble >= MOST_FALLEN
                same = self._same.get(self._object(number))
                # A helper does not know how the pages before its own went.
                if page is None or page != (same or page).model_copy(update={"hurried": hurried}):
                    # What was lost over the page in a way that is not its own is no matter.
                    falls = [fall for fall in handover.fallen.get(number, ()) if not (fall.helper and hurried)]
                    way, left = after(falls, self._trouble)
                    progress(number, count, left)
                    page = self._page(number, way, lost.get(number), large.get(number), falls)
                    page = page.model_copy(update={"hurried": hurried})
                    handover.finish(number, page.model_dump_json())
                self._trouble += page.failed
                if uses[self._object(number)] > 1:
                    self._same.setdefault(self._object(number), page)
                if not handover.helping:
                    pages.append(page)
            return EngineResult(pages=[]) if handover.helping else self._result(pages)
        finally:
            self._document.close()

    def _open(self) -> Any:
        return self._opening.open_document(self._pdf, self._passwords, self._limits)

    def _survey(self, numbers: Iterable[int]) -> tuple[dict[int, str], dict[int, str]]:
        """The pages that cannot be loaded, and those that are too large to render (at 72 dpi: a pixel a point); why."""
        lost, large = {}, {}
        for number in numbers:
            try:
                rect = self._document.load_page(number - 1).rect
            except self._opening.DAMAGE as error:
                lost[number] = self._opening.reason(error)
                continue
            if rect.width * rect.height > self._limits.max_pixels:
                large[number] = f"too large to render ({rect.width:.0f} x {rect.height:.0f} points)"
        return lost, large

    def _object(self, number: int) -> int:
        """The page's object in the file; a number of its own where that is broken."""
        try:
            return int(self._document.page_xref(number - 1)) or -number
        except self._opening.DAMAGE:
            return -number

    def _page(self, number: int, way: Way, lost: str | None, large: str | None, falls: Sequence[Fall]) -> LaidPage:
        if lost is not None:
            return LaidPage(gap=lost, way=Way.GAP)
        if (same := self._same.get(self._object(number))) is not None:
            return same
        notes = [fall.reason for fall in falls]
        failed = bool(falls) and way is not Way.LAYOUT
        if large is not None and way is Way.LAYOUT:
            way, notes = Way.TEXT, [*notes, large]
        reasons: list[str] = []
        for one in _from(way):
            if one is Way.GAP:
                break
            try:
                page = self._document.load_page(number - 1)
                read = self._reader.read(page, one, render=large is None)
            except Exception as error:  # what a library raises on a document is not its to choose
                if memory.error_says_so(error) and one is not Way.OCR:
                    raise
                reasons.append(self._opening.reason(error))
                failed = failed or one is Way.LAYOUT
                # What was done to the page so far (rotation) must not show.
                self._document.close()
                self._document = self._open()
                continue
            if read.blocks or one is Way.LAYOUT or (one is Way.OCR and not (falls or reasons)):
                laid = _laid(read, notes + [f"{reason}; {read.way} instead" for reason in reasons], failed)
                return laid.model_copy(update={"trust": self._reader.trust(page, read, "".join(laid.parts))})
            if one is Way.OCR:
                break
        cause = falls[0].reason if falls else reasons[0] if reasons else large or "no way leads to its text"
        category = falls[0].category if falls else Category.DAMAGED
        if not falls and not reasons:
            return LaidPage(way=Way.TEXT, notes=notes)
        return LaidPage(gap=cause, way=Way.GAP, failed=failed, category=category)

    def _result(self, laid: list[LaidPage]) -> EngineResult:
        levels = marks({size for page in laid for size in page.sizes})
        warnings, pages = [], []
        if attached := self._opening.attachments(self._document):
            warnings.append(f"{attached} attached file(s) not converted")
        for number, page in enumerate(laid, 1):
            warnings += [f"page {number}: {note}" for note in page.notes]
            marked = zip([levels[size] for size in page.sizes], page.parts[1:], strict=True)
            text = page.parts[0] + "".join(f"{mark} {part}" for mark, part in marked)
            trust = GAP if page.gap is not None else page.trust
            pages.append(Page(number=number, text=text, gap=page.gap, way=page.way.value, trust=trust))
        if all(page.gap is not None for page in laid):
            raise self._unreadable(Phase.CONVERT, laid[0].category, laid[0].gap or "")
        return EngineResult(pages=pages, warnings=warnings)

    def _unreadable(self, phase: Phase, category: Category, reason: str) -> ConversionError:
        if category is Category.MEMORY or memory.words_say_so(reason):
            message = f"over the memory limit, {self._limits.memory_mb} MiB"
            return ConversionError.of(Category.MEMORY, phase, message, retryable=False)
        if category is Category.DAMAGED:
            return ConversionError.of(category, phase, f"no page can be read: {reason}")
        retryable = None if category is Category.CRASHED else False
        return ConversionError.of(category, phase, f"no page can be converted: {reason}", retryable=retryable)


def _from(way: Way) -> list[Way]:
    ways = [Way.LAYOUT, Way.TEXT, Way.OCR, Way.GAP]
    return ways[ways.index(way) :]


def _laid(read: Read, notes: list[str], failed: bool) -> LaidPage:
    parts, sizes = [""], []
    for block in read.blocks:
        text = clean(block.text).strip("\n")
        if not _VISIBLE.search(text):
            continue
        if block.heading is not None:
            sizes.append(block.heading)
            parts.append("")
        parts[-1] += text + "\n\n"
    return LaidPage(parts=parts, sizes=sizes, way=read.way, notes=notes + read.notes, failed=failed)
