"""Cost and hours of the planned run against budget and deadline, by the same rules as the run's own budget. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from deployments.aws.findings import Finding
from deployments.aws.planned_run import PlannedRun
from deployments.aws.pool_prices import Ranked
from tasks.fleet.budget import TAILS, Memory, Position, Terms, assess
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.price_table import EXTRAS
from tasks.fleet.prices import on_demand_bound
from tasks.fleet.spend import Rate

NAME = "cost and hours"


class Forecast(BaseModel):
    """Of the run on machines of one pool only."""

    model_config = ConfigDict(frozen=True)

    type: str
    zone: str
    usd: float
    hours: float
    starts: int | None
    """Machines that the budget lets start at once, each reckoned at its ceiling until it is gone; None: any number."""


def forecast(plan: PlannedRun, pages: int, pool: Ranked, region: str) -> Forecast:
    """What the run would be if all its machines came from this pool."""
    terms = Terms(budget=plan.budget, deadline=plan.deadline, max_price=plan.max_price)
    bound = on_demand_bound(Machine(id="new", type=pool.type, region=region, lifecycle=Lifecycle.SPOT))
    ceiling = plan.max_price if plan.max_price is not None else bound if bound is not None else pool.usd_per_hour
    rate = Rate(ceiling=ceiling, extras=EXTRAS, usd_per_hour=pool.usd_per_hour)
    position = Position(
        now=0.0,
        began=0.0,
        spent=0.0,
        wanted=plan.workers,
        work_left=float(pages),
        pace=pool.pages_per_second,
        spot=rate,
    )
    found = assess(terms, position, Memory())
    seconds = pages / pool.pages_per_second / plan.workers * TAILS
    # Beside the work: machines boot and load, and are torn down at the end.
    around = plan.workers * (terms.start_seconds + terms.drain_seconds + terms.teardown_seconds)
    usd = (found.left_cost or 0.0) + around * rate.likely / 3600
    return Forecast(
        type=pool.type,
        zone=pool.zone,
        usd=usd,
        hours=(seconds + terms.start_seconds) / 3600,
        starts=found.launches_allowed,
    )


def judge(plan: PlannedRun, ranked: Iterable[Ranked], region: str) -> tuple[Finding, list[Forecast]]:
    """Whether the run fits its budget and its deadline."""
    pools = [pool for pool in ranked if pool.within]
    pages = plan.page_count
    if pages is None:
        remedy = "give --pages (pdf-flows plan counts them), --documents or --input"
        return Finding.skipped(NAME, "how much there is to convert is not known", remedy), []
    if not pools:
        return Finding.skipped(NAME, "no Spot price to reckon with"), []
    found = [forecast(plan, pages, pool, region) for pool in pools]
    return _judged(plan, pages, found), found


def _judged(plan: PlannedRun, pages: int, found: list[Forecast]) -> Finding:
    cheap, dear = min(found, key=lambda f: f.usd), max(found, key=lambda f: f.usd)
    fast, slow = min(found, key=lambda f: f.hours), max(found, key=lambda f: f.hours)
    words = (
        f"{pages:,} pages on {plan.workers} workers: {_span(cheap.usd, dear.usd, '$', '.2f')} and "
        f"{_span(fast.hours, slow.hours, '', '.1f')} h"
    )
    limits = [f"budget ${plan.budget:.2f}"] if plan.budget is not None else []
    limits += [f"deadline {plan.deadline / 3600:g} h"] if plan.deadline is not None else []
    words += f" ({', '.join(limits)})" if limits else ""
    late = plan.deadline is not None and fast.hours * 3600 > plan.deadline
    if plan.budget is not None and cheap.usd > plan.budget:
        return Finding.fail(
            NAME,
            f"budget too small: {words}",
            f"raise --budget to ${math.ceil(cheap.usd / 0.9)} or more, or convert less at a time (--limit); what was "
            "converted stays, and a run with a new budget goes on",
        )
    starts = max((f.starts for f in found if f.starts is not None), default=None)
    if starts == 0:
        return Finding.fail(
            NAME,
            f"budget too small to start one machine: {words}",
            "each is reckoned at its price ceiling from its start until it can be gone (docs/fleet.md): raise --budget",
        )
    if late and plan.deadline is not None:
        # Start-up does not shrink with more workers; the rest does.
        start = Terms().start_seconds
        room = plan.deadline - start
        needed = math.ceil(plan.workers * (fast.hours * 3600 - start) / room) if room > 0 else None
        remedy = "raise --deadline" + (f", or --workers to {needed} or more" if needed else "")
        return Finding.fail(NAME, f"too slow for the deadline: {words}", remedy)
    notes = []
    if plan.budget is not None and dear.usd > plan.budget:
        notes.append(f"on {dear.type} alone it would pass the budget, and stop before that")
    if plan.deadline is not None and slow.hours * 3600 > plan.deadline:
        notes.append(f"on {slow.type} alone it would miss the deadline: leave it out, or more workers")
    if starts is not None and starts < plan.workers:
        notes.append(f"the budget lets {starts} of {plan.workers} machines start at once")
    return Finding.warn(NAME, words, "; ".join(notes)) if notes else Finding.ok(NAME, words)


def _span(low: float, high: float, sign: str, form: str) -> str:
    first, last = f"{sign}{low:{form}}", f"{sign}{high:{form}}"
    return first if first == last else f"{first} to {last}"
