"""The order in which the parts of a page are read: strips and columns, found by the white space between boxes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; y grows downwards."""

_SHRINK = 2.0
"""Units by which a box may reach into its neighbour's and still be beside it, a tenth of the box at most."""
_PROSE = 9.0
"""Heights of a line that the lines of a column of prose are wide."""
_MOST = 600
"""Boxes on a page; with more, the order is top to bottom (cutting takes time that grows with their square)."""


def reading_order(boxes: Sequence[Box], *, gutter: float, line: float = 0.0, right_to_left: bool = False) -> list[int]:
    """Indices of the boxes in the order of reading.

    Args:
        gutter: the least white space between two columns.
        line: the usual height of a line of text. Columns of single lines that stand beside each other are read across, as the
            rows of a bill are.
        right_to_left: the first column is the rightmost one.
    """
    numbers = list(range(len(boxes)))
    if len(boxes) > _MOST:
        return sorted(numbers, key=lambda n: (boxes[n][1], boxes[n][0]))
    return _Cutter([_shrunk(box) for box in boxes], gutter, line, right_to_left).order(numbers)


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box around some."""
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def overlap(one: Box, other: Box) -> float:
    """The share of `one` that lies in `other`; by its centre where it has no area."""
    width, height = one[2] - one[0], one[3] - one[1]
    if width <= 0 or height <= 0:
        x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
        return float(other[0] <= x <= other[2] and other[1] <= y <= other[3])
    common = max(0.0, min(one[2], other[2]) - max(one[0], other[0])) * max(
        0.0, min(one[3], other[3]) - max(one[1], other[1])
    )
    return common / (width * height)


def listed(columns: Sequence[Sequence[Box]], line: float) -> bool:
    """Whether columns are those of a list of rows, such as a bill's: single lines that stand beside each other, and not of prose.

    Args:
        line: the usual height of a line of text.
    """
    lone = [[box for box in column if box[3] - box[1] <= 1.7 * line] for column in columns]
    if any(2 * len(inside) < len(column) for inside, column in zip(lone, columns, strict=True)):
        return False
    if all(median([box[2] - box[0] for box in inside]) > _PROSE * line for inside in lone):
        return False
    longest = max(range(len(lone)), key=lambda index: len(lone[index]))
    return all(
        sum(any(_level(box, other) for other in lone[longest]) for box in inside) >= 0.6 * len(inside)
        for index, inside in enumerate(lone)
        if index != longest
    )


def _level(one: Box, other: Box) -> bool:
    """Whether two lines are of one row."""
    height = max(1e-6, min(one[3] - one[1], other[3] - other[1]))
    return abs((one[1] + one[3]) - (other[1] + other[3])) / 2 < 0.4 * height


class _Cutter:
    def __init__(self, boxes: list[Box], gutter: float, line: float, right_to_left: bool) -> None:
        self._boxes, self._gutter, self._line, self._right_to_left = boxes, gutter, line, right_to_left

    def order(self, numbers: list[int]) -> list[int]:
        if len(numbers) < 2:
            return numbers
        columns = self._columns(numbers)
        if len(columns) > 1:
            if self._right_to_left:
                columns.reverse()
            return [number for column in columns for number in self.order(column)]
        strips = self._cut(numbers, 1, 0.0)
        if len(strips) > 1:
            return [number for group in self._grouped(strips) for number in self.order(group)]
        return self._across(numbers)

    def _columns(self, numbers: list[int]) -> list[list[int]]:
        columns = self._cut(numbers, 0, self._gutter)
        return [numbers] if len(columns) > 1 and self._rows(columns) else columns

    def _rows(self, columns: list[list[int]]) -> bool:
        return listed([[self._boxes[n] for n in column] for column in columns], self._line)

    def _across(self, numbers: list[int]) -> list[int]:
        """Row by row."""
        rows: list[list[int]] = []
        for number in sorted(
            numbers, key=lambda n: (self._boxes[n][1] + min(self._height(n), self._line or 1e9) / 2, n)
        ):
            if rows and self._level(rows[-1][0], number):
                rows[-1].append(number)
            else:
                rows.append([number])
        side = -1 if self._right_to_left else 1
        return [number for row in rows for number in sorted(row, key=lambda n: (side * self._boxes[n][0], n))]

    def _height(self, number: int) -> float:
        return self._boxes[number][3] - self._boxes[number][1]

    def _level(self, one: int, other: int) -> bool:
        """Whether two begin on the same line."""
        a, b = self._boxes[one], self._boxes[other]
        common = min(a[3], b[3]) - max(a[1], b[1])
        lower = min(self._height(one), self._height(other))
        return common > 0.5 * lower and abs(a[1] - b[1]) < max(self._line, lower)

    def _cut(self, numbers: list[int], axis: int, least: float) -> list[list[int]]:
        """Groups of boxes between which there is nothing along an axis."""
        ordered = sorted(numbers, key=lambda n: (self._boxes[n][axis], n))
        groups, end = [[ordered[0]]], self._boxes[ordered[0]][axis + 2]
        for number in ordered[1:]:
            start, stop = self._boxes[number][axis], self._boxes[number][axis + 2]
            if start - end > least or (least == 0.0 and start >= end):
                groups.append([])
            groups[-1].append(number)
            end = max(end, stop)
        return groups

    def _grouped(self, strips: list[list[int]]) -> list[list[int]]:
        """Strips that have the same columns belong together: a gap that runs across all of them is chance."""
        groups, first = [], 0
        while first < len(strips):
            last = len(strips)
            while last > first + 1:
                together = [number for strip in strips[first:last] for number in strip]
                if len(self._columns(together)) > 1:
                    break
                last -= 1
            groups.append([number for strip in strips[first:last] for number in strip])
            first = last
        return groups


def _shrunk(box: Box) -> Box:
    x, y = (min(_SHRINK, max(0.0, side) / 10) for side in (box[2] - box[0], box[3] - box[1]))
    return box[0] + x, box[1] + y, box[2] - x, box[3] - y
