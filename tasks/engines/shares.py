"""Who converts which page of a document that several processes convert together.

One of them, the leader, takes page after page from the first one on and puts the document together; helpers take them from
the last one down. A page that a helper is done with, or has in hand, is waited for. What a helper fails at is left to the leader,
which meets it in its turn: so the result is that of the leader alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from tasks.engines.protocol import Fall

LEAST_PAGES: Final = 4
"""Documents with fewer are not shared."""
MOST_LOSSES: Final = 3
"""Helpers' processes that may be lost over one document; then the leader goes on alone."""


class Malformed(ValueError):
    """What a process says of the document makes no sense."""


class Shares:
    """One document's pages. Thread-safe; a helper is known by a number of its own.

    Args:
        done: whether a page need not be converted again.
    """

    def __init__(self, done: Callable[[int], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._done, self._clock = done, clock
        self._moved = threading.Condition()
        self._pages = 0
        self._last = 0
        """Pages behind it are taken."""
        self._at = 0
        """The leader's."""
        self._hands: dict[int, int] = {}
        """Pages that helpers have in hand."""
        self._kept: set[int] = set()
        """Pages that are left to the leader."""
        self._falls: dict[int, tuple[Fall, float]] = {}
        self._begun = self._finished = 0
        self._since = 0.0
        self._losses = 0
        self._leaving: set[int] = set()
        self.closed = False

    # -- for the leader -------------------------------------------------------------------------------------------

    def open(self, pages: int) -> None:
        """The leader opened the document, for the first time or again. Raises Malformed where it has other pages now."""
        with self._moved:
            if self._pages not in (0, pages):
                raise Malformed(f"{pages} pages, where there were {self._pages}")
            if not self._pages:
                self._pages = self._last = pages
                self._since = self._clock()
            self._begun = sum(map(self._done, range(1, pages + 1))) + len(self._hands)
            self._moved.notify_all()

    def claim(self, page: int, timeout: float) -> bool | None:
        """Whether the leader is to convert the page; False where it is done, None where a helper still has it in hand.

        Waits `timeout` seconds for one that a helper has in hand. Raises Malformed.
        """
        with self._moved:
            if not 1 <= page <= self._pages:
                raise Malformed(f"page {page} of {self._pages}")
            self._at = max(self._at, page)
            self._moved.wait_for(lambda: page not in self._hands.values(), timeout)
            if page in self._hands.values():
                return None
            return not self._done(page)

    def fall(self, page: int) -> tuple[Fall, float] | None:
        """The process that a helper lost over a page, and the seconds that the page took; told once."""
        with self._moved:
            return self._falls.pop(page, None)

    # -- for helpers ----------------------------------------------------------------------------------------------

    def take(self, helper: int, pages: int) -> int | None:
        """Another page for a helper; None where there is none, or where it is to leave. Raises Malformed."""
        with self._moved:
            if pages != self._pages or helper in self._hands:
                raise Malformed(f"a helper that has {pages} pages for {self._pages}, or one in hand")
            if self.closed or helper in self._leaving or self._losses >= MOST_LOSSES:
                return None
            while self._last > self._at:
                page, self._last = self._last, self._last - 1
                if page not in self._kept and not self._done(page):
                    self._hands[helper] = page
                    return page
            return None

    def lose(self, helper: int, fall: Fall | None, seconds: float = 0.0) -> None:
        """A helper's process ended: what it had in hand is the leader's.

        Args:
            fall: what is to be said of it, where it is the page's doing.
        """
        with self._moved:
            page = self._hands.pop(helper, None)
            if page is not None:
                self._kept.add(page)
                if fall is not None:
                    self._falls[page] = fall, seconds
            self._losses += 1
            self._moved.notify_all()

    def leave(self, helper: int) -> None:
        """It gets no other page."""
        with self._moved:
            self._leaving.add(helper)

    # -- for both -------------------------------------------------------------------------------------------------

    def begin(self) -> tuple[int, int]:
        """Another page is begun: how many were until now, and how many there are."""
        with self._moved:
            self._begun = min(self._begun + 1, self._pages)
            return self._begun, self._pages

    def check(self, page: int, helper: int) -> None:
        """Raises Malformed where a page is not the one that a helper has in hand."""
        with self._moved:
            if self._hands.get(helper) != page:
                raise Malformed(f"page {page} was not asked for")

    def finish(self, page: int, helper: int | None = None) -> None:
        """A page is done, and in the journal."""
        with self._moved:
            if helper is not None:
                self._hands.pop(helper, None)
            self._finished += 1
            self._moved.notify_all()

    @property
    def opened(self) -> bool:
        """Whether the leader opened it, and it is long enough."""
        return self._pages > 0

    @property
    def hands(self) -> int:
        """How many processes are at work."""
        return 1 + len(self._hands)

    # -- for whoever finds helpers --------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        """Whether it is closed; waits for that."""
        with self._moved:
            return self._moved.wait_for(lambda: self.closed, seconds)

    def seconds_left(self) -> float | None:
        """About how long the pages take that nobody has begun, at the pace so far; None where there is none yet."""
        with self._moved:
            left = self._last - self._at
            if not self._finished or self._losses >= MOST_LOSSES:
                return None
            return left * (self._clock() - self._since) / self._finished

    def close(self) -> None:
        """Nobody is to begin another page."""
        with self._moved:
            self.closed = True
            self._moved.notify_all()
