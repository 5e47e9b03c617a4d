"""The Prefect API as something that may go away in the middle: the work is none the worse, and nobody waits for it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import urllib.error
import urllib.request

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

LOST = (httpx.HTTPError, PrefectException, OSError)
"""What Prefect's client raises when the API can't be reached."""


def current_flow_run() -> FlowRun | None:
    """The flow run that the caller is part of, None outside of one."""
    context = FlowRunContext.get()
    return context.flow_run if context is not None else None


def being_cancelled() -> bool:
    """Whether somebody cancelled the flow run that the caller is part of; False where nobody answers."""
    own = current_flow_run()
    if own is None:
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(own.id).state
    except LOST:
        return False
    return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)


def hush() -> None:
    """Keep Prefect's own threads from telling, event by event and log line by log line, that the API is away."""
    # What its log handler asks before it writes to stderr.
    logging.raiseExceptions = False
    logging.getLogger("prefect.events.clients").setLevel(logging.ERROR)
    logging.getLogger("prefect.flow_runs").addFilter(_no_lost_connection)


def _no_lost_connection(record: logging.LogRecord) -> bool:
    """Drop the traceback of a flow run that can't report its state: whoever called it says so in a line."""
    error = record.exc_info[1] if record.exc_info is not None else None
    return not isinstance(error, httpx.HTTPError)


def leave_when_api_is_gone(code: int, period: float = 2.0, misses: int = 2) -> None:
    """End this process soon, with that exit status, if the Prefect API does not answer any more.

    Prefect's client would hold a finished process for minutes, reconnecting once for each event that it still has; the
    ledger has everything by now. Call it when all is done, in a process of our own.
    """
    api = get_current_settings().api.url
    if api is None or not str(api).startswith("http"):
        return

    def watch() -> None:
        missed = 0
        while missed < misses:
            time.sleep(period)
            missed = 0 if _answers(str(api)) else missed + 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    threading.Thread(target=watch, name="exit-guard", daemon=True).start()


def api_is_gone() -> bool:
    """Whether the Prefect API is a server that does not answer; some 5 s at most."""
    api = get_current_settings().api.url
    return api is not None and str(api).startswith("http") and not _answers(str(api))


def _answers(api: str) -> bool:
    try:
        urllib.request.urlopen(f"{api}/health", timeout=5).close()  # noqa: S310 - http, checked by the caller
    except urllib.error.HTTPError:
        return True  # it refuses us, so it is there
    except OSError:
        return False
    return True
