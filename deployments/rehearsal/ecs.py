"""A pretended ECS: what stands between RunTask and a container, and tells Prefect of it.

moto takes the calls (RunTask, DescribeTasks, StopTask) over HTTP; it neither queues for capacity, nor starts, nor stops
anything. This does:

- a task waits (PROVISIONING) until a machine has a free GPU; machines come up to `capacity`, each after `boot_seconds`; a
  task that waited for `patience` ends as TaskFailedToStart, as on AWS after 10 to 30 minutes;
- its container is started through the image's entrypoint with the task definition's environment, secrets included, and what
  RunTask said;
- StopTask sends SIGTERM, and SIGKILL when the task definition's stop timeout is over; it takes the task's tags away, as on
  AWS;
- a machine that is taken away announces that first, or not, and takes its container along without an exit code; announced
  is it in its metadata only: the template's watcher on the machine hands it on (deployments/rehearsal/hosts.py);
- each change goes, unless `deaf`, as EventBridge's "ECS Task State Change" into the queue that prefect-aws's observer reads.

Facts: AWS documentation, "Task lifecycle", "Stopped tasks error messages", "ECS task state change events".
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws.stack import TEMPLATE
from deployments.rehearsal.container import Container, described
from deployments.rehearsal.hosts import Host
from deployments.rehearsal.image import DOCKERFILE, Places, read_image
from deployments.rehearsal.stack import ACCOUNT, REGION, ROOM, watcher

LOOK_SECONDS = 0.2
LABEL = "com.amazonaws.ecs.container-name"
"""What ECS's agent calls a container, to Docker."""
KEPT = ("LANG", "LC_ALL", "NO_PROXY", "no_proxy")
"""Of this machine's environment, in a container: how its programs talk, and that this machine is not behind a proxy."""
_log = logging.getLogger("pdf_flows.rehearsal")


class Status(StrEnum):
    """A task's."""

    PROVISIONING = "PROVISIONING"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"


class Stop(BaseModel):
    """Why a task stopped: stopCode and stoppedReason."""

    model_config = ConfigDict(frozen=True)

    code: str
    reason: str


ENDED = Stop(code="EssentialContainerExited", reason="Essential container in task exited")


@dataclass
class Task:
    """One task, as the agent knows it."""

    arn: str
    flow_run: str
    asked: float
    status: Status = Status.PROVISIONING
    host: Host | None = None
    container: Container | None = None
    stop: Stop | None = None
    """Why it is to end, before it has."""
    kill_at: float | None = None
    exit_code: int | None = None
    history: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The last part of its ARN."""
        return self.arn.rsplit("/", 1)[-1]


class FakeEcs:
    """The agent: `start` and `stop` it; its methods in between may be called from any thread.

    Args:
        folder: for logs, scratch folders and notices.
        endpoint: moto's address, which containers get as AWS's.
        client: makes boto3 clients by a service's name.
        capacity: so many machines at the same time, at most. May be changed.
        boot_seconds: from the wish for a machine to its being there.
        patience: seconds that a task waits for one.
        watch_seconds: between two looks of a machine's watcher at its metadata; None: as the template has it.
        environment: more variables for each container, on top of all others.
    """

    def __init__(
        self,
        folder: Path,
        endpoint: str,
        client: Callable[[str], Any],
        *,
        cluster: str,
        queue: str,
        capacity: int = 3,
        boot_seconds: float = 1.0,
        patience: float = 600.0,
        watch_seconds: float | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.capacity, self.patience = capacity, patience
        self.deaf = False
        """Changes of tasks are told nobody: the queue, the rule or the observer is gone."""
        self.tasks: dict[str, Task] = {}
        self.hosts: list[Host] = []
        self._folder, self._endpoint, self._boot = folder, endpoint, boot_seconds
        self._cluster, self._more = cluster, environment or {}
        self._ecs, self._sqs, self._secrets = client("ecs"), client("sqs"), client("secretsmanager")
        self._queue = self._sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        self._booting: list[float] = []
        self._watcher, self._watch_seconds = watcher(TEMPLATE.read_text(encoding="utf-8")), watch_seconds
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="fake-ecs", daemon=True)
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Give moto's one container instance room for everything, and begin."""
        from moto.moto_api import state_manager

        # DescribeTasks would otherwise bring each task a step nearer to STOPPED.
        state_manager.set_transition("ecs::task", {"progression": "manual", "times": 10**9})
        for instance in self._backend().container_instances[self._cluster].values():
            for resource in (*instance.remaining_resources, *instance.registered_resources):
                if resource["name"] in ("CPU", "MEMORY"):
                    resource["integerValue"] = ROOM
        self._thread.start()

    def stop(self) -> None:
        """End the agent, and whatever still runs."""
        self._ending.set()
        self._thread.join(10)
        for task in self.tasks.values():
            if task.container is not None:
                task.container.kill()
        for host in self.hosts:
            if not host.gone:
                host.end()

    # -- what the rehearsal does to it ------------------------------------------------------------------------------

    def task_of(self, flow_run: str) -> Task | None:
        """The newest task of a flow run."""
        with self._lock:
            return next((task for task in reversed(self.tasks.values()) if task.flow_run == flow_run), None)

    def living(self) -> list[Task]:
        """Tasks that have not stopped."""
        with self._lock:
            return [task for task in self.tasks.values() if task.status is not Status.STOPPED]

    def interrupt(self, task: Task, seconds: float = 120.0) -> Host:
        """Give the task's machine its Spot notice; after so long it is gone, and its container with it."""
        with self._lock:
            host = task.host
            assert host is not None, f"task {task.id} has no machine"
            host.until = time.monotonic() + seconds
            host.announce(seconds)
            return host

    def lose(self, task: Task) -> Host:
        """The task's machine is gone, without any notice, and the task's container with it."""
        with self._lock:
            host = task.host
            assert host is not None, f"task {task.id} has no machine"
            host.until = time.monotonic()
            self._take_hosts(host.until)
            return host

    def kill(self, task: Task) -> None:
        """SIGKILL the task's container: its exit code is 137."""
        with self._lock:
            assert task.container is not None, f"task {task.id} has no container"
            task.container.kill()

    # -- its life ---------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        while not self._ending.wait(LOOK_SECONDS):
            try:
                self.look()
            except (BotoCoreError, ClientError) as error:
                _log.warning("the fake ECS goes on after %s", error)

    def look(self) -> None:
        """One look at all tasks."""
        with self._lock:
            now = time.monotonic()
            for arn, theirs in list(self._backend().tasks.get(self._cluster, {}).items()):
                if arn not in self.tasks:
                    tags = {tag["key"]: tag["value"] for tag in theirs.tags}
                    self.tasks[arn] = task = Task(arn, tags.get("prefect.io/flow-run-id", ""), now)
                    self._became(task, Status.PROVISIONING)
            self._take_hosts(now)
            for task in self.living():
                self._step(task, now)
            self._bring_hosts(now)

    def _step(self, task: Task, now: float) -> None:
        theirs = self._backend().tasks[self._cluster][task.arn]
        if theirs.desired_status == "STOPPED" and task.stop is None:
            theirs.tags = []
            self._end(task, Stop(code="UserInitiated", reason=theirs.stopped_reason), self._stop_timeout(task), now)
        if task.container is None:
            if task.stop is not None:
                self._stopped(task, None)
            elif (
                host := next((h for h in self.hosts if not h.busy and not h.gone and h.until is None), None)
            ) is not None:
                task.host, host.busy = host, True
                self._became(task, Status.PENDING)
                self._run(task)
            elif now - task.asked > self.patience:
                task.stop = Stop(code="TaskFailedToStart", reason="Timed out waiting for capacity: RESOURCE:GPU")
                self._stopped(task, None)
            return
        if task.host is not None and task.host.signalled(task.id):
            task.container.terminate()
        if task.kill_at is not None and now >= task.kill_at:
            task.container.kill()
        code = task.container.poll()
        if code is not None:
            self._stopped(task, code)

    def _run(self, task: Task) -> None:
        theirs = self._backend().tasks[self._cluster][task.arn]
        definition = self._definition(task)
        container = definition["containerDefinitions"][0]
        override: dict[str, Any] = next(
            (o for o in theirs.overrides.get("containerOverrides", ()) if o["name"] == container["name"]), {}
        )
        host = task.host
        assert host is not None
        scratch = self._folder / "scratch" / task.id
        scratch.mkdir(parents=True)
        places = Places(scratch, host.notice)
        image = read_image(DOCKERFILE.read_text(encoding="utf-8"))
        environment = dict(image.environment)
        environment |= {item["name"]: item["value"] for item in container.get("environment", ())}
        for secret in container.get("secrets", ()):
            environment[secret["name"]] = self._secrets.get_secret_value(SecretId=secret["valueFrom"])["SecretString"]
        environment |= {item["name"]: item["value"] for item in override.get("environment", ())}
        environment = places.all_here(environment)
        environment |= {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {
            # What ECS's agent (the task role's credentials) and the machine give; moto instead of AWS.
            "AWS_ACCESS_KEY_ID": "task-role",
            "AWS_SECRET_ACCESS_KEY": "task-role-secret",
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": host.metadata,
            "TMPDIR": str(scratch),
        }
        environment |= self._more
        command = [
            *(places.here(word) for word in image.entrypoint),
            *(override.get("command") or container.get("command", ())),
        ]
        log = self._folder / "logs" / f"{task.id}.log"
        described(log, command=command, overrides=theirs.overrides, environment=environment, host=host.id)
        task.container = Container(command, environment, Path(places.here(image.workdir)), log)
        host.runs(task.id, f"{LABEL}={container['name']}")
        self._became(task, Status.RUNNING)

    def _end(self, task: Task, stop: Stop, grace: float, now: float) -> None:
        task.stop = stop
        if task.container is not None:
            task.kill_at = now + grace
            task.container.terminate()

    def _stopped(self, task: Task, code: int | None) -> None:
        task.exit_code, task.stop = code, task.stop or ENDED
        theirs = self._backend().tasks[self._cluster][task.arn]
        if theirs.desired_status != "STOPPED":
            self._ecs.stop_task(cluster=self._cluster, task=task.arn, reason=task.stop.reason)
        theirs.stop_code, theirs.stopped_reason = task.stop.code, task.stop.reason
        theirs.containers[0].exitCode = code
        if task.host is not None:
            task.host.busy = False
        self._became(task, Status.STOPPED)

    # -- machines ---------------------------------------------------------------------------------------------------

    def _take_hosts(self, now: float) -> None:
        for host in self.hosts:
            if host.gone or host.until is None or now < host.until:
                continue
            host.end()
            for task in self.living():
                if task.host is host and task.container is not None:
                    task.stop = Stop(code="SpotInterruption", reason=f"Host EC2 (instance {host.id}) terminated.")
                    task.container.kill()
                    self._stopped(task, None)

    def _bring_hosts(self, now: float) -> None:
        waiting = sum(task.status is Status.PROVISIONING for task in self.living())
        there = [host for host in self.hosts if not host.gone]
        free = sum(not host.busy and host.until is None for host in there)
        while len(self._booting) < waiting - free and len(there) + len(self._booting) < self.capacity:
            self._booting.append(now + self._boot)
        for at in [at for at in self._booting if now >= at]:
            self._booting.remove(at)
            folder = self._folder / "hosts"
            self.hosts.append(Host(len(self.hosts), folder, REGION, self._watcher, poll_seconds=self._watch_seconds))

    # -- what others see --------------------------------------------------------------------------------------------

    def _became(self, task: Task, status: Status) -> None:
        task.status = status
        task.history.append(status)
        theirs = self._backend().tasks[self._cluster][task.arn]
        theirs.last_status = theirs.containers[0].last_status = status
        if status is Status.RUNNING:
            theirs.started_at = time.time()
        what = f": exit code {task.exit_code}, {task.stop.code}" if task.stop is not None else ""
        where = f" on {task.host.id}" if task.host is not None else ""
        _log.info("task %s %s%s%s", task.id[:8], status, where, what)
        if self.deaf:
            return
        container = {"containerArn": theirs.containers[0].container_arn, "name": "prefect", "lastStatus": status}
        if task.exit_code is not None:
            container["exitCode"] = task.exit_code
        detail: dict[str, Any] = {
            "taskArn": task.arn,
            "clusterArn": theirs.cluster_arn,
            "taskDefinitionArn": theirs.task_definition_arn,
            "lastStatus": status,
            "desiredStatus": theirs.desired_status,
            # Nothing was started of a task that never had a machine.
            "containers": [container] if task.host is not None else [],
        }
        if status is Status.STOPPED and task.stop is not None:
            detail |= {"stopCode": task.stop.code, "stoppedReason": task.stop.reason}
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": ACCOUNT,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": REGION,
            "resources": [task.arn],
            "detail": detail,
        }
        self._sqs.send_message(QueueUrl=self._queue, MessageBody=json.dumps(event))

    def _definition(self, task: Task) -> dict[str, Any]:
        theirs = self._backend().tasks[self._cluster][task.arn]
        answer = self._ecs.describe_task_definition(taskDefinition=theirs.task_definition_arn)
        return dict(answer["taskDefinition"])

    def _stop_timeout(self, task: Task) -> float:
        return float(self._definition(task)["containerDefinitions"][0].get("stopTimeout", 30))

    @staticmethod
    def _backend() -> Any:
        """moto's own objects: what its API has no call for (exit codes, stop codes, tags that go)."""
        from moto.backends import get_backend

        return get_backend("ecs")[ACCOUNT][REGION]
