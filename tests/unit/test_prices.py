"""Prices: quotes, ceilings, and what counts where AWS does not say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from tasks.fleet.criteria import Facts, criteria
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.price_table import EXTRAS
from tasks.fleet.prices import AwsPrices, FixedPrices, PriceUnknown, confirm, dearest, rate_of
from tasks.fleet.spend import HOUR, Spend

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SPOT = Machine(
    id="i-1", type="g4dn.xlarge", zone="us-east-1a", region="us-east-1", lifecycle=Lifecycle.SPOT, uptime=0.0
)
ON_DEMAND = SPOT.model_copy(update={"lifecycle": Lifecycle.ON_DEMAND})
OWN = Machine(id="laptop")


class Ec2:
    """An EC2 client that knows a price history."""

    def __init__(self, *history: tuple[datetime, str]) -> None:
        self.history = list(history)
        self.asked: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.page = 100

    def describe_spot_price_history(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        if self.failure is not None:
            raise self.failure
        before = [point for point in self.history if point[0] <= asked["StartTime"]]
        points = before[-1:] + [point for point in self.history if point[0] > asked["StartTime"]]
        start = int(asked.get("NextToken", 0))
        items = [{"Timestamp": when, "SpotPrice": price} for when, price in points[start : start + self.page]]
        more = start + self.page < len(points)
        return {"SpotPriceHistory": items, "NextToken": str(start + self.page) if more else ""}


class Times:
    """Both clocks of a price source."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def wall(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)


def source(ec2: Ec2, times: Times, **more: Any) -> AwsPrices:
    return AwsPrices(lambda region: ec2, clock=times.clock, wall=times.wall, **more)


def hours(number: float) -> datetime:
    return NOON + timedelta(hours=number)


def test_price_now_and_highest_of_late() -> None:
    ec2, times = Ec2((hours(-5), "0.2"), (hours(-1), "0.3"), (hours(-0.5), "0.25")), Times()
    ec2.page = 1
    quote = source(ec2, times).hourly(SPOT, 1.5 * HOUR)
    assert (quote.usd_per_hour, quote.highest, quote.age, quote.at) == (0.25, 0.3, 0.0, hours(-0.5))
    assert ec2.asked[0]["InstanceTypes"] == ["g4dn.xlarge"]
    assert ec2.asked[0]["ProductDescriptions"] == ["Linux/UNIX"]
    assert ec2.asked[0]["AvailabilityZone"] == "us-east-1a"


def test_a_pool_is_asked_about_now_and_then() -> None:
    ec2, times = Ec2((hours(-5), "0.2")), Times()
    prices = source(ec2, times)
    for _ in range(5):
        assert prices.hourly(SPOT, 600).usd_per_hour == 0.2
        assert prices.hourly(SPOT.model_copy(update={"id": "i-2"}), 60).usd_per_hour == 0.2
        times.seconds += 50
    assert len(ec2.asked) == 1
    assert prices.hourly(SPOT, 600).age == 250
    times.seconds += 60
    ec2.history.append((NOON + timedelta(seconds=280), "0.4"))
    quote = prices.hourly(SPOT, 600)
    assert (quote.usd_per_hour, quote.highest, quote.age) == (0.4, 0.4, 0)
    assert len(ec2.asked) == 2
    # Farther back than what is known: asked for.
    prices.hourly(SPOT, 4 * HOUR)
    assert len(ec2.asked) == 3


def test_other_pools_are_others() -> None:
    ec2, times = Ec2((hours(-5), "0.2")), Times()
    prices = source(ec2, times)
    prices.hourly(SPOT)
    prices.hourly(SPOT.model_copy(update={"zone": "us-east-1b"}))
    assert len(ec2.asked) == 2


@pytest.mark.parametrize(
    "failure",
    [
        ClientError({"Error": {"Code": "UnauthorizedOperation"}}, "DescribeSpotPriceHistory"),
        EndpointConnectionError(endpoint_url="https://ec2"),
        ValueError("odd"),
    ],
)
def test_without_an_answer_the_ceiling_counts_and_is_said_once(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    ec2, times = Ec2((hours(-5), "0.2")), Times()
    ec2.failure = failure
    prices = source(ec2, times)
    for _ in range(3):
        for _ in range(3):
            quote = prices.hourly(SPOT, 600)
            assert (quote.usd_per_hour, quote.highest, quote.age) == (0.526, 0.526, None)
        times.seconds += 400
    assert len(ec2.asked) == 3
    assert len(caplog.records) == 1
    ec2.failure = None
    assert prices.hourly(SPOT, 600).usd_per_hour == 0.2
    # What was known goes on as the likely price, and confirms nothing newer.
    ec2.failure = failure
    times.seconds += 400
    quote = prices.hourly(SPOT, 600)
    assert (quote.usd_per_hour, quote.age) == (0.2, 400)


@pytest.mark.parametrize("history", [[], [(hours(-5), "0.00001")], [(hours(-5), "free")]])
def test_implausible_answers_are_not_believed(history: list[tuple[datetime, str]]) -> None:
    """A simulated EC2 answers 0.00001."""
    assert source(Ec2(*history), Times()).hourly(SPOT).age is None


def test_before_the_history_begins_the_ceiling_counts() -> None:
    quote = source(Ec2((hours(-0.5), "0.2")), Times()).hourly(SPOT, HOUR)
    assert quote.highest == 0.526


def test_ceilings() -> None:
    prices, capped = AwsPrices(), AwsPrices(max_price=0.39)
    assert prices.ceiling(SPOT) == prices.ceiling(ON_DEMAND) == 0.526
    assert capped.ceiling(SPOT) == 0.39
    assert capped.ceiling(ON_DEMAND) == 0.526
    assert (prices.ceiling(OWN), capped.ceiling(OWN)) == (0.0, 0.39)
    assert (prices.extras(OWN), prices.extras(SPOT)) == (0.0, EXTRAS)
    abroad = SPOT.model_copy(update={"region": "sa-east-1"})
    assert prices.ceiling(abroad) == 2 * 0.526
    unknown = SPOT.model_copy(update={"type": "p5.48xlarge"})
    assert capped.ceiling(unknown) == 0.39
    for machine in (unknown, unknown.model_copy(update={"type": None})):
        with pytest.raises(PriceUnknown, match="--max-price"):
            prices.ceiling(machine)


def test_on_demand_and_own_are_not_asked_for() -> None:
    ec2 = Ec2()
    prices = source(ec2, Times())
    assert prices.hourly(ON_DEMAND).usd_per_hour == 0.526
    assert prices.hourly(OWN).usd_per_hour == 0.0
    assert ec2.asked == []


def test_rates() -> None:
    prices = source(Ec2((hours(-5), "0.2")), Times())
    rate = rate_of(prices, SPOT)
    assert (rate.ceiling, rate.extras, rate.usd_per_hour) == (0.526, EXTRAS, 0.2)
    assert dearest(prices, ["g4dn.xlarge", "g5.xlarge"], Lifecycle.SPOT, "us-east-1").ceiling == 1.006
    with pytest.raises(PriceUnknown):
        dearest(prices, [], Lifecycle.SPOT, None)


def test_the_ledger_is_confirmed_as_far_as_the_source_knows() -> None:
    ec2, times = Ec2((hours(-5), "0.2")), Times()
    prices = source(ec2, times)
    spend = Spend()
    spend.see("0/0", SPOT, at=60, ceiling=0.526, extras=0.0, late=0.0)  # since 0
    spend.ask("a", at=60, ceiling=0.5, extras=0.0)
    spend.withdraw("a", at=61, start_seconds=900, teardown_seconds=0)
    times.seconds = 3600
    ec2.history.append((NOON + timedelta(seconds=1800), "0.4"))
    confirm(spend, prices, 3600)
    # One figure for the time since the last look: the dearest.
    assert spend.rentals["i-1"].priced_until == 3600
    unseen = 60 * 0.5 / HOUR
    assert spend.spent(3600) == pytest.approx(0.4 + unseen)
    times.seconds = 3700
    confirm(spend, prices, 3700)
    assert spend.rentals["i-1"].priced_until == 3600
    assert spend.spent(3700) == pytest.approx(0.4 + unseen + 100 * 0.526 / HOUR)


def test_fixed() -> None:
    prices = FixedPrices(0.3, ceiling=0.2, extras=0.01)
    assert (prices.ceiling(SPOT), prices.hourly(SPOT).highest, prices.extras(SPOT)) == (0.3, 0.3, 0.01)


def facts(**more: Any) -> Facts:
    return Facts.model_validate({"documents": 100, "accounted": 100, "converted": 97, **more})


def test_criteria_of_a_run_that_went_well() -> None:
    found = criteria(
        facts(
            published_twice=0,
            failure_rate=0.03,
            max_failure_rate=0.05,
            spent=41.25,
            target=50,
            budget=100,
            hours=34.5,
            deadline_hours=48,
            machines_left=0,
            report="report.html",
        )
    )
    assert all(criterion.met for criterion in found)
    assert found[3].line() == "    met  within the target: $41.25 of $50.00"


def test_criteria_not_met_and_not_applicable() -> None:
    by_name = {
        c.name: c for c in criteria(facts(accounted=90, failure_rate=0.1, max_failure_rate=0.05, machines_left=2))
    }
    assert by_name["every document accounted for"].line() == (
        "NOT MET  every document accounted for: 90 of 100 documents have an end, 97 of them Markdown; 10 remain"
    )
    assert by_name["failures within the limit"].met is False
    assert by_name["nothing left running"].text == "2 machines left"
    assert by_name["before the deadline"].met is None
    assert by_name["within the budget"].line() == "    n/a  within the budget: no budget was set"
    assert by_name["report written"].met is False


@given(st.builds(Facts))
def test_criteria_are_one_line_each(given_: Facts) -> None:
    for criterion in criteria(given_):
        assert "\n" not in criterion.line() or "\n" in (given_.report or "")
