"""`pdf-flows aws preflight`: everything that can be known before money is spent. Reads only, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws import (
    buckets,
    forecast,
    images,
    notifications,
    permissions,
    pool_prices,
    quota,
    reach,
)
from deployments.aws.account import Account
from deployments.aws.errors import boto_errors, explain
from deployments.aws.findings import Finding
from deployments.aws.forecast import Forecast
from deployments.aws.planned_run import PlannedRun
from deployments.aws.pool_prices import Ranked
from deployments.aws.stack import Stack, Stacks

REGION = "region"
STACK = "stack"
GOOD_STACK = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")


class Asked(BaseModel):
    """What preflight is asked about."""

    model_config = ConfigDict(frozen=True)

    plan: PlannedRun
    source: tuple[str, str] | None = None
    """Bucket and prefix; None takes the stack's."""
    output: tuple[str, str] | None = None
    image: str | None = None
    api_url: str | None = None
    """Prefect's API as the workers are to reach it; None takes the stack's."""


class Preflight(BaseModel):
    """What was found."""

    model_config = ConfigDict(frozen=True)

    findings: tuple[Finding, ...]
    pools: tuple[Ranked, ...] = ()
    forecasts: tuple[Forecast, ...] = ()
    plan: PlannedRun


def preflight(account: Account, asked: Asked, *, now: datetime | None = None) -> Preflight:
    """All checks, each by itself: what one of them can't ask does not keep the others from being asked."""
    now = now or datetime.now(UTC)
    found: list[Finding] = []
    found.append(_asked(permissions.CREDENTIALS, lambda: permissions.judge_identity(account.identity, account.region)))
    if found[0].state == "FAIL":
        names = (
            permissions.NAME,
            REGION,
            STACK,
            quota.NAME,
            pool_prices.NAME,
            images.AMI,
            images.NAME,
            "input bucket",
            "output bucket",
            notifications.SUBSCRIPTION,
            notifications.COST_TAG,
            reach.NAME,
            forecast.NAME,
        )
        skipped = [Finding.skipped(name, "needs credentials") for name in names]
        return Preflight(findings=(*found, *skipped), plan=asked.plan)
    stacks: list[Stack | None] = []
    about_stack = _asked(STACK, lambda: _stack(account, stacks))
    stack = stacks[0] if stacks else None
    operated = stack if about_stack.state == "OK" else None
    found.append(_asked(permissions.NAME, lambda: permissions.judge(permissions.read(account, operated))))
    found.append(_asked(REGION, lambda: _region(account, asked.plan)))
    found.append(about_stack)
    plan = asked.plan
    found.append(_asked(quota.NAME, lambda: quota.judge(quota.read(account), plan.workers, plan.types, account.region)))
    ranked: list[Ranked] = []
    found.append(_asked(pool_prices.NAME, lambda: _prices(account, plan, ranked, now)))
    found.append(_asked(images.AMI, lambda: _ami(account)))
    found.append(_asked(images.NAME, lambda: _image(account, asked, stack)))
    source = asked.source or _bucket_of(stack, "InputBucket", "InputPrefix")
    output = asked.output or _bucket_of(stack, "OutputBucket", "OutputPrefix")
    seen: list[buckets.Bucket] = []
    found.append(_bucket(account, "input", source, seen, count=True))
    found.append(_bucket(account, "output", output, seen, count=False))
    if plan.pages is None and plan.documents is None and source is not None and seen and seen[0].name == source[0]:
        plan = plan.model_copy(update={"documents": seen[0].pdfs})
    found.append(_asked(notifications.SUBSCRIPTION, lambda: _subscriptions(account, stack)))
    found.append(
        _asked(notifications.COST_TAG, lambda: notifications.judge_cost_tag(notifications.read_cost_tag(account)))
    )
    found.append(_asked(reach.NAME, lambda: _api(account, asked, stack)))
    verdict, forecasts = forecast.judge(plan, ranked, account.region)
    found.append(verdict)
    return Preflight(findings=tuple(found), pools=tuple(ranked), forecasts=tuple(forecasts), plan=plan)


def _asked(name: str, check: Callable[[], Finding]) -> Finding:
    """A check's finding, or why it could not be asked, with AWS's code."""
    try:
        return check()
    except boto_errors() as error:
        why = explain(error)
        return Finding.fail(name, why.line, why.remedy)


def _region(account: Account, plan: PlannedRun) -> Finding:
    pages = account.client("ec2").get_paginator("describe_instance_type_offerings")
    filters = [{"Name": "instance-type", "Values": list(plan.types)}]
    offered: dict[str, int] = {}
    for page in pages.paginate(LocationType="availability-zone", Filters=filters):
        for item in page["InstanceTypeOfferings"]:
            offered[item["InstanceType"]] = offered.get(item["InstanceType"], 0) + 1
    return judge_region(account.region, plan.types, offered)


def judge_region(region: str, types: tuple[str, ...], offered: dict[str, int]) -> Finding:
    """Whether the region has the machines. Pure.

    Args:
        offered: in how many zones each type is offered.
    """
    there = [f"{type_} in {offered[type_]} zones" for type_ in types if type_ in offered]
    missing = [type_ for type_ in types if type_ not in offered]
    if not there:
        remedy = "choose another with --region: us-east-1, us-east-2, us-west-2 and eu-west-1 have all of them"
        return Finding.fail(REGION, f"{region} offers none of {', '.join(types)}", remedy)
    if missing:
        return Finding.warn(REGION, f"{region}: {', '.join(there)}", f"it does not offer {', '.join(missing)}")
    return Finding.ok(REGION, f"{region}: {', '.join(there)}")


def _stack(account: Account, found: list[Stack | None]) -> Finding:
    stack = Stacks(account).find()
    found.append(stack)
    return judge_stack(account.project, stack)


def judge_stack(project: str, stack: Stack | None) -> Finding:
    """Whether the infrastructure is there. Pure."""
    if stack is None:
        return Finding.skipped(STACK, f"there is no stack {project} yet", "pdf-flows aws up makes it")
    if stack.busy:
        return Finding.warn(STACK, f"{project} is {stack.status}", "wait until it is done")
    if stack.status not in GOOD_STACK:
        return Finding.fail(
            STACK, f"{project} is {stack.status}: {stack.reason}", "pdf-flows aws up mends or remakes it"
        )
    return Finding.ok(STACK, f"{project} is {stack.status}")


def _prices(account: Account, plan: PlannedRun, ranked: list[Ranked], now: datetime) -> Finding:
    finding, found = pool_prices.judge(pool_prices.read(account, plan.types), plan, account.region, now)
    ranked.extend(found)
    return finding


def _ami(account: Account) -> Finding:
    ami = images.read_ami(account)
    return images.judge_ami(ami, images.read_root_gigabytes(account, ami)[1], account.region)


def _image(account: Account, asked: Asked, stack: Stack | None) -> Finding:
    uri = asked.image
    if uri is None and stack is not None:
        repository = stack.output("RepositoryUri")
        uri = stack.parameters.get("ImageUri") or (f"{repository}:latest" if repository else None)
    if uri is None:
        remedy = "pdf-flows aws up --build makes both, or name an image with --image"
        return Finding.skipped(images.NAME, "there is no repository yet", remedy)
    image = images.parse(uri)
    stored = images.read(account, image) if image.account is not None else None
    return images.judge(image, stored, account.region)


def _bucket_of(stack: Stack | None, output: str, prefix: str) -> tuple[str, str] | None:
    name = stack.output(output) if stack is not None else None
    return (name, stack.parameters.get(prefix, "")) if name is not None and stack is not None else None


def _bucket(
    account: Account, role: str, where: tuple[str, str] | None, seen: list[buckets.Bucket], *, count: bool
) -> Finding:
    name = f"{role} bucket"
    if where is None:
        return Finding.skipped(name, "not named, and there is no stack yet", f"give --{role} s3://bucket/prefix")

    def look() -> Finding:
        bucket = buckets.read(account, where[0], where[1], count=count)
        seen.append(bucket)
        return buckets.judge(role, bucket, account.region, counted=count)

    return _asked(name, look)


def _subscriptions(account: Account, stack: Stack | None) -> Finding:
    topic = stack.output("TopicArn") if stack is not None else None
    found = notifications.read_subscriptions(account, topic) if topic is not None else None
    return notifications.judge_subscriptions(found)


def _api(account: Account, asked: Asked, stack: Stack | None) -> Finding:
    control = stack.output("ControlInstanceId") if stack is not None else None
    if control is not None and asked.api_url is None:
        return reach.judge_control(reach.read_control(account, control))
    url = asked.api_url or (stack.output("PrefectApiUrl") if stack is not None else None)
    if url is None:
        remedy = "pdf-flows aws up makes a control host with one; or give --api-url"
        return Finding.skipped(reach.NAME, "there is no stack yet, and no address was given", remedy)
    group = stack.output("TaskSecurityGroupId") if stack is not None else None
    vpc = stack.output("VpcId") if stack is not None else None
    try:
        api = reach.read_api(url)
    except ValueError as error:
        return Finding.fail(reach.NAME, str(error), "give one like https://host/api")
    return reach.judge(api, reach.read_network(account, group, vpc))


def data(found: Preflight) -> dict[str, Any]:
    """For --json."""
    return found.model_dump(mode="json")
