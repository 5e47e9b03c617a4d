"""What the layout engine saw of a page besides its Markdown, and how far the Markdown can be trusted by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import pymupdf

from tasks.engines import opening
from tasks.engines.doubts import MOST_LAYER, page_trust
from tasks.engines.ink import SIDE, figures, grey_of, outside, written_cells
from tasks.engines.layout.choice import FEW
from tasks.engines.layout.ocr import ReadLine
from tasks.engines.layout.reading_order import Box
from tasks.engines.layout.regions import Kind, Region
from tasks.engines.layout.textlines import Line
from tasks.engines.trust import PageTrust

_MOST_PIXELS: Final = 40_000_000
"""Of a page's images together: to decode more takes longer than all else."""

_SURE: Final = 0.9
"""OCR's score of a line from which on its letters are mostly right."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one page, in its own points."""

    layer: str = ""
    """Its text layer, less what is there twice; "" where the text was not made of it, or it is not to be trusted."""
    lines: tuple[Box, ...] = ()
    """Of text, whether of the layer or of OCR."""
    figures: tuple[Box, ...] = ()
    """Where the layout model sees pictures."""
    unsure: float | None = None
    """Share of the characters that OCR read without being sure; None where there was no OCR."""
    look: bool = True
    """The page may be rendered."""

    @classmethod
    def of(
        cls,
        lines: Sequence[Line],
        *,
        layer: Sequence[Line] = (),
        parts: Sequence[Region] = (),
        unsure: float | None = None,
        look: bool = True,
    ) -> Self:
        """By lines and parts."""
        pictures = tuple(part.box for part in parts if part.kind is Kind.PICTURE)
        return cls("\n".join(line.text for line in layer), tuple(line.box for line in lines), pictures, unsure, look)


def unsure(read: Sequence[ReadLine]) -> float | None:
    """See `Seen.unsure`; None where OCR read nothing."""
    total = sum(len(one.text) for one in read)
    return sum(len(one.text) for one in read if one.score < _SURE) / total if total else None


def trust_of(page: Any, seen: Seen, text: str) -> PageTrust:
    """The score of a page's text; the page lies as it did when it was read."""
    ink = _ink(page, seen) if seen.look else None
    layer = seen.layer if FEW <= len(seen.layer) <= MOST_LAYER else None
    return page_trust(text, layer=layer, ink=ink, unsure=seen.unsure)


def _ink(page: Any, seen: Seen) -> float | None:
    """Share of what looks like writing outside of the lines and figures; None where it would take long, or fails."""
    rect: Box = tuple(page.rect)
    try:
        images = page.get_image_info()
        if sum(info["width"] * info["height"] for info in images) > _MOST_PIXELS:
            return None
        scale = SIDE / max(rect[2] - rect[0], rect[3] - rect[1])
        picture = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False, colorspace=pymupdf.csGRAY)
        written = written_cells(grey_of(picture.samples, picture.width, picture.height, picture.stride))
        boxes: list[Box] = [tuple(float(side) for side in info["bbox"]) for info in images]
        return outside(written, [*seen.lines, *figures([*boxes, *seen.figures], rect)], rect)
    except (*opening.DAMAGE, MemoryError, ArithmeticError):  # pages without a size, boxes that are no numbers
        return None
