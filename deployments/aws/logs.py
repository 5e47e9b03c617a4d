"""`pdf-flows aws logs`: what the workers wrote, from CloudWatch, by run, worker and level."""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account
from deployments.aws.errors import code_of
from deployments.aws.showing import block, plain
from deployments.aws.user_data import LOG_GROUP
from tasks.corpus.failures import UsageError

FOLLOW_SECONDS = 2.0
LATE_SECONDS = 30.0
"""Events become visible up to so long after the time that they bear: following looks back that far, and knows what it showed."""
REMEMBERED = 20_000
CONTAINERS = "ecs/"
"""What the streams of ECS's own log driver begin with (the stack's task definition)."""
STREAM = re.compile(r"worker-(\d+)(?:[/-].*)?")
_ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL)\b|^Traceback \(most recent call last\)|^[\w.]*(Error|Exception)\b: ")
_RUN = re.compile(r"\brun[ _:=-]?(?:id[=: ]+)?([A-Za-z0-9][A-Za-z0-9._-]{0,63})")
ERRORS = ("ERROR", "CRITICAL", "FATAL")


class Line(BaseModel):
    """One event."""

    model_config = ConfigDict(frozen=True)

    id: str
    at: datetime
    worker: int | None
    stream: str = ""
    text: str
    level: str = ""
    run: str | None = None
    """Where the line names its run as a field."""

    @property
    def error(self) -> bool:
        """Whether it tells of an error."""
        return self.level in ERRORS or (not self.level and _ERROR.search(self.text) is not None)

    def shown(self) -> str:
        """For people."""
        worker = f"worker-{self.worker}" if self.worker is not None else plain(self.stream)
        return f"{self.at:%Y-%m-%d %H:%M:%S} {worker} {block(self.text)}"


class Wanted(BaseModel):
    """Which lines."""

    model_config = ConfigDict(frozen=True)

    run: str | None = None
    worker: int | None = None
    errors: bool = False
    since: datetime | None = None
    until: datetime | None = None
    container: bool = False
    """What ECS's containers wrote to their output, in streams that bear the task's id and no worker's number."""


def parse(event: dict[str, Any]) -> Line:
    """One of CloudWatch's events: JSON with message, level and run_id, or a plain line. Pure."""
    stream = STREAM.fullmatch(event.get("logStreamName", ""))
    text, level, run = event["message"].rstrip("\n"), "", None
    if text.startswith("{"):
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if isinstance(data, dict):
            text = str(data.get("message") or data.get("msg") or text)
            level = str(data.get("level") or data.get("levelname") or "").upper()
            run = data.get("run_id") or data.get("run")
    else:
        found = re.search(r"\b(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b", text[:80])
        level = found[1] if found else ""
    return Line(
        id=event.get("eventId", ""),
        at=datetime.fromtimestamp(event["timestamp"] / 1000, UTC),
        worker=int(stream[1]) if stream else None,
        stream=event.get("logStreamName", ""),
        text=text,
        level=level,
        run=str(run) if run else None,
    )


class Sieve:
    """Lines of one run: those that name it, and those after them in the same stream until another run is named."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._current: dict[str, bool] = {}

    def passes(self, line: Line) -> bool:
        """Whether it is wanted. Lines of a stream have to come in order."""
        if self._wanted.container:
            if not line.stream.startswith(CONTAINERS):
                return False
        elif line.worker is None or self._wanted.worker not in (None, line.worker):
            return False
        return self._of_run(line) and (not self._wanted.errors or line.error)

    def _of_run(self, line: Line) -> bool:
        run = self._wanted.run
        if run is None:
            return True
        if line.run is not None:
            self._current[line.stream] = line.run == run
        elif re.search(rf"(?<![\w.-]){re.escape(run)}(?![\w-])", line.text):
            self._current[line.stream] = True
        elif (other := _RUN.search(line.text)) is not None and _looks_like(other[1], run):
            self._current[line.stream] = False
        return self._current.get(line.stream, False)


def _looks_like(other: str, run: str) -> bool:
    """Whether a word is a run id of the same make: so that "run again" names no run."""
    return len(other) == len(run) and any(c.isdigit() for c in other)


def read(account: Account, wanted: Wanted, group: str = LOG_GROUP) -> Iterator[Line]:
    """The lines there are, oldest first. Raises UsageError where there is no such group, boto3's errors."""
    sieve = Sieve(wanted)
    for line in _events(account, wanted, group, wanted.since):
        if sieve.passes(line):
            yield line


def follow(
    account: Account,
    wanted: Wanted,
    group: str = LOG_GROUP,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    going: Callable[[], bool] = lambda: True,
) -> Iterator[Line]:
    """The lines there are, and new ones as they come, each once, for as long as `going`."""
    sieve = Sieve(wanted)
    shown: OrderedDict[str, None] = OrderedDict()
    since = wanted.since
    while True:
        newest = since
        for line in _events(account, wanted, group, since):
            newest = line.at if newest is None else max(newest, line.at)
            if line.id in shown:
                continue
            shown[line.id] = None
            if len(shown) > REMEMBERED:
                shown.popitem(last=False)
            if sieve.passes(line):
                yield line
        if newest is not None:
            back = datetime.fromtimestamp(newest.timestamp() - LATE_SECONDS, UTC)
            since = back if since is None else max(since, back)
        if not going():
            return
        sleep(FOLLOW_SECONDS)


def _events(account: Account, wanted: Wanted, group: str, since: datetime | None) -> Iterator[Line]:
    from botocore.exceptions import ClientError

    asked: dict[str, Any] = {
        "logGroupName": group,
        "logStreamNamePrefix": CONTAINERS if wanted.container else "worker-",
    }
    if wanted.worker is not None and not wanted.container:
        # worker-1 is the beginning of worker-10, too: the sieve looks at the number.
        asked["logStreamNamePrefix"] = f"worker-{wanted.worker}"
    if since is not None:
        asked["startTime"] = int(since.timestamp() * 1000)
    if wanted.until is not None:
        asked["endTime"] = int(wanted.until.timestamp() * 1000)
    try:
        for page in account.client("logs").get_paginator("filter_log_events").paginate(**asked):
            for event in page["events"]:
                yield parse(event)
    except ClientError as error:
        if code_of(error) != "ResourceNotFoundException":
            raise
        raise UsageError(
            f"there is no log group {group} in {account.region}: nothing ran here, or the region is another (--region)"
        ) from None
