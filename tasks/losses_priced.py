"""What interruptions cost: paid time in which nothing was finished, because a life ended before its work was done. Pure.

Of a life that was interrupted it is the time from its last outcome to its last sign, since what it had in hand then was begun for
nothing, or saved and taken up by another; of its successor the time until its engine was ready, and, on a machine that nobody of
the run had before, the time since that machine started. Waiting for a machine costs time and no money.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from tasks.corpus.tally import LifeTally
from tasks.view import LifeFacts, interruptions

LONGEST_BOOT_SECONDS = 900.0
"""A machine that ran for longer before its worker began was not started for it."""


class InterruptionCost(BaseModel):
    """Of a whole run."""

    model_config = ConfigDict(frozen=True)

    interruptions: int = 0
    seconds: float = 0.0
    """Paid, with nothing finished."""
    usd: float | None = None
    """None where nothing is paid for."""


def interruption_cost(
    lives: Iterable[list[LifeFacts]], told: dict[tuple[int, int], LifeTally], usd_per_second: float | None
) -> InterruptionCost:
    """What interruptions cost so far.

    Args:
        lives: of each worker, oldest first.
        told: what each life recorded.
        usd_per_second: of a machine.
    """
    every = [some for some in lives if some]
    interrupted = {(one.worker, one.attempt) for one in interruptions(every)}
    machines: dict[str, tuple[float, int, int]] = {}
    for some in every:
        for one in some:
            if one.machine is not None and one.life is not None:
                first = (one.life.at, one.worker, one.attempt)
                machines[one.machine.id] = min(machines.get(one.machine.id, first), first)
    seconds = 0.0
    for some in every:
        for one, successor in zip(some, [*some[1:], None], strict=True):
            if (one.worker, one.attempt) not in interrupted:
                continue
            seconds += _for_nothing(one, told.get((one.worker, one.attempt)))
            if successor is not None:
                seconds += _until_ready(successor, machines)
    usd = seconds * usd_per_second if usd_per_second is not None else None
    return InterruptionCost(interruptions=len(interrupted), seconds=round(seconds, 1), usd=usd)


def _for_nothing(facts: LifeFacts, told: LifeTally | None) -> float:
    began = facts.life.at if facts.life is not None else 0.0
    last = told.last if told is not None and told.last is not None else began
    end = facts.beat.at if facts.beat is not None else 0.0
    return max(0.0, end - last) if last > 0 and end > 0 else 0.0


def _until_ready(facts: LifeFacts, machines: dict[str, tuple[float, int, int]]) -> float:
    life, beat, machine = facts.life, facts.beat, facts.machine
    if life is None:
        return 0.0
    seconds = (
        max(0.0, beat.at - life.at - beat.working_seconds) if beat is not None and life.at > 0 and beat.at > 0 else 0.0
    )
    if machine is not None and machines.get(machine.id) == (life.at, facts.worker, facts.attempt):
        uptime = machine.uptime or 0.0
        seconds += uptime if uptime <= LONGEST_BOOT_SECONDS else 0.0
    return seconds
