"""A fleet in virtual time: machines come, are interrupted and are replaced; what they do next is decided by the shipped code.

The supervisor's `step` launches, fences and relaunches; `Candidates`, `Claims` and the worker's own loop over them choose the
documents; ledgers are written by `LedgerWriter`; `Lookout` and `SettledBoard` read them and say what is settled, as the
parent's page has them do each minute. All of them share one store in memory, which counts requests. Only time, machines and the
work itself are made up here. Heartbeats are not written: the store makes one up when it is read.
"""

from __future__ import annotations

import bisect
import heapq
import json
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from memory_store import FOLDERS, PAGE, MemoryStore, folder_of

from tasks.candidates import Candidates
from tasks.corpus import paths
from tasks.corpus.claims import Claim, Claims, Holder
from tasks.corpus.ledger import LedgerWriter, Outcome, Record
from tasks.corpus.lives import BEAT_SECONDS, Life, Process, fence, take_number
from tasks.corpus.manifest import Manifest, Row
from tasks.corpus.partition import Bitmap
from tasks.corpus.rowtable import RowTable
from tasks.corpus.runs import Identity, RunSpec
from tasks.corpus.settled import SettledBoard
from tasks.corpus.store import ObjectInfo
from tasks.fleet.supervisor import Fleet, Sight, Verb, over, recounted, step
from tasks.live_page import PAGE_SECONDS
from tasks.lookout import Lookout
from tasks.worker import Worker

RUN = "simulated"
LAST = "\U0010ffff"
"""Sorts behind all that a key may go on with."""
HOUR = 3600.0
BEGAN = 1.8e9
"""Seconds since 1970, for what people are shown."""
SIGMA = 1.5
MEAN_SECONDS = 150.0
NOISE = 0.3
"""Sigma of the factor between a document's bytes and its work."""
INTERRUPTED_EVERY = 6 * HOUR
BOOT_SECONDS = 480.0
WAIT_SECONDS = 180.0
WAIT_SIGMA = 0.5
REPEATED_SECONDS = 60.0
"""Most of a document's work that a hard loss repeats: finished pages are kept."""
HELD = 2
"""Claims of a worker: one that it works on, one that waits."""
TICK, CALM_TICK = 5.0, 60.0
"""Seconds between two looks of the supervisor: while something is amiss, and while all workers work."""
IDENTITY = Identity(input="in", output="out", engine="dummy", limits={}, rendering={})


class KeptManifest(Manifest):
    """A manifest whose rows are in memory."""

    def __init__(self, rows: list[tuple[str, Row]]) -> None:
        super().__init__(Path("kept"))
        self._kept = rows

    def lines(self) -> Iterator[tuple[str, Row]]:
        yield from self._kept


class KeptRows(RowTable):
    """The rows of all lives: each would make the same table of them."""

    def close(self) -> None:
        """Others read them."""


class Serial(Executor):
    """Readers that read one after the other: virtual time has no use for threads."""

    def map(self, fn: Callable[..., Any], *iterables: Any, **more: Any) -> Iterator[Any]:
        return map(fn, *iterables)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...


@cache
def at_work(in_hand: int, outcomes: int) -> Sight:
    """What nearly all sights are."""
    return Sight(beaten=True, in_hand=in_hand, outcomes=outcomes)


@dataclass(eq=False)
class Machine:
    """A machine with its worker: a launch, then a life."""

    worker: int
    launch: int
    launched_at: float
    up_at: float = math.inf
    gone_at: float = math.inf
    ended: str | None = None
    lost: bool = False
    killed: bool = False
    attempt: int = -1
    source: Iterator[tuple[Row, int]] | None = None
    candidates: Candidates | None = None
    claims: Claims | None = None
    ledger: LedgerWriter | None = None
    held: deque[tuple[int, Claim | None]] = field(default_factory=deque)
    begun: float = math.inf
    """When the document in hand was begun."""
    outcomes: int = 0
    """Not yet seen by the supervisor."""
    done: int = 0
    """Documents, of this life."""

    @property
    def lives(self) -> bool:
        return self.up_at < math.inf and self.gone_at == math.inf

    @property
    def prefix(self) -> str:
        return paths.life(RUN, self.worker, self.attempt)


class BeatingStore(MemoryStore):
    """Heartbeats come from the world: the counter of a living life moves every 15 s."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(keeps_metadata=False)
        self.clock, self.lives = clock, dict[str, Machine]()
        self.infos: dict[str, ObjectInfo] = {}

    def read(self, key: str) -> bytes:
        machine = self.lives.get(key)
        if machine is None:
            return super().read(key)
        self._count("GET", key)
        counter = int((min(self.clock(), machine.gone_at) - machine.up_at) / BEAT_SECONDS)
        beat = {"counter": counter, "ended": machine.ended, "converted": machine.done}
        return json.dumps(beat).encode()

    def list(self, prefix: str = "", *, skip: str | None = None) -> Iterator[ObjectInfo]:
        """A page at a time, without hashes: nobody asks for one here, and listings have a billion entries."""
        if prefix.count("/") < FOLDERS or skip is not None:
            return super().list(prefix, skip=skip)
        keys = self._sorted(folder_of(prefix))
        found = keys[bisect.bisect_left(keys, prefix) : bisect.bisect_left(keys, prefix + LAST)]
        for _ in range(0, max(1, len(found)), PAGE):
            self._count("LIST", prefix)
        return map(self._info, found)

    def _info(self, key: str) -> ObjectInfo:
        if (info := self.infos.get(key)) is None:
            info = self.infos[key] = ObjectInfo(key, len(self.objects[key]), "")
        return info


class World:
    """One run.

    Args:
        policy: "shipped", or a baseline: "modulo" (each worker its own documents in the manifest's order, no stealing), "queue"
            (one queue for all, in that order).
        interrupted: mean seconds between two interruptions of a machine.
    """

    def __init__(
        self,
        seed: int,
        documents: int,
        workers: int,
        scratch: Path,
        policy: str = "shipped",
        *,
        interrupted: float = INTERRUPTED_EVERY,
    ) -> None:
        r = self.random = random.Random(seed)
        self.documents, self.workers, self.scratch, self.policy = documents, workers, scratch, policy
        self.interrupted = interrupted
        mu = math.log(MEAN_SECONDS) - SIGMA**2 / 2
        self.work = [r.lognormvariate(mu, SIGMA) for _ in range(documents)]
        self.left = list(self.work)
        rows = [
            Row(i, f"{i}.pdf", f"{i}.md", max(1, int(s * 1e4 * r.lognormvariate(0, NOISE))), "")
            for i, s in enumerate(self.work)
        ]
        self.manifest = KeptManifest(
            [
                (f'{{"index": {x.index}, "key": "{x.key}", "name": "{x.name}", "size": {x.size}, "etag": ""}}\n', x)
                for x in rows
            ]
        )
        self.now = 0.0
        self.store = BeatingStore(lambda: self.now)
        self.spec = RunSpec(
            run_id=RUN, created="", identity=IDENTITY, manifest="", documents=documents, partitions=workers
        )
        self.rows = KeptRows(self.manifest, scratch / "rows.jsonl")
        self.board = SettledBoard(self.store, RUN, 0, documents, False)
        self.board.begin(Bitmap(documents), resumed=False)
        self.lookout = Lookout(
            self.store,
            self.spec,
            clock=self.store.clock,
            wall=lambda: BEGAN + self.now,
            also=self.board.take,
            pool=Serial(),
        )
        self.fleet = Fleet.of(workers, documents)
        self.machines: dict[int, Machine] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.done = Bitmap(documents)
        self.up = self.worked = self.repeated = 0.0
        self.interruptions = self.launches = 0
        self.queues = (
            [deque(range(documents))]
            if policy == "queue"
            else [deque(range(k, documents, workers)) for k in range(workers)]
        )
        self.ended_at = 0.0
        self.over = False
        self.steps = self.looks = 0
        """Of the supervisor, and of the parent's page."""
        self.stepping = self.looking = 0.0
        """CPU seconds of these."""
        self.of_page = Counter[str]()
        """Requests of the page."""

    # -- time

    def at(self, t: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (t, self.count, act))

    def run(self) -> World:
        """Until nobody runs and nobody will."""
        self.at(0.0, self.tick)
        if self.policy == "shipped":
            self.at(PAGE_SECONDS, self.look)
        while self.events:
            self.now, _, act = heapq.heappop(self.events)
            act()
        return self

    # -- the parent

    def sight(self, m: Machine) -> Sight:
        outcomes, m.outcomes = m.outcomes, 0
        if m.up_at == math.inf:
            return Sight(began=False, waited=self.now - m.launched_at)
        if m.lost:
            return Sight(beaten=True, still=self.now - m.gone_at, in_hand=len(m.held), outcomes=outcomes)
        if m.ended is not None:
            return Sight(
                over=True,
                orderly=True,
                complete=m.ended == "complete",
                beaten=True,
                last_word=m.ended,
                outcomes=outcomes,
            )
        return at_work(len(m.held), outcomes)

    def look(self) -> None:
        """What the parent's page does each minute."""
        if self.over:
            return
        sent, begun = self.store.requests.copy(), time.process_time()
        self.lookout.facts()
        self.board.publish()
        self.looking += time.process_time() - begun
        self.of_page.update(self.store.requests - sent)
        self.looks += 1
        self.at(self.now + PAGE_SECONDS, self.look)

    def tick(self) -> None:
        sights = {w.worker: self.sight(self.machines[w.worker]) for w in self.fleet.launched}
        begun = time.process_time()
        actions = step(self.fleet, sights, self.now)
        self.stepping += time.process_time() - begun
        self.steps += 1
        for action in actions:
            machine = self.machines.get(action.worker)
            if action.verb is Verb.LAUNCH:
                self.launch(action.worker, action.launch)
            elif action.verb is Verb.FENCE and machine is not None and machine.attempt >= 0:
                fence(self.store, machine.prefix, action.why, blame=action.blame)
                if machine.lives:
                    raise AssertionError(f"a living worker was fenced: {action}")
            elif action.verb is Verb.KILL and machine is not None:
                machine.killed = True
        if over(self.fleet) and not recounted(self.fleet, self.documents - len(self.done), self.now):
            self.over = True
            return
        calm = len(self.fleet.launched) == self.workers and all(
            self.machines[w.worker].lives for w in self.fleet.launched
        )
        self.at(self.now + (CALM_TICK if calm and self.fleet.remaining > 20 * self.workers else TICK), self.tick)

    def launch(self, k: int, number: int) -> None:
        self.launches += 1
        self.store.create(f"{paths.launches(RUN, k)}{number}.json", b"{}")
        machine = self.machines[k] = Machine(k, number, self.now)
        wait = self.random.lognormvariate(math.log(WAIT_SECONDS), WAIT_SIGMA)
        self.at(self.now + wait + BOOT_SECONDS, lambda: self.begin(machine))

    # -- a worker

    def begin(self, m: Machine) -> None:
        if m.killed:
            return
        m.up_at = self.now
        if self.policy == "shipped":
            life = Life(process=Process(host="elsewhere", pid=1, started=1), hostname="", launch=m.launch)
            m.attempt = take_number(self.store, paths.worker(RUN, m.worker), "start.json", life)
            self.store.lives[f"{m.prefix}heartbeat.json"] = m
            me = Holder(worker=m.worker, attempt=m.attempt)
            clock = self.store.clock
            m.claims, m.ledger = Claims(self.store, RUN, me), LedgerWriter(self.store, m.prefix, clock)
            m.candidates = Candidates(
                self.store,
                self.spec,
                self.manifest,
                self.scratch,
                m.claims,
                me,
                workers=self.workers,
                epoch=0,
                retry_failed=False,
                patient=cast(Any, lambda: lambda act, *args: act(*args)),
                clock=clock,
                rows=self.rows,
                readers=Serial(),
            )
            worker = SimpleNamespace(_settings=SimpleNamespace(steal=True), _stopping=None)
            m.source = Worker._next(cast(Worker, worker), m.candidates)
        self.at(self.now + self.random.expovariate(1 / self.interrupted), lambda: self.interrupt(m))
        self.go_on(m)

    def take(self, m: Machine) -> tuple[int, Claim | None] | None:
        """The next document, claimed; None where nothing is free."""
        if m.source is None or m.claims is None or m.candidates is None:
            queue = self.queues[0 if self.policy == "queue" else m.worker]
            return (queue.popleft(), None) if queue else None
        for row, n in m.source:
            claim = m.claims.take(m.candidates.partition(row.index), row.index, n)
            m.candidates.took(row.index, n, claim is not None)
            if claim is not None:
                return row.index, claim
        return None

    def go_on(self, m: Machine) -> None:
        while len(m.held) < HELD and (taken := self.take(m)) is not None:
            m.held.append(taken)
        if not m.held:
            self.leave(m, "complete")
            return
        m.begun = self.now
        self.at(self.now + self.left[m.held[0][0]], lambda: self.finish(m))

    def finish(self, m: Machine) -> None:
        if not m.lives:
            return
        index, _ = m.held.popleft()
        self.worked += self.now - m.begun
        self.left[index] = 0.0
        m.outcomes += 1
        m.done += 1
        if m.ledger is not None and m.candidates is not None:
            record = self.record(m, index, Outcome.INTENT)
            m.ledger.flush(m.ledger.add(record))
            self.store.create(f"{index}.md", b"")
            m.ledger.add(self.record(m, index, Outcome.CONVERTED))
            # Two beats later at most; sooner where the next document's intent takes it along.
            self.at(self.now + 1.5 * BEAT_SECONDS, lambda: self.flush(m))
            m.candidates.finish(index)
        self.done.add(index)
        self.ended_at = max(self.ended_at, self.now)
        self.go_on(m)

    def flush(self, m: Machine) -> None:
        if m.lives and m.ledger is not None:
            m.ledger.flush_if_due()

    def record(self, m: Machine, index: int, outcome: Outcome) -> Record:
        return Record(
            worker=m.worker,
            attempt=m.attempt,
            epoch=0,
            index=index,
            key=f"{index}.pdf",
            name=f"{index}.md",
            outcome=outcome,
            at=self.now,
        )

    def interrupt(self, m: Machine) -> None:
        if not m.lives:
            return
        self.interruptions += 1
        hard = self.random.random() < 0.5
        index, spent = m.held[0][0], self.now - m.begun
        repeated = min(REPEATED_SECONDS, spent) if hard else 0.0
        self.left[index] -= spent - repeated
        self.worked += spent - repeated
        self.repeated += repeated
        if m.claims is None:
            self.queues[0 if self.policy == "queue" else m.worker].extendleft(i for i, _ in reversed(m.held))
        if not hard and m.claims is not None:
            for _, claim in m.held:
                if claim is not None:
                    m.claims.release(claim)
        m.lost = hard
        self.leave(m, None if hard else "drained")

    def leave(self, m: Machine, ended: str | None) -> None:
        if m.ledger is not None and ended is not None:
            m.ledger.flush()
        if m.candidates is not None:
            m.candidates.close()
        m.gone_at, m.ended = self.now, ended
        m.candidates = m.source = None
        self.up += self.now - m.up_at
        if ended is not None:
            m.held.clear()

    # -- what came of it

    @property
    def total(self) -> float:
        return sum(self.work)

    @property
    def tail(self) -> float:
        """Seconds from where workers found nothing more until the last document was done, all workers together."""
        return sum(self.ended_at - m.gone_at for m in self.machines.values() if m.ended == "complete")

    @property
    def overhead(self) -> float:
        """Machine-time beside first-time work, the tail counted as if machines were kept, as a part of the work."""
        return (self.up + self.tail) / self.total - 1

    @property
    def stretch(self) -> float:
        """Wall-clock against the total work dealt to all workers that are wanted, as if always up."""
        return self.ended_at / (self.total / self.workers)
