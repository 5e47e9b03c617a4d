"""`report.html`: everything escaped, nothing loaded, of bounded size; and what interruptions cost."""

from __future__ import annotations

import hashlib
import re
import time
from base64 import b64encode
from pathlib import Path
from uuid import UUID

import pytest
from conftest import MotoS3
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore
from pictured_run import pictured_run
from report_kit import Elements, hostile_run, html, report
from watched_run import BEGAN, ELSEWHERE, RUN_ID, WatchedRun

from deployments.reporting import report as tell
from tasks.charts import Span, money_chart, pages_chart, time_line
from tasks.corpus.failures import Category, Failure, Phase, StoreError, UsageError
from tasks.corpus.ledger import Outcome
from tasks.corpus.lives import Heartbeat, Life
from tasks.corpus.partition import Bitmap
from tasks.corpus.settled import SettledBoard, read_settled
from tasks.corpus.store_folder import FolderStore
from tasks.corpus.store_s3 import S3Store
from tasks.corpus.tally import LifeTally
from tasks.fleet.criteria import Criterion
from tasks.fleet.money import Money
from tasks.live_page import LivePage, output_base
from tasks.lookout import Lookout
from tasks.losses_priced import interruption_cost
from tasks.page import EXAMPLES, WORKERS, Links, page_of
from tasks.report import read_report, write_report
from tasks.view import LifeFacts


def test_hostile_names_and_messages_are_text_and_nothing_else() -> None:
    page = html(hostile_run(MemoryStore()))
    found = Elements(page)
    assert not {"script", "img", "base", "iframe", "object", "embed", "link", "form", "input"} & set(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name == "style"]
    for _, name, value in found.attributes:
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("../../", "https://ui.example/runs/flow-run/"))
    assert "<script>alert(1)</script>.pdf" in found.text
    assert "{{ 7 * 7 }}" in found.text
    assert "two\\nlines\\r.pdf" in found.text
    assert "&lt;already&gt;" in found.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]", page)


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_any_name_comes_back_out_as_it_is_shown(name: str) -> None:
    store = MemoryStore()
    run = WatchedRun(store, 2, 1, keys={0: f"{name}.pdf"})
    run.live(0)
    run.record(0, 0, name="n.md")
    run.fail(0, 1, message=name)
    run.flush()
    run.work(0)
    tags = Elements(html(run)).tags
    harmless = WatchedRun(MemoryStore(), 2, 1, keys={0: "a.pdf"})
    harmless.live(0)
    harmless.record(0, 0, name="n.md")
    harmless.fail(0, 1, message="a")
    harmless.flush()
    harmless.work(0)
    assert tags == Elements(html(harmless)).tags


def test_the_policy_allows_the_pages_own_style_and_nothing_else() -> None:
    page = html(pictured_run(MemoryStore(), "s3://b/m", done=300))
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.replace("&#39;", "'") == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<body>")
    found = Elements(page)
    assert not {"script", "img", "link", "style"} - {"style"} & set(found.tags)
    assert found.tags.count("style") == 1
    assert not re.search(r"url\(|@import|https?://", style)


def test_it_says_what_a_person_asks() -> None:
    run = pictured_run(MemoryStore(), "s3://harbour/markdown")
    text = " ".join(Elements(html(run)).text.split())
    for words in (
        "of 4,000; 12 failed",
        "$4.23",
        "$15.10 projected",
        "DAMAGED",
        "pdf-flows retry s3://harbour/markdown 20261127-184000-ab12 --category DAMAGED",
        "--document=1887/coast-pilot-0017.pdf",
        "machine lost: SpotInterruption",
        "Announced to go: 1. Ended without a word: 2.",
        "lamp-trials-1028.pdf",
        "per 1,000 pages without them",
    ):
        assert words in text
    assert "Success criteria" not in text


def test_at_the_end_the_criteria_and_versions_are_there() -> None:
    run = pictured_run(MemoryStore(), "/data/markdown", done=200)
    run.parent(ended="ended", counter=9)
    last = report(
        documents=4000,
        converted=4000,
        money=Money(spent=9.0, budget=10.0),
        criteria=[Criterion(name="within the budget", met=True, text="$9.00 of $10.00")],
        versions={"python": "3.11.7"},
    )
    write_report(run.store, last)
    text = " ".join(Elements(html(run)).text.split())
    assert "✓ within the budget: $9.00 of $10.00" in text
    assert "3.11.7" in text
    assert "projected" not in text


def test_links_lead_to_outputs_and_logs() -> None:
    run = WatchedRun(MemoryStore(), 2, 1, keys={0: "a b/ü?#.pdf"})
    run.live(0)
    run.record(0, 0, name="a b/ü?#.md")
    run.flush()
    links = [value for tag, name, value in Elements(html(run)).attributes if (tag, name) == ("a", "href")]
    assert "../../a%20b/%C3%BC%3F%23.md" in links
    assert f"https://ui.example/runs/flow-run/{UUID(int=0)}" in links
    assert Links("", "javascript:alert(1)").of_log(str(UUID(int=0))) == ""
    assert Links("", "https://ui.example").of_log("../../x") == ""
    spec = run.spec.model_copy(update={"identity": run.spec.identity.model_copy(update={"output": "s3://b/m d"})})
    base = output_base(spec, "s3://b/m d/_runs")
    assert Links(base).of_output("x/y.md") == "https://console.aws.amazon.com/s3/object/b?prefix=m%20d%2Fx%2Fy.md"


def test_a_page_of_a_large_run_is_not_larger_than_one_of_a_small_one() -> None:
    def size(documents: int, workers: int) -> int:
        run = WatchedRun(MemoryStore(), documents, workers)
        for k in range(workers):
            run.live(k)
        categories = list(Category)
        for index in range(documents):
            failure = Failure(
                category=categories[index % len(categories)],
                phase=list(Phase)[index % len(Phase)],
                message="m" * 5000,
                retryable=False,
            )
            if index % 2:
                run.record(index % workers, index, at=index * 60.0)
            else:
                run.fail(index % workers, index, failure=failure)
        run.flush()
        for k in range(workers):
            run.work(k)
        return len(html(run).encode())

    middling, large = size(400, WORKERS), size(2400, 200)
    assert large < 1.7 * middling
    assert large < 250_000


def test_a_half_written_run_has_a_page(tmp_path: Path) -> None:
    run = WatchedRun(FolderStore.from_url(str(tmp_path / "_runs"), create=True), 5, 1)
    assert "Nothing has been done yet" in html(run)
    run.live(0)
    assert "working" in Elements(html(run)).text
    run.store.delete(run.spec.manifest)
    assert "the manifest can&#39;t be read" in html(run)


# -- what interruptions cost ----------------------------------------------------------------------------------------


def life(attempt: int, begin: float, end: float, working: float, **more: object) -> LifeFacts:
    machine = {"id": more.pop("machine", "i-1"), "lifecycle": "spot", "uptime": more.pop("uptime", None)}
    return LifeFacts(
        0,
        attempt,
        life=Life(process=ELSEWHERE, hostname="h", at=BEGAN + begin, machine=machine),
        beat=Heartbeat(at=BEGAN + end, working_seconds=working, **more),
    )


def test_an_interruption_costs_what_was_begun_and_the_successors_start() -> None:
    lost = life(0, 0, 1000, 900, ended="notice: gone")
    heir = life(1, 1500, 2000, 440, machine="i-2", uptime=120.0)
    told = {(0, 0): LifeTally(last=BEGAN + 970)}
    cost = interruption_cost([[lost, heir]], told, usd_per_second=0.001)
    # 30 s in hand for nothing, 60 s until the engine was ready, 120 s of a new machine's boot; the wait between them is free.
    assert (cost.interruptions, cost.seconds) == (1, 210.0)
    assert cost.usd == pytest.approx(0.21)


def test_an_old_machine_was_not_started_for_the_successor_and_a_drain_is_no_interruption() -> None:
    heir = life(1, 1500, 2000, 440, machine="i-1", uptime=90.0)
    told = {(0, 0): LifeTally(last=BEGAN + 1000)}
    assert interruption_cost([[life(0, 0, 1000, 900, ended="notice"), heir]], told, None).seconds == 60.0
    assert interruption_cost([[life(0, 0, 1000, 900, ended="scaled to 1 workers"), heir]], told, 1.0).interruptions == 0


# -- charts -----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), max_size=20),
    st.lists(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=3), max_size=15),
    st.lists(st.floats(0, 1e7), min_size=1, max_size=5),
)
def test_charts_are_static_whatever_the_numbers(
    points: list[tuple[float, float]], lives: list[list[tuple[float, float]]], amounts: list[float]
) -> None:
    span = Span(0.0, 1e6)
    rows = [(f"worker {k}", some) for k, some in enumerate(lives)]
    drawn = [
        pages_chart(points, 60.0, span),
        time_line(rows, [(0, 5.0)] if rows else [], [], span),
        money_chart([(f"amount {k}", usd) for k, usd in enumerate(amounts)]),
    ]
    for chart in drawn:
        assert chart.startswith("<svg")
        assert not re.search(r"<script|<style|<!--|style=|\bon\w+=|https?://(?!www\.w3\.org/2000/svg)", chart)


# -- the command, and the page beside the run -------------------------------------------------------------------------


def test_the_command_tells_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = hostile_run(FolderStore.from_url(str(tmp_path / "out" / "_runs"), create=True), str(tmp_path / "out"))
    file = tmp_path / "page.html"
    assert tell(run.store, None, str(file), as_json=False) == 0
    said = capsys.readouterr().out
    assert f"run {RUN_ID}: stopping" in said
    assert "9  DAMAGED (open)" in said
    assert not re.search("[\u202e\x1b\r]", said)
    assert file.read_text().startswith("<!doctype html>")
    assert (tmp_path / "out").as_uri() in file.read_text()
    with pytest.raises(UsageError, match="name a file"):
        tell(run.store, RUN_ID, str(tmp_path), as_json=False)


def board(run: WatchedRun) -> SettledBoard:
    return SettledBoard(run.store, RUN_ID, 0, run.documents, False)


@pytest.mark.parametrize("page_fails", [False, True])
def test_the_page_says_what_is_settled_for_the_workers(tmp_path: Path, page_fails: bool) -> None:
    """Also where there can be no page."""
    store = FolderStore.from_url(str(tmp_path / "_runs"), create=True)
    run = WatchedRun(store, 6, 1, output=str(tmp_path))
    run.live(0)
    for index in (0, 4):
        run.record(0, index)
    run.work(0)
    run.flush()
    if page_fails:
        (tmp_path / "_runs" / RUN_ID / "report.html").mkdir()
    told_by = board(run)
    before = Bitmap(6)
    before.add(3)
    told_by.begin(before, resumed=False)
    with LivePage(store, run.spec, told_by, seconds=0.05):
        deadline = time.monotonic() + 60
        while (told := read_settled(store, RUN_ID, 0, 6)) is None or not told.live:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [index in told.found for index in range(6)] == [True, False, False, True, True, False]


class Refusing(FolderStore):
    """Takes what is settled no more once `refuses`."""

    refuses = False

    def put(self, key: str, data: bytes) -> None:
        if self.refuses and key.endswith("settled.zst"):
            raise StoreError("503")
        super().put(key, data)


def test_the_page_is_written_where_what_is_settled_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Refusing.from_url(str(tmp_path / "_runs"), create=True)
    assert isinstance(store, Refusing)
    run = WatchedRun(store, 6, 1, output=str(tmp_path))
    told_by = board(run)
    told_by.begin(Bitmap(6), resumed=False)
    store.refuses = True
    with LivePage(store, run.spec, told_by) as page:
        page._tick()
        assert page.view() is not None
    assert store.head(f"{RUN_ID}/report.html") is not None
    assert "what is settled could not be written" in caplog.text


def test_the_page_beside_the_run_follows_it_and_has_the_last_word(tmp_path: Path) -> None:
    store = FolderStore.from_url(str(tmp_path / "_runs"), create=True)
    run = WatchedRun(store, 6, 1, output=str(tmp_path))
    run.live(0)
    with LivePage(store, run.spec, board(run), seconds=0.05) as page:
        while page.view() is None:
            pass
        run.record(0, 0)
        run.flush()
        run.work(0, ended="complete", outcome=Outcome.CONVERTED)
        last = page.conclude(report(documents=6, converted=6))
    assert last is not None
    assert last.over
    assert read_report(store, RUN_ID) is None, "report.json is not the page's to write"
    text = Elements(store.read(f"{RUN_ID}/report.html").decode()).text
    assert "Completed" in text
    assert "written anew every minute" not in text


def test_a_browser_shows_the_page_that_lies_in_a_bucket(moto_s3: MotoS3) -> None:
    url = moto_s3.new_bucket()
    store = S3Store.from_url(f"{url}/_runs")
    run = WatchedRun(store, 6, 1, output=url)
    with LivePage(store, run.spec, board(run)) as page:
        page.conclude(report(documents=6, converted=6))
    head = moto_s3.client.head_object(Bucket=url.removeprefix("s3://"), Key=f"_runs/{RUN_ID}/report.html")
    assert head["ContentType"] == "text/html; charset=utf-8"


def test_a_page_that_cannot_be_written_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore.from_url(str(tmp_path / "_runs"), create=True)
    run = WatchedRun(store, 6, 1)
    (tmp_path / "_runs" / RUN_ID / "report.html").mkdir()
    with LivePage(store, run.spec, board(run)) as page:
        assert page.conclude(report(documents=6)) is not None
    assert "report.html could not be written" in caplog.text


def test_only_a_few_examples_of_a_cause_are_on_the_page() -> None:
    run = WatchedRun(MemoryStore(), 100, 1)
    run.live(0)
    for index in range(60):
        run.fail(0, index)
    run.flush()
    run.work(0)
    with Lookout(run.store, run.spec) as lookout:
        (cause,) = page_of(lookout.catch_up(), "/r", Links()).causes
    assert (cause.documents, len(cause.examples), cause.more) == (60, EXAMPLES, 55)
