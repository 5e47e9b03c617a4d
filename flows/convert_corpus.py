"""Parent flow: convert a folder or a bucket of PDFs."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, get_run_logger


@flow(name="convert-corpus", validate_parameters=True, persist_result=False)
def convert_corpus(
    input: str,
    output: str,
    workers: int = 2,
    engine: Literal["layout", "dolphin", "dummy"] = "layout",
    limit: int | None = None,
    run_id: str | None = None,
    runs: str | None = None,
    retries: int = 2,
    retry_failed: bool = False,
    document_timeout: float = 3600.0,
    page_timeout: float = 120.0,
    max_pages: int = 5000,
    max_failure_rate: float = 0.05,
    password_file: str | None = None,
    overwrite: bool = False,
    steal: bool = True,
    dry_run: bool = False,
    page_markers: bool = True,
    front_matter: bool = False,
    launcher: Literal["local", "work-pool"] = "local",
    task_run_limit: int = 10_000,
    model: str = "ByteDance/Dolphin-1.5",
    revision: str | None = None,
    generation: Literal["1.0", "1.5"] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    slots: int | None = None,
    images: Literal["strict", "fast"] = "strict",
    markdown: Literal["clean", "upstream"] = "clean",
    stop_loops: bool = True,
    marginalia: bool | None = None,
    figures: bool = True,
    json_output: bool = False,
    budget: float | None = None,
    budget_target: float | None = None,
    deadline: str | None = None,
    max_price: float | None = None,
    price: float | None = None,
    on_demand: str | None = None,
    machine_types: str | None = None,
    region: str | None = None,
    canary: int | None = None,
    notify_topic: str | None = None,
    notify_block: str | None = None,
) -> Any:
    """Convert every PDF below the input into Markdown below the output, once, whatever happens to the workers.

    Run again after a stop or a crash: what is done stays done, and the rest is converted.

    Args:
        input: Where the PDFs are: a folder or s3://bucket/prefix.
        output: Where the Markdown goes: a folder or s3://bucket/prefix, not inside the input.
        workers: How many workers convert at the same time; with dolphin on this machine, one for each GPU at most.
        engine: What turns pages into Markdown: layout (CPU), dolphin (one GPU a worker), or dummy (tests: no PDF is read).
        limit: Convert only the first so many documents, in the order of their names.
        run_id: Resume this run. Input, output, engine and limits must be the same; workers and retries may change.
        runs: Where runs are kept (manifest, claims, ledger, reports): a folder or s3:// prefix. Default: _runs in the output.
        retries: How often a document is tried again after a transient error.
        retry_failed: Also try documents again that failed for good before.
        document_timeout: Seconds that a document may take.
        page_timeout: Seconds that a page may take.
        max_pages: Documents with more pages fail as TOO_LARGE.
        max_failure_rate: The run's state is Failed if more than this share of the documents failed (0.05 is 5 %).
        password_file: Where passwords for encrypted PDFs are: a path, secretsmanager:NAME or secret:NAME (a Prefect Secret).
        overwrite: Move outputs that exist to the run's replaced/ folder and convert their documents again.
        steal: Let idle workers take over unclaimed documents of other partitions.
        dry_run: Only say what would be done.
        page_markers: Put a comment with the page number before each page.
        front_matter: Put YAML front matter (source, sha256, pages, engine, versions, attachments) before each document.
        launcher: Where workers run: local (processes beside the parent) or work-pool (runs of the deployment convert-partition).
        task_run_limit: Above so many documents, one task run stands for a batch of documents instead of one.
        model: dolphin: a Hugging Face id, a folder, or s3://bucket/prefix with the weights.
        revision: dolphin: of a Hugging Face id. Default: the pinned one.
        generation: dolphin: 1.0 or 1.5. Default: recognised by the model's name.
        dtype: dolphin: what to compute in. Default: float16 on a GPU, float32 on the CPU.
        slots: dolphin: how many texts are read at the same time. Default: by the device's memory.
        images: dolphin: strict (byte for byte as upstream) or fast (one pass; changes pixels, and now and then a text).
        markdown: dolphin: clean, or upstream (byte for byte, defects included).
        stop_loops: dolphin: stop and cut a text in which the model repeats itself without end.
        marginalia: Keep page headers, footers and numbers. Default: dolphin does; layout leaves out what runs through the pages.
        figures: layout: publish images of the figures beside the Markdown.
        json_output: dolphin: publish the structured result (labels, boxes, texts) beside the Markdown.
        budget: USD that the run never exceeds: no more documents are begun before that, and running again goes on.
        budget_target: USD past which the run warns.
        deadline: Begin no more documents after so long, e.g. 48h, 90m or 2d.
        max_price: USD an hour that a machine costs at most (the maximum price of the Spot requests).
        price: USD an hour of a machine, where AWS's prices don't apply.
        on_demand: Where workers go when the deadline is at risk: an ECS capacity provider with on-demand machines.
        machine_types: EC2 instance types that the work pool may start, with commas between them.
        region: The AWS region of these machines.
        canary: One worker converts so many documents before the others start. Default: 20 on a work pool, else none.
        notify_topic: An SNS topic (ARN) that is told of the end, many failures, 50, 90 and 100 % of the budget, no machines.
        notify_block: A Prefect notification block that is told the same, by type and name: slack-webhook/ops.
    """
    from flows.convert_partition import convert_partition
    from tasks.entry import convert

    parameters = dict(
        input=input,
        output=output,
        workers=workers,
        engine=engine,
        limit=limit,
        run_id=run_id,
        runs=runs,
        retries=retries,
        retry_failed=retry_failed,
        document_timeout=document_timeout,
        page_timeout=page_timeout,
        max_pages=max_pages,
        max_failure_rate=max_failure_rate,
        password_file=password_file,
        overwrite=overwrite,
        steal=steal,
        page_markers=page_markers,
        front_matter=front_matter,
        launcher=launcher,
        task_run_limit=task_run_limit,
        model=model,
        revision=revision,
        generation=generation,
        dtype=dtype,
        slots=slots,
        images=images,
        markdown=markdown,
        stop_loops=stop_loops,
        marginalia=marginalia,
        figures=figures,
        json_output=json_output,
        budget=budget,
        budget_target=budget_target,
        deadline=deadline,
        max_price=max_price,
        price=price,
        on_demand=on_demand,
        machine_types=machine_types,
        region=region,
        canary=canary,
        notify_topic=notify_topic,
        notify_block=notify_block,
    )
    return convert(parameters, get_run_logger(), convert_partition, dry_run=dry_run)
