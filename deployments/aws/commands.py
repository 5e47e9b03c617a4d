"""The command line's commands about AWS: `pdf-flows aws ...`. Those about the account; others in `worker_commands`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from deployments.aws import worker_commands
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
    of_stack,
    orchestration,
    patience,
    steps_of,
    who,
)
from deployments.aws.errors import explained
from deployments.say import Json, print_json, say, tell
from tasks.corpus.failures import UsageError

if TYPE_CHECKING:
    from deployments.aws.parameters import StackOptions

aws_app = App(
    name="aws",
    help="An AWS account as a place to convert: check it, set it up, watch it, stop it, and leave nothing behind. "
    "Exit status: 0 done, 1 something is left or was not done, 2 bad usage, no credentials or a refused preflight, 3 AWS or "
    "Prefect failed.",
)

for command in (worker_commands.pool, worker_commands.launch, worker_commands.logs, worker_commands.ui):
    aws_app.command(command)


@aws_app.command
def preflight(
    *,
    workers: Annotated[int, Parameter(help="Machines at the same time.")] = 5,
    documents: Annotated[int | None, Parameter(help="How many there are. Default: the input's PDFs, counted.")] = None,
    pages: Annotated[int | None, Parameter(help="Pages of all of them (pdf-flows plan counts).")] = None,
    pages_per_document: Annotated[float, Parameter(help="Where pages are not known.")] = 18.0,
    budget: Annotated[str | None, Parameter(help="USD of the run.")] = "100",
    deadline: Annotated[str | None, Parameter(help="48h, 2d.")] = "48h",
    max_price: MaxPrice = None,
    machine_types: Types = None,
    pages_per_second: Annotated[
        list[str] | None,
        Parameter(negative="", help="TYPE=RATE of one worker, as gpu-check measured it; instead of planning values."),
    ] = None,
    input: Annotated[str | None, Parameter(help="s3://bucket/prefix. Default: the stack's.")] = None,
    output: Annotated[str | None, Parameter(help="s3://bucket/prefix. Default: the stack's.")] = None,
    image: Image = None,
    api_url: ApiUrl = None,
    where: Where = HERE,
    as_json: Json = False,
) -> int:
    """Check credentials, quota, prices, images, buckets, mails, Prefect's API and the run's cost. Changes nothing."""
    from deployments.aws import preflight as checks
    from deployments.aws.buckets import split_url
    from deployments.aws.findings import refused, table, verdict
    from deployments.aws.planned_run import planned_run

    plan = planned_run(
        workers=workers,
        types=machine_types,
        documents=documents,
        pages=pages,
        pages_per_document=pages_per_document,
        budget=budget,
        deadline=deadline,
        max_price=max_price,
        rates=pages_per_second,
    )
    asked = checks.Asked(
        plan=plan,
        source=split_url(input) if input is not None else None,
        output=split_url(output) if output is not None else None,
        image=image,
        api_url=api_url,
    )
    with explained():
        found = checks.preflight(where.account(), asked)
    if as_json:
        print_json({**found.model_dump(mode="json"), "refused": refused(found.findings)})
    else:
        say(table(found.findings))
        if found.pools:
            say(
                "\nSpot pools, the cheapest page first (throughput: planning values, not measured, unless you gave them):"
            )
            for pool in found.pools:
                say(f"  {pool.line()}")
        say("\n" + verdict(found.findings))
    return 2 if refused(found.findings) else 0


@aws_app.command
def up(
    *,
    workers: Annotated[int | None, Parameter(help="Machines at the same time, at most. Default: 5.")] = None,
    max_price: Annotated[
        str | None, Parameter(help="USD an hour that a Spot machine may cost, or auto: from budget, workers and hours.")
    ] = None,
    max_hours: Annotated[
        float | None, Parameter(help="A machine ends itself after so many hours, a whole number. Default: 48.")
    ] = None,
    build: Annotated[bool, Parameter(negative="", help="Build the workers' image in the account.")] = False,
    image: Annotated[str | None, Parameter(help="Use this image; no build is needed then.")] = None,
    vpc: Annotated[str | None, Parameter(help="An existing network, with --subnets.")] = None,
    subnets: Annotated[str | None, Parameter(help="Public subnets of it, with commas.")] = None,
    input_bucket: Annotated[str | None, Parameter(help="An existing bucket with PDFs. Default: a new one.")] = None,
    output_bucket: Annotated[str | None, Parameter(help="An existing bucket for Markdown. Default: a new one.")] = None,
    input_prefix: Annotated[str | None, Parameter(help="What workers may read. Ends in a slash.")] = None,
    output_prefix: Annotated[str | None, Parameter(help="What workers may write. Ends in a slash.")] = None,
    email: Annotated[str | None, Parameter(help="Gets notifications and budget alerts.")] = None,
    budget: Annotated[str | None, Parameter(help="USD a month of the AWS Budget. Default: 100.")] = None,
    budget_by_tag: Annotated[
        bool | None, Parameter(help="The budget counts the tag Project only (it has to be active in billing).")
    ] = None,
    control_host: Annotated[
        bool | None, Parameter(help="A small machine with the Prefect server. Default: yes.")
    ] = None,
    control_type: Annotated[str | None, Parameter(help="Its type.")] = None,
    api_url: Annotated[
        str | None,
        Parameter(help="With --no-control-host: Prefect's API, as workers reach it (and this machine, too)."),
    ] = None,
    api_secret: Annotated[
        str | None, Parameter(help="With --no-control-host: the secret of Secrets Manager with its key.")
    ] = None,
    parameter: Annotated[
        list[str] | None, Parameter(negative="", help="KEY=VALUE: any other parameter of the template.")
    ] = None,
    template: Annotated[Path | None, Parameter(help="Another template than the shipped one.")] = None,
    deployments: Annotated[bool, Parameter(help="Also make the work pool and the deployments.")] = True,
    dry_run: DryRun = False,
    where: Where = HERE,
    as_json: Json = False,
) -> int:
    """Make the stack, the image, the work pool and the deployments, or bring them up to date. Run it again at any time."""
    from deployments.aws import up as runner
    from deployments.aws.parameters import pairs, stack_options
    from deployments.aws.planned_run import split
    from deployments.aws.stack import TEMPLATE
    from deployments.aws.steps import Steps

    options = stack_options(
        workers=workers,
        max_price=_usd("--max-price", max_price) if max_price != "auto" else None,
        max_hours=max_hours,
        image=image,
        vpc=vpc,
        subnets=split(subnets) or None,
        input_bucket=input_bucket,
        output_bucket=output_bucket,
        input_prefix=input_prefix,
        output_prefix=output_prefix,
        email=email,
        budget=_usd("--budget", budget),
        budget_by_tag=budget_by_tag,
        control_host=control_host,
        control_type=control_type,
        api_url=api_url,
        api_secret=api_secret,
        more=pairs(parameter, "--parameter"),
    )
    if max_price == "auto":
        options = options.model_copy(update={"max_price": _auto_price(options)})
    if build and image is not None:
        raise UsageError("--build makes the image that --image would replace: give one of them")
    account, steps = where.account(), Steps(dry_run=dry_run)
    with explained():
        who(account)
        with accounted(account):
            found = runner.up(
                account,
                options,
                steps,
                build=build,
                template=template or TEMPLATE,
                deploy=None if deployments else (),
                api_url=api_url,
            )
        left = look(account)
    if not as_json:
        for name, value in sorted(found.stack.outputs.items() if found.stack is not None else ()):
            say(f"{name + ':':<30} {value}")
        say(left.line())
    else:
        stack = found.stack.model_dump(mode="json") if found.stack is not None else None
        print_json({"stack": stack, "notes": found.notes, "steps": steps_of(steps), **left_of(left)})
    return 1 if found.notes and not dry_run else 0


@aws_app.command
def status(*, api_url: ApiUrl = None, where: Where = HERE, as_json: Json = False) -> int:
    """Instances, tasks, flow runs, spend so far, links, and what costs money now."""
    from deployments.aws import status as runner
    from deployments.aws.connection import connected
    from deployments.aws.stack import Stacks

    account = where.account()
    with explained():
        who(account)
        with accounted(account):
            stack = Stacks(account).find()
            with connected(account, stack, api_url) as prefect:
                now = datetime.now(UTC)
                found = runner.status(account, stack, orchestration(prefect), now)
    if as_json:
        print_json(found.data())
        return 0
    for line in found.lines(now):
        say(line)
    say(found.running.line())
    return 0


@aws_app.command
def stop(
    *,
    drain: Annotated[float, Parameter(help="Seconds that workers get to finish what they have in hand.")] = 180.0,
    pool: Annotated[str | None, Parameter(help="The workers' work pool. Default: pdf-flows-workers.")] = None,
    api_url: ApiUrl = None,
    dry_run: DryRun = False,
    where: Where = HERE,
    as_json: Json = False,
) -> int:
    """Pause the pool, drain, cancel, stop tasks, scale to zero, in this order. What was converted stays; `up` starts again."""
    from deployments.aws import stop as runner
    from deployments.aws.connection import connected
    from deployments.aws.orchestration import WORKERS_POOL
    from deployments.aws.stack import Stacks
    from deployments.aws.steps import Steps

    account, steps, waits = where.account(), Steps(dry_run=dry_run), patience(drain)
    with explained():
        who(account)
        with accounted(account):
            stack = Stacks(account).find()
            with connected(account, stack, api_url) as prefect:
                found = runner.stop(
                    account,
                    stack,
                    orchestration(prefect),
                    steps,
                    sure=of_stack(prefect),
                    pool=pool or WORKERS_POOL,
                    patience=waits,
                )
        left = look(account)
    for note in found.notes:
        tell(f"note: {note}")
    for name in found.left:
        tell(f"LEFT: {name}: terminate it in the EC2 console, and look why it stayed")
    if as_json:
        print_json({**found.model_dump(mode="json"), "steps": steps_of(steps), **left_of(left)})
    else:
        say(left.line())
    return 1 if found.left or (found.notes and not dry_run) else 0


@aws_app.command
def down(
    *,
    delete_buckets: Annotated[
        bool,
        Parameter(
            negative="",
            help="Also delete the buckets that the stack made, with every PDF and every result in them; also those that an "
            "earlier down kept.",
        ),
    ] = False,
    drain: Annotated[float, Parameter(help="Seconds that workers get to finish what they have in hand.")] = 180.0,
    api_url: ApiUrl = None,
    dry_run: DryRun = False,
    where: Where = HERE,
    as_json: Json = False,
) -> int:
    """Stop everything and delete the stack; buckets are kept unless asked. Fails, naming it, if anything is left by the hour."""
    from deployments.aws import down as runner
    from deployments.aws import fleet_state
    from deployments.aws.connection import connected
    from deployments.aws.stack import Stacks
    from deployments.aws.steps import Steps

    account, steps, waits = where.account(), Steps(dry_run=dry_run), patience(drain)
    with explained():
        who(account)
        stacks = Stacks(account, say=steps.say)
        with accounted(account), connected(account, stacks.find(), api_url) as prefect:
            found, state = runner.down(
                account,
                stacks,
                orchestration(prefect),
                steps,
                sure=of_stack(prefect),
                delete_buckets=delete_buckets,
                patience=waits,
            )
        kept = [] if dry_run else fleet_state.kept(account)
        left = look(account, state)
    for note in found.notes:
        tell(f"note: {note}")
    if kept:
        tell("kept, and paid for by the month: " + ", ".join(kept))
    for name in found.left:
        tell(f"LEFT: {name}: terminate it in the EC2 console, and look why it stayed")
    if as_json:
        data: dict[str, Any] = {**found.model_dump(mode="json"), "kept_arns": kept, "steps": steps_of(steps)}
        print_json({**data, **left_of(left)})
    else:
        say(left.line())
    # What could not be looked at is not known to be gone.
    return 1 if not dry_run and (found.left or found.notes or left.items or left.unseen) else 0


def _usd(option: str, text: str | None) -> float | None:
    from tasks.fleet.budget import parse_usd

    try:
        return parse_usd(text) if text is not None else None
    except ValueError as error:
        raise UsageError(f"bad {option}: {error}") from None


def _auto_price(options: StackOptions) -> float:
    from deployments.aws.planned_run import capped_price

    price = capped_price(options.budget or 100.0, options.workers or 5, options.max_hours or 48)
    if price <= 0:
        raise UsageError(
            "--max-price auto comes to less than a cent an hour: raise --budget, or fewer workers or hours"
        )
    tell(f"--max-price auto: ${price:.2f}/h (budget x 0.94 / workers / hours); pools that cost more now are excluded")
    return price
