"""What was read of a document, to Markdown and JSON. Pure.

Upstream's shape is that of its `save_combined_pdf_results` (utils/utils.py) and `process_elements` (demo_page.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.engines import doubts
from tasks.engines.dolphin import markdown_clean, markdown_upstream
from tasks.engines.dolphin.boxes import Box
from tasks.engines.dolphin.grammar import Generation
from tasks.engines.dolphin.sequences import End
from tasks.engines.ink import Cells, figures, outside
from tasks.engines.markdown import gap as gap_line
from tasks.engines.trust import GAP, PageTrust

SCHEMA = 1
"""Of the JSON beside the Markdown."""


class ReadElement(BaseModel):
    """One element of a page, read."""

    model_config = ConfigDict(frozen=True)

    label: str
    bbox: Box
    """In the page image, whose longer side is 896 pixels."""
    text: str
    reading_order: int
    figure: str | None = None
    """The file's name, of a figure."""
    flags: list[str] = []


class ReadPage(BaseModel):
    """One page, read. Without elements it is empty, or a gap."""

    model_config = ConfigDict(frozen=True)

    number: int
    width: int = 0
    height: int = 0
    elements: list[ReadElement] = []
    flags: list[str] = []
    """Of the layout."""
    gap: str | None = None
    trust: PageTrust | None = None
    """How far its text can be trusted."""

    @property
    def scored(self) -> PageTrust | None:
        """Its score; of a gap, too."""
        return GAP if self.gap is not None else self.trust

    @property
    def warnings(self) -> list[str]:
        """What a reader of the Markdown should know, a line each."""
        found = [f"page {self.number}: layout: {_FLAGS[flag]}" for flag in self.flags]
        for flag in dict.fromkeys(flag for element in self.elements for flag in element.flags):
            count = sum(flag in element.flags for element in self.elements)
            found.append(f"page {self.number}: {count} element(s): {_FLAGS[flag]}")
        return found


_FLAGS = {
    "loop-cut": "the model repeated itself and was stopped; only the first repetition is kept",
    "loop": "the model repeated itself",
    "cut-off": "longer than the model can write",
    "no-layout": "the model wrote one that names no element (is it of the other generation? see --generation)",
}


def flags_of(end: End, looped: bool) -> list[str]:
    """What is wrong with a text that the model wrote."""
    if end is End.LOOP:
        return ["loop-cut"]
    return ["loop"] * looped + ["cut-off"] * (end is End.LENGTH)


def figure_name(document: str, page: int, order: int) -> str:
    """As upstream names the file; `document` is the PDF's name without its suffix."""
    return f"{document}_page_{page:03d}_figure_{order:03d}.png"


def figure_link(name: str) -> str:
    """The link's target in the Markdown, before it is known where the figure is published."""
    return f"figures/{name}"


def page_markdown(page: ReadPage, *, marginalia: bool) -> str:
    """One page, clean rules."""
    return markdown_clean.convert(((element.label, element.text) for element in page.elements), marginalia=marginalia)


def page_trust(page: ReadPage, layer: str | None, written: Cells) -> PageTrust:
    """The score of a page that was read.

    Args:
        layer: its text layer, where that can be trusted.
        written: where its image looks written on.
    """
    edges = Box(0, 0, page.width, page.height)
    texts = [element.bbox for element in page.elements if element.figure is None and element.text.strip()]
    pictures = figures([element.bbox for element in page.elements if element.figure is not None], edges)
    flags = {*page.flags, *(flag for element in page.elements for flag in element.flags)}
    return doubts.page_trust(
        page_markdown(page, marginalia=True),
        layer=layer,
        reads_pixels=True,
        ink=outside(written, [*texts, *pictures], edges),
        stopped=bool(flags),
    )


def upstream_markdown(pages: Sequence[ReadPage], generation: Generation) -> str:
    """The whole document, upstream's rules; a page that is missing is named, where upstream would have lost the document."""
    elements: list[tuple[str, str]] = []
    for page in pages:
        found = [(element.label, element.text) for element in page.elements]
        if page.gap is not None:
            found = [("para", gap_line(page.number, page.gap))]
        if found and elements:
            elements.append(("page_separator", "\n\n---\n\n"))
        elements += found
    return markdown_upstream.convert(elements, generation)


def upstream_json(pages: Sequence[ReadPage], source: str) -> str:
    """Byte for byte what upstream writes."""
    return _dump(
        {
            "source_file": source,
            "total_pages": len(pages),
            "pages": [
                {"page_number": page.number, "elements": [_element(element) for element in page.elements]}
                for page in pages
            ],
        }
    )


def full_json(pages: Sequence[ReadPage], source: str, figures: dict[str, str], versions: dict[str, str]) -> str:
    """Upstream's shape, and ours: sizes of the page images, flags and gaps, and what made it.

    Args:
        figures: upstream's names of figures to the paths that are true beside this JSON.
    """
    listed = []
    for page in pages:
        elements = []
        for element in page.elements:
            shown = _element(element)
            if element.figure is not None:
                path = figures[element.figure]
                shown |= {"text": f"![Figure]({path})", "figure_path": path}
            elements.append(shown | {"page": page.number, "flags": element.flags})
        listed.append(
            {
                "page_number": page.number,
                "elements": elements,
                "width": page.width,
                "height": page.height,
                "flags": page.flags,
                "gap": page.gap,
                "trust": page.scored.model_dump(mode="json") if page.scored is not None else None,
            }
        )
    scores = [page.scored.score for page in pages if page.scored is not None]
    return _dump(
        {
            "source_file": source,
            "total_pages": len(pages),
            "pages": listed,
            "trust": {"mean": round(sum(scores) / len(scores), 4), "worst": min(scores)} if scores else None,
            "schema": SCHEMA,
            "engine": "dolphin",
            "versions": versions,
        }
    )


def _element(element: ReadElement) -> dict[str, Any]:
    bbox = list(element.bbox)
    if element.figure is not None:
        return {
            "label": element.label,
            "text": element.text,
            "figure_path": figure_link(element.figure),
            "bbox": bbox,
            "reading_order": element.reading_order,
        }
    return {"label": element.label, "bbox": bbox, "text": element.text, "reading_order": element.reading_order}


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
