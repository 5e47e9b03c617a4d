"""`pdf-flows aws launch`: Spot machines that run the image by themselves, without Prefect and without ECS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.aws import images, links
from deployments.aws.account import TAG, Account
from deployments.aws.errors import AwsError, boto_errors, code_of, explain, message_of
from deployments.aws.fleet_state import JOB_TAG, Instance, find_instances
from deployments.aws.pool_prices import Ranked
from deployments.aws.showing import plain
from deployments.aws.steps import Steps
from deployments.aws.user_data import LOG_GROUP, Boot, render
from tasks.corpus.failures import UsageError
from tasks.fleet.price_table import ON_DEMAND

RETENTION_DAYS = 7
VOLUME_GB = 100
NEXT_POOL = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "SpotMaxPriceTooLow",
        "Unsupported",
        "UnsupportedOperation",
    }
)
"""AWS has none of this type in this zone at this price: another pool may have."""


class Place(BaseModel):
    """Where machines are started and as what."""

    model_config = ConfigDict(frozen=True)

    profile: str
    """Instance profile: its name."""
    group: str
    """Security group."""
    subnets: dict[str, str] = Field(min_length=1)
    """By availability zone."""


class Order(BaseModel):
    """Machines to be started."""

    model_config = ConfigDict(frozen=True)

    workers: int = Field(5, ge=1, le=1000)
    image: str
    ami: str
    device: str = "/dev/xvda"
    """The machine image's root device."""
    gigabytes: int = VOLUME_GB
    place: Place
    pools: tuple[tuple[str, str], ...] = Field(min_length=1)
    """Types and zones, the best first."""
    max_price: float | None = Field(None, gt=0)
    on_demand: bool = False
    max_minutes: int = Field(gt=0)
    environments: dict[int, dict[str, str]]
    """By worker."""


class Launched(BaseModel):
    """What became of a worker."""

    model_config = ConfigDict(frozen=True)

    worker: int
    instance: str | None
    type: str = ""
    zone: str = ""
    note: str = ""
    """"runs already", or why there is none."""

    def line(self, account: Account) -> str:
        """For people."""
        if self.instance is None:
            return f"worker {self.worker}: NOT STARTED: {self.note}"
        note = f" ({self.note})" if self.note else ""
        where = links.logs(account.region, LOG_GROUP, f"worker-{self.worker}", account.identity.partition)
        return f"worker {self.worker}: {self.instance} {self.type} {self.zone}{note}  log {where}"


def pools_of(ranked: Sequence[Ranked], types: Sequence[str], subnets: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The pools to try, the cheapest page first; those without a known price after them. Pure."""
    known = [(pool.type, pool.zone) for pool in ranked if pool.within and pool.zone in subnets]
    dear = {(pool.type, pool.zone) for pool in ranked if not pool.within}
    others = [(type_, zone) for type_ in types for zone in sorted(subnets)]
    return tuple(known + [pool for pool in others if pool not in known and pool not in dear])


def read_place(
    account: Account, *, profile: str | None, group: str | None, subnets: Sequence[str], vpc: str | None = None
) -> Place:
    """The network to start in; what is not given is the default network's. Raises UsageError, boto3's errors."""
    if profile is None:
        raise UsageError(
            "machines need an instance profile with the buckets, ECR and logs in reach: make one with pdf-flows aws up, "
            "or name one with --instance-profile"
        )
    ec2 = account.client("ec2")
    if subnets:
        found = ec2.describe_subnets(SubnetIds=list(subnets))["Subnets"]
    else:
        found = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
        if not found:
            raise UsageError("the account has no default network here: name public subnets with --subnets")
    networks = {subnet["VpcId"] for subnet in found}
    if len(networks) > 1:
        raise UsageError(
            f"the subnets lie in {len(networks)} networks ({', '.join(sorted(networks))}): name those of one"
        )
    if group is None:
        network = vpc or networks.pop()
        named = [{"Name": "vpc-id", "Values": [network]}, {"Name": "group-name", "Values": ["default"]}]
        group = ec2.describe_security_groups(Filters=named)["SecurityGroups"][0]["GroupId"]
    return Place(
        profile=profile.rsplit("/", 1)[-1],
        group=group,
        subnets={subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in found},
    )


def request(account: Account, order: Order, worker: int, type_: str, zone: str) -> dict[str, Any]:
    """What RunInstances is asked for. Pure but for the account's names."""
    image = images.parse(order.image)
    boot = Boot(
        worker=worker,
        image=order.image,
        region=account.region,
        registry=image.registry if image.account is not None else None,
        environment=order.environments[worker],
        max_minutes=order.max_minutes,
    )
    tags = [
        *account.tags,
        {"Key": "Name", "Value": f"pdf-worker-{worker}"},
        {"Key": "WorkerID", "Value": str(worker)},
        {"Key": JOB_TAG, "Value": job(order.environments[worker])},
    ]
    asked: dict[str, Any] = {
        "ImageId": order.ami,
        "InstanceType": type_,
        "MinCount": 1,
        "MaxCount": 1,
        "IamInstanceProfile": {"Name": order.place.profile},
        # With it, `shutdown -h` is the end of the machine and of its bill.
        "InstanceInitiatedShutdownBehavior": "terminate",
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": order.place.subnets[zone],
                "Groups": [order.place.group],
                "AssociatePublicIpAddress": True,
                "DeleteOnTermination": True,
            }
        ],
        # One hop: the container shares the host's network, and nothing farther away gets at the metadata.
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {
                "DeviceName": order.device,
                "Ebs": {
                    "VolumeType": "gp3",
                    "VolumeSize": order.gigabytes,
                    "Throughput": 250,
                    "Iops": 3000,
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
        ],
        "UserData": render(boot),
    }
    if not order.on_demand:
        spot: dict[str, Any] = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        if order.max_price is not None:
            spot["MaxPrice"] = f"{order.max_price:.4f}"
        asked["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
        asked["TagSpecifications"].append({"ResourceType": "spot-instances-request", "Tags": tags})
    return asked


def check(account: Account, order: Order) -> str:
    """Let EC2 check the very request of the first worker, without doing it. Raises UsageError naming what is missing."""
    from botocore.exceptions import ClientError

    type_, zone = order.pools[0]
    try:
        account.client("ec2").run_instances(
            **request(account, order, min(order.environments), type_, zone), DryRun=True
        )
    except ClientError as error:
        if code_of(error) == "DryRunOperation":
            return "EC2 would start it"
        if code_of(error) in NEXT_POOL:
            return f"{type_} in {zone}: {code_of(error)}; other pools follow"
        raise
    raise AwsError("EC2 took a dry run for a real one: look for an instance, and report this")


def make_log_group(account: Account) -> str:
    """The group, if it is not there, and its retention."""
    from botocore.exceptions import ClientError

    logs = account.client("logs")
    said = "made"
    try:
        logs.create_log_group(logGroupName=LOG_GROUP, tags={TAG: account.project})
    except ClientError as error:
        if code_of(error) != "ResourceAlreadyExistsException":
            raise
        said = "there already"
    logs.put_retention_policy(logGroupName=LOG_GROUP, retentionInDays=RETENTION_DAYS)
    return f"{said}, {RETENTION_DAYS} days"


def launch(account: Account, order: Order, steps: Steps) -> list[Launched]:
    """Start what does not run yet. A pool that has no capacity is passed over; anything else ends the launch, and is told.

    Raises boto3's errors only where nothing was started yet.
    """
    there = {i.worker: i for i in find_instances(account, "pending", "running") if i.worker is not None}
    # EC2's own dry run changes nothing, and is what a dry run of ours is for.
    steps.say(f"check permissions, by EC2's dry run ... {check(account, order)}")
    steps.do(f"make the log group {LOG_GROUP}", lambda: make_log_group(account))
    _refuse_others(order, there.values())
    found: list[Launched] = []
    for worker in range(order.workers):
        if str(worker) in there:
            found.append(_already(worker, there[str(worker)]))
            steps.note(f"worker {worker} runs already: {found[-1].instance}")
            continue
        market = "on-demand" if order.on_demand else "Spot"
        type_, zone = order.pools[0]
        started: list[Launched] = []

        def start(worker: int = worker, started: list[Launched] = started) -> str:
            started.append(_start(account, order, worker))
            return started[0].line(account)

        steps.do(f"start pdf-worker-{worker} ({market}, first try {type_} in {zone})", start)
        if started:
            found.append(started[0])
            if started[0].instance is None:
                # The same would be said of each further one.
                found += [
                    Launched(worker=k, instance=None, note="not tried after the failure above")
                    for k in range(worker + 1, order.workers)
                    if str(k) not in there
                ]
                break
    return found


def job(environment: Mapping[str, str]) -> str:
    """What a worker's machine is for, but its number: those of one job share it. Pure."""
    rest = sorted((name, value) for name, value in environment.items() if name != "WORKER_ID")
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:16]


def _refuse_others(order: Order, there: Iterable[Instance]) -> None:
    """Raises UsageError where machines run that take other documents: beside them parts of the input would be left out."""
    mine = {job(environment) for environment in order.environments.values()}
    others = [f"{i.id} (worker {i.worker})" for i in there if i.job is not None and i.job not in mine]
    if others:
        raise UsageError(
            f"{', '.join(others[:5])} run for another job (other input, output, options or number of workers): wait for "
            "their end, end them (pdf-flows aws stop), or start these under another --project"
        )


def _already(worker: int, instance: Instance) -> Launched:
    return Launched(worker=worker, instance=instance.id, type=instance.type, zone=instance.zone, note="runs already")


def _start(account: Account, order: Order, worker: int) -> Launched:
    ec2 = account.client("ec2")
    tried: list[str] = []
    for type_, zone in _usable(order):
        try:
            answer = ec2.run_instances(**request(account, order, worker, type_, zone))
        except boto_errors() as error:
            if code_of(error) in NEXT_POOL:
                tried.append(f"{type_} {zone}: {code_of(error)}")
                continue
            return _unsaid(account, worker, _why(error)) if not code_of(error) else _not(worker, _why(error))
        item = answer["Instances"][0]
        return Launched(worker=worker, instance=item["InstanceId"], type=type_, zone=zone)
    shown = "; ".join(tried[:3]) + (f" and {len(tried) - 3} more" if len(tried) > 3 else "")
    return _not(
        worker, f"no capacity in any pool ({shown}): try again later, with other --machine-types, or --on-demand"
    )


def _not(worker: int, why: str) -> Launched:
    return Launched(worker=worker, instance=None, note=why)


def _unsaid(account: Account, worker: int, why: str) -> Launched:
    """EC2 was asked and its answer was lost: whether the machine was started its tag says, if somewhat later."""
    try:
        found = [i for i in find_instances(account, "pending", "running") if i.worker == str(worker)]
    except boto_errors():
        found = []
    if found:
        instance = found[0]
        note = "EC2's answer was lost; found by its tag"
        return Launched(worker=worker, instance=instance.id, type=instance.type, zone=instance.zone, note=note)
    return _not(worker, f"{why} (it may have been started: pdf-flows aws status shows it, pdf-flows aws stop ends it)")


def _usable(order: Order) -> Iterator[tuple[str, str]]:
    return (pool for pool in order.pools if pool[1] in order.place.subnets)


def _why(error: Any) -> str:
    known = explain(error)
    return f"{known.code}: {plain(message_of(error))}: {known.remedy}" if known.code else plain(known.text)


def described(account: Account, order: Order) -> str:
    """What a dry run shows: the first worker's machine and the script that it would run. Pure but for the account's names."""
    worker = min(order.environments)
    type_, zone = order.pools[0]
    asked = request(account, order, worker, type_, zone)
    market = "on-demand" if order.on_demand else "Spot"
    cap = f", at most ${order.max_price:g}/h" if order.max_price is not None and not order.on_demand else ""
    head = (
        f"pdf-worker-{worker}: {market}{cap}, {type_} in {zone}, image {order.ami}, {order.gigabytes} GB gp3 encrypted, "
        f"profile {order.place.profile}, group {order.place.group}; further pools: "
        + (", ".join(f"{t} {z}" for t, z in order.pools[1:6]) or "none")
    )
    return f"{head}\n{_most(order)}\nits start script:\n{asked['UserData']}"


def _most(order: Order) -> str:
    """What they can cost. Pure."""
    dearest = max((ON_DEMAND.get(type_, 0.0) for type_, _ in order.pools), default=0.0)
    if order.max_price is not None and not order.on_demand:
        dearest = min(dearest, order.max_price) or order.max_price
    hourly, hours = dearest * order.workers, order.max_minutes / 60
    return (
        f"{order.workers} machine{'' if order.workers == 1 else 's'}: at most ${hourly:.2f}/h, each ended after {hours:g} h at "
        f"the latest (${hourly * hours:.2f}), and with its part of the documents before"
    )
