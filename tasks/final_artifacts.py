"""What a run leaves in the Prefect UI at its end: its summary, the table of its failures, and a page for each failed document.

Without an API there is none of it, and the work is none the worse: here an API that can't be reached is a warning.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun

from tasks.api import LOST, api_is_gone, current_flow_run
from tasks.artifacts import Log
from tasks.corpus import paths
from tasks.corpus.audit import Failed, Reconciliation
from tasks.corpus.failure_file import replay_command, retry_command
from tasks.corpus.failures import Failure
from tasks.corpus.names import RUNS, printable
from tasks.markup import code, plain
from tasks.report import Report
from tasks.ui_links import (
    artifact_path,
    console_link,
    form_path,
    link,
    log_path,
    task_run_path,
)
from tasks.whereabouts import Place, whereabouts

SHOWN = 1000
"""Rows of a table artifact at most: the UI loads it whole."""
PAGES = 100
"""Documents of a run that get an artifact of their own: each is a call, and a card among all artifacts."""
RETRY = "retry-failures/retry-failures"
CARRIED = (
    "password_file",
    "launcher",
    "workers",
    "budget",
    "deadline",
    "max_price",
    "price",
    "machine_types",
    "region",
    "notify_topic",
    "notify_block",
)
"""Parameters of a run that its retry is offered with; prefect.yaml has the same for the automation."""


class HasFailure(Protocol):
    """A ledger record, or a failed document of an account."""

    @property
    def key(self) -> str: ...
    @property
    def failure(self) -> Failure | None: ...


@dataclass(frozen=True)
class Mended:
    """A document that an earlier run recorded as failed (or partial), and that this one converted."""

    key: str
    name: str
    gaps: bool
    """Of this run."""
    worker: int | None = None


@dataclass(frozen=True)
class Forms:
    """Deployments whose run forms the artifacts lead to, filled in; None where there is no such deployment."""

    retry: UUID | None = None
    again: UUID | None = None
    """The run's own."""
    parameters: Mapping[str, Any] | None = None
    """The run's."""

    def retrying(self, report: Report, runs_url: str, document: str | None = None) -> str:
        """Of retry-failures, for this run or for one document of it; "" without the deployment."""
        if self.retry is None:
            return ""
        given = {"output": report.output, "run_id": report.run_id}
        if runs_url.rstrip("/") != f"{report.output.rstrip('/')}/{RUNS}":
            given["runs"] = runs_url
        kept = {name: value for name in CARRIED if (value := (self.parameters or {}).get(name)) is not None}
        return form_path(self.retry, given | kept | ({"documents": [document]} if document is not None else {}))

    def resuming(self) -> str:
        """Of the run itself, as it was filled in; "" for a run without a deployment."""
        return form_path(self.again, self.parameters or {}) if self.again is not None else ""


@dataclass(frozen=True)
class Leads:
    """Where the summary leads; "" where there is nothing."""

    failures: str = ""
    workers: str = ""
    retry: str = ""
    resume: str = ""


NOWHERE = Leads()


def failure_rows(
    records: Sequence[HasFailure], places: Mapping[str, Place] | None = None, source: str = ""
) -> list[dict[str, Any]]:
    """Rows of a failures table. What a person reads first comes first: the UI cuts off the rest.

    Args:
        places: where each document's task run and log are, by key; None: the table is beside them.
        source: where the documents are.
    """
    return [
        {
            "document": plain(printable(record.key)),
            "category": record.failure.category.value,
            "message": plain(record.failure.message),
            **({"see": _seen(record.key, places, source)} if places is not None else {}),
            "phase": record.failure.phase.value,
            "attempts": record.failure.attempts,
            "retryable": "yes" if record.failure.retryable else "no",
        }
        for record in records[:SHOWN]
        if record.failure is not None
    ]


def _seen(key: str, places: Mapping[str, Place], source: str) -> str:
    place = places.get(key, Place())
    found = [
        ("task run", task_run_path(place.task_run) if place.task_run is not None else ""),
        ("log", log_path(place.flow_run) if place.flow_run is not None else ""),
        ("PDF", console_link(_below(source, key))),
    ]
    return ", ".join(link(text, target) for text, target in found if target)


def _below(place: str, name: str) -> str:
    return f"{place.rstrip('/')}/{name}"


def publish_table(key: str, rows: list[dict[str, Any]], description: str, log: Log) -> UUID | None:
    """A table artifact on the current flow run. Returns its id, None where there is no API."""
    try:
        return cast(UUID, create_table_artifact(key=key, table=rows, description=description))
    except LOST as error:
        log.warning("The artifact %s could not be stored: %s", key, error)
        return None


def publish_run(
    report: Report,
    result: Reconciliation,
    runs_url: str,
    log: Log,
    *,
    retried: Mapping[str, str],
    workers: UUID | None,
) -> None:
    """The parent's artifacts: a page for each failed document, a table of the failures if there are any, and the summary.

    Args:
        retried: what an earlier run failed on and this one was to convert, name of the Markdown by key.
        workers: the artifact with their table.
    """
    own, forms, places = current_flow_run(), Forms(), dict[str, Place]()
    mended = mended_documents(report, result, retried)[:PAGES]
    if own is not None and (result.failures or mended or report.remaining) and not api_is_gone():
        forms = _forms(own)
        if result.failures or mended:
            places = whereabouts(report.run_id, [*result.failures[:SHOWN], *mended])
            _publish_pages(report, [*result.failures[:PAGES], *mended], places, forms, runs_url, own, log)
    table = _publish_failures(report, result.failures, places, runs_url, log) if result.failures else None
    leads = Leads(
        failures=artifact_path(table) if table is not None else "",
        workers=artifact_path(workers) if workers is not None else "",
        retry=forms.retrying(report, runs_url),
        resume=forms.resuming(),
    )
    try:
        shown = summary_markdown(report, runs_url, leads)
        create_markdown_artifact(key="summary", markdown=shown, description=_sentence(report))
    except LOST as error:
        log.warning("The artifact summary could not be stored: %s", error)


def _forms(own: FlowRun) -> Forms:
    retry: UUID | None = None
    # Where it is not deployed, nobody would run it.
    with suppress(*LOST), get_client(sync_client=True) as client:
        retry = client.read_deployment_by_name(RETRY).id
    return Forms(retry, own.deployment_id, own.parameters)


def mended_documents(report: Report, result: Reconciliation, retried: Mapping[str, str]) -> list[Mended]:
    """Those of the retried documents that are converted now; [] where the accounting does not say which. Pure."""
    if report.remaining or report.skipped:
        return []
    failed, partial = {one.key for one in result.failures}, set(result.partial)
    return [Mended(key, name, key in partial) for key, name in retried.items() if key not in failed]


def _publish_failures(
    report: Report, failures: Sequence[Failed], places: Mapping[str, Place], runs_url: str, log: Log
) -> UUID | None:
    rows = failure_rows(failures, places, report.input)
    for row, failed in zip(rows, failures, strict=False):
        row["replay"] = code(printable(replay_command(report.output, report.run_id, failed.key, runs_url)))
    where = f"{runs_url.rstrip('/')}/{paths.failures_prefix(report.run_id)}"
    first = f" The first {SHOWN:,} of them are here." if len(failures) > SHOWN else ""
    kept = f" Also kept in {_address(where)}"
    return publish_table(
        "failures", rows, f"{len(failures):,} of {report.documents:,} documents failed.{first}{kept}", log
    )


def _publish_pages(
    report: Report,
    documents: Sequence[Failed | Mended],
    places: Mapping[str, Place],
    forms: Forms,
    runs_url: str,
    own: FlowRun,
    log: Log,
) -> None:
    """An artifact for each document, with its task run: who searches the artifacts for a document finds what became of it."""
    try:
        with get_client(sync_client=True) as client:
            for one in documents:
                place = places.get(one.key, Place())
                client.create_artifact(
                    ArtifactCreate(
                        key=document_key(one.key),
                        type="markdown",
                        description=document_sentence(one, report.run_id),
                        data=document_markdown(one, report, place, forms, runs_url),
                        flow_run_id=place.flow_run or own.id,
                        task_run_id=place.task_run,
                    )
                )
    except LOST as error:
        log.warning("The artifacts of the failed documents could not be stored: %s", error)


def document_key(key: str) -> str:
    """What a document's artifacts are called: Prefect allows lower-case letters, digits and hyphens. Pure."""
    ascii_ = unicodedata.normalize("NFKD", key.removesuffix(".pdf")).lower()
    name = re.sub("[^a-z0-9]+", "-", ascii_.encode("ascii", "ignore").decode())[-80:].strip("-")
    mark = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:6]
    return "-".join(filter(None, ("document", name, mark)))


def document_sentence(one: Failed | Mended, run_id: str) -> str:
    """What stands on the card. Pure."""
    name = plain(printable(one.key))
    if isinstance(one, Mended):
        return f"{name} is converted now{', with gaps' if one.gaps else ''}. {run_id}"
    return f"{name}: {one.failure.category}, {plain(one.failure.message)}. {run_id}"


def document_markdown(one: Failed | Mended, report: Report, place: Place, forms: Forms, runs_url: str) -> str:
    """A failed document, or one that an earlier run failed on. Pure but for the UI's address."""
    pdf, log = _below(report.input, one.key), log_path(place.flow_run) if place.flow_run is not None else ""
    if isinstance(one, Mended):
        lines = ["# Converted" + (" with gaps" if one.gaps else ""), "", "This run was a retry of the document.", ""]
        lines += [f"- Markdown: {_address(_below(report.output, one.name))}"]
    else:
        failure = one.failure
        lines = [f"# {failure.category}", "", plain(failure.message), ""]
        lines += [f"- phase: {failure.phase}" + (f", page {failure.page}" if failure.page is not None else "")]
        lines += [f"- attempts: {failure.attempts}"]
        lines += ["- trying again " + ("may help" if failure.retryable else "helps when the cause is mended")]
    lines += [f"- PDF: {_address(pdf)}"]
    if log:
        lines += [f"- {link('log of the worker', log)}"]
    if place.task_run is not None:
        lines += [f"- {link('task run', task_run_path(place.task_run))}"]
    if isinstance(one, Failed):
        command = code(printable(replay_command(report.output, report.run_id, one.key, runs_url)))
        lines += ["", _again("To convert it again", forms.retrying(report, runs_url, one.key), command)]
    return "\n".join(lines)


def _again(what: str, form: str, command: str) -> str:
    return (
        f"{what}: {link('the form of retry-failures, filled in', form)}, or {command}."
        if form
        else f"{what}: {command}."
    )


def _address(url: str, lookup: str | None = None) -> str:
    """As it is written, and a link where a browser can follow one (to `lookup`, where that is another)."""
    target = console_link(lookup or url)
    return code(printable(url)) + (f" ({link('open', target)})" if target else "")


def summary_markdown(report: Report, runs_url: str, leads: Leads = NOWHERE) -> str:
    """The parent's summary. Pure.

    Args:
        leads: what it links to.
    """
    accounting = [
        ("converted", report.converted),
        ("of them partial", report.partial),
        ("skipped", report.skipped),
        ("failed", report.failed),
        ("quarantined", report.quarantined),
        ("remaining", report.remaining),
        ("published twice", report.duplicates),
        ("pages", report.pages),
    ]
    output = _address(report.output, f"{report.output.rstrip('/')}/")
    lines = [f"# {report.state}", "", plain(f"{report.why[0].upper()}{report.why[1:]}.") if report.why else "", ""]
    lines += [f"{code(printable(report.input))} to {output}, engine {report.engine}", ""]
    if report.categories:
        command = code(printable(retry_command(report.output, report.run_id, runs_url)))
        again = _again("To convert them again", leads.retry, command)
        lines += [f"{link('Each failed document and its cause', leads.failures)}. {again}"]
    if report.remaining:
        lines += ["", f"To convert what remains, {link('run the same again', leads.resume)}."]
    if leads.workers:
        lines += ["", link("The workers and their logs", leads.workers)]
    lines += ["", f"| documents | {report.documents:,} |", "| --- | ---: |"]
    lines += [f"| {name} | {value:,} |" for name, value in accounting]
    lines += [f"| seconds | {report.seconds:,.1f} |", f"| pages per second | {report.pages_per_second:,.2f} |"]
    if report.categories:
        lines += ["", "| failures | documents |", "| --- | ---: |"]
        lines += [f"| {category} | {count:,} |" for category, count in report.categories.items()]
    if report.money is not None:
        lines += ["", plain("; ".join(report.money.lines())) + "."]
    if report.criteria:
        lines += ["", "| criterion | | |", "| --- | --- | --- |"]
        marks = {True: "met", False: "not met", None: "does not apply"}
        lines += [f"| {one.name} | {marks[one.met]} | {plain(one.text)} |" for one in report.criteria]
    if report.left:
        lines += [
            "",
            "Still running, and it may cost money: " + ", ".join(code(printable(name)) for name in report.left),
        ]
    lines += ["", f"Report: {_address(_below(runs_url, paths.report_page(report.run_id)))}"]
    lines += [f"As JSON: {_address(report.report)}"]
    return "\n".join(lines)


def _sentence(report: Report) -> str:
    return (
        f"{report.converted:,} of {report.documents:,} documents converted, {report.skipped:,} skipped. {report.run_id}"
    )
