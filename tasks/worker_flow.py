"""A worker's life as a Prefect flow run, in a process of its own: what the local launcher starts.

Prefect's own entry (`python -m prefect.flow_engine`) shows a traceback for every flow run that ends as Failed; here the
state's message is all that a person gets to see.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.exceptions import Abort, PrefectException, TerminationSignal
from prefect.flow_engine import load_flow_run, run_flow
from prefect.flows import load_flow_from_entrypoint

from tasks.api import hush

ENTRYPOINT = "flows/convert_partition.py:convert_partition"


def command_line(flow_run_id: UUID) -> list[str]:
    """The command that runs a worker as a flow run that exists."""
    return [sys.executable, "-m", "tasks.worker_flow", str(flow_run_id)]


def main(argv: list[str]) -> int:
    """Exit status: 0 at an orderly end, 1 otherwise; then the supervisor relaunches."""
    hush()
    try:
        flow_run = load_flow_run(UUID(argv[0]))
        flow: Flow[..., Any] = load_flow_from_entrypoint(ENTRYPOINT, use_placeholder_flow=False)
        state: Any = run_flow(flow, flow_run=flow_run, return_type="state")
    except (httpx.HTTPError, PrefectException) as error:
        logging.getLogger("prefect.pdf_flows").warning("The Prefect API can't be reached: %s", error)
        return 1
    except Abort as reason:
        # Cancelled before it began: nothing to relaunch.
        logging.getLogger("prefect.pdf_flows").warning("Not begun: %s", reason)
        return 0
    except TerminationSignal:
        return 128 + signal.SIGTERM
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
