"""When finished pages are saved, and whether a document's rest still fits. Pure: times are handed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SAVE_SECONDS: Final = 60.0
"""A death repeats at most so much work of an engine (DESIGN section 4, promise 3)."""


@dataclass(slots=True)
class Saving:
    """What is finished of one document, in one life, and how much of the engine's work is in pages that are not saved.

    Times are seconds of any monotonic clock. `interval`: seconds of work that may be unsaved.
    """

    interval: float = SAVE_SECONDS
    finished: int = 0
    """Pages, in this life."""
    worked: float = 0.0
    """Seconds that they took."""
    work: float = 0.0
    """Seconds that all processes were at work on them."""
    unsaved: float = 0.0
    """Seconds of them that are in unsaved pages."""
    saved: bool = False
    """Some of the document's pages were saved, by this life or an earlier one."""
    _since: float = 0.0
    _ahead: bool = False

    def begin(self, now: float, *, among_others: bool = False) -> None:
        """The engine begins to work on the document, again perhaps.

        Args:
            among_others: on many pages of many documents at a time. Then what goes by before the first page is done is
                the pages' in flight: a death may repeat those.
        """
        self._since = now
        self._ahead = among_others

    def finish(self, now: float, hands: int = 1) -> bool:
        """A page is finished; whether to save what is unsaved.

        Args:
            hands: how many processes were at work on the document's pages meanwhile.
        """
        took = max(0.0, now - self._since)
        self._since = now
        self.finished += 1
        self.worked += took
        self.work += took * hands
        if self._ahead:
            self._ahead = False
        else:
            self.unsaved += took * hands
        return self.unsaved >= self.interval

    def save(self) -> None:
        """What is unsaved is about to be written; where that fails, it is tried again one interval later."""
        self.unsaved = 0.0
        self.saved = True

    def worth(self, pages: int) -> bool:
        """Whether the document is long enough for its pages to be saved before their time, when the worker has to stop."""
        if not self.finished:
            return False
        return self.saved or self.work / self.finished * pages >= self.interval

    def fits(self, left: int | None, seconds: float) -> bool:
        """Whether the document's rest may be finished.

        Args:
            left: pages; None where nobody knows yet.
            seconds: until the worker has to stop.
        """
        if left is None:
            return False
        if left <= 0:
            return True
        return bool(self.finished) and self.worked / self.finished * left <= seconds
