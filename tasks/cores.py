"""What this process may compute with."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> int:
    """At least 1; what the system's affinity leaves of the cores, where it knows such a thing."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> int:
    """How many NVIDIA devices there are; asks neither torch nor the driver."""
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
