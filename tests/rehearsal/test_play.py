"""`make rehearse` as its user sees it: the transcript, the status, and bad input."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.rehearsal.image import ROOT


def rehearse(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployments.rehearsal", *words],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere is no folder: name one with PDFs (samples/ has some)"),
        (["docs"], "no PDFs (*.pdf) in docs"),
        (["samples", "--workers", "0"], "bad --workers: 0"),
        (["samples", "--keep", "docs"], "bad --keep: docs is no empty folder"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str) -> None:
    done = rehearse(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rehearsal: {said}\n")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_samples_are_converted_and_one_machine_is_lost_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of whoever calls it: must not get in.
    monkeypatch.setenv("AWS_PROFILE", "nonesuch")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = rehearse("samples", "--keep", str(tmp_path / "kept"), timeout=880)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == f"logs: {tmp_path / 'kept'}\n"
    *lines, last = done.stdout.splitlines()
    assert last == "all accounted for, nothing left"
    assert all(re.match(r" *\d+\.\d s  \S|.{10}  \S", line) for line in lines), lines
    text = [line.split(" s  ", 1)[1] for line in lines]
    pdfs = len(list((ROOT / "samples").glob("*.pdf")))
    order = (
        r"up: Prefect at http",
        rf"{pdfs} PDFs are in s3://",
        r"flow run convert-corpus: Running",
        r"task \w{8} RUNNING on i-0",
        r"EC2 gives i-0\w+ notice: in 120 s it is gone",
        rf"convert-corpus: Completed: {pdfs} converted, 0 skipped",
        r"  the accounting closes",
        r"left: no task, no flow run; \d machines were used",
    )
    found = [next((i for i, line in enumerate(text) if re.match(pattern, line)), -1) for pattern in order]
    assert -1 not in found and found == sorted(found), dict(zip(order, found, strict=True))
    assert any(re.match(r"the watcher on i-0\w+ has handed the notice on to the container", line) for line in text)
    assert list((tmp_path / "kept/stage/logs").glob("*.log")), "of the containers"
