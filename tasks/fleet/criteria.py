"""Success criteria of a run: one readable line each. Pure."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tasks.fleet.money import duration


class Facts(BaseModel):
    """What a run came to. None: not known, or not asked for."""

    model_config = ConfigDict(frozen=True)

    documents: int = Field(ge=0)
    """Of the manifest."""
    accounted: int = Field(ge=0)
    """Converted + skipped + failed + quarantined."""
    converted: int = Field(ge=0)
    """Now or before: their output is there."""
    published_twice: int | None = Field(None, ge=0)
    failure_rate: float = Field(0.0, ge=0, le=1)
    max_failure_rate: float = Field(1.0, ge=0, le=1)
    spent: float | None = Field(None, ge=0)
    """USD."""
    target: float | None = None
    budget: float | None = None
    hours: float = Field(0.0, ge=0)
    deadline_hours: float | None = None
    machines_left: int | None = Field(None, ge=0)
    """That still cost money; None where it could not be checked or there were none to check."""
    report: str | None = None
    """Where the report was written."""


class Criterion(BaseModel):
    """One criterion."""

    model_config = ConfigDict(frozen=True)

    name: str
    met: bool | None
    """None: not applicable."""
    text: str

    def line(self) -> str:
        """For people."""
        mark = {True: "met", False: "NOT MET", None: "n/a"}[self.met]
        return f"{mark:>7}  {self.name}: {self.text}"


def criteria(facts: Facts) -> list[Criterion]:
    """All of them, in the order of the promises."""
    left = facts.documents - facts.accounted
    return [
        Criterion(
            name="every document accounted for",
            met=left == 0,
            text=f"{facts.accounted:,} of {facts.documents:,} documents have an end, {facts.converted:,} of them Markdown"
            + (f"; {left:,} remain" if left > 0 else ""),
        ),
        Criterion(
            name="nothing published twice",
            met=None if facts.published_twice is None else facts.published_twice == 0,
            text="not checked" if facts.published_twice is None else f"{facts.published_twice:,} documents twice",
        ),
        Criterion(
            name="failures within the limit",
            met=facts.failure_rate <= facts.max_failure_rate,
            text=f"{facts.failure_rate:.2%} failed, {facts.max_failure_rate:.2%} are allowed",
        ),
        _money("within the target", facts.spent, facts.target, "target"),
        _money("within the budget", facts.spent, facts.budget, "budget"),
        Criterion(
            name="before the deadline",
            met=None if facts.deadline_hours is None else facts.hours <= facts.deadline_hours,
            text=f"took {duration(3600 * facts.hours)}"
            + (
                ", no deadline was set"
                if facts.deadline_hours is None
                else f" of {duration(3600 * facts.deadline_hours)}"
            ),
        ),
        Criterion(
            name="nothing left running",
            met=None if facts.machines_left is None else facts.machines_left == 0,
            text="no machines to check" if facts.machines_left is None else f"{facts.machines_left:,} machines left",
        ),
        Criterion(
            name="report written",
            met=facts.report is not None,
            text="no report" if facts.report is None else facts.report,
        ),
    ]


def _money(name: str, spent: float | None, limit: float | None, word: str) -> Criterion:
    if limit is None:
        return Criterion(name=name, met=None, text=f"no {word} was set")
    if spent is None:
        return Criterion(name=name, met=None, text=f"what was spent is not known; the {word} is ${limit:.2f}")
    return Criterion(name=name, met=spent <= limit, text=f"${spent:.2f} of ${limit:.2f}")
