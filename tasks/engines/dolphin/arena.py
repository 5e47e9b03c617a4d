"""One piece of shared memory for the pixels of pages and crops: processes pass places in it on to each other, not pixels.

Its size bounds what is under way: who finds no room waits until something was read.
"""

from __future__ import annotations

import bisect
import itertools
import mmap
import os
import threading
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.failures import PdfFlowsError
from tasks.engines.pagememory import shared_file

_UNIT = 4096


class ArenaClosed(PdfFlowsError):
    """The arena was closed while somebody waited for room in it."""


class Place(NamedTuple):
    """Where an RGB image lies: bytes from the start; height and width in pixels."""

    offset: int
    height: int
    width: int
    ticket: int = 0
    """Of this use of the room: giving back twice must not free what another one holds by then."""


class View:
    """The arena as another process sees it. `descriptor` was inherited."""

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._map = mmap.mmap(descriptor, self.size)

    def pixels(self, place: Place) -> NDArray[np.uint8]:
        """The image at a place, (height, width, 3), not copied. ValueError outside of the arena."""
        count = place.height * place.width * 3
        if min(place) < 0 or place.offset + count > self.size:
            raise ValueError("a place outside of the arena")
        flat = np.frombuffer(self._map, np.uint8, count, place.offset)
        return flat.reshape(place.height, place.width, 3)


class Arena(View):
    """The side that gives room. Thread-safe."""

    def __init__(self, size: int) -> None:
        self.descriptor = shared_file(-(-size // _UNIT) * _UNIT)
        super().__init__(self.descriptor)
        self._free = [(0, self.size)]  # (start, end), sorted, never touching each other
        self._given: dict[int, tuple[int, int]] = {}  # ticket: (start, end)
        self._tickets = itertools.count(1)
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, height: int, width: int) -> Place:
        """Room for an image. Waits for it. ValueError if it could never fit, ArenaClosed."""
        count = max(_UNIT, -(-height * width * 3 // _UNIT) * _UNIT)
        if count > self.size:
            raise ValueError(f"an image of {width} x {height} pixels is larger than the arena")
        with self._changed:
            while (offset := self._cut(count)) is None:
                if self._closed:
                    raise ArenaClosed("the arena was closed")
                self._changed.wait()
            ticket = next(self._tickets)
            self._given[ticket] = offset, offset + count
            return Place(offset, height, width, ticket)

    def put(self, pixels: NDArray[np.uint8]) -> Place:
        """A copy of an image (h, w, 3). Waits for room. ValueError for what is no image."""
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"no image: {pixels.shape}")  # before room is taken that nobody would give back
        place = self.take(*pixels.shape[:2])
        self.pixels(place)[:] = pixels
        return place

    def give_back(self, place: Place) -> None:
        """The room is free again. A second time does nothing."""
        with self._changed:
            found = self._given.pop(place.ticket, None)
            if found is None:
                return
            start, end = found
            at = bisect.bisect(self._free, found)
            if at < len(self._free) and self._free[at][0] == end:
                end = self._free.pop(at)[1]
            if at > 0 and self._free[at - 1][1] == start:
                start = self._free.pop(at - 1)[0]
                at -= 1
            self._free.insert(at, (start, end))
            self._changed.notify_all()

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        with self._changed:
            return sum(end - start for start, end in self._given.values())

    def close(self) -> None:
        """Wake who waits. The memory goes with the last process that maps it."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        os.close(self.descriptor)

    def _cut(self, count: int) -> int | None:
        if self._closed:
            return None
        for index, (start, end) in enumerate(self._free):
            if end - start >= count:
                if end - start == count:
                    del self._free[index]
                else:
                    self._free[index] = (start + count, end)
                return start
        return None
