"""Processes that come from this one, also those whose parents are gone: whoever ends leaves none behind, and can say so."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: orphans among our descendants become our children instead of the system's (prctl(2))."""
PROC = Path("/proc")


def keep_orphans() -> bool:
    """From now on. False where the system has no such thing: then only children can be told."""
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def living() -> dict[int, str]:
    """Descendants that live, by pid, with their command lines; {} where there is no /proc."""
    parents: dict[int, int] = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            stat = (folder / "stat").read_text()
            state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
            if state not in "ZX":
                parents[int(folder.name)] = int(parent)
    found: dict[int, str] = {}
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours and pid not in ours}:
        ours |= more
        for pid in more:
            with contextlib.suppress(OSError):
                found[pid] = (
                    (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                )
    return found


def end(patience: float = 5.0) -> dict[int, str]:
    """Give what lives so many seconds to leave, and SIGKILL the rest. What had to be killed."""
    until = time.monotonic() + patience
    while (left := living()) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return left


def of_flow_run(id: str) -> list[int]:
    """Processes below this one in which Prefect executes a flow run."""
    mark = f"PREFECT__FLOW_RUN_ID={id}".encode()
    found = []
    for pid in living():
        with contextlib.suppress(OSError):
            if mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found
