"""How libraries say that memory ran out: each in its own way, as an exception or as the last words of a process."""

from __future__ import annotations

import re

_SIGNS = re.compile(
    r"bad_alloc|bad allocation|MemoryError|\w*alloc\b.*failed|cannot allocate memory|out of memory", re.I
)


def words_say_so(text: str) -> bool:
    """Whether what a process wrote before its end says that memory ran out."""
    return _SIGNS.search(text) is not None


def error_says_so(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or words_say_so(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
