"""The layout engine's decisions: evidence, choice, order, text as Markdown. Pure, without a PDF."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.failures import Category
from tasks.engines.layout.annotations import Field
from tasks.engines.layout.choice import MOST_DRAWINGS, MOST_FALLEN, Source, Way, after, plan
from tasks.engines.layout.evidence import PageFacts, text_facts
from tasks.engines.layout.fields import lines_with, words_with
from tasks.engines.layout.figures import label, overlooked, worth_it
from tasks.engines.layout.footnotes import notes_of, references, referring
from tasks.engines.layout.headings import Entry, Heading, key, levels, stands_out, usual_size
from tasks.engines.layout.laid import Figure, LaidPage, Piece, placeholder, together
from tasks.engines.layout.margins import is_page_number
from tasks.engines.layout.markup import escaped, escaped_start, note_label, safe_link, styled, web_target
from tasks.engines.layout.ocr import dpi_for, finer, sideways
from tasks.engines.layout.prose import code, fenced, indents, joined, kept_lines, list_items, paragraph
from tasks.engines.layout.reading_order import Box, listed, reading_order
from tasks.engines.layout.regions import Kind, Region, filled, split
from tasks.engines.layout.tables import Grid, Place, table
from tasks.engines.layout.textlines import Line, Run, Word, logical, main_direction, turned
from tasks.engines.protocol import Fall


def line(text: str, x: float, y: float, width: float | None = None, *, height: float = 10.0, **style: bool) -> Line:
    box = (x, y, x + (width if width is not None else 5.0 * len(text)), y + height)
    return Line((Run(text, box, height, **style),), box)


# -- evidence and choice ---------------------------------------------------------------------------------------------

PROSE = "The quick brown fox jumps over the lazy dog while nobody watches it from the garden behind the house. " * 3


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (PROSE, Source.LAYER),
        ("Быстрая коричневая лиса прыгает через ленивую собаку. " * 4, Source.LAYER),
        ("素早い茶色の狐がのろまな犬を飛び越える。Latin も混じる。" * 4, Source.LAYER),
        ("الثعلب البني السريع يقفز فوق الكلب الكسول " * 4, Source.LAYER),
        ("\ufffd\ufffd\ufffd \ufffd\ufffd\ufffd " * 20, Source.OCR),
        ("\ue001\ue002\ue003 and \ue004\ue005 " * 20, Source.OCR),
        ("ϣÎgϙ ķϢʆi ΰԔϸЇ ߙκΨԔ ʽීϣ ͳΎӍ " * 12, Source.OCR),
        ("7KH TXLFN EURZQ IRA MXPSV RYHU WKH ODCB GRJ ZKLOH QRERGB ZDWFKHV LW " * 3, Source.OCR),
    ],
)
def test_a_text_layer_is_trusted_only_if_it_says_something(text: str, source: Source) -> None:
    chosen = plan(PageFacts(text_facts(text)), ocr=True, lines=9)
    assert chosen.source is source
    assert (chosen.reason is None) == (source is Source.LAYER)
    assert plan(PageFacts(text_facts(text)), ocr=False, lines=9).source is Source.LAYER


def test_ocr_only_where_there_is_something_that_the_layer_does_not_say() -> None:
    few, none = text_facts("Page 7"), text_facts("")
    assert plan(PageFacts(none, images=1.0), ocr=True, lines=0).source is Source.OCR
    assert plan(PageFacts(few, images=0.9), ocr=True, lines=1).source is Source.BOTH
    assert plan(PageFacts(few, images=0.0), ocr=True, lines=1).source is Source.LAYER
    assert plan(PageFacts(text_facts(PROSE), images=0.9), ocr=True, lines=9).source is Source.LAYER
    assert plan(PageFacts(none, images=1.0), ocr=False, lines=0).source is Source.NOTHING


def test_the_layout_model_is_not_asked_about_what_it_cannot_do() -> None:
    facts = text_facts(PROSE)
    assert plan(PageFacts(facts), ocr=True, lines=9).layout
    assert not plan(PageFacts(facts, drawings=MOST_DRAWINGS + 1), ocr=True, lines=9).layout
    assert not plan(PageFacts(facts, vertical=0.9), ocr=True, lines=9).layout


falls = st.builds(
    Fall,
    category=st.sampled_from([Category.CRASHED, Category.TIMEOUT, Category.MEMORY]),
    reason=st.just("lost"),
    starved=st.booleans(),
)


@given(st.lists(falls, max_size=8), falls, st.integers(0, 9))
def test_every_fall_leads_down_and_the_last_way_is_a_gap(before: list[Fall], fall: Fall, trouble: int) -> None:
    order = list(Way)
    (way, left), (then, left_then) = after(before, trouble), after([*before, fall], trouble)
    assert order.index(then) >= order.index(way)
    assert left_then < left or left == left_then == 0
    assert (way is Way.GAP) == (left == 0)
    assert after([fall] * 4, trouble) == (Way.GAP, 0)


def test_what_a_fall_says_decides_the_next_way() -> None:
    crash, slow = Fall(category=Category.CRASHED, reason=""), Fall(category=Category.TIMEOUT, reason="")
    busy = slow.model_copy(update={"starved": True})
    assert after([], 0)[0] is after([crash], 0)[0] is after([busy], 0)[0] is Way.LAYOUT
    assert after([slow], 0)[0] is after([crash, slow], 0)[0] is after([], MOST_FALLEN)[0] is Way.TEXT
    assert after([slow, slow], 0)[0] is Way.OCR


# -- reading order ---------------------------------------------------------------------------------------------------


def column(x: float, tops: list[float], width: float = 200.0, height: float = 60.0) -> list[Box]:
    return [(x, top, x + width, top + height) for top in tops]


def test_columns_are_read_one_after_the_other_between_what_spans_them() -> None:
    title, foot = (50.0, 20.0, 500.0, 40.0), (50.0, 700.0, 500.0, 720.0)
    # The gaps between paragraphs are at the same height, which must not cut the columns.
    boxes = [title, *column(50, [60, 130, 200]), *column(300, [60, 130, 200]), foot]
    assert reading_order(boxes, gutter=5) == list(range(8))
    assert reading_order(boxes, gutter=5, right_to_left=True) == [0, 4, 5, 6, 1, 2, 3, 7]


def test_the_rows_of_a_bill_are_read_across() -> None:
    names = column(50, [100, 120, 140], width=70, height=10)
    prices = column(250, [101, 119, 140], width=30, height=10)
    order = reading_order([*names, *prices], gutter=5, line=10)
    assert order == [0, 3, 1, 4, 2, 5]
    assert listed([names, prices], 10)
    assert not listed([column(50, [100, 112, 124], height=10), column(300, [100, 112, 124], height=10)], 10)


boxes_of_any_kind = st.lists(
    st.tuples(st.floats(-9, 600), st.floats(-9, 800), st.floats(0, 500), st.floats(0, 90)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=40,
)


@given(boxes_of_any_kind, st.floats(0, 50), st.floats(0, 30), st.booleans())
def test_any_boxes_have_an_order_without_loss(boxes: list[Box], gutter: float, height: float, rtl: bool) -> None:
    order = reading_order(boxes, gutter=gutter, line=height, right_to_left=rtl)
    assert sorted(order) == list(range(len(boxes)))


# -- regions ---------------------------------------------------------------------------------------------------------


def test_no_line_is_lost_or_doubled_among_regions() -> None:
    regions = [
        Region(Kind.TEXT, (0, 0, 100, 50)),
        Region(Kind.TEXT, (0, 40, 100, 90)),
        Region(Kind.PICTURE, (0, 0, 300, 300)),
    ]
    lines = [line("one", 10, 10), line("two", 10, 60), line("far", 400, 400), line("in between", 10, 43)]
    found = [one.text for region in filled(regions, lines) for one in region.lines]
    assert sorted(found) == sorted(one.text for one in lines)


def test_a_region_across_two_columns_is_split_but_not_a_list() -> None:
    prose = [line("words of a column of prose", x, y) for y in (0, 12, 24) for x in (0, 160)]
    assert len(split(Region(Kind.TEXT, (0, 0, 300, 40), lines=tuple(prose)), 10)) == 2
    items = [*(line(f"{n}.", 0, 12 * n) for n in (1, 2)), *(line("an item of the list", 30, 12 * n) for n in (1, 2))]
    assert len(split(Region(Kind.LIST_ITEM, (0, 0, 300, 40), lines=tuple(items)), 10)) == 1


# -- Markdown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a < b and 3 > 2", "a < b and 3 > 2"),
        ("x & y &amp; z", "x & y &amp;amp; z"),
        ("snake_case and _not emphasis_", "snake_case and \\_not emphasis\\_"),
        ("5 * 6 and *star*", "5 * 6 and \\*star\\*"),
        ("a | b `c`", "a \\| b \\`c\\`"),
        ("[x](javascript:alert(1))", "\\[x](javascript:alert(1))"),
        ("[12] and ~~gone~~", "[12] and \\~~gone\\~~"),
        ("C:\\new\\*", "C:\\new\\\\\\*"),
    ],
)
def test_text_stays_text(text: str, markdown: str) -> None:
    assert escaped(text) == markdown


@pytest.mark.parametrize(
    ("text", "markdown"),
    [("# no heading", "\\# no heading"), ("#hashtag", "#hashtag"), ("> no quote", "\\> no quote"), ("===", "\\===")],
)
def test_the_start_of_a_paragraph_stays_text(text: str, markdown: str) -> None:
    assert escaped_start(text) == markdown


@given(st.text(alphabet="<>&;/!?abScript*_`|[]()#~\\ \n-", max_size=40))
def test_no_text_becomes_a_tag(text: str) -> None:
    out = escaped(text)
    assert not re.search(r"<[A-Za-z/!?]", out)
    assert not re.search(r"(?<!\\)`", out.replace("\\\\", ""))
    assert "<" not in text or "<" in html.unescape(out)


@pytest.mark.parametrize(
    "target", ["javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "http://a b", "HTTP//x"]
)
def test_other_links_than_to_the_web_and_to_mailboxes_are_none(target: str) -> None:
    assert not safe_link(target)
    assert safe_link("https://example.org/a?b=c#d")
    assert safe_link("mailto:a@example.org")


@pytest.mark.parametrize(
    ("target", "made"),
    [
        (" https://example.org/a_(b)?x=1&y=<2>#z ", "https://example.org/a_%28b%29?x=1&y=%3C2%3E#z"),
        ("http://example.org/a b|c", "http://example.org/a%20b%7Cc"),
        ("https://example.org/?a&copy;b", "https://example.org/?a&amp;copy;b"),
        ("HTTPS://EXAMPLE.ORG/ü", "HTTPS://EXAMPLE.ORG/%C3%BC"),
        ("mailto:a@example.org", "mailto:a@example.org"),
        ('https://example.org/"><script>', "https://example.org/%22%3E%3Cscript%3E"),
        ("javascript:alert(1)//https://", None),
        ("java\nscript:alert(1)", None),
        ("file:///etc/passwd", None),
        ("https://" + "a" * 3000, None),
    ],
)
def test_targets_end_where_the_link_ends(target: str, made: str | None) -> None:
    assert web_target(target) == made


BOX = (0.0, 0.0, 1.0, 1.0)


def test_links_are_around_their_words() -> None:
    to = "https://example.org"
    runs = [
        Run("see ", BOX, 9),
        Run("the [old] ", BOX, 9, link=to),
        Run("page", BOX, 9, bold=True, link=to),
        Run(".", BOX, 9),
    ]
    assert styled(runs) == f"see [the \\[old\\] **page**]({to})."
    assert styled([Run("a", BOX, 9, link=to), Run("b", BOX, 9, link=f"{to}/2")]) == f"[a]({to})[b]({to}/2)"
    assert styled([Run("  ", BOX, 9, link=to), Run("x", BOX, 9)]) == "  x"


@pytest.mark.parametrize(
    "texts",
    [
        ("[click", "](javascript:alert(1))"),
        ("[click", "]: javascript:alert(1)"),
        ("[cli", "c[k]", "](javascript:x)"),
        ("[click", "]", "(javascript:x)"),
    ],
)
def test_no_link_is_made_of_several_runs_or_rows(texts: tuple[str, ...]) -> None:
    for bold in (False, True):
        out = styled([Run(text, BOX, 9, bold=bold and number % 2 == 0) for number, text in enumerate(texts)])
        assert not re.search(r"(?<!\\)\[[^\n]*(?<!\\)\][(:]", out)
    rows = kept_lines([line(text, 0, 12 * number) for number, text in enumerate(texts)])
    assert not re.search(r"(?<!\\)\[.*(?<!\\)\][(:]", rows, re.DOTALL)


def test_styles_are_marked_where_markdown_can_have_them() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    runs = [
        Run("Bold", box, 9, bold=True),
        Run(" and ", box, 9),
        Run("mono", box, 9, mono=True),
        Run("x", box, 9, italic=True),
    ]
    assert styled(runs) == "**Bold** and monox"
    assert styled([Run("E = mc", box, 9), Run("2", box, 6, superscript=True)]) == "E = mc<sup>2</sup>"


def test_words_split_at_the_end_of_a_line_are_made_whole() -> None:
    assert paragraph([line("a hyphen-", 0, 0), line("ated word", 0, 12)]) == "a hyphenated word"
    assert paragraph([line("pages 3-", 0, 0), line("4 and A-", 0, 12), line("B", 0, 24)]) == "pages 3- 4 and A- B"
    assert joined(["日本", "語"]) == "日本語"
    assert joined(["soft\u00ad", "Hyphen"]) == "softHyphen"


def test_lists_code_and_depths() -> None:
    assert list_items([line("• one", 0, 0), line("more", 10, 12), line("• two", 0, 24)]) == ["- one more", "- two"]
    assert list_items([line("1. one", 0, 0), line("2. two", 0, 12)]) == ["1. one", "2. two"]
    assert (
        code([line("if x:", 0, 0, mono=True), line("y = `<a>`", 20, 12, mono=True)]) == "```\nif x:\n    y = `<a>`\n```"
    )
    assert fenced("```\nx\n```").startswith("````\n")
    assert indents([0, 20, 21, 40, 0, 20]) == [0, 1, 1, 2, 0, 1]


def test_ticks_stand_before_their_labels_and_values_that_nothing_paints_are_there() -> None:
    lines = [
        line("4", 1, 1, 8),
        line("Yes", 14, 0),
        line("4", 51, 1, 8),
        line("No", 64, 0),
        line("Name", 0, 40),
        line("Ann", 50, 60),
    ]
    fields = [
        Field((0.0, 0.0, 10.0, 10.0), ticked=True),
        Field((50.0, 0.0, 60.0, 10.0), ticked=False),
        Field((30.0, 40.0, 200.0, 52.0), "Bob\nBrown"),
        Field((30.0, 60.0, 200.0, 72.0), "Ann"),
        Field((500.0, 500.0, 510.0, 510.0), ticked=True),
    ]
    texts = [one.text for one in lines_with(lines, fields)]
    assert texts == ["\u2612 Yes", "\u2610 No", "Name", "Ann", "Bob", "Brown", "\u2612"]
    given = [Word(one.text, one.box, (0, number)) for number, one in enumerate(lines)]
    found = [(word.text, word.line) for word in words_with(given, fields)]
    assert found[:4] == [("\u2612", (0, 1)), ("Yes", (0, 1)), ("\u2610", (0, 3)), ("No", (0, 3))]
    assert [text for text, _ in found[4:]] == ["Name", "Ann", "Bob", "Brown", "\u2612"]
    assert lines_with([line("Agree", 0, 0)], [Field((30.0, 0.0, 40.0, 10.0), ticked=True)])[0].text == "Agree \u2612"
    assert list_items([line("\u2610 one", 0, 0), line("\u2612 two", 0, 12)]) == ["- \u2610 one", "- \u2612 two"]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100)), max_size=12),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100), st.sampled_from([True, False, None])), max_size=6),
)
def test_no_text_is_lost_among_fields(places: list[tuple[int, int]], boxes: list[tuple[int, int, bool | None]]) -> None:
    lines = [line(f"text {number}", x, y) for number, (x, y) in enumerate(places)]
    fields = [
        Field((x, y, x + 10.0, y + 10.0), "" if ticked is not None else "value", ticked) for x, y, ticked in boxes
    ]
    made = "\n".join(one.text for one in lines_with(lines, fields))
    assert all(one.text in made for one in lines)
    assert made.count("\u2612") + made.count("\u2610") == sum(one.ticked is not None for one in fields)


def raised(text: str, mark: str, rest: str = "", y: float = 0.0) -> Line:
    runs = [Run(text, BOX, 10), Run(mark, BOX, 6, superscript=True), Run(rest, BOX, 10)]
    return Line(tuple(run for run in runs if run.text), (0.0, y, 100.0, y + 10))


def test_footnotes_and_what_refers_to_them() -> None:
    text = [raised("As was shown", "1", " before"), raised("twice", "2", "."), raised("E = mc", "2"), line("10", 0, 30)]
    feet = [
        raised("", "1", "One,", 100),
        line("over two lines.", 0, 112),
        line("2 Two.", 0, 124),
        line("9 lives", 0, 136),
    ]
    found = notes_of(feet)
    assert [(mark, "|".join(one.text for one in lines)) for mark, lines in found] == [
        ("1", "One,|over two lines."),
        ("2", "Two.|9 lives"),
    ]
    assert references(text) == {"1", "2"}
    assert paragraph([referring(text[0], {"1"})]) == f"As was shown{note_label('1')} before"
    assert paragraph([referring(text[1], {"1"})]) == "twice<sup>2</sup>."
    assert [mark for mark, _ in notes_of([line("Source: somebody", 0, 0), line("a The first", 0, 12)])] == [None, "a"]


def test_footnotes_of_one_number_on_several_pages_have_labels_of_their_own() -> None:
    one = LaidPage(pieces=[Piece(text=f"Word{note_label('1')}."), Piece(text=f"{note_label('1')}: Note.")])
    texts = together([one, one], [], (), marginalia=False)
    assert texts == ["Word[^1].\n\n[^1]: Note.\n\n", "Word[^1-2].\n\n[^1-2]: Note.\n\n"]


# -- headings, margins, figures: what the pages are together ---------------------------------------------------------


@given(st.sets(st.integers(1, 99)))
def test_larger_headings_are_not_deeper(sizes: set[int]) -> None:
    ranked = sorted(sizes, reverse=True)
    found = levels([Heading("", size) for size in ranked], [])
    assert found == sorted(found)
    assert all(1 <= level <= 6 for level in found)


def test_a_cover_in_many_sizes_does_not_take_all_levels() -> None:
    sizes = [60, 48, 40, 33, 28, 24, 18, *[14] * 9, *[12] * 20, *[11] * 9]
    found = levels([Heading("", size) for size in sizes], [])
    assert found == sorted(found)
    assert len({found[-1], found[-15], found[8]}) == 3


def test_levels_are_those_of_the_outline_and_of_their_size_where_it_is_silent() -> None:
    outline = [Entry("Report", 1), Entry("Introduction", 2), Entry("Aims", 3), Entry("Results", 2), Entry("Aims", 4)]
    headings = [
        Heading("**Report**", 24),
        Heading("1 Introduction", 14),
        Heading("1.1 [Aims](https://example.org)", 12),
        Heading("2. Results", 14),
        Heading("Aims", 12),
        Heading("Not in the outline", 14),
        Heading("Smaller than any", 8),
        Heading("Between the two", 18),
    ]
    assert levels(headings, outline) == [1, 2, 3, 2, 4, 2, 4, 2]
    assert levels(headings[:1], outline) == [1]
    assert levels([Heading("x", 10), Heading("y", 20)], [Entry("Report", 1), Entry("Aims", 2)]) == [2, 1]
    assert levels([Heading("a", 9), Heading("b", 9)], [Entry("a", 40), Entry("b", 1000)]) == [6, 6]


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 30)), max_size=20),
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(1, 12)), max_size=20),
)
def test_every_heading_has_a_level(headings: list[tuple[str, int]], outline: list[tuple[str, int]]) -> None:
    found = levels([Heading(*one) for one in headings], [Entry(*one) for one in outline])
    assert len(found) == len(headings)
    assert all(1 <= level <= 6 for level in found)


def test_two_spellings_of_a_heading_are_one() -> None:
    assert (
        key("1.2  Results &amp; *more*") == key("Results & more") == key("Chapter 3: Results & More".replace(":", "."))
    )
    assert key("2024") == "2024"


def page(*pieces: tuple[str, bool]) -> LaidPage:
    return LaidPage(pieces=[Piece(text=text, edge=edge) for text, edge in pieces])


def test_running_headers_and_page_numbers_go_and_what_is_there_once_stays() -> None:
    pages = [
        page(("Annual report 2024", True), ("First.", False), ("Printed on paper", True), ("1", False)),
        page(("Annual report 2024", False), ("Second.", False), ("2", False)),
        page(("**Annual report 2025**", True), ("Annual report 2024", False), ("Third.", False), ("iii", True)),
        page(("100", False), ("Fourth.", False), ("5", False)),
    ]
    texts = together(pages, [], (), marginalia=False)
    assert texts == [
        "First.\n\nPrinted on paper\n\n",
        "Second.\n\n",
        "Annual report 2024\n\nThird.\n\n",
        "100\n\nFourth.\n\n5\n\n",
    ]
    assert "Annual report 2025" in together(pages, [], (), marginalia=True)[2]


def test_a_page_taken_from_a_longer_document_has_a_running_header_though_it_is_alone() -> None:
    one = page(("A. Author et al.", True), ("Words.", False), ("A Journal, volume 3 **447**", True))
    assert together([one], [], (), marginalia=False) == ["Words.\n\n"]
    for foot in ("Page 1", "Printed in 2024", "Phone 555-1234", "12.50", "Made by us"):
        letter = page(("Example & Sons, High Street", True), ("Dear reader,", False), (foot, True))
        assert "Example & Sons" in together([letter], [], (), marginalia=False)[0]


def test_a_heading_with_the_words_of_the_running_header_stays() -> None:
    first = LaidPage(pieces=[Piece(text="Results", size=20), Piece(text="Words.")])
    texts = together(
        [first, page(("Results", True)), page(("Results", True), ("End.", False))], [], (), marginalia=False
    )
    # A page that has nothing else keeps it, too.
    assert texts == ["# Results\n\nWords.\n\n", "Results\n\n", "End.\n\n"]


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("7", True),
        ("- 7 -", True),
        ("Page 3 of 12", True),
        ("xiv", True),
        ("Seite 4", True),
        ("Mix 4", False),
        ("12 apples", False),
        ("", False),
    ],
)
def test_the_number_of_a_page(text: str, yes: bool) -> None:
    assert is_page_number(text) is yes


def test_figures_that_are_not_there_leave_nothing() -> None:
    figure = Piece(text=f"![Figure]({placeholder('figure-1-1')})", figure=Figure(name="figure-1-1", box=(0, 0, 9, 9)))
    laid = LaidPage(pieces=[figure, Piece(text="Words.")])
    assert together([laid], [], {"figure-1-1"}, marginalia=False) == [f"{figure.text}\n\nWords.\n\n"]
    assert together([laid], [], (), marginalia=False) == ["Words.\n\n"]


def test_what_is_worth_an_image() -> None:
    whole = (0.0, 0.0, 600.0, 800.0)
    assert worth_it((100, 100, 300, 250), whole, scanned=False)
    for box in [(0, 0, 600, 800), (100, 100, 120, 118), (50, 100, 550, 101), (10, 100, 34, 790)]:
        assert not worth_it(box, whole, scanned=False)
    assert worth_it((0, 0, 600, 600), whole, scanned=False)
    assert not worth_it((0, 0, 600, 600), whole, scanned=True)
    photo = (100.0, 100.0, 300.0, 250.0)
    assert overlooked([photo, photo, whole], [], [], whole, scanned=False) == [photo]
    assert overlooked([photo], [(90.0, 90.0, 310.0, 260.0)], [], whole, scanned=False) == []
    assert overlooked([photo], [], [(120.0, 120.0, 200.0, 130.0)], whole, scanned=False) == []


def test_what_a_caption_calls_its_figure() -> None:
    assert label("Figure 3.2: A map of nothing") == "Figure 3.2"
    assert label("Abb. 4 Ein Bild") == "Abb. 4"
    assert label("A picture of it") == "Figure"


def test_a_short_paragraph_in_large_letters_is_a_heading() -> None:
    body = [line(PROSE[:80], 0, 20 * n) for n in range(5)]
    large = line("What follows", 0, 100, height=14.0)
    assert usual_size([large, *body]) == 10.0
    assert stands_out([large], 10.0)
    assert not stands_out([large], 14.0)
    assert not stands_out([line("It ends here.", 0, 100, height=14.0)], 10.0)
    assert not stands_out([large] * 3, 10.0)
    assert usual_size([]) == 0.0


# -- tables ----------------------------------------------------------------------------------------------------------

GRID = Grid((0.0, 10.0, 20.0), (0.0, 50.0, 100.0))


def words(*texts: tuple[str, float, float]) -> list[Word]:
    return [Word(text, (x, y, x + 10, y + 8), (0, number)) for number, (text, x, y) in enumerate(texts)]


def test_a_plain_grid_is_a_github_table() -> None:
    found = table(GRID, words(("a|b", 5, 1), ("c", 60, 1), ("<b>", 5, 11), ("d", 60, 11)))
    assert found == "|a\\|b|c|\n|---|---|\n|&lt;b>|d|"
    assert table(GRID, words(("a", 5, 1), ("b", 60, 1)), right_to_left=True) == "|b|a|\n|---|---|"
    assert table(GRID, []) == ""


def test_links_in_cells() -> None:
    to = "https://example.org/?a=1&b=2"
    found = words(("see", 5, 1), ("the|page", 20, 1), ("[x]", 5, 11), ("d", 60, 11))
    found[1] = Word("the|page", found[1].box, (0, 0), to)
    found[2] = Word("[x]", found[2].box, (1, 0), to)
    assert table(GRID, found) == f"|see [the\\|page]({to})||\n|---|---|\n|[\\[x\\]]({to})|d|"
    spanned = Grid(GRID.ys, GRID.xs, (((0.0, 0.0, 100.0, 10.0), Place(0, 1, 0, 2)),))
    assert f'<a href="{to}">the|page</a>' in table(spanned, found)


def test_cells_that_span_make_it_html() -> None:
    grid = Grid(GRID.ys, GRID.xs, (((5.0, 1.0, 90.0, 9.0), Place(0, 1, 0, 2)),))
    found = table(grid, words(("<both>", 40, 1), ("c", 5, 11), ("d", 60, 11)))
    assert found == '<table>\n<tr><td colspan="2">&lt;both&gt;</td></tr>\n<tr><td>c</td><td>d</td></tr>\n</table>'


@given(
    st.lists(st.tuples(st.floats(-20, 120), st.floats(-20, 40)), min_size=1, max_size=20),
    st.lists(st.tuples(*[st.integers(-1, 3)] * 4), max_size=6),
)
def test_no_word_of_a_table_is_lost(places: list[tuple[float, float]], spans: list[tuple[int, int, int, int]]) -> None:
    grid = Grid(GRID.ys, GRID.xs, tuple(((0.0, 0.0, 1.0, 1.0), Place(*span)) for span in spans))
    found = table(grid, words(*((f"w{n}w", x, y) for n, (x, y) in enumerate(places))))
    assert sorted(re.findall(r"w\d+w", found)) == sorted(f"w{n}w" for n in range(len(places)))


# -- lines and OCR ---------------------------------------------------------------------------------------------------


def test_ligatures_of_lam_and_alef_are_turned_back() -> None:
    chars = [
        {"c": "\u0625", "bbox": (5, 0, 5, 9)},
        {"c": "\u0644", "bbox": (1, 0, 5, 9)},
        {"c": "\u0646", "bbox": (0, 0, 1, 9)},
    ]
    assert "".join(char["c"] for char in logical(chars)) == "\u0644\u0625\u0646"
    wide = [{**chars[0], "bbox": (5, 0, 8, 9)}, *chars[1:]]
    assert "".join(char["c"] for char in logical(wide)) == "\u0625\u0644\u0646"


def test_lines_in_any_direction_are_turned_to_run_from_left_to_right() -> None:
    box = (100.0, 200.0, 110.0, 260.0)
    down = Line((Run("down", box, 9),), box, (0.0, 1.0))
    up = Line((Run("up", box, 9),), box, (0.0, -1.0))
    assert turned(down).box == (200.0, -110.0, 260.0, -100.0)
    assert turned(up).box == (-260.0, 100.0, -200.0, 110.0)
    assert main_direction([down, down, up]) == (0, 1)
    assert main_direction([]) is None


@given(st.floats(1, 20_000), st.floats(1, 20_000), st.floats(10, 600))
def test_no_page_is_rendered_larger_than_allowed(width: float, height: float, wanted: float) -> None:
    dpi = dpi_for(width, height, wanted, 1_000_000)
    assert dpi <= wanted
    assert (width * dpi / 72) * (height * dpi / 72) <= 1_000_000 * 1.001


def test_small_text_is_looked_at_again_but_not_closer_than_the_scan_is_sharp() -> None:
    assert finer([30.0] * 20, 150, 400) is None
    assert finer([10.0] * 20, 150, 400) == 375.0
    assert finer([10.0] * 20, 150, 160) is None
    upright = [((0, 0), (100, 0), (100, 10), (0, 10))] * 3
    tall = [((0, 0), (10, 0), (10, 100), (0, 100))] * 3
    assert sideways(tall)
    assert not sideways(upright)
