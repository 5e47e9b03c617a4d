"""Processes and folders as the chaos tests look at them: from outside, through /proc and inotify. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

LAUNCH_SECONDS = 120.0
"""How long a command or a worker may take to come up on a busy machine."""
T = TypeVar("T")


def parent_of(pid: int) -> int | None:
    """The parent's pid; None for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def command_of(pid: int) -> bytes:
    """Its command line, words separated by NUL."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pids() -> list[int]:
    """All processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def children_of(parent: int, *words: bytes) -> list[int]:
    """Living children whose command line has one of the words."""
    return [pid for pid in pids() if parent_of(pid) == parent and any(word in command_of(pid) for word in words)]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return parent_of(pid) is not None


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; whether there was somebody to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_for(what: str, look: Callable[[], T | None], seconds: float = LAUNCH_SECONDS, pause: float = 0.05) -> T:
    """The first truthy thing that `look` sees. AssertionError with `what` after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def documents_in_hand(child: int) -> set[str]:
    """Contents of the documents in a sandbox child's folder."""
    found = set()
    with contextlib.suppress(OSError):
        for pdf in Path(f"/proc/{child}/cwd").resolve().glob("document-*/document.pdf"):
            with contextlib.suppress(OSError):
                found.add(pdf.read_text(errors="replace"))
    return found


def asleep(pid: int, seconds: float = 0.7) -> bool:
    """Whether a process does nothing for a while: a dummy engine at work on a page, not one that is being loaded."""

    def look() -> tuple[str, ...]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ()
        return (fields[0], *fields[11:13])

    before = look()
    time.sleep(seconds)
    return before[:1] == ("S",) and look() == before


class Watch:
    """inotify on one folder: the names that are created in it, the moment they are."""

    _CREATED = 0x100 | 0x80  # IN_CREATE, IN_MOVED_TO

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(folder), self._CREATED) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def names(self, seconds: float) -> list[str]:
        """What came next, [] if nothing did for so long."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return []
        data, found = os.read(self._fd, 1 << 16), []
        while data:
            length = struct.unpack("iIII", data[:16])[3]
            found.append(data[16 : 16 + length].rstrip(b"\0").decode())
            data = data[16 + length :]
        return found
