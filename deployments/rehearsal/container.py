"""One container of the rehearsal: the image's entrypoint with the command and the environment of its task, as processes of
this machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")
"""A pid namespace as a container's: all that is in it dies with its first process. Needs root."""


@lru_cache(maxsize=1)
def can_isolate() -> bool:
    """Whether a pid namespace can be made here; without one, a kill reaches the process group only."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class Container:
    """Started when it is made.

    Args:
        log: where its output goes, as awslogs would have it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], workdir: Path, log: Path) -> None:
        self.log = log
        self._isolated = can_isolate()
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*(NAMESPACE if self._isolated else ()), *command],
                env=dict(environment),
                cwd=workdir,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._killed = False

    def poll(self) -> int | None:
        """Its exit code as Docker gives it (137 after SIGKILL); None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return 128 + signal.SIGKILL if self._killed else code if code >= 0 else 128 - code

    @property
    def said(self) -> str:
        """Its output."""
        return self.log.read_text(errors="replace")

    def terminate(self) -> None:
        """SIGTERM to its first process, as `docker stop` sends it."""
        pid = self._first()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all of it: out of memory, or its machine is gone."""
        if self._process.poll() is None:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _first(self) -> int | None:
        if self._process.poll() is not None:
            return None
        if not self._isolated:
            return self._process.pid
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else None


def described(log: Path, **what: Any) -> None:
    """Keep what a container was started with, beside its log."""
    import json

    log.with_suffix(".json").write_text(json.dumps(what, default=str, indent=1))
