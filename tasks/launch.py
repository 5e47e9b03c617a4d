"""Launchers that make workers Prefect flow runs: children of the current flow run, local processes or on a work pool."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed, Pending
from prefect.tasks import Task

from tasks import worker_flow, worker_process
from tasks.api import LOST, current_flow_run
from tasks.cores import gpus
from tasks.corpus.failures import UsageError
from tasks.fleet.launcher import End, Handle, NotLaunched
from tasks.fleet.local import LocalProcess
from tasks.fleet.losses import Loss, diagnose
from tasks.fleet.machine import OVERRIDE as MACHINE
from tasks.fleet.notice import FILE_VARIABLE as NOTICE_FILE
from tasks.reconcile import EcsTasks

ROOT = Path(__file__).resolve().parent.parent
_log = logging.getLogger("pdf_flows.launch")

POLL_SECONDS = 2.0
"""Between two bulk reads of flow runs' states: one call, whatever their number (200 a page)."""
END_SECONDS = 30.0
"""How long what is left of a fleet is waited for at the end."""
OVER = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
LIVING = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]

Parameters = Callable[[int, int], dict[str, Any]]
"""The parameters of a worker's flow run, by worker and launch."""


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


class States:
    """What Prefect says of this run's flow runs: one call a look, whatever their number; the parent's own among them.

    Args:
        learn: gets the infrastructure_pid of each.
    """

    def __init__(
        self, parent: UUID | None, learn: Callable[[UUID, str | None], None] = lambda id, infrastructure_pid: None
    ) -> None:
        self._parent = parent
        self._learn = learn
        self._looked = float("-inf")
        self.cancelled = False
        """The parent was cancelled in the UI."""

    def read(self, ids: Iterable[UUID]) -> dict[UUID, State]:
        """The states, {} where it is too early to ask again, or nobody answers: no news is no death."""
        now = time.monotonic()
        if now - self._looked < POLL_SECONDS:
            return {}
        self._looked = now
        wanted = [*ids, *([self._parent] if self._parent is not None else [])]
        found: dict[UUID, State] = {}
        try:
            with get_client(sync_client=True) as client:
                for start in range(0, len(wanted), 200):
                    some = FlowRunFilterId(any_=wanted[start : start + 200])
                    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id=some)):
                        self._learn(run.id, run.infrastructure_pid)
                        if run.state is not None:
                            found[run.id] = run.state
        except LOST as error:
            _log.warning("The Prefect API can't be reached: %s", error)
        own = found.pop(self._parent, None) if self._parent is not None else None
        if own is not None and own.type in (StateType.CANCELLING, StateType.CANCELLED):
            self.cancelled = True
        return found


class LocalWorker:
    """A worker: its process and its flow run."""

    def __init__(self, process: LocalProcess, flow_run_id: UUID | None) -> None:
        self._process = process
        self.flow_run_id = flow_run_id
        self.cancelled = False
        """Its flow run was cancelled in the UI: nobody else would tell its process."""
        self._told = False

    def poll(self) -> End | None:
        status = self._process.poll()
        if status is None:
            return None
        if status != 0:
            self._crashed(f"the worker's process ended with status {status}")
        words = f"exit status {status}"
        # Only who was killed may have been killed by a document; an error is something that the worker could still say.
        loss = None if status == 0 else Loss.PROCESS if status < 0 else Loss.ERROR
        return End(status == 0, words, loss, cancelled=self.cancelled)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

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
        if self._told or self.flow_run_id is None:
            return
        self._told = True
        try:
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(self.flow_run_id)
                if run.state is None or not run.state.is_final():
                    client.set_flow_run_state(self.flow_run_id, Crashed(message=message), force=True)
        except LOST as error:
            _log.debug("%s", error)


def _own(environment: Mapping[str, str], worker: int, launch: int) -> dict[str, str]:
    """What a rehearsal gives each worker as its machine: "{worker}" and "{launch}" in these variables stand for the numbers."""
    given = {name: environment[name] for name in (MACHINE, NOTICE_FILE) if name in environment}
    return {
        name: value.replace("{worker}", str(worker)).replace("{launch}", str(launch)) for name, value in given.items()
    }


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
        self._workers: list[LocalWorker] = []
        parent = current_flow_run()
        self.states = States(parent.id if parent is not None else None)

    def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Handle:
        run = self._flow_run(worker, launch)
        flow_run_id = run.id if run is not None else None
        command = (
            worker_flow.command_line(flow_run_id)
            if flow_run_id is not None
            else worker_process.command_line(self._parameters(worker, launch))
        )
        environment = self._environment
        if (count := gpus()) > 1:
            # Each worker's device: all would take the first.
            environment = {"CUDA_VISIBLE_DEVICES": str(worker % count)} | environment
        try:
            process = LocalProcess(
                command, env=environment | _own(environment, worker, launch), cwd=ROOT, line=self._line
            )
        except (OSError, RuntimeError) as error:  # no more processes, files or threads
            raise NotLaunched(f"a worker's process can't be started: {error}") from error
        handle = LocalWorker(process, flow_run_id)
        self._workers.append(handle)
        return handle

    def adopt(self) -> dict[int, Handle]:
        """None: workers of this machine end when their parent does."""
        return {}

    def poll(self) -> None:
        """Processes are polled one by one, at no cost; who was cancelled in the UI is asked for in one call."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        running = {worker.flow_run_id: worker for worker in self._workers if worker.flow_run_id is not None}
        for id, state in self.states.read(running).items():
            worker = running[id]
            if state.type in (StateType.CANCELLING, StateType.CANCELLED) and not worker.cancelled:
                worker.cancelled = True
                worker.drain()

    def end(self) -> list[str]:
        """Their processes have ended."""
        return [f"process {worker.pid}" for worker in self._workers if worker.poll() is None]

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
                    parameters=self._parameters(worker, launch),
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
        self.flow_run_id = run.id
        self.state = StateType.SCHEDULED
        self.words = ""
        self._began = False
        self._stop = stop
        self._stopped = False
        """By us: what follows is not somebody's wish."""
        if run.state is not None:
            self.take_in(run.state)

    def take_in(self, state: State) -> None:
        """What Prefect says now."""
        self.state, self.words = state.type, state.message or state.name or ""
        # A run that was put off (AwaitingRetry, after SIGTERM) waits for a machine again.
        self._began = state.type is StateType.RUNNING or (self._began and state.type is not StateType.SCHEDULED)

    def poll(self) -> End | None:
        match self.state:
            case StateType.COMPLETED:
                return End(True, self.words)
            case StateType.FAILED:
                return End(False, self.words, Loss.ERROR)
            case StateType.CRASHED:
                return End(False, self.words, diagnose(self.words, began=self._began))
            case StateType.CANCELLED:
                return End(self._stopped, self.words, Loss.PROCESS, cancelled=not self._stopped)
            case _:
                return None

    @property
    def begun(self) -> bool:
        return self._began

    def drain(self) -> None:
        """A worker that lives is told by the parent's stop record, or as one that is not wanted; one that waits is cancelled."""
        if self.state in (StateType.SCHEDULED, StateType.PENDING):
            self.kill()

    def kill(self) -> None:
        if self.poll() is None:
            self._stopped = True
            self._stop(self.id)


class WorkPoolLauncher:
    """Workers as runs of the deployment `convert-partition`, wherever its work pool runs them.

    Args:
        on_demand: job variables of launches on machines that are not taken away.
    """

    def __init__(
        self,
        parameters: Parameters,
        run_id: str,
        deployment: str,
        on_demand: dict[str, Any] | None = None,
    ) -> None:
        self._parameters = parameters
        self._run_id = run_id
        self._deployment = deployment
        self._on_demand = on_demand
        self._runs: dict[UUID, PoolWorker] = {}
        self._launched = False
        self._tasks = EcsTasks()
        parent = current_flow_run()
        self.states = States(parent.id if parent is not None else None, self._tasks.learn)

    def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Handle:
        try:
            run: Any = run_deployment(
                self._deployment,
                parameters=self._parameters(worker, launch),
                timeout=0,
                as_subflow=True,
                flow_run_name=f"{self._run_id}-{worker_name(worker, launch)}",
                tags=worker_tags(self._run_id, worker),
                # Whichever parent asks: the same launch is the same flow run.
                idempotency_key=f"{self._run_id}:{worker}:{launch}",
                job_variables=self._on_demand if on_demand else None,
            )
        except ObjectNotFound as error:
            missing = f"there is no deployment {self._deployment}: deploy it (pdf-flows up, or prefect deploy --all)"
            if self._launched:  # it was there when the run began
                raise NotLaunched(missing) from error
            raise UsageError(missing) from error
        except LOST as error:
            raise NotLaunched(f"the Prefect API can't be reached: {error}") from error
        self._launched = True
        handle = PoolWorker(run, self._cancel)
        self._runs[handle.id] = handle
        return handle

    def adopt(self) -> dict[int, Handle]:
        """Flow runs of this run that are not over: what a former parent launched. Of two of one worker the newer one.

        Raises UsageError where Prefect's API does not answer: who can't see the living would end them all.
        """
        until = time.monotonic() + END_SECONDS
        while (living := self._living()) is None:
            if time.monotonic() >= until:
                raise UsageError("the Prefect API can't be reached: start the run again when it answers")
            time.sleep(POLL_SECONDS)
        self._learn_over()
        found: dict[int, Handle] = {}
        for run in sorted(living, key=lambda run: (run.created is not None, run.created)):
            worker = next((tag.split(":", 1)[1] for tag in run.tags if tag.startswith("worker:")), "")
            if not worker.isdigit():
                continue
            if (older := found.get(int(worker))) is not None:
                older.kill()
            handle = PoolWorker(run, self._cancel)
            self._runs[handle.id] = found[int(worker)] = handle
        return found

    def poll(self) -> None:
        """One call, whatever the number of workers; an API that is away tells nothing, and that is no death."""
        self._runs = {id: run for id, run in self._runs.items() if run.poll() is None}
        for id, state in self.states.read(self._runs).items():
            if id in self._runs:
                self._runs[id].take_in(self._tasks.explained(id, state))
        self._tasks.look({id: run.state for id, run in self._runs.items() if run.poll() is None})

    def end(self) -> list[str]:
        """Cancel what is left of this run's flow runs, zombies too, and wait a while for them and their tasks to be gone."""
        left = self._end_runs()
        if left is None:
            return [f"what may run of {self._run_id} (the Prefect API can't be reached)"]
        runs = [f"flow run {run.name} ({run.state_name})" for run in left]
        return runs + self._tasks.close([run.id for run in left])

    def _end_runs(self) -> list[FlowRun] | None:
        """Flow runs that do not end; None where Prefect's API does not say."""
        until = time.monotonic() + END_SECONDS
        asked: set[UUID] = set()
        while (left := self._living()) or left is None:
            for run in left or ():
                if run.id not in asked:
                    asked.add(run.id)
                    self._cancel(run.id)
            # Whose machine is gone hears of nothing, and is no machine that runs.
            self._tasks.settle({run.id: run.state_type for run in left or () if run.state_type is not None})
            if time.monotonic() >= until:
                return left
            time.sleep(POLL_SECONDS)
        return []

    def _of(self, states: list[StateType]) -> FlowRunFilter:
        return FlowRunFilter(
            tags=FlowRunFilterTags(all_=[f"run:{self._run_id}"]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
        )

    def _learn_over(self) -> None:
        """Where the tasks of flow runs were that ended while no parent looked: the newest 200."""
        try:
            with get_client(sync_client=True) as client:
                over = client.read_flow_runs(flow_run_filter=self._of(OVER), sort=FlowRunSort.END_TIME_DESC, limit=200)
        except LOST as error:
            _log.debug("%s", error)
            return
        for run in over:
            if any(tag.startswith("worker:") for tag in run.tags):  # parents have the run's tag, too
                self._tasks.learn(run.id, run.infrastructure_pid)

    def _living(self) -> list[FlowRun] | None:
        """This run's flow runs that are not over, 200 at a time; None where Prefect's API does not say."""
        wanted = self._of(LIVING)
        found: list[FlowRun] = []
        try:
            with get_client(sync_client=True) as client:
                seen = 0
                while some := client.read_flow_runs(flow_run_filter=wanted, limit=200, offset=seen):
                    seen += len(some)
                    found += [run for run in some if any(tag.startswith("worker:") for tag in run.tags)]
        except LOST as error:
            _log.warning("The Prefect API can't be reached: %s", error)
            return None
        for run in found:
            self._tasks.learn(run.id, run.infrastructure_pid)
        return found

    def _cancel(self, flow_run_id: UUID) -> None:
        try:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run_id, Cancelling())
        except LOST as error:
            _log.warning("Flow run %s could not be cancelled: %s", flow_run_id, error)
