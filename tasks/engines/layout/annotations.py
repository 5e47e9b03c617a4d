"""What hangs on a page besides its content: links, the values of form fields, attached files. Bounded, whatever a page holds.

Read object by object: PyMuPDF's own ways load all of a page's annotations, and resolve the names of all destinations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pymupdf
from pymupdf import mupdf

from tasks.engines.layout.markup import web_target
from tasks.engines.layout.reading_order import Box
from tasks.engines.markdown import clean
from tasks.engines.opening import DAMAGE, file_name

MOST_ANNOTATIONS: Final = 10_000
"""Looked at on one page."""
MOST_LINKS: Final = 2_000
MOST_ATTACHED: Final = 100
_LONGEST_VALUE: Final = 20_000
_HIDDEN: Final = 2 | 32
"""Of a field's /F: not on the screen."""
_PASSWORD, _PUSH_BUTTON = 1 << 13, 1 << 16


@dataclass(frozen=True, slots=True)
class Link:
    """A place that leads to the web or to a mailbox."""

    box: Box
    target: str
    """As it may stand in a Markdown link."""


@dataclass(frozen=True, slots=True)
class Field:
    """A form field's place, and what is in it."""

    box: Box
    value: str = ""
    ticked: bool | None = None
    """Of a check box or a radio button; None for what holds text."""


@dataclass(slots=True)
class Annotations:
    """Of one page."""

    links: list[Link] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    """Names of files."""


def annotations_of(page: Any) -> Annotations:
    """Those of a page that was not turned, in the file's own coordinates. What is broken is left out."""
    found = Annotations()
    try:
        document = mupdf.pdf_document_from_fz_document(page.parent.this)
        listed = mupdf.pdf_dict_gets(mupdf.pdf_lookup_page_obj(document, page.number), "Annots")
        count = min(mupdf.pdf_array_len(listed), MOST_ANNOTATIONS)
    except DAMAGE:
        return found
    for index in range(count):
        try:
            _take(mupdf.pdf_array_get(listed, index), found)
        except DAMAGE:
            continue
    return found


def placed(found: Annotations, page: Any, turned: Any = None) -> Annotations:
    """The same, where they are on the page as it is turned now; without what lies outside of it.

    Args:
        turned: what `turning.turn` returned, where the page was turned since.
    """
    matrix = page.transformation_matrix * page.rotation_matrix
    if turned is not None:
        matrix = turned * matrix
    whole = page.rect
    # What covers half of a page is no link of the words that happen to lie in it.
    most = 0.5 * abs(whole)
    links = [
        Link(box, link.target)
        for link in found.links
        if (box := _on(link.box, matrix, whole)) is not None and _area(box) < most
    ]
    fields = [replace(one, box=box) for one in found.fields if (box := _on(one.box, matrix, whole)) is not None]
    return Annotations(links, fields, found.attached)


def _take(one: Any, found: Annotations) -> None:
    kind = _name(one, "Subtype")
    if kind == "Link" and len(found.links) < MOST_LINKS:
        action = mupdf.pdf_dict_gets(one, "A")
        if _name(action, "S") != "URI":
            return
        target = web_target(mupdf.pdf_to_text_string(mupdf.pdf_dict_gets(action, "URI")))
        if target is not None:
            found.links.append(Link(_box(one), target))
    elif kind == "Widget":
        if (value := _field(one)) is not None:
            found.fields.append(value)
    elif kind == "FileAttachment" and len(found.attached) < MOST_ATTACHED:
        found.attached.append(file_name(mupdf.pdf_dict_gets(one, "FS")))


def _field(one: Any) -> Field | None:
    box = _box(one)
    if mupdf.pdf_to_int(mupdf.pdf_dict_gets(one, "F")) & _HIDDEN:
        return None
    kind = mupdf.pdf_to_name(mupdf.pdf_dict_gets_inheritable(one, "FT"))
    flags = mupdf.pdf_to_int(mupdf.pdf_dict_gets_inheritable(one, "Ff"))
    value = mupdf.pdf_dict_gets_inheritable(one, "V")
    if kind == "Btn":
        if flags & _PUSH_BUTTON:
            return None
        state = _name(one, "AS") or mupdf.pdf_to_name(value)
        return Field(box, ticked=state not in ("", "Off"))
    if kind == "Tx" and flags & _PASSWORD:
        return None
    if kind not in ("Tx", "Ch"):
        return None
    texts = (
        [mupdf.pdf_to_text_string(mupdf.pdf_array_get(value, n)) for n in range(min(mupdf.pdf_array_len(value), 100))]
        if mupdf.pdf_is_array(value)
        else [mupdf.pdf_to_text_string(value)]
    )
    text = clean("\n".join(texts))[:_LONGEST_VALUE]
    return Field(box, text) if text.strip() else None


def _name(one: Any, key: str) -> str:
    return str(mupdf.pdf_to_name(mupdf.pdf_dict_gets(one, key)))


def _box(one: Any) -> Box:
    given = mupdf.pdf_to_rect(mupdf.pdf_dict_gets(one, "Rect"))
    return given.x0, given.y0, given.x1, given.y1


def _on(box: Box, matrix: Any, whole: Any) -> Box | None:
    """The place on the page; None where that is outside or has no size."""
    on = (pymupdf.Rect(box).normalize() * matrix) & whole
    return None if on.is_empty or on.is_infinite else (on.x0, on.y0, on.x1, on.y1)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
