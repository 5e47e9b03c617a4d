"""No tracebacks in the log of a flow run that ended as Failed on purpose: its state's message is what a person needs."""

from __future__ import annotations

import logging

from prefect.exceptions import CancelledRun, FailedRun, UnfinishedRun


def expect_failed_state() -> None:
    """From now on this process does not log how the engine passes a Failed or Cancelled state on, as an exception of its own.

    On a work pool that would put fifty lines of Prefect's insides behind our one. May be called again and again.
    """
    logging.getLogger("prefect.flow_runs").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # Exceptions that a flow raised have types of their own.
    return record.exc_info is None or not isinstance(record.exc_info[1], FailedRun | CancelledRun | UnfinishedRun)
