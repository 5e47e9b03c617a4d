"""What a rehearsal came to."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.rehearsal.clock import SPEED
from deployments.rehearsal.differences import DIFFERENCES
from deployments.rehearsal.prediction import Prediction
from deployments.rehearsal.trouble import Given, Trouble
from tasks.fleet.money import Money


class Audit(BaseModel):
    """What `pdf-flows audit --json` said, and its exit status."""

    model_config = ConfigDict(frozen=True)

    status: int
    run_id: str = ""
    documents: int = 0
    converted: int = 0
    skipped: int = 0
    failed: int = 0
    quarantined: int = 0
    remaining: int = 0
    duplicates: int = 0
    lost: int = 0
    closes: bool = False
    said: str = ""
    """Where it said something else."""

    @property
    def good(self) -> bool:
        """All is accounted for, once."""
        return self.status == 0 and self.closes and not self.remaining


class Rehearsed(BaseModel):
    """The whole of it, and what `--json` prints."""

    model_config = ConfigDict(frozen=True)

    run: dict[str, Any]
    """Of the run's report, as `convert --json` prints it; {} where there is none."""
    state: str
    """Of the parent's flow run."""
    why: str
    documents: int
    """That were put into the bucket."""
    workers: int
    machines: int
    asked: Trouble
    given: Given
    audit: Audit
    left: list[str]
    """Tasks, flow runs and processes that had not ended."""
    money: Money | None
    """By the run's own book."""
    prediction: Prediction | None
    seconds: float
    """From nothing to nothing."""

    @property
    def missing(self) -> list[str]:
        """Trouble that was asked for and did not come to pass."""
        return self.given.missing(self.asked)

    @property
    def good(self) -> bool:
        """All documents accounted for, once, nothing left, and all the trouble was there."""
        return self.audit.good and self.audit.documents == self.documents and not self.left and not self.missing

    def json_line(self) -> dict[str, Any]:
        """One object: what `convert --json` prints, and what only a rehearsal has."""
        return self.run | {
            "ok": self.good,
            "state": self.state,
            "workers": self.workers,
            "machines": self.machines,
            "clock": SPEED,
            "asked": self.asked.model_dump(),
            "given": self.given.model_dump(),
            "audit": self.audit.model_dump(exclude={"said"}),
            "left": self.left,
            "money": self.money.model_dump() if self.money is not None else None,
            "aws": self.prediction.model_dump() if self.prediction is not None else None,
            "differences": list(DIFFERENCES),
            "rehearsal_seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """For people."""
        audit, given = self.audit, self.given
        found = [
            f"accounting  {audit.documents} documents = {audit.converted} converted + {audit.skipped} skipped + {audit.failed} "
            f"failed + {audit.quarantined} quarantined + {audit.remaining} remaining; published twice {audit.duplicates}, "
            f"lost {audit.lost}",
            f"audit       exit status {audit.status}, the accounting {'closes' if audit.closes else 'DOES NOT CLOSE'}"
            + (f": {audit.said}" if audit.said else ""),
            f"trouble     asked for: {self.asked.words}",
        ]
        if given.interruptions:
            lost = given.interruptions - given.drained
            found.append(f"            {given.interruptions} interrupted: {given.drained} drained in time, {lost} lost")
        if given.droughts:
            found.append(f"            a drought of {given.drought_seconds:.0f} s kept {given.waited} tasks waiting")
        if given.parents_killed:
            found.append("            the parent was killed, and started again")
        if given.s3_requests:
            total = sum(given.s3_requests.values())
            failed = total - given.s3_requests.get("passed", 0)
            found.append(
                f"            {failed} of {total} requests to S3 failed ({failed / total if total else 0:.1%})"
            )
        found += [f"            NOT GIVEN: {what}; give it more documents (--copies)" for what in self.missing]
        found.append(
            f"left        {', '.join(self.left) or 'no task, no flow run, no process'}; {self.machines} machines were used"
        )
        if self.money is not None:
            found.append(
                f"spent       ${self.money.spent:.4f} by the run's own book, at the rehearsal's prices: this machine's seconds, "
                "and 20 minutes of teardown of each of its machines at the price's ceiling"
            )
        if self.prediction is not None:
            first, *others = self.prediction.lines()
            found += [f"predicted   {first}", *(f"          {line}" for line in others)]
        found.append("differs     from AWS:")
        found += [f"            - {what}" for what in DIFFERENCES]
        return found
