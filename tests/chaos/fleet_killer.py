"""Kills among a fleet on S3, at seeded instants, while the store fails and dawdles; and what they made anybody do again."""

from __future__ import annotations

import json
import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from chaos.bucket import Bucket, check_bucket
from chaos.harness import CHILD, Command, Place
from chaos.killer import kill_child, suspect_in_hand
from chaos.notices import file_of, write_notice
from chaos.processes import alive, children_of, kill, wait_for
from chaos.seen import RunView
from deployments.rehearsal.faulty_s3 import FaultyS3

STORE_TROUBLE = ("InternalError", "SlowDown", "cannot reach S3")
START_SECONDS = 30.0
"""A fleet in which nobody works is waited for so long, then it is shot at as it is."""
NOTICE_SECONDS = 90.0
"""Whoever was given notice is gone by then."""


class FleetVictim(StrEnum):
    """Who is killed, or taken away."""

    CHILD = "sandbox child"
    WORKER = "worker"
    NOTICE = "worker by notice"
    PARENT = "parent"
    SERVER = "Prefect server"
    KEEPER = "Prefect server and keeper"
    OUTAGE = "S3 outage"


WEIGHTS = {
    FleetVictim.CHILD: 4,
    FleetVictim.WORKER: 6,
    FleetVictim.NOTICE: 4,
    FleetVictim.PARENT: 3,
    FleetVictim.SERVER: 1,
    FleetVictim.KEEPER: 1,
    FleetVictim.OUTAGE: 1,
}


def shuffled(kills: int, chance: random.Random) -> list[FleetVictim]:
    """So many victims, by the weights."""
    total = sum(WEIGHTS.values())
    plan = [kind for kind, weight in WEIGHTS.items() for _ in range(-(-kills * weight // total))]
    chance.shuffle(plan)
    return plan[:kills]


@dataclass
class FleetTally:
    """What was done, and what it cost."""

    kills: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    campaigns: int = 0
    calls: int = 0
    runs: int = 0
    documents: int = 0
    spared: int = 0
    """Workers that were let live since a suspect was in hand: killing that one too would quarantine it, as promised."""
    again: Counter[int] = field(default_factory=Counter)
    """Documents by how often they were taken up again."""
    given_back: int = 0
    """Claims given back by drained workers."""
    found: int = 0
    """Documents found published by the dead."""
    lost: list[int] = field(default_factory=list)
    """Of each life that died: documents in hand that the engine had to convert (or might have had to) again."""
    repeated: list[float] = field(default_factory=list)
    """The same in seconds of engine work: what those documents took the one that converted them, at most."""
    resumed: int = 0
    """Pages taken from checkpoints."""
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        fates = ", ".join(f"{count} {fate}" for fate, count in sorted(self.requests.items()))
        lost = ", ".join(f"{lives} with {count}" for count, lives in sorted(Counter(self.lost).items()))
        again = ", ".join(f"{count} {times} times" for times, count in sorted(self.again.items()) if times)
        return (
            f"{self.kills.total()} kills ({kinds}; {self.spared} spared); {self.documents} documents in {self.campaigns} "
            f"campaigns, {self.runs} runs, {self.calls} calls, {self.seconds:.0f} s; requests: {fates}; taken up again: "
            f"{again or 'none'}; {self.given_back} given back, {self.found} found published; deaths with so many documents to "
            f"convert again: {lost or 'none'}; engine work repeated a death, at most: median {middle(self.repeated):.1f} s, "
            f"most {max(self.repeated, default=0.0):.1f} s; {self.resumed} pages resumed"
        )


def middle(values: list[float]) -> float:
    """The median, 0 of nothing."""
    return statistics.median(values) if values else 0.0


class FleetKiller:
    """Kills what belongs to one place, at instants drawn from `chance`."""

    def __init__(
        self,
        place: Place,
        home: Path,
        proxy: FaultyS3 | None,
        chance: random.Random,
        tally: FleetTally,
        outage_seconds: float,
        most_seconds: float = 4.0,
    ) -> None:
        self._place, self._home, self._proxy = place, home, proxy
        self._chance, self._tally = chance, tally
        self._outage_seconds, self._most_seconds = outage_seconds, most_seconds
        self._hurt: set[str] = set()
        """Documents whose child was killed once: a second time would quarantine them, as promised."""
        self._told: list[tuple[int, float]] = []

    def strike(self, victim: FleetVictim, command: Command) -> bool:
        """Kill once. False if the command ended, or there was nobody, before the instant came."""
        if not self._after_delay(command):
            return False
        self.check_notices()
        match victim:
            case FleetVictim.CHILD:
                done = self._child(command)
            case FleetVictim.WORKER:
                done = self._worker(command)
            case FleetVictim.NOTICE:
                done = self._notice(command)
            case FleetVictim.PARENT:
                done = kill(command.pid)
            case FleetVictim.SERVER | FleetVictim.KEEPER:
                done = self._server(keeper=victim is FleetVictim.KEEPER)
            case FleetVictim.OUTAGE:
                done = self._proxy is not None
                with self._proxy.outage() if self._proxy is not None else nullcontext():
                    time.sleep(self._outage_seconds if done else 0.0)
        self._tally.kills[victim.value] += done
        return done

    def _after_delay(self, command: Command) -> bool:
        """Let the fleet work for a while: who only ever kills what is starting learns nothing of what is lost."""
        patience = time.monotonic() + START_SECONDS
        while not command.sandboxes() and command.running and time.monotonic() < patience:
            time.sleep(0.1)
        until = time.monotonic() + self._chance.uniform(0.2, self._most_seconds)
        while time.monotonic() < until and command.running:
            time.sleep(0.02)
        return command.running

    def _child(self, command: Command) -> bool:
        return kill_child(command, self._chance, self._hurt)

    def _worker(self, command: Command) -> bool:
        workers = sorted(command.workers())
        if not workers:
            return False
        # Rather one at work than one that is only starting.
        victim = self._chance.choice([pid for pid in workers if children_of(pid, CHILD)] or workers)
        if not kill(victim, signal.SIGSTOP):
            return False
        if suspect_in_hand(self._place, victim):
            self._tally.spared += 1
            kill(victim, signal.SIGCONT)
            return False
        return kill(victim)

    def _notice(self, command: Command) -> bool:
        workers = {pid: file for pid in command.workers() if (file := file_of(pid)) is not None and not file.exists()}
        if not workers:
            return False
        pid = self._chance.choice(sorted(workers))
        write_notice(workers[pid])
        self._told.append((pid, time.monotonic()))
        return True

    def check_notices(self) -> None:
        """Whoever was given notice has left in time, or still has some."""
        self._told = [(pid, at) for pid, at in self._told if alive(pid)]
        assert all(time.monotonic() - at < NOTICE_SECONDS for _, at in self._told), "a worker did not leave"

    def _server(self, *, keeper: bool) -> bool:
        try:
            state = json.loads((self._home / "server.json").read_bytes())
        except (OSError, ValueError):
            return False
        # The keeper first: it would start the server again.
        if keeper and not kill(state["pid"]):
            return False
        return kill(state["server_pid"]) or keeper


def campaign(
    place: Place,
    home: Path,
    bucket: Bucket,
    proxy: FaultyS3,
    plan: list[FleetVictim],
    chance: random.Random,
    tally: FleetTally,
    *,
    documents: int,
    script: str,
    outage_seconds: float,
) -> None:
    """Convert while killing, call again until it is done, and check that nothing was lost, done twice or left behind.

    `plan` is consumed from its front; what is left when all documents are converted is for the next campaign.
    """
    begun = time.monotonic()
    killer = FleetKiller(place, home, proxy, chance, tally, outage_seconds)
    status = None
    for call in range(len(plan) + 10):
        notices = {
            "PDF_FLOWS_SPOT_NOTICE_FILE": str(
                place.folder / f"notices-{call}" / "{worker}-{launch}" / "instance-action"
            )
        }
        # What failed while the store was away is tried again by a run of its own.
        words = ["--workers", "2", *(["--retry-failed"] if call else [])]
        command = place.convert(*words, AWS_ENDPOINT_URL=proxy.url, **notices)
        tally.calls += 1
        if plan:
            wait_for("workers", lambda c=command: c.workers() or not c.running)
        while plan and command.running:
            if not killer.strike(plan[0], command):
                # Nobody to kill just now: another kind has its turn.
                plan.append(plan.pop(0))
                continue
            if plan.pop(0) is FleetVictim.PARENT:
                command.process.wait()
        status = command.wait(600)
        assert "Traceback" not in command.said, command.said
        if status == 0:
            break
        # The first contact with a store is not patient: one that fails just then is named, and the call refused.
        refused = status == 2 and any(word in command.said for word in STORE_TROUBLE)
        assert refused or status in (1, 3, -signal.SIGKILL), (status, command.said[-4000:])
    assert status == 0, (status, command.said[-4000:])
    result = command.result()
    assert (result["duplicates"], result["remaining"], result["failed"], result["quarantined"]) == (0, 0, 0, 0), result
    check_bucket(bucket, place, documents, script)
    assert place.left_over(60) == {}
    tally.campaigns += 1
    tally.documents += documents
    tally.seconds += time.monotonic() - begun
    for run_id in place.view().run_ids():
        tally.runs += 1
        weigh(place.view(run_id), tally)


def weigh(view: RunView, tally: FleetTally) -> None:
    """What deaths made others do again: from claims, ledger and fences."""
    claims = view.claims()
    done = {r["index"]: r for r in view.records() if r["outcome"] in ("converted", "recovered")}
    last = {claim.index: claim.n for claim in claims}
    tally.again.update(last.values())
    tally.found += sum(r["outcome"] == "recovered" for r in done.values())
    tally.given_back += sum(claim.released for claim in claims)
    tally.resumed += sum(r.get("resumed", 0) for r in done.values())
    deaths: defaultdict[str, list[float]] = defaultdict(list)
    for life in view.lives():
        if not life.ended:
            deaths[life.name] = []
    for claim in claims:
        if claim.life in deaths and claim.n < last[claim.index] and not claim.released:
            record = done.get(claim.index)
            if record is not None and record["outcome"] == "converted":
                fresh = 1 - record.get("resumed", 0) / max(1, record.get("pages") or 1)
                deaths[claim.life].append(record["seconds"].get("engine", 0.0) * fresh)
    for seconds in deaths.values():
        tally.lost.append(len(seconds))
        tally.repeated.append(sum(seconds))


def kill_fleets(
    folder: Path,
    home: Path,
    moto: object,
    url: str,
    kills: int,
    seed: int,
    *,
    documents: int,
    script: str,
    outage_seconds: float,
) -> FleetTally:
    """Campaigns until so many kills were done, each with a bucket of its own; all requests go through a store in trouble."""
    chance = random.Random(seed)
    plan = shuffled(kills, chance)
    tally = FleetTally()
    while plan:
        bucket = Bucket(moto)
        bucket.fill(documents, script)
        place = Place(folder / f"fleet-{tally.campaigns}", home, source=f"{bucket.url}/in", output=f"{bucket.url}/out")
        # Failing, half of them answered too late; dawdling.
        faults = FaultyS3(
            url,
            chance.randrange(1 << 30),
            error_rate=0.02,
            slowdown_rate=0.02,
            lost_response_rate=0.01,
            slow_rate=0.05,
            slow_seconds=0.5,
        )
        try:
            with faults as proxy:
                campaign(
                    place,
                    home,
                    bucket,
                    proxy,
                    plan,
                    chance,
                    tally,
                    documents=documents,
                    script=script,
                    outage_seconds=outage_seconds,
                )
                tally.requests.update(proxy.counts)
        finally:
            with suppress(OSError):
                place.close()
    return tally
