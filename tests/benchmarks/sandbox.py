"""What the sandbox costs: the same documents through it and through the bare library, in turn, in the same run.

    .venv/bin/python tests/benchmarks/sandbox.py [--documents FOLDER] [--kinds paper] [--repeat 3] [--json]

`cpu_ratio` and `wall_ratio`: one sandbox with the layout engine over one bare process (tests/benchmarks/bare.py), each from
its start to its end, medians over the turns. `round_trip_ms`: a document of the dummy engine through the sandbox.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tasks.corpus.failures import ConversionError
from tasks.engines.protocol import EngineName, Limits
from tasks.engines.sandbox import Sandbox

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def children_cpu() -> float:
    """CPU seconds of all children that ended until now."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def bare(documents: list[Path], out: Path, limits: Limits) -> None:
    """One bare process over the documents."""
    out.mkdir()
    command = [sys.executable, str(HERE / "bare.py"), str(out), str(limits.memory_mb), *map(str, documents)]
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL, check=True
    )


def sandboxed(documents: list[Path], work: Path, limits: Limits, engine: EngineName) -> list[float]:
    """One sandbox over the documents; the wall seconds of each."""
    work.mkdir()
    seconds = []
    with Sandbox(engine, limits, recycle_after=len(documents) + 2, scratch=work) as sandbox:
        sandbox.ready()
        for number, document in enumerate(documents):
            copy = Path(shutil.copyfile(document, work / f"{number}.pdf"))
            begun = time.monotonic()
            try:
                sandbox.convert(copy, work / str(number), [])
            except ConversionError as error:
                sys.stderr.write(f"{document.name}: {error}\n")
            seconds.append(time.monotonic() - begun)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--kinds", default="paper")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    documents = [path for kind in options.kinds.split(",") for path in sorted((options.documents / kind).glob("*.pdf"))]
    limits = Limits()
    ratios: dict[str, list[float]] = {"cpu": [], "wall": []}
    with tempfile.TemporaryDirectory(prefix="sandbox-") as name:
        work = Path(name)
        work.chmod(0o711)  # children of a sandbox run as nobody, if we are root
        for turn in range(options.repeat):
            cpu, begun = children_cpu(), time.monotonic()
            bare(documents, work / f"bare-{turn}", limits)
            bare_cpu, bare_wall = children_cpu() - cpu, time.monotonic() - begun
            cpu, begun = children_cpu(), time.monotonic()
            sandboxed(documents, work / f"sandbox-{turn}", limits, EngineName.LAYOUT)
            ratios["cpu"].append((children_cpu() - cpu) / bare_cpu)
            ratios["wall"].append((time.monotonic() - begun) / bare_wall)
        dummy = work / "dummy.pdf"
        dummy.write_bytes(b"%PDF-dummy\n")
        trips = sandboxed([dummy] * 1000, work / "dummies", limits, EngineName.DUMMY)
    figures = {
        "documents": len(documents),
        "cpu_ratio": round(median(ratios["cpu"]), 3),
        "wall_ratio": round(median(ratios["wall"]), 3),
        "round_trip_ms": round(median(trips) * 1000, 2),
    }
    sys.stdout.write(json.dumps(figures) + "\n" if options.json else "".join(f"{k}: {v}\n" for k, v in figures.items()))


if __name__ == "__main__":
    main()
