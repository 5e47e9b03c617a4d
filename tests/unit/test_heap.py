"""The heap of a sandbox child: kept from page to page, given back behind a document and where much of it is free."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
BEGIN = """
import json, resource
from pathlib import Path
from tasks.engines.layout import heap
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def page(tensors=1, size=40):
    return [b"x" * (size << 20) for _ in range(tensors)] and None
"""


def child(code: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", BEGIN + code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(figure) for figure in json.loads(done.stdout)]


@GLIBC
def test_what_pages_freed_is_given_back() -> None:
    kept, left = child("""
before = resident()
tensors = [bytearray(b"x" * 60_000) for _ in range(3500)]
among_them = tensors[::50] + tensors[-1:]
del tensors
kept = resident()
heap.give_back()
print(json.dumps([kept - before, resident() - before]))
""")
    assert kept > 150, "MiB: nothing had to be given back"
    assert left < 50, "MiB: it was not given back"


@GLIBC
@pytest.mark.parametrize(("keep", "most", "least"), [("heap.keep()", 2_000, 0), ("", 10**9, 50_000)])
def test_the_tensors_of_one_page_are_those_of_the_next(keep: str, most: int, least: int) -> None:
    """Without `keep`, each is mapped anew: some 10,000 page faults of 4 KiB."""
    if not keep and HUGE.is_file() and "[always]" in HUGE.read_text():
        pytest.skip("pages are of 2 MiB on this machine")
    [taken] = child(f"""
{keep}
page()
before = faults()
for _ in range(10):
    page()
print(json.dumps([faults() - before]))
""")
    assert least <= taken <= most


@GLIBC
def test_a_little_is_kept_behind_a_page_and_much_is_not() -> None:
    little, much, whole = child("""
heap.keep()
before = resident()
page(tensors=3)
heap.give_back(much=True)
little = resident() - before
page(tensors=20)
heap.give_back(much=True)
much = resident() - before
page(tensors=3)
heap.give_back()
print(json.dumps([little, much, resident() - before]))
""")
    assert little > 100, "MiB"
    assert max(much, whole) < 50, "MiB"


@GLIBC
def test_blocks_of_very_large_images_go_back_by_themselves() -> None:
    [left] = child("""
heap.keep()
before = resident()
page(tensors=4, size=100)
print(json.dumps([resident() - before]))
""")
    assert left < 20, "MiB"
