"""The pages over which sandbox children were lost, and how much time each way for a page gets. Pure."""

from __future__ import annotations

from typing import Final

from tasks.corpus.failures import Category, ConversionError
from tasks.engines.protocol import Fall

MOST_FALLS: Final = 24
"""Children that one document may cost. An engine is to take cheaper ways at once after a few."""

_LOSSES: Final = frozenset({Category.CRASHED, Category.MEMORY, Category.TIMEOUT})


class Falls:
    """One document's.

    Args:
        page_timeout: seconds that all ways of one page may take together.
    """

    def __init__(self, page_timeout: float) -> None:
        self._timeout = page_timeout
        self._page = 0
        self._ways = 0
        self._spent: dict[int, float] = {}
        self._fallen: dict[int, list[Fall]] = {}

    @property
    def limit(self) -> float:
        """Seconds for the page that was begun last: half of what it has left, or nearly all where only a gap would be left."""
        left = max(0.0, self._timeout - self._spent.get(self._page, 0.0))
        return left / 2 if self._ways > 1 else left * 7 / 8 if self._ways else left

    @property
    def patience(self) -> float:
        """Seconds for it where the child is kept from the cores by others: a cheaper way would be no quicker."""
        return max(self.limit, 0.75 * max(0.0, self._timeout - self._spent.get(self._page, 0.0)))

    def of(self, page: int) -> list[dict[str, object]]:
        """One page's, for the child."""
        return [fall.model_dump(mode="json") for fall in self._fallen.get(page, [])]

    def dump(self) -> dict[str, list[dict[str, object]]]:
        """For the child."""
        return {str(page): self.of(page) for page in self._fallen}

    def begin(self, page: int, ways: int) -> None:
        """A page is begun that has so many cheaper ways left."""
        self._page, self._ways = page, ways

    def take(self, error: ConversionError, whole: bool, seconds: float, guilty: bool = False) -> bool:
        """Whether a child's end is only a page's: the engine goes on with a cheaper way.

        Not where the machine was busy: what is missing is time, and the document is tried again.

        Args:
            whole: it was over the time of the whole document.
            seconds: since the page was begun.
            guilty: it did next to nothing in them, or so much that a machine of its own would not have helped.
        """
        fall = self.loss(error, whole, guilty)
        if fall is None or sum(map(len, self._fallen.values())) >= MOST_FALLS:
            return False
        self.add(self._page, fall, seconds)
        self._ways = 0
        return True

    def loss(self, error: ConversionError, whole: bool, guilty: bool, *, helper: bool = False) -> Fall | None:
        """What is to be said of a child's end, where it is only a page's. As `take`."""
        failure = error.failure
        if whole or self._ways < 1 or failure.page != self._page or failure.category not in _LOSSES:
            return None
        starved = failure.category is Category.TIMEOUT and failure.retryable
        if starved and not guilty:
            return None
        return Fall(category=failure.category, reason=failure.message, starved=starved, helper=helper)

    def add(self, page: int, fall: Fall, seconds: float) -> None:
        """A child was lost over a page, `seconds` after the page was begun."""
        self._fallen.setdefault(page, []).append(fall)
        self._spent[page] = self._spent.get(page, 0.0) + seconds
