"""The supervisor's next step: state in, actions out. Pure.

This is the local form: dead workers are relaunched with backoff while they make progress, and given up when they don't.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

BACKOFF_SECONDS = (0.0, 1.0, 5.0, 15.0, 30.0)
"""Waits before the launches that follow deaths without progress; one more death than these gives the worker up."""

STUCK_SECONDS = 60.0
"""A life whose heartbeat stood still so long is ended: the expiry time of its claims, so others may have them by then."""
LEAVE_SECONDS = 180.0
"""The same for a life that said that it is over, and only has to leave: it may be telling Prefect, which may be away."""
START_SECONDS = 600.0
"""How long a process may take from its launch to its first heartbeat."""


class Phase(StrEnum):
    """Where a worker stands."""

    WAITING = "waiting"
    """To be launched at `due`."""
    RUNNING = "running"
    ENDED = "ended"
    """In an orderly way."""
    GIVEN_UP = "given up"


@dataclass(slots=True)
class WorkerState:
    """What the supervisor knows of one worker."""

    worker: int
    phase: Phase = Phase.WAITING
    due: float = 0.0
    launches: int = 0
    deaths: int = 0
    """In a row, without an outcome between them."""
    outcomes: int = 0
    """Of all its lives, as far as seen."""
    outcomes_at_death: int = 0


@dataclass(slots=True)
class Fleet:
    """All workers of a run, and whether new lives are wanted."""

    workers: list[WorkerState] = field(default_factory=list)
    stopping: bool = False

    @property
    def over(self) -> bool:
        """Nobody runs, nobody will."""
        done = (Phase.ENDED, Phase.GIVEN_UP)
        return all(w.phase in done or (self.stopping and w.phase is Phase.WAITING) for w in self.workers)


def ended(worker: WorkerState, status: int, now: float) -> bool:
    """A life ended with an exit status. Changes the worker; True if it died: then fence it before anything else."""
    if status == 0:
        worker.phase = Phase.ENDED
        return False
    progressed = worker.outcomes > worker.outcomes_at_death
    worker.deaths = 1 if progressed else worker.deaths + 1
    worker.outcomes_at_death = worker.outcomes
    if worker.deaths > len(BACKOFF_SECONDS):
        worker.phase = Phase.GIVEN_UP
    else:
        worker.phase = Phase.WAITING
        worker.due = now + BACKOFF_SECONDS[worker.deaths - 1]
    return True


def stuck(*, still: float, beaten: bool, over: bool) -> bool:
    """Whether a life that runs does nothing any more.

    Args:
        still: seconds without a new heartbeat, or since the launch.
        beaten: it had a heartbeat.
        over: the last one said that nothing will be published any more.
    """
    return still >= (START_SECONDS if not beaten else LEAVE_SECONDS if over else STUCK_SECONDS)


def due(fleet: Fleet, now: float) -> list[WorkerState]:
    """Workers to launch now."""
    if fleet.stopping:
        return []
    return [w for w in fleet.workers if w.phase is Phase.WAITING and w.due <= now]
