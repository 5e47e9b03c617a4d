"""`report.html` beside the run, and what is settled for its workers: written anew every minute while the run lives.

The page is written once more at the run's end.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from urllib.parse import quote

from jinja2 import TemplateError

from tasks.corpus import paths
from tasks.corpus.failures import StoreError
from tasks.corpus.names import RUNS
from tasks.corpus.runs import RunSpec
from tasks.corpus.settled import SettledBoard
from tasks.corpus.store import Store
from tasks.html import render
from tasks.lookout import Lookout
from tasks.page import Links, page_of
from tasks.report import Report
from tasks.ticker import Ticker
from tasks.view import Facts, RunView, run_view

PAGE_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
"""What the run's last page waits for one that is being written."""
LEAVING_SECONDS = 2.0
"""The same where there is to be no last page: the run ends by an error."""
_log = logging.getLogger("pdf_flows.live_page")


class LivePage:
    """One parent's page. A context manager: it is written every minute within. What fails is a log line and no more.

    Args:
        ui: address of the Prefect UI, "" where there is none.
        board: told every record of the ledgers, and published with every page but the last.
    """

    def __init__(
        self, runs: Store, spec: RunSpec, board: SettledBoard, ui: str = "", seconds: float = PAGE_SECONDS
    ) -> None:
        self._runs, self._spec, self._ui, self._board = runs, spec, ui, board
        self._lookout = Lookout(runs, spec, also=board.take)
        self._busy = threading.Lock()
        self._view: RunView | None = None
        self._said: set[str] = set()
        self._ticker = Ticker("page", seconds, self._tick)

    def __enter__(self) -> LivePage:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop(LEAVING_SECONDS)
        self._lookout.close()

    def view(self) -> RunView | None:
        """The newest look, None before the first. Any thread."""
        return self._view

    def conclude(self, report: Report) -> RunView | None:
        """The page of a run that is over; its last look."""
        self._ticker.stop(PATIENCE_SECONDS)
        self._step(report)
        return self._view

    def _tick(self) -> None:
        self._step(None)

    def _step(self, report: Report | None) -> None:
        if not self._busy.acquire(timeout=PATIENCE_SECONDS):
            return
        try:
            facts = self._lookout.facts() if report is None else self._ended(report)
            if report is None:
                self._tell()
            self._view = run_view(facts)
            publish_page(self._runs, facts, self._ui)
        except (StoreError, OSError, ValueError, ArithmeticError, TemplateError) as error:
            # A number that no chart can be drawn of is no reason for a run to end otherwise.
            self._warn("report.html could not be written", error)
        finally:
            self._busy.release()

    def _tell(self) -> None:
        try:
            self._board.publish()
        except StoreError as error:
            self._warn("what is settled could not be written for the workers, who look for themselves", error)

    def _warn(self, what: str, error: Exception) -> None:
        if str(error) not in self._said:
            self._said.add(str(error))
            _log.warning("%s: %s", what, error)

    def _ended(self, report: Report) -> Facts:
        facts = self._lookout.catch_up()
        facts.report = report
        if facts.parent is not None and facts.parent.facts.beat is not None:
            # It is this process, which is about to say so.
            beat = facts.parent.facts.beat
            facts.parent.facts.beat = beat.model_copy(update={"ended": beat.ended or "ended"})
        return facts


def publish_page(runs: Store, facts: Facts, ui: str) -> None:
    """Write the run's page where it belongs. Raises StoreError."""
    links = Links(output_base(facts.spec, runs.url), ui)
    data = render(page_of(facts, runs.url, links)).encode(errors="replace")
    runs.put(paths.report_page(facts.spec.run_id), data)


def output_base(spec: RunSpec, runs_url: str, *, beside: bool = True) -> str:
    """Begin of the addresses of a run's outputs, as its page names them.

    Args:
        beside: the page lies in the run's folder; else somewhere else.
    """
    output = spec.identity.output.rstrip("/")
    if output.startswith("s3://"):
        bucket, _, prefix = output.removeprefix("s3://").partition("/")
        key = quote(f"{prefix}/" if prefix else "", safe="")
        return f"https://console.aws.amazon.com/s3/object/{quote(bucket)}?prefix={key}"
    if beside and runs_url.rstrip("/") == f"{output}/{RUNS}":
        return "../../"
    return f"file://{quote(output, errors='surrogateescape')}/"
