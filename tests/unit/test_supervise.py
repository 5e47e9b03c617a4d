"""The parent's watch over its workers, with handles that end when told and heartbeats written by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import supervise
from tasks.corpus import paths
from tasks.corpus.failures import Category
from tasks.corpus.lives import Heartbeat, take_number, this_life
from tasks.corpus.runs import Identity, RunSpec
from tasks.corpus.store import Store, open_store
from tasks.lease import ParentLease
from tasks.supervise import Supervision

SPEC = RunSpec(
    run_id="r1",
    created="",
    identity=Identity(input="in", output="out", engine="dummy", limits={}, rendering={}),
    manifest="",
    documents=100,
    partitions=2,
)


class Scripted:
    """A launcher whose workers beat what the script says and end with the status that it says."""

    def __init__(self, runs: Store, script: Callable[[int, int], tuple[Heartbeat, int]]) -> None:
        self._runs, self._script = runs, script
        self.launches: list[tuple[int, int]] = []

    def launch(self, worker: int, launch: int) -> Ended:
        self.launches.append((worker, launch))
        beat, status = self._script(worker, launch)
        live(self._runs, worker, beat)
        return Ended(status)

    def poll(self) -> None:
        pass


class Ended:
    def __init__(self, status: int) -> None:
        self._status = status

    def poll(self) -> int:
        return self._status

    def drain(self) -> None: ...

    def kill(self) -> None: ...


def live(runs: Store, worker: int, beat: Heartbeat) -> None:
    attempt = take_number(runs, paths.worker("r1", worker), "start.json", this_life())
    runs.put(paths.life("r1", worker, attempt) + "heartbeat.json", beat.model_dump_json().encode())


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "runs"), writable=True)
    store.probe()
    return store


def watch(runs: Store, launcher: Scripted, workers: int = 2) -> str | None:
    with ParentLease(runs, "r1", None, 60.0) as lease:
        log = logging.getLogger("test")
        return Supervision(runs, SPEC, lease, launcher, workers, log, look_seconds=0.01).run()


def test_workers_that_end_in_order_end_the_run(runs: Store) -> None:
    launcher = Scripted(runs, lambda worker, launch: (Heartbeat(counter=1, ended="complete"), 0))
    assert watch(runs, launcher) is None
    assert launcher.launches == [(0, 0), (1, 0)]


def test_a_breaker_that_tripped_in_an_earlier_start_does_not_stop_this_one(runs: Store) -> None:
    tripped = Heartbeat(counter=3, ended="breaker: DISK_FULL", failed=30, streak=30, streak_category=Category.DISK_FULL)
    for worker in range(2):
        live(runs, worker, tripped)
    launcher = Scripted(runs, lambda worker, launch: (Heartbeat(counter=1, ended="complete", converted=5), 0))
    assert watch(runs, launcher) is None
    # And one that trips now does.
    launcher = Scripted(runs, lambda worker, launch: (tripped, 0))
    stopped = watch(runs, launcher)
    assert stopped is not None
    assert stopped.startswith("breaker: DISK_FULL")


def test_the_breaker_counts_over_all_workers(runs: Store) -> None:
    half = Heartbeat(
        counter=1, failed=10, streak=10, streak_category=Category.ENGINE, streak_message="boom", ended="complete"
    )
    stopped = watch(runs, Scripted(runs, lambda worker, launch: (half, 0)))
    assert stopped == "breaker: ENGINE: boom (20 documents in a row)"
    fine = half.model_copy(update={"streak_category": Category.DAMAGED})
    assert watch(runs, Scripted(runs, lambda worker, launch: (fine, 0))) is None


def test_a_worker_that_dies_without_progress_is_given_up(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.fleet.supervisor.BACKOFF_SECONDS", (0.0, 0.0, 0.0))
    launcher = Scripted(runs, lambda worker, launch: (Heartbeat(counter=1), -9))
    stopped = watch(runs, launcher, workers=1)
    assert stopped is not None
    assert "worker 0 died again and again" in stopped
    assert len(launcher.launches) == 4
    # Every life that died is fenced before its successor starts.
    fences = [info.key for info in runs.list(paths.worker("r1", 0)) if info.key.endswith("/fenced")]
    assert len(fences) == 4


def test_progress_between_deaths_keeps_a_worker_in_the_fleet(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.fleet.supervisor.BACKOFF_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(supervise, "TICK_SECONDS", 0.001)

    def script(worker: int, launch: int) -> tuple[Heartbeat, int]:
        done = launch == 6
        return Heartbeat(counter=1, converted=1, ended="complete" if done else None), 0 if done else -9

    launcher = Scripted(runs, script)
    assert watch(runs, launcher, workers=1) is None
    assert len(launcher.launches) == 7
