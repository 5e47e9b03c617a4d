"""The spend ledger: which machines a run pays for, since when, at what price. Pure: the caller brings time and prices.

Times are **run seconds**: seconds of the parent's clock, counted on by each further parent of the run. Wherever something is
not known yet, the ledger takes what costs more: a price that no quote confirms is the machine's ceiling, a machine whose
workers ended is paid for until its teardown is over, one that no worker of its was ever heard from may have run all the same.
What is found out later corrects it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tasks.fleet.machine import BOOT_SECONDS, Lifecycle, Machine

HOUR = 3600.0
MINIMUM_SECONDS = 60.0
"""AWS documentation: Linux instances are billed by the second, with a minimum of one minute."""
LATE_SECONDS = 60.0
"""How long ago at most a machine described itself when the parent reads it."""
FOLD_SECONDS = 3600.0
"""A rental whose bill ended so long ago goes into the totals: nothing more is learnt of it."""


class PricePoint(BaseModel):
    """A price from a second on."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    since: float
    usd_per_hour: float = Field(ge=0)


class Rate(BaseModel):
    """What a machine costs."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    ceiling: float = Field(ge=0)
    """USD an hour: what its compute price cannot exceed."""
    extras: float = Field(0.0, ge=0)
    """USD an hour: its disks and public address."""
    usd_per_hour: float | None = Field(None, ge=0)
    """Its compute price now; None where no quote was had."""
    waited: float = Field(0.0, ge=0)
    """Of a machine asked for: seconds since."""

    @property
    def most(self) -> float:
        """USD an hour, whatever becomes of the price."""
        return self.ceiling + self.extras

    @property
    def likely(self) -> float:
        """USD an hour at the price now."""
        return (self.ceiling if self.usd_per_hour is None else self.usd_per_hour) + self.extras


class Rental(BaseModel):
    """One machine's bill."""

    model_config = ConfigDict(allow_inf_nan=False)

    machine: Machine
    since: float
    until: float | None = None
    """When the bill ends, which may lie ahead (teardown); None while a worker lives on the machine."""
    ceiling: float = Field(ge=0)
    extras: float = Field(ge=0)
    lives: list[str] = []
    """Lives of workers on it."""
    prices: list[PricePoint] = []
    """Confirmed ones, each until the next; whatever they do not cover is at the ceiling."""
    priced_until: float
    orphan_until: float | None = None
    """Of a rental that an earlier parent left and that was not seen since: when its bill ends if nobody lives on it."""

    @property
    def live(self) -> bool:
        """Whether workers live on it."""
        return self.until is None


class Launch(BaseModel):
    """A launch asked for, whose machine was not heard from yet."""

    model_config = ConfigDict(allow_inf_nan=False)

    asked: float
    ceiling: float = Field(ge=0)
    extras: float = Field(ge=0)
    orphan_seconds: float | None = None
    """An earlier parent asked for it: so long it was paid for at most once its worker began, with nobody to see it."""


class Total(BaseModel):
    """Rentals that are over, together."""

    model_config = ConfigDict(allow_inf_nan=False)

    rentals: int = 0
    seconds: float = 0.0
    """Billed."""
    usd: float = 0.0


class Cost(NamedTuple):
    """Of a rental up to a second."""

    usd: float
    seconds: float
    """Billed."""


class Closed(BaseModel):
    """The record line of a rental that is over."""

    rental: Rental
    usd: float
    seconds: float


def cost(rental: Rental, at: float) -> Cost:
    """What a rental costs up to second `at`: seconds x price history; whatever no quote confirmed at the ceiling."""
    end = at if rental.until is None else min(at, rental.until)
    seconds = max(0.0, end - rental.since)
    # A hair over a whole second comes from adding floats up.
    billed = max(MINIMUM_SECONDS, float(math.ceil(seconds - 1e-6)))
    usd = confirmed = 0.0
    for start, stop, price in _segments(rental):
        overlap = min(stop, end) - start
        if overlap > 0:
            usd += overlap * price
            confirmed += overlap
    usd += (billed - confirmed) * rental.ceiling + billed * rental.extras
    return Cost(usd / HOUR, billed)


def _segments(rental: Rental) -> Iterator[tuple[float, float, float]]:
    points = rental.prices
    for index, point in enumerate(points):
        stop = points[index + 1].since if index + 1 < len(points) else rental.priced_until
        yield max(point.since, rental.since), stop, point.usd_per_hour


class Spend(BaseModel):
    """All that a run pays for. Every method that takes `at` expects times that never go back."""

    model_config = ConfigDict(allow_inf_nan=False)

    at: float = 0.0
    """The newest run second that the ledger was told of."""
    resumed: float = 0.0
    """When the present parent took over."""
    rentals: dict[str, Rental] = {}
    """By machine id: those that are not in the totals."""
    launches: dict[str, Launch] = {}
    totals: dict[str, Total] = {}
    """By "type/lifecycle/zone"."""

    def ask(self, launch: str, *, at: float, ceiling: float, extras: float) -> None:
        """A machine is about to be asked for. The record must be durable before it really is."""
        self.at = max(self.at, at)
        self.launches[launch] = Launch(asked=at, ceiling=ceiling, extras=extras)

    def see(
        self,
        life: str,
        machine: Machine,
        *,
        at: float,
        ceiling: float,
        extras: float,
        launch: str | None = None,
        late: float = LATE_SECONDS,
        not_before: float | None = None,
    ) -> None:
        """A life of a worker is alive on a machine. Any number of times; more than one life may be on a machine.

        Args:
            launch: what it came from: no longer waited for.
            late: how many seconds ago at most the machine told its uptime.
            not_before: earlier seconds are not this run's: of a machine that was there before the run.
        """
        self.at = max(self.at, at)
        asked = self.launches.pop(launch, None) if launch is not None else None
        since = at - (machine.uptime or 0.0) - BOOT_SECONDS - late
        if asked is not None and (asked.orphan_seconds is not None or machine.uptime is None):
            since = min(since, asked.asked)  # it may have told its uptime long ago: to an earlier parent
        elif asked is not None:
            since = max(since, asked.asked)  # what it did before the run asked for a machine is not the run's
        if not_before is not None:
            since = max(since, min(not_before, at))
        rental = self.rentals.get(machine.id)
        if rental is not None and rental.until is not None and not_before is not None and rental.until <= not_before:
            # It is the user's own, and what it did between two starts of the run is not the run's.
            self.rentals[f"{machine.id} until {rental.until:.0f}"] = self.rentals.pop(machine.id)
            rental = None
        if rental is None:
            rental = Rental(machine=machine, since=since, ceiling=ceiling, extras=extras, priced_until=since)
            self.rentals[machine.id] = rental
        elif since < rental.since:
            rental.since = since
        rental.ceiling, rental.extras = max(rental.ceiling, ceiling), max(rental.extras, extras)
        rental.until = rental.orphan_until = None
        if life not in rental.lives:
            rental.lives.append(life)

    def leave(self, life: str, *, at: float, teardown_seconds: float) -> None:
        """A life ended, as far as the parent knows at `at`: the last one's machine is paid for until it is torn down.

        A machine that an earlier parent left and that was not seen since: by the rule that workers end when the record
        stands still, it was torn down at `orphan_until` if that passed before this parent came.
        """
        self.at = max(self.at, at)
        for rental in self.rentals.values():
            if life not in rental.lives:
                continue
            rental.lives.remove(life)
            if rental.lives:
                continue
            until = at + teardown_seconds
            if (orphan := rental.orphan_until) is not None:
                until = orphan if orphan <= self.resumed else max(orphan, until)
            rental.until = until

    def gone(self, machine_id: str, *, at: float) -> None:
        """A machine is known to be gone since `at`."""
        self.at = max(self.at, at)
        rental = self.rentals.get(machine_id)
        if rental is not None:
            rental.lives = []
            rental.until = at if rental.until is None else min(rental.until, at)

    def withdraw(
        self, launch: str, *, at: float, start_seconds: float, teardown_seconds: float, machine: bool = True
    ) -> None:
        """A launch is over and no life of its was heard from.

        Args:
            start_seconds: how long at most a machine is paid for before its worker is heard from.
            machine: False only where it is known that no machine was ever started for it.
        """
        self.at = max(self.at, at)
        asked = self.launches.pop(launch, None)
        if asked is None or not machine:
            return
        began = max(asked.asked, at - start_seconds)
        if asked.orphan_seconds is not None:
            # Nobody knows when its machine ran: for as long as the rules let it.
            began = at - start_seconds - max(0.0, asked.orphan_seconds - teardown_seconds)
        self.rentals[f"unseen-{launch}-{at:.0f}"] = Rental(
            machine=Machine(id=f"unseen-{launch}", lifecycle=Lifecycle.ON_DEMAND),
            since=began,
            until=at + teardown_seconds,
            ceiling=asked.ceiling,
            extras=asked.extras,
            priced_until=began,
        )

    def price(self, machine_id: str, usd_per_hour: float, *, at: float) -> None:
        """Confirm a machine's price: from the last confirmation to `at` it was `usd_per_hour` at most."""
        rental = self.rentals.get(machine_id)
        if rental is None or at <= rental.priced_until:
            return
        if not rental.prices or rental.prices[-1].usd_per_hour != usd_per_hour:
            rental.prices.append(PricePoint(since=rental.priced_until, usd_per_hour=usd_per_hour))
        rental.priced_until = at
        if rental.live:
            rental.ceiling = max(rental.ceiling, usd_per_hour)

    def resume(self, gap: float, *, orphan_seconds: float) -> None:
        """Another parent takes over, `gap` seconds after the last record: they are charged at the ceiling, for what lived.

        Args:
            orphan_seconds: how long machines are paid for at most once the record stands still: patience, drain, teardown.
        """
        last = self.at
        self.at = self.resumed = last + max(0.0, gap)
        for launch in self.launches.values():
            launch.orphan_seconds = orphan_seconds
        for machine_id, rental in self.rentals.items():
            if rental.live:
                self.price(machine_id, rental.ceiling, at=self.at)
                rental.orphan_until = last + orphan_seconds

    def spent(self, at: float) -> float:
        """USD up to second `at`, without what was asked for and not heard from."""
        return sum(total.usd for total in self.totals.values()) + sum(cost(r, at).usd for r in self.rentals.values())

    def machine_seconds(self, at: float) -> float:
        """Billed seconds of all machines up to `at`."""
        past = sum(total.seconds for total in self.totals.values())
        return past + sum(cost(r, at).seconds for r in self.rentals.values())

    def ending(self, at: float) -> float:
        """USD still to be paid for machines whose workers ended, until they are torn down."""
        ended = [r for r in self.rentals.values() if r.until is not None and r.until > at]
        # The two sums round differently: never below nothing.
        return sum(max(0.0, cost(r, r.until or at).usd - cost(r, at).usd) for r in ended)

    def live(self) -> tuple[Rate, ...]:
        """Of machines on which workers live."""
        return tuple(
            Rate(ceiling=r.ceiling, extras=r.extras, usd_per_hour=r.prices[-1].usd_per_hour if r.prices else None)
            for r in self.rentals.values()
            if r.live
        )

    def pending(self, at: float) -> tuple[Rate, ...]:
        """Of machines asked for."""
        return tuple(
            Rate(ceiling=x.ceiling, extras=x.extras, waited=max(0.0, at - x.asked)) for x in self.launches.values()
        )

    def fold(self, at: float, after: float = FOLD_SECONDS) -> list[Closed]:
        """Take out of the record, into the totals, what has been over for long: each to be written as a line of its own."""
        over = [key for key, r in self.rentals.items() if r.until is not None and r.until + after <= at]
        return [self._fold(key) for key in over]

    def _fold(self, key: str) -> Closed:
        rental = self.rentals.pop(key)
        usd, seconds = cost(rental, rental.until if rental.until is not None else self.at)
        machine = rental.machine
        name = f"{machine.type or 'unknown'}/{machine.lifecycle}/{machine.zone or 'unknown'}"
        total = self.totals.setdefault(name, Total())
        total.rentals += 1
        total.seconds += seconds
        total.usd += usd
        return Closed(rental=rental, usd=usd, seconds=seconds)
