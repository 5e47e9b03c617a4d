"""Drawing figures: parts of a page as image files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pymupdf

from tasks.engines.layout.figures import MOST_BYTES
from tasks.engines.layout.reading_order import Box

DPI: Final = 150.0
MOST_PIXELS: Final = 4_000_000
_LARGE_PNG: Final = 200_000
"""Bytes over which a JPEG is tried."""
_QUALITY: Final = 85


class Drawer:
    """Draws figures of one document into a folder.

    Args:
        folder: gets the files; those that it has are drawn already.
        max_pixels: of one figure.
    """

    def __init__(self, folder: Path, max_pixels: int) -> None:
        self._folder, self._most_pixels = folder, min(max_pixels, MOST_PIXELS)
        self._bytes = 0

    def file(self, name: str) -> Path | None:
        """A figure's file, if it is there."""
        path = self._folder / name
        return path if path.is_file() else None

    @property
    def full(self) -> bool:
        """Whether what it drew is as much as a document may have."""
        return self._bytes > MOST_BYTES

    def draw(self, page: Any, boxes: Sequence[Box], names: Sequence[str]) -> list[bool]:
        """Draw parts of a page into files; False for what has only one colour. Raises what MuPDF raises.

        The same page, turned in the same way, gives the same bytes.
        """
        if not boxes:
            return []
        shown = page.get_displaylist()
        return [self._draw(shown, pymupdf.Rect(box), name) for box, name in zip(boxes, names, strict=True)]

    def _draw(self, shown: Any, box: Any, name: str) -> bool:
        scale = DPI / 72
        scale = min(scale, math.sqrt(self._most_pixels / max(1.0, abs(box))))
        pixmap = shown.get_pixmap(matrix=pymupdf.Matrix(scale, scale), colorspace=pymupdf.csRGB, alpha=False, clip=box)
        if pixmap.width < 2 or pixmap.height < 2 or pixmap.is_unicolor:
            return False
        data = pixmap.tobytes("png")
        if len(data) > _LARGE_PNG and len(smaller := pixmap.tobytes("jpeg", jpg_quality=_QUALITY)) < len(data) / 2:
            data = smaller
        (self._folder / name).write_bytes(data)
        self._bytes += len(data)
        return True
