"""The cluster's tasks: listed, stopped, and their machines closed to new ones."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account
from deployments.aws.errors import code_of

DESCRIBE_AT_ONCE = 100
DRAIN_AT_ONCE = 10
"""AWS's limits."""
RUN_TAG = "prefect.io/flow-run-id"
"""What Prefect's ECS worker tags tasks with."""


class Task(BaseModel):
    """A task that is not stopped."""

    model_config = ConfigDict(frozen=True)

    arn: str
    status: str
    """PROVISIONING (waits for a machine), PENDING, RUNNING, ..."""
    started: datetime | None = None
    flow_run: str | None = None
    machine: str | None = None
    """ARN of its container instance."""

    @property
    def id(self) -> str:
        """The last part of its ARN."""
        return self.arn.rsplit("/", 1)[-1]


def find(account: Account, cluster: str) -> list[Task]:
    """The cluster's tasks; [] where there is no such cluster. Raises boto3's errors."""
    from botocore.exceptions import ClientError

    ecs = account.client("ecs")
    try:
        pages = ecs.get_paginator("list_tasks").paginate(cluster=cluster)
        arns = [arn for page in pages for arn in page["taskArns"]]
    except ClientError as error:
        if code_of(error) == "ClusterNotFoundException":
            return []
        raise
    found: list[Task] = []
    for start in range(0, len(arns), DESCRIBE_AT_ONCE):
        answer = ecs.describe_tasks(cluster=cluster, tasks=arns[start : start + DESCRIBE_AT_ONCE], include=["TAGS"])
        for item in answer["tasks"]:
            tags = {tag["key"]: tag["value"] for tag in item.get("tags", ())}
            found.append(
                Task(
                    arn=item["taskArn"],
                    status=item["lastStatus"],
                    started=item.get("startedAt"),
                    flow_run=tags.get(RUN_TAG),
                    machine=item.get("containerInstanceArn"),
                )
            )
    return [task for task in found if task.status != "STOPPED"]


def stop(account: Account, cluster: str, tasks: list[Task], reason: str) -> str:
    """Stop them, those that wait for a machine first: as long as they wait, managed scaling asks for one."""
    from botocore.exceptions import ClientError

    ecs = account.client("ecs")
    stopped = 0
    for task in sorted(tasks, key=lambda task: task.machine is not None):
        try:
            ecs.stop_task(cluster=cluster, task=task.arn, reason=reason)
            stopped += 1
        except ClientError as error:
            # Ended by itself meanwhile.
            if code_of(error) != "InvalidParameterException":
                raise
    return f"{stopped} stopped"


def close_machines(account: Account, cluster: str) -> str:
    """Machines get no new tasks (DRAINING). The tasks on them run on: ECS stops only those of services."""
    from botocore.exceptions import ClientError

    ecs = account.client("ecs")
    try:
        pages = ecs.get_paginator("list_container_instances").paginate(cluster=cluster, status="ACTIVE")
        arns = [arn for page in pages for arn in page["containerInstanceArns"]]
    except ClientError as error:
        if code_of(error) == "ClusterNotFoundException":
            return "no cluster"
        raise
    for start in range(0, len(arns), DRAIN_AT_ONCE):
        ecs.update_container_instances_state(
            cluster=cluster, containerInstances=arns[start : start + DRAIN_AT_ONCE], status="DRAINING"
        )
    return f"{len(arns)} machines take no new tasks"
