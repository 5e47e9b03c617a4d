"""A worker's pulse: the heartbeat, and all that has to be looked at or written while documents take their time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from tasks.corpus import paths
from tasks.corpus.failure_file import FailureFile
from tasks.corpus.failures import Category, Fenced, NotFound, StoreError
from tasks.corpus.ledger import Counts, LedgerWriter, Record
from tasks.corpus.lives import BEAT_SECONDS, DOUBT_SECONDS, Heartbeat, Stage, boot_seconds
from tasks.corpus.store import Store
from tasks.ticker import Ticker

PARENT_PATIENCE_SECONDS = 180.0
"""A worker whose parent's heartbeat stood still so long drains."""
SPEND_PATIENCE_SECONDS = 180.0
"""A worker of a run with a budget claims nothing, and drains, when its parent's spend record has stood still so long."""
HEIR_SECONDS = 20.0
"""After so long without a heartbeat of the parent a worker looks for a parent that took the run over."""
PACES = 50
"""The slowest of so many last steps is the engine's pace."""
FIRST_OUTCOMES = 20
IN_A_ROW = 30
"""The breaker: the first 20 outcomes, or 30 in a row, failed with one systemic cause."""

_log = logging.getLogger("pdf_flows.pulse")


def tripped(processed: int, streak: int, category: Category | None) -> bool:
    """Whether the breaker trips. Pure; for one worker's counts or for those of all workers together."""
    if category is None or not category.systemic:
        return False
    return streak >= IN_A_ROW or (streak >= FIRST_OUTCOMES and streak == processed)


class Pulse:
    """Beats every `seconds` in a thread of its own; a context manager around the work.

    Args:
        drain: called with the reason when the work has to stop: fenced, stopped by the parent, parent gone, breaker.
    """

    def __init__(
        self,
        runs: Store,
        run_id: str,
        worker: int,
        attempt: int,
        epoch: int,
        ledger: LedgerWriter,
        failures: FailureFile,
        drain: Callable[[str], None],
        seconds: float = BEAT_SECONDS,
        *,
        budgeted: bool = False,
        parent_patience: float = PARENT_PATIENCE_SECONDS,
    ) -> None:
        self._runs = runs
        self._run_id = run_id
        self._prefix = paths.life(run_id, worker, attempt)
        self._worker = worker
        self._epoch = epoch
        self._budgeted = budgeted
        self._patience = parent_patience
        self._ledger = ledger
        self._failures = failures
        self._drain = drain
        self._lock = threading.Lock()
        self._beating = threading.Lock()
        self._state = Heartbeat()
        self._beaten = boot_seconds()
        self._fenced = False
        self._parent_seen: tuple[int, float] | None = None
        self._spend_seen: tuple[int | None, float] = (None, boot_seconds())
        self._spend_moved = time.monotonic()
        self._moved = time.monotonic()
        self._paces: deque[float] = deque(maxlen=PACES)
        self._ready_at: float | None = None
        self._said: set[str] = set()
        self._ticker = Ticker("pulse", min(seconds, BEAT_SECONDS), self._tick)

    def __enter__(self) -> Pulse:
        self.beat()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop()

    # -- what the work tells ---------------------------------------------------------------------------------------

    def assign(self, assigned: int) -> None:
        """How many documents this life has to do."""
        with self._lock:
            self._state.assigned = assigned

    @property
    def epoch(self) -> int:
        """Of the parent that supervises this life by now."""
        return self._epoch

    @property
    def counts(self) -> Counts:
        """What became of this life's documents so far."""
        with self._lock:
            return Counts.model_validate(self._state.model_dump(include=set(Counts.model_fields)))

    def sample(self, left: int | None) -> None:
        """How many documents of the canary's sample are not done."""
        with self._lock:
            self._state.sample_left = left

    def stage(self, stage: Stage, why: str = "") -> None:
        """What the life is at, and why it drains."""
        with self._lock:
            self._state.stage = stage
            self._state.draining = self._state.draining or why
            if stage is Stage.WORKING and self._ready_at is None:
                self._ready_at = self._moved = time.monotonic()

    @property
    def progress(self) -> Heartbeat:
        """What the next heartbeat would say."""
        with self._lock:
            state = self._state.model_copy()
        if self._ready_at is not None:
            state.working_seconds = time.monotonic() - self._ready_at
        return state

    def begin(self, key: str) -> None:
        """A document is in hand."""
        with self._lock:
            if not self._state.in_hand:
                self._moved = time.monotonic()  # waiting for a document is no pace
            self._state.in_hand = [*self._state.in_hand, key]
            self._state.activity += 1

    def end(self, key: str) -> None:
        """A document is out of hand."""
        with self._lock:
            self._step()
            self._state.in_hand = [other for other in self._state.in_hand if other != key]
            self._state.page = None

    def page(self, page: int) -> None:
        """The page in hand."""
        with self._lock:
            self._step()
            self._state.page = page

    def _step(self) -> None:
        now = time.monotonic()
        self._paces.append(now - self._moved)
        self._moved = now
        self._state.activity += 1
        self._state.slowest = round(max(self._paces), 3)

    def outcome(self, record: Record, weight: int = 0, sampled: bool = False) -> None:
        """A document's end: counts, failures file, breaker.

        Args:
            weight: the document's (`tasks/corpus/rowtable.py`).
            sampled: it is of the canary's sample.
        """
        self._failures.note(record)
        with self._lock:
            state = self._state
            state.count(record)
            if not record.outcome.final:
                return
            state.weight += weight
            state.sampled += sampled
            category = record.failure.category if record.failure is not None else None
            if category is None:
                state.streak, state.streak_category, state.streak_message = 0, None, ""
            else:
                state.streak = state.streak + 1 if category == state.streak_category else 1
                state.streak_category = category
                state.streak_message = record.failure.message if record.failure is not None else ""
            trips = tripped(state.processed, state.streak, state.streak_category)
            urgent = category is not None and category.systemic
            message = f"{state.streak_category}: {state.streak_message} ({state.streak} documents in a row)"
        if trips:
            self._drain(f"breaker: {message}")
        if urgent:
            # The parent's breaker counts over all workers: let it see this now, not at the next beat.
            self._try(self.beat)

    # -- what publishing asks --------------------------------------------------------------------------------------

    def in_doubt(self) -> bool:
        """No successful heartbeat for 45 s (by CLOCK_BOOTTIME): read claim and fence before publishing."""
        return boot_seconds() - self._beaten >= DOUBT_SECONDS

    def raise_if_fenced(self) -> None:
        """Raises Fenced once this life was seen to be fenced."""
        if self._fenced:
            raise Fenced(f"{self._prefix} was fenced")

    def fenced(self) -> bool:
        """Read the fence now."""
        if self._runs.head(f"{self._prefix}fenced") is not None:
            self._fenced = True
        return self._fenced

    def beat(self, ended: str | None = None) -> None:
        """One heartbeat; one that comes late ends the doubt only after a look at the fence. Raises StoreError."""
        with self._beating:
            with self._lock:
                self._state.counter += 1
                self._state.at = round(time.time(), 3)
                if self._ready_at is not None:
                    self._state.working_seconds = round(time.monotonic() - self._ready_at, 3)
                # Whoever beats after the last beat must not call the life back.
                self._state.ended = ended or self._state.ended
                data = self._state.model_dump_json().encode()
            begun = boot_seconds()
            self._runs.put(f"{self._prefix}heartbeat.json", data)
            if self.in_doubt():
                # An observer may have fenced this life meanwhile: a beat alone would let it publish unknowing.
                self.fenced()
            self._beaten = begun

    def close(self, ended: str) -> None:
        """The last beat: nothing will be published any more. A store that fails now only delays the successor."""
        self._ticker.stop()
        self._try(self._failures.write)
        self._try(lambda: self.beat(ended))

    # -- the thread ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        for step in (self.beat, self._look, self._ledger.flush_if_due, self._failures.write):
            self._try(step)
        # Whether the store or the parent is away: what is in hand costs money, and nobody reckons with it any longer. Time that
        # the machine was suspended is no reason to leave: its parent slept with it.
        if self._budgeted and time.monotonic() - self._spend_moved >= SPEND_PATIENCE_SECONDS:
            self._drain("the spend record stands still: nobody says that there is money left")

    def may_claim(self) -> bool:
        """Whether claiming is allowed: in a run with a budget, only while its parent's spend record advances."""
        # Suspended time counts: machines are paid for meanwhile.
        return not self._budgeted or boot_seconds() - self._spend_seen[1] < SPEND_PATIENCE_SECONDS

    def _look(self) -> None:
        if self.fenced():
            self._drain("fenced: another life took over")
            return
        try:
            reason = self._runs.read(f"{self._parent}stop.json").decode(errors="replace")
        except NotFound:
            reason = ""
        if reason:
            self._drain(reason)
        if self._parent_gone():
            self._drain("the parent is gone")

    @property
    def _parent(self) -> str:
        return paths.parent(self._run_id, self._epoch)

    def _parent_gone(self) -> bool:
        """The parent's counter stood still for its patience. Lives without a parent have none to miss."""
        try:
            beat = Heartbeat.model_validate_json(self._runs.read(f"{self._parent}heartbeat.json"))
        except (NotFound, ValueError):
            return False
        now = time.monotonic()
        if self._parent_seen is None or self._parent_seen[0] != beat.counter:
            self._parent_seen = (beat.counter, now)
        if self._spend_seen[0] != beat.spend:
            self._spend_seen, self._spend_moved = (beat.spend, boot_seconds()), time.monotonic()
        if beat.wanted is not None and self._worker >= beat.wanted:
            self._drain(f"scaled to {beat.wanted} workers")
        still = now - self._parent_seen[1]
        if (still >= HEIR_SECONDS or beat.ended is not None) and self._adopted():
            return False
        return still >= self._patience

    def _adopted(self) -> bool:
        """Whether another parent took the run over: it is this life's from now on."""
        if self._runs.head(f"{paths.parent(self._run_id, self._epoch + 1)}lease.json") is None:
            return False
        self._epoch += 1
        self._parent_seen = None
        _log.info("%s: parent %d took the run over", self._prefix, self._epoch)
        return True

    def _try(self, step: Callable[[], object]) -> None:
        try:
            step()
        except StoreError as error:
            # The next beat tries again; until then the life is in doubt and says so by not publishing.
            # Said once: a full disk would be said with every beat.
            if str(error) not in self._said:
                self._said.add(str(error))
                _log.warning("%s: %s", self._prefix, error)
