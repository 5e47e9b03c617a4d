"""The command line: `pdf-flows`. Each command answers one operator's question."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from deployments.aws.commands import aws_app
from deployments.dolphin_commands import DOLPHIN, Model, Revision, gpu_check, weights
from deployments.rehearsal.command import rehearse
from deployments.say import Json, print_json, say
from deployments.streams import lost_output, settle
from tasks.corpus.failures import PdfFlowsError, UsageError
from tasks.engines.dolphin.settings import DEFAULT_MODEL

app = App(
    name="pdf-flows",
    help="PDFs to Markdown on many workers at once, orchestrated by Prefect. Exit status: 0 all converted or skipped, "
    "1 some documents failed, 2 bad usage or input, 3 stopped before the end (run again to go on).",
    version="0.1.0",
    suppress_keyboard_interrupt=False,
)

Input = Annotated[str, Parameter(help="Where the PDFs are: a folder or s3://bucket/prefix.")]
Output = Annotated[
    str, Parameter(help="Where the Markdown goes: a folder or s3://bucket/prefix, not inside the input.")
]
RunsUrl = Annotated[str | None, Parameter(help="Where runs are kept, if not in _runs of the output.")]
Engine = Annotated[Literal["layout", "dolphin", "dummy"], Parameter(help="What turns pages into Markdown.")]
Limit = Annotated[int | None, Parameter(help="Only the first so many documents, in the order of their names.")]
Workers = Annotated[
    int, Parameter(help="How many workers convert at the same time; with dolphin on this machine, one a GPU at most.")
]
Retries = Annotated[int, Parameter(help="How often a document is tried again after a transient error.")]
PasswordFile = Annotated[
    str | None,
    Parameter(
        help="Where passwords for encrypted PDFs are: a path (one a line), secretsmanager:NAME or secret:PREFECT_SECRET."
    ),
]


NotifyTopic = Annotated[
    str | None,
    Parameter(
        help="SNS topic (ARN) that is told of the end, too many failures, 50, 90 and 100 % of the budget, missing machines."
    ),
]
NotifyBlock = Annotated[
    str | None,
    Parameter(help="Prefect notification block that is told the same, by type and name: slack-webhook/ops."),
]
MONEY = Group("Money, time and machines", sort_key=2)


@app.command
def convert(
    input: Input,
    output: Output,
    *,
    workers: Workers = 2,
    engine: Engine = "layout",
    limit: Limit = None,
    run_id: Annotated[str | None, Parameter(help="Resume this run.")] = None,
    runs: RunsUrl = None,
    retries: Retries = 2,
    retry_failed: Annotated[bool, Parameter(negative="", help="Also try again what failed for good before.")] = False,
    document_timeout: Annotated[float, Parameter(help="Seconds that a document may take.")] = 3600.0,
    page_timeout: Annotated[float, Parameter(help="Seconds that a page may take.")] = 120.0,
    max_pages: Annotated[int, Parameter(help="Documents with more pages fail as TOO_LARGE.")] = 5000,
    max_failure_rate: Annotated[
        str, Parameter(help="Failed documents over which the run's state is Failed: 5% or 0.05.")
    ] = "5%",
    password_file: PasswordFile = None,
    overwrite: Annotated[
        bool, Parameter(negative="", help="Move outputs that exist to replaced/ and convert their documents again.")
    ] = False,
    steal: Annotated[bool, Parameter(help="Let idle workers take over documents of other partitions.")] = True,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be done.")] = False,
    marginalia: Annotated[
        bool | None,
        Parameter(
            help="Keep page headers, footers and numbers. Default: dolphin does; layout leaves out what runs through the pages."
        ),
    ] = None,
    figures: Annotated[bool, Parameter(help="layout: publish images of the figures beside the Markdown.")] = True,
    page_markers: Annotated[bool, Parameter(help="Put a comment with the page number before each page.")] = True,
    front_matter: Annotated[bool, Parameter(help="Put YAML front matter before each document.")] = False,
    launcher: Annotated[
        Literal["local", "work-pool"],
        Parameter(help="Processes of this machine, or the work pool of convert-partition."),
    ] = "local",
    task_run_limit: Annotated[int, Parameter(help="Above so many documents a task run stands for a batch.")] = 10_000,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    generation: Annotated[
        Literal["1.0", "1.5"] | None, Parameter(group=DOLPHIN, help="Default: recognised by the model's name.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        Parameter(group=DOLPHIN, help="Default: float16 on a GPU, float32 on the CPU."),
    ] = None,
    slots: Annotated[
        int | None, Parameter(group=DOLPHIN, help="Texts read at the same time. Default: by the device's memory.")
    ] = None,
    images: Annotated[
        Literal["strict", "fast"],
        Parameter(group=DOLPHIN, help="fast prepares images in one pass: other pixels, now and then another text."),
    ] = "strict",
    markdown: Annotated[
        Literal["clean", "upstream"],
        Parameter(group=DOLPHIN, help="upstream is byte for byte what Dolphin's own program writes, defects included."),
    ] = "clean",
    stop_loops: Annotated[
        bool, Parameter(group=DOLPHIN, help="Stop and cut a text in which the model repeats itself without end.")
    ] = True,
    json_output: Annotated[
        bool, Parameter(group=DOLPHIN, negative="", help="Publish labels, boxes and texts as JSON beside the Markdown.")
    ] = False,
    budget: Annotated[
        str | None, Parameter(group=MONEY, help="USD that the run never exceeds; running again goes on.")
    ] = None,
    budget_target: Annotated[str | None, Parameter(group=MONEY, help="USD past which the run warns.")] = None,
    deadline: Annotated[
        str | None,
        Parameter(group=MONEY, help="Begin no more documents so long after the run's first start: 48h, 90m, 2d."),
    ] = None,
    max_price: Annotated[
        str | None, Parameter(group=MONEY, help="USD an hour that a machine costs at most (that of the Spot requests).")
    ] = None,
    price: Annotated[
        float | None, Parameter(group=MONEY, help="USD an hour of a machine, where AWS's prices don't apply.")
    ] = None,
    on_demand: Annotated[
        str | None,
        Parameter(group=MONEY, help="ECS capacity provider with on-demand machines, for a deadline at risk."),
    ] = None,
    machine_types: Annotated[
        str | None, Parameter(group=MONEY, help="EC2 instance types that the work pool may start, with commas.")
    ] = None,
    region: Annotated[str | None, Parameter(group=MONEY, help="The AWS region of these machines.")] = None,
    canary: Annotated[
        int | None,
        Parameter(
            group=MONEY, help="One worker converts so many documents first. Default: 20 on a work pool, else none."
        ),
    ] = None,
    notify_topic: NotifyTopic = None,
    notify_block: NotifyBlock = None,
    as_json: Json = False,
) -> int:
    """Convert every PDF below INPUT into Markdown below OUTPUT. Run it again after a stop: it goes on."""
    from tasks.options import Options
    from tasks.plan import open_stores

    parameters: dict[str, Any] = {
        "input": input,
        "output": output,
        "workers": workers,
        "engine": engine,
        "limit": limit,
        "run_id": run_id,
        "runs": runs,
        "retries": retries,
        "retry_failed": retry_failed,
        "document_timeout": document_timeout,
        "page_timeout": page_timeout,
        "max_pages": max_pages,
        "max_failure_rate": _rate(max_failure_rate),
        "password_file": _password_file(password_file),
        "overwrite": overwrite,
        "steal": steal,
        "page_markers": page_markers,
        "front_matter": front_matter,
        "launcher": launcher,
        "task_run_limit": task_run_limit,
        "model": model,
        "revision": revision,
        "generation": generation,
        "dtype": dtype,
        "slots": slots,
        "images": images,
        "markdown": markdown,
        "stop_loops": stop_loops,
        "marginalia": marginalia,
        "figures": figures,
        "json_output": json_output,
        "budget": budget,
        "budget_target": budget_target,
        "deadline": deadline,
        "max_price": max_price,
        "price": price,
        "on_demand": on_demand,
        "machine_types": machine_types,
        "region": region,
        "canary": canary,
        "notify_topic": notify_topic,
        "notify_block": notify_block,
    }
    for name in ("budget", "budget_target", "deadline", "max_price", "notify_topic", "notify_block"):
        value = parameters[name]
        if isinstance(value, str) and not value.strip():
            raise UsageError(
                f"--{name.replace('_', '-')} is empty: an empty shell variable, most likely; leave it out for none"
            )
    options: Options = _options(parameters)
    if dry_run:
        return _quote(options, as_json)
    # What the flow run shows must mean the same wherever it is run again.
    parameters |= {"input": options.input, "output": options.output, "runs": options.runs}
    if options.dolphin is not None:
        parameters["model"] = options.dolphin.model
    terms = options.terms
    parameters |= {"budget": terms.budget, "budget_target": terms.target, "max_price": terms.max_price}
    # What can be refused without a server is refused before one is started.
    source, output_store, runs_store = open_stores(options)
    _first_look(source, output_store, runs_store, options)

    from deployments.session import prefect_api, run_flow

    with prefect_api() as server:
        from flows.convert_corpus import convert_corpus

        server.wait()
        return run_flow(lambda: convert_corpus(**parameters, return_state=True), as_json=as_json)


@app.command
def scale(
    run: Annotated[str, Parameter(help="The run's OUTPUT (its latest run), or a run id with --output or --runs.")],
    workers: Annotated[int, Parameter(help="How many workers from now on; 0: the run waits.")],
    /,
    *,
    output: Annotated[str | None, Parameter(help="The run's output, where RUN is a run id.")] = None,
    runs: RunsUrl = None,
) -> int:
    """Change the number of workers of a run that is going on. Its parent launches or drains within seconds."""
    from tasks.corpus.store import open_store
    from tasks.options import runs_url
    from tasks.scale import ask_for

    named = output is not None or runs is not None
    where = runs_url(output or run, runs)
    if not named and "/" not in run and not Path(run).exists():
        raise UsageError(f"{run!r} is no folder: name the output, or the run id and --output OUTPUT")
    wish, spec = ask_for(open_store(where), run if named else None, workers)
    say(f"run {spec.run_id}: {wish.workers} workers wanted; its parent reads it within seconds")
    return 0


@app.command
def monitor(
    run: Annotated[str, Parameter(help="The run's OUTPUT (its latest run), or a run id with --output or --runs.")],
    run_id: str | None = None,
    /,
    *,
    output: Annotated[str | None, Parameter(help="The run's output, where RUN is a run id.")] = None,
    runs: RunsUrl = None,
    once: Annotated[bool, Parameter(negative="", help="Look once, and leave.")] = False,
    as_json: Json = False,
) -> int:
    """Watch a run: workers, pace, ETA, failures, machines, dollars. Ctrl-C leaves it alone.

    Leaves with the run's end, and with the exit status that `convert` has. Where stdout is no terminal, with --once and with
    --json it looks once; the status is 0 then while the run goes on.
    """
    from deployments.monitor import monitor as watch

    runs_store, spec = _run_of(run, run_id, output, runs)
    return watch(runs_store, spec, once=once, as_json=as_json)


@app.command
def plan(
    input: Input,
    output: Output,
    *,
    workers: Workers = 2,
    engine: Engine = "layout",
    limit: Limit = None,
    runs: RunsUrl = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> int:
    """The quote before any work: documents, pages, troubles, partitions, what is done already, expected time."""
    options = _options(
        {
            "input": input,
            "output": output,
            "workers": workers,
            "engine": engine,
            "limit": limit,
            "runs": runs,
            "password_file": _password_file(password_file),
        }
    )
    return _quote(options, as_json)


@app.command
def audit(output: Output, run_id: str | None = None, /, *, runs: RunsUrl = None, as_json: Json = False) -> int:
    """Re-read manifest, ledger and output, and print the accounting. Exit 0 only if it closes and nothing came twice."""
    from tasks.account import reconcile_run
    from tasks.corpus.runs import resolve
    from tasks.report import RunState, read_report

    output_store, runs_store = _stores(output, runs)
    spec = resolve(runs_store, run_id)
    account = reconcile_run(runs_store, output_store, spec).account
    report = read_report(runs_store, spec.run_id)
    stopped = report is not None and report.state is RunState.STOPPED
    finished = account.remaining == 0 or stopped
    if as_json:
        print_json({"run_id": spec.run_id, **account.model_dump(), "closes": account.closes, "finished": finished})
    else:
        say(
            f"run {spec.run_id}: {account.documents} documents = {account.converted} converted + {account.skipped} skipped"
            f" + {account.failed} failed + {account.quarantined} quarantined + {account.remaining} remaining"
        )
        say(
            f"partial {account.partial}, recovered {account.recovered}, published twice {account.duplicates}, lost {account.lost}"
        )
        for key in account.duplicate_keys:
            say(f"published twice: {key}")
        for key in account.lost_keys:
            say(f"recorded as converted, but its output is gone: {key}")
        if account.remaining:
            say(
                "the run was stopped before its end"
                if stopped
                else "the run has not come to its end: wait for it, or run convert again if nothing runs any more"
            )
        if not account.closes:
            say("THE ACCOUNTING DOES NOT CLOSE")
        else:
            say("the accounting closes" if finished else "the accounting closes as far as the run has come")
    return 0 if account.closes and finished else 1


@app.command
def failures(output: Output, run_id: str | None = None, /, *, runs: RunsUrl = None, as_json: Json = False) -> int:
    """Why documents failed: causes grouped, then a line a document with the command that replays just it."""
    from tasks.account import reconcile_run
    from tasks.corpus.failure_file import replay_command
    from tasks.corpus.failures import Category
    from tasks.corpus.names import printable
    from tasks.corpus.runs import resolve

    output_store, runs_store = _stores(output, runs)
    spec = resolve(runs_store, run_id)
    found = reconcile_run(runs_store, output_store, spec).failures
    if as_json:
        print_json(
            {
                "run_id": spec.run_id,
                "failures": [
                    {
                        **failed.model_dump(mode="json", exclude={"key", "name"}),
                        "key": printable(failed.key),
                        "replay": replay_command(spec.identity.output, spec.run_id, failed.key, runs_store.url),
                    }
                    for failed in found
                ],
            }
        )
        return 0
    if not found:
        say(f"run {spec.run_id}: no failures")
        return 0
    groups: dict[tuple[str, str], int] = {}
    for failed in found:
        group = (failed.failure.category.value, failed.failure.phase.value)
        groups[group] = groups.get(group, 0) + 1
    say(f"run {spec.run_id}: {len(found)} documents failed")
    if spec.retry_of is not None:
        say(f"  (it tried only documents of run {spec.retry_of} again: name that run to see its other failures)")
    for (category, phase), count in sorted(groups.items(), key=lambda item: -item[1]):
        say(f"  {count:>6}  {category} ({phase})")
    for failed in found:
        say(f"{printable(failed.key)}: {failed.failure.category}: {failed.failure.message}")
        say(f"    {replay_command(spec.identity.output, spec.run_id, failed.key, runs_store.url)}")
    if any(failed.failure.category is Category.ENCRYPTED for failed in found):
        # The commands above would fail again for the same reason.
        say("ENCRYPTED opens with --password-file FILE (one password a line) behind the command")
    return 0


@app.command
def report(
    output: Output,
    run_id: str | None = None,
    /,
    *,
    runs: RunsUrl = None,
    html: Annotated[
        str | None, Parameter(help="Write the page to this file, made anew from the run's records.")
    ] = None,
    as_json: Json = False,
) -> int:
    """What a run came to, or has come to so far: outcome, criteria, pace, dollars; with --html as a page that stands alone.

    Exit status: 0; 1 if the run is over and documents failed; 3 if it was stopped before its end.
    """
    from deployments.reporting import report as tell

    _, runs_store = _stores(output, runs)
    return tell(runs_store, run_id, html, as_json=as_json)


@app.command
def review(
    output: Output,
    run_id: str | None = None,
    /,
    *,
    worst: Annotated[int, Parameter(help="So many pages, the worst first.")] = 50,
    to: Annotated[str, Parameter(help="The file to write.")] = "review.html",
    run: Annotated[str | None, Parameter(help="The run, if not the latest; the same as RUN_ID.")] = None,
    input: Annotated[
        str | None, Parameter(help="Where the PDFs are now, if not where the run read them: for the pictures.")
    ] = None,
    runs: RunsUrl = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> int:
    """The pages that look worst, by their trust scores: one HTML page with each one's picture beside its Markdown."""
    from deployments.reviewing import review as write

    if run is not None and run_id is not None and run != run_id:
        raise UsageError(f"two runs, {run_id!r} and {run!r}: give one of them")
    output_store, runs_store = _stores(output, runs)
    return write(
        output_store,
        runs_store,
        run_id or run,
        most=worst,
        to=to,
        source=input,
        password_file=_password_file(password_file),
        as_json=as_json,
    )


@app.command
def retry(
    output: Output,
    run_id: str | None = None,
    /,
    *,
    runs: RunsUrl = None,
    category: Annotated[
        str | None, Parameter(help="Only failures of this category, or of several with commas between them.")
    ] = None,
    partial: Annotated[bool, Parameter(negative="", help="The documents published with gaps instead.")] = False,
    document: Annotated[
        list[str] | None, Parameter(negative="", help="Only this document (may be given again).")
    ] = None,
    workers: Workers = 2,
    retries: Retries = 2,
    password_file: PasswordFile = None,
    prefix: Annotated[
        str | None,
        Parameter(help="Instead of one run all runs whose id begins so (20261128: of a day); quoted '*' for all."),
    ] = None,
    retryable_only: Annotated[
        bool, Parameter(negative="", help="Only failures that trying again may mend, as their records say.")
    ] = False,
    rounds: Annotated[int | None, Parameter(help="Leave out what so many retries in a row have tried already.")] = None,
    notify_topic: NotifyTopic = None,
    notify_block: NotifyBlock = None,
    as_json: Json = False,
) -> int:
    """Convert again what a run recorded as failed, as a new run with the same parameters."""
    from tasks.channels import open_channels
    from tasks.selection import select

    _stores(output, runs)
    parameters: dict[str, Any] = {
        "output": output,
        "run_id": run_id,
        "runs": runs,
        "category": category,
        "partial": partial,
        "documents": document,
        "workers": workers,
        "retries": retries,
        "password_file": _password_file(password_file),
        "prefix": prefix,
        "retryable_only": retryable_only,
        "rounds": rounds,
        "notify_topic": notify_topic,
        "notify_block": notify_block,
    }
    # Nothing to convert again is said before a server is started, and "the latest" is settled for good.
    options, selection = select(**parameters)[0]
    open_channels(notify_topic, None)
    parameters |= {"output": options.output, "runs": options.runs}
    if prefix is None:
        parameters["run_id"] = selection.run_id

    from deployments.session import prefect_api, run_flow

    with prefect_api() as server:
        from flows.retry_failures import retry_failures

        server.wait()
        return run_flow(lambda: retry_failures(**parameters, return_state=True), as_json=as_json)


@app.command
def automate(
    *,
    after_runs: Annotated[
        bool | None,
        Parameter(help="Retry after each run with failures: what trying again may mend, two rounds at most."),
    ] = None,
    nightly: Annotated[
        bool | None, Parameter(help="Retry what the latest run left, at 3 o'clock UTC: the same, two rounds at most.")
    ] = None,
    output: Annotated[str | None, Parameter(help="Of --nightly: whose failures.")] = None,
    runs: RunsUrl = None,
    as_json: Json = False,
) -> int:
    """Retries that nobody has to ask for: switch the automation and the schedule of the deployment retry-failures.

    Without options it says how they stand. They need deployments and workers: pdf-flows up, or pdf-flows aws up.
    """
    from deployments.session import prefect_api
    from tasks.options import one_spelling

    if output is None and runs is not None:
        raise UsageError("--runs goes with --output")
    place = {name: one_spelling(url) for name, url in (("output", output), ("runs", runs)) if url is not None}
    with prefect_api() as server:
        from deployments.automating import switch

        server.wait()
        found = switch(after_runs=after_runs, nightly=nightly, place=place)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        for line in found.lines():
            say(line)
    return 0


@app.command
def runs(output: Output, /, *, runs: RunsUrl = None, as_json: Json = False) -> int:
    """The runs on an output, oldest first."""
    from tasks.corpus import paths
    from tasks.corpus.runs import read_run, starts
    from tasks.report import read_report

    _, runs_store = _stores(output, runs)
    rows: list[dict[str, Any]] = []
    for run_id in dict.fromkeys(start.run_id for _, start in starts(runs_store)):
        try:
            spec = read_run(runs_store, run_id)
        except UsageError as error:
            if runs_store.head(paths.run(run_id)) is not None:
                sys.stderr.write(f"pdf-flows: {error}\n")
            continue  # else: started, and killed before it was written down
        report = read_report(runs_store, run_id)
        rows.append(
            {
                "run_id": run_id,
                "created": spec.created,
                "engine": spec.identity.engine,
                "documents": spec.documents,
                "state": report.state.value if report is not None else "not finished",
                "converted": report.converted if report is not None else None,
                "failed": report.failed + report.quarantined if report is not None else None,
                "remaining": report.remaining if report is not None else None,
            }
        )
    if as_json:
        print_json({"runs": rows})
        return 0
    if not rows:
        raise UsageError(f"there are no runs in {runs_store.url}: convert something first")
    say(f"{'run':<24} {'created':<26} {'engine':<8} {'documents':>9} {'converted':>9} {'failed':>6} {'left':>6}  state")
    for row in rows:
        shown = {name: "-" if value is None else value for name, value in row.items()}
        say(
            "{run_id:<24} {created:<26} {engine:<8} {documents:>9} {converted:>9} {failed:>6} {remaining:>6}  {state}".format(
                **shown
            )
        )
    return 0


app.command(weights)
app.command(gpu_check, name="gpu-check")
app.command(aws_app)
app.command(rehearse)


@app.command
def up(*, workers_limit: Annotated[int | None, Parameter(help="Workers at the same time at most.")] = None) -> int:
    """A local Prefect server with work pools, workers and deployments: trigger runs from its UI."""
    from deployments.up import up as run

    return int(run(workers_limit=workers_limit))


@app.command
def ui() -> int:
    """The Prefect UI with the history of the local runs."""
    from deployments.up import ui as run

    return int(run())


def _options(parameters: dict[str, Any]) -> Any:
    from tasks.options import options_of

    return options_of(**parameters)


def _quote(options: Any, as_json: bool) -> int:
    from tasks.quote import quote

    found = quote(options)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        for line in found.lines():
            say(line)
    return 0


def _first_look(source: Any, output: Any, runs: Any, options: Any) -> None:
    from tasks.channels import open_channels
    from tasks.corpus.runs import read_run, refuse_while_living
    from tasks.corpus.store import check_readable
    from tasks.passwords import PREFECT_SECRET, read_passwords
    from tasks.plan import check_same, refuse_nothing

    check_readable(source)
    if options.dolphin is not None and options.launcher == "local":
        from tasks.weights import check_model

        check_model(options.dolphin, options.slots, device=True)
    output.probe()
    runs.probe()
    refuse_while_living(runs)
    if options.run_id is not None:
        check_same(read_run(runs, options.run_id), options)
    if options.password_file is not None and not options.password_file.startswith(PREFECT_SECRET):
        read_passwords(options.password_file)
    # Blocks are of the Prefect API, which is not there yet.
    open_channels(options.notify_topic, None)
    refuse_nothing(source)


def _password_file(reference: str | None) -> str | None:
    from tasks.options import one_spelling
    from tasks.passwords import PREFECT_SECRET, SECRETS_MANAGER

    if reference is None or reference.startswith((PREFECT_SECRET, SECRETS_MANAGER)):
        return reference
    return one_spelling(reference)


def _stores(output: str, runs: str | None) -> tuple[Any, Any]:
    from tasks.corpus.store import open_store
    from tasks.options import one_spelling, runs_url

    output_store = open_store(one_spelling(output))
    where = runs_url(output, runs)
    try:
        return output_store, open_store(where)
    except UsageError:
        raise UsageError(
            f"there are no runs in {where}: convert something first, or name the place with --runs"
        ) from None


def _run_of(run: str, run_id: str | None, output: str | None, runs: str | None) -> tuple[Any, Any]:
    """The store of the runs, and the run: OUTPUT [RUN_ID], or RUN_ID with --output or --runs."""
    from tasks.corpus.runs import resolve
    from tasks.corpus.store import open_store
    from tasks.options import runs_url

    if run_id is not None and output is not None:
        raise UsageError(f"two outputs, {run!r} and {output!r}: give one of them, and the run id")
    if output is None and (run_id is not None or "/" in run or Path(run).exists()):
        _, runs_store = _stores(run, runs)
        return runs_store, resolve(runs_store, run_id)
    if output is None and runs is None:
        raise UsageError(f"{run!r} is no folder: name the output, or the run id and --output OUTPUT")
    runs_store = open_store(runs_url(output or run, runs))
    return runs_store, resolve(runs_store, run)


def _rate(text: str) -> float:
    try:
        rate = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError(f"bad --max-failure-rate {text!r}: give a share such as 5% or 0.05") from None
    if not 0 <= rate <= 1:
        raise UsageError(f"bad --max-failure-rate {text!r}: it must lie between 0% and 100%")
    return rate


def main() -> None:
    """The console script. Every error that a person can mend is one line on stderr and a status."""
    settle()
    status = _run()
    if (why := lost_output()) is not None:
        sys.stderr.write(f"pdf-flows: stdout cannot be written: {why}\n")
        status = status or 2
    sys.exit(status)


def _run() -> int:
    try:
        status = app(exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        sys.stderr.write(f"pdf-flows: {' '.join(str(error).split())} (see pdf-flows --help)\n")
        return 2
    except PdfFlowsError as error:
        sys.stderr.write(f"pdf-flows: {error}\n")
        return 2 if isinstance(error, UsageError) else 3
    except KeyboardInterrupt:
        sys.stderr.write("pdf-flows: interrupted; run the same command again to go on\n")
        return 3
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
