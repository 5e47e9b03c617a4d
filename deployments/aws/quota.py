"""The Spot vCPU quota for GPU types: 0 in new accounts, and nothing starts before it is raised."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account
from deployments.aws.errors import code_of
from deployments.aws.findings import Finding
from deployments.aws.rates import GPUS

SPOT = "L-3819A6DF"
"""All G and VT Spot Instance Requests, in vCPUs, by region (AWS Service Quotas)."""
ON_DEMAND = "L-DB2E81BA"
"""Running On-Demand G and VT instances: another quota."""
NAME = "Spot quota"
OPEN_STATES = ("PENDING", "CASE_OPENED")


class Quota(BaseModel):
    """What the account has."""

    model_config = ConfigDict(frozen=True)

    vcpus: float
    used: int = 0
    """By other G and VT Spot instances of the account."""
    asked: float | None = None
    """A request for more that is open."""


def read(account: Account) -> Quota:
    """Ask Service Quotas and EC2. Raises boto3's errors."""
    from botocore.exceptions import ClientError

    client = account.client("service-quotas")
    try:
        answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=SPOT)
    except ClientError as error:
        if code_of(error) != "NoSuchResourceException":
            raise
        # Nobody changed it yet in this account: the default counts.
        answer = client.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode=SPOT)
    history = client.list_requested_service_quota_change_history_by_quota(ServiceCode="ec2", QuotaCode=SPOT)
    asked = [item["DesiredValue"] for item in history["RequestedQuotas"] if item["Status"] in OPEN_STATES]
    return Quota(vcpus=answer["Quota"]["Value"], used=_used(account), asked=max(asked, default=None))


def _used(account: Account) -> int:
    """vCPUs of the G and VT Spot instances that do not belong to the project."""
    filters = [
        {"Name": "instance-lifecycle", "Values": ["spot"]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
        {"Name": "instance-type", "Values": ["g*", "vt*"]},
    ]
    pages = account.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
    instances: list[dict[str, Any]] = [i for page in pages for r in page["Reservations"] for i in r["Instances"]]
    others = [i for i in instances if not {(t["Key"], t["Value"]) for t in i.get("Tags", ())} & _own(account)]
    return sum(_vcpus(i) for i in others)


def _own(account: Account) -> set[tuple[str, str]]:
    return {(tag["Key"], tag["Value"]) for tag in account.tags}


def _vcpus(instance: dict[str, Any]) -> int:
    options = instance.get("CpuOptions", {})
    return int(options.get("CoreCount", 2)) * int(options.get("ThreadsPerCore", 2))


def judge(quota: Quota, workers: int, types: tuple[str, ...], region: str) -> Finding:
    """Whether so many workers can start. Pure.

    The smallest of the types decides what is needed at least; the group may start larger ones, if the quota lets it.
    """
    known = {type_: GPUS[type_].vcpus for type_ in types if type_ in GPUS}
    smallest = min(known, key=lambda type_: known[type_], default=types[0])
    each, most = min(known.values(), default=4), max(known.values(), default=4)
    needed = workers * each
    free = quota.vcpus - quota.used
    wish = max(workers * most, needed)
    has = f"{quota.vcpus:g} vCPU for G and VT Spot instances in {region}"
    if quota.used:
        has += f", {quota.used} of them used by others"
    need = f"{workers} workers need {needed} ({smallest} has {each})"
    if free >= needed:
        return Finding.ok(NAME, f"{has}; {need}", f"{wish} would let larger types start, too" if free < wish else "")
    if quota.asked is not None:
        remedy = (
            f"a request for {quota.asked:g} is open: wait for it (hours to days), or answer AWS's questions in its case"
        )
    else:
        remedy = (
            f"ask: aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {SPOT} "
            f"--desired-value {wish} --region {region} (hours to days; new accounts are often refused at first: name your "
            "use, ask again for less)"
        )
    start = int(free // each) if free > 0 else 0
    if start:
        remedy = f"--workers {start}, or {remedy}"
    return Finding.fail(NAME, f"{has}; {need}", remedy)
