"""How long a killed container goes unnoticed: to its flow run's end, its successor's start, and that one's first document.

    .venv/bin/python tests/benchmarks/crash_detection.py [--kills 3] [--only with|without] [--json]

On the rehearsal's stage (docs/rehearsal.md), two workers with the samples: SIGKILL at a container that is at work. `crashed`:
Prefect shows its flow run as over. `launched`: the supervisor has asked for another flow run. `running`: that one's container
runs. `first`: it has converted a document. Seconds after the kill. With the observer, Prefect's ECS worker reads ECS's events
from the SQS queue; without it nothing comes into the queue. (prefect-aws 0.7 starts its observer always: nothing reads its
setting PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_ENABLED.)
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from deployments.rehearsal import offspring  # noqa: E402
from deployments.rehearsal.ecs import Status, Task  # noqa: E402
from deployments.rehearsal.stage import FINAL, Stage  # noqa: E402

WORKERS = 2
COPIES = 40
"""Of each sample: enough to do for all kills."""
MOST_SECONDS = 600.0
STAGES = ("crashed", "launched", "running", "first")


def at_work(task: Task) -> bool:
    """It has converted something, and is not done."""
    said = task.container.said if task.status is Status.RUNNING and task.container is not None else ""
    return "Converted: " in said and "] Completed: " not in said


def one_kill(stage: Stage, parent: str) -> dict[str, float]:
    """Kill a worker, and wait for its successor's first document."""

    def victim() -> Task | None:
        living = [task for task in stage.ecs.living() if at_work(task)]
        return living[0] if len(living) == WORKERS else None

    task = stage.wait("all workers at work", victim, MOST_SECONDS)
    known = {run["id"] for run in stage.workers()}
    stage.ecs.kill(task)
    began = time.monotonic()
    found: dict[str, float] = {}

    def note(what: str, when: bool) -> None:
        if when and what not in found:
            found[what] = round(time.monotonic() - began, 1)

    def look() -> bool:
        assert stage.run(parent)["state_type"] not in FINAL, "the run ended before its time: more --copies"
        for run in stage.workers():
            if run["id"] == task.flow_run:
                note("crashed", run["state_type"] in FINAL)
            elif run["id"] not in known:
                note("launched", True)
                successor = stage.ecs.task_of(run["id"])
                note("running", successor is not None and successor.status is Status.RUNNING)
                note("first", successor is not None and at_work(successor))
        return "first" in found

    stage.wait("the successor's first document", look, MOST_SECONDS)
    return found


def measure(kills: int, observer: bool, tell: Callable[[str], None]) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="crash-", ignore_cleanup_errors=True) as scratch:
        with Stage(Path(scratch) / "stage", capacity=WORKERS) as stage:
            stage.ecs.deaf = not observer
            # Making a client takes longer than all else.
            s3, bucket = stage.client("s3"), stage.outputs["InputBucket"]
            for number in range(COPIES):
                for pdf in sorted((ROOT / "samples").glob("*.pdf")):
                    s3.put_object(Bucket=bucket, Key=f"input/{number}-{pdf.name}", Body=pdf.read_bytes())
            parent = stage.convert(engine="layout", workers=WORKERS, canary=0)
            found = []
            for number in range(kills):
                found.append(one_kill(stage, parent))
                tell(f"{'with' if observer else 'without'} the observer, kill {number}: {found[-1]}")
        offspring.end()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3, help="in each of the two ways")
    parser.add_argument("--only", choices=("with", "without"), help="one of the two ways only")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    offspring.keep_orphans()

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    result: dict[str, Any] = {}
    for name, observer in (("with", True), ("without", False)):
        if asked.only in (None, name):
            kills = measure(asked.kills, observer, tell)
            middle = {
                what: median(kill[what] for kill in kills if what in kill)
                for what in STAGES
                if any(what in kill for kill in kills)
            }
            result[name] = {"kills": kills, "median": middle}
    if asked.json:
        print(json.dumps(result))
        return
    for name, one in result.items():
        figures = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in one["median"].items())
        print(f"{name} the observer, median of {len(one['kills'])} kills: {figures}")


if __name__ == "__main__":
    main()
