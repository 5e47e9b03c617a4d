"""Boxes: inside the page, and without strictness no box loses its content to the one before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.engines.dolphin.boxes import Box, Frame, place
from tasks.engines.dolphin.grammar import Entry, Generation
from tasks.engines.dolphin.page import elements

FRAMES = st.builds(Frame, st.integers(1, 2000), st.integers(1, 2000))
NUMBERS = st.one_of(st.floats(0, 1000), st.just(float("inf")))
ENTRIES = st.lists(st.builds(Entry, st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), st.just("para")), max_size=6)


@given(ENTRIES, FRAMES, st.sampled_from(Generation), st.booleans())
def test_crops_are_in_the_padded_page(entries: list[Entry], frame: Frame, generation: Generation, strict: bool) -> None:
    for placed in place(entries, frame, generation, strict=strict):
        crop = placed.crop
        assert crop == Box(0, 0, 100, 100) or (
            0 <= crop.x1 < crop.x2 <= frame.side and 0 <= crop.y1 < crop.y2 <= frame.side
        )


def test_a_table_within_a_figure() -> None:
    layout = "[100,100,700,500][fig][PAIR_SEP][150,150,600,400][tab][PAIR_SEP][10,600,500,650][para]"
    frame = Frame(896, 896)
    strict = elements(layout, frame, Generation.V1_5)
    mended = elements(layout, frame, Generation.V1_5, strict=False)
    assert [(element.label, element.order) for element in strict] == [("fig", 0), ("para", 2)]
    assert [(element.label, element.order) for element in mended] == [("fig", 0), ("tab", 1), ("para", 2)]
    assert mended[1].crop == Box(150, 150, 601, 401)


def test_crops_that_are_too_small_leave_a_gap_in_the_order() -> None:
    layout = "[0,0,2,2][para][PAIR_SEP][10,10,400,400][code]"
    (only,) = elements(layout, Frame(600, 896), Generation.V1_5)
    assert (only.label, only.order, only.prompt) == ("code", 1, "Read code in the image.")
