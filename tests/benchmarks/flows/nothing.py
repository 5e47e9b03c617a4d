"""The baseline of start-up: a parent flow that runs one child flow in a process of its own, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prefect import flow

HERE = Path(__file__).resolve()


@flow(name="nothing-child", persist_result=False)
def child() -> None:
    """Does nothing."""


@flow(name="nothing-parent", persist_result=False)
def parent(children: int = 2) -> int:
    """Creates child flow runs as convert-corpus does, and waits for their processes."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext
    from prefect.settings import get_current_settings
    from prefect.states import Pending
    from prefect.tasks import Task

    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    processes = []
    for number in range(children):
        with get_client(sync_client=True) as client:
            link = client.create_task_run(
                task=Task(fn=child.fn, name=child.name),
                flow_run_id=context.flow_run.id,
                dynamic_key=str(number),
                state=Pending(),
            )
            run = client.create_flow_run(flow=child, parent_task_run_id=link.id, state=Pending())
        environment = {
            **os.environ,
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "PREFECT__FLOW_RUN_ID": str(run.id),
        }
        command = [sys.executable, "-m", "prefect.flow_engine", f"{HERE}:child"]
        processes.append(subprocess.Popen(command, env=environment))
    return sum(process.wait() for process in processes)


def main() -> None:
    """Start a server as `convert` does, run the parent, stop."""
    from deployments.session import prefect_api

    with prefect_api() as server:
        server.wait()
        parent(children=int(sys.argv[1]) if len(sys.argv) > 1 else 2)


if __name__ == "__main__":
    main()
