"""Supervise: see what the workers do, ask `tasks/fleet/supervisor.py` what to do next, and do it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from tasks.corpus import paths
from tasks.corpus.failures import PdfFlowsError, StoreError
from tasks.corpus.lives import Heartbeat, Life, Observer, Process, fence, numbers, this_life
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store
from tasks.fleet import supervisor
from tasks.fleet.launcher import End, Handle, Launcher, NotLaunched
from tasks.fleet.losses import Loss
from tasks.fleet.supervisor import Action, Allowance, Fleet, Patience, Verb
from tasks.governing import Governor, Seen
from tasks.lease import ParentLease
from tasks.pulse import tripped
from tasks.scale import newest_wish
from tasks.watch import EXECUTED_AGAIN, Watch

TICK_SECONDS = 0.25
BLIND_SECONDS = 20.0
"""After so long without a look at a worker's heartbeat its silence is counted anew: the parent may have slept, not the worker."""
READERS = 16
"""Heartbeats read at a time: 200 of them in less than a second from S3."""

_log = logging.getLogger("pdf_flows.supervise")
Log = logging.Logger | logging.LoggerAdapter[Any]


class Progress(BaseModel):
    """What all workers' heartbeats say together."""

    assigned: dict[int, int] = {}
    processed: dict[int, int] = {}
    failed: int = 0
    pages: int = 0


class Supervision:
    """One parent's watch over a run. `stop` may be called from a signal handler or another thread.

    Args:
        workers: how many are wanted.
        remaining: documents that may still need work.
        governors: asked in order; the first that stops the run has its way.
        recount: how many documents really still need work; asked before a run ends in which not every outcome was told.
    """

    def __init__(
        self,
        runs: Store,
        spec: RunSpec,
        lease: ParentLease,
        launcher: Launcher,
        workers: int,
        log: Log,
        *,
        remaining: int,
        look_seconds: float,
        patience: Patience | None = None,
        governors: Collection[Governor] = (),
        cancelled: Callable[[], bool] = lambda: False,
        recount: Callable[[], int] | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs, self._spec, self._lease, self._launcher, self._log = runs, spec, lease, launcher, log
        self._look_seconds = look_seconds
        self._blind_seconds = max(BLIND_SECONDS, 4 * look_seconds)
        self._governors = governors
        self._cancelled = cancelled
        self._recount = recount
        self._on_progress = on_progress
        self._clock = clock
        self._fleet = Fleet.of(workers, remaining, patience)
        self._watches: dict[int, Watch] = {}
        self._totals: dict[str, Heartbeat] = {}
        """The newest heartbeat of every life of this start."""
        self._lives: dict[str, Life] = {}
        self._gone: set[str] = set()
        self._withdrawn: dict[str, bool] = {}
        self._allowance = Allowance()
        self._on_demand = False
        self._looked = clock()
        self._stop: str | None = None
        self._wish = newest_wish(runs, spec.run_id)
        self._said: set[str] = set()
        self._owed: dict[int, Action] = {}
        """Fences that the store did not take: until it does, nobody knows that those lives are over, and none is relaunched."""
        self.left_to = False
        """Another parent took the run over; the workers are its."""
        self._without: float | None = None
        """Since when nobody has a machine, though documents wait for one."""

    def adopt(self, handles: dict[int, Handle]) -> None:
        """Take over living workers that a former parent launched."""
        now = self._clock()
        for k, handle in sorted(handles.items()):
            watch = self._watch(k)
            watch.adopted(handle)
            supervisor.adopt(self._fleet, k, self._next_launch(k), now)
            self._log.info("Worker %d lives: adopted", k)

    def stop(self, reason: str) -> None:
        """Stop claiming; what is in hand may end."""
        if self._stop is None:
            self._stop = reason

    @property
    def stopping(self) -> str | None:
        """Why the run claims no more; None while it does. Any thread."""
        return self._fleet.stopping

    @property
    def without(self) -> float:
        """Seconds that nobody has had a machine, though documents wait for one. Any thread."""
        since = self._without
        return self._clock() - since if since is not None else 0.0

    def kill(self) -> None:
        """End all workers now."""
        for watch in self._watches.values():
            if watch.handle is not None:
                watch.handle.kill()

    def run(self) -> str | None:
        """Until nobody runs and nobody will. Returns why the run was stopped, None if it wasn't.

        An exception from a signal may interrupt it; call `stop`, then `run` again.
        """
        last_look = float("-inf")
        while True:
            self._launcher.poll()
            now = self._clock()
            if now - self._looked >= self._blind_seconds:
                # It slept: another parent may have taken the run over, and its workers are not this one's to end.
                self._lease.look_for_heir()
            if self._lease.superseded:
                self.left_to = True
                self._log.warning("Another parent took the run over: this one leaves the workers to it")
                return "another parent took the run over"
            if now - last_look >= self._look_seconds:
                last_look = now
                self._look()
            self._step()
            if supervisor.over(self._fleet) and not self._more():
                break
            time.sleep(TICK_SECONDS)
        self._look()
        given_up = self._fleet.given_up
        if self._fleet.stopping is None and given_up and self._fleet.remaining:
            worker = given_up[0]
            return f"worker {worker.worker} died again and again without progress: {self._cause(worker.why)}"
        return self._fleet.stopping

    def _more(self) -> bool:
        """It seems over: whether documents are left all the same."""
        fleet = self._fleet
        # Nobody was lost and every outcome was told: it is over. A life that nobody watched (its flow run was executed twice)
        # may have died with a document in hand, too.
        told = fleet.lost_at == float("-inf") and not fleet.remaining
        if self._recount is None or fleet.stopping is not None or told:
            return False
        try:
            left = self._recount()
            if left:
                self._fence_copies()
        except StoreError as failure:
            _log.warning("%s", failure)
            return False
        return supervisor.recounted(fleet, left, self._clock())

    def _fence_copies(self) -> None:
        """Nobody runs, as far as the launchers know: whoever came since this start and said no last word is a copy.

        Dead or alive, it keeps documents from all others, and no launcher would ever say that it is gone.
        """
        for k, watch in self._watches.items():
            for life in watch.lives():
                beat = self._totals.get(f"{k}/{life}")
                if beat is not None and beat.ended is not None:
                    continue
                if fence(self._runs, paths.life(self._spec.run_id, k, life), EXECUTED_AGAIN):
                    self._log.warning("Worker %d has a life %d that no launcher knows of: it is fenced", k, life)

    # -- one step -------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        if self._cancelled():
            self.stop("cancelled")
        if (refusal := self._lease.refusal()) is not None:
            self.stop(refusal)
        if self._stop is not None:
            supervisor.stop(self._fleet, self._stop)
        sights = {}
        now = self._clock()
        slept = now - self._looked >= self._blind_seconds
        for k, watch in self._watches.items():
            if watch.handle is None:
                continue
            if watch.end() is not None:
                # What it said last belongs to what is made of its end.
                self._look_at(watch)
            if (sight := watch.sight()) is not None:
                sights[k] = replace(sight, blind=True) if slept else sight
        for action in supervisor.step(self._fleet, sights, now, self._allowance):
            self._do(action)
        for k, watch in self._watches.items():
            if watch.handle is not None and self._fleet.workers[k].phase is not supervisor.Phase.LAUNCHED:
                self._note_gone(watch, self._fleet.workers[k].launches - 1)
                watch.gone()

    def _do(self, action: Action) -> None:
        k = action.worker
        match action.verb:
            case Verb.LAUNCH:
                self._launch(k, action.launch)
            case Verb.FENCE:
                self._fence(k, action)
            case Verb.KILL | Verb.DRAIN:
                watch = self._watch(k)
                if watch.handle is None:
                    return
                self._log.warning(
                    "Worker %d is %s: %s", k, "ended" if action.verb is Verb.KILL else "drained", action.why
                )
                if action.verb is Verb.KILL:
                    watch.handle.kill()
                else:
                    self._lease.tell(wanted=self._fleet.wanted)
                    watch.handle.drain()
            case Verb.STOP:
                self._log.warning("Stopping: %s", action.why)
                self._lease.stop(action.why)
            case Verb.SAY:
                self._log.warning("%s", action.why)

    def _launch(self, k: int, launch: int) -> None:
        """Write the launch down, so that no parent ever takes its number again, and launch."""
        watch = self._watch(k)
        worker = self._fleet.workers[k]
        life = this_life(self._lease.epoch).model_dump_json().encode()
        if watch.handle is not None:
            # Its successor comes in the same step: whatever ran it is paid for no more.
            self._note_gone(watch, launch - 1)
        if (left := self._allowance.launches) is not None:
            # Steps are many between two looks, and the governors speak at a look.
            self._allowance = replace(self._allowance, launches=max(0, left - 1), fresh=False)
        if k in self._owed:
            self._fence(k, self._owed[k])
        if k in self._owed:
            watch.launched(_NotLaunched("its former life can't be fenced"), unfenced=True)
            return
        try:
            while not self._runs.create(f"{paths.launches(self._spec.run_id, k)}{launch}.json", life):
                launch += 1
                worker.launches = launch + 1
            for governor in self._governors:
                governor.launching(k, launch)
            watch.launched(self._launcher.launch(k, launch, on_demand=self._on_demand))
        except (StoreError, NotLaunched) as failure:
            # Others may work: one that can't be launched now is asked for again later.
            self._say_once(str(failure))
            watch.launched(_NotLaunched(str(failure)))

    def _fence(self, k: int, action: Action) -> None:
        action = self._owed.get(k, action)
        try:
            self._watch(k).fence(action.why, blame=action.blame)
        except StoreError as failure:
            self._owed[k] = action
            _log.warning("%s", failure)
        else:
            self._owed.pop(k, None)

    # -- what is seen ---------------------------------------------------------------------------------------------

    def _watch(self, k: int) -> Watch:
        if k not in self._watches:
            self._watches[k] = Watch(self._runs, self._spec.run_id, k, self._clock)
            self._fleet.worker(k).launches = max(self._fleet.worker(k).launches, self._next_launch(k))
        return self._watches[k]

    def _next_launch(self, k: int) -> int:
        prefix = paths.launches(self._spec.run_id, k)
        taken = [info.key[len(prefix) :].removesuffix(".json") for info in self._runs.list(prefix)]
        return max((int(number) for number in taken if number.isdigit()), default=-1) + 1

    def _look(self) -> None:
        """Read all heartbeats: progress, the breaker over all workers together, and what the governors make of it."""
        now = self._clock()
        watches = [watch for watch in self._watches.values() if watch.handle is not None]
        if now - self._looked >= self._blind_seconds:
            for watch in watches:
                watch.forget()
        self._looked = now
        if len(watches) > 2:
            with ThreadPoolExecutor(min(READERS, len(watches)), thread_name_prefix="look") as pool:
                list(pool.map(self._look_at, watches))
        else:
            for watch in watches:
                self._look_at(watch)
        for k, owed in list(self._owed.items()):
            self._fence(k, owed)
        self._scale(now)
        self._judge()
        self._govern(now)
        self._look_for_machines(now)

    def _look_for_machines(self, now: float) -> None:
        waits = self._fleet.stopping is None and self._fleet.wanted > 0 and self._fleet.free > 0
        if not waits or any(watch.handle is not None and watch.handle.begun for watch in self._watches.values()):
            self._without = None
        elif self._without is None:
            self._without = now

    def _look_at(self, watch: Watch) -> None:
        try:
            watch.look()
            outlived = watch.fence_outlived()
        except StoreError as failure:
            _log.warning("%s", failure)
            return
        for life in outlived:
            self._fleet.lost_at = self._clock()
            self._log.warning("Worker %d has a second life: the first (%d) is fenced", watch.worker, life)
        if watch.life is not None:
            name = f"{watch.worker}/{watch.life}"
            # One that can't be read is paid for all the same, as a machine that says nothing of itself.
            self._lives[name] = watch.facts or _unknown(watch.worker, self._fleet.workers[watch.worker].launches - 1)
            if watch.beat is not None:
                self._totals[name] = watch.beat

    def _note_gone(self, watch: Watch, launch: int) -> None:
        self._gone |= {name for name in self._lives if name.startswith(f"{watch.worker}/")}
        if watch.life is None:
            self._withdrawn[f"{watch.worker}/{launch}"] = not isinstance(watch.handle, _NotLaunched)

    def _judge(self) -> None:
        beats = {watch.worker: watch.beat for watch in self._watches.values() if watch.beat is not None}
        self._on_progress(
            Progress(
                assigned={k: beat.assigned for k, beat in beats.items()},
                processed={k: beat.processed for k, beat in beats.items()},
                failed=sum(beat.failed for beat in beats.values()),
                pages=sum(beat.pages for beat in beats.values()),
            )
        )
        busy = [beat for beat in beats.values() if beat.processed]
        categories = {beat.streak_category for beat in busy}
        if len(categories) == 1:
            (category,) = categories
            processed, streak = sum(beat.processed for beat in busy), sum(beat.streak for beat in busy)
            if tripped(processed, streak, category):
                self.stop(f"breaker: {category}: {busy[0].streak_message} ({streak} documents in a row)")
        for beat in beats.values():
            if beat.ended is not None and beat.ended.startswith("breaker"):
                self.stop(beat.ended)

    def _scale(self, now: float) -> None:
        """Another number of workers, if somebody asked for it since the last look."""
        try:
            wish = newest_wish(self._runs, self._spec.run_id)
        except StoreError as failure:
            _log.warning("%s", failure)
            return
        if wish is None or wish == self._wish:
            return
        self._wish = wish
        self._log.info("Scaled to %d workers", wish.workers)
        self._fleet.by_hand = True
        self._resize(wish.workers, now)

    def _resize(self, workers: int, now: float) -> None:
        supervisor.scale(self._fleet, workers, now)
        self._lease.tell(wanted=workers)

    def _govern(self, now: float) -> None:
        if not self._governors:
            return
        seen = self.seen()
        launches: int | None = None
        why = ""
        self._on_demand = False
        for governor in self._governors:
            ruling = governor.govern(self._fleet, seen, now)
            for text in ruling.say:
                self._log.warning("%s", text)
            if ruling.stop is not None:
                self.stop(ruling.stop)
            if ruling.launches is not None and (launches is None or ruling.launches < launches):
                launches, why = ruling.launches, ruling.why
            if ruling.spend is not None:
                self._lease.tell(spend=ruling.spend)
            if ruling.wanted is not None and ruling.wanted != self._fleet.wanted:
                self._resize(ruling.wanted, now)
            self._on_demand = self._on_demand or ruling.on_demand
        self._allowance = Allowance(launches, why)

    def seen(self) -> Seen:
        """What the looks showed so far, for those who govern."""
        return Seen.model_construct(
            beats={watch.worker: watch.beat for watch in self._watches.values() if watch.beat is not None},
            totals=_total(self._totals.values()),
            lives=self._lives,
            over=self._gone,
            withdrawn=self._withdrawn,
        )

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._log.warning("%s", text)

    def _cause(self, why: str) -> str:
        try:
            self._runs.probe()
        except PdfFlowsError as failure:
            return str(failure)
        return why


class _NotLaunched:
    """The handle of a launch that the launcher did not take."""

    begun = False
    flow_run_id = None

    def __init__(self, words: str) -> None:
        self._words = words

    def poll(self) -> End:
        return End(False, self._words, Loss.CAPACITY)

    def drain(self) -> None: ...

    def kill(self) -> None: ...


def _unknown(worker: int, launch: int) -> Life:
    """A life whose start.json makes no sense."""
    nobody = Process(host="unknown", pid=0, started=0)
    return Life(process=nobody, hostname=f"unknown-{worker}-{launch}", launch=launch)


def _total(beats: Collection[Heartbeat]) -> Heartbeat:
    """Counts of many lives together."""
    return Heartbeat(
        assigned=sum(beat.assigned for beat in beats),
        converted=sum(beat.converted for beat in beats),
        skipped=sum(beat.skipped for beat in beats),
        failed=sum(beat.failed for beat in beats),
        released=sum(beat.released for beat in beats),
        pages=sum(beat.pages for beat in beats),
        weight=sum(beat.weight for beat in beats),
        sampled=sum(beat.sampled for beat in beats),
        working_seconds=sum(beat.working_seconds for beat in beats),
    )


def end_former_lives(runs: Store, run_id: str, kept: Collection[str] = ()) -> set[str]:
    """Fence all lives that an earlier parent of the run left; end those that are processes of this host.

    Args:
        kept: flow runs whose lives are adopted.

    Returns the lives ("worker/attempt") that were left as they are, being adopted.
    """
    observer = Observer(runs, time.monotonic)
    living: set[str] = set()
    for worker in numbers(runs, paths.workers(run_id)):
        attempts = numbers(runs, paths.worker(run_id, worker))
        newest = max(attempts, default=-1)
        for attempt in attempts:
            prefix = paths.life(run_id, worker, attempt)
            verdict = observer.over(prefix)
            if verdict is not None and verdict != "process gone":
                continue
            life = observer.life(prefix)
            # Of a flow run that was executed twice the newest life is watched: no other is adopted.
            adopted = attempt == newest and life is not None and life.flow_run_id in kept
            if verdict is None and adopted:
                living.add(f"{worker}/{attempt}")
                continue
            fence(runs, prefix, "another parent took the run over")
            if verdict is None and life is not None and life.process.here() and not life.process.gone():
                os.kill(life.process.pid, signal.SIGKILL)
    return living
