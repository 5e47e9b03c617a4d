"""Partitions: every document is in one, and thieves visit all of them, each in an order of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.partition import Bitmap, documents_of, in_turn, partition_of

sizes = st.integers(1, 60)


@given(st.integers(0, 200), sizes, st.sets(st.integers(0, 59)))
def test_the_documents_of_partitions_are_those_that_the_modulo_says(
    documents: int, partitions: int, some: set[int]
) -> None:
    chosen = [p for p in some if p < partitions]
    found = documents_of(chosen, documents, partitions).tolist()
    assert found == [index for index in range(documents) if partition_of(index, partitions) in chosen]


@given(st.integers(0, 200), sizes, st.sets(st.integers(0, 199)))
def test_what_is_outside_a_bitmap(documents: int, partitions: int, inside: set[int]) -> None:
    found = Bitmap(200)
    for index in inside:
        found.add(index)
    some = documents_of([0], documents, partitions)[::-1]
    assert found.outside(some).tolist() == [index for index in some.tolist() if index not in inside]


@given(sizes, st.integers(0, 300), st.integers(0, 59))
def test_a_thief_visits_every_partition_once(partitions: int, worker: int, first: int) -> None:
    order = in_turn(first % partitions, partitions, worker)
    assert order[0] == first % partitions
    assert sorted(order) == list(range(partitions))


def test_thieves_that_begin_at_one_place_part() -> None:
    seconds = {in_turn(0, 200, worker)[1] for worker in range(80)}
    assert len(seconds) == 80
