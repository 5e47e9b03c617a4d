"""Runaway repetition, noticed while it happens: the same tail again and again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

MOST_REPEATS: Final = 20
"""The same tail more often than this is a loop (the rule of upstream's version 2)."""
LONGEST_TAIL: Final = 100
LEAST_TOKENS: Final = 128
"""A loop is at least so long: a dotted line in a table of contents and an empty form repeat short tails, too."""

_LENGTHS = np.arange(1, LONGEST_TAIL + 1)
_ENOUGH = np.maximum(MOST_REPEATS * _LENGTHS, LEAST_TOKENS - _LENGTHS)


class LoopWatch:
    """Looks at one sequence's tokens as they come: some microseconds each."""

    def __init__(self) -> None:
        # The newest token is at _at; the ones before it follow. Moved to the end when the front is reached.
        self._recent = np.full(4 * LONGEST_TAIL, -1, np.int64)
        self._at = len(self._recent) - LONGEST_TAIL
        self._runs = np.zeros(LONGEST_TAIL, np.int64)
        """For each length of a tail: how many tokens in a row equal the one that far before."""

    def see(self, token: int) -> int | None:
        """The length of the tail that is now repeated too often; None as long as there is none."""
        self._runs += 1
        self._runs *= self._recent[self._at : self._at + LONGEST_TAIL] == token
        if self._at == 0:
            self._recent[-LONGEST_TAIL:] = self._recent[:LONGEST_TAIL]
            self._at = len(self._recent) - LONGEST_TAIL
        self._at -= 1
        self._recent[self._at] = token
        found = self._runs >= _ENOUGH
        return int(found.argmax()) + 1 if found.any() else None


def cut(ids: Sequence[int], tail: int) -> list[int]:
    """The ids with only the first of the repeated tails left."""
    end = len(ids)
    while end >= 2 * tail and ids[end - tail : end] == ids[end - 2 * tail : end - tail]:
        end -= tail
    return list(ids[:end])
