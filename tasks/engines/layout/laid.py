"""Pages as they are laid out one by one, and what they become together: headings' levels, running headers, footnotes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from tasks.corpus.failures import Category
from tasks.engines.layout.choice import Way
from tasks.engines.layout.headings import Entry, Heading, levels
from tasks.engines.layout.margins import Edge, is_page_number, running
from tasks.engines.layout.markup import FIGURE, NOTE
from tasks.engines.layout.reading_order import Box
from tasks.engines.trust import PageTrust

_NOTE: Final = re.compile(f"{NOTE}([^{NOTE}]*){NOTE}")


class Figure(BaseModel):
    """A part of a page that is kept as an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of its file, unique in the document."""
    box: Box
    """On the page as it was turned."""


class Piece(BaseModel):
    """A piece of a page's Markdown, without the blank line behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    size: int | None = None
    """Font size in points, of a heading."""
    edge: bool = False
    """The layout model takes it for a page's header or footer."""
    figure: Figure | None = None


class LaidPage(BaseModel):
    """One page, laid out: all that can be said of it without the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pieces: list[Piece] = []
    way: Way = Way.LAYOUT
    turns: list[int] = []
    """What was done to it before it was read (`turning.turn`)."""
    attached: list[str] = []
    """Names of files."""
    notes: list[str] = []
    """What is worth a warning."""
    failed: bool = False
    """The layout way was tried first and failed."""
    hurried: bool = False
    """It was not tried at all, since it had failed on pages before this one."""
    gap: str | None = None
    category: Category = Category.DAMAGED
    """Of the gap."""
    trust: PageTrust | None = None
    """None of pages that were not looked at."""

    @property
    def plain(self) -> str:
        """Its text, without figures and the marks of footnotes' labels."""
        return "\n\n".join(piece.text.replace(NOTE, "") for piece in self.pieces if piece.figure is None)


def together(
    pages: Sequence[LaidPage], outline: Sequence[Entry], figures: Collection[str], *, marginalia: bool
) -> list[str]:
    """The pages' Markdown.

    Args:
        figures: names of those that there are.
        marginalia: keep running headers, footers and page numbers.
    """
    kept = [[piece for piece in page.pieces if piece.figure is None or piece.figure.name in figures] for page in pages]
    if not marginalia:
        kept = _without_margins(kept)
    headings = [piece for page in kept for piece in page if piece.size is not None]
    found = iter(levels([Heading(piece.text, piece.size or 0) for piece in headings], outline))
    labels: dict[str, int] = {}
    texts = []
    for number, page in enumerate(kept, 1):
        text = ""
        for piece in page:
            mark = f"{'#' * next(found)} " if piece.size is not None else ""
            text += f"{mark}{piece.text}\n\n"
        texts.append(_NOTE.sub(lambda match, number=number: _label(match[1], number, labels), text))
    return texts


def placeholder(name: str) -> str:
    """What stands in the text for a figure's link: nothing that a document's own text can hold."""
    return f"{FIGURE}{name}{FIGURE}"


def _label(mark: str, page: int, labels: dict[str, int]) -> str:
    """A footnote's label: its number, with the page's where an earlier page has the same."""
    return mark if labels.setdefault(mark, page) == page else f"{mark}-{page}"


def _without_margins(pages: Sequence[Sequence[Piece]]) -> list[list[Piece]]:
    places = [_edges(page) for page in pages]
    edges = [
        [Edge(page[place].text, page[place].edge) for place in found] for page, found in zip(pages, places, strict=True)
    ]
    gone = [
        {place for place, runs in zip(found, verdicts, strict=True) if runs}
        for found, verdicts in zip(places, running(edges), strict=True)
    ]
    return [_spared(page, dropped) for page, dropped in zip(pages, gone, strict=True)]


def _spared(page: Sequence[Piece], dropped: Collection[int]) -> list[Piece]:
    """A page's pieces without those; where no text would be left, it keeps all but the page's number."""
    rest = [piece for place, piece in enumerate(page) if place not in dropped]
    if any(piece.figure is None for piece in rest):
        return rest
    return [piece for place, piece in enumerate(page) if place not in dropped or not is_page_number(piece.text)]


def _edges(page: Sequence[Piece]) -> list[int]:
    """Places of what may run through the pages: a heading may have the words of a header, and is none."""
    ends = {0, len(page) - 1}
    return [
        place
        for place, piece in enumerate(page)
        if (piece.edge or place in ends) and piece.size is None and piece.figure is None
    ]
