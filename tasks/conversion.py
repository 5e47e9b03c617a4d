"""A whole conversion within the parent flow run: plan, launch, supervise, report."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prefect import Flow, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.states import Completed, Failed

from tasks.account import conclude, reconcile_run
from tasks.api import current_flow_run
from tasks.artifacts import RunProgress, name_flow_run, publish_run
from tasks.cores import usable_cores
from tasks.corpus.failures import PdfFlowsError, UsageError
from tasks.launch import LocalLauncher, WorkPoolLauncher
from tasks.lease import ParentLease
from tasks.options import LauncherName, Options
from tasks.passwords import read_passwords
from tasks.plan import Planned, Selection, open_stores, plan_run
from tasks.report import Report, RunState
from tasks.supervise import Log, Progress, Supervision, end_former_lives
from tasks.weights import check_model

TASK_RUNS_PER_SECOND = 30.0
"""What Prefect's server records without dropping any, with room to spare: measured 40 to 50 on one core."""
BATCH = 100
"""Documents a task run above `task_run_limit`."""
BEAT_FOLDER_SECONDS = 2.0
BEAT_S3_SECONDS = 15.0


@task(name="plan", task_run_name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(work: Callable[[], Planned], box: list[PdfFlowsError]) -> Planned | Any:
    """List, settle names, freeze the manifest. A known error goes into `box` and becomes this task run's Failed state."""
    try:
        return work()
    except PdfFlowsError as error:
        box.append(error)
        return Failed(message=str(error))


def worker_parameters(options: Options, planned: Planned, epoch: int) -> Callable[[int], dict[str, Any]]:
    """The parameters of each worker's flow run: where the run is, and what may differ between its starts."""
    # Only workers of this machine share its cores; others have what their own machine has.
    local = options.launcher is LauncherName.LOCAL
    threads = max(1, usable_cores() // options.workers) if local else None
    s3 = options.runs_url.startswith("s3://")

    def parameters(worker: int) -> dict[str, Any]:
        return {
            "runs": options.runs_url,
            "run_id": planned.spec.run_id,
            "worker": worker,
            "workers": options.workers,
            "epoch": epoch,
            "retries": options.retries,
            "device_slots": options.slots,
            "retry_failed": options.retry_failed,
            "steal": options.steal,
            "threads": threads,
            "beat_seconds": BEAT_S3_SECONDS if s3 else BEAT_FOLDER_SECONDS,
            "task_runs_per_second": TASK_RUNS_PER_SECOND / options.workers,
            "batch": BATCH if planned.spec.documents > options.task_run_limit else 1,
            "password_file": options.password_file,
        }

    return parameters


class Conversion:
    """One call's conversion. `stop` may be called from a signal handler or another thread."""

    def __init__(
        self,
        options: Options,
        log: Log,
        child: Flow[..., Any],
        *,
        selection: Selection | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._options = options
        self._log = log
        self._child = child
        self._selection = selection
        self._on_progress = on_progress
        self._supervision: Supervision | None = None
        self._shown: RunProgress | None = None
        self._stopped: str | None = None

    def stop(self, reason: str) -> None:
        """Drain the workers and end."""
        self._stopped = self._stopped or reason
        if self._supervision is not None:
            self._supervision.stop(reason)

    def run(self) -> Report:
        """Raises UsageError before any work, StoreError where not even a report can be written."""
        options, log = self._options, self._log
        begun = time.monotonic()
        read_passwords(options.password_file)
        if options.dolphin is not None and options.launcher is LauncherName.LOCAL:
            check_model(options.dolphin)
        box: list[PdfFlowsError] = []
        stores = open_stores(options)
        planned = plan(lambda: plan_run(options, self._selection, note=log.info, stores=stores), box, return_state=True)
        if box:
            raise box[0]
        if not planned.is_completed():
            raise UsageError(planned.message or "the run could not be planned")
        done: Planned = planned.result()
        spec = done.spec
        name_flow_run(spec.run_id, log)
        for note in done.notes:
            log.warning("%s", note)
        _, output, runs = stores
        flow_run = current_flow_run()
        flow_run_id = str(flow_run.id) if flow_run is not None else None
        s3 = options.runs_url.startswith("s3://")
        with ParentLease(runs, spec.run_id, flow_run_id, BEAT_S3_SECONDS if s3 else BEAT_FOLDER_SECONDS) as lease:
            before = 0
            waiting = done.waiting
            if done.resumed:
                end_former_lives(runs, spec.run_id)
                account = done.account or reconcile_run(runs, output, spec).account
                before = account.pages
                waiting = account.remaining + account.failed + account.quarantined
            log.info(
                "Run %s: %d documents, %d waiting, %d workers", spec.run_id, spec.documents, waiting, options.workers
            )
            stopped = self._stopped
            if waiting and stopped is None:
                parameters = worker_parameters(options, done, lease.epoch)
                launcher: LocalLauncher | WorkPoolLauncher
                if options.launcher is LauncherName.LOCAL:
                    launcher = LocalLauncher(self._child, parameters, spec.run_id, _relay)
                else:
                    launcher = WorkPoolLauncher(parameters, spec.run_id, lease.epoch)
                self._supervision = Supervision(
                    runs,
                    spec,
                    lease,
                    launcher,
                    options.workers,
                    log,
                    look_seconds=5.0 if s3 else 1.0,
                    on_progress=self._show,
                )
                if self._stopped is not None:
                    self._supervision.stop(self._stopped)
                with RunProgress(waiting, log) as self._shown:
                    stopped = self._supervise(self._supervision)
            report, result = conclude(
                runs,
                output,
                spec,
                stopped=stopped,
                seconds=time.monotonic() - begun,
                pages_before=before,
                max_failure_rate=options.max_failure_rate,
            )
        publish_run(report, result, runs.url, log)
        log.info(
            "%s: %d documents = %d converted + %d skipped + %d failed + %d quarantined + %d remaining; %d pages in %.1f s",
            report.state,
            report.documents,
            report.converted,
            report.skipped,
            report.failed,
            report.quarantined,
            report.remaining,
            report.pages,
            report.seconds,
        )
        return report

    def _show(self, progress: Progress) -> None:
        self._on_progress(progress)
        if self._shown is not None:
            self._shown.show(progress)

    def _supervise(self, supervision: Supervision) -> str | None:
        killed = False
        while True:
            try:
                return supervision.run()
            except (KeyboardInterrupt, TerminationSignal):
                if killed:
                    raise
                if self._stopped is not None:
                    # Asked for the second time: at once, but for the report.
                    supervision.kill()
                    killed = True
                # A cancelled parent drains its children itself: Prefect's server would take a minute to tell them.
                self.stop("interrupted")


def final_state(report: Report) -> Any:
    """The parent flow run's state: named so that the UI says what happened."""
    message = report.why or f"{report.converted} converted, {report.skipped} skipped"
    if report.state in (RunState.FAILED, RunState.STOPPED):
        return Failed(name=report.state.value, message=message)
    return Completed(name=report.state.value, message=message)


def _relay(line: str) -> None:
    """A worker's line on this process's stderr: it was logged to its own flow run already."""
    with _relaying:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


_relaying = threading.Lock()
