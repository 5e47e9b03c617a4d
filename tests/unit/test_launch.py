"""Launchers where the system or Prefect's API refuses: one that can't be launched is no end of the others."""

from __future__ import annotations

import subprocess
import uuid
from typing import Any

import pytest
from prefect.exceptions import ObjectNotFound

from tasks import launch
from tasks.corpus.failures import UsageError
from tasks.fleet.launcher import NotLaunched
from tasks.launch import LocalLauncher, WorkPoolLauncher


def parameters(worker: int, number: int) -> dict[str, Any]:
    return {"worker": worker}


def test_no_more_processes_is_not_the_end_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalLauncher, "_flow_run", lambda self, worker, number: None)

    def refused(*given: Any, **more: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", refused)
    launcher = LocalLauncher(None, parameters, "r1", lambda line: None)  # type: ignore[arg-type]
    with pytest.raises(NotLaunched, match="Too many open files"):
        launcher.launch(0, 0)


def test_a_deployment_that_vanishes_during_the_run_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [ObjectNotFound(Exception()), None, ObjectNotFound(Exception())]

    class Run:
        id, state = uuid.uuid4(), None

    def run_deployment(*given: Any, **more: Any) -> Any:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return Run()

    monkeypatch.setattr(launch, "run_deployment", run_deployment)
    launcher = WorkPoolLauncher(parameters, "r1", "flow/deployment")
    with pytest.raises(UsageError, match="there is no deployment flow/deployment"):
        launcher.launch(0, 0)
    launcher.launch(0, 0)
    with pytest.raises(NotLaunched, match="there is no deployment"):
        launcher.launch(1, 0)


def test_with_the_api_away_nothing_is_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "END_SECONDS", 0.0)
    monkeypatch.setattr(WorkPoolLauncher, "_living", lambda self: None)
    launcher = WorkPoolLauncher(parameters, "r1", "flow/deployment")
    assert launcher.end() == ["what may run of r1 (the Prefect API can't be reached)"]
    with pytest.raises(UsageError, match="can't be reached"):
        launcher.adopt()
