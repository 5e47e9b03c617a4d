"""Wishes for another number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.corpus.failures import UsageError
from tasks.corpus.runs import Identity, RunSpec, create_run
from tasks.corpus.store import Store, open_store
from tasks.report import Report, RunState, write_report
from tasks.scale import ask_for, newest_wish

IDENTITY = Identity(input="in", output="out", engine="dummy", limits={}, rendering={})


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "runs"), writable=True)
    assert create_run(
        store, RunSpec(run_id="r1", created="", identity=IDENTITY, manifest="", documents=9, partitions=2)
    )
    return store


def test_the_newest_wish_counts(runs: Store) -> None:
    assert newest_wish(runs, "r1") is None
    for workers in (3, 0, 7):
        ask_for(runs, "r1", workers)
    found = newest_wish(runs, "r1")
    assert found is not None
    assert (found.number, found.workers) == (2, 7)


def test_two_that_ask_at_once_both_ask(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(runs, "r1", 3)
    monkeypatch.setattr("tasks.scale.newest_wish", lambda *_: None)
    ask_for(runs, "r1", 5)
    monkeypatch.undo()
    found = newest_wish(runs, "r1")
    assert found is not None
    assert (found.number, found.workers) == (1, 5)


@pytest.mark.parametrize("workers", [-1, 1001])
def test_absurd_numbers_are_refused(runs: Store, workers: int) -> None:
    with pytest.raises(UsageError, match="from 0"):
        ask_for(runs, "r1", workers)


def test_a_run_that_is_over_cannot_be_scaled(runs: Store) -> None:
    numbers = dict.fromkeys(
        ("converted", "skipped", "partial", "failed", "quarantined", "remaining", "duplicates", "pages"), 0
    )
    report = Report(
        run_id="r1",
        state=RunState.COMPLETED,
        input="in",
        output="out",
        documents=0,
        seconds=1.0,
        pages_per_second=0.0,
        engine="dummy",
        report="",
        **numbers,
    )
    write_report(runs, report)
    with pytest.raises(UsageError, match="is over"):
        ask_for(runs, "r1", 2)
