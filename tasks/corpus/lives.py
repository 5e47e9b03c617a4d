"""Lives: attempts of workers and leases of parents, their heartbeats, and how an observer tells that one is over.

Two wall clocks are never compared (DESIGN section 3, Time): an observer watches a counter with its own monotonic clock.
Processes of this host are a shortcut, not another rule: a process that is gone beats no more, so nobody need wait 60 s.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.corpus.failures import Category, NotFound, PdfFlowsError
from tasks.corpus.ledger import Counts
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store

EXPIRY_SECONDS = 60.0
"""A life is over when its counter stood still so long, as an observer saw it."""
DOUBT_SECONDS = 45.0
"""A holder without a successful heartbeat so long publishes nothing until it read its claim and fence again."""
BEAT_SECONDS = 15.0
"""Longest time between two heartbeats."""


class Process(BaseModel):
    """A process, so that observers on the same host can see that it is gone."""

    model_config = ConfigDict(frozen=True)

    host: str
    """Boot id and pid namespace: equal only where pids mean the same."""
    pid: int
    started: int
    """Start time in clock ticks since boot: tells a reused pid."""

    def here(self) -> bool:
        """Whether its pid means something to the calling process."""
        return self.host == _host()

    def gone(self) -> bool:
        """True only where it is certain: same host, and no such process (or only its zombie)."""
        if self.host != _host():
            return False
        stat = _stat(self.pid)
        if stat is None:
            return self.pid != os.getpid()  # without /proc nobody but the calling process has this host
        return stat[0] == "Z" or stat[1] != self.started


class Life(BaseModel):
    """start.json and lease.json: who took the number."""

    schema_version: int = SCHEMA
    process: Process
    hostname: str
    epoch: int = 0
    flow_run_id: str | None = None
    launch: int | None = None
    """Which launch of its worker it came from."""
    machine: dict[str, Any] = {}
    """What it runs on, as `tasks/fleet/machine.py` describes it."""
    at: float = 0.0
    """Seconds since 1970 by its own clock: for people, never compared. 0 where an earlier version wrote it."""


class Stage(StrEnum):
    """What a life is at."""

    LOADING = "loading"
    """The engine."""
    WORKING = "working"
    DRAINING = "draining"
    """It claims no more."""


class Heartbeat(Counts):
    """heartbeat.json: the counter that observers watch, and what a person wants to see."""

    schema_version: int = SCHEMA
    counter: int = 0
    ended: str | None = None
    """Why the life ended in an orderly way ("complete", "drained", ...): nothing will be published any more."""
    stage: Stage = Stage.LOADING
    draining: str = ""
    """Why it claims no more."""
    at: float = 0.0
    """Seconds since 1970 by its own clock: for people, never compared."""
    in_hand: list[str] = Field(default_factory=list)
    page: int | None = None
    activity: int = 0
    """Counts pages and documents begun and done: stands still while nothing gets on."""
    slowest: float = 0.0
    """Seconds that the slowest of the last pages took: the engine's own pace."""
    weight: int = 0
    """Of the processed documents (`tasks/corpus/rowtable.py`): what the projection goes by."""
    working_seconds: float = 0.0
    """Since the engine was ready."""
    sampled: int = 0
    """Documents of the canary's sample with an outcome."""
    sample_left: int | None = None
    """Documents of the sample that this life still has to see done, by whomever; None where it has no sample."""
    spend: int | None = None
    """Of a parent whose run has a budget: counts the writes of its spend record."""
    wanted: int | None = None
    """Of a parent: so many workers are wanted; those with higher numbers drain."""
    streak_category: Category | None = None
    streak: int = 0
    """How many of the last outcomes in a row failed with `streak_category`: what the breaker reads."""
    streak_message: str = ""


@cache
def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - not a path
    except OSError:  # not Linux: pids are never compared then
        return f"{socket.gethostname()}/{os.getpid()}"


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def boot_seconds() -> float:
    """Seconds since boot, suspended time included: a laptop that slept is in doubt when it wakes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def this_process() -> Process:
    """The calling process."""
    stat = _stat(os.getpid())
    return Process(host=_host(), pid=os.getpid(), started=stat[1] if stat else 0)


def this_life(
    epoch: int = 0,
    flow_run_id: str | None = None,
    *,
    launch: int | None = None,
    machine: dict[str, Any] | None = None,
) -> Life:
    """The record that takes a number for the calling process."""
    return Life(
        process=this_process(),
        hostname=socket.gethostname(),
        epoch=epoch,
        flow_run_id=flow_run_id,
        launch=launch,
        machine=machine or {},
        at=round(time.time(), 3),
    )


def take_number(store: Store, prefix: str, name: str, life: Life) -> int:
    """The next free number below `prefix`, taken by creating `<prefix><number>/<name>`: two lives never share one."""
    taken = numbers(store, prefix)
    number = taken[-1] + 1 if taken else 0
    while not store.create(f"{prefix}{number}/{name}", life.model_dump_json().encode()):
        number += 1
    return number


class NumberTaken(PdfFlowsError):
    """Another life has the number that this one wants to have."""


def take_this(store: Store, prefix: str, number: int, name: str, life: Life) -> int:
    """Take this number and no other: whoever comes between two looks at the numbers is noticed. Raises NumberTaken."""
    key = f"{prefix}{number}/{name}"
    if store.create(key, life.model_dump_json().encode()):
        return number
    try:
        there = Life.model_validate_json(store.read(key))
    except (NotFound, ValidationError):
        there = None
    # Where only the answer was lost, it is this very process.
    if there is None or there.process != life.process:
        raise NumberTaken(f"{key} is another life's")
    return number


def numbers(store: Store, prefix: str) -> list[int]:
    """The numbers taken below `prefix`, sorted."""
    found = {info.key[len(prefix) :].split("/", 1)[0] for info in store.list(prefix)}
    return sorted(int(name) for name in found if name.isdigit())


class Observer:
    """Watches lives through the store; remembers what it saw, so ask the same observer again and again.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float], expiry: float = EXPIRY_SECONDS) -> None:
        self._store = store
        self._clock = clock
        self._expiry = expiry
        self._seen: dict[str, tuple[int, float]] = {}
        self._over: dict[str, str] = {}
        self._lives: dict[str, Life] = {}

    def heartbeat(self, prefix: str) -> Heartbeat | None:
        """The life's last heartbeat, None where it never beat."""
        try:
            return Heartbeat.model_validate_json(self._store.read(f"{prefix}heartbeat.json"))
        except (NotFound, ValidationError):
            return None

    def life(self, prefix: str, name: str = "start.json") -> Life | None:
        """Who took the number; that is read once."""
        key = f"{prefix}{name}"
        if key not in self._lives:
            try:
                self._lives[key] = Life.model_validate_json(self._store.read(key))
            except (NotFound, ValidationError):
                return None
        return self._lives[key]

    def over(self, prefix: str, name: str = "start.json") -> str | None:
        """Why the life below `prefix` is over, or None while it may be living.

        "fenced", "ended: ...", "process gone" (the caller must fence it before it relies on that) or "expired".
        """
        if (known := self._over.get(prefix)) is not None:
            return known
        verdict = self._look(prefix, name)
        if verdict is not None:
            self._over[prefix] = verdict
        return verdict

    def _look(self, prefix: str, name: str) -> str | None:
        if self._store.head(f"{prefix}fenced") is not None:
            return "fenced"
        beat = self.heartbeat(prefix)
        if beat is not None and beat.ended is not None:
            return f"ended: {beat.ended}"
        life = self.life(prefix, name)
        if life is not None and life.process.gone():
            return "process gone"
        return "expired" if self.stood(prefix, beat) >= self._expiry else None

    def stood(self, prefix: str, beat: Heartbeat | None) -> float:
        """For how many seconds, as far as this observer saw, the life's counter has been what it is in `beat`."""
        counter = beat.counter if beat is not None else -1
        now = self._clock()
        seen = self._seen.get(prefix)
        if seen is None or seen[0] != counter:
            self._seen[prefix] = (counter, now)
            return 0.0
        return now - seen[1]

    def forget(self) -> None:
        """Begin to count again: the observer could not see for a while, so that nothing moved is no news of anybody."""
        self._seen.clear()


class Fence(BaseModel):
    """fenced: this life must not publish any more."""

    schema_version: int = SCHEMA
    why: str
    blame: bool = False
    """Whether its death may be its documents' doing: not after a notice, a drain, or the loss of its machine or its parent."""
    at: float = 0.0
    """Seconds since 1970 by the clock of whoever did it: for people."""


def fence(store: Store, prefix: str, why: str, *, blame: bool = False) -> bool:
    """Forbid the life below `prefix` to publish. True if this call did it."""
    return store.create(
        f"{prefix}fenced", Fence(why=why, blame=blame, at=round(time.time(), 3)).model_dump_json().encode()
    )


def read_fence(store: Store, prefix: str) -> Fence | None:
    """The life's fence, None where it has none. Raises StoreError."""
    try:
        data = store.read(f"{prefix}fenced")
    except NotFound:
        return None
    try:
        return Fence.model_validate_json(data)
    except ValidationError:
        return Fence(why=data.decode(errors="replace"))  # of an earlier version: plain words
