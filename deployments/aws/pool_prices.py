"""Spot pools (a type in a zone), ranked by what a thousand pages cost there: not by the hour, since GPUs differ in speed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account
from deployments.aws.findings import Finding
from deployments.aws.planned_run import PlannedRun
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.price_table import EXTRAS
from tasks.fleet.prices import PLAUSIBLE, on_demand_bound

NAME = "Spot prices"
STALE_DAYS = 90.0
"""EC2 keeps the history of 90 days: an older price is not EC2's."""


class Pool(BaseModel):
    """A type in a zone, and its Spot price."""

    model_config = ConfigDict(frozen=True)

    type: str
    zone: str
    usd_per_hour: float
    at: datetime


class Ranked(BaseModel):
    """A pool and what a thousand pages cost there."""

    model_config = ConfigDict(frozen=True)

    type: str
    zone: str
    usd_per_hour: float
    """Compute alone."""
    pages_per_second: float
    usd_per_1000_pages: float
    """With disk and address."""
    within: bool
    """Whether the price is below --max-price."""

    def line(self) -> str:
        """For people."""
        more = "" if self.within else "  above --max-price"
        return (
            f"{self.type:<13} {self.zone:<16} ${self.usd_per_hour:.4f}/h  {self.pages_per_second:5.2f} pages/s  "
            f"${self.usd_per_1000_pages:.3f} per 1,000 pages{more}"
        )


def read(account: Account, types: Iterable[str]) -> list[Pool]:
    """The Spot prices now, of each type and zone of the region. Raises boto3's errors."""
    moment = datetime.now(UTC)
    pages = account.client("ec2").get_paginator("describe_spot_price_history")
    # With both times now, EC2 answers with the price that holds now.
    asked = pages.paginate(
        InstanceTypes=list(types), ProductDescriptions=["Linux/UNIX"], StartTime=moment, EndTime=moment
    )
    newest: dict[tuple[str, str], Pool] = {}
    for page in asked:
        for item in page["SpotPriceHistory"]:
            pool = Pool(
                type=item["InstanceType"],
                zone=item["AvailabilityZone"],
                usd_per_hour=float(item["SpotPrice"]),
                at=item["Timestamp"],
            )
            known = newest.get((pool.type, pool.zone))
            if known is None or pool.at > known.at:
                newest[pool.type, pool.zone] = pool
    return list(newest.values())


def plausible(pool: Pool, region: str, now: datetime) -> bool:
    """Whether EC2 can mean it: simulated services answer $0.00001 of the year 2006. Pure."""
    bound = on_demand_bound(Machine(id="pool", type=pool.type, region=region, lifecycle=Lifecycle.SPOT))
    dear_enough = bound is None or pool.usd_per_hour >= PLAUSIBLE * bound
    return dear_enough and pool.usd_per_hour > 0 and (now - pool.at).total_seconds() <= STALE_DAYS * 86400


def rank(pools: Iterable[Pool], plan: PlannedRun) -> list[Ranked]:
    """The cheapest first, by USD per 1,000 pages; those above --max-price last. Pure."""
    found = [
        Ranked(
            type=pool.type,
            zone=pool.zone,
            usd_per_hour=pool.usd_per_hour,
            pages_per_second=plan.rate(pool.type),
            usd_per_1000_pages=(pool.usd_per_hour + EXTRAS) / 3600 / plan.rate(pool.type) * 1000,
            within=plan.max_price is None or pool.usd_per_hour <= plan.max_price,
        )
        for pool in pools
        if pool.type in plan.types
    ]
    return sorted(found, key=lambda pool: (not pool.within, pool.usd_per_1000_pages, pool.type, pool.zone))


def judge(pools: list[Pool], plan: PlannedRun, region: str, now: datetime) -> tuple[Finding, list[Ranked]]:
    """What the prices say, and the ranking of those that can be believed. Pure."""
    believed = [pool for pool in pools if plausible(pool, region, now)]
    ranked = rank(believed, plan)
    others = "name types of this region with --machine-types, or another --region"
    if not pools:
        return Finding.fail(NAME, f"EC2 has no Spot price of {', '.join(plan.types)} in {region}", others), []
    if not believed:
        odd = min(pools, key=lambda pool: pool.usd_per_hour)
        words = (
            f"EC2 gives no plausible Spot price in {region}: {odd.type} in {odd.zone} "
            f"${odd.usd_per_hour:g}/h of {odd.at:%Y-%m-%d}"
        )
        return Finding.fail(NAME, words, "ask a real EC2: unset AWS_ENDPOINT_URL; else " + others), []
    within = [pool for pool in ranked if pool.within]
    if not within:
        cheapest = min(ranked, key=lambda pool: pool.usd_per_hour)
        words = (
            f"every pool costs more than --max-price ${plan.max_price:g}/h: the cheapest is {cheapest.line().strip()}"
        )
        return Finding.fail(NAME, words, f"raise --max-price to ${cheapest.usd_per_hour:.2f} or more"), ranked
    best = within[0]
    words = (
        f"{len(within)} of {len(pools)} pools; best {best.type} in {best.zone}: ${best.usd_per_hour:.4f}/h, "
        f"${best.usd_per_1000_pages:.3f} per 1,000 pages at {best.pages_per_second:g} pages/s (planning value)"
    )
    if best.type in plan.rates:
        words = words.replace("(planning value)", "(measured)")
    gone = sorted(set(plan.types) - {pool.type for pool in within})
    if gone:
        remedy = f"no pool of {', '.join(gone)}" + (" below --max-price" if plan.max_price is not None else " here")
        return Finding.warn(NAME, words, remedy), ranked
    return Finding.ok(NAME, words), ranked
