"""What the layout engine reads of a PDF beside its pages' content, hostile files too: links, outline, attachments, figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pymupdf
import pytest

from tasks.engines.layout.annotations import MOST_ANNOTATIONS, MOST_LINKS, Annotations, annotations_of, placed
from tasks.engines.layout.drawing import MOST_PIXELS, Drawer
from tasks.engines.layout.figures import MOST_BYTES, extension, without_repeats
from tasks.engines.layout.outline import MOST_ENTRIES, outline_of
from tasks.engines.opening import MOST_ATTACHED, attachments


def objects(document: pymupdf.Document, bodies: list[str]) -> list[int]:
    """New objects; `{n}` in a body is the number of the n-th of them."""
    numbers = [document.get_new_xref() for _ in bodies]
    for number, body in zip(numbers, bodies, strict=True):
        for place, other in enumerate(numbers):
            body = body.replace(f"{{{place}}}", f" {other} 0 R ")
        document.update_object(number, body)
    return numbers


def catalog(document: pymupdf.Document, key: str, value: str) -> None:
    document.xref_set_key(document.pdf_catalog(), key, value)


# -- links and fields ------------------------------------------------------------------------------------------------


def link(target: str, rect: str = "72 700 300 712") -> str:
    return f"<</Type/Annot/Subtype/Link/Rect[{rect}]/A<</S/URI/URI({target})>>>>"


def page_with(annotations: str) -> pymupdf.Page:
    document = pymupdf.open()
    page = document.new_page()
    number = document.get_new_xref()
    document.update_object(number, annotations)
    document.xref_set_key(page.xref, "Annots", f"{number} 0 R")
    return page


def hung(annotations: str) -> Annotations:
    page = page_with(annotations)
    return placed(annotations_of(page), page)


def test_links_lead_to_the_web_and_nowhere_else() -> None:
    found = hung(
        "["
        + link("https://example.org/a")
        + link("javascript:alert(1)")
        + link("file:///etc/passwd")
        + link("https://example.org/page", "0 0 600 842")
        + link("https://example.org/outside", "700 900 800 950")
        + "<</Subtype/Link/Rect[0 0 9 9]/A<</S/Launch/F(calc.exe)>>>> <</Subtype/Link/Rect[1 2]>> 7 null (x)"
        + link("https://example.org/b", "300 712 72 700")
        + "]"
    )
    assert [one.target for one in found.links] == ["https://example.org/a", "https://example.org/b"]
    assert found.links[0].box == found.links[1].box == (72.0, 130.0, 300.0, 142.0)


def test_a_page_with_a_hundred_thousand_links() -> None:
    one = link("https://example.org/") + link("#nowhere")
    found = hung("[" + one * 50_000 + "]")
    assert len(found.links) == MOST_LINKS
    assert len(hung("[" + link("#") * MOST_ANNOTATIONS + link("https://a.b") + "]").links) == 0


@pytest.mark.parametrize("annotations", ["7", "[[[]]]", "<<>>", "[9999 0 R]", "(text)"])
def test_annotations_that_are_none(annotations: str) -> None:
    assert hung(annotations).links == []


def test_what_form_fields_hold() -> None:
    box = "/Subtype/Widget/Rect[72 700 84 712]"
    found = hung(
        f"[<<{box}/FT/Btn/AS/Yes>> <<{box}/FT/Btn/AS/Off>> <<{box}/FT/Btn/V/On>> <<{box}/FT/Btn/Ff 65536/V/On>>"
        f"<<{box}/FT/Tx/V(one)>> <<{box}/FT/Tx/Ff 8192/V(secret)>> <<{box}/FT/Tx/V( )>> <<{box}/FT/Ch/V[(a)(b)]>>"
        f"<<{box}/Parent<</FT/Tx/V(of the parent)>>>> <<{box}/FT/Tx/F 2/V(hidden)>> <<{box}/FT/Sig/V(s)>>]"
    )
    assert [(one.value, one.ticked) for one in found.fields] == [
        ("", True),
        ("", False),
        ("", True),
        ("one", None),
        ("a\nb", None),
        ("of the parent", None),
    ]
    loop = page_with("[]")
    (one,) = objects(loop.parent, [f"<<{box}/Parent {{0}}>>"])
    loop.parent.xref_set_key(loop.xref, "Annots", f"[{one} 0 R]")
    assert annotations_of(loop).fields == []


# -- outline ---------------------------------------------------------------------------------------------------------


def outlined(items: Callable[[int], str], count: int) -> pymupdf.Document:
    document = pymupdf.open()
    document.new_page()
    first = document.xref_length()
    for number in range(count):
        assert document.get_new_xref() == first + number
        document.update_object(first + number, items(first + number))
    root = document.get_new_xref()
    document.update_object(root, f"<</First {first} 0 R>>")
    catalog(document, "Outlines", f"{root} 0 R")
    return document


def test_an_outline_as_it_is_read() -> None:
    document = pymupdf.open()
    for _ in range(3):
        document.new_page()
    document.set_toc([[1, "One", 1], [2, "One point <b>one</b>", 2], [3, "Deep", 2], [1, "Zwei \u00fc \u4e8c", 3]])
    assert [(entry.title, entry.level) for entry in outline_of(document)] == [
        ("One", 1),
        ("One point <b>one</b>", 2),
        ("Deep", 3),
        ("Zwei \u00fc \u4e8c", 1),
    ]


def test_an_outline_in_a_loop_ends() -> None:
    to_itself = outlined(lambda n: f"<</Title(Again)/Next {n} 0 R/First {n} 0 R>>", 1)
    assert [entry.title for entry in outline_of(to_itself)] == ["Again"]
    back = outlined(lambda n: f"<</Title({n})/Next {n + 1 if n % 3 else n - 2} 0 R/First {n - 1} 0 R>>", 3)
    assert 1 <= len(outline_of(back)) <= 3


def test_an_outline_of_a_thousand_levels() -> None:
    document = outlined(lambda n: f"<</Title(T{n})/First {n + 1} 0 R>>", 999)
    found = outline_of(document)  # the last one leads to the outline itself
    assert [entry.level for entry in found] == list(range(1, 1001))


def test_an_endless_outline_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.engines.layout.outline.MOST_ENTRIES", 50)
    document = outlined(lambda n: f"<</Title(T)/Next {n + 1} 0 R>>", 60)
    assert len(outline_of(document)) == 50
    assert MOST_ENTRIES > 50


@pytest.mark.parametrize("outlines", ["7", "<</First 7>>", "<</First 9999 0 R>>", "<</First<</Title(direct)>>>>"])
def test_outlines_that_are_none(outlines: str) -> None:
    document = pymupdf.open()
    document.new_page()
    catalog(document, "Outlines", outlines)
    assert outline_of(document) == []


# -- attachments -----------------------------------------------------------------------------------------------------


def test_attachments_by_name() -> None:
    document = pymupdf.open()
    page = document.new_page()
    document.embfile_add("key", b"x", filename="a.txt", ufilename='"><script>.html')
    document.embfile_add("other", b"y", filename="b.txt")
    page.add_file_annot((72, 72), b"z", "on the page.bin")
    assert attachments(document) == ['"><script>.html', "b.txt"]
    assert annotations_of(page).attached == ["on the page.bin"]


def test_lists_of_attachments_that_lead_in_a_circle_or_never_end() -> None:
    document = pymupdf.open()
    document.new_page()
    names = " ".join(f"(n{n})<</F(file {n})>>" for n in range(5000))
    tree = objects(document, ["<</Kids[{0}{1}{0}{2}{3}]>>", "<</Kids[{0}{1}]>>", f"<</Names[{names}]>>", "7"])
    catalog(document, "Names", f"<</EmbeddedFiles {tree[0]} 0 R>>")
    found = attachments(document)
    assert len(found) == MOST_ATTACHED
    assert found[0] == "file 0"
    catalog(document, "Names", "<</EmbeddedFiles<</Names[(only the key) 7 (x)]>>>>")
    assert attachments(document) == ["only the key"]
    catalog(document, "Names", f"<</EmbeddedFiles<</Names[(long) <</F({'a' * 9000})>>]>>>>")
    assert [len(name) for name in attachments(document)] == [255]


# -- figures ---------------------------------------------------------------------------------------------------------


def pictured(width: int, height: int) -> pymupdf.Page:
    document = pymupdf.open()
    page = document.new_page(width=600, height=800)
    row = bytes([20]) * (width // 2) + bytes([200]) * (width - width // 2)
    pixmap = pymupdf.Pixmap(pymupdf.csGRAY, width, height, row * height, False)
    page.insert_image(pymupdf.Rect(100, 100, 300, 250), pixmap=pixmap, keep_proportion=False)
    return page


BOX = (100.0, 100.0, 300.0, 250.0)


def test_figures_are_drawn_within_the_limit_and_the_same_each_time(tmp_path: Path) -> None:
    page = pictured(30, 20)
    drawer = Drawer(tmp_path, 40_000)
    assert drawer.draw(page, [BOX, (400, 400, 500, 500)], ["figure-1-1", "figure-1-2"]) == [True, False]
    path = drawer.file("figure-1-1")
    assert path is not None
    assert drawer.file("figure-1-2") is None
    assert extension(path) == "png"
    image = pymupdf.Pixmap(path.read_bytes())
    assert 30_000 < image.width * image.height < 45_000
    again = tmp_path / "again"
    again.mkdir()
    Drawer(again, 40_000).draw(pictured(30, 20), [BOX], ["figure-1-1"])
    assert (again / "figure-1-1").read_bytes() == path.read_bytes()


def test_an_image_of_one_pixel_is_no_figure_and_one_of_thirty_thousand_is_a_small_one(tmp_path: Path) -> None:
    drawer = Drawer(tmp_path, MOST_PIXELS)
    assert drawer.draw(pictured(1, 1), [BOX], ["one"]) == [False]
    assert drawer.draw(pictured(30_000, 600), [BOX], ["wide"]) == [True]
    wide = drawer.file("wide")
    assert wide is not None
    assert wide.stat().st_size < 100_000
    assert not drawer.full


def test_a_drawer_is_full_at_some_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.engines.layout.drawing.MOST_BYTES", 10)
    drawer = Drawer(tmp_path, MOST_PIXELS)
    drawer.draw(pictured(30, 20), [BOX], ["figure-1-1"])
    assert drawer.full
    assert MOST_BYTES > 10


def test_an_image_that_many_pages_have_is_kept_once(tmp_path: Path) -> None:
    files = {f"figure-{n}-1": tmp_path / f"{n}" for n in range(1, 6)}
    for number, path in enumerate(files.values(), 1):
        path.write_bytes(b"logo" if number < 4 else b"figure")
    kept = without_repeats(files, {f"figure-{n}-1": n for n in range(1, 6)})
    assert list(kept) == ["figure-1-1", "figure-4-1", "figure-5-1"]
