"""What others wrote (log lines, tags, names, AWS's reasons), as a terminal may show it."""

from __future__ import annotations

from tasks.corpus.names import printable

_PIECE = 25
"""Characters: so many never come to the length that `printable` shortens, whatever each of them becomes."""


def plain(text: str) -> str:
    """One line, all of it, with escapes for whatever would act on a terminal, break the line or is no text. Pure."""
    return "".join(printable(text[start : start + _PIECE]) for start in range(0, len(text), _PIECE))


def block(text: str) -> str:
    """The same with its line breaks: further lines are indented, so that none reads as one of its own. Pure."""
    return "\n    ".join(plain(line) for line in text.replace("\r\n", "\n").split("\n"))
