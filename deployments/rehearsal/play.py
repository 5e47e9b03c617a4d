"""A rehearsal for people: convert PDFs on the pretended AWS, in the trouble that was asked for, and tell what happens."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deployments.aws.planned_run import PlannedRun
from deployments.rehearsal import offspring
from deployments.rehearsal.clock import PATIENCE, SPEED, WATCH, here
from deployments.rehearsal.director import Director
from deployments.rehearsal.outcome import Audit, Rehearsed
from deployments.rehearsal.prediction import predict
from deployments.rehearsal.stage import FINAL, Stage
from deployments.rehearsal.trouble import Trouble
from tasks.corpus.failures import PdfFlowsError, UsageError

RUN_SECONDS = 3600.0
HANDED_SECONDS = 30.0
ENOUGH = 40
"""Documents with which trouble finds workers at work."""
COPY = "copy-"
Tell = Callable[[str], None]


def pdfs_of(folder: Path) -> dict[str, Path]:
    """The PDFs of a folder, by the names that they get in the bucket. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one with PDFs (samples/ has some)")
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == ".pdf" and path.is_file()
    }
    if not found:
        raise UsageError(f"no PDFs (*.pdf) in {folder}")
    return found


def chosen(pdfs: Mapping[str, Path], limit: int, copies: int) -> dict[str, Path]:
    """A random sample of so many at most, the same each time, each so many times. Pure."""
    names = sorted(pdfs)
    if len(names) > limit:
        names = sorted(random.Random(len(names)).sample(names, limit))  # noqa: S311 - not for secrets
    found = {name: pdfs[name] for name in names}
    return found | {f"{COPY}{n}/{name}": path for n in range(2, copies + 1) for name, path in found.items()}


class Transcript:
    """Lines with the seconds since its beginning."""

    def __init__(self, write: Tell) -> None:
        self._write, self._began = write, time.monotonic()

    def __call__(self, text: str) -> None:
        self._write(f"{time.monotonic() - self._began:6.1f} s  {text}")


class Wish(Trouble):
    """What is to be rehearsed."""

    workers: int = 3
    parameters: dict[str, Any]
    """Of convert-corpus, beside input, output and the number of workers."""
    keep: Path | None = None
    """An empty or missing folder for outputs and logs."""

    @property
    def trouble(self) -> Trouble:
        """The trouble alone."""
        return Trouble(**{name: getattr(self, name) for name in Trouble.model_fields})


def play(
    folder: Path, pdfs: Mapping[str, Path], tell: Tell, wish: Wish, plan: PlannedRun, population: int
) -> Rehearsed:
    """The whole of it. Says what it came to; what is left of it is ended.

    Args:
        folder: empty; for logs and scratch.
        pdfs: what is converted, by name.
        tell: takes one line at a time.
        plan: what the real run would be.
        population: documents of the real corpus, where the plan does not say.

    Raises PdfFlowsError where a part of the stage does not come up or ends.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    began = time.monotonic()
    offspring.keep_orphans()
    tell(f"clock: notices, droughts, ECS's patience and prices go {SPEED:g} times as fast as on AWS")
    tell("moto, a Prefect server, work pools, deployments and workers are coming up ...")
    stage = Stage(
        folder,
        capacity=wish.workers,
        patience=here(PATIENCE),
        watch_seconds=here(WATCH),
        s3_errors=wish.s3_errors,
        market=True,
    )
    try:
        with _told(tell), stage:
            found = _run(stage, pdfs, tell, wish, plan, population)
    except (BotoCoreError, ClientError, OSError) as error:
        raise PdfFlowsError(f"the rehearsal broke off: {error}") from error
    finally:
        # Programs of the stage have ended by now, and what they started has nobody.
        left = offspring.end()
    left_over = [*found.left, *(f"process {pid} ({command[:80]})" for pid, command in left.items())]
    return found.model_copy(update={"left": left_over, "seconds": round(time.monotonic() - began, 1)})


def _run(
    stage: Stage, pdfs: Mapping[str, Path], tell: Tell, wish: Wish, plan: PlannedRun, population: int
) -> Rehearsed:
    tell(f"up: Prefect at {stage.api}; pools, deployments and workers as on AWS")
    source, target = stage.outputs["InputBucket"], stage.outputs["OutputBucket"]
    s3 = stage.client("s3")
    for name, path in pdfs.items():
        s3.put_object(Bucket=source, Key=f"input/{name}", Body=path.read_bytes())
    tell(f"{len(pdfs)} PDFs are in s3://{source}/input")
    # What this process itself reads of the run.
    os.environ.update(stage.aws)

    def trigger() -> str:
        # Input, output and region stand in the form already: the stack's.
        return stage.convert(workers=wish.workers, canary=0, **wish.parameters)

    director = Director(stage, wish.trouble, trigger, tell, workers=wish.workers)
    tell(f"convert-corpus is triggered with {wish.workers} workers, as the form does it; trouble: {wish.words}")
    ended = stage.wait("convert-corpus to end", director.look, RUN_SECONDS)
    why = ended["state"].get("message") or ""
    tell(f"convert-corpus: {ended['state_name']}: {why}")
    with contextlib.suppress(TimeoutError):
        _wait(lambda: not stage.ecs.living(), 120)
    given = director.given()
    audit = _audit(stage, f"s3://{target}/output")
    left = [f"task {task.id[:8]} {task.status}" for task in stage.ecs.living()]
    left += [f"flow run {run['name']} {run['state_name']}" for run in stage.workers() if run["state_type"] not in FINAL]
    report, counts = _told_by_run(f"s3://{target}/output/_runs", audit.run_id)
    if wish.keep is not None:
        _keep(s3, target, wish.keep)
    return Rehearsed(
        run=report.line() if report is not None else {},
        state=ended["state_name"],
        why=why,
        documents=len(pdfs),
        workers=wish.workers,
        machines=len(stage.ecs.hosts),
        asked=wish.trouble,
        given=given,
        audit=audit,
        left=left,
        money=report.money if report is not None else None,
        prediction=predict(plan, counts, population) if counts or plan.pages is not None else None,
        seconds=0.0,
    )


def _wait(look: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not look():
        if time.monotonic() >= until:
            raise TimeoutError
        time.sleep(0.2)


def _audit(stage: Stage, output: str) -> Audit:
    done = stage.command("audit", output, "--json")
    try:
        told = json.loads(done.stdout)
    except ValueError:
        return Audit(status=done.returncode, said=(done.stderr.strip().splitlines() or ["nothing"])[-1][:300])
    known = {name: told[name] for name in Audit.model_fields if name in told}
    return Audit(status=done.returncode, **known)


def _told_by_run(runs: str, run_id: str) -> tuple[Any, list[int]]:
    """The run's report, and the pages of each document that was put there once (0 for those that failed)."""
    from tasks.corpus import paths
    from tasks.corpus.ledger import read_ledger
    from tasks.corpus.store import open_store
    from tasks.report import read_report

    if not run_id:
        return None, []
    store = open_store(runs)
    pages: dict[str, int] = {}
    for record in read_ledger(store, [paths.workers(run_id)]):
        if record.outcome.final and not record.key.startswith(COPY):
            pages[record.key] = max(pages.get(record.key, 0), record.pages or 0)
    return read_report(store, run_id), list(pages.values())


def _keep(s3: Any, bucket: str, folder: Path) -> None:
    """What is in the output bucket becomes files."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="output/"):
        for item in page.get("Contents", ()):
            file = folder / "output" / item["Key"].removeprefix("output/")
            file.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, item["Key"], str(file))


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
