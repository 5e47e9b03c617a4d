"""One worker as the parent sees it: its launch, its newest life, and what that life's heartbeats say."""

from __future__ import annotations

from collections.abc import Callable

from tasks.corpus import paths
from tasks.corpus.failures import StoreError
from tasks.corpus.lives import Heartbeat, Life, Observer, Stage, fence, numbers
from tasks.corpus.store import Store
from tasks.fleet.launcher import End, Handle
from tasks.fleet.supervisor import Sight
from tasks.words import COMPLETE, FAULT

NEW_LIFE_SECONDS = 20.0
"""A life that has been silent so long may have a successor in the same launch (Prefect's AwaitingRetry): look for one."""

EXECUTED_AGAIN = "its flow run was executed again"


class Watch:
    """Watches worker `worker` through the store; knows nothing of lives that a former parent's launches had.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, runs: Store, run_id: str, worker: int, clock: Callable[[], float]) -> None:
        self._runs, self._run_id, self.worker, self._clock = runs, run_id, worker, clock
        self._observer = Observer(runs, clock)
        self._newest = max(numbers(runs, paths.worker(run_id, worker)), default=-1)
        self._first = self._began_with = self._newest + 1
        """The first life of this launch."""
        self.handle: Handle | None = None
        self._since = 0.0
        self._began_at: float | None = None
        self._beat_of: int | None = None
        self.life: int | None = None
        self.facts: Life | None = None
        """start.json of the newest life."""
        self.beat: Heartbeat | None = None
        """The last heartbeat that was seen of this parent's lives, kept after their end."""
        self._counted: tuple[int, int] = (-1, 0)
        """Life, and how many of its outcomes were told."""
        self._new = 0
        self._moved: tuple[int, float] = (-1, 0.0)
        self._blind = False
        self._outlived: list[int] = []
        """Lives of this launch that have a newer one, not looked at yet."""

    def launched(self, handle: Handle, *, unfenced: bool = False) -> None:
        """A new launch of the worker.

        Args:
            unfenced: the lives before it are still to be fenced.
        """
        self.handle, self._since = handle, self._clock()
        self._began_at = self._since if handle.begun else None
        if not unfenced:
            self._first = self._newest + 1
        self.life = self.facts = None
        self._blind = False

    def adopted(self, handle: Handle) -> None:
        """A launch of a former parent, which lives or is to; what its life did before is in the account already."""
        self.handle, self._since, self._began_at = handle, self._clock(), None
        if self._newest >= 0:
            self._first = self._newest
            # One that came since the former lives were ended: the one before it was left alive.
            self._outlived = [self._newest - 1] if self._newest else []
        beat = self._observer.heartbeat(self._prefix(self._newest)) if self._newest >= 0 else None
        self._counted = (self._newest, beat.processed if beat is not None else 0)

    def look(self) -> None:
        """Read what there is to read: one request, or two while it has no life yet."""
        try:
            if self.life is None or self._still() >= NEW_LIFE_SECONDS or self._over():
                self._find_life()
            if self.life is None:
                self._blind = False
                return
            beat = self._observer.heartbeat(self._prefix(self.life))
            if beat is not None:
                self._take_in(self.life, beat)
            self._blind = False
        except StoreError:
            # That nothing moved is no news of anybody as long as nothing can be seen.
            self._observer.forget()
            self._blind = True
            raise

    def forget(self) -> None:
        """The parent could not look for a while (it slept): its silence is counted anew."""
        self._observer.forget()
        self._moved = (self._moved[0], self._clock())

    def sight(self) -> Sight | None:
        """What is seen now; None where nothing was launched. Asks nobody but the launcher's handle."""
        if self.handle is None:
            return None
        now = self._clock()
        end = self.handle.poll()
        begun = self.handle.begun
        if begun and self._began_at is None:
            self._began_at = now
        beat = self.beat if self.life is not None and self._has_beat else None
        new, self._new = self._new, 0
        word = beat.ended if beat is not None else None
        return Sight(
            over=end is not None,
            orderly=end is not None and end.orderly,
            cancelled=end is not None and end.cancelled,
            words=end.words if end is not None else "",
            loss=end.loss if end is not None else None,
            began=begun or beat is not None,
            waited=now - (self._began_at if begun and self._began_at is not None else self._since),
            beaten=beat is not None,
            still=self._still(),
            blind=self._blind,
            last_word=word,
            complete=word == COMPLETE,
            fault=word is not None and word.startswith(FAULT),
            loading=beat is not None and beat.stage is Stage.LOADING,
            idle=now - self._moved[1] if beat is not None else 0.0,
            slowest=beat.slowest if beat is not None else 0.0,
            outcomes=new,
            in_hand=len(beat.in_hand) if beat is not None and word is None else 0,
        )

    def fence(self, why: str, *, blame: bool) -> None:
        """Forbid all lives of this launch to publish. Raises StoreError."""
        self._find_life()
        for life in range(self._first, self._newest + 1):
            fence(self._runs, self._prefix(life), why, blame=blame)

    def fence_outlived(self) -> list[int]:
        """Fence the lives that have a newer one in the same launch, and did not say that they are over. Raises StoreError.

        A flow run that is executed a second time (a retry of Prefect's, a copy) has the newest life; what the others had in
        hand is left by them, whether they are dead or go on.
        """
        fenced = []
        while self._outlived:
            life = self._outlived[0]
            beat = self._observer.heartbeat(self._prefix(life))
            if (beat is None or beat.ended is None) and fence(self._runs, self._prefix(life), EXECUTED_AGAIN):
                fenced.append(life)
            self._outlived.pop(0)
        return fenced

    def lives(self) -> range:
        """Lives that began since this parent watches the worker. Raises StoreError."""
        self._find_life()
        return range(self._began_with, self._newest + 1)

    def gone(self) -> None:
        """The launch is over, or given up."""
        self.handle = None

    def end(self) -> End | None:
        """What the launcher's handle says."""
        return self.handle.poll() if self.handle is not None else None

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def _has_beat(self) -> bool:
        return self._beat_of == self.life

    def _prefix(self, life: int) -> str:
        return paths.life(self._run_id, self.worker, life)

    def _still(self) -> float:
        if self.life is None:
            return 0.0
        return self._observer.stood(self._prefix(self.life), self.beat if self._has_beat else None)

    def _over(self) -> bool:
        return self.handle is not None and self.handle.poll() is not None

    def _find_life(self) -> None:
        """The newest life's number; one request a look, not a listing of all that the worker ever wrote."""
        while self._runs.head(self._prefix(self._newest + 1) + "start.json") is not None:
            self._newest += 1
        if self._newest >= self._first and self.life != self._newest:
            # Read first: a life that is taken up without its facts would never be asked for them again, nor paid for.
            facts = self._observer.life(self._prefix(self._newest))
            self._outlived += range(self._first if self.life is None else self.life, self._newest)
            self.life, self.facts = self._newest, facts
            self._moved = (-1, self._clock())

    def _take_in(self, life: int, beat: Heartbeat) -> None:
        known = self._counted[1] if self._counted[0] == life else 0
        self._new += max(0, beat.processed - known)
        self._counted = (life, max(known, beat.processed))
        if self._moved[0] != beat.activity:
            self._moved = (beat.activity, self._clock())
        self.beat, self._beat_of = beat, life
