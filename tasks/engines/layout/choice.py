"""Which way a page goes, by evidence alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.corpus.failures import Category
from tasks.engines.layout.evidence import PageFacts, TextFacts
from tasks.engines.protocol import Fall

FEW: Final = 20
"""Characters: a page with fewer is as good as one without a text layer."""
MOST_DRAWINGS: Final = 12_000
"""Lines and shapes on a page; the layout model's preparation takes minutes over more."""
MOST_LINES: Final = 6_000
MOST_FALLEN: Final = 3
"""Pages of a document on which the layout way failed: those that follow begin with the next one."""


class Way(StrEnum):
    """How a page's text is come by, the best first."""

    LAYOUT = "layout"
    """Parts found by the layout model, text from the text layer."""
    LAYOUT_OCR = "layout-ocr"
    """The same, with the text of OCR where the page has none that can be trusted."""
    TEXT = "text"
    """The text layer in reading order."""
    OCR = "ocr"
    """OCR in reading order."""
    GAP = "gap"
    """None: the page is named as missing."""


class Source(StrEnum):
    """Where the characters of a page come from."""

    LAYER = "layer"
    OCR = "ocr"
    BOTH = "both"
    """The text layer, and OCR for what it leaves out."""
    NOTHING = "nothing"
    """There is nothing to read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """For one page."""

    source: Source
    layout: bool
    """Whether the layout model is worth asking."""
    reason: str | None = None
    """Why it is not the text layer with the layout model."""


def broken(facts: TextFacts, painted: float) -> str | None:
    """Why a text layer is not to be trusted; None where it is."""
    if facts.characters < FEW:
        return None
    if facts.bad > 0.2:
        return (
            "most of the text layer maps to no character"
            if facts.bad > 0.5
            else "parts of the text layer map to no character"
        )
    if facts.mixed > 0.25 and facts.scripts > 1:
        return "the words of the text layer mix scripts"
    if facts.voiceless > (0.5 if painted > 0.5 else 0.35) or (facts.voiceless > 0.15 and facts.vowels < 0.25):
        return "the words of the text layer are no words"
    return None


def plan(facts: PageFacts, *, ocr: bool, lines: int) -> Plan:
    """How to read a page.

    Args:
        ocr: it may be used.
        lines: of the text layer.
    """
    why = broken(facts.text, facts.painted)
    layout, without = True, None
    if facts.drawings > MOST_DRAWINGS or lines > MOST_LINES:
        layout, without = False, f"{facts.drawings} drawings and {lines} lines are too many for the layout model"
    elif facts.vertical > 0.5:
        layout, without = False, "written top to bottom"
    if facts.text.characters == 0:
        return (
            Plan(Source.OCR, layout)
            if ocr
            else Plan(Source.NOTHING, layout=False, reason="no text layer, and OCR is off")
        )
    if why is not None and ocr:
        return Plan(Source.OCR, layout, why)
    if ocr and facts.images > 0.5 and facts.text.characters < 12 * FEW and facts.painted > 0.5:
        return Plan(Source.BOTH, layout)
    if ocr and facts.text.characters < FEW and facts.images > 0.15:
        return Plan(Source.BOTH, layout)
    return Plan(Source.LAYER, layout, why or without)


def after(falls: Sequence[Fall], trouble: int) -> tuple[Way, int]:
    """The way for a page after the processes that it cost, and how many cheaper ones are left, a gap among them.

    Args:
        falls: of this page.
        trouble: pages of the document on which the layout way failed before.
    """
    ways = [Way.LAYOUT, Way.LAYOUT, Way.TEXT, Way.OCR, Way.GAP]
    at = 2 if trouble >= MOST_FALLEN else 0
    for fall in falls:
        at += 1
        # What took too long will again, unless the machine was busy; a crash may have been another page's doing.
        if at == 1 and (fall.category is Category.TIMEOUT and not fall.starved):
            at += 1
    at = min(at, len(ways) - 1)
    return ways[at], len(ways) - 1 - at
