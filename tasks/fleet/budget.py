"""Budget and deadline: may work go on, may machines be started, and how it will end. Pure: position in, assessment out.

The promise: what a run has spent when its last machine is gone never exceeds the budget, whatever prices do below their
ceilings. It holds because claiming stops while the budget still covers what cannot be called back: every machine, at its
ceiling, for as long as it takes until the stop reaches its worker (`tick` and `patience`: the next assessment, or, where the
parent is lost, the worker's own patience with a record that stands still), the worker drained, and the machine is torn down.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.fleet.machine import Lifecycle
from tasks.fleet.money import duration
from tasks.fleet.spend import HOUR, MINIMUM_SECONDS, Rate

TAILS = 1.1
"""The end of a run costs more than its middle: machines that have nothing to do any more while the last documents end."""
BACK = 0.1
"""On-demand is left again when Spot would be in time with so much of the time left to spare: no change each minute."""
EVIDENCE_SECONDS = 600.0
"""Machine time after which a projection is worth a warning."""

NO_PACE = 1e-9
"""Less work a machine-second is none: nothing can be projected from it."""
MANY = 100_000
"""No more machines than that are ever allowed at once: next to nothing divides a budget into any number."""

_UNITS = {"s": 1.0, "m": 60.0, "h": HOUR, "d": 24 * HOUR}


def parse_duration(text: str) -> float:
    """Seconds of "48h", "90m", "2d", "1d12h", "300s". Raises ValueError with the remedy."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.strip().lower())
    if not parts or "".join(n + u for n, u in parts) != text.strip().lower().replace(" ", ""):
        raise ValueError(f"{text!r} is no duration: write 48h, 90m, 2d or 1d12h")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_usd(text: str) -> float:
    """USD of "100", "$99.50" or "100 USD". Raises ValueError with the remedy."""
    bare = re.fullmatch(r"\$?\s*(\d+(?:\.\d+)?)\s*(?:usd)?", text.strip(), re.IGNORECASE)
    if bare is None:
        raise ValueError(f"{text!r} is no amount of US dollars: write 100 or 99.50")
    return float(bare.group(1))


class Terms(BaseModel):
    """What the user set, and how long things take at most. Seconds and USD."""

    model_config = ConfigDict(frozen=True)

    budget: float | None = Field(None, gt=0, allow_inf_nan=False)
    """The cap: never exceeded."""
    target: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Past it is a warning."""
    deadline: float | None = Field(None, gt=0, allow_inf_nan=False)
    """From the beginning: claiming stops then."""
    max_price: float | None = Field(None, gt=0, allow_inf_nan=False)
    """USD a machine-hour: the ceiling of Spot prices; no on-demand machine that is dearer is started."""
    on_demand: bool = False
    """On-demand machines may be started where Spot ones would be too late."""
    drain_seconds: float = Field(180.0, ge=0)
    """From a stop until the workers ended."""
    teardown_seconds: float = Field(1200.0, ge=0)
    """From the end of its last worker until a machine is paid for no more: what an ECS capacity provider takes by itself."""
    tick_seconds: float = Field(60.0, gt=0)
    """From an assessment to the next one, until its record is written and read."""
    patience_seconds: float = Field(180.0, ge=0)
    """How long workers go on claiming while the record stands still."""
    start_seconds: float = Field(900.0, ge=0)
    """How long a machine is paid for before its worker is heard from: boot, image, model."""
    worth_seconds: float = Field(600.0, ge=0)
    """A machine is started only if the budget lets it work so long."""

    @model_validator(mode="after")
    def _in_order(self) -> Terms:
        if self.budget is not None and self.target is not None and self.target > self.budget:
            raise ValueError(f"the target (${self.target:g}) must not be above the budget (${self.budget:g})")
        return self

    @property
    def leaving_seconds(self) -> float:
        """How long a machine that works now is paid for at most if it is to be stopped: what the reserve is made of."""
        stop = self.tick_seconds + self.patience_seconds + self.drain_seconds + self.teardown_seconds
        return max(MINIMUM_SECONDS, stop + 1)  # bills are rounded up to whole seconds

    @property
    def orphan_seconds(self) -> float:
        """How long a machine is paid for at most after the last record of a parent that was lost."""
        return self.leaving_seconds


class Position(BaseModel):
    """Where a run stands."""

    model_config = ConfigDict(frozen=True)

    now: float
    began: float
    """Run seconds; the deadline counts from `began`."""
    spent: float = Field(ge=0)
    ending: float = Field(0.0, ge=0)
    """USD still to be paid for machines whose workers ended."""
    machine_seconds: float = Field(0.0, ge=0)
    """Paid for so far."""
    live: tuple[Rate, ...] = ()
    pending: tuple[Rate, ...] = ()
    wanted: int = Field(1, ge=0)
    """Machines that the run is to have."""
    work_done: float = Field(0.0, ge=0)
    """On these machines: bytes, pages or any other measure."""
    work_left: float = Field(0.0, ge=0)
    """In the same measure."""
    pace: float | None = Field(None, gt=0)
    """Work a machine-second of an earlier run, for as long as this one has none."""
    spot: Rate | None = None
    """The dearest Spot machine that may be started; None where none would be."""
    on_demand: Rate | None = None
    """The same, on-demand."""


class WarningKind(StrEnum):
    """What is warned of, each once for an amount."""

    HALF = "half of the budget"
    NEARLY = "90 % of the budget"
    TARGET = "target"
    PROJECTION = "projection"


class Memory(BaseModel):
    """What assessments must not forget. Kept with the spend record."""

    model_config = ConfigDict(frozen=True)

    warned: tuple[str, ...] = ()
    stopped: str | None = None
    """Why claiming was stopped: for good, as far as this start of the run goes."""
    lifecycle: Lifecycle = Lifecycle.SPOT
    """Of new machines."""

    def resumed(self) -> Memory:
        """For another start of the run: its terms may be others."""
        return self.model_copy(update={"stopped": None, "lifecycle": Lifecycle.SPOT})


class Projection(BaseModel):
    """How it will end at this pace."""

    model_config = ConfigDict(frozen=True)

    usd: float
    """At the end, all in all."""
    hours_left: float | None
    """None while no machine works or is about to."""


class Warned(BaseModel):
    """A warning that is due."""

    model_config = ConfigDict(frozen=True)

    kind: WarningKind
    text: str


class Assessment(BaseModel):
    """What may be done until the next one."""

    model_config = ConfigDict(frozen=True)

    claiming: bool
    why: str | None
    """Why not."""
    launches_allowed: int | None
    """How many machines may be asked for on top of the pending ones; None: any number."""
    lifecycle: Lifecycle
    """Of machines to be asked for."""
    warnings: tuple[Warned, ...]
    projection: Projection | None
    left_cost: float | None
    """USD that what is left would cost."""
    committed: float
    """USD that are spent, or cannot be called back any more whatever prices do."""
    memory: Memory


def committed(terms: Terms, position: Position) -> float:
    """USD that are spent or cannot be called back: every machine at its ceiling until it can be gone."""
    leaving, start = terms.leaving_seconds, terms.start_seconds
    live = sum(rate.most for rate in position.live) * leaving
    pending = sum(rate.most for rate in position.pending) * (start + leaving)
    return position.spent + position.ending + (live + pending) / HOUR


def assess(terms: Terms, position: Position, memory: Memory) -> Assessment:
    """May work go on, may machines be started, and how will it end."""
    bound = committed(terms, position)
    pace = _pace(position)
    projection = _project(terms, position, pace)
    lifecycle = _lifecycle(terms, position, memory, pace)
    why = memory.stopped or _stop(terms, position, bound)
    allowed = _launches(terms, position, bound, lifecycle) if why is None else 0
    if why is None and allowed == 0 and position.work_left > 0 and not position.live and not position.pending:
        why = _no_machine(terms, position, bound)
    due = _warnings(terms, position, projection, memory)
    return Assessment(
        claiming=why is None,
        why=why,
        launches_allowed=allowed,
        lifecycle=lifecycle,
        warnings=tuple(warned for _, warned in due),
        projection=projection,
        left_cost=_cost_of_rest(position, pace),
        committed=bound,
        memory=Memory(warned=(*memory.warned, *(key for key, _ in due)), stopped=why, lifecycle=lifecycle),
    )


def _stop(terms: Terms, position: Position, bound: float) -> str | None:
    elapsed = position.now - position.began
    if terms.deadline is not None and elapsed >= terms.deadline:
        return f"the deadline of {duration(terms.deadline)} has passed"
    if terms.budget is not None and bound > terms.budget:
        machines = len(position.live) + len(position.pending)
        return (
            f"budget: ${position.spent:.2f} are spent, and until the {machines} machines are gone it may be "
            f"${bound:.2f}: more than ${terms.budget:.2f}"
        )
    return None


def _no_machine(terms: Terms, position: Position, bound: float) -> str:
    left = f"${max(0.0, (terms.budget or 0.0) - bound):.2f} of ${terms.budget or 0.0:.2f} are left"
    if terms.budget is None or (terms.deadline is not None and not _in_time(terms, position)):
        return "no machine that is started now would be ready before the deadline"
    rate = position.spot or position.on_demand
    needed = f", which may cost ${_each(terms, rate):.2f}" if rate is not None else ""
    return f"budget: no machine works, and {left}: too little to start one{needed}"


def _in_time(terms: Terms, position: Position) -> bool:
    return terms.deadline is None or position.now - position.began + terms.start_seconds < terms.deadline


def _launches(terms: Terms, position: Position, bound: float, lifecycle: Lifecycle) -> int | None:
    """So many that they and all others can still work a while and then be gone before the budget is."""
    if not _in_time(terms, position):
        return 0
    rate = position.on_demand if lifecycle is Lifecycle.ON_DEMAND else position.spot
    if terms.budget is None:
        return None
    if rate is None:
        return 0
    if rate.most == 0:
        return None
    work = terms.start_seconds + terms.worth_seconds
    going = sum(r.most for r in (*position.live, *position.pending)) * work / HOUR
    return max(0, math.floor(min((terms.budget - bound - going) / _each(terms, rate), MANY)))


def _each(terms: Terms, rate: Rate) -> float:
    """USD that a machine costs at most until it is gone again, if it works for as long as makes it worth starting."""
    return rate.most * (terms.start_seconds + terms.worth_seconds + terms.leaving_seconds) / HOUR


def _pace(position: Position) -> float | None:
    """Work a paid machine-second."""
    pace = position.work_done / position.machine_seconds if position.machine_seconds > 0 else 0.0
    if pace <= NO_PACE:
        pace = position.pace or 0.0
    return pace if pace > NO_PACE else None


def _likely(position: Position) -> float | None:
    """USD that a machine-hour costs now."""
    if position.live:
        return sum(rate.likely for rate in position.live) / len(position.live)
    rate = position.spot or position.on_demand
    if rate is not None:
        return rate.likely
    return position.spent / position.machine_seconds * HOUR if position.machine_seconds > 0 else None


def _cost_of_rest(position: Position, pace: float | None) -> float | None:
    price = _likely(position)
    if position.work_left <= 0:
        return 0.0
    if pace is None or price is None:
        return None
    return position.work_left / pace / HOUR * price * TAILS


def _arriving(terms: Terms, position: Position) -> int:
    """Machines that work or should soon: those that have been waited for longer than a start takes have no capacity."""
    return len(position.live) + sum(rate.waited <= terms.start_seconds for rate in position.pending)


def _seconds_of_rest(terms: Terms, position: Position, pace: float) -> float | None:
    machines = _arriving(terms, position)
    if position.work_left <= 0:
        return 0.0
    return position.work_left / pace / machines * TAILS if machines else None


def _project(terms: Terms, position: Position, pace: float | None) -> Projection | None:
    rest = _cost_of_rest(position, pace)
    if pace is None or rest is None:
        return None
    seconds = _seconds_of_rest(terms, position, pace)
    usd = position.spent + position.ending + rest
    return Projection(usd=usd, hours_left=seconds / HOUR if seconds is not None else None)


def _lifecycle(terms: Terms, position: Position, memory: Memory, pace: float | None) -> Lifecycle:
    """On-demand only if asked for, if the deadline is at risk, and if all that is left fits the budget at that price."""
    rate = position.on_demand
    if not terms.on_demand or terms.deadline is None or rate is None or pace is None or position.work_left <= 0:
        return Lifecycle.SPOT
    if terms.max_price is not None and rate.ceiling > terms.max_price:
        return Lifecycle.SPOT
    left = terms.deadline - (position.now - position.began)
    if memory.lifecycle is Lifecycle.ON_DEMAND:
        left *= 1 - BACK
    needed = _seconds_of_rest(terms, position, pace)
    if needed is not None and needed <= left:
        return Lifecycle.SPOT
    rest = position.work_left / pace * TAILS + position.wanted * (terms.start_seconds + terms.leaving_seconds)
    usd = position.spent + position.ending + rest * rate.most / HOUR
    fits = terms.budget is None or usd <= terms.budget
    return Lifecycle.ON_DEMAND if fits else Lifecycle.SPOT


def _warnings(
    terms: Terms, position: Position, projection: Projection | None, memory: Memory
) -> list[tuple[str, Warned]]:
    """Those that are due and were not given for this amount."""
    found: list[tuple[str, Warned]] = []

    def due(kind: WarningKind, amount: float, text: str) -> None:
        key = f"{kind}: {amount:g}"
        if key not in memory.warned:
            found.append((key, Warned(kind=kind, text=text)))

    spent, budget, target = position.spent, terms.budget, terms.target
    if budget is not None and spent >= 0.9 * budget:
        due(WarningKind.NEARLY, budget, f"${spent:.2f} are spent: 90 % of the budget of ${budget:.2f}")
    elif budget is not None and spent >= 0.5 * budget:
        due(WarningKind.HALF, budget, f"${spent:.2f} are spent: half of the budget of ${budget:.2f}")
    if target is not None and spent > target:
        due(WarningKind.TARGET, target, f"${spent:.2f} are spent: past the target of ${target:.2f}")
    founded = projection is not None and position.machine_seconds >= EVIDENCE_SECONDS
    if founded and projection is not None and budget is not None and projection.usd > budget:
        text = f"at this pace it will cost ${projection.usd:.2f}: more than the budget of ${budget:.2f}"
        due(WarningKind.PROJECTION, budget, f"{text}; claiming stops before it is spent")
    return found
