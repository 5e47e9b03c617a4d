"""What the user's own corpus would take on AWS: an estimate with a band, from planning values. Pure.

The rehearsal's pace is this machine's and says nothing about a GPU: pace and prices are those of `pdf-flows aws preflight`
(deployments/aws/rates.py, tasks/fleet/price_table.py), reckoned by the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from deployments.aws.forecast import forecast
from deployments.aws.planned_run import PlannedRun
from deployments.aws.pool_prices import Ranked
from tasks.fleet.price_table import EXTRAS, HOME_REGION, ON_DEMAND
from tasks.quote import estimate

SPOT_LOW, SPOT_LIKELY, SPOT_HIGH = 0.30, 0.40, 1.0
"""Of the on-demand price: noted Spot prices were 36 to 49 % of it; none is above it."""
PACE_LOW, PACE_HIGH = 4 / 5, 7 / 5
"""Of a planning value: it takes batched decoding for 5 times as fast as plain, and rooflines say 4 to 7."""


class Span(BaseModel):
    """A figure and its band."""

    model_config = ConfigDict(frozen=True)

    low: float
    likely: float
    high: float


class OfType(BaseModel):
    """The corpus on machines of one type only."""

    model_config = ConfigDict(frozen=True)

    type: str
    pages_per_second: float
    """Of one worker."""
    measured: bool
    """Whether somebody measured it, or it is a planning value."""
    usd: Span
    hours: Span


class Prediction(BaseModel):
    """Of the real corpus on AWS."""

    model_config = ConfigDict(frozen=True)

    documents: int | None
    pages: int
    pages_error: int
    """Half width of its 95 % interval, where it comes from a sample; 0 where all were counted or it was given."""
    sample: int | None
    """So many documents of the rehearsal its pages come from; None: they were given."""
    workers: int
    types: list[OfType]
    usd: Span
    """Over all types; likely: on the cheapest."""
    hours: Span
    """Over all types; likely: on the cheapest."""

    def lines(self) -> list[str]:
        """For people."""
        what = f"{self.pages:,} pages"
        if self.sample is not None:
            error = f" ± {self.pages_error:,} (95 %)" if self.pages_error else ""
            what = f"{self.documents:,} documents like these: {self.pages:,}{error} pages, from {self.sample:,} of them"
        found = [
            f"on AWS, {what}, on {self.workers} workers with the dolphin engine: ${self.usd.low:,.2f} to "
            f"${self.usd.high:,.2f}, {self.hours.low:,.1f} to {self.hours.high:,.1f} h"
        ]
        for one in self.types:
            rate = "measured" if one.measured else "planning value"
            found.append(
                f"  {one.type:<13} about ${one.usd.likely:,.2f} (${one.usd.low:,.2f} to ${one.usd.high:,.2f}), about "
                f"{one.hours.likely:,.1f} h ({one.hours.low:,.1f} to {one.hours.high:,.1f}) at {one.pages_per_second:g} pages/s "
                f"({rate})"
            )
        found.append(
            "  an estimate, no quote: nobody measured the pace on these GPUs unless you did (pdf-flows gpu-check, then "
            f"--pages-per-second); Spot at {SPOT_LOW:.0%} to {SPOT_HIGH:.0%} of on-demand prices in {HOME_REGION}"
        )
        return found


def predict(plan: PlannedRun, counts: Sequence[int], population: int) -> Prediction:
    """The estimate.

    Args:
        plan: workers, types, measured rates; pages, or documents, where they were given.
        counts: pages of each document that was looked into, 0 for those that can't be converted: the others are like these.
        population: how many documents there are, where the plan does not say.
    """
    documents = plan.documents if plan.documents is not None else population
    pages, error, sample = plan.pages, 0, None
    if pages is None:
        pages, error = estimate(list(counts), documents)
        sample = len(counts)
        if documents < len(counts):
            pages, error = round(sum(counts) / len(counts) * documents), 0
    types = [_of_type(plan, type_, pages, error) for type_ in plan.types if type_ in ON_DEMAND]
    cheapest = min(types, key=lambda one: one.usd.likely)
    return Prediction(
        documents=None if plan.pages is not None else documents,
        pages=pages,
        pages_error=error,
        sample=sample,
        workers=plan.workers,
        types=sorted(types, key=lambda one: one.usd.likely),
        usd=Span(
            low=min(one.usd.low for one in types),
            likely=cheapest.usd.likely,
            high=max(one.usd.high for one in types),
        ),
        hours=Span(
            low=min(one.hours.low for one in types),
            likely=cheapest.hours.likely,
            high=max(one.hours.high for one in types),
        ),
    )


def _of_type(plan: PlannedRun, type_: str, pages: int, error: int) -> OfType:
    rate, measured = plan.rate(type_), type_ in plan.rates
    low, high = (1.0, 1.0) if measured else (PACE_LOW, PACE_HIGH)

    def on(spot: float, pace: float, count: int) -> tuple[float, float]:
        usd = ON_DEMAND[type_] * spot
        pool = Ranked(
            type=type_,
            zone="any",
            usd_per_hour=usd,
            pages_per_second=rate * pace,
            usd_per_1000_pages=(usd + EXTRAS) / 3600 / (rate * pace) * 1000,
            within=True,
        )
        found = forecast(plan, count, pool, HOME_REGION)
        return round(found.usd, 2), round(found.hours, 2)

    best, likely, worst = (
        on(SPOT_LOW, high, max(0, pages - error)),
        on(SPOT_LIKELY, 1.0, pages),
        on(SPOT_HIGH, low, pages + error),
    )
    return OfType(
        type=type_,
        pages_per_second=rate,
        measured=measured,
        usd=Span(low=best[0], likely=likely[0], high=worst[0]),
        hours=Span(low=best[1], likely=likely[1], high=worst[1]),
    )
