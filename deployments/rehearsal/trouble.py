"""The trouble that a rehearsal was asked for: in what order, and when."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from deployments.rehearsal.clock import SPEED, here
from tasks.corpus.failures import UsageError
from tasks.fleet.budget import parse_duration

MOST_INTERRUPTIONS = 50
MOST_ERRORS = 0.5
"""Of S3's requests; more is an outage, and a run stops at that."""
MOST_DROUGHT = 1200.0
"""Seconds on this machine: somebody waits for it."""


class Kind(StrEnum):
    """One blow."""

    DROUGHT = "drought"
    INTERRUPTION = "interruption"
    PARENT = "kill of the parent"


class Trouble(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(frozen=True)

    interruptions: int = Field(0, ge=0, le=MOST_INTERRUPTIONS)
    no_capacity: float = Field(0.0, ge=0)
    """Seconds of the rehearsal's clock in which no machine is to be had."""
    s3_errors: float = Field(0.0, ge=0, le=MOST_ERRORS)
    """Share of S3's requests."""
    kill_parent: bool = False

    @property
    def blows(self) -> tuple[Kind, ...]:
        """In their order: the drought begins as the first machine goes, whose successor has to wait then; the parent is next."""
        first = (Kind.DROUGHT,) if self.no_capacity else ()
        interruptions = (Kind.INTERRUPTION,) * self.interruptions
        parent = (Kind.PARENT,) if self.kill_parent else ()
        return (*first, *interruptions[:1], *parent, *interruptions[1:])

    @property
    def words(self) -> str:
        """For people."""
        found = []
        if self.interruptions:
            found.append(f"{self.interruptions} Spot interruption{'s' * (self.interruptions > 1)}")
        if self.no_capacity:
            found.append(f"no capacity for {self.no_capacity / 60:g} min ({here(self.no_capacity):g} s here)")
        if self.s3_errors:
            found.append(f"{self.s3_errors:.1%} of S3's requests fail")
        if self.kill_parent:
            found.append("the parent is killed")
        return ", ".join(found) or "none"


class Given(BaseModel):
    """What came to pass."""

    interruptions: int = 0
    drained: int = 0
    """Of the interrupted workers: those that ended in time by themselves."""
    droughts: int = 0
    drought_seconds: float = 0.0
    """Of this machine's clock."""
    waited: int = 0
    """Tasks that a drought kept waiting."""
    parents_killed: int = 0
    s3_requests: dict[str, int] = {}
    """By what became of them, where some were to fail."""

    def missing(self, asked: Trouble) -> list[str]:
        """What was asked for and did not come to pass. Pure."""
        found = []
        if self.interruptions < asked.interruptions:
            found.append(f"{self.interruptions} of {asked.interruptions} interruptions")
        if asked.no_capacity and not self.droughts:
            found.append("no drought")
        if asked.kill_parent and not self.parents_killed:
            found.append("no kill of the parent")
        if asked.s3_errors and sum(n for fate, n in self.s3_requests.items() if fate != "passed") == 0:
            found.append("no failed request to S3")
        return found


def trouble_of(interruptions: int, no_capacity: str | None, s3_errors: str | None, kill_parent: bool) -> Trouble:
    """From the command line. Raises UsageError naming what is bad."""
    if not 0 <= interruptions <= MOST_INTERRUPTIONS:
        raise UsageError(f"bad --interruptions {interruptions}: give 0 to {MOST_INTERRUPTIONS}")
    seconds = 0.0
    if no_capacity is not None:
        try:
            seconds = parse_duration(no_capacity)
        except ValueError as error:
            raise UsageError(f"bad --no-capacity: {error}") from None
        if not 0 < here(seconds) <= MOST_DROUGHT:
            longest = MOST_DROUGHT * SPEED / 60
            raise UsageError(f"bad --no-capacity {no_capacity!r}: give 1s to {longest:g}m of the rehearsal's clock")
    return Trouble(
        interruptions=interruptions, no_capacity=seconds, s3_errors=_share(s3_errors), kill_parent=kill_parent
    )


def _share(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= MOST_ERRORS:
        raise UsageError(f"bad --s3-errors {text!r}: give a share from 0% to {MOST_ERRORS:.0%}, such as 5% or 0.05")
    return share
