"""What people are told of a run while they look elsewhere: which messages are due, and what they say. Pure.

Each message has a name, under which the run keeps that it was sent: nobody is told the same twice.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection

from pydantic import BaseModel, ConfigDict

from tasks.fleet.money import Money, duration
from tasks.report import Report, RunState, cause, rates, state_name

CAPACITY_SECONDS = 1800.0
"""Nobody has had a machine for so long: somebody should know."""
EARLY = 100
"""Settled documents from which on their failure rate is news; that of fewer may be chance."""
LEVELS = (50, 90)
"""Per cent of the budget. 100: as much as may be spent, so that claiming stops."""
SUBJECT = 100
"""Characters of a subject at most, as SNS has it."""
WHY = 400


class Message(BaseModel):
    """One message."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Of its record in the run: letters, digits, dashes and points."""
    subject: str
    text: str


class About(BaseModel):
    """What all messages of a run name."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    input: str
    output: str
    engine: str
    page: str
    """Where report.html is."""
    elsewhere: str | None = None
    """Where the runs are, if not in the output."""
    link: str = ""
    """The flow run's page in the Prefect UI; "" where that is not known."""

    def command(self, name: str) -> str:
        """A command line about this run."""
        words = ["pdf-flows", name, self.output, self.run_id]
        if self.elsewhere is not None:
            words += ["--runs", self.elsewhere]
        return shlex.join(words)


class Standing(BaseModel):
    """Where a run stands that goes on."""

    model_config = ConfigDict(frozen=True)

    documents: int
    settled: int = 0
    """Documents with an end."""
    failed: int = 0
    """Of them."""
    max_failure_rate: float = 1.0
    money: Money | None = None
    stopping: str | None = None
    """Why the run claims no more."""
    without: float = 0.0
    """Seconds that nobody has had a machine, though documents wait."""


def due(about: About, standing: Standing, sent: Collection[str]) -> list[Message]:
    """The messages that are due now.

    Args:
        sent: names of those that were sent.
    """
    found = [_failure_rate(about, standing), _budget(about, standing, sent), _capacity(about, standing)]
    return [message for message in found if message is not None and message.name not in sent]


def _failure_rate(about: About, standing: Standing) -> Message | None:
    failed, settled, limit = standing.failed, standing.settled, standing.max_failure_rate
    certain = failed > limit * standing.documents
    if not certain and (settled < EARLY or failed <= limit * settled):
        return None
    rate, allowed = rates(failed / max(1, settled), limit)
    return _message(
        about,
        "failure-rate",
        f"failure rate {rate}, the limit is {allowed}",
        [
            f"{failed:,} of the {settled:,} documents that have an end so far failed; {standing.documents:,} in all.",
            "The run goes on, and will be Failed." if certain else "The run goes on.",
        ],
        f"see why: {about.command('failures')}",
    )


def _budget(about: About, standing: Standing, sent: Collection[str]) -> Message | None:
    """The highest level that was reached; those below it are no news any more."""
    money = standing.money
    if money is None or money.budget is None:
        return None
    budget = f"{money.budget:.2f}"
    levels = [level for level in LEVELS if money.spent >= level / 100 * money.budget]
    if standing.stopping is not None and standing.stopping.startswith("budget"):
        levels.append(100)
    if not levels or any(f"budget-{level}-of-{budget}" in sent for level in (*LEVELS, 100) if level >= levels[-1]):
        return None
    name = f"budget-{levels[-1]}-of-{budget}"
    if levels[-1] == 100:
        said = [f"{standing.stopping}.", "No more documents are begun; what is in hand ends."]
        return _message(
            about, name, f"budget of ${budget}: all that may be spent is committed", said, "a larger --budget goes on"
        )
    return _message(
        about,
        name,
        f"{levels[-1]} % of the budget of ${budget} are spent",
        ["; ".join(money.lines()) + ".", f"{standing.settled:,} of {standing.documents:,} documents have an end."],
        f"see how it goes on: {about.command('monitor')}",
    )


def _capacity(about: About, standing: Standing) -> Message | None:
    if standing.without < CAPACITY_SECONDS or standing.stopping is not None:
        return None
    left = standing.documents - standing.settled
    return _message(
        about,
        "no-capacity",
        f"no machine for {duration(standing.without)}",
        [f"{left:,} documents wait, and no worker has a machine. The run goes on asking for one."],
        "wait, allow more machine types, zones or on-demand machines, or stop the run: what is done stays done",
    )


def ended(about: About, report: Report) -> Message:
    """The message of a start's end. A start that ends just as the one before it has the same name: it is no news."""
    failed = report.failed + report.quarantined
    what = state_name(report.state, report.why)
    settled = report.documents - report.remaining
    lines = [
        f"{report.documents:,} documents: {report.converted:,} converted, {report.skipped:,} skipped, {failed:,} failed, "
        f"{report.remaining:,} remaining; {report.pages:,} pages.",
        f"The last start took {duration(report.seconds)}.",
    ]
    if report.categories:
        lines.append("Failures: " + ", ".join(f"{count:,} {name}" for name, count in report.categories.items()) + ".")
    if report.money is not None:
        lines.append(f"Money: {'; '.join(report.money.lines())}.")
    if report.left:
        lines.append(f"STILL RUNNING, and it may cost money: {', '.join(report.left)}.")
    if report.why is not None:
        why = _without_names(report.why)
        lines.insert(0, f"{why[0].upper()}{why[1:]}."[:WHY])
    name = f"end-{report.state.name.lower().replace('_', '-')}-{settled}-{failed}"
    return _message(about, name, what, lines, _next(about, report))


def _without_names(why: str) -> str:
    """Why a run stopped, without what a store or a library said: that may name documents, and mails go anywhere. Pure."""
    word = cause(why)
    if word not in ("breaker", "workers died", "disk full", "forbidden", "store"):
        return why
    return ":".join(why.split(":")[: 2 if word == "breaker" else 1]) + "; the report says more"


def _next(about: About, report: Report) -> str:
    if report.duplicates or report.lost:
        return f"look into it: {about.command('audit')}"
    if report.state is RunState.STOPPED or report.remaining:
        return "run the same again: it goes on where it was"
    if report.failed or report.quarantined:
        return f"see why: {about.command('failures')}; convert them again: {about.command('retry')}"
    return "nothing"


def _message(about: About, name: str, what: str, lines: list[str], next_: str) -> Message:
    text = [f"Run {about.run_id}: {what}", f"{about.input} to {about.output}, engine {about.engine}", "", *lines]
    text += ["", f"What to do: {next_}", f"Report: {about.page}"]
    if about.link:
        text.append(f"Prefect: {about.link}")
    return Message(name=name, subject=f"pdf-flows {about.run_id}: {what}"[:SUBJECT], text="\n".join(text))
