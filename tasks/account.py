"""Account: what a run came to, from manifest, ledger and the output's listing; and the report of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.corpus import paths
from tasks.corpus.audit import Account, Reconciliation, reconcile, settled
from tasks.corpus.failures import Category, NotFound, StoreError
from tasks.corpus.ledger import Outcome, Record, read_ledger
from tasks.corpus.outputs import existing_outputs
from tasks.corpus.partition import Bitmap
from tasks.corpus.runs import RunSpec, load_manifest
from tasks.corpus.store import Store, content_sha256
from tasks.fleet.criteria import Facts, criteria
from tasks.fleet.money import Money
from tasks.installed import versions
from tasks.report import Report, RunState, judge, write_report
from tasks.scratch import scratch_folder


def reconcile_run(
    runs: Store, output: Store, spec: RunSpec, look: Callable[[Record], None] = lambda record: None
) -> Reconciliation:
    """The run's accounting, from manifest, ledger and one listing of the output.

    Args:
        look: called with every record of the ledger while it is read.
    """

    def content(name: str) -> str | None:
        try:
            return content_sha256(output, name)
        except NotFound:
            return None

    with scratch_folder() as folder:
        manifest = load_manifest(runs, spec, folder)

        def records() -> Iterator[Record]:
            for record in read_ledger(runs, [paths.workers(spec.run_id)]):
                look(record)
                yield record

        return reconcile(manifest.rows(), records(), existing_outputs(output), content)


def left_to_do(runs: Store, output: Store, spec: RunSpec, epoch: int, retry_failed: bool) -> int:
    """How many documents still need work of lives of parent `epoch`: what `Candidates` would find. Raises StoreError."""
    closed = Bitmap(spec.documents)

    def look(record: Record) -> None:
        if record.index < spec.documents and settled(record, epoch, retry_failed):
            closed.add(record.index)

    result = reconcile_run(runs, output, spec, look)
    again = 0
    for failed in result.failures:
        if failed.worker is not None:
            again += failed.index not in closed
        else:  # known before any work
            again += retry_failed and failed.failure.category is not Category.NAME
    return result.account.remaining + again


class _Resumed:
    """Counts the pages that came from checkpoints."""

    def __init__(self) -> None:
        self.pages = 0

    def __call__(self, record: Record) -> None:
        if record.outcome is Outcome.CONVERTED:
            self.pages += record.resumed


def conclude(
    runs: Store,
    output: Store,
    spec: RunSpec,
    *,
    stopped: str | None,
    seconds: float,
    since_first: float | None = None,
    pages_before: int,
    max_failure_rate: float,
    written: bool = True,
    money: Money | None = None,
    left: list[str] | None = None,
    deadline: float | None = None,
) -> tuple[Report, Reconciliation]:
    """Account for the run and write its report (unless it is another parent's to write).

    Args:
        seconds: of this start.
        since_first: since the run's first start, where a deadline counts from that.
        left: what of the fleet could not be brought to an end; None where there was no fleet.
        deadline: seconds, None without one.
    """
    resumed = _Resumed()
    result = reconcile_run(runs, output, spec, resumed)
    account = result.account
    state, why = judge(account, stopped, max_failure_rate)
    pages = max(0, account.pages - pages_before)
    where = f"{runs.url.rstrip('/')}/{paths.report(spec.run_id)}"
    facts = Facts(
        documents=account.documents,
        accounted=account.documents - account.remaining,
        converted=account.converted + account.skipped,
        published_twice=account.duplicates,
        failure_rate=account.failure_rate,
        max_failure_rate=max_failure_rate,
        spent=money.spent if money is not None else None,
        target=money.target if money is not None else None,
        budget=money.budget if money is not None else None,
        hours=(seconds if since_first is None else since_first) / 3600,
        deadline_hours=deadline / 3600 if deadline is not None else None,
        machines_left=None if left is None else len(left) + (money.machines if money is not None else 0),
        report=where if written else None,
    )
    report = Report(
        run_id=spec.run_id,
        state=state,
        why=why,
        input=spec.identity.input,
        output=spec.identity.output,
        **account.model_dump(include=set(Account.model_fields) & set(Report.model_fields)),
        seconds=round(seconds, 2),
        pages_per_second=round(pages / seconds, 3) if seconds > 0 else 0.0,
        engine=spec.identity.engine,
        resumed_pages=resumed.pages,
        money=money,
        criteria=criteria(facts),
        left=left or [],
        versions=versions(),
        report=where,
    )
    if not written:
        return report, result
    try:
        write_report(runs, report)
    except StoreError as failure:
        # Without it the run counts as unfinished, and the next call goes on with it.
        cause = stopped or f"{failure.category}: {failure}"
        return report.model_copy(update={"state": RunState.STOPPED, "why": cause}), result
    return report, result
