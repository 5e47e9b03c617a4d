"""Which run a call means, and whether another one is living on the same output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lives_kit import Cases, Death, Faults, Kind, cases, dead_process, documents, ends_somehow

from tasks.corpus import paths
from tasks.corpus.failures import StoreError, UsageError
from tasks.corpus.lives import Heartbeat, Life, Observer, Process, take_number, this_life
from tasks.corpus.runs import Start, claim_output, latest, new_run_id, read_run, resolve, starts
from tasks.corpus.store import Store
from tasks.corpus.store_folder import FolderStore


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cases]:
    with cases(monkeypatch) as make:
        yield make


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    return FolderStore.from_url(str(tmp_path / "runs"), create=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


ELSEWHERE = Life(process=Process(host="other/pid:[1]", pid=os.getpid(), started=0), hostname="other")


def started(runs: Store, life: Life, *, number: int = 0, run_id: str = "old", counter: int | None = 1) -> str:
    """A start of another process, with a parent's lease and heartbeat unless `counter` is None; the lease's prefix."""
    start = Start(run_id=run_id, at="2026-01-01T00:00:00+00:00", life=life)
    runs.create(paths.start(number), start.model_dump_json().encode())
    if counter is None:
        return ""
    epoch = take_number(runs, paths.parents(run_id), "lease.json", life)
    beat(runs, paths.parent(run_id, epoch), counter)
    return paths.parent(run_id, epoch)


def beat(runs: Store, prefix: str, counter: int, ended: str | None = None) -> None:
    runs.put(f"{prefix}heartbeat.json", Heartbeat(counter=counter, ended=ended).model_dump_json().encode())


def claim(runs: Store, clock: Clock, run_id: str = "new") -> None:
    claim_output(runs, run_id, Observer(runs, clock), clock.sleep)


def test_the_first_run_takes_the_output(store: Store, clock: Clock) -> None:
    claim(store, clock)
    ((number, start),) = starts(store)
    assert (number, start.run_id, start.life.process) == (0, "new", this_life().process)
    assert clock.now == 0


def test_a_living_run_of_this_host_is_refused_at_once(runs: Store, clock: Clock) -> None:
    started(runs, this_life())
    with pytest.raises(UsageError, match=r"another run \(old\) is converting into this output .* wait for it, stop it"):
        claim(runs, clock)
    assert clock.now == 0
    assert len(starts(runs)) == 1


@pytest.mark.parametrize("counter", [None, 1])
def test_a_dead_process_of_this_host_is_taken_over_at_once(runs: Store, clock: Clock, counter: int | None) -> None:
    started(runs, Life(process=dead_process(), hostname="here"), counter=counter)
    claim(runs, clock)
    assert (clock.now, [start.run_id for _, start in starts(runs)]) == (0, ["old", "new"])


def test_a_run_that_ended_in_order_is_over_though_its_process_goes_on(runs: Store, clock: Clock) -> None:
    prefix = started(runs, this_life())
    beat(runs, prefix, 5, ended="ended")
    claim(runs, clock)
    assert clock.now == 0


def test_a_run_of_another_host_is_refused_when_its_counter_moves(runs: Store, clock: Clock) -> None:
    prefix = started(runs, ELSEWHERE)
    clock.on_sleep = lambda: beat(runs, prefix, 2) if clock.now >= 15 else None
    with pytest.raises(UsageError, match="on other"):
        claim(runs, clock)
    assert 15 <= clock.now <= 16


def test_a_run_of_another_host_is_taken_over_after_60_s_of_silence(runs: Store, clock: Clock) -> None:
    started(runs, ELSEWHERE)
    claim(runs, clock)
    assert 60 <= clock.now <= 76
    assert len(starts(runs)) == 2


def test_a_start_of_another_host_that_came_to_nothing_is_waited_out(runs: Store, clock: Clock) -> None:
    started(runs, ELSEWHERE, counter=None)
    claim(runs, clock)
    assert clock.now <= 76


def test_a_lease_that_appears_while_watching_is_living(runs: Store, clock: Clock) -> None:
    started(runs, ELSEWHERE, counter=None)

    def plans_and_begins() -> None:
        if clock.now == 20:
            epoch = take_number(runs, paths.parents("old"), "lease.json", ELSEWHERE)
            beat(runs, paths.parent("old", epoch), 1)

    clock.on_sleep = plans_and_begins
    with pytest.raises(UsageError, match="another run"):
        claim(runs, clock)


def joined(runs: Store, *workers: Life, starter: Life = ELSEWHERE) -> list[str]:
    """A run of workers that no parent launched, each with its first heartbeat; their lives' prefixes."""
    started(runs, starter, counter=None)
    prefixes = []
    for worker, life in enumerate(workers):
        attempt = take_number(runs, paths.worker("old", worker), "start.json", life)
        prefixes.append(paths.life("old", worker, attempt))
        beat(runs, prefixes[-1], 1)
    return prefixes


@pytest.mark.parametrize("starter", [ELSEWHERE, Life(process=dead_process(), hostname="here")], ids=["away", "gone"])
def test_workers_without_a_parent_are_a_living_run(runs: Store, clock: Clock, starter: Life) -> None:
    """The one that made the run has ended, and was of this host perhaps; another one, elsewhere, goes on."""
    ended, beats = joined(runs, starter, ELSEWHERE, starter=starter)
    beat(runs, ended, 9, ended="complete")
    clock.on_sleep = lambda: beat(runs, beats, 2) if clock.now >= 15 else None
    with pytest.raises(UsageError) as raised:
        claim(runs, clock)
    assert str(raised.value) == (
        "another run (old) is converting into this output since 2026-01-01T00:00:00+00:00 (its worker 1, on other): "
        "wait for it, stop it, or choose another output"
    )
    assert 15 <= clock.now <= 16
    assert len(starts(runs)) == 1


def test_a_worker_without_a_parent_on_this_host_is_refused_at_once(runs: Store, clock: Clock) -> None:
    joined(runs, ELSEWHERE, this_life())
    with pytest.raises(UsageError, match=r"its worker 1, on "):
        claim(runs, clock)
    assert clock.now == 0


def test_a_worker_that_joins_while_watching_is_living(runs: Store, clock: Clock) -> None:
    joined(runs, ELSEWHERE)

    def joins() -> None:
        if clock.now == 20:
            take_number(runs, paths.worker("old", 3), "start.json", ELSEWHERE)

    clock.on_sleep = joins
    with pytest.raises(UsageError, match=r"its worker 3, on other"):
        claim(runs, clock)


def test_workers_without_a_parent_that_say_nothing_are_taken_over_after_60_s(runs: Store, clock: Clock) -> None:
    joined(runs, ELSEWHERE, ELSEWHERE)
    claim(runs, clock)
    assert 60 <= clock.now <= 76
    assert len(starts(runs)) == 2


def test_workers_without_a_parent_that_ended_in_order_are_nothing_to_wait_for(runs: Store, clock: Clock) -> None:
    for prefix in joined(runs, ELSEWHERE, ELSEWHERE):
        beat(runs, prefix, 7, ended="complete")
    claim(runs, clock)
    assert clock.now == 0


def test_workers_that_a_parent_launched_are_its_successors_to_adopt(runs: Store, clock: Clock) -> None:
    started(runs, Life(process=dead_process(), hostname="here"))
    take_number(runs, paths.worker("old", 0), "start.json", this_life())
    claim(runs, clock, "old")
    assert clock.now == 0


def test_who_comes_second_sees_the_first(runs: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw a free output; the other's start lands first."""
    create = runs.create

    def beaten(key: str, data: bytes, metadata: object = None) -> bool:
        monkeypatch.undo()
        started(runs, this_life(), run_id="first", counter=None)
        return create(key, data)

    monkeypatch.setattr(runs, "create", beaten)
    with pytest.raises(UsageError, match=r"another run \(first\)"):
        claim(runs, clock)


def test_a_lost_response_does_not_make_a_run_refuse_itself(
    runs: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = runs.create
    monkeypatch.setattr(runs, "create", lambda key, data, metadata=None: create(key, data) and False)
    claim(runs, clock)
    assert len(starts(runs)) == 1


def test_the_latest_run_is_the_last_that_came_to_be(new_case: Cases) -> None:
    case = new_case(documents(1))
    first = case.plan().spec
    assert latest(case.runs) == first.run_id
    started(case.runs, Life(process=dead_process(), hostname="here"), number=1, run_id="stillborn", counter=None)
    assert latest(case.runs) == first.run_id
    assert resolve(case.runs, None) == first
    assert resolve(case.runs, first.run_id) == first


def test_unknown_runs_are_named_with_what_there_is(runs: Store, new_case: Cases) -> None:
    with pytest.raises(UsageError, match=r"there are no runs in .*: convert something first"):
        resolve(runs, None)
    with pytest.raises(UsageError, match=r"unknown run id 'x' in .*: there are no runs there yet"):
        read_run(runs, "x")
    case = new_case(documents(1))
    first = case.plan().spec
    with pytest.raises(UsageError, match=rf"unknown run id 'x' in .*: the latest is {first.run_id}"):
        case.plan(run_id="x")
    for bad in ("", "../x", "a/b", ".", "-x", "x" * 65, "x\n"):
        with pytest.raises(UsageError, match="bad run id"):
            read_run(runs, bad)


def test_a_run_of_another_version_is_refused(new_case: Cases) -> None:
    case = new_case(documents(1))
    spec = case.plan().spec
    key = paths.run(spec.run_id)
    case.runs.put(key, spec.model_copy(update={"schema_version": 99}).model_dump_json().encode())
    with pytest.raises(UsageError, match=r"another version \(schema 99\)"):
        read_run(case.runs, spec.run_id)
    case.runs.put(key, b"{}")
    with pytest.raises(UsageError, match=r"run.json can't be read"):
        read_run(case.runs, spec.run_id)


def test_run_ids_sort_by_time_and_are_good_folder_names() -> None:
    assert len({new_run_id() for _ in range(200)}) > 150
    assert paths.check_run_id(new_run_id())


def test_planning_dies_at_any_call_and_the_next_one_completes(new_case: Cases) -> None:
    for kind in (Kind.DIE_BEFORE, Kind.DIE_AFTER, Kind.FAIL, Kind.LOST):
        at = 0
        while True:
            case = new_case(documents(2))
            faults = Faults(at=at, kind=kind)
            error = ends_somehow(lambda case=case, faults=faults: case.plan(faults=faults))
            if not faults.hit:
                break
            assert error is None or isinstance(error, (Death, StoreError, UsageError))
            planned = case.plan()
            case.live(planned.spec)
            case.check_published_once(planned.spec)
            assert latest(case.runs) == planned.spec.run_id
            at += 1
        assert at > 8
