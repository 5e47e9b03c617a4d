"""A worker's life: what it takes over and what not, when it may publish, and what a later start does again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lives_kit
import pytest
from lives_kit import LOG, Case, Cases, Faults, Kind, cases, documents, ends_somehow, fence_all, quick

import tasks.candidates
import tasks.worker
from tasks.candidates import LOSSES, Candidates
from tasks.corpus import paths
from tasks.corpus.claims import Claim, Claimed, Claims, Holder
from tasks.corpus.failure_file import FailedDocuments
from tasks.corpus.failures import Category, Fenced, StoreError
from tasks.corpus.ledger import Outcome, Record, read_ledger
from tasks.corpus.lives import Heartbeat, Life, Observer, Process, fence, take_number, this_life
from tasks.corpus.manifest import Manifest
from tasks.corpus.partition import Bitmap
from tasks.corpus.runs import RunSpec
from tasks.corpus.settled import SettledBoard, Told, encode_settled
from tasks.corpus.store import Store
from tasks.engines.protocol import EngineName
from tasks.worker import Worker, WorkerSettings


@pytest.fixture
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cases]:
    with cases(monkeypatch) as make:
        yield make


def holder_of_everything(case: Case, spec: RunSpec, life: Life) -> str:
    """Another worker's life that claimed every document, and beat once; its prefix."""
    attempt = take_number(case.runs, paths.worker(spec.run_id, 7), "start.json", life)
    claims = Claims(case.runs, spec.run_id, Holder(worker=7, attempt=attempt))
    for index in range(spec.documents):
        assert claims.take(index % spec.partitions, index) is not None
    prefix = paths.life(spec.run_id, 7, attempt)
    beat(case, prefix, 1)
    return prefix


def beat(case: Case, prefix: str, counter: int, ended: str | None = None) -> None:
    case.runs.put(f"{prefix}heartbeat.json", Heartbeat(counter=counter, ended=ended).model_dump_json().encode())


ELSEWHERE = Life(process=Process(host="other/pid:[1]", pid=os.getpid(), started=0), hostname="other")


# -- takeover --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["released", "fenced", "ended"])
def test_what_was_given_up_is_taken_over(new_case: Cases, why: str) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    prefix = holder_of_everything(case, spec, this_life())
    match why:
        case "released":
            claims = Claims(case.runs, spec.run_id, Holder(worker=7, attempt=0))
            for claimed in list(claims.listed(0)):
                case.runs.create(paths.released(spec.run_id, 0, claimed.index, claimed.n), b"")
        case "fenced":
            fence(case.runs, prefix, "test")
        case "ended":
            beat(case, prefix, 2, ended="drained")
    assert case.live(spec).converted == 3
    case.check_published_once(spec)
    assert {record.claim for record in case.records(spec)} == {1}


@pytest.mark.parametrize("life", [this_life(), ELSEWHERE])
def test_what_a_living_life_holds_is_left_alone(new_case: Cases, life: Life) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    holder_of_everything(case, spec, life)
    summary = case.live(spec)
    assert (summary.assigned, summary.converted) == (0, 0)
    assert case.account(spec).remaining == 3


def test_a_killed_process_is_taken_over_and_fenced_first(new_case: Cases) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        process = Process(host=this_life().process.host, pid=child.pid, started=int(stat[19]))
        prefix = holder_of_everything(case, spec, Life(process=process, hostname="here"))
        assert case.live(spec).converted == 0
        assert case.runs.head(f"{prefix}fenced") is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    order: list[str] = []
    faults = Faults(on_call=lambda store, method, key: order.append(key) if method == "create" else None)
    assert case.live(spec, faults=faults).converted == 3
    first_claim = next(i for i, key in enumerate(order) if "/claims/" in key)
    assert order.index(f"{prefix}fenced") < first_claim
    case.check_published_once(spec)


class Ticking:
    """A clock that jumps at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("step", "expected"), [(20.0, 0), (61.0, 3)])
def test_a_silent_life_expires_by_the_observers_clock(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch, step: float, expected: int
) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    prefix = holder_of_everything(case, spec, ELSEWHERE)
    monkeypatch.setattr(tasks.candidates, "STALE_SECONDS", 0.0)
    clock = Ticking(step / 3)  # it looks once a document
    monkeypatch.setattr(tasks.candidates, "Observer", lambda store, _: Observer(store, clock))
    assert case.live(spec).converted == expected
    assert (case.runs.head(f"{prefix}fenced") is not None) == (expected > 0)


def test_a_life_that_beats_between_two_looks_does_not_expire(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    prefix = holder_of_everything(case, spec, ELSEWHERE)
    monkeypatch.setattr(tasks.candidates, "Observer", lambda store, _: Observer(store, Ticking(61.0)))
    monkeypatch.setattr(tasks.candidates, "STALE_SECONDS", 0.0)
    counter = [1]

    def beats(store: str, method: str, key: str) -> None:
        if (method, key) == ("read", f"{prefix}heartbeat.json"):
            counter[0] += 1
            beat(case, prefix, counter[0])

    assert case.live(spec, faults=Faults(on_call=beats)).converted == 0
    assert counter[0] > 2


def test_what_the_dead_had_settled_is_not_done_again(new_case: Cases) -> None:
    """Its last segment came after this life's first look at the ledger."""
    case = new_case(documents(2))
    spec = case.plan().spec
    ended = threading.Event()

    def first_ends_late(store: str, method: str, key: str) -> None:
        if method == "list" and "/claims/" in key and not ended.is_set():
            ended.set()
            case.live(spec, worker=1, workers=2)

    assert case.live(spec, faults=Faults(on_call=first_ends_late)).converted == 0
    case.check_published_once(spec)


# -- doubt and fences ------------------------------------------------------------------------------------------------


class Boot:
    """CLOCK_BOOTTIME, moved by the test."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Boot:
    clock = Boot()
    monkeypatch.setattr("tasks.pulse.boot_seconds", clock)
    return clock


def before_publishing(case: Case, spec: RunSpec, boot: Boot, seconds: float, then: str) -> tuple[Faults, list[str]]:
    """Time stands still for the holder right before the intent is written; what it calls from there on."""
    calls: list[str] = []
    prefix = paths.life(spec.run_id, 0, 0)

    def on_call(store: str, method: str, key: str) -> None:
        if not calls and method == "create" and "ledger-" in key:
            boot.now += seconds
            if "fence" in then:
                fence(case.runs, prefix, "another observer")
            if "take over" in then:
                claims = Claims(case.runs, spec.run_id, Holder(worker=7, attempt=0))
                assert claims.take(0, 0, 1) is not None
        if calls or (method == "create" and "ledger-" in key):
            calls.append(f"{method} {key.removeprefix(prefix)}")

    return Faults(on_call=on_call), calls


def test_a_holder_in_doubt_reads_its_fence_and_its_claim_before_it_publishes(new_case: Cases, boot: Boot) -> None:
    case = new_case(documents(1))
    spec = case.plan().spec
    faults, calls = before_publishing(case, spec, boot, 45.0, "nothing")
    assert case.live(spec, faults=faults).converted == 1
    until = calls[: calls.index("create d000.md")]
    assert "head fenced" in until
    assert any(call.startswith("list ") and "/claims/" in call for call in until)
    assert "put heartbeat.json" in until
    case.check_published_once(spec)


def test_a_holder_without_doubt_asks_nothing(new_case: Cases, boot: Boot) -> None:
    case = new_case(documents(1))
    spec = case.plan().spec
    faults, calls = before_publishing(case, spec, boot, 44.9, "nothing")
    case.live(spec, faults=faults)
    assert calls[:2] == ["create ledger-000000.jsonl", "create d000.md"]


@pytest.mark.parametrize("then", ["fence", "take over", "fence and take over"])
def test_a_holder_in_doubt_that_is_over_publishes_nothing(new_case: Cases, boot: Boot, then: str) -> None:
    case = new_case(documents(1))
    spec = case.plan().spec
    faults, calls = before_publishing(case, spec, boot, 45.0, then)
    with pytest.raises(Fenced, match="worker 0/0 was fenced"):
        case.live(spec, faults=faults)
    assert "create d000.md" not in calls
    assert case.account(spec).remaining == 1


def test_a_zombie_that_woke_and_beat_still_learns_of_its_fence(new_case: Cases, boot: Boot) -> None:
    """Its pulse beats before it looks: that beat must not make it think that all is well."""
    case = new_case(documents(1))
    spec = case.plan().spec
    workers: list[Worker] = []

    def make(settings: WorkerSettings, log: object) -> Worker:
        workers.append(Worker(settings, LOG))
        return workers[0]

    def on_call(store: str, method: str, key: str) -> None:
        if method == "create" and "ledger-000000" in key:
            boot.now += 70
            fence(case.runs, paths.life(spec.run_id, 0, 0), "another observer")
            workers[0]._pulse.beat()

    with pytest.raises(Fenced):
        case.live(spec, faults=Faults(on_call=on_call), make=make)
    assert case.output.head("d000.md") is None


def test_a_life_that_was_fenced_drains_and_gives_back(new_case: Cases) -> None:
    case = new_case(documents(12))
    spec = case.plan().spec

    def on_call(store: str, method: str, key: str) -> None:
        if (store, method, key) == ("output", "create", "d002.md"):
            fence(case.runs, paths.life(spec.run_id, 0, 0), "test")

    error = ends_somehow(
        lambda: case.live(
            spec, faults=Faults(on_call=on_call), beat_seconds=0.01, engine_options={"seconds": 0.05}, gone=False
        )
    )
    assert error is None or isinstance(error, Fenced)
    between = case.account(spec)
    assert 0 < between.converted < 12
    case.live(spec)
    case.check_published_once(spec)


# -- the next start --------------------------------------------------------------------------------------------------

MIXED = documents(2, bad="fail=DAMAGED", busy="fail=STORE retryable=yes", crash="fail=CRASHED")


def tries(case: Case, spec: RunSpec) -> dict[str, int]:
    """Final records of each failing document."""
    count = dict.fromkeys(("bad", "busy", "crash"), 0)
    for record in case.records(spec):
        if record.failure is not None:
            count[record.key.removesuffix(".pdf")] += 1
    return count


def test_what_a_start_tries_again(new_case: Cases) -> None:
    case = new_case(MIXED)
    spec = case.plan().spec
    case.live(spec, epoch=0)
    assert tries(case, spec) == {"bad": 1, "busy": 1, "crash": 1}
    account = case.account(spec)
    assert (account.converted, account.failed, account.quarantined, account.remaining) == (2, 2, 1, 0)
    # Within the same start nobody tries again what failed; neither does another worker.
    case.live(spec, epoch=0)
    case.live(spec, epoch=0, worker=1, workers=2)
    assert tries(case, spec) == {"bad": 1, "busy": 1, "crash": 1}
    case.live(spec, epoch=1)
    assert tries(case, spec) == {"bad": 1, "busy": 2, "crash": 1}
    case.live(spec, epoch=2, retry_failed=True)
    assert tries(case, spec) == {"bad": 2, "busy": 3, "crash": 2}
    case.live(spec, epoch=3)
    assert tries(case, spec) == {"bad": 2, "busy": 4, "crash": 2}
    assert case.account(spec).closes


def test_retries_within_a_life(new_case: Cases) -> None:
    case = new_case(
        {
            "once.pdf": b"%PDF-dummy fail-once=STORE\n",
            "never.pdf": b"%PDF-dummy fail=STORE\n",
            "bad.pdf": b"%PDF-dummy fail=DAMAGED\n",
        }
    )
    spec = case.plan().spec
    assert case.live(spec, retries=3).converted == 1
    attempts = {r.key: r.failure.attempts for r in case.records(spec) if r.failure is not None}
    assert attempts == {"never.pdf": 4, "bad.pdf": 1}


def test_a_document_that_changed_after_planning_fails_as_changed_and_a_missing_one_as_missing(new_case: Cases) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    case.put({"d000.pdf": b"%PDF-dummy pages=2\nanother version\n"})
    case.source.delete("d001.pdf")
    case.live(spec)
    found = {f.key: f.failure.category for f in case.reconcile(spec).failures}
    assert found == {"d000.pdf": Category.CHANGED, "d001.pdf": Category.MISSING}
    case.live(spec, epoch=1)
    assert case.account(spec).failed == 2
    later = case.plan().spec
    assert later.run_id != spec.run_id
    case.live(later)
    assert case.account(later).converted == 1


def test_the_number_of_workers_may_change_between_starts(new_case: Cases) -> None:
    case = new_case(documents(24))
    spec = case.plan(workers=2).spec
    for epoch, workers in enumerate((2, 3, 1)):
        for worker in range(workers):
            dying = Faults(
                at=2, kind=Kind.DIE_AFTER, match=lambda store, method, key: method == "create" and ".md" in key
            )
            faults = dying if workers > 1 else None
            ends_somehow(
                lambda worker=worker, workers=workers, epoch=epoch, faults=faults: case.live(
                    spec, worker=worker, workers=workers, epoch=epoch, faults=faults
                )
            )
    account = case.check_published_once(spec)
    assert account.recovered > 0
    claims = {info.key.split("/")[2] for info in case.runs.list(f"{spec.run_id}/claims/")}
    assert claims == {"0", "1"}
    for info in case.runs.list(f"{spec.run_id}/claims/"):
        _, _, partition, index, _ = info.key.split("/")
        assert int(index) % 2 == int(partition)


def test_the_failures_file_is_kept_over_lives(new_case: Cases) -> None:
    case = new_case(MIXED)
    spec = case.plan().spec
    case.live(spec)

    def file() -> dict[str, int]:
        found = FailedDocuments.model_validate_json(case.runs.read(paths.failures(spec.run_id, 0)))
        return {entry.key: entry.attempt for entry in found.failures}

    assert file() == {"bad.pdf": 0, "busy.pdf": 0, "crash.pdf": 0}
    case.live(spec, epoch=1)
    assert file() == {"bad.pdf": 0, "busy.pdf": 1, "crash.pdf": 0}


def test_local_disk_errors_are_records(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    case = new_case(documents(2))
    spec = case.plan().spec

    real = tempfile.mkdtemp

    def full(*args: object, **more: object) -> str:
        if more.get("prefix") == "document-":
            raise OSError(28, "No space left on device")
        return str(real(*args, **more))

    monkeypatch.setattr("tasks.document.tempfile.mkdtemp", full)
    assert case.live(spec).failed == 2
    assert case.account(spec).categories == {"DISK_FULL": 2}
    monkeypatch.undo()


# -- drain -----------------------------------------------------------------------------------------------------------


def test_a_drain_gives_back_what_it_kept_from_being_tried_again(new_case: Cases) -> None:
    """The store fails while the worker is asked to stop: no failure is held against the document."""
    case = new_case(documents(1))
    spec = case.plan().spec
    workers: list[Worker] = []

    def make(settings: WorkerSettings, log: object) -> Worker:
        workers.append(Worker(settings, LOG))
        return workers[0]

    def on_call(store: str, method: str, key: str) -> None:
        if store == "source" and method == "fetch":
            workers[0].drain("spot notice")
            raise StoreError("500")

    summary = case.live(spec, faults=Faults(on_call=on_call), make=make, gone=False)
    assert (summary.released, summary.failed, summary.stopped) == (1, 0, "spot notice")
    assert list(Claims(case.runs, spec.run_id, Holder(worker=0, attempt=0)).listed(0)) == [Claimed(0, 0, True)]
    assert case.account(spec).remaining == 1
    case.live(spec)
    case.check_published_once(spec)


def test_a_drain_from_the_thread_that_holds_the_lock_does_not_deadlock(new_case: Cases) -> None:
    worker = Worker(WorkerSettings(runs="r", run_id="r", worker=0, workers=1), LOG)
    done = threading.Event()

    def as_a_signal_handler_would() -> None:
        with worker._lock:
            worker.drain("SIGTERM", grace=0.0)
        done.set()

    threading.Thread(target=as_a_signal_handler_would, daemon=True).start()
    assert done.wait(5)
    worker._finished.set()


def test_a_real_sandbox_that_is_killed_by_a_drain_gives_its_document_back(new_case: Cases) -> None:
    case = new_case({"long.pdf": b"%PDF-dummy seconds=60\n"}, real=True)
    spec = case.plan().spec
    workers: list[Worker] = []

    def make(settings: WorkerSettings, log: object) -> Worker:
        workers.append(Worker(settings, LOG))
        return workers[0]

    def drain_when_in_hand() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            pulse = getattr(workers[0], "_pulse", None) if workers else None
            if pulse is not None and pulse._state.page == 1:
                workers[0].drain("spot notice", grace=0.05)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=drain_when_in_hand)
    thread.start()
    summary = case.live(spec, make=make, gone=False)
    thread.join()
    assert (summary.released, summary.stopped) == (1, "spot notice")
    assert [record.outcome for record in case.records(spec)] == [Outcome.RELEASED]
    assert case.account(spec).remaining == 1


def test_an_engine_child_that_dies_twice_quarantines_its_document(new_case: Cases) -> None:
    case = new_case(documents(1, crash="crash", weak="crash-once"), real=True)
    spec = case.plan().spec
    assert case.live(spec).converted == 2
    account = case.account(spec)
    assert (account.converted, account.quarantined, account.closes) == (2, 1, True)
    assert case.options.engine is EngineName.DUMMY


# -- candidates ------------------------------------------------------------------------------------------------------


def chosen(case: Case, spec: RunSpec, folder: Path, **more: Any) -> tuple[Candidates, Claims]:
    """What a life that never ran would choose."""
    me = Holder(worker=more.pop("worker", 0), attempt=9)
    claims = Claims(case.runs, spec.run_id, me)
    manifest = Manifest(folder / "manifest")
    case.runs.fetch(spec.manifest, manifest.path)
    given = {"workers": spec.partitions, "epoch": 0, "retry_failed": False, "patient": quick} | more
    return Candidates(case.runs, spec, manifest, folder, claims, me, **given), claims


def weights(sizes: list[int]) -> dict[str, bytes]:
    return {f"d{number:02}.pdf": f"%PDF-dummy {'x' * size}\n".encode() for number, size in enumerate(sizes)}


def test_the_heaviest_comes_first_and_thieves_take_the_lightest(new_case: Cases, tmp_path: Path) -> None:
    sizes = [10, 500, 30, 70, 500, 20, 90, 60]
    case = new_case(weights(sizes), workers=2)
    spec = case.plan().spec
    mine, claims = chosen(case, spec, tmp_path)
    assert [row.index for row, _ in mine.own()] == [4, 6, 2, 0]
    assert mine.assigned == 4
    # The other partition has 1 (500), 3 (70), 5 (20), 7 (60); one of them is another's by now.
    other = Claims(case.runs, spec.run_id, Holder(worker=1, attempt=0))
    assert other.take(1, 1) is not None
    for index in (0, 2, 4, 6):
        assert claims.take(0, index) is not None
        mine.took(index, 0, True)
    assert [(row.index, n) for row, n in mine.far_ends()] == [(5, 0), (7, 0), (3, 0)]


def test_the_sample_comes_before_all_and_is_not_given_twice(new_case: Cases, tmp_path: Path) -> None:
    case = new_case(weights([10, 500, 30, 70]), workers=2)
    spec = case.plan().spec
    mine, claims = chosen(case, spec, tmp_path, sample=[3, 0])
    found = []
    for row, n in mine.own():
        found.append(row.index)
        mine.took(row.index, n, claims.take(mine.partition(row.index), row.index, n) is not None)
    assert found == [3, 0, 2]
    assert mine.assigned == 3


def test_what_others_took_is_taken_off_the_assigned_ones_once(new_case: Cases, tmp_path: Path) -> None:
    case = new_case(weights([10, 500, 30, 70, 500, 20, 90, 60]), workers=2)
    spec = case.plan().spec
    mine, claims = chosen(case, spec, tmp_path, sample=[0])
    other = Claims(case.runs, spec.run_id, Holder(worker=1, attempt=0))
    assert mine.assigned == 4
    source = mine.own()
    row, n = next(source)
    assert (row.index, other.take(0, 0) is not None) == (0, True)
    mine.took(0, n, claims.take(0, 0, n) is not None)
    assert mine.assigned == 3
    assert next(source)[0].index == 4
    mine.took(4, 0, claims.take(0, 4) is not None)
    mine.finish(6)  # another life settled it, as the parent says
    assert [row.index for row, _ in source] == [2]
    assert mine.assigned == 2


def test_thieves_of_one_partition_go_their_own_ways(new_case: Cases, tmp_path: Path) -> None:
    case = new_case(weights([10 + number for number in range(80)]), workers=2)
    spec = case.plan().spec
    orders = []
    for worker in (2, 4):  # both begin with partition 1
        folder = tmp_path / str(worker)
        folder.mkdir()
        thief, _ = chosen(case, spec, folder, worker=worker)
        orders.append([row.index for row, _ in thief.far_ends()])
    one, other = orders
    assert one[0] % 2 == other[0] % 2
    assert one != other
    for order in orders:
        assert sorted(order) == list(range(80))
        # A window is a quarter of a partition's 40: by tens, what is lighter comes first.
        mine = [index // 2 for index in order if index % 2 == 1]
        assert [sorted(mine[at : at + 10]) for at in range(0, 40, 10)] == [
            list(range(at, at + 10)) for at in range(0, 40, 10)
        ]


def test_a_thief_that_loses_goes_on_and_lists_the_claims_again_after_some_losses(
    new_case: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = new_case(weights([10 + number for number in range(40)]), workers=1)
    spec = case.plan().spec
    now = [0.0]
    thief, claims = chosen(case, spec, tmp_path, worker=1, clock=lambda: now[0])
    listed: list[str] = []
    listing = type(case.runs).list

    def counted(self: Any, prefix: str = "", **more: Any) -> Any:
        listed.append(prefix)
        return listing(self, prefix, **more)

    monkeypatch.setattr(type(case.runs), "list", counted)
    other = Claims(case.runs, spec.run_id, Holder(worker=0, attempt=0))
    source = thief.far_ends()
    for losses in range(1, LOSSES + 1):
        now[0] += 10.0
        row, n = next(source)
        assert other.take(0, row.index) is not None
        thief.took(row.index, n, claims.take(0, row.index, n) is not None)
        assert sum("/claims/" in prefix for prefix in listed) == 1 + (losses == LOSSES)


def test_after_a_rebalance_recommendation_long_documents_are_left_to_others(new_case: Cases, tmp_path: Path) -> None:
    case = new_case(weights([10, 500, 30, 70]), workers=1)
    spec = case.plan().spec
    mine, _ = chosen(case, spec, tmp_path)
    mine.heaviest = 60
    assert [row.index for row, _ in mine.own()] == [2, 0]
    assert mine.passed_over == 2


def test_a_listing_that_breaks_off_is_begun_again(
    monkeypatch: pytest.MonkeyPatch, new_case: Cases, tmp_path: Path
) -> None:
    case = new_case(weights([1] * 6), workers=1)
    spec = case.plan().spec
    mine, claims = chosen(case, spec, tmp_path)
    for index in range(3):
        assert Claims(case.runs, spec.run_id, Holder(worker=5, attempt=0)).take(0, index) is not None
    listed, broken = claims.listed, [2, 1]

    def breaking(partition: int) -> Iterator[Claimed]:
        stop = broken.pop(0) if broken else None
        for place, claimed in enumerate(listed(partition)):
            if place == stop:
                raise StoreError("500")
            yield claimed

    mine._table._listed = breaking
    assert sorted(row.index for row, _ in mine.own()) == [3, 4, 5]
    assert broken == []


def test_what_the_parent_found_settled_is_not_looked_for_in_the_ledger(
    monkeypatch: pytest.MonkeyPatch, new_case: Cases, tmp_path: Path
) -> None:
    case = new_case(documents(4), workers=1)
    spec = case.plan().spec
    SettledBoard(case.runs, spec.run_id, 0, 4, False).begin(these(4, 1, 3), resumed=False)
    monkeypatch.setattr(tasks.candidates, "read_ledger", lambda *_: pytest.fail("read the ledger"))
    mine, _ = chosen(case, spec, tmp_path)
    assert sorted(row.index for row, _ in mine.own()) == [0, 2]


def these(documents: int, *indices: int) -> Bitmap:
    found = Bitmap(documents)
    for index in indices:
        found.add(index)
    return found


@pytest.mark.parametrize(
    ("how", "ledger_reads"), [("live", 0), ("of the start", 1), ("foreign", 2), ("damaged", 2), ("missing", 2)]
)
def test_thieves_read_what_the_parent_says_and_the_ledger_where_it_says_nothing(
    monkeypatch: pytest.MonkeyPatch, new_case: Cases, tmp_path: Path, how: str, ledger_reads: int
) -> None:
    """Once when a life begins, where nothing can be read, and once for each pass."""
    case = new_case(weights([10, 500, 30, 70]), workers=2)
    spec = case.plan().spec
    settled = these(4, 1)
    board = SettledBoard(case.runs, spec.run_id, 0, 4, False)
    match how:
        case "live" | "of the start":
            board.begin(settled, resumed=how == "live")
        case "foreign":
            other = encode_settled("another", 0, 4, Told(settled, True))
            case.runs.put(paths.settled(spec.run_id, 0), other)
        case "damaged":
            whole = encode_settled(spec.run_id, 0, 4, Told(settled, True))
            case.runs.put(paths.settled(spec.run_id, 0), whole[:-3])
    reads: list[list[str]] = []

    def reading(store: Store, prefixes: list[str]) -> Iterator[Record]:
        reads.append(prefixes)
        return read_ledger(store, prefixes)

    monkeypatch.setattr(tasks.candidates, "read_ledger", reading)
    mine, _ = chosen(case, spec, tmp_path)
    stolen = {row.index for row, _ in mine.far_ends()} - {0, 2}
    assert stolen == ({3} if how in ("live", "of the start") else {1, 3})
    assert len(reads) == ledger_reads


class Hand:
    """A monotonic clock, moved by the test."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_claim_is_read_once_and_not_at_all_where_the_parent_says_that_it_is_settled(
    monkeypatch: pytest.MonkeyPatch, new_case: Cases, tmp_path: Path
) -> None:
    case = new_case(weights([10, 500, 30, 70]), workers=2)
    spec = case.plan().spec
    board = SettledBoard(case.runs, spec.run_id, 0, 4, False)
    board.begin(these(4, 2), resumed=True)
    prefix = holder_of_everything(case, spec, ELSEWHERE)
    clock = Hand()
    mine, claims = chosen(case, spec, tmp_path, clock=clock)
    reads: list[int] = []
    holder = claims.holder

    def reading(partition: int, index: int, n: int) -> Holder:
        reads.append(index)
        return holder(partition, index, n)

    monkeypatch.setattr(claims, "holder", reading)
    for _ in range(3):
        assert list(mine.far_ends()) == []
        clock.now += 15.0
    assert sorted(reads) == [0, 1, 3]
    # What it held is settled, was given back, or is held by somebody else by now: only that claim is another one.
    board.begin(these(4, 0), resumed=True)
    claims.release(Claim(1, 1, 0))
    assert Claims(case.runs, spec.run_id, Holder(worker=7, attempt=0)).take(1, 1, 1) is not None
    beat(case, prefix, 2)
    clock.now += 30.0
    assert list(mine.far_ends()) == []
    assert sorted(reads) == [0, 1, 1, 3]


def test_before_claims_are_read_the_parent_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, new_case: Cases, tmp_path: Path
) -> None:
    """A pass may take hours: most that others claimed meanwhile is settled by the time that it is met."""
    case = new_case(weights([10, 20, 30, 40]), workers=2)
    spec = case.plan().spec
    board = SettledBoard(case.runs, spec.run_id, 0, 4, False)
    board.begin(these(4), resumed=True)
    clock = Hand()
    mine, claims = chosen(case, spec, tmp_path, clock=clock)
    others = mine.far_ends()
    row, n = next(others)
    assert row.index == 1
    assert claims.take(1, 1, n) is not None
    mine.took(1, n, True)
    holder = Claims(case.runs, spec.run_id, Holder(worker=7, attempt=0))
    for index in (0, 2, 3):
        assert holder.take(index % 2, index) is not None
    board.begin(these(4, 0, 2, 3), resumed=True)
    clock.now += 600.0
    monkeypatch.setattr(claims, "holder", lambda *_: pytest.fail("read a claim"))
    mine._refresh(1)
    assert list(others) == []


def test_a_life_that_was_adopted_reads_what_its_new_parent_says(new_case: Cases, tmp_path: Path) -> None:
    case = new_case(weights([10, 20, 30, 40]), workers=2)
    spec = case.plan().spec
    SettledBoard(case.runs, spec.run_id, 0, 4, False).begin(these(4), resumed=True)
    parent = [0]
    mine, _ = chosen(case, spec, tmp_path, parent=lambda: parent[0])
    SettledBoard(case.runs, spec.run_id, 1, 4, False).begin(these(4, 0, 1, 2), resumed=True)
    parent[0] = 1
    assert [row.index for row, _ in mine.far_ends()] == [3]


def test_fenced_by_the_supervisor_is_how_the_kit_ends_lives(new_case: Cases) -> None:
    """What the other tests rely on: a life that died is over once it was fenced, and one that ended needs no fence."""
    case = new_case(documents(1))
    spec = case.plan().spec
    case.live(spec, gone=False)
    fence_all(case, spec)
    assert case.runs.head(f"{paths.life(spec.run_id, 0, 0)}fenced") is None


def test_what_a_former_holder_settled_is_its_own_to_count(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    assert case.live(spec).converted == 3
    before = case.records(spec)
    # The next life sees none of it when it looks back: as if the last segments had come only then.
    monkeypatch.setattr(tasks.candidates.Candidates, "_mark", lambda candidates, records: None)
    caplog.clear()
    summary = case.live(spec)
    assert (summary.assigned, summary.converted, summary.processed) == (0, 0, 0)
    assert "Converted" not in caplog.text
    assert case.records(spec) == before
    assert case.check_published_once(spec).converted == 3


def test_what_may_take_long_is_not_kept_from_others(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two documents are claimed ahead only once one was quick; a long one's worker holds nothing else."""
    case = new_case({f"{name}.pdf": f"%PDF-dummy seconds=0.3\n{name}".encode() for name in "abcdef"})
    spec = case.plan().spec
    held: list[int] = []
    convert = lives_kit.InProcess.convert

    def looking(self: lives_kit.InProcess, *given: Any) -> Any:
        found = convert(self, *given)
        claims = [info.key for info in case.runs.list(paths.claims(spec.run_id, 0)) if info.key.endswith("/0")]
        held.append(len(claims) - len(held))
        return found

    monkeypatch.setattr(lives_kit.InProcess, "convert", looking)
    monkeypatch.setattr("tasks.pool.QUICK_SECONDS", 0.1)
    case.live(spec)
    assert held == [1] * 6
    case = new_case({f"{name}.pdf": f"%PDF-dummy seconds=0.3\n{name}".encode() for name in "abcdef"})
    spec = case.plan().spec
    held.clear()
    monkeypatch.setattr("tasks.pool.QUICK_SECONDS", 10.0)
    case.live(spec)
    assert held[0] == 1
    assert max(held) > 1
