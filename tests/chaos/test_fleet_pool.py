"""A fleet on a work pool: a parent that was killed finds its workers again, and one that is cancelled takes them along."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.api import Api
from chaos.harness import PDF_FLOWS, Place, environment, make_documents, wrong_outputs
from chaos.processes import kill, wait_for
from chaos.seen import RunView, SeenLife

MakePlace = Callable[..., Place]
POOL = ("--launcher", "work-pool", "--canary", "0")
CANCEL_SECONDS = 30.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a `pdf-flows up`."""
    folder = tmp_path_factory.mktemp("pools")
    home, log = folder / "home", folder / "log"
    with log.open("wb") as said:
        up = subprocess.Popen(
            [PDF_FLOWS, "up"],
            env=environment(home, folder / "tmp"),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            wait_for("pdf-flows up", lambda: "Ctrl-C" in log.read_text() or up.poll() is not None, 180)
            assert up.poll() is None, log.read_text()
            yield home
        finally:
            up.terminate()
            try:
                up.wait(120)
            except subprocess.TimeoutExpired:
                up.kill()


def both_at_work(view: RunView, running: Callable[[], bool]) -> list[SeenLife]:
    """Wait until both workers have converted something."""

    def look() -> list[SeenLife] | None:
        lives = [life for life in view.lives() if life.beat.get("converted")]
        return lives if len(lives) == 2 or not running() else None

    lives = wait_for("both workers at work", look, 180, pause=0.2)
    assert running()
    return lives


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_parent_that_was_killed_adopts_its_living_workers(new_place: MakePlace, pools: Path) -> None:
    place = new_place(home=pools)
    make_documents(place.input, 60, "seconds=0.8 assets=1")
    first = place.convert(*POOL)
    view = place.view()
    before = both_at_work(view, lambda: first.running)
    assert kill(first.pid)
    first.process.wait()
    time.sleep(2)
    assert not any(life.ended for life in view.lives()), "they go on without a parent for a while"

    second = place.convert(*POOL)
    assert second.wait() == 0, second.said
    assert second.said.count("lives: adopted") == 2, second.said
    assert [life.name for life in view.lives()] == [life.name for life in before], "no second copy of a worker"
    assert view.keys("launches/") == ["0/0.json", "1/0.json"]
    assert all(life.fence is None and life.ended == "complete" for life in view.lives())
    runs = Api(pools).workers(view.run_id or "")
    assert [run["state_type"] for run in runs] == ["COMPLETED"] * 2, runs
    result = second.result()
    assert (result["converted"], result["remaining"], result["duplicates"]) == (60, 0, 0)
    assert wrong_outputs(place.input, place.output, 1) == []
    assert place.audit()["converted"] == 60
    assert place.left_over() == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cancelling_the_parent_drains_its_workers_within_seconds(
    new_place: MakePlace, pools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, api = new_place(home=pools), Api(pools)
    make_documents(place.input, 70, "seconds=0.6 assets=1")
    (deployment,) = api.post("deployments/filter", deployments={"name": {"any_": ["convert-corpus"]}})
    parameters = {"input": place.source_url, "output": place.output_url, "engine": "dummy", "canary": 0}
    parent = api.post(f"deployments/{deployment['id']}/create_flow_run", parameters=parameters)["id"]
    view = place.view()
    both_at_work(view, lambda: api.run(parent)["state_type"] not in FINAL)

    api.post(f"flow_runs/{parent}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    asked = time.monotonic()
    wait_for("the workers to end", lambda: all(life.ended for life in view.lives()), 120, pause=0.1)
    drained = time.monotonic() - asked
    wait_for("the parent to end", lambda: api.run(parent)["state_type"] in FINAL, 120, pause=0.5)
    ended = time.monotonic() - asked
    with capsys.disabled():
        print(f"\ncancelled: workers drained after {drained:.1f} s, the parent ended after {ended:.1f} s")
    assert drained < CANCEL_SECONDS
    assert api.run(parent)["state_type"] == "CANCELLED"
    said = "\n".join(entry["message"] for entry in api.post("logs/filter", logs={"flow_run_id": {"any_": [parent]}}))
    assert "Stopping: cancelled" in said
    assert "Traceback" not in said
    assert all(life.fence is None for life in view.lives()), view.lives()
    wait_for(
        "the workers' flow runs to end",
        lambda: all(run["state_type"] in FINAL for run in api.workers(view.run_id or "")),
        60,
    )
    assert {run["state_name"] for run in api.workers(view.run_id or "")} == {"Drained"}
    account = place.audit()
    assert account["converted"] + account["remaining"] == 70
    assert account["remaining"] > 0

    again = place.convert("--workers", "4")
    assert again.wait() == 0, again.said
    assert wrong_outputs(place.input, place.output, 1) == []
    assert place.audit()["converted"] == 70
