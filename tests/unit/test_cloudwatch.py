"""A worker's lines in CloudWatch, against moto's: what gets there, when, and what happens where it cannot."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tasks.cloudwatch import FLUSH_SECONDS, GROUP_VARIABLE, LONGEST_BYTES, SEND_SECONDS, line_of, shipping

pytest.importorskip("watchtower")
pdf_flows, flow_runs = logging.getLogger("pdf_flows.worker"), logging.getLogger("prefect.flow_runs")


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    loggers = (pdf_flows, flow_runs, logging.getLogger("pdf_flows"))
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


class Group:
    """A log group on moto."""

    def __init__(self) -> None:
        self.name = f"/test/{uuid.uuid4().hex}/"
        self.logs = boto3.client("logs", region_name="us-east-1")
        self.logs.create_log_group(logGroupName=self.name)
        self.environment = {GROUP_VARIABLE: self.name}

    def lines(self, worker: int) -> list[dict[str, Any]]:
        try:
            found = self.logs.get_log_events(
                logGroupName=self.name, logStreamName=f"worker-{worker}", startFromHead=True
            )
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [json.loads(event["message"]) for event in found["events"]]


@pytest.fixture
def group(moto_s3: Any, monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return Group()


def test_lines_of_the_run_and_of_its_parts_get_there_in_order(group: Group) -> None:
    with shipping(3, "run-1", group.environment):
        flow_runs.info("[Worker 3] Run %s", "run-1")
        pdf_flows.info("ünïcode 文書")
        logging.getLogger("somebody.else").warning("not ours")
    pdf_flows.info("after its end")
    lines = group.lines(3)
    assert [line["message"] for line in lines] == ["[Worker 3] Run run-1", "ünïcode 文書"]
    assert lines[0] == {
        "message": "[Worker 3] Run run-1",
        "level": "INFO",
        "run_id": "run-1",
        "worker": 3,
        "logger": "prefect.flow_runs",
    }
    assert not any(type(handler).__name__ == "Handler" for handler in pdf_flows.parent.handlers)  # type: ignore[union-attr]


def test_a_warning_takes_all_before_it_along_at_once(group: Group) -> None:
    """A drain is a warning: the machine may be gone before the next batch."""
    with shipping(0, "r", group.environment):
        began = time.monotonic()
        pdf_flows.info("before")
        pdf_flows.warning("[Worker 0] Stopping: notice")
        while len(group.lines(0)) < 2 and time.monotonic() - began < 20:
            time.sleep(0.02)
        seconds = time.monotonic() - began
        assert [line["level"] for line in group.lines(0)] == ["INFO", "WARNING"]
    assert seconds < SEND_SECONDS, "not with the next batch"


def test_two_lives_share_a_stream(group: Group) -> None:
    with shipping(1, "r", group.environment), shipping(1, "r", group.environment):
        pdf_flows.info("twice")
    assert [line["message"] for line in group.lines(1)] == ["twice", "twice"]


def test_long_and_odd_lines(group: Group) -> None:
    with shipping(2, "r", group.environment):
        pdf_flows.info("")
        pdf_flows.info("文" * LONGEST_BYTES)
        pdf_flows.info('"quoted"\nsecond line \udc80')
        pdf_flows.error("%s", "bad", exc_info=ValueError("why"))
    lines = group.lines(2)
    assert len(lines) == 3
    assert len(lines[0]["message"].encode()) <= LONGEST_BYTES
    assert lines[1]["message"] == '"quoted"\nsecond line ?'
    assert lines[2] == lines[2] | {"message": "bad\nValueError: why", "level": "ERROR"}


def test_no_group_is_said_once_and_nothing_fails(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    with shipping(0, "r", {GROUP_VARIABLE: "/not/there/"}):
        for number in range(5):
            pdf_flows.warning("line %d", number)
            time.sleep(0.05)
    said = capsys.readouterr().err
    assert said.count("CloudWatch does not take this worker's lines") == 1
    assert "/not/there/" in said and "ResourceNotFound" in said


def test_a_service_that_is_away_costs_no_more_than_the_patience(
    group: Group, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.255.255.1:9")
    with shipping(0, "r", group.environment):
        began = time.monotonic()
        pdf_flows.warning("nobody hears it")
        assert time.monotonic() - began < 0.5, "logging does not wait"
        ending = time.monotonic()
    assert time.monotonic() - ending < FLUSH_SECONDS + 1.5


def test_without_a_region_or_a_package_there_are_no_lines_and_no_failure(
    group: Group, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with shipping(0, "r", group.environment):
        pdf_flows.info("line")
    assert "region" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "watchtower", None)
    with shipping(0, "r", group.environment):
        pdf_flows.info("line")
    assert "watchtower" in capsys.readouterr().err


def test_where_no_group_is_named_nothing_is_imported() -> None:
    code = (
        "import sys, logging; from tasks.cloudwatch import shipping\n"
        "with shipping(0, 'r', {}): logging.getLogger('pdf_flows').info('x')\n"
        "print(sorted(set(sys.modules) & {'boto3', 'botocore', 'watchtower', 'prefect'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pdf_flows_aws_logs_reads_these_lines() -> None:
    from deployments.aws.logs import parse

    record = logging.LogRecord("pdf_flows.worker", logging.ERROR, __file__, 1, "it %s", ("broke",), None)
    event = {"message": line_of(record, "20261125-1", 4), "timestamp": 1_000, "logStreamName": "worker-4"}
    line = parse(event)
    assert (line.text, line.level, line.run, line.worker, line.error) == ("it broke", "ERROR", "20261125-1", 4, True)
