"""A worker's share of a run that no parent supervises: what it came to, who holds what is left, and the report of it all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from tasks.account import conclude
from tasks.corpus import paths
from tasks.corpus.audit import Reconciliation, reconcile
from tasks.corpus.checkpoints import sweep
from tasks.corpus.claims import Claims, Holder
from tasks.corpus.failures import NotFound, UsageError
from tasks.corpus.ledger import Record, read_ledger
from tasks.corpus.lives import Observer, Stage, fence, numbers, this_process
from tasks.corpus.manifest import Row
from tasks.corpus.outputs import existing_outputs
from tasks.corpus.partition import Bitmap, partition_of
from tasks.corpus.runs import RunSpec, load_manifest
from tasks.corpus.store import Store, content_sha256
from tasks.report import Report, write_report
from tasks.scratch import scratch_folder
from tasks.words import COMPLETE

LOOK_SECONDS = 2.0
DRAIN_SECONDS = 150.0
"""How long a former life of the same worker may take to drain: the two minutes of a notice, and some."""


class Share(BaseModel):
    """What became of some partitions' documents."""

    model_config = ConfigDict(frozen=True)

    result: Reconciliation
    left: list[int] = []
    """Documents without an outcome, by their index; only where some remain."""

    @property
    def line(self) -> str:
        """The accounting, in words."""
        a = self.result.account
        return (
            f"{a.documents} documents = {a.converted} converted + {a.skipped} skipped + {a.failed} failed"
            f" + {a.quarantined} quarantined + {a.remaining} remaining"
        )

    @property
    def exit_code(self) -> int:
        """As of a whole run: 3 where documents remain, 1 where some failed (or the accounting does not close), else 0."""
        account = self.result.account
        if account.remaining:
            return 3
        return 1 if account.failed or account.quarantined or not account.closes else 0


def share_of(runs: Store, output: Store, spec: RunSpec, partitions: Collection[int]) -> Share:
    """The accounting of some of a run's partitions, whoever converted their documents. Raises StoreError."""
    closed = Bitmap(spec.documents)

    def content(name: str) -> str | None:
        try:
            return content_sha256(output, name)
        except NotFound:
            return None

    def mine(index: int) -> bool:
        return index < spec.documents and partition_of(index, spec.partitions) in partitions

    def records() -> Iterator[Record]:
        for record in read_ledger(runs, [paths.workers(spec.run_id)]):
            if mine(record.index):
                if record.outcome.final:
                    closed.add(record.index)
                yield record

    def rows() -> Iterator[Row]:
        return (row for row in manifest.rows() if mine(row.index))

    with scratch_folder() as folder:
        manifest = load_manifest(runs, spec, folder)
        result = reconcile(rows(), records(), existing_outputs(output), content)
        left = []
        if result.account.remaining:
            left = [row.index for row in rows() if not (row.done or row.failure or row.index in closed)]
    return Share(result=result, left=left)


class Predecessors:
    """Lives that hold what this worker wants: waited for, and fenced where they say nothing more.

    A parent would do that at once, for it knows whom it launched. Here a life that ended without a word is known by its heartbeat
    alone: 60 s without one, or at once where its process was of this host.
    """

    def __init__(
        self,
        runs: Store,
        spec: RunSpec,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs, self._spec = runs, spec
        self._sleep, self._clock = sleep, clock
        self._observer = Observer(runs, clock)

    def of_worker(self, worker: int) -> int:
        """Wait until all former lives of a worker are over; the next one's number. Raises UsageError where one works on."""
        attempts = numbers(self._runs, paths.worker(self._spec.run_id, worker))
        for attempt in attempts:
            if not self._over(prefix := paths.life(self._spec.run_id, worker, attempt), DRAIN_SECONDS, impatient=True):
                life = self._observer.life(prefix)
                raise UsageError(
                    f"worker {worker} of run {self._spec.run_id} is at work already"
                    f"{f' on {life.hostname}' if life is not None else ''}: each WORKER_ID runs once at a time"
                )
        return attempts[-1] + 1 if attempts else 0

    def of_documents(self, left: Collection[int]) -> set[Holder]:
        """Wait for whoever holds these documents; those that go on working with them."""
        me = Holder(worker=-1, attempt=-1)
        claims = Claims(self._runs, self._spec.run_id, me)
        wanted = set(left)
        holders = set[Holder]()
        for partition in {partition_of(index, self._spec.partitions) for index in wanted}:
            for claimed in claims.listed(partition):
                if claimed.index in wanted and not claimed.released:
                    holder = claims.holder(partition, claimed.index, claimed.n)
                    holders.add(holder.model_copy(update={"alone": False}))
        return {
            holder
            for holder in holders
            if not self._over(paths.life(self._spec.run_id, holder.worker, holder.attempt), DRAIN_SECONDS)
        }

    def _over(self, prefix: str, patience: float, *, impatient: bool = False) -> bool:
        """Whether a life is over, after having waited for its end; then it is fenced, if it did not end in order.

        Args:
            impatient: not longer than it takes to see that it works, and does not drain.
        """
        begun, first = self._clock(), None
        while (verdict := self._observer.over(prefix)) is None:
            beat = self._observer.heartbeat(prefix)
            draining = beat is not None and beat.stage is Stage.DRAINING
            counter = beat.counter if beat is not None else -1
            first = counter if first is None else first
            life = self._observer.life(prefix)
            works = counter != first or (life is not None and life.process.here())
            if (works and impatient and not draining) or self._clock() - begun >= patience:
                return False
            self._sleep(LOOK_SECONDS)
        if not verdict.startswith(("fenced", "ended")):
            fence(self._runs, prefix, f"{verdict}, seen by its successor", blame=self._to_blame(prefix))
        return True

    def _to_blame(self, prefix: str) -> bool:
        """Whether its documents may have ended it: it was at work, and its machine is still there."""
        life, beat = self._observer.life(prefix), self._observer.heartbeat(prefix)
        # Another container of this machine has its boot id, and other pids.
        here = this_process().host.partition("/")[0]
        return (
            life is not None
            and life.process.host.partition("/")[0] == here
            and beat is not None
            and beat.stage is Stage.WORKING
            and bool(beat.in_hand)
        )


def report_if_last(
    runs: Store, output: Store, spec: RunSpec, max_failure_rate: float, log: logging.Logger
) -> Report | None:
    """Write the run's report if all its workers came to their end and nothing remains: the last one does. Raises StoreError."""
    observer = Observer(runs, time.monotonic)
    for worker in range(spec.partitions):
        attempts = numbers(runs, paths.worker(spec.run_id, worker))
        beat = observer.heartbeat(paths.life(spec.run_id, worker, attempts[-1])) if attempts else None
        if beat is None or beat.ended != COMPLETE:
            return None
    # Of the whole run, by the clocks of whoever planned and whoever ends it: a figure for people.
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(spec.created)).total_seconds())
    report, _ = conclude(
        runs,
        output,
        spec,
        stopped=None,
        seconds=seconds,
        pages_before=0,
        max_failure_rate=max_failure_rate,
        written=False,
    )
    if report.remaining:
        return None
    write_report(runs, report)
    sweep(runs, spec.run_id)
    log.info("%s: the whole run's report is %s", report.state, report.report)
    return report
