"""A rehearsal for people: convert a few PDFs on the pretended AWS, lose a machine on the way, and tell what happens."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deployments.rehearsal.ecs import Status, Task
from deployments.rehearsal.hosts import Host
from deployments.rehearsal.stage import FINAL, Stage
from tasks.corpus.failures import UsageError

RUN_SECONDS = 1800.0
HANDED_SECONDS = 20.0
MOST = 200
"""PDFs that one machine gets through while somebody watches."""
Tell = Callable[[str], None]


def pdfs_of(folder: Path) -> dict[str, Path]:
    """The PDFs of a folder, by the names that they get in the bucket. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one with PDFs (samples/ has some)")
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.pdf")) if path.is_file()}
    if not found:
        raise UsageError(f"no PDFs (*.pdf) in {folder}")
    if len(found) > MOST:
        raise UsageError(f"{len(found)} PDFs in {folder}: a rehearsal takes {MOST} at most")
    return found


class Transcript:
    """Lines with the seconds since its beginning."""

    def __init__(self, write: Tell) -> None:
        self._write, self._began = write, time.monotonic()

    def __call__(self, text: str) -> None:
        self._write(f"{time.monotonic() - self._began:6.1f} s  {text}")


def play(folder: Path, pdfs: Mapping[str, Path], tell: Tell, *, workers: int = 2) -> bool:
    """The whole of it. Whether everything was accounted for, and nothing is left.

    Args:
        folder: empty; for logs and scratch.
        pdfs: what is converted, by name.
        tell: takes one line at a time.
        workers: machines at the same time, each with one worker.

    Raises PdfFlowsError where a part of the stage does not come up or ends.
    """
    tell("moto, a Prefect server, work pools, deployments and workers are coming up ...")
    with _told(tell), Stage(folder, capacity=workers) as stage:
        tell(f"up: Prefect at {stage.api}; pools, deployments and workers as on AWS")
        for name, path in pdfs.items():
            stage.client("s3").put_object(
                Bucket=stage.outputs["InputBucket"], Key=f"input/{name}", Body=path.read_bytes()
            )
        output = f"s3://{stage.outputs['OutputBucket']}/output"
        tell(f"{len(pdfs)} PDFs are in s3://{stage.outputs['InputBucket']}/input")
        parent = stage.convert(engine="layout", workers=workers, canary=0)
        tell(f"convert-corpus is triggered with {workers} workers, as the form does it")
        ended = _watch(stage, parent, tell)
        good = (ended["state_type"], ended["state_name"]) == ("COMPLETED", "Completed")
        tell(f"convert-corpus: {ended['state_name']}: {ended['state'].get('message') or ''}")
        stage.wait("all tasks to end", lambda: not stage.ecs.living(), 120)
        audit = stage.command("audit", output)
        for line in (audit.stdout + audit.stderr).splitlines():
            tell(f"  {line}")
        left = [run["name"] for run in stage.workers() if run["state_type"] not in FINAL]
        tell(f"left: {', '.join(left) or 'no task, no flow run'}; {len(stage.ecs.hosts)} machines were used")
        return good and audit.returncode == 0 and not left


def _watch(stage: Stage, parent: str, tell: Tell) -> dict[str, Any]:
    """Tell of every flow run's states until the parent has ended; take one machine away meanwhile."""
    known: dict[str, str] = {}
    taken: Host | None = None
    handed = False

    def hear() -> bool:
        nonlocal handed
        if taken is not None and not handed and (taken.notice / "instance-action").exists():
            handed = True
            tell(f"the watcher on {taken.id} has handed the notice on to the container")
        return handed

    def look() -> dict[str, Any] | None:
        nonlocal taken
        for run in (stage.run(parent), *stage.workers()):
            if known.get(run["id"]) != run["state_name"]:
                known[run["id"]] = run["state_name"]
                name = "convert-corpus" if run["id"] == parent else run["name"]
                tell(f"flow run {name}: {run['state_name']}")
        if taken is None and (task := _at_work(stage)) is not None:
            taken = stage.ecs.interrupt(task)
            tell(f"EC2 gives {taken.id} notice: in 120 s it is gone (task {task.id[:8]})")
        hear()
        run = stage.run(parent)
        return run if run["state_type"] in FINAL else None

    ended = stage.wait("convert-corpus to end", look, RUN_SECONDS)
    if taken is None:
        tell("no worker was at work for long enough to be given notice")
    else:
        stage.wait(f"the watcher on {taken.id} to hand the notice on", hear, HANDED_SECONDS)
    return ended


def _at_work(stage: Stage) -> Task | None:
    """A worker that converts, and has not said that it is done."""
    for task in stage.ecs.living():
        said = task.container.said if task.status is Status.RUNNING and task.container is not None else ""
        if "Converted: " in said and "] Completed: " not in said:
            return task
    return None


@contextlib.contextmanager
def _told(tell: Tell) -> Iterator[None]:
    """What the pretended ECS does becomes lines of the transcript while it lasts."""
    log, handler = logging.getLogger("pdf_flows.rehearsal"), _Handler(tell)
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    # Prefect's own handler would show each line once more.
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


class _Handler(logging.Handler):
    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())
