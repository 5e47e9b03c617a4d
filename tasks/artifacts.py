"""What a run shows in the Prefect UI while it runs, beside logs and task runs: its name, its progress, its workers, its spend.

Without an API there is none of it, and the work is none the worse: here an API that can't be reached is a warning.
"""

from __future__ import annotations

import contextvars
import json
import logging
from collections.abc import Callable
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
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.api import LOST, api_is_gone, current_flow_run
from tasks.fleet.money import Money, duration
from tasks.markup import plain
from tasks.ticker import Ticker
from tasks.ui_links import link, log_path
from tasks.view import RunView, WorkerView, worst_first

WORKERS_SHOWN = 200
PROGRESS_SECONDS = 15.0
"""One call of the API so often, whatever there is to show."""
LOGGED_EVERY = 4
"""Every so many times the progress is a log line, too."""
ROUND = ("progress", "workers", "progress", "spend")
"""What is updated in turn: the progress twice a minute, the table of workers and the spend once."""
Log = logging.Logger | logging.LoggerAdapter[Any]


class HasProgress(Protocol):
    """What all workers say together."""

    @property
    def processed(self) -> dict[int, int]: ...
    @property
    def failed(self) -> int: ...
    @property
    def pages(self) -> int: ...


def name_flow_run(run_id: str, log: Log, retried: str | None = None) -> None:
    """Give the current flow run the run's id as its name, and its tag: people find it by what all commands print.

    Args:
        retried: the run whose documents this one converts again; a tag, too.
    """
    flow_run = current_flow_run()
    if flow_run is None:
        return
    # Several retries in one flow run: it keeps the tags of all.
    flow_run.tags = sorted({*flow_run.tags, f"run:{run_id}", *([f"retry-of:{retried}"] if retried is not None else [])})
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=run_id, tags=flow_run.tags)
    except LOST as error:
        log.warning("The flow run could not be named %s: %s", run_id, error)


class RunProgress:
    """The parent's artifacts while it runs, each made once and then updated in place, and a line in its log now and then.

    The progress, a table of the workers, and what was spent. A context manager. Works in a thread of its own, since supervision
    must not wait for an API; calls it once every 15 s at most. Runs that take seconds get no progress.

    Args:
        documents: that need work, so what 100 % is.
        money: what the run has cost so far, and will.
        view: the newest look at the run, None before the first.
    """

    def __init__(
        self,
        documents: int,
        log: Log,
        seconds: float = PROGRESS_SECONDS,
        *,
        money: Callable[[], Money | None] = lambda: None,
        view: Callable[[], RunView | None] = lambda: None,
    ) -> None:
        self._documents = documents
        self._log = log
        self._money, self._view = money, view
        self._latest: HasProgress | None = None
        self._lives: dict[int, int] = {}
        self._before = 0
        self._artifacts: dict[str, UUID] = {}
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

    @property
    def workers_table(self) -> UUID | None:
        """The artifact with the table of the workers, None where there is none."""
        return self._artifacts.get("workers")

    def __enter__(self) -> RunProgress:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop(patience=5.0)
        if "progress" in self._artifacts and not api_is_gone():
            self._publish_progress()

    def conclude(self, view: RunView) -> None:
        """The run's last state in the table of workers and in the spend: two calls, also of a run that took seconds."""
        # Each call to a server that is gone takes its time to fail, and the run's end would wait for it.
        if not api_is_gone():
            self._publish_workers(view)
            self._publish_spend(view)

    def _tick(self) -> None:
        what = ROUND[self._ticks % len(ROUND)]
        self._ticks += 1
        if self._ticks % LOGGED_EVERY == 0:
            self._say()
        view = self._view()
        if what == "progress" or view is None:
            self._publish_progress()
        elif what == "workers":
            self._publish_workers(view)
        else:
            self._publish_spend(view)

    @property
    def _text(self) -> str:
        latest = self._latest
        failed, pages = (latest.failed, latest.pages) if latest is not None else (0, 0)
        text = f"{self.done:,} of {self._documents:,} documents, {failed:,} failures, {pages:,} pages"
        if (money := self._money()) is not None:
            text += "; " + "; ".join(money.lines())
        return text

    def _say(self) -> None:
        if self._latest is not None:
            self._log.info("Progress: %s", self._text)

    def _publish_progress(self) -> None:
        if self._latest is None:
            return
        text, percent = self._text, 100 * self.done / max(1, self._documents)
        known = self._artifacts.get("progress")
        try:
            if known is None:
                made = create_progress_artifact(percent, key="progress", description=text)
                self._artifacts["progress"] = cast(UUID, made)
            else:
                update_progress_artifact(known, percent, description=text)
        except LOST as error:
            _debug("progress", error)

    def _publish_workers(self, view: RunView) -> None:
        rows, text = worker_rows(view), _sum_of_workers(view)
        self._store(
            "workers",
            json.dumps(rows),
            text,
            lambda: create_table_artifact(key="workers", table=rows, description=text),
        )

    def _publish_spend(self, view: RunView) -> None:
        shown = spend_markdown(view)
        text = "What the run has spent, and how it goes on"
        self._store(
            "spend", shown, text, lambda: create_markdown_artifact(key="spend", markdown=shown, description=text)
        )

    def _store(self, key: str, data: str, description: str, make: Callable[[], Any]) -> None:
        """Update an artifact in place; make it where it is not there yet."""
        known = self._artifacts.get(key)
        try:
            if known is None:
                self._artifacts[key] = cast(UUID, make())
            else:
                with get_client(sync_client=True) as client:
                    client.update_artifact(known, ArtifactUpdate(data=data, description=description))
        except LOST as error:
            _debug(key, error)


def _debug(key: str, error: BaseException) -> None:
    logging.getLogger("pdf_flows.artifacts").debug("no artifact %s: %s", key, error)


def worker_rows(view: RunView) -> list[dict[str, Any]]:
    """Rows of the table of workers, those in trouble and the slowest first."""
    return [
        {
            "worker": worker.worker,
            "state": worker.state.value,
            "why": plain(worker.why),
            "log": _log_of(worker),
            "done": worker.done,
            "of": worker.total,
            "failed": worker.failed,
            "pages": worker.pages,
            "pages/s": "" if worker.pages_per_second is None else f"{worker.pages_per_second:.2f}",
            "ETA": duration(worker.eta) if worker.eta is not None and worker.left else "",
            "in hand": plain(worker.in_hand[0]) if worker.in_hand else "",
            "page": "" if worker.page is None else worker.page,
            "lives": worker.lives,
            "machine": plain(worker.machine),
        }
        for worker in worst_first(view.workers)[:WORKERS_SHOWN]
    ]


def _log_of(worker: WorkerView) -> str:
    try:
        return link("log", log_path(UUID(worker.flow_run_id))) if worker.flow_run_id is not None else ""
    except ValueError:  # the life's record is somebody else's writing
        return ""


def _sum_of_workers(view: RunView) -> str:
    states: dict[str, int] = {}
    for worker in view.workers:
        states[worker.state.value] = states.get(worker.state.value, 0) + 1
    said = ", ".join(f"{count:,} {state}" for state, count in states.items())
    first = f" The first {WORKERS_SHOWN:,} are here." if len(view.workers) > WORKERS_SHOWN else ""
    return f"{len(view.workers):,} workers: {said}.{first}" if said else "No workers yet."


def spend_markdown(view: RunView) -> str:
    """What a run has spent, how fast it is, when it will end, what was interrupted."""
    eta = view.eta
    rows = [("documents", f"{view.done:,} of {view.documents:,}"), ("failed", f"{view.failed:,}")]
    if view.pages_per_second is not None:
        rows.append(("pages a second", f"{view.pages_per_second:.2f}"))
    if eta is not None and not view.over:
        band = ""
        if eta.least is not None:
            most = duration(eta.most) if eta.most is not None else "no end in sight"
            band = f" ({duration(eta.least)} to {most})"
        rows.append(("ETA", duration(eta.likely) + band))
    money = view.money
    if money is not None:
        rows.append(("spent", f"${money.spent:,.2f}"))
        if money.budget is not None:
            rows.append(("budget", f"${money.budget:,.2f}"))
        if money.target is not None:
            rows.append(("target", f"${money.target:,.2f}"))
        if money.projected is not None and not view.over:
            rows.append(("projected", f"${money.projected:,.2f}"))
        if view.pages:
            rows.append(("per 1,000 pages", f"${1000 * money.spent / view.pages:,.3f}"))
        rows.append(("machines", f"{money.machines} at work, {money.leaving} being torn down"))
    rows += [("Spot notices", f"{view.notices:,}"), ("lives lost", f"{view.losses:,}")]
    if money is None:
        rows.append(("money", "nothing is paid for, or no price was named"))
    lines = [f"| run {view.run_id} | {plain(view.state)} |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    if view.interruptions:
        lines += ["", "| interrupted | machine | why |", "| --- | --- | --- |"]
        lines += [f"| worker {one.worker} | {plain(one.machine)} | {plain(one.why)} |" for one in view.interruptions]
    return "\n".join(lines)
