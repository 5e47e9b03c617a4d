"""`pdf-flows monitor`: a run on one screen of a terminal, drawn anew every few seconds until it is over."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from deployments.say import print_json, say
from tasks.corpus.failures import StoreError
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store
from tasks.eta import Eta
from tasks.fleet.money import duration
from tasks.lookout import Lookout
from tasks.view import RunView, WorkerState, WorkerView, worst_first

LOOK_FOLDER_SECONDS = 1.0
LOOK_S3_SECONDS = 5.0
"""Workers beat every 15 s there."""
BAR = 10
FIXED_LINES = 9
"""Of the screen, for what is not a worker's line."""
COLOURS = {
    WorkerState.STARTING: "yellow",
    WorkerState.WORKING: "green",
    WorkerState.DRAINING: "yellow",
    WorkerState.STUCK: "bold red",
    WorkerState.GONE: "red",
    WorkerState.DONE: "dim",
}


def monitor(runs: Store, spec: RunSpec, *, once: bool, as_json: bool) -> int:
    """Watch until the run is over, or look once. Returns the exit status; Ctrl-C leaves with 0, it stops nothing."""
    with Lookout(runs, spec) as lookout:
        if as_json or once or not sys.stdout.isatty():
            view = lookout.look()
            if as_json:
                print_json(view.model_dump(mode="json") | {"exit_status": view.exit_code})
            else:
                for line in lines(view, width=0, height=0):
                    say(line.plain)
            return view.exit_code
        try:
            return _follow(lookout, LOOK_S3_SECONDS if runs.url.startswith("s3://") else LOOK_FOLDER_SECONDS)
        except KeyboardInterrupt:
            return 0


def _follow(lookout: Lookout, seconds: float, sleep: Callable[[float], None] = time.sleep) -> int:
    console = Console(file=sys.stdout)
    view = lookout.look()
    trouble = ""
    with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
        while True:
            width, height = shutil.get_terminal_size()
            live.update(Group(*lines(view, width=width, height=height, trouble=trouble)), refresh=True)
            if view.over:
                return view.exit_code
            sleep(seconds)
            try:
                view, trouble = lookout.look(), ""
            except StoreError as error:
                # The run may be well all the same: what was seen last stays, and says so.
                trouble = f"the store does not answer: {error}"


def lines(view: RunView, *, width: int, height: int, trouble: str = "") -> list[Text]:
    """The screen's lines. Pure.

    Args:
        width: columns; 0: no line is cut.
        height: rows; 0: every worker has its line.
        trouble: why the view is old.
    """
    room = max(1, height - FIXED_LINES) if height else len(view.workers)
    shown, rest = view.workers, list[WorkerView]()
    if len(view.workers) > room:
        ordered = worst_first(view.workers)
        shown, rest = ordered[: max(0, room - 1)], ordered[max(0, room - 1) :]
    names = max([len(f"Worker {worker.worker}:") for worker in shown], default=0)
    names = max(names, len("Total:"), len(f"{len(rest)} others:") if rest else 0)
    found = [_head(view)]
    found += [_worker(worker, names) for worker in shown]
    if rest:
        found.append(_others(rest, names))
    found += [_total(view, names), *_details(view)]
    found += [Text(f"Note:     {text}", style="yellow") for text in [*view.notes[:1], *([trouble] if trouble else [])]]
    for line in found:
        line.no_wrap = True
        if width:
            line.truncate(width, overflow="ellipsis")
    return found


def bar(done: int, total: int) -> str:
    """Ten blocks; all of them only when all is done."""
    full = BAR * min(done, total) // total if total > 0 else 0
    return "█" * full + "░" * (BAR - full)


def counted(done: int, total: int) -> str:
    """As "234/800 (29%)"; 100 % only when all is done."""
    return f"{bar(done, total)} {done:,}/{total:,} ({100 * min(done, total) // total if total > 0 else 0}%)"


def eta_words(eta: Eta | None) -> str:
    """As "3.2 h (2.9 h to 3.8 h)"."""
    if eta is None:
        return "not known yet"
    likely = duration(eta.likely)
    if eta.least is None:
        return likely
    least, most = duration(eta.least), duration(eta.most) if eta.most is not None else "no end in sight"
    return likely if least == likely == most else f"{likely} ({least} to {most})"


def _head(view: RunView) -> Text:
    text = Text()
    text.append(f"Run {view.run_id}: ", style="bold")
    colour = {"running": "green", "Completed": "green", "Failed": "red"}.get(view.state, "yellow")
    text.append(view.state, style=f"bold {colour}")
    if view.why:
        text.append(f": {view.why}")
    text.append(f"  {view.input} to {view.output}, {view.engine}", style="dim")
    return text


def _worker(worker: WorkerView, names: int) -> Text:
    text = Text(f"{f'Worker {worker.worker}:':<{names}} ")
    text.append(counted(worker.done, worker.total))
    eta = duration(worker.eta) if worker.eta is not None and worker.left else "-"
    text.append(f" | ETA: {eta:<7}| ")
    text.append(worker.state.value, style=COLOURS[worker.state])
    if worker.why:
        text.append(f": {worker.why}")
    if worker.pages_per_second is not None and worker.state is not WorkerState.DONE:
        text.append(f", {worker.pages_per_second:.2f} pages/s")
    if worker.in_hand:
        more = f" and {len(worker.in_hand) - 1} more" if len(worker.in_hand) > 1 else ""
        page = f" p. {worker.page}" if worker.page is not None else ""
        text.append(", ")
        text.append(f"{worker.in_hand[0]}{page}{more}", style="cyan")
    return text


def _others(rest: list[WorkerView], names: int) -> Text:
    text = Text(f"{f'{len(rest)} others:':<{names}} ")
    text.append(counted(sum(worker.done for worker in rest), sum(worker.total for worker in rest)))
    states = {state: sum(worker.state is state for worker in rest) for state in WorkerState}
    said = ", ".join(f"{count} {state.value}" for state, count in states.items() if count)
    pages = sum(worker.pages_per_second or 0.0 for worker in rest)
    text.append(f" | {said}, {pages:.2f} pages/s", style="dim")
    return text


def _total(view: RunView, names: int) -> Text:
    text = Text(f"{'Total:':<{names}} ", style="bold")
    text.append(counted(view.done, view.documents))
    if view.money is not None:
        text.append(f" | ${view.money.spent:,.2f} spent")
        if view.money.projected is not None:
            text.append(f", ${view.money.projected:,.2f} projected")
        if view.money.budget is not None:
            text.append(f", budget ${view.money.budget:,.2f}")
    return text


def _details(view: RunView) -> list[Text]:
    rate = f"{view.pages_per_second:.2f} pages/s, " if view.pages_per_second is not None else ""
    pace = f"Pace:     {rate}{view.pages:,} pages"
    if not view.over:
        pace += f" | ETA: {eta_words(view.eta)}"
    found = [Text(pace)]
    if view.failed or view.causes:
        causes = ", ".join(f"{category} {count:,}" for category, count in view.causes.items())
        reading = "" if view.caught_up else " (the ledger is still being read)"
        found.append(Text(f"Failures: {view.failed:,}{': ' if causes else ''}{causes}{reading}", style="red"))
    fleet = f"Machines: {view.machines} at work"
    if view.money is not None and view.money.leaving:
        fleet += f", {view.money.leaving} being torn down"
    if view.wanted is not None:
        fleet += f", {view.wanted} workers wanted"
    if view.canary is not None:
        fleet += f", canary {view.canary}"
    if view.notices or view.losses:
        fleet += f" | Spot notices: {view.notices}, lives lost: {view.losses}"
    found.append(Text(fleet))
    if view.interruptions:
        last = view.interruptions[0]
        when = time.strftime("%H:%M:%S", time.localtime(last.at)) + " " if last.at is not None else ""
        found.append(Text(f"Last:     {when}worker {last.worker} ({last.machine}): {last.why}", style="yellow"))
    return found
