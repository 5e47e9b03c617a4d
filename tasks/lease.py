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
        self._heir = paths.parent(run_id, self.epoch + 1)
        self.superseded = False
        """Another parent took the run over: this one must leave the workers to it."""
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

    def tell(self, *, wanted: int | None = None, spend: int | None = None) -> None:
        """What the next heartbeats say to the workers: numbers from `wanted` on drain; with a budget, claims go on while
        `spend` counts up."""
        self._state.wanted = self._state.wanted if wanted is None else wanted
        self._state.spend = self._state.spend if spend is None else spend

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
        # After a while without heartbeats another parent may have thought this one dead, and be right to have gone on.
        self.look_for_heir()
        if self.superseded:
            return
        self._state.counter += 1
        self._state.at = round(time.time(), 3)
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

    def look_for_heir(self) -> None:
        """See whether another parent took the run over."""
        if self.superseded:
            return
        try:
            self.superseded = self._runs.head(f"{self._heir}lease.json") is not None
        except StoreError as failure:
            _log.warning("%s", failure)
