"""What exists in the account for a project, found by its tag: instances, volumes, addresses, gateways, endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import TAG, Account
from deployments.aws.errors import DENIED, code_of
from deployments.aws.showing import plain
from tasks.fleet.machine import Lifecycle, Machine

LIVING = ("pending", "running", "stopping", "stopped")
"""States of instances that are there, or may be started again."""
BILLED = ("pending", "running")
"""States in which compute is paid for, or is about to be (AWS documentation: not from `shutting-down` on)."""
T = TypeVar("T")
_ENDED = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


JOB_TAG = "JobID"
"""What a machine of `pdf-flows aws launch` is for."""


class Instance(BaseModel):
    """An EC2 instance of the project."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: str
    zone: str
    state: str
    lifecycle: Lifecycle
    name: str = ""
    worker: str | None = None
    """Its tag WorkerID: an instance of `pdf-flows aws launch`."""
    job: str | None = None
    """What it was launched for, but its number."""
    group: str | None = None
    """Its Auto Scaling group."""
    launched: datetime
    ended: datetime | None = None
    """From the reason of its last change of state, where AWS says."""
    public_ip: str | None = None
    volumes: tuple[str, ...] = ()

    @property
    def living(self) -> bool:
        """Whether it is there, or may be started again."""
        return self.state in LIVING

    @property
    def billed(self) -> bool:
        """Whether compute is paid for."""
        return self.state in BILLED

    def machine(self, region: str) -> Machine:
        """As prices know it."""
        return Machine(id=self.id, type=self.type, zone=self.zone, region=region, lifecycle=self.lifecycle)

    def words(self) -> str:
        """For people."""
        name = f" {plain(self.name)}" if self.name else ""
        return f"{self.id} ({self.type} {self.lifecycle},{name} {self.state})"


class Volume(BaseModel):
    """An EBS volume."""

    model_config = ConfigDict(frozen=True)

    id: str
    gigabytes: float
    kind: str
    iops: int | None = None
    mbps: int | None = None
    attached: str | None = None
    """To which instance."""


class Address(BaseModel):
    """An Elastic IP address."""

    model_config = ConfigDict(frozen=True)

    id: str
    ip: str
    instance: str | None = None


class FleetState(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True)

    instances: tuple[Instance, ...] = ()
    """Those that EC2 still knows; it forgets terminated ones after about an hour."""
    volumes: tuple[Volume, ...] = ()
    addresses: tuple[Address, ...] = ()
    gateways: tuple[str, ...] = ()
    endpoints: tuple[tuple[str, int], ...] = ()
    """Interface endpoints, with the number of their zones."""
    unseen: tuple[str, ...] = ()
    """What these credentials may not look at."""

    @property
    def living(self) -> tuple[Instance, ...]:
        """Instances that are there."""
        return tuple(instance for instance in self.instances if instance.living)

    @property
    def others(self) -> bool:
        """Whether something else is there that costs by the hour."""
        return bool(self.volumes or self.addresses or self.gateways or self.endpoints)


def look(account: Account) -> FleetState:
    """What carries the project's tag, and the volumes attached to its instances.

    Raises boto3's errors; that something other than instances may not be looked at is said in the result.
    """
    instances = tuple(find_instances(account))
    unseen: list[str] = []
    volumes = _allowed("volumes", unseen, lambda: list(_volumes(account, instances)))
    addresses = _allowed("addresses", unseen, lambda: list(_addresses(account)))
    gateways = _allowed("NAT gateways", unseen, lambda: list(_gateways(account)))
    endpoints = _allowed("endpoints", unseen, lambda: list(_endpoints(account)))
    return FleetState(
        instances=instances,
        volumes=tuple(volumes),
        addresses=tuple(addresses),
        gateways=tuple(gateways),
        endpoints=tuple(endpoints),
        unseen=tuple(unseen),
    )


def _allowed(what: str, unseen: list[str], find: Callable[[], list[T]]) -> list[T]:
    from botocore.exceptions import ClientError

    try:
        return find()
    except ClientError as error:
        if code_of(error) not in DENIED:
            raise
        unseen.append(f"{what} ({error.operation_name}: {code_of(error)})")
        return []


def _volumes(account: Account, instances: Sequence[Instance]) -> Iterator[Volume]:
    ec2 = account.client("ec2")
    found = {item["VolumeId"]: item for item in _pages(ec2, "describe_volumes", "Volumes", Filters=account.tag_filter)}
    attached = [instance.id for instance in instances if instance.living]
    for start in range(0, len(attached), 100):
        # Volumes that somebody attached by hand, or whose launch template had no tag for them.
        where = [{"Name": "attachment.instance-id", "Values": attached[start : start + 100]}]
        found |= {item["VolumeId"]: item for item in _pages(ec2, "describe_volumes", "Volumes", Filters=where)}
    return (_volume(item) for item in found.values() if item["State"] not in ("deleting", "deleted"))


def _addresses(account: Account) -> Iterator[Address]:
    for item in account.client("ec2").describe_addresses(Filters=account.tag_filter)["Addresses"]:
        ip = item["PublicIp"]
        yield Address(id=item.get("AllocationId", ip), ip=ip, instance=item.get("InstanceId"))


def _gateways(account: Account) -> Iterator[str]:
    for item in _pages(account.client("ec2"), "describe_nat_gateways", "NatGateways", Filters=account.tag_filter):
        if item["State"] in ("pending", "available", "deleting"):
            yield item["NatGatewayId"]


def _endpoints(account: Account) -> Iterator[tuple[str, int]]:
    for item in _pages(account.client("ec2"), "describe_vpc_endpoints", "VpcEndpoints", Filters=account.tag_filter):
        if item["VpcEndpointType"] == "Interface":
            yield item["VpcEndpointId"], max(1, len(item.get("SubnetIds", ())))


def find_instances(account: Account, *states: str) -> Iterator[Instance]:
    """The project's instances, in all states or the given ones. Raises boto3's errors."""
    filters = list(account.tag_filter)
    if states:
        filters.append({"Name": "instance-state-name", "Values": list(states)})
    for reservation in _pages(account.client("ec2"), "describe_instances", "Reservations", Filters=filters):
        for item in reservation["Instances"]:
            yield _instance(item)


def kept(account: Account) -> list[str]:
    """ARNs of what else carries the tag and is paid for by the month: buckets, images, snapshots, logs, secrets.

    [] where these credentials may not ask: it is said at the end of `down`, which must not fail then.
    """
    return _allowed("tags", [], lambda: list(_kept(account)))


def _kept(account: Account) -> list[str]:
    pages = account.client("resourcegroupstaggingapi").get_paginator("get_resources")
    filters = [{"Key": TAG, "Values": [account.project]}]
    arns = [
        item["ResourceARN"] for page in pages.paginate(TagFilters=filters) for item in page["ResourceTagMappingList"]
    ]
    return sorted(arn for arn in arns if _by_the_month(arn))


def _by_the_month(arn: str) -> bool:
    service, resource = arn.split(":")[2], arn.split(":", 5)[-1]
    return service in ("s3", "ecr", "logs", "secretsmanager") or (service == "ec2" and resource.startswith("snapshot/"))


def ended_at(reason: str) -> datetime | None:
    """When an instance ended, from its StateTransitionReason: "User initiated (2026-11-23 12:00:00 GMT)". Pure."""
    match = _ENDED.search(reason)
    return datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if match else None


def _instance(item: dict[str, Any]) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", ())}
    spot = item.get("InstanceLifecycle") == "spot"
    return Instance(
        id=item["InstanceId"],
        type=item["InstanceType"],
        zone=item.get("Placement", {}).get("AvailabilityZone", ""),
        state=item["State"]["Name"],
        # What is not Spot is paid for as on-demand at most.
        lifecycle=Lifecycle.SPOT if spot else Lifecycle.ON_DEMAND,
        name=tags.get("Name", ""),
        worker=tags.get("WorkerID"),
        job=tags.get(JOB_TAG),
        group=tags.get("aws:autoscaling:groupName"),
        launched=item["LaunchTime"],
        ended=ended_at(item.get("StateTransitionReason", "")) if item["State"]["Name"] not in BILLED else None,
        public_ip=item.get("PublicIpAddress") or None,
        volumes=tuple(
            mapping["Ebs"]["VolumeId"] for mapping in item.get("BlockDeviceMappings", ()) if "Ebs" in mapping
        ),
    )


def _volume(item: dict[str, Any]) -> Volume:
    attachments = item.get("Attachments", ())
    return Volume(
        id=item["VolumeId"],
        gigabytes=item["Size"],
        kind=item.get("VolumeType", ""),
        iops=item.get("Iops"),
        mbps=item.get("Throughput"),
        attached=attachments[0].get("InstanceId") if attachments else None,
    )


def _pages(client: Any, operation: str, key: str, **asked: Any) -> Iterator[dict[str, Any]]:
    for page in client.get_paginator(operation).paginate(**asked):
        yield from page[key]
