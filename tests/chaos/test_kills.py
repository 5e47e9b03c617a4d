"""Kill any process at any instant: running again completes the run, once (DESIGN section 4, promises 1, 3 and 6)."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.harness import PDF_FLOWS, Command, Place, make_documents, wrong_outputs
from chaos.killer import Tally, Victim, campaign, kill_many
from chaos.processes import alive, asleep, documents_in_hand, kill, wait_for

MakePlace = Callable[..., Place]
ASSETS = 2


def converted(place: Place, count: int, command: Command) -> None:
    """Wait until so many documents are there."""
    wait_for(
        f"{count} documents", lambda: len(list(place.output.glob("*.md"))) >= count or not command.running, pause=0.02
    )
    assert command.running, command.said


def goes_on(place: Place) -> None:
    """The same command again finishes the run, and everything is there once."""
    again = place.convert()
    assert again.wait() == 0, again.said
    assert "Going on with run" in again.said
    assert (again.result()["remaining"], again.result()["duplicates"]) == (0, 0)
    assert wrong_outputs(place.input, place.output, ASSETS) == []
    assert len(place.run_ids()) == 1
    assert place.audit()["converted"] == len(list(place.input.glob("*.pdf")))
    assert place.left_over() == {}
    assert list(place.scratch.iterdir()) == []


@pytest.mark.timeout(400)
def test_five_kills(place: Place, seed: int) -> None:
    make_documents(place.input, 40, "seconds=0.15 assets=3")
    tally = Tally()
    plan = [Victim.CHILD, Victim.AFTER_ASSETS, Victim.AFTER_MARKDOWN, Victim.CHILD, Victim.PARENT_AFTER_MARKDOWN]
    campaign(place, plan, random.Random(seed), tally, assets=3)
    # The documents may be done before the last victim shows itself: how fast they are is the machine's affair.
    assert tally.kills.total() >= 3


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills(tmp_path: Path, home: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally = kill_many(tmp_path, home, 50, seed, documents=80, script="seconds=0.2", assets=3)
    with capsys.disabled():
        print(f"\nseed {seed}: {tally}")
    assert tally.kills.total() == 50
    assert len(tally.kills) == len(Victim)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_two_hundred_kills(tmp_path: Path, home: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally = kill_many(tmp_path, home, 200, seed, documents=100, script="seconds=0.2", assets=3)
    with capsys.disabled():
        print(f"\nseed {seed}: {tally}")
    assert tally.kills.total() == 200


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_child_killed_costs_a_retry_and_killed_twice_its_document(place: Place) -> None:
    make_documents(place.input, 4, f"seconds=3 assets={ASSETS}")
    command = place.convert("--workers", "1")
    quotas: dict[str, int] = {}

    def victim() -> tuple[int, str] | None:
        """A child that works on a document which is to lose one more."""
        for child in command.sandboxes():
            for text in documents_in_hand(child):
                # The first document is to lose two children, the second one.
                if quotas.get(text, 2 if not quotas else 1 if len(quotas) == 1 else 0) > 0 and asleep(child):
                    return child, text
        return None

    for _ in range(3):
        child, text = wait_for("a child at work", victim)
        quotas[text] = quotas.get(text, 2 if not quotas else 1) - 1
        assert kill(child)
    assert list(quotas.values()) == [0, 0]
    (number,) = next(iter(quotas)).splitlines()[1:]
    assert command.wait() == 1, command.said
    result = command.result()
    assert (result["converted"], result["failed"], result["quarantined"], result["remaining"]) == (3, 0, 1, 0)
    assert "CRASHED: the sandbox child was ended by SIGKILL" in command.said
    # One claim each: the worker kept its documents in hand.
    assert {path.name for path in place.runs.glob("*/claims/*/*/*")} == {"0"}
    assert place.audit()["quarantined"] == 1
    assert not (place.output / f"doc-00{number}.md").exists()

    # Not tried again unless asked.
    again = place.convert("--workers", "1")
    assert again.wait() == 1, again.said
    assert (again.result()["converted"], again.result()["failed"]) == (0, 1)
    asked = place.call("retry", str(place.output), "--workers", "1", "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["converted"] == 1
    assert wrong_outputs(place.input, place.output, ASSETS) == []


@pytest.mark.timeout(400)
def test_ctrl_c_drains_and_a_second_convert_is_refused(place: Place) -> None:
    make_documents(place.input, 30, f"seconds=0.4 assets={ASSETS}")
    first = place.convert()
    converted(place, 1, first)

    second = place.convert()
    assert second.wait(60) == 2
    assert second.said.count("\n") == 1, second.said
    assert "another run" in second.said
    assert "is converting into this output" in second.said

    assert kill(first.pid, signal.SIGINT)
    asked = time.monotonic()
    assert first.wait(60) == 3, first.said
    assert time.monotonic() - asked < 40
    assert "run the same command again to go on" in first.said
    assert "Traceback" not in first.said
    result = first.result()
    assert result["remaining"] > 0
    assert result["converted"] + result["remaining"] == 30
    assert result["failed"] == 0
    assert place.left_over(5) == {}
    assert place.audit()["remaining"] == result["remaining"]
    goes_on(place)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_sigterm_drains_and_a_second_ctrl_c_ends_at_once(place: Place) -> None:
    make_documents(place.input, 12, f"seconds=0.4 assets={ASSETS}")
    # The last two documents keep their workers from draining for as long as a drain may take.
    make_documents(place.input, 2, f"seconds=30 assets={ASSETS}", start=12)
    first = place.convert()
    converted(place, 2, first)
    assert kill(first.pid, signal.SIGTERM)
    assert first.wait(60) == 3, first.said
    assert "run the same command again to go on" in first.said
    assert "Traceback" not in first.said
    assert first.result()["remaining"] > 0

    second = place.convert("--no-steal")
    converted(place, 12, second)
    time.sleep(1)
    assert kill(second.pid, signal.SIGINT)
    second.wait_for_line("Stopping")
    assert kill(second.pid, signal.SIGINT)
    asked = time.monotonic()
    assert second.wait(60) == 3, second.said
    assert time.monotonic() - asked < 15
    assert "run the same command again to go on" in second.said
    assert "Traceback" not in second.said
    assert place.left_over(5) == {}
    goes_on(place)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_frozen_worker_is_ended_and_its_documents_are_taken_up(place: Place) -> None:
    make_documents(place.input, 24, f"seconds=0.4 assets={ASSETS}")
    command = place.convert()
    converted(place, 2, command)
    # One that was frozen before its first heartbeat would be another case: a worker that never started.
    wait_for("both workers to begin", lambda: command.said.count("Starting processing") == 2)
    frozen = command.workers()[0]
    assert kill(frozen, signal.SIGSTOP)
    assert command.wait(200) == 0, command.said
    assert "not heard of for" in command.said
    assert command.result()["converted"] == 24
    assert not alive(frozen)
    assert wrong_outputs(place.input, place.output, ASSETS) == []
    assert place.left_over(5) == {}
    place.audit()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_log_that_nobody_reads_any_more_costs_no_work(place: Place, tmp_path: Path) -> None:
    make_documents(place.input, 12, f"seconds=0.2 assets={ASSETS}")
    words = [str(PDF_FLOWS), "convert", place.source_url, place.output_url, "--engine", "dummy"]
    line = f"{{ {shlex.join(words)} 2>&1; echo status $? >&3; }} 3>{shlex.quote(str(tmp_path / 'status'))} | head -n 3"
    done = subprocess.run(
        ["bash", "-c", line], env=place.environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (tmp_path / "status").read_text() == "status 0\n", done.stdout + done.stderr
    assert wrong_outputs(place.input, place.output, ASSETS) == []
    place.audit()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_of_a_killed_parent_end_by_themselves(place: Place) -> None:
    make_documents(place.input, 40, f"seconds=0.4 assets={ASSETS}")
    command = place.convert()
    converted(place, 2, command)
    beats = "*/workers/*/*/heartbeat.json"
    wait_for("both workers at work", lambda: len(list(place.runs.glob(beats))) == 2)
    workers = command.workers()
    assert kill(command.pid)
    killed = time.monotonic()
    command.process.wait()
    assert place.left_over(40) == {}
    assert time.monotonic() - killed < 35
    assert not any(alive(pid) for pid in workers)
    ended = [json.loads(path.read_bytes())["ended"] for path in place.runs.glob(beats)]
    assert ended == ["the parent is gone"] * 2
    goes_on(place)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_workers_finish_when_the_prefect_server_is_killed(new_place: MakePlace, tmp_path: Path) -> None:
    place = new_place(home=tmp_path / "own-home")
    make_documents(place.input, 40, f"seconds=0.5 assets={ASSETS}")
    command = place.convert()
    converted(place, 4, command)
    state = json.loads((tmp_path / "own-home" / "server.json").read_bytes())
    # The keeper first: it would start the server again.
    assert kill(state["pid"])
    assert kill(state["server_pid"])
    killed = time.monotonic()
    converted_all = wait_for("all documents", lambda: len(list(place.output.glob("*.md"))) == 40 and time.monotonic())
    assert command.wait(120) == 0, command.said
    assert time.monotonic() - converted_all < 60
    assert converted_all - killed < 60
    assert "Traceback" not in command.said, command.said
    result = command.result()
    assert (result["converted"], result["remaining"], result["duplicates"]) == (40, 0, 0)
    assert wrong_outputs(place.input, place.output, ASSETS) == []
    assert place.audit()["converted"] == 40
    assert place.left_over() == {}
