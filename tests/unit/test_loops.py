"""Which repetitions are loops: found as early as promised, told from dotted lines and empty forms."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.engines.dolphin.loops import LEAST_TOKENS, LONGEST_TAIL, MOST_REPEATS, LoopWatch, cut

TAILS = (*range(1, 11), 12, 16, 20, 31, 32, 33, 50, 63, 64, 65, 99, 100)


def naive(ids: list[int]) -> int | None:
    """By looking back over all of them: the shortest tail that stands there often enough."""
    for tail in range(1, LONGEST_TAIL + 1):
        enough = max(MOST_REPEATS * tail, LEAST_TOKENS - tail)  # tokens after the first tail
        if len(ids) < enough + tail or ids[-1] != ids[-1 - tail]:
            continue
        if ids[-enough:] == ids[-enough - tail : -tail]:
            return tail
    return None


def watched(ids: Iterable[int], watch: LoopWatch | None = None) -> tuple[int, int] | None:
    """After how many tokens a loop is found, and of which tail."""
    watch = watch or LoopWatch()
    for count, token in enumerate(ids, start=1):
        if (tail := watch.see(token)) is not None:
            return count, tail
    return None


def unlike(tail: int) -> list[int]:
    """A tail that repeats nothing within itself."""
    return list(range(1000, 1000 + tail))


SEGMENTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 140).map(lambda n: n if n > 9 else 1)
    ),
    max_size=6,
)


@given(segments=SEGMENTS)
@example(segments=[([0, 1], 63), ([0], 1), ([0, 1], 64)])
@example(segments=[([1, 2, 3] * 10, 19), ([1], 1), ([1, 2, 3] * 33, 21)])
@settings(max_examples=60, deadline=None)
def test_as_a_naive_look_back(segments: list[tuple[list[int], int]]) -> None:
    watch, seen = LoopWatch(), []
    for token in [token for tail, times in segments for token in tail * times][:1500]:
        seen.append(token)
        assert watch.see(token) == naive(seen), len(seen)


@pytest.mark.parametrize("before", [0, 1, 99, 299, 300, 301, 1000])
@pytest.mark.parametrize("tail", TAILS)
def test_a_loop_is_found_when_it_is_long_enough_and_not_before(tail: int, before: int) -> None:
    ids = [*range(10_000, 10_000 + before), *(unlike(tail) * 130)]
    assert watched(ids) == (before + max(21 * tail, 128), tail)


def test_all_lengths_of_tails() -> None:
    for tail in range(1, LONGEST_TAIL + 1):
        assert watched(unlike(tail) * 130) == (max(21 * tail, 128), tail)


def test_longer_tails_are_no_loops() -> None:
    assert watched(unlike(LONGEST_TAIL + 1) * 40) is None


def test_dots_and_empty_cells_are_no_loop() -> None:
    contents = [5, 6, *[7] * 60, 8, 9] * 3  # `Chapter ....... 12`, thrice
    form = [10, *[11, 12] * 40, 13]
    assert watched(contents + form) is None
    assert watched([7] * 60 + [11, 12] * 40 + [7] * 60) is None


def test_one_other_token_starts_the_count_again() -> None:
    watch = LoopWatch()
    assert watched([7] * 127 + [8] + [7] * 127 + [8], watch) is None
    assert watched([7] * 130, watch) == (128, 1)


def test_a_loop_stays_one_until_it_ends() -> None:
    watch = LoopWatch()
    found = [watch.see(token) for token in [7] * 130 + [8]]
    assert found == [None] * 127 + [1, 1, 1, None]


def test_cut_keeps_the_first_tail() -> None:
    assert cut([1, 2, 3, *[8, 9] * 70], 2) == [1, 2, 3, 8, 9]
    assert cut([*[8, 9] * 70], 2) == [8, 9]
    assert cut([7] * 128, 1) == [7]
    assert cut([1, 2, 3], 2) == [1, 2, 3]
    assert cut([], 3) == []
    assert cut((8, 9, 8, 9), 2) == [8, 9]


@given(before=st.lists(st.integers(0, 3), max_size=30), tail=st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_cut_of_what_was_found_gives_all_but_repetitions(before: list[int], tail: list[int]) -> None:
    ids = before + tail * 140
    found = watched(ids)
    assert found is not None
    count, length = found
    kept = cut(ids[:count], length)
    repeats, rest = divmod(count - len(kept), length)
    assert rest == 0
    assert kept + kept[-length:] * repeats == ids[:count]
    assert kept[-length:] != kept[-2 * length : -length]
    assert len(kept) < len(before) + 2 * len(tail)
