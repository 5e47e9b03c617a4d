"""Claims: create-if-absent objects that give one life the right to convert one document.

`claims/<partition>/<index>/<n>` with n = 0, 1, ...: n + 1 takes over a released or expired n. Who wins is decided by
the store's create-if-absent alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.corpus import paths
from tasks.corpus.failures import StoreError
from tasks.corpus.lives import read_fence
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store


class Holder(BaseModel):
    """A claim's content: the life that holds it."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    worker: int
    attempt: int
    alone: bool = False
    """Nothing else was in its hands while it had this one, which is a suspect."""

    def same(self, other: Holder) -> bool:
        """Whether it is the same life."""
        return (self.worker, self.attempt) == (other.worker, other.attempt)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that this life holds."""

    partition: int
    index: int
    n: int


SUSPECT_DEATHS = 2
"""A document that so many workers died with runs alone, in a fresh sandbox child (DESIGN section 4, promise 6)."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What the deaths of a document's former holders say about it."""

    deaths: int = 0
    """Of lives that had it in hand, and that may have been its doing."""
    alone: bool = False
    """One of them had nothing else in hand, after two others had died: it is quarantined."""

    @property
    def suspect(self) -> bool:
        """It has to run alone."""
        return self.deaths >= SUSPECT_DEATHS


@dataclass(slots=True)
class Claimed:
    """The newest claim on a document, as a listing shows it."""

    index: int
    n: int
    released: bool


def newest(partition_prefix: str, keys: Iterable[str]) -> Iterator[Claimed]:
    """The newest claim of each document from a sorted listing of one partition's claims. Pure; streams."""
    current: Claimed | None = None
    begin = len(partition_prefix)
    for key in keys:
        index_text, _, rest = key[begin:].partition("/")
        if rest == "0" and index_text.isdigit():  # most of a large run's
            index, n, released = int(index_text), 0, False
        else:
            number, dot, suffix = rest.partition(".")
            if not index_text.isdigit() or not number.isdigit() or (dot and suffix != "released"):
                continue
            index, n, released = int(index_text), int(number), bool(dot)
        if current is not None and current.index != index:
            yield current
            current = None
        # "10" sorts before "9": compare numbers, not names.
        if current is None or n > current.n:
            current = Claimed(index, n, released)
        elif n == current.n and released:
            current = Claimed(index, n, True)
    if current is not None:
        yield current


class Claims:
    """One life's hand on the claims of a run."""

    def __init__(self, store: Store, run_id: str, holder: Holder) -> None:
        self._store = store
        self._run_id = run_id
        self._holder = holder
        self._content = holder.model_dump_json().encode()

    def take(self, partition: int, index: int, n: int = 0, *, alone: bool = False) -> Claim | None:
        """Claim `n` on a document, None if another life has it; `alone` says that it will be the only one in hand."""
        key = paths.claim(self._run_id, partition, index, n)
        content = self._holder.model_copy(update={"alone": True}).model_dump_json().encode() if alone else self._content
        if self._store.create(key, content, {"worker": str(self._holder.worker)}):
            return Claim(partition, index, n)
        # A lost response makes our own claim look like another's; its content tells.
        return Claim(partition, index, n) if self._holder.same(self.holder(partition, index, n)) else None

    def release(self, claim: Claim) -> None:
        """Give a claim back unfinished: the next life need not wait for it to expire."""
        self._store.create(paths.released(self._run_id, claim.partition, claim.index, claim.n), b"")

    def holder(self, partition: int, index: int, n: int) -> Holder:
        """Who holds claim `n`. Raises NotFound where there is none."""
        try:
            return Holder.model_validate_json(self._store.read(paths.claim(self._run_id, partition, index, n)))
        except ValidationError as error:
            raise StoreError(f"claim {index}/{n} of run {self._run_id} can't be read") from error

    def mine(self, claim: Claim) -> bool:
        """Whether the claim is still this life's and the newest: what a holder in doubt reads before it publishes."""
        prefix = paths.claim(self._run_id, claim.partition, claim.index, 0)[: -len("0")]
        found = [info.key for info in self._store.list(prefix)]
        top = next(iter(newest(paths.claims(self._run_id, claim.partition), found)), None)
        if top is None or top.n != claim.n or top.released:
            return False
        return self._holder.same(self.holder(claim.partition, claim.index, claim.n))

    def suspicion(self, partition: int, index: int, below: int) -> Suspicion:
        """What the ends of a document's former holders, claims 0 to `below` - 1, say about it. Raises StoreError."""
        prefix = paths.claim(self._run_id, partition, index, 0)[: -len("0")]
        names = {info.key[len(prefix) :] for info in self._store.list(prefix)}
        found = Suspicion()
        for n in range(below):
            if str(n) not in names or f"{n}.released" in names:
                continue
            holder = self.holder(partition, index, n)
            fence = read_fence(self._store, paths.life(self._run_id, holder.worker, holder.attempt))
            if fence is not None and fence.blame:
                found = Suspicion(found.deaths + 1, found.alone or holder.alone)
        return found

    def listed(self, partition: int) -> Iterator[Claimed]:
        """The newest claims of a partition, in order of the index."""
        prefix = paths.claims(self._run_id, partition)
        return newest(prefix, (info.key for info in self._store.list(prefix)))
