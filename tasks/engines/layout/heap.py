"""The C library's heap: kept from one step to the next, given back behind a document and a page that left much of it free.

Models ask for the same dozens of blocks of 1 to 60 MiB at each run. By default the C library maps each from the kernel and
gives it back, which costs a born-digital page a fifth of its time in page faults. Kept for good, in turn, a child that waits for
its next document would hold what the largest page took.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
"""Of malloc.h."""
_LARGEST: Final = 64 << 20
"""Bytes: larger blocks are mapped, and go back, one by one. They are those of very large images, and would tear holes into the
heap that nothing else fits into, until it is over the limit of memory."""
_STEP: Final = 64 << 20
"""Bytes by which the heap grows."""
_NEVER: Final = 0x7FFFFFFF
_MUCH: Final = 512 << 20
"""Bytes that are free behind a page."""


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def keep() -> None:
    """Let blocks that are freed stay for the next ones. Nothing where the C library is not glibc."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_TOP_PAD, _STEP)


def give_back(*, much: bool = False) -> None:
    """Let the kernel have what is free.

    Args:
        much: only if that is much.
    """
    libc = _glibc()
    if libc is not None and not (much and libc.mallinfo2().fordblks < _MUCH):
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    """None where it is another, or before 2.33."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        libc.malloc_trim.argtypes = [ctypes.c_size_t]
        libc.mallinfo2.restype = _Mallinfo2
    except (OSError, AttributeError, TypeError):
        return None
    return libc
