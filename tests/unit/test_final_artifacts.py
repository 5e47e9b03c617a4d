"""What a run leaves in the Prefect UI at its end, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.settings import PREFECT_UI_URL, temporary_settings

from tasks.corpus.audit import Account, Failed, Reconciliation
from tasks.corpus.failures import Category, Failure, Phase
from tasks.corpus.ledger import Outcome
from tasks.final_artifacts import (
    Forms,
    Leads,
    Mended,
    document_key,
    document_markdown,
    document_sentence,
    failure_rows,
    mended_documents,
    summary_markdown,
)
from tasks.report import Report, RunState
from tasks.ui_links import artifact_path, console_link, form_path, log_path
from tasks.whereabouts import Place

RUNS = "out put/_runs"
ONE, TWO, THREE = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.fixture(autouse=True, scope="module")
def own_server() -> Iterator[None]:
    with temporary_settings({PREFECT_UI_URL: "http://host:1"}):
        yield


def report(**changes: object) -> Report:
    values = dict(
        run_id="20260101-000000-ab12",
        state=RunState.COMPLETED,
        input="in",
        output="out put",
        documents=1200,
        converted=1200,
        skipped=0,
        partial=0,
        failed=0,
        quarantined=0,
        remaining=0,
        duplicates=0,
        pages=7,
        seconds=1.0,
        pages_per_second=7.0,
        engine="layout",
        report="out put/_runs/20260101-000000-ab12/report.json",
    )
    return Report.model_validate(values | changes)


FAILED = report(
    state=RunState.COMPLETED_WITH_FAILURES, why="2 of 3 documents failed", failed=2, categories={"DAMAGED": 2}
)


def failed(key: str = "maps/torn.pdf", message: str = "no <xref>", worker: int | None = 0) -> Failed:
    failure = Failure(category=Category.DAMAGED, phase=Phase.OPEN, message=message, retryable=False)
    return Failed(index=0, key=key, name="x.md", outcome=Outcome.FAILED, failure=failure, worker=worker)


def test_the_summary_of_a_good_run_asks_for_nothing() -> None:
    text = summary_markdown(report(), RUNS)
    assert "# Completed" in text
    assert "| documents | 1,200 |" in text
    assert "retry" not in text
    assert "again" not in text


def test_the_summary_says_what_to_do_about_failures() -> None:
    text = summary_markdown(FAILED, RUNS, Leads(failures=artifact_path(ONE)))
    assert "2 of 3 documents failed." in text
    assert "| DAMAGED | 2 |" in text
    assert "`pdf-flows retry 'out put' 20260101-000000-ab12`" in text
    assert f"](/artifacts/artifact/{ONE})" in text
    assert "form" not in text


def test_the_summary_names_the_place_of_the_runs_where_it_is_elsewhere() -> None:
    text = summary_markdown(FAILED, "s3://state/my runs")
    assert "`pdf-flows retry 'out put' 20260101-000000-ab12 --runs='s3://state/my runs'`" in text


def test_the_summary_of_a_stopped_run_says_how_to_go_on() -> None:
    stopped = report(state=RunState.STOPPED, why="interrupted", remaining=3)
    assert "To convert what remains, run the same again." in summary_markdown(stopped, RUNS)
    text = summary_markdown(stopped, RUNS, Leads(resume="/deployments/x"))
    assert "[run the same again](/deployments/x)" in text


def test_outputs_and_report_in_s3_are_links_and_on_a_disk_they_are_not() -> None:
    there = report(output="s3://lib/mark down", report="s3://lib/mark down/_runs/20260101-000000-ab12/report.json")
    text = summary_markdown(there, "s3://lib/mark down/_runs")
    console = "https://console.aws.amazon.com/s3"
    assert f"`s3://lib/mark down` ([open]({console}/buckets/lib?prefix=mark%20down%2F))" in text
    page = "mark%20down%2F_runs%2F20260101-000000-ab12%2Freport.html"
    assert f"report.html` ([open]({console}/object/lib?prefix={page}))" in text
    here = summary_markdown(report(), RUNS)
    assert "report.html`" in here
    assert "](" not in here


# -- the forms that are filled in ------------------------------------------------------------------------------------


def filled_in(path: str) -> tuple[str, dict[str, Any]]:
    """The form and what it is filled in with, as the UI reads them."""
    parts = urlsplit(path)
    (given,) = parse_qs(parts.query)["parameters"]
    return parts.path, json.loads(unquote(given))


def test_the_form_of_a_retry_is_filled_in_with_the_run_and_its_terms() -> None:
    parameters = {
        "input": "in",
        "output": "out put",
        "workers": 7,
        "budget": None,
        "launcher": "work-pool",
        "retries": 9,
    }
    path, given = filled_in(Forms(ONE, TWO, parameters).retrying(FAILED, RUNS))
    assert path == f"/deployments/deployment/{ONE}/run"
    assert given == {"output": "out put", "run_id": FAILED.run_id, "workers": 7, "launcher": "work-pool"}
    path, given = filled_in(Forms(ONE).retrying(FAILED, "s3://state/runs", "a b.pdf"))
    assert given == {
        "output": "out put",
        "run_id": FAILED.run_id,
        "runs": "s3://state/runs",
        "documents": ["a b.pdf"],
    }
    assert Forms().retrying(FAILED, RUNS) == ""


def test_the_form_of_a_stopped_run_is_filled_in_as_it_was() -> None:
    parameters = {"input": "50% of [it](x)", "output": "o&p=ü"}
    assert filled_in(Forms(ONE, TWO, parameters).resuming()) == (f"/deployments/deployment/{TWO}/run", parameters)
    assert Forms(ONE).resuming() == ""


@given(st.dictionaries(st.text(), st.text()))
def test_whatever_is_filled_in_the_link_stays_whole(parameters: dict[str, str]) -> None:
    path = form_path(ONE, parameters)
    assert not re.search(r"[\s()<>\[\]\\`]", path)
    assert filled_in(path)[1] == parameters


# -- where things are ------------------------------------------------------------------------------------------------


def test_links_within_the_ui_are_paths_whatever_its_address_is() -> None:
    assert log_path(ONE) == f"/runs/flow-run/{ONE}?tab=Logs"
    with temporary_settings({PREFECT_UI_URL: "https://app.example.org/account/a/workspace/w/"}):
        assert log_path(ONE) == f"/account/a/workspace/w/runs/flow-run/{ONE}?tab=Logs"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_whatever_an_object_is_called_its_link_stays_whole(key: str) -> None:
    target = console_link(f"s3://bucket/{key}")
    assert not re.search(r"[\s()<>\[\]\\`]", target)
    assert parse_qs(urlsplit(target).query, keep_blank_values=True)["prefix"] == [key]


def test_of_a_folder_there_is_no_link() -> None:
    assert console_link("/srv/library/a.pdf") == ""


# -- the table of failures -------------------------------------------------------------------------------------------


def test_the_table_begins_with_what_a_person_reads_first() -> None:
    (row,) = failure_rows([failed("*.pdf")])
    assert list(row.items())[:3] == [("document", "`*.pdf`"), ("category", "DAMAGED"), ("message", "`no <xref>`")]
    assert "see" not in row


def test_the_table_leads_to_task_run_log_and_document() -> None:
    names = ["a.pdf", "b](x).pdf", "c.pdf"]
    places = {"a.pdf": Place(ONE, TWO), "b](x).pdf": Place(THREE)}
    rows = failure_rows([failed(name) for name in names], places, "s3://lib/in/")
    console = "https://console.aws.amazon.com/s3/object/lib?prefix=in%2F"
    assert [row["see"] for row in rows] == [
        f"[task run](/runs/task-run/{TWO}), [log](/runs/flow-run/{ONE}?tab=Logs), [PDF]({console}a.pdf)",
        f"[log](/runs/flow-run/{THREE}?tab=Logs), [PDF]({console}b%5D%28x%29.pdf)",
        f"[PDF]({console}c.pdf)",
    ]
    assert [row["see"] for row in failure_rows([failed("a.pdf")], {}, "/srv/in")] == [""]


# -- a page for each document ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("maps/torn.pdf", "maps-torn"),
        ("1893/Harbour Dues (2).pdf", "1893-harbour-dues-2"),
        ("Übersicht Straße.PDF", "ubersicht-strae-pdf"),
    ],
)
def test_a_document_is_found_by_the_words_of_its_name(key: str, words: str) -> None:
    assert re.fullmatch(rf"document-{words}-[0-9a-f]{{6}}", document_key(key))


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_every_document_has_a_key_that_prefect_takes_and_its_own(names: list[str]) -> None:
    first, second = (document_key(name) for name in names)
    assert re.fullmatch("[a-z0-9-]{1,120}", first)
    assert first != second


def test_a_documents_page_says_why_it_failed_and_where_to_look() -> None:
    given = report(input="s3://lib/in", output="s3://lib/out", failed=1)
    text = document_markdown(failed(), given, Place(ONE, TWO), Forms(THREE), "s3://lib/out/_runs")
    for told in (
        "# DAMAGED",
        "`no <xref>`",
        "- phase: open",
        "`s3://lib/in/maps/torn.pdf` ([open](https://console.aws.amazon.com/s3/object/lib?prefix=in%2Fmaps%2Ftorn.pdf))",
        f"[log of the worker](/runs/flow-run/{ONE}?tab=Logs)",
        f"[task run](/runs/task-run/{TWO})",
        "`pdf-flows retry s3://lib/out 20260101-000000-ab12 --document=maps/torn.pdf`",
    ):
        assert told in text
    (form,) = re.findall(r"\[the form of retry-failures, filled in\]\(([^)]+)\)", text)
    assert filled_in(form)[1]["documents"] == ["maps/torn.pdf"]
    assert document_sentence(failed("*.pdf"), "r") == "`*.pdf`: DAMAGED, `no <xref>`. r"


def test_a_documents_page_without_places_and_forms_has_the_command() -> None:
    text = document_markdown(failed(message="a"), report(), Place(), Forms(), RUNS)
    assert "To convert it again: `pdf-flows retry 'out put'" in text
    assert "](" not in text


def reconciled(*keys: str, partial: tuple[str, ...] = ()) -> Reconciliation:
    numbers = dict.fromkeys(Account.model_fields, 0) | {"categories": {}, "duplicate_keys": [], "lost_keys": []}
    return Reconciliation(
        account=Account.model_validate(numbers), failures=[failed(key) for key in keys], partial=list(partial)
    )


def test_what_a_retry_mended_has_a_page_that_says_so() -> None:
    retried = {"a.pdf": "a.md", "b.pdf": "b.md", "c.pdf": "c.md"}
    mended = mended_documents(report(), reconciled("a.pdf", partial=("c.pdf",)), retried)
    assert mended == [Mended("b.pdf", "b.md", gaps=False), Mended("c.pdf", "c.md", gaps=True)]
    text = document_markdown(mended[0], report(), Place(), Forms(ONE), RUNS)
    assert text.startswith("# Converted\n")
    assert "- Markdown: `out put/b.md`" in text
    assert "retry-failures" not in text
    assert document_sentence(mended[1], "r") == "c.pdf is converted now, with gaps. r"


@pytest.mark.parametrize("changes", [{"remaining": 1}, {"skipped": 1}])
def test_where_the_accounting_does_not_say_what_was_mended_nothing_is_said(changes: dict[str, int]) -> None:
    assert mended_documents(report(**changes), reconciled(), {"a.pdf": "a.md"}) == []
