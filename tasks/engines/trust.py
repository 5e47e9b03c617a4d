"""How far a page's text can be trusted, told without ground truth: a score from 0 to 1 and its named parts. Pure.

Each part is a share of what is wrong, 0 where nothing is, and is left out where there is nothing to tell it by. The score is what
is left when all parts were taken off: `WEIGHTS` says how much each counts, a weight over 1 as a power. `doubts.py` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field


class Part(StrEnum):
    """What can be wrong with a page's text."""

    GAP = "gap"
    """The page is missing."""
    LOST = "lost"
    """Share of the text layer's words that are not in the text."""
    INVENTED = "invented"
    """Share of the text's words that are not in the text layer; of engines that read pixels."""
    INK = "ink"
    """Share of what looks like writing that lies outside of everything that was read, and of figures."""
    REPEATS = "repeats"
    """Share of the words that only say again what stands before them."""
    SCRIPT = "script"
    """Characters that mean nothing, words of mixed scripts, words that are no words."""
    UNSURE = "unsure"
    """Share of the characters that OCR read without being sure of them."""
    STOPPED = "stopped"
    """A model was stopped in the midst of a text, or saw no parts: 1."""


WEIGHTS: Final[Mapping[Part, float]] = {
    Part.GAP: 1.0,
    Part.LOST: 1.0,
    Part.INVENTED: 0.5,
    Part.INK: 0.7,
    Part.REPEATS: 1.0,
    Part.SCRIPT: 1.0,
    Part.UNSURE: 2.0,
    Part.STOPPED: 0.4,
}


class PageTrust(BaseModel):
    """One page's score."""

    model_config = ConfigDict(frozen=True)

    score: float = Field(ge=0, le=1)
    parts: dict[Part, float] = {}
    """Of what could be told; 0 is good."""


def score_of(parts: Mapping[Part, float]) -> float:
    """What is left of 1 when each part was taken off."""
    left = 1.0
    for part, value in parts.items():
        weight = WEIGHTS[part]
        left *= (1 - min(1.0, weight) * min(1.0, max(0.0, value))) ** max(1.0, weight)
    return round(max(0.0, left), 4)


GAP: Final = PageTrust(score=0.0, parts={Part.GAP: 1.0})
