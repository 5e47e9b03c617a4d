"""What a run shows in the Prefect UI beside logs and task runs: its name, its progress, its failures, its summary.

Without an API there is none of it, and the work is none the worse: here an API that can't be reached is a warning.
"""

from __future__ import annotations

import contextvars
import logging
import shlex
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_UI_URL

from tasks.api import LOST, current_flow_run
from tasks.corpus import paths
from tasks.corpus.audit import Reconciliation
from tasks.corpus.failure_file import replay_command
from tasks.corpus.failures import Failure
from tasks.corpus.names import printable
from tasks.fleet.money import Money
from tasks.markup import code, plain
from tasks.report import Report
from tasks.ticker import Ticker

SHOWN = 1000
"""Rows of a table artifact at most: the UI loads it whole."""
PROGRESS_SECONDS = 10.0
LOGGED_EVERY = 6
"""Every so many times the progress is a log line, too."""
Log = logging.Logger | logging.LoggerAdapter[Any]


class HasFailure(Protocol):
    """A ledger record, or a failed document of an account."""

    @property
    def key(self) -> str: ...
    @property
    def failure(self) -> Failure | None: ...


class HasProgress(Protocol):
    """What all workers say together."""

    @property
    def processed(self) -> dict[int, int]: ...
    @property
    def failed(self) -> int: ...
    @property
    def pages(self) -> int: ...


def name_flow_run(run_id: str, log: Log) -> None:
    """Give the current flow run the run's id as its name, and its tag: people find it by what all commands print."""
    flow_run = current_flow_run()
    if flow_run is None:
        return
    tags = {*flow_run.tags, f"run:{run_id}"}
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=run_id, tags=sorted(tags))
    except LOST as error:
        log.warning("The flow run could not be named %s: %s", run_id, error)


class RunProgress:
    """The parent's progress artifact, and a line in its log now and then. A context manager.

    Works in a thread of its own, since supervision must not wait for an API. Runs that take seconds get none.

    Args:
        documents: that need work, so what 100 % is.
        money: what the run has cost so far, and will.
    """

    def __init__(
        self,
        documents: int,
        log: Log,
        seconds: float = PROGRESS_SECONDS,
        *,
        money: Callable[[], Money | None] = lambda: None,
    ) -> None:
        self._documents = documents
        self._log = log
        self._money = money
        self._latest: HasProgress | None = None
        self._lives: dict[int, int] = {}
        self._before = 0
        self._artifact: UUID | None = None
        self._ticks = 0
        context = contextvars.copy_context()
        self._ticker = Ticker("progress", seconds, lambda: context.run(self._tick))

    def show(self, progress: HasProgress) -> None:
        """The newest numbers. Returns at once."""
        for worker, processed in progress.processed.items():
            former = self._lives.get(worker, 0)
            if processed < former:
                self._before += former  # a new life of the worker counts from 0
            self._lives[worker] = processed
        self._latest = progress

    @property
    def done(self) -> int:
        """Documents that are done with, in all lives of all workers."""
        return min(self._documents, self._before + sum(self._lives.values()))

    def __enter__(self) -> RunProgress:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop(patience=5.0)
        if self._artifact is not None:
            self._publish(logged=False)

    def _tick(self) -> None:
        self._ticks += 1
        self._publish(logged=self._ticks % LOGGED_EVERY == 0)

    def _publish(self, *, logged: bool) -> None:
        latest = self._latest
        if latest is None:
            return
        text = f"{self.done:,} of {self._documents:,} documents, {latest.failed:,} failures, {latest.pages:,} pages"
        if (money := self._money()) is not None:
            text += "; " + "; ".join(money.lines())
        if logged:
            self._log.info("Progress: %s", text)
        percent = 100 * self.done / max(1, self._documents)
        try:
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(percent, key="progress", description=text))
            else:
                update_progress_artifact(self._artifact, percent, description=text)
        except LOST as error:
            logging.getLogger("pdf_flows.artifacts").debug("no progress artifact: %s", error)


def failure_rows(records: Sequence[HasFailure]) -> list[dict[str, Any]]:
    """Rows of a failures table. What a person reads first comes first: the UI cuts off the rest."""
    return [
        {
            "document": plain(printable(record.key)),
            "category": record.failure.category.value,
            "message": plain(record.failure.message),
            "phase": record.failure.phase.value,
            "attempts": record.failure.attempts,
            "retryable": "yes" if record.failure.retryable else "no",
        }
        for record in records[:SHOWN]
        if record.failure is not None
    ]


def publish_table(key: str, rows: list[dict[str, Any]], description: str, log: Log) -> UUID | None:
    """A table artifact on the current flow run. Returns its id, None where there is no API."""
    try:
        return cast(UUID, create_table_artifact(key=key, table=rows, description=description))
    except LOST as error:
        log.warning("The artifact %s could not be stored: %s", key, error)
        return None


def publish_run(report: Report, result: Reconciliation, runs_url: str, log: Log) -> None:
    """The parent's artifacts: a table of the failures if there are any, and the summary."""
    table: UUID | None = None
    failures = result.failures
    if failures:
        rows = failure_rows(failures)
        for row, failed in zip(rows, (f for f in failures if f.failure is not None), strict=False):
            row["replay"] = code(printable(replay_command(report.output, report.run_id, failed.key, runs_url)))
        where = f"{runs_url.rstrip('/')}/{paths.failures_prefix(report.run_id)}"
        first = f" The first {SHOWN:,} of them are here." if len(failures) > SHOWN else ""
        table = publish_table(
            "failures",
            rows,
            f"{len(failures):,} of {report.documents:,} documents failed.{first} Also kept in {code(printable(where))}",
            log,
        )
    try:
        create_markdown_artifact(key="summary", markdown=summary_markdown(report, table), description=_sentence(report))
    except LOST as error:
        log.warning("The artifact summary could not be stored: %s", error)


def summary_markdown(report: Report, failures: UUID | None = None) -> str:
    """The parent's summary.

    Args:
        failures: the artifact that holds the table of failures, to link to.
    """
    accounting = [
        ("converted", report.converted),
        ("of them partial", report.partial),
        ("skipped", report.skipped),
        ("failed", report.failed),
        ("quarantined", report.quarantined),
        ("remaining", report.remaining),
        ("published twice", report.duplicates),
        ("pages", report.pages),
    ]
    lines = [f"# {report.state}", "", plain(f"{report.why[0].upper()}{report.why[1:]}.") if report.why else "", ""]
    lines += [f"{code(printable(report.input))} to {code(printable(report.output))}, engine {report.engine}", ""]
    lines += [f"| documents | {report.documents:,} |", "| --- | ---: |"]
    lines += [f"| {name} | {value:,} |" for name, value in accounting]
    lines += [f"| seconds | {report.seconds:,.1f} |", f"| pages per second | {report.pages_per_second:,.2f} |"]
    if report.categories:
        lines += ["", "| failures | documents |", "| --- | ---: |"]
        lines += [f"| {category} | {count:,} |" for category, count in report.categories.items()]
        command = f"pdf-flows retry {shlex.quote(report.output)} {report.run_id}"
        lines += ["", f"{_link('Each failed document and its cause', failures)}. To convert them again, run the "]
        lines += [f"deployment `retry-failures` with this output and run id, or {code(printable(command))}."]
    if report.money is not None:
        lines += ["", plain("; ".join(report.money.lines())) + "."]
    if report.criteria:
        lines += ["", "| criterion | | |", "| --- | --- | --- |"]
        marks = {True: "met", False: "not met", None: "does not apply"}
        lines += [f"| {one.name} | {marks[one.met]} | {plain(one.text)} |" for one in report.criteria]
    if report.left:
        lines += [
            "",
            "Still running, and it may cost money: " + ", ".join(code(printable(name)) for name in report.left),
        ]
    if report.remaining:
        lines += ["", "To convert what remains, run the same again."]
    lines += ["", f"Report: {code(printable(report.report))}"]
    return "\n".join(lines)


def _sentence(report: Report) -> str:
    return (
        f"{report.converted:,} of {report.documents:,} documents converted, {report.skipped:,} skipped. {report.run_id}"
    )


def _link(text: str, artifact: UUID | None) -> str:
    base = PREFECT_UI_URL.value()
    if artifact is None or not base:
        return text
    return f"[{text}]({str(base).rstrip('/')}/artifacts/artifact/{artifact})"
