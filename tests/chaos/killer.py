"""Kills at seeded instants, run after run, until nothing is left to do, and what became of it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from chaos.harness import (
    Command,
    Place,
    make_documents,
    wrong_outputs,
)
from chaos.processes import (
    Watch,
    documents_in_hand,
    kill,
    wait_for,
)

SUSPECT_DEATHS = 2
"""Claims with this number and later ones may be of a suspect."""


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


def suspect_in_hand(place: Place, pid: int) -> bool:
    """Whether a stopped worker has a document that two others died with."""
    view = place.view()
    keys = [key for key in view.keys("claims/") if key.rpartition("/")[2].isdigit()]
    for key in keys:
        if int(key.rpartition("/")[2]) < 2:
            continue
        holder = view.json(f"claims/{key}")
        start = view.json(f"workers/{holder['worker']}/{holder['attempt']}/start.json")
        if start["process"]["pid"] == pid:
            index = int(key.split("/")[1])
            records = view.records(f"{holder['worker']}/{holder['attempt']}")
            if not any(r["index"] == index and r["outcome"] not in ("intent", "released") for r in records):
                return True
    return False


def kill_child(command: Command, chance: random.Random, hurt: set[str]) -> bool:
    """Kill a sandbox child that has no document in hand which lost one before; notes in `hurt` what it had."""
    for child in chance.sample(children := sorted(command.sandboxes()), len(children)):
        if not kill(child, signal.SIGSTOP):
            continue
        # Stopped: its worker can still take one answer and hand over the next document, then nothing moves.
        time.sleep(0.15)
        hands = documents_in_hand(child)
        if hands & hurt:
            kill(child, signal.SIGCONT)
            continue
        hurt |= hands
        return kill(child)
    return False


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
        if not victims or not kill(victim := self._random.choice(sorted(victims)), signal.SIGSTOP):
            return False
        if suspect_in_hand(self._place, victim):
            # Two others died with it: to kill this one, too, would quarantine it, as promised.
            kill(victim, signal.SIGCONT)
            return False
        return kill(victim)

    def _child(self, command: Command) -> bool:
        return kill_child(command, self._random, self._hurt)

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
            if not claims or int(claims[-1].name.split(".")[0]) >= SUSPECT_DEATHS:
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
