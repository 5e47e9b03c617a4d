"""The levels of headings, by the document's outline and the font sizes of all that it has. Pure."""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.engines.layout.textlines import Line

DEEPEST = 6
LARGER = 1.25
"""Times the usual size that a paragraph's letters are large when it is a heading that the layout model took for text."""
_LONGEST = 100
_MOST_LINES = 2
_FEWEST_NAMED = 2
_LARGEST = 200
"""Points: letters of any larger size are of one, so that there are not thousands of sizes."""
_MARKUP = re.compile(r"\[([^\[\]]*)\]\([^()\s]*\)")
"""A link: its text counts."""
_NUMBER = re.compile(
    r"(?:(?:chapter|part|section|appendix)\s+)?(?:\d+(?:\.\d+)*|[a-z](?:\.\d+)+|[ivx]+)[.):]?\s+(?=\S)"
)
_OTHER = re.compile(r"<[^<>]*>|[\W_]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an outline."""

    title: str
    level: int
    """1 for the outermost."""


@dataclass(frozen=True, slots=True)
class Heading:
    """One heading of the text."""

    text: str
    size: int
    """Of its letters, in points."""


def usual_size(lines: Iterable[Line]) -> float:
    """The font size of most characters, in points; 0 where there are none."""
    counted: dict[float, int] = {}
    for line in lines:
        for run in line.runs:
            size = round(run.size, 1)
            counted[size] = counted.get(size, 0) + len(run.text.strip())
    return max(sorted(counted), key=lambda size: counted[size], default=0.0)


def stands_out(lines: Sequence[Line], usual: float) -> bool:
    """Whether a paragraph is short and in letters that are larger than the usual ones, as headings are."""
    text = " ".join(line.text.strip() for line in lines)
    large = all(run.size >= LARGER * usual for line in lines for run in line.runs if run.text.strip())
    words = sum(character.isalpha() for character in text) >= 3 and not text.endswith((".", ",", ";", ":"))
    return usual > 0 and large and words and len(lines) <= _MOST_LINES and len(text) <= _LONGEST


def levels(headings: Sequence[Heading], outline: Sequence[Entry]) -> list[int]:
    """The level of each heading, 1 to 6: as deep as the outline has it, and else by its font size.

    Headings that the outline does not name are put among those of their size, or between those of the next ones. An outline
    that names fewer than two of the headings says nothing: the largest font is the first level, then.
    """
    headings = [Heading(heading.text, min(heading.size, _LARGEST)) for heading in headings]
    named = _named([heading.text for heading in headings], outline)
    sizes: dict[int, Counter[int]] = {}
    for place, level in named.items():
        sizes.setdefault(headings[place].size, Counter())[level] += 1
    if len(named) < _FEWEST_NAMED:
        ranks = _ranks([heading.size for heading in headings])
        return [ranks[heading.size] for heading in headings]
    usual = {size: min(counted, key=lambda level: (-counted[level], level)) for size, counted in sizes.items()}
    by_size = {heading.size: _between(heading.size, usual) for heading in headings}
    return [min(named.get(place, by_size[heading.size]), DEEPEST) for place, heading in enumerate(headings)]


def key(text: str, *, numbered: bool = False) -> str:
    """What two spellings of a heading have in common: its letters and digits.

    Args:
        numbered: with the number in front of it.
    """
    plain = _MARKUP.sub(r"\1", html.unescape(unicodedata.normalize("NFKC", text))).casefold().strip()
    bare = _OTHER.sub("", plain if numbered else _NUMBER.sub("", plain))
    return bare or _OTHER.sub("", plain)


def _named(texts: Sequence[str], outline: Sequence[Entry]) -> dict[int, int]:
    """The levels of the headings that the outline names, by their places; of several of one name, the next one."""
    places: dict[tuple[bool, str], list[int]] = {}
    for at, entry in enumerate(outline):
        for numbered in (True, False):
            if name := key(entry.title, numbered=numbered):
                places.setdefault((numbered, name), []).append(at)
    found: dict[int, int] = {}
    last = -1
    for place, text in enumerate(texts):
        # Numbers may be in one of them only; two that differ are of two headings.
        full = key(text, numbered=True)
        known = places.get((True, full)) or places.get((True, key(text))) or places.get((False, full))
        if known:
            next_one = bisect_right(known, last)
            chosen = known[next_one] if next_one < len(known) else known[-1]
            found[place] = outline[chosen].level
            last = max(last, chosen)
    return found


def _ranks(sizes: Iterable[int]) -> dict[int, int]:
    """Font sizes to levels, the largest first. With more sizes than levels, rare ones go with what is most like them."""
    counted = Counter(sizes)
    groups = [([size], counted[size]) for size in sorted(counted, reverse=True)]
    while len(groups) > DEEPEST:
        rarest = min(range(len(groups)), key=lambda at: (groups[at][1], at))
        beside = [at for at in (rarest - 1, rarest + 1) if 0 <= at < len(groups)]
        other = min(beside, key=lambda at: abs(groups[at][0][0] - groups[rarest][0][0]) / max(groups[at][0][0], 1))
        first, last = min(rarest, other), max(rarest, other)
        groups[first : last + 1] = [(groups[first][0] + groups[last][0], groups[first][1] + groups[last][1])]
    return {size: level for level, (group, _) in enumerate(groups, 1) for size in group}


def _between(size: int, usual: Mapping[int, int]) -> int:
    """The level of a font size by those of others: below what is larger, and not below what is smaller."""
    if size in usual:
        return usual[size]
    larger = [level for other, level in usual.items() if other > size]
    smaller = [level for other, level in usual.items() if other < size]
    below = max(larger) + 1 if larger else 1
    return min([below, *smaller])
