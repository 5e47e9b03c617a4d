"""A run's worst pages, by the scores in its ledger, and their Markdown. Pure."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tasks.corpus.ledger import Record
from tasks.corpus.trust import PageScore

MOST_TEXT: Final = 20_000
"""Characters of one page's Markdown that are shown."""


@dataclass(frozen=True, slots=True)
class WorstPage:
    """One page, and the document that it is of."""

    record: Record
    """Of the published document."""
    score: PageScore


@dataclass(frozen=True, slots=True)
class Worst:
    """What a ledger says."""

    pages: list[WorstPage]
    """The worst first."""
    published: int
    """Documents."""
    scored: int
    """Of them, those whose record has scores."""


def worst_pages(records: Iterable[Record], most: int) -> Worst:
    """The `most` worst pages of all that was published; in memory is one number a document, and they."""
    seen: dict[int, bool] = {}
    heap: list[tuple[float, int, int, WorstPage]] = []
    for record in records:
        if not record.outcome.published or seen.get(record.index, False):
            continue
        seen[record.index] = record.trust is not None
        for score in record.trust.pages if record.trust is not None else ():
            item = (-score.score, -record.index, -score.page, WorstPage(record, score))
            if len(heap) < most:
                heapq.heappush(heap, item)
            elif item[:3] > heap[0][:3]:
                heapq.heapreplace(heap, item)
    pages = [item[3] for item in sorted(heap, key=lambda item: item[:3], reverse=True)]
    return Worst(pages, len(seen), sum(seen.values()))


class PageText(NamedTuple):
    """What is shown of a page's Markdown."""

    text: str
    note: str
    """What is to be said about it; "" where it is the page as it is."""


def page_text(markdown: str, page: int, pages: int) -> PageText:
    """One page's part of a document's Markdown.

    Args:
        page: its number, from 1.
        pages: how many the document has.
    """
    begin = end = None
    at = 0
    for number in range(1, page + 2):
        marker = re.compile(rf"^<!-- page {number} -->\n?", re.M).search(markdown, at)
        if marker is None:
            break
        at = marker.end()
        if number == page:
            begin = at
        elif number == page + 1:
            end = marker.start()
    if begin is not None:
        return _cut(markdown[begin:end].strip("\n"), "")
    if pages == 1:
        return _cut(markdown.strip("\n"), "")
    return _cut(markdown.strip("\n"), "The run wrote no page markers: this is the document, not the page.")


def _cut(text: str, note: str) -> PageText:
    if len(text) <= MOST_TEXT:
        return PageText(text, note)
    cut = f"Cut after {MOST_TEXT:,} of {len(text):,} characters."
    return PageText(text[:MOST_TEXT], f"{note} {cut}".strip())
