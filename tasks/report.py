"""Report: what a run came to, as one object in the store, one JSON line, and Prefect artifacts."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.corpus import paths
from tasks.corpus.audit import Account
from tasks.corpus.failures import NotFound
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store
from tasks.fleet.criteria import Criterion
from tasks.fleet.money import Money


class RunState(StrEnum):
    """How a run ended."""

    COMPLETED = "Completed"
    COMPLETED_WITH_FAILURES = "Completed with failures"
    FAILED = "Failed"
    """The failure rate was over its limit, or the accounting does not close."""
    STOPPED = "Stopped"
    """Before its end; it can be resumed."""


class Report(BaseModel):
    """report.json."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    run_id: str
    state: RunState
    why: str | None = None
    input: str
    output: str
    documents: int
    converted: int
    skipped: int
    partial: int
    failed: int
    quarantined: int
    remaining: int
    recovered: int = 0
    duplicates: int
    lost: int = 0
    pages: int
    """Converted in all lives of the run."""
    seconds: float
    """Of the last start of the run."""
    pages_per_second: float
    """Of the last start of the run."""
    engine: str
    categories: dict[str, int] = {}
    resumed_pages: int = 0
    """Taken from checkpoints, not converted again."""
    money: Money | None = None
    """Of a run that is paid for, or has a budget."""
    criteria: list[Criterion] = []
    left: list[str] = []
    """What could not be brought to an end."""
    versions: dict[str, str] = {}
    """Of the parent's installation."""
    report: str
    """Where this is."""

    @property
    def exit_code(self) -> int:
        """0: all converted or skipped. 1: finished, some failed. 3: stopped before the end, can be resumed."""
        if self.state is RunState.STOPPED or self.remaining:
            return 3
        if self.failed or self.quarantined or self.duplicates or self.lost:
            return 1
        return 0

    def line(self) -> dict[str, object]:
        """What `--json` prints."""
        shown = (
            "run_id",
            "documents",
            "converted",
            "skipped",
            "partial",
            "failed",
            "quarantined",
            "remaining",
            "duplicates",
            "pages",
            "seconds",
            "pages_per_second",
            "engine",
            "report",
        )
        return {name: getattr(self, name) for name in shown}


def judge(account: Account, stopped: str | None, max_failure_rate: float) -> tuple[RunState, str | None]:
    """The run's state and why, from its accounting. Pure."""
    if stopped is not None:
        return RunState.STOPPED, stopped
    if account.duplicates or account.lost:
        what = f"{account.duplicates} documents published twice, {account.lost} outputs missing"
        return RunState.FAILED, f"the accounting does not close: {what}"
    if account.remaining:
        return RunState.STOPPED, f"{account.remaining} documents remain"
    failures = account.failed + account.quarantined
    if failures and account.failure_rate > max_failure_rate:
        return (
            RunState.FAILED,
            "failure rate {} over the limit of {}".format(*rates(account.failure_rate, max_failure_rate))
            + f" ({failures} documents)",
        )
    if failures:
        return RunState.COMPLETED_WITH_FAILURES, f"{failures} of {account.documents} documents failed"
    return RunState.COMPLETED, None


CAUSES = (
    ("budget", "budget"),
    ("the deadline", "deadline"),
    ("deadline", "deadline"),
    ("no machine that is started now would be ready before the deadline", "deadline"),
    ("canary", "canary"),
    ("breaker", "breaker"),
    ("cancelled", "cancelled"),
    ("interrupted", "interrupted"),
    ("terminated", "interrupted"),
    ("notice", "machine taken away"),
    ("another parent", "taken over"),
    ("worker ", "workers died"),
    ("DISK_FULL", "disk full"),
    ("FORBIDDEN", "forbidden"),
    ("STORE", "store"),
)
"""How the sentences begin that say why a run stopped, and the word for each."""


def cause(why: str | None) -> str | None:
    """Why a run stopped, in a word; None where there is none for it. Pure."""
    return next((word for begin, word in CAUSES if (why or "").startswith(begin)), None)


def state_name(state: RunState, why: str | None) -> str:
    """What the flow run's state is called: "Stopped: budget" says more than "Stopped". Pure."""
    word = cause(why) if state is RunState.STOPPED else None
    return f"{state.value}: {word}" if word is not None else state.value


def rates(rate: float, limit: float) -> tuple[str, str]:
    """A share and its limit for people, "7 %" and "5 %", with as many digits as it takes to tell them apart. Pure."""
    shown = [""]
    for digits in range(1, 12):
        shown = [f"{100 * share:.{digits}f}".rstrip("0").rstrip(".") for share in (rate, limit)]
        if rate == limit or shown[0] != shown[1]:
            break
    return f"{shown[0]} %", f"{shown[-1]} %"


def read_report(runs: Store, run_id: str) -> Report | None:
    """The run's report, None while there is none that can be read."""
    try:
        return Report.model_validate_json(runs.read(paths.report(run_id)))
    except (NotFound, ValidationError):
        return None


def write_report(runs: Store, report: Report) -> None:
    """Put the report."""
    runs.put(paths.report(report.run_id), report.model_dump_json(indent=1).encode())
