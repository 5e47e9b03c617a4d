"""Running headers, footers and page numbers: what says the same, but for its numbers, at the edges of several pages. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_REPEATED: Final = 2
"""Pages on which an edge says the same."""
_NUMBER: Final = re.compile(r"\d+")
_ROMAN: Final = re.compile(r"[ivxlc]{1,6}", re.IGNORECASE)
_OTHER: Final = re.compile(r"[^\w#]|_")
_MARKUP: Final = re.compile(r"<[^<>]*>|&\w+;")
_PAGE_NUMBER: Final = re.compile(
    r"(?:page|p|seite|pagina|página|стр|страница|第)?#(?:(?:of|de|von|di|из|sur)?#)?(?:页|頁|ページ)?"
)
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class Edge:
    """A piece of a page that may be a header or a footer of many."""

    text: str
    seen: bool
    """The layout model takes it for one."""


def running(pages: Sequence[Sequence[Edge]]) -> list[list[bool]]:
    """Which pieces run through the pages.

    On a page whose number is higher than that of all pages, which is one of a longer document, all that the model takes for a
    header or footer does: the pages that have the same are not here.

    Args:
        pages: for each page what the model takes for a header or footer, and its first and last piece.
    """
    keys = [[key(edge.text) for edge in page] for page in pages]
    counted = Counter(
        name
        for page, names in zip(pages, keys, strict=True)
        for name in {n for e, n in zip(page, names, strict=True) if e.seen}
    )
    steps = Counter(step for number, page in enumerate(pages) for step in {_step(edge, number) for edge in page})
    taken = [any(edge.seen and _last_number(edge.text) > len(pages) for edge in page) for page in pages]
    return [
        [
            bool(name)
            and (
                counted[name] >= _REPEATED
                or (edge.seen and taken[number])
                or (edge.seen and is_page_number(edge.text))
                or ((step := _step(edge, number)) is not None and steps[step] >= _REPEATED)
            )
            for edge, name in zip(page, names, strict=True)
        ]
        for number, (page, names) in enumerate(zip(pages, keys, strict=True))
    ]


def key(text: str) -> str:
    """What the pieces of a running header have in common: letters, and where numbers are."""
    plain = _MARKUP.sub(" ", unicodedata.normalize("NFKC", text[:_LONGEST])).casefold()
    return _OTHER.sub("", _NUMBER.sub("#", plain))


def is_page_number(text: str) -> bool:
    """Whether it is the number of a page and nothing else."""
    return _PAGE_NUMBER.fullmatch(key(text)) is not None or _ROMAN.fullmatch(text.strip(" -–—.|*_")) is not None


def _last_number(text: str) -> int:
    """The page number at the beginning or the end of a header; 0 where there is none, or a year."""
    plain = re.sub(r"[\s*_|\\]+", " ", text).strip()
    for match in (re.search(r"(?<![\d.,/-])\d{1,4}$", plain), re.match(r"\d{1,4}(?=\s|$)", plain)):
        if match is not None and not 1900 <= int(match[0]) <= 2100:
            return int(match[0])
    return 0


def _step(edge: Edge, number: int) -> int | None:
    """By how much a piece that is a number is ahead of its page's place."""
    text = edge.text.strip(" -–—|*_\\")
    return int(text) - number if text.isascii() and text.isdigit() and len(text) <= 5 else None
