"""The heap of a sandbox child: what a page frees is kept for the page, and given back behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.engines import confine

ROOT = Path(__file__).resolve().parents[2]
PAGE = """
from pathlib import Path
from tasks.engines.layout.heap import give_back
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024
before = resident()
tensors = [bytearray(40_000_000) for _ in range(5)]
for tensor in tensors:
    tensor[:] = b"x" * len(tensor)
on_top = bytearray(100_000)
del tensors, tensor
kept = resident()
give_back()
print(kept - before, resident() - before)
"""


@pytest.mark.skipif(confine._glibc() < confine._GLIBC, reason="the C library is another one")
def test_what_a_page_freed_is_kept_for_it_and_then_given_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PAGE],
        env=confine.environment(tmp_path, ROOT, 1, keeps_heap=True),
        capture_output=True,
        text=True,
        check=True,
    )
    kept, left = map(int, done.stdout.split())
    assert kept > 150, "MiB: it was given back at once"
    assert left < 50, "MiB: it was not given back"
