"""The heap of a sandbox child is given back behind each page."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = """
from pathlib import Path
from tasks.engines.layout.heap import give_back
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024
before = resident()
tensors = [bytearray(b"x" * 60_000) for _ in range(3500)]
among_them = tensors[::50] + tensors[-1:]
del tensors
kept = resident()
give_back()
print(kept - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_what_a_page_freed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 150, "MiB: nothing had to be given back"
    assert left < 50, "MiB: it was not given back"
