"""RapidOCR on a page: the resolution and the orientation that it needs, and its lines in the page's coordinates."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import cv2
import numpy as np

from tasks.engines.layout import scripts
from tasks.engines.layout.evidence import script_of
from tasks.engines.layout.reading_order import Box
from tasks.engines.layout.textlines import Line, Run

MOST_PIXELS: Final = 12_000_000
"""Of the image that is read."""
MOST_DETECTED: Final = 3_000_000
"""Of the image in which lines are looked for at first: a letter or A4 page at 170 dpi. That takes a second and some 150 MiB a
million."""
MOST_DETECTED_FINE: Final = 6_000_000
"""The same for small print."""
MOST_SIDE: Final = 6000
LEAST_SCORE: Final = 0.5
LEAST_WIDTH: Final = 96
"""Pixels to which lines, 48 of them high, are padded for recognition. RapidOCR's 320 make most of a receipt padding."""
SMALL_TEXT: Final = 16.0
"""Pixels: lines that are lower are read again at a higher resolution."""
_FINE: Final = 30.0
"""Pixels: what lines should then be high."""
_SAMPLE: Final = 12
LOST: Final = 0.25
"""Part of what was found, by length, that is unreadable before other scripts are tried."""
_PLAIN: Final = 0.95
"""Sureness of lines that are wholly in a script that the model knows."""
MORE: Final = 1.3
"""Times the letters that another reading of a line has to have, where the first one was sure of some."""
SURE: Final = 0.9
"""What a line counts that was read in its own script."""
_READABLE: Final = 0.6
"""Mean sureness below which a line is not what the model takes it for, such as columns of Chinese from top to bottom."""
DOUBTED: Final = 0.8
"""Sureness below which lines may be in another script whose letters look like Latin ones, such as Hebrew and Thai."""
_SOME: Final = 5
_RIM: Final = 0.3


@dataclass(frozen=True, slots=True)
class ReadLine:
    """One line that was read: its quadrilateral in pixels, its text, and how sure the model is, 0 to 1."""

    quad: tuple[tuple[float, float], ...]
    text: str
    score: float


class Reader:
    """RapidOCR, loaded when the first image is read."""

    def __init__(self) -> None:
        self._engine: Any = None

    def detect(self, image: Any, most_pixels: int = MOST_DETECTED) -> tuple[Any, float]:
        """Quadrilaterals of lines in pixels of the image, as an array of four corners each, None where there are none; and the
        scale at which the image was looked at.

        Args:
            most_pixels: larger images are looked at smaller. Lines are read from the image as it is.
        """
        height, width = image.shape[:2]
        scale = min(1.0, math.sqrt(most_pixels / (height * width)))
        if scale < 1.0:
            size = round(width * scale), round(height * scale)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        quads = self._loaded()._load_det_model()(image).boxes
        if quads is None or not len(quads):
            return None, scale
        return quads if scale == 1.0 else quads * np.array((width / size[0], height / size[1]), np.float32), scale

    def read(self, image: Any, quads: Any) -> tuple[list[ReadLine], bool]:
        """What the lines say, and whether much of it is in a script that can be read by nothing that is here."""
        crops = self._loaded().crop_text_regions(image, quads)
        texts, scores = self._recognised(crops)
        read = [
            ReadLine(tuple((float(x), float(y)) for x, y in quad), text, float(score))
            for quad, text, score in zip(quads, texts, scores, strict=True)
        ]
        lost = [number for number, line in enumerate(read) if line.score < DOUBTED or alien(line)]
        much = LOST * sum(_length(line.quad) for line in read)
        unknown = {number for number, line in enumerate(read) if alien(line)}
        if sum(_length(read[number].quad) for number in lost) > much:
            mixed = [number for number in range(len(read)) if number not in lost and read[number].score < _PLAIN]
            both = scripts.read_again([crops[number] for number in lost], [crops[number] for number in mixed])
            for number, text in zip([*lost, *mixed], [*both[0], *both[1]], strict=True):
                line = read[number]
                if text is not None and (number in lost or _written(text) > MORE * _written(line.text)):
                    read[number] = replace(line, text=text, score=SURE)
                    unknown.discard(number)
                elif unreadable(line):
                    # As unsure as can be, whatever the model thinks of the punctuation.
                    read[number] = replace(line, score=min(line.score, LEAST_SCORE))
        foreign = sum(_length(read[number].quad) for number in unknown) > much
        return [line for line in read if line.text.strip() and line.score >= LEAST_SCORE], foreign

    def upright(self, image: Any, quads: Any) -> bool | None:
        """Whether the lines stand on their feet (False: on their heads); None where they are unreadable either way.

        The model of directions is right about lines that stand upright, and unsure of lines that stand on their heads: where
        it is unsure, a sample is read both ways.
        """
        longest = sorted(quads, key=lambda quad: -_length(quad))[:_SAMPLE]
        crops = self._loaded().crop_text_regions(image, np.array(longest))
        # It turns the crops themselves where it is sure of 180 degrees.
        found = self._loaded()._load_cls_model()(list(crops)).cls_res or []
        if sum(label == "0" and score > 0.9 for label, score in found) > len(found) / 2:
            return True
        here, turned = self._sureness(crops), self._sureness([np.rot90(crop, 2).copy() for crop in crops])
        if here >= turned:
            return True if here >= _READABLE else None
        # Hebrew looks more like Latin letters on its head than on its feet, but not much like them.
        return False if turned >= DOUBTED else None

    def _sureness(self, crops: list[Any]) -> float:
        _, scores = self._recognised(crops)
        return sum(float(score) for score in scores) / len(scores) if len(scores) else 0.0

    def _recognised(self, crops: list[Any]) -> tuple[Sequence[str], Sequence[float]]:
        if not crops:
            return (), ()
        found = self._loaded().recognize_txt(crops)
        return found.txts, found.scores

    def _loaded(self) -> Any:
        if self._engine is None:
            logger = logging.getLogger("RapidOCR")
            logger.handlers.clear()
            logger.propagate = False
            from rapidocr import RapidOCR

            self._engine = RapidOCR(
                params={
                    "Global.log_level": "critical",
                    "Det.max_candidates": 5000,
                    "Rec.rec_img_shape": [3, 48, LEAST_WIDTH],
                }
            )
            logger.setLevel(logging.CRITICAL)
        return self._engine


def unreadable(line: ReadLine) -> bool:
    """Whether a line is not what the model takes it for."""
    return line.score < _READABLE or alien(line)


def alien(line: ReadLine) -> bool:
    """Whether a line is in a script that the model does not know, or, as Greek, by single letters only."""
    letters = [script_of(character) for character in line.text if character.isalpha()]
    return sparse(line) or (len(letters) >= _SOME and letters.count("greek") > len(letters) / 2)


def sparse(line: ReadLine) -> bool:
    """Whether a long line has fewer letters than it has room for, as one in a script that the model does not know.

    Of such a line it sees the spaces and the punctuation, and is sure of them. A letter of the scripts that it knows is at most
    as wide as the line is high; Latin ones are half of that.
    """
    width, height = _length(line.quad), min(_shape(line.quad))
    return width > 8 * height and _written(line.text) < 0.55 * width / height


def _written(text: str) -> int:
    return sum(not character.isspace() for character in text)


def dpi_for(width: float, height: float, wanted: float, most_pixels: int = MOST_PIXELS) -> float:
    """The resolution at which a page of some points is rendered, so that it stays within the limits."""
    inches = max(width, 1.0) / 72, max(height, 1.0) / 72
    within = math.sqrt(most_pixels / (inches[0] * inches[1]))
    return min(wanted, within, MOST_SIDE / max(inches))


def finer(heights: Sequence[float], dpi: float, sharpest: float) -> float | None:
    """The resolution for another look at a page whose lines are so many pixels high; None where one is enough.

    Args:
        sharpest: resolution beyond which there is nothing more to see, such as that of a scan.
    """
    if len(heights) < 8:
        return None
    small = sorted(heights)[len(heights) // 4]
    if small >= SMALL_TEXT:
        return None
    wanted = min(dpi * _FINE / max(small, 4.0), sharpest, 2.5 * dpi)
    return wanted if wanted > 1.2 * dpi else None


def sideways(quads: Sequence[Any]) -> bool:
    """Whether most lines that are long enough to tell are higher than wide."""
    shapes = [_shape(quad) for quad in quads]
    tall = sum(height > 2 * width for width, height in shapes)
    wide = sum(width > 2 * height for width, height in shapes)
    return tall > 2 * wide and tall >= 2


def heights(quads: Sequence[Any]) -> list[float]:
    """Of lines, in pixels."""
    return [min(_shape(quad)) for quad in quads]


def lines_from(read: Sequence[ReadLine], to_page: Any) -> list[Line]:
    """Lines in the page's coordinates; their font size is guessed from their height.

    Args:
        to_page: takes a point of the image to one of the page.
    """
    lines = []
    sizes = [size_of(one.quad, to_page) for one in read]
    usual = median(sizes) if sizes else 0.0
    for number, (one, size) in enumerate(zip(read, sizes, strict=True)):
        corners = [to_page(x, y) for x, y in one.quad]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        # Quadrilaterals reach beyond the letters by a part of their height.
        rim = min(_RIM * size, (max(xs) - min(xs)) / 3, (max(ys) - min(ys)) / 3)
        box: Box = (min(xs) + rim, min(ys) + rim / 2, max(xs) - rim, max(ys) - rim / 2)
        # The heights of lines vary with what letters are in them: near the usual one they are of one size.
        steady = usual if 0.8 * usual <= size <= 1.25 * usual else float(round(size))
        lines.append(Line((Run(one.text, box, steady),), box, block=number))
    return lines


def size_of(quad: Sequence[tuple[float, float]], to_page: Any) -> float:
    """A guess at the font size of a line, in points."""
    (x0, y0), (x3, y3) = to_page(*quad[0]), to_page(*quad[3])
    return float(0.75 * ((x3 - x0) ** 2 + (y3 - y0) ** 2) ** 0.5)


def _length(quad: Any) -> float:
    return float(max(_shape(quad)))


def _shape(quad: Any) -> tuple[float, float]:
    a, b, _, d = ((float(x), float(y)) for x, y in quad)
    width = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5
    height = ((a[0] - d[0]) ** 2 + (a[1] - d[1]) ** 2) ** 0.5
    return width, height
