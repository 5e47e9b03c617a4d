"""Last words of lives: what a worker's final heartbeat says, as those who read it know it."""

from __future__ import annotations

COMPLETE = "complete"
"""It found nothing more that is free."""
FAULT = "fault: "
"""Begins the last word of a life whose engine can't be loaded."""
