"""One sandbox child as its parent sees it: spawned, pumped and reaped by one thread of its own.

The thread lives as long as the child, because PR_SET_PDEATHSIG fires when the *thread* that spawned a child ends: so the
child dies with its worker, and never with some short-lived thread of it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tasks.engines import confine, frames

PACKAGE: Final = Path(__file__).resolve().parents[1]
"""The folder of the package `tasks`."""

_STDERR_LINES = 40
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class ChildProcess:
    """A running interpreter with `tasks.engines.child` in it, or another module that talks like it.

    Args:
        start: the first message: engine, limits and options.
        threads: of its numeric libraries.
        scratch: the only folder that it may write to.
        module: what to run.
        shared: a file descriptor that it inherits, under the same number: memory that both sides map.
        inherited: names of environment variables that it gets besides the few that all children do.
    """

    def __init__(
        self,
        start: dict[str, Any],
        *,
        threads: int,
        scratch: Path,
        module: str = "tasks.engines.child",
        shared: int | None = None,
        inherited: Sequence[str] = (),
    ) -> None:
        self.documents = 0
        """How many documents it was given."""
        self.hello: dict[str, Any] | None = None
        """Its answer to the first message, once it came."""
        self._start = {**start, "threads": threads, "scratch": str(scratch), "parent": os.getpid(), "shared": shared}
        self._environment = confine.environment(scratch, PACKAGE.parent, threads) | {
            name: os.environ[name] for name in inherited if name in os.environ
        }
        self._module = module
        self._shared = () if shared is None else (shared,)
        self._sending = threading.Lock()
        self._scratch = scratch
        self._received: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned = threading.Event()
        self._ended = threading.Event()
        self._killed = False
        self.returncode: int | None = None
        self.protocol_error: str | None = None
        threading.Thread(target=self._run, name="sandbox-child", daemon=True).start()

    @property
    def alive(self) -> bool:
        """False once it ended and all that it sent was queued."""
        return not self._ended.is_set()

    @property
    def pid(self) -> int | None:
        """Its process id, once spawned."""
        self._spawned.wait()
        return self._process.pid if self._process else None

    @property
    def diagnosis(self) -> str:
        """The last lines that it or its libraries wrote to stderr or stdout."""
        return "\n".join(self._stderr)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; from any thread. A dead child is no error here: `receive` tells."""
        self._spawned.wait()
        if self._process is None or self._process.stdin is None:
            return
        with self._sending, contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(frames.encode(message))
            self._process.stdin.flush()

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message; None once the child ended. Raises queue.Empty after `timeout` seconds."""
        message = self._received.get(timeout=max(0.0, timeout))
        if message is None:
            self._received.put(None)
        return message

    def kill(self) -> None:
        """SIGKILL for the child and whatever it started. It holds nothing that a clean end would save."""
        self._killed = True
        self._spawned.wait()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> bool:
        """Whether it ended within `timeout` seconds."""
        return self._ended.wait(timeout)

    def cpu_seconds(self) -> float | None:
        """CPU that it used so far, all threads; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> int | None:
        """Bytes of memory that it has now; None where the system does not tell."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_SIZE
        except (OSError, IndexError):
            return None

    def _run(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                cwd=self._scratch,
                start_new_session=True,
                pass_fds=self._shared,
            )
        except OSError as error:
            self._stderr.append(f"the interpreter cannot be started: {error.strerror}")
            self._spawned.set()
        else:
            self._spawned.set()
            self.send(self._start)
            self._pump(self._process)
            self.returncode = self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._ended.set()
        self._received.put(None)

    def _pump(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        splitter = frames.Splitter()
        errors = process.stderr.fileno()
        partial = b""
        if self._killed:
            self.kill()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 1 << 20)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fd == errors:
                        *lines, partial = (partial + data).split(b"\n")
                        self._stderr.extend(line.decode(errors="replace")[:500] for line in lines if line.strip())
                        partial = partial[-500:]
                    else:
                        self._deliver(splitter, data)
        if partial.strip():
            self._stderr.append(partial.decode(errors="replace"))

    def _deliver(self, splitter: frames.Splitter, data: bytes) -> None:
        if self.protocol_error is not None:
            return
        try:
            for message in splitter.feed(data):
                self._received.put(message)
        except frames.BadFrame as error:
            self.protocol_error = str(error)
            self.kill()
