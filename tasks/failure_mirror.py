"""`failures/worker-<k>-failures.json` of the output bucket: the original place of a worker's failure report, kept current.

All runs of a bucket share that place: it has the last one's. So each run's stands in a place of its own, too, by its prefix and
id. Neither is ever read here: a worker's role may write them, and no more than that.
"""

from __future__ import annotations

import logging
from types import TracebackType

from tasks.corpus import paths
from tasks.corpus.audit import Reconciliation
from tasks.corpus.failure_file import FailedDocument, FailedDocuments, replay_command
from tasks.corpus.failures import NotFound, StoreError
from tasks.corpus.names import printable
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store
from tasks.ticker import Ticker

SECONDS = 30.0


class FailureMirror:
    """A context manager around a worker's lives. A place that can't be written is said once, and no more than that.

    Args:
        place: the root of the output bucket.
        prefix: the output's in it.
    """

    def __init__(self, runs: Store, spec: RunSpec, worker: int, place: Store, prefix: str, log: logging.Logger) -> None:
        self._runs, self._spec, self._worker, self._place, self._log = runs, spec, worker, place, log
        self._key = paths.failures(spec.run_id, worker)
        self.key = f"failures/worker-{worker}-failures.json"
        """Where it is, below the bucket."""
        self.kept = "/".join(filter(None, [f"failures/worker-{worker}", prefix, f"{spec.run_id}.json"]))
        """Where it stays when another run takes that place."""
        self._etag: str | None = None
        self._said = self._settled = False
        self._ticker = Ticker("failures", SECONDS, self._copy)

    def __enter__(self) -> FailureMirror:
        self._copy()
        if self._etag is None:  # an earlier run's failures are not this one's
            nothing = FailedDocuments(run_id=self._spec.run_id, worker=self._worker)
            self._put(nothing.model_dump_json(indent=1).encode(), self.key)
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop()
        self._copy()

    def settle(self, result: Reconciliation) -> None:
        """What the ledger says of the worker's partition in the end: also what failed before any work, or in others' hands."""
        identity = self._spec.identity
        entries = [
            FailedDocument(
                index=failed.index,
                key=printable(failed.key),
                name=printable(failed.name),
                outcome=failed.outcome,
                failure=failed.failure,
                attempt=failed.attempt or 0,
                replay=replay_command(identity.output, self._spec.run_id, failed.key, self._runs.url),
            )
            for failed in result.failures
        ]
        found = FailedDocuments(run_id=self._spec.run_id, worker=self._worker, failures=entries)
        self._ticker.stop()
        self._put(found.model_dump_json(indent=1).encode(), self.key, self.kept)
        self._settled = True

    def _copy(self) -> None:
        if self._settled:
            return
        try:
            there = self._runs.head(self._key)
            if there is None or there.etag == self._etag:
                return
            data = self._runs.read(self._key)
        except NotFound:
            return
        except StoreError as error:
            self._say(error)
            return
        if self._put(data, self.key, self.kept):
            self._etag = there.etag

    def _put(self, data: bytes, *places: str) -> bool:
        try:
            for key in places:
                self._place.put(key, data)
        except StoreError as error:
            self._say(error)
            return False
        return True

    def _say(self, error: StoreError) -> None:
        if not self._said:
            self._said = True
            self._log.warning("%s can't be kept current: %s", self.key, error)
