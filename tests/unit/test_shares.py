"""Documents that several processes convert together: who converts which page, and that nobody can tell from the result."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cores import IdleCores, free_memory
from tasks.corpus.failures import Category, ConversionError
from tasks.engines import crew as crews
from tasks.engines import opening
from tasks.engines.crew import Crew, Seen, wanted
from tasks.engines.layout import engine as layout
from tasks.engines.layout.choice import MOST_FALLEN, Way
from tasks.engines.layout.page import Block, Read
from tasks.engines.protocol import EngineName, EngineResult, Fall, FinishedPage, Handover, Limits
from tasks.engines.sandbox import Aborted, Sandbox
from tasks.engines.shares import MOST_LOSSES, Malformed, Shares
from tasks.engines.trust import PageTrust, Part
from tasks.pool import open_pool
from tasks.saving import Saving

LOST = Fall(category=Category.CRASHED, reason="lost", helper=True)

# -- whose a page is --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.sets(st.integers(1, 30)), st.data())
def test_every_page_is_converted_once_whatever_order_things_come_in(
    pages: int, before: set[int], data: st.DataObject
) -> None:
    """A leader and three helpers, one of which may lose its process, step by step in any order."""
    done = {page for page in before if page <= pages}
    converted, left_to_leader = [], set[int]()
    share = Shares(done.__contains__)
    share.open(pages)
    hands: dict[int, int] = {}
    at = 1
    while at <= pages:
        step = data.draw(st.sampled_from(["lead", "take", "finish", "lose"]))
        if step == "lead":
            mine = share.claim(at, 0.0)
            if mine is None:
                assert at in hands.values()
                continue
            if mine:
                converted.append(at)
                assert (share.fall(at) is not None) == (at in left_to_leader)
                done.add(at)
                share.finish(at)
            at += 1
        elif step == "take":
            free = {0, 1, 2} - set(hands)
            if free and (page := share.take(helper := min(free), pages)) is not None:
                assert page >= at
                assert page not in done | left_to_leader
                hands[helper] = page
        elif hands:
            helper = data.draw(st.sampled_from(sorted(hands)))
            page = hands.pop(helper)
            if step == "lose":
                share.lose(helper, LOST, 1.0)
                left_to_leader.add(page)
            else:
                share.check(page, helper)
                converted.append(page)
                done.add(page)
                share.finish(page, helper)
    assert sorted(converted) == sorted(set(range(1, pages + 1)) - before)


def test_the_leader_waits_for_a_page_that_a_helper_has() -> None:
    share = Shares(set[int]().__contains__)
    share.open(2)
    assert share.take(0, 2) == 2
    assert share.claim(1, 0.0)
    assert share.claim(2, 0.01) is None
    threading.Timer(0.05, share.lose, (0, None)).start()
    assert share.claim(2, 30.0)


def test_after_some_losses_the_leader_goes_on_alone_and_so_it_does_when_helpers_are_to_leave() -> None:
    share = Shares(set[int]().__contains__)
    share.open(100)
    for number in range(MOST_LOSSES):
        assert share.take(0, 100) == 100 - number
        share.lose(0, LOST)
    assert share.take(0, 100) is None
    other = Shares(set[int]().__contains__)
    other.open(9)
    assert (other.take(0, 9), other.take(1, 9)) == (9, 8)
    other.leave(1)
    other.finish(8, 1)
    assert other.take(1, 9) is None
    other.finish(9, 0)
    assert other.take(0, 9) == 7
    other.close()
    other.finish(7, 0)
    assert other.take(0, 9) is None


def test_what_a_process_cannot_ask_for() -> None:
    share = Shares(set[int]().__contains__)
    share.open(5)
    share.take(0, 5)
    for wrong in (
        lambda: share.open(6),
        lambda: share.claim(0, 0.0),
        lambda: share.claim(6, 0.0),
        lambda: share.take(1, 4),
        lambda: share.take(0, 5),
        lambda: share.check(4, 0),
        lambda: share.check(5, 1),
    ):
        with pytest.raises(Malformed):
            wrong()


SEEN = Seen(left=60.0, idle=0.0, memory=1000, largest=100)


@pytest.mark.parametrize(
    ("seen", "helpers", "count"),
    [
        (SEEN, 0, 1),  # its own share
        (SEEN, 1, 1),  # no core is idle
        (replace(SEEN, idle=0.9), 1, 2),
        (replace(SEEN, idle=3.0), 3, 3),  # as many as there may be
        (replace(SEEN, idle=0.9, loading=True), 1, 1),
        (replace(SEEN, idle=0.9, left=5.0), 1, 1),
        (replace(SEEN, left=None), 0, 0),
        (replace(SEEN, memory=99), 0, 0),
        (replace(SEEN, memory=-1), 1, 0),
        (replace(SEEN, memory=-1), 0, 0),
        (replace(SEEN, starved=True), 2, 1),
        (replace(SEEN, starved=True), 1, 1),  # its own share
    ],
)
def test_how_many_helpers_there_should_be(seen: Seen, helpers: int, count: int) -> None:
    assert wanted(seen, helpers, own=1, most=3) == count


def test_idle_cores_are_those_that_this_process_may_use(tmp_path: Path) -> None:
    stat, now = tmp_path / "stat", iter((10.0, 12.0, 13.0, 14.0))
    mine = sorted(os.sched_getaffinity(0))[0]

    def cores(idle: int) -> None:
        stat.write_text(f"cpu  1 1 1 99 1 0\ncpu{mine} 5 0 5 {idle} 100 0 0\ncpu4093 0 0 0 {idle * 9} 0\nintr 1\n")

    cores(1000)
    idle = IdleCores(stat, lambda: next(now), 100)
    cores(1150)
    assert idle() == pytest.approx(0.75)
    assert idle() == 0.0
    stat.unlink()
    assert idle() == 0.0


def test_free_memory_is_the_least_of_the_machines_and_the_groups(tmp_path: Path) -> None:
    info, group = tmp_path / "meminfo", tmp_path / "group"
    assert free_memory(info, group) is None
    info.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert free_memory(info, group) == 2 << 20
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("500\n")
    assert free_memory(info, group) == 2 << 20
    (group / "memory.max").write_text("1000\n")
    (group / "memory.stat").write_text("active_file 70\ninactive_file 100\n")
    assert free_memory(info, group) == 600
    assert free_memory() is not None


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Crew]]:
    """Crews whose helpers come at once."""
    monkeypatch.setattr(crews, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(crews, "WORTH_SECONDS", 0.0)
    with contextlib.ExitStack() as stack:

        def make(own: int = 2, **limits: Any) -> Crew:
            def another() -> Sandbox:
                return Sandbox(EngineName.DUMMY, Limits(**limits), scratch=tmp_path)

            made = Crew(another(), another, own=own, most=own, idle=lambda: 0.0, free=lambda: None, memory=8 << 30)
            stack.callback(made.close)
            made.start()
            return made

        yield make


class Journal:
    """Remembers, in order; stops behind so many pages."""

    def __init__(self, stops_behind: int = 10**9) -> None:
        self.done: dict[int, FinishedPage] = {}
        self.spent = 0.0
        self.pages: list[FinishedPage] = []
        self.stops_behind = stops_behind

    def begin(self, *, among_others: bool = False) -> None:
        """No matter."""

    def finish(self, page: FinishedPage) -> None:
        self.pages.append(page)

    def stops(self) -> bool:
        return len(self.pages) >= self.stops_behind


def converted(
    crew: Crew | Sandbox, words: str, journal: Journal | None = None, progress: Callable[[int, int], None] | None = None
) -> EngineResult:
    folder = (crew._leader if isinstance(crew, Crew) else crew)._scratch
    (folder / "in.pdf").write_text(f"%PDF-dummy {words}\n")
    result = crew.convert(folder / "in.pdf", folder / "out", [], progress, journal or Journal())
    return result.model_copy(
        update={"assets": [(asset.placeholder, asset.path.read_bytes()) for asset in result.assets]}
    )


def test_helpers_take_part_and_change_nothing(crew: Callable[..., Crew], tmp_path: Path) -> None:
    made, journal = crew(), Journal()
    begun: list[tuple[int, int]] = []
    words = "pages=40 seconds=0.05 gap=30 assets=2 warn"
    result = converted(made, words, journal, lambda page, pages: begun.append((page, pages)))
    numbers = [page.number for page in journal.pages]
    assert sorted(numbers) == list(range(1, 41))
    assert numbers != sorted(numbers)
    assert max(page.hands for page in journal.pages) == 3
    assert sorted(begun) == [(page, 40) for page in range(1, 41)]
    with Sandbox(EngineName.DUMMY, Limits(), scratch=tmp_path) as alone:
        assert converted(alone, words) == result
    warm = [sandbox.pid for sandbox in made._warm]
    assert len(warm) == 2
    assert None not in warm
    # The next one's helpers are there already.
    assert len(converted(made, "pages=60 seconds=0.02").pages) == 60
    assert {sandbox.pid for sandbox in made._warm} == set(warm)


def test_a_short_document_has_no_helpers(crew: Callable[..., Crew]) -> None:
    journal = Journal()
    converted(crew(), "pages=3 seconds=0.1", journal)
    assert [page.number for page in journal.pages] == [1, 2, 3]
    assert {page.hands for page in journal.pages} == {1}


@pytest.mark.parametrize("how", ["crash", "exit=3", "memory"])
def test_a_page_that_costs_a_helper_costs_no_other_page(crew: Callable[..., Crew], how: str) -> None:
    journal = Journal()
    result = converted(crew(memory_mb=512), f"pages=40 seconds=0.05 on=39 ways=2 {how}", journal)
    numbers = [page.number for page in journal.pages]
    assert sorted(numbers) == list(range(1, 41))
    # The leader's, in its turn, by the way that is left after two losses: the helper's and its own.
    assert result.pages[38].way == "way 3"
    assert {page.way for page in result.pages[:38]} == {"way 1"}
    assert numbers[-1] == 39


def test_a_helper_that_is_killed_loses_the_page_in_hand(crew: Callable[..., Crew]) -> None:
    made, journal = crew(own=1), Journal()
    killed: list[int] = []

    def kill(page: int, pages: int) -> None:
        helpers = [one for one in made._helpers if one.working and one.sandbox.pid]
        if helpers and not killed:
            killed.append(helpers[0].sandbox.pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    result = converted(made, "pages=60 seconds=0.05 ways=1", journal, kill)
    assert killed
    assert [page.number for page in result.pages] == list(range(1, 61))
    assert sorted(page.number for page in journal.pages) == list(range(1, 61))


def test_a_document_that_fails_fails_as_it_would_alone(crew: Callable[..., Crew]) -> None:
    made = crew()
    with pytest.raises(ConversionError, match="SIGSEGV") as caught:
        converted(made, "pages=30 seconds=0.05 on=30 crash")
    assert caught.value.failure.page == 30
    with pytest.raises(ConversionError, match="the document's time limit"):
        converted(crew(document_timeout=1.0), "pages=100 seconds=0.1")
    assert len(converted(made, "pages=2").pages) == 2


def test_a_drain_lets_every_page_in_hand_end(crew: Callable[..., Crew]) -> None:
    made, journal = crew(), Journal(stops_behind=20)
    begun: list[int] = []
    with pytest.raises(Aborted, match="stopped behind"):
        converted(made, "pages=90 seconds=0.1", journal, lambda page, pages: begun.append(page))
    assert len(journal.pages) == len(begun) <= 22
    assert len(converted(made, "pages=2").pages) == 2


def test_a_kill_ends_helpers_at_once(crew: Callable[..., Crew]) -> None:
    made = crew()

    def kill(page: int, pages: int) -> None:
        if page == 8:
            threading.Thread(target=made.kill).start()

    with pytest.raises(Aborted):
        converted(made, "pages=90 seconds=0.2", Journal(), kill)
    assert made._helpers == []
    assert made._warm == []
    with pytest.raises(Aborted):
        converted(made, "pages=2")
    made.start()
    assert len(converted(made, "pages=2").pages) == 2


def test_what_progress_raises_comes_through_from_helpers_too(crew: Callable[..., Crew]) -> None:
    main = threading.current_thread()

    def refuse(page: int, pages: int) -> None:
        if threading.current_thread() is not main:
            raise RuntimeError("fenced")

    with pytest.raises(RuntimeError, match="fenced"):
        converted(crew(), "pages=60 seconds=0.05", Journal(), refuse)


def test_a_worker_has_the_helpers_that_its_share_of_the_cores_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(crews, "WORTH_SECONDS", 0.0)
    pool = open_pool(EngineName.DUMMY, {}, Limits(), tmp_path, slots=1, threads=2, recycle_after=50, idle=False)
    try:
        pool.start()
        pool.ready(60.0)
        (tmp_path / "assets").mkdir()
        (tmp_path / "in.pdf").write_text("%PDF-dummy pages=60 seconds=0.05\n")
        journal = Journal()
        pool.convert(tmp_path / "in.pdf", "in.pdf", [], tmp_path / "assets", lambda page, pages: None, journal)
        assert max(page.hands for page in journal.pages) == 2
    finally:
        pool.close()


# -- the layout engine ------------------------------------------------------------------------------------------------


class FailingReader:
    """Reads pages as the number that their layer says; raises on some, in one way or in all."""

    def __init__(self, raises: dict[int, set[Way]]) -> None:
        self.raises = raises

    def read(self, page: Any, way: Way, *, render: bool = True) -> Read:
        number = int(page.get_text().split()[-1])
        if way in self.raises.get(number, ()):
            raise RuntimeError(f"bad page {number}")
        return Read([Block(f"{way} {number}", heading=number if number % 3 == 0 else None)], way)

    def trust(self, page: Any, read: Read, text: str) -> PageTrust:
        return PageTrust(score=len(text) / 100, parts={Part.LOST: 0.5})


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pages, two of which are one object each with another one."""
    path = tmp_path_factory.mktemp("sheets") / "in.pdf"
    with pymupdf.open() as made:
        for number in range(1, 11):
            made.new_page().insert_text((72, 72), f"layer {number}")
        made.copy_page(1)
        made.copy_page(7)
        made.save(path)
    return path


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.integers(1, 12), st.sets(st.sampled_from([Way.LAYOUT, Way.TEXT, Way.OCR])), max_size=8),
    st.lists(st.lists(st.integers(1, 12), unique=True), max_size=3),
    st.sets(st.integers(1, 12), max_size=2),
)
def test_a_layout_document_is_the_same_whoever_did_which_pages(
    sheets: Path, raises: dict[int, set[Way]], helpers: list[list[int]], lost: set[int]
) -> None:
    """Though a page on which the layout way failed changes how later ones begin, and headings depend on all pages."""

    def run(handover: Handover) -> EngineResult:
        reader: Any = FailingReader(raises)
        conversion = layout.Conversion(opening, reader, None, Limits(), sheets, [], marginalia=True)
        return conversion.run(lambda page, pages, ways=0: None, handover)

    def outcome(handover: Handover) -> object:
        try:
            return run(handover)
        except ConversionError as error:
            return error.failure

    done: dict[int, str] = {}
    for pages in helpers:
        asked = [page for page in pages if page not in done]
        assert run(Handover({}, done.__setitem__, turns=lambda count, asked=asked: asked, helping=True)).pages == []
    # Of a page over which a helper was lost only a leader that would have tried the same way is to know.
    hurried = sum(Way.LAYOUT in raises.get(page, ()) for page in range(1, min(lost, default=1))) >= MOST_FALLEN
    for page in lost:
        done.pop(page, None)
    fallen = {page: [LOST] for page in lost} if hurried else {}
    assert outcome(Handover({}, fallen=fallen, elsewhere=done.get)) == outcome(Handover())


@pytest.mark.soak
def test_a_manual_is_the_same_with_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real children and the real engine; headings, and one page twice."""
    monkeypatch.setattr(crews, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(crews, "WORTH_SECONDS", 0.0)
    with pymupdf.open() as made:
        for number in range(1, 10):
            page = made.new_page()
            page.insert_text((72, 90), f"Chapter {number}", fontsize=14 + number)
            for line in range(9):
                page.insert_text((72, 150 + 16 * line), f"Sentence {line} of chapter {number} has words in it.")
        made.copy_page(3)
        made[5].set_rotation(90)
        made.save(tmp_path / "manual.pdf")

    def another() -> Sandbox:
        return Sandbox(EngineName.LAYOUT, Limits(), scratch=tmp_path)

    crew = Crew(another(), another, own=1, most=1, idle=lambda: 0.0, free=lambda: None, memory=8 << 30)
    try:
        crew.start()
        alone = crew._leader.convert(tmp_path / "manual.pdf", tmp_path / "out", [])
        journal = Journal()
        crew._warm.append(helper := another())
        helper.start()
        helper.ready()
        shared = crew.convert(tmp_path / "manual.pdf", tmp_path / "out", [], None, journal)
    finally:
        crew.close()
    assert shared == alone
    assert len({page.text.partition(" ")[0] for page in alone.pages}) > 3
    assert max(page.hands for page in journal.pages) == 2


def test_pages_that_several_processes_make_are_saved_as_much_earlier() -> None:
    """A death repeats no more than the interval of their work together."""
    alone, together = Saving(interval=60.0), Saving(interval=60.0)
    for saving in (alone, together):
        saving.begin(0.0)
    assert not alone.finish(30.0)
    assert together.finish(30.0, hands=2)
    assert (alone.unsaved, together.unsaved) == (30.0, 60.0)
    assert alone.worked == together.worked == 30.0


@pytest.mark.parametrize(("idle", "memory", "hands"), [(1.0, 8 << 30, 2), (0.3, 8 << 30, 1), (1.0, 1 << 20, 1)])
def test_helpers_beyond_the_own_share_come_while_a_core_is_idle_and_memory_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: float, memory: int, hands: int
) -> None:
    monkeypatch.setattr(crews, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(crews, "WORTH_SECONDS", 0.0)

    def another() -> Sandbox:
        return Sandbox(EngineName.DUMMY, Limits(), scratch=tmp_path)

    crew = Crew(another(), another, own=0, most=1, idle=lambda: idle, free=lambda: 8 << 30, memory=memory)
    journal = Journal()
    try:
        crew.start()
        converted(crew, "pages=40 seconds=0.05", journal)
        assert crew._warm == []
    finally:
        crew.close()
    assert max(page.hands for page in journal.pages) == hands
