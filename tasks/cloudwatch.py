"""A worker's lines in CloudWatch, in the stream `worker-<k>` of the log group that `PDF_FLOWS_LOG_GROUP` names.

Where it names none, nothing is imported and nothing is done. What is logged goes into a queue, which a thread of watchtower's
sends in batches: every few seconds, and at once from a warning on (drains and notices are warnings), so that a machine that
is about to go has sent what led to it. A group that is not there, a permission that is missing, a service that is away: a
line on stderr, and the worker converts all the same.

Lines are JSON, {"message", "level", "run_id", "worker", "logger"}: `pdf-flows aws logs` and CloudWatch's own filters find a
run, a worker, an error in them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watchtower import CloudWatchLogHandler

GROUP_VARIABLE = "PDF_FLOWS_LOG_GROUP"
SOURCES = ("prefect.flow_runs", "pdf_flows")
"""A worker's own lines within a flow run, which Prefect shows too; without Prefect, and what its parts say."""
SEND_SECONDS = 3
"""A line waits so long at most."""
FLUSH_SECONDS = 5
"""The end of a worker waits so long at most for a service that does not answer."""
LONGEST_BYTES = 200_000
"""CloudWatch takes 256 KiB an event, and JSON makes characters longer."""


def line_of(record: logging.LogRecord, run_id: str, worker: int) -> str:
    """A record as one line of JSON. Pure."""
    message = record.getMessage()
    if record.exc_info is not None and record.exc_info[1] is not None:
        message += f"\n{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    message = message.encode(errors="replace")[:LONGEST_BYTES].decode(errors="ignore")
    fields = {"message": message, "level": record.levelname, "run_id": run_id, "worker": worker, "logger": record.name}
    return json.dumps(fields, ensure_ascii=False)


@contextlib.contextmanager
def shipping(worker: int, run_id: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """While it lasts, the worker's lines go to CloudWatch, too, if the environment names a log group. Raises nothing.

    At its end all of them have been sent, or `FLUSH_SECONDS` are over.
    """
    group = (os.environ if env is None else env).get(GROUP_VARIABLE)
    handler = _handler(group, worker, run_id) if group else None
    if handler is None:
        yield
        return
    loggers = [logging.getLogger(name) for name in SOURCES]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        # In a thread, which may be left behind: no more than the patience is lost, whatever the service does.
        closing = threading.Thread(target=handler.close, name="cloudwatch-close", daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)


def _handler(group: str, worker: int, run_id: str) -> logging.Handler | None:
    try:
        return _made(group, worker, run_id)
    except _unusable() as error:
        _say(f"{error} ({GROUP_VARIABLE}={group}): this worker's lines are not in CloudWatch")
        return None


def _unusable() -> tuple[type[Exception], ...]:
    """No watchtower, no region, no credentials."""
    try:
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError:
        return (ModuleNotFoundError,)
    return (ModuleNotFoundError, BotoCoreError, ValueError)


class _Sender:
    """What watchtower takes for boto3's client: makes the stream when it is not there, and never raises.

    Watchtower itself would try again at once, five times, and warn each time.
    """

    def __init__(self, client: Any, group: str) -> None:
        self._client, self._group = client, group
        self.exceptions = client.exceptions
        self._told = False

    def put_log_events(self, **batch: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            try:
                self._client.put_log_events(**batch)
            except self.exceptions.ResourceNotFoundException:
                with contextlib.suppress(self.exceptions.ResourceAlreadyExistsException):
                    self._client.create_log_stream(logGroupName=self._group, logStreamName=batch["logStreamName"])
                self._client.put_log_events(**batch)
        except (BotoCoreError, ClientError) as error:
            if not self._told:
                self._told = True
                _say(f"CloudWatch does not take this worker's lines ({GROUP_VARIABLE}={self._group}): {error}")
        # No sequence token: CloudWatch has not needed one since 2023, and two lives of a worker share a stream.
        return {}


def _made(group: str, worker: int, run_id: str) -> CloudWatchLogHandler:
    import boto3
    from botocore.config import Config
    from watchtower import CloudWatchLogHandler

    class Handler(CloudWatchLogHandler):  # type: ignore[misc, unused-ignore] # untyped where it is not installed
        """Sends at once from a warning on."""

        FLUSH_TIMEOUT = FLUSH_SECONDS

        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)  # type: ignore[no-untyped-call, unused-ignore]
            if record.levelno >= logging.WARNING:
                for queue in list(self.queues.values()):
                    queue.put(self.FLUSH)

    class Lines(logging.Formatter):
        """JSON."""

        def format(self, record: logging.LogRecord) -> str:
            return line_of(record, run_id, worker)

    # Two tries of a few seconds each: what is not taken then is dropped, and the next batch tried.
    config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
    handler: CloudWatchLogHandler = Handler(
        log_group_name=group,
        log_stream_name=f"worker-{worker}",
        send_interval=SEND_SECONDS,
        boto3_client=_Sender(boto3.client("logs", config=config), group),
        # The stack's, with a retention: a worker may not make one.
        create_log_group=False,
        create_log_stream=False,
    )
    handler.setFormatter(Lines())
    handler.addFilter(lambda record: bool(record.getMessage()))
    return handler


def _say(text: str) -> None:
    sys.stderr.write(f"pdf-flows: {text}\n")
    sys.stderr.flush()
