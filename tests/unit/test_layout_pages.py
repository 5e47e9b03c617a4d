"""Pages of small PDFs made here, through the layout engine in its sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pymupdf
import pytest
from scans_kit import scan_of

from tasks.engines.layout import scripts
from tasks.engines.layout.choice import Way
from tasks.engines.layout.laid import LaidPage, Piece, together
from tasks.engines.layout.ocr import Reader
from tasks.engines.layout.page import FOREIGN, PageReader
from tasks.engines.layout.regions import Kind, Region
from tasks.engines.layout.textlines import Line, Run
from tasks.engines.protocol import EngineName, EngineResult, Limits
from tasks.engines.sandbox import Sandbox
from tasks.engines.trust import Part

Convert = Callable[[pymupdf.Document], EngineResult]


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Convert]:
    scratch = tmp_path_factory.mktemp("pages")
    with Sandbox(EngineName.LAYOUT, Limits(max_pixels=4_000_000), scratch=scratch) as sandbox:

        def run(document: pymupdf.Document) -> EngineResult:
            document.save(scratch / "in.pdf")
            document.close()
            return sandbox.convert(scratch / "in.pdf", scratch / "out", [])

        yield run


def text_of(result: EngineResult) -> str:
    assert not any(page.gap for page in result.pages)
    return "\n".join(page.text for page in result.pages)


SENTENCES = [f"Sentence {n} of this page has some words in it." for n in range(6)]


def page_of(*, rotate: int = 0, turn: int = 0) -> pymupdf.Document:
    made = pymupdf.open()
    page = made.new_page(width=700, height=700)
    for number, sentence in enumerate(SENTENCES):
        start = {0: (90, 90 + 30 * number), 90: (90 + 30 * number, 600), 270: (600 - 30 * number, 90)}[turn]
        page.insert_text(start, sentence, rotate=turn)
    page.set_rotation(rotate)
    return made


@pytest.mark.parametrize(("rotate", "turn"), [(90, 0), (180, 0), (270, 0), (0, 90), (0, 270), (90, 90), (90, 270)])
def test_pages_and_text_turned_in_any_way_are_read_in_order(convert: Convert, rotate: int, turn: int) -> None:
    text = text_of(convert(page_of(rotate=rotate, turn=turn)))
    places = [text.index(sentence) for sentence in SENTENCES]
    assert places == sorted(places)


def test_text_aslant_is_not_lost(convert: Convert) -> None:
    made = page_of()
    point = pymupdf.Point(350, 500)
    made[0].insert_text(point, "Watermark aslant", morph=(point, pymupdf.Matrix(1, 1).prerotate(30)))
    assert "Watermark aslant" in text_of(convert(made))


def test_two_columns_under_a_title(convert: Convert) -> None:
    made = pymupdf.open()
    page = made.new_page()
    page.insert_text((150, 60), "A title across both of the columns", fontsize=18)
    for x, name in ((50, "left"), (310, "right")):
        for row in range(30):
            page.insert_text((x, 110 + 14 * row), f"Words of the {name} column in line {row:02d}", fontsize=11)
    text = " ".join(text_of(convert(made)).split())
    assert text.index("left column in line 29") < text.index("right column in line 00")


def test_nothing_is_there_twice_and_nothing_hidden_replaces_what_is_seen(convert: Convert) -> None:
    made = page_of()
    for number, sentence in enumerate(SENTENCES):
        made[0].insert_text((90.4, 90 + 30 * number), sentence)
        made[0].insert_text((90, 90 + 30 * number), "something else is hidden here", render_mode=3)
    text = text_of(convert(made))
    assert [text.count(sentence) for sentence in SENTENCES] == [1] * len(SENTENCES)
    assert "hidden" not in text


def test_a_text_layer_behind_a_scan_is_text(convert: Convert) -> None:
    made = pymupdf.open()
    page = made.new_page()
    image = page_of()[0].get_pixmap(dpi=40)
    page.insert_image(page.rect, pixmap=image)
    for number in range(30):
        page.insert_text((72, 90 + 20 * number), f"Line {number} that someone's OCR has read before", render_mode=3)
    result = convert(made)
    assert "Line 29 that someone's OCR has read before" in text_of(result)
    assert [page.way for page in result.pages] == ["layout"]


def test_markup_in_the_text_stays_text(convert: Convert) -> None:
    made = pymupdf.open()
    page = made.new_page()
    for number, line in enumerate(["<script>alert(1)</script>", "# not a heading", "[click](javascript:alert(1))"]):
        page.insert_text((72, 90 + 60 * number), line)
    text = text_of(convert(made))
    assert "<script" not in text
    assert "[click](javascript" not in text.replace("\\[click]", "")
    assert not text.lstrip().startswith("# not")


def test_every_word_of_a_ruled_table_is_in_it_once(convert: Convert) -> None:
    made = pymupdf.open()
    page = made.new_page()
    page.insert_text((72, 80), "Prices of fruit and of vegetables in the two towns of this report.")
    rows = [("Fruit", "North", "South")] + [(f"Sort {n}", f"{n}.10", f"{n}.90") for n in range(1, 9)]
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            box = pymupdf.Rect(72 + 130 * x, 110 + 22 * y, 72 + 130 * (x + 1), 110 + 22 * (y + 1))
            page.draw_rect(box)
            page.insert_text((box.x0 + 6, box.y0 + 15), cell)
    text = text_of(convert(made))
    assert all(text.count(cell) == 1 for row in rows for cell in row)
    assert "|Sort 3|3.10|3.90|" in text


def test_a_page_without_anything_is_empty_and_no_gap(convert: Convert) -> None:
    made = page_of()
    made.new_page()
    result = convert(made)
    assert result.pages[1].text == ""
    assert result.pages[1].gap is None


def test_a_page_too_large_to_render_gives_its_text_layer(convert: Convert) -> None:
    made = pymupdf.open()
    made.new_page(width=3000, height=3000).insert_text((72, 72), "Words on a huge page")
    result = convert(made)
    assert "Words on a huge page" in text_of(result)
    assert [page.way for page in result.pages] == ["text"]
    assert "too large to render" in result.warnings[0]


def test_an_image_of_gigabytes_in_the_place_of_a_pages_content_costs_nothing(convert: Convert) -> None:
    made = page_of()
    side = (100_000).to_bytes(4, "big")
    # A segment that tells of a page of these sides, and nothing on it (ITU-T T.88, 7.2 and 7.4.8).
    bomb = bytes((0, 0, 0, 0, 48, 0, 1, 0, 0, 0, 19)) + side + side + bytes(11)
    number = made.get_new_xref()
    made.update_object(number, "<<>>")
    made.update_stream(number, bomb, new=True, compress=False)
    made.xref_set_key(number, "Filter", "/JBIG2Decode")
    contents = " ".join(f"{one} 0 R" for one in (*made[0].get_contents(), number, number, number))
    made.xref_set_key(made[0].xref, "Contents", f"[{contents}]")
    result = convert(made)
    assert [text_of(result).count(sentence) for sentence in SENTENCES] == [1] * len(SENTENCES)
    assert ([page.way for page in result.pages], result.warnings) == (["layout"], [])


def test_links_to_the_web_are_links_and_others_are_their_text(convert: Convert) -> None:
    made = page_of()
    page = made[0]
    for words, target in (("Sentence 2", "https://example.org/a_(b)"), ("Sentence 3", "javascript:alert(1)")):
        page.insert_link({"kind": pymupdf.LINK_URI, "from": page.search_for(words)[0], "uri": target})
    page.insert_link({"kind": pymupdf.LINK_GOTO, "from": page.search_for("Sentence 4")[0], "page": 0})
    text = text_of(convert(made))
    assert "[Sentence 2](https://example.org/a_%28b%29) of this page" in text
    assert "Sentence 3 of this page" in text
    assert text.count("](") == 1


def test_links_on_a_turned_page_and_in_a_table(convert: Convert) -> None:
    made = pymupdf.open()
    page = made.new_page()
    for y in range(6):
        for x in range(3):
            box = pymupdf.Rect(72 + 130 * x, 110 + 22 * y, 72 + 130 * (x + 1), 110 + 22 * (y + 1))
            page.draw_rect(box)
            page.insert_text((box.x0 + 6, box.y0 + 15), f"Cell {y}{x}")
    page.insert_link({"kind": pymupdf.LINK_URI, "from": page.search_for("Cell 31")[0], "uri": "https://example.org"})
    turned = page_of(turn=90)
    turned[0].insert_link(
        {"kind": pymupdf.LINK_URI, "from": turned[0].search_for("Sentence 4")[0], "uri": "https://example.org/4"}
    )
    made.insert_pdf(turned)
    text = text_of(convert(made))
    assert "|Cell 30|[Cell 31](https://example.org)|Cell 32|" in text
    assert "[Sentence 4](https://example.org/4) of this page" in text


def test_figures_come_with_their_captions_and_icons_do_not(convert: Convert) -> None:
    made = page_of()
    pixmap = pymupdf.Pixmap(pymupdf.csRGB, 64, 48, bytes(range(256)) * 36, False)
    made[0].insert_image((90, 300, 410, 540), pixmap=pixmap)
    made[0].insert_text((90, 560), "Figure 7. What a made picture looks like.", fontsize=9)
    made[0].insert_image((600, 20, 616, 32), pixmap=pixmap)
    made[0].insert_image((90, 640, 500, 641), pixmap=pixmap, keep_proportion=False)
    result = convert(made)
    (asset,) = result.assets
    assert asset.extension == "png"
    image = pymupdf.Pixmap(asset.path.read_bytes())
    assert (image.width, image.height) == pytest.approx((320 * 150 / 72, 240 * 150 / 72), abs=6)
    text = text_of(result)
    assert text.count(asset.placeholder) == 1
    assert re.search(r"!\[Figure( 7)?\]\(\x1f[^)]*\x1f\)\s+Figure 7\. What a made", text)


def test_headings_are_as_deep_as_the_outline_says(convert: Convert) -> None:
    made = pymupdf.open()
    for number in range(1, 4):
        page = made.new_page()
        page.insert_text((72, 90), f"Part {number} of the book", fontsize=22)
        for line in range(8):
            page.insert_text((72, 140 + 16 * line), f"Sentence {line} of part {number} has words in it.")
    made.set_toc([[1, "The book", 1], [2, "Part 1 of the book", 1], [3, "Part 2 of the book", 2]])
    text = text_of(convert(made))
    levels = re.findall(r"^(#+) \**Part (\d)", text, re.MULTILINE)
    assert {part: len(mark) for mark, part in levels} == {"1": 2, "2": 3, "3": 2}


def test_footnotes_are_footnotes_where_the_text_refers_to_them() -> None:
    def line(text: str, y: float, mark: str = "") -> Line:
        box = (72.0, y, 400.0, y + 10)
        raised = (Run(mark, (390.0, y, 400.0, y + 5), 6, superscript=True),) if mark else ()
        return Line((Run(text, box, 10), *raised), box)

    parts = [
        Region(Kind.TEXT, (72, 100, 400, 110), lines=(line("Some words.", 100, "1"),)),
        Region(Kind.FOOTNOTE, (72, 700, 400, 734), lines=(line("1 A note <b>.", 700), line("2 Of nobody.", 712))),
    ]
    blocks = PageReader(None, 150, 1)._composed(parts, [], 10.0, (), rtl=False)
    laid = LaidPage(pieces=[Piece(text=block.text) for block in blocks])
    assert together([laid], [], (), marginalia=True) == ["Some words.[^1]\n\n[^1]: A note &lt;b>.\n\n2 Of nobody.\n\n"]


def test_forms_say_what_was_filled_in(convert: Convert) -> None:
    made = pymupdf.open()
    page = made.new_page()
    for number, (label, kind, value) in enumerate(
        [
            ("I have read it", pymupdf.PDF_WIDGET_TYPE_CHECKBOX, True),
            ("Send me letters", pymupdf.PDF_WIDGET_TYPE_CHECKBOX, False),
            ("Name", pymupdf.PDF_WIDGET_TYPE_TEXT, "Ada Example"),
        ]
    ):
        y = 100 + 40 * number
        widget = pymupdf.Widget()
        widget.field_name, widget.field_type, widget.field_value = f"field{number}", kind, value
        ticks = kind == pymupdf.PDF_WIDGET_TYPE_CHECKBOX
        widget.rect = pymupdf.Rect(72, y, 84, y + 12) if ticks else pymupdf.Rect(150, y, 300, y + 14)
        page.add_widget(widget)
        page.insert_text((92 if ticks else 72, y + 10), label, fontsize=11)
    for widget in page.widgets():
        if widget.field_type == pymupdf.PDF_WIDGET_TYPE_TEXT:
            made.xref_set_key(widget.xref, "AP", "null")
    text = text_of(convert(made))
    assert re.search(r"\u2612(?: |\||</td><td>)I have read it", text)
    assert re.search(r"\u2610(?: |\||</td><td>)Send me letters", text)
    assert text.count("Ada Example") == 1


def test_attached_files_are_named(convert: Convert) -> None:
    made = page_of()
    made.embfile_add("a", b"x", filename='"><script>')
    made[0].add_file_annot((300, 500), b"z", "notes.txt")
    result = convert(made)
    assert result.attached == ['"><script>', "notes.txt"]
    assert result.warnings == ["2 attached file(s) not converted"]


@pytest.mark.slow
@pytest.mark.parametrize("rotate", [90, 180])
def test_a_scan_is_read_however_it_lies(convert: Convert, rotate: int) -> None:
    source = pymupdf.open()
    page = source.new_page()
    for number in range(12):
        page.insert_text(
            (72, 90 + 30 * number), f"Sentence {number} of this page was printed and scanned.", fontsize=12
        )
    page.set_rotation(rotate)
    image = page.get_pixmap(dpi=150)
    made = pymupdf.open()
    made.new_page(width=image.width * 72 / 150, height=image.height * 72 / 150).insert_image(made[0].rect, pixmap=image)
    result = convert(made)
    text = text_of(result)
    places = [text.index(f"Sentence {number} of this page was printed") for number in range(12)]
    assert places == sorted(places)
    assert [page.way for page in result.pages] == ["layout-ocr"]


LINES = {
    "rus": [
        "Разметка диска — это операция деления диска на секции.",
        "Каждая выделенная секция не зависит от других секций.",
        "Вы всегда должны сделать резервную копию всей информации.",
    ],
    "kor": [
        "이장에서는 설치 프로그램을 부팅하기 전에 준비 사항에 대해 다룹니다.",
        "설치 시스템을 부팅하고 설치 언어를 선택하십시오.",
        "네트워크 연결이 있으면 활성화하십시오.",
    ],
    "ara": [
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
        "وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا",
        "بروح الإخاء.",
    ],
    "heb": [
        "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
        "כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג",
        "איש ברעהו ברוח של אחווה.",
    ],
    "ell": [
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι",
        "στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι",
        "με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται",
    ],
    "tha": [
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
        "ในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
        "และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    ],
    "hin": [
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में",
        "जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और",
        "अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे",
    ],
}
"""In scripts that RapidOCR's model knows not at all or by single letters."""


@pytest.mark.parametrize("language", LINES)
def test_scans_in_other_scripts_are_read_by_tesseract_where_its_data_is_there(convert: Convert, language: str) -> None:
    """Letter by letter in the order of reading, word by word."""
    data = scripts.data()
    if data is None or language not in data[1]:
        pytest.skip(f"no data of Tesseract's for {language} on this machine")
    result = convert(scan_of(LINES[language]))
    text = " ".join(text_of(result).split())
    assert SequenceMatcher(a=" ".join(LINES[language]), b=text, autojunk=False).ratio() > 0.95
    spaces = sum(line.count(" ") for line in LINES[language])
    assert abs(text.count(" ") - spaces) <= 4 + 0.1 * spaces
    assert result.warnings == []


def test_a_scan_in_a_script_that_nothing_here_reads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "data", lambda: (Path("/nowhere"), ("kor",)))
    monkeypatch.setattr(scripts, "_read", lambda crops, language, folder, height: ["77424 3."] * len(crops))
    with scan_of(LINES["rus"]) as scan:
        read = PageReader(Reader(), 150, 4_000_000).read(scan[0], Way.LAYOUT, render=True)
    assert [note for note in read.notes if "tesseract-ocr-rus" in note] == [FOREIGN]
    assert read.seen.unsure == 1.0


def test_lines_that_stay_unread_are_told_of_where_others_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        scripts, "read_again", lambda crops, mixed: ([*[None] * (len(crops) - 1), "слово"], [None] * len(mixed))
    )
    with scan_of(LINES["rus"]) as scan:
        read = PageReader(Reader(), 150, 4_000_000).read(scan[0], Way.LAYOUT, render=True)
    assert read.notes == [FOREIGN]


def test_what_is_no_writing_does_not_become_letters() -> None:
    if scripts.data() is None:
        pytest.skip("no data of Tesseract's on this machine")
    random = np.random.default_rng(20)
    noise = [cv2.GaussianBlur(random.integers(0, 255, (40, 700, 3), np.uint8), (0, 0), 3) for _ in range(6)]
    scribbles = []
    for seed in range(6):
        sheet = np.full((40, 700, 3), 255, np.uint8)
        points = random.integers((0, 0), (700, 40), (40 + seed, 2))
        cv2.polylines(sheet, [points[points[:, 0].argsort()].astype(np.int32)], False, (0, 0, 0), 2)
        scribbles.append(sheet)
    for crops in (noise, scribbles, [*noise, *scribbles]):
        again, _ = scripts.read_again(crops)
        assert sum(text is not None for text in again) <= 1, again


def test_data_that_is_broken_costs_no_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rus.traineddata").write_bytes(b"no data")
    (tmp_path / "kor.traineddata").write_bytes(b"")
    monkeypatch.setattr(scripts, "FOLDERS", (str(tmp_path),))
    scripts.data.cache_clear()
    try:
        assert scripts.data() == (tmp_path, ("rus",))
        with scan_of(LINES["rus"]) as scan:
            read = PageReader(Reader(), 150, 4_000_000).read(scan[0], Way.LAYOUT, render=True)
        assert [note for note in read.notes if "tesseract-ocr-rus" in note] == [FOREIGN]
    finally:
        scripts.data.cache_clear()


def test_hundreds_of_lines_are_read_in_several_images(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def sheet(crops: list[Any], language: str, folder: Path, height: int) -> list[str]:
        shapes.append(len(crops))
        return [str(crop.shape[1]) for crop in crops]

    monkeypatch.setattr(scripts, "_read_sheet", sheet)
    widths = [5 + 7 * number % 500 for number in range(500)]
    crops = [np.zeros((10, width, 3), np.uint8) for width in widths]
    assert scripts._read(crops, "rus", Path("/nowhere"), 48) == [str(width) for width in widths]
    assert max(shapes) <= 60
    assert sum(shapes) == 500


def trace(text: str, left: float, step: float, width: float = 6.0) -> list[tuple[int, int, tuple[float, float], Any]]:
    """As `Page.get_texttrace` tells of a word."""
    return [
        (ord(letter), 0, (left + number * step, 19.0), (left + number * step, 10.0, left + number * step + width, 20.0))
        for number, letter in enumerate(text)
    ]


def test_words_are_those_that_tesseract_wrote_down() -> None:
    """Its letters touch, from either side; what does not is another word, however near."""
    span = [*trace("wort", 10, 6), *trace("eins", 36, 6), *trace("םולש"[::-1], 100, -6), *trace(" ", 200, 6)]
    words = scripts.words_of_trace(span)
    assert words == [(10, 34, 19, "wort"), (36, 60, 19, "eins"), (82, 106, 19, "שלום")]


def test_syllables_are_words_only_where_there_is_room_between_them() -> None:
    words = [scripts.Written(at, at + 8, 9.0, text) for at, text in ((31.0, "c"), (0.0, "a"), (9.0, "b"))]
    assert scripts.line_of(words, "thai", 5.0) == "ab c"
    assert scripts.line_of(words, "cyrillic", 5.0) == "a b c"


def test_words_of_lines_from_right_to_left_are_put_in_the_order_of_reading() -> None:
    assert scripts.in_reading_order(["b", "a"], backwards=False) == ["b", "a"]
    line = ["גדול", "Windows", "Vista", "יש", "שלום"]
    assert scripts.in_reading_order(line, backwards=True) == ["שלום", "יש", "Windows", "Vista", "גדול"]


def test_whose_script_it_is_decides_how_plausible_a_reading_is() -> None:
    assert scripts.own_share("Разметка диска, 2 раза", "rus+ukr+eng") > 0.9
    assert scripts.own_share("Разметка Windows Vista", "rus") < scripts.OWN
    assert scripts.own_share("77424 3. 77404 로", "kor") < 0.2
    assert scripts.own_share("", "kor") == 0.0


# -- trust scores ---------------------------------------------------------------------------------------------------


def test_a_page_that_was_read_is_trusted(convert: Convert) -> None:
    (page,) = convert(page_of()).pages
    assert page.trust is not None
    assert page.trust.score > 0.97
    assert set(page.trust.parts) == {Part.LOST, Part.INK, Part.REPEATS, Part.SCRIPT}


def test_writing_that_is_no_text_shows_in_the_score(convert: Convert) -> None:
    """Letters drawn as curves beside the text layer, as some programs export them: nothing reads them."""
    made = page_of()
    drawn = pymupdf.open()
    sheet = drawn.new_page(width=700, height=300)
    for number in range(8):
        sheet.insert_text((90, 30 + 30 * number), f"Outlined line {number} that has no text behind it", fontsize=16)
    curves = pymupdf.open("pdf", pymupdf.open("svg", sheet.get_svg_image(text_as_path=True).encode()).convert_to_pdf())
    made[0].show_pdf_page(pymupdf.Rect(0, 350, 700, 650), curves)
    (page,) = convert(made).pages
    assert page.trust is not None
    assert page.trust.parts[Part.INK] > 0.3
    assert page.trust.score < 0.85


def test_a_blank_page_is_trusted(convert: Convert) -> None:
    made = pymupdf.open()
    made.new_page()
    (page,) = convert(made).pages
    assert page.trust is not None
    assert page.trust.score == 1.0
