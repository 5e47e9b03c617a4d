"""Every document of the test corpus has the outcome that its manifest row expects: no hang, no crash, no unnamed failure."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.corpus.failures import Category, ConversionError
from tasks.engines.protocol import EngineName, Limits
from tasks.engines.sandbox import Sandbox

CORPUS = Path(os.environ.get("PDF_FLOWS_CORPUS") or Path(__file__).resolve().parents[2] / "../shared/corpus").resolve()
MAX_PAGES = 2
"""Of documents that are not hostile: long manuals are converted elsewhere."""
MAX_HOSTILE_PAGES = 30

ENCRYPTED, DAMAGED, NO_PAGES = Category.ENCRYPTED, Category.DAMAGED, Category.NO_PAGES
REFUSALS: dict[str, set[Category | None]] = {
    "ok": {None},
    "fails: password needed": {ENCRYPTED},
    "fails: encrypted in an unknown way": {Category.UNSUPPORTED_ENCRYPTION},
    "fails: not a PDF": {Category.NOT_A_PDF},
    "fails: empty file": {Category.EMPTY},
    "fails: no pages": {NO_PAGES},
    "fails: no pages (damaged)": {NO_PAGES, DAMAGED},
    "fails: damaged beyond repair": {DAMAGED},
    "fails: time limit": {Category.TIMEOUT, Category.MEMORY},
    "either: some text, or refused as damaged": {None, DAMAGED},
    "either: text, or refused as damaged": {None, DAMAGED},
    "either: the readable pages, or refused as damaged": {None, DAMAGED},
    "either: text, or refused as too large": {None, Category.TOO_LARGE, Category.MEMORY},
    "either: empty, or refused as too large": {None, Category.TOO_LARGE, Category.MEMORY},
}
"""What each expectation of the manifest allows; None is a conversion."""

KNOWN: dict[str, Category] = {
    "hostile/pj-bug1978317.pdf": Category.TIMEOUT,
    "hostile/x-flate-bomb-1gb.pdf": Category.TIMEOUT,
    "hostile/x-grid-120x120.pdf": Category.TIMEOUT,
    "hostile/x-rotate-45.pdf": Category.NO_TEXT,
    "poster/ol-map1.pdf": Category.TIMEOUT,
    "rotated/us-rotated-page-90.pdf": Category.NO_TEXT,
}
"""Good documents that plain pymupdf4llm cannot do, or not within this page limit, and how they fail."""


def rows() -> list[dict[str, str]]:
    if not CORPUS.is_dir():
        return []
    with (CORPUS / "manifest.csv").open(newline="") as file:
        every = list(csv.DictReader(file))
    assert every, "the corpus has an empty manifest"

    def chosen(row: dict[str, str]) -> bool:
        pages = int(row["pages"] or 0)
        if row["file"].startswith("hostile/"):
            return pages <= MAX_HOSTILE_PAGES
        # OCR takes ten seconds a page: its documents are measured where quality is.
        return pages <= MAX_PAGES and row["has_text_layer"] == "1.0"

    return [row for row in every if chosen(row)]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Path]]:
    scratch = tmp_path_factory.mktemp("outcomes")
    with Sandbox(EngineName.LAYOUT, Limits(page_timeout=30), threads=2, scratch=scratch) as running:
        yield running, scratch


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("row", [pytest.param(row, id=row["file"]) for row in rows()])
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
        return
    assert None in allowed, "converted, where a refusal was due"
    assert [page.number for page in result.pages] == list(range(1, len(result.pages) + 1))
    if row["expected_outcome"] == "ok":
        assert len(result.pages) == int(row["pages"])
        assert not [page.gap for page in result.pages if page.gap]
    text = "".join(page.text for page in result.pages)
    assert text.encode().decode() == text
    if row["has_text_layer"] == "1.0":
        assert text.strip(), "the document has text, and none came out"
