"""A lookout: reads a run's objects again and again, each as seldom as it can change, and makes views of it.

A look costs a request for each living worker and five or so for the run. Ledgers are read as they grow, each segment once, and
only those of workers that did something since; lives that are over are read once more and never again; the manifest once. What is
not there (yet), or makes no sense, is left out and named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import TracebackType

from pydantic import ValidationError

from tasks.canary import read_verdict
from tasks.corpus import paths
from tasks.corpus.census import Census, take_census
from tasks.corpus.failures import NotFound, StoreError
from tasks.corpus.ledger import MERGED, Record
from tasks.corpus.lives import EXPIRY_SECONDS, Heartbeat, Life, Observer, Process, read_fence
from tasks.corpus.runs import RunSpec, load_manifest
from tasks.corpus.store import Store
from tasks.corpus.tail import LedgerTail
from tasks.corpus.tally import Tally
from tasks.eta import Window
from tasks.fleet.book import Record as SpendRecord
from tasks.fleet.canary import Verdict
from tasks.report import read_report
from tasks.scratch import scratch_folder
from tasks.view import Facts, LifeFacts, Pace, ParentFacts, RunView, run_view

READERS = 16
QUIET_SECONDS = 20.0
"""After so long without a heartbeat a fence, or a newer life, is looked for."""
SEGMENTS = 32_768
"""Of all ledgers together, read in one look at most: a second or two. What is far behind catches up over several looks."""


class _Track:
    """One worker (or the parents), by its lives."""

    def __init__(self, store: Store, clock: Callable[[], float], prefix: Callable[[int], str], start: str) -> None:
        self._store, self._clock, self._prefix, self._start = store, clock, prefix, start
        self._observer = Observer(store, clock)
        self._idle: tuple[int, float] | None = None
        self.lives: list[LifeFacts] = []
        self.launches = 0
        """That were made, as far as is known."""

    def look(self, worker: int) -> None:
        """Read what may have changed. Raises StoreError."""
        if self._expected():
            self._find(worker)
        if self.lives and not self.final(self.lives[-1]):
            self._read(self.lives[-1])

    def _expected(self) -> bool:
        """Whether there may be a newer life."""
        if not self.lives:
            return True
        newest = self.lives[-1]
        launch = newest.life.launch if newest.life is not None else None
        if launch is not None and self.launches:
            # A flow run that is executed twice has two lives in one launch, the first of which falls silent or goes on unseen.
            return self.launches - 1 > launch or (QUIET_SECONDS <= newest.still < 2 * EXPIRY_SECONDS)
        return newest.over or newest.still >= QUIET_SECONDS

    def _find(self, worker: int) -> None:
        """Newer lives; one that has a successor is read for the last time."""
        while (life := self._life(len(self.lives))) is not None:
            if self.lives:
                self._read(self.lives[-1], last=True)
            self.lives.append(LifeFacts(worker, len(self.lives), life=life))
            self._idle = None

    def _life(self, attempt: int) -> Life | None:
        key = self._prefix(attempt) + self._start
        try:
            data = self._store.read(key)
        except NotFound:
            return None
        try:
            return Life.model_validate_json(data)
        except ValidationError:
            return Life(process=Process(host="unknown", pid=0, started=0), hostname="unknown")

    def final(self, facts: LifeFacts) -> bool:
        """Nothing more is learnt of it."""
        return facts.ended is not None or (facts.fence is not None and facts.still >= EXPIRY_SECONDS)

    def _read(self, facts: LifeFacts, *, last: bool = False) -> None:
        prefix = self._prefix(facts.attempt)
        beat = self._observer.heartbeat(prefix)
        facts.beat = beat if beat is not None else facts.beat
        facts.still = self._observer.stood(prefix, facts.beat)
        facts.gone = facts.life is not None and facts.life.process.gone()
        now = self._clock()
        activity = facts.beat.activity if facts.beat is not None else -1
        if self._idle is None or self._idle[0] != activity:
            self._idle = (activity, now)
        facts.idle = now - self._idle[1]
        quiet = facts.gone or facts.still >= QUIET_SECONDS or facts.beat is None
        if facts.fence is None and facts.ended is None and (quiet or last):
            facts.fence = read_fence(self._store, prefix)


class Lookout:
    """Watches one run. Not thread-safe; a context manager, for its readers.

    Args:
        clock: monotonic seconds.
        wall: seconds since 1970.
        also: called with every record of the ledgers, once.
        pool: its readers.
    """

    def __init__(
        self,
        runs: Store,
        spec: RunSpec,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        also: Callable[[Record], None] = lambda record: None,
        pool: Executor | None = None,
    ) -> None:
        self._runs, self.spec, self._clock, self._wall = runs, spec, clock, wall
        self._also = also
        self._pool = pool or ThreadPoolExecutor(READERS, thread_name_prefix="lookout")
        self._census: Census | None = None
        self.tally = Tally(spec.documents)
        self._tracks: dict[int, _Track] = {}
        self._parents = _Track(runs, clock, lambda epoch: paths.parent(spec.run_id, epoch), "lease.json")
        self._stops: dict[int, str] = {}
        self._tails: dict[tuple[int, int], tuple[LedgerTail, int]] = {}
        """Of each life, and how many of its outcomes were read."""
        self._closed: set[tuple[int, int]] = set()
        self._weight, self._pages = Window(), Window()
        self._worker_pages: dict[int, Window] = {}
        self._worker_documents: dict[int, Window] = {}
        self._canary: Verdict | None = None
        self._notes: dict[str, None] = {}

    def __enter__(self) -> Lookout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No further look."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> RunView:
        """One look. Raises StoreError where the store does not answer at all."""
        return run_view(self.facts())

    def catch_up(self) -> Facts:
        """Looks until every ledger was read to its end, whatever the heartbeats say. Raises StoreError."""
        while not (facts := self.facts(everything=True)).caught_up:
            pass
        return facts

    def facts(self, *, everything: bool = False) -> Facts:
        """What there is to know now. Raises StoreError.

        Args:
            everything: also look into ledgers of which no heartbeat says that something came.
        """
        spec, run_id = self.spec, self.spec.run_id
        census = self._take_census()
        self._discover()
        self._parents.look(-1)
        list(self._pool.map(lambda item: item[1].look(item[0]), self._tracks.items()))
        caught_up = self._read_ledgers(everything)
        now = self._clock()
        lives = {k: track.lives for k, track in sorted(self._tracks.items())}
        parent = self._parent()
        over = parent is None or parent.facts.over
        return Facts(
            spec=spec,
            at=self._wall(),
            census=census,
            tally=self.tally,
            caught_up=caught_up,
            lives=lives,
            paces={k: self._pace(k, some, now) for k, some in lives.items()},
            pages_per_second=self._all_pages(lives.values(), now),
            rates=self._rates(lives.values(), now),
            parent=parent,
            spend=self._spend(),
            canary=self._verdict(),
            report=read_report(self._runs, run_id) if over else None,
            notes=list(self._notes),
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def _take_census(self) -> Census:
        if self._census is None:
            try:
                with scratch_folder() as folder:
                    rows = load_manifest(self._runs, self.spec, folder).rows()
                    self._census = take_census(rows, self.spec.partitions)
            except StoreError as error:
                self._note(f"the manifest can't be read: {error}")
                self._census = Census(documents=self.spec.documents, waiting=self.spec.documents)
        return self._census

    def _discover(self) -> None:
        """Workers that were launched; where nobody launches any (each was started by itself), those that came."""
        prefix = f"{self.spec.run_id}/launches/"
        launches: dict[int, int] = {}
        for info in self._runs.list(prefix):
            worker, _, name = info.key[len(prefix) :].partition("/")
            if worker.isdigit() and name.removesuffix(".json").isdigit():
                launches[int(worker)] = launches.get(int(worker), 0) + 1
        if not launches:
            k = 0
            while k < self.spec.partitions or k in self._tracks:
                if k not in self._tracks and self._runs.head(self._life_prefix(k, 0) + "start.json") is not None:
                    launches[k] = 0
                k += 1
        for k, count in launches.items():
            if k not in self._tracks:
                self._tracks[k] = _Track(
                    self._runs, self._clock, lambda attempt, k=k: self._life_prefix(k, attempt), "start.json"
                )
            self._tracks[k].launches = count

    def _life_prefix(self, worker: int, attempt: int) -> str:
        return paths.life(self.spec.run_id, worker, attempt)

    def _parent(self) -> ParentFacts | None:
        if not self._parents.lives:
            return None
        facts = self._parents.lives[-1]
        if facts.attempt not in self._stops:
            try:
                reason = self._runs.read(f"{paths.parent(self.spec.run_id, facts.attempt)}stop.json")
                self._stops[facts.attempt] = reason.decode(errors="replace")
            except NotFound:
                pass
        return ParentFacts(facts, self._stops.get(facts.attempt, ""))

    def _spend(self) -> SpendRecord | None:
        try:
            return SpendRecord.model_validate_json(self._runs.read(f"{paths.spend(self.spec.run_id)}spend.json"))
        except NotFound:
            return None
        except ValidationError:
            self._note("the spend record can't be read")
            return None

    def _verdict(self) -> Verdict | None:
        if self._canary in (None, Verdict.PENDING):
            self._canary = read_verdict(self._runs, self.spec.run_id)
        return self._canary

    def _read_ledgers(self, everything: bool) -> bool:
        """What came since the last look. Whether that was all."""
        due: list[tuple[tuple[int, int], LedgerTail]] = []
        ended: set[tuple[int, int]] = set()
        for k, track in self._tracks.items():
            for facts in track.lives:
                name = (k, facts.attempt)
                if name in self._closed:
                    continue
                if name not in self._tails:
                    self._tails[name] = LedgerTail(self._runs, self._life_prefix(*name)), 0
                tail, outcomes = self._tails[name]
                if facts is not track.lives[-1] or track.final(facts):
                    ended.add(name)
                elif not (everything or facts.over) and facts.beat is not None and facts.beat.processed <= outcomes:
                    continue
                due.append((name, tail))
        caught_up = True
        most = max(MERGED, SEGMENTS // max(1, len(due)))
        read = self._pool.map(lambda item: item[1].read(most), due)
        for (name, tail), (records, all_read) in zip(due, read, strict=True):
            self._take_in(records)
            self._tails[name] = tail, self._tails[name][1] + sum(record.outcome.final for record in records)
            caught_up = caught_up and all_read
            if tail.unreadable:
                self._note(f"{tail.unreadable} segments of the ledger of life {name[0]}/{name[1]} can't be read")
            if all_read and name in ended:
                self._closed.add(name)
        return caught_up

    def _take_in(self, records: Iterable[Record]) -> None:
        for record in records:
            self.tally.add(record)
            self._also(record)

    # -- paces --------------------------------------------------------------------------------------------------------

    def _pace(self, k: int, lives: list[LifeFacts], now: float) -> Pace:
        beats = [facts.beat for facts in lives if facts.beat is not None]
        pages = self._worker_pages.setdefault(k, Window())
        documents = self._worker_documents.setdefault(k, Window())
        pages.add(now, sum(beat.pages for beat in beats))
        documents.add(now, sum(beat.processed for beat in beats))
        if not lives or lives[-1].over:
            return Pace()
        beat = lives[-1].beat
        # Documents come one by one, and may take minutes each: the whole life's pace where the last minutes saw none.
        return Pace(
            pages.rate or _since_begin(beat, "pages"),
            documents.rate or _since_begin(beat, "processed"),
        )

    def _all_pages(self, lives: Iterable[list[LifeFacts]], now: float) -> float | None:
        self._pages.add(now, _sum(lives, "pages"))
        rate = self._pages.rate
        return rate if rate is not None else _sum_of_rates(lives, "pages")

    def _rates(self, lives: Iterable[list[LifeFacts]], now: float) -> list[float]:
        """Weight a second: of the last minutes' slices, or, before there are any, of each worker for as long as it works."""
        self._weight.add(now, _sum(lives, "weight"))
        rates = self._weight.rates()
        if rates:
            return rates
        each = [_since_begin(some[-1].beat, "weight") for some in lives if some and not some[-1].over]
        known = [rate for rate in each if rate is not None]
        return [rate * len(known) for rate in known]


def _sum(lives: Iterable[list[LifeFacts]], what: str) -> float:
    return float(sum(getattr(facts.beat, what) for some in lives for facts in some if facts.beat is not None))


def _sum_of_rates(lives: Iterable[list[LifeFacts]], what: str) -> float | None:
    each = [_since_begin(some[-1].beat, what) for some in lives if some and not some[-1].over]
    known = [rate for rate in each if rate is not None]
    return sum(known) if known else None


def _since_begin(beat: Heartbeat | None, what: str) -> float | None:
    """Of one life, since its engine was there."""
    if beat is None or beat.working_seconds <= 0:
        return None
    done = float(getattr(beat, what))
    return done / beat.working_seconds if done > 0 else None
