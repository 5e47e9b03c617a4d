"""The small process that owns the local Prefect server, and stops it when nobody uses it any more.

Standard library only: it lives as long as the server and should weigh little. Three roles, one a process:

- `keep HOME LINGER`: holds `keeper.lock`, owns the listening socket and the server below it, starts the server again if it
  dies, and ends both when nobody has held a shared lock on `users.lock` for LINGER seconds. Locks of flock(2) die with
  their holder, so a user that was killed with SIGKILL counts as gone.
- `serve`: the server itself, on the socket that it inherits as standard input; ends with its keeper.
- `guard COMMAND...`: runs a command and stops it, with all its processes, when its own parent is gone or SIGTERM comes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

KEEPER_LOCK = "keeper.lock"
USERS_LOCK = "users.lock"
STATE = "server.json"
PORT = "port"
LOG = "server.log"
HOST = "127.0.0.1"

LOG_BYTES = 5_000_000
"""Where the log is moved to `server.log.1`; so at most about twice this much is kept."""
TICK_SECONDS = 0.25
STOP_SECONDS = 10.0
"""What a server gets between SIGTERM and SIGKILL."""
RESTARTS = 3
GUARDED_STOP_SECONDS = 30.0
"""What a guarded command's children get to drain, and then it to end, between SIGTERM and SIGKILL."""

_PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "VIRTUAL_ENV",
)


def command(role: str, *arguments: str) -> list[str]:
    """The command line of a role. `-P`: the working directory is no place to import from."""
    return [sys.executable, "-P", "-m", "deployments.keeper", role, *arguments]


def base_environment() -> dict[str, str]:
    """What a process that outlives its caller may inherit: no credentials, no settings of Prefect."""
    return {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}


def server_environment(home: Path, port: int) -> dict[str, str]:
    """The server's environment.

    The UI asks `PREFECT_SERVER_UI_API_URL` for data: without it pages served on any port look for an API on 4200.
    """
    return base_environment() | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILE": "ephemeral",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_URL": f"http://{HOST}:{port}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_COLORS": "false",
    }


def healthy(api: str, seconds: float = 2.0) -> bool:
    """Whether the API at `api` answers GET /health with 200 within `seconds`."""
    try:
        # No proxy between us and the loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{api}/health", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def listen(port: int) -> socket.socket:
    """A listening socket on the loopback: on `port` if that is free (so that the UI's links stay valid), else on any."""
    for wanted in (port, 0):
        with contextlib.suppress(OSError):
            return _bound(wanted)
    return _bound(0)


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


class Keeper:
    """Owns the server of a home. See the module's docstring.

    Args:
        home: the home of the local server; exists.
        linger: seconds without a user after which everything ends.
    """

    def __init__(self, home: Path, linger: float) -> None:
        self._home = home
        self._linger = linger
        self._stop = False
        self._port = 0
        self._ready = False
        self._started = time.time()
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Keep until nobody is left. Returns the exit status: 0, or 1 where the server would not run."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stop", True))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with (self._home / KEEPER_LOCK).open("a") as lock:
            if not _lock(lock, seconds=1.0):
                return 0  # another keeper is at work
            self._forget()
            with listen(self._last_port()) as listener, (self._home / USERS_LOCK).open("a") as users:
                self._port = listener.getsockname()[1]
                (self._home / PORT).write_text(str(self._port))
                try:
                    return self._keep(listener, users)
                finally:
                    # Without the state nobody takes a dying server for a living one.
                    if self._server is None or self._server.returncode is None:
                        self._forget()
                    self._end()

    def _keep(self, listener: socket.socket, users: IO[str]) -> int:
        starts, last_user = 0, time.monotonic()
        while not self._stop:
            if self._server is None or self._server.poll() is not None:
                if starts > RESTARTS or (starts and not self._ready):
                    self._write(
                        error=f"the server ended with status {self._server.returncode if self._server else None}"
                    )
                    return 1
                starts += 1
                self._start(listener)
            if not self._ready and healthy(f"http://{HOST}:{self._port}/api"):
                self._ready = True
                self._write()
            if not _lock(users):
                last_user = time.monotonic()
            elif time.monotonic() - last_user >= self._linger:
                return 0  # with the users' lock in hand: whoever comes now waits until we are gone
            else:
                fcntl.flock(users, fcntl.LOCK_UN)
            self._bound_log()
            time.sleep(TICK_SECONDS)
        return 0

    def _start(self, listener: socket.socket) -> None:
        self._ready = False
        self._bound_log()
        with (self._home / LOG).open("ab") as log:
            self._server = subprocess.Popen(
                command("serve", str(os.getpid())),
                stdin=listener.fileno(),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env=server_environment(self._home, self._port),
            )
        self._write()

    def _end(self) -> None:
        if self._server is None or self._server.poll() is not None:
            return
        self._server.terminate()
        try:
            self._server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _write(self, error: str | None = None) -> None:
        state: dict[str, Any] = {
            "pid": os.getpid(),
            "server_pid": self._server.pid if self._server is not None else None,
            "port": self._port,
            "url": f"http://{HOST}:{self._port}/api",
            "started": self._started,
            "ready": self._ready,
            "error": error,
        }
        temporary = self._home / f"{STATE}.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self._home / STATE)

    def _forget(self) -> None:
        (self._home / STATE).unlink(missing_ok=True)

    def _last_port(self) -> int:
        try:
            port = int((self._home / PORT).read_text())
        except (OSError, ValueError):
            return 0
        return port if 0 < port < 65536 else 0

    def _bound_log(self) -> None:
        log = self._home / LOG
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LOG_BYTES:
                # Copied and cut, not renamed: the server appends to the open file.
                shutil.copyfile(log, log.with_name(f"{LOG}.1"))
                os.truncate(log, 0)


def _lock(file: IO[str], seconds: float = 0.0) -> bool:
    """Take the exclusive lock on an open file, trying for `seconds`. Tells whether it was got."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        else:
            return True


def serve(keeper: int) -> None:
    """Be the Prefect server, on the listening socket that is our standard input, as long as the keeper lives."""
    threading.Thread(target=_end_with, args=(keeper,), name="keeper-watch", daemon=True).start()
    import uvicorn

    listener = socket.socket(fileno=os.dup(0))
    config = uvicorn.Config(
        "deployments.busy:create_app",
        factory=True,
        lifespan="on",
        log_level="warning",
        timeout_keep_alive=5,
        # An open page of the UI holds a websocket; it must not hold the server.
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def guard(parent: int, words: Sequence[str]) -> int:
    """Run a command in a session of its own, and stop it and all that it started when `parent` or we are to end.

    Returns:
        The command's exit status; 143 where it was stopped.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    process = subprocess.Popen(list(words), start_new_session=True, stdin=subprocess.DEVNULL)
    while not stop.wait(TICK_SECONDS):
        status = process.poll()
        if status is not None:
            _kill_group(process)
            return status if status >= 0 else 128 - status
        if os.getppid() != parent:
            break
    _end_children(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GUARDED_STOP_SECONDS)
    _kill_group(process)
    return 143


def _end_children(parent: int) -> None:
    """Let what a process started come to its end: SIGTERM, then patience. What is left dies with its parent.

    A Prefect worker that ends kills its flow runs within a second; they could not drain.
    """
    told: set[int] = set()
    until = time.monotonic() + GUARDED_STOP_SECONDS
    while (children := _children(parent)) and time.monotonic() < until:
        for child in children - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        told |= children
        time.sleep(TICK_SECONDS)


def _children(parent: int) -> set[int]:
    """The living children of a process; none where the system has no ps(1)."""
    try:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return set()
    rows = (line.split() for line in listed.stdout.splitlines())
    return {int(row[0]) for row in rows if len(row) == 3 and int(row[1]) == parent and not row[2].startswith("Z")}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """What a command left running in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(words: Sequence[str]) -> int:
    """Play a role. See the module's docstring."""
    role, *rest = words
    if role == "keep":
        return Keeper(Path(rest[0]), float(rest[1])).run()
    if role == "serve":
        serve(int(rest[0]))
        return 0
    return guard(int(rest[0]), rest[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
