"""Where the ECS tasks of a run's flow runs are, as Prefect's own server says; what is made of it when the run is over."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from chaos.api import Api
from tasks import launch
from tasks.launch import WorkPoolLauncher
from tasks.reconcile import EcsTasks

ARN = "arn:aws:ecs:eu-west-1:123456789012:task/pdf-flows/"


class Ecs:
    """Tasks that go on whatever became of their flow runs."""

    def __init__(self) -> None:
        self.stopped: set[str] = set()

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        return {"tasks": [{"taskArn": arn, "lastStatus": "RUNNING", "desiredStatus": "RUNNING"} for arn in tasks]}

    def stop_task(self, cluster: str, task: str, reason: str) -> None:
        self.stopped.add(task.removeprefix(ARN))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_no_task_of_a_run_goes_on_when_the_run_is_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api, run_id, ecs = Api(home), f"r-{uuid.uuid4().hex[:8]}", Ecs()
    flow = api.post("flows/", name="convert-partition")

    def made(name: str, state: str, *tags: str) -> str:
        run = api.post("flow_runs/", flow_id=flow["id"], tags=[f"run:{run_id}", *tags], state={"type": state})
        # As the pool's worker does.
        pid = {"infrastructure_pid": f"pdf-flows::{ARN}{name}"}
        httpx.patch(f"{api.url}/flow_runs/{run['id']}", json=pid, timeout=30).raise_for_status()
        return str(run["id"])

    def set_state(id: str, state: str) -> None:
        api.post(f"flow_runs/{id}/set_state", state={"type": state}, force=True)

    made("before", "CRASHED", "worker:0")
    made("parent", "CRASHED")
    early, late = made("early", "RUNNING", "worker:0"), made("late", "RUNNING", "worker:1")
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(launch, "EcsTasks", lambda: EcsTasks(None, lambda region: ecs, sleep=lambda seconds: None))
    monkeypatch.setattr("tasks.reconcile.END_SECONDS", 0.0)
    with temporary_settings({PREFECT_API_URL: api.url}):
        launcher = WorkPoolLauncher(lambda worker, number: {}, run_id, "flow/deployment")
        assert sorted(launcher.adopt()) == [0, 1]
        set_state(early, "COMPLETED")
        launcher.poll()
        set_state(late, "CANCELLED")
        launcher.poll()
        new = made("never seen at work", "RUNNING", "worker:2")
        monkeypatch.setattr(launch, "END_SECONDS", 0.5)
        left = launcher.end()
        assert len(left) == 1 and left[0].startswith("flow run "), left
        assert ecs.stopped == {"before", "early", "late"}
        set_state(new, "CANCELLED")
        assert launcher.end() == []
    assert ecs.stopped == {"before", "early", "late", "never seen at work"}
