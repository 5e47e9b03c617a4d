"""`pdf-flows convert` over the whole corpus: ends by itself, every document as its row expects, a second call does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from expectations import CORPUS, manifest, unexpected

ROOT = Path(__file__).resolve().parents[2]


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
    again = cli(home, "convert", str(CORPUS), str(out), ok=(1,))
    assert again["converted"] == 0
    assert again["skipped"] == report["converted"]
    assert again["failed"] + again["quarantined"] == report["failed"] + report["quarantined"]
