"""One worker as its parent sees it: whose heartbeat counts, what is counted once, and what is fenced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.corpus import paths
from tasks.corpus.failures import StoreError
from tasks.corpus.lives import Heartbeat, Stage, read_fence, take_number, this_life
from tasks.corpus.store import Store, open_store
from tasks.fleet.launcher import End
from tasks.fleet.losses import Loss
from tasks.watch import Watch


class Hand:
    """A launch as its launcher shows it."""

    flow_run_id = None

    def __init__(self, begun: bool = True) -> None:
        self.begun = begun
        self.ended: End | None = None

    def poll(self) -> End | None:
        return self.ended

    def drain(self) -> None: ...

    def kill(self) -> None: ...


class World:
    def __init__(self, folder: Path) -> None:
        self.runs: Store = open_store(str(folder), writable=True)
        self.now = 0.0
        self.hand = Hand()

    def watch(self) -> Watch:
        return Watch(self.runs, "r1", 3, lambda: self.now)

    def live(self, **beat: Any) -> int:
        attempt = take_number(self.runs, paths.worker("r1", 3), "start.json", this_life())
        if beat:
            self.beat(attempt, **beat)
        return attempt

    def beat(self, attempt: int, **beat: Any) -> None:
        self.runs.put(paths.life("r1", 3, attempt) + "heartbeat.json", Heartbeat(**beat).model_dump_json().encode())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_former_life_is_not_the_launchs(world: World) -> None:
    world.live(counter=9, converted=5)
    watch = world.watch()
    assert watch.sight() is None
    watch.launched(world.hand)
    world.now = 7.0
    watch.look()
    sight = watch.sight()
    assert sight is not None
    assert (sight.beaten, sight.waited, sight.outcomes) == (False, 7.0, 0)
    world.live(counter=1, converted=2, in_hand=["a"], stage=Stage.WORKING)
    watch.look()
    sight = watch.sight()
    assert sight is not None
    assert (sight.beaten, sight.outcomes, sight.in_hand, sight.loading) == (True, 2, 1, False)
    # Told once.
    watch.look()
    again = watch.sight()
    assert again is not None
    assert again.outcomes == 0


def test_silence_and_idleness_are_measured_by_the_observer(world: World) -> None:
    watch = world.watch()
    watch.launched(world.hand)
    life = world.live(counter=1, activity=4, stage=Stage.WORKING, in_hand=["a"])
    watch.look()
    assert watch.sight() is not None
    for second, counter in ((10, 2), (20, 3), (30, 3)):
        world.now = float(second)
        world.beat(life, counter=counter, activity=4, stage=Stage.WORKING, in_hand=["a"])
        watch.look()
        sight = watch.sight()
    assert sight is not None
    assert (sight.still, sight.idle) == (10.0, 30.0)
    watch.forget()
    sight = watch.sight()
    assert sight is not None
    assert (sight.still, sight.idle) == (0.0, 0.0)


def test_a_store_that_does_not_answer_is_no_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = world.watch()
    watch.launched(world.hand)
    world.live(counter=1)
    watch.look()
    read = world.runs.read

    def away(key: str) -> bytes:
        raise StoreError("503")

    monkeypatch.setattr(world.runs, "read", away)
    world.now = 500.0
    with pytest.raises(StoreError):
        watch.look()
    sight = watch.sight()
    assert sight is not None
    assert sight.blind
    monkeypatch.setattr(world.runs, "read", read)
    watch.look()
    sight = watch.sight()
    assert sight is not None
    assert (sight.blind, sight.still) == (False, 0.0)


def test_facts_that_could_not_be_read_are_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the machine would be nobody's, and free."""
    watch = world.watch()
    watch.launched(world.hand)
    world.live(counter=1)
    read = world.runs.read

    def away(key: str) -> bytes:
        if key.endswith("start.json"):
            raise StoreError("503")
        return read(key)

    monkeypatch.setattr(world.runs, "read", away)
    with pytest.raises(StoreError):
        watch.look()
    monkeypatch.setattr(world.runs, "read", read)
    watch.look()
    assert watch.facts is not None


def test_a_life_that_was_begun_anew_in_the_same_launch_is_found(world: World) -> None:
    watch = world.watch()
    watch.launched(world.hand)
    first = world.live(counter=1, converted=3)
    watch.look()
    assert watch.sight() is not None
    world.now = 21.0
    second = world.live(counter=1, converted=1)
    watch.look()
    sight = watch.sight()
    assert sight is not None
    assert (watch.life, sight.outcomes) == (second, 1)
    # Both are of this launch: neither may publish beside a successor.
    watch.fence("test", blame=True)
    for life in (first, second):
        assert world.runs.head(paths.life("r1", 3, life) + "fenced") is not None


@pytest.mark.parametrize("said", [None, "complete"])
def test_of_a_flow_run_that_is_executed_twice_only_the_newest_life_goes_on(world: World, said: str | None) -> None:
    watch = world.watch()
    watch.launched(world.hand)
    first = world.live(counter=1, in_hand=["a"], ended=said)
    world.live(counter=1)
    second = world.live(counter=1, ended="complete")
    watch.look()
    assert watch.fence_outlived() == ([first, second - 1] if said is None else [second - 1])
    assert watch.fence_outlived() == []
    assert world.runs.head(paths.life("r1", 3, second) + "fenced") is None


def test_a_copy_that_comes_while_its_former_life_is_adopted(world: World) -> None:
    first = world.live(counter=1)
    second = world.live(counter=1)
    watch = world.watch()
    watch.adopted(world.hand)
    watch.look()
    assert (watch.life, watch.fence_outlived()) == (second, [first])


def test_only_this_launchs_lives_are_fenced(world: World) -> None:
    watch = world.watch()
    watch.launched(world.hand)
    first = world.live(counter=1)
    watch.look()
    watch.fence("one", blame=False)
    watch.gone()
    watch.launched(world.hand)
    second = world.live()
    watch.fence("two", blame=True)
    fences = [read_fence(world.runs, paths.life("r1", 3, life)) for life in (first, second)]
    assert [(fence.why, fence.blame) for fence in fences if fence is not None] == [("one", False), ("two", True)]


def test_what_an_adopted_life_did_before_is_in_the_account_already(world: World) -> None:
    life = world.live(counter=5, converted=4)
    watch = world.watch()
    watch.adopted(world.hand)
    watch.look()
    sight = watch.sight()
    assert sight is not None
    assert (watch.life, sight.outcomes) == (life, 0)
    world.beat(life, counter=6, converted=6)
    watch.look()
    sight = watch.sight()
    assert sight is not None
    assert sight.outcomes == 2


@pytest.mark.parametrize(
    ("ended", "complete", "fault"),
    [("complete", True, False), ("fault: no such model", False, True), ("notice: x", False, False)],
)
def test_the_last_word(world: World, ended: str, complete: bool, fault: bool) -> None:
    watch = world.watch()
    watch.launched(world.hand)
    world.live(counter=1, ended=ended, in_hand=["a"])
    world.hand.ended = End(False, "exit status 1", Loss.PROCESS)
    watch.look()
    sight = watch.sight()
    assert sight is not None
    assert (sight.over, sight.orderly, sight.loss) == (True, False, Loss.PROCESS)
    assert (sight.last_word, sight.complete, sight.fault, sight.in_hand) == (ended, complete, fault, 0)


def test_one_that_waits_for_a_machine_waits_from_its_launch(world: World) -> None:
    world.hand = Hand(begun=False)
    watch = world.watch()
    watch.launched(world.hand)
    world.now = 100.0
    sight = watch.sight()
    assert sight is not None
    assert (sight.began, sight.waited) == (False, 100.0)
    world.hand.begun = True
    world.now = 110.0
    assert watch.sight() is not None
    world.now = 115.0
    sight = watch.sight()
    assert sight is not None
    assert (sight.began, sight.waited) == (True, 5.0)
