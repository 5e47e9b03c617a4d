"""A million documents: planning takes a minute and less than 1 GiB, a worker's memory does not grow with the manifest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PEAK = """
def peak_mib():
    # Not ru_maxrss: it begins with what the process that forked this one had.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
"""

PLAN = """
import json, sys, time
from pathlib import Path
from tasks.corpus.store import ObjectInfo
from tasks.corpus.store_folder import FolderStore
import tasks.plan
from tasks.options import Options
from tasks.engines.protocol import EngineName

count, folder = int(sys.argv[1]), Path(sys.argv[2])

class Listing(FolderStore):
    def list(self, prefix="", *, skip=None):
        for i in range(count):
            yield ObjectInfo(f"archive/{i // 10000:04d}/box-{i % 97:02d}/paper_{i:08d}.pdf", 1000 + i, f"{i:032x}")

class Outputs(FolderStore):
    def list(self, prefix="", *, skip=None):
        if prefix or skip != "_runs/":
            yield from super().list(prefix, skip=skip)
            return
        for i in range(0, count, 2):
            yield ObjectInfo(f"archive/{i // 10000:04d}/box-{i % 97:02d}/paper_{i:08d}.md", 1, "e")

(folder / "in").mkdir()
stores = {
    str(folder / "in"): Listing.from_url(str(folder / "in")),
    str(folder / "out"): Outputs.from_url(str(folder / "out"), create=True),
    str(folder / "out" / "_runs"): FolderStore.from_url(str(folder / "out" / "_runs"), create=True),
}
tasks.plan.open_store = lambda url, writable=False: stores[url]
begun = time.perf_counter()
cpu = time.process_time()
planned = tasks.plan.plan_run(Options(input=str(folder / "in"), output=str(folder / "out"), engine=EngineName.DUMMY))
print(json.dumps({
    "seconds": time.perf_counter() - begun,
    "cpu": time.process_time() - cpu,
    "mib": peak_mib(),
    "documents": planned.spec.documents,
    "waiting": planned.waiting,
    "manifest": str(folder / "out" / "_runs" / planned.spec.manifest),
}))
"""

WORKER = """
import json, sys, time
from pathlib import Path
from tasks.candidates import Candidates
from tasks.corpus.claims import Claims, Holder
from tasks.corpus.ledger import LedgerWriter, Outcome, Record
from tasks.corpus.manifest import Manifest, Row, write_rows
from tasks.corpus.runs import Identity, RunSpec
from tasks.corpus.store_folder import FolderStore
from tasks.patience import patient

count, folder = int(sys.argv[1]), Path(sys.argv[2])
runs = FolderStore.from_url(str(folder), create=True)
me = Holder(worker=0, attempt=0)
identity = Identity(input="", output="", engine="dummy", limits={}, rendering={})
spec = RunSpec(run_id="r", created="", identity=identity, manifest="", documents=count, partitions=2)
manifest = Manifest(Path(sys.argv[3]))
folder.mkdir(exist_ok=True)
begun = time.perf_counter()
chosen = Candidates(
    runs, spec, manifest, folder, Claims(runs, "r", me), me, workers=1, epoch=0, retry_failed=False, patient=patient
)
candidates = sum(1 for _ in chosen.own())
assert candidates == chosen.assigned
stolen = sum(1 for _ in chosen.far_ends())
print(json.dumps({
    "seconds": time.perf_counter() - begun,
    "candidates": candidates,
    "stolen": stolen,
    "mib": peak_mib(),
}))
"""


def measured(code: str, *arguments: object) -> dict[str, float]:
    """What the code prints when run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_million_documents(tmp_path: Path) -> None:
    few_plan = measured(PLAN, 10_000, _made(tmp_path / "few"))
    many_plan = measured(PLAN, 1_000_000, _made(tmp_path / "many"))
    print(f"planning 1,000,000 keys: {many_plan}")
    assert (many_plan["documents"], many_plan["waiting"]) == (1_000_000, 500_000)
    assert many_plan["mib"] < 1024

    few = measured(WORKER, 10_000, tmp_path / "few-runs", few_plan["manifest"])
    many = measured(WORKER, 1_000_000, tmp_path / "many-runs", many_plan["manifest"])
    print(f"a worker's candidates of 1,000,000: {many}, of 10,000: {few}")
    assert many["candidates"] == 500_000
    assert many["stolen"] == 500_000  # nobody took anything
    assert many["mib"] - few["mib"] < 100


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
