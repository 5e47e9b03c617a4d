"""Bringing machines to an end: groups to zero, protection off, instances terminated and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import TAG, Account
from deployments.aws.errors import code_of, message_of
from deployments.aws.fleet_state import Instance, find_instances

PROTECT_AT_ONCE = 50
"""AWS's limit on instances of one SetInstanceProtection call."""
TERMINATE_AT_ONCE = 100
WAIT_SECONDS = 600.0
POLL_SECONDS = 5.0


class Group(BaseModel):
    """An Auto Scaling group of the project."""

    model_config = ConfigDict(frozen=True)

    name: str
    desired: int
    minimum: int
    maximum: int
    instances: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    """Those that scaling in leaves alone."""


def find_groups(account: Account) -> list[Group]:
    """The project's, by tag. Raises boto3's errors."""
    pages = account.client("autoscaling").get_paginator("describe_auto_scaling_groups")
    asked = pages.paginate(Filters=[{"Name": f"tag:{TAG}", "Values": [account.project]}])
    return [
        Group(
            name=item["AutoScalingGroupName"],
            desired=item["DesiredCapacity"],
            minimum=item["MinSize"],
            maximum=item["MaxSize"],
            instances=tuple(i["InstanceId"] for i in item["Instances"]),
            protected=tuple(i["InstanceId"] for i in item["Instances"] if i["ProtectedFromScaleIn"]),
        )
        for page in asked
        for item in page["AutoScalingGroups"]
    ]


def to_zero(account: Account, group: Group, *, closed: bool) -> str:
    """Nothing more is started by the group; what it has is left to `unprotect` and `terminate`.

    Args:
        closed: its maximum becomes 0, too, so that nobody's wish (a task that waits for a machine) starts one again.
    """
    sizes = {"MinSize": 0, "DesiredCapacity": 0} | ({"MaxSize": 0} if closed else {})
    account.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=group.name, **sizes)
    return f"desired {group.desired} -> 0" + (f", maximum {group.maximum} -> 0" if closed else "")


def open_again(account: Account, group: Group, maximum: int) -> str:
    """The group may start machines again, after `to_zero(closed=True)`."""
    account.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=group.name, MaxSize=maximum)
    return f"maximum {group.maximum} -> {maximum}"


def unprotect(account: Account, group: Group) -> str:
    """Protection from scaling in is taken off: with it, instances would stay whatever the group's size is."""
    client = account.client("autoscaling")
    for some in _chunks(group.protected, PROTECT_AT_ONCE):
        client.set_instance_protection(AutoScalingGroupName=group.name, InstanceIds=some, ProtectedFromScaleIn=False)
    return f"{len(group.protected)} instances"


def terminate(account: Account, instances: Iterable[str]) -> dict[str, str]:
    """Terminate them; returns those that AWS refused to, and why."""
    from botocore.exceptions import ClientError

    client = account.client("ec2")
    refused: dict[str, str] = {}
    ids = list(instances)
    for some in _chunks(ids, TERMINATE_AT_ONCE):
        try:
            client.terminate_instances(InstanceIds=some)
        except ClientError:
            # One that is refused (termination protection, say) refuses them all: each by itself.
            for instance in some:
                try:
                    client.terminate_instances(InstanceIds=[instance])
                except ClientError as error:
                    if code_of(error) != "InvalidInstanceID.NotFound":
                        refused[instance] = f"{code_of(error)}: {message_of(error)}"
    return refused


def wait_gone(
    account: Account,
    *,
    except_for: Iterable[str] = (),
    seconds: float = WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    poll_seconds: float = POLL_SECONDS,
) -> list[Instance]:
    """Until no instance of the project is on its way out; returns those that are left, whatever state they are in."""
    spared = set(except_for)
    until = time.monotonic() + seconds
    while True:
        states = ("pending", "running", "shutting-down", "stopping", "stopped")
        left = [i for i in find_instances(account, *states) if i.id not in spared]
        if not left or time.monotonic() >= until:
            return left
        if all(i.state == "stopped" for i in left):
            return left
        sleep(poll_seconds)


def _chunks(items: Iterable[str], size: int) -> list[list[str]]:
    found = list(items)
    return [found[start : start + size] for start in range(0, len(found), size)]
