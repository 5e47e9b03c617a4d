"""Tables as Markdown: GitHub's where the cells make a plain grid, HTML where some span several rows or columns. Pure."""

from __future__ import annotations

import html
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from tasks.engines.layout.markup import escaped, link_text, linked
from tasks.engines.layout.prose import joined
from tasks.engines.layout.reading_order import Box
from tasks.engines.layout.textlines import Word

Cell = list[tuple[str, str | None]]
"""Texts, and where they lead."""


@dataclass(frozen=True, slots=True)
class Place:
    """Cells of a grid: rows and columns from a first one up to, not including, a last one."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the rows and columns of a table are, and which pieces of it lie in more than one of them."""

    ys: tuple[float, ...]
    """Edges of the rows, ascending: one more than there are rows."""
    xs: tuple[float, ...]
    pieces: tuple[tuple[Box, Place], ...] = field(default=())


def table(grid: Grid, words: Sequence[Word], *, right_to_left: bool = False) -> str:
    """The table's Markdown; "" where it has no text.

    Args:
        right_to_left: the first column is the rightmost one.
    """
    height, width = len(grid.ys) - 1, len(grid.xs) - 1
    if height < 1 or width < 1 or not words:
        return ""
    owner = _owners(grid, height, width)
    cells: dict[Place, list[Word]] = {place: [] for row in owner for place in row}
    for word in words:
        x, y = (word.box[0] + word.box[2]) / 2, (word.box[1] + word.box[3]) / 2
        cells[owner[_slot(grid.ys, y)][_slot(grid.xs, x)]].append(word)
    texts = {place: _cell(inside) for place, inside in cells.items()}
    rows = [y for y in range(height) if any(texts[place] for place in owner[y])]
    columns = [x for x in range(width) if any(texts[owner[y][x]] for y in range(height))]
    if not rows or not columns:
        return ""
    if right_to_left:
        columns.reverse()
    spanned = any(
        texts[place] and (_among(rows, place.top, place.bottom) > 1 or _among(columns, place.left, place.right) > 1)
        for place in texts
    )
    return _html(owner, texts, rows, columns) if spanned else _github(owner, texts, rows, columns)


def _owners(grid: Grid, height: int, width: int) -> list[list[Place]]:
    """The cell that each slot of the grid belongs to."""
    owner = [[Place(y, y + 1, x, x + 1) for x in range(width)] for y in range(height)]
    for _, place in grid.pieces:
        wide = place.right - place.left > 1 or place.bottom - place.top > 1
        inside = 0 <= place.top < place.bottom <= height and 0 <= place.left < place.right <= width
        slots = (
            [(y, x) for y in range(place.top, place.bottom) for x in range(place.left, place.right)] if inside else []
        )
        # Cells that would overlap another wide one stay as they are.
        if wide and all(owner[y][x] == Place(y, y + 1, x, x + 1) for y, x in slots):
            for y, x in slots:
                owner[y][x] = place
    return owner


def _slot(edges: Sequence[float], at: float) -> int:
    return min(max(bisect_right(edges, at) - 1, 0), len(edges) - 2)


def _cell(words: Sequence[Word]) -> Cell:
    cell = []
    for target, group in groupby(words, key=lambda word: word.link):
        lines: dict[tuple[int, int], list[str]] = {}
        for word in group:
            lines.setdefault(word.line, []).append(word.text)
        if text := joined([" ".join(line) for line in lines.values()]):
            cell.append((text, target))
    return cell


def _in_markdown(cell: Cell) -> str:
    return " ".join(escaped(text) if target is None else linked(link_text(text), target) for text, target in cell)


def _in_html(cell: Cell) -> str:
    return " ".join(
        html.escape(text, quote=False) if target is None else f'<a href="{target}">{html.escape(text, quote=False)}</a>'
        for text, target in cell
    )


def _among(kept: Sequence[int], first: int, last: int) -> int:
    return sum(first <= index < last for index in kept)


def _github(
    owner: Sequence[Sequence[Place]], texts: dict[Place, Cell], rows: Sequence[int], columns: Sequence[int]
) -> str:
    lines = ["|" + "|".join(_in_markdown(texts[owner[y][x]]) for x in columns) + "|" for y in rows]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def _html(
    owner: Sequence[Sequence[Place]], texts: dict[Place, Cell], rows: Sequence[int], columns: Sequence[int]
) -> str:
    done: set[Place] = set()
    out = ["<table>"]
    for y in rows:
        line = ""
        for x in columns:
            place = owner[y][x]
            if place in done:
                continue
            done.add(place)
            high, wide = _among(rows, place.top, place.bottom), _among(columns, place.left, place.right)
            spans = (f' rowspan="{high}"' if high > 1 else "") + (f' colspan="{wide}"' if wide > 1 else "")
            line += f"<td{spans}>{_in_html(texts[place])}</td>"
        out.append(f"<tr>{line}</tr>")
    return "\n".join([*out, "</table>"])
