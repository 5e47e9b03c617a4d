"""`pdf-flows aws up`: stack, image, work pool, deployments; again and again, until all of it is as asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deployments.aws import image_build, images, parameters, scale_in, template_store
from deployments.aws.account import Account
from deployments.aws.connection import Connection, connected
from deployments.aws.declared import declared_parameters, refuse_values
from deployments.aws.errors import AwsError
from deployments.aws.orchestration import WORKERS_POOL, PrefectApi
from deployments.aws.parameters import StackOptions
from deployments.aws.pool import require_prefect_aws
from deployments.aws.reach import DOCUMENT
from deployments.aws.showing import plain
from deployments.aws.stack import DEAD, STUCK, TEMPLATE, Stack, Stacks, read_template
from deployments.aws.steps import Steps

RENEW = "systemctl restart pdf-flows-prepare && systemctl restart 'pdf-flows@*'"
"""Its units, as the template has them: the first pulls, the others run what it pulled."""
CONTROL_SECONDS = 900.0
"""What a control host gets to boot, pull the image and start Prefect."""


class Deploy(BaseModel):
    """One step that needs Prefect's API: the pool, the deployments."""

    model_config = ConfigDict(frozen=True)

    what: str
    action: Callable[[Account, Stack, Connection], str | None]


class Upped(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True)

    stack: Stack | None
    notes: tuple[str, ...] = ()
    """What could not be done, with what to do."""


def up(
    account: Account,
    options: StackOptions,
    steps: Steps,
    *,
    build: bool = False,
    template: Path = TEMPLATE,
    deploy: Sequence[Deploy] | None = None,
    api_url: str | None = None,
    stacks: Stacks | None = None,
    pool: str = WORKERS_POOL,
    sleep: Callable[[float], None] = time.sleep,
) -> Upped:
    """Bring the account to what was asked. Raises UsageError, AwsError, boto3's errors.

    Args:
        build: build the workers' image in the account.
        deploy: what to do once Prefect's API answers; None takes the pool and the deployments of this clone, () nothing.
        api_url: Prefect's API as this machine reaches it; None finds it.
    """
    deploy = default_deploy() if deploy is None else deploy
    if deploy:
        # The stack costs money, and the build 20 minutes: not first of all.
        require_prefect_aws()
    stacks = stacks or Stacks(account, say=steps.say, sleep=sleep)
    stack = _bring(account, options, steps, stacks, template)
    notes: list[str] = []
    if build:
        stack = _build(account, stack, steps, stacks, sleep)
    _open_groups(account, stack, steps)
    if deploy or not steps.dry_run:
        _deploy(account, stack, steps, deploy, api_url, pool, notes, built=build)
    return Upped(stack=stack, notes=tuple(notes))


def _bring(account: Account, options: StackOptions, steps: Steps, stacks: Stacks, template: Path) -> Stack | None:
    text = read_template(template)
    there = stacks.find() if steps.dry_run else stacks.settle()
    if there is not None and there.status in DEAD:
        # Of a first try that failed: nothing of it is left but its name.
        steps.do(f"delete the stack {stacks.name}, which is {there.status}", lambda: stacks.delete())
        there = None
    if there is not None:
        stacks.refuse_stuck(there)
    declared = declared_parameters(text)
    known = {name: about.default for name, about in declared.items()}
    wanted = parameters.complete(account, options.given(), known, new=there is None)
    refuse_values(declared, wanted, parameters.option_names())
    if steps.dry_run:
        return _would(stacks, there, text, wanted, steps)
    with template_store.offered(account, text) as offered:
        made: list[Stack] = []
        if there is None:
            # All of them, so that what a later template has as its default changes nothing unasked.
            every = {name: value for name, value in known.items() if value is not None} | wanted
            steps.do(f"make the stack {stacks.name}", lambda: _made(made, stacks.create(offered, every)))
            there = None if made else _of_another(stacks)
        if there is not None:
            keep = [name for name in known if name not in wanted and name in there.parameters]
            what = f"bring the stack {stacks.name} up to date"
            steps.do(what, lambda: _updated(made, stacks.update(offered, wanted, keep)))
    return made[0] if made else stacks.find()


def _made(made: list[Stack], stack: Stack | None) -> str:
    if stack is None:
        return "somebody else has begun to make it: waiting for that"
    made.append(stack)
    return stack.status


def _updated(made: list[Stack], stack: Stack | None) -> str:
    if stack is None:
        return "nothing to change"
    made.append(stack)
    return stack.status


def _of_another(stacks: Stacks) -> Stack:
    """What an `up` beside this one made. Raises AwsError where that failed."""
    found = stacks.settle()
    if found is None or found.status in (*DEAD, STUCK):
        status = found.status if found is not None else "gone again"
        raise AwsError(f"somebody else made the stack {stacks.name}, and it is {status}: pdf-flows aws up again")
    return found


def _would(stacks: Stacks, there: Stack | None, text: str, wanted: dict[str, str], steps: Steps) -> Stack | None:
    if there is None:
        steps.do(f"make the stack {stacks.name}", lambda: None)
        for name, value in wanted.items():
            steps.say(f"  {name}: {value}")
        return None
    current = stacks.current_template()
    changed = parameters.changes(there.parameters, wanted)
    if current is not None and current.strip() != text.strip():
        changed.append("the template itself")
    if not changed:
        steps.note(f"the stack {stacks.name} is as asked: nothing to change")
    else:
        steps.do(f"bring the stack {stacks.name} up to date", lambda: None)
        for change in changed:
            steps.say(f"  {change}")
    return there


def _build(
    account: Account, stack: Stack | None, steps: Steps, stacks: Stacks, sleep: Callable[[float], None]
) -> Stack | None:
    project = stack.output("BuildProjectName") if stack is not None else None
    bucket = stack.output("SourceBucket") if stack is not None else None
    if not steps.dry_run and (project is None or bucket is None):
        raise AwsError(
            f"the stack {stacks.name} has no BuildProjectName and SourceBucket: its template builds no image"
        )
    steps.do(
        f"upload the source of the image to s3://{bucket or '(the stack makes it)'}",
        lambda: image_build.upload(account, str(bucket), image_build.source_zip()),
    )

    def build() -> str:
        built = image_build.build(account, str(project), str(bucket), tag="latest", say=steps.say, sleep=sleep)
        return f"built in {built.minutes:.0f} minutes"

    steps.do("build the image with CodeBuild (some 20 minutes, about $0.20)", build)
    return stack


def _open_groups(account: Account, stack: Stack | None, steps: Steps) -> None:
    """Undo what `stop` did without Prefect, and `down` that was broken off."""
    workers = int((stack.parameters.get("Workers") if stack is not None else None) or 0)
    for group in scale_in.find_groups(account):
        if group.maximum < workers:
            steps.do(f"open {group.name} again", lambda group=group: scale_in.open_again(account, group, workers))


def _deploy(
    account: Account,
    stack: Stack | None,
    steps: Steps,
    deploy: Sequence[Deploy],
    api_url: str | None,
    pool: str,
    notes: list[str],
    *,
    built: bool = False,
) -> None:
    resume = f"let the work pool {pool} start workers"
    if steps.dry_run:
        for one in deploy:
            steps.do(one.what, lambda: None)
        steps.do(resume, lambda: None)
        return
    if not deploy or stack is None:
        return
    why = _no_control_yet(account, stack) if api_url is None else None
    if why is None:
        with connected(account, stack, api_url, seconds=CONTROL_SECONDS) as found:
            if isinstance(found, Connection):
                for one in deploy:
                    steps.do(one.what, lambda one=one: one.action(account, stack, found))
                prefect = PrefectApi(found.url, found.auth)
                steps.do(resume, lambda: None if prefect.pause(pool, False) else "there is no such pool")
                if built and (control := stack.output("ControlInstanceId")) is not None:
                    _renew(account, control, prefect, steps, notes)
                return
            why = found or "the stack names no Prefect API: give --api-url"
    named = ", ".join(one.what for one in deploy)
    notes.append(f"not done: {named}: {why}; then pdf-flows aws up again")
    steps.note(notes[-1])


def _renew(account: Account, control: str, prefect: PrefectApi, steps: Steps, notes: list[str]) -> None:
    """The control host runs the workers' image, and pulled the one that was there when it booted."""
    if parents := [run.name for run in prefect.living() if run.parent]:
        named = ", ".join(plain(name) for name in parents[:3])
        notes.append(
            f"the control host keeps the former image, since {named} runs: pdf-flows aws up --build again after that"
        )
        steps.note(notes[-1])
        return

    def restart() -> str:
        sent = account.client("ssm").send_command(
            InstanceIds=[control], DocumentName=DOCUMENT, Parameters={"commands": [RENEW]}, TimeoutSeconds=60
        )
        return f"asked, by Systems Manager's command {sent['Command']['CommandId']}"

    steps.do("let the control host take the new image", restart)


def _no_control_yet(account: Account, stack: Stack) -> str | None:
    """Why the control host can't serve Prefect yet; None where it can, or there is another API."""
    if stack.output("ControlInstanceId") is None:
        return None
    uri = stack.parameters.get("ImageUri") or f"{stack.output('RepositoryUri')}:latest"
    image = images.parse(uri)
    if image.account is None or images.read(account, image) is not None:
        return None
    return f"there is no image {uri} yet, which the control host runs, too: build it (--build), or name one (--image)"


def default_deploy() -> tuple[Deploy, ...]:
    """The work pools, and the deployments of this clone."""
    return (
        Deploy(what="make the work pools", action=_make_pool),
        Deploy(what="deploy the flows (prefect deploy --all)", action=_deploy_flows),
    )


def _make_pool(account: Account, stack: Stack, connection: Connection) -> str:
    from deployments.aws.pool import make_pool

    return make_pool(stack.outputs, connection.environment(), project=account.project)


def _deploy_flows(account: Account, stack: Stack, connection: Connection) -> str:
    from deployments.aws.pool import deploy

    return deploy(stack.outputs, connection.environment(), parameters=stack.parameters)
