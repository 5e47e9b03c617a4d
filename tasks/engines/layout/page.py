"""One page's way to its blocks of Markdown: evidence, plan, text, parts, order."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final

import numpy as np
import pymupdf

from tasks.engines.layout import ocr as ocr_rules
from tasks.engines.layout import prose
from tasks.engines.layout.annotations import Annotations, annotations_of, placed
from tasks.engines.layout.choice import MOST_DRAWINGS, Plan, Source, Way, broken, plan
from tasks.engines.layout.evidence import PageFacts, page_facts, script_of
from tasks.engines.layout.fields import lines_with, words_with
from tasks.engines.layout.figures import label, overlooked, worth_it
from tasks.engines.layout.footnotes import notes_of, references, referring
from tasks.engines.layout.headings import stands_out, usual_size
from tasks.engines.layout.links import Links
from tasks.engines.layout.markup import escaped_start, link_text, note_label
from tasks.engines.layout.ocr import Reader, ReadLine
from tasks.engines.layout.reading_order import Box, overlap, reading_order, union
from tasks.engines.layout.regions import Kind, Region, filled, regions_of, split, tight
from tasks.engines.layout.seen import Seen, trust_of, unsure
from tasks.engines.layout.tables import table
from tasks.engines.layout.textlines import (
    Line,
    Word,
    lines_of,
    main_direction,
    turned,
    without_hidden_doubles,
    words_of,
)
from tasks.engines.layout.turning import turn
from tasks.engines.trust import PageTrust

_FLAGS: Final = (
    pymupdf.TEXT_COLLECT_STYLES
    | pymupdf.TEXT_ACCURATE_BBOXES
    | pymupdf.TEXT_MEDIABOX_CLIP
    | pymupdf.TEXT_IGNORE_ACTUALTEXT
)
_PATHS: Final = re.compile(rb"[\s\d](?:re|[lcvy])\s")
"""Operators of a content stream that draw."""
_IMAGE_FILTERS: Final = re.compile("/(?:JBIG2|DCT|JPX|CCITTFax)Decode")
_ROTATION: Final = {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): 270}
"""By how much a page must be turned clockwise for text that runs in a direction to run from left to right."""
_UNSURE: Final = 0.75
"""OCR that is less sure on the whole is no better than a broken text layer."""
_FINEST_DPI: Final = 400.0
_SKETCH_DPI: Final = 100
_NEAR: Final = 40.0
"""Points between a figure and its caption."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page's Markdown, without the blank line behind it."""

    text: str
    heading: int | None = None
    """Its font size in points, where it is a heading."""
    edge: bool = False
    """The layout model takes it for a page's header or footer."""
    figure: Box | None = None
    """The place of a figure, whose name the text is."""


@dataclass(slots=True)
class Read:
    """What was made of a page."""

    blocks: list[Block] = field(default_factory=list)
    way: Way = Way.LAYOUT
    notes: list[str] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    turns: list[int] = field(default_factory=list)
    """What was done to the page, step by step (`turning.turn`)."""
    attached: list[str] = field(default_factory=list)
    """Names of files."""


class PageReader:
    """Takes pages of one document.

    Args:
        ocr: None where it may not be used.
        ocr_dpi: at which pages are first rendered for it.
        max_pixels: of a rendered page.
    """

    def __init__(self, ocr: Reader | None, ocr_dpi: int, max_pixels: int) -> None:
        self._ocr, self._ocr_dpi = ocr, ocr_dpi
        self._most_pixels = min(max_pixels, ocr_rules.MOST_PIXELS)
        self._unsure: float | None = None
        """Of the page in hand, by OCR; see `Seen.unsure`."""
        self._turns: list[int] = []
        self._hung = Annotations()
        self._text: Any = None
        """The text layer of the page in hand, as it lies: what is made of it more than once is parsed once."""

    def read(self, page: Any, way: Way, *, render: bool = True) -> Read:
        """The page by a way; raises whatever PyMuPDF and the models raise.

        Args:
            page: may be turned, and stays so.
            render: it may be rendered; pages may be too large for that.
        """
        self._turns, self._hung = [], Annotations()
        try:
            read = self._read(page, way, render=render)
        finally:
            self._text = None
        read.turns, read.attached = self._turns, self._hung.attached
        return read

    def _read(self, page: Any, way: Way, *, render: bool) -> Read:
        ocr = self._ocr if render else None
        self._unsure = None
        if way is Way.OCR:
            lines, notes = self._by_ocr(page) if ocr is not None else ([], [])
            return Read(self._in_order(lines), Way.OCR, notes, Seen.of(lines, unsure=self._unsure))
        lines = self._layer(page)
        if way is Way.TEXT:
            lines = without_hidden_doubles(lines)
            return Read(self._in_order(lines), Way.TEXT, seen=Seen.of(lines, layer=lines, look=False))
        images = _images(page)
        facts = page_facts(lines, images, _drawings(page), tuple(page.rect))
        lines = without_hidden_doubles(lines)
        if not facts.text.characters and not facts.images and (not render or _blank(page)):
            return Read()
        chosen = plan(facts, ocr=ocr is not None, lines=len(lines))
        return self._planned(page, lines, facts, chosen, images, render=render)

    def trust(self, page: Any, read: Read, text: str) -> PageTrust:
        """The score of what was made of the page, which lies as it did then."""
        return trust_of(page, read.seen, text)

    def _planned(
        self, page: Any, lines: list[Line], facts: PageFacts, chosen: Plan, images: list[Box], *, render: bool
    ) -> Read:
        notes = [chosen.reason] if chosen.reason is not None else []
        if chosen.source is Source.NOTHING:
            return Read([], Way.LAYOUT, notes)
        layer = lines if chosen.source is not Source.OCR and broken(facts.text, facts.painted) is None else []
        model_page, way = page, Way.LAYOUT
        if chosen.source is not Source.LAYER:
            found, more = self._by_ocr(page, keep=lines if chosen.source is Source.BOTH else ())
            notes += more
            if chosen.source is Source.BOTH:
                lines, way = lines + found, Way.LAYOUT_OCR if found else Way.LAYOUT
            elif found or not lines:
                lines, way = found, Way.LAYOUT_OCR
                model_page = _sketch(page, found)
        scanned = facts.images > 0.8 and (chosen.source is not Source.LAYER or facts.painted < 0.5)
        look = render and facts.drawings <= MOST_DRAWINGS
        if not lines:
            figures = _figures(overlooked(images, [], [], tuple(page.rect), scanned=scanned))
            return Read(figures, way, notes, Seen.of(lines, layer=layer, unsure=self._unsure, look=look))
        if not chosen.layout or not render:
            plain = {Way.LAYOUT: Way.TEXT, Way.LAYOUT_OCR: Way.OCR}[way]
            seen = Seen.of(lines, layer=layer, unsure=self._unsure, look=look)
            return Read(self._in_order(lines), plain, notes, seen)
        model_page.get_layout(return_raw=True)
        raw, model_page.layout_information = model_page.layout_information, None
        straight = [line for line in lines if line.direction == (1.0, 0.0)]
        aside = [line for line in lines if line.direction != (1.0, 0.0)]
        parts = filled(regions_of(raw or []), straight)
        whole: Box = tuple(page.rect)
        boxes = [part.box for part in parts]
        for box in overlooked(images, boxes, [line.box for line in lines], whole, scanned=scanned):
            parts.append(Region(Kind.PICTURE, box))
        words = []
        if any(part.kind is Kind.TABLE for part in parts):
            from_layer = chosen.source is Source.LAYER
            words = (
                words_with(words_of(_raw_blocks(self._text)), self._hung.fields) if from_layer else _words_of(straight)
            )
            words = Links(self._hung.links).words(words)
        height = median([line.box[3] - line.box[1] for line in straight]) if straight else 10.0
        parts = [tight(piece) for part in parts for piece in split(part, height)]
        seen = Seen.of(lines, layer=layer, parts=parts, unsure=self._unsure)
        shown = {part.box for part in parts if part.kind is Kind.PICTURE and worth_it(part.box, whole, scanned=scanned)}
        blocks = self._composed(
            parts, words, height, shown, rtl=facts.text.right_to_left > 0.5 or _right_to_left(lines)
        )
        return Read(blocks + self._in_order(aside) or self._in_order(lines), way, notes, seen)

    # -- text -----------------------------------------------------------------------------------------------------

    def _layer(self, page: Any) -> list[Line]:
        """The text layer, on a page that is turned so that most of it runs from left to right."""
        self._text = _textpage(page)
        lines = lines_of(_blocks(self._text))
        direction = main_direction(lines)
        wanted = page.rotation if direction is None else _ROTATION[direction]
        hung, turned_by = annotations_of(page), None
        if wanted != 0 and (direction is not None or not lines):
            turned_by = self._turn_page(page, wanted)
            self._text = _textpage(page)
            lines = lines_of(_blocks(self._text))
        elif page.rotation != 0:
            self._turn_page(page, 0)
            self._text = _textpage(page)
        self._hung = placed(hung, page, turned_by)
        if self._hung.links:
            lines = lines_of(_raw_blocks(self._text), Links(self._hung.links).cut)
        elif any(script_of(character) == "arabic" for line in lines for character in line.text[:40]):
            lines = lines_of(_raw_blocks(self._text))
        return lines_with(lines, self._hung.fields)

    def _by_ocr(self, page: Any, keep: Sequence[Line] = ()) -> tuple[list[Line], list[str]]:
        """Lines that OCR finds where there is no text that is kept."""
        assert self._ocr is not None
        if page.rotation:
            self._turn_page(page, page.rotation)
        dpi = self._dpi(page, float(self._ocr_dpi))
        image = _rendered(page, dpi)
        quads, scale = self._ocr.detect(image)
        if quads is None:
            return [], []
        if not keep:
            turn = self._turn(image, quads)
            if turn:
                self._turn_page(page, turn)
                dpi = self._dpi(page, float(self._ocr_dpi))
                image = _rendered(page, dpi)
                quads, scale = self._ocr.detect(image)
                if quads is None:
                    return [], []
        seen_at = scale * dpi
        better = ocr_rules.finer([scale * height for height in ocr_rules.heights(quads)], seen_at, _sharpest(page))
        if better is not None and (better := self._dpi(page, better)) > 1.2 * seen_at:
            if better > 1.2 * dpi:
                image, quads, dpi = _rendered(page, better), quads * np.float32(better / dpi), better
            again, _ = self._ocr.detect(image, ocr_rules.MOST_DETECTED_FINE)
            if again is not None and len(again) >= len(quads):
                quads = again
        origin, unit = (page.rect.x0, page.rect.y0), 72.0 / dpi

        def to_page(x: float, y: float) -> tuple[float, float]:
            return origin[0] + x * unit, origin[1] + y * unit

        if keep:
            boxes = [_around(to_page, quad) for quad in quads]
            new = [
                not any(overlap(box, line.box) > 0.4 or overlap(line.box, box) > 0.6 for line in keep) for box in boxes
            ]
            quads = quads[new]
            if not len(quads):
                return [], []
        read, foreign = self._ocr.read(image, quads)
        self._unsure = unsure(read)
        return ocr_rules.lines_from(read, to_page), [FOREIGN] if foreign else _doubt(read)

    def _turn(self, image: Any, quads: Any) -> int:
        """By how much the page must be turned clockwise for its text to stand upright."""
        assert self._ocr is not None
        upright = self._ocr.upright(image, quads)
        if not ocr_rules.sideways(list(quads)):
            return 180 if upright is False else 0
        if upright is None:
            return 0
        # Tall lines are cropped turned to the left: what then is upright runs down the page.
        return 270 if upright else 90

    def _dpi(self, page: Any, wanted: float) -> float:
        return ocr_rules.dpi_for(page.rect.width, page.rect.height, wanted, self._most_pixels)

    def _turn_page(self, page: Any, degrees: int) -> Any:
        self._turns.append(degrees)
        return turn(page, degrees)

    # -- Markdown -------------------------------------------------------------------------------------------------

    def _composed(
        self, parts: Sequence[Region], words: Sequence[Word], height: float, shown: Container[Box], *, rtl: bool
    ) -> list[Block]:
        heads = sorted((part for part in parts if part.kind is Kind.HEADER), key=_from_top)
        feet = sorted((part for part in parts if part.kind is Kind.FOOTER), key=_from_top)
        usual = usual_size(line for part in parts for line in part.lines)
        body = [
            replace(part, kind=Kind.HEADING) if part.kind is Kind.TEXT and stands_out(part.lines, usual) else part
            for part in parts
            if part.kind not in (Kind.HEADER, Kind.FOOTER)
        ]
        body, notes = _with_footnotes(body)
        order = reading_order([part.box for part in body], gutter=0.3 * height, line=height, right_to_left=rtl)
        blocks: list[Block] = []
        ordered = [*heads, *(body[number] for number in order), *feet]
        at = 0
        while at < len(ordered):
            part = ordered[at]
            if part.kind is Kind.LIST_ITEM:
                last = at
                while last + 1 < len(ordered) and ordered[last + 1].kind is Kind.LIST_ITEM:
                    last += 1
                blocks += _list(ordered[at : last + 1], rtl=rtl)
                at = last + 1
                continue
            if part.kind is Kind.PICTURE and part.box in shown:
                blocks += _figures([part.box], label(_caption(part, body)))
            if part.kind is Kind.FOOTNOTE and notes:
                blocks += _footnotes(part, notes, rtl=rtl)
            else:
                blocks += _block(part, words, rtl=rtl)
            at += 1
        return blocks

    def _in_order(self, lines: Sequence[Line]) -> list[Block]:
        """Lines in reading order, without the layout model: direction by direction, block by block."""
        frames: dict[tuple[float, float], list[Line]] = {}
        for line in lines:
            frames.setdefault(line.direction, []).append(turned(line))
        blocks: list[Block] = []
        for frame in sorted(frames.values(), key=lambda frame: -sum(len(line.text) for line in frame)):
            blocks += _paragraphs(frame)
        return blocks


def _paragraphs(lines: Sequence[Line]) -> list[Block]:
    groups: dict[int, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.block, []).append(line)
    pieces = list(groups.values())
    heights = sorted(line.box[3] - line.box[1] for line in lines)
    height = heights[len(heights) // 2] if heights else 10.0
    rtl = _right_to_left(lines)
    boxes = [union([line.box for line in piece]) for piece in pieces]
    order = reading_order(boxes, gutter=max(4.0, 0.8 * height), line=height, right_to_left=rtl)
    texts = (prose.kept_lines(pieces[number], right_to_left=rtl) for number in order)
    return [Block(text) for text in texts if text]


def _block(part: Region, words: Sequence[Word], *, rtl: bool) -> list[Block]:
    if part.kind is Kind.TABLE and part.grid is not None:
        inside = [word for word in words if any(_covers(line.box, word.box) for line in part.lines)]
        if text := table(part.grid, inside, right_to_left=rtl):
            return [Block(text)]
    if not part.lines:
        return []
    if part.kind in (Kind.TITLE, Kind.HEADING):
        text = prose.paragraph(part.lines, right_to_left=rtl)
        return [Block(text, heading=round(max(line.size for line in part.lines)))] if text else []
    if part.kind in (Kind.PICTURE, Kind.TABLE):
        return _paragraphs(part.lines)
    if prose.is_code(part.lines) and part.kind not in (Kind.HEADER, Kind.FOOTER):
        return [Block(prose.code(part.lines))]
    text = prose.paragraph(part.lines, right_to_left=rtl)
    return [Block(escaped_start(text), edge=part.kind in (Kind.HEADER, Kind.FOOTER))] if text else []


def _with_footnotes(parts: Sequence[Region]) -> tuple[list[Region], set[str]]:
    """The parts, with references to the page's footnotes in their text; the marks of the footnotes that are referred to."""
    feet = [part for part in parts if part.kind is Kind.FOOTNOTE]
    text = [part for part in parts if part.kind not in (Kind.FOOTNOTE, Kind.TABLE, Kind.PICTURE, Kind.FORMULA)]
    if not feet:
        return list(parts), set()
    marks = [mark for part in feet for mark, _ in notes_of(_top_down(part.lines)) if mark is not None]
    known = {mark for mark in marks if marks.count(mark) == 1} & references(
        line for part in text for line in part.lines
    )
    if not known:
        return list(parts), set()
    return [
        replace(part, lines=tuple(referring(line, known) for line in part.lines)) if part in text else part
        for part in parts
    ], known


def _footnotes(part: Region, known: Container[str], *, rtl: bool) -> list[Block]:
    blocks = []
    for mark, lines in notes_of(_top_down(part.lines)):
        text = prose.paragraph(lines, right_to_left=rtl)
        if mark is not None and mark in known:
            blocks.append(Block(f"{note_label(mark)}: {text}" if text else note_label(mark)))
        elif text or mark:
            blocks.append(Block(escaped_start(f"{mark} {text}" if mark is not None else text)))
    return blocks


def _top_down(lines: Sequence[Line]) -> list[Line]:
    return [line for row in prose.rows(lines) for line in row]


def _figures(boxes: Sequence[Box], name: str = "Figure") -> list[Block]:
    return [Block(link_text(name), figure=box) for box in boxes]


def _caption(picture: Region, parts: Sequence[Region]) -> str:
    """The text of the caption next to a picture; "" where there is none."""
    left, top, right, bottom = picture.box
    near = [
        (max(part.box[1] - bottom, top - part.box[3]), number)
        for number, part in enumerate(parts)
        if part.kind is Kind.CAPTION and min(right, part.box[2]) > max(left, part.box[0])
    ]
    return " ".join(line.text for line in parts[min(near)[1]].lines) if near and min(near)[0] < _NEAR else ""


def _list(parts: Sequence[Region], *, rtl: bool) -> list[Block]:
    depths = prose.indents([part.box[0] for part in parts])
    blocks: list[Block] = []
    for part, depth in zip(parts, depths, strict=True):
        for item in prose.list_items(part.lines, right_to_left=rtl):
            blocks.append(Block("   " * min(depth, 5) + item))
    return blocks


def _covers(outer: Box, inner: Box) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] - 1 <= x <= outer[2] + 1 and outer[1] - 1 <= y <= outer[3] + 1


def _words_of(lines: Sequence[Line]) -> list[Word]:
    """Words of lines of which only the whole box is known: each gets its share of the width."""
    words = []
    for number, line in enumerate(lines):
        at, width = 0, (line.box[2] - line.box[0]) / max(1, len(line.text))
        for text in line.text.split(" "):
            left = line.box[0] + at * width
            if text:
                words.append(Word(text, (left, line.box[1], left + len(text) * width, line.box[3]), (number, 0)))
            at += len(text) + 1
    return words


def _from_top(part: Region) -> tuple[float, float]:
    return part.box[1], part.box[0]


def _right_to_left(lines: Sequence[Line]) -> bool:
    from tasks.engines.layout.evidence import text_facts

    return text_facts("\n".join(line.text for line in lines)).right_to_left > 0.5


FOREIGN: Final = (
    "much of it is in a script that OCR cannot read here; Tesseract's data for its language, if installed, is used "
    "(Debian: tesseract-ocr-rus, tesseract-ocr-kor, ...)"
)


def _doubt(read: Sequence[ReadLine]) -> list[str]:
    if not read:
        return []
    score = sum(one.score for one in read) / len(read)
    return [f"OCR is unsure of what it read ({score:.2f})"] if score < _UNSURE else []


def _around(to_page: Callable[[float, float], tuple[float, float]], quad: Any) -> Box:
    corners = [to_page(float(x), float(y)) for x, y in quad]
    return union([(x, y, x, y) for x, y in corners])


# -- PyMuPDF ------------------------------------------------------------------------------------------------------


def _textpage(page: Any) -> Any:
    return page.get_textpage(flags=_FLAGS, clip=pymupdf.INFINITE_RECT())


def _blocks(text: Any) -> list[dict[str, Any]]:
    return list(text.extractDICT()["blocks"])


def _raw_blocks(text: Any) -> list[dict[str, Any]]:
    """The same, letter by letter."""
    return list(text.extractRAWDICT()["blocks"])


def _images(page: Any) -> list[Box]:
    return [tuple(float(side) for side in info["bbox"]) for info in page.get_image_info()]


def _drawings(page: Any) -> int:
    document = page.parent
    streams = [number for number in page.get_contents() if document.xref_is_stream(number)]
    # Those of an image's filter hold no operators, and can hold gigabytes.
    said = [number for number in streams if not _IMAGE_FILTERS.search(document.xref_get_key(number, "Filter")[1])]
    return sum(len(_PATHS.findall(document.xref_stream(number) or b"")) for number in said)


def _blank(page: Any) -> bool:
    """Whether there is nothing to see."""
    scale = min(1.0, 600 / max(page.rect.width, page.rect.height, 1.0))
    return bool(page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False).is_unicolor)


def _rendered(page: Any, dpi: float) -> Any:
    scale = dpi / 72
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False, colorspace=pymupdf.csRGB)
    pixels = np.frombuffer(pixmap.samples, dtype=np.uint8).reshape(pixmap.height, pixmap.width, 3)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _sharpest(page: Any) -> float:
    """The resolution of the page's largest image; what is drawn is sharp at any."""
    best = 0.0
    finest = _FINEST_DPI
    for info in page.get_image_info():
        box = pymupdf.Rect(info["bbox"]) & page.rect
        if box.is_empty or abs(box) < best:
            continue
        best = abs(box)
        finest = 72 * max(info["width"] / max(1.0, abs(pymupdf.Rect(info["bbox"]).width)), 1.0)
    return min(finest, _FINEST_DPI)


def _sketch(page: Any, lines: Sequence[Line]) -> Any:
    """A page that looks the same and has these lines as its text, for the layout model."""
    document = pymupdf.open()
    sketch = document.new_page(width=page.rect.width, height=page.rect.height)
    scale = ocr_rules.dpi_for(page.rect.width, page.rect.height, _SKETCH_DPI) / 72
    sketch.insert_image(sketch.rect, pixmap=page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False))
    font = pymupdf.Font("cjk")
    sketch.insert_font(fontname="read", fontbuffer=font.buffer)
    for line in lines:
        x0, y0, x1, y1 = line.box
        height, length = y1 - y0, font.text_length(line.text, y1 - y0)
        if height <= 0 or length <= 0:
            continue
        foot = pymupdf.Point(x0 - page.rect.x0, y1 - page.rect.y0)
        sketch.insert_text(
            foot - (0, 0.2 * height),
            line.text,
            fontsize=height,
            fontname="read",
            render_mode=3,
            morph=(foot, pymupdf.Matrix((x1 - x0) / length, 1)),
        )
    # The layout model never lets go of a font that it has seen: half a megabyte instead of 3.5.
    document.subset_fonts()
    return sketch
