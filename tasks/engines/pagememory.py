"""Memory that processes share: without a name, passed on as a file descriptor, gone with the last process that holds it.

`PageMemory` is the window through which a sandbox child hands rendered pages to its parent. /dev/shm is not used:
containers give it 64 MB, and what lies there outlives a killed process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from dataclasses import dataclass, replace
from typing import Any, Final, Self

MODEL_SIDE: Final = 896
"""Pixels of a page's longer side, as upstream renders it for every model."""
_FACTS: Final = ("number", "pages", "width", "height", "gap", "layer")


def shared_file(size: int) -> int:
    """A file descriptor of `size` bytes of memory, inheritable by name of its number only."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pdf-flows", os.MFD_CLOEXEC)
    else:  # macOS: an unlinked file
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """One page's pixels, RGB, row by row; or why there are none. `number` is 1-based."""

    number: int
    pages: int
    width: int = 0
    height: int = 0
    samples: bytes | memoryview = b""
    gap: str | None = None
    layer: str | None = None
    """Its text layer, where that can be trusted."""

    def facts(self) -> dict[str, Any]:
        """All but the pixels, for a frame."""
        return {name: getattr(self, name) for name in _FACTS}


class PageMemory:
    """Room for one page."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._room = os.fstat(descriptor).st_size
        self._map = mmap.mmap(descriptor, self._room)

    @classmethod
    def create(cls, side: int = MODEL_SIDE) -> Self:
        """A new one, for pages whose longer side has so many pixels; its descriptor goes to the child."""
        return cls(shared_file((side + 4) ** 2 * 3))  # rounding can add a row or a column

    @classmethod
    def open(cls, descriptor: int) -> Self:
        """The parent's."""
        return cls(descriptor)

    def put(self, page: RenderedPage) -> None:
        """The page's pixels into the memory. ValueError where they do not fit."""
        size = page.width * page.height * 3
        if size > self._room:
            raise ValueError(f"a page of {page.width} x {page.height} pixels")
        self._map[:size] = memoryview(page.samples).cast("B")[:size]

    def take(self, facts: dict[str, Any]) -> RenderedPage:
        """The page that a child announced; its pixels stay where they are until it is told to go on. ValueError for nonsense."""
        page = RenderedPage(**{name: facts.get(name) for name in _FACTS})  # type: ignore[arg-type]
        numbers = (page.number, page.pages, page.width, page.height)
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("no page")
        if page.gap is not None and not isinstance(page.gap, str):
            raise ValueError("no reason")
        if page.layer is not None and not isinstance(page.layer, str):
            raise ValueError("no text layer")
        size = page.width * page.height * 3
        if size > self._room or (page.gap is None and not size):
            raise ValueError("no pixels")
        return replace(page, samples=memoryview(self._map)[:size])

    def close(self) -> None:
        """Give the memory back."""
        with contextlib.suppress(BufferError):  # somebody still looks at a page: it goes with them
            self._map.close()
        os.close(self.descriptor)
