"""What form fields hold, as text in its place: values that nothing paints, and boxes with a tick or without one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tasks.engines.layout.annotations import Field
from tasks.engines.layout.reading_order import Box, union
from tasks.engines.layout.textlines import Line, Run, Word

TICKED: Final = "\u2612"
EMPTY: Final = "\u2610"
_GLYPH: Final = 2
"""Characters that a tick is painted with, at most."""
_FURTHEST: Final = 3.0
"""Heights of a box that its label is away."""
_LARGEST: Final = 12.0
"""Font size of a value that nothing paints, at most."""


def lines_with(lines: Sequence[Line], fields: Sequence[Field]) -> list[Line]:
    """The lines, with a mark for each tick before or behind its label, and with values that are in none of them."""
    if not fields:
        return list(lines)
    runs = [(at, place) for at, line in enumerate(lines) for place in range(len(line.runs))]
    boxes = _Boxes([lines[at].runs[place].box for at, place in runs])
    gone = boxes.ticks(fields, [lines[at].runs[place].text for at, place in runs])
    put: dict[tuple[int, int], tuple[list[Field], list[Field]]] = {}
    own: list[Line] = []
    for number, field in enumerate(fields):
        if field.ticked is None:
            if not any(lines[at].runs[place].text.strip() for at, place in (runs[n] for n in boxes.inside(field.box))):
                own += _value(field, -1 - number)
        elif (label := boxes.label(field.box)) is None:
            own.append(Line((_mark(field),), field.box, block=-1 - number))
        else:
            put.setdefault(runs[label[0]], ([], []))[label[1]].append(field)
    dropped = {runs[number] for number in gone}
    made = (_rebuilt(at, line, dropped, put) for at, line in enumerate(lines))
    return [line for line in made if line is not None] + own


def words_with(words: Sequence[Word], fields: Sequence[Field]) -> list[Word]:
    """The same for words."""
    if not fields:
        return list(words)
    boxes = _Boxes([word.box for word in words])
    gone = boxes.ticks(fields, [word.text for word in words])
    put: dict[int, tuple[list[Word], list[Word]]] = {}
    own: list[Word] = []
    for number, field in enumerate(fields):
        if field.ticked is None:
            if not boxes.inside(field.box):
                for place, line in enumerate(_value(field, -1 - number)):
                    own += [Word(text, line.box, (-1 - number, place)) for text in line.text.split()]
        elif (label := boxes.label(field.box)) is None:
            own.append(Word(_tick(field), field.box, (-1 - number, 0)))
        else:
            mark = Word(_tick(field), field.box, words[label[0]].line)
            put.setdefault(label[0], ([], []))[label[1]].append(mark)
    made: list[Word] = []
    for number, word in enumerate(words):
        before, behind = put.get(number, ([], []))
        made += [*before, *([] if number in gone else [word]), *behind]
    return made + own


def _rebuilt(
    at: int, line: Line, gone: set[tuple[int, int]], put: dict[tuple[int, int], tuple[list[Field], list[Field]]]
) -> Line | None:
    runs: list[Run] = []
    for place, run in enumerate(line.runs):
        before, behind = put.get((at, place), ([], []))
        runs += [replace(_mark(field), text=f"{_tick(field)} ", size=run.size) for field in before]
        if (at, place) not in gone:
            runs.append(run)
        runs += [replace(_mark(field), text=f" {_tick(field)}", size=run.size) for field in behind]
    if len(runs) == len(line.runs) and not any((at, place) in gone for place in range(len(runs))):
        return line
    if not any(run.text.strip() for run in runs):
        return None
    return replace(line, runs=tuple(runs), box=union([run.box for run in runs]))


def _mark(field: Field) -> Run:
    return Run(_tick(field), field.box, min(field.box[3] - field.box[1], _LARGEST))


def _tick(field: Field) -> str:
    return TICKED if field.ticked else EMPTY


def _value(field: Field, block: int) -> list[Line]:
    texts = [text for text in field.value.splitlines() if text.strip()]
    left, top, right, bottom = field.box
    height = (bottom - top) / max(1, len(texts))
    found = []
    for number, text in enumerate(texts):
        box = (left, top + number * height, right, top + (number + 1) * height)
        found.append(Line((Run(text, box, min(0.8 * height, _LARGEST)),), box, block=block))
    return found


class _Boxes:
    """Boxes of text, looked up by the place of a field."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes: Any = np.array(boxes, dtype=float).reshape(len(boxes), 4)
        self._x = (self._boxes[:, 0] + self._boxes[:, 2]) / 2
        self._y = (self._boxes[:, 1] + self._boxes[:, 3]) / 2
        self._high = self._boxes[:, 3] - self._boxes[:, 1]

    def inside(self, box: Box) -> list[int]:
        """Numbers of those whose middle is in it."""
        left, top, right, bottom = box
        within = (self._x >= left) & (self._x <= right) & (self._y >= top) & (self._y <= bottom)
        return [int(number) for number in np.flatnonzero(within)]

    def ticks(self, fields: Sequence[Field], texts: Sequence[str]) -> set[int]:
        """Numbers of the texts that paint a tick. They are no labels."""
        ticked = [field.box for field in fields if field.ticked is not None]
        found = {n for box in ticked for n in self.inside(box) if len(texts[n].strip()) <= _GLYPH}
        self._boxes[list(found)] = np.nan
        return found

    def label(self, box: Box) -> tuple[int, int] | None:
        """The next text to the right, which the field is before (0), or else to the left, which it is behind (1)."""
        left, top, right, bottom = box
        height = max(bottom - top, 1.0)
        common = np.minimum(self._boxes[:, 3], bottom) - np.maximum(self._boxes[:, 1], top)
        level = common > 0.5 * np.minimum(np.maximum(self._high, 0.1), height)
        for side, gap in ((0, self._boxes[:, 0] - right), (1, left - self._boxes[:, 2])):
            near = np.flatnonzero(level & (gap >= -0.3 * height) & (gap <= _FURTHEST * height))
            if len(near):
                return int(near[np.argmin(gap[near])]), side
        return None
