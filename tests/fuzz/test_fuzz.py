"""Broken PDFs, thousands of them: each ends as a result or as a record, in its time, and leaves the worker as it was.

`pytest -m soak -s tests/fuzz --fuzz-seed 7 --fuzz-mutants 5000 --fuzz-keep FOLDER` runs others and keeps what it found;
`--fuzz-only 1234` converts one of them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import campaign
import pytest
from mutants import ON_BYTES, ON_PARTS, Mutant, Parts, Seed, mutant

CORPUS = Path(os.environ.get("PDF_FLOWS_CORPUS") or Path(__file__).resolve().parents[2] / "../shared/corpus").resolve()
SAMPLES = campaign.ROOT / "samples"
SLICE = 40


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for sandboxes, whose children are nobody where we are root."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    (tmp_path / "around" / "scratch" / "slots").mkdir(parents=True)
    (tmp_path / "around" / "open to all").mkdir()
    (tmp_path / "around" / "open to all").chmod(0o777)  # whatever a child writes beside its folder is seen
    return tmp_path / "around" / "scratch"


def fuzz(place: Path, chosen: Iterator[Mutant], keep: Path, capsys: pytest.CaptureFixture[str], count: int) -> None:
    def tell(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    found = campaign.run(chosen, place, slots=2, keep=keep, tell=tell)
    for line in found.lines():
        tell(line)
    assert len(found.endings) == count
    assert [str(ending.mutant) for ending in found.defects] == []
    assert found.outside == []
    assert {ending.outcome for ending in found.endings} & {"converted", "DAMAGED"}, "nothing was tried at all"


@pytest.mark.soak
def test_thousands_of_mutants(
    place: Path, tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = campaign.seeds(CORPUS)
    seed, count = pytestconfig.getoption("--fuzz-seed"), pytestconfig.getoption("--fuzz-mutants")
    keep = Path(pytestconfig.getoption("--fuzz-keep") or tmp_path / "kept")
    only = pytestconfig.getoption("--fuzz-only")
    numbers = range(count) if only is None else [only]
    fuzz(place, (mutant(seeds, seed, number) for number in numbers), keep, capsys, len(numbers))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_some_mutants(
    place: Path, tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = [seed for seed in campaign.seeds(Path("none")) if "scan" not in seed.name]
    made = (mutant(seeds, pytestconfig.getoption("--fuzz-seed"), number) for number in range(SLICE))
    fuzz(place, made, tmp_path / "kept", capsys, SLICE)


@pytest.mark.slow
def test_what_is_written_beside_the_sandbox_is_seen(place: Path) -> None:
    before = campaign.watched(place)
    (place / "slots" / "inside").write_text("may be")
    assert campaign.watched(place) == before
    (place.parent / "open to all" / "outside").write_text("must not be")
    assert len(campaign.watched(place) - before) == 1


def sample(name: str) -> Seed:
    return Seed.of(name, SAMPLES / name, take_apart=True)


def test_a_number_brings_the_same_mutant_back() -> None:
    seeds = [sample("lighthouses.pdf"), sample("tides.pdf")]
    again = [sample("lighthouses.pdf"), sample("tides.pdf")]
    first = [mutant(seeds, 20, number) for number in range(30)]
    assert first == [mutant(again, 20, number) for number in range(30)]
    assert len({made.data for made in first}) > 25
    assert first != [mutant(seeds, 21, number) for number in range(30)]


def test_a_seed_that_was_taken_apart_is_still_the_same_document() -> None:
    import pymupdf

    seed = sample("lighthouses.pdf")
    assert seed.whole is not None
    parts = Parts.of(seed.whole)
    assert parts is not None
    with (
        pymupdf.open(stream=seed.data, filetype="pdf") as before,
        pymupdf.open(stream=parts.write(), filetype="pdf") as after,
    ):
        assert not after.is_repaired
        assert [page.get_text() for page in after] == [page.get_text() for page in before]


def test_every_change_changes_something_and_is_drawn() -> None:
    seeds = [sample("lighthouses.pdf"), sample("tides.pdf"), sample("harbour-notice.pdf")]
    drawn = {how for made in islice((mutant(seeds, 20, n) for n in range(400)), 400) for how in made.how}
    assert drawn == {change.__name__ for change in (*ON_BYTES, *ON_PARTS)}
    for change in ON_PARTS:
        assert any(_changes(seeds, change, number) for number in range(20)), change.__name__


def _changes(seeds: list[Seed], change: object, number: int) -> bool:
    import random

    parts = Parts.of(seeds[0].whole or b"")
    assert parts is not None
    before = parts.write()
    change(parts, random.Random(number), seeds)
    return parts.write() != before
