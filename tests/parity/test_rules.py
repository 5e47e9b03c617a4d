"""Grammar, boxes and Markdown against what upstream's own code gave on the same cases (tests/parity/make_goldens.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import cases
from tasks.engines.dolphin import markdown_upstream
from tasks.engines.dolphin.boxes import Frame, place
from tasks.engines.dolphin.edges import Edges
from tasks.engines.dolphin.grammar import Entry, Generation, parse

GOLDENS = Path(__file__).with_name("goldens")

both = pytest.mark.parametrize("generation", list(Generation))


def golden(name: str, generation: Generation) -> list[Any]:
    found: list[Any] = json.loads((GOLDENS / f"{name}-{generation}.json").read_text(encoding="utf-8"))
    assert len(found) == cases.COUNT
    return found


@both
def test_markdown_is_upstreams(generation: Generation) -> None:
    for elements, expected in zip(cases.elements(generation), golden("markdown", generation), strict=True):
        assert markdown_upstream.convert(elements, generation) == expected, elements


@both
def test_entries_are_upstreams(generation: Generation) -> None:
    for layout, expected in zip(cases.layouts(generation), golden("layouts", generation), strict=True):
        assert cases.as_json(parse(layout, generation)) == expected, layout


@both
def test_boxes_are_upstreams(generation: Generation) -> None:
    for (image, boxes), expected in zip(cases.pages(generation), golden("boxes", generation), strict=True):
        frame = Frame(image.shape[1], image.shape[0])
        padded = np.zeros((frame.side, frame.side, 3), np.uint8)
        padded[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width] = image
        widen = Edges(padded).widen if generation is Generation.V1_0 else None
        entries = [Entry((x1, y1, x2, y2), "para") for x1, y1, x2, y2 in boxes]
        assert cases.as_json(place(entries, frame, generation, widen)) == expected, boxes
