"""A fleet under fire, on S3: seeded kills over hundreds of dummy documents, and over the real corpus with the layout engine."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus.expectations import CORPUS, manifest, unexpected

from chaos.fleet_killer import FleetKiller, FleetTally, FleetVictim, kill_fleets, weigh
from chaos.harness import Place

MakePlace = Callable[..., Place]
DOCUMENTS = 300


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kills", "documents", "kinds"),
    [
        pytest.param(8, 120, 5, marks=pytest.mark.slow, id="8"),
        pytest.param(20, DOCUMENTS, len(FleetVictim), marks=pytest.mark.soak, id="20"),
    ],
)
def test_kills_of_a_fleet(
    tmp_path: Path,
    moto_s3: Any,
    seed: int,
    capsys: pytest.CaptureFixture[str],
    kills: int,
    documents: int,
    kinds: int,
) -> None:
    # The outage is a shorter one here: two hundred kills have those of 30 s.
    tally = kill_fleets(
        tmp_path,
        tmp_path / "home",
        moto_s3,
        moto_s3.url,
        kills,
        seed,
        documents=documents,
        script="seconds=0.25 assets=1",
        outage_seconds=12,
    )
    with capsys.disabled():
        print(f"\nseed {seed}: {tally}")
    assert tally.kills.total() == kills
    assert len(tally.kills) >= kinds
    assert max(tally.repeated) <= 60


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_two_hundred_kills_of_fleets(
    tmp_path: Path, moto_s3: Any, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = kill_fleets(
        tmp_path,
        tmp_path / "home",
        moto_s3,
        moto_s3.url,
        200,
        seed,
        documents=DOCUMENTS,
        script="seconds=0.35 assets=1",
        outage_seconds=30,
    )
    with capsys.disabled():
        print(f"\nseed {seed}: {tally}")
    assert tally.kills.total() == 200
    assert max(tally.repeated) <= 60


# -- the real corpus ------------------------------------------------------------------------------------------------

PATIENCE_SECONDS = 90.0
"""So long at most between two kills: over the minute after which pages are saved."""
CORPUS_WEIGHTS = {FleetVictim.CHILD: 3, FleetVictim.WORKER: 4, FleetVictim.NOTICE: 2, FleetVictim.PARENT: 2}


def small(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The smallest documents that say what becomes of them at once: three quarters to convert, the others to refuse."""
    good = [
        row for row in rows if row["expected_outcome"] == "ok" and row["kind"] not in ("hostile", "scan", "synthscan")
    ]
    good = [row for row in good if 0 < int(row["pages"] or 0) <= 2]
    bad = [row for row in rows if row["expected_outcome"].startswith("fails") and "time" not in row["expected_outcome"]]
    size = lambda row: int(row["bytes"])  # noqa: E731
    refused = sorted(bad, key=size)[: count // 4]
    return sorted(good, key=size)[: count - len(refused)] + refused


def shoot_at_corpus(place: Place, home: Path, rows: list[dict[str, str]], kills: int, seed: int) -> FleetTally:
    """The layout engine over these documents under fire; every outcome is as its row allows."""
    for row in rows:
        file = place.input / row["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CORPUS / row["file"], file)
    place.engine = "layout"
    chance = random.Random(seed)
    plan = [kind for kind, weight in CORPUS_WEIGHTS.items() for _ in range(-(-kills * weight // 11))]
    chance.shuffle(plan)
    del plan[kills:]
    tally = FleetTally(campaigns=1, documents=len(rows))
    killer = FleetKiller(place, home, None, chance, tally, 0.0)
    begun = time.monotonic()
    step = max(1, len(rows) // (2 * kills))

    def published() -> int:
        return sum(1 for _ in place.output.rglob("*.md"))

    for call in range(kills + 5):
        file = place.folder / f"notices-{call}" / "{worker}-{launch}" / "instance-action"
        command = place.convert(PDF_FLOWS_SPOT_NOTICE_FILE=str(file))
        tally.calls += 1
        while plan and command.running:
            if not killer.strike(plan[0], command):
                plan.append(plan.pop(0))
                continue
            if plan.pop(0) is FleetVictim.PARENT:
                command.process.wait()
            # Spread over the run: the heaviest documents come first, and would be shot at again and again otherwise.
            patience, enough = time.monotonic() + PATIENCE_SECONDS, published() + step
            while plan and command.running and published() < enough and time.monotonic() < patience:
                time.sleep(0.2)
        status = command.wait(3600)
        assert "Traceback" not in command.said, command.said
        assert status in (0, 1, 3, -signal.SIGKILL), command.said[-4000:]
        if status in (0, 1):
            break
    assert status in (0, 1), command.said[-4000:]
    result = command.result()
    assert (result["documents"], result["remaining"], result["duplicates"]) == (len(rows), 0, 0), result
    account = place.audit()
    assert account["quarantined"] == 0, command.said
    # A parent that is killed when its run has come to its end is followed by a run of its own, with nothing to do.
    *earlier, _ = place.run_ids()
    assert [run_id for run_id in earlier if place.remaining(run_id) != 0] == [], command.said
    found = json.loads(place.call("failures", place.output_url, "--json").stdout)
    failures = {entry["key"]: entry["failure"]["category"] for entry in found["failures"]}
    converted = {str(path.relative_to(place.output).with_suffix(".pdf")) for path in place.output.rglob("*.md")}
    assert unexpected(failures, converted, rows) == []
    assert place.left_over() == {}
    tally.runs = 1
    tally.seconds = time.monotonic() - begun
    weigh(place.view(), tally)
    return tally


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not there")
def test_a_few_real_documents_under_fire(
    place: Place, home: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = small(manifest(), 40)
    tally = shoot_at_corpus(place, home, rows, 8, seed)
    with capsys.disabled():
        print(f"\nseed {seed}, layout: {tally}")
    # How many find their victims before the documents are done is the machine's affair.
    assert tally.kills.total() >= 3
    assert max(tally.repeated, default=0.0) <= 60


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not there")
def test_the_whole_corpus_under_fire(place: Place, home: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally = shoot_at_corpus(place, home, manifest(), 30, seed)
    with capsys.disabled():
        print(f"\nseed {seed}, layout: {tally}")
    assert tally.kills.total() == 30
