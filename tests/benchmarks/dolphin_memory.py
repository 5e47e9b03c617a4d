"""Does memory grow with the document? A long one, and as many short ones, through the whole engine with the tiny checkpoint.

    .venv/bin/python tests/benchmarks/dolphin_memory.py [--pages 1000] [--json]

For each: MiB that the worker, its sandbox, its preparer and the device's process had resident, all together (shared
memory counts in each process that touched it): once warm, at most, and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymupdf

from tasks.engines.dolphin.pool import DolphinPool
from tasks.engines.dolphin.settings import DeviceKind, DolphinOptions
from tasks.engines.protocol import EngineName, EngineResult, Limits
from tasks.engines.sandbox import Sandbox

PARITY = Path(__file__).resolve().parents[1] / "parity"
CHECKPOINT = PARITY / "checkpoints" / "1.5"
SLOTS = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"pages": arguments.pages, "slots": SLOTS}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        short, long = Path(folder) / "short.pdf", Path(folder) / "long.pdf"
        make(short, 1)
        make(long, arguments.pages)
        report |= {"one document": measure(Path(folder) / "a", [long])}
        report |= {"one-page documents": measure(Path(folder) / "b", [short] * arguments.pages)}
    sys.stdout.write(json.dumps(report, indent=None if arguments.json else 2) + "\n")


def make(path: Path, pages: int) -> None:
    """The first page of the fixture, again and again (each with its own content, so nothing is cached)."""
    with pymupdf.open(PARITY / "fixtures" / "articles.pdf") as source, pymupdf.open() as made:
        for _ in range(pages):
            made.insert_pdf(source, from_page=0, to_page=0, final=False)
        made.save(path)


def measure(folder: Path, pdfs: list[Path]) -> dict[str, Any]:
    folder.mkdir()
    folder.chmod(0o755)
    pool = DolphinPool(
        DolphinOptions(model=str(CHECKPOINT)),
        lambda: CHECKPOINT,
        lambda place: Sandbox(EngineName.DOLPHIN, Limits(), threads=1, scratch=place, recycle_after=50),
        folder,
        sandboxes=1,
        preparers=1,
        slots=SLOTS,
        device=DeviceKind.CPU,
        threads=1,
    )
    done = threading.Event()
    pages = 0

    def on_page(page: int, of: int) -> None:
        nonlocal pages
        pages += 1

    samples: list[tuple[int, float]] = []

    def watch() -> None:
        while not done.wait(0.5):
            samples.append((pages, resident()))

    def one(pdf: Path) -> EngineResult:
        place = Path(tempfile.mkdtemp(dir=folder))
        copy, assets = place / "copy.pdf", place / "assets"
        copy.write_bytes(pdf.read_bytes())
        assets.mkdir()
        return pool.convert(copy, pdf.name, [], assets, on_page)

    pool.start()
    try:
        pool.ready(120)
        threading.Thread(target=watch, daemon=True).start()
        began = time.monotonic()
        with ThreadPoolExecutor(pool.documents) as threads:
            converted = sum(len(result.pages) for result in threads.map(one, pdfs))
        seconds = time.monotonic() - began
        samples.append((pages, resident()))
    finally:
        done.set()
        pool.close()
    warm = [mib for at, mib in samples if at >= 40] or [samples[-1][1]]
    return {
        "pages": converted,
        "seconds": round(seconds, 1),
        "warm_mib": round(warm[0]),
        "peak_mib": round(max(mib for _, mib in samples)),
        "end_mib": round(samples[-1][1]),
    }


def resident() -> float:
    """MiB of this process and all below it."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
    waiting, total = [os.getpid()], 0
    while waiting:
        pid = waiting.pop()
        waiting += parents.get(pid, [])
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
