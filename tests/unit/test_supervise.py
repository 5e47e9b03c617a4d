"""The parent's watch over its workers, with handles that end when told and heartbeats written by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import supervise
from tasks.corpus import paths
from tasks.corpus.failures import Category, StoreError
from tasks.corpus.lives import Heartbeat, Life, Process, take_number, this_life
from tasks.corpus.runs import Identity, RunSpec
from tasks.corpus.store import Store, open_store
from tasks.fleet.launcher import End, Handle
from tasks.fleet.losses import Loss
from tasks.fleet.supervisor import Fleet
from tasks.governing import Ruling, Seen
from tasks.lease import ParentLease
from tasks.supervise import Supervision, end_former_lives

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

    def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Ended:
        self.launches.append((worker, launch))
        beat, status = self._script(worker, launch)
        live(self._runs, worker, beat)
        return Ended(status)

    def adopt(self) -> dict[int, Handle]:
        return {}

    def poll(self) -> None: ...

    def end(self) -> list[str]:
        return []


class Ended:
    def __init__(self, status: int) -> None:
        self._status = status

    begun = True
    flow_run_id = None

    def poll(self) -> End:
        return End(self._status == 0, f"exit status {self._status}", Loss.PROCESS if self._status else None)

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


def watch(
    runs: Store, launcher: Scripted, workers: int = 2, recount: Callable[[], int] | None = None, remaining: int = 100
) -> str | None:
    with ParentLease(runs, "r1", None, 60.0) as lease:
        log = logging.getLogger("test")
        return Supervision(
            runs, SPEC, lease, launcher, workers, log, remaining=remaining, look_seconds=0.01, recount=recount
        ).run()


def test_workers_that_end_in_order_end_the_run(runs: Store) -> None:
    launcher = Scripted(runs, lambda worker, launch: (Heartbeat(counter=1, ended="complete"), 0))
    assert watch(runs, launcher) is None
    assert launcher.launches == [(0, 0), (1, 0)]


def test_a_rest_that_nobody_told_of_is_looked_for(runs: Store) -> None:
    """A life that nobody watched may have died with it: all others ended in order."""
    launcher = Scripted(
        runs, lambda worker, launch: (Heartbeat(counter=1, ended="complete", converted=1 if launch else 2), 0)
    )
    left = iter([1, 0])
    assert watch(runs, launcher, recount=lambda: next(left), remaining=5) is None
    assert launcher.launches == [(0, 0), (1, 0), (0, 1)]
    # Where every outcome was told there is nothing to look for.
    launcher.launches.clear()
    assert watch(runs, launcher, recount=lambda: 1 // 0, remaining=2) is None


def test_of_a_flow_run_executed_twice_the_newest_life_is_adopted(runs: Store) -> None:
    elsewhere = Life(process=Process(host="elsewhere", pid=1, started=1), hostname="", flow_run_id="a")
    for _ in range(2):
        take_number(runs, paths.worker("r1", 0), "start.json", elsewhere)
    assert end_former_lives(runs, "r1", ["a"]) == {"0/1"}
    assert [runs.head(paths.life("r1", 0, life) + "fenced") is not None for life in range(2)] == [True, False]


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


class Frozen:
    """A worker that never ends by itself, nor beats again."""

    flow_run_id = None

    def __init__(self, begun: bool = True) -> None:
        self.begun = begun
        self.killed = False

    def poll(self) -> End | None:
        return End(False, "exit status -9", Loss.PROCESS) if self.killed else None

    def drain(self) -> None: ...

    def kill(self) -> None:
        self.killed = True


class Freezing(Scripted):
    """The first launch of each worker freezes after its first heartbeat, or before it; later ones end in order."""

    def __init__(self, runs: Store, beat: Heartbeat | None) -> None:
        super().__init__(runs, lambda worker, launch: (Heartbeat(counter=1, ended="complete"), 0))
        self.first = Frozen()
        self.beat = beat

    def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Ended | Frozen:  # type: ignore[override]
        if launch:
            return super().launch(worker, launch)
        self.launches.append((worker, launch))
        if self.beat is not None:
            live(self._runs, worker, self.beat)
        return self.first


class Ticking:
    """A clock that moves by a second whenever somebody looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Frost:
    """A watch over one worker that freezes; a look takes seconds of the clock, not of the test."""

    def __init__(self, runs: Store, beat: Heartbeat | None, *, begun: bool = True) -> None:
        self.clock = Ticking()
        self.launcher = Freezing(runs, beat)
        self.launcher.first = Frozen(begun=begun)
        self._runs = runs

    def watch(
        self,
        after_look: Callable[[int], bool] = lambda look: False,
        without: Callable[[float], None] = lambda seconds: None,
    ) -> str | None:
        """Until nobody runs, or until `after_look` says that enough was seen; then the worker must be unhurt."""
        looks = 0

        def progress(_: object) -> None:
            nonlocal looks
            looks += 1
            without(watched.without)
            if watched.stopped is None and after_look(looks):
                assert not self.launcher.first.killed
                watched.stop("enough seen")

        with ParentLease(self._runs, "r1", None, 60.0) as lease:
            watched = Watched(
                self._runs,
                SPEC,
                lease,
                self.launcher,
                1,
                logging.getLogger("test"),
                remaining=100,
                look_seconds=0.01,
                clock=self.clock,
                on_progress=progress,
            )
            return watched.run()


class Watched(Supervision):
    @property
    def stopped(self) -> str | None:
        return self._stop


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "TICK_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("beat", "seconds"),
    [(Heartbeat(counter=7), 60), (None, 600)],
    ids=["after its first heartbeat", "before it took its number"],
)
def test_a_frozen_worker_is_fenced_ended_and_relaunched(runs: Store, beat: Heartbeat | None, seconds: int) -> None:
    frost = Frost(runs, beat)
    assert frost.watch() is None
    assert frost.launcher.first.killed
    assert frost.launcher.launches == [(0, 0), (0, 1)]
    assert seconds <= frost.clock.now <= seconds + 30
    fenced = [info.key for info in runs.list(paths.worker("r1", 0)) if info.key.endswith("/fenced")]
    assert fenced == ([paths.life("r1", 0, 0) + "fenced"] if beat is not None else [])


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("begun", [False, True])
def test_how_long_nobody_has_had_a_machine(runs: Store, begun: bool) -> None:
    """Of a launch that waits for one; a process that says nothing yet has one."""
    frost = Frost(runs, None, begun=begun)
    waited: list[float] = []
    assert frost.watch(lambda look: look == 100, waited.append) == "enough seen"
    assert (max(waited) > 100) is not begun
    assert waited[-1] == 0, "it stops: nobody waits any more"


@pytest.mark.usefixtures("no_pauses")
def test_a_worker_that_hangs_after_its_end_is_not_launched_again(runs: Store) -> None:
    frost = Frost(runs, Heartbeat(counter=7, ended="complete"))
    assert frost.watch() is None
    assert frost.launcher.first.killed
    assert frost.launcher.launches == [(0, 0)]
    assert frost.clock.now >= 180


@pytest.mark.usefixtures("no_pauses")
def test_a_parent_that_slept_ends_nobody(runs: Store) -> None:
    """For longer than a claim lasts; the worker's next heartbeat has yet to come."""
    frost = Frost(runs, Heartbeat(counter=7))

    def after_look(look: int) -> bool:
        if look in (3, 6):
            frost.clock.now += 1000
        return look == 9

    assert frost.watch(after_look) == "enough seen"


@pytest.mark.usefixtures("no_pauses")
def test_a_parent_whose_store_was_away_ends_nobody(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked again and again, and saw nothing: the worker could not write either."""
    frost = Frost(runs, Heartbeat(counter=7))
    away = False
    read = runs.read

    def reading(key: str) -> bytes:
        if away:
            raise StoreError("503")
        return read(key)

    monkeypatch.setattr(runs, "read", reading)

    def after_look(look: int) -> bool:
        nonlocal away
        away = 5 <= look < 15
        frost.clock.now += 10 * away
        return look == 20

    assert frost.watch(after_look) == "enough seen"
    assert frost.clock.now > 100


@pytest.mark.usefixtures("no_pauses")
def test_a_worker_that_waits_for_a_machine_is_left_alone(runs: Store) -> None:
    frost = Frost(runs, None, begun=False)
    assert frost.watch(lambda look: frost.clock.now > 1500) == "enough seen"


@pytest.mark.usefixtures("no_pauses")
def test_one_that_waits_too_long_is_asked_for_anew(runs: Store, caplog: pytest.LogCaptureFixture) -> None:
    frost = Frost(runs, None, begun=False)
    assert frost.watch() is None
    assert frost.launcher.first.killed
    assert frost.launcher.launches == [(0, 0), (0, 1)]
    assert "Worker 0 no capacity" in caplog.text


def test_a_life_whose_start_makes_no_sense_is_seen_all_the_same(runs: Store) -> None:
    seen: list[Seen] = []

    class Counting:
        def launching(self, worker: int, launch: int) -> None: ...

        def govern(self, fleet: Fleet, now_seen: Seen, now: float) -> Ruling:
            seen.append(now_seen)
            return Ruling()

    def script(worker: int, launch: int) -> tuple[Heartbeat, int]:
        return Heartbeat(counter=1, ended="complete", converted=100), 0

    class Damaging(Scripted):
        def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Ended:
            handle = super().launch(worker, launch, on_demand=on_demand)
            self._runs.put(paths.life("r1", worker, 0) + "start.json", b"\x00garbage")
            return handle

    with ParentLease(runs, "r1", None, 60.0) as lease:
        log = logging.getLogger("test")
        launcher = Damaging(runs, script)
        Supervision(runs, SPEC, lease, launcher, 1, log, remaining=100, look_seconds=0.01, governors=[Counting()]).run()
    assert seen[-1].lives["0/0"].launch == 0


def test_copies_that_nobody_watched_are_fenced_before_the_rest_is_done(runs: Store) -> None:
    def script(worker: int, launch: int) -> tuple[Heartbeat, int]:
        return Heartbeat(counter=1, ended="complete", converted=1), 0

    launcher = Scripted(runs, script)
    left = iter([1, 0])

    def recount() -> int:
        live(runs, 1, Heartbeat(counter=1))  # begun when worker 1 was over
        return next(left)

    assert watch(runs, launcher, recount=recount, remaining=5) is None
    fenced = [info.key for info in runs.list(paths.worker("r1", 1)) if info.key.endswith("/fenced")]
    assert fenced == [paths.life("r1", 1, 1) + "fenced"]
