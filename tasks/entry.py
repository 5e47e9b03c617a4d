"""What the flows' bodies call: from parameters to the parent flow run's state."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect import Flow
from prefect.states import Completed, Failed

from tasks.conversion import Conversion, final_state
from tasks.corpus.failures import StoreError, UsageError
from tasks.corpus.store import open_store
from tasks.options import Options, options_of, runs_url
from tasks.plan import Selection
from tasks.quiet import expect_failed_state
from tasks.report import Report
from tasks.scale import ask_for
from tasks.selection import select
from tasks.supervise import Log, Progress


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
    expect_failed_state()
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


def retry(parameters: dict[str, Any], log: Log, child: Flow[..., Any]) -> Any:
    """The body of retry-failures: a new run over what the named one recorded as failed."""
    hooks = HOOKS.get() or Hooks()
    expect_failed_state()
    try:
        options, selection = select(**parameters)
        log.info("Converting %d documents of run %s again", len(selection.documents), selection.run_id)
        return _run(options, log, child, selection, hooks)
    except UsageError as error:
        return _refused(hooks, log, error)


def scale(output: str, workers: int, run_id: str | None, runs: str | None, log: Log) -> Any:
    """The body of scale-run: a wish that the run's parent reads."""
    expect_failed_state()
    try:
        wish, spec = ask_for(open_store(runs_url(output, runs)), run_id, workers)
    except UsageError as error:
        return _refused(Hooks(), log, error)
    log.info("Run %s: %d workers wanted", spec.run_id, wish.workers)
    return Completed(message=f"run {spec.run_id}: {wish.workers} workers wanted")


def _run(options: Options, log: Log, child: Flow[..., Any], selection: Selection | None, hooks: Hooks) -> Any:
    conversion = Conversion(options, log, child, selection=selection, on_progress=hooks.on_progress)
    hooks.on_start(conversion)
    try:
        report = conversion.run()
    except StoreError as error:
        log.error("%s", error)  # noqa: TRY400 - one line is what a person needs
        return Failed(name="Stopped", message=str(error))
    hooks.report = report
    return final_state(report, cancelled=conversion.cancelled)


def _refused(hooks: Hooks, log: Log, error: UsageError) -> Any:
    hooks.error = str(error)
    log.error("%s", error)
    return Failed(name="Refused", message=str(error))
