"""Tesseract for the lines whose script RapidOCR's model does not know, where the system has Tesseract's data for it.

PyMuPDF's wheel carries Tesseract itself; a language's data is a package of the system's (Debian: tesseract-ocr-kor,
tesseract-ocr-rus, ...). Without any, lines stay as RapidOCR read them, and the document's warnings say that it was unsure.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from tasks.engines.layout.evidence import RIGHT_TO_LEFT, script_of

_log = logging.getLogger("pdf_flows.tesseract")
FOLDERS: Final = (
    "/usr/share/tesseract-ocr/5/tessdata", "/usr/share/tesseract-ocr/4.00/tessdata",
    "/usr/share/tesseract/tessdata", "/usr/share/tessdata",
)  # fmt: skip
"""Where Debian, Fedora and Arch have the data: what a confined child can read."""
LANGUAGES: Final = {
    "hangul": ("kor",),
    "cyrillic": ("rus", "ukr", "bel", "bul", "srp", "mkd"),
    "arabic": ("ara", "fas", "urd"),
    "hebrew": ("heb",),
    "greek": ("ell",),
    "thai": ("tha",),
    "devanagari": ("hin", "mar", "nep", "san"),
    "bengali": ("ben", "asm"),
    "gurmukhi": ("pan",),
    "gujarati": ("guj",),
    "odia": ("ori",),
    "tamil": ("tam",),
    "telugu": ("tel",),
    "kannada": ("kan",),
    "malayalam": ("mal",),
    "sinhala": ("sin",),
    "georgian": ("kat",),
    "armenian": ("hye",),
}
"""Tesseract's names of languages, by scripts that RapidOCR's model does not read, or of which it knows single letters."""
BESIDE: Final = "eng"
"""Names and terms in Latin letters stand in texts of every script: read along where its data is there."""
KNOWS_LATIN: Final = "hangul"
"""Its data has Latin letters; with others beside it, syllables become capitals."""
SAMPLE: Final = 6
"""Lines by which the script is chosen."""
LETTERS: Final = 12
"""Of the script, that the sample has to have."""
OWN: Final = 0.6
"""Share of a script's own letters among the letters and digits that makes a reading plausible."""
OWN_OF_MIXED: Final = 0.3
ALIKE: Final = 0.7
"""How like each other two readings of a line at different sizes must be: what is no writing is read otherwise each time."""
_HEIGHTS: Final = (48, 38)
_GAP: Final = 24
_FOOT: Final = 0.85
"""Of a line's height: where its letters stand, give or take a quarter."""
_MARGIN: Final = 24
SYLLABIC: Final = frozenset({"thai", "hangul"})
"""Tesseract takes their syllables for words."""
_SPACE: Final = 0.3
"""Of a line's height."""
_BESIDE: Final = 0.1
"""Of a letter's width: how far the next one of a word may be from it."""
_MOST_WIDTH: Final = 6000
_MOST_LINES: Final = 60
"""Of one image: Tesseract takes none that is higher than 32,767 pixels, and memory goes by its area."""


class Written(NamedTuple):
    """A word in points of a page."""

    left: float
    right: float
    foot: float
    """Its base line: how high it is says nothing, since Tesseract makes narrow words high."""
    text: str


@cache
def data() -> tuple[Path, tuple[str, ...]] | None:
    """The folder of Tesseract's data and the languages above that it has; None where there are none."""
    known = {language for languages in LANGUAGES.values() for language in languages}
    for folder in map(Path, FOLDERS):
        found = sorted(
            path.stem
            for path in folder.glob("*.traineddata")
            if path.stem in {*known, BESIDE} and os.access(path, os.R_OK) and path.stat().st_size
        )
        if known.intersection(found):
            return folder, tuple(found)
    return None


def read_again(crops: Sequence[Any], mixed: Sequence[Any] = ()) -> tuple[list[str | None], list[str | None]]:
    """What upright images of lines say, in the script that suits most of them; None for those that it does not suit.

    Args:
        crops: images, rows by columns by 3 colours.
        mixed: lines that may be in that script in part.
    """
    nothing: tuple[list[str | None], list[str | None]] = ([None] * len(crops), [None] * len(mixed))
    found = data()
    if found is None or not crops:
        return nothing
    folder, languages = found
    widest = sorted(range(len(crops)), key=lambda at: -crops[at].shape[1])[:SAMPLE]
    best, likely = "", 0.0
    for language in _choices(languages):
        text = "".join(_read([crops[at] for at in widest], language, folder, _HEIGHTS[0]))
        share = own_share(text, language)
        if share > likely and share * sum(map(str.isalnum, text)) >= LETTERS:
            best, likely = language, share
    if likely < OWN:
        return nothing
    texts, others = (_read([*crops, *mixed], best, folder, height) for height in _HEIGHTS)
    least = [OWN] * len(crops) + [OWN_OF_MIXED] * len(mixed)
    kept = [
        text if own_share(text, best) >= share and _alike(text, other) else None
        for text, other, share in zip(texts, others, least, strict=True)
    ]
    return kept[: len(crops)], kept[len(crops) :]


def _alike(text: str, other: str) -> bool:
    bare = ["".join(character for character in some if character.isalnum()) for some in (text, other)]
    return SequenceMatcher(a=bare[0], b=bare[1], autojunk=False).ratio() >= ALIKE


def own_share(text: str, language: str) -> float:
    """Share of the letters and digits that are letters of a language's script. Pure."""
    own = _script(language)
    scripts = [script_of(character) or "digit" for character in text if character.isalnum()]
    return scripts.count(own) / len(scripts) if scripts else 0.0


def _script(language: str) -> str:
    return next(script for script, languages in LANGUAGES.items() if language.partition("+")[0] in languages)


def _choices(languages: Sequence[str]) -> list[str]:
    """One for each script: all of its languages that are there, as Tesseract wants them."""
    found = []
    for script, some in LANGUAGES.items():
        there = [language for language in some if language in languages]
        beside = [BESIDE] if BESIDE in languages and script != KNOWS_LATIN else []
        if there:
            found.append("+".join(there + beside))
    return found


def _read(crops: Sequence[Any], language: str, folder: Path, height: int) -> list[str]:
    """Lines by Tesseract, scaled to a height; "" where it fails, since the page is to be had without it."""
    # Not above: importing PyMuPDF loads its layout model, which has to wait until the threads are bounded.
    from tasks.engines import opening

    found = [""] * len(crops)
    by_width = sorted(range(len(crops)), key=lambda at: crops[at].shape[1] / max(1, crops[at].shape[0]))
    for begin in range(0, len(crops), _MOST_LINES):
        some = by_width[begin : begin + _MOST_LINES]
        try:
            texts = _read_sheet([crops[at] for at in some], language, folder, height)
        except opening.DAMAGE as error:
            _log.warning("Tesseract's data for %s in %s is of no use: %s", language, folder, error)
            return found
        for at, text in zip(some, texts, strict=True):
            found[at] = text
    return found


def _read_sheet(crops: Sequence[Any], language: str, folder: Path, height: int) -> list[str]:
    """One image with all of them below each other, so that nothing is left to Tesseract's idea of the page."""
    import pymupdf

    scaled = [_scaled(crop, height) for crop in crops]
    width = max(line.shape[1] for line in scaled) + 2 * _MARGIN
    pitch = height + _GAP
    sheet = np.full((pitch * len(scaled) + _GAP, width, 3), 255, np.uint8)
    for number, line in enumerate(scaled):
        top = _GAP + number * pitch
        sheet[top : top + height, _MARGIN : _MARGIN + line.shape[1]] = line
    pixmap = pymupdf.Pixmap(pymupdf.csRGB, sheet.shape[1], sheet.shape[0], sheet.tobytes(), False)
    pixmap.set_dpi(150, 150)
    words: list[list[Written]] = [[] for _ in scaled]
    with pymupdf.open("pdf", pixmap.pdfocr_tobytes(language=language, tessdata=str(folder))) as read:
        page = read[0]
        unit = sheet.shape[0] / page.rect.height
        for span in page.get_texttrace():
            for word in words_of_trace(span["chars"]):
                number = round((word.foot * unit - _GAP - _FOOT * height) / pitch)
                if 0 <= number < len(words):
                    words[number].append(word)
    script = _script(language)
    return [line_of(line, script, _SPACE * height / unit) for line in words]


def words_of_trace(characters: Sequence[Any]) -> list[Written]:
    """What Tesseract took for words, their letters in the order of reading. Pure.

    It writes each into the box that it has on the image, its letters side by side, and no spaces. MuPDF's own words do not go:
    it joins what is near, and turns Arabic and Hebrew letters round, since they do not lie as they would in a text of their own.

    Args:
        characters: of a span of PyMuPDF's `Page.get_texttrace`: code point, glyph, origin, box.
    """
    words: list[Written] = []
    edges: tuple[float, ...] = ()
    for code, _, (_, foot), (x0, _, x1, _) in characters:
        apart = min((abs(x - edge) for x in (x0, x1) for edge in edges), default=None)
        if apart is not None and apart < _BESIDE * (x1 - x0):
            last = words[-1]
            words[-1] = last._replace(left=min(last.left, x0), right=max(last.right, x1), text=last.text + chr(code))
        else:
            words.append(Written(x0, x1, foot, chr(code)))
        edges = x0, x1
    return [word for word in words if not word.text.isspace()]


def line_of(words: Sequence[Written], script: str, space: float) -> str:
    """Words of one line, in any order, as its text. Pure.

    Args:
        space: least width of one, where Tesseract's words are syllables.
    """
    ordered = sorted(words)
    texts: list[str] = []
    right = -math.inf
    for word in ordered:
        if script in SYLLABIC and word.left - right < space:
            texts[-1] += word.text
        else:
            texts.append(word.text)
        right = max(right, word.right)
    return " ".join(in_reading_order(texts, backwards=script in RIGHT_TO_LEFT))


def in_reading_order(words: Sequence[str], *, backwards: bool) -> list[str]:
    """Words from left to right as they are read: of a line from right to left backwards, but for runs of other words. Pure."""
    if not backwards:
        return list(words)
    found: list[str] = []
    run: list[str] = []
    for word in reversed(words):
        if any(script_of(character) in RIGHT_TO_LEFT for character in word):
            found += [*reversed(run), word]
            run = []
        else:
            run.append(word)
    return [*found, *reversed(run)]


def _scaled(crop: Any, wanted: int) -> Any:
    height, width = crop.shape[:2]
    wide = max(1, min(_MOST_WIDTH, round(width * wanted / height)))
    line = cv2.resize(crop, (wide, wanted), interpolation=cv2.INTER_CUBIC)
    return line[:, :, ::-1]  # OpenCV's order of colours is the other way round
