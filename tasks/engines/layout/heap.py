"""The C library's heap: kept while a page is read, given back behind it.

An inference makes and drops tensors of tens of megabytes at every step. By default glibc gives each back to the kernel at
once and gets it again, page by page, which costs a quarter of the time of OCR's detection; so a child keeps what it frees
(`tasks/engines/confine.py`), and lets go of it once a page is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Let the kernel have what is free. Nothing where the C library is another one."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
