"""The Prefect UI in the system's Chromium: what a person who triggers a run there sees of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Page, expect
from prefect import Flow
from ui import RUN_SECONDS, NoBrowser, RunForm, RunPage, Search, TaskRunPage, chromium, served

from flows.convert_corpus import convert_corpus
from flows.convert_partition import convert_partition
from flows.retry_failures import retry_failures
from flows.scale_run import scale_run

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]

DOCUMENTS = {f"volume-{number}.pdf": f"%PDF-dummy pages={number}\n" for number in range(1, 4)} | {
    "volume-4.pdf": "%PDF-dummy pages=4 seconds=4\n",  # so that there is something to watch
    "maps/coast.pdf": "%PDF-dummy pages=2\n",
    "maps/torn.pdf": "%PDF-dummy fail=DAMAGED\n",
}
FLOWS = (convert_corpus, retry_failures, scale_run, convert_partition)
ENDS = ("Completed", "Completed with failures", "Failed", "Stopped", "Refused", "Crashed")
RUN_ID = re.compile(r"\d{8}-\d{6}-\w+")


class Served(NamedTuple):
    """A browser, and the UI of a `pdf-flows up` whose home holds the input `~/library`."""

    page: Page
    address: str
    home: Path


class Finished(NamedTuple):
    """A run that was triggered in the form and came to its end before the eyes of the one who did."""

    page: RunPage
    state: str
    run_id: str
    watched: tuple[str, str]
    """Its state and its progress, while it ran."""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("ui")
    for key, content in DOCUMENTS.items():
        path = home / "library" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    try:
        with chromium(home / "profile") as page, served(home) as address:
            yield Served(page, address, home)
    except NoBrowser as error:
        pytest.fail(str(error))


@pytest.fixture(scope="module")
def run(ui: Served) -> Finished:
    form = RunForm.open(ui.page, ui.address, "convert-corpus")
    form.field("input").fill("~/library")
    form.field("output").fill("~/markdown")
    form.field("engine").choose("dummy")
    form.field("max_failure_rate").fill("0.5")
    form.field("steal").switch_off()  # so that each worker has its share, however fast the other is
    page = form.start()
    page.wait("Running")
    page.show("Artifacts")
    expect(page.card("progress")).to_contain_text("of 6 documents", timeout=RUN_SECONDS * 1000)
    watched = page.state.inner_text().strip(), page.card("progress").inner_text()
    state = page.wait(*ENDS)
    page.open()
    return Finished(page, state, page.name.inner_text().strip(), watched)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_each_form_describes_every_parameter_and_says_which_are_optional(ui: Served, flow: Flow[..., Any]) -> None:
    fields = RunForm.open(ui.page, ui.address, flow.name).fields()
    parameters = inspect.signature(flow.fn).parameters
    assert list(fields) == list(parameters)
    optional = [name for name, field in fields.items() if field.label.endswith(" (Optional)")]
    assert optional == [name for name, one in parameters.items() if one.default is not one.empty]
    descriptions = {name: field.description for name, field in fields.items()}
    told = {name: re.search(rf"^ +{name}: (.+)$", flow.fn.__doc__ or "", re.MULTILINE) for name in parameters}
    assert descriptions == {name: found.group(1) for name, found in told.items() if found is not None}


def test_the_form_offers_defaults_and_choices(ui: Served) -> None:
    fields = RunForm.open(ui.page, ui.address, "convert-corpus").fields()
    assert list(fields)[:6] == ["input", "output", "engine", "workers", "limit", "dry_run"]
    assert fields["engine"].choices() == ["layout", "dolphin", "dummy"]
    assert fields["launcher"].choices() == ["local", "work-pool"]
    assert (fields["engine"].chosen, fields["launcher"].chosen) == ("layout", "work-pool")
    assert fields["workers"].control.input_value() == "2"
    assert fields["max_failure_rate"].control.input_value() == "0.05"


def test_a_form_without_input_is_not_submitted(ui: Served) -> None:
    form = RunForm.open(ui.page, ui.address, "convert-corpus")
    form.field("output").fill("~/elsewhere")
    form.submit()
    expect(ui.page.get_by_text("'input' is a required property")).to_be_visible()
    expect(ui.page.get_by_text("'output' is a required property")).to_have_count(0)
    assert ui.page.url.split("?")[0].endswith("/run")


def test_the_run_says_how_it_ended_and_bears_the_run_id(ui: Served, run: Finished) -> None:
    assert run.state == "Completed with failures"
    assert RUN_ID.fullmatch(run.run_id)
    assert (ui.home / "markdown" / "_runs" / run.run_id / "report.json").is_file()
    assert len(list((ui.home / "markdown").glob("**/*.md"))) == len(DOCUMENTS) - 1
    run.page.open("Details")
    assert {"pdf-flows", f"run:{run.run_id}"} <= set(run.page.tags)
    expect(ui.page.get_by_text("1 of 6 documents failed")).to_be_visible()


def test_the_workers_are_child_runs_on_the_other_pool(run: Finished) -> None:
    children = run.page.children(2, "Completed", "pdf-flows-workers", f"run:{run.run_id}")
    assert sorted(children) == [f"{run.run_id}-worker-0", f"{run.run_id}-worker-1"]


def test_each_document_is_a_task_run_of_a_worker_and_a_line_in_its_log(run: Finished) -> None:
    states: dict[str, str] = {}
    lines: list[str] = []
    for number in (0, 1):
        child = run.page.child(f"{run.run_id}-worker-{number}")
        own = child.task_runs()
        assert len(own) == len(DOCUMENTS) // 2
        states |= own
        said = "\n".join(child.logs())
        assert f"[Worker {number}] Starting processing: " in said
        assert re.search(rf"\[Worker {number}\] Completed: \d/\d PDFs, [01] failures", said)
        lines += re.findall(r"\[Worker \d\] (?:Converted|Failed): .+", said)
    assert states == {key: "Failed" if key == "maps/torn.pdf" else "Completed" for key in DOCUMENTS}
    texts = sorted(line.split("] ", 1)[1].strip() for line in lines)
    assert texts == sorted(
        "Failed: library/maps/torn.pdf - Error: DAMAGED: the script says so"
        if key == "maps/torn.pdf"
        else f"Converted: library/{key} -> markdown/{key.removesuffix('.pdf')}.md"
        for key in DOCUMENTS
    )


def test_the_parents_log_accounts_for_all_documents(run: Finished) -> None:
    said = "\n".join(run.page.logs())
    assert f"Run {run.run_id}: 6 documents, 6 waiting, 2 workers" in said
    assert "6 documents = 5 converted + 0 skipped + 1 failed + 0 quarantined + 0 remaining" in said
    assert "Traceback" not in said


def test_the_failures_are_a_table_with_cause_and_replay_command(ui: Served, run: Finished) -> None:
    artifact = run.page.artifact("failures")
    assert artifact.table() == [
        {
            "document": "maps/torn.pdf",
            "category": "DAMAGED",
            "message": "the script says so",
            "see": "task run, log",
            "phase": "open",
            "attempts": "1",
            "retryable": "no",
            "replay": f"pdf-flows retry {ui.home}/markdown {run.run_id} --document=maps/torn.pdf",
        }
    ]
    assert "1 of 6 documents failed." in artifact.text()


def test_the_summary_accounts_and_leads_to_the_failures(ui: Served, run: Finished) -> None:
    artifact = run.page.artifact("summary")
    expect(ui.page.get_by_role("heading", name="Completed with failures")).to_be_visible()
    text = re.sub(r"\s+", " ", artifact.text())
    for told in ("documents 6", "converted 5", "failed 1", "remaining 0", "published twice 0", "pages 12", "DAMAGED 1"):
        assert told in text
    opened = artifact.follow("Each failed document and its cause")
    expect(opened.get_by_text("maps/torn.pdf", exact=True)).to_be_visible()
    opened.close()
    opened = artifact.follow("The workers and their logs")
    expect(opened.get_by_role("link", name="log", exact=True)).to_have_count(2)
    opened.close()


def test_a_document_is_found_by_its_name_and_a_run_by_its_id(ui: Served, run: Finished) -> None:
    search = Search(ui.page, ui.address)
    search.task_runs("COAST", 1).click()
    found = TaskRunPage(ui.page)
    expect(found.name).to_have_text("maps/coast.pdf")
    expect(found.state).to_have_text("Completed")
    names = search.flow_runs(run.run_id, 3)
    assert sorted(names) == [run.run_id, f"{run.run_id}-worker-0", f"{run.run_id}-worker-1"]


def test_what_became_of_a_document_is_found_among_the_artifacts(ui: Served, run: Finished) -> None:
    search = Search(ui.page, ui.address)
    expect(search.artifacts("torn", 1)).to_contain_text("maps/torn.pdf: DAMAGED, the script says so.")
    search.page.locator(".artifact-card").click()
    expect(ui.page.get_by_text(run.run_id).first).to_be_visible()
    kinds = search.artifacts("failures", 2).locator(".artifact-card__title").all_inner_texts()
    assert sorted(kind.strip() for kind in kinds)[0] == "failures"
    expect(search.artifacts("coast", 0)).to_have_count(0)


def test_a_person_watches_a_run_looks_into_its_failure_mends_it_and_converts_it_again(
    ui: Served, run: Finished
) -> None:
    """The whole story, from the form that the fixture filled in to the log of the worker that mended the document."""
    state, progress = run.watched
    assert state == "Running"
    assert re.search(r"\b[0-5] of 6 documents, [01] failures, \d+ pages", progress)
    run.page.open("Artifacts")
    expect(run.page.card("progress")).to_contain_text("6 of 6 documents, 1 failures, 12 pages")

    # The table of failures leads to the document's task run, and to its worker's log.
    failures = run.page.artifact("failures")
    opened = failures.follow("task run", row="maps/torn.pdf")
    document = TaskRunPage(opened)
    expect(document.name).to_have_text("maps/torn.pdf")
    expect(document.state).to_have_text("Failed")
    opened.close()
    opened = failures.follow("log", row="maps/torn.pdf")
    expect(opened.get_by_text("Failed: library/maps/torn.pdf - Error: DAMAGED")).to_be_visible()
    opened.close()

    # The summary leads to the form that converts again what failed.
    (ui.home / "library" / "maps" / "torn.pdf").write_text("%PDF-dummy pages=5\n")
    page = run.page.artifact("summary").follow("the form of retry-failures, filled in")
    try:
        form = RunForm(page)
        expect(form.field("output").control).to_have_value(f"{ui.home}/markdown")
        expect(form.field("run_id").control).to_have_value(run.run_id)
        assert form.field("launcher").chosen == "work-pool"
        form.field("workers").fill("1")
        again = form.start()
        assert again.wait(*ENDS) == "Completed"
        again.open("Details")
        name = again.name.inner_text().strip()
        assert {f"run:{name}", f"retry-of:{run.run_id}"} <= set(again.tags)
        assert (ui.home / "markdown" / "maps" / "torn.md").is_file()
        told = re.sub(r"\s+", " ", again.artifact("summary").text())
        assert "documents 1 converted 1" in told
        said = again.child(f"{name}-worker-0").logs()
        assert any("Converted: library/maps/torn.pdf -> markdown/maps/torn.md" in line for line in said)
    finally:
        page.close()
    search = Search(ui.page, ui.address)
    expect(search.artifacts("torn", 1)).to_contain_text("maps/torn.pdf is converted now.")


def test_bad_input_is_a_run_that_was_refused_with_one_clear_line(ui: Served) -> None:
    form = RunForm.open(ui.page, ui.address, "convert-corpus")
    form.field("input").fill("~/nowhere")
    form.field("output").fill("~/markdown")
    page = form.start()
    assert page.wait("Completed", "Failed", "Refused", "Crashed") == "Refused"
    said = [line for line in page.logs() if "ERROR" in line]
    assert re.search(r"no such folder: \S+/nowhere$", said[0], re.MULTILINE)
    assert "Traceback" not in "\n".join(said)
