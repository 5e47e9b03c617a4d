"""Trust scores: what is wrong with a page shows in its parts, what is right does not, and old records are still records."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.corpus.ledger import Outcome, Record, parse_segment
from tasks.corpus.trust import GOOD, KEPT, PageScore, Trust
from tasks.engines.doubts import nonsense, page_trust, plain_text, repetition, trusted_layer, words
from tasks.engines.ink import CELL, SIDE, figures, outside, written_cells
from tasks.engines.pagememory import PageMemory, RenderedPage
from tasks.engines.protocol import EngineName, Limits
from tasks.engines.sandbox import Sandbox
from tasks.engines.trust import GAP, WEIGHTS, PageTrust, Part, score_of

PROSE = (
    "The keeper of the light wrote every evening what the sea had done, how the lamp had burnt, and which ships had passed "
    "the rock since noon. On some days there was little to say, and he said it in few words; on others he filled three pages "
    "with weather, with the names of captains, and with what the boat had brought from the harbour."
)


def parts(text: str, **more: object) -> dict[Part, float]:
    return page_trust(text, **more).parts


# -- the text layer -----------------------------------------------------------------------------------------------------


def test_a_page_that_says_all_that_its_layer_says_is_trusted() -> None:
    markdown = "# The *keeper*\n\n" + PROSE.replace("rock", "**rock**") + "\n\n| a\\_b | `c` |\n| --- | --- |\n"
    found = page_trust(markdown, layer="The keeper\n" + PROSE + "\na_b c", ink=0.0)
    assert found.score == 1.0
    assert set(found.parts) == {Part.LOST, Part.INK, Part.REPEATS, Part.SCRIPT}


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_does_not_matter_and_lost_words_do(chance: random.Random) -> None:
    said = PROSE.split()
    chance.shuffle(said)
    assert parts(" ".join(said), layer=PROSE)[Part.LOST] == 0.0
    half = said[: len(said) // 2]
    assert 0.4 < parts(" ".join(half), layer=PROSE)[Part.LOST] < 0.6
    assert page_trust(" ".join(half), layer=PROSE).score < 0.65


def test_words_split_at_a_line_end_are_not_lost() -> None:
    assert parts("The harbour was empty.", layer="The har-\nbour was empty.")[Part.LOST] == 0.0


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    assert parts("灯台の光は遠くから見える", layer="灯台の光は\n遠くから見える")[Part.LOST] == 0.0
    assert parts("灯台の光は", layer="灯台の光は遠くから見える")[Part.LOST] > 0.4


def test_words_of_its_own_count_only_against_what_reads_pixels() -> None:
    more = PROSE + " And a sentence that stands nowhere on the page, told with great assurance."
    assert Part.INVENTED not in parts(more, layer=PROSE)
    assert parts(more, layer=PROSE, reads_pixels=True)[Part.INVENTED] > 0.1
    assert parts(PROSE + " $\\frac{a}{b}$ <b>", layer=PROSE, reads_pixels=True)[Part.INVENTED] == 0.0


@pytest.mark.parametrize(
    "layer",
    ["", "page 7", "\ufffd\ufffd\ufffd" * 30, "\ue001\ue002 " * 40, "bcdf ghjk lmnp qrst vwxz " * 9, "x" * 300_000],
)
def test_a_layer_that_says_nothing_is_held_against_nobody(layer: str) -> None:
    assert trusted_layer(layer) is None


def test_a_layer_that_makes_sense_is_trusted() -> None:
    assert trusted_layer(PROSE) == PROSE


# -- the text itself ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["and so on and so forth, ", "7 ", "the lamp was lit at dusk by the second keeper, "])
def test_a_model_that_repeats_itself_is_found(loop: str) -> None:
    looped = PROSE + " " + loop * 60
    assert repetition(words(looped)) > 0.4
    assert page_trust(looped).score < 0.6


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "\n".join(f"- item {n} of the list" for n in range(40)),
        "\n".join(f"| lamp {n} | lit | {7 * n} |" for n in range(40)),
        "yes no yes no yes no",
        "",
    ],
)
def test_lists_tables_and_prose_are_no_loops(text: str) -> None:
    assert repetition(words(text)) < 0.05


def test_what_the_page_itself_repeats_is_not_the_engines_doing() -> None:
    form = "name date signature " * 40
    assert parts(form)[Part.REPEATS] > 0.9
    assert parts(form, layer=form)[Part.REPEATS] == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "La cÃ´te est Ã  gauche, lâ€™Ã®le Ã  droite. " * 3,
        "\ufffd\ufffd the \ufffd\ufffd light \ufffd\ufffd",
        "\ue010\ue011\ue012 lamp \ue010\ue011",
        "Thе kеepеr wrotе whаt thе sеa hаd donе",  # Cyrillic letters within
        "thqkpr wrtvg nthng knts sndwch mrkt prnt shrt blck grnd strt flwr",
    ],
)
def test_nonsense_is_found(text: str) -> None:
    assert nonsense(text) > 0.3
    assert page_trust(text).score < 0.75


@pytest.mark.parametrize(
    "text", [PROSE, "La côte est à gauche.", "Le 灯台 (tōdai)", "Σ is a sum, 5 μm", "маяк на скале", ""]
)
def test_languages_are_no_nonsense(text: str) -> None:
    assert nonsense(text) == 0.0


def test_marks_tags_and_formulas_are_no_text() -> None:
    assert words(plain_text("## A *b* <sub>c</sub> ![d](e.png) [f](http://g) $x^2$ \\[y\\] &amp; \\* <!-- h -->")) == [
        *"abcdf"[:3],
        "f",
    ]


@settings(deadline=None)
@given(
    st.text(max_size=400),
    st.one_of(st.none(), st.text(max_size=400)),
    st.one_of(st.none(), st.floats(0, 1)),
    st.one_of(st.none(), st.floats(0, 1)),
    st.booleans(),
)
def test_a_score_is_a_share_whatever_the_text(
    text: str, layer: str | None, ink: float | None, unsure: float | None, flag: bool
) -> None:
    found = page_trust(text, layer=layer, reads_pixels=flag, ink=ink, unsure=unsure, stopped=flag)
    assert 0 <= found.score <= 1
    assert all(0 <= value <= 1 for value in found.parts.values())
    assert PageTrust.model_validate_json(found.model_dump_json()) == found


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(Part)), st.floats(0, 1)), st.sampled_from(list(Part)), st.floats(0, 1))
def test_more_doubt_is_never_a_better_score(found: dict[Part, float], part: Part, value: float) -> None:
    assert score_of({**found, part: max(value, found.get(part, 0.0))}) <= score_of(found)
    assert set(WEIGHTS) == set(Part)


def test_a_gap_and_a_stopped_model_are_seen() -> None:
    assert GAP.score == 0.0
    assert page_trust(PROSE, stopped=True).score < page_trust(PROSE).score
    assert page_trust(PROSE, unsure=0.7).score < page_trust(PROSE, unsure=0.1).score < 1.0


# -- ink ----------------------------------------------------------------------------------------------------------------


def picture(*texts: tuple[float, float], lines: bool = False, dark: bool = False) -> np.ndarray:
    """A page in grey as engines see it, with text from one height to another, and rules if wanted."""
    with pymupdf.open() as document:
        page = document.new_page(width=595, height=842)
        if dark:
            page.draw_rect(page.rect, fill=(0.1, 0.1, 0.2))
        for top, foot in texts:
            box = pymupdf.Rect(60, top, 535, foot)
            page.insert_textbox(box, PROSE * 3, fontsize=11, color=(1, 1, 1) if dark else (0, 0, 0))
        for n in range(10 if lines else 0):
            page.draw_line((60, 80 * n), (535, 80 * n))
            page.draw_line((50 * n, 60), (50 * n, 780))
        scale = SIDE / 842
        found = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), colorspace=pymupdf.csGRAY, alpha=False)
        return np.frombuffer(found.samples, np.uint8).reshape(found.height, found.width).copy()


EDGES = (0.0, 0.0, 595.0, 842.0)


@pytest.mark.parametrize("dark", [False, True])
def test_writing_that_nobody_read_is_seen(dark: bool) -> None:
    written = written_cells(picture((60, 250), (500, 690), dark=dark))
    assert written.sum() > 100
    upper, lower = (55.0, 55.0, 540.0, 260.0), (55.0, 495.0, 540.0, 700.0)
    assert outside(written, [upper, lower], EDGES) == 0.0
    assert 0.35 < outside(written, [upper], EDGES) < 0.65
    assert outside(written, [], EDGES) == 1.0


def test_rules_shades_and_blank_pages_are_no_writing() -> None:
    assert outside(written_cells(picture(lines=True)), [], EDGES) < 0.2
    assert written_cells(picture(lines=True)).sum() < 40
    assert outside(written_cells(picture()), [], EDGES) == 0.0
    shade = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (SIDE, 1))
    assert not written_cells(shade).any()
    assert written_cells(np.zeros((3, 900), np.uint8)).size == 0


def test_images_of_whole_pages_are_no_figures() -> None:
    assert figures([EDGES, (0, 0, 300, 300)], EDGES) == [(0, 0, 300, 300)]


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-2000, 2000)] * 4), max_size=5))
def test_boxes_may_lie_anywhere(boxes: list[tuple[float, float, float, float]]) -> None:
    written = np.zeros((SIDE // CELL, SIDE // CELL), np.bool_)
    written[5:9, 5:9] = True
    assert 0 <= outside(written, boxes, EDGES) <= 1


# -- records ------------------------------------------------------------------------------------------------------------


def test_a_record_names_the_worst_pages_and_the_mean() -> None:
    scores = [PageScore(page=n, score=n / 100, parts={"lost": 0.5, "ink": 0.0001}) for n in range(1, 101)]
    found = Trust.of(scores)
    assert found is not None
    assert [one.page for one in found.pages] == list(range(1, KEPT + 1))
    assert (found.worst, found.mean) == (0.01, 0.505)
    assert found.pages[0].parts == {"lost": 0.5}
    assert Trust.of([]) is None


def test_of_a_good_document_only_the_worst_page_is_named() -> None:
    found = Trust.of(PageScore(page=n, score=GOOD + n / 1000) for n in range(1, 40))
    assert found is not None
    assert [one.page for one in found.pages] == [1]


def test_records_without_scores_are_read_and_those_with_come_back() -> None:
    given = {"worker": 0, "attempt": 0, "epoch": 0, "index": 0, "key": "a.pdf", "name": "a.md", "at": 1.0}
    old = Record(**given, outcome=Outcome.CONVERTED)
    assert "trust" not in old.model_dump_json(exclude_defaults=True)
    new = Record(
        **given, outcome=Outcome.CONVERTED, trust=Trust.of([PageScore(page=2, score=0.25, parts={"ink": 0.5})])
    )
    lines = b"".join(record.model_dump_json(exclude_defaults=True).encode() + b"\n" for record in (old, new))
    assert parse_segment(lines, "ledger-000000.jsonl") == [old, new]


# -- what a child says --------------------------------------------------------------------------------------------------


def test_a_layer_comes_with_the_pixels_and_nonsense_is_refused() -> None:
    memory = PageMemory.create()
    try:
        page = RenderedPage(1, 2, 2, 1, bytes(6), layer=PROSE)
        memory.put(page)
        assert memory.take(page.facts()).layer == PROSE
        with pytest.raises(ValueError, match="text layer"):
            memory.take(page.facts() | {"layer": 7})
    finally:
        memory.close()


def test_a_memory_has_room_for_its_side() -> None:
    memory = PageMemory.create(100)
    try:
        memory.put(RenderedPage(1, 1, 100, 100, bytes(30_000)))
        with pytest.raises(ValueError, match="pixels"):
            memory.put(RenderedPage(1, 1, 200, 200, bytes(120_000)))
    finally:
        memory.close()


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    scratch = tmp_path_factory.mktemp("renderer")
    with Sandbox(EngineName.DOLPHIN, Limits(), engine_options={"side": 200}, scratch=scratch) as sandbox:
        yield sandbox


def rendered(sandbox: Sandbox, made: pymupdf.Document, folder: Path, **pages: int) -> list[tuple[int, int, str | None]]:
    """Number, height and text layer of the pages."""
    found: list[tuple[int, int, str | None]] = []
    made.save(folder / "in.pdf")
    made.close()
    sandbox.render(folder / "in.pdf", [], lambda page: found.append((page.number, page.height, page.layer)), **pages)
    return found


@pytest.fixture
def place(renderer: Sandbox) -> Path:
    return renderer._scratch


def test_the_renderer_gives_layers_and_only_the_pages_asked_for(renderer: Sandbox, place: Path) -> None:
    made = pymupdf.open()
    for number in range(1, 5):
        made.new_page(width=300, height=400).insert_text((20, 50), f"Page {number} of the keeper's log")
    found = rendered(renderer, made, place, first=2, last=3)
    assert [(number, height) for number, height, _ in found] == [(2, 200), (3, 200)]
    assert [layer.strip() for _, _, layer in found if layer is not None] == [
        "Page 2 of the keeper's log",
        "Page 3 of the keeper's log",
    ]


def test_the_layer_behind_a_scan_is_another_programs_reading(renderer: Sandbox, place: Path) -> None:
    made = pymupdf.open()
    page = made.new_page(width=300, height=400)
    page.insert_text((20, 50), "Thc kcepcr wrote evcry evcning", render_mode=3)
    page.insert_image(page.rect, pixmap=pymupdf.Pixmap(pymupdf.csGRAY, pymupdf.IRect(0, 0, 30, 40)))
    assert rendered(renderer, made, place) == [(1, 200, None)]
