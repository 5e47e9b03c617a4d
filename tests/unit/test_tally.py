"""Ledgers, tailed and tallied: every record once, and the same counts as the audit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore

from tasks.corpus.audit import reconcile
from tasks.corpus.census import take_census
from tasks.corpus.failures import Category, Failure, Phase
from tasks.corpus.ledger import MERGED, LedgerWriter, Outcome, Record
from tasks.corpus.manifest import Row
from tasks.corpus.tail import LedgerTail
from tasks.corpus.tally import BUCKETS, SLOWEST, Tally, TimeLine

DOCUMENTS = 6


def record(index: int = 0, outcome: Outcome = Outcome.CONVERTED, claim: int = 0, **more: object) -> Record:
    failure = None
    if outcome in (Outcome.FAILED, Outcome.QUARANTINED):
        failure = Failure(
            category=more.pop("category", Category.DAMAGED), phase=Phase.OPEN, message="m", retryable=False
        )
    given = {"worker": 0, "attempt": 0, "epoch": 0, "key": f"{index}.pdf", "name": f"{index}.md", "at": 1.6e9, **more}
    return Record(index=index, outcome=outcome, claim=claim, failure=failure, **given)


RECORDS = st.lists(
    st.builds(
        record,
        st.integers(0, DOCUMENTS - 1),
        st.sampled_from(Outcome),
        st.integers(0, 3),
        pages=st.integers(0, 9),
        worker=st.integers(0, 2),
        category=st.sampled_from([Category.DAMAGED, Category.TIMEOUT]),
    ),
    max_size=30,
)


@given(RECORDS)
def test_it_counts_what_the_audit_counts(records: list[Record]) -> None:
    tally = Tally(DOCUMENTS)
    for one in records:
        tally.add(one)
    rows = [Row(i, f"{i}.pdf", f"{i}.md", 1, "e") for i in range(DOCUMENTS)]
    account = reconcile(rows, records, None).account
    assert tally.converted == account.converted
    assert tally.settled == account.documents - account.remaining
    assert sum(tally.categories().values()) == tally.failed
    assert tally.outcomes == sum(one.outcome.final for one in records)
    assert tally.outcomes - tally.repeated == tally.settled
    for cause, count in tally.causes():
        assert len(tally.examples(cause)) == count


def test_a_failure_that_succeeded_later_is_no_example_any_more() -> None:
    tally = Tally(DOCUMENTS)
    tally.add(record(1, Outcome.FAILED))
    tally.add(record(2, Outcome.FAILED))
    ((cause, count),) = tally.causes()
    assert (count, [example.key for example in tally.examples(cause)]) == (2, ["1.pdf", "2.pdf"])
    tally.add(record(1, claim=1))
    ((cause, count),) = tally.causes()
    assert (count, [example.key for example in tally.examples(cause)]) == (1, ["2.pdf"])


def test_only_the_slowest_are_kept() -> None:
    tally = Tally(1000)
    for index in range(1000):
        tally.add(record(index, seconds={"total": float(index * 7919 % 1000)}))
    assert [slow.seconds for slow in tally.slowest()] == [float(999 - n) for n in range(SLOWEST)]


def test_records_of_documents_that_are_not_the_runs_are_passed_over() -> None:
    tally = Tally(2)
    tally.add(record(5))
    assert (tally.outcomes, tally.converted) == (0, 0)


@given(st.lists(st.tuples(st.floats(allow_nan=True), st.integers(0, 50)), max_size=80))
def test_the_time_line_is_bounded_whatever_the_clocks_say(points: list[tuple[float, int]]) -> None:
    line = TimeLine()
    for at, pages in points:
        line.add(at, pages)
    line.add(1.6e9, 1)
    line.add(1.6e9 + 4e8, 1)
    assert len(line.points()) <= BUCKETS
    kept = sum(pages for at, pages in points if 978_307_200.0 < at < 4_102_444_800.0)
    assert sum(rate * line.width for _, rate in line.points()) == pytest.approx(kept + 2)


def test_a_tail_reads_every_record_once_and_merged_segments_where_it_is_behind() -> None:
    store = MemoryStore()
    writer = LedgerWriter(store, "life/")
    tail = LedgerTail(store, "life/")
    seen: list[int] = []
    number = itertools.count()

    def write(segments: int) -> None:
        for _ in range(segments):
            writer.add(record(next(number)))
            writer.flush()

    def read(most: int = 1000) -> bool:
        records, all_read = tail.read(most)
        seen.extend(one.index for one in records)
        return all_read

    assert read()
    write(5)
    assert read()
    write(3 * MERGED)
    assert read()
    before = store.requests["GET"]
    assert read()
    assert store.requests["GET"] - before == 1
    assert seen == list(range(5 + 3 * MERGED))

    late = LedgerTail(store, "life/")
    before = store.requests["GET"]
    assert len(late.read(1000)[0]) == len(seen)
    assert store.requests["GET"] - before <= 3 * 2 + 5 + 2
    partly = LedgerTail(store, "life/")
    found, all_read = partly.read(MERGED)
    assert (len(found), all_read) == (MERGED, False)


def test_a_segment_that_makes_no_sense_is_passed_over_and_counted() -> None:
    store = MemoryStore()
    store.put("life/ledger-000000.jsonl", b"{not a record}\n")
    store.put("life/ledger-000001.jsonl", record(3).model_dump_json().encode())
    tail = LedgerTail(store, "life/")
    records, all_read = tail.read(10)
    assert ([one.index for one in records], all_read, tail.unreadable) == ([3], True, 1)


def test_a_census_counts_what_waits_by_partition() -> None:
    failure = Failure(category=Category.NAME, phase=Phase.PLAN, message="m", retryable=False)
    rows = [Row(i, f"{i}.pdf", f"{i}.md", 10, "e", done=i == 0, failure=failure if i == 1 else None) for i in range(6)]
    census = take_census(rows, 4)
    assert (census.documents, census.done, census.failed) == (6, 1, {"NAME": 1})
    assert (census.waiting, census.weight, census.partitions) == (4, 40.0, [1, 1, 1, 1])
