"""The rehearsal's clock: what takes AWS minutes and nobody here works at goes faster. Processes, pages and Prefect do not."""

from __future__ import annotations

SPEED = 6.0
"""Notices, droughts, how long ECS waits for a machine, and prices: ten minutes of theirs are 100 s."""
NOTICE = 120.0
"""Seconds from a Spot notice to the end of the machine, on AWS (its documentation)."""
PATIENCE = 1800.0
"""Seconds that ECS keeps a task waiting for a machine, at most (AWS documentation: 10 to 30 minutes)."""
WATCH = 5.0
"""Seconds between two looks of a machine's watcher at its metadata, in the stack's template."""


def here(seconds: float) -> float:
    """So long it takes on this machine. Pure."""
    return seconds / SPEED
