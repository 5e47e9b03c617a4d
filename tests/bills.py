"""What machines really cost: prices that move below a ceiling, and bills reckoned from them alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

HOUR = 3600.0


@dataclass
class Price:
    """A price that moves below its ceiling."""

    ceiling: float
    changes: list[tuple[float, float]]

    def paid(self, since: float, until: float) -> float:
        """USD for the seconds between."""
        total = 0.0
        for index, (start, price) in enumerate(self.changes):
            stop = self.changes[index + 1][0] if index + 1 < len(self.changes) else math.inf
            overlap = min(stop, until) - max(start, since)
            total += max(0.0, overlap) * price
        return total / HOUR

    def highest(self, since: float, until: float) -> float:
        """Between two seconds."""
        best = 0.0
        for index, (start, price) in enumerate(self.changes):
            stop = self.changes[index + 1][0] if index + 1 < len(self.changes) else math.inf
            if start <= until and stop > since:
                best = max(best, price)
        return best


def billed(price: Price, extras: float, since: float, until: float) -> float:
    """USD of a machine between two seconds: whole seconds, one minute at least."""
    seconds = max(60.0, math.ceil(until - since))
    return price.paid(since, since + seconds) + seconds * extras / HOUR
