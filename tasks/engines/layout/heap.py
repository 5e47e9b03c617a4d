"""The C library's heap, given back behind each page.

OCR of one page takes hundreds of megabytes for a moment. What lies above them in the heap afterwards keeps them from going
back by themselves, so that a child that waits for its next document would hold some 800 MiB.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Let the kernel have what is free. Nothing where the C library is not glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
