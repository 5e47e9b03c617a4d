"""What machines cost by the hour: now, of late, and at most."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.price_table import EXTRAS, HOME_REGION, ON_DEMAND, REGION_BOUND
from tasks.fleet.spend import HOUR, Rate, Spend

FRESH_SECONDS = 300.0
"""So long a pool's price history is not asked for again."""
BACK_SECONDS = 2 * HOUR
"""The first question about a pool goes back so far, or as far as it has to."""
PLAUSIBLE = 0.02
"""A Spot price below this part of the on-demand price is not believed: simulated services answer such."""

_log = logging.getLogger("pdf_flows.prices")


class PriceUnknown(ValueError):
    """No price is known, and so no bound. The message names the type and the remedy."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            f"no price of machine type {machine.type or '(unknown)'} is known: give a bound with --max-price, in USD an hour"
        )


class Quote(BaseModel):
    """A machine's compute price."""

    model_config = ConfigDict(frozen=True)

    usd_per_hour: float = Field(ge=0)
    """Now, as far as known."""
    at: datetime | None
    """Since when, where the source says."""
    source: str
    highest: float = Field(ge=0)
    """In the time asked for, up to `age` seconds ago."""
    age: float | None = Field(ge=0)
    """Seconds since the source was asked. None: it did not answer, nothing is confirmed, and the ceiling counts."""


class Prices(Protocol):
    """A source of prices. Raises nothing but PriceUnknown."""

    def hourly(self, machine: Machine, seconds: float = 0.0) -> Quote:
        """The compute price now, and the highest of the last `seconds`."""
        ...

    def ceiling(self, machine: Machine) -> float:
        """USD an hour that the compute price cannot exceed. Raises PriceUnknown."""
        ...

    def extras(self, machine: Machine) -> float:
        """USD an hour of its disks and its public address."""
        ...


class FixedPrices:
    """The same for every machine: what the user says (`--price`), or a test."""

    def __init__(self, usd_per_hour: float, *, ceiling: float | None = None, extras: float = 0.0) -> None:
        self._usd = usd_per_hour
        self._ceiling = max(usd_per_hour, ceiling if ceiling is not None else usd_per_hour)
        self._extras = extras

    def hourly(self, machine: Machine, seconds: float = 0.0) -> Quote:
        return Quote(usd_per_hour=self._usd, at=None, source="fixed", highest=self._usd, age=0.0)

    def ceiling(self, machine: Machine) -> float:
        return self._ceiling

    def extras(self, machine: Machine) -> float:
        return self._extras


class _Pool:
    """One type in one zone: what its price was and when it was asked for."""

    def __init__(self) -> None:
        self.points: list[tuple[datetime, float]] = []
        self.from_: datetime | None = None
        """What the history covers begins here."""
        self.asked: datetime | None = None
        """When it was last answered for."""
        self.tried: float | None = None
        self.failed = False


class AwsPrices:
    """AWS's own: Spot price history from EC2, on-demand prices from a table that bounds them.

    Args:
        client: an EC2 client for a region; None takes boto3's with the default credential chain, and short timeouts.
        max_price: USD an hour that Spot requests are capped at, where they are; the bound for types that the table lacks.
        extras: USD an hour beside compute.
        clock: seconds, for how fresh an answer is.
        wall: the time now, which AWS's timestamps are compared with.
    """

    def __init__(
        self,
        client: Callable[[str | None], Any] | None = None,
        *,
        max_price: float | None = None,
        extras: float = EXTRAS,
        fresh_seconds: float = FRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._new_client = client if client is not None else _ec2
        self._clients: dict[str | None, Any] = {}
        self._max_price = max_price
        self._extras = extras
        self._fresh = fresh_seconds
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str | None, str | None], _Pool] = {}
        self._said: set[str] = set()

    def ceiling(self, machine: Machine) -> float:
        if machine.lifecycle is Lifecycle.OWN:
            return self._max_price or 0.0
        if machine.lifecycle is Lifecycle.SPOT and self._max_price is not None:
            return self._max_price
        on_demand = on_demand_bound(machine)
        if on_demand is not None:
            return on_demand
        if self._max_price is not None:
            return self._max_price
        raise PriceUnknown(machine)

    def extras(self, machine: Machine) -> float:
        return 0.0 if machine.lifecycle is Lifecycle.OWN else self._extras

    def hourly(self, machine: Machine, seconds: float = 0.0) -> Quote:
        ceiling = self.ceiling(machine)
        if machine.lifecycle is not Lifecycle.SPOT or machine.type is None:
            # The bound itself: what it really is cannot be more.
            source = "own" if machine.lifecycle is Lifecycle.OWN else "on-demand table"
            return Quote(usd_per_hour=ceiling, at=None, source=source, highest=ceiling, age=0.0)
        with self._lock:
            pool = self._pools.setdefault((machine.type, machine.zone, machine.region), _Pool())
            self._refresh(machine, machine.type, pool, self._wall() - timedelta(seconds=seconds))
            return self._quote(pool, ceiling, seconds, mixed=machine.zone is None)

    def _quote(self, pool: _Pool, ceiling: float, seconds: float, *, mixed: bool) -> Quote:
        if pool.asked is None or pool.from_ is None or not pool.points:
            return Quote(usd_per_hour=ceiling, at=None, source="ceiling", highest=ceiling, age=None)
        now = self._wall()
        start = now - timedelta(seconds=seconds)
        before = [price for when, price in pool.points if when <= start]
        within = [price for when, price in pool.points if when > start]
        # Where the history begins later than the time asked for, the ceiling stands for what is not known.
        first = before[-1] if before and start >= pool.from_ else ceiling
        when, price = pool.points[-1]
        if mixed:  # of several zones: their changes are no one series
            price = max(price for _, price in pool.points)
        age = max(0.0, (now - pool.asked).total_seconds())
        return Quote(
            usd_per_hour=price, at=when, source="EC2 price history", highest=max(first, *within, price), age=age
        )

    def _refresh(self, machine: Machine, type_: str, pool: _Pool, start: datetime) -> None:
        """Ask for what is not known, unless it was asked for of late."""
        covered = pool.from_ is not None and pool.from_ <= start
        if pool.tried is not None and self._clock() - pool.tried < self._fresh and (covered or pool.failed):
            return
        now = self._wall()
        begin = pool.asked if pool.asked and covered else min(start, now - timedelta(seconds=BACK_SECONDS))
        pool.tried = self._clock()
        found = self._ask(machine, type_, begin)
        pool.failed = found is None
        if found is None:
            return
        known = dict(pool.points)
        known.update(found)
        pool.points = sorted(known.items())
        pool.from_ = begin if pool.from_ is None else min(begin, pool.from_)
        pool.asked = now

    def _ask(self, machine: Machine, type_: str, begin: datetime) -> list[tuple[datetime, float]] | None:
        """The price history since `begin`, with the last change before it; of all zones the dearest. None: no answer."""
        # Takes long to import: only who asks AWS pays for it.
        from botocore.exceptions import BotoCoreError, ClientError

        asked: dict[str, Any] = {
            "InstanceTypes": [type_],
            "ProductDescriptions": ["Linux/UNIX"],
            "StartTime": begin,
        }
        if machine.zone is not None:
            asked["AvailabilityZone"] = machine.zone
        points: dict[datetime, float] = {}
        try:
            client = self._clients.get(machine.region)
            if client is None:
                client = self._clients[machine.region] = self._new_client(machine.region)
            while True:
                answer = client.describe_spot_price_history(**asked)
                for item in answer.get("SpotPriceHistory", ()):
                    when, price = item["Timestamp"], float(item["SpotPrice"])
                    points[when] = max(price, points.get(when, 0.0))
                if not answer.get("NextToken"):
                    break
                asked["NextToken"] = answer["NextToken"]
        except (BotoCoreError, ClientError, KeyError, ValueError, TypeError) as failure:
            self._say(f"the Spot price of {type_} could not be asked for ({failure}): its ceiling counts meanwhile")
            return None
        bound = on_demand_bound(machine)
        if not points or (bound is not None and min(points.values()) < PLAUSIBLE * bound):
            self._say(f"EC2 gives no plausible Spot price of {type_} in {machine.zone}: its ceiling counts")
            return None
        return list(points.items())

    def _say(self, text: str) -> None:
        """Once: the same answer comes each few minutes."""
        key = text.split("(", 1)[0]
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", text)


def on_demand_bound(machine: Machine) -> float | None:
    """USD an hour that the type costs on-demand at most; None for a type that the table lacks.

    The table's price in its own region; elsewhere, or where the region is unknown, a bound and no price.
    """
    price = ON_DEMAND.get(machine.type or "")
    if price is None:
        return None
    return price if machine.region == HOME_REGION else price * REGION_BOUND


def rate_of(prices: Prices, machine: Machine) -> Rate:
    """What a machine costs. Raises PriceUnknown."""
    return Rate(
        ceiling=prices.ceiling(machine),
        extras=prices.extras(machine),
        usd_per_hour=prices.hourly(machine).usd_per_hour,
    )


def dearest(prices: Prices, types: Iterable[str], lifecycle: Lifecycle, region: str | None) -> Rate:
    """The rate of the dearest of the types that may be started. Raises PriceUnknown, also where there is no type."""
    machines = [Machine(id="new", type=type_, region=region, lifecycle=lifecycle) for type_ in types]
    if not machines:
        raise PriceUnknown(Machine(id="new"))
    return max((rate_of(prices, machine) for machine in machines), key=lambda rate: rate.most)


def confirm(spend: Spend, prices: Prices, at: float) -> None:
    """Confirm the prices of all rentals up to second `at`, as far as the source knows them."""
    for key, rental in list(spend.rentals.items()):
        end = at if rental.until is None else min(at, rental.until)
        if rental.priced_until >= end:
            continue
        try:
            quote = prices.hourly(rental.machine, at - rental.priced_until)
        except PriceUnknown:
            continue  # at its ceiling
        if quote.age is not None:
            spend.price(key, quote.highest, at=at - quote.age)


def _ec2(region: str | None) -> Any:
    import boto3
    from botocore.config import Config

    # An assessment waits for it: no answer in time is an answer, the ceiling.
    config = Config(connect_timeout=3, read_timeout=8, retries={"mode": "standard", "total_max_attempts": 2})
    return boto3.client("ec2", region_name=region, config=config)
