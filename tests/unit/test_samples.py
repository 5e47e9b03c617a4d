"""The sample PDFs: made by the committed generator, and fit to show what a conversion does."""

from __future__ import annotations

import runpy
from pathlib import Path

import pymupdf
import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
GENERATOR = SAMPLES / "make_samples.py"


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all samples, made anew."""
    folder = tmp_path_factory.mktemp("samples")
    runpy.run_path(str(GENERATOR))["make"](folder)
    return folder


def test_the_generator_makes_exactly_the_committed_files(remade: Path) -> None:
    committed = {path.name: path.read_bytes() for path in SAMPLES.glob("*.pdf")}
    assert committed.keys() == {path.name for path in remade.iterdir()}
    different = [name for name, data in committed.items() if data != (remade / name).read_bytes()]
    assert not different, "run `python samples/make_samples.py` and commit what it makes"


def test_the_samples_are_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.glob("*.pdf")) < 400_000


@pytest.mark.parametrize(
    ("name", "pages", "phrase"),
    [
        ("lighthouses.pdf", 2, "character of a light"),
        ("tides.pdf", 1, "Morning high"),
        ("fog-signal.pdf", 1, "def blasts(minute):"),
        ("harbour-notice.pdf", 1, "Dredging of the channel"),
    ],
)
def test_a_sample_opens_and_has_its_text(name: str, pages: int, phrase: str) -> None:
    with pymupdf.open(SAMPLES / name) as document:
        assert document.page_count == pages
        assert phrase in document[0].get_text()
        assert not document.is_repaired


def test_the_table_is_found_as_a_table() -> None:
    with pymupdf.open(SAMPLES / "tides.pdf") as document:
        (table,) = document[0].find_tables().tables
        assert (table.row_count, table.col_count) == (8, 6)


def test_the_scan_is_one_picture_without_text() -> None:
    with pymupdf.open(SAMPLES / "keepers-log-scan.pdf") as document:
        (page,) = document
        assert page.get_text() == ""
        ((_, _, width, height, *_),) = page.get_images()
        # 150 dpi on A4 (595 x 842 pt), to the pixel's rounding.
        assert (width, height) == (pytest.approx(1240, abs=1), pytest.approx(1754, abs=1))
