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
from tasks.reconcile import (
    END_LOOK_SECONDS,
    END_SECONDS,
    LOOK_SECONDS,
    EcsTask,
    EcsTasks,
    Mismatch,
    Place,
    mismatch,
    place_of,
)

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
        self.stop_failure: Exception | None = None
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
        if self.stop_failure is not None:
            raise self.stop_failure
        self.stopped.append(task)


class Clock:
    """Moves when it is told, and while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def tasks_of(ecs: Ecs, pids: dict[UUID, str | None], crashed: list[UUID]) -> tuple[EcsTasks, Clock]:
    clock = Clock()
    found = EcsTasks(lambda id, words: crashed.append(id), lambda region: ecs, clock, clock.sleep)
    for id, pid in pids.items():
        found.learn(id, pid)
    return found, clock


def test_runs_of_other_pools_cost_no_call_to_aws() -> None:
    ecs, id = Ecs(), uuid4()
    tasks, clock = tasks_of(ecs, {id: "host:4711", uuid4(): None}, [])
    for _ in range(3):
        clock.sleep(LOOK_SECONDS)
        tasks.look({id: StateType.RUNNING})
    state = Crashed(message="as Prefect says")
    assert tasks.explained(id, state) is state
    assert tasks.explained(id, Completed()).is_completed()
    assert tasks.close() == []
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
    tasks, clock = tasks_of(ecs, {id: f"c::{ARN}"}, crashed)
    with caplog.at_level(logging.WARNING, "pdf_flows"):
        for _ in range(5):
            clock.sleep(LOOK_SECONDS)
            tasks.look({id: StateType.RUNNING})
        state = Crashed(message="as Prefect says")
        assert tasks.explained(id, state) is state
        begun = clock()
        assert tasks.close() == []
        assert clock() == begun, "who never answered is not waited for"
    assert (crashed, ecs.stopped) == ([], [])
    assert len(ecs.asked) == 7
    assert sum("ECS does not tell" in record.message for record in caplog.records) == 1


def test_a_hundred_at_once_each_minute() -> None:
    pids: dict[UUID, str | None] = {uuid4(): f"c::{ARN}{number}" for number in range(250)}
    ecs = Ecs(tasks=[{"taskArn": f"{ARN}{number}", "lastStatus": "RUNNING"} for number in range(250)])
    tasks, clock = tasks_of(ecs, pids, [])
    for _ in range(30):
        clock.sleep(2.0)
        tasks.look(dict.fromkeys(pids, StateType.RUNNING))
    assert [len(arns) for arns in ecs.asked] == [100, 100, 50]


def test_a_flow_run_that_was_put_off_has_another_task() -> None:
    id, crashed = uuid4(), list[UUID]()
    pids: dict[UUID, str | None] = {id: f"c::{ARN}1"}
    ecs = Ecs(tasks=[{"taskArn": f"{ARN}1", "lastStatus": "STOPPED"}, {"taskArn": f"{ARN}2", "lastStatus": "RUNNING"}])
    tasks, clock = tasks_of(ecs, pids, crashed)
    for state, task in ((StateType.SCHEDULED, "1"), (StateType.PENDING, "2"), (StateType.RUNNING, "2")):
        tasks.learn(id, f"c::{ARN}{task}")
        clock.sleep(LOOK_SECONDS)
        tasks.look({id: state})
    assert crashed == []


def test_a_task_that_ecs_does_not_know_any_more_ends_its_flow_run() -> None:
    id, crashed = uuid4(), list[UUID]()
    tasks, clock = tasks_of(Ecs(), {id: f"c::{ARN}"}, crashed)
    for _ in range(2):
        clock.sleep(LOOK_SECONDS)
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


THROTTLED = ClientError({"Error": {"Code": "ThrottlingException", "Message": "no"}}, "DescribeTasks")


def going(number: int, **more: Any) -> dict[str, Any]:
    return {"taskArn": f"{ARN}{number}", "lastStatus": "RUNNING", "desiredStatus": "RUNNING"} | more


def test_the_task_of_a_flow_run_that_ended_before_the_first_look_is_stopped() -> None:
    id, ecs = uuid4(), Ecs(tasks=[going(1)])
    tasks, clock = tasks_of(ecs, {id: f"c::{ARN}1"}, [])
    for _ in range(2):
        assert ecs.stopped == [], "once may be a matter of time"
        clock.sleep(LOOK_SECONDS)
        tasks.look({})
    assert ecs.stopped == [f"{ARN}1"]


def test_what_nobody_answered_for_is_as_it_was() -> None:
    dead, orphan, crashed = uuid4(), uuid4(), list[UUID]()
    ecs = Ecs(tasks=[going(1, lastStatus="STOPPED"), going(2)])
    tasks, clock = tasks_of(ecs, {dead: f"c::{ARN}1", orphan: f"c::{ARN}2"}, crashed)
    for failure in (None, THROTTLED, None):
        assert (crashed, ecs.stopped) == ([], [])
        ecs.failure = failure
        clock.sleep(LOOK_SECONDS)
        tasks.look({dead: StateType.RUNNING})
    assert (crashed, ecs.stopped) == ([dead], [f"{ARN}2"])


def test_what_one_task_did_is_not_held_against_the_next() -> None:
    id, crashed = uuid4(), list[UUID]()
    ecs = Ecs(tasks=[going(1, lastStatus="STOPPED"), going(2, lastStatus="STOPPED")])
    tasks, clock = tasks_of(ecs, {}, crashed)
    for number in (1, 2):
        tasks.learn(id, f"c::{ARN}{number}")
        clock.sleep(LOOK_SECONDS)
        tasks.look({id: StateType.RUNNING})
        assert crashed == []
    clock.sleep(LOOK_SECONDS)
    tasks.look({id: StateType.RUNNING})
    assert crashed == [id]


def test_what_could_not_be_done_is_tried_at_the_next_look_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    ecs = Ecs(tasks=[going(1)])
    tasks, clock = tasks_of(ecs, {uuid4(): f"c::{ARN}1"}, [])
    ecs.stop_failure = THROTTLED
    with caplog.at_level(logging.WARNING, "pdf_flows"):
        for _ in range(4):
            clock.sleep(LOOK_SECONDS)
            tasks.look({})
        ecs.stop_failure = None
        clock.sleep(LOOK_SECONDS)
        tasks.look({})
    assert ecs.stopped == [f"{ARN}1"]
    assert len(caplog.records) == 2


def test_the_last_look_waits_for_what_is_ending_and_stops_what_goes_on() -> None:
    ending, ended, orphan, living = (uuid4() for _ in range(4))
    pids: dict[UUID, str | None] = {id: f"c::{ARN}{n}" for n, id in enumerate((ending, ended, orphan, living))}
    ecs = Ecs(tasks=[going(0, desiredStatus="STOPPED"), going(1, lastStatus="STOPPED"), going(2), going(3)])
    tasks, clock = tasks_of(ecs, pids, [])
    assert tasks.close([living]) == []
    assert ecs.stopped == [f"{ARN}2"]
    assert END_SECONDS <= clock() <= END_SECONDS + END_LOOK_SECONDS
    # Had it ended by itself, nobody would have waited longer.
    ecs, clock = Ecs(tasks=[going(2)]), Clock()
    tasks = EcsTasks(None, lambda region: ecs, clock, lambda seconds: (clock.sleep(seconds), ecs.tasks.clear())[0])
    tasks.learn(orphan, f"c::{ARN}2")
    assert tasks.close() == []
    assert (ecs.stopped, clock()) == ([], END_LOOK_SECONDS)


def test_the_last_look_names_what_cannot_be_stopped() -> None:
    ecs = Ecs(tasks=[going(1)])
    ecs.stop_failure = THROTTLED
    tasks, _ = tasks_of(ecs, {uuid4(): f"c::{ARN}1"}, [])
    assert tasks.close() == [f"task {ARN}1 (its flow run is over, and ECS does not stop it)"]
