"""`pdf-flows rehearse` as its user sees it: the transcript, the figures, the status, bad input, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.rehearsal import command
from deployments.rehearsal.image import ROOT
from tasks.corpus.failures import UsageError

REHEARSE = (sys.executable, "-m", "deployments.cli", "rehearse")
PROC = Path("/proc")


@pytest.mark.parametrize(
    ("input", "options", "said"),
    [
        ("nowhere", {}, "nowhere is no folder: name one with PDFs (samples/ has some)"),
        ("docs", {}, "no PDFs (*.pdf) in docs"),
        ("samples", {"workers": 2}, "bad --workers 2: give 3 to 5"),
        ("samples", {"limit": 0}, "bad --limit 0: give 1 to 2000"),
        ("samples", {"copies": 401}, "bad --copies 401: give 1 to 400"),
        ("samples", {"pages": 0}, "bad --pages 0: give 1 or more"),
        ("samples", {"documents": -1}, "bad --documents -1: give 1 or more"),
        ("samples", {"output": Path("docs")}, "bad --output: docs is no empty folder"),
        ("samples", {"weights": Path("docs")}, "--weights goes with --engine dolphin"),
        ("samples", {"engine": "dolphin"}, "--engine dolphin needs --weights: a folder with a tiny model"),
        ("samples", {"engine": "dolphin", "weights": Path("no")}, "bad --weights: no is no folder"),
        ("samples", {"s3_errors": "many"}, "bad --s3-errors 'many': give a share from 0% to 50%"),
        ("samples", {"pages_per_second": ["fast"]}, "bad --pages-per-second 'fast': give TYPE=RATE"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(
    input: str, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError) as refused:
        command.rehearse(Path(input), **options)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NEEDED", ("moto", "nothing_of_this_name"))
    with pytest.raises(UsageError) as refused:
        command.rehearse(ROOT / "samples")
    assert str(refused.value) == (
        "nothing_of_this_name is not installed: sh requirements/install.sh dev brings what a rehearsal needs"
    )


def test_bad_input_is_one_line_and_status_2() -> None:
    done = subprocess.run([*REHEARSE, "nowhere"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    said = "pdf-flows: nowhere is no folder: name one with PDFs (samples/ has some)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def processes_of(folder: Path) -> dict[int, str]:
    """Processes that have something of a folder in their environment, command line or working directory."""
    found = {}
    for process in PROC.glob("[0-9]*"):
        try:
            about = [(process / name).read_bytes() for name in ("environ", "cmdline")]
            about.append(os.fsencode((process / "cwd").readlink()))
        except OSError:
            continue
        if any(os.fsencode(folder) in text for text in about):
            found[int(process.name)] = about[1].replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_forty_documents_come_through_all_the_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two interruptions, a drought, S3 errors and the parent's death: all accounted for, once, nothing left."""
    # Of whoever calls it: must not get in.
    monkeypatch.setenv("AWS_PROFILE", "nonesuch")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    kept = tmp_path / "kept"
    trouble = ("--interruptions", "2", "--no-capacity", "5m", "--s3-errors", "3%", "--kill-parent")
    corpus = ("--documents", "4000", "--pages-per-second", "g4dn.xlarge=0.3")
    done = subprocess.run(
        [*REHEARSE, "samples", "--copies", "9", *trouble, *corpus, "--json", "--output", str(kept)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=880, check=False,
    )  # fmt: skip
    with capsys.disabled():
        print("\n" + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert processes_of(tmp_path) == {}
    (line,) = done.stdout.splitlines()
    told = json.loads(line)

    # What convert --json prints, and more.
    documents = 9 * len(list((ROOT / "samples").glob("*.pdf")))
    assert documents >= 40
    assert (told["documents"], told["converted"], told["remaining"], told["duplicates"]) == (documents, documents, 0, 0)
    assert (told["engine"], told["workers"], told["ok"], told["left"], told["clock"]) == ("layout", 3, True, [], 6.0)
    audit = told["audit"]
    assert (audit["status"], audit["closes"], audit["converted"], audit["lost"]) == (0, True, documents, 0)
    given = told["given"]
    assert (given["interruptions"], given["droughts"], given["parents_killed"]) == (2, 1, 1)
    assert given["drought_seconds"] <= 60
    assert given["waited"] >= 1, "somebody's successor had no machine"
    assert given["s3_requests"]["passed"] > given["s3_requests"]["error"] > 0
    assert told["machines"] >= 3
    assert told["money"]["spent"] > 0, "the market's prices were believed"
    aws = told["aws"]
    assert (aws["documents"], aws["sample"]) == (4000, documents // 9)
    assert aws["pages_error"] > 0
    assert 0 < aws["usd"]["low"] < aws["usd"]["likely"] < aws["usd"]["high"]
    assert len(told["differences"]) >= 5

    # In this order.
    text = [line.split(" s  ", 1)[-1] for line in done.stderr.splitlines()]
    order = (
        r"up: Prefect at http",
        rf"{documents} PDFs are in s3://",
        r"flow run convert-corpus: Running",
        r"task \w{8} RUNNING on i-0",
        r"no capacity from now on: no machine is to be had for 5 min \(50 s here\)",
        r"EC2 gives i-0\w+ notice: in 20 s it is gone",
        r"SIGKILL at the parent",
        r"convert-corpus is triggered again",
        r"EC2 gives i-0\w+ notice: in 20 s it is gone",
        rf"convert-corpus: Completed: {documents} converted, 0 skipped",
        r"all of it is down",
        rf"accounting  {documents} documents = {documents} converted",
        r"audit       exit status 0, the accounting closes",
        r"left        no task, no flow run, no process",
        r"predicted   on AWS, 4,000 documents like these",
        r"differs     from AWS:",
        r"all accounted for, nothing left",
    )
    at = 0
    for pattern in order:
        at = next((i + 1 for i, line in enumerate(text[at:], at) if re.match(pattern, line)), 0)
        assert at, f"{pattern!r} is not there, or not in its place"
    assert sum("has handed the notice on to the container" in line for line in text) >= 1

    # Kept as it said.
    assert len(list((kept / "output").rglob("*.md"))) >= documents
    assert (kept / "output/copy-9/tides.md").read_text() == (kept / "output/tides.md").read_text()
    assert list((kept / "stage/logs").glob("*.log")), "of the containers"
    assert json.loads((kept / "rehearsal.json").read_text()) == told
    assert "differs     from AWS:" in (kept / "transcript.txt").read_text()


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*REHEARSE, "samples", "--output", str(kept)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + 240
        # In the midst of it: server, both workers, the parent and containers are there.
        while " RUNNING on i-0" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        there = processes_of(kept)
        assert len(there) > 5, there
        process.send_signal(signal.SIGINT)
        # Somebody who is in a hurry.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 3
    finally:
        process.kill()
        process.wait()
    assert log.read_text().splitlines()[-1] == "pdf-flows: interrupted; nothing of the rehearsal is left"
    assert processes_of(kept) == {}
