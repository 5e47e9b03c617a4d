"""The parts that the layout model sees on a page, and which lines of text belong to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from tasks.engines.layout.prose import is_mark
from tasks.engines.layout.reading_order import Box, listed, overlap, union
from tasks.engines.layout.tables import Grid, Place
from tasks.engines.layout.textlines import Line

_INSIDE: Final = 0.6
_CONTAINED: Final = 0.85


class Kind(StrEnum):
    """What the model takes a part for."""

    TEXT = "text"
    TITLE = "title"
    HEADING = "section-header"
    LIST_ITEM = "list-item"
    TABLE = "table"
    PICTURE = "picture"
    FORMULA = "formula"
    CAPTION = "caption"
    FOOTNOTE = "footnote"
    HEADER = "page-header"
    FOOTER = "page-footer"


@dataclass(frozen=True, slots=True)
class Region:
    """One part of a page."""

    kind: Kind
    box: Box
    grid: Grid | None = None
    lines: tuple[Line, ...] = ()


def regions_of(raw: Sequence[Mapping[str, Any]]) -> list[Region]:
    """The model's answer (`Page.get_layout(return_raw=True)`), less what lies in other parts."""
    found = []
    for one in raw:
        box: Box = tuple(float(side) for side in one["group_bbox"])  # type: ignore[assignment]
        name = str(one["class_name"])
        kind = Kind(name) if name in set(Kind) else Kind.TEXT
        if box[2] - box[0] <= 2 or box[3] - box[1] <= 2:
            continue
        grid = _grid(one, box) if kind is Kind.TABLE and one.get("table_grid") else None
        if kind is Kind.TABLE and grid is None:
            kind = Kind.TEXT
        found.append(Region(kind, box, grid))
    found.sort(key=lambda region: -_area(region.box))
    kept: list[Region] = []
    for region in found:
        least = 0.99 if region.kind in (Kind.TITLE, Kind.HEADING) else _CONTAINED
        inside = [other for other in kept if overlap(region.box, other.box) > least]
        if not inside or (region.kind is Kind.TABLE and all(other.kind is Kind.PICTURE for other in inside)):
            kept.append(region)
    return kept


def filled(regions: Sequence[Region], lines: Sequence[Line]) -> list[Region]:
    """The regions with their lines; lines that are in none make regions of their own, so that none is lost."""
    mine: list[list[Line]] = [[] for _ in regions]
    orphans: list[Line] = []
    for line in lines:
        whole = _home(line.box, regions, _INSIDE)
        if whole is not None:
            mine[whole].append(line)
            continue
        homes = [_home(run.box, regions, 0.5) for run in line.runs]
        for home in dict.fromkeys(homes):
            runs = tuple(run for run, at in zip(line.runs, homes, strict=True) if at == home)
            if not any(run.text.strip() for run in runs):
                continue
            part = replace(line, runs=runs, box=union([run.box for run in runs]))
            (orphans if home is None else mine[home]).append(part)
    full = [replace(region, lines=tuple(inside)) for region, inside in zip(regions, mine, strict=True)]
    return [*full, *_own(orphans)]


def split(region: Region, height: float) -> list[Region]:
    """The region's columns, where it runs across several: the model joins what stands close together.

    Args:
        height: the usual one of a line.
    """
    if len(region.lines) < 2 or region.kind in (Kind.TABLE, Kind.PICTURE, Kind.FORMULA):
        return [region]
    groups: list[list[Line]] = []
    end = 0.0
    for line in sorted(region.lines, key=lambda line: line.box[0]):
        if groups and line.box[0] - end <= 0.3 * height:
            groups[-1].append(line)
            end = max(end, line.box[2])
        else:
            groups.append([line])
            end = line.box[2]
    if len(groups) < 2 or any(all(is_mark(line.text) for line in group) for group in groups):
        return [region]
    if all(len(group) == 1 for group in groups):
        return [region]
    if listed([[line.box for line in group] for group in groups], height):
        return [region]
    kept = [tuple(line for line in region.lines if line in group) for group in groups]
    return [replace(region, box=union([line.box for line in group]), lines=group) for group in kept]


def tight(region: Region) -> Region:
    """The region with a box that fits its text, where it is text alone."""
    if not region.lines or region.kind in (Kind.TABLE, Kind.PICTURE):
        return region
    return replace(region, box=union([line.box for line in region.lines]))


def _own(orphans: Sequence[Line]) -> list[Region]:
    groups: list[list[Line]] = []
    for line in orphans:
        last = groups[-1][-1] if groups else None
        height = max(1.0, line.box[3] - line.box[1])
        near = last is not None and last.block == line.block and abs(line.box[1] - last.box[3]) < height
        if near:
            groups[-1].append(line)
        else:
            groups.append([line])
    return [Region(Kind.TEXT, union([line.box for line in group]), lines=tuple(group)) for group in groups]


def _home(box: Box, regions: Sequence[Region], least: float) -> int | None:
    candidates = [
        (-round(share, 1), _area(region.box), number)
        for number, region in enumerate(regions)
        if (share := overlap(box, region.box)) >= least
    ]
    return min(candidates)[2] if candidates else None


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _grid(one: Mapping[str, Any], box: Box) -> Grid | None:
    lines = one["table_grid"]
    ys = _edges(box[1], [float(y) for y in lines.h_lines], box[3])
    xs = _edges(box[0], [float(x) for x in lines.v_lines], box[2])
    if len(ys) < 2 or len(xs) < 2:
        return None
    pieces = []
    boxes = one.get("bboxes") or []
    for cell in one.get("table_cells") or ():
        if 0 <= cell.bbox_idx < len(boxes):
            place = Place(int(cell.row_start), int(cell.row_end), int(cell.col_start), int(cell.col_end))
            piece: Box = tuple(float(side) for side in boxes[cell.bbox_idx])  # type: ignore[assignment]
            pieces.append((piece, place))
    return Grid(tuple(ys), tuple(xs), tuple(pieces))


def _edges(first: float, inner: Sequence[float], last: float) -> list[float]:
    return [first, *sorted(first + edge for edge in inner if 0 < edge < last - first), last]
