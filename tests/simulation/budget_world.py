"""A run with a budget from its first launch to its last machine: the shipped parent, workers, claims, treasury and supervisor.

`tests/protocol_world.py` has them as processes on a virtual clock; here they do not take turns at every request but work on
machines that have bills. Prices move up to their ceilings, machines come late, are taken away with and without notice, or never
come; parents are lost, soonest when claiming is about to be stopped, and are followed by others or by nobody; the store is away;
the source of prices answers late or not at all. Bills are reckoned from what really happened (`tests/bills.py`).
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bills import HOUR, Price, billed
from protocol_world import RUN, EnginePool, LifeActor, ParentActor, Pool, Port, WorkerHandle, World

from tasks import supervise
from tasks.canary import Waiting
from tasks.corpus.partition import Bitmap
from tasks.corpus.runs import load_manifest
from tasks.engines.protocol import UNKEPT, EngineResult, Page
from tasks.engines.sandbox import Aborted
from tasks.fleet.budget import Terms
from tasks.fleet.launcher import Handle, NotLaunched
from tasks.fleet.losses import Loss
from tasks.fleet.machine import BOOT_SECONDS, Lifecycle, Machine
from tasks.fleet.prices import Quote
from tasks.fleet.spend import LATE_SECONDS
from tasks.fleet.supervisor import Patience
from tasks.governing import Governor
from tasks.treasury import Treasury

TYPE = "g4dn.xlarge"
SLICE_SECONDS = 10.0
"""An engine that is to be killed is within so many seconds."""
PAGE_SECONDS = 30.0
EXTRAS = 0.0228


@dataclass
class Host:
    """A machine as it really is, with its only worker."""

    name: str
    actor: MachineActor
    price: Price
    lifecycle: Lifecycle
    since: float
    """Second at which its bill begins."""
    starts: float
    """Second at which its worker's process begins."""
    gone: float = math.inf
    """Second at which its bill ends."""

    def paid(self) -> float:
        """USD."""
        return billed(self.price, EXTRAS, self.since, self.gone)


class MachineActor(LifeActor):
    """A worker's process on a machine that comes after `wait` seconds, and boots for `booting` more."""

    world: BudgetWorld
    wait = booting = 0.0
    host: Host | None = None
    lifecycle = Lifecycle.SPOT

    def boot(self) -> None:
        self.pause("waiting for a machine", self.wait)
        self.world.rent(self)
        self.pause("booting", self.booting)

    def machine(self) -> Machine:
        assert self.host is not None
        # The kernel's uptime begins after the bill.
        late = BOOT_SECONDS if self.world.mean else self.world.random.uniform(0, BOOT_SECONDS)
        uptime = max(0.0, self.world.clock - self.host.since - late)
        return Machine(id=self.host.name, type=TYPE, lifecycle=self.lifecycle, uptime=uptime)


class MachineHandle(WorkerHandle):
    """A launch that waits for its machine, then for its process."""

    @property
    def begun(self) -> bool:
        return self.actor.at not in ("start", "waiting for a machine", "booting")


class MachinePool(Pool):
    """The work pool: some launches never get a machine."""

    world: BudgetWorld

    def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Handle:
        world = self._world
        assert isinstance(world, BudgetWorld)
        r = world.random
        if r.random() < world.trouble:
            raise NotLaunched("no capacity")
        world.launching(self._actor, worker, launch)
        if (worker, launch) not in world.handles:
            actor = MachineActor(world, worker, launch, self._epoch())
            actor.wait = r.choice([0.0, r.uniform(0, 600)]) if r.random() >= world.trouble else 40 * HOUR
            lead = world.terms.start_seconds - LATE_SECONDS
            actor.booting = world.up_to(lead - BOOT_SECONDS) + r.uniform(0, BOOT_SECONDS)
            actor.lifecycle = Lifecycle.ON_DEMAND if on_demand else Lifecycle.SPOT
            world.handles[worker, launch] = MachineHandle(world.begin(actor))
        return world.handles[worker, launch]


class WorkingEngine(EnginePool):
    """An engine whose documents take what the world says, page by page; a drain ends them at a page's end, or kills it."""

    def __init__(self, actor: LifeActor) -> None:
        super().__init__(actor)
        self._life = actor

    def convert(
        self,
        pdf: Path,
        name: str,
        passwords: list[str],
        assets: Path,
        on_page: Callable[[int, int], None],
        journal: Any = UNKEPT,
    ) -> EngineResult:
        world = self._life.world
        assert isinstance(world, BudgetWorld)
        seconds = world.seconds[name]
        pages = max(1, math.ceil(seconds / PAGE_SECONDS))
        world.engine_work[name].append(self._life.name)
        for page in range(1, pages + 1):
            on_page(page, pages)
            end = world.clock + seconds / pages
            while (left := end - world.clock) > 0:
                self._life.pause(f"page {page} of {name}", min(SLICE_SECONDS, left))
                self._stop_if_killed(world.clock)
            rest = seconds * (pages - page) / pages
            if rest and self._life.life._stopping is not None and world.clock + rest > self._life.life._kill_at:
                raise Aborted
        world.worked += seconds
        return EngineResult(pages=[Page(number=n, text=f"{name} page {n}") for n in range(1, pages + 1)])

    def _stop_if_killed(self, now: float) -> None:
        if self._life.life._stopping is not None and now >= self._life.life._kill_at:
            raise Aborted


class SourcedPrices:
    """What the parent is told of prices: true, but late or not at all."""

    def __init__(self, world: BudgetWorld) -> None:
        self._world = world

    def _price(self, machine: Machine) -> Price:
        return self._world.on_demand if machine.lifecycle is Lifecycle.ON_DEMAND else self._world.price

    def hourly(self, machine: Machine, seconds: float = 0.0) -> Quote:
        world, price = self._world, self._price(machine)
        if world.silent or world.random.random() < world.blind:
            return Quote(usd_per_hour=price.ceiling, at=None, source="ceiling", highest=price.ceiling, age=None)
        age = 0.0 if world.worst else min(seconds, world.random.choice([0.0, world.random.uniform(0, 300)]))
        highest = price.highest(world.clock - seconds, world.clock - age)
        now = price.highest(world.clock, world.clock)
        return Quote(usd_per_hour=now, at=None, source="world", highest=highest, age=age)

    def ceiling(self, machine: Machine) -> float:
        return self._price(machine).ceiling

    def extras(self, machine: Machine) -> float:
        return EXTRAS


class PayingParent(ParentActor):
    """A parent with a treasury."""

    world: BudgetWorld
    treasury: Treasury | None = None

    def governors(
        self, runs: Port, settled: Bitmap, adopted: dict[int, Handle], living: set[str]
    ) -> Collection[Governor]:
        world = self.world
        waiting = Waiting(load_manifest(runs, world.spec, world.folder).rows(), settled)  # type: ignore[arg-type]
        self.treasury = Treasury(
            runs,  # type: ignore[arg-type]
            RUN,
            world.terms,
            SourcedPrices(world),
            types=(TYPE,),
            region=None,
            weight=waiting.weight,
            living=living,
            launched=[k for k in adopted if not any(name.startswith(f"{k}/") for name in living)],
            clock=world.time,
            wall=world.wall,
        )
        return (self.treasury,)

    def close(self) -> None:
        if self.treasury is not None and self.supervision is not None:
            self.treasury.close(self.supervision.seen())

    @property
    def near(self) -> bool:
        """Whether claiming might be stopped by the next assessment."""
        if self.treasury is None or self.treasury._assessment is None:
            return False
        seen, spend = self.treasury._assessment, self.treasury._book.spend
        rates = sum(rate.most for rate in (*spend.live(), *spend.pending(spend.at)))
        return seen.claiming and seen.committed + rates * 60 / HOUR > (self.world.terms.budget or 0.0)


class BudgetWorld(World):
    """One run with a budget."""

    interleaves = False
    budgeted = True
    look_seconds = 10.0
    patience = Patience(starting=600.0, capacity=1800.0)

    def __init__(self, patch: pytest.MonkeyPatch, seed: int, documents: int = 200) -> None:
        r = self.random = random.Random(seed)
        self.seed = seed
        super().__init__(patch, documents=documents, workers=r.randint(1, 5))
        patch.setattr(supervise, "TICK_SECONDS", 5.0)
        self.worst = r.random() < 0.4
        """The parent is lost, and prices jump, just before claiming would be stopped."""
        self.mean = self.worst or r.random() < 0.4
        """Whatever may take its time takes as long as the terms allow."""
        sigma = r.uniform(0.3, 1.0)
        self.seconds = {f"d{i}.pdf": min(600.0, r.lognormvariate(math.log(60), sigma)) for i in range(documents)}
        self.total = sum(self.seconds.values())
        self.worked = 0.0
        self.terms = Terms(
            teardown_seconds=r.choice([0.0, r.uniform(60, 300), 1200.0]),
            start_seconds=r.uniform(300, 900),
            worth_seconds=0.0 if self.worst else r.choice([0.0, 600.0]),
        )
        ceiling = r.uniform(0.3, 1.2)
        base = ceiling * r.uniform(0.2, 0.9)
        self.jumps = self.worst or r.random() < 0.5
        """Prices go to their ceilings all at once, in the worst moment."""
        changes = [(0.0, base)]
        while not self.jumps and changes[-1][0] < 20 * HOUR:
            price = ceiling if r.random() < 0.3 else r.uniform(0.2, 1.0) * ceiling
            changes.append((changes[-1][0] + r.expovariate(1 / 1800), price))
        self.price = Price(ceiling, changes)
        self.on_demand = Price(1.5 * ceiling, [(0.0, 1.5 * ceiling)])
        whole = (self.total + self.workers * 900) * (base + EXTRAS) / HOUR
        leaving = self.terms.leaving_seconds + self.terms.start_seconds
        reserve = self.workers * leaving * (ceiling + EXTRAS) / HOUR
        deadline = None if self.worst else r.choice([None, self.total / self.workers * r.uniform(0.5, 3)])
        self.terms = self.terms.model_copy(
            update={
                "budget": max(reserve, whole) * (r.uniform(0.6, 1.2) if self.worst else r.uniform(0.5, 3)),
                "deadline": deadline,
                "on_demand": r.random() < 0.3,
            }
        )
        self.kill_rate = r.choice([0.0, 1 / (8 * HOUR), 1 / HOUR])
        self.loss_rate = r.choice([0.0, 0.0, 1 / (2 * HOUR), 1 / HOUR])
        """Of parents."""
        self.away_rate = r.choice([0.0, 0.0, 1 / (2 * HOUR)])
        """Of the store."""
        self.trouble = r.choice([0.0, 0.15])
        self.blind = r.choice([0.0, 0.2])
        self.silent_from = r.uniform(0.4, 0.9) if self.worst and r.random() < 0.4 else math.inf
        """Part of the budget from which on prices are at their ceilings and no source says so."""
        self.silent = False
        self.skew = 0.0
        """Of the present parent's wall clock."""
        self.hosts: list[Host] = []
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.losses = self.interruptions = 0
        self.followed = True
        """Another parent comes, or the last one ended by itself."""
        if self.loss_rate:
            self.at(r.expovariate(self.loss_rate), self.lose)
        if self.away_rate:
            self.at(r.expovariate(self.away_rate), self.be_away)

    # -- what the world is made of

    def pool(self, parent: ParentActor, epoch: Callable[[], int]) -> Pool:
        return MachinePool(self, parent, epoch)

    def engine(self, actor: LifeActor) -> EnginePool:
        return WorkingEngine(actor)

    def parent(self) -> None:
        self.parents.append(self.begin(PayingParent(self, len(self.parents))))

    def wall(self) -> float:
        """The present parent's wall clock."""
        return self.clock + self.skew

    def up_to(self, most: float) -> float:
        """As long as it may take in a mean world, else anything."""
        return most if self.mean else self.random.uniform(0, most)

    # -- what happens

    def at(self, after: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.clock + after, len(self.events) + self.random.getrandbits(40), act))

    def rent(self, actor: MachineActor) -> None:
        """A machine has come: its bill begins."""
        spot = actor.lifecycle is Lifecycle.SPOT
        name = f"i-{actor.worker}-{actor.launch}"
        price = self.price if spot else self.on_demand
        host = actor.host = Host(name, actor, price, actor.lifecycle, self.clock, self.clock + actor.booting)
        self.hosts.append(host)
        if spot and self.kill_rate:
            self.at(self.random.expovariate(self.kill_rate), lambda: self.interrupt(host))

    def interrupt(self, host: Host) -> None:
        """The machine is taken away, half the time after a notice."""
        if host.gone < math.inf or not host.actor.lives:
            return
        self.interruptions += 1
        if self.random.random() < 0.5 and host.actor.attempt is not None and not host.actor.drained:
            host.actor.notice()
            self.at(120.0, lambda: self.take(host))
        else:
            self.take(host)

    def take(self, host: Host) -> None:
        if host.gone == math.inf:
            host.gone = self.clock
            self.die(host.actor, Loss.HOST)

    def be_away(self) -> None:
        """The store does not answer for a while."""
        self.outage_until = self.clock + self.random.choice([30.0, self.random.uniform(60, 3600)])
        self.at(self.random.expovariate(self.away_rate), self.be_away)

    def jump(self) -> None:
        """Prices go to their ceilings."""
        if self.jumps and self.price.changes[-1][1] < self.price.ceiling:
            self.price.changes.append((self.clock, self.price.ceiling))

    def lose(self) -> None:
        """The parent is lost at any moment, and followed by another, or not."""
        if self.loss_rate:
            self.at(self.random.expovariate(self.loss_rate), self.lose)
        living = [parent for parent in self.parents if parent.lives]
        if not living:
            return
        self.losses += 1
        self.jump()
        self.die(living[0], None)
        if self.random.random() < (0.7 if self.worst else 0.2):
            self.followed = False
            return
        r = self.random
        gap = r.choice([r.uniform(5, 600), r.uniform(600, 6 * HOUR)])

        def follow() -> None:
            self.skew += r.choice([0.0, r.uniform(-60, 60)])
            self.parent()

        self.at(gap, follow)
        self.coming = self.clock + gap

    coming = float("-inf")

    # -- time

    def turn(self, requests: int = 10_000) -> None:
        """All go on as far as they can; then the clock moves to whatever comes next."""
        for actor in list(self.actors):
            for _ in range(requests):
                if not actor.ready:
                    break
                actor.resume()
        self.note()
        times = [t for a in self.actors if a.lives for t in (max(a.until, a.frozen_until), a.tick_at)]
        if self.events:
            times.append(self.events[0][0])
        self.clock = max(self.clock, min((t for t in times if t > self.clock), default=self.clock + 1))
        while self.events and self.events[0][0] <= self.clock:
            heapq.heappop(self.events)[2]()
        self.beats()

    def note(self) -> None:
        """Machines whose worker ended go within their teardown; parents near the stop are lost, where it is the worst."""
        for host in self.hosts:
            if host.gone == math.inf and not host.actor.lives:
                host.gone = self.clock + self.up_to(self.terms.teardown_seconds)
        living = [parent for parent in self.parents if parent.lives]
        for parent in living:
            if not isinstance(parent, PayingParent) or parent.treasury is None:
                continue
            seen = parent.treasury._assessment
            if seen is not None and seen.committed > self.silent_from * (self.terms.budget or 0.0):
                self.silent = True
                self.jump()
            if seen is not None and not seen.claiming:
                self.jump()
            if self.worst and parent.near:
                self.lose()

    def run(self) -> BudgetWorld:
        """Until the last machine is gone."""
        self.parent()
        until = self.clock + 60 * HOUR
        while self.clock < until:
            if not any(actor.lives for actor in self.actors) and self.clock >= self.coming:
                break
            self.turn()
        self.note()
        for host in self.hosts:
            if host.gone == math.inf:
                self.wrong(f"promise 8: {host.name} is still running")
                host.gone = self.clock
        return self

    # -- what came of it

    @property
    def bill(self) -> float:
        """USD, really."""
        return sum(host.paid() for host in self.hosts)

    @property
    def share(self) -> float:
        """Of the budget."""
        return self.bill / (self.terms.budget or math.inf)

    @property
    def done(self) -> int:
        """Documents published."""
        return sum(key.endswith(".md") for key in self.output.objects)

    @property
    def why(self) -> str:
        """Why the last parent stopped the run, "" if it didn't."""
        return self.parents[-1].result or ""

    def wrongs(self) -> list[str]:
        """What went against a promise."""
        found = self.verdict(self.account().account, self.account())
        # Documents that remain are no wrong where the run was stopped, or nobody came to go on.
        stopped = bool(self.why) or not self.followed or self.parents[-1].error is not None
        return [text for text in found if not (stopped and "documents remain" in text)]
