"""Whole lives of workers on real stores, and stores that die, fail or lie at a call that the test names."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from tenacity import Retrying, retry_if_exception, stop_after_attempt

import tasks.corpus.runs
import tasks.plan
import tasks.pool
import tasks.worker
from tasks.account import reconcile_run
from tasks.corpus import paths
from tasks.corpus.audit import Account, Reconciliation
from tasks.corpus.failures import Category, PdfFlowsError, StoreError
from tasks.corpus.ledger import Record, read_ledger
from tasks.corpus.lives import Life, Observer, Process, fence, numbers, this_life
from tasks.corpus.runs import RunSpec, load_manifest
from tasks.corpus.store import ObjectInfo, Store, open_store
from tasks.document import DocumentConverter
from tasks.engines.dummy import DummyEngine, DummyOptions
from tasks.engines.protocol import (
    UNKEPT,
    EngineName,
    EngineResult,
    FinishedPage,
    Handover,
    Journal,
    Limits,
    Rendering,
)
from tasks.engines.sandbox import Aborted
from tasks.options import Options
from tasks.plan import Planned, plan_run
from tasks.worker import Summary, Worker, WorkerSettings

LOG = logging.getLogger("tests.lives")


class Death(BaseException):
    """The process ended at this instant: no handler of the project may catch it."""


class Kind(StrEnum):
    """What happens at the call that is hit."""

    DIE_BEFORE = "dies before the call"
    DIE_AFTER = "dies when the call was done"
    FAIL = "the call fails"
    LOST = "the call is done, its response is lost"
    FULL = "the disk is full"
    UNHEARD = "the object is created, and the answer says it existed"


WRITES = ("create", "put", "move", "delete")


@dataclass
class Faults:
    """What goes wrong in one life: calls `at` to `at + width - 1`, counted over all its stores, and what was called.

    `match` narrows the calls that count; `on_call` sees every call before it is made.
    """

    at: int = 10**9
    kind: Kind = Kind.FAIL
    width: int = 1
    match: Callable[[str, str, str], bool] = lambda store, method, key: True
    on_call: Callable[[str, str, str], None] = lambda store, method, key: None
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    counted: int = 0
    dead: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def hit(self) -> bool:
        """Whether there was a call to hit."""
        return self.counted > self.at

    def call(self, store: str, method: str, key: str, run: Callable[[], Any]) -> Any:
        """Make the call, or what becomes of it."""
        if self.dead.is_set():
            raise Death
        self.on_call(store, method, key)
        with self.lock:
            self.calls.append((store, method, key))
            matched = self.match(store, method, key)
            number = self.counted
            self.counted += matched
        if not matched or not self.at <= number < self.at + self.width:
            return run()
        if self.kind is Kind.DIE_BEFORE:
            self.dead.set()
            raise Death
        if self.kind is Kind.FAIL:
            raise StoreError(f"{method} {key}: 500 on purpose")
        if self.kind is Kind.FULL:
            if method in WRITES:
                raise StoreError(f"{method} {key}: no space, on purpose", Category.DISK_FULL)
            return run()
        result = run()
        if self.kind is Kind.DIE_AFTER:
            self.dead.set()
            raise Death
        if self.kind is Kind.LOST:
            raise StoreError(f"{method} {key}: response lost on purpose")
        return False if method == "create" else result


class Publications:
    """Who really created which Markdown: the evidence that no ledger can talk away."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_name: dict[str, list[bytes]] = defaultdict(list)

    def note(self, name: str, data: bytes) -> None:
        """A create that took effect."""
        with self.lock:
            self.by_name[name].append(data)


class FaultyStore:
    """A real store behind faults."""

    def __init__(self, inner: Store, role: str, faults: Faults, publications: Publications) -> None:
        self.inner, self.role, self.faults, self.publications = inner, role, faults, publications

    @property
    def url(self) -> str:
        return self.inner.url

    def display(self, key: str) -> str:
        return self.inner.display(key)

    def list(self, prefix: str = "", *, skip: str | None = None) -> Iterator[ObjectInfo]:
        yield from self._call("list", prefix, lambda: list(self.inner.list(prefix, skip=skip)))

    def read(self, key: str) -> bytes:
        return self._call("read", key, lambda: self.inner.read(key))

    def fetch(self, key: str, to: Path) -> ObjectInfo:
        return self._call("fetch", key, lambda: self.inner.fetch(key, to))

    def head(self, key: str) -> ObjectInfo | None:
        return self._call("head", key, lambda: self.inner.head(key))

    def metadata(self, key: str) -> Mapping[str, str]:
        return self._call("metadata", key, lambda: self.inner.metadata(key))

    def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        return self._call("create", key, lambda: self._create(key, data, metadata))

    def _create(self, key: str, data: bytes, metadata: Mapping[str, str] | None) -> bool:
        created = self.inner.create(key, data, metadata)
        if created and self.role == "output" and key.endswith(".md"):
            self.publications.note(key, data)
        return created

    def put(self, key: str, data: bytes) -> None:
        self._call("put", key, lambda: self.inner.put(key, data))

    def move(self, key: str, to: str) -> None:
        self._call("move", key, lambda: self.inner.move(key, to))

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self.inner.delete(key))

    def probe(self) -> None:
        self._call("probe", "", self.inner.probe)

    def _call(self, method: str, key: str, run: Callable[[], Any]) -> Any:
        return self.faults.call(self.role, method, key, run)


class Overwriting(FaultyStore):
    """The mutant: create is a plain overwrite that always says yes."""

    def _create(self, key: str, data: bytes, metadata: Mapping[str, str] | None) -> bool:
        self.inner.put(key, data)
        if self.role == "output" and key.endswith(".md"):
            self.publications.note(key, data)
        return True


class InProcess:
    """The dummy engine without a child process around it: a sweep lives hundreds of lives, and none is about sandboxes."""

    def __init__(
        self,
        engine: EngineName,
        limits: Limits,
        *,
        threads: int = 1,
        recycle_after: int = 50,
        engine_options: dict[str, Any] | None = None,
        scratch: Path,
    ) -> None:
        self._engine = DummyEngine(DummyOptions.model_validate(engine_options or {}), scratch)
        self._limits = limits

    def start(self) -> None:
        """Nothing to start."""

    def ready(self, timeout: float) -> dict[str, str]:
        return self._engine.versions

    def convert(
        self,
        pdf: Path,
        scratch: Path,
        passwords: list[str],
        progress: Callable[[int, int], None],
        journal: Journal = UNKEPT,
        share: object = None,
    ) -> EngineResult:
        def finish(number: int, payload: str) -> None:
            journal.finish(FinishedPage(number=number, payload=payload))
            if journal.stops():
                raise Aborted

        done = {number: page.payload for number, page in journal.done.items()}

        def begun(page: int, pages: int, ways: int = 0) -> None:
            progress(page, pages)

        return self._engine.convert(pdf, scratch, passwords, self._limits, begun, Handover(done, finish))

    def recycle(self) -> None:
        """Nothing to replace."""

    def kill(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""


def quick(patience: float = 0.0) -> Retrying:
    """`tasks.worker.patient` without its waits."""
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, StoreError) and error.category is Category.STORE),
        stop=stop_after_attempt(4),
        reraise=True,
    )


def dead_process() -> Process:
    """A process of this host that was killed."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        started = int(stat[stat.rindex(")") + 2 :].split()[19])
        child.kill()
        child.wait()
    return Process(host=this_life().process.host, pid=child.pid, started=started)


@dataclass
class Case:
    """One input, one output, and the lives that work on them.

    Args:
        real: sandboxes are real child processes.
    """

    options: Options
    patch: pytest.MonkeyPatch
    real: bool = False
    mutant: bool = False
    publications: Publications = field(default_factory=Publications)
    local: threading.local = field(default_factory=threading.local)
    dead: Process | None = None
    stores: dict[str, Store] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.patch.setattr(tasks.worker, "open_store", self._open)
        self.patch.setattr(tasks.plan, "open_store", self._open)
        self.patch.setattr(tasks.worker, "patient", quick)
        self.patch.setattr(tasks.worker, "this_life", self._this_life)
        self.patch.setattr(tasks.corpus.runs, "this_life", self._this_life)
        self.patch.setattr(DocumentConverter, "_wait", lambda converter, seconds: None)
        if not self.real:
            self.patch.setattr(tasks.pool, "Sandbox", InProcess)

    def _open(self, url: str, *, writable: bool = False) -> Store:
        role = {self.options.input: "source", self.options.output: "output", self.options.runs_url: "runs"}[url]
        kind = Overwriting if self.mutant else FaultyStore
        faults = getattr(self.local, "faults", None) or Faults()
        return kind(self._store(url), role, faults, self.publications)

    def _store(self, url: str) -> Store:
        # A client of boto3 takes half a second to make, and is thread-safe.
        if url not in self.stores:
            self.stores[url] = open_store(url, writable=True)
        return self.stores[url]

    def _this_life(self, epoch: int = 0, flow_run_id: str | None = None, **more: Any) -> Life:
        life = this_life(epoch, flow_run_id, **more)
        process = getattr(self.local, "process", None)
        return life.model_copy(update={"process": process}) if process is not None else life

    @property
    def source(self) -> Store:
        return self._store(self.options.input)

    @property
    def output(self) -> Store:
        return self._store(self.options.output)

    @property
    def runs(self) -> Store:
        return self._store(self.options.runs_url)

    def put(self, documents: Mapping[str, bytes]) -> None:
        """Fill the input."""
        for key, data in documents.items():
            self.source.put(key, data)

    def plan(self, *, faults: Faults | None = None, gone: bool = True, **changes: Any) -> Planned:
        """Plan; `gone`: by a process that is dead when the next one starts."""
        self.local.faults = faults
        self.local.process = self._dead() if gone else None
        try:
            return plan_run(self.options.model_copy(update=changes), sleep=lambda seconds: None)
        finally:
            self.local.faults = self.local.process = None

    def live(
        self,
        spec: RunSpec,
        *,
        faults: Faults | None = None,
        gone: bool = True,
        make: Callable[..., Worker] = Worker,
        **settings: Any,
    ) -> Summary:
        """A worker's whole life; `gone`: its process is dead for every observer that looks at it."""
        self.local.faults = faults
        self.local.process = self._dead() if gone else None
        given: dict[str, Any] = {"worker": 0, "workers": 1, "recycle_after": 100_000, **settings}
        chosen = WorkerSettings(runs=self.options.runs_url, run_id=spec.run_id, **given)
        try:
            return make(chosen, LOG).run()
        finally:
            self.local.faults = self.local.process = None

    def _dead(self) -> Process:
        if self.dead is None:
            self.dead = dead_process()
        return self.dead

    def account(self, spec: RunSpec) -> Account:
        return self.reconcile(spec).account

    def reconcile(self, spec: RunSpec) -> Reconciliation:
        return reconcile_run(self.runs, self.output, spec)

    def records(self, spec: RunSpec) -> list[Record]:
        return list(read_ledger(self.runs, [paths.workers(spec.run_id)]))

    def rows(self, spec: RunSpec, folder: Path) -> list[Any]:
        return list(load_manifest(self.runs, spec, folder).rows())

    def check_published_once(self, spec: RunSpec) -> Account:
        """Every document converted, each published by exactly one create, and the audit says so, too."""
        account = self.account(spec)
        twice = {name: len(data) for name, data in self.publications.by_name.items() if len(data) != 1}
        assert account.duplicates == 0, f"published twice: {account.duplicate_keys}"
        assert not twice, f"created more than once: {twice}"
        assert account.closes, account
        assert (account.converted, account.remaining, account.failed) == (account.documents, 0, 0), account
        written = {info.key: self.output.read(info.key) for info in self.output.list(skip="_runs/")}
        markdown = {key: data for key, data in written.items() if key.endswith(".md")}
        assert markdown == {name: data[0] for name, data in self.publications.by_name.items()}
        assert len(markdown) == account.documents
        return account


def fence_all(case: Case, spec: RunSpec) -> None:
    """What the supervisor does about lives that ended badly."""
    observer = Observer(case.runs, lambda: 0.0)
    for worker in numbers(case.runs, paths.workers(spec.run_id)):
        for attempt in numbers(case.runs, paths.worker(spec.run_id, worker)):
            prefix = paths.life(spec.run_id, worker, attempt)
            if observer.over(prefix) in (None, "process gone"):
                fence(case.runs, prefix, "by the test")


def ends_somehow(life: Callable[[], object]) -> BaseException | None:
    """Run a life that may die, fail or end well; what it raised."""
    try:
        life()
    except (Death, PdfFlowsError) as error:
        return error
    return None


def documents(count: int, script: str = "", **more: str) -> dict[str, bytes]:
    """Dummy documents, no two alike; `more`: key without .pdf -> script."""
    scripts = {f"d{number:03d}": script for number in range(count)} | more
    return {f"{stem}.pdf": f"%PDF-dummy {words}\n{stem}\n".encode() for stem, words in scripts.items()}


def options(input_url: str, output_url: str, **changes: Any) -> Options:
    """Of a run with the dummy engine, each document's Markdown naming its source."""
    given: dict[str, Any] = {
        "engine": EngineName.DUMMY,
        "workers": 1,
        "rendering": Rendering(front_matter=True),
        "limits": Limits(memory_mb=1024),
        **changes,
    }
    return Options(input=input_url, output=output_url, **given)


class Cases:
    """Makes cases in folders (in memory where the system has such a file system: fsync costs nothing there) or buckets."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch, self._count = folder, patch, 0

    def __call__(
        self,
        given: Mapping[str, bytes],
        *,
        bucket: str | None = None,
        real: bool = False,
        mutant: bool = False,
        **more: Any,
    ) -> Case:
        self._count += 1
        base = bucket or str(self._folder)
        case = Case(
            options(f"{base}/{self._count}/in", f"{base}/{self._count}/out", **more),
            self._patch,
            real=real,
            mutant=mutant,
        )
        if bucket is None:
            Path(case.options.input).mkdir(parents=True)
        case.put(given)
        return case


@contextmanager
def cases(patch: pytest.MonkeyPatch) -> Iterator[Cases]:
    """For a fixture: everything is gone afterwards."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="pdf-flows-tests-") as folder:
        Path(folder).chmod(0o755)
        yield Cases(Path(folder), patch)
