"""Commands of `pdf-flows aws` about workers: their pool, machines without Prefect, their logs, the way to the control host."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments.aws.command_options import (
    HERE,
    ApiUrl,
    DryRun,
    Image,
    MaxPrice,
    Types,
    Where,
    accounted,
    left_of,
    look,
    steps_of,
    who,
)
from deployments.aws.errors import boto_errors, explain, explained
from deployments.say import Json, print_json, say, tell
from tasks.corpus.failures import UsageError

if TYPE_CHECKING:
    from deployments.aws.running import Running


LONGEST_SINCE = 10 * 365 * 86_400.0
"""Seconds: farther back nobody's calendar has lines, and Python's own ends."""


def pool(
    *,
    template: Annotated[
        bool, Parameter(negative="", help="Only print the workers' base job template, for `prefect work-pool create`.")
    ] = False,
    api_url: ApiUrl = None,
    dry_run: DryRun = False,
    where: Where = HERE,
) -> int:
    """The work pools of the stack, by Prefect's API: made, or brought up to date. `up` does it, too."""
    from deployments.aws import pool as runner
    from deployments.aws.connection import Connection, connected
    from deployments.aws.errors import AwsError
    from deployments.aws.stack import Stacks
    from deployments.aws.steps import Steps

    account, steps = where.account(), Steps(dry_run=dry_run)
    with explained():
        stack = Stacks(account).find()
        if stack is None:
            raise UsageError(f"there is no stack {account.project} in {account.region}: pdf-flows aws up makes it")
        if template:
            print_json(runner.make_template(runner.default_template(), runner.plan_of(stack.outputs, account.project)))
            return 0
        with connected(account, stack, api_url) as found:
            if not isinstance(found, Connection):
                raise AwsError(
                    f"the work pools were not made: {found or 'the stack names no Prefect API: give --api-url'}"
                )
            environment = found.environment()
            steps.do(
                f"make the work pools at {found.url}",
                lambda: runner.make_pool(stack.outputs, environment, project=account.project),
            )
    return 0


def launch(
    *,
    workers: Annotated[int, Parameter(help="Machines, each with one worker. 1 is the first test.")] = 5,
    input: Annotated[str | None, Parameter(help="s3://bucket/prefix. Default: the stack's.")] = None,
    output: Annotated[str | None, Parameter(help="s3://bucket/prefix. Default: the stack's.")] = None,
    image: Image = None,
    machine_types: Types = None,
    max_price: MaxPrice = None,
    max_hours: Annotated[float, Parameter(help="A machine ends itself after so long.")] = 48.0,
    on_demand: Annotated[bool, Parameter(negative="", help="On-demand machines: dearer, and not taken away.")] = False,
    run_id: Annotated[
        str | None, Parameter(help="Default: workers of the same input and options agree on one.")
    ] = None,
    retries: Annotated[int, Parameter(help="How often a document is tried again.")] = 2,
    instance_profile: Annotated[str | None, Parameter(help="Default: the stack's.")] = None,
    security_group: Annotated[str | None, Parameter(help="Default: the stack's, else the network's own.")] = None,
    subnets: Annotated[str | None, Parameter(help="Public subnets, with commas. Default: the stack's.")] = None,
    env: Annotated[
        list[str] | None, Parameter(negative="", help="KEY=VALUE for the container, no credentials.")
    ] = None,
    dry_run: DryRun = False,
    where: Where = HERE,
    as_json: Json = False,
) -> int:
    """Start Spot machines that convert by themselves, without Prefect: worker k takes every n-th document, then ends itself."""
    from deployments.aws import launch as runner
    from deployments.aws import links
    from deployments.aws.launch_order import order_of
    from deployments.aws.steps import Steps
    from deployments.aws.user_data import LOG_GROUP

    account, steps = where.account(), Steps(dry_run=dry_run)
    with explained():
        who(account)
        order = order_of(
            account,
            workers=workers,
            source=input,
            output=output,
            image=image,
            types=machine_types,
            max_price=max_price,
            max_hours=max_hours,
            on_demand=on_demand,
            run_id=run_id,
            retries=retries,
            profile=instance_profile,
            group=security_group,
            subnets=subnets,
            env=env,
        )
        with accounted(account):
            found = runner.launch(account, order, steps)
        partition = account.identity.partition
        if dry_run:
            tell(runner.described(account, order))
        if not as_json:
            # Before anything else is asked of AWS: what was started costs money, and must be known.
            for one in found:
                say(one.line(account))
            say(f"logs: {links.logs(account.region, LOG_GROUP, partition=partition)}")
            say(f"instances: {links.instances(account.region, account.project, partition)}")
        left: Running | None = None
        unknown = ""
        try:
            left = look(account)
        except boto_errors() as error:
            unknown = f"still running: not known: {explain(error).text}"
    if not as_json:
        say(left.line() if left is not None else unknown)
    else:
        rest = left_of(left) if left is not None else {"still_running": unknown, "usd_per_hour": None}
        print_json({"workers": [one.model_dump(mode="json") for one in found], "steps": steps_of(steps), **rest})
    return 1 if left is None or any(one.instance is None for one in found) else 0


def logs(
    run: Annotated[str | None, Parameter(help="A run id. Default: all that is there.")] = None,
    /,
    *,
    worker: Annotated[int | None, Parameter(help="Only this worker.")] = None,
    errors: Annotated[bool, Parameter(negative="", help="Only errors.")] = False,
    follow: Annotated[bool, Parameter(negative="", help="Go on with new lines until Ctrl-C.")] = False,
    since: Annotated[str, Parameter(help="So far back: 1h, 2d. Lines are kept for 7 days.")] = "7d",
    container: Annotated[
        bool,
        Parameter(negative="", help="What containers wrote to their output under ECS, also before a worker was up."),
    ] = False,
    where: Where = HERE,
    as_json: Json = False,
) -> int:
    """What the workers wrote, from CloudWatch."""
    from deployments.aws import logs as runner
    from tasks.corpus.paths import check_run_id
    from tasks.fleet.budget import parse_duration

    if run is not None:
        check_run_id(run)
    if worker is not None and worker < 0:
        raise UsageError(f"bad --worker {worker}: workers are numbered from 0")
    try:
        back = timedelta(seconds=min(parse_duration(since), LONGEST_SINCE))
    except ValueError as error:
        raise UsageError(f"bad --since: {error}") from None
    wanted = runner.Wanted(run=run, worker=worker, errors=errors, since=datetime.now(UTC) - back, container=container)
    account = where.account()
    number = 0
    with explained():
        lines = runner.follow(account, wanted) if follow else runner.read(account, wanted)
        for line in lines:
            number += 1
            if as_json:
                print_json(line.model_dump(mode="json"))
            else:
                say(line.shown())
    if not number:
        tell("no such line" + (f" of run {run}" if run is not None else "") + f" in the last {since}")
    return 0


def ui(
    *,
    port: Annotated[int, Parameter(help="Of this machine.")] = 4200,
    dry_run: DryRun = False,
    where: Where = HERE,
) -> int:
    """Prefect's UI on the control host, through Systems Manager, until Ctrl-C."""
    from deployments.aws import tunnel
    from deployments.aws.stack import Stacks

    account = where.account()
    with explained():
        stack = Stacks(account).find()
        if stack is None:
            raise UsageError(f"there is no stack {account.project} in {account.region}: pdf-flows aws up makes it")
        control = stack.output("ControlInstanceId")
        if control is None:
            url = stack.output("PrefectApiUrl")
            raise UsageError(f"the stack has no control host: its Prefect is at {url or 'an address of your own'}")
        say(f"by hand: {tunnel.command(account, control, port)}")
        if (secret := stack.output("ApiAuthSecretArn")) is not None:
            say(
                "the UI asks for an auth string: aws secretsmanager get-secret-value --query SecretString --output text "
                f"--region {account.region} --secret-id {secret}"
            )
        if dry_run:
            return 0
        with tunnel.opened(account, control, port) as process:
            tunnel.wait_open(process, port)
            say(f"Prefect UI: http://127.0.0.1:{port} (Ctrl-C ends)")
            try:
                while process.poll() is None:
                    time.sleep(0.5)
            except KeyboardInterrupt:
                return 0
            tell("the tunnel was closed at its other end")
            return 1
