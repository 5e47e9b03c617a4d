"""Parent flow: convert a folder or a bucket of PDFs."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, get_run_logger


@flow(name="convert-corpus", validate_parameters=True, persist_result=False)
def convert_corpus(
    input: str,
    output: str,
    engine: Literal["layout", "dolphin", "dummy"] = "layout",
    workers: int = 2,
    limit: int | None = None,
    dry_run: bool = False,
    run_id: str | None = None,
    retries: int = 2,
    retry_failed: bool = False,
    overwrite: bool = False,
    max_failure_rate: float = 0.05,
    password_file: str | None = None,
    page_markers: bool = True,
    front_matter: bool = False,
    marginalia: bool | None = None,
    figures: bool = True,
    document_timeout: float = 3600.0,
    page_timeout: float = 120.0,
    max_pages: int = 5000,
    budget: float | None = None,
    budget_target: float | None = None,
    deadline: str | None = None,
    price: float | None = None,
    notify_block: str | None = None,
    model: str = "ByteDance/Dolphin-1.5",
    revision: str | None = None,
    generation: Literal["1.0", "1.5"] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    slots: int | None = None,
    images: Literal["strict", "fast"] = "strict",
    markdown: Literal["clean", "upstream"] = "clean",
    stop_loops: bool = True,
    json_output: bool = False,
    max_price: float | None = None,
    machine_types: str | None = None,
    region: str | None = None,
    on_demand: str | None = None,
    notify_topic: str | None = None,
    launcher: Literal["local", "work-pool"] = "local",
    canary: int | None = None,
    steal: bool = True,
    task_run_limit: int = 10_000,
    runs: str | None = None,
) -> Any:
    """Convert every PDF below the input into Markdown below the output, once, whatever happens to the workers.

    Run again after a stop or a crash: what is done stays done, and the rest is converted.

    Args:
        input: Where the PDFs are: a folder or s3://bucket/prefix.
        output: Where the Markdown goes: a folder or s3://bucket/prefix, not inside the input.
        engine: What turns pages into Markdown: layout (CPU), dolphin (one GPU a worker), or dummy (tests: no PDF is read).
        workers: How many workers convert at the same time; with dolphin on this machine, one for each GPU at most.
        limit: Convert only the first so many documents, in the order of their names.
        dry_run: Only say what would be done.
        run_id: Resume this run. Input, output, engine and limits must be the same; workers and retries may change.
        retries: How often a document is tried again after a transient error.
        retry_failed: Also try documents again that failed for good before.
        overwrite: Move outputs that exist to the run's replaced/ folder and convert their documents again.
        max_failure_rate: The run's state is Failed if more than this share of the documents failed (0.05 is 5 %).
        password_file: Where passwords for encrypted PDFs are: a path, secretsmanager:NAME or secret:NAME (a Prefect Secret).
        page_markers: Put a comment with the page number before each page.
        front_matter: Put YAML front matter (source, sha256, pages, engine, versions, attachments) before each document.
        marginalia: Keep page headers, footers and numbers. Default: dolphin does; layout leaves out what runs through the pages.
        figures: layout: publish images of the figures beside the Markdown.
        document_timeout: Seconds that a document may take.
        page_timeout: Seconds that a page may take.
        max_pages: Documents with more pages fail as TOO_LARGE.
        budget: USD that the run never exceeds: no more documents are begun before that, and running again goes on.
        budget_target: USD past which the run warns.
        deadline: Begin no more documents after so long, e.g. 48h, 90m or 2d.
        price: USD an hour of a machine, where AWS's prices don't apply.
        notify_block: A Prefect notification block (slack-webhook/ops), told of the end, of trouble, of much of the budget.
        model: dolphin: a Hugging Face id, a folder, or s3://bucket/prefix with the weights.
        revision: dolphin: of a Hugging Face id. Default: the pinned one.
        generation: dolphin: 1.0 or 1.5. Default: recognised by the model's name.
        dtype: dolphin: what to compute in. Default: float16 on a GPU, float32 on the CPU.
        slots: dolphin: how many texts are read at the same time. Default: by the device's memory.
        images: dolphin: strict (byte for byte as upstream) or fast (one pass; changes pixels, and now and then a text).
        markdown: dolphin: clean, or upstream (byte for byte, defects included).
        stop_loops: dolphin: stop and cut a text in which the model repeats itself without end.
        json_output: dolphin: publish the structured result (labels, boxes, texts) beside the Markdown.
        max_price: AWS: USD an hour that a machine costs at most (the maximum price of the Spot requests).
        machine_types: AWS: EC2 instance types that the work pool may start, with commas between them.
        region: AWS: the region of these machines.
        on_demand: AWS: where workers go when the deadline is at risk: an ECS capacity provider with on-demand machines.
        notify_topic: AWS: an SNS topic (ARN) that is told the same as the notification block.
        launcher: Where workers run: local (processes beside the parent) or work-pool (runs of the deployment convert-partition).
        canary: One worker converts so many documents before the others start. Default: 20 on a work pool, else none.
        steal: Let idle workers take over unclaimed documents of other partitions.
        task_run_limit: Above so many documents, one task run stands for a batch of documents instead of one.
        runs: Where runs are kept (manifest, claims, ledger, reports): a folder or s3:// prefix. Default: _runs in the output.
    """
    from flows.convert_partition import convert_partition
    from tasks.entry import convert

    parameters = dict(
        input=input,
        output=output,
        engine=engine,
        workers=workers,
        limit=limit,
        run_id=run_id,
        retries=retries,
        retry_failed=retry_failed,
        overwrite=overwrite,
        max_failure_rate=max_failure_rate,
        password_file=password_file,
        page_markers=page_markers,
        front_matter=front_matter,
        marginalia=marginalia,
        figures=figures,
        document_timeout=document_timeout,
        page_timeout=page_timeout,
        max_pages=max_pages,
        budget=budget,
        budget_target=budget_target,
        deadline=deadline,
        price=price,
        notify_block=notify_block,
        model=model,
        revision=revision,
        generation=generation,
        dtype=dtype,
        slots=slots,
        images=images,
        markdown=markdown,
        stop_loops=stop_loops,
        json_output=json_output,
        max_price=max_price,
        machine_types=machine_types,
        region=region,
        on_demand=on_demand,
        notify_topic=notify_topic,
        launcher=launcher,
        canary=canary,
        steal=steal,
        task_run_limit=task_run_limit,
        runs=runs,
    )
    return convert(parameters, get_run_logger(), convert_partition, dry_run=dry_run)
