"""The parent's lease on a run, and its heartbeat."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from tasks.corpus import paths
from tasks.corpus.failures import Category, StoreError
from tasks.corpus.lives import Heartbeat, take_number, this_life
from tasks.corpus.store import Store
from tasks.ticker import Ticker

REFUSED_SECONDS = 10.0
"""How long the parent's heartbeat may be refused (disk full, read-only) before the run is stopped."""

_log = logging.getLogger("pdf_flows.lease")


class ParentLease:
    """The parent's lease and heartbeat: while it beats, workers know that they have a parent, and no other parent starts."""

    def __init__(self, runs: Store, run_id: str, flow_run_id: str | None, seconds: float) -> None:
        self._runs = runs
        prefix = paths.parents(run_id)
        self.epoch = take_number(runs, prefix, "lease.json", this_life(flow_run_id=flow_run_id))
        self.prefix = paths.parent(run_id, self.epoch)
        self._state = Heartbeat()
        self._refusal: tuple[float, StoreError] | None = None
        self._ticker = Ticker("lease", seconds, self._beat)

    def __enter__(self) -> ParentLease:
        self._beat()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop()
        self._state.ended = "ended" if error is None else f"{type(error).__name__}"
        self._beat()

    def stop(self, reason: str) -> None:
        """Tell every worker to stop claiming."""
        try:
            self._runs.create(f"{self.prefix}stop.json", reason.encode())
        except StoreError as failure:
            _log.warning("%s", failure)

    def refusal(self) -> str | None:
        """Why nothing can be written down any more (a full disk, a read-only output), once that lasted a while."""
        if self._refusal is None or time.monotonic() - self._refusal[0] < REFUSED_SECONDS:
            return None
        return f"{self._refusal[1].category}: {self._refusal[1]}"

    def _beat(self) -> None:
        self._state.counter += 1
        try:
            self._runs.put(f"{self.prefix}heartbeat.json", self._state.model_dump_json().encode())
        except StoreError as failure:
            if failure.category not in (Category.DISK_FULL, Category.FORBIDDEN):
                _log.warning("%s", failure)
            elif self._refusal is None:
                self._refusal = (time.monotonic(), failure)
                _log.warning("%s", failure)
        else:
            self._refusal = None
