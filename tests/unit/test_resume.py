"""Documents that go on in another process: the same bytes as without a break, and no more work than promised."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from lives_kit import LOG, Case, Cases, Death, Faults, Kind, cases, ends_somehow, fence_all

import tasks.worker
from tasks.corpus import paths
from tasks.corpus.checkpoints import Belonging, Checkpoints, SavedPage
from tasks.corpus.failures import Category, ConversionError, StoreError
from tasks.corpus.ledger import Outcome, Record
from tasks.corpus.runs import RunSpec
from tasks.document import DocumentConverter
from tasks.engines import opening
from tasks.engines.layout import engine as layout
from tasks.engines.layout.choice import Way
from tasks.engines.layout.page import Block, Read
from tasks.engines.protocol import EngineName, EngineResult, FinishedPage, Handover, Limits
from tasks.engines.sandbox import Aborted, OutOfTime, Sandbox
from tasks.engines.trust import PageTrust, Part
from tasks.worker import Worker, WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT = "f" * 32


class Kept:
    """A journal that remembers, and stops behind a page if it is told to."""

    def __init__(self, done: dict[int, FinishedPage] | None = None, spent: float = 0.0, stop_behind: int = 0) -> None:
        self.done = done or {}
        self.spent = spent
        self.stop_behind = stop_behind
        self.pages: dict[int, FinishedPage] = {}

    def begin(self, *, among_others: bool = False) -> None:
        """No matter."""

    def finish(self, page: FinishedPage) -> None:
        self.pages[page.number] = page

    def stops(self) -> bool:
        return self.stop_behind in self.pages


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    made: list[Sandbox] = []

    def make(engine: EngineName = EngineName.DUMMY, **limits: Any) -> Sandbox:
        scratch = tmp_path / f"scratch-{len(made)}"
        scratch.mkdir()
        made.append(Sandbox(engine, Limits(**limits), scratch=scratch))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


def converted(sandbox: Sandbox, data: bytes, journal: Kept) -> EngineResult:
    pdf = sandbox._scratch / "in.pdf"
    pdf.write_bytes(data)
    result = sandbox.convert(pdf, sandbox._scratch / "out", [], None, journal)
    return result.model_copy(
        update={"assets": [(a.extension, a.placeholder, a.path.read_bytes()) for a in result.assets]}
    )


def across_lives(pages: dict[int, FinishedPage]) -> dict[int, FinishedPage]:
    """As they come out of a checkpoint."""
    return {number: FinishedPage.model_validate_json(page.model_dump_json()) for number, page in pages.items()}


# -- engines in their sandboxes --------------------------------------------------------------------------------------

DUMMY = b"%PDF-dummy pages=6 gap=2 assets=2 warn text_bytes=5000\n"


@pytest.mark.parametrize("cut", range(7))
def test_a_dummy_document_is_the_same_wherever_it_was_cut(sandbox: Callable[..., Sandbox], cut: int) -> None:
    one = sandbox()
    whole = Kept()
    expected = converted(one, DUMMY, whole)
    assert sorted(whole.pages) == [1, 2, 3, 4, 5, 6]
    known = {number: page for number, page in whole.pages.items() if number <= cut}
    rest = Kept(across_lives(known))
    assert converted(one, DUMMY, rest) == expected
    assert sorted(rest.pages) == list(range(cut + 1, 7))


def test_known_pages_that_make_no_sense_are_converted_again(sandbox: Callable[..., Sandbox]) -> None:
    one = sandbox()
    expected = converted(one, DUMMY, Kept())
    bad = {
        number: FinishedPage(number=number, payload=payload)
        for number, payload in {1: "", 2: "{}", 3: '{"number": "x"}', 99: '{"number": 99, "text": ""}'}.items()
    }
    rest = Kept(bad)
    assert converted(one, DUMMY, rest) == expected
    assert sorted(rest.pages) == [1, 2, 3, 4, 5, 6]
    # What cannot even be sent is as good as nothing.
    assert converted(one, DUMMY, Kept({1: FinishedPage.model_construct(number=1, payload="\ud800")})) == expected


@pytest.mark.parametrize(
    "message",
    [
        {"number": 7, "payload": "x"},
        {"number": 0, "payload": "x"},
        {"number": "x", "payload": "x"},
        {"number": 1},
        {"number": 1, "payload": {}},
        {"number": 1, "payload": "\ud800"},
    ],
)
def test_a_child_that_hands_over_nonsense_has_crashed(
    sandbox: Callable[..., Sandbox], message: dict[str, object]
) -> None:
    journal = Kept()
    with pytest.raises(ConversionError, match="makes no sense"):
        sandbox()._finished(message, 6, journal, 0.0)
    assert journal.pages == {}


def test_a_journal_stops_behind_a_page_and_the_sandbox_goes_on_with_others(sandbox: Callable[..., Sandbox]) -> None:
    one = sandbox()
    journal = Kept(stop_behind=2)
    with pytest.raises(Aborted, match="behind page 2"):
        converted(one, b"%PDF-dummy pages=50 seconds=0.05\n", journal)
    assert sorted(journal.pages) == [1, 2]
    assert len(converted(one, DUMMY, Kept()).pages) == 6


def test_the_time_that_was_spent_counts(sandbox: Callable[..., Sandbox]) -> None:
    one = sandbox(document_timeout=5.0)
    slow = b"%PDF-dummy pages=8 seconds=0.25\n"
    journal = Kept()
    converted(one, slow, journal)
    spent = [journal.pages[number].spent for number in range(1, 9)]
    assert spent == sorted(spent)
    # Two clocks are in it, the child's sleep and this process's: they part by microseconds.
    assert spent[-1] >= 1.99
    known = {1: journal.pages[1]}
    later = Kept(known, spent=1.0)
    converted(one, slow, later)
    assert later.pages[2].spent >= 1.24
    with pytest.raises(OutOfTime) as caught:
        converted(one, slow, Kept(known, spent=4.0))
    assert caught.value.failure.category is Category.TIMEOUT
    over = Kept(known, spent=5.0)
    with pytest.raises(OutOfTime, match="before it was taken up again") as caught:
        converted(one, slow, over)
    assert not caught.value.failure.retryable
    assert over.pages == {}, "nothing was begun"


def booklet() -> bytes:
    """Headings of sizes that first occur on the last page, figures, a turned page, and pages that are the same object."""
    with pymupdf.open() as made:
        for number in range(1, 6):
            page = made.new_page()
            page.insert_text((72, 90), f"Chapter {number} of the booklet", fontsize=18 + 4 * number)
            page.insert_text((72, 140), f"A section in chapter {number}", fontsize=14)
            for line in range(12):
                page.insert_text((72, 190 + 16 * line), f"Sentence {line} of chapter {number} has words in it.")
            if number in (2, 4):
                pixmap = pymupdf.Pixmap(pymupdf.csRGB, 64, 48, bytes(range(256)) * 36, False)
                page.insert_image((72, 420, 392, 660), pixmap=pixmap)
        made[1].set_rotation(90)
        made.new_page(width=3000, height=3000).insert_text((72, 72), "Words on a huge page")
        made.copy_page(1)
        made.embfile_add("more.txt", b"more")
        return bytes(made.tobytes())


def test_a_layout_document_is_the_same_wherever_it_was_cut(sandbox: Callable[..., Sandbox]) -> None:
    """Though the level of a heading depends on the font sizes of all pages."""
    one = sandbox(EngineName.LAYOUT, max_pixels=4_000_000)
    data = booklet()
    whole = Kept()
    expected = converted(one, data, whole)
    levels = {page.text.partition(" ")[0] for page in expected.pages if page.text.startswith("#")}
    assert len(levels) > 2
    assert any("too large to render" in warning for warning in expected.warnings)
    assert len(expected.assets) == 2
    count = len(expected.pages)
    assert sorted(whole.pages) == list(range(1, count + 1))
    for cut in (1, 3, count - 1, count):
        known = {number: page for number, page in whole.pages.items() if number <= cut}
        rest = Kept(across_lives(known))
        assert converted(one, data, rest) == expected
        assert sorted(rest.pages) == list(range(cut + 1, count + 1))


class RaisingReader:
    """Reads pages as their number; raises on some, in one way or in all."""

    def __init__(self, raises: dict[int, set[Way]]) -> None:
        self.raises = raises

    def read(self, page: Any, way: Way, *, render: bool = True) -> Read:
        number = page.number + 1
        if way in self.raises.get(number, ()):
            raise RuntimeError(f"bad page {number}")
        return Read([Block(f"{way} {number}")], way)

    def trust(self, page: Any, read: Read, text: str) -> PageTrust:
        return PageTrust(score=(page.number + 1) / 10, parts={Part.LOST: 0.5})


def test_pages_that_fail_in_one_way_go_a_cheaper_one_wherever_the_document_was_cut(tmp_path: Path) -> None:
    pdf = tmp_path / "in.pdf"
    with pymupdf.open() as made:
        for number in range(1, 8):
            made.new_page().insert_text((72, 72), f"layer {number}")
        made.save(pdf)

    def run(known: dict[int, str]) -> tuple[EngineResult, dict[int, str]]:
        kept: dict[int, str] = {}
        one = {Way.LAYOUT}
        reader: Any = RaisingReader({2: one, 4: one | {Way.TEXT}, 5: one | {Way.TEXT, Way.OCR}})
        conversion = layout.Conversion(opening, reader, None, Limits(), pdf, [], marginalia=True)
        return conversion.run(lambda page, pages, ways=0: None, Handover(known, kept.__setitem__)), kept

    whole, kept = run({})
    texts = [page.text.strip() for page in whole.pages]
    # After the third page that failed, the layout way is not tried again.
    assert texts == ["layout 1", "text 2", "layout 3", "ocr 4", "", "text 6", "text 7"]
    assert [page.way for page in whole.pages] == ["layout", "text", "layout", "ocr", "gap", "text", "text"]
    assert [page.number for page in whole.pages if page.gap] == [5]
    assert [page.trust and page.trust.score for page in whole.pages] == [0.1, 0.2, 0.3, 0.4, 0.0, 0.6, 0.7]
    assert "page 2: the library that reads it failed (bad page 2, RuntimeError); text instead" in whole.warnings
    for cut in range(8):
        assert run({number: kept[number] for number in range(1, cut + 1)})[0] == whole


CORPUS = Path(os.environ.get("PDF_FLOWS_CORPUS") or ROOT / "../shared/corpus").resolve()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not there")
def test_documents_of_the_corpus_are_the_same_wherever_they_were_cut(sandbox: Callable[..., Sandbox]) -> None:
    one = sandbox(EngineName.LAYOUT, max_pages=12)
    drawn = random.Random(7)
    # What hangs or bursts is cut off by the clock, and not twice at the same place.
    kind = [pdf for pdf in sorted(CORPUS.rglob("*.pdf")) if pdf.parent.name != "hostile"]
    for pdf in drawn.sample(kind, 8):
        whole = Kept()
        try:
            expected = converted(one, pdf.read_bytes(), whole)
        except ConversionError:
            continue
        known = {number: page for number, page in whole.pages.items() if drawn.random() < 0.5}
        assert converted(one, pdf.read_bytes(), Kept(across_lives(known))) == expected, pdf.name


# -- documents in a worker's life ------------------------------------------------------------------------------------


@pytest.fixture
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cases]:
    with cases(monkeypatch) as make:
        yield make


def saving(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    chosen = partial(DocumentConverter, save_seconds=seconds, fingerprint=FINGERPRINT)
    monkeypatch.setattr(tasks.worker, "DocumentConverter", chosen)


def segments(case: Case, spec: RunSpec) -> list[str]:
    return [info.key for info in case.runs.list(paths.checkpoints(spec.run_id))]


def markdown(case: Case) -> dict[str, bytes]:
    return {info.key: case.output.read(info.key) for info in case.output.list(skip="_runs/")}


def last(case: Case, spec: RunSpec) -> Record:
    return [record for record in case.records(spec) if record.outcome is not Outcome.INTENT][-1]


LONG = {"long.pdf": b"%PDF-dummy pages=12 seconds=0.1 assets=1\n"}


def uninterrupted(new_case: Cases, given: dict[str, bytes]) -> dict[str, bytes]:
    case = new_case(given)
    spec = case.plan().spec
    case.live(spec)
    return markdown(case)


def dies_publishing() -> Faults:
    """The life ends right before it writes its first output."""
    return Faults(at=0, kind=Kind.DIE_BEFORE, match=lambda store, method, key: (store, method) == ("output", "create"))


def test_a_life_goes_on_behind_what_another_one_saved(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = uninterrupted(new_case, LONG)
    saving(monkeypatch, 0.25)
    case = new_case(LONG)
    spec = case.plan().spec
    assert isinstance(ends_somehow(lambda: case.live(spec, faults=dies_publishing())), Death)
    kept = segments(case, spec)
    assert 2 <= len(kept) <= 5
    fence_all(case, spec)
    seen: list[int] = []
    monkeypatch.setattr(tasks.worker.Pulse, "page", lambda pulse, page: seen.append(page))
    assert case.live(spec).converted == 1
    assert len(seen) <= 6
    assert markdown(case) == expected
    assert segments(case, spec) == []
    assert case.check_published_once(spec).converted == 1


def test_the_record_says_how_many_pages_came_from_a_checkpoint(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "resumed" not in Record.model_fields:
        pytest.skip("the ledger does not count resumed pages")
    saving(monkeypatch, 0.25)
    case = new_case(LONG)
    spec = case.plan().spec
    ends_somehow(lambda: case.live(spec, faults=dies_publishing()))
    fence_all(case, spec)
    case.live(spec)
    assert 6 <= last(case, spec).resumed <= 12


def test_a_first_claim_looks_for_no_checkpoint_and_a_short_document_writes_none(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving(monkeypatch, 60.0)
    case = new_case(LONG)
    spec = case.plan().spec
    faults = Faults()
    case.live(spec, faults=faults)
    assert [call for call in faults.calls if "/checkpoints/" in call[2]] == []


def foreign(case: Case, spec: RunSpec, given: bytes, page: SavedPage, engine: str) -> list[str]:
    mine = Checkpoints(case.runs, spec.run_id, 9, 9)
    return list(mine.write(Belonging(hashlib.sha256(given).hexdigest(), engine, 0), [page], 1.0))


def test_checkpoints_that_cannot_be_trusted_change_nothing(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = uninterrupted(new_case, LONG)
    (data,) = LONG.values()
    saving(monkeypatch, 0.25)
    case = new_case(LONG)
    spec = case.plan().spec
    ends_somehow(lambda: case.live(spec, faults=dies_publishing()))
    good = segments(case, spec)
    for number, key in enumerate(good):
        held = case.runs.read(key)
        case.runs.put(key, (held[:-9], held[:20] + b"\xff" + held[21:], b"")[number % 3])
    (theirs,) = foreign(case, spec, data, SavedPage(1, '{"number":1,"text":"forged"}'), "0" * 32)
    case.runs.put(good[0].rpartition("/")[0] + "/" + theirs.rpartition("/")[2], case.runs.read(theirs))
    fence_all(case, spec)
    assert case.live(spec).converted == 1
    assert markdown(case) == expected


def test_a_store_that_refuses_checkpoints_costs_no_document(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = uninterrupted(new_case, LONG)
    saving(monkeypatch, 0.25)
    case = new_case(LONG)
    spec = case.plan().spec

    def refuse(store: str, method: str, key: str) -> None:
        if "/checkpoints/" in key:
            raise StoreError("AccessDenied", Category.FORBIDDEN)

    assert case.live(spec, faults=Faults(on_call=refuse)).converted == 1
    assert markdown(case) == expected
    assert "are not saved" in caplog.text
    assert case.live(spec, epoch=1, faults=Faults(on_call=refuse)).failed == 0


def test_a_retry_in_the_same_life_goes_on_behind_the_crash(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(tasks.worker.Pulse, "page", lambda pulse, page: begun.append(page))
    case = new_case({"long.pdf": b"%PDF-dummy pages=6 seconds=0.3\n"}, real=True)
    spec = case.plan().spec
    workers: list[Worker] = []

    def make(settings: WorkerSettings, log: object) -> Worker:
        workers.append(Worker(settings, LOG))
        return workers[0]

    def kill_child_on_page_four() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and 4 not in begun:
            time.sleep(0.01)
        os.kill(workers[0]._pool._all[0].pid or 0, signal.SIGKILL)

    thread = threading.Thread(target=kill_child_on_page_four)
    thread.start()
    assert case.live(spec, make=make).converted == 1
    thread.join()
    assert begun == [1, 2, 3, 4, 4, 5, 6]


# -- drains ----------------------------------------------------------------------------------------------------------


def drained(
    case: Case, spec: RunSpec, monkeypatch: pytest.MonkeyPatch, *, page: int, grace: float
) -> tuple[Record, list[int]]:
    """A life that is told to stop when it begins a page; its last record, and the pages that it began."""
    begun: list[int] = []
    workers: list[Worker] = []

    def make(settings: WorkerSettings, log: object) -> Worker:
        workers.append(Worker(settings, LOG))
        return workers[0]

    def at_page(pulse: object, number: int) -> None:
        begun.append(number)
        if number == page:
            workers[0].drain("notice", grace=grace)

    with monkeypatch.context() as patch:
        patch.setattr(tasks.worker.Pulse, "page", at_page)
        case.live(spec, make=make)
    return last(case, spec), begun


def test_a_drain_lets_a_document_end_whose_rest_fits(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    saving(monkeypatch, 60.0)
    case = new_case(LONG)
    record, begun = drained(case, case.plan().spec, monkeypatch, page=6, grace=20.0)
    assert record.outcome is Outcome.CONVERTED
    assert begun[-1] == 12


@pytest.mark.parametrize("real", [False, True])
def test_a_drain_stops_a_long_document_behind_the_page_in_hand_and_another_life_goes_on_there(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch, real: bool
) -> None:
    expected = uninterrupted(new_case, LONG)
    saving(monkeypatch, 1.0)
    case = new_case(LONG, real=real)
    spec = case.plan().spec
    record, begun = drained(case, spec, monkeypatch, page=4, grace=0.45)
    assert record.outcome is Outcome.RELEASED
    assert begun == [1, 2, 3, 4] or real
    assert len(segments(case, spec)) == 1
    seen: list[int] = []
    monkeypatch.setattr(tasks.worker.Pulse, "page", lambda pulse, page: seen.append(page))
    assert case.live(spec).converted == 1
    assert seen == list(range(5, 13)) or real
    assert set(seen) | set(begun) == set(range(1, 13))
    assert len(seen) + len(begun) <= 13
    assert markdown(case) == expected
    assert segments(case, spec) == []


def test_a_drain_of_a_short_document_saves_nothing(new_case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    saving(monkeypatch, 60.0)
    case = new_case(LONG)
    spec = case.plan().spec
    record, _ = drained(case, spec, monkeypatch, page=4, grace=0.1)
    assert record.outcome is Outcome.RELEASED
    assert segments(case, spec) == []
    case.live(spec)
    case.check_published_once(spec)


def test_a_page_that_takes_too_long_is_lost_and_those_before_it_are_saved(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker kills the engine at the end of its grace."""
    saving(monkeypatch, 1.0)
    case = new_case({"long.pdf": b"%PDF-dummy pages=6 seconds=0.7\n"}, real=True)
    spec = case.plan().spec
    record, begun = drained(case, spec, monkeypatch, page=2, grace=0.1)
    assert (record.outcome, begun) == (Outcome.RELEASED, [1, 2])
    assert len(segments(case, spec)) == 1
    seen: list[int] = []
    monkeypatch.setattr(tasks.worker.Pulse, "page", lambda pulse, page: seen.append(page))
    case.live(spec)
    assert seen == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_document_over_its_time_limit_fails_however_often_it_is_interrupted(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    """But where the machine was busy (the dummy sleeps: it looks like that) another try has all the time, and the pages."""
    saving(monkeypatch, 0.5)
    limits = Limits(memory_mb=1024, document_timeout=2.5)
    case = new_case({"long.pdf": b"%PDF-dummy pages=10 seconds=0.3\n"}, real=True, limits=limits)
    spec = case.plan().spec
    record, _ = drained(case, spec, monkeypatch, page=5, grace=0.1)
    assert record.outcome is Outcome.RELEASED
    assert segments(case, spec)
    seen: list[int] = []
    monkeypatch.setattr(tasks.worker.Pulse, "page", lambda pulse, page: seen.append(page))
    case.live(spec, retries=retries)
    assert segments(case, spec) == []
    if retries == 0:
        failure = last(case, spec).failure
        assert failure is not None
        assert failure.category is Category.TIMEOUT
    else:
        case.check_published_once(spec)
        assert len(seen) <= 8


# -- killed processes ------------------------------------------------------------------------------------------------

LIFE = """
    import sys, logging
    from functools import partial
    import tasks.worker
    from tasks.document import DocumentConverter

    runs, run_id, interval = sys.argv[1:]
    tasks.worker.DocumentConverter = partial(DocumentConverter, save_seconds=float(interval), fingerprint="f" * 32)
    tasks.worker.Pulse.page = lambda pulse, page: print(page, flush=True)
    settings = tasks.worker.WorkerSettings(
        runs=runs, run_id=run_id, worker=0, workers=1, engine_options={"seconds": 0.2}
    )
    tasks.worker.Worker(settings, logging.getLogger()).run()
"""


def killed_at(case: Case, spec: RunSpec, page: int, interval: float) -> None:
    """A worker's process that is killed when it begins that page."""
    command = [sys.executable, "-c", textwrap.dedent(LIFE), case.options.runs_url, spec.run_id, str(interval)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == page:
                process.kill()
    fence_all(case, spec)


@pytest.mark.parametrize(("interval", "kills"), [(1.0, [9, 16]), (1000.0, [9])])
def test_a_killed_worker_repeats_no_more_than_the_interval(
    new_case: Cases, monkeypatch: pytest.MonkeyPatch, interval: float, kills: list[int]
) -> None:
    """Two deaths in one document; and the mutant that saves nothing begins it anew."""
    given = {"long.pdf": b"%PDF-dummy pages=20 assets=1\n"}
    expected = uninterrupted(new_case, given)
    case = new_case(given)
    spec = case.plan().spec
    for page in kills:
        killed_at(case, spec, page, interval)
    saves = bool(segments(case, spec))
    assert saves == (interval == 1.0)
    saving(monkeypatch, interval)
    seen: list[int] = []
    monkeypatch.setattr(tasks.worker.Pulse, "page", lambda pulse, page: seen.append(page))
    assert case.live(spec, engine_options={"seconds": 0.2 if saves else 0.0}).converted == 1
    # What was finished is repeated for a second of work at most: five pages.
    assert (seen[0] >= kills[-1] - 5) == saves
    assert seen == list(range(seen[0], 21))
    assert segments(case, spec) == []
    assert markdown(case) == expected
