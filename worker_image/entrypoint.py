"""The image's entrypoint: runs a command (Prefect's ECS worker gives `prefect flow-run execute`), or the environment contract.

It is the container's first process, or the child of one (ECS' initProcessEnabled): either way it passes signals on, waits for
orphans, and ends with its child's exit status. Standard library only: it has to work whatever else does not.

SIGTERM to `prefect flow-run execute` (3.8): without PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR it dies at once and leaves the flow
behind in the midst of a page; with `reschedule` the run comes back by itself while the supervisor launches another one. What a
worker needs is that the flow hears of it: it drains, and its run ends as Drained, with exit status 0. Prefect runs the flow in a
session of its own, whose leader passes over a SIGTERM that is meant for the flow; so it goes to that session's process group.
"""

from __future__ import annotations

import signal

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
if __name__ == "__main__":
    # Before anything else is loaded: held back until there is a child that they can be passed on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)

import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Collection, Iterator, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from types import FrameType  # noqa: E402
from typing import Final  # noqa: E402

ROOT: Final = Path(__file__).resolve().parents[1]
CONTRACT: Final = "WORKER_ID"
"""What says that a container without a command is a worker by the environment contract."""
HELD: Final = (signal.SIGTERM, signal.SIGINT)
"""What such a worker hears of when it is ready to (tasks/environment.py): by default it would end with a signal's status."""
NOT_FOUND, NOT_RUNNABLE, USAGE, BY_SIGNAL = 127, 126, 2, 128
"""Exit statuses as a shell has them."""
HOMES: Final = {"HOME": "/tmp", "PREFECT_HOME": "/tmp/prefect"}  # noqa: S108 - the image's only writable place
"""Where state goes that cannot be written where the environment says: a Prefect worker hands its own PREFECT_HOME on."""


def command_line(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """What to run. Raises ValueError, with what to do, where neither arguments nor environment say it. Pure."""
    if argv:
        return list(argv)
    if env.get(CONTRACT, "").strip():
        return [sys.executable, "-m", "tasks.environment"]
    raise ValueError(
        "nothing to do: give a command (prefect flow-run execute, pdf-flows ...), or set WORKER_ID, TOTAL_WORKERS, "
        "S3_INPUT_BUCKET and S3_OUTPUT_BUCKET to convert a partition (docs/image.md)"
    )


def executes_a_flow(command: Sequence[str]) -> bool:
    """Whether it is `prefect flow-run execute`, however it is spelled. Pure."""
    words = [word for word in command[:6] if not word.startswith("-")]
    return any(
        Path(words[i]).name == "prefect" and list(words[i + 1 : i + 3]) == ["flow-run", "execute"]
        for i in range(len(words) - 2)
    )


def homes(env: Mapping[str, str]) -> dict[str, str]:
    """The environment with homes that can be written."""
    found = dict(env)
    for name, instead in HOMES.items():
        if not _writable(found.get(name) or instead):
            _say(f"{name}={found.get(name)} cannot be written: {instead} instead")
            found[name] = instead
    return found


def _writable(place: str) -> bool:
    try:
        folder = Path(place).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: "~" of nobody
        return False
    return os.access(folder, os.W_OK | os.X_OK)


class Entrypoint:
    """One child, from its start to its end.

    Args:
        held: signals that it is born with blocked.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], held: Collection[int] = ()) -> None:
        self._command = list(command)
        self._env = env
        self._held = held
        self._flow = executes_a_flow(command)
        self._child = 0

    def run(self) -> int:
        """Start it, pass signals on, wait. Its exit status; 128 + n where signal n ended it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        try:
            self._child = os.posix_spawnp(
                self._command[0],
                self._command,
                self._env,
                setsigmask=self._held,
                setsigdef=(*PASSED_ON, signal.SIGPIPE),
            )
        except FileNotFoundError:
            _say(f"{self._command[0]}: no such command")
            return NOT_FOUND
        except OSError as error:
            _say(f"{self._command[0]}: {error.strerror}")
            return NOT_RUNNABLE
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        while True:
            # As the first process it inherits what others leave behind: all of them are waited for.
            pid, status = os.wait()
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else BY_SIGNAL - code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """To the flow where there is one, else to the command itself.

        So it is if it is told again: a host's watcher and ECS may both tell it, and what hangs gets SIGKILL from them anyway.
        """
        flows = list(self._flows()) if self._flow and number in (signal.SIGTERM, signal.SIGINT) else []
        for group in flows:
            _signal(-group, signal.SIGTERM)
        if not flows:
            _signal(self._child, number)

    def _flows(self) -> Iterator[int]:
        """Process groups of the command's children that lead a session of their own."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                pid = int(entry.name)
                state, parent, group, session = fields[0], *(int(field) for field in fields[1:4])
                if parent == self._child and state != "Z" and pid == group == session:
                    yield group


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _say(text: str) -> None:
    sys.stderr.write(f"pdf-flows: {text}\n")
    sys.stderr.flush()


def main(argv: Sequence[str]) -> int:
    """Run what there is to run. Its exit status."""
    try:
        command = command_line(argv, os.environ)
    except ValueError as error:
        _say(str(error))
        return USAGE
    os.chdir(ROOT)
    env = homes(os.environ)
    # Flows and tasks import from here, whatever the working directory of a flow run is.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return Entrypoint(command, env, () if argv else HELD).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
