"""What the machinery costs: start-up, documents, repeated calls. Ratios against baselines of the same run.

    .venv/bin/python tests/benchmarks/overhead.py [--documents FOLDER] [--kinds paper,table] [--dummies 4000] [--json]

`startup_ratio`: `pdf-flows convert` of one document with the dummy engine, over an empty parent and two empty child flow
runs, both on a server that is started freshly for them. `documents_ratio`: `convert` of real documents with 2 workers, less
its start-up, over two bare processes that loop pymupdf4llm over the same documents (tests/benchmarks/bare.py).
`again_extra_seconds`: a second call, with nothing to do, less the empty flows. `dummy_ms`: a document of the dummy engine,
with a task run for each; `dummy_task_runs`: how many of them Prefect's history holds as completed. `dummy_batched_ms`: the
same with one task run for 100 documents, which is what the project's own part costs.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLI = [sys.executable, "-m", "deployments.cli"]
MEMORY_MB = 4096


def timed(command: list[str], home: Path, *, ok: tuple[int, ...] = (0,)) -> tuple[float, str]:
    """Wall seconds of a command with a Prefect home of its own, and its stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PDF_FLOWS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    begun = time.monotonic()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode not in ok:
        sys.stderr.write(done.stderr.decode(errors="replace"))
        raise SystemExit(f"{command}: exit status {done.returncode}")
    return seconds, done.stdout.decode()


def dummies(folder: Path, count: int) -> Path:
    """`count` documents for the dummy engine."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"document-{number:05d}.pdf").write_bytes(b"%PDF-dummy\n")
    return folder


def completed_task_runs(home: Path) -> int:
    """Task runs of documents in the history of a home's server that are Completed."""
    with closing(sqlite3.connect(f"file:{home / 'prefect' / 'prefect.db'}?mode=ro", uri=True)) as history:
        query = "SELECT count(*) FROM task_run WHERE state_type = 'COMPLETED' AND name LIKE 'document-%'"
        (count,) = history.execute(query).fetchone()
    return int(count)


def bare(documents: list[Path], out: Path) -> float:
    """Two bare processes, each every second document."""
    out.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "bare.py"), str(out), str(MEMORY_MB), *map(str, documents[share::2])],
            env=environment,
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        for share in range(2)
    ]
    for process in processes:
        process.wait()
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--kinds", default="paper,table,form,tiny,bigpage")
    parser.add_argument("--dummies", type=int, default=0, help="documents of the dummy engine, 0: leave that out")
    parser.add_argument("--repeat", type=int, default=3, help="of the start-up measurements; the median counts")
    parser.add_argument("--only-startup", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        work = Path(name)
        one = dummies(work / "one", 1)
        empty: list[float] = []
        startup: list[float] = []
        again: list[float] = []
        for turn in range(options.repeat):
            # A home of its own each time: "freshly started" includes the migrations of a new history.
            empty.append(timed([sys.executable, str(HERE / "flows" / "nothing.py")], work / f"home-a{turn}")[0])
            target = work / f"out-{turn}"
            call = [*CLI, "convert", str(one), str(target), "--engine", "dummy"]
            startup.append(timed(call, work / f"home-b{turn}")[0])
            again.append(timed(call, work / f"home-c{turn}")[0])
        figures["empty_seconds"] = round(median(empty), 2)
        figures["startup_seconds"] = round(median(startup), 2)
        figures["startup_ratio"] = round(median(s / e for s, e in zip(startup, empty, strict=True)), 3)
        figures["again_extra_seconds"] = round(median(a - e for a, e in zip(again, empty, strict=True)), 2)
        if not options.only_startup:
            documents = [
                path for kind in options.kinds.split(",") for path in sorted((options.documents / kind).glob("*.pdf"))
            ]
            chosen = work / "chosen"
            chosen.mkdir()
            copies = []
            for number, path in enumerate(documents):
                copy = chosen / f"{number:03d}-{path.name}"
                os.link(path, copy) if path.stat().st_dev == chosen.stat().st_dev else copy.write_bytes(
                    path.read_bytes()
                )
                copies.append(copy)
            figures["documents"] = len(copies)
            bare_seconds = bare(copies, work / "bare")
            call = [*CLI, "convert", str(chosen), str(work / "ours"), "--json"]
            ours, line = timed(call, work / "home-d", ok=(0, 1))
            figures["pages"] = json.loads(line)["pages"]
            figures["bare_seconds"] = round(bare_seconds, 1)
            figures["convert_seconds"] = round(ours, 1)
            figures["documents_ratio"] = round((ours - figures["startup_seconds"]) / bare_seconds, 3)
        if options.dummies:
            many = dummies(work / "many", options.dummies)
            call = [*CLI, "convert", str(many), str(work / "dummies"), "--engine", "dummy", "--json"]
            seconds, _ = timed(call, work / "home-e")
            figures["dummy_documents"] = options.dummies
            figures["dummy_task_runs"] = completed_task_runs(work / "home-e")
            figures["dummy_ms"] = round((seconds - figures["startup_seconds"]) / options.dummies * 1000, 1)
            call = [*CLI, "convert", str(many), str(work / "batched"), "--engine", "dummy", "--task-run-limit", "0"]
            seconds, _ = timed(call, work / "home-f")
            figures["dummy_batched_ms"] = round((seconds - figures["startup_seconds"]) / options.dummies * 1000, 1)
    sys.stdout.write(json.dumps(figures) + "\n" if options.json else "".join(f"{k}: {v}\n" for k, v in figures.items()))


if __name__ == "__main__":
    main()
