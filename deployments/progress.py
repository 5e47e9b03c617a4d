"""Progress bars in a terminal: one a worker and the total, with ETA; the workers' lines scroll above them."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tasks.supervise import Progress as Seen


class Bars:
    """A context manager; `show` may be called from any thread."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            # Log lines written to stderr by anybody are moved above the bars.
            redirect_stderr=True,
            redirect_stdout=False,
        )
        self._lock = threading.Lock()
        self._bars: dict[int, TaskID] = {}
        self._total: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, seen: Seen) -> None:
        """Draw what the heartbeats say."""
        with self._lock:
            for worker in sorted(seen.assigned):
                if worker not in self._bars:
                    self._bars[worker] = self._progress.add_task(f"Worker {worker}", total=1, note="")
                self._progress.update(
                    self._bars[worker], total=seen.assigned[worker], completed=seen.processed.get(worker, 0)
                )
            if seen.assigned:
                if self._total is None:
                    self._total = self._progress.add_task("Total", total=1, note="")
                self._progress.update(
                    self._total,
                    total=sum(seen.assigned.values()),
                    completed=sum(seen.processed.values()),
                    note=f"{seen.pages} pages, {seen.failed} failures",
                )
