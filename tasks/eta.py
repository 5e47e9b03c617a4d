"""When will it end? From how much was done by when. Pure.

The last ten minutes are cut into up to six slices of equal length, 15 s at least. Each has a rate: work done over its
seconds. What is left over the rates' mean is the likely time; what is left over the rates that four fifths and one fifth of the
slices stay under are the ends of the band. A rate of 0 at its slow end leaves the band open. Without three slices there is no
band, and without any work done no time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

WINDOW_SECONDS = 600.0
SLICES = 6
SLICE_SECONDS = 15.0
BANDED = 3
"""Rates from which a band is made, at least."""
SLOW, FAST = 0.2, 0.8
LONGEST = 10 * 365 * 86400.0
"""Beyond ten years nothing is known."""


class Eta(BaseModel):
    """Seconds until the end."""

    model_config = ConfigDict(frozen=True)

    likely: float
    least: float | None = None
    """The fast end of the band; None where too little was seen for a band."""
    most: float | None = None
    """Its slow end; None as well where nothing was done in many slices: it may take any time."""


class Sample(NamedTuple):
    """So much was done by then."""

    at: float
    """Monotonic seconds."""
    done: float
    """In any measure; never less than in the sample before."""


class Window:
    """Samples of the last ten minutes, thinned: their number is bounded however often one looks."""

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        self._seconds = seconds
        self._samples: deque[Sample] = deque()

    def add(self, at: float, done: float) -> None:
        """One look. What is less than before (a life was forgotten) counts as nothing done."""
        if self._samples:
            done = max(done, self._samples[-1].done)
        # Two samples within a second tell no more than one; the newest one counts.
        if len(self._samples) > 1 and at - self._samples[-2].at < self._seconds / 300:
            self._samples.pop()
        self._samples.append(Sample(at, done))
        # The oldest one that is kept lies on the window's edge or before it.
        while len(self._samples) > 2 and self._samples[1].at <= at - self._seconds:
            self._samples.popleft()

    @property
    def rate(self) -> float | None:
        """Work a second over the whole window; None before it is a slice long."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        return (last.done - first.done) / (last.at - first.at) if last.at - first.at >= SLICE_SECONDS else None

    def rates(self) -> list[float]:
        """See `slice_rates`."""
        return slice_rates(list(self._samples))


def slice_rates(samples: Sequence[Sample]) -> list[float]:
    """Work a second in each of up to six slices of equal length; between two samples work counts as even. [] under 15 s."""
    if len(samples) < 2:
        return []
    begin, end = samples[0].at, samples[-1].at
    count = min(SLICES, int((end - begin) // SLICE_SECONDS))
    if count < 1:
        return []
    length = (end - begin) / count
    marks = [_at(samples, begin + step * length) for step in range(count)] + [samples[-1].done]
    return [max(0.0, after - before) / length for before, after in pairwise(marks)]


def _at(samples: Sequence[Sample], at: float) -> float:
    """How much was done by then."""
    for before, after in pairwise(samples):
        if before.at <= at <= after.at and after.at > before.at:
            return before.done + (after.done - before.done) * (at - before.at) / (after.at - before.at)
    return samples[0].done if at <= samples[0].at else samples[-1].done


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values stay under, in between two of them in proportion. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    # Not a + (b - a) * share: that may come out beside what lies between two equal values.
    return ordered[low] * (1 - (place - low)) + ordered[high] * (place - low)


def eta(left: float, rates: Sequence[float]) -> Eta | None:
    """Seconds that `left` takes at these rates, with a band; None where they tell nothing.

    Args:
        left: work that is left, in the measure of the rates; below 0 counts as none.
        rates: work a second, of slices of equal length.
    """
    if left <= 0:
        return Eta(likely=0.0, least=0.0, most=0.0)
    known = [rate for rate in rates if math.isfinite(rate) and rate >= 0]
    mean = sum(known) / len(known) if known else 0.0
    likely = _seconds(left, mean)
    if likely is None:
        return None
    if len(known) < BANDED:
        return Eta(likely=likely)
    least, most = _seconds(left, quantile(known, FAST)), _seconds(left, quantile(known, SLOW))
    # One slice that outdoes all others moves the mean beyond the band: the band holds it all the same.
    return Eta(
        likely=likely,
        least=likely if least is None else min(least, likely),
        most=None if most is None else max(most, likely),
    )


def _seconds(left: float, rate: float) -> float | None:
    seconds = left / rate if rate > 0 else math.inf
    return seconds if seconds <= LONGEST else None
