"""Tesseract for the lines whose script RapidOCR's model does not know, where the system has Tesseract's data for it.

PyMuPDF's wheel carries Tesseract itself; a language's data is a package of the system's (Debian: tesseract-ocr-kor,
tesseract-ocr-rus, ...). Without any, lines stay as RapidOCR read them, and the document's warnings say that it was unsure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from tasks.engines.layout.evidence import RIGHT_TO_LEFT, script_of

FOLDERS: Final = ("/usr/share/tesseract-ocr/5/tessdata", "/usr/share/tesseract/tessdata", "/usr/share/tessdata")
"""Where Debian, Fedora and Arch have the data: what a confined child can read."""
LANGUAGES: Final = {
    "hangul": ("kor",),
    "cyrillic": ("rus", "ukr", "bel", "bul", "srp", "mkd"),
    "arabic": ("ara", "fas", "urd"),
    "hebrew": ("heb",),
    "indic": ("hin", "ben", "tam", "tel"),
    "thai": ("tha",),
}
"""Tesseract's names of languages, by scripts that RapidOCR's model does not read."""
BESIDE: Final = "eng"
"""Names and terms in Latin letters stand in texts of every script: read along where its data is there."""
KNOWS_LATIN: Final = "hangul"
"""Its data has Latin letters; with others beside it, syllables become capitals."""
SAMPLE: Final = 6
"""Lines by which the script is chosen."""
OWN: Final = 0.6
"""Share of a script's own letters among the letters and digits that makes a reading plausible. A wrong script's has a third."""
OWN_OF_MIXED: Final = 0.3
_HEIGHT: Final = 48
_GAP: Final = 24
_MARGIN: Final = 24
_MOST_WIDTH: Final = 6000


@cache
def data() -> tuple[Path, tuple[str, ...]] | None:
    """The folder of Tesseract's data and the languages above that it has; None where there are none."""
    known = {language for languages in LANGUAGES.values() for language in languages}
    for folder in map(Path, FOLDERS):
        found = sorted(path.stem for path in folder.glob("*.traineddata") if path.stem in {*known, BESIDE})
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
        share = own_share("".join(_read([crops[at] for at in widest], language, folder)), language)
        if share > likely:
            best, likely = language, share
    if likely < OWN:
        return nothing
    texts = _read([*crops, *mixed], best, folder)
    least = [OWN] * len(crops) + [OWN_OF_MIXED] * len(mixed)
    kept = [text if own_share(text, best) >= share else None for text, share in zip(texts, least, strict=True)]
    return kept[: len(crops)], kept[len(crops) :]


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


def _read(crops: Sequence[Any], language: str, folder: Path) -> list[str]:
    """Lines by Tesseract: one image with all of them below each other, so that nothing is left to its idea of the page."""
    import pymupdf

    scaled = [_scaled(crop) for crop in crops]
    width = max(line.shape[1] for line in scaled) + 2 * _MARGIN
    pitch = _HEIGHT + _GAP
    sheet = np.full((pitch * len(scaled) + _GAP, width, 3), 255, np.uint8)
    for number, line in enumerate(scaled):
        top = _GAP + number * pitch
        sheet[top : top + _HEIGHT, _MARGIN : _MARGIN + line.shape[1]] = line
    pixmap = pymupdf.Pixmap(pymupdf.csRGB, sheet.shape[1], sheet.shape[0], sheet.tobytes(), False)
    pixmap.set_dpi(150, 150)
    words: list[list[tuple[float, str]]] = [[] for _ in scaled]
    with pymupdf.open("pdf", pixmap.pdfocr_tobytes(language=language, tessdata=str(folder))) as read:
        page = read[0]
        unit = sheet.shape[0] / page.rect.height
        for x0, y0, _, y1, word, *_ in page.get_text("words"):
            number = int(((y0 + y1) / 2 * unit - _GAP / 2) // pitch)
            if 0 <= number < len(words):
                words[number].append((x0, word))
    backwards = _script(language) in RIGHT_TO_LEFT
    return [" ".join(word for _, word in sorted(line, reverse=backwards)) for line in words]


def _scaled(crop: Any) -> Any:
    height, width = crop.shape[:2]
    wanted = max(1, min(_MOST_WIDTH, round(width * _HEIGHT / height)))
    line = cv2.resize(crop, (wanted, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    return line[:, :, ::-1]  # OpenCV's order of colours is the other way round
