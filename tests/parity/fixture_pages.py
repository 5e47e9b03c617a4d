"""Small documents whose every element is known: the PDFs are drawn here, and what a model is to say about them is kept.

``articles`` has headings, columns, tables, formulas, code, figures and boxes that overlap; one of its pages has a layout
without a word, another one that is no layout. ``letters`` has a rotated page and Chinese text, ``loop`` what never ends.

python tests/parity/fixture_pages.py            (writes the PDFs to fixtures/; the bytes are the same every time)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pymupdf

Generation = Literal["1.0", "1.5"]
Box = tuple[float, float, float, float]

FIXTURES = Path(__file__).with_name("fixtures")
SIDE = 896
"""Pixels of the longer side of a page's image, and of the square that it is padded to."""

PROMPTS = {
    "layout": "Parse the reading order of this document.",
    "text": "Read text in the image.",
    "tab": "Parse the table in the image.",
    "equ": "Read formula in the image.",
    "code": "Read code in the image.",
}
_LABELS_1_0 = {"sec_0": "title", "sec_1": "sec", "sec_2": "sub_sec", "equ": "formula", "code": "alg"}
_LINE = 1.25


@dataclass(frozen=True)
class Element:
    """Something on a page: where and how it is drawn, and what the model is to read."""

    label: str
    """As 1.5 calls it."""
    x: float
    y: float
    text: str = ""
    shown: str | None = None
    """The drawn text, where it differs from the text to read."""
    size: float = 11
    font: str = "helv"
    rows: tuple[tuple[str, ...], ...] = ()
    """The cells of a table."""
    cell: tuple[float, float] = (62, 24)
    picture: tuple[float, float] | None = None
    """Width and height of a figure."""
    decoy: str | None = None
    """1.0: the answer without repetition penalty, where it differs."""
    unit: str | None = None
    """What the answer repeats after the text, forever."""
    after: str = "[PAIR_SEP]"
    """The separator after the element in a layout of 1.5."""

    @property
    def lines(self) -> list[str]:
        return (self.text if self.shown is None else self.shown).split("\n")

    @property
    def box(self) -> Box:
        """In points, before rotation, close around what is drawn."""
        if self.picture:
            return (self.x, self.y, self.x + self.picture[0], self.y + self.picture[1])
        if self.rows:
            width, height = len(self.rows[0]) * self.cell[0], len(self.rows) * self.cell[1]
            return (self.x - 1, self.y - 1, self.x + width + 1, self.y + height + 1)
        width = max(pymupdf.get_text_length(line, fontname=self.font, fontsize=self.size) for line in self.lines)
        height = self.size * (_LINE * (len(self.lines) - 1) + 1.05)
        return (self.x - 2, self.y - 2, self.x + width + 2, self.y + height + 2)

    def name(self, generation: Generation) -> str:
        """The label as the generation calls it."""
        return _LABELS_1_0.get(self.label, self.label) if generation == "1.0" else self.label

    def prompt(self, generation: Generation) -> str | None:
        """What upstream asks about the element; nothing about a figure."""
        if self.label == "fig":
            return None
        asked = self.label == "tab" or (generation == "1.5" and self.label in ("equ", "code"))
        return PROMPTS[self.label if asked else "text"]

    def draw(self, page: pymupdf.Page) -> None:
        if self.picture:
            rect = pymupdf.Rect(self.box)
            page.draw_rect(rect, color=(0, 0, 0), fill=(0.55, 0.7, 0.95))
            page.draw_circle((rect.x0 + 30, rect.y0 + 30), 16, color=(0.8, 0.3, 0), fill=(1, 0.9, 0.2))
            page.draw_line(rect.bl, rect.br - (0, rect.height / 3), color=(0, 0.2, 0.1), width=3)
            return
        if self.rows:
            width, height = self.cell
            for r, row in enumerate(self.rows):
                for c, text in enumerate(row):
                    corner = pymupdf.Point(self.x + c * width, self.y + r * height)
                    page.draw_rect(pymupdf.Rect(corner, corner + self.cell), color=(0, 0, 0), fill=(1, 1, 1))
                    page.insert_text(
                        (corner.x + 6, corner.y + height / 2 + 4), text, fontsize=self.size, fontname=self.font
                    )
            return
        for number, line in enumerate(self.lines):
            baseline = self.y + self.size * (0.85 + _LINE * number)
            page.insert_text((self.x, baseline), line, fontsize=self.size, fontname=self.font)


@dataclass(frozen=True)
class Page:
    """A page and the answer to the question for its layout."""

    elements: tuple[Element, ...] = ()
    size: tuple[float, float] = (612, 792)
    rotation: int = 0
    answer: str | None = None
    """The layout to answer, where it does not list the elements."""

    def layout(self, generation: Generation) -> str:
        """What the model is to say about the reading order."""
        if self.answer is not None:
            return self.answer
        out = []
        for element in self.elements:
            box, name = self._square(element.box), element.name(generation)
            if generation == "1.0":
                edges = [math.floor(v * 100) for v in box[:2]] + [math.ceil(v * 100) for v in box[2:]]
                out.append(f"[{','.join(f'{v / 100:.2f}' for v in edges)}] {name}")
            else:
                out.append(f"[{','.join(str(round(v * SIDE)) for v in box)}][{name}]")
            out.append(element.after if generation == "1.5" else "[PAIR_SEP]")
        return "".join(out[:-1])

    def _square(self, box: Box) -> Box:
        """As fractions of the square around the page as it is seen."""
        width, height = self.size
        x0, y0, x1, y1 = box
        if self.rotation == 90:
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            width, height = height, width
        side = max(width, height)
        left, top = (side - width) / 2, (side - height) / 2
        return ((x0 + left) / side, (y0 + top) / side, (x1 + left) / side, (y1 + top) / side)

    def draw(self, document: pymupdf.Document) -> None:
        page = document.new_page(width=self.size[0], height=self.size[1])
        for element in self.elements:
            element.draw(page)
        page.set_rotation(self.rotation)


def _table(x: float, y: float, *rows: tuple[str, ...], **more: object) -> Element:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return Element("tab", x, y, f"<table>{body}</table>", rows=rows, **more)  # type: ignore[arg-type]


_half = partial(Element, "half_para", size=10)

_ARTICLES = (
    Page(
        (
            Element("header", 72, 30, "Ocean Journal", size=9),
            Element("sec_0", 150, 64, "Annual Dolphin Report", size=22),
            Element("author", 250, 116, "Flip Per and Delphi Nus"),
            Element("sec_1", 72, 164, "1 Methods", size=16),
            Element("para", 72, 214, "Dolphins parse pages in two sta-\nges: first the layout, then the rest."),
            Element("equ", 240, 274, "E = mc^{2}", "E = mc\u00b2", size=16),
            _table(150, 326, ("Year", "Pages"), ("2023", "140"), ("2024", "982"), cell=(110, 28)),
            Element("cap", 150, 440, "Table 1: Pages per year."),
            Element("equ", 220, 494, r"a_{1} + \cdots + a_{n} \leq 7", "a1 + ... + an < 7", size=15),
            Element("foot", 300, 750, "1"),
        )
    ),
    Page(
        (
            Element("sec_1", 72, 60, "2 Results", size=16),
            _half(72, 110, "The left column\nends with a well-\nknown list"),
            Element("list", 84, 176, "fast engine", "- fast engine"),
            Element("list", 84, 212, "same output", "- same output", after="[RELATION_SEP]"),
            Element("sec_2", 330, 60, "2.1 Code", size=13),
            Element("code", 330, 108, "def add(a, b):\n    return a + b", size=10, font="cour"),
            _half(330, 166, "Adding is\nsimple.", size=12, after="[RELATION_SEP]"),
            Element("fnote", 72, 700, "* See the appendix.", size=8),
            Element("foot", 300, 750, "2"),
        )
    ),
    Page(
        (
            Element("fig", 60, 60, picture=(260, 200)),
            _table(140, 130, ("in", "side"), ("a", "box")),
            Element("cap", 60, 257, "Figure 1: The sea.", size=12),
            Element("fig", 420, 60, picture=(120, 150)),
            _table(420, 250, ("Sea", "Depth", "Fish"), ("North", "95", "few")),
            Element("anno", 60, 350, "", "~ ~ ~ ~ ~ ~", size=18),
            Element(
                "para", 60, 410, "Red fish, blue fish, green whales.", decoy="Red fish, blue fish, green fish.", size=12
            ),
            Element("reference", 60, 470, "[1] Per, F. 2023. Seas.", size=10),
        ),
        size=(792, 612),
    ),
    Page((Element("fig", 150, 240, picture=(300, 330)),), answer=""),
    Page(
        (
            Element("para", 100, 200, "This page is", size=40),
            Element("para", 100, 300, "no layout", size=60),
        ),
        answer="Dolphins swim in [the sea][PAIR_SEP]",
    ),
)
_LETTERS = (
    Page(
        (
            Element("watermark", 150, 420, "COPY", size=110),
            Element("para", 72, 60, "To the harbour\nat Port Blue", size=13),
            Element("para", 72, 140, "Dear captain,"),
            Element(
                "para", 72, 190, "we saw your ship. It is very big, and it is\nwhite, and it has 3 masts.", size=12
            ),
            Element("para", 330, 270, "Yours, Flip", size=14),
        ),
        size=(595, 842),
    ),
    Page(
        (
            Element("sec_1", 60, 60, "Freight", size=24),
            _table(60, 130, ("Salt", "12"), ("Rope", "7"), ("Tea", "30"), cell=(80, 22)),
            Element("para", 60, 240, "\u6d77\u8c5a\u8bfb\u6587\n\u5f88\u5feb", size=16, font="china-s"),
            Element("fig", 300, 120, picture=(90, 180)),
            Element("list", 60, 330, "signed", "- signed", size=12),
        ),
        size=(420, 595),
        rotation=90,
    ),
)
_LOOP = (
    Page(
        (
            Element("sec_1", 72, 60, "3 Storms", size=18),
            Element("para", 72, 120, "The wind came from the west.", size=12),
            _table(
                *(100, 170, ("Wind", "Wave", "Rain", ""), ("", "", "", ""), ("", "", "", "")),
                unit="<td></td>",
                cell=(80, 20),
            ),
            Element("para", 72, 270, "Again and again", size=14, unit=" and again"),
            Element("foot", 300, 750, "4"),
        )
    ),
)
DOCUMENTS: dict[str, tuple[Page, ...]] = {"articles": _ARTICLES, "letters": _LETTERS, "loop": _LOOP}


LOST = {("articles", 2): (1,)}
"""Elements that upstream loses, by document and page: it cuts a box off below the one before it where both overlap."""


def build(name: str, path: Path) -> None:
    """Writes a document."""
    with pymupdf.open() as document:
        for page in DOCUMENTS[name]:
            page.draw(document)
        document.set_metadata({})
        document.save(path, deflate=True, garbage=4, no_new_id=True)


if __name__ == "__main__":
    FIXTURES.mkdir(exist_ok=True)
    for document_name in DOCUMENTS:
        build(document_name, FIXTURES / f"{document_name}.pdf")
