"""A run in one thread: the shipped worker, parent, claims, ledger and publishing as processes that take turns at every request.

A process is a greenlet that stops before each request to a store and while its engine works; whoever drives the world says who
goes on, what becomes of the request (it fails, its answer is lost), and who dies, freezes or is told to leave in between. Time is
the world's: clocks, sleeps and heartbeats' intervals are virtual. Nothing of the protocol is written anew here: a life is
`Worker.run` with its documents one after the other instead of in threads, a parent is `claim_output`, `ParentLease`,
`end_former_lives` and `Supervision.run`. Not modelled: threads of one process against each other (`tests/unit/test_race.py` has
real ones), requests that overlap, checkpoints, sandbox children.

What must always be is checked where it happens and collected in `World.violations`.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, cast

import pytest
from greenlet import getcurrent, greenlet
from memory_store import MemoryStore
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

import tasks.account
import tasks.candidates
import tasks.corpus.ledger
import tasks.corpus.runs
import tasks.document
import tasks.lease
import tasks.lookout
import tasks.pulse
import tasks.supervise
import tasks.worker
from tasks.account import left_to_do, reconcile_run
from tasks.candidates import Candidates
from tasks.corpus import paths
from tasks.corpus.audit import Account, Reconciliation
from tasks.corpus.claims import Claim, Holder, Suspicion
from tasks.corpus.failures import Category, PdfFlowsError, StoreError, UsageError
from tasks.corpus.ledger import LedgerWriter
from tasks.corpus.lives import Heartbeat, Life, Observer, Process
from tasks.corpus.manifest import Row, write_rows
from tasks.corpus.partition import Bitmap
from tasks.corpus.runs import Identity, RunSpec, claim_output
from tasks.corpus.settled import SettledBoard, SettledBy
from tasks.corpus.store import ObjectInfo
from tasks.document import DocumentConverter
from tasks.engines.protocol import UNKEPT, EngineResult, Limits, Page, Rendering
from tasks.fleet.launcher import End, Handle, NotLaunched
from tasks.fleet.losses import Loss
from tasks.fleet.machine import Machine
from tasks.fleet.supervisor import Patience
from tasks.governing import Governor
from tasks.lease import ParentLease
from tasks.lookout import Lookout
from tasks.pulse import PARENT_PATIENCE_SECONDS
from tasks.supervise import Supervision, end_former_lives
from tasks.worker import Worker, WorkerSettings

RUN = "r"
BEAT = 15.0
LEASE_BEAT = 5.0
PAGE_EVERY = 20.0
DOUBT = 45.0
"""Written out: what DESIGN section 3 says, whatever the code does."""
BLAMED = 3
"""Deaths with a document in hand before it may be quarantined: two, and one alone."""
WORDS = {
    Loss.PROCESS: "Task stopped, container exited with code 137",
    Loss.HOST: "Host EC2 (instance i-0) terminated.",
}
LOG = logging.getLogger("tests.world")
LOG.setLevel(logging.CRITICAL)


class Death(BaseException):
    """The process ended at this instant."""


class Actor:
    """One process: a worker's life or a parent."""

    def __init__(self, world: World, name: str, body: Callable[[Actor], None]) -> None:
        self.world, self.name, self._body = world, name, body
        self.greenlet = greenlet(self._run)
        self.dead = self.done = False
        self.at = "start"
        """What it waits before."""
        self.until = 0.0
        self.frozen_until = 0.0
        self.fate: str | None = None
        """Of its next request: "fail" or "lost"."""
        self.error: BaseException | None = None
        self.tick: Callable[[], None] = lambda: None
        self.every = BEAT
        self.tick_at = float("inf")

    @property
    def lives(self) -> bool:
        return not self.dead and not self.done

    @property
    def awake(self) -> bool:
        return self.lives and self.world.clock >= self.frozen_until

    @property
    def ready(self) -> bool:
        return self.awake and self.world.clock >= self.until

    def _run(self) -> None:
        try:
            self._body(self)
        except Death:
            return
        except (PdfFlowsError, UsageError) as error:
            self.error = error
        self.done = not self.dead

    def pause(self, at: str, seconds: float = 0.0) -> None:
        """Let others go on; from within the process."""
        if getcurrent() is not self.greenlet:
            return  # its heartbeat's thread
        if not seconds and not self.world.interleaves and not self.dead:
            return
        self.at, self.until = at, self.world.clock + seconds
        self.world.hub.switch()
        if self.dead:
            raise Death

    def resume(self) -> None:
        """Go on to the next request; from without."""
        self.world.hub = getcurrent()
        self.greenlet.parent = self.world.hub
        before, self.world.running = self.world.running, self
        try:
            self.greenlet.switch()
        finally:
            self.world.running = before

    def kill(self) -> None:
        """It ends at this instant: nothing of it runs any more."""
        if not self.lives:
            return
        self.dead = True
        if self.greenlet and getcurrent() is not self.greenlet:
            # Whoever kills is not necessarily who drives the world.
            before, self.world.hub = self.world.hub, getcurrent()
            self.greenlet.parent = self.world.hub
            try:
                self.greenlet.throw(Death)
            finally:
                self.world.hub = before

    def beat(self) -> None:
        """What its heartbeat's thread does; a life that is within its ledger's or heartbeat's write beats after it."""
        before, self.world.running = self.world.running, self
        try:
            self.tick()
        except Death:
            pass
        finally:
            self.world.running = before


class Port:
    """A store as one process has it."""

    def __init__(self, inner: MemoryStore, actor: Actor) -> None:
        self.inner, self.actor = inner, actor

    @property
    def url(self) -> str:
        return self.inner.url

    def display(self, key: str) -> str:
        return key

    def _call(self, what: str, key: str, run: Callable[[], Any]) -> Any:
        actor = self.actor
        if actor.dead:
            raise Death
        actor.pause(f"{what} {key}")
        fate, actor.fate = actor.fate, None
        if fate == "fail" or actor.world.clock < actor.world.outage_until:
            actor.world.note_trouble(actor)
            raise StoreError(f"{what} {key}: 503")
        actor.world.before(actor, what, key)
        result = run()
        if fate == "lost":
            actor.world.note_trouble(actor)
            raise StoreError(f"{what} {key}: the answer is lost")
        return result

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
        self.actor.world.creating(self.actor, key)
        return self.inner.create(key, data, metadata)

    def put(self, key: str, data: bytes) -> None:
        self._call("put", key, lambda: self._put(key, data))

    def _put(self, key: str, data: bytes) -> None:
        self.actor.world.putting(self.actor, key)
        self.inner.put(key, data)

    def move(self, key: str, to: str) -> None:
        self._call("move", key, lambda: self.inner.move(key, to))

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self.inner.delete(key))

    def probe(self) -> None:
        self._call("probe", "", lambda: None)


class EnginePool:
    """An engine that takes a second for a page, and dies with its worker of documents that are poison."""

    documents = in_hand = 2
    notes: tuple[str, ...] = ()

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def start(self) -> None: ...

    def ready(self, timeout: float) -> dict[str, str]:
        self._actor.pause("loading", 10.0)
        return {"dummy": "1"}

    def convert(
        self,
        pdf: Path,
        name: str,
        passwords: list[str],
        assets: Path,
        on_page: Callable[[int, int], None],
        journal: Any = UNKEPT,
    ) -> EngineResult:
        world = self._actor.world
        world.engine_work[name].append(self._actor.name)
        seconds = 5.0 if int(name[1:-4]) % 3 else world.slow_pages
        for page in (1, 2):
            on_page(page, 2)
            self._actor.pause(f"page {page} of {name}", seconds)
        if name in world.poison:
            world.die(self._actor, Loss.PROCESS)
            raise Death
        return EngineResult(pages=[Page(number=n, text=f"{name} page {n}") for n in (1, 2)])

    def appetite(self, timeout: float) -> bool:
        return True

    def refresh(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


class Live(Worker):
    """A worker's life without threads: two documents in hand, one after the other."""

    actor: Actor

    def _work(self) -> None:
        batch: list[tuple[Row, Claim, Suspicion]] = []
        for row, n in self._next(self._candidates):
            self._wait_until_wanted()
            if self._stopping is not None:
                break
            suspicion = Suspicion()
            if n >= tasks.worker.SUSPECT_DEATHS:
                place = self._candidates.partition(row.index)
                suspicion = tasks.worker.patient()(self._claims.suspicion, place, row.index, n)
            if suspicion.suspect:
                self._all(batch)
            claim = self._claim(row, n, alone=suspicion.suspect)
            if claim is not None:
                batch.append((row, claim, suspicion))
            if len(batch) == 2 or suspicion.suspect:
                self._all(batch)
        self._all(batch)

    def _all(self, batch: list[tuple[Row, Claim, Suspicion]]) -> None:
        while batch:
            self._one(*batch.pop(0))

    def _check_life(self, claim: Claim) -> None:
        self.actor.world.checking(self.actor)
        super()._check_life(claim)

    def _machine(self, imds: Any) -> Machine:
        return self.actor.machine()

    @contextmanager
    def _noticing(self, imds: Any) -> Iterator[None]:
        yield


class LifeActor(Actor):
    """A worker's process."""

    def __init__(self, world: World, worker: int, launch: int, epoch: int) -> None:
        super().__init__(world, f"worker {worker}.{launch}", self._live)
        self.worker, self.launch = worker, launch
        self.attempt: int | None = None
        self.numbered_at = 0.0
        self.beaten_at = world.clock
        self.should_know = False
        """It was fenced, and had to look: it must not publish any more."""
        self.drained = False
        self.unkillable = False
        settings = WorkerSettings(
            runs="runs",
            run_id=RUN,
            worker=worker,
            workers=world.workers,
            epoch=epoch,
            launch=launch,
            retries=1,
            budgeted=world.budgeted,
            parent_patience=world.parent_patience,
        )
        self.life = Live(settings, LOG)
        self.life.actor = self

    @property
    def prefix(self) -> str:
        return paths.life(RUN, self.worker, self.attempt or 0)

    def machine(self) -> Machine:
        """What it runs on, as it says itself."""
        return Machine(id=self.name)

    def boot(self) -> None:
        """Until its process begins."""
        self.pause("boot", 5.0)

    def _live(self, actor: Actor) -> None:
        self.boot()
        self.life.run()

    def notice(self) -> None:
        self.drained = True
        before, self.world.running = self.world.running, self
        self.life.drain("notice: the machine is taken away", 10.0)
        self.world.running = before


class WorkerHandle:
    """A launch as Prefect shows it."""

    def __init__(self, actor: LifeActor) -> None:
        self.actor = actor
        self.end: End | None = None
        self.flow_run_id = f"run-{actor.worker}-{actor.launch}"

    def poll(self) -> End | None:
        if self.end is None and self.actor.done:
            error = self.actor.error
            self.end = End(True) if error is None else End(False, str(error), Loss.PROCESS)
        return self.end

    @property
    def begun(self) -> bool:
        return self.actor.at != "start"

    def drain(self) -> None: ...

    def kill(self) -> None:
        if self.poll() is None:
            self.end = End(True, "cancelled")
            if not self.actor.unkillable:
                self.actor.kill()


class Pool:
    """The work pool: all parents' launches."""

    def __init__(self, world: World, actor: Actor, epoch: Callable[[], int]) -> None:
        self._world, self._actor, self._epoch = world, actor, epoch

    def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Handle:
        world = self._world
        self._actor.pause(f"launch {worker}.{launch}")
        if world.clock < world.drought_until:
            raise NotLaunched("no capacity")
        world.launching(self._actor, worker, launch)
        if (worker, launch) not in world.handles:
            world.handles[worker, launch] = WorkerHandle(world.begin(LifeActor(world, worker, launch, self._epoch())))
        return world.handles[worker, launch]

    def adopt(self) -> dict[int, Handle]:
        found: dict[int, Handle] = {}
        for (worker, _), handle in sorted(self._world.handles.items()):
            if handle.poll() is None:
                if worker in found:
                    found[worker].kill()
                found[worker] = handle
        return found

    def poll(self) -> None:
        self._world.polling(self._actor)

    def end(self) -> list[str]:
        for handle in self._world.handles.values():
            handle.kill()
        return []


class ParentActor(Actor):
    """A parent's process."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"parent {number}", self._parent)
        self.every = LEASE_BEAT
        self.lease: ParentLease | None = None
        self.beats_with_heir = 0
        self.trouble_at = float("-inf")
        self.result: str | None = None
        self.supervision: Supervision | None = None
        self.page_at = world.clock
        self._lookout: Lookout | None = None
        self._board: SettledBoard

    def _parent(self, actor: Actor) -> None:
        world = self.world
        runs, output = Port(world.runs, self), Port(world.output, self)
        claim_output(runs, RUN, Observer(runs, world.time), sleep=world.sleep)
        with ParentLease(runs, RUN, self.name, LEASE_BEAT) as lease:
            self.lease = lease
            self.tick, self.tick_at = self._beat, world.clock
            pool = world.pool(self, lambda: lease.epoch)
            adopted = pool.adopt()
            living = end_former_lives(runs, RUN, [str(handle.flow_run_id) for handle in adopted.values()])
            by = SettledBy(world.spec.documents, False)
            account = reconcile_run(runs, output, world.spec, by).account
            self._board = SettledBoard(runs, RUN, lease.epoch, world.spec.documents, False)
            self._board.begin(by.found, resumed=bool(lease.epoch))
            self._lookout = Lookout(
                runs, world.spec, clock=world.time, also=self._board.take, pool=cast(Executor, _Serial())
            )
            waiting = account.remaining + account.failed
            if waiting:
                self.supervision = Supervision(
                    runs,
                    world.spec,
                    lease,
                    pool,
                    world.workers,
                    LOG,
                    remaining=waiting,
                    look_seconds=world.look_seconds,
                    patience=world.patience,
                    governors=self.governors(runs, by.found, adopted, living),
                    recount=lambda: left_to_do(runs, output, world.spec, lease.epoch, False),
                    clock=world.time,
                )
                self.supervision.adopt(adopted)
                self.result = self.supervision.run()
                if not self.supervision.left_to:
                    pool.end()
                self.close()

    def governors(
        self, runs: Port, settled: Bitmap, adopted: dict[int, Handle], living: set[str]
    ) -> Collection[Governor]:
        """Who may hold the run back."""
        return ()

    def close(self) -> None:
        """The last thing a parent does."""

    def _beat(self) -> None:
        assert self.lease is not None
        heir = f"{paths.parent(RUN, self.lease.epoch + 1)}lease.json" in self.world.runs.objects
        clear = self.world.clock >= self.world.outage_until and self.fate is None
        self.lease._beat()
        if self._lookout is not None and self.world.clock >= self.page_at:
            # Its page's thread, more often than in truth: these runs last minutes.
            self.page_at = self.world.clock + PAGE_EVERY
            with suppress(StoreError):
                self._lookout.facts()
                self._board.publish()
        self.beats_with_heir += heir and clear


class World:
    """One run: its stores, its processes, its clock, and what went against a promise."""

    interleaves = True
    """Processes take turns at every request; else only where one sleeps or works."""
    budgeted = False
    parent_patience = PARENT_PATIENCE_SECONDS
    slow_pages = 5.0
    """Seconds for a page of every third document; the others take 5."""
    look_seconds = 5.0
    patience = Patience(starting=120.0, capacity=120.0)

    def pool(self, parent: ParentActor, epoch: Callable[[], int]) -> Pool:
        """What a parent launches workers with."""
        return Pool(self, parent, epoch)

    def engine(self, actor: LifeActor) -> EnginePool:
        """What a worker converts with."""
        return EnginePool(actor)

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *,
        documents: int = 5,
        workers: int = 2,
        poison: int = 0,
        keeps_metadata: bool = True,
        make: Callable[..., MemoryStore] = MemoryStore,
    ) -> None:
        self.clock = 1000.0
        self.workers = workers
        self.outage_until = self.drought_until = float("-inf")
        self.hub: Any = getcurrent()
        self.running: Actor | None = None
        self.actors: list[Actor] = []
        self.parents: list[ParentActor] = []
        self.handles: dict[tuple[int, int], WorkerHandle] = {}
        self.violations: list[str] = []
        self.engine_work: dict[str, list[str]] = defaultdict(list)
        self.published: dict[str, list[bytes]] = defaultdict(list)
        self.deaths: dict[int, int] = defaultdict(int)
        """By document: of processes that ended badly, and said so, with it in hand."""
        self.fenced_at: dict[str, float] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="world-"))
        self.source = make("source")
        self.output = make("output", keeps_metadata=keeps_metadata, created=self._created_output)
        self.runs = make("runs", keeps_metadata=keeps_metadata)
        rows = []
        for index in range(documents):
            key, data = f"d{index}.pdf", b"%PDF" + bytes([index]) * (1 + index)
            self.source.create(key, data)
            info = self.source.head(key)
            assert info is not None
            rows.append(Row(index=index, key=key, name=f"d{index}.md", size=info.size, etag=info.etag))
        self.poison = {f"d{index}.pdf" for index in range(poison)}
        manifest, count = write_rows(rows)
        identity = Identity(
            input="source",
            output="output",
            engine="dummy",
            limits=Limits().model_dump(),
            rendering=Rendering().model_dump(),
        )
        key = paths.manifest(RUN, "m")
        self.spec = RunSpec(
            run_id=RUN, created="", identity=identity, manifest=key, documents=count, partitions=workers
        )
        self.runs.create(key, manifest)
        self.runs.create(paths.run(RUN), self.spec.model_dump_json().encode())
        self._patch(patch)

    # -- time -----------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        """Of the process that is running; its heartbeat's thread waits for nothing."""
        if self.running is not None:
            self.running.pause("sleep", seconds)

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=self.time, time=self.time, sleep=self.sleep)
        for module in (tasks.worker, tasks.pulse, tasks.supervise, tasks.lease, tasks.document, tasks.corpus.runs):
            patch.setattr(module, "time", clock)
        patch.setattr(tasks.pulse, "boot_seconds", self.time)
        patch.setattr(tasks.supervise, "TICK_SECONDS", 1.0)
        for module in (tasks.pulse, tasks.lease):
            patch.setattr(module, "Ticker", _NoTicker)
        for module in (tasks.corpus.ledger, tasks.supervise):
            patch.setattr(module, "ThreadPoolExecutor", _Serial)
        for module in (tasks.worker, tasks.supervise, tasks.lease, tasks.corpus.runs):
            patch.setattr(module, "this_life", self._this_life)
        for module in (tasks.worker, tasks.account, tasks.lookout):
            patch.setattr(module, "scratch_folder", self._scratch)
        patch.setattr(tasks.worker, "patient", self._patient)
        patch.setattr(tasks.worker, "open_store", self._open)
        patch.setattr(tasks.worker, "open_pool", lambda *given, **more: self.engine(cast(LifeActor, self._running())))
        patch.setattr(
            tasks.worker, "Candidates", partial(Candidates, clock=self.time, readers=cast(Executor, _Serial()))
        )
        patch.setattr(tasks.worker, "LedgerWriter", partial(LedgerWriter, clock=self.time))
        patch.setattr(
            tasks.worker,
            "threading",
            SimpleNamespace(
                **{**vars(tasks.worker.threading), "Thread": _NoThread, "Event": lambda: _SleepyEvent(self.sleep)}
            ),
        )
        patch.setattr(tasks.worker, "Pulse", self._pulse(tasks.pulse.Pulse))
        patch.setattr(DocumentConverter, "_wait", lambda converter, seconds: self.sleep(seconds))
        for name in ("pdf_flows", "tasks"):
            patch.setattr(logging.getLogger(name), "disabled", True)
        for name in ("pulse", "lease", "supervise", "treasury", "prices"):
            patch.setattr(logging.getLogger(f"pdf_flows.{name}"), "disabled", True)

    def _running(self) -> Actor:
        assert self.running is not None
        return self.running

    def _open(self, url: str, *, writable: bool = False) -> Port:
        return Port({"source": self.source, "output": self.output, "runs": self.runs}[url], self._running())

    def _this_life(self, epoch: int = 0, flow_run_id: str | None = None, **more: Any) -> Life:
        actor = self._running()
        if isinstance(actor, LifeActor):
            flow_run_id = f"run-{actor.worker}-{actor.launch}"
        process = Process(host=f"host of {actor.name} {id(actor)}", pid=1, started=0)
        return Life(process=process, hostname=actor.name, epoch=epoch, flow_run_id=flow_run_id, **more)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        yield folder

    def _patient(self, patience: float = 120.0) -> Retrying:
        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, StoreError) and error.category is Category.STORE),
            stop=stop_after_attempt(max(2, int(patience / 10))),
            wait=wait_fixed(10),
            sleep=self.sleep,
            reraise=True,
        )

    def _pulse(self, kind: type[tasks.pulse.Pulse]) -> Callable[..., tasks.pulse.Pulse]:
        def make(*given: Any, **more: Any) -> tasks.pulse.Pulse:
            actor = self._running()
            assert isinstance(actor, LifeActor)
            pulse = kind(*given, **more)
            actor.attempt, actor.numbered_at = given[3], self.clock

            def tick() -> None:
                locks = (pulse._beating, pulse._ledger._writing, pulse._ledger._adding, pulse._failures._lock)
                if not any(lock.locked() for lock in locks):
                    pulse._tick()

            actor.tick, actor.tick_at = tick, self.clock + BEAT
            return pulse

        return make

    # -- what is driven -------------------------------------------------------------------------------------------

    def begin(self, actor: Any) -> Any:
        self.actors.append(actor)
        return actor

    def parent(self) -> None:
        """Start another parent, whoever else there is."""
        self.parents.append(self.begin(ParentActor(self, len(self.parents))))

    @property
    def ready(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.ready]

    @property
    def living(self) -> list[LifeActor]:
        return [actor for actor in self.actors if isinstance(actor, LifeActor) and actor.lives]

    def step(self, actor: Actor, fate: str | None = None) -> None:
        """One process goes on to its next request."""
        actor.fate = fate
        actor.resume()

    def turn(self, requests: int = 40) -> None:
        """All go on, so many requests each at most; then the clock moves to whatever comes next."""
        for actor in list(self.actors):
            for _ in range(requests):
                if not actor.ready:
                    break
                actor.resume()
        self.clock += 0.5
        self.beats()
        if not self.ready:
            times = [
                t
                for a in self.actors
                if a.lives
                for t in (max(a.until, a.frozen_until), max(a.tick_at, a.frozen_until))
            ]
            self.clock = max(self.clock, min((t for t in times if t > self.clock), default=self.clock))
            self.beats()

    def beats(self) -> None:
        for actor in list(self.actors):
            if actor.awake and self.clock >= actor.tick_at:
                actor.tick_at = self.clock + actor.every
                actor.beat()

    def wait(self, seconds: float) -> None:
        """The world goes on undisturbed for so long."""
        until = self.clock + seconds
        while self.clock < until and any(actor.lives for actor in self.actors):
            self.turn()

    def die(self, actor: Actor, loss: Loss | None) -> None:
        """A process ends; what its launcher says of it, None: nothing."""
        if isinstance(actor, LifeActor):
            handle = next((h for h in self.handles.values() if h.actor is actor), None)
            if handle is not None and handle.end is None and loss is not None:
                handle.end = End(False, WORDS[loss], loss)
            if loss is Loss.PROCESS:
                self._blame(actor)
        actor.kill()

    def _blame(self, actor: LifeActor) -> None:
        for index in self._in_hand(actor):
            self.deaths[index] += 1

    def _in_hand(self, actor: LifeActor) -> list[int]:
        """What it claimed and did not give back."""
        if actor.attempt is None:
            return []
        found = []
        for key, data in self.runs.objects.items():
            if "/claims/" in key and not key.endswith(".released") and f"{key}.released" not in self.runs.objects:
                holder = Holder.model_validate_json(data)
                if (holder.worker, holder.attempt) == (actor.worker, actor.attempt):
                    found.append(int(key.split("/")[-2]))
        return found

    def settle(self, hours: float = 3.0, parents: int = 6) -> Account:
        """The trouble is over: everything goes on, and whoever runs it runs it again while something remains."""
        self.outage_until = self.drought_until = float("-inf")
        for actor in self.actors:
            actor.frozen_until = 0.0
            actor.fate = None
        for _ in range(parents):
            if not any(parent.lives for parent in self.parents):
                self.parent()
            until = self.clock + hours * 3600
            while self.clock < until and any(parent.lives for parent in self.parents):
                self.turn()
            if any(parent.lives for parent in self.parents):
                raise Unsettled(f"nothing comes to an end: {[(a.name, a.at) for a in self.actors if a.lives]}")
            left = self.account().account.remaining
            if left == 0:
                break
            last = self.parents[-1]
            if last.error is None and last.supervision is not None and last.result is None and not self.living:
                self.wrong(f"promise 5: {last.name} ends with {left} documents left that nobody holds")
        # Whoever nobody could end ends by itself.
        self.wait(1800.0)
        return self.account().account

    def account(self) -> Reconciliation:
        self.running = None
        return reconcile_run(self.runs, self.output, self.spec)  # type: ignore[arg-type]

    def close(self) -> None:
        for actor in self.actors:
            actor.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what must always be --------------------------------------------------------------------------------------

    def wrong(self, what: str) -> None:
        self.violations.append(f"{self.clock - 1000:.0f} s: {what}")

    def note_trouble(self, actor: Actor) -> None:
        if isinstance(actor, ParentActor):
            actor.trouble_at = self.clock

    def before(self, actor: Actor, what: str, key: str) -> None:
        """A request is about to happen."""

    def _created_output(self, key: str, data: bytes) -> None:
        self.published[key].append(data)
        if len(self.published[key]) > 1:
            self.wrong(f"promise 1: {key} was published twice")

    def creating(self, actor: Actor, key: str) -> None:
        if key.endswith("/fenced"):
            self.fenced_at.setdefault(key, self.clock)
        if (
            isinstance(actor, LifeActor)
            and key.endswith(".md")
            and actor.should_know
            and key not in self.output.objects
        ):
            self.wrong(f"promise 1: {actor.name} was fenced, was in doubt, and published {key}")
        if "/claims/" in key and key not in self.runs.objects and not key.endswith(".released"):
            self._taking_over(actor, key)

    def _taking_over(self, actor: Actor, key: str) -> None:
        """A former holder is over, and whoever takes over made sure of it."""
        folder, _, n = key.rpartition("/")
        if n == "0":
            return
        former = f"{folder}/{int(n) - 1}"
        if f"{former}.released" in self.runs.objects:
            return
        holder = Holder.model_validate_json(self.runs.objects[former])
        prefix = paths.life(RUN, holder.worker, holder.attempt)
        if not self._over(prefix):
            self.wrong(f"promise 3: {actor.name} takes {former} over from a life that may go on")

    def _over(self, prefix: str) -> bool:
        beat = self.runs.objects.get(f"{prefix}heartbeat.json")
        said = beat is not None and Heartbeat.model_validate_json(beat).ended is not None
        return f"{prefix}fenced" in self.runs.objects or said

    def putting(self, actor: Actor, key: str) -> None:
        if isinstance(actor, LifeActor) and key.endswith("heartbeat.json"):
            self.checking(actor)
            actor.beaten_at = self.clock

    def checking(self, actor: Actor) -> None:
        """It beats or is about to publish: if it could not beat for long, it has to look at its fence now."""
        assert isinstance(actor, LifeActor)
        if self.clock - actor.beaten_at >= DOUBT and f"{actor.prefix}fenced" in self.runs.objects:
            actor.should_know = True

    def launching(self, parent: Actor, worker: int, launch: int) -> None:
        assert isinstance(parent, ParentActor)
        # A parent that could not reach the store may not have been able to fence; the claims hold all the same.
        if self.clock - parent.trouble_at < 300:
            return
        # One that was frozen before this very request may have an heir by now; how long it may go on is checked elsewhere.
        if parent.lease is not None and f"{paths.parent(RUN, parent.lease.epoch + 1)}lease.json" in self.runs.objects:
            return
        for (k, other), handle in self.handles.items():
            former = handle.actor
            numbered = former.attempt is not None and self.clock - former.numbered_at > 10
            if k == worker and other != launch and numbered and not self._over(former.prefix):
                end = handle.poll()
                if end is None or not end.orderly:
                    self.wrong(f"promise 5: {parent.name} launches {worker}.{launch} beside {former.name}, unfenced")

    def polling(self, parent: Actor) -> None:
        assert isinstance(parent, ParentActor)
        if parent.beats_with_heir >= 3:
            self.wrong(f"promise 5: {parent.name} goes on beside its heir")
            parent.beats_with_heir = -(10**9)

    def verdict(self, account: Account, reconciliation: Reconciliation) -> list[str]:
        """What is wrong with a run at its end."""
        found = list(self.violations)
        poison = {int(key[1:-4]) for key in self.poison}
        if account.duplicates or account.lost or not account.closes:
            found.append(f"promise 2: {account}")
        if account.remaining:
            found.append(f"promise 5: {account.remaining} documents remain")
        if account.skipped:
            found.append(f"promise 2: {account.skipped} documents of this run are taken for somebody else's")
        for failed in reconciliation.failures:
            if failed.failure.category is Category.CRASHED and self.deaths[failed.index] < BLAMED:
                found.append(
                    f"promise 6: document {failed.index} is quarantined after {self.deaths[failed.index]} deaths"
                )
            elif failed.failure.category is not Category.CRASHED and not failed.failure.retryable:
                found.append(f"promise 2: {failed}")
        for index in poison:
            if f"d{index}.md" in self.output.objects:
                found.append(f"document {index} is poison and was published")
        for key, work in self.engine_work.items():
            claims = sum(f"/{int(key[1:-4]):09d}/" in k and not k.endswith(".released") for k in self.runs.objects)
            if len(work) > 2 * claims:  # retries are one more
                found.append(f"promise 3: {key} went through engines {len(work)} times for {claims} claims")
        return found


class Unsettled(AssertionError):
    """The trouble is over, and the run comes to no end: promise 5."""


class _NoTicker:
    def __init__(self, name: str, seconds: float, step: Callable[[], object]) -> None: ...

    def start(self) -> None: ...

    def stop(self, patience: float = 0.0) -> None: ...


class _SleepyEvent:
    """An event that nobody sets while it is waited for: whoever waits sleeps."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep, self._set = sleep, False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float = 0.0) -> bool:
        if not self._set:
            self._sleep(timeout)
        return self._set


class _NoThread:
    def __init__(self, **given: Any) -> None: ...

    def start(self) -> None: ...


class _Serial:
    """An executor without threads."""

    def __init__(self, *given: Any, **more: Any) -> None: ...

    def __enter__(self) -> _Serial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def map(self, run: Callable[..., Any], items: Any) -> Iterator[Any]:
        return map(run, items)

    def shutdown(self, **how: Any) -> None: ...
