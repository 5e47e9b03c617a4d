"""Who may stop a run or hold its launches back: money, time, the canary. What they are shown, and what they decide."""

from __future__ import annotations

from typing import Protocol

from pydantic import BaseModel

from tasks.corpus.lives import Heartbeat, Life
from tasks.fleet.supervisor import Fleet


class Seen(BaseModel):
    """What a look showed."""

    beats: dict[int, Heartbeat] = {}
    """The newest heartbeat of each worker of this start."""
    totals: Heartbeat = Heartbeat()
    """Counts of all lives of this start together."""
    lives: dict[str, Life] = {}
    """start.json of this start's lives, by "worker/attempt"."""
    over: set[str] = set()
    """Those of them that are over."""
    withdrawn: dict[str, bool] = {}
    """Launches ("worker/launch") that are over without a life; whether a machine may have been started for it."""


class Ruling(BaseModel):
    """What a governor decides."""

    stop: str | None = None
    launches: int | None = None
    """More launches allowed now; None for any number."""
    why: str = ""
    on_demand: bool = False
    spend: int | None = None
    """Count of the spend record's writes."""
    wanted: int | None = None
    """Another number of workers."""
    say: list[str] = []


class Governor(Protocol):
    """Asked after each look, and before each launch."""

    def launching(self, worker: int, launch: int) -> None:
        """A worker is about to be launched. Raises StoreError: then it is not."""
        ...

    def govern(self, fleet: Fleet, seen: Seen, now: float) -> Ruling:
        """What holds from now on."""
        ...
