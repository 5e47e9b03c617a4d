"""What `pdf-flows aws launch` starts: from its options, the stack if there is one, and the account."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deployments.aws import buckets, images, pool_prices
from deployments.aws.account import Account
from deployments.aws.buckets import split_url
from deployments.aws.findings import Finding, State
from deployments.aws.launch import VOLUME_GB, Order, pools_of, read_place
from deployments.aws.parameters import pairs
from deployments.aws.planned_run import planned_run, split
from deployments.aws.stack import Stack, Stacks
from deployments.aws.user_data import contract, refuse_secrets
from tasks.corpus.failures import UsageError
from tasks.corpus.paths import check_run_id

if TYPE_CHECKING:
    from deployments.aws.pool_prices import Ranked


def order_of(
    account: Account,
    *,
    workers: int,
    source: str | None,
    output: str | None,
    image: str | None,
    types: str | None,
    max_price: str | None,
    max_hours: float,
    on_demand: bool,
    run_id: str | None,
    retries: int,
    profile: str | None,
    group: str | None,
    subnets: str | None,
    env: list[str] | None,
) -> Order:
    """The order. Raises UsageError naming what is bad or missing, boto3's errors."""
    plan = planned_run(workers=workers, types=types, max_price=max_price)
    if not 0 < max_hours <= 720:
        raise UsageError(f"bad --max-hours {max_hours:g}: between 0 and 720")
    if not 0 <= retries <= 20:
        raise UsageError(f"bad --retries {retries}: 0 to 20")
    if run_id is not None:
        check_run_id(run_id)
    more = pairs(env, "--env")
    refuse_secrets(more)
    if workers < 1:
        raise UsageError(f"bad --workers {workers}: 1 or more")
    stack = Stacks(account).find()
    where_from = _place("input", source, stack, "InputBucket", "InputPrefix")
    where_to = _place("output", output, stack, "OutputBucket", "OutputPrefix")
    _refuse_bucket(account, "input", where_from)
    _refuse_bucket(account, "output", where_to)
    if where_from[0] == where_to[0] and (where_to[1].strip("/") + "/").startswith(where_from[1].strip("/") + "/"):
        raise UsageError(
            "the output lies in the input: its Markdown and its runs would be listed as input; name another place"
        )
    named = _image(image, stack)
    _refuse_image(account, named)
    place = read_place(
        account,
        profile=profile or (stack.output("WorkerInstanceProfileName") if stack is not None else None),
        group=group or (stack.output("TaskSecurityGroupId") if stack is not None else None),
        subnets=split(subnets) or split(stack.output("SubnetIds") if stack is not None else None),
    )
    ami = images.read_ami(account)
    device, smallest = images.read_root_gigabytes(account, ami)
    ranked: list[Ranked] = []
    if not on_demand:
        found = pool_prices.read(account, plan.types)
        believed = [p for p in found if pool_prices.plausible(p, account.region, datetime.now(UTC))]
        # Without prices that can be believed the order of the types decides; EC2 caps each at its on-demand price.
        ranked = pool_prices.rank(believed, plan)
    pools = pools_of(ranked, plan.types, place.subnets)
    if not pools:
        raise UsageError("every pool costs more than --max-price now (pdf-flows aws preflight lists them): raise it")
    environments = {
        worker: contract(
            worker=worker,
            workers=workers,
            source=where_from,
            output=where_to,
            region=account.region,
            retries=retries,
            run_id=run_id,
            more=more,
        )
        for worker in range(workers)
    }
    _refuse_contract(environments[0])
    return Order(
        workers=workers,
        image=named,
        ami=ami,
        device=device,
        gigabytes=max(VOLUME_GB, smallest),
        place=place,
        pools=pools,
        max_price=plan.max_price,
        on_demand=on_demand,
        max_minutes=max(1, round(max_hours * 60)),
        environments=environments,
    )


def _refuse_contract(environment: dict[str, str]) -> None:
    """Raises UsageError where the container would refuse its environment: each machine would cost its start to find that out."""
    from tasks.environment import read_contract

    try:
        read_contract(environment).run_options()
    except UsageError as error:
        raise UsageError(f"the workers would refuse what they are given: {error}") from None


def _place(role: str, url: str | None, stack: Stack | None, bucket: str, prefix: str) -> tuple[str, str]:
    if url is not None:
        return split_url(url)
    name = stack.output(bucket) if stack is not None else None
    if stack is None or name is None:
        raise UsageError(f"there is no stack to take the {role} from: give --{role} s3://bucket/prefix")
    return name, stack.parameters.get(prefix, "")


def _refuse_bucket(account: Account, role: str, where: tuple[str, str]) -> None:
    """Raises UsageError where machines could not work with it: each would cost its start to find that out."""
    _refuse(buckets.judge(role, buckets.read(account, *where), account.region))


def _refuse_image(account: Account, uri: str) -> None:
    image = images.parse(uri)
    if image.account is not None:
        _refuse(images.judge(image, images.read(account, image), account.region))


def _refuse(finding: Finding) -> None:
    if finding.state is State.FAIL:
        raise UsageError(f"{finding.words}: {finding.remedy}")


def _image(image: str | None, stack: Stack | None) -> str:
    if image is not None:
        return image
    if stack is None:
        raise UsageError("there is no stack to take the image from: name one with --image")
    if given := stack.parameters.get("ImageUri"):
        return given
    repository = stack.output("RepositoryUri")
    if repository is None:
        raise UsageError("the stack has no repository: name an image with --image")
    return f"{repository}:latest"
