"""Lives: numbers are taken once, and a life is over only for a reason that no clock of another machine has a part in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives_kit import dead_process
from memory_store import MemoryStore

from tasks.corpus.failure_file import FailureFile
from tasks.corpus.failures import Fenced, StoreError
from tasks.corpus.ledger import LedgerWriter
from tasks.corpus.lives import (
    EXPIRY_SECONDS,
    Heartbeat,
    Life,
    NumberTaken,
    Observer,
    Process,
    fence,
    numbers,
    take_number,
    take_this,
    this_life,
)
from tasks.corpus.store import Store
from tasks.corpus.store_folder import FolderStore
from tasks.pulse import Pulse

PREFIX = "run/workers/0/0/"


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return FolderStore.from_url(str(tmp_path / "runs"), create=True)


def beat(store: Store, counter: int, ended: str | None = None) -> None:
    store.put(f"{PREFIX}heartbeat.json", Heartbeat(counter=counter, ended=ended).model_dump_json().encode())


def elsewhere() -> Life:
    """A life on another host."""
    return Life(process=Process(host="other/pid:[1]", pid=os.getpid(), started=0), hostname="other")


def test_two_lives_never_share_a_number(store: Store) -> None:
    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(lambda _: take_number(store, "run/workers/0/", "start.json", elsewhere()), range(6)))
    assert sorted(taken) == list(range(6))
    assert numbers(store, "run/workers/0/") == list(range(6))


def test_a_number_is_higher_than_all_before_it(folder: Store) -> None:
    folder.create("w/4/start.json", b"{}")
    folder.create("w/11/start.json", b"{}")
    assert take_number(folder, "w/", "start.json", elsewhere()) == 12
    assert numbers(folder, "w/") == [4, 11, 12]


def test_one_number_and_no_other(store: Store) -> None:
    mine, others = this_life(), elsewhere()
    assert take_this(store, "w/", 3, "start.json", mine) == 3
    with pytest.raises(NumberTaken):
        take_this(store, "w/", 3, "start.json", others)
    # It was taken, and only the answer was lost.
    assert take_this(store, "w/", 3, "start.json", mine) == 3
    store.put("w/4/start.json", b"no life")
    with pytest.raises(NumberTaken):
        take_this(store, "w/", 4, "start.json", mine)
    assert numbers(store, "w/") == [3, 4]


def test_a_life_that_beats_is_never_over(folder: Store, clock: Clock) -> None:
    folder.create(f"{PREFIX}start.json", elsewhere().model_dump_json().encode())
    observer = Observer(folder, clock)
    for counter in range(50):
        beat(folder, counter)
        assert observer.over(PREFIX) is None
        clock.now += EXPIRY_SECONDS - 1


@pytest.mark.parametrize("beaten", [True, False])
def test_a_counter_that_stands_still_for_60_s_expires(folder: Store, clock: Clock, beaten: bool) -> None:
    folder.create(f"{PREFIX}start.json", elsewhere().model_dump_json().encode())
    if beaten:
        beat(folder, 7)
    observer = Observer(folder, clock)
    assert observer.over(PREFIX) is None
    clock.now += EXPIRY_SECONDS - 0.1
    assert observer.over(PREFIX) is None
    clock.now += 0.1
    assert observer.over(PREFIX) == "expired"


def test_each_observer_watches_for_itself(folder: Store, clock: Clock) -> None:
    beat(folder, 7)
    first = Observer(folder, clock)
    first.over(PREFIX)
    clock.now += 2 * EXPIRY_SECONDS
    assert Observer(folder, clock).over(PREFIX) is None
    assert first.over(PREFIX) == "expired"


def test_wall_clocks_have_no_part_in_it(
    folder: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder.create(f"{PREFIX}start.json", elsewhere().model_dump_json().encode())
    beat(folder, 7)
    for file in (tmp_path / "runs").rglob("*.json"):
        os.utime(file, (1, 1))
    observer = Observer(folder, clock)
    observer.over(PREFIX)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(time, "time_ns", lambda: 4 * 10**18)
    assert observer.over(PREFIX) is None


@given(st.lists(st.tuples(st.floats(0, 70), st.booleans()), max_size=30))
def test_expiry_is_60_s_without_a_beat_by_the_observers_clock(steps: list[tuple[float, bool]]) -> None:
    """A model: time passes, the holder beats or does not, the observer looks."""
    clock, content = Clock(), {"counter": 0}

    class Memory(FolderStore):
        def __init__(self) -> None:
            """No folder: only what an observer reads."""

        def head(self, key: str) -> None:
            return None

        def read(self, key: str) -> bytes:
            if key.endswith("start.json"):
                return elsewhere().model_dump_json().encode()
            return Heartbeat(counter=content["counter"]).model_dump_json().encode()

    observer = Observer(Memory(), clock)
    observer.over(PREFIX)
    seen, over = clock.now, False
    for seconds, beats in steps:
        clock.now += seconds
        content["counter"] += beats
        if beats and not over:
            seen = clock.now
        over = over or clock.now - seen >= EXPIRY_SECONDS
        assert (observer.over(PREFIX) == "expired") == over


def test_fenced_ended_and_gone_are_over_at_once(folder: Store, clock: Clock) -> None:
    observer = Observer(folder, clock)
    folder.create(f"{PREFIX}start.json", this_life().model_dump_json().encode())
    assert observer.over(PREFIX) is None
    beat(folder, 3, ended="drained")
    assert observer.over(PREFIX) == "ended: drained"
    assert fence(folder, PREFIX, "test")
    assert not fence(folder, PREFIX, "again")
    assert Observer(folder, clock).over(PREFIX) == "fenced"
    gone = Life(process=dead_process(), hostname="here")
    folder.create("x/start.json", gone.model_dump_json().encode())
    assert observer.over("x/") == "process gone"


def test_a_reused_pid_is_another_process() -> None:
    mine = this_life().process
    assert not mine.gone()
    assert mine.model_copy(update={"started": mine.started - 1}).gone()


def test_a_pid_of_another_host_says_nothing() -> None:
    gone = dead_process()
    assert gone.gone()
    other = gone.model_copy(update={"host": "other/pid:[1]"})
    assert not other.gone()
    assert not other.here()


def test_without_proc_the_calling_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where nothing is known of processes and every process is a host of its own."""
    monkeypatch.setattr("tasks.corpus.lives._stat", lambda pid: None)
    assert not this_life().process.gone()


def test_a_zombie_process_is_gone(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        assert Process(host=this_life().process.host, pid=pid, started=started).gone()
    finally:
        os.waitpid(pid, 0)


# -- the pulse ------------------------------------------------------------------------------------------------------


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tasks.pulse.boot_seconds", clock)
    return clock


@pytest.fixture
def drained() -> list[str]:
    return []


@pytest.fixture
def pulse(folder: Store, boot: Clock, drained: list[str]) -> Iterator[Pulse]:
    yield Pulse(
        folder, "run", 0, 0, 0, LedgerWriter(folder, PREFIX), FailureFile(folder, "run", 0, "out"), drained.append
    )


def test_45_s_without_a_beat_are_doubt(pulse: Pulse, boot: Clock) -> None:
    pulse.beat()
    boot.now += 44.9
    assert not pulse.in_doubt()
    boot.now += 0.1
    assert pulse.in_doubt()
    pulse.beat()
    assert not pulse.in_doubt()


def test_a_beat_that_took_long_counts_from_its_beginning(
    pulse: Pulse, boot: Clock, folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = folder.put

    def slow(key: str, data: bytes) -> None:
        put(key, data)
        boot.now += 50

    monkeypatch.setattr(folder, "put", slow)
    pulse.beat()
    assert pulse.in_doubt()


def test_a_failed_beat_ends_no_doubt(pulse: Pulse, boot: Clock, folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.beat()
    boot.now += 45

    def fails(key: str, data: bytes) -> None:
        raise StoreError("500")

    monkeypatch.setattr(folder, "put", fails)
    with pytest.raises(StoreError):
        pulse.beat()
    assert pulse.in_doubt()


def test_a_late_beat_learns_of_the_fence_before_it_ends_the_doubt(pulse: Pulse, boot: Clock, folder: Store) -> None:
    pulse.beat()
    boot.now += 61
    fence(folder, PREFIX, "another observer")
    pulse.beat()
    with pytest.raises(Fenced):
        pulse.raise_if_fenced()


def test_the_last_beat_is_the_last_word(pulse: Pulse, folder: Store) -> None:
    with pulse:
        pulse.close("complete")
        pulse.beat()  # the thread was about to
    assert Observer(folder, time.monotonic).over(PREFIX) == "ended: complete"


def test_the_look_drains_when_fenced_stopped_or_orphaned(
    pulse: Pulse, folder: Store, drained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("tasks.pulse.time.monotonic", clock)
    folder.put("run/parent/0/heartbeat.json", Heartbeat(counter=1).model_dump_json().encode())
    pulse._look()
    clock.now += 179
    pulse._look()
    assert drained == []
    clock.now += 1
    pulse._look()
    assert drained == ["the parent is gone"]
    folder.create("run/parent/0/stop.json", b"budget spent")
    pulse._look()
    assert drained[1] == "budget spent"
    fence(folder, PREFIX, "test")
    pulse._look()
    assert drained[-1] == "fenced: another life took over"


def test_a_life_of_a_run_with_a_budget_leaves_when_nobody_reckons_with_it(
    folder: Store, boot: Clock, drained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent is lost and the store is away with it, or the record alone stands still: it costs money all the same."""
    clock = Clock()
    monkeypatch.setattr("tasks.pulse.time.monotonic", clock)
    paid = Pulse(
        folder,
        "run",
        0,
        0,
        0,
        LedgerWriter(folder, PREFIX),
        FailureFile(folder, "run", 0, "out"),
        drained.append,
        budgeted=True,
    )
    for second in range(4):  # the parent beats, its record advances
        folder.put("run/parent/0/heartbeat.json", Heartbeat(counter=second, spend=second).model_dump_json().encode())
        clock.now += 100
        boot.now += 100
        paid._tick()
    assert drained == []
    # A laptop that slept an hour, its parent with it, claims nothing before the record moves, and stays.
    boot.now += 3600
    assert not paid.may_claim()
    paid._tick()
    assert drained == []
    monkeypatch.setattr(folder, "head", lambda key: (_ for _ in ()).throw(StoreError("503")))
    clock.now += 180
    paid._tick()
    assert drained == ["the spend record stands still: nobody says that there is money left"]


def test_who_took_a_number_is_read_once() -> None:
    """It never changes; the heartbeat is read at every look."""
    store = MemoryStore()
    take_number(store, "run/workers/0/", "start.json", this_life())
    observer = Observer(store, Clock())
    for counter in range(3):
        beat(store, counter)
        assert observer.over(PREFIX) is None
    assert store.by_room["GET", "workers start.json"] == 1
    assert store.by_room["GET", "workers heartbeat.json"] == 3
