"""Flow runs and ECS tasks that do not go together: the decision, and what is done where ECS does not answer."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID, uuid4

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from prefect.client.schemas.objects import StateType
from prefect.states import Completed, Crashed

from tasks.fleet.losses import Loss, diagnose
from tasks.reconcile import LOOK_SECONDS, EcsTask, EcsTasks, Mismatch, Place, mismatch, place_of

ARN = "arn:aws:ecs:eu-west-1:123456789012:task/pdf-flows/0123"
RUNNING, STOPPED = EcsTask(status="RUNNING", started=True), EcsTask(status="STOPPED", exit_code=1)
MISSING = EcsTask(status="MISSING")


@pytest.mark.parametrize(
    ("state", "task", "found"),
    [
        (StateType.RUNNING, RUNNING, None),
        (StateType.RUNNING, STOPPED, Mismatch.DEAD),
        (StateType.RUNNING, MISSING, Mismatch.DEAD),
        (StateType.PENDING, STOPPED, Mismatch.DEAD),
        (StateType.PENDING, EcsTask(status="PROVISIONING"), None),
        # AwaitingRetry: its next task is yet to come.
        (StateType.SCHEDULED, STOPPED, None),
        (StateType.CANCELLING, STOPPED, Mismatch.DEAD),
        (StateType.CANCELLING, RUNNING, None),
        (StateType.PAUSED, STOPPED, None),
        (None, STOPPED, None),
        (None, MISSING, None),
        (None, RUNNING, Mismatch.ORPHAN),
        (None, EcsTask(status="PROVISIONING"), Mismatch.ORPHAN),
    ],
)
def test_what_does_not_go_together(state: StateType | None, task: EcsTask, found: Mismatch | None) -> None:
    assert mismatch(state, task) is found


@pytest.mark.parametrize(
    ("pid", "found"),
    [
        (f"pdf-flows::{ARN}", Place("pdf-flows", ARN)),
        (f"arn:aws:ecs:eu-west-1:1:cluster/c::{ARN}", Place("arn:aws:ecs:eu-west-1:1:cluster/c", ARN)),
        ("my-laptop:4711", None),
        ("a::b", None),
        ("", None),
        (None, None),
    ],
)
def test_where_a_flow_runs_task_is(pid: str | None, found: Place | None) -> None:
    assert place_of(pid) == found
    if found is not None:
        assert found.region == "eu-west-1"


@pytest.mark.parametrize(
    ("task", "began", "loss"),
    [
        (EcsTask(status="STOPPED", code="TerminationNotice", reason="x", started=True), True, Loss.HOST),
        (EcsTask(status="STOPPED", code="EssentialContainerExited", started=True), True, Loss.HOST),
        (EcsTask(status="STOPPED", code="EssentialContainerExited", started=True, exit_code=137), True, Loss.PROCESS),
        (
            EcsTask(status="STOPPED", container="OutOfMemoryError: Container killed", started=True, exit_code=137),
            True,
            Loss.PROCESS,
        ),
        (EcsTask(status="STOPPED", code="TaskFailedToStart", reason="RESOURCE:GPU"), False, Loss.CAPACITY),
        # Trying for hours would not help.
        (
            EcsTask(status="STOPPED", code="TaskFailedToStart", reason="CannotPullContainerError: not found"),
            False,
            Loss.SETUP,
        ),
    ],
)
def test_its_words_are_what_the_supervisor_goes_by(task: EcsTask, began: bool, loss: Loss) -> None:
    assert diagnose(task.words(), began=began) is loss


class Ecs:
    """An ECS client with one answer."""

    def __init__(self, failure: Exception | None = None, tasks: list[dict[str, Any]] | None = None) -> None:
        self.failure, self.tasks = failure, tasks or []
        self.asked: list[list[str]] = []
        self.stopped: list[str] = []

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        self.asked.append(tasks)
        if self.failure is not None:
            raise self.failure
        known = {item["taskArn"] for item in self.tasks}
        return {
            "tasks": [item for item in self.tasks if item["taskArn"] in tasks],
            "failures": [{"arn": arn, "reason": "MISSING"} for arn in tasks if arn not in known],
        }

    def stop_task(self, cluster: str, task: str, reason: str) -> None:
        self.stopped.append(task)


def tasks_of(ecs: Ecs, pids: dict[UUID, str | None], crashed: list[UUID]) -> tuple[EcsTasks, list[float]]:
    now = [0.0]
    found = EcsTasks(
        lambda ids: {id: pids[id] for id in ids if id in pids},
        lambda id, words: crashed.append(id),
        lambda region: ecs,
        lambda: now[0],
    )
    return found, now


def test_runs_of_other_pools_cost_no_call_to_aws() -> None:
    ecs, id = Ecs(), uuid4()
    tasks, now = tasks_of(ecs, {id: "host:4711"}, [])
    for _ in range(3):
        now[0] += LOOK_SECONDS
        tasks.look({id: StateType.RUNNING})
    state = Crashed(message="as Prefect says")
    assert tasks.explained(id, state) is state
    assert tasks.explained(id, Completed()).is_completed()
    assert ecs.asked == []


@pytest.mark.parametrize(
    "failure",
    [
        ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "DescribeTasks"),
        EndpointConnectionError(endpoint_url="https://ecs"),
    ],
)
def test_an_ecs_that_does_not_answer_is_told_once_and_nobody_is_declared_dead(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    ecs, id, crashed = Ecs(failure), uuid4(), list[UUID]()
    tasks, now = tasks_of(ecs, {id: f"c::{ARN}"}, crashed)
    with caplog.at_level(logging.WARNING, "pdf_flows"):
        for _ in range(5):
            now[0] += LOOK_SECONDS
            tasks.look({id: StateType.RUNNING})
        state = Crashed(message="as Prefect says")
        assert tasks.explained(id, state) is state
    assert (crashed, ecs.stopped) == ([], [])
    assert len(ecs.asked) == 6
    assert sum("ECS does not tell" in record.message for record in caplog.records) == 1


def test_a_hundred_at_once_each_minute() -> None:
    pids: dict[UUID, str | None] = {uuid4(): f"c::{ARN}{number}" for number in range(250)}
    ecs = Ecs(tasks=[{"taskArn": f"{ARN}{number}", "lastStatus": "RUNNING"} for number in range(250)])
    tasks, now = tasks_of(ecs, pids, [])
    for _ in range(30):
        now[0] += 2.0
        tasks.look(dict.fromkeys(pids, StateType.RUNNING))
    assert [len(arns) for arns in ecs.asked] == [100, 100, 50]


def test_a_flow_run_that_was_put_off_has_another_task() -> None:
    id, crashed = uuid4(), list[UUID]()
    pids: dict[UUID, str | None] = {id: f"c::{ARN}1"}
    ecs = Ecs(tasks=[{"taskArn": f"{ARN}1", "lastStatus": "STOPPED"}, {"taskArn": f"{ARN}2", "lastStatus": "RUNNING"}])
    tasks, now = tasks_of(ecs, pids, crashed)
    for state, task in ((StateType.SCHEDULED, "1"), (StateType.PENDING, "2"), (StateType.RUNNING, "2")):
        pids[id] = f"c::{ARN}{task}"
        now[0] += LOOK_SECONDS
        tasks.look({id: state})
    assert crashed == []


def test_a_task_that_ecs_does_not_know_any_more_ends_its_flow_run() -> None:
    id, crashed = uuid4(), list[UUID]()
    tasks, now = tasks_of(Ecs(), {id: f"c::{ARN}"}, crashed)
    for _ in range(2):
        now[0] += LOOK_SECONDS
        tasks.look({id: StateType.RUNNING})
    assert crashed == [id]


def test_words_of_ecs_are_not_looked_up_again() -> None:
    ecs, id = Ecs(), uuid4()
    tasks, _ = tasks_of(ecs, {id: f"c::{ARN}"}, [])
    state = Crashed(message=EcsTask(status="STOPPED", code="SpotInterruption", started=True).words())
    assert tasks.explained(id, state) is state
    assert ecs.asked == []


def test_at_a_runs_end_whose_task_has_stopped_is_over_at_once_and_nobody_else() -> None:
    ids = [uuid4() for _ in range(4)]
    arns = [f"{ARN[:-1]}{number}" for number in range(3)]
    pids: dict[UUID, str | None] = dict(zip(ids, [f"c::{arn}" for arn in arns] + ["host:1"], strict=True))
    stopped, runs = {"lastStatus": "STOPPED", "stopCode": "SpotInterruption"}, {"lastStatus": "RUNNING"}
    ecs = Ecs(tasks=[{"taskArn": arn, **about} for arn, about in zip(arns, (stopped, runs, stopped), strict=True)])
    crashed: list[UUID] = []
    tasks, _ = tasks_of(ecs, pids, crashed)
    tasks.settle(
        dict(
            zip(ids, [StateType.CANCELLING, StateType.CANCELLING, StateType.SCHEDULED, StateType.RUNNING], strict=True)
        )
    )
    assert (crashed, ecs.stopped, len(ecs.asked)) == ([ids[0]], [], 1)
    tasks.settle({})
    assert len(ecs.asked) == 1, "nobody is left to ask about"
