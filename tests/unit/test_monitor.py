"""`pdf-flows monitor`: one screen, whatever the run; and nothing on it that acts on the terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MotoS3
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from watched_run import RUN_ID, WatchedRun

from deployments.cli import app
from deployments.monitor import bar, counted, eta_words, lines
from tasks.corpus.failures import UsageError
from tasks.corpus.store_folder import FolderStore
from tasks.corpus.store_s3 import S3Store
from tasks.eta import Eta
from tasks.fleet.money import Money
from tasks.lookout import Lookout
from tasks.view import Interruption, RunView, WorkerState, WorkerView

EVIL = "a\x1b]0;owned\x07\x1b[2J\u202egpj.exe\nb[red]c</script>\r.pdf"


def view(workers: int = 3, **changes: object) -> RunView:
    given = {
        "run_id": RUN_ID,
        "input": "in",
        "output": "out",
        "engine": "layout",
        "created": "",
        "at": 0.0,
        "documents": 4000,
        "done": 1123,
        "converted": 1111,
        "failed": 12,
        "remaining": 2877,
        "pages": 20_000,
        "pages_per_second": 12.3,
        "eta": Eta(likely=65_520.0, least=60_000.0, most=72_000.0),
        "causes": {"DAMAGED": 9, "ENCRYPTED": 3},
        "money": Money(spent=4.23, projected=15.1, budget=100.0),
        "workers": [
            WorkerView(worker=k, state=WorkerState.WORKING, done=234, total=800, eta=65_520.0 + k, pages_per_second=0.1)
            for k in range(workers)
        ],
        **changes,
    }
    return RunView(**given)


def test_the_lines_have_the_form_that_was_asked_for() -> None:
    text = [line.plain for line in lines(view(), width=0, height=0)]
    assert any(line.startswith("Worker 0: ██░░░░░░░░ 234/800 (29%) | ETA: 18.2 h") for line in text)
    assert "Total:    ██░░░░░░░░ 1,123/4,000 (28%) | $4.23 spent, $15.10 projected, budget $100.00" in text
    assert "Pace:     12.30 pages/s, 20,000 pages | ETA: 18.2 h (16.7 h to 20.0 h)" in text
    assert "Failures: 12: DAMAGED 9, ENCRYPTED 3" in text


@given(st.integers(0, 300), st.integers(8, 80), st.integers(20, 200))
def test_it_stays_on_one_screen_and_sums_up_the_rest(workers: int, height: int, width: int) -> None:
    shown = lines(view(workers), width=width, height=height)
    assert len(shown) <= max(height, 11)
    assert all(line.cell_len <= width for line in shown)
    text = "\n".join(line.plain for line in lines(view(workers), width=0, height=height))
    if (others := workers - text.count("Worker ")) > 0:
        assert f"{others} others:" in text
        assert f"{234 * others:,}/{800 * others:,}" in text


def test_200_workers_show_the_worst_first() -> None:
    workers = [
        WorkerView(worker=k, state=WorkerState.STUCK if k == 177 else WorkerState.WORKING, total=9, eta=float(k))
        for k in range(200)
    ]
    text = [line.plain for line in lines(view(workers=0).model_copy(update={"workers": workers}), width=0, height=24)]
    assert text[1].startswith("Worker 177:")
    assert text[2].startswith("Worker 199:")


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_bar_is_full_only_at_the_end(done: int, total: int) -> None:
    assert len(bar(done, total)) == 10
    assert ("░" not in bar(done, total)) == (0 < total <= done)
    assert ("(100%)" in counted(done, total)) == (0 < total <= done)


def test_an_eta_without_a_band_and_one_without_an_end() -> None:
    assert eta_words(None) == "not known yet"
    assert eta_words(Eta(likely=60)) == "60 s"
    assert eta_words(Eta(likely=60, least=50, most=None)) == "60 s (50 s to no end in sight)"


def hostile_run(folder: Path) -> WatchedRun:
    store = FolderStore.from_url(str(folder / "out" / "_runs"), create=True)
    run = WatchedRun(store, 10, 1, keys={1: EVIL}, output=str(folder / "out"))
    run.live(0, in_hand=[EVIL], page=2)
    run.fail(0, 1, message=EVIL)
    run.flush()
    run.work(0)
    run.put("parent/0/stop.json", EVIL.encode())
    run.fence(0, 0, EVIL)
    return run


def test_no_control_character_of_a_name_reaches_the_terminal(tmp_path: Path) -> None:
    run = hostile_run(tmp_path)
    with Lookout(run.store, run.spec) as lookout:
        seen = lookout.look()
    seen = seen.model_copy(
        update={"interruptions": [*seen.interruptions, Interruption(worker=0, attempt=0, why="w", at=1.0)]}
    )
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=300)
    for line in lines(seen, width=0, height=0):
        console.print(line)
    text = out.getvalue()
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "\r" not in text
    assert "[red]c" in text


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("pdf-flows")), "monitor", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_looks_once_where_there_is_no_terminal(tmp_path: Path) -> None:
    run = hostile_run(tmp_path)
    out = str(tmp_path / "out")
    plain = command(out)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "Worker 0:" in plain.stdout
    assert "\x1b" not in plain.stdout
    done = command(RUN_ID, "--output", out, "--once", "--json")
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["run_id"], told["failed"], told["exit_status"]) == (RUN_ID, 1, 0)
    run.parent(ended="ended", counter=9)
    run.beat(0, ended="drained")
    assert command(out, RUN_ID).returncode == 3


def test_the_command_reads_buckets(moto_s3: MotoS3, capsys: pytest.CaptureFixture[str]) -> None:
    url = moto_s3.new_bucket()
    run = WatchedRun(S3Store.from_url(f"{url}/out/_runs"), 10, 1, output=f"{url}/out")
    run.live(0)
    run.record(0, 1)
    run.flush()
    run.work(0)
    assert app(["monitor", f"{url}/out", "--json"], exit_on_error=False, result_action="return_value") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["converted"], told["workers"][0]["state"]) == (1, "working")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-run"], "is no folder"),
        (["/nowhere/at/all"], "no such folder"),
        ([".", "bad id"], "there are no runs"),
        (["out", "id", "--output", "o"], "two outputs"),
    ],
)
def test_bad_words_are_one_clear_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        app(["monitor", *words], exit_on_error=False, result_action="return_value")
