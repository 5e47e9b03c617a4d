"""What `report.html` shows of a run, of bounded size whatever the run: the worst, the slowest and the sums. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote
from uuid import UUID

from tasks.corpus.failure_file import replay_command
from tasks.corpus.names import printable
from tasks.corpus.tally import Cause, Tally
from tasks.fleet.criteria import Criterion
from tasks.fleet.money import duration
from tasks.losses_priced import InterruptionCost, interruption_cost
from tasks.view import Facts, LifeFacts, RunView, WorkerView, interruptions, run_view, worst_first

WORKERS = 40
"""Rows of the workers' table, and of the time line."""
CAUSES = 30
EXAMPLES = 5
"""Of each cause, with their replay commands."""
POINTS = 80
LIVES = 12
"""Of a worker in the time line, the newest."""


@dataclass(frozen=True)
class Links:
    """Where what the page names can be looked at; "" where that is not known."""

    output: str = ""
    """Begin of an output's address, ends with "/"."""
    ui: str = ""
    """The Prefect UI's address, without a slash at its end."""

    def of_output(self, name: str) -> str:
        """Of a document's Markdown."""
        if not self.output:
            return ""
        # Within a query a slash is a character like any other.
        return self.output + quote(name, safe="" if "?" in self.output else "/", errors="surrogateescape")

    def of_log(self, flow_run_id: str | None) -> str:
        """Of a worker's log."""
        if not self.ui.startswith(("http://", "https://")) or flow_run_id is None:
            return ""
        try:
            return f"{self.ui}/runs/flow-run/{UUID(flow_run_id)}"
        except ValueError:
            return ""


class Card(NamedTuple):
    """One number at the top."""

    name: str
    value: str
    more: str = ""


class SlowRow(NamedTuple):
    """A document that took long."""

    key: str
    link: str
    seconds: str
    pages: int
    per_page: str
    worker: int
    log: str
    partial: bool


class DoubtRow(NamedTuple):
    """A document whose worst page cannot be trusted much."""

    key: str
    link: str
    page: int
    worst: str
    mean: str
    pages: int


class ExampleRow(NamedTuple):
    """A failed document."""

    key: str
    message: str
    page: int | None
    retryable: bool
    replay: str
    log: str


class CauseRow(NamedTuple):
    """A cause of failures."""

    category: str
    phase: str
    quarantined: bool
    documents: int
    examples: list[ExampleRow]
    more: int
    """Failed documents of it that are not listed."""
    replay: str
    """The command that converts all of this category again; "" where trying again asks for something else first."""


class WorkerRow(NamedTuple):
    """A worker."""

    view: WorkerView
    log: str


class InterruptionRow(NamedTuple):
    """A life that was interrupted."""

    when: str
    worker: int
    machine: str
    why: str
    notice: bool
    log: str


class LifeSpan(NamedTuple):
    """A row of the time line: a worker and its lives, in seconds since 1970."""

    name: str
    lives: list[tuple[float, float]]
    lost: list[float]
    noticed: list[float]


@dataclass
class Page:
    """All that the template needs."""

    view: RunView
    cards: list[Card]
    shares: list[tuple[str, int, float]]
    """Name, documents and per cent of each fate."""
    criteria: list[Criterion]
    workers: list[WorkerRow]
    workers_more: int
    slowest: list[SlowRow]
    doubtful: list[DoubtRow]
    causes: list[CauseRow]
    causes_more: int
    interruptions: list[InterruptionRow]
    interrupted: InterruptionCost
    costs: list[tuple[str, str]]
    spans: list[LifeSpan]
    spans_more: int
    begin: float
    end: float
    points: list[tuple[float, float]]
    width: float
    """Seconds of a point."""
    versions: dict[str, str] = field(default_factory=dict)
    parameters: list[tuple[str, str]] = field(default_factory=list)


def page_of(facts: Facts, runs_url: str, links: Links) -> Page:
    """The page of what a look found."""
    view, tally, report = run_view(facts), facts.tally, facts.report
    price = _usd_per_second(facts)
    interrupted = interruption_cost(facts.lives.values(), tally.lives, price)
    logs = {
        (one.worker, one.attempt): links.of_log(one.life.flow_run_id if one.life is not None else None)
        for some in facts.lives.values()
        for one in some
    }
    spans = _spans(facts)
    times = [at for row in spans for life in row.lives for at in life]
    times += [at for at, _ in tally.line.points()[:1]]
    points, width = _thinned(tally.line.points(), tally.line.width)
    ordered = worst_first(view.workers)
    causes = tally.causes()
    return Page(
        view=view,
        cards=_cards(view, tally, interrupted),
        shares=_shares(view),
        criteria=report.criteria if report is not None and view.over else [],
        workers=[WorkerRow(w, logs.get((w.worker, w.attempt or 0), "")) for w in ordered[:WORKERS]],
        workers_more=max(0, len(ordered) - WORKERS),
        slowest=[
            SlowRow(
                printable(slow.key),
                links.of_output(slow.name),
                duration(slow.seconds),
                slow.pages,
                f"{slow.seconds / slow.pages:.1f} s" if slow.pages else "",
                slow.worker,
                logs.get((slow.worker, slow.attempt), ""),
                slow.partial,
            )
            for slow in tally.slowest()
        ],
        doubtful=[
            DoubtRow(
                printable(one.key),
                links.of_output(one.name),
                one.page,
                f"{one.worst:.2f}",
                f"{one.mean:.2f}",
                one.pages,
            )
            for one in tally.doubtful()
        ],
        causes=[_cause(cause, count, facts, runs_url, logs) for cause, count in causes[:CAUSES]] + _planned(facts),
        causes_more=max(0, len(causes) - CAUSES),
        interruptions=[
            InterruptionRow(
                duration(one.at - _begin(times, facts)) if one.at is not None else "",
                one.worker,
                one.machine,
                one.why,
                one.notice,
                logs.get((one.worker, one.attempt), ""),
            )
            for one in view.interruptions
        ],
        interrupted=interrupted,
        costs=_costs(view, interrupted),
        spans=spans[:WORKERS],
        spans_more=max(0, len(spans) - WORKERS),
        begin=_begin(times, facts),
        end=max(times, default=facts.at),
        points=points,
        width=width,
        versions=report.versions if report is not None else {},
        parameters=_parameters(facts),
    )


def _thinned(points: Sequence[tuple[float, float]], width: float) -> tuple[list[tuple[float, float]], float]:
    """At most 80 points, each the mean of as many neighbours: what a chart can show."""
    size = -(-len(points) // POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[0][0], sum(rate for _, rate in group) / size) for group in groups], width * size


def _begin(times: Sequence[float], facts: Facts) -> float:
    return min(times, default=facts.at)


def _cards(view: RunView, tally: Tally, interrupted: InterruptionCost) -> list[Card]:
    found = [
        Card("documents", f"{view.done:,}", f"of {view.documents:,}; {view.failed:,} failed"),
        Card("pages", f"{view.pages:,}", f"{tally.resumed_pages:,} from checkpoints" if tally.resumed_pages else ""),
    ]
    if view.pages_per_second is not None:
        found.append(Card("pace", f"{view.pages_per_second:.2f} pages/s"))
    if view.eta is not None and not view.over:
        band = ""
        if view.eta.least is not None:
            most = f"to {duration(view.eta.most)}" if view.eta.most is not None else "or any longer"
            band = f"{duration(view.eta.least)} {most}"
            band = "" if band == f"{duration(view.eta.likely)} to {duration(view.eta.likely)}" else band
        found.append(Card("ETA", duration(view.eta.likely), band))
    if view.money is not None:
        more = [f"of ${view.money.budget:,.2f}"] if view.money.budget is not None else []
        if view.money.projected is not None and not view.over:
            more.append(f"${view.money.projected:,.2f} projected")
        found.append(Card("spent", f"${view.money.spent:,.2f}", ", ".join(more)))
        if view.pages:
            found.append(Card("per 1,000 pages", f"${1000 * view.money.spent / view.pages:,.3f}"))
    if interrupted.interruptions:
        lost = f"{duration(interrupted.seconds)} of paid time"
        found.append(
            Card("interruptions", f"{interrupted.interruptions:,}", lost if interrupted.usd is not None else "")
        )
    return found


def _shares(view: RunView) -> list[tuple[str, int, float]]:
    counts = [
        ("converted", view.converted),
        ("skipped", view.skipped),
        ("failed", view.failed),
        ("remaining", view.remaining),
    ]
    return [(name, count, round(100 * count / max(1, view.documents), 2)) for name, count in counts if count]


def _costs(view: RunView, interrupted: InterruptionCost) -> list[tuple[str, str]]:
    money = view.money
    if money is None:
        return []
    found = [("spent", f"${money.spent:,.2f}")]
    if money.budget is not None:
        found.append(("budget", f"${money.budget:,.2f}"))
    if money.target is not None:
        found.append(("target", f"${money.target:,.2f}"))
    if money.projected is not None and not view.over:
        found.append(("projected", f"${money.projected:,.2f}"))
    if money.rest:
        found.append(("what is left would cost", f"${money.rest:,.2f}"))
    if view.converted:
        found.append(("per converted document", f"${money.spent / view.converted:,.4f}"))
    if view.pages:
        found.append(("per 1,000 pages", f"${1000 * money.spent / view.pages:,.3f}"))
    if interrupted.usd is not None:
        share = f" ({interrupted.usd / money.spent:.1%})" if money.spent > 0 else ""
        found.append(("of that, for interruptions", f"${interrupted.usd:,.2f}{share}"))
        if view.pages and interrupted.usd:
            without = 1000 * max(0.0, money.spent - interrupted.usd) / view.pages
            found.append(("per 1,000 pages without them", f"${without:,.3f}"))
    return found


def _usd_per_second(facts: Facts) -> float | None:
    """Of a machine, over all machines so far; None where nothing is paid for."""
    if facts.spend is None:
        return None
    spend = facts.spend.spend
    seconds = spend.machine_seconds(spend.at)
    return spend.spent(spend.at) / seconds if seconds > 0 else None


def _cause(cause: Cause, count: int, facts: Facts, runs_url: str, logs: dict[tuple[int, int], str]) -> CauseRow:
    spec = facts.spec
    shown = facts.tally.examples(cause)[:EXAMPLES]
    rows = [
        ExampleRow(
            printable(example.key),
            printable(example.message),
            example.page,
            example.retryable,
            printable(replay_command(spec.identity.output, spec.run_id, example.key, runs_url)),
            logs.get((example.worker, example.attempt), ""),
        )
        for example in shown
    ]
    replay = replay_command(spec.identity.output, spec.run_id, "", runs_url).removesuffix(" --document=''")
    return CauseRow(
        cause.category.value,
        cause.phase.value,
        cause.quarantined,
        count,
        rows,
        count - len(rows),
        printable(f"{replay} --category {cause.category.value}"),
    )


def _planned(facts: Facts) -> list[CauseRow]:
    """What had failed before any work."""
    found = sorted(facts.census.failed.items(), key=lambda item: -item[1])
    return [CauseRow(category, "plan", False, count, [], count, "") for category, count in found]


def _spans(facts: Facts) -> list[LifeSpan]:
    """Each worker's lives, those with the most lives first: what was interrupted is what a person looks for."""
    noticed: dict[tuple[int, int], bool] = {}
    for event in interruptions(facts.lives.values()):
        noticed[event.worker, event.attempt] = event.notice
    rows = []
    for k, some in facts.lives.items():
        lives: list[tuple[float, float]] = []
        lost: list[float] = []
        told: list[float] = []
        for one in some[-LIVES:]:
            begin, end = _times(one, facts)
            if begin is None or end is None:
                continue
            lives.append((begin, end))
            if (kind := noticed.get((k, one.attempt))) is not None:
                (told if kind else lost).append(end)
        if lives:
            rows.append((LifeSpan(f"worker {k}", lives, lost, told), len(some), k))
    if len(rows) > WORKERS:
        rows = (
            sorted(sorted(rows, key=lambda row: (-row[1], row[2]))[:WORKERS], key=lambda row: row[2]) + rows[WORKERS:]
        )
    return [row for row, _, _ in rows]


def _times(one: LifeFacts, facts: Facts) -> tuple[float | None, float | None]:
    """Begin and end of a life by its own clock; a life that goes on ends now."""
    told = facts.tally.lives.get((one.worker, one.attempt))
    begin = one.life.at if one.life is not None and one.life.at > 0 else told.first if told is not None else None
    ends = [
        at
        for at in (one.beat.at if one.beat is not None else 0.0, (told.last if told is not None else None) or 0.0)
        if at
    ]
    end = max(ends, default=begin)
    if begin is None or end is None:
        return None, None
    return begin, max(begin, end)


def _parameters(facts: Facts) -> list[tuple[str, str]]:
    identity = facts.spec.identity
    found = [
        ("run", facts.spec.run_id),
        ("created", facts.spec.created),
        ("input", identity.input),
        ("output", identity.output),
        ("engine", identity.engine),
        ("partitions", f"{facts.spec.partitions:,}"),
    ]
    for group in (identity.limits, identity.engine_options):
        found += [(name.replace("_", " "), str(value)) for name, value in sorted(group.items()) if value is not None]
    if facts.spec.retry_of is not None:
        found.append(("converts again what failed in", facts.spec.retry_of))
    return [(printable(name), printable(value)) for name, value in found]
