"""Convert: one worker's life as a Prefect flow run's work, one task run a document (or a batch of them)."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from tasks.api import current_flow_run, leave_when_api_is_gone
from tasks.cloudwatch import shipping
from tasks.corpus.failures import PdfFlowsError
from tasks.corpus.ledger import Outcome, Record
from tasks.corpus.manifest import Row
from tasks.corpus.names import printable
from tasks.final_artifacts import failure_rows, publish_table
from tasks.fleet.local import when_parent_ends
from tasks.quiet import expect_failed_state
from tasks.waking import waking_main
from tasks.worker import Log, Summary, Worker, WorkerSettings


@task(name="convert-document", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def convert_document(name: str, work: Callable[[], Record], box: list[Record]) -> Any:
    """One document. The record goes into `box`; the task run's state says what became of it."""
    record = work()
    box.append(record)
    if record.failure is not None:
        return Failed(message=f"{record.failure.category}: {record.failure.message}")
    if record.outcome is Outcome.RELEASED:
        return Completed(name="Released", message="given back unfinished: another life converts it")
    return Completed(message=f"{record.outcome} {record.pages or 0} pages")


@task(name="convert-batch", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def record_batch(name: str, records: list[tuple[str, str]]) -> Any:
    """A batch of documents just converted, in runs too large for a task run each; (key, outcome) of every one."""
    failed = [key for key, outcome in records if outcome in (Outcome.FAILED, Outcome.QUARANTINED)]
    return Completed(message=f"{len(records)} documents, {len(failed)} failures")


class TaskRuns(Protocol):
    """Runs a document's work within Prefect's records."""

    def __call__(self, row: Row, work: Callable[[], Record]) -> Record: ...

    def flush(self) -> None:
        """Record what is not recorded yet."""
        ...


class PacedTaskRuns:
    """One task run a document, no faster than Prefect's server records them: faster ones it would drop silently.

    Args:
        per_second: task runs a second of this worker (its share of the server's rate).
    """

    def __init__(self, per_second: float) -> None:
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._gap = 1.0 / per_second
        self._next = 0.0

    def __call__(self, row: Row, work: Callable[[], Record]) -> Record:
        with self._lock:
            now = time.monotonic()
            wait = max(0.0, self._next - now)
            self._next = max(now, self._next) + self._gap
            context = self._context.copy()
        if wait > 0:
            time.sleep(wait)
        box: list[Record] = []
        _ = context.run(convert_document, printable(row.key), work, box)
        return box[0]

    def flush(self) -> None:
        """Nothing is kept back."""


class BatchedTaskRuns:
    """One task run for every `size` documents: a million task runs would take the server hours to record."""

    def __init__(self, size: int) -> None:
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._size = size
        self._records: list[tuple[str, str]] = []
        self._batches = 0

    def __call__(self, row: Row, work: Callable[[], Record]) -> Record:
        record = work()
        with self._lock:
            self._records.append((printable(row.key), record.outcome))
            full = len(self._records) >= self._size
        if full:
            self.flush()
        return record

    def flush(self) -> None:
        """Record what is there."""
        with self._lock:
            records, self._records = self._records, []
            number = self._batches
            self._batches += 1
            context = self._context.copy()
        if records:
            _ = context.run(record_batch, f"batch-{number}", records)


def work_partition(settings: WorkerSettings, log: Log, passwords: list[str], around: TaskRuns) -> Summary:
    """A worker's life within the current flow run; its failures end up in a table artifact."""
    flow_run = current_flow_run()
    failed: list[Record] = []
    worker = Worker(
        settings,
        log,
        passwords=passwords,
        around=around,
        flow_run_id=str(flow_run.id) if flow_run is not None else None,
        on_failure=failed.append,
    )
    if os.environ.get("PDF_FLOWS_PARENT_PIPE"):
        when_parent_ends(worker.drain)
    try:
        with drained_by_sigterm(worker, in_flow_run=flow_run is not None), shipping(settings.worker, settings.run_id):
            return worker.run()
    finally:
        around.flush()
        if failed:
            publish_table(
                f"failures-worker-{settings.worker}",
                failure_rows(failed),
                f"Documents that worker {settings.worker} could not convert ({len(failed)}).",
                log,
            )


@contextmanager
def drained_by_sigterm(worker: Worker, *, in_flow_run: bool) -> Iterator[None]:
    """SIGTERM drains the worker: Prefect's own handler would raise in the midst of it, and the flow run would be Crashed.

    Within a flow run one that comes behind the worker's end is let pass: a host's watcher and ECS both send it, and the
    drained worker's state may not have been told yet. Prefect itself puts back what was there before the flow run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # In a thread: the handler runs in the midst of anything, also where a lock is held that draining takes.
    former = signal.signal(
        signal.SIGTERM, lambda number, frame: threading.Thread(target=worker.drain, args=("terminated",)).start()
    )
    try:
        with waking_main():
            yield
    finally:
        signal.signal(signal.SIGTERM, (lambda number, frame: None) if in_flow_run else former)


def end_state(life: Callable[[], Summary]) -> Any:
    """Live, and say how it ended as the flow run's state: errors that the project knows are messages, not tracebacks."""
    expect_failed_state()
    code = 1
    try:
        summary = life()
        code = 0
    except PdfFlowsError as error:
        return Failed(message=str(error))
    finally:
        if os.environ.get("PDF_FLOWS_PARENT_PIPE"):
            leave_when_api_is_gone(code)
    message = f"{summary.converted}/{summary.assigned} converted, {summary.failed} failures, {summary.pages} pages"
    if summary.stopped is not None:
        return Completed(name="Drained", message=f"{message}; {summary.stopped}")
    return Completed(message=message)
