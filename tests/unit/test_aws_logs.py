"""`pdf-flows aws logs`, on CloudWatch (moto): by run, worker and level, and as lines come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aws_kit import Cloud, call, json_of, own_account
from conftest import MotoS3
from hypothesis import given
from hypothesis import strategies as st

from deployments.aws import logs
from deployments.aws.logs import Wanted
from deployments.aws.showing import block, plain
from tasks.corpus.failures import UsageError

GROUP = "/aws/ec2/pdf-workers/"


@pytest.fixture
def cloud(moto_s3: MotoS3) -> Iterator[Cloud]:
    with own_account() as found:
        found.client("logs").create_log_group(logGroupName=GROUP)
        yield found


def write(cloud: Cloud, stream: str, *messages: str, at: float | None = None) -> None:
    client = cloud.client("logs")
    if not client.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix=stream)["logStreams"]:
        client.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    moment = int((at if at is not None else time.time()) * 1000)
    events = [{"timestamp": moment + number, "message": message} for number, message in enumerate(messages)]
    client.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)


def texts(cloud: Cloud, **wanted: Any) -> list[str]:
    return [line.text for line in logs.read(cloud.account, Wanted(**wanted))]


def record(run: str, level: str, message: str) -> str:
    return json.dumps({"run_id": run, "level": level, "message": message})


def test_by_run_worker_and_level(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    write(cloud, "worker-1", record("r1", "INFO", "one"), record("r1", "ERROR", "bad"), record("r2", "ERROR", "other"))
    write(cloud, "worker-10", record("r1", "INFO", "ten"))
    write(cloud, "ecs/prefect/abc", "Traceback (most recent call last)")
    assert sorted(texts(cloud)) == ["bad", "one", "other", "ten"]
    assert sorted(texts(cloud, run="r1")) == ["bad", "one", "ten"]
    # worker-1 is the beginning of worker-10.
    assert texts(cloud, run="r1", worker=1) == ["one", "bad"]
    assert texts(cloud, run="r1", worker=10) == ["ten"]
    assert texts(cloud, run="r1", errors=True) == ["bad"]
    assert texts(cloud, container=True, errors=True) == ["Traceback (most recent call last)"]
    assert call("logs", "r1", "--worker", "1", "--errors") == 0
    assert capsys.readouterr().out.rstrip().endswith(" worker-1 bad")
    assert call("logs", "r1", "--worker", "10", "--json") == 0
    assert json_of(capsys)["text"] == "ten"
    assert call("logs", "r9") == 0
    assert capsys.readouterr().err == "no such line of run r9 in the last 7d\n"


def test_plain_lines_belong_to_the_run_that_was_named_before_them(cloud: Cloud) -> None:
    write(
        cloud,
        "worker-0",
        "before any run",
        "run 20261125-120000-ab12: 10 documents",
        "converting a.pdf",
        "ERROR a.pdf: DAMAGED",
        "run 20261126-120000-cd34: 10 documents",
        "converting b.pdf",
        "run again to go on",
    )
    assert texts(cloud, run="20261125-120000-ab12") == [
        "run 20261125-120000-ab12: 10 documents",
        "converting a.pdf",
        "ERROR a.pdf: DAMAGED",
    ]
    assert texts(cloud, run="20261126-120000-cd34")[-1] == "run again to go on"
    assert texts(cloud, run="20261125-120000-ab12", errors=True) == ["ERROR a.pdf: DAMAGED"]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("12:00:00 ERROR x.pdf", True),
        ("Traceback (most recent call last):", True),
        ("ValueError: no", True),
        ("botocore.exceptions.ClientError: no", True),
        ("INFO no errors today", False),
        ("0 ERRORS", False),
        (record("r", "CRITICAL", "x"), True),
        (record("r", "INFO", "ERROR in a text"), False),
        ('{"not": json', False),
    ],
)
def test_what_an_error_is(message: str, error: bool) -> None:
    assert logs.parse({"timestamp": 0, "message": message, "logStreamName": "worker-0"}).error is error


def test_follow_shows_each_line_once(cloud: Cloud) -> None:
    write(cloud, "worker-0", "one")
    turns = iter([["two", "three"], ["four"], []])

    def sleep(seconds: float) -> None:
        if more := next(turns, []):
            write(cloud, "worker-0", *more)

    left = [3]

    def going() -> bool:
        left[0] -= 1
        return left[0] > 0

    found = [line.text for line in logs.follow(cloud.account, Wanted(), sleep=sleep, going=going)]
    assert sorted(found) == ["four", "one", "three", "two"]


HOSTILE = "\x1b]0;pwned\x07\x1b[2Jx\r\n2026-01-01 00:00:00 worker-9 fake \x9b31m\u202egnp.pdf"


def test_nothing_that_is_shown_acts_on_the_terminal(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    write(cloud, "worker-0", HOSTILE, record("r1", "INFO", "\x1b[31mred"), record("r1", "INFO", "\ud800 alone"))
    write(cloud, "ecs/\x1b[2J", "one")
    assert call("logs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    # A line of the text is no line of its own.
    assert [line for line in lines if not line.startswith("20")] == [
        "    2026-01-01 00:00:00 worker-9 fake \\x9b31m\\u202egnp.pdf"
    ]
    assert lines[0].endswith(" worker-0 \\x1b]0;pwned\\x07\\x1b[2Jx")
    assert [line.split(" worker-0 ")[-1] for line in lines[2:]] == ["\\x1b[31mred", "\\ud800 alone"]
    assert call("logs", "--container") == 0
    assert capsys.readouterr().out.rstrip().endswith(r" ecs/\x1b[2J one")
    # A program gets them as they are.
    assert call("logs", "--json") == 0
    out = capsys.readouterr().out
    assert out.isascii()
    found = [json.loads(line)["text"] for line in out.splitlines()]
    assert found == [HOSTILE, "\x1b[31mred", "\ud800 alone"]


@given(st.text(st.characters(codec=None), max_size=400))
def test_a_shown_text_is_whole_and_one_line(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown
    assert "…" not in shown.replace("…", "", text.count("…"))
    shown.encode()
    assert block(text).count("\n") == text.replace("\r\n", "\n").count("\n")


def test_no_group_and_bad_words(cloud: Cloud) -> None:
    with pytest.raises(UsageError, match="there is no log group /nowhere/ in us-east-1: nothing ran here"):
        list(logs.read(cloud.account, Wanted(), "/nowhere/"))
    with pytest.raises(UsageError, match="bad --since"):
        call("logs", "--since", "yesterday")
    with pytest.raises(UsageError, match="bad run id"):
        call("logs", "a/b")
