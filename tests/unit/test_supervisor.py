"""The pure supervisor: what it does for any sights, and that each rule of docs/fleet.md is what it does.

`Checked` steps a fleet and checks, at every step and whatever was seen, what must never be otherwise: nobody is launched beside
an unfenced former life, nobody that is not wanted, nothing without work or beyond the allowance, and nobody is killed unfenced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.fleet import supervisor
from tasks.fleet.losses import Loss, diagnose
from tasks.fleet.supervisor import (
    BACKOFF_SECONDS,
    BARREN_SECONDS,
    CAPACITY_BACKOFF_SECONDS,
    FAULTS,
    LOST_SECONDS,
    Action,
    Allowance,
    Fleet,
    Patience,
    Phase,
    Sight,
    Verb,
    adopt,
    over,
    scale,
    step,
    stop,
    stuck_after,
)

HOUR = 3600.0
BEATING = Sight(beaten=True, in_hand=1)
COMPLETE = Sight(over=True, orderly=True, beaten=True, last_word="complete", complete=True)
DRAINED = Sight(over=True, orderly=True, beaten=True, last_word="notice: the machine is taken away")
KILLED = Sight(over=True, words="exit status -9", loss=Loss.PROCESS, beaten=True)
HOST_LOST = Sight(over=True, words="Host EC2 (instance i-0) terminated.", loss=Loss.HOST, beaten=True)
NO_CAPACITY = Sight(over=True, words="RESOURCE:GPU", loss=Loss.CAPACITY, began=False)
FAULT = Sight(over=True, orderly=True, beaten=True, last_word="fault: no weights", fault=True)
SETUP = Sight(over=True, words="CannotPullContainerError", loss=Loss.SETUP, began=False)


def clean(sight: Sight) -> bool:
    """Whether a life that is seen so said that it is over: it will publish nothing, and needs no fence."""
    return (sight.over and (sight.orderly or sight.complete)) or sight.last_word is not None


@dataclass
class Checked:
    """A fleet whose every step is checked."""

    fleet: Fleet
    now: float = 0.0
    unfenced: set[int] = field(default_factory=set)
    """Workers whose newest life runs, or may, and is not fenced."""
    launches: dict[int, list[int]] = field(default_factory=dict)
    told: int = 0

    def __call__(
        self, sights: dict[int, Sight] | None = None, *, after: float = 0.0, allowance: Allowance | None = None
    ) -> list[Action]:
        self.now += after
        fleet, stopping = self.fleet, self.fleet.stopping
        seen = {k: s for k, s in (sights or {}).items() if fleet.workers[k].phase is Phase.LAUNCHED}
        said = {k for k, sight in seen.items() if clean(sight)}
        actions = step(fleet, seen, self.now, allowance)
        launched = 0
        fenced: set[int] = set()
        for action in actions:
            k = action.worker
            match action.verb:
                case Verb.FENCE:
                    fenced.add(k)
                    self.unfenced.discard(k)
                case Verb.KILL:
                    assert k in fenced | said, "killed, and neither fenced nor over"
                case Verb.LAUNCH:
                    if k in self.unfenced:
                        assert k in said, f"worker {k} is launched beside its former life"
                    assert fleet.workers[k].phase is Phase.LAUNCHED
                    assert k < fleet.wanted
                    assert fleet.remaining > 0, "launched with nothing left to do"
                    assert stopping is None
                    numbers = self.launches.setdefault(k, [])
                    assert not numbers or action.launch > numbers[-1], "a launch's number is used twice"
                    numbers.append(action.launch)
                    self.unfenced.add(k)
                    launched += 1
                case Verb.STOP:
                    self.told += 1
        for k, worker in fleet.workers.items():
            # One that ended in an orderly way; others leave only through a fence.
            if worker.phase is not Phase.LAUNCHED and k in said:
                self.unfenced.discard(k)
            if worker.phase is not Phase.LAUNCHED:
                assert k not in self.unfenced, f"worker {k} was let go unfenced"
        assert allowance is None or allowance.launches is None or launched <= allowance.launches
        assert sum(w.worker < fleet.wanted for w in fleet.launched) <= fleet.wanted
        assert self.told <= 1
        if launched:
            assert len([w for w in fleet.launched if not w.drained]) <= max(fleet.wanted, fleet.remaining)
        return actions

    @property
    def launched(self) -> list[int]:
        return sorted(w.worker for w in self.fleet.launched)


def verbs(actions: list[Action], *wanted: Verb) -> list[tuple[Verb, int]]:
    """Without the words, and without SAY unless asked for."""
    return [(a.verb, a.worker) for a in actions if (a.verb in wanted if wanted else a.verb is not Verb.SAY)]


def started(workers: int = 1, remaining: int = 100, **patience: float) -> Checked:
    checked = Checked(Fleet.of(workers, remaining, Patience(**patience)))
    assert verbs(checked()) == [(Verb.LAUNCH, k) for k in range(workers)]
    return checked


# -- whatever is seen ------------------------------------------------------------------------------------------------

words = st.none() | st.sampled_from(["complete", "drained", "fault: no weights"])
seconds = st.sampled_from([0.0, 5.0, 44.0, 61.0, 200.0, 700.0, 2000.0, 90000.0])
sights = st.builds(
    lambda word, **rest: Sight(
        last_word=word,
        complete=word == "complete",
        fault=word is not None and word.startswith("fault"),
        **rest,
    ),
    word=words,
    over=st.booleans(),
    orderly=st.booleans(),
    cancelled=st.sampled_from([False, False, False, True]),
    loss=st.none() | st.sampled_from(Loss),
    began=st.booleans(),
    waited=seconds,
    beaten=st.booleans(),
    still=seconds,
    blind=st.booleans(),
    loading=st.booleans(),
    idle=seconds,
    slowest=st.floats(0, 20),
    outcomes=st.integers(0, 3),
    in_hand=st.integers(0, 3),
)
turns = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.25, 5.0, 60.0, 600.0]),
        st.lists(st.none() | sights, min_size=4, max_size=4),
        st.none() | st.integers(0, 2),
        st.sampled_from([None] * 12 + [0, 2, 4, "stop"]),
    ),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 4), st.integers(0, 12), turns)
def test_whatever_is_seen(workers: int, remaining: int, given_turns: list[tuple]) -> None:
    """All that `Checked` checks, for sights that make no sense, too; then nobody answers any more, and it ends all the same."""
    checked = Checked(Fleet.of(workers, remaining))
    fleet = checked.fleet
    for after, seen, room, wish in given_turns:
        if wish == "stop":
            stop(fleet, "enough")
        elif wish is not None:
            scale(fleet, wish, checked.now)
        here = {k: sight for k, sight in enumerate(seen) if sight is not None and k in fleet.workers}
        checked(here, after=after, allowance=Allowance(room, "budget"))
    stop(fleet, "enough")
    for _ in range(4):
        checked({}, after=fleet.patience.drain)
    assert over(fleet)
    assert not checked.unfenced
    assert checked({}, after=1e6, allowance=Allowance()) == []


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 30))
def test_once_all_work_is_done_it_is_over(data: st.DataObject, workers: int, documents: int) -> None:
    """Lives that convert, die in every way, are drained and find nothing more, over documents that they really share."""
    checked = Checked(Fleet.of(workers, documents))
    fleet = checked.fleet
    held: dict[int, int] = {}
    left = documents
    deaths = st.sampled_from([*[None] * 6, KILLED, HOST_LOST, DRAINED, NO_CAPACITY])
    trouble = data.draw(st.integers(0, 40))
    for turn in range(2000):
        if over(fleet):
            break
        seen: dict[int, Sight] = {}
        for k in checked.launched:
            mine = held.get(k, 0)
            death = data.draw(deaths) if turn < trouble else None
            if death is not None:
                seen[k] = death
                left += mine
                held[k] = 0
            elif mine:
                held[k] = 0
                seen[k] = Sight(beaten=True, outcomes=mine)
            elif left:
                held[k] = min(2, left)
                left -= held[k]
                seen[k] = Sight(beaten=True, in_hand=held[k])
            else:
                seen[k] = COMPLETE
        checked(seen, after=20.0)
    assert over(fleet)
    assert fleet.stopping is None
    assert (left, sum(held.values())) == (0, 0) or fleet.given_up


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 5)), max_size=60))
def test_given_up_is_only_who_makes_no_progress(steps: list[tuple[int, bool, int]]) -> None:
    checked = Checked(Fleet.of(4, 10_000))
    fleet = checked.fleet
    checked()
    barren = dict.fromkeys(range(4), 0)
    for k, orderly, outcomes in steps:
        worker = fleet.workers[k]
        if worker.phase is not Phase.LAUNCHED:
            checked(after=60.0)
            continue
        before = worker.launches
        end = DRAINED if orderly else KILLED
        checked({k: Sight(**{**_fields(end), "outcomes": outcomes})}, after=60.0)
        if orderly:
            barren[k] = 0
            assert worker.phase in (Phase.LAUNCHED, Phase.WAITING)
            continue
        barren[k] = 1 if outcomes else barren[k] + 1
        assert (worker.phase is Phase.GIVEN_UP) == (barren[k] > len(BACKOFF_SECONDS))
        if worker.phase is Phase.WAITING:
            assert worker.due - checked.now == BACKOFF_SECONDS[barren[k] - 1]
        elif worker.phase is Phase.LAUNCHED:
            assert (barren[k], worker.launches) == (1, before + 1)
    stop(fleet, "enough")
    checked(after=1e6)
    assert over(fleet) == (not fleet.launched)


def _fields(sight: Sight) -> dict[str, object]:
    return {name: getattr(sight, name) for name in sight.__slots__}


# -- one rule each ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sight", "kill", "blame"),
    [
        (KILLED, False, True),
        (HOST_LOST, False, False),
        (Sight(beaten=True, still=60.0), True, False),
        (Sight(beaten=True, in_hand=1, idle=300.0), True, True),
        (Sight(beaten=True, loading=True, idle=1800.0), True, True),
        (Sight(waited=600.0), True, False),
        (Sight(began=False, waited=1800.0), True, False),
    ],
    ids=["died", "machine lost", "silent", "stuck", "never loaded", "never beat", "no capacity"],
)
def test_fenced_then_ended_then_relaunched(sight: Sight, kill: bool, blame: bool) -> None:
    """In this order; and only what its documents may have done is blamed on them."""
    checked = started()
    actions = checked({0: sight}, after=1.0)
    expected = [(Verb.FENCE, 0), *([(Verb.KILL, 0)] if kill else [])]
    assert verbs(actions)[: len(expected)] == expected
    assert actions[0].blame == blame
    actions += checked(after=1000.0)
    assert verbs(actions) == [*expected, (Verb.LAUNCH, 0)]
    assert checked.launches[0] == [0, 1]


@pytest.mark.parametrize(
    "sight",
    [
        Sight(beaten=True, still=59.0),
        Sight(waited=599.0),
        Sight(began=False, waited=1799.0),
        Sight(beaten=True, in_hand=1, idle=179.0),
        Sight(beaten=True, idle=1e6),
        Sight(beaten=True, in_hand=1, idle=500.0, slowest=40.0),
        Sight(beaten=True, loading=True, in_hand=1, idle=1700.0),
        Sight(beaten=True, last_word="complete", still=179.0),
        Sight(beaten=True, still=1e6, idle=1e6, in_hand=1, blind=True),
        Sight(waited=1e6, blind=True),
        Sight(beaten=True, last_word="drained", still=1e6, blind=True),
    ],
)
def test_left_alone(sight: Sight) -> None:
    """Before its time; with nothing in hand; by the engine's own pace; and whenever the store did not answer."""
    checked = started()
    assert checked({0: sight}, after=1.0) == []


def test_a_launch_without_a_sight_is_left_alone() -> None:
    assert started()(after=1e6) == []


@given(st.floats(0, 1000))
def test_stuck_goes_by_the_engines_pace(slowest: float) -> None:
    patience = Patience(page=100.0)
    assert stuck_after(patience, slowest) >= max(160.0, 100.0 + 10 * slowest)


def test_backoff_and_given_up() -> None:
    checked, at = started(), []
    while checked.fleet.workers[0].phase is not Phase.GIVEN_UP:
        actions = checked({0: KILLED})
        waited = 0.0
        while checked.fleet.workers[0].phase is Phase.WAITING:
            actions = checked(after=0.5)
            waited += 0.5
        at.append(waited)
    assert at == [*BACKOFF_SECONDS, 0.0]
    assert [a.verb for a in actions] == [Verb.FENCE, Verb.SAY]
    assert over(checked.fleet)
    assert checked(after=1e6) == []


def test_an_outcome_begins_the_count_anew() -> None:
    checked = started()
    for _ in range(50):
        checked({0: KILLED}, after=60.0)
        checked({0: Sight(beaten=True, outcomes=1)}, after=60.0)
    assert checked.fleet.workers[0].phase is Phase.LAUNCHED


def test_capacity_is_waited_for_for_hours() -> None:
    checked = started()
    launches = [0.0]
    while checked.now < 48 * HOUR:
        if any(a.verb is Verb.LAUNCH for a in checked({0: NO_CAPACITY})):
            raise AssertionError("at once")
        while checked.fleet.workers[0].phase is Phase.WAITING:
            checked(after=5.0)
        launches.append(checked.now)
    waits = [later - earlier for earlier, later in pairwise(launches)]
    assert tuple(waits[:5]) == CAPACITY_BACKOFF_SECONDS
    assert set(waits[5:]) == {CAPACITY_BACKOFF_SECONDS[-1]}
    # There is some, and there was progress: from the beginning.
    checked({0: Sight(beaten=True, outcomes=1)}, after=1.0)
    checked({0: NO_CAPACITY})
    assert checked.fleet.workers[0].due - checked.now == CAPACITY_BACKOFF_SECONDS[0]


def test_lost_machines_never_give_a_worker_up() -> None:
    checked = started()
    for _ in range(100):
        checked({0: HOST_LOST}, after=60.0)
        assert checked.fleet.workers[0].due - checked.now == LOST_SECONDS
        checked(after=LOST_SECONDS)
    assert checked.launched == [0]


@pytest.mark.parametrize("hand_over", [DRAINED, Sight(**{**_fields(DRAINED), "orderly": False})])
def test_a_drained_workers_successor_comes_in_the_same_step(hand_over: Sight) -> None:
    checked = started(2)
    checked({0: Sight(beaten=True, outcomes=3)}, after=1.0)
    if hand_over.orderly:
        assert verbs(checked({0: hand_over}, after=1.0)) == [(Verb.LAUNCH, 0)]
    else:
        # It said that it is over; its process ended badly behind that: it is fenced, and its successor comes as fast.
        assert verbs(checked({0: hand_over}, after=1.0)) == [(Verb.FENCE, 0), (Verb.LAUNCH, 0)]


def test_one_that_is_drained_again_and_again_before_it_did_anything_is_not_relaunched_in_a_loop() -> None:
    checked = started()
    assert verbs(checked({0: DRAINED}, after=1.0)) == [(Verb.LAUNCH, 0)]
    # A notice file that nobody removes: it is asked for more and more rarely.
    for wait in (*BARREN_SECONDS, BARREN_SECONDS[-1]):
        assert verbs(checked({0: DRAINED}, after=1.0)) == []
        assert checked.fleet.workers[0].due - checked.now == wait
        assert verbs(checked(after=wait)) == [(Verb.LAUNCH, 0)]
    checked({0: Sight(beaten=True, outcomes=1)}, after=1.0)
    assert verbs(checked({0: DRAINED}, after=1.0)) == [(Verb.LAUNCH, 0)]


def test_one_that_said_its_end_and_does_not_leave_is_ended() -> None:
    checked = started()
    silent = Sight(beaten=True, last_word="complete", complete=True, still=180.0)
    assert verbs(checked({0: silent})) == [(Verb.KILL, 0)]
    assert over(checked.fleet)
    checked = started()
    drained = Sight(beaten=True, last_word="notice: ...", still=180.0)
    assert verbs(checked({0: drained})) == [(Verb.KILL, 0), (Verb.LAUNCH, 0)]


def test_faults_give_a_worker_up_soon() -> None:
    checked = started()
    for n in range(FAULTS):
        actions = checked({0: FAULT}, after=60.0)
        assert actions[0].verb is Verb.FENCE
        assert not actions[0].blame
        checked(after=60.0)
        assert (checked.fleet.workers[0].phase is Phase.GIVEN_UP) == (n == FAULTS - 1)
    assert "fault: no weights" in checked.fleet.workers[0].why


def test_an_image_that_cannot_be_pulled_gives_up() -> None:
    checked = started()
    for _ in range(len(BACKOFF_SECONDS) + 1):
        checked({0: SETUP}, after=60.0)
        checked(after=60.0)
    assert checked.fleet.workers[0].phase is Phase.GIVEN_UP


def test_one_cancelled_by_hand_stays_away_until_workers_are_asked_for_anew() -> None:
    checked = started(1)
    by_hand = Sight(over=True, cancelled=True, loss=Loss.PROCESS, beaten=True)
    assert verbs(checked({0: by_hand}, after=1.0)) == [(Verb.FENCE, 0)]
    assert verbs(checked(after=1e6)) == []
    assert over(checked.fleet)
    scale(checked.fleet, 1, checked.now)
    assert not over(checked.fleet)
    assert verbs(checked()) == [(Verb.LAUNCH, 0)]


# -- only what is needed ---------------------------------------------------------------------------------------------


def test_no_more_workers_than_documents_that_nobody_has_in_hand() -> None:
    checked = Checked(Fleet.of(5, 2))
    assert verbs(checked()) == [(Verb.LAUNCH, 0), (Verb.LAUNCH, 1)]
    # They load, and are about to take the two: nobody else is paid for.
    assert checked(dict.fromkeys((0, 1), Sight(beaten=True, loading=True)), after=300.0) == []
    assert checked(dict.fromkeys((0, 1), BEATING), after=1.0) == []
    # One dies: its document is free, and it alone is launched again.
    assert verbs(checked({0: KILLED, 1: BEATING}, after=1.0)) == [(Verb.FENCE, 0), (Verb.LAUNCH, 0)]


def test_the_dead_are_not_relaunched_when_nothing_is_free() -> None:
    checked = started(2, remaining=2)
    checked({0: BEATING, 1: BEATING}, after=1.0)
    checked({1: Sight(beaten=True, outcomes=1)}, after=1.0)
    actions = checked({0: BEATING, 1: KILLED}, after=1.0)
    assert verbs(actions) == [(Verb.FENCE, 1)]
    assert verbs(checked({0: Sight(**{**_fields(COMPLETE), "outcomes": 1})}, after=1.0)) == []
    assert over(checked.fleet)


def test_orphans_get_one_more_launch() -> None:
    """All ended complete, and a document is left: of one that died after the others had looked for the last time."""
    checked = started(2, remaining=3)
    checked({0: Sight(beaten=True, outcomes=1), 1: BEATING}, after=10.0)
    checked({0: COMPLETE, 1: BEATING}, after=10.0)
    scale(checked.fleet, 1, checked.now)  # worker 1 is not wanted any more: it will not be relaunched itself
    checked.fleet.workers[0].phase = Phase.ENDED
    actions = checked({1: KILLED}, after=10.0)
    assert verbs(actions, Verb.FENCE, Verb.LAUNCH) == [(Verb.FENCE, 1), (Verb.LAUNCH, 0)]
    # It finds nothing after all (the count was wrong): nobody is launched a second time for that.
    assert verbs(checked({0: COMPLETE}, after=10.0)) == []
    assert over(checked.fleet)


def test_an_allowance_is_not_exceeded() -> None:
    checked = Checked(Fleet.of(5, 100))
    assert len(verbs(checked(allowance=Allowance(2, "budget")))) == 2
    assert verbs(checked(allowance=Allowance(0, "budget"), after=1.0)) == []
    assert len(verbs(checked(allowance=Allowance(None), after=1.0))) == 3


def test_nobody_runs_and_nobody_may_is_an_end() -> None:
    checked = started()
    checked({0: HOST_LOST}, after=1.0)
    # What is left of an allowance that was used since says nothing: the next one is waited for.
    assert verbs(checked(after=60.0, allowance=Allowance(0, "budget", fresh=False))) == []
    assert not over(checked.fleet)
    assert verbs(checked(after=1.0, allowance=Allowance(0, "budget"))) == [(Verb.STOP, -1)]
    assert checked.fleet.stopping == "budget"
    assert over(checked.fleet)


# -- by hand, and the end --------------------------------------------------------------------------------------------


def test_scaling() -> None:
    checked = started(2)
    scale(checked.fleet, 4, checked.now)
    assert verbs(checked()) == [(Verb.LAUNCH, 2), (Verb.LAUNCH, 3)]
    scale(checked.fleet, 1, checked.now)
    assert verbs(checked(after=1.0)) == [(Verb.DRAIN, k) for k in (1, 2, 3)]
    assert verbs(checked(after=1.0)) == []  # asked once
    assert verbs(checked({1: DRAINED, 2: KILLED, 3: HOST_LOST}, after=1.0)) == [(Verb.FENCE, 2), (Verb.FENCE, 3)]
    assert checked.launched == [0]
    scale(checked.fleet, 2, checked.now)
    assert verbs(checked(after=1.0)) == [(Verb.LAUNCH, 1)]


def test_scaled_down_and_up_again_before_it_left() -> None:
    checked = started(2)
    scale(checked.fleet, 1, checked.now)
    checked(after=1.0)
    scale(checked.fleet, 2, checked.now)
    assert verbs(checked(after=1.0)) == []
    assert verbs(checked({1: DRAINED}, after=1.0)) == [(Verb.LAUNCH, 1)]


def test_scaled_to_nothing_waits_unless_all_is_done() -> None:
    checked = started(1, remaining=5)
    scale(checked.fleet, 0, checked.now)
    checked(after=1.0)
    checked({0: DRAINED}, after=1.0)
    assert not over(checked.fleet)
    assert verbs(checked(after=1e6)) == []
    scale(checked.fleet, 1, checked.now)
    assert verbs(checked()) == [(Verb.LAUNCH, 0)]
    checked({0: Sight(beaten=True, outcomes=5)}, after=1.0)
    scale(checked.fleet, 0, checked.now)
    checked(after=1.0)
    checked({0: DRAINED}, after=1.0)
    assert over(checked.fleet)


def test_a_worker_given_up_is_tried_anew_when_asked_for() -> None:
    checked = started()
    while checked.fleet.workers[0].phase is not Phase.GIVEN_UP:
        checked({0: KILLED} if checked.launched else None, after=60.0)
    scale(checked.fleet, 1, checked.now)
    assert verbs(checked()) == [(Verb.LAUNCH, 0)]


def test_stop_drains_then_ends_then_goes() -> None:
    checked = started(2)
    stop(checked.fleet, "budget")
    stop(checked.fleet, "another reason")
    assert verbs(checked(after=1.0)) == [(Verb.STOP, -1), (Verb.DRAIN, 0), (Verb.DRAIN, 1)]
    assert checked.fleet.stopping == "budget"
    assert verbs(checked({0: DRAINED, 1: BEATING}, after=10.0)) == []
    assert not over(checked.fleet)
    assert verbs(checked({1: BEATING}, after=40.0)) == [(Verb.FENCE, 1), (Verb.KILL, 1)]
    assert verbs(checked({1: BEATING}, after=10.0)) == []
    assert not over(checked.fleet)
    checked({1: BEATING}, after=40.0)
    assert over(checked.fleet)


def test_a_parent_that_slept_through_the_drain_still_ends_who_is_left() -> None:
    checked = started(2)
    stop(checked.fleet, "cancelled")
    checked(after=1.0)
    assert verbs(checked(after=1e6)) == [(v, k) for k in (0, 1) for v in (Verb.FENCE, Verb.KILL)]
    assert over(checked.fleet)


def test_adopted_workers_are_as_those_that_were_launched() -> None:
    checked = Checked(Fleet.of(2, 100))
    adopt(checked.fleet, 1, 7, 0.0)
    adopt(checked.fleet, 5, 3, 0.0)  # of a time when more were wanted
    checked.unfenced |= {1, 5}
    assert verbs(checked(dict.fromkeys((1, 5), BEATING))) == [(Verb.DRAIN, 5), (Verb.LAUNCH, 0)]
    assert verbs(checked({1: KILLED, 5: DRAINED}, after=1.0)) == [(Verb.FENCE, 1), (Verb.LAUNCH, 1)]
    assert checked.launches[1] == [7]
    assert checked.fleet.workers[5].phase is Phase.ENDED


def test_the_names_that_docs_and_callers_use() -> None:
    assert {"step", "scale", "stop", "adopt", "over"} <= set(vars(supervisor))


# -- why it ended, in the words of AWS and Prefect -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "began", "loss"),
    [
        # stopCode and stoppedReason: AWS documentation, "Amazon ECS stopped tasks error messages", and the API reference.
        ("SpotInterruption: Your Spot Task was interrupted.", True, Loss.HOST),
        ("Host EC2 (instance i-0f1e2d3c4b5a69788) terminated.", True, Loss.HOST),
        ("Host EC2 (instance i-0f1e2d3c4b5a69788) stopped.", True, Loss.HOST),
        ("TerminationNotice", True, Loss.HOST),
        ("CannotPullContainerError: pull image manifest has been retried 5 time(s)", False, Loss.SETUP),
        ("CannotPullContainerError: API error (500): no space left on device", False, Loss.SETUP),
        ("CannotStartContainerError: failed to get container status: nvidia-container-cli", False, Loss.SETUP),
        ("CannotCreateContainerError: API error (400): OCI runtime create failed", False, Loss.SETUP),
        ("ResourceInitializationError: unable to pull secrets or registry auth", False, Loss.SETUP),
        ("AccessDeniedException: User is not authorized to perform: ecs:RunTask", False, Loss.SETUP),
        ("InvalidParameterException: No Container Instances were found in your cluster.", False, Loss.CAPACITY),
        ("ClientException: Unable to find task definition", False, Loss.SETUP),
        (
            "TaskFailedToStart: Unable to place task, no container instance met all of its requirements",
            False,
            Loss.CAPACITY,
        ),
        ("RESOURCE:GPU", False, Loss.CAPACITY),
        ("RESOURCE:MEMORY", False, Loss.CAPACITY),
        ("Capacity is unavailable at this time. Please try again later", False, Loss.CAPACITY),
        ("InsufficientInstanceCapacity", False, Loss.CAPACITY),
        ("MaxSpotInstanceCountExceeded", False, Loss.CAPACITY),
        # Prefect's ECS worker and observer.
        ("Failed to submit flow run to infrastructure", False, Loss.CAPACITY),
        ("Task stopped, container 'prefect' exited with code 137", True, Loss.PROCESS),
        ("Process exited with status code: 1", True, Loss.PROCESS),
        ("Flow run infrastructure exited with non-zero status code -9.", True, Loss.PROCESS),
        ("ECS task stopped; container prefect has no exit code", True, Loss.HOST),
        ("exit code None", True, Loss.HOST),
        # The operating system's.
        ("exit status -9", True, Loss.PROCESS),
        ("", True, Loss.PROCESS),
        ("", False, Loss.CAPACITY),
    ],
)
def test_diagnosis(text: str, began: bool, loss: Loss) -> None:
    assert diagnose(text, began=began) is loss


def test_what_blames_and_what_counts() -> None:
    """Promise 6: notices, drains and lost hosts never count against a document; capacity and hosts never give a worker up."""
    assert {loss for loss in Loss if loss.blames} == {Loss.PROCESS, Loss.STUCK}
    assert {loss for loss in Loss if not loss.counts} == {Loss.HOST, Loss.CAPACITY}
