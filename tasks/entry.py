"""What the flows' bodies call: from parameters to the parent flow run's state."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prefect import Flow
from prefect.states import Completed, Failed

from tasks.api import current_flow_run
from tasks.conversion import Conversion, final_state
from tasks.corpus.failures import StoreError, UsageError
from tasks.corpus.store import open_store
from tasks.options import Options, options_of, runs_url
from tasks.plan import Selection
from tasks.quiet import expect_failed_state
from tasks.report import Report, RunState, state_name
from tasks.scale import ask_for
from tasks.selection import NothingToRetry, select
from tasks.supervise import Log, Progress

ROUNDS = 2
"""Of retries that a schedule asks for; prefect.yaml has the same for the automation."""


@dataclass
class Hooks:
    """What a caller in the same process (the command line) wants of the parent flow run."""

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_start: Callable[[Conversion], None] = lambda conversion: None
    """Given the conversion before it runs: to stop it from a signal handler."""
    reports: list[Report] = field(default_factory=list)
    """Of the runs that came to one, in order."""
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
    """The body of retry-failures: a new run over what the named one recorded as failed, or one for each kind of run named."""
    hooks = HOOKS.get() or Hooks()
    expect_failed_state()
    states: list[Any] = []
    try:
        if (flow_run := current_flow_run()) is not None and flow_run.auto_scheduled:
            parameters = unattended(parameters)
        for options, selection in select(**parameters):
            log.info("Converting %d documents again, after run %s", len(selection.documents), selection.run_id)
            states.append(_run(options, log, child, selection, hooks))
            if not states[-1].is_completed():
                break
    except NothingToRetry as nothing:
        hooks.error = str(nothing)
        log.info("%s", nothing)
        return Completed(name="Nothing to retry", message=str(nothing))
    except UsageError as error:
        return _refused(hooks, log, error)
    return states[0] if len(states) == 1 else _of_all(states)


def unattended(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a retry that a schedule made. Nobody looks on: what can't be mended would be tried for ever."""
    return parameters | {"retryable_only": True, "rounds": parameters["rounds"] or ROUNDS}


def _of_all(states: list[Any]) -> Any:
    """The state of several retries: the worst one's, and how many ended how."""
    names = [state.name for state in states]
    said = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    if not states[-1].is_completed():
        return states[-1].model_copy(update={"message": f"{said}; {states[-1].message}"})
    failed = sum(name != RunState.COMPLETED for name in names)
    # Not the name that one run with failures has: the automation would look for a run of this flow run's name.
    name = f"Completed with failures in {failed} of {len(states)} runs" if failed else RunState.COMPLETED.value
    return Completed(name=name, message=said)


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
        return Failed(name=state_name(RunState.STOPPED, error.category), message=str(error))
    hooks.reports.append(report)
    return final_state(report, cancelled=conversion.cancelled)


def _refused(hooks: Hooks, log: Log, error: UsageError) -> Any:
    hooks.error = str(error)
    log.error("%s", error)
    return Failed(name="Refused", message=str(error))
