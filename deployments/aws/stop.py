"""`pdf-flows aws stop`: nothing runs any more, everything stays set up. The order matters (each step says why)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from functools import partial

from pydantic import BaseModel, ConfigDict

from deployments.aws import ecs_tasks, scale_in
from deployments.aws.account import Account
from deployments.aws.errors import BAD_CREDENTIALS, EXPIRED, AwsError, code_of, explain
from deployments.aws.fleet_state import Instance, find_instances
from deployments.aws.orchestration import WORKERS_POOL, Orchestration, Run
from deployments.aws.showing import plain
from deployments.aws.stack import Stack
from deployments.aws.steps import Steps

DRAIN_SECONDS = 180.0
"""What workers get to finish what they have in hand: their own drain takes 120 s at most, and the parent's look some more."""
CANCEL_SECONDS = 60.0
VANISH_SECONDS = 60.0
"""What disks and addresses of ended machines get to go, too."""
CONTROL_NAME = "{project}-control"
"""The tag Name of the control host, in the template: outputs tell of it only when the stack is complete."""
REASON = "pdf-flows aws stop"


class Stopped(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True)

    left: tuple[str, ...] = ()
    """In words: instances that are still there."""
    notes: tuple[str, ...] = ()
    """What could not be done."""


class Patience(BaseModel):
    """How long things are waited for, in seconds."""

    model_config = ConfigDict(frozen=True)

    drain: float = DRAIN_SECONDS
    cancel: float = CANCEL_SECONDS
    gone: float = scale_in.WAIT_SECONDS
    vanish: float = VANISH_SECONDS
    poll: float = 5.0


PATIENCE = Patience()


def stop(
    account: Account,
    stack: Stack | None,
    prefect: Orchestration | str | None,
    steps: Steps,
    *,
    sure: bool = True,
    pool: str = WORKERS_POOL,
    patience: Patience = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> Stopped:
    """Pause the pool, drain, cancel, stop tasks, scale to zero. May be called again and again.

    Args:
        stack: None where there is none: what `launch` started is ended all the same.
        prefect: its API; in words, why it can't be reached; None: there is none. Where it did not do all that it was asked the
            groups' maximum becomes 0, so that no parent that still runs gets another machine (`up` opens them again).
        sure: whether that API is the stack's beyond doubt; else the groups are closed, too.
        pool: the work pool of the workers.

    What Prefect does not do, or AWS refuses, is noted, and the rest is done. Raises boto3's errors.
    """
    cluster = stack.output("ClusterName") if stack is not None else None
    notes: list[str] = []
    if stack is not None and stack.busy:
        notes.append(
            f"the stack is {stack.status}: whoever is at work on it may start machines again: stop again after that"
        )
        steps.note(notes[-1])
    if isinstance(prefect, str):
        notes.append(f"the work pool was not paused and no flow run cancelled: {prefect}")
        steps.note(f"Prefect is passed over: {prefect}; the groups are closed instead")
    elif prefect is not None:
        _quiet(account, cluster, prefect, steps, pool, patience, sleep, notes)
        if notes:
            steps.note("the groups are closed instead")
        elif not sure:
            steps.note(f"the groups are closed, too: nothing says that {prefect.url} is the stack's Prefect")
    if cluster is not None:
        # After cancelling: a task that is stopped before comes back by itself (SIGTERM reschedules its run).
        stop_tasks = f"stop the tasks of {cluster}"
        _attempt(
            "tasks were not stopped", lambda: steps.do(stop_tasks, lambda: _stop_tasks(account, cluster)), steps, notes
        )
    protected = _scale(account, steps, notes, closed=prefect is None or bool(notes) or not sure)
    control = find_control(account, stack)
    refused = _end_instances(account, control, protected, steps, notes)
    left: Sequence[Instance] = ()
    if not steps.dry_run:
        left = wait(account, control, steps, patience, sleep, refused=refused)
    return Stopped(left=tuple(i.words() for i in left if i.living), notes=tuple(notes))


def find_control(account: Account, stack: Stack | None) -> set[str]:
    """The instances that `stop` spares: the stack's control host, also of one that is still being made; none without a stack.

    By its name: a stack has outputs only when it is complete. While CloudFormation replaces the host there are two.
    """
    if stack is None:
        return set()
    known = stack.output("ControlInstanceId")
    name = CONTROL_NAME.format(project=account.project)
    return {i.id for i in find_instances(account) if i.name == name} | ({known} if known is not None else set())


def _quiet(
    account: Account,
    cluster: str | None,
    prefect: Orchestration,
    steps: Steps,
    pool: str,
    patience: Patience,
    sleep: Callable[[float], None],
    notes: list[str],
) -> None:
    """Pause, drain, cancel."""

    def attempt(undone: str, action: Callable[[], None]) -> None:
        _attempt(undone, action, steps, notes)

    # First of all: a worker that ends is replaced by its parent, and the pool would start the new one.
    attempt(
        f"the work pool {pool} was not paused",
        lambda: steps.do(f"pause the work pool {pool}", lambda: _paused(prefect, pool)),
    )
    if cluster is not None:
        what = f"close the machines of {cluster} to new tasks"
        attempt(
            f"the machines of {cluster} still take tasks",
            lambda: steps.do(what, lambda: ecs_tasks.close_machines(account, cluster)),
        )
    attempt("the drain was broken off", lambda: _drain(prefect, steps, patience, sleep, notes))
    attempt("flow runs were not cancelled", lambda: _cancel(prefect, steps, patience, sleep, notes))


def _attempt(undone: str, action: Callable[[], None], steps: Steps, notes: list[str]) -> None:
    """What Prefect or AWS refuses is noted: neither that nor a missing permission must keep machines running.

    Raises boto3's errors where AWS does not answer, or the credentials are no longer valid: nothing else would go, either.
    """
    from botocore.exceptions import ClientError

    why = ""
    try:
        action()
    except AwsError as error:
        why = str(error)
    except ClientError as error:
        if code_of(error) in BAD_CREDENTIALS | EXPIRED:
            raise
        why = explain(error).text
    if why:
        notes.append(f"{undone}: {why}")
        steps.note(notes[-1])


def _paused(prefect: Orchestration, pool: str) -> str:
    return "paused" if prefect.pause(pool, True) else f"there is no pool {pool} at {prefect.url}: nothing to pause"


def _drain(
    prefect: Orchestration, steps: Steps, patience: Patience, sleep: Callable[[float], None], notes: list[str]
) -> None:
    runs = [] if steps.dry_run else prefect.living()
    parents = [run for run in runs if run.parent]
    if not parents and not steps.dry_run:
        steps.note("drain: no parent runs")
        return
    # A cancelled parent tells its workers to finish what they have in hand, and relaunches none.
    what = f"drain: cancel {_named(parents) if parents else 'the parents that run'}, wait up to {patience.drain:g} s for workers"

    def drain() -> str:
        _refused(prefect.cancel(parents), notes)
        left = _wait_runs(prefect, patience.drain, patience.poll, sleep)
        return "all ended" if not left else f"{len(left)} are still at it"

    steps.do(what, drain)


def _cancel(
    prefect: Orchestration, steps: Steps, patience: Patience, sleep: Callable[[float], None], notes: list[str]
) -> None:
    runs = [] if steps.dry_run else [run for run in prefect.living() if run.state != "Cancelling"]
    if not runs and not steps.dry_run:
        steps.note("cancel: no flow run is left")
        return

    def cancel() -> str:
        _refused(prefect.cancel(runs), notes)
        left = _wait_runs(prefect, patience.cancel, patience.poll, sleep)
        return "all ended" if not left else f"{len(left)} have not ended yet: their tasks are stopped next"

    steps.do(f"cancel {_named(runs) if runs else 'the flow runs that are left'}", cancel)


def _refused(refused: Sequence[str], notes: list[str]) -> None:
    # A parent that can't be cancelled is tried twice.
    said = [f"could not be cancelled: the flow run {words}" for words in refused]
    notes += [words for words in said if words not in notes]


def _wait_runs(prefect: Orchestration, seconds: float, poll: float, sleep: Callable[[float], None]) -> list[Run]:
    until = time.monotonic() + seconds
    while (left := prefect.living()) and time.monotonic() < until:
        sleep(poll)
    return left


def _named(runs: Sequence[Run]) -> str:
    shown = ", ".join(plain(run.name) for run in runs[:3])
    return shown + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")


def _stop_tasks(account: Account, cluster: str) -> str:
    tasks = ecs_tasks.find(account, cluster)
    return ecs_tasks.stop(account, cluster, tasks, REASON) if tasks else "none runs"


def _scale(account: Account, steps: Steps, notes: list[str], *, closed: bool) -> set[str]:
    """All groups to zero; returns the instances that were protected from it."""
    groups: list[scale_in.Group] = []
    undone = "the groups were not scaled to zero, and may start machines again"
    _attempt(undone, lambda: groups.extend(scale_in.find_groups(account)), steps, notes)
    for group in groups:
        if group.protected:
            # Managed termination protection: with it, scaling to zero would leave them running for ever.
            what = f"take off scale-in protection in {group.name}"
            unprotect = partial(steps.do, what, partial(scale_in.unprotect, account, group))
            _attempt(f"protection was not taken off in {group.name}", unprotect, steps, notes)
        if group.desired or group.minimum or group.instances or (closed and group.maximum):
            what = f"scale {group.name} to zero" + (" and close it" if closed else "")
            scale = partial(steps.do, what, partial(scale_in.to_zero, account, group, closed=closed))
            _attempt(f"{group.name} was not scaled to zero, and may start machines again", scale, steps, notes)
    return {instance for group in groups for instance in group.protected}


def _end_instances(
    account: Account, control: set[str], protected: set[str], steps: Steps, notes: list[str]
) -> set[str]:
    """End all of them but the control host; returns those that AWS refuses to."""
    kept: set[str] = set()
    found = [i for i in find_instances(account, "pending", "running", "stopping", "stopped") if i.id not in control]
    if not found:
        steps.note("no instance of the project runs" + (" but the control host" if control else ""))
        return kept
    # Protected ones first: nothing else would end them.
    found.sort(key=lambda instance: (instance.id not in protected, instance.group is None, instance.id))

    def end() -> str:
        refused = scale_in.terminate(account, [instance.id for instance in found])
        kept.update(refused)
        said = [f"could not be terminated: {instance} ({why})" for instance, why in refused.items()]
        notes.extend(said)
        return "; ".join([f"{len(found) - len(refused)} of {len(found)}", *said])

    shown = ", ".join(instance.id for instance in found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    steps.do(f"terminate {len(found)} instances ({shown})", end)
    return kept


def wait(
    account: Account,
    control: set[str],
    steps: Steps,
    patience: Patience,
    sleep: Callable[[float], None],
    *,
    refused: Set[str] = frozenset(),
) -> list[Instance]:
    """Until none of the project's instances is left but the control host; returns those that are.

    Args:
        refused: those that AWS refused to terminate, and that no waiting will end.
    """
    left: list[Instance] = []

    def wait_gone() -> str:
        left.extend(
            scale_in.wait_gone(
                account, except_for=control | refused, seconds=patience.gone, sleep=sleep, poll_seconds=patience.poll
            )
        )
        left.extend(i for i in find_instances(account) if i.id in refused and i.living)
        return "gone" if not left else f"{len(left)} left: " + ", ".join(i.words() for i in left)

    steps.do("wait until they are gone", wait_gone)
    return left
