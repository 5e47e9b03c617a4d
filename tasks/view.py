"""A run as a person watches it: who does what, how far it is, when it will end, what went wrong, what it costs. Pure.

Made from the run's own objects alone (`tasks/lookout.py` reads them): whoever can read the output can watch, on any machine, and
nothing that watches is asked by anything that works. Whatever is missing or makes no sense is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.corpus.census import Census
from tasks.corpus.lives import EXPIRY_SECONDS, Fence, Heartbeat, Life, Stage
from tasks.corpus.names import printable
from tasks.corpus.runs import RunSpec
from tasks.corpus.tally import Tally
from tasks.eta import Eta, eta
from tasks.fleet.book import Record as SpendRecord
from tasks.fleet.canary import Verdict
from tasks.fleet.machine import Machine
from tasks.fleet.money import Money
from tasks.report import Report
from tasks.words import COMPLETE

STUCK_SECONDS = 60.0
STUCK_PACES = 10.0
"""A worker is stuck, for people, when no page got done for a page's time limit and ten times its slowest, 60 s at least."""
SILENT_SECONDS = 35.0
"""Two heartbeats and a look late: worth showing, long before the supervisor acts."""
NOTICES = 20
"""Interruptions listed, the newest."""


class WorkerState(StrEnum):
    """What a worker is at, for people."""

    STARTING = "starting"
    """Asked for, or loading its engine."""
    WORKING = "working"
    DRAINING = "draining"
    """It claims no more."""
    STUCK = "stuck"
    """It beats, and no page gets done; or its heartbeat is late."""
    GONE = "gone"
    """Ended before its work was done, fenced, or silent for 60 s."""
    DONE = "done"
    """It found nothing more to do."""


TROUBLE = (WorkerState.STUCK, WorkerState.GONE, WorkerState.DRAINING, WorkerState.STARTING)
"""What is shown first, worst first."""


class WorkerView(BaseModel):
    """One worker, over all its lives."""

    model_config = ConfigDict(frozen=True)

    worker: int
    attempt: int | None = None
    """Its newest life; None before the first."""
    lives: int = 0
    state: WorkerState
    why: str = ""
    """Of a state that needs a reason."""
    done: int = 0
    """Documents with an outcome, by all its lives."""
    claimed: int = 0
    """And those in hand."""
    total: int = 0
    """And what it has still to do, as far as it knows."""
    failed: int = 0
    pages: int = 0
    in_hand: list[str] = []
    """Keys, as they may be shown."""
    page: int | None = None
    pages_per_second: float | None = None
    eta: float | None = None
    """Seconds, at its own pace."""
    machine: str = ""
    """Its id, type, zone."""
    lifecycle: str = ""
    flow_run_id: str | None = None

    @property
    def left(self) -> int:
        """Documents."""
        return max(0, self.total - self.done)


class Interruption(BaseModel):
    """A life that ended before its work was done, or is about to."""

    model_config = ConfigDict(frozen=True)

    worker: int
    attempt: int
    machine: str = ""
    why: str
    notice: bool = False
    """The machine was announced to go."""
    lost: bool = False
    """It ended without a word: nobody gave back what it had in hand."""
    at: float | None = None
    """Seconds since 1970, by its own clock or that of whoever fenced it."""


class RunView(BaseModel):
    """A run at one look."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    input: str
    output: str
    engine: str
    created: str
    at: float
    """Of the look, seconds since 1970."""
    over: bool = False
    """Nobody works on it any more."""
    state: str = "running"
    """Or how it ended."""
    why: str = ""
    documents: int = 0
    done: int = 0
    """With an end: converted, skipped, failed, quarantined."""
    converted: int = 0
    skipped: int = 0
    failed: int = 0
    """Quarantined ones among them."""
    remaining: int = 0
    pages: int = 0
    pages_per_second: float | None = None
    eta: Eta | None = None
    workers: list[WorkerView] = []
    causes: dict[str, int] = {}
    """Failed documents by category, as far as the ledger was read."""
    caught_up: bool = True
    """Whether the ledger was read as far as it goes."""
    interruptions: list[Interruption] = []
    """The newest, the newest first."""
    notices: int = 0
    """Machines that were announced to go."""
    losses: int = 0
    """Lives that ended without a word."""
    machines: int = 0
    """That workers live on."""
    wanted: int | None = None
    """Workers."""
    canary: str | None = None
    money: Money | None = None
    notes: list[str] = []

    @property
    def exit_code(self) -> int:
        """As `convert` has it at the run's end; 0 while it goes on."""
        if not self.over:
            return 0
        if self.remaining or self.state == "Stopped":
            return 3
        return 1 if self.failed or self.state == "Failed" else 0


@dataclass
class LifeFacts:
    """What is known of one life."""

    worker: int
    attempt: int
    life: Life | None = None
    beat: Heartbeat | None = None
    fence: Fence | None = None
    still: float = 0.0
    """Seconds that its heartbeat has stood still, as far as the watcher saw."""
    idle: float = 0.0
    """Seconds that nothing got on, as far as the watcher saw."""
    gone: bool = False
    """A process of the watcher's own host that is there no more."""

    @property
    def ended(self) -> str | None:
        """Its last word."""
        return self.beat.ended if self.beat is not None else None

    @property
    def over(self) -> bool:
        """It works no more, or must not."""
        return self.ended is not None or self.fence is not None or self.gone or self.still >= EXPIRY_SECONDS

    @property
    def machine(self) -> Machine | None:
        """What it runs on, if it said so."""
        try:
            return Machine.model_validate(self.life.machine) if self.life is not None else None
        except ValidationError:
            return None


@dataclass
class Pace:
    """What the watcher measured of one worker, or of all."""

    pages_per_second: float | None = None
    documents_per_second: float | None = None


@dataclass
class ParentFacts:
    """What is known of the newest parent."""

    facts: LifeFacts
    stop: str = ""
    """Why it told all workers to stop."""


@dataclass
class Facts:
    """All that one look found."""

    spec: RunSpec
    at: float
    census: Census = field(default_factory=Census)
    tally: Tally = field(default_factory=lambda: Tally(0))
    caught_up: bool = True
    lives: dict[int, list[LifeFacts]] = field(default_factory=dict)
    """Of each worker that was ever asked for, oldest first; [] before its first."""
    paces: dict[int, Pace] = field(default_factory=dict)
    pages_per_second: float | None = None
    rates: list[float] = field(default_factory=list)
    """Weight a second, of slices of the last minutes."""
    parent: ParentFacts | None = None
    spend: SpendRecord | None = None
    canary: Verdict | None = None
    report: Report | None = None
    """Of the parent that ended."""
    notes: list[str] = field(default_factory=list)


def run_view(facts: Facts) -> RunView:
    """What a person is shown of it."""
    spec, census, tally = facts.spec, facts.census, facts.tally
    beats = [one.beat for some in facts.lives.values() for one in some if one.beat is not None]
    processed = sum(beat.processed for beat in beats)
    before = census.done + sum(census.failed.values())
    documents = max(spec.documents, census.documents)
    # What a later start did again counts once; the ledger tells, a little later than the heartbeats.
    done = min(documents, before + max(0, processed - tally.repeated))
    unread = max(0, sum(beat.failed for beat in beats) - tally.failures)
    causes = dict(tally.categories())
    for category, count in census.failed.items():
        causes[category] = causes.get(category, 0) + count
    failed = min(done, sum(causes.values()) + unread)
    skipped = min(done - failed, census.done + max(tally.skipped, sum(beat.skipped for beat in beats)))
    weight_left = max(0.0, census.weight - sum(beat.weight for beat in beats))
    pages_per_second = facts.pages_per_second
    view = RunView(
        run_id=spec.run_id,
        input=printable(spec.identity.input),
        output=printable(spec.identity.output),
        engine=printable(spec.identity.engine),
        created=printable(spec.created),
        at=facts.at,
        documents=documents,
        done=done,
        converted=max(0, done - failed - skipped),
        skipped=skipped,
        failed=failed,
        remaining=documents - done,
        pages=sum(beat.pages for beat in beats),
        pages_per_second=round(pages_per_second, 3) if pages_per_second is not None else None,
        eta=eta(weight_left if documents > done else 0.0, facts.rates),
        workers=[_worker(k, some, facts) for k, some in sorted(facts.lives.items())],
        causes=dict(sorted(causes.items(), key=lambda item: (-item[1], item[0]))),
        caught_up=facts.caught_up,
        canary=facts.canary.value if facts.canary is not None else None,
        money=facts.spend.money if facts.spend is not None else None,
        notes=facts.notes,
        **_interrupted(facts),
    )
    return _with_end(view, facts)


def _with_end(view: RunView, facts: Facts) -> RunView:
    """The view of a run that is over, if it is."""
    parent, report = facts.parent, facts.report
    newest = [some[-1] for some in facts.lives.values() if some]
    working = [one for one in newest if not one.over]
    over = bool(newest) and not working
    if parent is not None:
        over = parent.facts.ended is not None or (parent.facts.over and not working)
    stopping = printable(parent.stop) if parent is not None else ""
    if not over:
        gone = parent is not None and parent.facts.over
        state = "stopping" if stopping else "parent gone" if gone else "running"
        return view.model_copy(update={"state": state, "why": stopping})
    if report is None:
        why = stopping or "its parent is gone without a report; run the same again to go on"
        if view.remaining == 0 and parent is None:
            return view.model_copy(update={"over": True, "state": "Completed", "why": ""})
        return view.model_copy(update={"over": True, "state": "Stopped", "why": why, "eta": None})
    failed = report.failed + report.quarantined
    return view.model_copy(
        update={
            "over": True,
            "state": report.state.value,
            "why": printable(report.why or ""),
            "documents": report.documents,
            "done": report.documents - report.remaining,
            "converted": report.converted,
            "skipped": report.skipped,
            "failed": failed,
            "remaining": report.remaining,
            "pages": report.pages,
            "pages_per_second": report.pages_per_second,
            "causes": report.categories,
            "eta": None,
            "money": report.money or view.money,
        }
    )


def _interrupted(facts: Facts) -> dict[str, object]:
    found = list(interruptions(facts.lives.values()))
    machines = {
        one.machine.id if one.machine is not None else f"worker {one.worker}"
        for some in facts.lives.values()
        for one in some[-1:]
        if not one.over
    }
    parent = facts.parent
    wanted = parent.facts.beat.wanted if parent is not None and parent.facts.beat is not None else None
    return {
        "interruptions": sorted(found, key=lambda one: -(one.at or 0.0))[:NOTICES],
        "notices": sum(one.notice for one in found),
        "losses": sum(one.lost for one in found),
        "machines": len(machines),
        "wanted": wanted,
    }


def interruptions(lives: Iterable[list[LifeFacts]]) -> Iterable[Interruption]:
    """Lives that ended before their work was done, and those that were told that their machine goes."""
    for some in lives:
        for one in some:
            said = one.ended or (one.beat.draining if one.beat is not None else "")
            notice = said.startswith("notice")
            lost = one.over and one.ended is None
            if not notice and not lost:
                continue
            why = said if notice else one.fence.why if one.fence is not None else "its process is gone"
            at = one.fence.at if one.fence is not None else one.beat.at if one.beat is not None else 0.0
            yield Interruption(
                worker=one.worker,
                attempt=one.attempt,
                machine=_machine(one),
                why=printable(why),
                notice=notice,
                lost=lost,
                at=at or None,
            )


def _worker(k: int, lives: list[LifeFacts], facts: Facts) -> WorkerView:
    if not lives:
        planned = facts.census.partitions[k] if k < len(facts.census.partitions) else 0
        return WorkerView(worker=k, state=WorkerState.STARTING, why="no machine yet", total=planned)
    newest = lives[-1]
    beats = [one.beat for one in lives if one.beat is not None]
    beat = newest.beat or Heartbeat()
    state, why = worker_state(newest, page_limit(facts.spec))
    done = sum(b.processed for b in beats)
    in_hand = beat.in_hand if not newest.over else []
    total = max(done + len(in_hand), done - beat.processed + beat.assigned)
    pace = facts.paces.get(k, Pace())
    left = max(0, total - done)
    documents = pace.documents_per_second or 0.0
    machine = newest.machine
    return WorkerView(
        worker=k,
        attempt=newest.attempt,
        lives=len(lives),
        state=state,
        why=printable(why),
        done=done,
        claimed=done + len(in_hand),
        total=total,
        failed=sum(b.failed for b in beats),
        pages=sum(b.pages for b in beats),
        in_hand=[printable(key) for key in in_hand],
        page=beat.page if in_hand else None,
        pages_per_second=round(pace.pages_per_second, 3) if pace.pages_per_second is not None else None,
        eta=0.0 if not left else left / documents if documents > 0 else None,
        machine=_machine(newest),
        lifecycle=machine.lifecycle.value if machine is not None else "",
        flow_run_id=newest.life.flow_run_id if newest.life is not None else None,
    )


def worker_state(facts: LifeFacts, page_seconds: float) -> tuple[WorkerState, str]:
    """What a worker is at, from its newest life, and why.

    Args:
        page_seconds: a page's time limit.
    """
    if facts.ended == COMPLETE:
        return WorkerState.DONE, ""
    if facts.ended is not None:
        return WorkerState.GONE, facts.ended
    if facts.fence is not None:
        return WorkerState.GONE, facts.fence.why
    if facts.gone:
        return WorkerState.GONE, "its process is gone"
    if facts.still >= EXPIRY_SECONDS:
        return WorkerState.GONE, f"no heartbeat for {facts.still:.0f} s"
    beat = facts.beat
    if beat is None:
        return WorkerState.STARTING, "no heartbeat yet"
    if facts.still >= SILENT_SECONDS:
        return WorkerState.STUCK, f"no heartbeat for {facts.still:.0f} s"
    if beat.stage is Stage.DRAINING:
        return WorkerState.DRAINING, beat.draining
    if beat.stage is Stage.LOADING:
        return WorkerState.STARTING, "the engine is loading"
    allowed = page_seconds + max(STUCK_SECONDS, STUCK_PACES * beat.slowest)
    if beat.in_hand and facts.idle >= allowed:
        return WorkerState.STUCK, f"no page for {facts.idle:.0f} s"
    return WorkerState.WORKING, ""


def page_limit(spec: RunSpec) -> float:
    """Seconds that a page may take in this run."""
    given = spec.identity.limits.get("page_timeout")
    return float(given) if isinstance(given, int | float) else 0.0


def worst_first(workers: Iterable[WorkerView]) -> list[WorkerView]:
    """The order in which a person wants them: in trouble, then those that will take longest, those that are done last."""

    def order(worker: WorkerView) -> tuple[int, float, int]:
        if worker.state in TROUBLE:
            return TROUBLE.index(worker.state), -float(worker.left), worker.worker
        if worker.state is WorkerState.DONE:
            return len(TROUBLE) + 1, 0.0, worker.worker
        return len(TROUBLE), -(worker.eta if worker.eta is not None else float("inf")), worker.worker

    return sorted(workers, key=order)


def _machine(facts: LifeFacts) -> str:
    machine = facts.machine
    if machine is None:
        return printable(facts.life.hostname) if facts.life is not None else ""
    return printable(" ".join(part for part in (machine.id, machine.type, machine.zone) if part))
