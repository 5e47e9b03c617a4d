"""A whole conversion within the parent flow run: plan, launch, supervise, report."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import Flow, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Failed

from tasks.account import conclude, left_to_do, reconcile_run
from tasks.api import being_cancelled, current_flow_run
from tasks.artifacts import RunProgress, name_flow_run
from tasks.canary import Canary, Waiting, keep_verdict, read_verdict
from tasks.channels import open_channels
from tasks.cores import usable_cores
from tasks.corpus import paths
from tasks.corpus.checkpoints import sweep
from tasks.corpus.failures import PdfFlowsError, StoreError, UsageError
from tasks.corpus.names import printable
from tasks.corpus.partition import Bitmap
from tasks.corpus.runs import RunSpec, load_manifest
from tasks.corpus.settled import SettledBoard, SettledBy
from tasks.corpus.store import Store
from tasks.final_artifacts import publish_run
from tasks.fleet.canary import Verdict
from tasks.fleet.imds import Imds
from tasks.fleet.launcher import Handle
from tasks.fleet.machine import OVERRIDE, Machine, this_machine
from tasks.fleet.money import Money
from tasks.fleet.notice import Notice, NoticeKind, NoticeWatch
from tasks.fleet.prices import AwsPrices, FixedPrices, Prices
from tasks.fleet.supervisor import Patience
from tasks.launch import LocalLauncher, WorkPoolLauncher
from tasks.lease import ParentLease
from tasks.live_page import LivePage
from tasks.messages import About, Standing
from tasks.notifier import Notifier
from tasks.options import LauncherName, Options
from tasks.passwords import read_passwords
from tasks.plan import Planned, Selection, Stores, open_stores, plan_run
from tasks.pulse import PARENT_PATIENCE_SECONDS
from tasks.report import Report, RunState, state_name
from tasks.scratch import scratch_folder
from tasks.supervise import Log, Progress, Supervision, end_former_lives
from tasks.treasury import Treasury
from tasks.ui_links import ui_address
from tasks.view import RunView
from tasks.weights import check_model

_log = logging.getLogger("pdf_flows.conversion")

TASK_RUNS_PER_SECOND = 30.0
"""What Prefect's server records without dropping any, with room to spare: measured 40 to 50 on one core."""
BATCH = 100
"""Documents a task run above `task_run_limit`."""
POOL_PATIENCE_SECONDS = 900.0
"""How long workers on a pool go on without a parent, in a run without a budget: until it was started again elsewhere."""
WORTH_A_CANARY = 2
"""Runs of fewer than so many times the sample start with all workers."""
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


def worker_parameters(
    options: Options, planned: Planned, epoch: int, sample: list[int]
) -> Callable[[int, int], dict[str, Any]]:
    """The parameters of each worker's flow run: where the run is, and what may differ between its starts.

    Args:
        sample: documents that worker 0 begins with (the canary's).
    """
    # Only workers of this machine share its cores; others have what their own machine has.
    local = options.launcher is LauncherName.LOCAL
    threads = max(1, usable_cores() // options.workers) if local else None
    s3 = options.runs_url.startswith("s3://")

    def parameters(worker: int, launch: int) -> dict[str, Any]:
        return {
            "runs": options.runs_url,
            "run_id": planned.spec.run_id,
            "worker": worker,
            "workers": options.workers,
            "epoch": epoch,
            "launch": launch,
            "sample": sample if worker == 0 else [],
            "budgeted": options.terms.budget is not None,
            "parent_patience": PARENT_PATIENCE_SECONDS
            if local or options.terms.budget is not None
            else POOL_PATIENCE_SECONDS,
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


def on_demand_variables(provider: str | None) -> dict[str, Any] | None:
    """The job variables (prefect-aws' ECS work pool) that put a worker on the on-demand capacity provider."""
    if provider is None:
        return None
    return {"capacity_provider_strategy": [{"capacityProvider": provider, "weight": 1, "base": 0}]}


def own_machine() -> Machine:
    """The machine that this process and all its local workers run on. Raises UsageError where it is described by nonsense."""
    try:
        return this_machine(Imds.from_env(os.environ))
    except ValueError as error:
        raise UsageError(str(error)) from error


class _Start:
    """One start of a run: who launches its workers, who of a former start lives, what is done already."""

    def __init__(
        self, spec: RunSpec, lease: ParentLease, stores: Stores, launcher: LocalLauncher | WorkPoolLauncher
    ) -> None:
        self._spec, self._lease, self._stores, self.launcher = spec, lease, stores, launcher
        self.treasury: Treasury | None = None
        self._canary: Canary | None = None
        self.waiting = self.pages_before = 0
        self._adopted: dict[int, Handle] = {}
        self._living: set[str] = set()

    @classmethod
    def of(
        cls,
        options: Options,
        planned: Planned,
        lease: ParentLease,
        stores: Stores,
        child: Flow[..., Any],
        board: SettledBoard,
    ) -> _Start:
        """Look back, and write down for the workers what was found."""
        spec = planned.spec
        _, output, runs = stores
        sample: list[int] = []
        parameters = worker_parameters(options, planned, lease.epoch, sample)
        launcher: LocalLauncher | WorkPoolLauncher
        if options.launcher is LauncherName.LOCAL:
            launcher = LocalLauncher(child, parameters, spec.run_id, _relay)
        else:
            launcher = WorkPoolLauncher(
                parameters, spec.run_id, options.deployment, on_demand_variables(options.on_demand)
            )
        start = cls(spec, lease, stores, launcher)
        start.waiting = planned.waiting
        settled = Bitmap(spec.documents)
        if planned.resumed:
            start._adopted = launcher.adopt()
            kept = [str(handle.flow_run_id) for handle in start._adopted.values()]
            start._living = end_former_lives(runs, spec.run_id, kept)
            found, account = Bitmap.from_bytes(spec.documents, planned.settled), planned.account
            if found is None or account is None:
                by = SettledBy(spec.documents, options.retry_failed)
                account, found = reconcile_run(runs, output, spec, by).account, by.found
            settled = found
            start.pages_before = account.pages
            start.waiting = account.remaining + account.failed + account.quarantined
        board.begin(settled, resumed=planned.resumed)
        if start.waiting:
            start._govern(options, settled, sample)
        return start

    def _govern(self, options: Options, settled: Bitmap, sample: list[int]) -> None:
        """Money, time and the canary, where there are any."""
        terms, runs = options.lasting_terms, self._stores[2]
        documents = options.canary_documents
        verdict = read_verdict(runs, self._spec.run_id) if documents else None
        # One that failed, or was cut short, is asked again; a run that went on without one needs none.
        if verdict is Verdict.PASSED or (verdict is None and (self.pages_before or self._adopted)):
            documents = 0
        if options.canary is None and self.waiting < WORTH_A_CANARY * documents:
            documents = 0  # nobody asked for one, and it would be most of the run
        local = options.launcher is LauncherName.LOCAL
        paid = not local or any(limit is not None for limit in (terms.budget, terms.target, terms.deadline))
        if not documents and not paid:
            return
        with scratch_folder() as folder:
            waiting = Waiting(load_manifest(runs, self._spec, folder).rows(), settled)
        if paid:
            prices: Prices = AwsPrices(max_price=terms.max_price)
            if options.price is not None:
                prices = FixedPrices(options.price, ceiling=terms.max_price)
            self.treasury = Treasury(
                runs,
                self._spec.run_id,
                terms,
                prices,
                types=options.types_started,
                region=options.region,
                weight=waiting.weight,
                shared=local,
                own=own_machine() if local and options.price is None else None,
                living=self._living,
                launched=[k for k in self._adopted if not any(name.startswith(f"{k}/") for name in self._living)],
            )
        if documents:
            sample[:] = waiting.sample(documents)
            self._canary = Canary(
                len(sample),
                options.workers,
                waiting.weight,
                max_failure_rate=options.max_failure_rate,
                treasury=self.treasury,
                budget=terms.budget,
                deadline=terms.deadline,
                keep=lambda verdict: keep_verdict(runs, self._spec.run_id, verdict),
            )

    def money(self) -> Money | None:
        """Where the run stands."""
        return self.treasury.money() if self.treasury is not None else None

    def supervision(self, options: Options, log: Log, show: Callable[[Progress], None]) -> Supervision:
        """The watch over this start's workers."""
        s3 = options.runs_url.startswith("s3://")
        states = self.launcher.states
        _, output, runs = self._stores
        made = Supervision(
            runs,
            self._spec,
            self._lease,
            self.launcher,
            1 if self._canary is not None else options.workers,
            log,
            remaining=self.waiting,
            look_seconds=5.0 if s3 else 1.0,
            patience=Patience(page=options.limits.page_timeout),
            governors=[governor for governor in (self.treasury, self._canary) if governor is not None],
            cancelled=lambda: states.cancelled,
            recount=lambda: left_to_do(runs, output, self._spec, self._lease.epoch, options.retry_failed),
            on_progress=show,
        )
        made.adopt(self._adopted)
        return made


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
        self._documents = 0
        """Of the run."""
        self.cancelled = False
        """Its flow run was cancelled: in the UI, or through the API."""

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
        channels = open_channels(options.notify_topic, options.notify_block)
        if OVERRIDE in os.environ and options.launcher is LauncherName.LOCAL:
            own_machine()
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
        self._documents = spec.documents
        name_flow_run(spec.run_id, log, self._selection.run_id if self._selection is not None else None)
        for note in done.notes:
            log.warning("%s", note)
        _, output, runs = stores
        flow_run = current_flow_run()
        flow_run_id = str(flow_run.id) if flow_run is not None else None
        s3 = options.runs_url.startswith("s3://")
        beat_seconds = BEAT_S3_SECONDS if s3 else BEAT_FOLDER_SECONDS
        with ParentLease(runs, spec.run_id, flow_run_id, beat_seconds) as lease, ExitStack() as stack:
            board = SettledBoard(runs, spec.run_id, lease.epoch, spec.documents, options.retry_failed)
            page = stack.enter_context(LivePage(runs, spec, board, ui_address()))
            start = _Start.of(options, done, lease, stores, self._child, board)
            notifier = Notifier(
                runs,
                lease.epoch,
                _about(options, spec, runs, flow_run_id),
                channels,
                lambda: self._standing(page.view(), start.money()),
                log,
                ours=lambda: not lease.superseded,
            )
            waiting, before = start.waiting, start.pages_before
            log.info(
                "Run %s: %d documents, %d waiting, %d workers", spec.run_id, spec.documents, waiting, options.workers
            )
            stopped, left, money, heir = self._stopped, list[str](), None, False
            if waiting and stopped is None:
                self._supervision = start.supervision(options, log, self._show)
                if self._stopped is not None:
                    self._supervision.stop(self._stopped)
                progress = RunProgress(waiting, log, money=start.money, view=page.view)
                with progress as self._shown, notifier, self._noticing():
                    try:
                        stopped = self._supervise(self._supervision)
                    finally:
                        # In every end state, an error's too: nothing is left running. What an heir has is the heir's.
                        lease.look_for_heir()
                        if not (self._supervision.left_to or lease.superseded):
                            left = start.launcher.end()
                heir = self._supervision.left_to or lease.superseded
                if start.treasury is not None and not heir:
                    money = start.treasury.close(self._supervision.seen())
            report, result = conclude(
                runs,
                output,
                spec,
                stopped=stopped,
                seconds=time.monotonic() - begun,
                since_first=start.treasury.elapsed if start.treasury is not None else None,
                pages_before=before,
                max_failure_rate=options.max_failure_rate,
                written=not heir,
                money=money,
                left=left if self._supervision is not None else None,
                deadline=options.terms.deadline,
            )
            if not heir and (last := page.conclude(report)) is not None and self._shown is not None:
                self._shown.conclude(last)
            if not heir:
                notifier.conclude(report)
            if report.remaining == 0 and report.state is not RunState.STOPPED:
                _sweep(runs, spec.run_id)
        self.cancelled = self.cancelled or (report.state is RunState.STOPPED and being_cancelled())
        for name in left:
            log.warning("Still running, and it may cost money: %s", name)
        publish_run(
            report,
            result,
            runs.url,
            log,
            retried=self._selection.documents if self._selection is not None else {},
            workers=self._shown.workers_table if self._shown is not None else None,
        )
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
        if money is not None:
            log.info("Money: %s", "; ".join(money.lines()))
        for criterion in report.criteria:
            if criterion.met is not None:
                log.log(logging.INFO if criterion.met else logging.WARNING, "%s", criterion.line().strip())
        return report

    def _standing(self, view: RunView | None, money: Money | None) -> Standing | None:
        """For those who tell people. Any thread."""
        if (supervision := self._supervision) is None:
            return None
        return Standing(
            documents=view.documents if view is not None else self._documents,
            settled=view.done if view is not None else 0,
            failed=view.failed if view is not None else 0,
            max_failure_rate=self._options.max_failure_rate,
            money=money,
            stopping=supervision.stopping,
            without=supervision.without,
        )

    def _show(self, progress: Progress) -> None:
        self._on_progress(progress)
        if self._shown is not None:
            self._shown.show(progress)

    def _noticed(self, notice: Notice) -> None:
        """This machine is taken away, and with it the parent and all its workers: nobody is relaunched here."""
        if notice.kind is NoticeKind.INTERRUPTION:
            self.stop("notice: this machine is taken away; run the same on another one to go on")

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        if self._options.launcher is not LauncherName.LOCAL:
            yield
            return
        watch = NoticeWatch.from_env(self._noticed)
        watch.start()
        try:
            yield
        finally:
            watch.stop()

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
                self.cancelled = being_cancelled()
                self.stop("cancelled" if self.cancelled else "interrupted")


def _about(options: Options, spec: RunSpec, runs: Store, flow_run_id: str | None) -> About:
    """What all messages of the run name."""
    ui = ui_address()
    return About(
        run_id=spec.run_id,
        input=printable(spec.identity.input),
        output=printable(spec.identity.output),
        engine=spec.identity.engine,
        page=printable(f"{runs.url.rstrip('/')}/{paths.report_page(spec.run_id)}"),
        elsewhere=printable(options.runs) if options.runs is not None else None,
        link=f"{ui}/runs/flow-run/{flow_run_id}" if ui and flow_run_id is not None else "",
    )


def _sweep(runs: Store, run_id: str) -> None:
    """Nothing is left to go on with: checkpoints that nobody removed (of documents that failed, or were recovered) go."""
    try:
        sweep(runs, run_id)
    except StoreError as failure:
        _log.warning("%s", failure)


def final_state(report: Report, *, cancelled: bool = False) -> Any:
    """The parent flow run's state: named so that the UI says what happened."""
    message = report.why or f"{report.converted} converted, {report.skipped} skipped"
    if cancelled:
        return Cancelled(message=message)
    name = state_name(report.state, report.why)
    if report.state in (RunState.FAILED, RunState.STOPPED):
        return Failed(name=name, message=message)
    return Completed(name=name, message=message)


def _relay(line: str) -> None:
    """A worker's line on this process's stderr: it was logged to its own flow run already."""
    with _relaying:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


_relaying = threading.Lock()
