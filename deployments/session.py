"""One call of a flow from the command line: server, environment, signals, progress, exit status."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from deployments.server import PrefectServer, server_settings
from tasks.corpus.failures import PdfFlowsError, UsageError, bad_field

QUIET = {
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%H:%M:%S",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
}
"""Plain log lines on stderr, nothing about each task run; no minute's wait for each request to an API that is gone."""

STOPPED = 3
"""Exit status: stopped before the end, can be resumed."""


@contextlib.contextmanager
def prefect_api() -> Iterator[PrefectServer]:
    """A Prefect API for this process: the configured one, or a server of our own that is starting while others work."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    server = PrefectServer.obtain(server_settings())
    server.start()
    try:
        _refuse_bad_settings()
        yield server
    finally:
        server.release()


def _refuse_bad_settings() -> None:
    """Raises UsageError where Prefect's own settings, from wherever, are no settings: it reads them when it is imported."""
    from pydantic import ValidationError

    try:
        import prefect  # noqa: F401
    except ValidationError as error:
        name, why = bad_field(error)
        raise UsageError(f"Prefect's settings are bad: {name}: {why}") from None


class Interrupt:
    """Ctrl-C and SIGTERM: the first drains, the second ends at once."""

    def __init__(self) -> None:
        self._stop: Callable[[str], None] | None = None
        self._pending: str | None = None

    def attach(self, stop: Callable[[str], None]) -> None:
        """What to call at the first signal. Called within the flow run: Prefect has put a handler of its own there."""
        self._stop = stop
        signal.signal(signal.SIGTERM, self._handle)
        if self._pending is not None:
            stop(self._pending)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within."""
        former = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pending is not None:
            raise KeyboardInterrupt
        self._pending = "interrupted" if number == signal.SIGINT else "terminated"
        # Not through sys.stderr: the signal may have come in the middle of a write to it.
        with contextlib.suppress(OSError):
            os.write(2, b"pdf-flows: stopping: what is in hand gets up to 20 s to end; once more ends it now\n")
        if self._stop is not None:
            self._stop(self._pending)


def run_flow(call: Callable[[], Any], *, as_json: bool) -> int:
    """Run a parent flow in this process and say what it came to. Returns the exit status.

    Args:
        call: calls the flow with return_state=True.
    """
    import httpx

    from deployments.progress import Bars
    from tasks.api import hush, leave_when_api_is_gone
    from tasks.entry import HOOKS, Hooks

    hush()
    interrupt = Interrupt()
    bars = Bars() if sys.stderr.isatty() else None
    hooks = Hooks(on_start=lambda conversion: interrupt.attach(conversion.stop))
    if bars is not None:
        hooks.on_progress = bars.show
    token = HOOKS.set(hooks)
    state: Any = None
    try:
        with interrupt.installed(), bars if bars is not None else contextlib.nullcontext():
            try:
                state = call()
            except httpx.HTTPError as error:
                if not hooks.reports and hooks.error is None:
                    raise PdfFlowsError(f"the Prefect API does not answer any more: {error}") from error
                # The work is done and accounted for; only Prefect's own record of this run is incomplete.
                say(f"the Prefect API was gone at the end ({type(error).__name__}); the ledger has everything")
    finally:
        HOOKS.reset(token)
    if hooks.reports:
        worst = max(hooks.reports, key=lambda report: report.exit_code)
        if worst.exit_code == STOPPED:
            say(f"pdf-flows: stopped: {worst.why}; run the same command again to go on")
        elif worst.exit_code == 1:
            say(f"pdf-flows: why documents failed: pdf-flows failures {shlex.quote(worst.output)}")
        if as_json:
            import json

            for report in hooks.reports:
                sys.stdout.write(json.dumps(report.line()) + "\n")
            sys.stdout.flush()
        leave_when_api_is_gone(worst.exit_code)
        return worst.exit_code
    if hooks.error is not None:
        say(f"pdf-flows: {hooks.error}")
        return 2
    if state is not None and state.is_completed():
        return 0
    why = state.message if state is not None else "the flow run has no state"
    say(f"pdf-flows: stopped: {why}; run the same command again to go on")
    return STOPPED


def say(text: str) -> None:
    """A line for a person, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
