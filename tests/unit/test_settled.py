"""What a parent says is settled: never ahead of the ledger, readable by its own run alone, written where there is news."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore

from tasks.corpus import paths
from tasks.corpus.audit import settled
from tasks.corpus.failures import Category, Failure, Phase, StoreError
from tasks.corpus.ledger import Outcome, Record
from tasks.corpus.partition import Bitmap
from tasks.corpus.settled import SettledBoard, SettledBy, Told, decode_settled, encode_settled, read_settled

RUN = "r"


def record(index: int, outcome: Outcome = Outcome.CONVERTED, *, epoch: int = 0, retryable: bool = True) -> Record:
    failed = outcome in (Outcome.FAILED, Outcome.QUARANTINED)
    failure = Failure(category=Category.TIMEOUT, phase=Phase.CONVERT, message="", retryable=retryable)
    return Record(
        worker=0,
        attempt=0,
        epoch=epoch,
        index=index,
        key="",
        name="",
        outcome=outcome,
        at=1.0,
        failure=failure if failed else None,
    )


def bitmap(documents: int, indices: Iterable[int]) -> Bitmap:
    found = Bitmap(documents)
    for index in indices:
        found.add(index)
    return found


def members(found: Bitmap, documents: int) -> set[int]:
    return {index for index in range(documents) if index in found}


records = st.builds(
    record,
    st.integers(-2, 45),
    st.sampled_from(Outcome),
    epoch=st.integers(0, 3),
    retryable=st.booleans(),
)
sets = st.sets(st.integers(0, 39))


@given(sets, st.booleans(), st.integers(0, 9))
def test_what_is_written_is_read(indices: set[int], live: bool, epoch: int) -> None:
    told = Told(bitmap(40, indices), live)
    found = decode_settled(RUN, epoch, 40, encode_settled(RUN, epoch, 40, told))
    assert found is not None
    assert (members(found.found, 40), found.live) == (indices, live)


@given(sets, st.integers(0, 200), st.integers(1, 255), st.sampled_from(["flip", "cut", "insert"]))
def test_what_is_damaged_is_ignored(indices: set[int], place: int, change: int, how: str) -> None:
    good = encode_settled(RUN, 0, 40, Told(bitmap(40, indices), True))
    place %= len(good)
    data = bytearray(good)
    match how:
        case "flip":
            data[place] ^= change
        case "cut":
            del data[place:]
        case _:
            data.insert(place, change)
    found = decode_settled(RUN, 0, 40, bytes(data))
    # What still passes the checksum says the same.
    assert found is None or (members(found.found, 40), found.live) == (indices, True)


@pytest.mark.parametrize(("run", "epoch", "documents"), [("other", 0, 40), (RUN, 1, 40), (RUN, 0, 39), (RUN, 0, 48)])
def test_another_runs_or_another_parents_is_ignored(run: str, epoch: int, documents: int) -> None:
    data = encode_settled(run, epoch, documents, Told(Bitmap(documents), True))
    assert decode_settled(RUN, 0, 40, data) is None
    assert decode_settled(run, epoch, documents, data) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        zstandard.ZstdCompressor().compress(bytes(5)),
        zstandard.ZstdCompressor().compress(b'{"run_id": "r"}\n' + bytes(5)),
        zstandard.ZstdCompressor().compress(bytes(1_000_000)),
        # A frame that says that it holds 2**62 bytes.
        bytes.fromhex("28b52ffde0") + (2**62).to_bytes(8, "little") + bytes(20),
    ],
    ids=["empty", "text", "of an earlier version", "half a header", "far too long", "a lie about its length"],
)
def test_nonsense_is_ignored(data: bytes) -> None:
    store = MemoryStore()
    store.put(paths.settled(RUN, 0), data)
    assert read_settled(store, RUN, 0, 40) is None


def test_one_that_is_not_there_is_none() -> None:
    assert read_settled(MemoryStore(), RUN, 0, 40) is None


@given(st.lists(records, max_size=30), sets, st.integers(0, 3), st.booleans(), st.integers(0, 30))
def test_it_is_never_ahead_of_the_ledger(
    given_: list[Record], before: set[int], epoch: int, retry_failed: bool, first: int
) -> None:
    """However much of the ledger the parent has read, what it says is what a life would have made of those records."""
    store = MemoryStore()
    board = SettledBoard(store, RUN, epoch, 40, retry_failed)
    for one in given_[:first]:
        board.take(one)
    board.begin(bitmap(40, before), resumed=True)
    for upto in (first, len(given_)):
        for one in given_[first:upto]:
            board.take(one)
        board.publish()
        closed = {one.index for one in given_[:upto] if settled(one, epoch, retry_failed)}
        told = read_settled(store, RUN, epoch, 40)
        assert told is not None
        assert members(told.found, 40) == before | {index for index in closed if 0 <= index < 40}


def test_a_start_finds_what_is_closed_for_lives_of_later_parents() -> None:
    by = SettledBy(4, False)
    for one in (
        record(0),
        record(1, Outcome.FAILED),
        record(2, Outcome.FAILED, retryable=False),
        record(3, Outcome.INTENT),
    ):
        by(one)
    assert members(by.found, 4) == {0, 2}


def test_it_is_written_where_there_is_news_and_not_before_the_start_has_looked_back() -> None:
    store = MemoryStore()
    board = SettledBoard(store, RUN, 0, 40, False)
    board.take(record(1))
    board.publish()
    assert read_settled(store, RUN, 0, 40) is None
    board.begin(Bitmap(40), resumed=False)
    told = read_settled(store, RUN, 0, 40)
    assert told is not None
    assert not told.live
    for _ in range(3):
        board.publish()
    told = read_settled(store, RUN, 0, 40)
    assert told is not None
    assert (told.live, members(told.found, 40)) == (True, {1})
    assert store.requests["PUT"] == 2


class Refusing(MemoryStore):
    refuses = True

    def put(self, key: str, data: bytes) -> None:
        if self.refuses:
            raise StoreError("503")
        super().put(key, data)


def test_what_could_not_be_written_is_written_the_next_time() -> None:
    store = Refusing()
    board = SettledBoard(store, RUN, 0, 40, False)
    with pytest.raises(StoreError):
        board.begin(bitmap(40, [3]), resumed=False)
    board.publish()
    store.refuses = False
    board.begin(bitmap(40, [3]), resumed=False)
    store.refuses = True
    board.take(record(4))
    with pytest.raises(StoreError):
        board.publish()
    store.refuses = False
    board.publish()
    told = read_settled(store, RUN, 0, 40)
    assert told is not None
    assert members(told.found, 40) == {3, 4}
