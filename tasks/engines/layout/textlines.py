"""A page's text layer as lines of styled runs, whatever their direction, and without what is there twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tasks.engines.layout.reading_order import Box, union
from tasks.engines.markdown import clean

_SUPERSCRIPT, _ITALIC, _MONOSPACED, _BOLD = 1, 2, 8, 16
_STROKED, _FILLED = 16, 32
"""Of `char_flags`: text that is neither is not painted (rendering mode 3), as OCR layers are."""
_ALEFS: Final = frozenset("\u0627\u0623\u0625\u0622\u0671")
_SAME: Final = 1.5
"""Points within which the same text again is an imitation of bold type, not text of its own."""


@dataclass(frozen=True, slots=True)
class Run:
    """Text of one style on one line."""

    text: str
    box: Box
    size: float
    bold: bool = False
    italic: bool = False
    mono: bool = False
    superscript: bool = False
    hidden: bool = False
    link: str | None = None
    """Where it leads."""
    note: str | None = None
    """The mark of the footnote that it refers to."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the page, with the numbers of its block and line."""

    text: str
    box: Box
    line: tuple[int, int] = (0, 0)
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """What MuPDF takes for a line: runs in logical order."""

    runs: tuple[Run, ...]
    box: Box
    direction: tuple[float, float] = (1.0, 0.0)
    block: int = 0
    vertical: bool = False
    """Written top to bottom, its characters upright."""

    @property
    def text(self) -> str:
        """All of its runs."""
        return "".join(run.text for run in self.runs)

    @property
    def hidden(self) -> bool:
        """Nothing of it is painted."""
        return all(run.hidden for run in self.runs)

    @property
    def size(self) -> float:
        """The largest font size, in points."""
        return max((run.size for run in self.runs if run.text.strip()), default=0.0)


Cut = Callable[[Mapping[str, Any]], Iterable[tuple[Mapping[str, Any], str | None]]]
"""Takes a span of a raw dictionary apart where links begin and end."""


def uncut(span: Mapping[str, Any]) -> Iterable[tuple[Mapping[str, Any], str | None]]:
    """The span as it is, without a link."""
    return ((span, None),)


def lines_of(blocks: Iterable[Mapping[str, Any]], cut: Cut = uncut) -> list[Line]:
    """The lines of a text page's dictionary, less white space and what is drawn over itself."""
    lines, seen = [], _Seen()
    for number, block in enumerate(blocks):
        for line in block.get("lines", ()):
            made = (_run(piece, link) for span in line["spans"] for piece, link in cut(span))
            runs = tuple(run for run in made if run.text and not seen.again(run))
            if any(not run.text.isspace() for run in runs):
                vertical = bool(line.get("wmode"))
                lines.append(Line(runs, union([run.box for run in runs]), _direction(line["dir"]), number, vertical))
    return lines


def without_hidden_doubles(lines: Sequence[Line]) -> list[Line]:
    """Lines that are not painted go where painted text lies in the same place."""
    painted = [line.box for line in lines if not line.hidden]
    if not painted or len(painted) == len(lines):
        return list(lines)
    return [line for line in lines if not line.hidden or not any(_over(line.box, box) for box in painted)]


def main_direction(lines: Iterable[Line]) -> tuple[int, int] | None:
    """Of most characters, if that is one of the four along the page's edges: right, down, left or up, as (x, y)."""
    counted: Counter[tuple[int, int]] = Counter()
    for line in lines:
        x, y = (round(part) for part in line.direction)
        straight = abs(line.direction[0] - x) + abs(line.direction[1] - y) < 0.05
        counted[(x, y) if straight and not line.vertical else (0, 0)] += sum(not c.isspace() for c in line.text)
    if not counted:
        return None
    best = max(sorted(counted), key=lambda direction: counted[direction])
    return None if best == (0, 0) else best


def turned(line: Line) -> Line:
    """The line with its boxes as its reader sees them who turns the page so that it runs from left to right."""
    x, y = line.direction
    if (x, y) == (1.0, 0.0):
        return line
    box = _turned(line.box, x, y)
    return replace(line, runs=tuple(replace(run, box=_turned(run.box, x, y)) for run in line.runs), box=box)


def _turned(box: Box, x: float, y: float) -> Box:
    corners = [(box[i], box[j]) for i in (0, 2) for j in (1, 3)]
    along = [px * x + py * y for px, py in corners]
    across = [py * x - px * y for px, py in corners]
    return min(along), min(across), max(along), max(across)


def words_of(blocks: Iterable[Mapping[str, Any]]) -> list[Word]:
    """The words of a text page's raw dictionary, by its characters."""
    words: list[Word] = []
    for number, block in enumerate(blocks):
        for place, line in enumerate(block.get("lines", ())):
            inside: list[Mapping[str, Any]] = []
            for char in [*(char for span in line["spans"] for char in logical(span["chars"])), {"c": " "}]:
                if not char["c"].isspace():
                    inside.append(char)
                elif inside:
                    box = union([char["bbox"] for char in inside])
                    words.append(Word(clean("".join(char["c"] for char in inside)), box, (number, place)))
                    inside = []
    return words


def logical(chars: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Characters with ligatures of lam and alef the right way round: MuPDF, which reverses lines, reverses these once more.

    The second character of a ligature is the one without a width.
    """
    out = list(chars)
    for at in range(len(out) - 1):
        first, second = out[at], out[at + 1]
        if first["c"] in _ALEFS and second["c"] == "\u0644" and first["bbox"][2] - first["bbox"][0] < 0.1:
            out[at], out[at + 1] = second, first
    return out


def _run(span: Mapping[str, Any], link: str | None = None) -> Run:
    flags, painted = int(span["flags"]), int(span["char_flags"])
    type3 = str(span["font"]).startswith("Type3")
    hidden = not type3 and (span.get("alpha", 255) == 0 or not painted & (_STROKED | _FILLED))
    return Run(
        text=clean("".join(char["c"] for char in logical(span["chars"])) if "chars" in span else str(span["text"])),
        box=tuple(float(side) for side in span["bbox"]),  # type: ignore[arg-type]
        size=float(span["size"]),
        bold=bool(flags & _BOLD) or bool(painted & 8),
        italic=bool(flags & _ITALIC),
        mono=bool(flags & _MONOSPACED) and not hidden,
        superscript=bool(flags & _SUPERSCRIPT),
        hidden=hidden or span["font"] == "GlyphLessFont",
        link=link,
    )


def _direction(given: Sequence[float]) -> tuple[float, float]:
    x, y = float(given[0]), float(given[1])
    length = math.hypot(x, y)
    if length == 0.0 or not math.isfinite(length):
        return 1.0, 0.0
    x, y = round(x / length, 3), round(y / length, 3)
    return (x + 0.0, y + 0.0)


def _over(one: Box, other: Box) -> bool:
    x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
    return other[0] <= x <= other[2] and other[1] <= y <= other[3]


class _Seen:
    """Runs by their text and place."""

    def __init__(self) -> None:
        self._boxes: dict[str, list[Box]] = {}

    def again(self, run: Run) -> bool:
        if run.text.isspace():
            return False
        boxes = self._boxes.setdefault(run.text, [])
        if any(abs(box[0] - run.box[0]) < _SAME and abs(box[1] - run.box[1]) < _SAME for box in boxes[-64:]):
            return True
        boxes.append(run.box)
        return False
