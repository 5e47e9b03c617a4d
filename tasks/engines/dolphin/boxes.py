"""Boxes of the layout to crops of the page: both generations' geometry, as upstream has it or mended. Pure.

Facts from upstream's `process_coordinates` (utils/utils.py, branches v1.0 and v1.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tasks.engines.dolphin.grammar import Entry, Generation

MODEL_SIDE = 896
"""Pixels a side of the model's input; the unit of 1.5's coordinates."""
LEAST_SIDE = 4
"""Crops with a shorter side are not read: the image processor cannot take them."""
_FALLBACK = 100


class Box(NamedTuple):
    """Left, top, right, bottom in pixels; right and bottom are the first ones outside."""

    x1: int
    y1: int
    x2: int
    y2: int

    def meets(self, other: Box) -> bool:
        """Whether they share a pixel."""
        return self.x1 < other.x2 and self.x2 > other.x1 and self.y1 < other.y2 and self.y2 > other.y1


class Frame(NamedTuple):
    """A page image, width and height in pixels, and the square that it is padded to."""

    width: int
    height: int

    @property
    def side(self) -> int:
        """Of the padded page."""
        return max(self.width, self.height)

    @property
    def left(self) -> int:
        """Columns of padding before the page."""
        return (self.side - self.width) // 2

    @property
    def top(self) -> int:
        """Rows of padding above the page."""
        return (self.side - self.height) // 2


class Placed(NamedTuple):
    """Where an entry is."""

    crop: Box
    """In the padded page."""
    page: Box
    """In the page image, as the JSON has it."""


Widen = Callable[[Box], Box]


def place(
    entries: Sequence[Entry], frame: Frame, generation: Generation, widen: Widen | None = None, *, strict: bool = True
) -> list[Placed]:
    """The place of every entry.

    Args:
        entries: in reading order.
        frame: of the page image.
        generation: whose geometry.
        widen: moves a box's edges out of the text (1.0 only; tasks/engines/dolphin/edges.py).
        strict: as upstream does, begin a box that meets the one before it where that ends, which leaves a pixel of a table
            within a figure. Otherwise boxes stay as the model wrote them.
    """
    placed: list[Placed] = []
    before: Box | None = None
    for entry in entries:
        try:
            box = _absolute(entry, frame.side, generation)
        except OverflowError:  # a coordinate beyond all floats; upstream goes on with this box
            crop = Box(0, 0, _FALLBACK, _FALLBACK)
            before = crop
            placed.append(Placed(crop, Box(0, 0, min(_FALLBACK, frame.width), min(_FALLBACK, frame.height))))
            continue
        box = _within(box, frame.side)
        if widen is not None:
            box = _within(widen(box), frame.side)
        if strict and before is not None and box.meets(before):
            top = min(before.y2, frame.side - 1)
            box = box._replace(y1=top, y2=box.y2 if box.y2 > top else min(top + 1, frame.side))
        before = box
        placed.append(Placed(box, _on_page(box, frame)))
    return placed


def readable(crop: Box, frame: Frame) -> bool:
    """Whether what the crop cuts from the padded page is large enough to be read."""
    return min(min(crop.x2, frame.side) - crop.x1, min(crop.y2, frame.side) - crop.y1) >= LEAST_SIDE


def _absolute(entry: Entry, side: int, generation: Generation) -> Box:
    if generation is Generation.V1_0:
        return Box(*(int(value * side) for value in entry.box))
    x1, y1, x2, y2 = (round(value / MODEL_SIDE * side) for value in entry.box)
    return Box(x1, y1, x2 + 1, y2 + 1)


def _within(box: Box, side: int) -> Box:
    x1, y1 = (max(0, min(value, side - 1)) for value in (box.x1, box.y1))
    x2, y2 = (max(0, min(value, side)) for value in (box.x2, box.y2))
    return Box(x1, y1, x2 if x2 > x1 else min(x1 + 1, side), y2 if y2 > y1 else min(y1 + 1, side))


def _on_page(box: Box, frame: Frame) -> Box:
    x1, y1 = max(0, box.x1 - frame.left), max(0, box.y1 - frame.top)
    x2, y2 = min(frame.width, box.x2 - frame.left), min(frame.height, box.y2 - frame.top)
    return Box(x1, y1, x2 if x2 > x1 else min(x1 + 1, frame.width), y2 if y2 > y1 else min(y1 + 1, frame.height))
