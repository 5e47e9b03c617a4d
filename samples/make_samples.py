"""Makes the sample PDFs that ship with the project: `python samples/make_samples.py [FOLDER]` (default: this folder).

The texts are the project's own. The same PyMuPDF writes the same bytes every time: dates are fixed, and no file identifier
is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pymupdf

A4 = pymupdf.paper_rect("a4")
MARGIN = 64.0
"""Points on every side of a page."""

BODY, BOLD, MONO = "tiro", "tibo", "cour"
"""Base-14 fonts: every reader has them, so none is embedded."""

SCAN_DPI = 150


class Writer:
    """Sets text from top to bottom in one column of a page after another."""

    def __init__(self, document: pymupdf.Document, left: float = MARGIN, right: float = A4.x1 - MARGIN) -> None:
        self.document = document
        self.left = left
        self.right = right
        self.new_page()

    def new_page(self) -> None:
        """Go on at the top of a new page."""
        self.page = self.document.new_page(width=A4.width, height=A4.height)
        self.y = MARGIN

    def text(self, text: str, size: float = 11.0, font: str = BODY, indent: float = 0.0, after: float = 9.0) -> None:
        """One paragraph, then `after` points of space; all lengths are in points."""
        for line in wrapped(text, self.right - self.left - indent, size, font):
            self.page.insert_text((self.left + indent, self.y + size), line, fontsize=size, fontname=font)
            self.y += size * 1.35
        self.y += after

    def title(self, text: str) -> None:
        """The document's title."""
        self.text(text, size=22.0, font=BOLD, after=14.0)

    def heading(self, text: str) -> None:
        """A section's heading."""
        self.y += 6.0
        self.text(text, size=15.0, font=BOLD, after=6.0)

    def items(self, items: Sequence[str], mark: Callable[[int], str]) -> None:
        """A list; `mark` gives an item's mark from its 1-based number."""
        for number, item in enumerate(items, start=1):
            self.page.insert_text((self.left + 8.0, self.y + 11.0), mark(number), fontsize=11.0, fontname=BODY)
            self.text(item, indent=26.0, after=4.0)
        self.y += 6.0

    def code(self, lines: Sequence[str]) -> None:
        """Lines of code on a grey ground."""
        ground = pymupdf.Rect(self.left, self.y, self.right, self.y + 13.0 * len(lines) + 12.0)
        self.page.draw_rect(ground, color=None, fill=(0.94, 0.94, 0.94))
        for number, line in enumerate(lines):
            self.page.insert_text((self.left + 8.0, self.y + 16.0 + 13.0 * number), line, fontsize=9.5, fontname=MONO)
        self.y = ground.y1 + 12.0

    def table(self, rows: Sequence[Sequence[str]], widths: Sequence[float], height: float = 20.0) -> None:
        """A ruled table; the first row is its head. Widths and height in points."""
        for number, row in enumerate(rows):
            x = self.left
            for cell, width in zip(row, widths, strict=True):
                box = pymupdf.Rect(x, self.y, x + width, self.y + height)
                self.page.draw_rect(box, width=0.7, fill=(0.88, 0.91, 0.95) if number == 0 else None)
                font = BOLD if number == 0 else BODY
                self.page.insert_text((x + 6.0, self.y + 14.0), cell, fontsize=10.5, fontname=font)
                x += width
            self.y += height
        self.y += 12.0


def wrapped(text: str, width: float, size: float, font: str) -> list[str]:
    """The text's lines where none is wider than `width` points."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and pymupdf.get_text_length(longer, fontname=font, fontsize=size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def lighthouses(document: pymupdf.Document) -> None:
    """An article of two pages with headings."""
    out = Writer(document)
    out.title("How a Lighthouse Is Told from Its Neighbour")
    out.text(
        "A ship at night sees no tower. It sees a point of light, and has to know which of a dozen points "
        "along the coast it is. Everything about a lighthouse, from its height to the speed at which its lens "
        "turns, serves that one question."
    )
    out.heading("The character of a light")
    out.text(
        "No two lights within sight of each other show the same rhythm. One flashes twice every ten seconds, "
        "the next shows a long beam and a short dark, a third is steady and red toward the rocks. The rhythm "
        "is called the character of the light, and it is printed beside the tower on every chart."
    )
    out.text(
        "A light that is dark for less time than it shines is said to be occulting; where light and dark are "
        "equal it is isophase; and where the flashes are the shorter part, it is simply flashing. A navigator "
        "with a stopwatch needs one full period to be nearly sure and three to be certain."
    )
    out.heading("The lens")
    out.text(
        "Until the 1820s a lamp stood before a polished bowl, and most of its light was lost to the sky. Then "
        "came rings of glass, each ground at its own angle, which gather the light of a single wick into a "
        "level sheet. A lens of the first order stands taller than a man and weighs several tonnes, yet a "
        "child can turn it with one hand, since it floats in a bath of mercury."
    )
    out.text(
        "Each panel of the lens makes one beam. Turn a lens of four panels once in forty seconds, and a ship "
        "sees a flash every ten. So the rhythm of a light was cut in glass, and changing it meant changing "
        "the tower."
    )
    out.new_page()
    out.heading("The colours")
    out.text(
        "White carries farthest. Red and green are used for sectors: a pane of coloured glass on one side of "
        "the lamp turns the beam red for whoever steers too close to a shoal. When the light goes from white "
        "to red, the ship has crossed a line that is drawn on no water."
    )
    out.heading("By day")
    out.text(
        "By day the same question is answered with paint. Bands, spirals and chequers are not ornaments: a "
        "white tower against chalk cliffs would be useless, and so it wears a broad red belt. Such a pattern "
        "is called a daymark."
    )
    out.heading("In fog")
    out.text(
        "In fog neither paint nor light is of any use, and the tower speaks instead: bells first, then guns, "
        "then horns driven by air. The silence between two blasts tells one horn from another, just as the "
        "dark between two flashes does."
    )
    out.heading("What is left")
    out.text(
        "Ships now know where they are to within a few metres. The lights are kept all the same, because they "
        "fail in ways that satellites do not, and because a light that can be seen needs no battery on the "
        "ship that sees it."
    )


def tides(document: pymupdf.Document) -> None:
    """A page with a ruled table."""
    out = Writer(document)
    out.title("Tides at Grey Harbour")
    out.text(
        "Heights are in metres above chart datum; times are those of the harbour clock. Spring tides are set "
        "in the last column."
    )
    out.table(
        [
            ("Day", "Morning high", "Height", "Evening high", "Height", "Tide"),
            ("Monday", "04:12", "5.1", "16:38", "5.3", ""),
            ("Tuesday", "04:55", "5.6", "17:20", "5.8", ""),
            ("Wednesday", "05:37", "6.0", "18:01", "6.2", "spring"),
            ("Thursday", "06:19", "6.3", "18:43", "6.4", "spring"),
            ("Friday", "07:02", "6.2", "19:26", "6.1", "spring"),
            ("Saturday", "07:48", "5.9", "20:13", "5.7", ""),
            ("Sunday", "08:39", "5.4", "21:06", "5.1", ""),
        ],
        widths=(80.0, 86.0, 60.0, 86.0, 60.0, 64.0),
    )
    out.text(
        "The bar can be crossed when the water stands above 4.5 metres, which is from two hours before to two "
        "hours after high water."
    )


def fog_signal(document: pymupdf.Document) -> None:
    """A page with lists and code."""
    out = Writer(document)
    out.title("Sounding the Fog Signal")
    out.heading("Before you begin")
    out.items(
        [
            "Close the shutters of the engine room.",
            "Read the pressure; it must be above 7 bar.",
            "Warn the boats in the basin.",
        ],
        lambda _: "\u00b7",
    )
    out.heading("Steps")
    out.items(
        [
            "Open the main valve a quarter turn and wait for the hiss to stop.",
            "Set the timer to two blasts of three seconds in every minute.",
            "Listen from the end of the pier: the second blast should follow the first after five seconds.",
        ],
        lambda number: f"{number}.",
    )
    out.heading("The timer's programme")
    out.code(
        [
            "def blasts(minute):",
            "    for start in (0, 8):",
            "        horn.open(at=minute * 60 + start)",
            "        horn.close(after=3)",
        ]
    )
    out.text("Stop the signal when the headland can be seen from the gallery.")


def notice(document: pymupdf.Document) -> None:
    """A page of two columns under one title."""
    middle, gutter = A4.width / 2, 14.0
    out = Writer(document, right=middle - gutter)
    out.page.insert_text((MARGIN, MARGIN + 24.0), "The Harbour Notice", fontsize=24.0, fontname=BOLD)
    top = out.y = MARGIN + 46.0
    out.heading("Dredging of the channel")
    out.text(
        "From the first of the month a dredger works between the inner buoys. Pass it on the side that shows "
        "two balls, dead slow, and keep clear of its anchor lines, which run farther out than they look."
    )
    out.text(
        "The channel stays open at high water. At low water boats that draw more than two metres wait in the roads."
    )
    out.left, out.right, out.y = middle + gutter, A4.x1 - MARGIN, top
    out.heading("Lamp on the east mole")
    out.text(
        "The green lamp on the east mole is dark until its mast is mended. A lantern hangs in its place and "
        "can be seen for one mile only. Masters are asked to come in by daylight."
    )
    out.heading("Market")
    out.text("The fish market opens at six, an hour later than in summer. Nets may be dried on the north quay.")


def keepers_log(document: pymupdf.Document) -> None:
    """A page as a scanner would leave it: one picture and no text."""
    with pymupdf.open() as typed:
        out = Writer(typed)
        out.title("The Keeper's Log")
        out.text(
            "Fourth of November. Wind from the north west, rising all day. The lamp was lit at ten past four.",
            size=14.0,
        )
        out.text(
            "At nine a schooner passed inside the reef, too close, and answered our horn with her bell.",
            size=14.0,
        )
        out.text(
            "Midnight. Glass falling. Two panes of the gallery are cracked, and I have put boards across them.",
            size=14.0,
        )
        out.text("Fifth of November. Calm at dawn. Forty gulls on the rail, and all the boats are home.", size=14.0)
        picture = out.page.get_pixmap(dpi=SCAN_DPI, colorspace=pymupdf.csGRAY)
    page = document.new_page(width=A4.width, height=A4.height)
    page.insert_image(page.rect, pixmap=picture)


SAMPLES: dict[str, tuple[str, Callable[[pymupdf.Document], None]]] = {
    "fog-signal.pdf": ("Sounding the Fog Signal", fog_signal),
    "harbour-notice.pdf": ("The Harbour Notice", notice),
    "keepers-log-scan.pdf": ("The Keeper's Log", keepers_log),
    "lighthouses.pdf": ("How a Lighthouse Is Told from Its Neighbour", lighthouses),
    "tides.pdf": ("Tides at Grey Harbour", tides),
}
"""File name to title and what draws it."""


def make(folder: Path) -> list[Path]:
    """Write all samples into an existing folder and return their paths."""
    paths = []
    for name, (title, draw) in SAMPLES.items():
        path = folder / name
        with pymupdf.open() as document:
            draw(document)
            date = "D:20260101000000Z"
            document.set_metadata({"title": title, "author": "pdf-flows", "creationDate": date, "modDate": date})
            document.save(path, garbage=4, deflate=True, no_new_id=True)
        paths.append(path)
    return paths


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
