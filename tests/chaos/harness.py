"""What the chaos tests are made of: documents, the command, its processes, instants at which to kill, and the audit.

Everything is looked at from outside: processes through /proc, the run through its files. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PDF_FLOWS = Path(sys.executable).with_name("pdf-flows")
TOKEN = "PDF_FLOWS_CHAOS_TOKEN"
"""In the environment of a command and, by inheritance, of its workers: how what is left of them is found."""
LAUNCH_SECONDS = 120.0
"""How long a command or a worker may take to come up on a busy machine."""
CHILD = b"tasks.engines.child"
WORKERS = (b"tasks.worker_flow", b"tasks.worker_process")
T = TypeVar("T")


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


# -- processes ------------------------------------------------------------------------------------------------------


def parent_of(pid: int) -> int | None:
    """The parent's pid; None for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def command_of(pid: int) -> bytes:
    """Its command line, words separated by NUL."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pids() -> list[int]:
    """All processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def children_of(parent: int, *words: bytes) -> list[int]:
    """Living children whose command line has one of the words."""
    return [pid for pid in pids() if parent_of(pid) == parent and any(word in command_of(pid) for word in words)]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return parent_of(pid) is not None


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; whether there was somebody to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_for(what: str, look: Callable[[], T | None], seconds: float = LAUNCH_SECONDS, pause: float = 0.05) -> T:
    """The first truthy thing that `look` sees. AssertionError with `what` after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def documents_in_hand(child: int) -> set[str]:
    """Contents of the documents in a sandbox child's folder."""
    found = set()
    with contextlib.suppress(OSError):
        for pdf in Path(f"/proc/{child}/cwd").resolve().glob("document-*/document.pdf"):
            with contextlib.suppress(OSError):
                found.add(pdf.read_text())
    return found


def asleep(pid: int, seconds: float = 0.7) -> bool:
    """Whether a process does nothing for a while: a dummy engine at work on a page, not one that is being loaded."""

    def look() -> tuple[str, ...]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ()
        return (fields[0], *fields[11:13])

    before = look()
    time.sleep(seconds)
    return before[:1] == ("S",) and look() == before


class Watch:
    """inotify on one folder: the names that are created in it, the moment they are."""

    _CREATED = 0x100 | 0x80  # IN_CREATE, IN_MOVED_TO

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(folder), self._CREATED) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def names(self, seconds: float) -> list[str]:
        """What came next, [] if nothing did for so long."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return []
        data, found = os.read(self._fd, 1 << 16), []
        while data:
            length = struct.unpack("iIII", data[:16])[3]
            found.append(data[16 : 16 + length].rstrip(b"\0").decode())
            data = data[16 + length :]
        return found


# -- the command ----------------------------------------------------------------------------------------------------


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
        self.token = uuid.uuid4().hex
        self.environment = environment(home, self.scratch, **{TOKEN: self.token})
        self.started: list[Command] = []

    @property
    def runs(self) -> Path:
        """`<runs>` of a folder."""
        return self.output / "_runs"

    def convert(self, *options: str, **more: str) -> Command:
        """Start `pdf-flows convert`."""
        words = ["convert", self.source_url, self.output_url, "--engine", "dummy", "--json", *options]
        command = Command(self.folder / f"call-{len(self.started)}", words, self.environment | more)
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
                [PDF_FLOWS, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True
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


# -- kills ----------------------------------------------------------------------------------------------------------


class Victim(StrEnum):
    """Who is killed, and when."""

    CHILD = "sandbox child"
    WORKER = "worker"
    AFTER_ASSETS = "worker between assets and .md"
    AFTER_MARKDOWN = "worker between .md and ledger"
    PARENT = "parent"
    PARENT_AFTER_MARKDOWN = "parent as an .md appears"


@dataclass
class Tally:
    """What was done, and what it cost."""

    kills: Counter[str] = field(default_factory=Counter)
    campaigns: int = 0
    calls: int = 0
    documents: int = 0
    intents: int = 0
    recovered: int = 0
    claims: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({kinds}); {self.campaigns} runs of {self.documents} documents in all, "
            f"{self.calls} calls, {self.seconds:.0f} s; {self.claims - self.documents} documents taken up again, of them "
            f"{self.recovered} found published by the dead, {self.intents - self.documents} dead between intent and .md"
        )


class Killer:
    """Kills what belongs to one place, at instants drawn from `random`."""

    def __init__(self, place: Place, random: random.Random, tally: Tally) -> None:
        self._place = place
        self._random = random
        self._tally = tally
        self._hurt: set[str] = set()
        """Documents whose child was killed once: a second time would quarantine them, as promised."""

    def strike(self, victim: Victim, command: Command) -> bool:
        """Kill once. False if the command ended, or there was nobody, before the instant came."""
        match victim:
            case Victim.CHILD:
                done = self._after_delay(command, 2.0) and self._child(command)
            case Victim.WORKER:
                done = self._after_delay(command, 3.0) and self._any(command.workers())
            case Victim.PARENT:
                done = self._after_delay(command, 8.0) and kill(command.pid)
            case Victim.PARENT_AFTER_MARKDOWN:
                done = self._markdown(command) is not None and kill(command.pid)
            case Victim.AFTER_ASSETS:
                done = self._between_assets_and_markdown(command)
            case Victim.AFTER_MARKDOWN:
                name = self._markdown(command)
                done = name is not None and self._holder_dies(command, name)
        if done:
            self._tally.kills[victim.value] += 1
        return done

    def _after_delay(self, command: Command, most: float) -> bool:
        until = time.monotonic() + self._random.uniform(0.05, most)
        while time.monotonic() < until and command.running:
            time.sleep(0.02)
        return command.running

    def _any(self, victims: list[int]) -> bool:
        return bool(victims) and kill(self._random.choice(sorted(victims)))

    def _child(self, command: Command) -> bool:
        for child in self._random.sample(children := sorted(command.sandboxes()), len(children)):
            if not kill(child, signal.SIGSTOP):
                continue
            # Stopped: its worker can still take one answer and hand over the next document, then nothing moves.
            time.sleep(0.15)
            hands = documents_in_hand(child)
            if hands & self._hurt:
                kill(child, signal.SIGCONT)
                continue
            self._hurt |= hands
            return kill(child)
        return False

    def _markdown(self, command: Command) -> str | None:
        """Wait for some .md to appear."""
        skip = self._random.randrange(4)
        with Watch(self._place.output) as watch:
            while command.running:
                for name in watch.names(0.2):
                    if name.endswith(".md"):
                        if skip == 0:
                            return name
                        skip -= 1
        return None

    def _between_assets_and_markdown(self, command: Command) -> bool:
        """Catch a worker whose document has an asset but no .md yet."""
        with Watch(self._place.output) as watch:
            while command.running:
                for name in watch.names(0.2):
                    if name.endswith(".assets") and self._caught(command, name.removesuffix(".assets")):
                        return True
        return False

    def _caught(self, command: Command, stem: str) -> bool:
        output = self._place.output
        for _ in range(200):
            workers = command.workers()
            for pid in workers:
                kill(pid, signal.SIGSTOP)
            try:
                if (output / f"{stem}.md").exists():
                    return False
                if any((output / f"{stem}.assets").glob("[0-9a-f]*")):
                    return self._holder_dies(command, f"{stem}.md")
            finally:
                for pid in workers:
                    kill(pid, signal.SIGCONT)
            time.sleep(0.001)
        return False

    def _holder_dies(self, command: Command, name: str) -> bool:
        """Stop the workers, find out who has the document, kill that one if its ledger has no outcome of it yet."""
        workers = command.workers()
        for pid in workers:
            kill(pid, signal.SIGSTOP)
        try:
            index = int(name.removeprefix("doc-").removesuffix(".md"))
            claims = sorted(self._place.runs.glob(f"*/claims/*/{index:09}/[0-9]*"), key=lambda p: (p.parts[-5], p.name))
            if not claims:
                return False
            holder = json.loads(claims[-1].read_bytes())
            life = claims[-1].parents[3] / "workers" / str(holder["worker"]) / str(holder["attempt"])
            settled = any(
                record["index"] == index and record["outcome"] not in ("intent", "released")
                for path in life.glob("ledger-*.jsonl")
                for record in map(json.loads, path.read_bytes().splitlines())
            )
            pid = json.loads((life / "start.json").read_bytes())["process"]["pid"]
            return not settled and pid in workers and kill(pid)
        finally:
            for pid in workers:
                kill(pid, signal.SIGCONT)


WEIGHTS = {
    Victim.CHILD: 6,
    Victim.WORKER: 4,
    Victim.AFTER_ASSETS: 4,
    Victim.AFTER_MARKDOWN: 4,
    Victim.PARENT: 3,
    Victim.PARENT_AFTER_MARKDOWN: 2,
}


def campaign(place: Place, plan: list[Victim], random: random.Random, tally: Tally, *, assets: int) -> None:
    """Convert while killing, call again until it is done, and check that nothing was lost, done twice or left behind.

    `plan` is consumed from its front; what is left when all documents are converted is for the next campaign.
    """
    begun = time.monotonic()
    killer = Killer(place, random, tally)
    seen: dict[str, tuple[int, int]] = {}

    def look() -> None:
        for path in place.output.glob("*.md"):
            there = path.stat()
            identity = (there.st_ino, there.st_mtime_ns)
            assert seen.setdefault(path.name, identity) == identity, f"{path.name} was published again"

    place.output.mkdir(exist_ok=True)
    for _ in range(len(plan) + 10):
        command = place.convert("--workers", "2")
        tally.calls += 1
        if plan:
            wait_for("workers", lambda c=command: c.workers() or not c.running)
        while plan and command.running:
            if not killer.strike(plan[0], command):
                # Nobody to kill just now: another kind has its turn.
                plan.append(plan.pop(0))
                time.sleep(0.1)
                continue
            if plan.pop(0) in (Victim.PARENT, Victim.PARENT_AFTER_MARKDOWN):
                command.process.wait()
            look()
        status = command.wait()
        look()
        assert "Traceback" not in command.said, command.said
        if status in (0, 1):
            break
        assert status in (3, -signal.SIGKILL), (status, command.said[-4000:])
    assert status == 0, (status, command.said[-4000:])
    result = command.result()
    assert (result["duplicates"], result["remaining"], result["failed"], result["quarantined"]) == (0, 0, 0, 0), result
    assert wrong_outputs(place.input, place.output, assets) == []
    documents = len(list(place.input.glob("*.pdf")))
    assert result["documents"] == documents
    assert sum(place.audit(run_id)["converted"] for run_id in place.run_ids()) == documents
    for record in place.records():
        # Work on a document whose .md was there ends in an intent (later than the .md's own time stamp) or in a skip.
        if record["outcome"] == "intent":
            assert record["at"] < (place.output / record["name"]).stat().st_mtime + 0.05, f"converted again: {record}"
        assert record["outcome"] in ("intent", "converted", "recovered", "released") or not record["seconds"]["engine"]
    assert place.left_over() == {}
    assert list(place.scratch.iterdir()) == []
    tally.campaigns += 1
    tally.documents += documents
    outcomes = Counter(record["outcome"] for record in place.records())
    tally.intents += outcomes["intent"]
    tally.recovered += outcomes["recovered"]
    tally.claims += sum(not path.name.endswith(".released") for path in place.runs.glob("*/claims/*/*/*"))
    tally.seconds += time.monotonic() - begun


def kill_many(folder: Path, home: Path, kills: int, seed: int, *, documents: int, script: str, assets: int) -> Tally:
    """Campaigns until so many kills were done."""
    chance = random.Random(seed)
    plan = [kind for kind, weight in WEIGHTS.items() for _ in range(-(-kills * weight // sum(WEIGHTS.values())))]
    chance.shuffle(plan)
    del plan[kills:]
    tally = Tally()
    while plan:
        place = Place(folder / f"campaign-{tally.campaigns}", home)
        make_documents(place.input, documents, f"{script} assets={assets}")
        try:
            campaign(place, plan, chance, tally, assets=assets)
        finally:
            place.close()
        shutil.rmtree(place.folder)
    return tally
