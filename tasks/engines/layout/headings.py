"""The levels of headings, by the font sizes of all that a document has. Pure."""

from __future__ import annotations

from collections.abc import Iterable

DEEPEST = 6


def marks(sizes: Iterable[int]) -> dict[int, str]:
    """The mark of a heading by its font size: the largest is a document's first level, and there are six."""
    ranked = sorted(set(sizes), reverse=True)
    return {size: "#" * min(rank, DEEPEST) for rank, size in enumerate(ranked, 1)}
