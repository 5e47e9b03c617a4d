"""Spot notices as a host gives them: a file of each worker's own, which the local launcher names by worker and launch."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

VARIABLE = "PDF_FLOWS_SPOT_NOTICE_FILE"


class Notices:
    """A folder of notice files: `environment` goes to `pdf-flows convert`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """Each worker has its own file."""
        return {VARIABLE: str(self._folder / "{worker}-{launch}" / "instance-action")}

    def give(self, worker: int, launch: int, seconds: float = 120.0) -> None:
        """The machine of this launch is terminated in so many seconds."""
        write_notice(self._folder / f"{worker}-{launch}" / "instance-action", seconds)

    def rebalance(self, worker: int, launch: int) -> None:
        """The machine of this launch may be taken away."""
        file = self._folder / f"{worker}-{launch}" / "rebalance"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"noticeTime": _time(0)}))


def write_notice(file: Path, seconds: float = 120.0) -> None:
    """All at once, as a host's watcher does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name("part")
    part.write_text(json.dumps({"action": "terminate", "time": _time(seconds)}))
    part.rename(file)


def file_of(pid: int) -> Path | None:
    """The notice file of a worker process, None where it has none of its own (or is gone)."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    named = next((value for value in variables if value.startswith(f"{VARIABLE}=".encode())), None)
    if named is None or b"{worker}" in named:
        return None
    return Path(named.decode().partition("=")[2])


def _time(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
