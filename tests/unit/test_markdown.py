"""The final Markdown: always valid UTF-8, one trailing newline, front matter that any YAML reader takes."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.engines.markdown import Origin, assemble, clean, gap
from tasks.engines.protocol import Page, Rendering

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
"""With lone surrogates, controls and all."""
PLAIN = Rendering(page_markers=False, front_matter=False)
FULL = Rendering(page_markers=True, front_matter=True)
ORIGIN = Origin(source="a/b.pdf", sha256="0" * 64, pages=2, engine="layout", versions={"pymupdf": "2.0"})


def test_pages_are_joined_by_a_blank_line_and_empty_ones_leave_nothing() -> None:
    pages = [Page(number=1, text="\n# One  \n\n"), Page(number=2, text=" \n"), Page(number=3, text="  code\n")]
    assert assemble(pages, PLAIN, ORIGIN) == "# One\n\n  code\n"


def test_page_order_is_that_of_the_numbers() -> None:
    pages = [Page(number=10, text="ten"), Page(number=9, text="nine")]
    assert assemble(pages, PLAIN, ORIGIN) == "nine\n\nten\n"


def test_markers_stand_before_every_page_even_an_empty_one() -> None:
    pages = [Page(number=1, text="one"), Page(number=2, text="")]
    text = assemble(pages, Rendering(page_markers=True), ORIGIN)
    assert text == "<!-- page 1 -->\n\none\n\n<!-- page 2 -->\n"


def test_a_gap_is_named_in_the_text() -> None:
    pages = [Page(number=1, text="one"), Page(number=2, text="lost", gap="cycle in\npage\x00 tree")]
    assert assemble(pages, PLAIN, ORIGIN) == "one\n\n[page 2 could not be converted: cycle in page tree]\n"
    assert gap(7, "why") == "[page 7 could not be converted: why]"


def test_an_empty_document_is_one_newline() -> None:
    assert assemble([Page(number=1, text="")], PLAIN, ORIGIN) == "\n"


def test_clean_drops_what_utf8_and_readers_cannot_take() -> None:
    assert clean("a\x00b\x0cc\r\nd\re\ttab\ud800\x1b[31m\ufffe\u202e") == "abc\nd\ne\ttab[31m\u202e"


@given(st.lists(st.tuples(ANY_TEXT, st.none() | ANY_TEXT), max_size=4), st.booleans(), ANY_TEXT)
def test_any_text_gives_valid_utf8_and_one_trailing_newline(
    texts: list[tuple[str, str | None]], full: bool, source: str
) -> None:
    pages = [Page(number=number, text=text, gap=why) for number, (text, why) in enumerate(texts, 1)]
    origin = Origin(source=source, sha256="0" * 64, pages=len(pages), engine="layout")
    markdown = assemble(pages, FULL if full else PLAIN, origin)
    assert markdown.encode().decode() == markdown
    assert markdown.endswith("\n")
    assert not markdown.endswith("\n\n")


@given(ANY_TEXT, st.dictionaries(st.text(max_size=20), ANY_TEXT, max_size=3))
def test_front_matter_stays_yaml_for_any_value(source: str, versions: dict[str, str]) -> None:
    def seen(text: str) -> str:
        return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)

    origin = Origin(source=source, sha256="ab" * 32, pages=3, engine="layout", versions=versions)
    markdown = assemble([Page(number=1, text="body")], Rendering(front_matter=True), origin)
    head, _, body = markdown.removeprefix("---\n").partition("\n---\n")
    expected = {"source": seen(source), "sha256": "ab" * 32, "pages": 3, "engine": "layout"}
    if versions:
        expected["versions"] = {seen(name): seen(value) for name, value in versions.items()}
    assert yaml.safe_load(head) == expected
    assert body == "\nbody\n"


def test_attached_files_are_listed_in_the_front_matter_whatever_they_are_called() -> None:
    names = ['"><script>', "a: b\n- c", "\ud800", "..\\..\\x", ""]
    origin = ORIGIN.model_copy(update={"attached": names})
    markdown = assemble([Page(number=1, text="body")], Rendering(front_matter=True), origin)
    read = yaml.safe_load(markdown.split("\n---\n")[0].removeprefix("---\n"))
    assert read["attachments"] == ["\ufffd" if name == "\ud800" else name for name in names]
    assert "attachments" not in assemble([], Rendering(front_matter=True), ORIGIN)
