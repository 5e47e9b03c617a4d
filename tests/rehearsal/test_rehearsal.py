"""A run on the pretended AWS: real Prefect server and workers, the real prefect.yaml, pool template, task definition and
entrypoint.

Parent and three children convert real PDFs in moto's S3. There is room for two of them at first; one machine gets its Spot
notice, one container is killed. What must come out: everything accounted for, once, and nothing left running.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chaos.seen import RunView

from deployments.rehearsal.ecs import Status, Task
from deployments.rehearsal.stage import FINAL, ROOT, Stage
from tasks.fleet.machine import Lifecycle

pytest.importorskip("prefect_aws")
pytest.importorskip("watchtower")

CORPUS = ROOT.parent / "shared" / "corpus"
WANTED, LONGER = 24, 8
KINDS = ("paper", "report", "table", "form", "script")


def real_pdfs() -> dict[str, bytes]:
    """Small documents of the corpus with one to eight pages, or the samples, each several times."""
    found: dict[str, bytes] = {}
    if (CORPUS / "manifest.csv").is_file():
        with (CORPUS / "manifest.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["expected_outcome"] == "ok" and row["kind"] in KINDS]
        rows = [row for row in rows if float(row["has_text_layer"] or 0) > 0.9]
        rows.sort(key=lambda row: int(row["bytes"]))
        for least, most, number in ((1, 1, WANTED - LONGER), (2, 8, LONGER)):
            chosen = [row["file"] for row in rows if least <= int(row["pages"]) <= most][:number]
            found |= {name: (CORPUS / name).read_bytes() for name in chosen}
    samples = sorted((ROOT / "samples").glob("*.pdf"))
    for number in range(max(0, WANTED - len(found))):
        pdf = samples[number % len(samples)]
        found[f"samples/{number}-{pdf.name}"] = pdf.read_bytes()
    return found


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_run_loses_a_machine_and_a_container_and_ends_accounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    pdfs = real_pdfs()
    assert len(pdfs) >= 20
    with Stage(tmp_path / "stage", capacity=2) as stage:
        up = time.monotonic() - began
        for name, value in stage.aws.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_REGION", raising=False)
        source, target = stage.outputs["InputBucket"], stage.outputs["OutputBucket"]
        s3 = stage.client("s3")
        for name, data in pdfs.items():
            s3.put_object(Bucket=source, Key=f"input/{name}", Body=data)
        # Input, output and region stand in the form already: the stack's.
        parent = stage.convert(engine="layout", workers=3, canary=0)
        view = RunView(f"s3://{target}/output/_runs")

        def at_work(but: str = "") -> Task | None:
            """A worker that has converted something and is not done."""
            assert stage.run(parent)["state_type"] not in FINAL, stage.run(parent)
            for task in stage.ecs.living():
                said = task.container.said if task.container is not None else ""
                if task.id != but and "Converted: " in said and "] Completed: " not in said:
                    return task
            return None

        stage.wait("two of three to run", lambda: running(stage) == 2 and waiting(stage) == 1)
        queued = next(task for task in stage.ecs.living() if task.status is Status.PROVISIONING)
        first = stage.wait("a worker at work", at_work)
        host = stage.ecs.interrupt(first)
        told = time.monotonic()
        stage.ecs.capacity = 4
        second = stage.wait("another one at work", lambda: at_work(first.id))
        stage.ecs.kill(second)
        stage.wait("the noticed one to end", lambda: first.status is Status.STOPPED)
        drained = time.monotonic() - told
        # The template's watcher on the machine handed it on, too.
        stage.wait("the notice's file", (host.notice / "instance-action").exists, 20)
        stage.wait("the parent to end", lambda: stage.run(parent)["state_type"] in FINAL, 400)
        stage.wait("all tasks to end", lambda: not stage.ecs.living(), 60)
        total = time.monotonic() - began
        ended = stage.run(parent)
        assert (ended["state_type"], ended["state_name"]) == ("COMPLETED", "Completed"), ended

        # Drained in time, in the way Prefect needs; killed, and told to Prefect by the observer alone.
        assert (first.exit_code, second.exit_code) == (0, 137)
        assert drained < 90, "a notice leaves two minutes"
        assert not host.gone
        states = {run["id"]: (run["state_name"], run["state"]["message"]) for run in stage.workers()}
        assert states[first.flow_run][0] == "Drained", states
        assert states[second.flow_run][0] == "Crashed", states
        assert {run["state_type"] for run in stage.workers()} <= set(FINAL), "nothing is left running"
        assert "died (ECS: EssentialContainerExited" in stage.log("process-worker"), "the supervisor asked ECS why"
        assert queued.history == ["PROVISIONING", "PENDING", "RUNNING", "STOPPED"]
        lives = view.lives()
        noticed, killed = (
            next(life.worker for life in lives if life.start["flow_run_id"] == task.flow_run)
            for task in (first, second)
        )
        assert len(lives) >= 4, "who was lost was relaunched"
        machines = {life.start["machine"]["id"]: life.start["machine"] for life in lives}
        assert machines[host.id]["type"] == "g4dn.xlarge", "as its metadata service says"
        assert {machine["lifecycle"] for machine in machines.values()} == {Lifecycle.SPOT}

        # Accounted for, once.
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", "audit", f"s3://{target}/output", "--json"],
            cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        account = json.loads(done.stdout)
        assert (account["documents"], account["converted"], account["remaining"]) == (len(pdfs), len(pdfs), 0), account
        assert account["duplicates"] == 0
        published = {item["Key"] for item in s3.list_objects_v2(Bucket=target, Prefix="output/")["Contents"]}
        assert {f"output/{name.removesuffix('.pdf')}.md" for name in pdfs} <= published

        # Lines are in CloudWatch, also those of the worker whose machine was about to go.
        lines = stream(stage, noticed)
        assert any("Stopping: notice" in line["message"] and line["level"] == "WARNING" for line in lines), lines
        assert {line["run_id"] for line in lines} == {view.run_id}
        assert stream(stage, killed)

        # The API's credential came from the secret: RunTask, parameters and logs have none of it.
        secret = stage.auth.partition(":")[2]
        for log in (stage.folder / "logs").glob("*.json"):
            what = json.loads(log.read_text())
            assert what["command"][1:] == [
                "-I",
                "-S",
                str(ROOT / "worker_image/entrypoint.py"),
                "prefect",
                "flow-run",
                "execute",
            ]
            assert secret in what["environment"]["PREFECT_API_AUTH_STRING"]
            assert secret not in json.dumps(what["overrides"])
            assert secret not in log.with_suffix(".log").read_text()
        assert secret not in json.dumps([run["parameters"] for run in [ended, *stage.workers()]])
        assert secret not in "".join(map(stage.log, ("server", "ecs-worker", "process-worker")))
    with capsys.disabled():
        print(
            f"\n{len(pdfs)} documents, {len(lives)} lives on {len(stage.ecs.hosts)} machines; up after {up:.0f} s, "
            f"drained {drained:.1f} s after the notice, over after {total:.0f} s, down after {time.monotonic() - began:.0f} s"
        )


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_machines_that_are_lost_without_a_word_are_found_by_asking_ecs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No notice, no event: the queue is lost, too. Prefect shows both flow runs as Running for ever."""
    began = time.monotonic()
    with Stage(tmp_path / "stage", capacity=1) as stage:
        for name, value in stage.aws.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_REGION", raising=False)
        source, target = stage.outputs["InputBucket"], stage.outputs["OutputBucket"]
        for pdf in sorted((ROOT / "samples").glob("*.pdf")):
            stage.client("s3").put_object(Bucket=source, Key=f"input/{pdf.name}", Body=pdf.read_bytes())
        stage.ecs.deaf = True
        # One worker: whatever is not found holds the whole run up.
        parent = stage.convert(engine="layout", workers=1, canary=0)
        view = RunView(f"s3://{target}/output/_runs")

        def newest(number: int) -> dict[str, Any] | None:
            """The flow run of a launch, once it runs."""
            assert stage.run(parent)["state_type"] not in FINAL, stage.run(parent)
            found = stage.workers()
            return found[number] if len(found) > number and found[number]["state_type"] == "RUNNING" else None

        def lost(id: str) -> Task:
            task = stage.ecs.task_of(id)
            assert task is not None
            stage.ecs.lose(task)
            assert task.status is Status.STOPPED
            return task

        # Before its first heartbeat: nothing but ECS knows of it.
        first = stage.wait("the first launch to run", lambda: newest(0))["id"]
        task = lost(first)
        gone = time.monotonic()
        assert not view.lives(), "it had no time for a sign of life"
        ended = stage.wait("somebody to find out", lambda: over(stage, first))
        found = time.monotonic() - gone
        assert ended["state_name"] == "Crashed", ended
        assert task.host is not None
        assert ended["state"]["message"] == (
            f"ECS: SpotInterruption: Host EC2 (instance {task.host.id}) terminated.: no exit code"
        )

        # At work: its heartbeat stands still after this.
        second = stage.wait("the second launch to run", lambda: newest(1))["id"]

        def converted() -> bool:
            container = getattr(stage.ecs.task_of(second), "container", None)
            return container is not None and "Converted: " in container.said

        stage.wait("it to convert something", converted)
        lost(second)
        assert stage.run(second)["state_name"] == "Running"
        stage.wait("the parent to end", lambda: stage.run(parent)["state_type"] in FINAL, 400)
        total = time.monotonic() - began
        end = stage.run(parent)
        assert (end["state_type"], end["state_name"]) == ("COMPLETED", "Completed"), end
        workers = {run["id"]: run for run in stage.workers()}
        assert {run["state_type"] for run in workers.values()} <= set(FINAL), "nothing is left running"
        assert len(workers) == 3
        # The supervisor heard nothing of it, and asked it to end: nobody was there to do that.
        assert workers[second]["state_name"] == "Cancelled"
        assert workers[second]["state"]["message"].startswith("ECS: SpotInterruption: Host EC2"), workers[second]
        said = stage.log("process-worker")
        assert "Still running" not in said and "NOT MET" not in said
        assert not stage.ecs.living()
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", "audit", f"s3://{target}/output", "--json"],
            cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        account = json.loads(done.stdout)
        assert (account["documents"], account["converted"], account["duplicates"]) == (5, 5, 0), account
        assert not [life for life in view.lives() if life.start["flow_run_id"] == first]
    with capsys.disabled():
        print(f"\nfound {found:.0f} s after the loss, over after {total:.0f} s")


def over(stage: Stage, id: str) -> dict[str, Any] | None:
    run = stage.run(id)
    return run if run["state_type"] in FINAL else None


def running(stage: Stage) -> int:
    return sum(task.status is Status.RUNNING for task in stage.ecs.living())


def waiting(stage: Stage) -> int:
    return sum(task.status is Status.PROVISIONING for task in stage.ecs.living())


def stream(stage: Stage, worker: int) -> list[dict[str, str]]:
    found = stage.client("logs").get_log_events(
        logGroupName=stage.outputs["LogGroupName"], logStreamName=f"worker-{worker}", startFromHead=True
    )
    return [json.loads(event["message"]) for event in found["events"]]
