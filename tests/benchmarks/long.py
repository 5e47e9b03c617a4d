"""Long documents with and without helpers, in turn, in the same run.

    .venv/bin/python tests/benchmarks/long.py DOCUMENT... [--ways alone,threads,helped] [--helpers 1] [--repeat 1]

One slot of a worker converts each document: `alone` in one child with one thread of the numeric libraries; `threads` in one
child with one thread more for each helper; `helped` with helpers (tasks/engines/crew.py), all with one thread, whose engines are
loaded meanwhile. For each:

    wall_s     seconds
    cpu_s      of all processes
    busiest_s  CPU seconds of the child that had most to do: the wall, were a core free for each (not with `threads`)
    memory_mb  the most that the worker's process and its children had in memory together, shared pages counted for each
    slowest_s  the longest from one page's beginning to the next one's

`wall`, `cpu`, `busiest`: ratios to the first way, medians over the turns. Where the Markdown differs by a byte, it exits with 1.
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

from tasks.cores import free_memory
from tasks.engines.crew import Crew
from tasks.engines.markdown import Origin, assemble
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.engines.sandbox import Sandbox
from tasks.pool import Pool, SandboxPool

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """One conversion's."""

    wall: float
    cpu: float
    busiest: float
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

    def end(self) -> tuple[float, float]:
        """CPU seconds since the beginning: of all processes, and of the child that used most."""
        self._look()
        self._over.set()
        self._thread.join()
        used = {process: seconds - self._before.get(process, 0.0) for process, seconds in self._used.items()}
        return sum(used.values()), max(seconds for process, seconds in used.items() if process != os.getpid())

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
    wall, (cpu, busiest) = time.monotonic() - since, watch.end()
    shutil.rmtree(assets)
    text = assemble(result.pages, Rendering(), Origin(source="", sha256="", pages=len(result.pages), engine="layout"))
    steps = [after - before for before, after in pairwise(begun)]
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Figures(wall, cpu, busiest, watch.memory, len(result.pages), digest, max(steps, default=wall))


def open_way(way: str, helpers: int, work: Path) -> Pool:
    """A pool with one slot."""
    limits = Limits()

    def make(place: Path) -> Sandbox:
        return Sandbox(EngineName.LAYOUT, limits, threads=1 + helpers if way == "threads" else 1, scratch=place)

    def helped(sandbox: Sandbox, place: Path) -> Crew:
        return Crew(
            sandbox,
            lambda: make(place),
            own=helpers,
            most=helpers,
            idle=lambda: 0.0,
            free=free_memory,
            memory=limits.memory_mb << 20,
        )

    return SandboxPool(make, 1, work, helped if way == "helped" else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="+")
    parser.add_argument("--ways", default="alone,helped")
    parser.add_argument("--helpers", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    ways = options.ways.split(",")
    if unknown := set(ways) - {"alone", "threads", "helped"}:
        parser.error(f"no such way: {', '.join(sorted(unknown))}")
    same = True
    with tempfile.TemporaryDirectory(prefix="long-") as name:
        Path(name).chmod(0o711)  # children of a sandbox run as nobody, if we are root
        for document in options.documents:
            found: dict[str, list[Figures]] = {way: [] for way in ways}
            for _ in range(options.repeat):
                for way in ways:
                    work = Path(tempfile.mkdtemp(prefix=way, dir=name))
                    work.chmod(0o711)
                    pool = open_way(way, options.helpers, work)
                    try:
                        pool.start()
                        pool.ready(600.0)
                        found[way].append(run(pool, document, work))
                    finally:
                        pool.close()
            told: dict[str, object] = {"document": document.name, "pages": found[ways[0]][0].pages}
            for way, figures in found.items():
                told[way] = {
                    "wall_s": round(median(one.wall for one in figures), 1),
                    "cpu_s": round(median(one.cpu for one in figures), 1),
                    "busiest_s": round(median(one.busiest for one in figures), 1),
                    "memory_mb": max(one.memory for one in figures) >> 20,
                    "slowest_s": round(max(one.slowest for one in figures), 1),
                } | ratios(found[ways[0]], figures)
            told["same"] = len({one.digest for figures in found.values() for one in figures}) == 1
            same = same and bool(told["same"])
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
    return 0 if same else 1


def ratios(base: list[Figures], figures: list[Figures]) -> dict[str, float]:
    """To the first way, turn by turn."""
    if base is figures:
        return {}
    pairs = list(zip(base, figures, strict=True))
    return {
        "wall": round(median(b.wall / a.wall for a, b in pairs), 3),
        "cpu": round(median(b.cpu / a.cpu for a, b in pairs), 3),
        "busiest": round(median(b.busiest / a.busiest for a, b in pairs), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
