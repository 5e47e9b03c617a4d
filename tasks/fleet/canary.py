"""The canary: one worker converts a few documents before machines are paid for to convert the rest. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from tasks.fleet.budget import TAILS
from tasks.fleet.money import duration
from tasks.fleet.spend import HOUR

FORGIVEN = 1
"""Failures that stop no run, whatever the rate: one of twenty says little."""


class Verdict(StrEnum):
    """What the sample says of the run."""

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"


class Sample(BaseModel):
    """What became of the sample, and what the rest will take at that pace."""

    model_config = ConfigDict(frozen=True)

    documents: int
    """Of the sample."""
    done: int
    """With an outcome."""
    published: int
    """Outputs of this run."""
    failed: int
    """Of all documents done so far."""
    processed: int
    ended: bool = False
    """The worker found nothing more to do: the sample may be smaller than asked for."""
    max_failure_rate: float
    pace: float | None = None
    """Weight a second of one worker."""
    left: float = 0.0
    """Weight of what remains."""
    workers: int = 1
    """That the run is to have."""
    usd_per_hour: float | None = None
    """Of a machine."""
    spent: float = 0.0
    budget: float | None = None
    """USD."""
    seconds_left: float | None = None
    """Until the deadline."""

    @property
    def hours(self) -> float | None:
        """That the rest takes on all workers."""
        if not self.pace:
            return None
        return self.left / self.pace / self.workers / HOUR * TAILS

    @property
    def usd(self) -> float | None:
        """That the whole run costs."""
        if not self.pace or self.usd_per_hour is None:
            return None
        return self.spent + self.left / self.pace / HOUR * self.usd_per_hour * TAILS

    @property
    def figures(self) -> str:
        """In words."""
        words = f"{self.published} of {self.processed} published, {self.failed} failed"
        if self.hours is not None:
            words += f"; the rest is projected at {duration(3600 * self.hours)} on {self.workers} workers"
        if self.usd is not None:
            words += f", ${self.usd:.2f} in all"
        return words


def judge(sample: Sample) -> tuple[Verdict, str]:
    """Whether the other workers may be launched, and why (not)."""
    # Many failures are no reason to wait for more of them.
    bearable = sample.failed <= max(FORGIVEN, sample.max_failure_rate * sample.documents)
    if bearable and sample.done < sample.documents and not sample.ended:
        return Verdict.PENDING, ""
    if sample.processed and not sample.published and sample.failed:
        return Verdict.FAILED, f"canary: nothing was published ({sample.figures})"
    rate = sample.failed / sample.processed if sample.processed else 0.0
    if sample.failed > FORGIVEN and rate > sample.max_failure_rate:
        return (
            Verdict.FAILED,
            f"canary: failure rate {rate:.1%}, the limit is {sample.max_failure_rate:.1%} ({sample.figures})",
        )
    if sample.budget is not None and sample.usd is not None and sample.usd > sample.budget:
        return Verdict.FAILED, f"canary: over the budget of ${sample.budget:.2f} ({sample.figures})"
    if sample.seconds_left is not None and sample.hours is not None and sample.hours * HOUR > sample.seconds_left:
        return Verdict.FAILED, f"canary: over the deadline, {duration(sample.seconds_left)} away ({sample.figures})"
    return Verdict.PASSED, f"canary passed: {sample.figures}"


def by_size(weights: Sequence[int], count: int) -> list[int]:
    """Places of `count` of the weights, evenly from the lightest to the heaviest: the sample stands for the whole."""
    order = sorted(range(len(weights)), key=lambda place: (weights[place], place))
    if count >= len(order):
        return order
    if count == 1:
        return [order[len(order) // 2]]
    # Not the very heaviest: one monster would make the canary wait for it, and stands for nothing.
    return [order[int((step + 0.5) * len(order) / count)] for step in range(count)]
