"""Checkpoints: what is trusted and what is ignored, when pages are saved, and what becomes of them."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus import checkpoints, paths
from tasks.corpus.checkpoints import Belonging, Checkpoints, Foreign, SavedPage, pack, sweep, unpack
from tasks.corpus.failures import Category, StoreError
from tasks.corpus.store import Store
from tasks.corpus.store_folder import FolderStore
from tasks.engines.protocol import EngineName, FinishedPage, Limits
from tasks.fingerprint import engine_fingerprint
from tasks.journal import DocumentJournal, Journals
from tasks.saving import Saving

OF = Belonging("ab" * 32, "cd" * 16, 7)
PAGES = [SavedPage(1, '{"text":"ein Straßenfest\\n"}', {"a figure.png": b"\x89PNG\r\n"}), SavedPage(3, "x" * 1000)]

texts = st.text(st.characters(exclude_categories=["Cs"]))
plain_names = texts.filter(lambda name: name not in ("", ".", "..") and not set(name) & set("/\0") and len(name) < 60)
saved_pages = st.builds(SavedPage, st.integers(1, 50), texts, st.dictionaries(plain_names, st.binary(), max_size=2))


# -- segments --------------------------------------------------------------------------------------------------------


@given(st.lists(saved_pages), st.floats(0, 1e6))
def test_what_was_packed_comes_back(pages: list[SavedPage], seconds: float) -> None:
    assert unpack(pack(OF, pages, seconds), OF, 50) == (pages, seconds)


@given(st.data())
def test_a_segment_that_was_changed_anywhere_is_ignored_or_the_same(data: st.DataObject) -> None:
    segment = bytearray(pack(OF, PAGES, 61.5))
    for _ in range(data.draw(st.integers(1, 3))):
        segment[data.draw(st.integers(0, len(segment) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(Foreign):
        assert unpack(bytes(segment), OF, 50) == (PAGES, 61.5)


@given(st.data())
def test_a_segment_that_was_cut_is_ignored(data: st.DataObject) -> None:
    segment = pack(OF, PAGES, 61.5)
    # What lacks nothing but the compressor's own checksum at its end is whole.
    with pytest.raises(Foreign):
        unpack(segment[: data.draw(st.integers(0, len(segment) - 5))], OF, 50)


@given(st.binary())
def test_noise_is_ignored(noise: bytes) -> None:
    for data in (noise, zstandard.compress(noise)):
        with pytest.raises(Foreign):
            unpack(data, OF, 50)


def forged(header: dict[str, Any], *pages: Any) -> bytes:
    """A segment whose own sums are right."""
    body = b"".join(json.dumps(page).encode() + b"\n" for page in pages)
    facts = {
        "schema_version": 1,
        **OF._asdict(),
        "seconds": 0.0,
        "sha256": hashlib.sha256(body).hexdigest(),
        **header,
    }
    return zstandard.compress(json.dumps(facts).encode() + b"\n" + body)


GOOD = {"number": 1, "payload": "{}", "files": {}}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (forged({"content": "ef" * 32}, GOOD), "another document's"),
        (forged({"engine": "ef" * 16}, GOOD), "another document's, or another engine's"),
        (forged({"document": 8}, GOOD), "another document's"),
        (forged({"schema_version": 2}, GOOD), "version 2"),
        (forged({"sha256": "0" * 64}, GOOD), "damaged"),
        (forged({"seconds": -1.0}, GOOD), "no header"),
        (forged({"seconds": math.inf}, GOOD), "no header"),
        (forged({}, GOOD | {"number": 51}), "makes no sense"),
        (forged({}, GOOD | {"number": 0}), "makes no sense"),
        (forged({}, GOOD | {"number": "x"}), "makes no sense"),
        (forged({}, GOOD | {"payload": {}}), "makes no sense"),
        (forged({}, GOOD | {"more": 1}), "makes no sense"),
        (forged({}, GOOD, [1]), "makes no sense"),
        (forged({}, GOOD | {"files": {"../up": ""}}), "makes no sense"),
        (forged({}, GOOD | {"files": {"..": ""}}), "makes no sense"),
        (forged({}, GOOD | {"files": {"a": "not base64!"}}), "makes no sense"),
        (forged({}, GOOD | {"files": {"x" * 256: ""}}), "makes no sense"),
        (zstandard.compress(b"x" * (checkpoints.MOST_BYTES + 1)), "too long"),
        (b"", "no header"),
    ],
)
def test_what_is_foreign_or_absurd_is_ignored(data: bytes, why: str) -> None:
    with pytest.raises(Foreign, match=why):
        unpack(data, OF, 50)


def test_the_forgeries_would_pass_but_for_what_is_wrong_with_them() -> None:
    assert unpack(forged({}, GOOD | {"files": {"a": base64.b64encode(b"b").decode()}}), OF, 50)[0] == [
        SavedPage(1, "{}", {"a": b"b"})
    ]


# -- in a store ------------------------------------------------------------------------------------------------------


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list("r/")]


def test_two_lives_write_at_once_and_a_third_one_merges(store: Store) -> None:
    first, second = Checkpoints(store, "r", 0, 0), Checkpoints(store, "r", 0, 1)
    written = [
        *first.write(OF, PAGES[:1], 60.0),
        *second.write(OF, PAGES, 75.0),
        *first.write(OF, [SavedPage(2, "two")], 130.0),
    ]
    other = OF._replace(document=8)
    list(first.write(other, PAGES, 1.0))
    found = Checkpoints(store, "r", 1, 0).load(OF, 50)
    assert found.pages == {1: PAGES[0], 2: SavedPage(2, "two"), 3: PAGES[1]}
    assert found.seconds == 130.0
    assert sorted(found.keys) == sorted(written) == [key for key in keys(store) if "/000000007-" in key]
    assert all(key.startswith(f"r/checkpoints/{OF.content}/{OF.engine}/") for key in keys(store))
    first.remove(found.keys)
    assert Checkpoints(store, "r", 1, 0).load(OF, 50).pages == {}
    assert len(Checkpoints(store, "r", 1, 0).load(other, 50).pages) == 2
    assert sweep(store, "r") == 1
    assert keys(store) == []
    assert sweep(store, "r") == 0


def test_what_makes_no_sense_is_ignored_with_a_line_and_the_rest_is_taken(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Checkpoints(store, "r", 0, 0)
    list(mine.write(OF, PAGES, 60.0))
    good = store.read(keys(store)[0])
    for number, data in enumerate((b"", good[:-5], b"noise", pack(OF._replace(engine="0"), PAGES, 1.0))):
        store.put(paths.segment("r", *OF, f"9-9-{number}"), data)
    with caplog.at_level(logging.WARNING):
        found = mine.load(OF, 50)
    assert (found.pages, found.seconds, len(found.keys)) == ({1: PAGES[0], 3: PAGES[1]}, 60.0, 5)
    assert len(caplog.messages) == 4
    assert all("is ignored" in message for message in caplog.messages)


def test_many_bytes_go_into_several_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore.from_url(str(tmp_path / "store"), create=True)
    monkeypatch.setattr(checkpoints, "SEGMENT_BYTES", 2500)
    mine = Checkpoints(store, "r", 0, 0)
    pages = [SavedPage(number, "x" * 1000) for number in range(1, 8)] + [SavedPage(8, "y" * 9000)]
    assert len(list(mine.write(OF, pages, 1.0))) == 5
    assert list(mine.load(OF, 50).pages.values()) == pages


def test_a_store_that_lets_nothing_be_deleted_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore.from_url(str(tmp_path / "store"), create=True)
    asked: list[str] = []

    def refuse(key: str) -> None:
        asked.append(key)
        raise StoreError("AccessDenied", Category.FORBIDDEN)

    monkeypatch.setattr(store, "delete", refuse)
    mine = Checkpoints(store, "r", 0, 0)
    mine.remove(["a", "b"])
    mine.remove(["c"])
    assert asked == ["a"]
    assert len(caplog.messages) == 1


# -- the policy ------------------------------------------------------------------------------------------------------

paces = st.lists(st.integers(0, 600).map(lambda quarters: quarters / 4), min_size=1, max_size=60)


def played(saving: Saving, durations: list[float], *, among_others: bool = False) -> tuple[list[int], float]:
    """Behind which pages (counted from 1) is saved, and the seconds of work that a death behind the last one repeats."""
    saving.begin(now := 5.0, among_others=among_others)
    saves = []
    unsaved = 0.0
    for number, took in enumerate(durations, start=1):
        now += took
        unsaved += took
        if saving.finish(now):
            saving.save()
            saves.append(number)
            unsaved = 0.0
        # What no save has covered is less than the interval, whenever the process dies.
        assert unsaved < 60.0 + 1e-6 or among_others
    return saves, now - 5.0


@given(paces)
def test_less_than_the_interval_is_unsaved_and_saves_are_an_interval_apart(durations: list[float]) -> None:
    saving = Saving(60.0)
    saves, whole = played(saving, durations)
    assert len(saves) <= whole / 60.0 * (1 + 1e-9)
    assert saving.worked == pytest.approx(whole)
    begin = 0
    for save in saves:
        assert sum(durations[begin:save]) >= 60.0 - 1e-6
        begin = save


@given(st.lists(st.floats(0, 5), min_size=1, max_size=11))
def test_documents_with_less_work_write_none(durations: list[float]) -> None:
    assert played(Saving(60.0), durations)[0] == []


@given(paces)
def test_among_others_the_pages_in_flight_do_not_count(durations: list[float]) -> None:
    saves, _ = played(Saving(60.0), durations, among_others=True)
    assert saves == [number + 1 for number in played(Saving(60.0), durations[1:])[0]]


def test_what_waits_between_two_tries_is_no_work() -> None:
    saving = Saving(60.0)
    saving.begin(0.0)
    assert not saving.finish(59.0)
    saving.begin(1000.0)
    assert not saving.finish(1000.5)
    assert saving.finish(1001.0)


@given(paces, st.integers(1, 5000))
def test_a_stop_saves_long_documents_only(durations: list[float], pages: int) -> None:
    saving = Saving(60.0)
    assert not saving.worth(pages)
    saves, whole = played(saving, durations)
    estimate = whole / len(durations) * pages
    if abs(estimate - 60.0) > 1e-6:
        assert saving.worth(pages) == (bool(saves) or estimate > 60.0)


def test_what_counts_is_the_work_of_all_who_were_at_it() -> None:
    """Two children share out 64 seconds of work: a stop after a second would lose what a minute's document may not."""
    saving = Saving(60.0)
    saving.begin(0.0)
    saving.finish(0.2, hands=2)
    assert saving.worth(160)
    assert saving.fits(159, 32.0)


def test_what_is_left_of_a_document_that_was_saved_before_is_saved_however_short() -> None:
    saving = Saving(60.0, saved=True)
    saving.begin(0.0)
    saving.finish(1.0)
    assert saving.worth(10)


@given(paces, st.integers(1, 5000), st.floats(0, 120))
def test_the_rest_is_finished_only_where_it_fits(durations: list[float], left: int, seconds: float) -> None:
    saving = Saving(60.0)
    saving.begin(0.0)
    assert not saving.fits(left, seconds)
    assert saving.fits(0, 0.0)
    _, whole = played(saving, durations)
    assert not saving.fits(None, seconds)
    rest = whole / len(durations) * left
    if abs(rest - seconds) > 1e-6:
        assert saving.fits(left, seconds) == (rest < seconds)
    # Never more than before with less time or with more to do.
    assert saving.fits(left, seconds) >= saving.fits(left + 1, seconds)
    assert saving.fits(left, seconds) >= saving.fits(left, seconds / 2)


# -- the fingerprint -------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_what_decides_a_page() -> None:
    versions = {"layout": "1", "pymupdf": "2.0"}
    same = engine_fingerprint(EngineName.LAYOUT, versions, {"ocr": True, "ocr_dpi": 150}, Limits())
    assert len(same) == 32
    assert same == engine_fingerprint(
        EngineName.LAYOUT,
        dict(reversed(versions.items())),
        {"ocr_dpi": 150, "ocr": True},
        Limits(document_timeout=5, max_pages=7, max_bytes=9),
    )
    others = {
        engine_fingerprint(EngineName.DUMMY, versions, {"ocr": True, "ocr_dpi": 150}, Limits()),
        engine_fingerprint(EngineName.LAYOUT, versions | {"layout": "2"}, {"ocr": True, "ocr_dpi": 150}, Limits()),
        engine_fingerprint(EngineName.LAYOUT, versions, {"ocr": True, "ocr_dpi": 200}, Limits()),
        engine_fingerprint(EngineName.LAYOUT, versions, {"ocr": True, "ocr_dpi": 150}, Limits(max_pixels=1000)),
        engine_fingerprint(EngineName.LAYOUT, versions, {"ocr": True, "ocr_dpi": 150}, Limits(page_timeout=5)),
    }
    assert len(others) == 5
    assert same not in others


# -- journals --------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("tasks.journal.time", found)
    return found


@pytest.fixture
def runs(tmp_path: Path) -> FolderStore:
    return FolderStore.from_url(str(tmp_path / "store"), create=True)


class Life:
    """A life's journals, and the end of its time."""

    def __init__(self, store: Store | None, attempt: int, folder: Path) -> None:
        self.until: float | None = None
        self.assets = folder / f"assets-{attempt}"
        self.assets.mkdir()
        kept = None if store is None else Checkpoints(store, "r", 0, attempt)
        self.journals = Journals(kept, OF.engine, 50, lambda: self.until)

    def open(self) -> DocumentJournal:
        return self.journals.open(OF.content, OF.document, self.assets)


@pytest.fixture
def life(runs: FolderStore, tmp_path: Path) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    def make(store: Store | None = runs) -> Life:
        lives.append(Life(store, len(lives), tmp_path))
        return lives[-1]

    yield make
    for made in lives:
        made.journals.close()


def work(journal: DocumentJournal, clock: Clock, pages: range, seconds: float, of: int) -> None:
    journal.begin()
    journal.count(of)
    for number in pages:
        clock.now += seconds
        journal.finish(FinishedPage(number=number, payload=f"page {number}", spent=clock.now))
        if (writing := journal._writing) is not None:
            wait([writing])


def test_pages_are_saved_once_a_minute_and_taken_up_by_another_life(
    runs: FolderStore, clock: Clock, life: Callable[..., Life]
) -> None:
    one = life()
    journal = one.open()
    work(journal, clock, range(1, 15), 10.0, 20)
    one.journals.close()
    assert len(keys(runs)) == 2
    two = life()
    again = two.open()
    again.load()
    assert sorted(again.done) == list(range(1, 13))
    assert again.done[12].payload == "page 12"
    assert (again.resumed, again.spent) == (12, 120.0)
    work(again, clock, range(13, 21), 1.0, 20)
    again.discard()
    two.journals.close()
    assert keys(runs) == []


def test_short_documents_never_touch_the_store(clock: Clock, life: Callable[..., Life]) -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    one = life(Untouchable())
    journal = one.open()
    work(journal, clock, range(1, 6), 11.9, 5)
    journal.keep()
    journal.discard()
    one.journals.close()


def test_a_stop_saves_what_is_finished_of_a_long_document(
    runs: FolderStore, clock: Clock, life: Callable[..., Life]
) -> None:
    one = life()
    journal = one.open()
    work(journal, clock, range(1, 4), 5.0, 20)
    assert not journal.stops()
    one.until = clock.now + 84.0
    assert journal.stops()
    one.until = clock.now + 86.0
    assert not journal.stops()
    journal.keep()
    assert sorted(Checkpoints(runs, "r", 9, 9).load(OF, 50).pages) == [1, 2, 3]


def test_a_store_that_fails_costs_a_line_and_is_asked_again_a_minute_later(
    runs: FolderStore,
    clock: Clock,
    life: Callable[..., Life],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []
    create = runs.create

    def fail(key: str, data: bytes, metadata: Any = None) -> bool:
        asked.append(key)
        raise StoreError("500")

    monkeypatch.setattr(runs, "create", fail)
    one = life()
    journal = one.open()
    work(journal, clock, range(1, 12), 10.0, 20)
    assert len(asked) == 1
    assert len(caplog.messages) == 1
    monkeypatch.setattr(runs, "create", create)
    work(journal, clock, range(12, 14), 10.0, 20)
    one.journals.close()
    assert sorted(Checkpoints(runs, "r", 9, 9).load(OF, 50).pages) == list(range(1, 13))


def test_a_store_that_hangs_stalls_no_engine_and_delays_a_stop_for_seconds_only(
    runs: FolderStore, life: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    create = runs.create

    def hang(key: str, data: bytes, metadata: Any = None) -> bool:
        let_go.wait(30)
        return create(key, data, metadata)

    monkeypatch.setattr(runs, "create", hang)
    one = life()
    one.journals.interval = 0.0
    journal = one.open()
    journal.begin()
    for number in range(1, 11):
        journal.finish(FinishedPage(number=number, payload="x"))
    journal.keep(0.1)
    let_go.set()
    journal.keep(10)
    one.journals.close()
    assert sorted(Checkpoints(runs, "r", 9, 9).load(OF, 50).pages) == list(range(1, 11))


def test_files_of_pages_come_back(runs: FolderStore, clock: Clock, life: Callable[..., Life]) -> None:
    one = life()
    (one.assets / "figure.png").write_bytes(b"pixels")
    journal = one.open()
    journal.begin()
    clock.now += 61
    journal.finish(FinishedPage(number=4, payload="{}", files=["figure.png"]))
    one.journals.close()
    two = life()
    again = two.open()
    again.load()
    assert again.done[4].files == ["figure.png"]
    assert (two.assets / "figure.png").read_bytes() == b"pixels"


def test_time_that_begins_anew_does_so_in_the_next_life_too(
    runs: FolderStore, clock: Clock, life: Callable[..., Life]
) -> None:
    one = life()
    journal = one.open()
    work(journal, clock, range(1, 14), 10.0, 20)
    fresh = journal.renewed()
    assert (sorted(fresh.done), fresh.spent) == (list(range(1, 14)), 0.0)
    one.journals.close()
    found = Checkpoints(runs, "r", 9, 9).load(OF, 50)
    assert (sorted(found.pages), found.seconds) == (list(range(1, 14)), 0.0)


def test_pages_are_remembered_for_a_retry_without_a_store(clock: Clock, life: Callable[..., Life]) -> None:
    journal = life(None).open()
    work(journal, clock, range(1, 4), 100.0, 20)
    journal.load()
    journal.keep()
    assert sorted(journal.done) == [1, 2, 3]
    journal.discard()


def test_what_a_hostile_child_sends_without_end_is_not_kept(
    life: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.journal.MOST_KEPT", 100)
    journal = life().open()
    journal.begin()
    for number in range(1, 50):
        journal.finish(FinishedPage(number=number, payload="x" * 30))
    assert sorted(journal.done) == [1, 2, 3]
