"""What this process may compute with."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

_CPU = re.compile(r"cpu(\d+) (.+)")
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """At least 1; what the system's affinity leaves of the cores, where it knows such a thing."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> int:
    """How many NVIDIA devices there are; asks neither torch nor the driver."""
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))


class IdleCores:
    """How many of the usable cores did nothing, whoever else uses them."""

    def __init__(
        self, stat: Path = Path("/proc/stat"), clock: Callable[[], float] = time.monotonic, ticks: int | None = None
    ) -> None:
        self._stat, self._clock = stat, clock
        self._ticks = ticks or os.sysconf("SC_CLK_TCK")
        self._before = self._look()

    def __call__(self) -> float:
        """Since it was last asked; 0 where the system does not tell."""
        before, self._before = self._before, self._look()
        seconds = self._before[0] - before[0]
        return max(0.0, (self._before[1] - before[1]) / self._ticks / seconds) if seconds > 0 else 0.0

    def _look(self) -> tuple[float, int]:
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
        try:
            lines = self._stat.read_text().splitlines()
        except OSError:
            lines = []
        found = [match for line in lines if (match := _CPU.fullmatch(line)) is not None]
        # user, nice, system, idle, iowait: waiting for a disk is no work.
        idle = sum(sum(map(int, match[2].split()[3:5])) for match in found if int(match[1]) in mine)
        return self._clock(), idle


def free_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = _CGROUP) -> int | None:
    """Bytes that can be used without pushing anybody out, of the machine and of this control group; None where unknown."""
    left = [found for found in (_available(meminfo), _left_to(group)) if found is not None]
    return min(left, default=None)


def _available(meminfo: Path) -> int | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.M)
    except OSError:
        return None
    return int(match[1]) << 10 if match is not None else None


def _left_to(group: Path) -> int | None:
    try:
        most, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):  # no group, or one without a limit
        return None
    return most - used + (int(cached[1]) if cached is not None else 0)
