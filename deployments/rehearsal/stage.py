"""The stage: moto, the stack's parts, a Prefect server with authentication, the pools, the deployments, both workers, the
fake ECS.

What runs is what runs on AWS: `prefect server start`, `prefect worker start` of both types with the control host's settings,
prefect.yaml, the pool's template from the stack's outputs, the image's entrypoint. What does not is named in
docs/rehearsal.md.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx

from deployments.aws.pool import PARENTS_POOL, PARENTS_TYPE, ROOT, WORKERS_POOL, WORKERS_TYPE, deploy, make_pool
from deployments.rehearsal import stack
from deployments.rehearsal.atomic_s3 import atomic_writes
from deployments.rehearsal.ecs import FakeEcs
from deployments.rehearsal.faulty_s3 import FaultyS3, failing
from deployments.rehearsal.market import Market
from tasks.corpus.failures import PdfFlowsError

START_SECONDS = 300.0
"""No measure of anything: on a machine with much else to do a server needs minutes, and says 503 meanwhile."""
END_SECONDS = 60.0
HURRY_SECONDS = 5.0
"""For each program of the stage, when somebody wants to leave."""
COMMAND_SECONDS = 120.0
BUSY_SECONDS = 60.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
KEEP = ("PATH", "HOME", "LANG", "LC_ALL", "NO_PROXY", "no_proxy", "TMPDIR")
"""Of this process's environment, in the programs that stand for the control host: it has none of a developer's settings."""
T = TypeVar("T")


class Stage:
    """A context manager: all of it is up within, and gone after it.

    Args:
        folder: for everything: homes, logs, scratch. Has to be empty.
        capacity: machines at the same time.
        patience: seconds that a task waits for one.
        watch_seconds: between two looks of a machine's watcher at its metadata; None: as the stack's template has it.
        container: more variables for each worker's container.
        s3_errors: share of the S3 requests of parent and workers that fails.
        market: whether EC2 tells parents Spot prices that can be believed.

    Raises PdfFlowsError where a part of it does not come up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        capacity: int = 3,
        patience: float = 600.0,
        watch_seconds: float | None = None,
        container: dict[str, str] | None = None,
        s3_errors: float = 0.0,
        market: bool = False,
    ) -> None:
        self.folder = folder
        self._capacity, self._patience, self._watch_seconds = capacity, patience, watch_seconds
        self._container = container or {}
        self._s3_errors, self._market = s3_errors, market
        self._end_seconds = END_SECONDS
        self._exits = contextlib.ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.project = f"rehearsal-{secrets.token_hex(3)}"
        """Of this stage alone: what moto knows is shared by all of a process."""
        self._auth = f"rehearsal:{secrets.token_hex(8)}"
        self.outputs: dict[str, str] = {}
        """The stack's."""
        self.s3: FaultyS3 | None = None
        """What stands before S3, where requests are to fail."""

    def __enter__(self) -> Stage:
        try:
            self._open()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Exception):
            self._end_seconds = HURRY_SECONDS
        # All at once; they are waited for in their order.
        for name, process in self._processes.items():
            if name != "server" and process.poll() is None:
                process.terminate()
        self._exits.close()

    def _open(self) -> None:
        import logging

        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.WARNING)

        self.folder.mkdir(parents=True, exist_ok=True)
        self._exits.enter_context(atomic_writes())
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        self._exits.callback(moto.stop)
        host, port = moto.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self.aws = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "control-host",
            "AWS_SECRET_ACCESS_KEY": "control-host-secret",
            "AWS_DEFAULT_REGION": stack.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        beside: dict[str, str] = {}
        if self._s3_errors:
            self.s3 = self._exits.enter_context(failing(self.endpoint, self._s3_errors))
            beside["AWS_ENDPOINT_URL_S3"] = self.s3.url
        if self._market:
            beside["AWS_ENDPOINT_URL_EC2"] = self._exits.enter_context(Market(stack.REGION)).url
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            number = found.getsockname()[1]
        self.api = f"http://127.0.0.1:{number}/api"
        kept = {name: os.environ[name] for name in KEEP if name in os.environ}
        quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_COLORS": "false"}
        self._base = kept | quiet | {"PYTHONPATH": str(ROOT)}
        self._start(
            "server", "server", "start", "--host", "127.0.0.1", "--port", str(number),
            PREFECT_SERVER_API_AUTH_STRING=self._auth, PREFECT_HOME=str(self.folder / "server"),
        )  # fmt: skip
        self.outputs = stack.make(self.client, self.project, self._auth)
        self.ecs = FakeEcs(
            self.folder,
            self.endpoint,
            self.client,
            cluster=self.outputs["ClusterName"],
            queue=self.outputs["EventsQueueName"],
            capacity=self._capacity,
            patience=self._patience,
            watch_seconds=self._watch_seconds,
            environment=self._container | beside,
        )
        self._exits.callback(self.ecs.stop)
        self.ecs.start()
        self.wait("the Prefect server", self._healthy)
        make_pool(self.outputs, self.prefect)
        # As on the control host (deployments/aws/infrastructure.yaml), but looking for runs more often.
        control = {"PREFECT_WORKER_ENABLE_CANCELLATION": "true", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        control |= {"PREFECT_HOME": str(self.folder / "control")} | self.prefect | self.aws
        queue = {"PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME": self.outputs["EventsQueueName"]}
        for pool, kind, more in ((PARENTS_POOL, PARENTS_TYPE, beside), (WORKERS_POOL, WORKERS_TYPE, queue)):
            words = ("worker", "start", "--type", kind, "--pool", pool, "--no-create-pool-if-not-found")
            self._start(f"{kind}-worker", *words, **control, **more)
        # While they come up.
        self._deploy()

    def _deploy(self) -> None:
        """A server that is busy says 503; to deploy again changes nothing that was deployed."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                deploy(self.outputs, self.prefect, image_root=str(ROOT))
            except PdfFlowsError as error:
                if "503" not in str(error) or time.monotonic() >= until:
                    raise
                time.sleep(1.0)
            else:
                return

    @property
    def prefect(self) -> dict[str, str]:
        """What a Prefect client needs."""
        return {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self._auth}

    @property
    def auth(self) -> str:
        """The API's credential: the only places it may be in are the control host's environment, the secret and containers."""
        return self._auth

    def client(self, service: str) -> Any:
        """A boto3 client of the rehearsal's account."""
        import boto3

        session = boto3.session.Session(self.aws["AWS_ACCESS_KEY_ID"], self.aws["AWS_SECRET_ACCESS_KEY"])
        return session.client(service, region_name=stack.REGION, endpoint_url=self.endpoint)

    # -- Prefect's API ----------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """A request; its answer. A server that is busy (503, SQLite's lock) is asked again. Raises PdfFlowsError."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                answer = self._request(method, path, body)
            except httpx.HTTPError as error:
                raise PdfFlowsError(f"the stage's Prefect server does not answer {method} {path}: {error!r}") from error
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() >= until:
                break
            time.sleep(1.0)
        if answer.is_error:
            raise PdfFlowsError(
                f"the stage's Prefect server refuses {method} {path}: {answer.status_code} {answer.text[:300]}"
            )
        return answer.json() if answer.content else None

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        user, _, password = self._auth.partition(":")
        with httpx.Client(auth=(user, password), timeout=30) as client:
            return client.request(method, f"{self.api}/{path}", json=body or None)

    def convert(self, **parameters: Any) -> str:
        """Trigger the deployment convert-corpus, as the UI does. The flow run's id."""
        (deployment,) = self.ask("POST", "deployments/filter", deployments={"name": {"any_": ["convert-corpus"]}})
        # Asked twice, it is the same flow run.
        found = self.ask(
            "POST",
            f"deployments/{deployment['id']}/create_flow_run",
            parameters=parameters,
            idempotency_key=secrets.token_hex(8),
        )
        return str(found["id"])

    def run(self, id: str) -> dict[str, Any]:
        """A flow run."""
        return dict(self.ask("GET", f"flow_runs/{id}"))

    def workers(self) -> list[dict[str, Any]]:
        """All flow runs of workers, oldest first."""
        flows = {"name": {"any_": ["convert-partition"]}}
        return list(self.ask("POST", "flow_runs/filter", flows=flows, sort="EXPECTED_START_TIME_ASC"))

    # -- the rest ---------------------------------------------------------------------------------------------------

    def wait(self, what: str, look: Callable[[], T | None], seconds: float = START_SECONDS) -> T:
        """The first truthy answer. Raises PdfFlowsError after so long, or as soon as a program of the stage has ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := look():
                return found
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise PdfFlowsError(
                        f"{what}: {name} ended with status {process.returncode}: {self.log(name)[-3000:]}"
                    )
            time.sleep(0.2)
        raise PdfFlowsError(f"{what}: not within {seconds:g} s")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`pdf-flows ...` with the account's credentials."""
        return subprocess.run(
            [sys.executable, "-m", "deployments.cli", *words],
            cwd=ROOT, env=self._base | self.aws, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip

    def log(self, name: str) -> str:
        """What one of the programs wrote: server, ecs-worker, process-worker."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _healthy(self) -> bool:
        try:
            return self._request("GET", "health").is_success
        except httpx.HTTPError:
            return False

    def _start(self, name: str, *words: str, **variables: str) -> None:
        log: IO[bytes] = self._exits.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            env=self._base | variables,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._processes[name] = process
        self._exits.callback(self._end, process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(self._end_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
