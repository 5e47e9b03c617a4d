"""A real run on a real local Prefect server: its page, its artifacts, and the monitor in a terminal beside it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chaos.api import Api
from chaos.conftest import home
from chaos.harness import PDF_FLOWS, Place, environment

__all__ = ["home"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EVIL = "<img src=x onerror=alert(1)> \u202egnp\n\"'`.pdf"
SEVERAL_LOOKS = """
import logging, sys, time
from prefect import flow
from tasks.artifacts import RunProgress
from tasks.supervise import Progress
from tasks.view import RunView, WorkerState, WorkerView

def view(done):
    worker = WorkerView(worker=0, state=WorkerState.WORKING, done=done, total=9, in_hand=["*a*.pdf"])
    return RunView(run_id="r", input="i", output="o", engine="e", created="", at=0.0, done=done, documents=9, workers=[worker])

@flow
def looking():
    begun = time.monotonic()
    views = lambda: view(int(time.monotonic() - begun) + 1)
    with RunProgress(9, logging.getLogger("x"), 0.2, view=views) as shown:
        for number in range(1, 13):
            shown.show(Progress(processed={0: min(9, number)}))
            time.sleep(0.25)
    shown.conclude(view(9))

looking()
"""


class Terminal:
    """A command in a terminal of its own, and all that it drew."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=env)
        os.close(theirs)
        self.drawn = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                return
            if not data:
                return
            self.drawn += data

    def wait_for(self, text: str, seconds: float = 90.0) -> None:
        until = time.monotonic() + seconds
        while text.encode() not in self.drawn:
            assert time.monotonic() < until, self.drawn.decode(errors="replace")
            assert self.process.poll() is None, self.drawn.decode(errors="replace")
            time.sleep(0.1)

    def end(self, seconds: float = 90.0) -> int:
        status = self.process.wait(seconds)
        self._reader.join(5)
        assert self.process.stderr is not None
        assert self.process.stderr.read() == b""
        return status


def artifacts(api: Api, flow_run_id: str) -> dict[str, list[dict[str, Any]]]:
    """By key, those of one flow run."""
    found: dict[str, list[dict[str, Any]]] = {}
    for artifact in api.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run_id]}}):
        found.setdefault(artifact["key"], []).append(artifact)
    return found


def test_a_run_is_watched_and_reported(tmp_path: Path, home: Path) -> None:
    place = Place(tmp_path / "place", home)
    place.input.mkdir()
    for number in range(24):
        (place.input / f"d{number:02d}.pdf").write_text(f"%PDF-dummy seconds=1 pages=4\n{number}\n")
    (place.input / EVIL).write_text("%PDF-dummy fail=DAMAGED\n")
    command = place.convert("--workers", "2", "--max-failure-rate", "50%", "--price", "0.5", "--budget", "50")
    while not list(place.runs.glob("*/parent/0/heartbeat.json")):
        assert command.running
        time.sleep(0.2)
    terminal = place.environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
    watching = Terminal([str(PDF_FLOWS), "monitor", str(place.output)], terminal)
    leaving = Terminal([str(PDF_FLOWS), "monitor", str(place.output)], terminal)
    leaving.wait_for("Worker 1:")
    leaving.process.send_signal(signal.SIGINT)
    assert leaving.end() == 0
    assert command.running
    assert command.wait() == 1
    assert watching.end() == 1
    drawn = watching.drawn.decode()
    assert "Completed with failures" in drawn
    assert "25/25 (100%)" in drawn
    assert "DAMAGED 1" in drawn
    assert "\u202e" not in drawn

    (run_id,) = place.run_ids()
    page = (place.runs / run_id / "report.html").read_text()
    assert "Content-Security-Policy" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img" not in page
    assert "✓" in page
    report = json.loads((place.runs / run_id / "report.json").read_text())
    assert report["versions"]["prefect"]

    api = Api(home)
    (parent,) = api.post("flow_runs/filter", flow_runs={"name": {"any_": [run_id]}})
    found = artifacts(api, parent["id"])
    assert {"workers", "spend", "summary", "failures"} <= set(found)
    assert all(len(some) == 1 for some in found.values())
    rows = json.loads(found["workers"][0]["data"])
    assert sorted(row["worker"] for row in rows) == [0, 1]
    assert sum(row["done"] for row in rows) == 25
    assert {row["state"] for row in rows} == {"done"}
    assert "| spent | $" in found["spend"][0]["data"]
    assert f"/runs/flow-run/{api.workers(run_id)[0]['id']}" in page

    shown = place.call("report", str(place.output), "--html", str(tmp_path / "page.html"), "--json")
    assert shown.returncode == 1
    assert json.loads(shown.stdout)["state"] == "Completed with failures"
    assert "<img" not in (tmp_path / "page.html").read_text()


def test_artifacts_are_made_once_and_updated_in_place(tmp_path: Path, home: Path) -> None:
    api = Api(home)
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL_LOOKS],
        env=environment(home, tmp_path, PREFECT_API_URL=api.url),
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = api.post("flow_runs/filter", flows={"name": {"any_": ["looking"]}})
    found = artifacts(api, run["id"])
    assert {key: len(some) for key, some in found.items()} == {"progress": 1, "workers": 1, "spend": 1}
    assert float(found["progress"][0]["data"]) == 100.0
    assert json.loads(found["workers"][0]["data"])[0]["done"] == 9
    assert json.loads(found["workers"][0]["data"])[0]["in hand"] == "`*a*.pdf`"
    assert "| documents | 9 of 9 |" in found["spend"][0]["data"]
    assert found["workers"][0]["updated"] > found["workers"][0]["created"]
