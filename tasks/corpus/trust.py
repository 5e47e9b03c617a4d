"""How far a document's Markdown can be trusted, as its record says it: the mean of its pages' scores, and the worst pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field

KEPT: Final = 5
"""Pages that a record names."""
GOOD: Final = 0.9
"""Pages with this score and more are not named, but for the worst one."""
_LEAST: Final = 0.005
"""Parts below it say nothing."""


class PageScore(BaseModel):
    """One page's score, from 0 (not to be trusted) to 1."""

    model_config = ConfigDict(frozen=True)

    page: int
    score: float = Field(ge=0, le=1)
    parts: dict[str, float] = {}
    """What is doubtful, each from 0 (nothing) to 1."""


class Trust(BaseModel):
    """Of a document."""

    model_config = ConfigDict(frozen=True)

    mean: float
    pages: list[PageScore]
    """The worst ones, the worst first: one at least."""

    @property
    def worst(self) -> float:
        """The score of the worst page."""
        return self.pages[0].score

    @classmethod
    def of(cls, scores: Iterable[PageScore]) -> Self | None:
        """Of all pages that have a score; None without any."""
        found = sorted(scores, key=lambda one: (one.score, one.page))
        if not found:
            return None
        named = [found[0], *(one for one in found[1:KEPT] if one.score < GOOD)]
        return cls(
            mean=round(sum(one.score for one in found) / len(found), 4),
            pages=[one.model_copy(update={"parts": _telling(one.parts)}) for one in named],
        )


def _telling(parts: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in parts.items() if value >= _LEAST}
