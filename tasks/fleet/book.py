"""The spend record: the ledger of a run's spending where it outlives its parent.

AWS forgets terminated instances within an hour, so this record is the only one. `spend.json` holds all that is needed to go on,
written anew each minute; each rental that is over is written once as a line of its own, for whoever wants to add up by hand.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.fleet.budget import Memory
from tasks.fleet.money import Money
from tasks.fleet.prices import Prices, confirm
from tasks.fleet.spend import Spend

SCHEMA = 1


class Records(Protocol):
    """Where records are kept. Raises what it raises: the book is as it was, and the next write writes all."""

    def read(self, key: str) -> bytes | None:
        """None where there is none."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Create or replace."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Create if absent; False where it is there."""
        ...


class BadRecord(ValueError):
    """The spend record is there and makes no sense: going on without it could break the budget."""


class Overtaken(RuntimeError):
    """Another parent writes the record by now: what this one knows must not replace it."""


class Record(BaseModel):
    """spend.json."""

    model_config = ConfigDict(allow_inf_nan=False)

    schema_version: int = SCHEMA
    counter: int = 0
    """Counts the writes, on through all parents of the run: workers of a run with a budget claim while it advances."""
    written: float = 0.0
    """Wall clock of the parent's host, seconds since 1970: the next parent measures the gap with it."""
    writer: str = ""
    """Of the parent that wrote it: one whose answer was lost knows its own record again."""
    spent: float = 0.0
    """USD, for readers; the sum of the rest."""
    spend: Spend = Spend()
    memory: Memory = Memory()
    money: Money | None = None
    """What people are shown of it, projection included, as of this write."""


def boot_clock() -> float:
    """Seconds since boot, suspended time included: machines are paid for while the parent's laptop sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SpendBook:
    """One parent's spend ledger with its record. Not thread-safe: the supervising thread owns it.

    Args:
        prefix: key of the folder of the record, ends with "/".
        orphan_seconds: `Terms.orphan_seconds`.

    Raises BadRecord, and what `records` raises.
    """

    def __init__(
        self,
        records: Records,
        prefix: str,
        *,
        orphan_seconds: float,
        clock: Callable[[], float] = boot_clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._records, self._prefix, self._clock, self._wall = records, prefix, clock, wall
        self._writer = uuid.uuid4().hex
        data = records.read(self._key)
        record = Record() if data is None else _parse(data, self._key)
        self.counter = record.counter
        self.spend = record.spend
        self.memory = record.memory.resumed()
        """The caller's to replace with each assessment's."""
        self.money: Money | None = None
        """The caller's to set: goes into the record for those who watch."""
        self.found = data is not None
        """Whether an earlier parent left a record."""
        if self.found:
            self.spend.resume(wall() - record.written, orphan_seconds=orphan_seconds)
        self._zero = clock() - self.spend.at

    @property
    def now(self) -> float:
        """The run second; never goes back."""
        return max(self.spend.at, self._clock() - self._zero)

    def confirm(self, prices: Prices) -> None:
        """Confirm the prices of all machines up to now."""
        confirm(self.spend, prices, self.now)

    def write(self) -> int:
        """Make it durable: first what is over, each as its own line, then the record. Returns the new counter.

        Until it returns, the record stands still for workers; before a machine is asked for, it must have returned.
        Raises Overtaken.
        """
        data = self._records.read(self._key)
        found = Record() if data is None else _parse(data, self._key)
        if found.counter > self.counter:
            if found.writer != self._writer:
                raise Overtaken(f"{self._key} is another parent's by now: this one writes it no more")
            self.counter = found.counter  # written, and the answer was lost
        now = self.now
        self.spend.at = now
        left = self.spend.model_copy(deep=True)
        for closed in left.fold(now):
            line = closed.model_dump_json(exclude_defaults=True).encode() + b"\n"
            # Named by what it is, so that a parent that was lost between the two writes has it written once all the same.
            name = hashlib.sha256(f"{closed.rental.machine.id}/{closed.rental.since:.3f}".encode()).hexdigest()[:24]
            self._records.create(f"{self._prefix}rentals/{name}.jsonl", line)
        record = Record(
            counter=self.counter + 1,
            written=self._wall(),
            writer=self._writer,
            spent=left.spent(now),
            spend=left,
            memory=self.memory,
            money=self.money,
        )
        self._records.put(self._key, record.model_dump_json(exclude_defaults=True).encode())
        self.counter, self.spend = record.counter, left
        return self.counter

    @property
    def _key(self) -> str:
        return f"{self._prefix}spend.json"


def _parse(data: bytes, key: str) -> Record:
    try:
        record = Record.model_validate_json(data)
    except ValidationError as error:
        raise BadRecord(
            f"{key} is no spend record ({error.errors()[0]['msg']}): put back an earlier "
            "version of it, or remove it, and what was spent is forgotten"
        ) from error
    if record.schema_version > SCHEMA:
        raise BadRecord(
            f"{key} was written by a newer version of pdf-flows (schema {record.schema_version}): use that one"
        )
    return record
