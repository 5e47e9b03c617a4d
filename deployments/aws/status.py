"""`pdf-flows aws status`: machines, tasks, flow runs, spend so far, and where to look."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws import ecs_tasks, links, running
from deployments.aws.account import Account
from deployments.aws.ecs_tasks import Task
from deployments.aws.errors import AwsError
from deployments.aws.fleet_state import FleetState, look
from deployments.aws.orchestration import Orchestration, Run
from deployments.aws.showing import plain
from deployments.aws.stack import Stack
from deployments.aws.user_data import LOG_GROUP


class Status(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True)

    project: str
    region: str
    stack: str | None
    """Its state; None: there is none."""
    state: FleetState
    tasks: tuple[Task, ...]
    runs: tuple[Run, ...]
    prefect: str
    """Its address, or why it can't be reached."""
    spent: float
    """USD of the instances that EC2 still knows."""
    running: running.Running
    links: dict[str, str]

    def lines(self, now: datetime) -> list[str]:
        """For people, without the last line."""
        found = [f"stack {self.project} in {self.region}: {self.stack or 'there is none'}"]
        living = self.state.living
        found.append(f"instances: {len(living) or 'none'}")
        for i in living:
            age = (now - i.launched).total_seconds() / 3600
            who = plain(f"worker {i.worker}" if i.worker is not None else i.name or i.group or "")
            found.append(f"  {i.id}  {i.type:<13} {i.zone:<14} {i.lifecycle:<10} {i.state:<9} {age:6.1f} h  {who}")
        counts = {s: sum(task.status == s for task in self.tasks) for s in dict.fromkeys(t.status for t in self.tasks)}
        found.append("tasks: " + (", ".join(f"{number} {status}" for status, number in counts.items()) or "none"))
        found += [f"  {t.id}  {t.status:<12} flow run {plain(t.flow_run or '(tag gone)')}" for t in self.tasks]
        found.append(f"flow runs ({self.prefect}): {len(self.runs) or 'none'}")
        found += [f"  {run.flow:<18} {plain(run.state):<12} {plain(run.name)}" for run in self.runs]
        found.append(
            f"spent so far: {running.usd(self.spent)} for the instances that EC2 still knows, at today's prices "
            "(a run's own ledger has all of it: its parent's summary)"
        )
        return found + [f"{name}: {url}" for name, url in self.links.items()]

    def data(self) -> dict[str, Any]:
        """For --json."""
        return {
            **self.model_dump(mode="json"),
            "usd_per_hour": round(self.running.usd_per_hour, 6),
            "still_running": self.running.line(),
        }


def status(account: Account, stack: Stack | None, prefect: Orchestration | str | None, now: datetime) -> Status:
    """Look at everything, change nothing. Raises boto3's errors."""
    state = look(account)
    cluster = stack.output("ClusterName") if stack is not None else None
    price = running.price_of(running.account_prices(account), account.region)
    runs, where = _runs(prefect)
    # Only what the project's own tag says: the control host is part of it, and of its cost.
    return Status(
        project=account.project,
        region=account.region,
        stack=stack.status if stack is not None else None,
        state=state,
        tasks=tuple(ecs_tasks.find(account, cluster)) if cluster is not None else (),
        runs=runs,
        prefect=where,
        spent=round(running.spent(state, price, now), 4),
        running=running.running(state, price),
        links=_links(account, stack, cluster),
    )


def _runs(prefect: Orchestration | str | None) -> tuple[tuple[Run, ...], str]:
    """The flow runs, and whose they are or why they are not known: the rest is worth showing all the same."""
    if prefect is None or isinstance(prefect, str):
        return (), prefect or "none: there is no stack that names one"
    try:
        return tuple(prefect.living()), prefect.url
    except AwsError as error:
        return (), str(error)


def _links(account: Account, stack: Stack | None, cluster: str | None) -> dict[str, str]:
    region, partition = account.region, account.identity.partition
    found = {"instances": links.instances(region, account.project, partition)}
    if cluster is not None:
        found["tasks"] = links.cluster(region, cluster, partition)
    if stack is not None:
        found["stack"] = links.stack(region, stack.id, partition)
    return found | {"logs": links.logs(region, LOG_GROUP, partition=partition)}
