"""What the chaos tests are made of: documents, places with an input and an output, and the command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.processes import (
    LAUNCH_SECONDS,
    children_of,
    command_of,
    kill,
    parent_of,
    pids,
    wait_for,
)
from chaos.seen import RunView

ROOT = Path(__file__).resolve().parents[2]
PDF_FLOWS = Path(sys.executable).with_name("pdf-flows")
TOKEN = "PDF_FLOWS_CHAOS_TOKEN"
"""In the environment of a command and, by inheritance, of its workers: how what is left of them is found."""
CHILD = b"tasks.engines.child"
WORKERS = (b"tasks.worker_flow", b"tasks.worker_process")
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""A pid namespace: the processes in it take themselves for those of another host."""


# -- documents ------------------------------------------------------------------------------------------------------


def make_documents(folder: Path, count: int, script: str = "seconds=0.2 assets=2", start: int = 0) -> None:
    """Dummy documents `doc-000.pdf`, ...: the engine's script on the first line, the number on the second."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        (folder / f"doc-{number:03}.pdf").write_text(f"%PDF-dummy {script}\n{number}\n")


def wrong_outputs(source: Path, output: Path, assets: int) -> list[str]:
    """What is wrong with the outputs of dummy documents: one missing, one that is not its own document's, anything extra."""
    found: list[str] = []
    expected = set()
    for pdf in sorted(source.glob("*.pdf")):
        markdown = output / f"{pdf.stem}.md"
        expected.add(markdown.name)
        if not markdown.is_file():
            found.append(f"{markdown.name} is missing")
            continue
        digest = hashlib.sha256(pdf.read_bytes()).hexdigest()
        text = markdown.read_text()
        if "Page 1 of a document that nobody read." not in text:
            found.append(f"{markdown.name} has no text")
        wanted = {f"asset {number} of {digest}\n" for number in range(assets)}
        files = {f"{hashlib.sha256(content.encode()).hexdigest()}.txt": content for content in wanted}
        folder = output / f"{pdf.stem}.assets"
        there = {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}
        if there != files:
            found.append(f"{folder.name} is not what its document has")
        found += [f"{markdown.name} has no link to {name}" for name in files if f"{folder.name}/{name}" not in text]
    found += [f"{path.name} belongs to no document" for path in output.glob("*.md") if path.name not in expected]
    return found


# -- the command ----------------------------------------------------------------------------------------------------


def can_unshare() -> bool:
    """Whether a pid namespace can be made here."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def environment(home: Path, scratch: Path, **more: str) -> dict[str, str]:
    """A user's environment: no Prefect settings of the tests' own, temporary files where the test can look at them."""
    scratch.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PDF_FLOWS_"))}
    return kept | {"PDF_FLOWS_HOME": str(home), "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"} | more


class Place:
    """One input with one output, its temporary folder, and the commands on them."""

    def __init__(self, folder: Path, home: Path, *, output: str | None = None, source: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.input, self.output, self.scratch = folder / "in", folder / "out", folder / "tmp"
        self.source_url, self.output_url = source or str(self.input), output or str(self.output)
        self.engine = "dummy"
        self.token = uuid.uuid4().hex
        self.environment = environment(home, self.scratch, **{TOKEN: self.token})
        self.started: list[Command] = []

    @property
    def runs(self) -> Path:
        """`<runs>` of a folder."""
        return self.output / "_runs"

    def view(self, run_id: str | None = None) -> RunView:
        """A run as its objects show it, the latest one unless it is named."""
        return RunView(f"{self.output_url}/_runs", run_id)

    def convert(self, *options: str, elsewhere: bool = False, **more: str) -> Command:
        """Start `pdf-flows convert`; `elsewhere`: on another host, as far as pids can tell (see `can_unshare`)."""
        words = ["convert", self.source_url, self.output_url, "--engine", self.engine, "--json", *options]
        before = UNSHARE if elsewhere else []
        command = Command(
            self.folder / f"call-{len(self.started)}", [*before, str(PDF_FLOWS), *words], self.environment | more
        )
        self.started.append(command)
        return command

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another command, to its end."""
        return subprocess.run(
            [PDF_FLOWS, *words], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def audit(self, run_id: str | None = None) -> dict[str, Any]:
        """The accounting of a run. AssertionError unless it closes and came to its end."""
        done = self.call("audit", self.output_url, *([run_id] if run_id else []), "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def run_ids(self) -> list[str]:
        """Runs that were written down, oldest first."""
        return sorted(path.parent.name for path in self.runs.glob("*/run.json"))

    def remaining(self, run_id: str) -> int | None:
        """Documents that a run left, by its report; None where it has none yet."""
        try:
            found: int = json.loads((self.runs / run_id / "report.json").read_text())["remaining"]
        except FileNotFoundError:
            return None
        return found

    def records(self) -> Iterator[dict[str, Any]]:
        """All ledger records of all runs."""
        for path in sorted(self.runs.glob("*/workers/*/*/ledger-*.jsonl")):
            for line in path.read_bytes().splitlines():
                yield json.loads(line) | {"run": path.parts[-5]}

    def ours(self) -> dict[int, str]:
        """Processes that the commands started and that are still there."""
        token, found = f"{TOKEN}={self.token}".encode(), {}
        for pid in pids():
            if parent_of(pid) is None:
                continue
            with contextlib.suppress(OSError):
                # A sandbox child inherits no environment; it works in its worker's temporary folder.
                mine = token in Path(f"/proc/{pid}/environ").read_bytes()
                if mine or Path(f"/proc/{pid}/cwd").resolve().is_relative_to(self.scratch):
                    found[pid] = command_of(pid).replace(b"\0", b" ").decode()[:200]
        return found

    def left_over(self, seconds: float = 30.0) -> dict[int, str]:
        """What is still there after a while of patience."""
        until = time.monotonic() + seconds
        while (found := self.ours()) and time.monotonic() < until:
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """End whatever a failed test left."""
        for pid in self.ours():
            kill(pid)
        for command in self.started:
            command.process.poll()


class Command:
    """One call of `pdf-flows convert`, as a process."""

    def __init__(self, place: Path, words: list[str], env: dict[str, str]) -> None:
        self._out, self._err = place.with_suffix(".out"), place.with_suffix(".err")
        self.begun = time.monotonic()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True
            )
        self.pid = self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def said(self) -> str:
        """Its stderr up to now."""
        return self._err.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Its worker processes."""
        return children_of(self.pid, *WORKERS)

    def sandboxes(self) -> list[int]:
        """Its workers' sandbox children."""
        return [child for worker in self.workers() for child in children_of(worker, CHILD)]

    def wait(self, seconds: float = 240.0) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"convert did not end within {seconds:g} s; it said:\n{self.said[-4000:]}") from None

    def wait_for_line(self, text: str, seconds: float = LAUNCH_SECONDS) -> None:
        """Until stderr has the text."""
        wait_for(f"{text!r} on stderr", lambda: text in self.said or not self.running, seconds)
        assert text in self.said, self.said[-4000:]

    def result(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found: dict[str, Any] = json.loads(self._out.read_text())
        return found
