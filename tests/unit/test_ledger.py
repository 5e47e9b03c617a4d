"""The ledger: nothing that was flushed is lost, nothing is written twice, and what can't be read is an error."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.corpus.failures import Category, Failure, Phase, StoreError
from tasks.corpus.ledger import LedgerWriter, Outcome, Publisher, Record, parse_segment, read_ledger, segments
from tasks.corpus.store_folder import FolderStore

PREFIX = "run/workers/0/0/"


def record(index: int, outcome: Outcome = Outcome.CONVERTED, **more: object) -> Record:
    given = {
        "worker": 0,
        "attempt": 0,
        "epoch": 0,
        "index": index,
        "key": f"{index}.pdf",
        "name": f"{index}.md",
        "at": 1.5,
    }
    return Record.model_validate(given | {"outcome": outcome} | more)


class Flaky(FolderStore):
    """Creates fail (before or after they took effect) as `script` says."""

    script: list[str]
    creates = 0

    def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        self.creates += 1
        fate = self.script.pop(0) if self.script else "good"
        if fate == "fails":
            raise StoreError("500")
        created = super().create(key, data, metadata)
        if fate == "lost":
            raise StoreError("lost")
        return created


def flaky(folder: Path, script: list[str]) -> Flaky:
    store = Flaky.from_url(str(folder), create=True)
    assert isinstance(store, Flaky)
    store.script = list(script)
    return store


def written(store: FolderStore) -> list[Record]:
    return list(read_ledger(store, [PREFIX]))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        record,
        st.integers(0, 10**9),
        st.sampled_from(Outcome),
        key=texts,
        name=texts,
        claim=st.integers(0, 99),
        epoch=st.integers(0, 9),
        pages=st.none() | st.integers(0, 9),
        gaps=st.lists(st.integers(1, 9)),
        warnings=st.lists(texts),
        publisher=st.none() | st.builds(Publisher, st.integers(0, 9), st.integers(0, 9)),
        failure=st.none()
        | st.builds(
            Failure,
            category=st.sampled_from(Category),
            phase=st.sampled_from(Phase),
            message=texts,
            retryable=st.booleans(),
        ),
    )
)
def test_a_line_comes_back_as_it_was(one: Record) -> None:
    line = one.model_dump_json(exclude_defaults=True).encode() + b"\n"
    # Separators that splitlines knows and JSON does not escape must not tear a line apart.
    assert parse_segment(line + line, "k") == [one, one]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["add", "flush", "fails", "lost"]), max_size=25))
def test_what_was_added_is_there_once_and_in_order(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    store = flaky(tmp_path_factory.mktemp("ledger"), [])
    writer = LedgerWriter(store, PREFIX)
    added = 0
    for step in steps:
        if step == "add":
            writer.add(record(added))
            added += 1
            continue
        store.script = [step] if step != "flush" else []
        before = store.creates
        try:
            writer.flush()
        except StoreError:
            assert step != "flush"
        else:
            assert step == "flush" or store.creates == before
            assert [one.index for one in written(store)] == list(range(added))
    store.script = []
    writer.flush()
    assert [one.index for one in written(store)] == list(range(added))
    creates = store.creates
    writer.flush()
    assert store.creates == creates


def test_a_flush_up_to_a_place_that_is_durable_writes_nothing(tmp_path: Path) -> None:
    store = flaky(tmp_path, [])
    writer = LedgerWriter(store, PREFIX)
    first, second = writer.add(record(0)), writer.add(record(1))
    writer.flush(first)
    writer.flush(second)
    assert store.creates == 1


def test_flushes_at_the_same_time_share_a_segment(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(Flaky):
        def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
            gate.wait(10)
            return super().create(key, data, metadata)

    store = Slow.from_url(str(tmp_path), create=True)
    assert isinstance(store, Slow)
    store.script = []
    writer = LedgerWriter(store, PREFIX)
    with ThreadPoolExecutor(8) as pool:
        places = [writer.add(record(index)) for index in range(8)]
        waiting = [pool.submit(writer.flush, place) for place in places]
        gate.set()
        for future in waiting:
            future.result(timeout=10)
    assert store.creates == 1
    assert [one.index for one in written(store)] == list(range(8))


def test_records_do_not_wait_longer_than_they_may(tmp_path: Path) -> None:
    now = [0.0]
    store = flaky(tmp_path, [])
    writer = LedgerWriter(store, PREFIX, lambda: now[0])
    writer.flush_if_due()
    writer.add(record(0))
    now[0] = 14.9
    writer.add(record(1))
    writer.flush_if_due()
    assert store.creates == 0
    now[0] = 15.0
    writer.flush_if_due()
    assert len(written(store)) == 2
    store.script = ["fails"]
    writer.add(record(2))
    with pytest.raises(StoreError):
        writer.flush()
    writer.flush_if_due()  # a segment in doubt is due at once
    assert len(written(store)) == 3


def test_lives_are_read_in_order_and_only_their_segments(tmp_path: Path) -> None:
    store = flaky(tmp_path, [])
    for attempt in range(3):
        prefix = f"run/workers/0/{attempt}/"
        writer = LedgerWriter(store, prefix)
        for part in range(12):
            writer.add(record(100 * attempt + part))
            writer.flush()
        store.put(f"{prefix}heartbeat.json", b"{}")
    found = [one.index for one in read_ledger(store, ["run/workers/"])]
    assert found == [100 * attempt + part for attempt in range(3) for part in range(12)]
    assert [one.index for one in read_ledger(store, ["run/workers/0/1/"], parallel=2)] == list(range(100, 112))


def test_a_segment_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    store = flaky(tmp_path, [])
    store.create(f"{PREFIX}ledger-000000.jsonl", b'{"index": 1}\n')
    with pytest.raises(StoreError, match=r"ledger segment run/workers/0/0/ledger-000000.jsonl can't be read"):
        written(store)


def test_segments_are_told_by_their_names() -> None:
    keys = ["a/b/ledger-000001.jsonl", "a/ledger-000001.jsonl/b", "a/ledger-000001.jsonl.tmp", "a/start.json"]
    assert list(segments(keys)) == keys[:1]


def test_what_is_merged_is_read_once() -> None:
    keys = [
        "r/workers/0/0/ledger+000000-000255.jsonl",
        "r/workers/0/0/ledger-000000.jsonl",
        "r/workers/0/0/ledger-000255.jsonl",
        "r/workers/0/0/ledger-000256.jsonl",
        "r/workers/0/1/ledger-000000.jsonl",
    ]
    assert list(segments(sorted(keys))) == [keys[0], keys[3], keys[4]]


def test_many_segments_are_merged_and_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.corpus.ledger.MERGED", 4)
    store = flaky(tmp_path, [])
    writer = LedgerWriter(store, PREFIX)
    refused = [True, False, False]
    create = store.create

    def refusing(key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        if "+" in key and refused.pop(0):
            raise StoreError("500")
        return create(key, data, metadata)

    monkeypatch.setattr(store, "create", refusing)
    for index in range(10):
        writer.add(record(index))
        writer.flush()
    assert [one.index for one in written(store)] == list(range(10))
    merged = [info.key for info in store.list(PREFIX) if "+" in info.key]
    assert merged == [f"{PREFIX}ledger+000000-000004.jsonl", f"{PREFIX}ledger+000005-000008.jsonl"]
    reads: list[str] = []
    read = store.read
    monkeypatch.setattr(store, "read", lambda key: reads.append(key) or read(key))
    assert len(written(store)) == 10
    assert len(reads) == 3
