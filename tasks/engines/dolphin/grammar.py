"""The layout string of a page, as the model writes it, to its entries. Pure.

Facts from upstream's `utils/utils.py` (branches v1.0 and v1.5): what its parser takes for an entry is one here, and nothing else.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

_NUMBER = r"(\d*\.?\d+)"
_FRACTIONS = re.compile(r"\[" + r",\s*".join([_NUMBER] * 4) + r"\]\s*(\w+)")
_PIXELS = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")
_BRACKETED_LABEL = re.compile(r"\]\[([^\]]+)\]")
_SEPARATORS = re.compile(r"\[(?:PAIR|RELATION)_SEP\]")


class Generation(StrEnum):
    """One architecture, two grammars, geometries and sets of Markdown rules."""

    V1_0 = "1.0"
    V1_5 = "1.5"


class Prompt(StrEnum):
    """All that the model was trained to be asked; anything else gives garbage."""

    LAYOUT = "Parse the reading order of this document."
    TEXT = "Read text in the image."
    TABLE = "Parse the table in the image."
    FORMULA = "Read formula in the image."
    CODE = "Read code in the image."


class Entry(NamedTuple):
    """One element of the layout, in reading order."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom: fractions of the padded page (1.0), pixels of the model's 896 x 896 input (1.5)."""
    label: str


def parse(layout: str, generation: Generation) -> list[Entry]:
    """The entries of a layout string; what is no entry is passed over, so garbage gives an empty list."""
    if generation is Generation.V1_0:
        return [Entry(_box(match), match.group(5)) for match in _FRACTIONS.finditer(layout)]
    entries = []
    for segment in _SEPARATORS.split(layout):
        box, label = _PIXELS.search(segment), _BRACKETED_LABEL.search(segment)
        if box and label:
            entries.append(Entry(_box(box), label.group(1).strip()))
    return entries


def prompt(label: str, generation: Generation) -> Prompt | None:
    """How an element of that label is read; None for figures, which are not. Labels are generated text: any other is text."""
    if label == "fig":
        return None
    if label == "tab":
        return Prompt.TABLE
    if generation is Generation.V1_5 and label == "equ":
        return Prompt.FORMULA
    if generation is Generation.V1_5 and label == "code":
        return Prompt.CODE
    return Prompt.TEXT


def _box(match: re.Match[str]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(match.group(i)) for i in range(1, 5))
    return left, top, right, bottom
