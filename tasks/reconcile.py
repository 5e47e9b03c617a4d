"""ECS's word on a worker's flow run: what Prefect does not say, or says wrongly, of its task.

Prefect's observer learns of tasks from a queue, and only while the ECS worker runs; what it makes of a task that stopped is
"a non-zero exit code", whether its machine was taken away or its process killed. A flow run that was set to Crashed from
outside goes on in its container. So each minute the tasks of the run's flow runs are asked for, one call for a hundred of
them:

- a flow run that goes on while its task has stopped, for two looks: it is set to Crashed, with ECS's reason, or to Cancelled
  where that was asked for (there is nobody left who would hear of it);
- a task that goes on while its flow run is over, for two looks: it is stopped. (Found by its ARN: StopTask takes tags away.)

A task that nobody answered for in between is as it was. When the run is over, the last look waits a little for what is ending,
and stops what goes on.

A flow run that crashed is asked about at once: whether its documents may be to blame depends on it (tasks/fleet/losses.py).

Which task a flow run has stands in its infrastructure_pid ("cluster::arn" of prefect-aws's worker), which comes with every
answer about its state: there is nothing to set, and nothing is done for runs of other pools. An AWS that does not answer, or
may not be asked, is told once: the supervisor goes by heartbeats then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed
from pydantic import BaseModel, ConfigDict

from tasks.api import LOST

LOOK_SECONDS = 60.0
END_SECONDS = 30.0
"""How long tasks whose flow runs are over may take to end by themselves, when the run is over."""
END_LOOK_SECONDS = 3.0
AT_ONCE = 100
"""DescribeTasks takes no more (AWS documentation)."""
WORD = "ECS: "
"""How ECS's words begin."""
STOPPED = ("STOPPED", "DELETED", "MISSING")
_log = logging.getLogger("pdf_flows.reconcile")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a flow run's task is."""

    cluster: str
    arn: str

    @property
    def region(self) -> str:
        """Of its ARN."""
        return self.arn.split(":")[3]


def place_of(infrastructure_pid: str | None) -> Place | None:
    """From what the pool's worker wrote down; None for a flow run that is no ECS task. Pure."""
    cluster, separator, arn = (infrastructure_pid or "").partition("::")
    parts = arn.split(":")
    return Place(cluster, arn) if separator and len(parts) == 6 and parts[2] == "ecs" and parts[3] else None


class EcsTask(BaseModel):
    """What DescribeTasks says of a task."""

    model_config = ConfigDict(frozen=True)

    status: str
    """lastStatus; "MISSING" where ECS does not know it (any more: an hour after its end)."""
    code: str = ""
    """stopCode."""
    reason: str = ""
    """stoppedReason."""
    ending: bool = False
    """ECS is about to stop it, or its container has ended."""
    started: bool = False
    """Its container ran."""
    exit_code: int | None = None
    container: str = ""
    """The container's reason: OutOfMemoryError, CannotPullContainerError."""

    @property
    def stopped(self) -> bool:
        """Whether it is over."""
        return self.status in STOPPED

    def words(self) -> str:
        """Why it stopped, in ECS's words, as `losses.diagnose` reads them. Pure."""
        if self.status == "MISSING":
            return "ECS does not know its task any more"
        known = [self.code, self.reason, self.container]
        if self.exit_code is not None:
            known.append(f"exit code {self.exit_code}")
        elif self.started:
            known.append("no exit code")
        return WORD + ": ".join(dict.fromkeys(part for part in known if part))


class Mismatch(StrEnum):
    """Flow run and task that do not go together."""

    DEAD = "its task has stopped, and the flow run goes on"
    ORPHAN = "its flow run is over, and the task goes on"


def mismatch(state: StateType | None, task: EcsTask) -> Mismatch | None:
    """What does not go together, if anything. Pure.

    Args:
        state: the flow run's; None: it is over.
    """
    if state is None:
        return None if task.stopped else Mismatch.ORPHAN
    # One that is scheduled waits for a task of its own: what it had before may well have stopped.
    lives = state in (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
    return Mismatch.DEAD if lives and task.stopped else None


class EcsTasks:
    """The tasks of a run's flow runs.

    Args:
        crash: sets a flow run to Crashed with these words, Cancelled if it is being cancelled; raises what Prefect\'s
            client raises.
        client: an ECS client of a region.
        clock: seconds.
    """

    def __init__(
        self,
        crash: Callable[[UUID, str], None] | None = None,
        client: Callable[[str], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._crash = crash or _crash
        self._new_client = client or _client
        self._clock = clock
        self._sleep = sleep
        self._clients: dict[str, Any] = {}
        self._places: dict[UUID, Place] = {}
        self._before: dict[str, Mismatch] = {}
        """What did not go together when it was last answered for, by task."""
        self._acted: set[str] = set()
        self._next = clock() + LOOK_SECONDS
        self._told = self._answers = False

    def learn(self, id: UUID, infrastructure_pid: str | None) -> None:
        """Where a flow run's task is; one that was put off has another one than before."""
        place = place_of(infrastructure_pid)
        former = self._places.get(id)
        if place is None or place == former:
            return
        if former is not None:
            self._before.pop(former.arn, None)
        self._places[id] = place

    def explained(self, id: UUID, state: State) -> State:
        """The state with ECS's words instead of Prefect's, where the flow run crashed and ECS has any."""
        if state.type is not StateType.CRASHED or (state.message or "").startswith(WORD):
            return state
        place = self._places.get(id)
        task = self._described([place]).get(place.arn) if place is not None else None
        # One that still runs was set to Crashed from outside; the next looks stop it.
        if task is None or not task.stopped or task.status == "MISSING":
            return state
        return state.model_copy(update={"message": f"{task.words()} ({state.message})"})

    def look(self, living: Mapping[UUID, StateType]) -> None:
        """Once a minute: compare, and act on what did not go together the last time either.

        Args:
            living: the flow runs that are not over, and their states; those that were and are not named are over.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        found = self._described(self._places.values())
        for id, place in list(self._places.items()):
            task = found.get(place.arn)
            if task is None:
                continue
            wrong = mismatch(living.get(id), task)
            before = self._before.pop(place.arn, None)
            if wrong is not None and not (before is wrong and self._act(id, place, wrong, task)):
                self._before[place.arn] = wrong
            if id not in living and task.stopped:
                del self._places[id]

    def settle(self, living: Mapping[UUID, StateType]) -> None:
        """The same at once, for flow runs whose task has stopped: a run is ending, and there is no next look."""
        places = {id: self._places[id] for id in living if id in self._places}
        found = self._described(places.values())
        for id, place in places.items():
            task = found.get(place.arn)
            if task is not None and mismatch(living[id], task) is Mismatch.DEAD:
                self._act(id, place, Mismatch.DEAD, task)

    def close(self, living: Collection[UUID] = ()) -> list[str]:
        """The last look: stop the tasks of flow runs that are over, once they had time to end; what could not be stopped.

        Args:
            living: flow runs that are not over.
        """
        until = self._clock() + END_SECONDS
        while True:
            over = {id: place for id, place in self._places.items() if id not in living}
            found = self._described(over.values())
            for id, place in over.items():
                if (task := found.get(place.arn)) is not None and (task.stopped or task.ending):
                    del self._places[id]
            going = {id: place for id, place in over.items() if id in self._places}
            # Who never answered will not now.
            if not going or not self._answers or self._clock() >= until:
                break
            self._sleep(END_LOOK_SECONDS)
        left = []
        for id, place in going.items():
            task = found.get(place.arn)
            if task is not None and not self._act(id, place, Mismatch.ORPHAN, task):
                left.append(f"task {place.arn} (its flow run is over, and ECS does not stop it)")
        return left

    def _act(self, id: UUID, place: Place, wrong: Mismatch, task: EcsTask) -> bool:
        """Whether it could be done; told once."""
        from botocore.exceptions import BotoCoreError, ClientError

        name, first = place.arn.rsplit("/", 1)[-1], place.arn not in self._acted
        self._acted.add(place.arn)
        if first:
            _log.warning("Flow run %s, task %s: %s", id, name, wrong)
        try:
            if wrong is Mismatch.DEAD:
                self._crash(id, task.words())
            else:
                self._of(place.region).stop_task(cluster=place.cluster, task=place.arn, reason="its flow run is over")
        except (*LOST, BotoCoreError, ClientError) as error:
            if first:
                what = (
                    "Flow run %s could not be set to Crashed: %s" if wrong is Mismatch.DEAD else "Task %s goes on: %s"
                )
                _log.warning(what, id if wrong is Mismatch.DEAD else name, error)
            return False
        return True

    def _described(self, places: Iterable[Place]) -> dict[str, EcsTask]:
        """By ARN; those that nobody answers for are missing."""
        from botocore.exceptions import BotoCoreError, ClientError

        by_cluster: dict[tuple[str, str], list[str]] = {}
        for place in places:
            by_cluster.setdefault((place.region, place.cluster), []).append(place.arn)
        found: dict[str, EcsTask] = {}
        try:
            for (region, cluster), arns in by_cluster.items():
                for start in range(0, len(arns), AT_ONCE):
                    answer = self._of(region).describe_tasks(cluster=cluster, tasks=arns[start : start + AT_ONCE])
                    self._answers = True
                    found |= {item["taskArn"]: _task(item) for item in answer["tasks"]}
                    missing = [item for item in answer.get("failures", ()) if item.get("reason") == "MISSING"]
                    found |= {item["arn"]: EcsTask(status="MISSING") for item in missing}
        except (BotoCoreError, ClientError) as error:
            self._say(error)
        return found

    def _of(self, region: str) -> Any:
        if region not in self._clients:
            self._clients[region] = self._new_client(region)
        return self._clients[region]

    def _say(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            _log.warning("ECS does not tell of the workers' tasks (%s): their heartbeats do", error)


def _task(item: Mapping[str, Any]) -> EcsTask:
    containers = item.get("containers", ())
    container = next((one for one in containers if one.get("name") == "prefect"), containers[0] if containers else {})
    return EcsTask(
        status=item["lastStatus"],
        code=item.get("stopCode") or "",
        reason=item.get("stoppedReason") or "",
        ending=item.get("desiredStatus") == "STOPPED",
        started=item.get("startedAt") is not None,
        exit_code=container.get("exitCode"),
        container=container.get("reason") or "",
    )


def _crash(id: UUID, words: str) -> None:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(id)
        if run.state is None or not run.state.is_final():
            cancelled = run.state is not None and run.state.is_cancelling()
            client.set_flow_run_state(id, (Cancelled if cancelled else Crashed)(message=words), force=True)


def _client(region: str) -> Any:
    import boto3
    from botocore.config import Config

    # The supervisor waits for it: no answer in time is none.
    config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
    return boto3.client("ecs", region_name=region, config=config)
