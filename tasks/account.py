"""Account: what a run came to, from manifest, ledger and the output's listing; and the report of it."""

from __future__ import annotations

from tasks.corpus import paths
from tasks.corpus.audit import Account, Reconciliation, reconcile
from tasks.corpus.failures import NotFound, StoreError
from tasks.corpus.ledger import read_ledger
from tasks.corpus.outputs import existing_outputs
from tasks.corpus.runs import RunSpec, load_manifest
from tasks.corpus.store import Store, content_sha256
from tasks.report import Report, RunState, judge, write_report
from tasks.scratch import scratch_folder


def reconcile_run(runs: Store, output: Store, spec: RunSpec) -> Reconciliation:
    """The run's accounting, from manifest, ledger and one listing of the output."""

    def content(name: str) -> str | None:
        try:
            return content_sha256(output, name)
        except NotFound:
            return None

    with scratch_folder() as folder:
        manifest = load_manifest(runs, spec, folder)
        records = read_ledger(runs, [paths.workers(spec.run_id)])
        return reconcile(manifest.rows(), records, existing_outputs(output), content)


def conclude(
    runs: Store,
    output: Store,
    spec: RunSpec,
    *,
    stopped: str | None,
    seconds: float,
    pages_before: int,
    max_failure_rate: float,
) -> tuple[Report, Reconciliation]:
    """Account for the run and write its report."""
    result = reconcile_run(runs, output, spec)
    account = result.account
    state, why = judge(account, stopped, max_failure_rate)
    pages = max(0, account.pages - pages_before)
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
        report=f"{runs.url.rstrip('/')}/{paths.report(spec.run_id)}",
    )
    try:
        write_report(runs, report)
    except StoreError as failure:
        # Without it the run counts as unfinished, and the next call goes on with it.
        cause = stopped or f"{failure.category}: {failure}"
        return report.model_copy(update={"state": RunState.STOPPED, "why": cause}), result
    return report, result
