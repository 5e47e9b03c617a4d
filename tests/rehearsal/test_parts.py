"""The pretended ECS by itself: RunTask, DescribeTasks and StopTask over HTTP, and what becomes of the containers. No Prefect."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from prefect.client.schemas.objects import StateType

from deployments.aws.pool import strategy
from deployments.aws.stack import TEMPLATE
from deployments.rehearsal import stack
from deployments.rehearsal.ecs import FakeEcs, Status, Task
from deployments.rehearsal.image import DOCKERFILE, ROOT, Places, read_image
from tasks.corpus.failures import UsageError
from tasks.fleet.losses import Loss, diagnose
from tasks.reconcile import EcsTasks

SLEEPS = ["sleep", "600"]


@cache
def client(service: str, endpoint: str) -> Any:
    """Making one takes longer than most of what is done with it."""
    return boto3.session.Session("x", "x", region_name=stack.REGION).client(service, endpoint_url=endpoint)


class Yard:
    """A cluster with an agent of its own, and calls to it."""

    def __init__(self, folder: Path, endpoint: str, **options: Any) -> None:
        self.client: Callable[[str], Any] = lambda service: client(service, endpoint)
        self.outputs = stack.make(self.client, f"yard-{uuid.uuid4().hex[:6]}", "user:from-the-secret")
        self.cluster = self.outputs["ClusterName"]
        self.api = self.client("ecs")
        queue = self.outputs["EventsQueueName"]
        self.queue = self.client("sqs").get_queue_url(QueueName=queue)["QueueUrl"]
        self.ecs = FakeEcs(
            folder, endpoint, self.client, cluster=self.cluster, queue=queue, boot_seconds=0.3, **options
        )  # fmt: skip
        self.ecs.start()

    def run(self, *command: str, **environment: str) -> str:
        """RunTask as prefect-aws calls it; the ARN."""
        variables = [{"name": name, "value": value} for name, value in environment.items()]
        answer = self.api.run_task(
            cluster=self.cluster,
            taskDefinition=self.outputs["TaskDefinitionArn"],
            capacityProviderStrategy=strategy(self.outputs["CapacityProviderName"]),
            overrides={"containerOverrides": [{"name": "prefect", "command": list(command), "environment": variables}]},
            tags=[{"key": "prefect.io/flow-run-id", "value": str(uuid4())}],
        )
        return str(answer["tasks"][0]["taskArn"])

    def wait(self, arn: str, status: Status, seconds: float = 20.0) -> Task:
        until = time.monotonic() + seconds
        while (task := self.ecs.tasks.get(arn)) is None or task.status is not status:
            assert time.monotonic() < until, task
            time.sleep(0.02)
        return task

    def describe(self, arn: str) -> dict[str, Any]:
        return dict(self.api.describe_tasks(cluster=self.cluster, tasks=[arn], include=["TAGS"])["tasks"][0])

    def events(self) -> list[dict[str, Any]]:
        """The details of what Prefect's observer would have got by now."""
        sqs, found = self.client("sqs"), []
        while messages := sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            found += [json.loads(message["Body"])["detail"] for message in messages]
        return found


@pytest.fixture
def yard(moto_s3: Any, tmp_path: Path) -> Iterator[Callable[..., Yard]]:
    made: list[Yard] = []

    def make(**options: Any) -> Yard:
        made.append(Yard(tmp_path / str(len(made)), moto_s3.url, **options))
        return made[-1]

    yield make
    for each in made:
        each.ecs.stop()


def test_a_container_is_started_by_the_images_entrypoint_with_all_its_environments(
    yard: Callable[..., Yard],
) -> None:
    place = yard()
    task = place.wait(place.run("sh", "-c", "pwd; env; exit 3", MINE="from RunTask"), Status.STOPPED)
    assert task.exit_code == 3
    assert task.container is not None and task.host is not None
    first, *lines = task.container.said.splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert first == str(ROOT), "the entrypoint goes there"
    assert seen["MINE"] == "from RunTask"
    assert seen["PREFECT_API_AUTH_STRING"] == "user:from-the-secret"
    assert seen["ENGINE"] == "dolphin", "of the image"
    assert seen["PDF_FLOWS_SPOT_NOTICE_FILE"] == str(task.host.notice / "instance-action"), "of the task definition"
    assert seen["AWS_DEFAULT_REGION"] == stack.REGION
    assert seen["PREFECT_HOME"].endswith(f"{task.id}/prefect")
    events = place.events()
    assert [event["lastStatus"] for event in events] == ["PROVISIONING", "PENDING", "RUNNING", "STOPPED"]
    assert events[-1]["containers"][0] == events[-1]["containers"][0] | {"name": "prefect", "exitCode": 3}
    assert events[-1]["stopCode"] == "EssentialContainerExited"
    shown = place.describe(task.arn)
    assert (shown["lastStatus"], shown["stopCode"], shown["containers"][0]["exitCode"]) == (
        "STOPPED",
        "EssentialContainerExited",
        3,
    )


@pytest.mark.slow
def test_another_entrypoint_is_another_container(
    yard: Callable[..., Yard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the rehearsal can fail by it: nothing but the Dockerfile says what is started."""
    text = DOCKERFILE.read_text()
    broken = tmp_path / "Dockerfile"
    broken.write_text(f'{text}\nENTRYPOINT ["/opt/venv/bin/python", "-c", "import sys; sys.exit(len(sys.argv))"]\n')
    monkeypatch.setattr("deployments.rehearsal.ecs.DOCKERFILE", broken)
    place = yard()
    assert place.wait(place.run("prefect", "flow-run", "execute"), Status.STOPPED).exit_code == 4
    assert read_image(text).entrypoint[-1] == "/opt/pdf-flows/worker_image/entrypoint.py"
    assert (
        read_image(text.replace("worker_image/entrypoint.py", "worker_image/other.py"))
        .entrypoint[-1]
        .endswith("other.py")
    )
    with pytest.raises(UsageError, match="ENTRYPOINT"):
        read_image('FROM x\nENTRYPOINT ["a"]\nFROM y\nRUN b')
    image = read_image('ARG A=1\nFROM x\nENV \\\n B=${A} C="two words"\n# no\nWORKDIR /w\nENTRYPOINT ["e"]\n')
    assert (image.entrypoint, image.environment, image.workdir) == (["e"], {"B": "1", "C": "two words"}, "/w")
    places = Places(tmp_path / "s", tmp_path / "n")
    assert places.here("/tmp/prefect:/usr/tmp:/tmpfs") == f"{tmp_path}/s/prefect:/usr/tmp:/tmpfs"
    assert places.here(f"{ROOT}/x") == f"{ROOT}/x", "wherever the clone is"


@pytest.mark.slow
def test_tasks_queue_for_machines_and_give_up(yard: Callable[..., Yard]) -> None:
    place = yard(capacity=1, patience=1.5)
    first, second, third = place.run(*SLEEPS), place.run("true"), place.run("true")
    place.wait(first, Status.RUNNING)
    assert [place.ecs.tasks[arn].status for arn in (second, third)] == ["PROVISIONING"] * 2
    assert len(place.ecs.hosts) == 1
    place.ecs.kill(place.ecs.tasks[first])
    assert place.wait(first, Status.STOPPED).exit_code == 137
    done = place.wait(second, Status.STOPPED)
    assert (done.exit_code, done.host) == (0, place.ecs.hosts[0]), "the machine's next one"
    place.ecs.capacity = 0
    place.ecs.interrupt(done, 0)
    late = place.run("true")
    stopped = place.wait(late, Status.STOPPED)
    assert stopped.history == ["PROVISIONING", "STOPPED"]
    event = next(e for e in place.events() if e["taskArn"] == late and e["lastStatus"] == "STOPPED")
    assert (event["stopCode"], event["containers"]) == ("TaskFailedToStart", [])
    assert diagnose(f"ECS task failed to start: {event['stoppedReason']}", began=False) is Loss.CAPACITY


@pytest.mark.slow
def test_stop_task_is_sigterm_first_and_takes_the_tags(yard: Callable[..., Yard]) -> None:
    place = yard()
    arn = place.run("bash", "-c", "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.1; done")
    task = place.wait(arn, Status.RUNNING)
    assert task.container is not None
    until = time.monotonic() + 20
    while "up" not in task.container.said and time.monotonic() < until:
        time.sleep(0.05)
    assert place.describe(arn)["tags"]
    place.api.stop_task(cluster=place.cluster, task=arn, reason="enough")
    place.wait(arn, Status.STOPPED)
    assert (task.exit_code, "told" in task.container.said) == (7, True)
    shown = place.describe(arn)
    assert (shown["stopCode"], shown["stoppedReason"], shown["tags"]) == ("UserInitiated", "enough", [])


WAITS = """
trap 'echo told; exit 7' TERM
while [ ! -e "$PDF_FLOWS_SPOT_NOTICE_FILE" ]; do sleep 0.1; done
cat "$PDF_FLOWS_SPOT_NOTICE_FILE"; echo
while :; do sleep 0.1; done
"""


def test_the_templates_watcher_hands_a_notice_on_as_a_file_and_as_sigterm(yard: Callable[..., Yard]) -> None:
    place = yard(watch_seconds=0.2)
    task = place.wait(place.run("bash", "-c", WAITS), Status.RUNNING)
    # 30 s before the end it is told once more: here 2 s after the notice.
    host = place.ecs.interrupt(task, 32)
    place.wait(task.arn, Status.STOPPED)
    assert (task.exit_code, host.gone) == (7, False)
    assert task.container is not None
    first, *rest = task.container.said.splitlines()
    assert json.loads(first)["action"] == "terminate"
    assert rest == ["told"]


def test_who_breaks_the_watcher_breaks_the_rehearsal(yard: Callable[..., Yard]) -> None:
    text = TEMPLATE.read_text()
    assert stack.watcher(text).startswith("#!/bin/bash\nmetadata=${METADATA:-http://169.254.169.254}/latest\n")
    for broken, said in (
        (
            text.replace("/usr/local/bin/spot-watch <<", "/usr/local/bin/other <<"),
            "writes no /usr/local/bin/spot-watch",
        ),
        (text.replace("   LaunchTemplateData:", "   Other:"), "no user data"),
    ):
        with pytest.raises(UsageError, match=said):
            stack.watcher(broken)


@pytest.mark.slow
def test_a_lost_machine_says_nothing_and_neither_does_a_lost_queue(yard: Callable[..., Yard]) -> None:
    place = yard(watch_seconds=0.2)
    task = place.wait(place.run(*SLEEPS), Status.RUNNING)
    place.events()
    place.ecs.deaf = True
    host = place.ecs.lose(task)
    place.wait(task.arn, Status.STOPPED)
    assert (task.exit_code, host.gone, list(host.notice.glob("[!.]*"))) == (None, True, [])
    assert place.events() == []
    shown = place.describe(task.arn)
    assert (shown["lastStatus"], shown["stoppedReason"]) == ("STOPPED", f"Host EC2 (instance {host.id}) terminated.")


@pytest.mark.slow
def test_a_notice_is_in_the_metadata_and_in_the_file_and_then_the_machine_is_gone(yard: Callable[..., Yard]) -> None:
    place = yard(capacity=2, watch_seconds=0.2)
    arn = place.run("bash", "-c", "trap '' TERM; sleep 600")
    task = place.wait(arn, Status.RUNNING)
    host = task.host
    assert host is not None
    place.ecs.interrupt(task, 5)
    ask = urllib.request.Request(
        f"{host.metadata}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": "token"}
    )
    assert json.loads(urllib.request.urlopen(ask, timeout=5).read())["action"] == "terminate"
    until = time.monotonic() + 4
    while not (file := host.notice / "instance-action").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert json.loads(file.read_text())["action"] == "terminate"
    other = place.wait(place.run(*SLEEPS), Status.RUNNING)
    assert other.host is not host, "nothing is placed on a machine that goes"
    place.wait(arn, Status.STOPPED)
    assert (task.exit_code, host.gone) == (None, True)
    event = next(e for e in place.events() if e["taskArn"] == arn and e["lastStatus"] == "STOPPED")
    assert event["stopCode"] == "SpotInterruption"
    assert "exitCode" not in event["containers"][0]


@pytest.mark.slow
def test_the_supervisor_learns_from_ecs_what_prefect_does_not_say(yard: Callable[..., Yard]) -> None:
    """Prefect's observer has the same words for a machine that was taken away and for a process that was killed."""
    from prefect.states import Crashed

    words = "The following containers stopped with a non-zero exit code: ['prefect']"
    place = yard(capacity=2)
    lost, killed = (place.wait(place.run(*SLEEPS), Status.RUNNING) for _ in range(2))
    place.ecs.interrupt(lost, 0)
    place.ecs.kill(killed)
    tasks = EcsTasks(None, lambda region: place.api)
    found = []
    for task in (lost, killed):
        place.wait(task.arn, Status.STOPPED)
        id = uuid4()
        tasks.learn(id, f"{place.cluster}::{task.arn}")
        found.append(tasks.explained(id, Crashed(message=words)).message or "")
    assert found[0].startswith("ECS: SpotInterruption: Host EC2 (instance i-"), found
    assert found[1] == f"ECS: EssentialContainerExited: Essential container in task exited: exit code 137 ({words})"
    assert [diagnose(said, began=True) for said in (words, *found)] == [Loss.PROCESS, Loss.HOST, Loss.PROCESS]


@pytest.mark.slow
def test_a_dead_task_ends_its_flow_run_and_an_orphan_is_stopped(yard: Callable[..., Yard]) -> None:
    place = yard(capacity=2)
    dead, orphan = (place.wait(place.run(*SLEEPS), Status.RUNNING) for _ in range(2))
    ids = [uuid4(), uuid4()]
    crashed: list[tuple[UUID, str]] = []
    now = [0.0]
    tasks = EcsTasks(
        lambda id, words: crashed.append((id, words)),
        lambda region: place.api,
        lambda: now[0],
    )
    for id, task in zip(ids, (dead, orphan), strict=True):
        tasks.learn(id, f"{place.cluster}::{task.arn}")

    def look(living: dict[UUID, StateType]) -> None:
        now[0] += 61
        tasks.look(living)

    look(dict.fromkeys(ids, StateType.RUNNING))
    place.ecs.kill(dead)
    place.wait(dead.arn, Status.STOPPED)
    look({ids[0]: StateType.RUNNING})  # the other one's flow run is over now
    assert (crashed, orphan.status) == ([], Status.RUNNING), "once may be a matter of time"
    tasks.look({ids[0]: StateType.RUNNING})
    assert crashed == [], "each minute, not each look of the supervisor"
    look({ids[0]: StateType.RUNNING})
    assert crashed == [(ids[0], "ECS: EssentialContainerExited: Essential container in task exited: exit code 137")]
    assert place.wait(orphan.arn, Status.STOPPED).stop is not None
    assert place.describe(orphan.arn)["stoppedReason"] == "its flow run is over"
