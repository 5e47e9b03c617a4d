"""A run's objects as workers and parents would have written them, made in a moment: what those who watch are shown in tests.

Times of day begin at `BEGAN`; every worker has one life, unless the test takes it away and gives it another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tasks.corpus import paths
from tasks.corpus.failures import Category, Failure, Phase
from tasks.corpus.ledger import LedgerWriter, Outcome, Record
from tasks.corpus.lives import Fence, Heartbeat, Life, Process, Stage
from tasks.corpus.manifest import Row, write_rows
from tasks.corpus.runs import Identity, RunSpec, Start, create_run
from tasks.corpus.store import Store
from tasks.fleet.book import Record as SpendRecord
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.money import Money
from tasks.fleet.spend import PricePoint, Rental, Spend

BEGAN = 1_795_800_000.0
RUN_ID = "20261127-184000-ab12"
ELSEWHERE = Process(host="another host", pid=1, started=1)


@dataclass
class WatchedRun:
    """One run in `store`.

    Args:
        store: `<runs>`.
        documents: how many; their keys are "d000000.pdf", ... unless `keys` names them.
    """

    store: Store
    documents: int = 40
    workers: int = 2
    keys: dict[int, str] = field(default_factory=dict)
    input: str = "/data/pdfs"
    output: str = "/data/markdown"
    engine: str = "layout"
    spec: RunSpec = field(init=False)
    beats: dict[tuple[int, int], Heartbeat] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    writers: dict[tuple[int, int], LedgerWriter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = (Row(i, self.key(i), f"{self.key(i)[:-4]}.md", 1000, "e") for i in range(self.documents))
        data, count = write_rows(rows)
        identity = Identity(
            input=self.input,
            output=self.output,
            engine=self.engine,
            limits={"page_timeout": 120.0},
            rendering={},
        )
        self.spec = RunSpec(
            run_id=RUN_ID,
            created="2026-11-27T18:40:00+00:00",
            identity=identity,
            manifest=paths.manifest(RUN_ID, "m"),
            documents=count,
            partitions=self.workers,
        )
        self.store.put(self.spec.manifest, data)
        assert create_run(self.store, self.spec)
        start = Start(run_id=RUN_ID, at=self.spec.created, life=Life(process=ELSEWHERE, hostname="control"))
        self.store.put(paths.start(0), start.model_dump_json().encode())
        self.parent()

    def key(self, index: int) -> str:
        return self.keys.get(index, f"d{index:06d}.pdf")

    def put(self, key: str, data: Any) -> None:
        self.store.put(f"{RUN_ID}/{key}", data if isinstance(data, bytes) else data.model_dump_json().encode())

    def parent(self, epoch: int = 0, **beat: Any) -> None:
        self.put(f"parent/{epoch}/lease.json", Life(process=ELSEWHERE, hostname="control", at=BEGAN))
        self.put(f"parent/{epoch}/heartbeat.json", Heartbeat(**{"counter": 1, "at": BEGAN, **beat}))

    def launch(self, worker: int, launch: int = 0) -> None:
        self.put(f"launches/{worker}/{launch}.json", Life(process=ELSEWHERE, hostname="control", at=BEGAN))

    def live(self, worker: int, attempt: int = 0, *, at: float = 60.0, spot: bool = True, **beat: Any) -> None:
        """A life that began `at` seconds after the run, and its heartbeat."""
        self.launch(worker, attempt)
        machine = Machine(
            id=f"i-{worker:04x}{attempt:04x}",
            type="g4dn.xlarge",
            zone="us-east-1a",
            lifecycle=Lifecycle.SPOT if spot else Lifecycle.ON_DEMAND,
        )
        life = Life(
            process=ELSEWHERE,
            hostname=f"host-{worker}",
            launch=attempt,
            flow_run_id=f"00000000-0000-0000-0000-{worker:06d}{attempt:06d}",
            machine=machine.model_dump(mode="json"),
            at=BEGAN + at,
        )
        self.put(f"workers/{worker}/{attempt}/start.json", life)
        self.beat(worker, attempt, **{"at": BEGAN + at, **beat})

    def beat(self, worker: int, attempt: int = 0, **changes: Any) -> None:
        """The next heartbeat of a life."""
        former = self.beats.get((worker, attempt), Heartbeat(stage=Stage.WORKING))
        beat = former.model_copy(update={"counter": former.counter + 1, **changes})
        self.beats[worker, attempt] = beat
        self.put(f"workers/{worker}/{attempt}/heartbeat.json", beat)

    def fence(self, worker: int, attempt: int, why: str, *, at: float = 0.0) -> None:
        self.put(f"workers/{worker}/{attempt}/fenced", Fence(why=why, at=BEGAN + at))

    def record(self, worker: int, index: int, attempt: int = 0, *, at: float = 100.0, **changes: Any) -> Record:
        """An outcome in a life's ledger, not flushed yet; converted unless it says something else."""
        given = {
            "worker": worker,
            "attempt": attempt,
            "epoch": 0,
            "index": index,
            "key": self.key(index),
            "name": f"{self.key(index)[:-4]}.md",
            "outcome": Outcome.CONVERTED,
            "at": BEGAN + at,
            "pages": 10,
            "seconds": {"fetch": 0.1, "engine": 4.0, "publish": 0.1, "total": 4.2},
            "engine": "layout",
            **changes,
        }
        record = Record(**given)
        self.records.append(record)
        life = (worker, attempt)
        if life not in self.writers:
            self.writers[life] = LedgerWriter(self.store, paths.life(RUN_ID, worker, attempt))
        self.writers[life].add(record)
        return record

    def fail(self, worker: int, index: int, message: str = "no xref", **changes: Any) -> Record:
        failure = Failure(category=Category.DAMAGED, phase=Phase.OPEN, message=message, retryable=False)
        more = {"outcome": Outcome.FAILED, "failure": failure, "pages": None, **changes}
        return self.record(worker, index, **more)

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()

    def work(self, worker: int, attempt: int = 0, **changes: Any) -> None:
        """A heartbeat that says what the life's records say."""
        mine = [record for record in self.records if (record.worker, record.attempt) == (worker, attempt)]
        counts = Heartbeat()
        for record in mine:
            counts.count(record)
        told = {
            "converted": counts.converted,
            "failed": counts.failed,
            "skipped": counts.skipped,
            "pages": counts.pages,
            "weight": 1000 * counts.processed,
            "assigned": max(counts.processed, self.documents // self.workers),
            "working_seconds": 300.0,
        }
        self.beat(worker, attempt, **{**told, **changes})

    def spend(self, usd: float = 4.23, projected: float = 15.1, budget: float = 100.0, machines: int = 2) -> None:
        rentals = {
            f"i-{k:04x}0000": Rental(
                machine=Machine(id=f"i-{k:04x}0000", type="g4dn.xlarge", zone="us-east-1a", lifecycle=Lifecycle.SPOT),
                since=0.0,
                ceiling=0.526,
                extras=0.0228,
                prices=[PricePoint(since=0.0, usd_per_hour=0.2)],
                priced_until=3600.0,
                lives=[f"{k}/0"],
            )
            for k in range(machines)
        }
        record = SpendRecord(
            counter=3,
            written=BEGAN + 3600,
            spent=usd,
            spend=Spend(at=3600.0, rentals=rentals),
            money=Money(spent=usd, budget=budget, projected=projected, hours_left=2.0, machines=machines),
        )
        self.put("spend/spend.json", record)
