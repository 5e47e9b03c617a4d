"""What earlier runs on an output tell a new one: failures to carry over, outputs of another engine or an older version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from tasks.corpus import paths
from tasks.corpus.audit import reconcile
from tasks.corpus.failures import Category, Failure, NotFound, Unreadable, UsageError
from tasks.corpus.ledger import read_ledger
from tasks.corpus.manifest import Row
from tasks.corpus.runs import RunSpec, load_manifest, read_run, starts
from tasks.corpus.store import ObjectInfo, Store
from tasks.options import Options
from tasks.report import read_report
from tasks.scratch import scratch_folder

DAMAGED = (Unreadable, NotFound)
"""What reading the manifest of an earlier run raises where that was cut short, overwritten or deleted."""


class Previous(BaseModel):
    """What earlier runs on this output tell."""

    failures: dict[str, tuple[int, str, Failure]] = {}
    """key -> size, etag, permanent failure: carried over while content, engine and limits are the same."""
    engine: str | None = None
    run_id: str | None = None
    whole: RunSpec | None = None
    """The newest run over all of the same input."""


class Versions:
    """Walks an earlier manifest along with a listing, both in order of the keys' bytes."""

    def __init__(self, earlier: Iterable[Row]) -> None:
        # A name that can't be supported stands in a manifest under another spelling, out of order.
        self._rows = (row for row in earlier if row.failure is None or row.failure.category is not Category.NAME)
        self._next = next(self._rows, None)

    def changed(self, info: ObjectInfo) -> bool:
        """Whether an output of this document would be of another version. Keys must come in rising order."""
        key = info.key.encode()
        while self._next is not None and self._next.key.encode() < key:
            self._next = next(self._rows, None)
        row = self._next
        if row is None or row.key != info.key:
            return False
        return row.stale if (row.size, row.etag) == (info.size, info.etag) else True


def previous_runs(options: Options, runs: Store) -> Previous:
    """Permanent failures of the newest runs with the same input, engine and limits, back to the last whole one.

    The newest run that had a document decides: a retry that converted it, or that failed for a passing cause, lifts what an
    older run said.
    """
    same: list[RunSpec] = []
    engine: str | None = None
    newest: str | None = None
    whole: RunSpec | None = None
    for run_id in dict.fromkeys(start.run_id for _, start in reversed(starts(runs))):
        try:
            spec = read_run(runs, run_id)
        except UsageError:
            continue
        newest, engine = newest or run_id, engine or spec.identity.engine
        if spec.identity.input == options.identity.input and spec.retry_of is None and spec.identity.limit is None:
            whole = whole or spec
        if (spec.identity.input, spec.identity.engine, spec.identity.engine_options, spec.identity.limits) != (
            options.identity.input,
            options.identity.engine,
            options.identity.engine_options,
            options.identity.limits,
        ):
            continue
        same.append(spec)
        if spec.retry_of is None and spec.identity.limit is None:
            break
    found: dict[str, tuple[int, str, Failure]] = {}
    for spec in reversed(same):
        # What a damaged manifest would have told is lost; a failure is found again at the cost of another try.
        with suppress(*DAMAGED):
            _update_failures(found, runs, spec)
    return Previous(failures=found, engine=engine, run_id=newest, whole=whole)


def earlier_rows(previous: Previous, runs: Store, folder: Path) -> Iterator[Row]:
    """The manifest of the newest run over all of the input, as far as it can be read; it is copied into `folder`."""
    if previous.whole is not None:
        with suppress(*DAMAGED):
            yield from load_manifest(runs, previous.whole, folder).rows()


def _update_failures(found: dict[str, tuple[int, str, Failure]], runs: Store, spec: RunSpec) -> None:
    """Bring permanent failures up to date with a run that came later."""
    report = read_report(runs, spec.run_id)
    if not found and report is not None and report.failed + report.quarantined == 0:
        return
    with scratch_folder() as folder:
        manifest = load_manifest(runs, spec, folder)
        records = read_ledger(runs, [paths.workers(spec.run_id)])
        failed = {f.index: f.failure for f in reconcile(manifest.rows(), records, None).failures}
        for row in manifest.rows():
            failure = failed.get(row.index)
            if failure is not None and not failure.retryable:
                found[row.key] = (row.size, row.etag, failure)
            else:
                found.pop(row.key, None)


def notes_on(previous: Previous, options: Options, done: int, stale: int) -> list[str]:
    """What a person should know of outputs that are there already."""
    notes = []
    if done and previous.engine not in (None, options.engine.value):
        notes.append(
            f"{done:,} outputs are there already, the last run was by engine {previous.engine} ({previous.run_id}): "
            "they are skipped; --overwrite converts them again"
        )
    if stale:
        notes.append(
            f"{stale:,} outputs were made from older versions of their documents: they are skipped; "
            "--overwrite converts everything again"
        )
    return notes
