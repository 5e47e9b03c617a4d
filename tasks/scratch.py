"""Local temporary folders that are removed even if their process could not do it.

A folder is held by a lock of flock(2), which dies with its holder: whoever makes a folder next removes those that nobody
holds any more. Killed workers would otherwise leave copies of documents behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "pdf-flows-"
LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the system's temporary folder, for its user alone; removed at the end, with all that is in it.

    Raises OSError where no folder can be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = None
    try:
        new = folder / f"{LOCK}.new"
        lock = new.open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A lock file is seen only when it is held: the sweep of another process can't come between.
        new.rename(folder / LOCK)
        sweep(folder.parent)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.close()


def sweep(place: Path) -> int:
    """Remove this user's folders below `place` that nobody holds. Returns how many."""
    count = 0
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            there = folder.lstat()
            if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid():
                continue
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                count += 1
    return count
