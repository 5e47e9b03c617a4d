"""What was read, as Markdown and JSON: names as upstream's, gaps and doubts said, paths that are true."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engines.dolphin.boxes import Box
from tasks.engines.dolphin.grammar import Generation
from tasks.engines.dolphin.result import (
    ReadElement,
    ReadPage,
    figure_link,
    figure_name,
    flags_of,
    full_json,
    page_markdown,
    page_trust,
    upstream_json,
    upstream_markdown,
)
from tasks.engines.dolphin.sequences import End
from tasks.engines.trust import Part

FIGURE = figure_name("paper", 1, 2)


def element(label: str, text: str, order: int = 0, **more: Any) -> ReadElement:
    return ReadElement(label=label, bbox=Box(1, 2, 30, 40), text=text, reading_order=order, **more)


def figure(name: str = FIGURE, order: int = 2) -> ReadElement:
    return element("fig", f"![Figure]({figure_link(name)})", order, figure=name)


def page(number: int, *elements: ReadElement, **more: Any) -> ReadPage:
    return ReadPage(number=number, width=634, height=896, elements=list(elements), **more)


GAP = ReadPage(number=2, gap="no  room\nleft")
FIRST = page(1, element("header", "Journal"), element("para", "One.", 1), figure(), element("foot", "7", 3))


# -- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "number", "order", "name"),
    [
        ("paper", 1, 2, "paper_page_001_figure_002.png"),
        ("paper", 1234, 1000, "paper_page_1234_figure_1000.png"),
        ("a b.c", 1, 0, "a b.c_page_001_figure_000.png"),
        ("", 1, 0, "_page_001_figure_000.png"),
    ],
)
def test_figures_are_named_as_upstream_does(document: str, number: int, order: int, name: str) -> None:
    assert figure_name(document, number, order) == name
    assert figure_link(name) == f"figures/{name}"


@given(st.sets(st.tuples(st.integers(1, 10_000), st.integers(0, 10_000)), min_size=2, max_size=20))
def test_no_two_figures_share_a_name(figures: set[tuple[int, int]]) -> None:
    assert len({figure_name("paper", *which) for which in figures}) == len(figures)


# -- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "looped", "flags"),
    [
        (End.END, False, []),
        (End.END, True, ["loop"]),
        (End.LENGTH, False, ["cut-off"]),
        (End.LENGTH, True, ["loop", "cut-off"]),
        (End.LOOP, False, ["loop-cut"]),
        (End.LOOP, True, ["loop-cut"]),
    ],
)
def test_flags(end: End, looped: bool, flags: list[str]) -> None:
    assert flags_of(end, looped) == flags
    assert len(page(1, element("para", "x", flags=flags)).warnings) == len(flags)  # each has its words
    assert len(page(1, flags=flags).warnings) == len(flags)


def test_warnings_count_elements_and_name_the_page() -> None:
    found = page(
        7,
        element("para", "a", flags=["cut-off"]),
        element("para", "b", flags=["loop", "cut-off"]),
        element("para", "c"),
        flags=["loop-cut"],
    )
    assert found.warnings == [
        "page 7: layout: the model repeated itself and was stopped; only the first repetition is kept",
        "page 7: 2 element(s): longer than the model can write",
        "page 7: 1 element(s): the model repeated itself",
    ]
    assert page(7, element("para", "a")).warnings == []


# -- Markdown --------------------------------------------------------------------------------------------------------


def test_a_page_with_and_without_marginalia() -> None:
    link = f"![Figure](figures/{FIGURE})"
    assert page_markdown(FIRST, marginalia=True) == f"Journal\n\nOne.\n\n{link}\n\n7"
    assert page_markdown(FIRST, marginalia=False) == f"One.\n\n{link}"
    only = page(1, element("header", "Journal"), element("footer", "7"))
    assert page_markdown(only, marginalia=False) == ""
    assert page_markdown(page(1), marginalia=True) == ""


@pytest.mark.parametrize("generation", list(Generation))
def test_upstream_markdown_separates_pages(generation: Generation) -> None:
    pages = [page(1, element("para", "One.")), page(2), page(3, element("para", "Three."))]
    assert upstream_markdown(pages, generation) == "One.\n\n---\n\nThree.\n\n"
    assert upstream_markdown([page(1), *pages[2:]], generation) == "Three.\n\n"
    assert upstream_markdown([], generation) == ""


@pytest.mark.parametrize("generation", list(Generation))
def test_upstream_markdown_says_where_a_page_is_missing(generation: Generation) -> None:
    line = "[page 2 could not be converted: no room left]"
    pages = [page(1, element("para", "One.")), GAP, page(3, element("para", "Three."))]
    assert upstream_markdown(pages, generation) == f"One.\n\n---\n\n{line}\n\n---\n\nThree.\n\n"
    assert upstream_markdown([GAP], generation) == f"{line}\n\n"


def test_what_was_read_of_a_missing_page_is_not_shown() -> None:
    gap = page(2, element("para", "half of it"), gap="the model broke")
    whole = upstream_markdown([gap], Generation.V1_5)
    assert whole == "[page 2 could not be converted: the model broke]\n\n"


# -- JSON ------------------------------------------------------------------------------------------------------------


def test_upstream_json_is_upstreams() -> None:
    text = upstream_json([FIRST, GAP], "paper.pdf")
    assert text.startswith('{\n  "source_file": "paper.pdf",\n  "total_pages": 2,\n  "pages": [\n    {\n')
    found = json.loads(text)
    assert [list(one) for one in found["pages"]] == [["page_number", "elements"]] * 2
    elements = found["pages"][0]["elements"]
    assert elements[1] == {"label": "para", "bbox": [1, 2, 30, 40], "text": "One.", "reading_order": 1}
    assert list(elements[1]) == ["label", "bbox", "text", "reading_order"]
    assert list(elements[2]) == ["label", "text", "figure_path", "bbox", "reading_order"]
    assert elements[2]["figure_path"] == f"figures/{FIGURE}"
    assert found["pages"][1] == {"page_number": 2, "elements": []}


def test_letters_stay_letters() -> None:
    assert "Größe 漢" in upstream_json([page(1, element("para", "Größe 漢"))], "x.pdf")


def test_full_json_points_to_where_figures_are_published() -> None:
    text = full_json([FIRST, GAP], "in/paper.pdf", {FIGURE: "paper.assets/figure-1.png"}, {"torch": "2"})
    found = json.loads(text)
    assert "figures/" not in text
    shown = found["pages"][0]["elements"][2]
    assert shown["figure_path"] == "paper.assets/figure-1.png"
    assert shown["text"] == "![Figure](paper.assets/figure-1.png)"
    assert found["source_file"] == "in/paper.pdf"
    assert {name: found[name] for name in ("schema", "engine", "versions")} == {
        "schema": 1,
        "engine": "dolphin",
        "versions": {"torch": "2"},
    }


def test_full_json_tells_sizes_flags_and_gaps() -> None:
    doubtful = page(1, element("para", "a", flags=["cut-off"]), flags=["loop"])
    first, second = json.loads(full_json([doubtful, GAP], "x.pdf", {}, {}))["pages"]
    assert {name: first[name] for name in ("width", "height", "flags", "gap")} == {
        "width": 634,
        "height": 896,
        "flags": ["loop"],
        "gap": None,
    }
    assert first["elements"][0]["flags"] == ["cut-off"]
    assert first["elements"][0]["page"] == 1
    assert (second["page_number"], second["gap"], second["elements"]) == (2, "no  room\nleft", [])


def test_full_json_extends_upstreams() -> None:
    """Who reads upstream's JSON reads ours, but for where the figures are."""
    pages = [FIRST, GAP]
    theirs = json.loads(upstream_json(pages, "x.pdf"))
    ours = json.loads(full_json(pages, "x.pdf", {FIGURE: figure_link(FIGURE)}, {}))
    for their, our in zip(theirs["pages"], ours["pages"], strict=True):
        assert our["page_number"] == their["page_number"]
        for expected, found in zip(their["elements"], our["elements"], strict=True):
            assert found | expected == found


def test_a_figure_that_was_not_published_is_no_silent_lie() -> None:
    with pytest.raises(KeyError):
        full_json([FIRST], "x.pdf", {}, {})


# -- trust scores ----------------------------------------------------------------------------------------------------

WORDS = "The lamp was lit at dusk and burnt until the morning came over the rock."


def written(*cells: tuple[int, int]) -> np.ndarray:
    """Where a page of 634 x 896 pixels is written on: rows from one to another, of 56."""
    found = np.zeros((56, 39), np.bool_)
    for first, last in cells:
        found[first:last, 4:35] = True
    return found


def read(text: str, *, label: str = "para", **more: Any) -> ReadPage:
    box = Box(40, 100, 600, 400)
    return page(1, ReadElement(label=label, bbox=box, text=text, reading_order=0, **more))


def test_a_page_read_as_its_layer_says_is_trusted() -> None:
    found = page_trust(read(WORDS), WORDS, written((7, 24)))
    assert found.score == 1.0
    assert found.parts[Part.INVENTED] == found.parts[Part.LOST] == found.parts[Part.INK] == 0.0


def test_what_was_not_read_not_there_or_cut_off_costs_trust() -> None:
    ink = written((7, 24))
    whole = page_trust(read(WORDS), WORDS, ink).score
    assert page_trust(read(WORDS), WORDS, written((7, 24), (30, 50))).parts[Part.INK] > 0.4
    assert page_trust(read(""), None, ink).parts[Part.INK] == 1.0
    assert page_trust(read("Something else that nobody wrote."), WORDS, ink).score < 0.3
    assert page_trust(read(WORDS, flags=["loop-cut"]), WORDS, ink).score < whole
    assert page_trust(read("and so on " * 80), None, ink).score < 0.2


def test_a_figure_is_no_writing_that_was_not_read() -> None:
    figure_page = read("![Figure](figures/a.png)", label="fig", figure="a.png")
    assert page_trust(figure_page, None, written((7, 24))).score == 1.0


def test_full_json_tells_scores() -> None:
    scored = FIRST.model_copy(update={"trust": page_trust(read(WORDS), WORDS, written((7, 24)))})
    found = json.loads(full_json([scored, GAP], "x.pdf", {FIGURE: "f.png"}, {}))
    assert found["trust"] == {"mean": 0.5, "worst": 0.0}
    assert [one["trust"]["score"] for one in found["pages"]] == [1.0, 0.0]
    assert found["pages"][1]["trust"]["parts"] == {"gap": 1.0}
    assert json.loads(full_json([FIRST], "x.pdf", {FIGURE: "f.png"}, {}))["trust"] is None
