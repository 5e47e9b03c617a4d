"""Long documents with and without helpers, in turn, in the same run.

    .venv/bin/python tests/benchmarks/long.py DOCUMENT... [--helpers 1] [--repeat 1] [--json]

One slot of a worker converts each document alone, then with helpers (tasks/engines/crew.py); `--warm` loads the helpers before.
`wall`, `cpu`: seconds with helpers over those without. `memory_mb`: the most that the worker's process and its children had in
memory together (what they share is counted for each). `slowest_s`: the longest from one page's beginning to the next one's. The
Markdown of both is compared to the byte; if it differs, the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from tasks.engines.markdown import Origin, assemble
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.pool import Pool, open_pool

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """One conversion's."""

    wall: float
    cpu: float
    memory: int
    pages: int
    digest: str
    slowest: float
    """Seconds between two pages that were begun, the most."""


class Watch:
    """CPU and memory of this process and all below it."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._used: dict[int, float] = {}
        self.memory = 0
        self._look()
        self._before = dict(self._used)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """CPU seconds since the beginning."""
        self._look()
        self._over.set()
        self._thread.join()
        return sum(self._used.values()) - sum(self._before.values())

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self._look()

    def _look(self) -> None:
        processes: dict[int, tuple[int, float, int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                processes[int(entry.name)] = (
                    int(fields[1]),
                    (int(fields[11]) + int(fields[12])) / TICKS,
                    int(fields[21]),
                )
        mine, grown = {os.getpid()}, True
        while grown:
            below = {process for process, (parent, _, _) in processes.items() if parent in mine} | mine
            grown, mine = below != mine, below
        self._used |= {process: processes[process][1] for process in mine}
        self.memory = max(self.memory, sum(processes[process][2] for process in mine) * PAGE)


def run(pool: Pool, document: Path, work: Path) -> Figures:
    """One document through a pool."""
    copy = Path(shutil.copyfile(document, work / "document.pdf"))
    copy.chmod(0o644)
    assets = Path(tempfile.mkdtemp(prefix="assets-", dir=work))
    begun: list[float] = []
    watch, since = Watch(), time.monotonic()
    result = pool.convert(copy, document.name, [], assets, lambda page, pages: begun.append(time.monotonic()))
    wall, cpu = time.monotonic() - since, watch.end()
    shutil.rmtree(assets)
    text = assemble(result.pages, Rendering(), Origin(source="", sha256="", pages=len(result.pages), engine="layout"))
    steps = [after - before for before, after in pairwise(begun)]
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Figures(wall, cpu, watch.memory, len(result.pages), digest, max(steps, default=wall))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="+")
    parser.add_argument("--helpers", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--warm", type=Path, help="a document to begin with, unmeasured, so that helpers are loaded")
    parser.add_argument("--only", choices=("alone", "helped"), help="no comparison")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    same = True
    ways = {"alone": 1, "helped": 1 + options.helpers}
    if options.only:
        ways = {options.only: ways[options.only]}
    with tempfile.TemporaryDirectory(prefix="long-") as name:
        for document in options.documents:
            found: dict[str, list[Figures]] = {way: [] for way in ways}
            for _ in range(options.repeat):
                for way, threads in ways.items():
                    work = Path(tempfile.mkdtemp(prefix=way, dir=name))
                    work.chmod(0o711)  # children of a sandbox run as nobody, if we are root
                    Path(name).chmod(0o711)
                    pool = open_pool(
                        EngineName.LAYOUT, {}, Limits(), work, slots=1, threads=threads, recycle_after=50, idle=False
                    )
                    try:
                        pool.start()
                        pool.ready(600.0)
                        if options.warm is not None:
                            run(pool, options.warm, work)
                        found[way].append(run(pool, document, work))
                    finally:
                        pool.close()
            told: dict[str, object] = {"document": document.name, "pages": next(iter(found.values()))[0].pages}
            for way, figures in found.items():
                told |= {
                    f"{way}_wall_s": round(median(one.wall for one in figures), 1),
                    f"{way}_cpu_s": round(median(one.cpu for one in figures), 1),
                    f"{way}_memory_mb": max(one.memory for one in figures) >> 20,
                    f"{way}_slowest_s": round(max(one.slowest for one in figures), 1),
                }
            if len(found) == 2:
                pairs = list(zip(found["alone"], found["helped"], strict=True))
                told["wall"] = round(median(b.wall / a.wall for a, b in pairs), 3)
                told["cpu"] = round(median(b.cpu / a.cpu for a, b in pairs), 3)
                told["same"] = len({one.digest for figures in found.values() for one in figures}) == 1
                same = same and bool(told["same"])
            line = json.dumps(told) if options.json else "\n".join(f"{key}: {value}" for key, value in told.items())
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
