"""Watching a run through its objects: what is seen, and how few requests it takes."""

from __future__ import annotations

import pytest
from memory_store import MemoryStore
from report_kit import report
from watched_run import BEGAN, RUN_ID, WatchedRun

import tasks.lookout
from tasks.corpus.failures import StoreError
from tasks.corpus.ledger import Outcome
from tasks.corpus.lives import Heartbeat, Life, Stage, this_process
from tasks.corpus.store import Store
from tasks.lookout import Lookout
from tasks.report import RunState, write_report
from tasks.view import LifeFacts, RunView, WorkerState, WorkerView, worker_state, worst_first


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A run in memory, a lookout, and a clock that the test moves."""

    def __init__(self, documents: int = 40, workers: int = 2) -> None:
        self.store, self.clock = MemoryStore(), Clock()
        self.run = WatchedRun(self.store, documents, workers)
        self.lookout = Lookout(self.store, self.run.spec, clock=self.clock, wall=lambda: BEGAN + self.clock.now)

    def look(self, after: float = 0.0) -> RunView:
        self.clock.now += after
        return self.lookout.look()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_run_that_was_only_planned_is_seen_as_such(scene: Scene) -> None:
    view = scene.look()
    assert (view.documents, view.done, view.remaining, view.workers) == (40, 0, 40, [])
    assert (view.over, view.state, view.eta, view.money, view.pages_per_second) == (False, "running", None, None, None)


def test_workers_counts_paces_and_the_end_are_seen_as_they_come(scene: Scene) -> None:
    run = scene.run
    run.launch(1)
    run.live(0, working_seconds=0.0, stage=Stage.LOADING)
    view = scene.look()
    assert [(w.worker, w.state, w.why) for w in view.workers] == [
        (0, WorkerState.STARTING, "the engine is loading"),
        (1, WorkerState.STARTING, "no machine yet"),
    ]
    assert [w.total for w in view.workers] == [0, 20]
    for step in range(1, 9):
        run.record(0, step)
        if step == 4:
            run.fail(0, 30)
        run.flush()
        run.work(0, in_hand=["a.pdf", "b.pdf"], page=7, stage=Stage.WORKING, activity=step, assigned=20)
        view = scene.look(after=20)
    (first, _) = view.workers
    assert (first.state, first.done, first.claimed, first.total, first.failed) == (WorkerState.WORKING, 9, 11, 20, 1)
    assert (first.in_hand, first.page, first.pages) == (["a.pdf", "b.pdf"], 7, 80)
    assert first.pages_per_second == pytest.approx(0.5, rel=0.2)
    assert (view.done, view.converted, view.failed, view.remaining) == (9, 8, 1, 31)
    assert view.causes == {"DAMAGED": 1}
    assert view.eta is not None
    assert view.eta.least is not None
    assert view.eta.least <= view.eta.likely <= (view.eta.most or 0)
    assert view.eta.likely == pytest.approx(31 / (9 / 160), rel=0.2)


def test_one_look_has_an_eta_from_what_the_workers_say(scene: Scene) -> None:
    scene.run.live(0, converted=10, weight=10_000, pages=100, working_seconds=100.0, assigned=20)
    view = scene.look()
    assert view.eta is not None
    assert view.eta.likely == pytest.approx(300.0)
    assert view.pages_per_second == pytest.approx(1.0)


def test_a_worker_with_a_second_life_counts_what_both_did(scene: Scene) -> None:
    run = scene.run
    for index in range(5):
        run.record(0, index)
    run.live(0)
    run.work(0, assigned=20)
    run.flush()
    assert scene.look().workers[0].done == 5
    run.work(0, assigned=20, ended="notice: the machine is taken away", at=BEGAN + 300)
    run.live(0, 1, at=400)
    run.record(0, 6, 1)
    run.flush()
    run.work(0, 1, assigned=15)
    view = scene.look(after=5)
    (worker,) = view.workers
    assert (worker.attempt, worker.lives, worker.done, worker.total) == (1, 2, 6, 20)
    assert (view.notices, view.losses) == (1, 0)
    assert (view.interruptions[0].why, view.interruptions[0].at) == ("notice: the machine is taken away", BEGAN + 300)


def test_what_a_later_start_tries_again_counts_once(scene: Scene) -> None:
    run = scene.run
    run.live(0)
    run.fail(0, 1)
    run.fail(0, 2)
    run.flush()
    run.work(0, ended="the parent is gone")
    run.parent(1)
    run.live(0, 1, at=400)
    run.record(0, 1, 1, claim=1, epoch=1)
    run.flush()
    run.work(0, 1)
    view = scene.look()
    assert (view.done, view.converted, view.failed, view.causes) == (2, 1, 1, {"DAMAGED": 1})


def test_a_notice_is_seen_while_the_worker_drains(scene: Scene) -> None:
    scene.run.live(0, stage=Stage.DRAINING, draining="notice: the machine is taken away")
    view = scene.look()
    assert view.workers[0].state is WorkerState.DRAINING
    assert view.notices == 1


def test_silence_is_told_by_what_the_watcher_saw(scene: Scene) -> None:
    scene.run.live(0)
    states = []
    scene.look()
    for _ in range(7):
        scene.run.parent(counter=len(states) + 5)
        states.append(scene.look(after=10).workers[0].state)
    assert states == [WorkerState.WORKING] * 3 + [WorkerState.STUCK] * 2 + [WorkerState.GONE] * 2
    assert scene.look().losses == 1


def test_a_fenced_worker_is_gone_and_why_is_said(scene: Scene) -> None:
    scene.run.live(0)
    scene.look()
    scene.run.fence(0, 0, "silent: its heartbeat stood still", at=90)
    view = scene.look(after=25)
    assert (view.workers[0].state, view.workers[0].why) == (WorkerState.GONE, "silent: its heartbeat stood still")
    assert view.interruptions[0].at == BEGAN + 90


BEAT = Heartbeat(stage=Stage.WORKING)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (LifeFacts(0, 0), WorkerState.STARTING),
        (LifeFacts(0, 0, beat=BEAT), WorkerState.WORKING),
        (LifeFacts(0, 0, beat=BEAT.model_copy(update={"in_hand": ["a"]}), idle=179), WorkerState.WORKING),
        (LifeFacts(0, 0, beat=BEAT.model_copy(update={"in_hand": ["a"]}), idle=181), WorkerState.STUCK),
        (LifeFacts(0, 0, beat=BEAT, idle=1e6), WorkerState.WORKING),
        (LifeFacts(0, 0, beat=BEAT.model_copy(update={"ended": "complete"}), still=99), WorkerState.DONE),
        (LifeFacts(0, 0, beat=BEAT.model_copy(update={"ended": "fault: no weights"})), WorkerState.GONE),
        (LifeFacts(0, 0, beat=BEAT, gone=True), WorkerState.GONE),
    ],
)
def test_states(facts: LifeFacts, state: WorkerState) -> None:
    assert worker_state(facts, 120.0)[0] is state


def test_the_worst_come_first() -> None:
    def worker(k: int, state: WorkerState, eta: float | None = None) -> WorkerView:
        return WorkerView(worker=k, state=state, eta=eta, total=5)

    given = [
        worker(0, WorkerState.DONE),
        worker(1, WorkerState.WORKING, 10),
        worker(2, WorkerState.WORKING, 99),
        worker(3, WorkerState.STUCK),
        worker(4, WorkerState.GONE),
        worker(5, WorkerState.WORKING),
    ]
    assert [w.worker for w in worst_first(given)] == [3, 4, 5, 2, 1, 0]


def test_missing_foreign_and_broken_objects_are_left_out(scene: Scene) -> None:
    run = scene.run
    run.live(0)
    for key in ("workers/x/start.json", "launches/README", "launches/0/notes.txt", "workers/0/0/thumbs.db"):
        run.put(key, b"?")
    run.put("workers/0/0/heartbeat.json", b"{half")
    run.put("spend/spend.json", b"[]")
    run.put("canary", b"perhaps")
    run.put("workers/1/0/start.json", b"not json")
    run.launch(1)
    run.put("workers/0/0/ledger-000000.jsonl", b"\xff\xfe")
    run.beat(1, converted=1)
    view = scene.look()
    assert [w.worker for w in view.workers] == [0, 1]
    assert any("spend record" in note for note in view.notes)
    scene.store.delete(run.spec.manifest)
    run.put("workers/0/0/heartbeat.json", b"")
    again = Lookout(scene.store, run.spec, clock=scene.clock).look()
    assert any("manifest" in note for note in again.notes)


def test_a_run_that_ended_is_over_with_the_status_of_convert(scene: Scene) -> None:
    run = scene.run
    run.live(0)
    write_report(scene.store, report(state=RunState.COMPLETED_WITH_FAILURES, converted=39, failed=1, why="1 failed"))
    view = scene.look()
    assert (view.over, view.exit_code) == (False, 0), "the report is an earlier start's"
    run.work(0, ended="complete")
    run.parent(ended="ended", counter=9)
    view = scene.look(after=5)
    assert (view.over, view.state, view.exit_code, view.failed) == (True, "Completed with failures", 1, 1)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"state": RunState.STOPPED, "why": "budget", "remaining": 3, "converted": 37}, 3),
        ({"state": RunState.FAILED, "why": "rate", "failed": 20, "converted": 20}, 1),
    ],
)
def test_exit_status(scene: Scene, changes: dict[str, object], status: int) -> None:
    write_report(scene.store, report(**changes))
    scene.run.parent(ended="ended", counter=9)
    assert scene.look().exit_code == status == report(**changes).exit_code


def test_a_run_whose_parent_is_gone_is_over_once_nobody_works_any_more(scene: Scene) -> None:
    run = scene.run
    run.live(0)
    scene.look()
    for _ in range(9):
        run.beat(0)
        view = scene.look(after=10)
    assert (view.over, view.state) == (False, "parent gone")
    run.beat(0, ended="the parent is gone")
    view = scene.look(after=10)
    assert (view.over, view.state, view.exit_code) == (True, "Stopped", 3)
    assert "run the same again" in view.why


def test_a_parent_of_this_host_that_is_gone_is_seen_at_once(scene: Scene) -> None:
    dead = this_process().model_copy(update={"pid": 2**22 + 1})
    scene.run.put("parent/0/lease.json", Life(process=dead, hostname="here"))
    assert scene.look().over


def test_workers_without_a_parent_are_found_and_end_by_themselves() -> None:
    scene = Scene()
    for key in [key for key in scene.store.objects if key.startswith(f"{RUN_ID}/parent/")]:
        scene.store.delete(key)
    scene.run.live(0)
    scene.run.live(1)
    for key in [key for key in scene.store.objects if "/launches/" in key]:
        scene.store.delete(key)
    assert [w.worker for w in scene.look().workers] == [0, 1]
    for k in (0, 1):
        scene.run.beat(k, ended="complete", converted=20)
    view = scene.look(after=5)
    assert (view.over, view.state, view.exit_code) == (True, "Completed", 0)


def test_a_look_at_200_workers_costs_a_request_for_each_and_a_few() -> None:
    scene = Scene(documents=4000, workers=200)
    for k in range(200):
        scene.run.live(k)
        scene.run.record(k, k)
        scene.run.work(k)
    scene.run.flush()
    scene.run.spend()
    scene.look()

    def requests() -> int:
        return sum(scene.store.requests.values())

    before = requests()
    for k in range(200):
        scene.run.beat(k)
    made = requests() - before
    before = requests()
    scene.look(after=5)
    assert made == 200
    assert requests() - before <= 200 + 8
    # One more document each: its ledger segment, and the answer that there is no other yet.
    for k in range(200):
        scene.run.record(k, 200 + k)
        scene.run.work(k)
    scene.run.flush()
    before = requests()
    scene.look(after=5)
    assert requests() - before <= 3 * 200 + 8


def test_workers_that_are_done_are_not_asked_again() -> None:
    scene = Scene(documents=400, workers=20)
    for k in range(20):
        scene.run.live(k)
        scene.run.work(k, ended="complete")
    scene.look()
    scene.look(after=5)
    before = sum(scene.store.requests.values())
    scene.look(after=5)
    assert sum(scene.store.requests.values()) - before <= 8


def test_a_ledger_that_is_far_behind_is_caught_up_over_several_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.lookout, "SEGMENTS", 64)
    scene = Scene(documents=400, workers=1)
    scene.run.live(0)
    for index in range(150):
        scene.run.record(0, index, outcome=Outcome.CONVERTED)
        scene.run.flush()
    scene.run.work(0)
    assert not scene.look().caught_up
    assert scene.lookout.catch_up().caught_up
    assert scene.lookout.tally.converted == 150


def test_it_reads_folders_and_buckets(store: Store) -> None:
    run = WatchedRun(store, 10, 1)
    run.live(0)
    run.record(0, 1)
    run.flush()
    run.work(0)
    with Lookout(store, run.spec) as lookout:
        assert lookout.look().converted == 1
        assert lookout.tally.pages == 10


def test_a_store_that_is_away_is_an_error_and_no_empty_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.run.live(0)
    scene.look()

    def away(prefix: str = "", **more: object) -> object:
        raise StoreError("away")

    monkeypatch.setattr(scene.store, "list", away)
    with pytest.raises(StoreError, match="away"):
        scene.look()
