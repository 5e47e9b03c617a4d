"""The launcher protocol: how a supervisor gets workers, wherever they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tasks.fleet.losses import Loss


@dataclass(frozen=True, slots=True)
class End:
    """How a launch ended."""

    orderly: bool
    """By itself, with everything said."""
    words: str = ""
    loss: Loss | None = None
    """Of one that was not orderly."""
    cancelled: bool = False
    """By hand, in the UI."""


class NotLaunched(Exception):
    """The launcher could not be reached, or refused: nothing was started, and it may be tried again."""


class Handle(Protocol):
    """One launched life of a worker."""

    def poll(self) -> End | None:
        """None while it runs or waits."""
        ...

    @property
    def flow_run_id(self) -> object:
        """Of its flow run, None without one."""
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

    def launch(self, worker: int, launch: int, *, on_demand: bool = False) -> Handle:
        """Start a life of worker `worker`. Raises NotLaunched.

        Args:
            launch: counts the launches of that worker in this run, whichever parent made them.
            on_demand: on a machine that is not taken away, where there is a choice.
        """
        ...

    def adopt(self) -> dict[int, Handle]:
        """Living workers of this run that a former parent launched."""
        ...

    def poll(self) -> None:
        """Refresh what the handles know, in one bulk read whatever their number."""
        ...

    def end(self) -> list[str]:
        """Nobody is wanted any more: bring to an end what is left, and say what could not be."""
        ...
