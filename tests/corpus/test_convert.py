"""`pdf-flows convert` over the whole corpus: ends by itself, every document as its row expects, a second call does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from expectations import CORPUS, manifest, unexpected

ROOT = Path(__file__).resolve().parents[2]


def nothing(home: Path) -> float:
    """Seconds of an empty parent with two empty child flow runs on a freshly started server."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "benchmarks" / "flows" / "nothing.py")],
        cwd=ROOT,
        env=environment | {"PDF_FLOWS_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    return time.monotonic() - begun


def cli(home: Path, *arguments: str, ok: tuple[int, ...]) -> dict[str, object]:
    environment = {**os.environ, "PDF_FLOWS_HOME": str(home)}
    command = [sys.executable, "-m", "deployments.cli", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode in ok, done.stderr.decode(errors="replace")[-4000:]
    return json.loads(done.stdout)


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not there")
def test_whole_corpus(tmp_path: Path) -> None:
    out, home = tmp_path / "out", tmp_path / "home"
    report = cli(home, "convert", str(CORPUS), str(out), ok=(1,))
    assert report["documents"] == len(manifest())
    assert (report["remaining"], report["duplicates"]) == (0, 0)
    found = cli(home, "failures", str(out), ok=(0,))
    failures = {entry["key"]: entry["failure"]["category"] for entry in found["failures"]}
    converted = {str(path.relative_to(out).with_suffix(".pdf")) for path in out.rglob("*.md")}
    assert unexpected(failures, converted) == []
    assert cli(home, "audit", str(out), ok=(0,))["closes"]
    begun = time.monotonic()
    again = cli(home, "convert", str(CORPUS), str(out), ok=(1,))
    seconds = time.monotonic() - begun
    assert again["converted"] == 0
    assert again["skipped"] == report["converted"]
    assert again["failed"] + again["quarantined"] == report["failed"] + report["quarantined"]
    named = sorted(f"{category} {key}" for key, category in failures.items() if category in ("TIMEOUT", "NO_TEXT"))
    # For docs/soak.md. The seconds are told, not asserted: the machines are shared.
    print(json.dumps(report), "\n".join(named), sep="\n")
    print(f"second call {seconds:.1f} s, empty flows {nothing(tmp_path / 'home-nothing'):.1f} s")
