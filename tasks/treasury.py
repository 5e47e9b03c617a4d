"""The treasury: what a run has spent and may still spend, asked and written down as its workers come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from pydantic import ValidationError

from tasks.corpus import paths
from tasks.corpus.failures import NotFound, StoreError, UsageError
from tasks.corpus.lives import Life
from tasks.corpus.store import Store
from tasks.fleet.book import BadRecord, Overtaken, SpendBook, boot_clock
from tasks.fleet.budget import Assessment, Position, Terms, assess
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.money import Money
from tasks.fleet.prices import Prices, PriceUnknown, dearest, rate_of
from tasks.fleet.spend import Rate
from tasks.fleet.supervisor import Fleet
from tasks.governing import Ruling, Seen

WRITE_SECONDS = 20.0
"""The record is written so often: workers of a run with a budget claim while it advances."""

_FREE = Rate(ceiling=0.0)
_log = logging.getLogger("pdf_flows.treasury")


class _Records:
    """The book's records, in the run's folder."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, key: str) -> bytes | None:
        try:
            return self._store.read(key)
        except NotFound:
            return None

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        return self._store.create(key, data)


class Treasury:
    """One parent's hand on the money. Owned by the supervising thread.

    Args:
        types: machine types that may be started; () where nothing is rented.
        shared: all workers run on one machine, the parent's.
        own: that machine, where it is known.
        living: lives ("worker/attempt") of a former parent that live.
        launched: workers with a launch of a former parent that may still become a life.
        weight: of the documents that wait (`tasks/corpus/rowtable.py`).

    Raises UsageError where no bound of a price is known, or an earlier record makes no sense.
    """

    def __init__(
        self,
        runs: Store,
        run_id: str,
        terms: Terms,
        prices: Prices,
        *,
        types: tuple[str, ...],
        region: str | None,
        weight: float,
        shared: bool = False,
        own: Machine | None = None,
        living: Collection[str] = (),
        launched: Collection[int] = (),
        clock: Callable[[], float] = boot_clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._terms, self._prices, self._weight = terms, prices, weight
        self._types, self._region = types, region
        self._shared = shared
        self._own = own or Machine(id="new", lifecycle=Lifecycle.OWN)
        try:
            prefix, orphan = paths.spend(run_id), terms.orphan_seconds
            self._book = SpendBook(_Records(runs), prefix, orphan_seconds=orphan, clock=clock, wall=wall)
            self._spot = self._new(Lifecycle.SPOT)
            self._on_demand = self._new(Lifecycle.ON_DEMAND) if types else None
        except (BadRecord, PriceUnknown) as error:
            raise UsageError(str(error)) from error
        self._bury(living, launched)
        self._began = self._book.now
        self._seconds_before = self._book.spend.machine_seconds(self._began)
        self._written = float("-inf")
        self._over: set[str] = set()
        self._said: set[str] = set()
        self._assessment: Assessment | None = None
        self._money = self._reckon()

    @property
    def rate(self) -> Rate:
        """Of the dearest machine that may be started."""
        return self._spot

    @property
    def elapsed(self) -> float:
        """Seconds since the run's first start, which the deadline counts from: a parent that is started again has no new one."""
        return self._book.now

    def launching(self, worker: int, launch: int) -> None:
        """A machine is about to be asked for. It may be only once this returned. Raises StoreError."""
        rate = self._spot
        if (
            self._assessment is not None
            and self._assessment.lifecycle is Lifecycle.ON_DEMAND
            and self._on_demand is not None
        ):
            rate = self._on_demand
        name, spend, terms = f"{worker}/{launch}", self._book.spend, self._terms
        if self._there:
            rate = _FREE
        spend.ask(name, at=self._book.now, ceiling=rate.ceiling, extras=rate.extras)
        try:
            self._write()
        except StoreError:
            # The book is what it was before the write: whoever asks again asks anew.
            self._book.spend.withdraw(
                name,
                at=self._book.now,
                start_seconds=terms.start_seconds,
                teardown_seconds=terms.teardown_seconds,
                machine=False,
            )
            raise

    def govern(self, fleet: Fleet, seen: Seen, now: float) -> Ruling:
        """Take in who lives, assess, and write it down now and then."""
        self._take_in(seen)
        self._book.confirm(self._prices)
        done = self._assess(seen, fleet.wanted)
        self._money = self._reckon()
        say = [warned.text for warned in done.warnings]
        if self._book.now - self._written >= WRITE_SECONDS or say:
            try:
                self._write()
            except StoreError as failure:
                # It stands still then, and workers claim no more before long: as it has to be.
                _log.warning("%s", failure)
        stop = None if done.claiming else done.why
        if stop is not None and done.left_cost:
            stop += f"; what is left would cost about ${done.left_cost:.2f}"
        for limit in ("budget", "deadline"):
            if stop is not None and stop.startswith((limit, f"the {limit}")):
                stop += f"; a larger --{limit} goes on"
        return Ruling(
            stop=stop,
            launches=done.launches_allowed,
            why=done.why or "budget: no room for another machine",
            on_demand=done.lifecycle is Lifecycle.ON_DEMAND,
            spend=self._book.counter,
            say=say,
        )

    @property
    def _there(self) -> bool:
        """The machine that all workers share is paid for already."""
        spend = self._book.spend
        return self._shared and bool(spend.live() or spend.launches)

    def close(self, seen: Seen | None) -> Money:
        """The last word of this start: everybody left."""
        if seen is not None:
            self._take_in(seen)
        self._book.confirm(self._prices)
        try:
            self._write()
        except StoreError as failure:
            _log.warning("%s", failure)
        self._money = self._reckon()
        return self._money

    def money(self) -> Money:
        """Where the run stood at the last look. Any thread."""
        return self._money

    def _reckon(self) -> Money:
        spend, at, done = self._book.spend, self._book.now, self._assessment
        projection = done.projection if done is not None else None
        ending = spend.ending(at)
        return Money(
            spent=round(spend.spent(at) + ending, 4),
            budget=self._terms.budget,
            target=self._terms.target,
            projected=round(projection.usd, 4) if projection is not None else None,
            hours_left=projection.hours_left if projection is not None else None,
            rest=done.left_cost if done is not None else None,
            machines=len(spend.live()),
            leaving=sum(rental.until is not None and rental.until > at for rental in spend.rentals.values()),
        )

    def _bury(self, living: Collection[str], launched: Collection[int]) -> None:
        """What a former parent left and nobody took over: its machines go, as the rules for a lost parent have it."""
        spend, at, terms = self._book.spend, self._book.now, self._terms
        for name in [name for rental in spend.rentals.values() for name in rental.lives if name not in living]:
            spend.leave(name, at=at, teardown_seconds=terms.drain_seconds + terms.teardown_seconds)
        for launch in [name for name in spend.launches if int(name.split("/", 1)[0]) not in launched]:
            spend.withdraw(
                launch, at=at, start_seconds=terms.start_seconds, teardown_seconds=terms.teardown_seconds, machine=True
            )

    # -- the record -----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        self._book.money = self._reckon()
        try:
            self._book.write()
        except Overtaken as failure:
            raise StoreError(str(failure)) from failure
        self._written = self._book.now

    def _take_in(self, seen: Seen) -> None:
        at, spend, terms = self._book.now, self._book.spend, self._terms
        for name, life in seen.lives.items():
            if name in self._over:
                continue
            launch = f"{name.split('/', 1)[0]}/{life.launch}" if life.launch is not None else None
            if name in seen.over:
                self._over.add(name)
                if _machine(life).id not in spend.rentals:
                    self._see(name, life, launch, at)
                elif launch is not None:
                    spend.launches.pop(launch, None)
                spend.leave(name, at=at, teardown_seconds=terms.drain_seconds + terms.teardown_seconds)
            else:
                self._see(name, life, launch, at)
        for launch in [asked for asked in spend.launches if asked in seen.withdrawn]:
            spend.withdraw(
                launch,
                at=at,
                start_seconds=terms.start_seconds,
                teardown_seconds=terms.teardown_seconds,
                machine=seen.withdrawn[launch],
            )

    def _see(self, name: str, life: Life, launch: str | None, at: float) -> None:
        machine = _machine(life)
        if self._types and machine.lifecycle is Lifecycle.OWN:
            # Rented, and its metadata service did not answer. Free is the last thing that it is.
            self._warn(
                f"worker {name} can't tell what machine it runs on: the dearest known price counts (--price names one)"
            )
            machine = machine.model_copy(update={"lifecycle": Lifecycle.ON_DEMAND, "type": None})
        try:
            ceiling, extras = self._prices.ceiling(machine), self._prices.extras(machine)
        except PriceUnknown as unknown:
            self._warn(f"{unknown}; the dearest known price counts meanwhile")
            dearest_rate = max((self._spot, self._on_demand or self._spot), key=lambda rate: rate.most)
            ceiling, extras = dearest_rate.ceiling, dearest_rate.extras
        # Nothing is rented: the machine was there before the run, and is after it.
        before = self._began if not self._types or machine.lifecycle is Lifecycle.OWN else None
        self._book.spend.see(name, machine, at=at, ceiling=ceiling, extras=extras, launch=launch, not_before=before)

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _log.warning("%s", text)

    def _assess(self, seen: Seen, wanted: int) -> Assessment:
        spend, at = self._book.spend, self._book.now
        done = float(seen.totals.weight)
        position = Position(
            now=at,
            began=0.0,
            spent=spend.spent(at),
            ending=spend.ending(at),
            machine_seconds=self._machine_seconds(seen, at),
            live=spend.live(),
            pending=spend.pending(at),
            wanted=wanted,
            work_done=done,
            work_left=max(0.0, self._weight - done),
            spot=_FREE if self._there else self._spot,
            on_demand=self._on_demand,
        )
        found = assess(self._terms, position, self._book.memory)
        self._book.memory = found.memory
        self._assessment = found
        return found

    def _machine_seconds(self, seen: Seen, at: float) -> float:
        """Paid for in this start; of the user's own machines, what their workers worked."""
        if not self._types:
            return max(0.0, seen.totals.working_seconds)
        return max(0.0, self._book.spend.machine_seconds(at) - self._seconds_before)

    def _new(self, lifecycle: Lifecycle) -> Rate:
        """What a machine that is started costs at most."""
        if not self._types:
            return rate_of(self._prices, self._own)
        return dearest(self._prices, self._types, lifecycle, self._region)


def _machine(life: Life) -> Machine:
    """What a life runs on; one that did not say is taken for the dearest that can be."""
    try:
        return Machine.model_validate(life.machine)
    except ValidationError:
        return Machine(id=life.hostname or "unknown", lifecycle=Lifecycle.ON_DEMAND)
