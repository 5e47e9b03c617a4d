"""Runs: what a run is (run.json), the order in which runs were started, and whether one is living."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.corpus import paths
from tasks.corpus.failures import NotFound, Unreadable, UsageError
from tasks.corpus.lives import Life, Observer, numbers, this_life
from tasks.corpus.manifest import Manifest
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store


class Identity(BaseModel):
    """What makes two calls the same run: a resumed run has all of it unchanged."""

    model_config = ConfigDict(frozen=True)

    input: str
    output: str
    engine: str
    limits: dict[str, Any]
    rendering: dict[str, Any]
    engine_options: dict[str, Any] = {}
    limit: int | None = None


class RunSpec(BaseModel):
    """run.json: create-if-absent, never changed."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    run_id: str
    created: str
    identity: Identity
    manifest: str
    """Key of the manifest below `<runs>`."""
    documents: int
    partitions: int
    """Frozen: claims are filed under index modulo this, however many workers come later."""
    overwrite: bool = False
    """Outputs that were there are moved under replaced/ before the first worker starts."""
    retry_of: str | None = None
    """The run whose failures this run converts again."""


class Start(BaseModel):
    """One start or resumption of a run; their order is the order of `_starts/`."""

    schema_version: int = SCHEMA
    run_id: str
    at: str
    life: Life


def new_run_id(now: datetime | None = None) -> str:
    """A run id that sorts by time and doesn't collide: `20261123-175606-3f9a`."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def difference(old: Identity, new: Identity) -> str | None:
    """What keeps `new` from resuming `old`, in words; None where nothing does. Pure."""
    for field in Identity.model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
            name = sorted(names)[0]
            return f"{name.replace('_', '-')} was {before.get(name)}, now {after.get(name)}"
        return f"{field} was {before}, now {after}"
    return None


def create_run(runs: Store, spec: RunSpec) -> bool:
    """Make the run. False if the id is taken by another one."""
    if runs.create(paths.run(spec.run_id), spec.model_dump_json(indent=1).encode()):
        return True
    return read_run(runs, spec.run_id) == spec  # ours, if only the answer was lost


def read_run(runs: Store, run_id: str) -> RunSpec:
    """The run. Raises UsageError for an unknown id, and for one that another version of the project made."""
    paths.check_run_id(run_id)
    try:
        data = runs.read(paths.run(run_id))
    except NotFound:
        known = latest(runs)
        hint = f"the latest is {known}" if known else "there are no runs there yet"
        raise UsageError(f"unknown run id {run_id!r} in {runs.url}: {hint}") from None
    try:
        spec = RunSpec.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"run {run_id}: run.json can't be read ({f'{where}: ' if where else ''}{first['msg']})"
        ) from None
    if spec.schema_version != SCHEMA:
        raise UsageError(f"run {run_id} was made by another version (schema {spec.schema_version}); start a new run")
    return spec


def starts(runs: Store) -> list[tuple[int, Start]]:
    """All starts in order."""
    return [(number, _read_start(runs, number)) for number in _numbers(runs)]


def latest(runs: Store) -> str | None:
    """The run that was started or resumed last; starts that never became a run (no PDFs, killed) are passed over."""
    ids = dict.fromkeys(_read_start(runs, number).run_id for number in reversed(_numbers(runs)))
    return next((run_id for run_id in ids if runs.head(paths.run(run_id)) is not None), None)


def load_manifest(runs: Store, spec: RunSpec, folder: Path) -> Manifest:
    """The run's manifest, copied into a local folder."""
    path = folder / "manifest"
    runs.fetch(spec.manifest, path)
    return Manifest(path)


def resolve(runs: Store, run_id: str | None) -> RunSpec:
    """The run named, or the latest. Raises UsageError where there is none."""
    chosen = run_id or latest(runs)
    if chosen is None:
        raise UsageError(f"there are no runs in {runs.url}: convert something first, or name the place with --runs")
    return read_run(runs, chosen)


def claim_output(
    runs: Store, run_id: str, observer: Observer, sleep: Callable[[float], None] = time.sleep, patience: float = 75.0
) -> None:
    """Take the next place in `_starts/`: the right to be the one run on this output.

    Raises UsageError while the run that was started last is living: its parent, or, where it never had one, any of its
    workers. A holder of another host is watched until its heartbeat moves (living) or stood still for the expiry time (over):
    at most about a minute, at once on the same host.
    """
    while True:
        last = next(reversed(_numbers(runs)), None)
        if last is not None:
            _refuse_if_living(runs, _read_start(runs, last), observer, sleep, patience)
        start = Start(run_id=run_id, at=datetime.now(UTC).isoformat(timespec="seconds"), life=this_life())
        number = 0 if last is None else last + 1
        if runs.create(paths.start(number), start.model_dump_json().encode()):
            return
        if _read_start(runs, number) == start:
            return  # ours: only the answer was lost


def refuse_while_living(runs: Store) -> None:
    """Raises UsageError if a process of this host is converting into this output: a first look, before `claim_output`."""
    for number in _numbers(runs)[-1:]:
        start = _read_start(runs, number)
        if start.life.process.here():
            _refuse_if_living(runs, start, Observer(runs, time.monotonic), time.sleep, patience=1.0)


def _refuse_if_living(
    runs: Store, start: Start, observer: Observer, sleep: Callable[[float], None], patience: float
) -> None:
    """Watches what a start left behind. Raises UsageError as soon as one of it is seen to live."""
    waited, first = 0.0, None
    while True:
        living = _maybe_living(runs, start, observer)
        if not living:
            return
        for who in living:
            if who.here or (first is not None and first.get(who.prefix) != who.counter):
                raise UsageError(
                    f"another run ({start.run_id}) is converting into this output since {start.at} ({who.name}): "
                    "wait for it, stop it, or choose another output"
                )
        if waited >= patience:
            return
        first = first or {who.prefix: who.counter for who in living}
        sleep(1.0)
        waited += 1.0


class _Who(NamedTuple):
    """One that may be living: a parent, or a worker that no parent launched."""

    prefix: str
    """Of its life; "" for a parent that is still planning and has no lease."""
    counter: int
    here: bool
    """On this host, where it is seen to live."""
    name: str


def _maybe_living(runs: Store, start: Start, observer: Observer) -> list[_Who]:
    """Who of a start is not over, as far as this observer saw."""
    process = start.life.process
    parent = f"process {process.pid} on {start.life.hostname}"
    epoch = next(reversed(numbers(runs, paths.parents(start.run_id))), None)
    if epoch is not None:
        lease = paths.parent(start.run_id, epoch)
        # The process that wrote the start is the parent: gone, its lease is over, too.
        if process.gone() or observer.over(lease, "lease.json") is not None:
            return []
        return [_Who(lease, _counter(observer, lease), process.here(), parent)]
    # Workers that nobody launched (docs/image.md) have no parent; the one that joined first wrote the start.
    workers = numbers(runs, paths.workers(start.run_id))
    if not workers:
        return [] if process.gone() else [_Who("", -1, process.here(), parent)]
    found = []
    for worker in workers:
        for attempt in numbers(runs, paths.worker(start.run_id, worker))[-1:]:
            prefix = paths.life(start.run_id, worker, attempt)
            if observer.over(prefix) is None:
                life = observer.life(prefix)
                here = life is not None and life.process.here()
                host = life.hostname if life is not None else "an unknown host"
                found.append(_Who(prefix, _counter(observer, prefix), here, f"its worker {worker}, on {host}"))
    return found


def _counter(observer: Observer, prefix: str) -> int:
    beat = observer.heartbeat(prefix)
    return beat.counter if beat is not None else -1


def _numbers(runs: Store) -> list[int]:
    names = (info.key[len(paths.starts()) :].removesuffix(".json") for info in runs.list(paths.starts()))
    return sorted(int(name) for name in names if name.isdigit())


def _read_start(runs: Store, number: int) -> Start:
    key = paths.start(number)
    try:
        return Start.model_validate_json(runs.read(key))
    except ValidationError as error:
        raise Unreadable(
            f"the start record {key} in {runs.url} can't be read ({error.errors()[0]['msg']}): "
            "delete it, if nothing is converting into this output"
        ) from error
