"""The steps of a command: each is shown as it is done, or, in a dry run, only shown."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from deployments.aws.showing import block
from deployments.say import tell


class Step(BaseModel):
    """One thing that was done, or would be."""

    model_config = ConfigDict(frozen=True)

    what: str
    outcome: str
    """"done", "would be done", or what came of it."""
    seconds: float = 0.0


class Steps:
    """Does things one after the other.

    Args:
        dry_run: nothing is done, everything is said.
        tell: where lines go; None takes stderr, so that results on stdout stay clean.
    """

    def __init__(self, *, dry_run: bool = False, tell: Callable[[str], None] | None = None) -> None:
        self.dry_run = dry_run
        self.done: list[Step] = []
        self._tell = tell

    def do(self, what: str, action: Callable[[], str | None]) -> None:
        """Do one thing. What it raises ends the command; `what` was said before, so that it is known where.

        Args:
            what: in the imperative: "pause the work pool pdf-flows-gpu".
            action: returns what came of it, or None for "done".
        """
        if self.dry_run:
            self.say(f"would {what}")
            self.done.append(Step(what=what, outcome="would be done"))
            return
        began = time.monotonic()
        self.say(f"{what} ...")
        outcome = action() or "done"
        seconds = time.monotonic() - began
        self.say(f"  {outcome}" + (f" ({seconds:.0f} s)" if seconds >= 1 else ""))
        self.done.append(Step(what=what, outcome=outcome, seconds=round(seconds, 3)))

    def note(self, what: str) -> None:
        """Something that is so already, or that cannot be done."""
        self.say(what)
        self.done.append(Step(what=what, outcome="noted"))

    def say(self, text: str) -> None:
        """A line about progress."""
        (self._tell or tell)(block(text))
