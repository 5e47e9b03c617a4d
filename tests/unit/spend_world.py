"""A world of machines with bills, for the budget's promise: what happens there is known exactly, the parent sees some of it late.

Everything that may go wrong goes wrong at random: prices move up to their ceilings, machines are killed, launches arrive late,
die unseen or never arrive, price sources answer late or not at all, records stand still, parents are lost and followed by
others. In a mean world everything also takes as long as the terms allow. Bills are reckoned here, from what really happened.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bills import Price, billed

from tasks.fleet.budget import Assessment, Memory, Position, Terms, assess
from tasks.fleet.machine import BOOT_SECONDS, Lifecycle, Machine
from tasks.fleet.spend import HOUR, LATE_SECONDS, Rate, Spend

DOCUMENTS = 200
READ_SECONDS = 30.0
"""From a write of the record until its workers know, at most."""


@dataclass
class Host:
    """A machine as it really is, with its only worker."""

    name: str
    launch: str
    price: Price
    extras: float
    bill: float
    """Second at which its bill begins."""
    starts: float
    """Second at which its worker lives."""
    gone: float = math.inf
    """Second at which its bill ends."""
    killed: float = math.inf
    ended: float = math.inf
    """Second at which its worker ended."""
    stop_at: float = math.inf
    finish: float = math.inf
    document: float | None = None
    known_end: bool = False

    def cost(self) -> float:
        """Its bill: whole seconds, one minute at least."""
        return billed(self.price, self.extras, self.bill, self.gone)


@dataclass
class World:
    """One run from its start until its last machine is gone."""

    seed: int
    hosts: list[Host] = field(default_factory=list)

    def __post_init__(self) -> None:
        r = self.random = random.Random(self.seed)
        self.worst = r.random() < 0.4
        """The parent is lost, or prices jump, just before claiming would be stopped."""
        self.mean = self.worst or r.random() < 0.4
        self.terms = Terms(
            drain_seconds=r.uniform(20, 180),
            teardown_seconds=r.choice([0.0, r.uniform(60, 300), 1200.0]),
            tick_seconds=60,
            patience_seconds=r.uniform(60, 300),
            start_seconds=r.uniform(300, 900),
            worth_seconds=0.0 if self.worst else r.choice([0.0, 600.0]),
        )
        self.wanted = r.randint(1, 6)
        ceiling = r.uniform(0.3, 1.2)
        base = ceiling * r.uniform(0.2, 0.9)
        changes = [(0.0, base)]
        t = 0.0
        while t < 20 * HOUR and len(changes) < 40:
            t += r.expovariate(1 / 1800)
            changes.append((t, ceiling if r.random() < 0.3 else r.uniform(0.2, 1.0) * ceiling))
        self.jumps = self.worst or r.random() < 0.5
        """To the ceiling, all at once, in the worst moment: when claiming stops."""
        if self.jumps:
            changes = [(0.0, base)]
        self.price = Price(ceiling, changes)
        self.on_demand = Price(ceiling * 1.5, [(0.0, ceiling * 1.5)])
        self.extras = 0.0228
        documents = [min(600.0, r.lognormvariate(math.log(60), r.uniform(0.3, 1.0))) for _ in range(DOCUMENTS)]
        self.queue = documents[::-1]
        self.total = sum(documents)
        whole = (self.total + self.wanted * 900) * (base + self.extras) / HOUR
        reserve = self.wanted * (self.terms.leaving_seconds + self.terms.start_seconds) * (ceiling + self.extras) / HOUR
        self.terms = self.terms.model_copy(
            update={
                "budget": max(reserve, whole) * (r.uniform(0.6, 1.2) if self.worst else r.uniform(0.5, 3)),
                "deadline": None if self.worst else r.choice([None, self.total / self.wanted * r.uniform(0.5, 3)]),
                "on_demand": r.random() < 0.3,
            }
        )
        self.kill_rate = r.choice([0.0, 1 / (8 * HOUR), 1 / HOUR])
        self.lossy = r.choice([0.0, 0.0, 0.01, 0.04])
        """Chance per tick that the parent is lost right after it wrote."""
        self.still = r.choice([0.0, 0.02])
        self.trouble = r.choice([0.0, 0.3])
        """Chance that a launch dies unseen, or never gets a machine."""
        self.blind = r.choice([0.0, 0.2])
        """Chance that the price source does not answer."""
        self.silent_from = r.uniform(0.4, 0.9) if self.worst and r.random() < 0.4 else math.inf
        """Part of the budget from which on prices are at their ceilings and no source says so."""
        self.spend = Spend()
        self.memory = Memory()
        self.zero = 0.0
        """World second of run second 0."""
        self.t = 0.0
        self.done = 0.0
        self.finished = 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.asked: dict[str, Host | None] = {}
        self.stopping = False
        self.assessments = 0
        self.losses = 0
        self.stops: list[str] = []
        self.over_at: float | None = None
        self.warned: list[str] = []
        self.still_until = -1.0

    # -- what happens

    def at(self, t: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (t, self.count, act))

    def up_to(self, most: float) -> float:
        """As long as it may take in a mean world, else anything."""
        return most if self.mean else self.random.uniform(0, most)

    def boot(self, launch: str, price: Price) -> None:
        r = self.random
        lead = self.terms.start_seconds - LATE_SECONDS  # the parent sees it within LATE_SECONDS
        boot = self.up_to(lead - BOOT_SECONDS) + r.uniform(0, BOOT_SECONDS)
        host = Host(f"i-{launch}", launch, price, self.extras, bill=self.t, starts=self.t + boot)
        self.hosts.append(host)
        self.asked[launch] = host
        if self.kill_rate:
            host.killed = self.t + r.expovariate(self.kill_rate)
        if r.random() < self.trouble / 2:
            host.killed = min(host.killed, host.starts)
        if host.killed <= host.starts:
            host.ended = host.gone = host.killed
            return
        self.at(host.starts, lambda: self.begin(host))
        self.at(host.killed, lambda: self.kill(host))

    def begin(self, host: Host) -> None:
        if host.gone <= self.t:
            return
        host.stop_at = self.t + self.terms.patience_seconds
        if self.stopping and self.parent_lives:
            host.stop_at = self.t
        self.drain(host)
        self.take(host)

    def take(self, host: Host) -> None:
        if self.t >= host.stop_at or not self.queue:
            self.end(host, self.t)
            return
        host.document = self.queue.pop()
        host.finish = self.t + host.document
        self.at(host.finish, lambda: self.finish(host))

    def finish(self, host: Host) -> None:
        if host.ended <= self.t or host.document is None or host.finish != self.t:
            return
        self.done += host.document
        self.finished += 1
        host.document = None
        self.take(host)

    def over(self, host: Host) -> None:
        """A drain that took its time."""
        if host.ended == math.inf and self.t >= host.stop_at + self.terms.drain_seconds:
            self.end(host, self.t)

    def drain(self, host: Host) -> None:
        """What is in hand may end, within the drain's time."""
        self.at(host.stop_at + self.terms.drain_seconds, lambda: self.over(host))

    def end(self, host: Host, t: float) -> None:
        if host.document is not None:
            self.queue.append(host.document)
            host.document = None
        if self.mean and host.stop_at <= t:
            t = max(t, host.stop_at + self.terms.drain_seconds)
        host.ended = t
        host.gone = min(host.gone, host.killed, t + self.up_to(self.terms.teardown_seconds))

    def kill(self, host: Host) -> None:
        if host.gone <= self.t:
            return
        if host.document is not None:
            self.queue.append(host.document)
            host.document = None
        host.ended = min(host.ended, self.t)
        host.gone = self.t

    # -- the parent

    @property
    def now(self) -> float:
        return self.t - self.zero

    def look(self) -> None:
        for host in self.hosts:
            if host.known_end or host.starts > self.t or self.asked.get(host.launch) is None:
                continue
            if host.ended <= host.starts:
                continue
            life = f"life-{host.name}"
            if host.ended > self.t:
                if self.t - host.starts < 5:
                    continue
                late = self.up_to(LATE_SECONDS)
                uptime = max(0.0, self.t - late - host.bill - (BOOT_SECONDS if self.mean else 0.0))
                machine = Machine(id=host.name, type="g4dn.xlarge", lifecycle=Lifecycle.SPOT, uptime=uptime)
                self.spend.see(
                    life,
                    machine,
                    at=self.now,
                    ceiling=host.price.ceiling,
                    extras=host.extras,
                    launch=host.launch,
                )
            elif host.name in self.spend.rentals:
                host.known_end = True
                if host.gone <= self.t and self.random.random() < 0.3:
                    self.spend.gone(host.name, at=self.now)
                else:
                    self.spend.leave(life, at=self.now, teardown_seconds=self.terms.teardown_seconds)
        for launch in list(self.spend.launches):
            host = self.asked.get(launch)
            waited = self.now - self.spend.launches[launch].asked
            if host is None and waited > 1800:
                self.spend.withdraw(launch, at=self.now, start_seconds=0, teardown_seconds=0, machine=False)
                self.asked.pop(launch, None)
            elif host is not None and host.ended <= self.t:
                self.unseen(launch)

    def unseen(self, launch: str) -> None:
        terms = self.terms
        self.spend.withdraw(
            launch, at=self.now, start_seconds=terms.start_seconds, teardown_seconds=terms.teardown_seconds
        )

    def confirm(self) -> None:
        for key, rental in list(self.spend.rentals.items()):
            age = self.random.choice([0.0, self.random.uniform(0, 300)]) if not self.worst else 0.0
            if self.silent or self.random.random() < self.blind or key.startswith("unseen"):
                continue
            host = next(h for h in self.hosts if h.name == key)
            until = self.now - age
            if until > rental.priced_until:
                highest = host.price.highest(rental.priced_until + self.zero, until + self.zero)
                self.spend.price(key, highest, at=until)

    def position(self) -> Position:
        now = self.now
        return Position(
            now=now,
            began=0,
            spent=self.spend.spent(now),
            ending=self.spend.ending(now),
            machine_seconds=self.spend.machine_seconds(now),
            live=self.spend.live(),
            pending=self.spend.pending(now),
            wanted=self.wanted,
            work_done=self.done,
            work_left=max(0.0, self.total - self.done),
            spot=Rate(ceiling=self.price.ceiling, extras=self.extras),
            on_demand=Rate(ceiling=self.on_demand.ceiling, extras=self.extras),
        )

    def write(self) -> bool:
        """The record advances: workers know after a while."""
        if self.t < self.still_until:
            return False
        for host in self.hosts:
            if host.ended < math.inf or host.starts > self.t:
                continue
            heard = self.t + self.up_to(READ_SECONDS)
            if heard >= host.stop_at:
                continue
            host.stop_at = heard if self.stopping else heard + self.terms.patience_seconds
            self.drain(host)
        return True

    def tick(self) -> None:
        r = self.random
        if self.still and r.random() < self.still:
            self.still_until = self.t + r.uniform(60, 900)
        self.look()
        self.spend.fold(self.now, after=600)
        self.confirm()
        seen = assess(self.terms, self.position(), self.memory)
        self.assessments += 1
        if seen.committed > self.silent_from * (self.terms.budget or 0.0):
            self.silent = True
            self.jump()
        self.memory = seen.memory
        self.warned += [w.text for w in seen.warnings]
        if not seen.claiming and not self.stopping:
            self.stop(seen)
        written = self.write()
        if written and not self.stopping:
            self.launch(seen)
        if self.stopping:
            self.cancel()
        elif not self.queue and all(h.document is None for h in self.hosts):
            self.stopping = True
        self.spend.at = max(self.spend.at, self.now)
        near = self.worst and self.near(seen)
        if written and (near or r.random() < self.lossy):
            self.lose(for_good=near and r.random() < 0.7)
            return
        if self.stopping and all(h.ended <= self.t for h in self.hosts):
            self.over_at = self.t
            return
        self.at(self.t + 60 - READ_SECONDS if self.mean else self.t + r.uniform(15, 60 - READ_SECONDS), self.tick)

    def near(self, seen: Assessment) -> bool:
        """Whether claiming might be stopped by the next assessment."""
        rates = sum(rate.most for rate in (*self.spend.live(), *self.spend.pending(self.now)))
        return seen.claiming and seen.committed + rates * 60 / HOUR > (self.terms.budget or 0.0)

    def stop(self, seen: Assessment) -> None:
        self.stopping = True
        self.stops.append(seen.why or "")
        if self.jumps:
            self.jump()

    def jump(self) -> None:
        if self.price.changes[-1][1] < self.price.ceiling:
            self.price.changes.append((self.t, self.price.ceiling))

    def launch(self, seen: Assessment) -> None:
        missing = self.wanted - len(self.spend.live()) - len(self.spend.launches)
        count = missing if seen.launches_allowed is None else min(missing, seen.launches_allowed)
        price = self.on_demand if seen.lifecycle is Lifecycle.ON_DEMAND else self.price
        for _ in range(max(0, count)):
            self.count += 1
            launch = f"{self.count}"
            self.spend.ask(launch, at=self.now, ceiling=price.ceiling, extras=self.extras)
            self.asked[launch] = None
            if self.random.random() < self.trouble / 2:
                continue  # no capacity
            wait = self.random.choice([0.0, self.random.uniform(0, 600)])
            self.at(self.t + wait, lambda launch=launch, price=price: self.arrive(launch, price))  # type: ignore[misc]

    def arrive(self, launch: str, price: Price) -> None:
        if launch in self.asked:
            self.boot(launch, price)

    def cancel(self) -> None:
        """What was asked for and not heard from is called back; a machine that is there goes within the teardown."""
        for launch in list(self.spend.launches):
            host = self.asked.get(launch)
            if host is None:
                self.spend.withdraw(launch, at=self.now, start_seconds=0, teardown_seconds=0, machine=False)
                self.asked.pop(launch, None)
            elif host.starts > self.t:
                host.ended = self.t
                host.gone = min(host.gone, host.killed, self.t + self.up_to(self.terms.teardown_seconds))
                self.unseen(launch)

    parent_lives = True
    silent = False

    def lose(self, *, for_good: bool) -> None:
        """The parent is gone; unless it is for good another one comes, sooner or later."""
        self.losses += 1
        self.parent_lives = False
        record = self.spend.model_dump_json(exclude_defaults=True)
        memory = self.memory
        lost = self.t
        if self.jumps:
            self.jump()
        if for_good or self.random.random() < 0.2:
            self.at(lost + 12 * HOUR, lambda: setattr(self, "over_at", self.t))
            return
        gap = self.random.choice([self.random.uniform(5, 600), self.random.uniform(600, 6 * HOUR)])

        def follow() -> None:
            self.spend = Spend.model_validate_json(record)
            self.memory = memory.resumed()
            self.stopping = False
            self.parent_lives = True
            base = self.spend.at
            self.resume(max(0.0, gap + self.random.choice([0.0, self.random.uniform(-60, 60)])))  # clocks differ
            self.zero = self.t - max(self.spend.at, base)
            self.tick()

        self.at(lost + gap, follow)

    def resume(self, gap: float) -> None:
        self.spend.resume(gap, orphan_seconds=self.terms.orphan_seconds)

    def run(self) -> World:
        self.at(0.0, self.tick)
        while self.events and self.over_at is None:
            self.t, _, act = heapq.heappop(self.events)
            act()
        for host in self.hosts:
            if host.ended == math.inf:  # the parent was lost for good
                self.end(host, max(self.t, host.stop_at))
            if host.gone == math.inf:
                host.gone = host.ended + self.terms.teardown_seconds
        return self

    @property
    def bill(self) -> float:
        """USD, really."""
        return sum(host.cost() for host in self.hosts)

    @property
    def share(self) -> float:
        """Of the budget."""
        return self.bill / (self.terms.budget or math.inf)
