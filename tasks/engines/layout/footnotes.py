"""Footnotes: the marks of a page's notes, and the same marks in its text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from tasks.engines.layout.textlines import Line, Run

_MARK: Final = re.compile(r"\s*(\d{1,3}|[a-z])(?=[\s.)]|$)[.)]?\s*")
_RAISED: Final = re.compile(r"\d{1,3}|[a-z]")
_MOST: Final = 100
"""Notes on a page."""


def notes_of(lines: Sequence[Line]) -> list[tuple[str | None, list[Line]]]:
    """The notes in some lines from top to bottom: the mark of each, and its lines without the mark.

    What stands before the first mark has none.
    """
    found: list[tuple[str | None, list[Line]]] = []
    for line in lines:
        mark, rest = _marked(line)
        if mark is not None and len(found) < _MOST and _follows(found, mark):
            found.append((mark, [rest] if rest is not None else []))
        elif found:
            found[-1][1].append(line)
        else:
            found.append((None, [line]))
    return found


def references(lines: Iterable[Line]) -> set[str]:
    """Raised marks behind words: what may lead to a note."""
    return {
        run.text.strip()
        for line in lines
        for place, run in enumerate(line.runs)
        if place > 0 and _is_reference(run, line.runs[place - 1])
    }


def referring(line: Line, marks: set[str]) -> Line:
    """The line with its raised marks as references to the notes of those marks."""
    runs = tuple(
        replace(run, note=run.text.strip())
        if place > 0 and run.text.strip() in marks and _is_reference(run, line.runs[place - 1])
        else run
        for place, run in enumerate(line.runs)
    )
    return replace(line, runs=runs) if any(run.note for run in runs) else line


def _is_reference(run: Run, before: Run) -> bool:
    return run.superscript and _RAISED.fullmatch(run.text.strip()) is not None and bool(before.text.strip())


def _marked(line: Line) -> tuple[str | None, Line | None]:
    """The mark that a line begins with, and the rest of the line."""
    first = line.runs[0]
    if first.superscript and (raised := _RAISED.fullmatch(first.text.strip())):
        return raised[0], replace(line, runs=line.runs[1:]) if len(line.runs) > 1 else None
    match = _MARK.match(first.text)
    if match is None or (match.end() == len(first.text) and len(line.runs) == 1):
        return None, line
    return match[1], replace(line, runs=(replace(first, text=first.text[match.end() :]), *line.runs[1:]))


def _follows(found: Sequence[tuple[str | None, list[Line]]], mark: str) -> bool:
    """Whether it can be the next note's: numbers and letters go up by one."""
    last = next((known for known, _ in reversed(found) if known is not None), None)
    if last is None:
        return True
    if last.isdigit() and mark.isdigit():
        return int(mark) == int(last) + 1
    return not last.isdigit() and not mark.isdigit() and ord(mark) == ord(last) + 1
