"""Child flow: one worker's life on the partitions of a run."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger


# Its runs are named by what launches them: a name given here would take the number of the launch away.
@flow(name="convert-partition", validate_parameters=True, persist_result=False)
def convert_partition(
    runs: str,
    run_id: str,
    worker: int,
    workers: int,
    epoch: int = 0,
    retries: int = 2,
    retry_failed: bool = False,
    steal: bool = True,
    threads: int | None = None,
    slots: int = 1,
    device_slots: int | None = None,
    beat_seconds: float = 15.0,
    task_runs_per_second: float = 15.0,
    batch: int = 1,
    password_file: str | None = None,
    launch: int | None = None,
    budgeted: bool = False,
    parent_patience: float = 180.0,
    sample: list[int] | None = None,
) -> Any:
    """Convert a worker's share of a run: load the engine once, claim, convert and publish document by document.

    Started by convert-corpus. What the run is (input, output, engine, limits) stands in its run.json.

    Args:
        runs: Where runs are kept: a folder or s3://bucket/prefix.
        run_id: The run to work on.
        worker: This worker's number, from 0.
        workers: How many workers the run has now.
        epoch: The number of the supervising parent's lease.
        retries: How often a document is tried again after a transient error.
        retry_failed: Also try documents again that failed for good.
        steal: Take over unclaimed documents of other partitions when idle.
        threads: Threads that an engine slot may use. Default: its share of the machine's cores.
        slots: Documents converted at the same time (layout).
        device_slots: Texts read at the same time (dolphin). Default: by the device's memory.
        beat_seconds: Seconds between heartbeats (15 at most).
        task_runs_per_second: This worker's share of the task runs that Prefect's server can record.
        batch: Documents a task run: 1, or more in very large runs.
        password_file: Where passwords for encrypted PDFs are: a path, secretsmanager:NAME or secret:NAME (a Prefect Secret).
        launch: Which launch of this worker it is.
        budgeted: Claim only while the parent's record of what was spent advances.
        parent_patience: Seconds without a heartbeat of the parent after which the worker drains.
        sample: Documents to begin with (the canary's), by their index in the manifest.
    """
    from tasks.convert import BatchedTaskRuns, PacedTaskRuns, end_state, work_partition
    from tasks.passwords import read_passwords
    from tasks.worker import WorkerSettings

    settings = WorkerSettings(
        runs=runs,
        run_id=run_id,
        worker=worker,
        workers=workers,
        epoch=epoch,
        retries=retries,
        retry_failed=retry_failed,
        steal=steal,
        threads=threads,
        slots=slots,
        device_slots=device_slots,
        beat_seconds=beat_seconds,
        launch=launch,
        budgeted=budgeted,
        parent_patience=parent_patience,
        sample=sample or [],
    )
    around = PacedTaskRuns(task_runs_per_second) if batch == 1 else BatchedTaskRuns(batch)
    return end_state(lambda: work_partition(settings, get_run_logger(), read_passwords(password_file), around))
