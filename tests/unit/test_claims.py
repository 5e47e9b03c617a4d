"""Claims: one holder a number, the newest counts, takeovers only of what is over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus import paths
from tasks.corpus.claims import Claim, Claimed, Claims, Holder, newest
from tasks.corpus.failures import StoreError
from tasks.corpus.store import Store
from tasks.corpus.store_folder import FolderStore

PREFIX = paths.claims("run", 3)
claim_sets = st.dictionaries(
    st.integers(0, 40), st.sets(st.tuples(st.integers(0, 12), st.booleans()), min_size=1), max_size=12
)


def keys_of(claims: dict[int, set[tuple[int, bool]]]) -> list[str]:
    found = []
    for index, numbers in claims.items():
        for n, released in numbers:
            key = paths.claim("run", 3, index, n)
            found += [key, key + ".released"] if released else [key]
    return sorted(set(found), key=str.encode)


@given(claim_sets)
def test_newest_is_the_highest_number_of_each_document(claims: dict[int, set[tuple[int, bool]]]) -> None:
    expected = []
    for index in sorted(claims):
        n = max(number for number, _ in claims[index])
        expected.append(Claimed(index, n, (n, True) in claims[index]))
    assert list(newest(PREFIX, keys_of(claims))) == expected


@given(claim_sets, st.lists(st.sampled_from(["x/0", "7/a", "7/0.tmp", "7/", "", "7/0/0", "-1/0", "7/0.released.old"])))
def test_what_is_no_claim_is_passed_over(claims: dict[int, set[tuple[int, bool]]], strange: list[str]) -> None:
    keys = keys_of(claims)
    mixed = sorted([*keys, *(PREFIX + name for name in strange)], key=str.encode)
    assert list(newest(PREFIX, mixed)) == list(newest(PREFIX, keys))


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_a_listing_sorts_documents_by_index(a: int, b: int) -> None:
    assert (a < b) == (paths.claim("r", 0, a, 0) < paths.claim("r", 0, b, 0))


def claims_of(store: Store, worker: int, attempt: int = 0) -> Claims:
    return Claims(store, "run", Holder(worker=worker, attempt=attempt))


def test_a_number_has_one_holder(store: Store) -> None:
    hands = [claims_of(store, worker) for worker in range(6)]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda hand: hand.take(0, 7), hands))
    (winner,) = [worker for worker, claim in enumerate(got) if claim is not None]
    assert hands[0].holder(0, 7, 0) == Holder(worker=winner, attempt=0)
    assert [hand.mine(Claim(0, 7, 0)) for hand in hands] == [worker == winner for worker in range(6)]


def test_a_lost_response_leaves_the_claim_ours(store: Store) -> None:
    ours = claims_of(store, 1)
    assert ours.take(0, 7) == Claim(0, 7, 0)
    assert ours.take(0, 7) == Claim(0, 7, 0)
    assert claims_of(store, 1, attempt=1).take(0, 7) is None


def test_released_and_taken_over(store: Store) -> None:
    first, second = claims_of(store, 0), claims_of(store, 1)
    claim = first.take(2, 5)
    assert claim is not None
    assert list(second.listed(2)) == [Claimed(5, 0, False)]
    first.release(claim)
    first.release(claim)
    assert list(second.listed(2)) == [Claimed(5, 0, True)]
    assert not first.mine(claim)
    after = second.take(2, 5, 1)
    assert after == Claim(2, 5, 1)
    assert second.mine(after)
    assert not first.mine(claim)
    assert list(first.listed(2)) == [Claimed(5, 1, False)]


def test_a_claim_of_two_digits_is_newer_than_one_of_one(tmp_path: Path) -> None:
    store = FolderStore.from_url(str(tmp_path), create=True)
    hand = claims_of(store, 0)
    for n in range(12):
        assert hand.take(0, 0, n) is not None
    assert list(hand.listed(0)) == [Claimed(0, 11, False)]
    assert hand.mine(Claim(0, 0, 11))
    assert not hand.mine(Claim(0, 0, 9))


def test_a_claim_that_cannot_be_read_is_an_error_and_not_free(tmp_path: Path) -> None:
    store = FolderStore.from_url(str(tmp_path), create=True)
    store.create(paths.claim("run", 0, 1, 0), b"?")
    with pytest.raises(StoreError, match="claim 1/0 of run run can't be read"):
        claims_of(store, 0).take(0, 1)
