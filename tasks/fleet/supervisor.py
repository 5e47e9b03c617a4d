"""The supervisor's next step: what is seen of the workers goes in, actions come out. Pure: no clock, no I/O.

A worker is a place in the fleet (number k); a launch is one try to fill it; a life is what a launch becomes once it runs and
beats. Every time is in seconds of the caller's monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tasks.fleet.losses import Loss

BACKOFF_SECONDS = (0.0, 1.0, 5.0, 15.0, 30.0)
"""Waits before the launches that follow deaths without progress; one more death than these gives the worker up."""
LOST_SECONDS = 5.0
"""Wait before the launch that follows a machine lost without an outcome."""
BARREN_SECONDS = (5.0, 15.0, 60.0, 300.0)
"""Waits before the launches that follow ones which were told to go before they had done anything."""
CAPACITY_BACKOFF_SECONDS = (15.0, 60.0, 120.0, 300.0, 600.0)
"""Waits while there is no capacity: the last one for hours, until there is some."""
FAULTS = 2
"""So many lives in a row whose engine can't be loaded give the worker up: a third would not fare better."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits for what."""

    silent: float = 60.0
    """A life whose heartbeat stood still so long is ended: the expiry time of its claims, so others may have them by then."""
    leaving: float = 180.0
    """The same for a life that said that it is over, and only has to leave: it may be telling Prefect, which may be away."""
    starting: float = 600.0
    """From its process's start to its first heartbeat."""
    capacity: float = 1800.0
    """A launch that waits for a machine: ECS gives up after some 30 minutes, too."""
    loading: float = 1800.0
    """From its first heartbeat to a loaded engine, weights fetched."""
    page: float = 120.0
    """The run's time limit for a page."""
    paces: float = 10.0
    """No page for so many times the slowest of the last pages, over the page's limit: stuck."""
    drain: float = 45.0
    """Drained workers are ended after that (their own grace is 20 s)."""


class Phase(StrEnum):
    """Where a worker stands."""

    WAITING = "waiting"
    """To be launched at `due`, if it is needed."""
    LAUNCHED = "launched"
    """It waits for a machine, loads, works or drains."""
    ENDED = "ended"
    """It found nothing more that is free, or is not wanted any more."""
    GIVEN_UP = "given up"


@dataclass(slots=True)
class WorkerState:
    """What the supervisor knows of one worker."""

    worker: int
    phase: Phase = Phase.WAITING
    due: float = 0.0
    launches: int = 0
    """Of this parent and all before it: the next launch's number."""
    launched_at: float = 0.0
    losses: int = 0
    """In a row, without an outcome between them, of the kinds that count."""
    waits: int = 0
    """In a row, for want of capacity."""
    faults: int = 0
    outcomes: int = 0
    """Of all its lives, as far as seen."""
    outcomes_at_loss: int = 0
    in_hand: int = 0
    why: str = ""
    """The last loss, in words."""
    barren: int = 0
    """Launches in a row that were told to go before they had done anything."""
    drained: bool = False
    """It was asked to stop: not wanted any more."""
    dismissed: bool = False
    """Somebody cancelled it by hand: only a new wish for workers brings it back."""
    killed: bool = False


@dataclass(slots=True)
class Fleet:
    """All workers of a run, and what is wanted of them."""

    workers: dict[int, WorkerState]
    wanted: int
    """So many workers, numbers 0 to wanted - 1."""
    remaining: int
    """Documents without an outcome, as far as seen."""
    patience: Patience = Patience()
    by_hand: bool = False
    """Somebody asked for so many: no governor asks for another number."""
    stopping: str | None = None
    stop_by: float | None = None
    lost_at: float = float("-inf")
    """When documents were last seen to be left without a holder."""
    lonely: int = 0
    """Launches in a row for a rest that nobody holds, without an outcome."""

    @classmethod
    def of(cls, workers: int, remaining: int, patience: Patience | None = None) -> Fleet:
        """A fleet that is to be launched."""
        states = {k: WorkerState(k) for k in range(workers)}
        return cls(states, workers, remaining, patience or Patience())

    def worker(self, k: int) -> WorkerState:
        """Worker k, made where there was none."""
        return self.workers.setdefault(k, WorkerState(k))

    @property
    def launched(self) -> list[WorkerState]:
        """Workers that run or are to."""
        return [w for w in self.workers.values() if w.phase is Phase.LAUNCHED]

    @property
    def free(self) -> int:
        """Documents without an outcome that no living worker has in hand."""
        return max(0, self.remaining - sum(w.in_hand for w in self.launched))

    @property
    def given_up(self) -> list[WorkerState]:
        """Workers that would only die again."""
        return [w for w in self.workers.values() if w.phase is Phase.GIVEN_UP]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a launched worker at one moment.

    A launcher's word (`over`, `began`, `words`) and its life's heartbeats, each as far as known.
    """

    over: bool = False
    """The launcher says that it ended."""
    orderly: bool = False
    """It ended by itself, with everything said."""
    cancelled: bool = False
    """Somebody cancelled it by hand: it is not wanted."""
    words: str = ""
    loss: Loss | None = None
    """Of one that ended otherwise."""
    began: bool = True
    """Its process was started; a work pool may keep it waiting for a machine."""
    waited: float = 0.0
    """Seconds since the launch (while not begun), or since it was first seen to run (without a heartbeat)."""
    beaten: bool = False
    """It had a heartbeat."""
    still: float = 0.0
    """Seconds without a new heartbeat, as this observer saw it."""
    blind: bool = False
    """The store did not answer: silence is no news."""
    last_word: str | None = None
    """What its last heartbeat said when it ended."""
    complete: bool = False
    """That it found nothing more that is free."""
    fault: bool = False
    """That its engine can't be loaded."""
    loading: bool = False
    idle: float = 0.0
    """Seconds without a page or a document begun or done, with something in hand (or since its first heartbeat, loading)."""
    slowest: float = 0.0
    """Of its last pages, seconds."""
    outcomes: int = 0
    """New ones since the last sight."""
    in_hand: int = 0


class Verb(StrEnum):
    """What is to be done."""

    LAUNCH = "launch"
    FENCE = "fence"
    """Its newest life must not publish any more; before anything else is done about it."""
    KILL = "kill"
    DRAIN = "drain"
    STOP = "stop"
    """Tell all workers that the run stops."""
    SAY = "say"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, in the order given."""

    verb: Verb
    worker: int = -1
    launch: int = 0
    why: str = ""
    blame: bool = False
    """Of a fence: the documents in hand may have done it."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the run may still spend, as the budget says it."""

    launches: int | None = None
    """More workers that may be launched now; None for any number."""
    why: str = ""
    """What keeps launches back."""
    fresh: bool = True
    """Said since the last launch; what is left of an older one does not end a run in which nobody runs."""


@dataclass(slots=True)
class _Turn:
    """One step's actions."""

    fleet: Fleet
    now: float
    actions: list[Action] = field(default_factory=list)

    def do(self, verb: Verb, worker: int = -1, *, launch: int = 0, why: str = "", blame: bool = False) -> None:
        self.actions.append(Action(verb, worker, launch, why, blame))


def step(fleet: Fleet, sights: dict[int, Sight], now: float, allowance: Allowance | None = None) -> list[Action]:
    """Take in what is seen, and say what to do next. Changes the fleet.

    Args:
        sights: of workers that are launched; a worker without a sight is left alone this time.
    """
    turn = _Turn(fleet, now)
    for k, sight in sights.items():
        worker = fleet.workers[k]
        if worker.phase is Phase.LAUNCHED:
            _take_in(turn, worker, sight)
    if fleet.stopping is not None:
        _stop(turn)
    else:
        _shrink(turn)
        _grow(turn, allowance or Allowance())
    return turn.actions


def stop(fleet: Fleet, reason: str) -> None:
    """The run is to stop, for this reason; the first one counts."""
    if fleet.stopping is None:
        fleet.stopping = reason


def over(fleet: Fleet) -> bool:
    """Nobody runs, nobody will."""
    if fleet.launched:
        return False
    if fleet.stopping is not None or not fleet.remaining:
        return True
    # With nobody wanted the run waits: somebody said `scale 0`, and may say otherwise.
    return fleet.wanted > 0 and not _needed(fleet)


def recounted(fleet: Fleet, remaining: int, now: float) -> bool:
    """It seemed over, and so many documents are really left. Whether somebody is launched for them.

    What a life counted and could not write down before it died is counted once more by whoever does it again.
    """
    fleet.remaining = remaining
    if remaining:
        fleet.lost_at = now
    return not over(fleet)


def adopt(fleet: Fleet, k: int, launches: int, now: float) -> None:
    """A worker that a former parent launched lives: it is this parent's now."""
    worker = fleet.worker(k)
    worker.phase, worker.launches, worker.launched_at = Phase.LAUNCHED, launches, now


def stuck_after(patience: Patience, slowest: float) -> float:
    """Seconds without a page after which a life is stuck: a page has its limit, and the engine its own pace beside."""
    return patience.page + max(patience.silent, patience.paces * slowest)


# -- what is seen ----------------------------------------------------------------------------------------------------


def _take_in(turn: _Turn, worker: WorkerState, sight: Sight) -> None:
    fleet, patience = turn.fleet, turn.fleet.patience
    worker.outcomes += sight.outcomes
    fleet.remaining = max(0, fleet.remaining - sight.outcomes)
    if sight.outcomes:
        worker.faults = worker.waits = fleet.lonely = 0
    worker.in_hand = sight.in_hand
    if sight.over:
        if sight.cancelled and fleet.stopping is None:
            turn.do(Verb.FENCE, worker.worker, why="cancelled by hand")
            turn.do(Verb.SAY, worker.worker, why=f"Worker {worker.worker} was cancelled by hand: not relaunched")
            worker.phase, worker.in_hand, fleet.lost_at = Phase.ENDED, 0, turn.now
            worker.dismissed = True
        elif (sight.orderly or sight.complete) and not sight.fault:
            _ended(turn, worker, sight)
        else:
            loss = sight.loss or (Loss.PROCESS if sight.began else Loss.CAPACITY)
            _lost(turn, worker, sight, loss, kill=False)
        return
    if sight.last_word is not None:
        # It only has to leave; whoever waits for Prefect to be told must not be waited for.
        if not sight.blind and sight.still >= patience.leaving:
            turn.do(Verb.KILL, worker.worker, why=f"it said {sight.last_word!r} and did not leave")
            if sight.fault:
                _lost(turn, worker, sight, Loss.PROCESS, kill=True)
            else:
                _ended(turn, worker, sight)
        return
    if not sight.began:
        if sight.waited >= patience.capacity:
            _lost(turn, worker, sight, Loss.CAPACITY, kill=True)
    elif sight.blind:
        return
    elif not sight.beaten:
        if sight.waited >= patience.starting:
            _lost(turn, worker, sight, Loss.SILENT, kill=True, why=f"no heartbeat {sight.waited:.0f} s after its start")
    elif sight.still >= patience.silent:
        _lost(turn, worker, sight, Loss.SILENT, kill=True, why=f"not heard of for {sight.still:.0f} s")
    elif sight.loading:
        if sight.idle >= patience.loading:
            _lost(turn, worker, sight, Loss.STUCK, kill=True, why=f"its engine is not loaded after {sight.idle:.0f} s")
    elif sight.in_hand and sight.idle >= stuck_after(patience, sight.slowest):
        why = f"no page for {sight.idle:.0f} s (its slowest took {sight.slowest:.0f} s)"
        _lost(turn, worker, sight, Loss.STUCK, kill=True, why=why)


def _ended(turn: _Turn, worker: WorkerState, sight: Sight) -> None:
    """In an orderly way: with its work done, or drained; then its place is free at once."""
    worker.in_hand = 0
    worker.losses = worker.faults = 0
    if sight.complete:
        worker.phase = Phase.ENDED
        return
    turn.fleet.lost_at = turn.now
    if worker.worker >= turn.fleet.wanted:
        worker.phase = Phase.ENDED
        return
    # Its successor comes at once, unless this one was told to go before it had done anything: on a machine that is going.
    barren = worker.outcomes == worker.outcomes_at_loss and worker.launches > 1
    worker.barren = worker.barren + 1 if barren else 0
    worker.outcomes_at_loss = worker.outcomes
    worker.phase, worker.why = Phase.WAITING, sight.last_word or "drained"
    # A notice that stays (a file that nobody removes) would have it launched for ever.
    wait = BARREN_SECONDS[min(worker.barren, len(BARREN_SECONDS)) - 1] if barren else 0.0
    worker.due = turn.now + wait


def _lost(turn: _Turn, worker: WorkerState, sight: Sight, loss: Loss, *, kill: bool, why: str = "") -> None:
    """Fence first: whatever it still does, it must not publish beside its successor."""
    fleet, now = turn.fleet, turn.now
    said = sight.last_word if sight.fault else None
    worker.why = said or why or sight.words or loss.value
    worker.in_hand = 0
    fleet.lost_at = now
    # Whoever could say that it is over was not killed by what it had in hand.
    turn.do(Verb.FENCE, worker.worker, why=worker.why, blame=loss.blames and sight.last_word is None)
    if kill:
        turn.do(Verb.KILL, worker.worker, why=worker.why)
    if worker.worker >= fleet.wanted or fleet.stopping is not None:
        worker.phase = Phase.ENDED
        return
    if sight.fault:
        worker.faults += 1
    progressed = worker.outcomes > worker.outcomes_at_loss
    worker.outcomes_at_loss = worker.outcomes
    if loss is Loss.CAPACITY:
        wait = CAPACITY_BACKOFF_SECONDS[min(worker.waits, len(CAPACITY_BACKOFF_SECONDS) - 1)]
        worker.waits += 1
    elif loss.counts:
        worker.losses = 1 if progressed else worker.losses + 1
        wait = BACKOFF_SECONDS[min(worker.losses, len(BACKOFF_SECONDS)) - 1]
    else:
        wait = 0.0 if progressed else LOST_SECONDS
    if worker.losses > len(BACKOFF_SECONDS) or worker.faults >= FAULTS:
        worker.phase = Phase.GIVEN_UP
        turn.do(Verb.SAY, worker.worker, why=f"Worker {worker.worker} is given up: {worker.why}")
        return
    worker.phase, worker.due = Phase.WAITING, now + wait
    turn.do(
        Verb.SAY,
        worker.worker,
        why=f"Worker {worker.worker} {loss.value} ({worker.why}): relaunched in {wait:.0f} s if there is need",
    )


# -- what is wanted --------------------------------------------------------------------------------------------------


def _needed(fleet: Fleet) -> list[WorkerState]:
    """Workers whose launch would find something to do."""
    if not fleet.free:
        return []
    waiting = [w for k, w in sorted(fleet.workers.items()) if w.phase is Phase.WAITING and k < fleet.wanted]
    if waiting or fleet.launched:
        return waiting
    # All ended, and something is left that nobody holds: left by one that died after the last look at it by the others.
    ended = [w for k, w in sorted(fleet.workers.items()) if w.phase is Phase.ENDED and k < fleet.wanted]
    able = [w for w in ended if not w.dismissed]
    if any(w.launched_at >= fleet.lost_at for w in able) or fleet.lonely >= len(BACKOFF_SECONDS):
        return []
    return able[:1]


def _grow(turn: _Turn, allowance: Allowance) -> None:
    fleet, now = turn.fleet, turn.now
    room = allowance.launches
    # Never more workers than documents that nobody has in hand, nor is about to take.
    coming = sum(not w.in_hand and not w.drained for w in fleet.launched)
    for worker in _needed(fleet)[: max(0, fleet.free - coming)]:
        if worker.due > now:
            continue
        if room is not None and room <= 0:
            if not fleet.launched and allowance.fresh:
                # Nobody runs, and nobody may: waiting would bring nothing.
                stop(fleet, allowance.why or "no more workers may be launched")
                _stop(turn)
            return
        if worker.phase is Phase.ENDED:
            fleet.lonely += 1
        turn.do(Verb.LAUNCH, worker.worker, launch=worker.launches)
        worker.phase, worker.launched_at = Phase.LAUNCHED, now
        worker.launches += 1
        worker.drained = worker.killed = False
        if room is not None:
            room -= 1


def scale(fleet: Fleet, wanted: int, now: float) -> None:
    """So many workers from now on."""
    fleet.wanted = wanted
    for k in range(wanted):
        worker = fleet.worker(k)
        if worker.phase in (Phase.ENDED, Phase.GIVEN_UP):
            # Given up counts anew: who asks for it may have mended what was wrong.
            worker.phase, worker.due, worker.losses, worker.faults = Phase.WAITING, now, 0, 0
            worker.dismissed = False


def _shrink(turn: _Turn) -> None:
    fleet = turn.fleet
    for k, worker in fleet.workers.items():
        if k < fleet.wanted or worker.phase is Phase.ENDED:
            continue
        if worker.phase is Phase.LAUNCHED:
            if not worker.drained:
                worker.drained = True
                turn.do(Verb.DRAIN, k, why=f"scaled to {fleet.wanted} workers")
        else:
            worker.phase = Phase.ENDED


def _stop(turn: _Turn) -> None:
    """Tell them once, and end after a while who does not leave."""
    fleet = turn.fleet
    if fleet.stop_by is None:
        fleet.stop_by = turn.now + fleet.patience.drain
        turn.do(Verb.STOP, why=fleet.stopping or "")
        for worker in fleet.launched:
            turn.do(Verb.DRAIN, worker.worker, why=fleet.stopping or "")
        return
    if turn.now >= fleet.stop_by:
        for worker in fleet.launched:
            if not worker.killed:
                worker.killed = True
                # Fenced first, as always: it may take a while to die.
                turn.do(Verb.FENCE, worker.worker, why="it did not drain in time")
                turn.do(Verb.KILL, worker.worker, why="it did not drain in time")
    if turn.now >= fleet.stop_by + fleet.patience.drain:
        for worker in fleet.launched:
            worker.phase = Phase.ENDED  # its launcher does not say so; it is fenced, and will be told when it can be
