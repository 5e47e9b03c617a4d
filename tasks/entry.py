"""What the flows' bodies call: from parameters to the parent flow run's state."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect import Flow
from prefect.states import Completed, Failed

from tasks.conversion import Conversion, final_state
from tasks.corpus.failures import Category, StoreError, UsageError
from tasks.corpus.runs import resolve
from tasks.corpus.store import open_store
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.options import LauncherName, Options, options_of
from tasks.plan import Selection
from tasks.report import Report
from tasks.supervise import Log, Progress, reconcile_run


@dataclass
class Hooks:
    """What a caller in the same process (the command line) wants of the parent flow run."""

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_start: Callable[[Conversion], None] = lambda conversion: None
    """Given the conversion before it runs: to stop it from a signal handler."""
    report: Report | None = None
    error: str | None = None
    """One line: bad usage or input; nothing was done."""


HOOKS: ContextVar[Hooks | None] = ContextVar("HOOKS", default=None)


def convert(parameters: dict[str, Any], log: Log, child: Flow[..., Any], *, dry_run: bool = False) -> Any:
    """The body of convert-corpus: returns the flow run's final state."""
    hooks = HOOKS.get() or Hooks()
    try:
        options = options_of(**parameters)
        if dry_run:
            from tasks.quote import quote

            found = quote(options)
            for line in found.lines():
                log.info("%s", line)
            return Completed(name="Dry run", message=found.lines()[0])
        return _run(options, log, child, None, hooks)
    except UsageError as error:
        return _refused(hooks, log, error)


def retry(
    output: str,
    log: Log,
    child: Flow[..., Any],
    *,
    run_id: str | None,
    runs: str | None,
    category: str | None,
    partial: bool,
    documents: list[str] | None,
    workers: int,
    retries: int,
    password_file: str | None,
    launcher: str,
) -> Any:
    """The body of retry-failures: a new run over what the named one recorded as failed."""
    hooks = HOOKS.get() or Hooks()
    try:
        runs_url = runs or f"{output.rstrip('/')}/_runs"
        spec = resolve(open_store(runs_url), run_id)
        identity = spec.identity
        options = Options(
            input=identity.input,
            output=identity.output,
            runs=runs,
            workers=workers,
            engine=EngineName(identity.engine),
            limits=Limits.model_validate(identity.limits),
            rendering=Rendering.model_validate(identity.rendering),
            retries=retries,
            password_file=password_file,
            launcher=LauncherName(launcher),
            max_failure_rate=1.0,
        )
        selection = select_failures(options, spec.run_id, category, partial, documents)
        log.info("Converting %d documents of run %s again", len(selection.keys), spec.run_id)
        return _run(options, log, child, selection, hooks)
    except UsageError as error:
        return _refused(hooks, log, error)


def select_failures(
    options: Options, run_id: str, category: str | None, partial: bool, documents: list[str] | None
) -> Selection:
    """The documents to convert again. Raises UsageError where there are none, naming what there is."""
    runs, output = open_store(options.runs_url), open_store(options.output)
    spec = resolve(runs, run_id)
    if category is not None and category not in {known.value for known in Category}:
        raise UsageError(
            f"unknown category {category!r}: one of {', '.join(sorted(known.value for known in Category))}"
        )
    found = reconcile_run(runs, output, spec)
    if partial:
        names = {key: key for key in found.partial}
        rows = _names(options, spec.run_id, set(names))
        chosen = {key: rows[key] for key in names if key in rows}
    else:
        chosen = {f.key: f.name for f in found.failures if category is None or f.failure.category.value == category}
    if documents:
        unknown = [key for key in documents if key not in chosen]
        if unknown:
            raise UsageError(f"run {run_id} recorded no such failure: {unknown[0]!r} (see pdf-flows failures)")
        chosen = {key: chosen[key] for key in documents}
    if not chosen:
        what = (
            "partial documents" if partial else "failures" if category is None else f"failures of category {category}"
        )
        raise UsageError(f"run {run_id} recorded no {what}: there is nothing to convert again")
    return Selection(run_id=spec.run_id, keys=chosen, replace=frozenset(chosen) if partial else frozenset())


def _names(options: Options, run_id: str, keys: set[str]) -> dict[str, str]:
    import tempfile
    from pathlib import Path

    from tasks.plan import load_manifest

    runs = open_store(options.runs_url)
    with tempfile.TemporaryDirectory() as folder:
        manifest = load_manifest(runs, resolve(runs, run_id), Path(folder))
        return {row.key: row.name for row in manifest.rows() if row.key in keys}


def _run(options: Options, log: Log, child: Flow[..., Any], selection: Selection | None, hooks: Hooks) -> Any:
    conversion = Conversion(options, log, child, selection=selection, on_progress=hooks.on_progress)
    hooks.on_start(conversion)
    try:
        report = conversion.run()
    except StoreError as error:
        log.error("%s", error)  # noqa: TRY400 - one line is what a person needs
        hooks.error = None
        return Failed(name="Stopped", message=str(error))
    hooks.report = report
    return final_state(report)


def _refused(hooks: Hooks, log: Log, error: UsageError) -> Any:
    hooks.error = str(error)
    log.error("%s", error)
    return Failed(name="Refused", message=str(error))
