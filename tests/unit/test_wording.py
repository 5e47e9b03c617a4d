"""What a person reads about a broken file: plain words first, the library's own in brackets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_words import odd_words
from pymupdf import mupdf

from tasks.corpus.failures import Category, ConversionError
from tasks.engines import memory
from tasks.engines.opening import open_document, reason
from tasks.engines.protocol import Limits
from tasks.engines.wording import plain


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("code=7: cycle in page tree", "the list of its pages leads in a circle (cycle in page tree)"),
        ("Invalid number of pages", "it states a number of pages that cannot be (Invalid number of pages)"),
        ("no objects found", "no part of a PDF can be found in it (no objects found)"),
        ("invalid key in dict", "its structure is garbled (invalid key in dict)"),
        (
            "code=4: too many color components (536870913 > 32)",
            "a colour is defined in a way that cannot be (too many color components (536870913 > 32))",
        ),
        ("bad image data", "an image in it is broken or too large (bad image data)"),
        ("zlib error: incorrect data check", "packed data in it is broken (zlib error: incorrect data check)"),
        ("code=7: xref too long", "the table that says where its parts are is broken (xref too long)"),
        ("object is not a stream", "its structure is garbled (object is not a stream)"),
        ("something new", "the library that reads it failed (something new)"),
        ("", "the library that reads it failed without a word"),
    ],
)
def test_known_words(said: str, words: str) -> None:
    assert plain(said) == words
    assert odd_words(words) == []


def test_what_memory_looks_for_stays_to_be_found() -> None:
    assert plain("code=2: malloc (99 bytes) failed") == "malloc (99 bytes) failed"


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=400), st.sampled_from([None, "IndexError"]))
def test_every_error_has_words_and_ends(said: str, kind: str | None) -> None:
    words = plain(said, kind)
    assert 0 < len(words) < 300
    assert memory.words_say_so(words) == memory.words_say_so(said[:200])


def test_an_error_that_is_not_mupdfs_names_its_class_behind_the_words() -> None:
    assert reason(KeyError("Kids")) == "the library that reads it failed ('Kids', KeyError)"
    assert reason(AssertionError()) == "the library that reads it failed (AssertionError)"
    assert reason(mupdf.FzErrorFormat("cycle in page tree")).startswith("the list of its pages leads in a circle (")


@pytest.mark.parametrize(
    ("data", "category", "begins"),
    [
        (b"", Category.EMPTY, "the file is empty"),
        (b"<html><body>404", Category.NOT_A_PDF, "not a PDF: it looks like an HTML page"),
        (b"plain words\n" * 9, Category.NOT_A_PDF, "not a PDF: it looks like plain text"),
        (b"no\xff\x00ise" * 300, Category.NOT_A_PDF, "not a PDF (no %PDF- in the first 1024 bytes)"),
        (b"%PDF-1.7\n", Category.DAMAGED, "cannot be opened: no part of a PDF can be found in it"),
        (b"%PDF-1.7\n1 0 obj\n<< /A 1 >>\nendobj\n", Category.DAMAGED, "broken (cut short, perhaps), and repairing"),
    ],
)
def test_refusals_are_plain(tmp_path: Path, data: bytes, category: Category, begins: str) -> None:
    (tmp_path / "x.pdf").write_bytes(data)
    with pytest.raises(ConversionError) as caught:
        open_document(tmp_path / "x.pdf", [], Limits())
    failure = caught.value.failure
    assert failure.category is category
    assert failure.message.startswith(begins), failure.message
    assert odd_words(failure.message) == []
    assert str(tmp_path) not in failure.message


@pytest.mark.parametrize(
    "message",
    [
        "code=7: cycle in page tree",
        "ValueError: bad image data",
        "std::bad_alloc",
        "no such file: /var/tmp/x1/document.pdf",
        "'NoneType' object has no attribute 'rect'",
        "fz_open_document failed",
        "xref too long",
    ],
)
def test_a_librarys_way_of_speaking_is_noticed(message: str) -> None:
    assert odd_words(message) != []


@pytest.mark.parametrize(
    "message",
    [
        "a password is needed and none is given",
        "over the time limit of page 1, 60 s (the machine was busy)",
        "not a PDF: it looks like an HTML page (no %PDF- in the first 1024 bytes)",
        "page 1: text layer only: too large to render (14400 x 14400 points)",
        "the sandbox child was ended by SIGSEGV: a bug in a library that reads the document",
    ],
)
def test_plain_words_pass(message: str) -> None:
    assert odd_words(message) == []
