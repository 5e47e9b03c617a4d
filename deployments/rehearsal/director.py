"""Gives the trouble that was asked for, one blow after the other, while a run goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from deployments.rehearsal import offspring
from deployments.rehearsal.clock import NOTICE, here
from deployments.rehearsal.ecs import Status, Task
from deployments.rehearsal.hosts import Host
from deployments.rehearsal.stage import FINAL, Stage
from deployments.rehearsal.trouble import Given, Kind, Trouble

GAP_SECONDS = 3.0
"""Between two blows, so that the first one is one of its own."""
LOOK_SECONDS = 0.5
NOTICED_SECONDS = 60.0
"""After so long the parent is triggered again, whatever Prefect shows of the one that was killed."""


class Director:
    """Of one run. Its `look` is called again and again until it answers.

    Args:
        trigger: starts the parent, or starts it again; the flow run's id.
        workers: machines that there are when there are some.
    """

    def __init__(
        self, stage: Stage, trouble: Trouble, trigger: Callable[[], str], tell: Callable[[str], None], *, workers: int
    ) -> None:
        self._stage, self._trouble, self._trigger, self._tell, self._workers = stage, trouble, trigger, tell, workers
        self._blows = list(trouble.blows)
        self._last = float("-inf")
        self._looked = float("-inf")
        self._states: dict[str, str] = {}
        self._taken: list[tuple[Task, Host]] = []
        self._handed: set[str] = set()
        self._dry_since: float | None = None
        self._waiting: set[str] = set()
        self._killed_at: float | None = None
        self._given = Given()
        # Nobody's machine goes then: without this, the drought would keep nobody waiting.
        self._short = bool(trouble.no_capacity) and not trouble.interruptions
        if self._short:
            stage.ecs.capacity = workers - 1
        self.parent = trigger()

    def look(self) -> dict[str, Any] | None:
        """One look, one blow if it is its time. The parent's flow run, once it has ended for good."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        parent = self._stage.run(self.parent)
        for run in (parent, *self._stage.workers()):
            if self._states.get(run["id"]) != run["state_name"]:
                self._states[run["id"]] = run["state_name"]
                name = "convert-corpus" if run["id"] == self.parent else run["name"]
                self._tell(f"flow run {name}: {run['state_name']}")
        self._hear()
        self._drought(now)
        final = parent["state_type"] in FINAL
        if self._killed_at is not None:
            if final or now - self._killed_at > NOTICED_SECONDS:
                self._killed_at = None
                self.parent = self._trigger()
                self._tell("convert-corpus is triggered again, as somebody would who sees that: it goes on")
            return None
        if final:
            return parent
        if self._blows and parent["state_type"] == "RUNNING":
            self._blow(now)
        return None

    def given(self) -> Given:
        """What came to pass; the last word on it once all tasks have ended."""
        if self._dry_since is not None:
            self._rain(time.monotonic())
        fates = self._stage.s3.counts if self._stage.s3 is not None else {}
        return self._given.model_copy(
            update={
                "drained": sum(task.exit_code == 0 for task, _ in self._taken),
                "waited": len(self._waiting),
                "s3_requests": dict(sorted(fates.items())),
            }
        )

    # -- blows ------------------------------------------------------------------------------------------------------

    def _blow(self, now: float) -> None:
        task = self._at_work()
        if self._blows[0] is Kind.DROUGHT and self._short:
            # Somebody has to wait for it to be seen; nobody has to work.
            if any(task.status is Status.PROVISIONING for task in self._stage.ecs.living()):
                self._dry(now)
                self._blows.pop(0)
            return
        if task is None or now - self._last < GAP_SECONDS:
            return
        if self._blows[0] is Kind.DROUGHT:
            self._dry(now)
            self._blows.pop(0)
        # At once: the machine that goes now is the one that is not replaced.
        if self._blows[0] is Kind.INTERRUPTION:
            self._interrupt(task)
        elif self._dry_since is not None and not self._waiting:
            # It goes while a worker waits for a machine: whoever comes after it has to know of that one, too.
            return
        elif not self._kill_parent(now):
            return
        self._blows.pop(0)
        self._last = now

    def _at_work(self) -> Task | None:
        """A worker that converts, has not said that it is done, and whose machine stays."""
        for task in self._stage.ecs.living():
            said = task.container.said if task.status is Status.RUNNING and task.container is not None else ""
            stays = task.host is not None and task.host.until is None
            if stays and "Converted: " in said and "] Completed: " not in said:
                return task
        return None

    def _interrupt(self, task: Task) -> None:
        host = self._stage.ecs.interrupt(task, here(NOTICE))
        self._taken.append((task, host))
        self._given.interruptions += 1
        self._tell(f"EC2 gives {host.id} notice: in {here(NOTICE):g} s it is gone (task {task.id[:8]})")

    def _kill_parent(self, now: float) -> bool:
        killed = False
        for pid in offspring.of_flow_run(self.parent):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed = True
        if killed:
            self._killed_at = now
            self._given.parents_killed += 1
            self._tell("SIGKILL at the parent: convert-corpus is dead, its workers go on without it")
        return killed

    def _dry(self, now: float) -> None:
        self._stage.ecs.capacity = 0
        self._dry_since = now
        self._given.droughts += 1
        minutes, seconds = self._trouble.no_capacity / 60, here(self._trouble.no_capacity)
        self._tell(f"no capacity from now on: no machine is to be had for {minutes:g} min ({seconds:g} s here)")

    # -- what comes of them -----------------------------------------------------------------------------------------

    def _drought(self, now: float) -> None:
        if self._dry_since is None:
            return
        self._waiting |= {
            task.id
            for task in self._stage.ecs.living()
            if task.status is Status.PROVISIONING and now > self._dry_since + 1
        }
        if now - self._dry_since >= here(self._trouble.no_capacity):
            self._rain(now)

    def _rain(self, now: float) -> None:
        assert self._dry_since is not None
        self._given.drought_seconds = round(now - self._dry_since, 1)
        self._dry_since = None
        self._stage.ecs.capacity = self._workers
        waited = f"{len(self._waiting)} task{'s' * (len(self._waiting) != 1)} waited"
        self._tell(f"there is capacity again, after {self._given.drought_seconds:.0f} s: {waited}")

    def _hear(self) -> None:
        for _, host in self._taken:
            if host.id not in self._handed and (host.notice / "instance-action").exists():
                self._handed.add(host.id)
                self._tell(f"the watcher on {host.id} has handed the notice on to the container")
