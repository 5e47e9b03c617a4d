"""The launcher protocol: how a supervisor gets workers, wherever they run."""

from __future__ import annotations

from typing import Protocol


class Handle(Protocol):
    """One launched life of a worker."""

    def poll(self) -> int | None:
        """None while it runs, then its exit status (0: it ended in an orderly way)."""
        ...

    @property
    def begun(self) -> bool:
        """Whether its process was started; a work pool may keep it waiting for a machine for hours."""
        ...

    def drain(self) -> None:
        """Ask it to stop claiming, save what is in hand and end."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class Launcher(Protocol):
    """Launches lives of workers."""

    def launch(self, worker: int, launch: int) -> Handle:
        """Start a life of worker `worker`; `launch` counts the launches of that worker by this parent."""
        ...

    def poll(self) -> None:
        """Refresh what the handles know, in one bulk read whatever their number."""
        ...
