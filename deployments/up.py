"""`pdf-flows up` and `pdf-flows ui`: the local server with all that makes runs triggerable from its UI, or just the UI."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import httpx

from deployments import keeper
from deployments.deploying import deploy_all
from deployments.server import PrefectServer, server_settings
from tasks.corpus.failures import PdfFlowsError, UsageError

ROOT = Path(__file__).resolve().parent.parent
PARENTS_POOL = "pdf-flows-parents"
WORKERS_POOL = "pdf-flows-workers"
POOL_TYPE = "process"

PAUSES = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Before a worker that died is started again; the last one for every further time."""
STEADY_SECONDS = 120.0
"""A worker that lived so long starts again from the first pause."""
STOP_SECONDS = 2 * keeper.GUARDED_STOP_SECONDS + 10.0


def up(*, workers_limit: int | None = None, root: Path = ROOT) -> int:
    """Serve until Ctrl-C or SIGTERM: server, two work pools, a worker process for each, and the deployments.

    May be called again and again on the same home: pools and deployments that exist are brought up to date.

    Args:
        workers_limit: flow runs of `convert-partition` at the same time, at most. None: no limit.
        root: the clone that holds `prefect.yaml` and the flows.

    Returns:
        The exit status: 0 after Ctrl-C or SIGTERM.

    Raises:
        UsageError: no server, or another `up` on this home.
        PdfFlowsError: the pools or the deployments were refused.
    """
    settings = server_settings()
    server = PrefectServer.obtain(settings)
    with _until_stopped() as stop, _alone(settings.home), server:
        configured = "" if server.own else " (configured)"
        _say(f"Prefect server: {server.ui_url}{configured}; making its work pools and deployments ...")
        _make_pools(os.environ["PREFECT_API_URL"], workers_limit)
        if server.own:
            _close_left_runs()
        environment = _environment(root)
        deploy_all(root, environment)
        workers = [
            PoolWorker(PARENTS_POOL, environment, settings.home / "worker-parents.log"),
            PoolWorker(WORKERS_POOL, environment, settings.home / "worker-workers.log"),
        ]
        try:
            for worker in workers:
                worker.start()
            _say(f"Open {server.ui_url}/deployments, choose convert-corpus, Run, Custom run; fill in input and output.")
            _say("Ctrl-C stops the workers and their runs; converting the same again later goes on where they were.")
            while not stop.wait(keeper.TICK_SECONDS):
                for worker in workers:
                    worker.look()
        finally:
            _say("Stopping: runs finish what they have in hand ...")
            for worker in workers:
                worker.end()
            for worker in workers:
                worker.gone()
            if server.own:
                _close_left_runs()
    return 0


def ui() -> int:
    """Serve the UI with the history of the local runs until Ctrl-C or SIGTERM. Opens a browser where there is a display.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: no server.
    """
    server = PrefectServer.obtain(server_settings())
    with _until_stopped() as stop, server:
        _say(f"Prefect UI: {server.ui_url} (Ctrl-C ends)")
        if _has_display():
            webbrowser.open(server.ui_url)
        stop.wait()
    return 0


class PoolWorker:
    """A `prefect worker` process for a pool, started again when it dies.

    It runs below a guard, which ends it and its flow runs also when this process is killed.
    """

    def __init__(self, pool: str, environment: dict[str, str], log: Path) -> None:
        self._pool = pool
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        self._again = 0.0

    def start(self) -> None:
        """Start the worker."""
        words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self._pool, "--type", POOL_TYPE]
        if self._log.exists() and self._log.stat().st_size > keeper.LOG_BYTES:
            self._log.replace(self._log.with_name(f"{self._log.name}.1"))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                keeper.command("guard", str(os.getpid()), *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                # Ctrl-C in the terminal is for us; we pass on what it means.
                start_new_session=True,
            )
        self._started = time.monotonic()

    def look(self) -> None:
        """Start the worker again if it died and its pause is over."""
        if self._process is None:
            if time.monotonic() >= self._again:
                self.start()
            return
        status = self._process.poll()
        if status is None:
            return
        self._deaths = 1 if time.monotonic() - self._started > STEADY_SECONDS else self._deaths + 1
        pause = PAUSES[min(self._deaths, len(PAUSES)) - 1]
        self._process, self._again = None, time.monotonic() + pause
        _say(
            f"The worker of {self._pool} ended with status {status} (see {self._log}); starting it again in {pause:g} s"
        )

    def end(self) -> None:
        """Ask the worker, and with it its flow runs, to end."""
        if self._process is not None:
            self._process.terminate()

    def gone(self) -> None:
        """Wait until it has ended."""
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment(root: Path) -> dict[str, str]:
    """What `prefect deploy` and the workers run with; this process already has the API's settings."""
    return {
        **os.environ,
        "PDF_FLOWS_ROOT": str(root),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
        # Deleting a run in the UI or cancelling one that has not begun must not leave a process behind.
        "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
        "PREFECT_LOGGING_COLORS": "false",
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def _make_pools(api: str, workers_limit: int | None) -> None:
    """Both pools, of type process; the limit on the workers' pool only, where it can't stop a parent."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        with get_client(sync_client=True) as client:
            for name, limit in ((PARENTS_POOL, None), (WORKERS_POOL, workers_limit)):
                try:
                    client.create_work_pool(
                        WorkPoolCreate(name=name, type=POOL_TYPE, base_job_template=template, concurrency_limit=limit)
                    )
                except ObjectAlreadyExists:
                    pool = client.read_work_pool(name)
                    if pool.type != POOL_TYPE:
                        raise PdfFlowsError(
                            f"the work pool {name} at {api} is of type {pool.type}, not {POOL_TYPE}: delete it there"
                        ) from None
                    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
    except httpx.HTTPError as error:
        raise PdfFlowsError(f"the work pools could not be made at {api}: {error}") from error


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One `up` a home: its runs are ours alone, so what is left of them when no worker lives is dead."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"pdf-flows up is running already in {home}: stop it, or name another home with PDF_FLOWS_HOME"
            ) from None
        yield


def _close_left_runs() -> None:
    """End the runs whose processes ended with an earlier `up`, which would take places of the pools for ever.

    A parent that was triggered and has not begun stays: it will be run. A worker that has not begun goes: its parent ended.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    begun = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    message = "its process ended with pdf-flows up; converting the same again goes on where it was"
    try:
        with get_client(sync_client=True) as client:
            for name, types in ((PARENTS_POOL, begun), (WORKERS_POOL, [*begun, StateType.SCHEDULED])):
                while left := client.read_flow_runs(
                    work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[name])),
                    flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
                    limit=200,
                ):
                    for run in left:
                        client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    except httpx.HTTPError as error:
        _say(f"The runs of an earlier time could not be closed: {error}")


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or the closing of the terminal sets; a second Ctrl-C ends at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _has_display() -> bool:
    if not sys.stderr.isatty():
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
