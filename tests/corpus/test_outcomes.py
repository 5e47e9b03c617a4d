"""Every document of the test corpus has the outcome that its manifest row expects: no hang, no crash, no unnamed failure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from expectations import CORPUS, KNOWN, REFUSALS, manifest

from tasks.corpus.failures import ConversionError
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
