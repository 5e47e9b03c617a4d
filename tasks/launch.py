"""Launchers that make workers Prefect flow runs: children of the current flow run, local processes or on a work pool."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed, Pending
from prefect.tasks import Task

from tasks import worker_flow, worker_process
from tasks.api import LOST, current_flow_run
from tasks.cores import gpus
from tasks.corpus.failures import UsageError
from tasks.fleet.launcher import Handle
from tasks.fleet.local import LocalProcess

ROOT = Path(__file__).resolve().parent.parent
DEPLOYMENT = "convert-partition/convert-partition"
_log = logging.getLogger("pdf_flows.launch")

Parameters = Callable[[int], dict[str, Any]]
"""The parameters of a worker's flow run."""


def worker_name(worker: int, launch: int) -> str:
    """How a worker's flow run is called behind the run's id."""
    return f"worker-{worker}" + (f"-launch-{launch}" if launch else "")


def worker_tags(run_id: str, worker: int) -> list[str]:
    """What a worker's flow run is found by."""
    return [f"run:{run_id}", f"worker:{worker}"]


def child_environment() -> dict[str, str]:
    """The environment of a worker process: this one's, pointed at the current API, quiet about each task run."""
    settings = get_current_settings()
    environment = dict(os.environ)
    for name in ("PREFECT__FLOW_RUN_ID", "PREFECT__FLOW_ENTRYPOINT"):
        environment.pop(name, None)
    if settings.api.url is not None:
        environment["PREFECT_API_URL"] = str(settings.api.url)
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]),
        "PDF_FLOWS_PARENT_PIPE": "1",
        "PREFECT_CLIENT_MAX_RETRIES": "2",
        "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_COLORS": "false",
    }
    return environment


class LocalWorker:
    """A worker: its process and its flow run."""

    def __init__(self, process: LocalProcess, flow_run_id: UUID | None) -> None:
        self._process = process
        self._flow_run_id = flow_run_id
        self._told = False

    def poll(self) -> int | None:
        status = self._process.poll()
        if status not in (None, 0):
            self._crashed(f"the worker's process ended with status {status}")
        return status

    @property
    def begun(self) -> bool:
        return True

    def drain(self) -> None:
        self._process.drain()

    def kill(self) -> None:
        self._process.kill()
        self._crashed("the worker's process was killed")

    def _crashed(self, message: str) -> None:
        """A process that was killed can't tell Prefect: do it here, or its run would show as Running for ever."""
        if self._told or self._flow_run_id is None:
            return
        self._told = True
        try:
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(self._flow_run_id)
                if run.state is None or not run.state.is_final():
                    client.set_flow_run_state(self._flow_run_id, Crashed(message=message), force=True)
        except LOST as error:
            _log.debug("%s", error)


class LocalLauncher:
    """Workers as processes of this machine, each running a child flow run of the current one.

    Where the API can't be reached any more, a relaunched worker runs without a flow run: the work comes first.
    """

    def __init__(self, flow: Flow[..., Any], parameters: Parameters, run_id: str, line: Callable[[str], None]) -> None:
        self._flow = flow
        self._parameters = parameters
        self._run_id = run_id
        self._line = line
        self._environment = child_environment()

    def launch(self, worker: int, launch: int) -> Handle:
        run = self._flow_run(worker, launch)
        flow_run_id = run.id if run is not None else None
        command = (
            worker_flow.command_line(flow_run_id)
            if flow_run_id is not None
            else worker_process.command_line(self._parameters(worker))
        )
        environment = self._environment
        if (count := gpus()) > 1:
            # Each worker's device: all would take the first.
            environment = {"CUDA_VISIBLE_DEVICES": str(worker % count)} | environment
        process = LocalProcess(command, env=environment, cwd=ROOT, line=self._line)
        return LocalWorker(process, flow_run_id)

    def poll(self) -> None:
        """Processes are polled one by one; that costs nothing here."""

    def _flow_run(self, worker: int, launch: int) -> FlowRun | None:
        name = worker_name(worker, launch)
        parent = current_flow_run()
        try:
            with get_client(sync_client=True) as client:
                link = None
                if parent is not None:
                    link = client.create_task_run(
                        task=Task(fn=self._flow.fn, name=self._flow.name),
                        flow_run_id=parent.id,
                        dynamic_key=name,
                        name=name,
                        state=Pending(),
                    )
                return client.create_flow_run(
                    flow=self._flow,
                    name=f"{self._run_id}-{name}",
                    parameters=self._parameters(worker),
                    parent_task_run_id=link.id if link is not None else None,
                    tags=worker_tags(self._run_id, worker),
                    state=Pending(),
                )
        except LOST as error:
            _log.warning("Worker %d starts without a flow run, the Prefect API can't be reached: %s", worker, error)
            return None


class PoolWorker:
    """A worker on a work pool: a flow run whose state is read in bulk."""

    def __init__(self, run: FlowRun, stop: Callable[[UUID], None]) -> None:
        self.id = run.id
        self.state = run.state.type if run.state is not None else StateType.SCHEDULED
        self._stop = stop

    def poll(self) -> int | None:
        if self.state is StateType.COMPLETED:
            return 0
        return 1 if self.state in (StateType.FAILED, StateType.CRASHED, StateType.CANCELLED) else None

    @property
    def begun(self) -> bool:
        return self.state is StateType.RUNNING

    def drain(self) -> None:
        """A worker that lives reads the parent's stop record itself; one that never began is cancelled."""
        if self.state in (StateType.SCHEDULED, StateType.PENDING):
            self._stop(self.id)

    def kill(self) -> None:
        if self.poll() is None:
            self._stop(self.id)


class WorkPoolLauncher:
    """Workers as runs of the deployment `convert-partition`, wherever its work pool runs them."""

    def __init__(self, parameters: Parameters, run_id: str, epoch: int, deployment: str = DEPLOYMENT) -> None:
        self._parameters = parameters
        self._run_id = run_id
        self._epoch = epoch
        self._deployment = deployment
        self._runs: dict[UUID, PoolWorker] = {}

    def launch(self, worker: int, launch: int) -> Handle:
        try:
            run: Any = run_deployment(
                self._deployment,
                parameters=self._parameters(worker),
                timeout=0,
                as_subflow=True,
                flow_run_name=f"{self._run_id}-{worker_name(worker, launch)}",
                tags=worker_tags(self._run_id, worker),
                idempotency_key=f"{self._run_id}:{self._epoch}:{worker}:{launch}",
            )
        except ObjectNotFound as error:
            raise UsageError(
                f"there is no deployment {self._deployment}: deploy it first (pdf-flows up, or prefect deploy --all)"
            ) from error
        handle = PoolWorker(run, self._cancel)
        self._runs[handle.id] = handle
        return handle

    def poll(self) -> None:
        """One call, whatever the number of workers; an API that is away tells nothing, and that is no death."""
        waiting = [id for id, run in self._runs.items() if run.poll() is None]
        try:
            with get_client(sync_client=True) as client:
                for start in range(0, len(waiting), 200):
                    some = waiting[start : start + 200]
                    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=some)))
                    for run in found:
                        if run.state is not None:
                            self._runs[run.id].state = run.state.type
        except LOST as error:
            _log.warning("The Prefect API can't be reached: %s", error)

    def _cancel(self, flow_run_id: UUID) -> None:
        try:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run_id, Cancelling())
        except LOST as error:
            _log.warning("Flow run %s could not be cancelled: %s", flow_run_id, error)
