"""The local launcher's part: a worker as a process of this machine that notices when its parent is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

STOP = b"stop\n"
"""What a parent writes into a worker's stdin before it closes it on purpose."""


class LocalProcess:
    """A worker process. Its stdin is a pipe that only this process holds open: end of file means that the parent is gone.

    Args:
        line: called with each line that the worker writes to stdout or stderr, from a thread.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, line: Callable[[str], None]
    ) -> None:
        # A session of its own: Ctrl-C reaches the parent alone, which then drains its workers in order.
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=_relay, args=(self._process.stdout, line), name="worker-output", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """None while it runs, then its exit status."""
        status = self._process.poll()
        if status is not None:
            # What it said last belongs before whatever is said about its end.
            self._reader.join(timeout=2)
        return status

    def drain(self) -> None:
        """Ask for the worker's end through the pipe, and close it."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None and not self._process.stdin.closed:
                self._process.stdin.write(STOP)
                self._process.stdin.close()

    def kill(self) -> None:
        """SIGKILL to the worker; its sandbox children die with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        # One that hangs in the kernel (a dead network file system) goes when that lets it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)


def _relay(stream: IO[bytes], line: Callable[[str], None]) -> None:
    with stream:
        for raw in stream:
            line(raw.decode(errors="replace").rstrip("\n"))


def when_parent_ends(act: Callable[[str], None]) -> None:
    """Call `act` with the reason from a thread once stdin ends: what a worker launched by LocalProcess does first.

    Standard input is then pointed at nothing, so that no library can read from it.
    """
    pipe = os.dup(sys.stdin.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)

    def watch() -> None:
        said = b""
        with contextlib.suppress(OSError):
            while data := os.read(pipe, 4096):
                said += data[-len(STOP) :]
        act("the parent stops the run" if said.endswith(STOP) else "the parent is gone")

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
