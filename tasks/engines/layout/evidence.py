"""What can be told of a page without laying it out: its text layer, its images, its drawings."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tasks.engines.layout.reading_order import Box
from tasks.engines.layout.textlines import Line

_WORD: Final = re.compile(r"[^\W\d_]+")
_VOWELS: Final = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýÿœ")
_SCRIPTS: Final = (
    (0x0041, 0x024F, "latin"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "armenian"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x08FF, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x09FF, "bengali"),
    (0x0A00, 0x0A7F, "gurmukhi"),
    (0x0A80, 0x0AFF, "gujarati"),
    (0x0B00, 0x0B7F, "odia"),
    (0x0B80, 0x0BFF, "tamil"),
    (0x0C00, 0x0C7F, "telugu"),
    (0x0C80, 0x0CFF, "kannada"),
    (0x0D00, 0x0D7F, "malayalam"),
    (0x0D80, 0x0DFF, "sinhala"),
    (0x0E00, 0x0EFF, "thai"),
    (0x10A0, 0x10FF, "georgian"),
    (0x1E00, 0x1EFF, "latin"),
    (0x1F00, 0x1FFF, "greek"),
    (0x3040, 0x30FF, "kana"),
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
    (0xFB1D, 0xFB4F, "hebrew"),
    (0xFB50, 0xFDFF, "arabic"),
    (0xFE70, 0xFEFF, "arabic"),
)
_TOGETHER: Final = ({"han", "kana"}, {"han", "hangul"}, {"han", "kana", "latin"}, {"han", "latin"}, {"hangul", "latin"})
RIGHT_TO_LEFT: Final = frozenset({"hebrew", "arabic"})


@dataclass(frozen=True, slots=True)
class TextFacts:
    """Of a text."""

    characters: int = 0
    """Without white space."""
    bad: float = 0.0
    """Share that means nothing: U+FFFD, private use, unassigned, controls."""
    mixed: float = 0.0
    """Share of words of several letters whose letters are of scripts that do not go together."""
    scripts: int = 0
    """How many have a tenth of the letters each."""
    voiceless: float = 0.0
    """Share of Latin words of four letters or more without a vowel; 0 where there are under 10."""
    vowels: float = 0.4
    """Share of the letters of those words; languages have 0.3 and more."""
    right_to_left: float = 0.0
    """Share of the letters."""


@dataclass(frozen=True, slots=True)
class PageFacts:
    """Of a page."""

    text: TextFacts
    painted: float = 1.0
    """Share of the characters that are painted: 0 for the text layer behind a scan."""
    images: float = 0.0
    """Share of the page that images cover, 1 at most."""
    drawings: int = 0
    """Lines and curves of the page's own content, roughly."""
    vertical: float = 0.0
    """Share of the characters that are written top to bottom."""
    slanted: float = 0.0
    """Share of the characters on lines in other directions than the main one."""


def text_facts(text: str) -> TextFacts:
    """Pure."""
    visible = [character for character in text if not character.isspace()]
    if not visible:
        return TextFacts()
    bad = sum(_meaningless(character) for character in visible)
    letters = Counter(script for character in visible if (script := script_of(character)) is not None)
    total = letters.total()
    words = [word for word in _WORD.findall(text) if len(word) > 2]
    mixed = sum(_mixed(word) for word in words)
    latin = [word.lower() for word in words if len(word) > 3 and word.isascii()]
    voiceless = sum(not _VOWELS.intersection(word) for word in latin)
    return TextFacts(
        characters=len(visible),
        bad=bad / len(visible),
        mixed=mixed / len(words) if words else 0.0,
        scripts=sum(count >= total / 10 for count in letters.values()),
        voiceless=voiceless / len(latin) if len(latin) >= 10 else 0.0,
        vowels=_share_of_vowels(latin) if len(latin) >= 10 else 0.4,
        right_to_left=sum(letters[script] for script in RIGHT_TO_LEFT) / total if total else 0.0,
    )


def page_facts(lines: Sequence[Line], images: Sequence[Box], drawings: int, page: Box) -> PageFacts:
    """Of a page by its lines, the places of its images and the number of its drawings."""
    facts = text_facts("\n".join(line.text for line in lines))
    painted = vertical = 0
    directions: Counter[tuple[float, float]] = Counter()
    for line in lines:
        count = sum(not character.isspace() for character in line.text)
        directions[line.direction] += count
        painted += 0 if line.hidden else count
        vertical += count if line.vertical else 0
    area = max(1.0, (page[2] - page[0]) * (page[3] - page[1]))
    total = max(1, directions.total())
    return PageFacts(
        text=facts,
        painted=painted / total,
        images=min(1.0, sum(_clipped(box, page) for box in images) / area),
        drawings=drawings,
        vertical=vertical / total,
        slanted=1 - max(directions.values(), default=0) / total if lines else 0.0,
    )


@lru_cache(maxsize=1 << 14)
def script_of(character: str) -> str | None:
    """The script of a letter, as far as it matters here; "other" for the rest, None for what is no letter."""
    if not character.isalpha():
        return None
    code = ord(character)
    return next((name for first, last, name in _SCRIPTS if first <= code <= last), "other")


def _share_of_vowels(words: Sequence[str]) -> float:
    return sum(character in _VOWELS for word in words for character in word) / sum(map(len, words))


def _mixed(word: str) -> bool:
    scripts = {script_of(character) for character in word if character.isalpha()}
    # Greek letters stand in Latin words of formulas and units.
    return len(scripts) > 1 and scripts != {"latin", "greek"} and not any(scripts <= kin for kin in _TOGETHER)


@lru_cache(maxsize=1 << 14)
def _meaningless(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")


def _clipped(box: Sequence[float], page: Box) -> float:
    width = min(box[2], page[2]) - max(box[0], page[0])
    height = min(box[3], page[3]) - max(box[1], page[1])
    return max(0.0, width) * max(0.0, height)
