"""The layout engine: pages to Markdown on a CPU, each by the best way that it allows.

A page's parts come from PyMuPDF's layout model, its text from the text layer or from RapidOCR, as the evidence of the page says
(`choice.py`); what is put together of them is this engine's own. A page that fails in one way is tried in a cheaper one, and
where it costs the process, the sandbox asks again and says so. Each page is handed over as soon as it is done: its Markdown
depends on the others in what is worked out last (`laid.py`): the levels of headings, running headers, the labels of footnotes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines import memory
from tasks.engines.layout import heap, scripts
from tasks.engines.layout import threads as thread_bounds
from tasks.engines.layout.choice import MOST_FALLEN, Way, after
from tasks.engines.layout.figures import MOST, MOST_BYTES, MOST_ON_A_PAGE, extension, without_repeats
from tasks.engines.layout.headings import Entry
from tasks.engines.layout.laid import Figure, LaidPage, Piece, placeholder, together
from tasks.engines.layout.markup import NOTE
from tasks.engines.layout.ocr import Reader
from tasks.engines.layout.reading_order import Box
from tasks.engines.layout.settings import LayoutOptions
from tasks.engines.layout.turning import turn
from tasks.engines.markdown import clean
from tasks.engines.protocol import Asset, EngineResult, Fall, Handover, Inspection, Limits, Page, Progress
from tasks.engines.trust import GAP

if TYPE_CHECKING:
    from tasks.engines.layout.drawing import Drawer
    from tasks.engines.layout.page import PageReader, Read

ENGINE_VERSION: Final = "5"
"""Of this engine's own code: changed when the same libraries give another text, or a page's payload is another."""
_LIBRARIES: Final = ("pymupdf", "pymupdf4llm", "pymupdf-layout", "rapidocr", "onnxruntime", "opencv-python-headless")
_VISIBLE = re.compile(r"\S")


class LayoutEngine:
    """Born-digital PDFs, and scans by way of OCR, to Markdown. Loads its libraries and models when it is made."""

    name = "layout"
    shares = True

    def __init__(self, options: LayoutOptions, threads: int) -> None:
        # Importing PyMuPDF loads its layout model: not before the threads are bounded.
        thread_bounds.bound(threads)
        heap.keep()
        import pymupdf
        import pymupdf.layout  # gives `Page.get_layout` its model

        from tasks.engines import opening
        from tasks.engines.layout.drawing import Drawer
        from tasks.engines.layout.page import PageReader

        self._options = options
        self._opening: ModuleType = opening
        self._ocr = Reader() if options.ocr else None
        self._make_reader, self._make_drawer = PageReader, Drawer
        pymupdf.TOOLS.unset_quad_corrections(True)
        pymupdf.TOOLS.mupdf_display_errors(False)
        pymupdf.TOOLS.mupdf_display_warnings(False)

    @property
    def versions(self) -> dict[str, str]:
        """The libraries, whose models come inside them, and this engine's own."""
        found = {library: version(library) for library in _LIBRARIES} | {"layout": ENGINE_VERSION}
        if (tesseract := scripts.data()) is not None and self._ocr is not None:
            found["tessdata"] = " ".join(tesseract[1])
        return found

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
        drawer = self._make_drawer(scratch, limits.max_pixels) if self._options.figures else None
        conversion = Conversion(
            self._opening, reader, drawer, limits, pdf, passwords, marginalia=self._options.marginalia
        )
        return conversion.run(progress, handover)


class Conversion:
    """One document's way through the pages' ways."""

    def __init__(
        self,
        opening: ModuleType,
        reader: PageReader,
        drawer: Drawer | None,
        limits: Limits,
        pdf: Path,
        passwords: list[str],
        *,
        marginalia: bool,
    ) -> None:
        self._opening, self._reader, self._drawer, self._limits = opening, reader, drawer, limits
        self._pdf, self._passwords, self._marginalia = pdf, passwords, marginalia
        self._document = self._open()
        self._helping = False
        """What it draws would be nobody's."""
        self._trouble = 0
        """Pages on which the layout way failed."""
        self._same: dict[int, LaidPage] = {}
        """Pages by their object's number in the file: one that occurs twice was changed when it was converted."""
        self._touched: set[int] = set()
        """Objects of the pages that were turned."""

    def run(self, progress: Progress, handover: Handover) -> EngineResult:
        """Page after page."""
        self._helping = handover.helping
        try:
            count = self._document.page_count
            # Of all pages: a broken one can make MuPDF repair the file, and what comes then must not depend on what was done.
            lost, large = self._survey(range(1, count + 1))
            if len(lost) == count:
                raise self._unreadable(Phase.OPEN, Category.DAMAGED, lost[1])
            uses = Counter(map(self._object, range(1, count + 1)))
            # Before any page is read, for the same reason.
            outline, attached = self._outline(), self._opening.attachments(self._document)
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
                    heap.give_back(much=True)
                self._trouble += page.failed
                if uses[self._object(number)] > 1:
                    self._same.setdefault(self._object(number), page)
                if not handover.helping:
                    pages.append(page)
            if handover.helping:
                return EngineResult(pages=[])
            return self._result(pages, outline, attached, self._figures(pages, progress, handover))
        finally:
            self._document.close()
            self._opening.forget()
            heap.give_back()

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
                self._touched.clear()
                continue
            self._touched.add(self._object(number))
            if read.blocks or one is Way.LAYOUT or (one is Way.OCR and not (falls or reasons)):
                notes += [f"{reason}; {read.way} instead" for reason in reasons]
                # Not of a page that cost a process: drawing may have been what did.
                drawn = self._draw(page, number, read, notes) if not falls else {}
                laid = _laid(read, drawn, notes, failed)
                return laid.model_copy(update={"trust": self._reader.trust(page, read, laid.plain)})
            if one is Way.OCR:
                break
        cause = falls[0].reason if falls else reasons[0] if reasons else large or "no way leads to its text"
        category = falls[0].category if falls else Category.DAMAGED
        if not falls and not reasons:
            return LaidPage(way=Way.TEXT, notes=notes)
        return LaidPage(gap=cause, way=Way.GAP, failed=failed, category=category)

    # -- figures --------------------------------------------------------------------------------------------------

    def _draw(self, page: Any, number: int, read: Read, notes: list[str]) -> dict[Box, str]:
        """The figures of a page just read, by their places."""
        boxes = list(dict.fromkeys(block.figure for block in read.blocks if block.figure is not None))
        if self._drawer is None or not boxes:
            return {}
        names = [f"figure-{number}-{n}" for n in range(1, len(boxes[:MOST_ON_A_PAGE]) + 1)]
        wanted = dict(zip(boxes, names, strict=False))
        if self._drawer.full or self._helping:
            return wanted  # drawn at the end, as far as there is room for them
        try:
            drawn = self._drawer.draw(page, list(wanted), names)
        except (*self._opening.DAMAGE, MemoryError) as error:
            notes.append(f"its figures are left out: {self._opening.reason(error)}")
            return {}
        return {box: name for (box, name), there in zip(wanted.items(), drawn, strict=True) if there}

    def _figures(self, pages: list[LaidPage], progress: Progress, handover: Handover) -> dict[str, Path]:
        """The files of all figures that the document may have, by name, in order.

        Those of pages that were done before this process are drawn once more, on pages turned as they were then.
        """
        found: dict[str, Path] = {}
        pages_of: dict[str, int] = {}
        if self._drawer is None:
            return found
        size = 0
        for number, page in enumerate(pages, 1):
            figures = [
                piece.figure for piece in page.pieces if piece.figure is not None and piece.figure.name not in found
            ]
            missing = [figure for figure in figures if self._drawer.file(figure.name) is None]
            if missing and size < MOST_BYTES and len(found) < MOST and not handover.fallen.get(number):
                progress(number, len(pages), 1)
                self._draw_again(number, page.turns, missing)
            for figure in figures:
                path = self._drawer.file(figure.name)
                if path is not None and size < MOST_BYTES and len(found) < MOST:
                    size += path.stat().st_size
                    found[figure.name], pages_of[figure.name] = path, number
        return without_repeats(found, pages_of)

    def _draw_again(self, number: int, turns: list[int], figures: list[Figure]) -> None:
        assert self._drawer is not None
        try:
            page = self._document.load_page(number - 1)
            if self._object(number) not in self._touched:
                for degrees in turns:
                    turn(page, degrees)
                self._touched.add(self._object(number))
            self._drawer.draw(page, [figure.box for figure in figures], [figure.name for figure in figures])
        except (*self._opening.DAMAGE, MemoryError):
            return  # as when the page was read: without its figures

    # -- the result -----------------------------------------------------------------------------------------------

    def _outline(self) -> list[Entry]:
        from tasks.engines.layout.outline import outline_of

        return outline_of(self._document)

    def _result(
        self, laid: list[LaidPage], outline: list[Entry], attached: list[str], figures: dict[str, Path]
    ) -> EngineResult:
        if all(page.gap is not None for page in laid):
            raise self._unreadable(Phase.CONVERT, laid[0].category, laid[0].gap or "")
        attached = attached + [name for page in laid for name in page.attached]
        warnings = [f"{len(attached)} attached file(s) not converted"] if attached else []
        texts = together(laid, outline, figures, marginalia=self._marginalia)
        pages = []
        for number, (page, text) in enumerate(zip(laid, texts, strict=True), 1):
            warnings += [f"page {number}: {note}" for note in page.notes]
            trust = GAP if page.gap is not None else page.trust
            pages.append(Page(number=number, text=text, gap=page.gap, way=page.way.value, trust=trust))
        assets = [
            Asset(path=path, extension=extension(path), placeholder=placeholder(name)) for name, path in figures.items()
        ]
        listed = attached[: self._opening.MOST_ATTACHED]
        return EngineResult(pages=pages, assets=assets, attached=listed, warnings=warnings)

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


def _laid(read: Read, drawn: Mapping[Box, str], notes: list[str], failed: bool) -> LaidPage:
    """Args: drawn: names of the figures, by their places."""
    pieces = []
    for block in read.blocks:
        if block.figure is not None:
            if (name := drawn.get(block.figure)) is not None:
                text = f"![{clean(block.text)}]({placeholder(name)})"
                pieces.append(Piece(text=text, figure=Figure(name=name, box=block.figure)))
            continue
        text = NOTE.join(clean(part) for part in block.text.split(NOTE)).strip("\n")
        if _VISIBLE.search(text):
            pieces.append(Piece(text=text, size=block.heading, edge=block.edge))
    return LaidPage(
        pieces=pieces,
        way=read.way,
        turns=read.turns,
        attached=read.attached,
        notes=notes + read.notes,
        failed=failed,
    )
