"""One suite for both backends of the storage protocol."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores_kit import ODD, keys

from tasks.corpus.failures import Category, NotFound, StoreError
from tasks.corpus.store import Store, check_readable
from tasks.corpus.store_folder import FolderStore


def test_objects_come_back_as_they_were_put(store: Store, tmp_path: Path) -> None:
    assert keys(store) == []
    assert store.create("a/b.md", b"first", {"sha256": "x"})
    assert not store.create("a/b.md", b"second", {"sha256": "y"})
    assert store.read("a/b.md") == b"first"
    store.put("a/c.json", b"1")
    store.put("a/c.json", b"22")
    (b, c) = store.list("a/")
    assert (b.key, b.size, c.key, c.size) == ("a/b.md", 5, "a/c.json", 2)
    assert store.head("a/c.json") == c
    local = tmp_path / "local"
    assert store.fetch("a/b.md", local) == b
    assert local.read_bytes() == b"first"
    store.delete("a/c.json")
    store.delete("a/c.json")
    assert keys(store) == ["a/b.md"]


def test_a_new_version_has_a_new_etag(store: Store) -> None:
    store.put("x", b"1")
    before = store.head("x")
    store.put("x", b"2")
    assert before is not None
    assert store.head("x") != before


def test_what_is_absent(store: Store, tmp_path: Path) -> None:
    store.put("folder/x", b"")
    for key in ("gone", "folder", "folder/x/below", "k" * 300, "a/../folder/x", "", "nul\0"):
        assert store.head(key) is None
        for call in (store.read, store.metadata):
            with pytest.raises(NotFound) as caught:
                call(key)
            assert caught.value.category is Category.MISSING
        with pytest.raises(NotFound):
            store.fetch(key, tmp_path / "local")
        store.delete(key)
    with pytest.raises(NotFound):
        store.move("gone", "there")
    assert keys(store) == ["folder/x"]


def test_of_sixteen_creators_one_wins(store: Store) -> None:
    for race in range(5):
        gate = threading.Barrier(16)

        def create(i: int, race: int = race, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return store.create(f"new/{race}/claim", str(i).encode() * 1000)

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(create, range(16)))
        assert won.count(True) == 1
        assert store.read(f"new/{race}/claim") == str(won.index(True)).encode() * 1000


def test_readers_of_a_replaced_object_see_all_or_nothing(store: Store) -> None:
    contents = [bytes([i]) * 20_000 for i in range(4)]
    store.put("beat", contents[0])
    done = threading.Event()

    def write() -> None:
        for i in range(60):
            store.put("beat", contents[i % 4])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        reads = 0
        while not done.is_set() or reads < 10:
            assert store.read("beat") in contents
            reads += 1
        writing.result()
    assert keys(store) == ["beat"]


def test_odd_keys_are_listed_in_order_of_their_bytes_and_read(store: Store, tmp_path: Path) -> None:
    for i, key in enumerate(ODD):
        assert store.create(key, str(i).encode())
    assert keys(store) == sorted(ODD, key=str.encode)
    for i, key in enumerate(ODD):
        assert store.read(key) == str(i).encode()
        assert store.head(key) == store.fetch(key, tmp_path / "local")
        assert not store.create(key, b"again")
        assert len(store.display(key).splitlines()) == 1
    for key in ODD:
        assert key in keys(store, key)
        store.delete(key)
    assert keys(store) == []


@pytest.mark.parametrize(
    "prefix", ["", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c.pdf", "z", "a//", "/", "../", "./a", "é", "a/b/c.pdf/"]
)
def test_a_prefix_selects_by_its_characters(store: Store, prefix: str) -> None:
    there = ["a/b/c.pdf", "a/b/d.pdf", "a/b.pdf", "a.pdf", "ab/c.pdf", "é/x.pdf"]
    for key in there:
        store.put(key, b"")
    assert keys(store, prefix) == sorted((key for key in there if key.startswith(prefix)), key=str.encode)


@pytest.mark.parametrize("skip", ["_runs/", "a/b/", "zz/", "a b/"])
def test_what_is_skipped_is_left_out(store: Store, skip: str) -> None:
    there = [
        "Z.md",
        "_runs.md",
        "_runs/r/1",
        "_runs/r/2",
        "_runs/\U0010ffff\U0010ffff",
        "_runs0.md",
        "_runsx/1",
        "a/b/c",
        "a/d",
        "x",
    ]
    for key in there:
        store.put(key, b"")
    expected = sorted((key for key in there if not key.startswith(skip)), key=str.encode)
    assert [info.key for info in store.list(skip=skip)] == expected


def test_move_replaces_nothing(store: Store) -> None:
    store.put("out/x.md", b"old")
    store.move("out/x.md", "_runs/r/replaced/out/x.md")
    assert keys(store) == ["_runs/r/replaced/out/x.md"]
    store.put("out/x.md", b"new")
    with pytest.raises(StoreError, match="exists already"):
        store.move("out/x.md", "_runs/r/replaced/out/x.md")
    with pytest.raises(StoreError, match="to itself"):
        store.move("out/x.md", "out/x.md")
    assert store.read("out/x.md") == b"new"
    assert store.read("_runs/r/replaced/out/x.md") == b"old"


def test_probe_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    store.probe()
    store.probe()
    assert keys(store) == []
    if isinstance(store, FolderStore):
        assert list((tmp_path / "store").iterdir()) == []
    check_readable(store)


def test_names_a_backend_cannot_hold_are_refused_by_name(store: Store) -> None:
    for key in ("", "a\udce9\ud800.pdf", "long/" * 400):
        with pytest.raises(StoreError, match="cannot hold"):
            store.create(key, b"")
        with pytest.raises(StoreError, match="cannot hold"):
            store.put(key, b"")
    assert keys(store) == []


def test_a_local_copy_that_cannot_be_written_is_not_a_missing_object(store: Store, tmp_path: Path) -> None:
    store.put("x.pdf", b"1")
    with pytest.raises(StoreError, match="local copy") as caught:
        store.fetch("x.pdf", tmp_path / "no such folder" / "x.pdf")
    assert not isinstance(caught.value, NotFound)
