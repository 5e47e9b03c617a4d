"""Flow: convert again what a run recorded as failed."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, get_run_logger


@flow(name="retry-failures", validate_parameters=True, persist_result=False)
def retry_failures(
    output: str,
    run_id: str | None = None,
    prefix: str | None = None,
    category: str | None = None,
    partial: bool = False,
    documents: list[str] | None = None,
    retryable_only: bool = False,
    rounds: int | None = None,
    workers: int = 2,
    retries: int = 2,
    password_file: str | None = None,
    budget: float | None = None,
    deadline: str | None = None,
    price: float | None = None,
    notify_block: str | None = None,
    max_price: float | None = None,
    machine_types: str | None = None,
    region: str | None = None,
    notify_topic: str | None = None,
    launcher: Literal["local", "work-pool"] = "local",
    runs: str | None = None,
) -> Any:
    """Convert again the documents that a run recorded as failed (or as partial), as a new run with the same parameters.

    Args:
        output: The output of the run whose failures are to be converted again.
        run_id: That run. Default: the latest.
        prefix: Instead of one run all runs whose id begins so (20261128: of a day; *: all); what was converted since is left out.
        category: Only failures of this category (ENCRYPTED, TIMEOUT, ...); several with commas between them.
        partial: The documents that were published with gaps, instead of the failed ones; their outputs are kept in replaced/.
        documents: Only these documents (their keys).
        retryable_only: Only failures that trying again may mend, as their records say. Always so in runs that a schedule made.
        rounds: Leave out what so many retries in a row have tried already. Default: no limit; 2 in runs that a schedule made.
        workers: How many workers convert at the same time.
        retries: How often a document is tried again after a transient error.
        password_file: Where passwords for encrypted PDFs are: a path, secretsmanager:NAME or secret:NAME (a Prefect Secret).
        budget: USD that the retry never exceeds, beside what the run cost: no more documents are begun before that.
        deadline: Begin no more documents after so long, e.g. 48h, 90m or 2d.
        price: USD an hour of a machine, where AWS's prices don't apply.
        notify_block: A Prefect notification block (slack-webhook/ops), told of the end, of trouble, of much of the budget.
        max_price: AWS: USD an hour that a machine costs at most (the maximum price of the Spot requests).
        machine_types: AWS: EC2 instance types that the work pool may start, with commas between them.
        region: AWS: the region of these machines.
        notify_topic: AWS: an SNS topic (ARN) that is told the same as the notification block.
        launcher: Where workers run: local (processes beside the parent) or work-pool (runs of the deployment convert-partition).
        runs: Where runs are kept, if not in _runs of the output.
    """
    from flows.convert_partition import convert_partition
    from tasks.entry import retry

    parameters = dict(
        output=output,
        run_id=run_id,
        prefix=prefix,
        category=category,
        partial=partial,
        documents=documents,
        retryable_only=retryable_only,
        rounds=rounds,
        workers=workers,
        retries=retries,
        password_file=password_file,
        budget=budget,
        deadline=deadline,
        price=price,
        notify_block=notify_block,
        max_price=max_price,
        machine_types=machine_types,
        region=region,
        notify_topic=notify_topic,
        launcher=launcher,
        runs=runs,
    )
    return retry(parameters, get_run_logger(), convert_partition)
