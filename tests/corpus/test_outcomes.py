"""Every document of the test corpus has the outcome that its manifest row expects: no hang, no crash, no unnamed failure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from expectations import CORPUS, KNOWN, REFUSALS, manifest
from plain_words import odd_words

from tasks.corpus.failures import Category, ConversionError
from tasks.engines.protocol import EngineName, Limits
from tasks.engines.sandbox import Sandbox

MAX_PAGES = 2
"""Of documents that are not hostile: long manuals are converted elsewhere."""
MAX_HOSTILE_PAGES = 30


def rows() -> list[dict[str, str]]:
    every = manifest()
    assert every or not CORPUS.is_dir(), "the corpus has an empty manifest"

    def chosen(row: dict[str, str]) -> bool:
        pages = int(row["pages"] or 0)
        if row["file"].startswith("hostile/"):
            return pages <= MAX_HOSTILE_PAGES
        # OCR takes ten seconds a page: its documents are measured where quality is.
        return pages <= MAX_PAGES and row["has_text_layer"] == "1.0"

    found = [row for row in every if chosen(row)]
    # Every third: `make soak` takes them all.
    return found[::3]


AT_THE_LIMITS = {"hostile/oc-hugemono.pdf", "hostile/pj-bomb_giant.pdf", "hostile/x-xobject-bomb-1e9.pdf"}
"""They take a minute or two each, and on a slow machine come to another limit: `make soak` has them."""


def case(row: dict[str, str]) -> Any:
    mark = pytest.mark.soak if row["file"] in AT_THE_LIMITS else pytest.mark.slow
    return pytest.param(row, id=row["file"], marks=mark)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Path]]:
    scratch = tmp_path_factory.mktemp("outcomes")
    with Sandbox(EngineName.LAYOUT, Limits(page_timeout=90), threads=2, scratch=scratch) as running:
        yield running, scratch


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", [case(row) for row in rows()])
def test_outcome(row: dict[str, str], sandbox: tuple[Sandbox, Path]) -> None:
    running, scratch = sandbox
    pdf = scratch / "in.pdf"
    shutil.copyfile(CORPUS / row["file"], pdf)
    allowed = REFUSALS[row["expected_outcome"]] | ({KNOWN[row["file"]]} if row["file"] in KNOWN else set())
    try:
        result = running.convert(pdf, scratch / "out", [])
    except ConversionError as error:
        assert error.failure.category in allowed, error.failure
        assert str(scratch) not in error.failure.message
        assert odd_words(error.failure.message) == [], error.failure.message
        return
    assert None in allowed, "converted, where a refusal was due"
    assert [page.number for page in result.pages] == list(range(1, len(result.pages) + 1))
    assert [page.gap for page in result.pages if odd_words(page.gap or "")] == []
    if row["expected_outcome"] == "ok":
        assert len(result.pages) == int(row["pages"])
        assert not [page.gap for page in result.pages if page.gap]
    text = "".join(page.text for page in result.pages)
    assert text.encode().decode() == text
    if row["has_text_layer"] == "1.0":
        assert text.strip(), "the document has text, and none came out"


def endless(levels: int) -> bytes:
    """A PDF of one page with forms that draw forms ten times, `levels` deep."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"]
    objects.append(
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /XObject << /F 6 0 R >> /Font << /T 5 0 R >> >> >>"
    )
    objects.append(b"<< /Length 5 >>\nstream\n/F Do\nendstream")
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for level in range(levels):
        last = level == levels - 1
        body = b"BT /T 9 Tf 72 720 Td (word) Tj ET" if last else b"/F Do " * 10
        inner = b"/Font << /T 5 0 R >>" if last else b"/XObject << /F %d 0 R >>" % (level + 7)
        objects.append(
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 612 792] /Resources << %s >> /Length %d >>\nstream\n%s\nendstream"
            % (inner, len(body), body)
        )
    out, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Root 1 0 R /Size %d >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (len(objects) + 1, table, trailer)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_page_that_takes_all_memory_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "in.pdf").write_bytes(endless(9))
    with (
        Sandbox(EngineName.LAYOUT, Limits(memory_mb=1024, page_timeout=600), scratch=tmp_path) as running,
        pytest.raises(ConversionError) as caught,
    ):
        running.convert(tmp_path / "in.pdf", tmp_path / "out", [])
    assert caught.value.failure.category is Category.MEMORY
