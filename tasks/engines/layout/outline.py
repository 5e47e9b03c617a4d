"""A document's outline (its bookmarks): titles and how deep they are. Bounded, whatever it holds."""

from __future__ import annotations

from typing import Any, Final

from pymupdf import mupdf

from tasks.engines.layout.headings import Entry
from tasks.engines.opening import DAMAGE

MOST_ENTRIES: Final = 20_000
_LONGEST: Final = 500


def outline_of(document: Any) -> list[Entry]:
    """Its entries in order. One that leads in a circle ends where it comes back; what is broken is left out."""
    found: list[Entry] = []
    try:
        pdf = mupdf.pdf_document_from_fz_document(document.this)
        outlines = mupdf.pdf_dict_gets(mupdf.pdf_dict_gets(mupdf.pdf_trailer(pdf), "Root"), "Outlines")
        waiting = [(mupdf.pdf_dict_gets(outlines, "First"), 1)]
    except DAMAGE:
        return found
    seen: set[int] = set()
    # A stack of what comes behind each open level: as deep as the outline, and no deeper than there are entries.
    while waiting and len(found) < MOST_ENTRIES:
        item, level = waiting.pop()
        try:
            number = mupdf.pdf_to_num(item)
            if not mupdf.pdf_is_dict(item) or not number or number in seen:
                continue
            seen.add(number)
            title = mupdf.pdf_to_text_string(mupdf.pdf_dict_gets(item, "Title"))[:_LONGEST]
            found.append(Entry(title, level))
            waiting.append((mupdf.pdf_dict_gets(item, "Next"), level))
            waiting.append((mupdf.pdf_dict_gets(item, "First"), level + 1))
        except DAMAGE:
            continue
    return found
