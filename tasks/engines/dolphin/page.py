"""A page's layout to the elements that have to be read, and what was read to the page's result. Pure."""

from __future__ import annotations

from typing import NamedTuple

from tasks.engines.dolphin.boxes import Box, Frame, Widen, place, readable
from tasks.engines.dolphin.grammar import Generation, Prompt, parse, prompt


class Element(NamedTuple):
    """One element of a page."""

    label: str
    crop: Box
    """In the padded page."""
    box: Box
    """In the page image."""
    order: int
    """Reading order, from 0; crops too small to be read leave gaps."""
    prompt: Prompt | None
    """How it is read; None for a figure."""


def elements(
    layout: str, frame: Frame, generation: Generation, widen: Widen | None = None, *, strict: bool = True
) -> list[Element]:
    """The page's elements in reading order, from what the model wrote for the layout prompt."""
    entries = parse(layout, generation)
    placed = place(entries, frame, generation, widen, strict=strict)
    return [
        Element(entry.label, where.crop, where.page, order, prompt(entry.label, generation))
        for order, (entry, where) in enumerate(zip(entries, placed, strict=True))
        if readable(where.crop, frame)
    ]
