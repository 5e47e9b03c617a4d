"""Joining: workers that nobody launched find the run that they are of, or make it, however many do so at the same time.

There is no parent and no lock. The run's id is a hash of what decides it, the manifest's key a hash of what is in it, and both
are created if absent: who comes second reads what the first one wrote.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from tasks.corpus import paths
from tasks.corpus.failures import Unreadable, UsageError
from tasks.corpus.lives import Observer, numbers, this_life, this_process
from tasks.corpus.manifest import write_rows
from tasks.corpus.outputs import existing_outputs
from tasks.corpus.paths import SCHEMA
from tasks.corpus.runs import Identity, RunSpec, Start, difference, read_run
from tasks.corpus.store import ObjectInfo, Store
from tasks.options import Options
from tasks.plan import Stores, freeze, list_documents, refuse_nothing
from tasks.previous import earlier_rows, notes_on, previous_runs
from tasks.scratch import scratch_folder

LOOK_SECONDS = 3.0
PATIENCE_SECONDS = 75.0
"""After so long without a sign of life a run of another host is over: its lives expire after 60 s."""
Log = logging.Logger | logging.LoggerAdapter[Any]
Sleep = Callable[[float], None]


class Living(StrEnum):
    """Who is at work on a run."""

    NOBODY = "nobody"
    WORKERS = "workers"
    """Without a parent."""
    PARENT = "parent"


class RunHash:
    """The id of the run that a listing with an identity and a number of workers makes. Feed it the listing in order."""

    def __init__(self, identity: Identity, workers: int) -> None:
        self._hash = hashlib.sha256()
        self._take([SCHEMA, identity.model_dump(mode="json"), workers])

    def through(self, documents: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """The same documents, taken in on their way."""
        for info in documents:
            self._take([info.key, info.size, info.etag])
            yield info

    def _take(self, value: object) -> None:
        # JSON's escapes keep what is no text apart, and lines can't run into each other.
        self._hash.update(json.dumps(value, sort_keys=True).encode() + b"\n")

    @property
    def run_id(self) -> str:
        """Of what was taken in so far."""
        return f"env-{self._hash.hexdigest()[:16]}"


def join_run(
    options: Options,
    stores: Stores,
    log: Log,
    *,
    sleep: Sleep = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RunSpec:
    """The run that these options ask for: the one named, the one that is living, or the one of the input as it is now.

    Raises UsageError where another run is converting into this output, where the run named is another one, and without any PDF.
    """
    source, output, runs = stores
    output.probe()
    runs.probe()
    refuse_nothing(source)
    while True:
        run_id = options.run_id or _hash_of(options, source)
        joined = _enter(options, run_id, runs, log, sleep, clock)
        spec = _read(runs, joined)
        if spec is None:
            spec = _make(options, joined, stores, log)
        if spec is not None:
            _check(spec, options)
            return spec
        log.info("The input changed while it was listed: listing it again")


def _hash_of(options: Options, source: Store) -> str:
    found = RunHash(options.identity, options.workers)
    for _ in found.through(list_documents(source, options.limit)):
        pass
    return found.run_id


def _read(runs: Store, run_id: str) -> RunSpec | None:
    """The run, None where nobody made it yet. Raises UsageError for one that can't be gone on with."""
    return read_run(runs, run_id) if runs.head(paths.run(run_id)) is not None else None


def _check(spec: RunSpec, options: Options) -> None:
    what = difference(spec.identity, options.identity)
    if what is None and spec.partitions != options.workers:
        what = f"TOTAL_WORKERS was {spec.partitions}, now {options.workers}"
    if what is not None:
        raise UsageError(
            f"run {spec.run_id} can't be joined with other parameters: {what}; give the same ones, or leave RUN_ID out"
        )


def _make(options: Options, run_id: str, stores: Stores, log: Log) -> RunSpec | None:
    """Freeze the input under this id, unless another worker is faster. None where the input is not what the id says."""
    source, output, runs = stores
    previous = previous_runs(options, runs)
    found = RunHash(options.identity, options.workers)
    with scratch_folder() as folder:
        rows = freeze(
            found.through(list_documents(source, options.limit)),
            existing_outputs(output),
            previous,
            retry_failed=options.retry_failed,
            earlier=earlier_rows(previous, runs, folder),
        )
        counts = [0, 0]

        def counted() -> Iterator[Any]:
            for row in rows:
                counts[0] += row.done
                counts[1] += row.stale
                yield row

        data, documents = write_rows(counted())
    if options.run_id is None and found.run_id != run_id:
        return None
    spec = RunSpec(
        run_id=run_id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        identity=options.identity,
        # By its content: workers that saw the same write the same object.
        manifest=paths.manifest(run_id, hashlib.sha256(data).hexdigest()[:12]),
        documents=documents,
        partitions=options.workers,
    )
    runs.create(spec.manifest, data)
    if runs.create(paths.run(run_id), spec.model_dump_json(indent=1).encode()):
        for note in notes_on(previous, options, *counts):
            log.warning("%s", note)
    return read_run(runs, run_id)


def _enter(options: Options, run_id: str, runs: Store, log: Log, sleep: Sleep, clock: Callable[[], float]) -> str:
    """The right to work on a run of this output; the id of the one to work on. Raises UsageError while another one is living."""
    while True:
        taken = sorted(int(name) for name in _names(runs) if name.isdigit())
        if taken:
            last = _start(runs, taken[-1])
            mine = last.run_id == run_id
            if mine and not numbers(runs, paths.parents(run_id)):
                return run_id
            # This process's own, where the input changed while it was listed: nobody works on what was never made.
            own = last.life.process == this_process()
            living = Living.NOBODY if own else who_lives(runs, last, sleep, clock)
            if living is Living.WORKERS and _read(runs, last.run_id) is None:
                sleep(LOOK_SECONDS)  # it is being planned: what it is will be seen soon
                continue
            if mine and living is not Living.PARENT:
                return run_id
            if living is Living.WORKERS and options.run_id is None and _same(runs, last.run_id, options):
                log.warning(
                    "The input changed since run %s was planned, and its workers are at work: joining it; "
                    "start the workers once more after it for what is new",
                    last.run_id,
                )
                return last.run_id
            if living is not Living.NOBODY:
                raise UsageError(
                    f"another run ({last.run_id}) is converting into this output since {last.at} "
                    f"(on {last.life.hostname}): wait for it, stop it, or choose another S3_OUTPUT_PREFIX"
                )
        start = Start(run_id=run_id, at=datetime.now(UTC).isoformat(timespec="seconds"), life=this_life())
        # If only the answer was lost, or another worker of this run was faster, the next look finds it there.
        if runs.create(paths.start(taken[-1] + 1 if taken else 0), start.model_dump_json().encode()):
            return run_id


def _start(runs: Store, number: int) -> Start:
    key = paths.start(number)
    try:
        return Start.model_validate_json(runs.read(key))
    except ValidationError as error:
        raise Unreadable(
            f"the start record {key} in {runs.url} can't be read: delete it, if nothing is converting into this output"
        ) from error


def _names(runs: Store) -> Iterator[str]:
    return (info.key[len(paths.starts()) :].removesuffix(".json") for info in runs.list(paths.starts()))


def _same(runs: Store, run_id: str, options: Options) -> bool:
    """Whether a run differs from what is asked for in nothing but the listing that it was made from."""
    spec = _read(runs, run_id)
    return (
        spec is not None
        and difference(spec.identity, options.identity) is None
        and spec.partitions == options.workers
        and spec.retry_of is None
    )


def who_lives(
    runs: Store,
    start: Start,
    sleep: Sleep = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    patience: float = PATIENCE_SECONDS,
) -> Living:
    """Who is at work on a run that was started: at once for processes of this host, else by watching heartbeats."""
    observer = Observer(runs, clock)
    begun, first = clock(), dict[str, int]()
    while True:
        parents = numbers(runs, paths.parents(start.run_id))[-1:]
        leases = {paths.parent(start.run_id, epoch): Living.PARENT for epoch in parents}
        lives = {
            paths.life(start.run_id, worker, attempt): Living.WORKERS
            for worker in numbers(runs, paths.workers(start.run_id))
            for attempt in numbers(runs, paths.worker(start.run_id, worker))[-1:]
        }
        if not leases and not lives and start.life.process.here():
            # It is planning. Whether as a parent, its first object will say.
            return Living.NOBODY if start.life.process.gone() else Living.WORKERS
        names = dict.fromkeys(leases, "lease.json") | dict.fromkeys(lives, "start.json")
        left = {
            prefix: kind for prefix, kind in (leases | lives).items() if observer.over(prefix, names[prefix]) is None
        }
        if names and not left:
            return Living.NOBODY
        moved = set[Living]()
        for prefix, kind in left.items():
            beat = observer.heartbeat(prefix)
            counter = beat.counter if beat is not None else -1
            life = observer.life(prefix, names[prefix])
            if (life is not None and life.process.here()) or first.setdefault(prefix, counter) != counter:
                moved.add(kind)
        if moved:
            return Living.PARENT if Living.PARENT in moved else Living.WORKERS
        if clock() - begun >= patience:
            return Living.NOBODY
        sleep(LOOK_SECONDS)
