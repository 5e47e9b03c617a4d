"""The levels of headings, by the font sizes of all that a document has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.engines.layout.textlines import Line

DEEPEST = 6
LARGER = 1.25
"""Times the usual size that a paragraph's letters are large when it is a heading that the layout model took for text."""
_LONGEST = 100
_MOST_LINES = 2


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


def marks(sizes: Iterable[int]) -> dict[int, str]:
    """The mark of a heading by its font size: the largest is a document's first level, and there are six."""
    ranked = sorted(set(sizes), reverse=True)
    return {size: "#" * min(rank, DEEPEST) for rank, size in enumerate(ranked, 1)}
