"""Where a page looks written on, cell by cell of a small picture of it, and how much of that lies outside of what was read. Pure.

A cell is written on where dark and light lie close to each other in both directions: rules, borders and even shades are not,
and white on black counts as black on white does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.engines.layout.reading_order import Box

SIDE: Final = 448
"""Pixels of the picture's longer side: a line of 10 points has five or six on a page of letter size."""
CELL: Final = 8
"""Pixels of a cell's side."""
_CONTRAST: Final = 70
_ROWS: Final = 3
"""Rows and columns of a cell with ink in them at least: a rule has fewer one way."""
_LEAST: Final = 4
"""Pixels of a cell that are ink at least."""
_FEW: Final = 4
"""Cells: specks of dust."""
WHOLE: Final = 0.8
"""Share of a page from which on an image is the page itself, as of a scan, and no figure on it."""

Cells = NDArray[np.bool_]


def written_cells(grey: NDArray[np.uint8]) -> Cells:
    """The cells that look written on, of a page in grey, row by row; what is left over at the edges is cut off."""
    rows, columns = grey.shape[0] // CELL, grey.shape[1] // CELL
    if not rows or not columns:
        return np.zeros((0, 0), np.bool_)
    # (row in a cell, column in it, row of cells, column of cells): what numpy goes through fastest.
    cells = grey[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).transpose(1, 3, 0, 2).copy()
    most, least = cells.max(axis=(0, 1)), cells.min(axis=(0, 1))
    middle = (most.astype(np.uint16) + least) // 2
    dark = cells < middle.astype(np.uint8)
    ink = dark ^ (dark.sum(axis=(0, 1)) > CELL * CELL / 2)
    # What goes through from edge to edge is a rule.
    ink &= ~ink.all(axis=1)[:, None] & ~ink.all(axis=0)[None]
    across, down = ink.any(axis=1).sum(axis=0), ink.any(axis=0).sum(axis=0)
    written: Cells = (
        (most.astype(np.int16) - least > _CONTRAST)
        & (across >= _ROWS)
        & (down >= _ROWS)
        & (ink.sum(axis=(0, 1)) >= _LEAST)
    )
    return written


def outside(written: Cells, boxes: Sequence[Box], page: Box) -> float:
    """Share of the written cells that touch none of the boxes.

    Args:
        boxes: of what was read, and of figures, in the page's own units.
        page: its edges, in the same.
    """
    total = int(written.sum())
    if total < _FEW:
        return 0.0
    rows, columns = written.shape
    width, height = max(1e-6, page[2] - page[0]), max(1e-6, page[3] - page[1])
    left = written.copy()
    for x0, y0, x1, y1 in boxes:
        first, last = int((x0 - page[0]) / width * columns), int(np.ceil((x1 - page[0]) / width * columns))
        top, foot = int((y0 - page[1]) / height * rows), int(np.ceil((y1 - page[1]) / height * rows))
        left[max(0, top) : max(0, foot), max(0, first) : max(0, last)] = False
    found = int(left.sum())
    return found / total if found >= _FEW else 0.0


def figures(boxes: Sequence[Box], page: Box) -> list[Box]:
    """The boxes of images that are no pictures of the page as a whole."""
    area = (page[2] - page[0]) * (page[3] - page[1])
    return [box for box in boxes if (box[2] - box[0]) * (box[3] - box[1]) < WHOLE * area]


def grey_of(samples: Any, width: int, height: int, stride: int) -> NDArray[np.uint8]:
    """A grey picture's pixels."""
    return np.frombuffer(samples, np.uint8).reshape(height, stride)[:, :width]
