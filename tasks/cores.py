"""The processor's cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """At least 1; what the system's affinity leaves of the cores, where it knows such a thing."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
