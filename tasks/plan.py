"""Plan: what is to be converted, frozen as a manifest, before any worker starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice, zip_longest
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.account import reconcile_run
from tasks.corpus import names, paths
from tasks.corpus.audit import Account
from tasks.corpus.failures import Category, Failure, Phase, UsageError
from tasks.corpus.lives import Observer
from tasks.corpus.manifest import Row, write_rows
from tasks.corpus.outputs import existing_outputs
from tasks.corpus.runs import (
    RunSpec,
    claim_output,
    create_run,
    difference,
    latest,
    load_manifest,
    new_run_id,
    read_run,
)
from tasks.corpus.settled import SettledBy
from tasks.corpus.store import ObjectInfo, Store, open_store
from tasks.options import Options
from tasks.previous import DAMAGED, Previous, Versions, earlier_rows, notes_on, previous_runs
from tasks.report import read_report
from tasks.scratch import scratch_folder


class Selection(BaseModel):
    """What a retry converts again: documents of an earlier run."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    documents: dict[str, str]
    """key -> name of its Markdown, as that run had it."""
    replace: frozenset[str] = frozenset()
    """Keys whose (partial) output is moved away first."""


class Planned(BaseModel):
    """A run that is ready for its workers."""

    model_config = ConfigDict(frozen=True)

    spec: RunSpec
    resumed: bool
    waiting: int
    """Documents that may still need work: not done and not failed for good, when the manifest was frozen."""
    notes: list[str] = []
    """What a person should know: outputs of another engine or of an older version of the document."""
    account: Account | None = None
    """Of an unfinished run, as it was when it was found to be one; what its last workers still did is missing."""
    settled: bytes = b""
    """A bit for each document that earlier lives of the run settled (`tasks/corpus/settled.py`), read with `account`."""


Stores = tuple[Store, Store, Store]
"""Input, output and `<runs>`."""


def open_stores(options: Options) -> Stores:
    """Input, output and `<runs>`, each proved usable. Raises UsageError with one clear line."""
    source = open_store(options.input)
    output = open_store(options.output, writable=True)
    _refuse_nested(source, output, "output")
    runs = open_store(options.runs_url, writable=True)
    _refuse_nested(source, runs, "--runs")
    return source, output, runs


def _refuse_nested(source: Store, written: Store, what: str) -> None:
    inside, outside = _location(written), _location(source)
    if inside == outside or inside.startswith(outside.rstrip("/") + "/"):
        raise UsageError(
            f"the {what} {written.url} is inside the input {source.url}: choose a place beside it, "
            "or the next run would list what this one wrote"
        )


def _location(store: Store) -> str:
    if store.url.startswith("s3://"):
        return store.url.rstrip("/")
    return str(Path(store.url).expanduser().resolve())


def list_documents(source: Store, limit: int | None = None) -> Iterator[ObjectInfo]:
    """The PDFs below the input, in order of their keys' bytes."""
    documents = (info for info in source.list() if names.is_pdf(info.key))
    return documents if limit is None else islice(documents, limit)


def refuse_nothing(source: Store) -> None:
    """Raises UsageError for an input without a single PDF."""
    if next(list_documents(source), None) is None:
        raise UsageError(f"no PDFs (*.pdf) in {source.url}: nothing to convert")


def freeze(
    documents: Iterator[ObjectInfo],
    outputs: set[str],
    previous: Previous,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    selection: Selection | None = None,
    earlier: Iterable[Row] = (),
) -> Iterator[Row]:
    """The manifest's rows: names settled, done, stale and hopeless documents marked. Pure but for the listing behind it.

    Args:
        earlier: the rows of an earlier run on the same input, by which stale outputs are known.
    """
    versions = Versions(earlier)
    seen: set[int] = set()
    index = 0
    for info in documents:
        if (why := names.unsupported(info.key)) is not None:
            key = names.printable(info.key)
            failure = Failure(category=Category.NAME, phase=Phase.PLAN, message=why, retryable=False)
            if selection is None:
                yield Row(index, key, names.output_name(key), info.size, info.etag, failure=failure)
                index += 1
            continue
        name = names.output_name(info.key)
        # Hashes of the names rather than the names: 60 bytes a document instead of 200.
        mark, settled, tries = hash(names.collision_key(name)), name, 0
        while mark in seen:
            # A name that was settled may meet one that another document has by nature: another hash, then.
            settled = names.settle(name, info.key + "\0" * tries)
            mark, tries = hash(names.collision_key(settled)), tries + 1
        name = settled
        seen.add(mark)
        if selection is not None:
            if info.key not in selection.documents:
                continue
            name = selection.documents[info.key]
        replaced = overwrite or (selection is not None and info.key in selection.replace)
        carried = None
        if not retry_failed and selection is None and (old := previous.failures.get(info.key)) is not None:
            size, etag, failure = old
            carried = failure if (size, etag) == (info.size, info.etag) else None
        done = name in outputs and not replaced
        stale = versions.changed(info) and done
        yield Row(
            index, info.key, name, info.size, info.etag, done=done, stale=stale, failure=None if done else carried
        )
        index += 1


def plan_run(
    options: Options,
    selection: Selection | None = None,
    note: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
    stores: Stores | None = None,
) -> Planned:
    """Resume the run that is asked for (or was left unfinished), or freeze a new one.

    Raises UsageError for everything that the user can mend: unknown run, other parameters, no PDFs, another live run.
    """
    source, output, runs = stores or open_stores(options)
    output.probe()
    runs.probe()
    observer = Observer(runs, time.monotonic)
    if options.run_id is not None:
        spec = read_run(runs, options.run_id)
        check_same(spec, options)
        claim_output(runs, spec.run_id, observer, sleep)
        return _resumed(spec, runs, output)
    if selection is None and not options.overwrite:
        left = _unfinished(options, runs, source, output, note)
        if left is not None:
            spec, account, settled = left
            claim_output(runs, spec.run_id, observer, sleep)
            note(f"Going on with run {spec.run_id}, which did not finish")
            return _resumed(spec, runs, output).model_copy(update={"account": account, "settled": settled})
    refuse_nothing(source)
    previous = previous_runs(options, runs)
    outputs = existing_outputs(output)
    run_id = new_run_id()
    claim_output(runs, run_id, observer, sleep)
    waiting = done = stale = 0

    def counted(earlier: Iterator[Row]) -> Iterator[Row]:
        nonlocal waiting, done, stale
        documents = list_documents(source, options.limit if selection is None else None)
        for row in freeze(
            documents,
            outputs,
            previous,
            overwrite=options.overwrite,
            retry_failed=options.retry_failed,
            selection=selection,
            earlier=earlier,
        ):
            waiting += not row.done and row.failure is None
            done += row.done
            stale += row.stale
            yield row

    with scratch_folder() as folder:
        data, documents = write_rows(counted(earlier_rows(previous, runs, folder)))
    if documents == 0:
        raise UsageError(f"none of the documents asked for is in {source.url} (any more): nothing to convert")
    unique = run_id.rsplit("-", 1)[-1]
    spec = RunSpec(
        run_id=run_id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        identity=options.identity,
        manifest=paths.manifest(run_id, unique),
        documents=documents,
        partitions=options.workers,
        retry_of=selection.run_id if selection is not None else None,
        overwrite=options.overwrite or bool(selection is not None and selection.replace),
    )
    runs.create(spec.manifest, data)
    if not create_run(runs, spec):
        raise UsageError(f"the run id {run_id} is taken in {runs.url}: start again")
    planned = _resumed(spec, runs, output)
    return planned.model_copy(
        update={"resumed": False, "waiting": waiting, "notes": notes_on(previous, options, done, stale)}
    )


def check_same(spec: RunSpec, options: Options) -> None:
    """Raises UsageError, naming the first difference, where this call can't resume that run."""
    if (what := difference(spec.identity, options.identity)) is not None:
        raise UsageError(
            f"run {spec.run_id} can't be resumed with other parameters: {what}; "
            "give the same ones, or leave --run-id out for a new run"
        )


def _resumed(spec: RunSpec, runs: Store, output: Store) -> Planned:
    if spec.overwrite:
        _move_away(spec, runs, output)
    return Planned(spec=spec, resumed=True, waiting=spec.documents)


def _move_away(spec: RunSpec, runs: Store, output: Store) -> None:
    """Move the outputs that this run replaces; once, before any worker of the run starts."""
    marker = paths.replaced(spec.run_id, ".moved")
    if runs.head(marker) is not None:
        return
    with scratch_folder() as folder:
        manifest = load_manifest(runs, spec, folder)
        present = existing_outputs(output)
        for row in manifest.rows():
            if row.done or row.name not in present:
                continue
            keys = [info.key for info in output.list(names.assets_prefix(row.name))]
            for key in [*keys, row.name]:
                # The Markdown goes last: as long as it is there, a restart moves the rest again.
                runs.create(paths.replaced(spec.run_id, key), output.read(key))
                output.delete(key)
    runs.create(marker, b"")


def _unfinished(
    options: Options, runs: Store, source: Store, output: Store, note: Callable[[str], None]
) -> tuple[RunSpec, Account, bytes] | None:
    """The latest run with what its ledger says, if it did not come to its end and would convert just what this call asks for."""
    run_id = latest(runs)
    if run_id is None:
        return None
    try:
        spec = read_run(runs, run_id)
    except UsageError:
        return None  # started, and killed before it was written down
    report = read_report(runs, run_id)
    if report is not None and report.remaining == 0:
        return None
    if spec.retry_of is not None or difference(spec.identity, options.identity) is not None:
        return None
    try:
        if not _same_documents(spec, runs, list_documents(source, options.limit)):
            return None
        settled = SettledBy(spec.documents, options.retry_failed)
        account = reconcile_run(runs, output, spec, settled).account
    except DAMAGED as error:
        note(f"Run {spec.run_id} did not finish and cannot be gone on with ({error}): this is a new run")
        return None
    if account.lost:
        # Its ledger says converted, so none of its workers would look at them again.
        note(f"Run {spec.run_id} did not finish, and {account.lost:,} of its outputs were removed: this is a new run")
        return None
    return spec, account, settled.found.to_bytes()


def _same_documents(spec: RunSpec, runs: Store, documents: Iterator[ObjectInfo]) -> bool:
    """Whether a run's manifest is what the input lists now."""
    with scratch_folder() as folder:
        for row, info in zip_longest(load_manifest(runs, spec, folder).rows(), documents):
            if row is None or info is None or (row.size, row.etag) != (info.size, info.etag):
                return False
            if row.key != info.key and names.unsupported(info.key) is None:
                return False
    return True
