"""What a run has cost, for people."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


def duration(seconds: float) -> str:
    """For people: "50 s", "12 min", "1.5 h"."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Money(BaseModel):
    """Where a run stands, for its report and its parent's artifact. USD."""

    model_config = ConfigDict(frozen=True)

    spent: float
    budget: float | None = None
    target: float | None = None
    projected: float | None = None
    hours_left: float | None = None
    rest: float | None = None
    """What is left would cost."""
    machines: int = 0
    """That workers live on."""
    leaving: int = 0
    """Whose workers ended, and which may be paid for until they are torn down."""

    def lines(self) -> list[str]:
        """For people."""
        found = [f"spent ${self.spent:.2f}" + (f" of ${self.budget:.2f}" if self.budget is not None else "")]
        if self.target is not None:
            found.append(f"target ${self.target:.2f}")
        if self.projected is not None:
            hours = f", {duration(3600 * self.hours_left)} left" if self.hours_left is not None else ""
            found.append(f"projected ${self.projected:.2f}{hours}")
        if self.rest:
            found.append(f"what is left would cost about ${self.rest:.2f}")
        if self.machines or self.leaving:
            found.append(f"{self.machines} machines at work, {self.leaving} being torn down")
        return found
