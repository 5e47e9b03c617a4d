"""A folder's files in order of their keys' bytes, exactly as S3 lists them; any depth, any name, bounded memory.

Paths are bytes, relative to the root: a name need not be UTF-8, whatever the locale says.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, TypeVar

import tenacity

T = TypeVar("T")

ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""What the system answers where nothing is, or where a link leads nowhere."""

# Longer paths are reached folder by folder: the kernel takes 4,096 bytes (macOS: 1,024), and a tree may be deeper.
_REACH: Final = 1000
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TRANSIENT: Final = frozenset({errno.EIO, errno.EINTR, errno.ESTALE})


class _Level(NamedTuple):
    """One folder on the way from the root to the file at hand."""

    identity: tuple[int, int]
    """Device and inode."""
    left: list[bytes]
    """Names not yet visited, the next one last; folders end in "/"."""
    path: int
    """Length of the folder's relative path, its "/" included."""


def patiently(call: Callable[[], T]) -> T:
    """The call's result; I/O errors that pass (EIO, EINTR, ESTALE) are retried three times within about a second."""
    try:
        return call()
    except OSError as e:
        if e.errno not in _TRANSIENT:
            raise
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, OSError) and e.errno in _TRANSIENT),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=0.5),
        stop=tenacity.stop_after_attempt(3),
        reraise=True,
    )(call)


@contextmanager
def reach(root: bytes, raw: bytes) -> Iterator[tuple[bytes, int | None]]:
    """A path (and the folder descriptor it is relative to) that the system accepts, however long the whole path is."""
    path, fd = root + b"/" + raw, None
    try:
        while len(path) > _REACH and (cut := path.rfind(b"/", 1, _REACH)) > 0:
            deeper = os.open(path[:cut], _FOLDER, dir_fd=fd)
            if fd is not None:
                os.close(fd)
            fd, path = deeper, path[cut + 1 :]
        yield path, fd
    finally:
        if fd is not None:
            os.close(fd)


def status(root: bytes, raw: bytes, *, follow: bool = True) -> os.stat_result | None:
    """What lies at the path (behind the link, if it is one and `follow`), or None. Raises OSError."""

    def call() -> os.stat_result:
        with reach(root, raw) as (path, fd):
            return os.stat(path, dir_fd=fd, follow_symlinks=follow)

    try:
        return patiently(call)
    except OSError as e:
        if e.errno in ABSENT:
            return None
        raise


def walk(
    root: bytes, wanted: bytes, hidden: bytes, unwanted: bytes = b""
) -> Iterator[tuple[bytes, os.stat_result | None]]:
    """All files below `root` whose relative path starts with `wanted`, with what is behind them: None for dangling links.

    Links are followed, but for those to a folder that leads here (the root's own ancestors included). Neither entered nor
    listed are names that start with `hidden` and the folder `unwanted` (a path that ends in "/"). FIFOs, sockets and
    devices are not listed. What vanishes meanwhile is left out.

    Raises:
        OSError: A folder cannot be read; `filename` is its path relative to the root.
    """
    above = _ancestors(root)
    stack: list[_Level] = []
    path = b""  # of the folder at hand, with its "/"
    level = _open(root, path, wanted, above)
    if level is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), b"")
    while level is not None or stack:
        if level is not None:
            stack.append(level)
            above.add(level.identity)
            level = None
        if not (left := stack[-1].left):
            above.discard(stack.pop().identity)
            path = path[: stack[-1].path] if stack else b""
            continue
        name = left.pop()
        if name.startswith(hidden) or path + name == unwanted:
            continue
        if name.endswith(b"/"):
            level = _open(root, path + name, wanted, above)
            path += name if level is not None else b""
        elif (path + name).startswith(wanted) and (found := _file(root, path + name)) is not None:
            yield path + name, found[0]


def _ancestors(root: bytes) -> set[tuple[int, int]]:
    at, found = os.path.realpath(root or b"/"), set()
    while (parent := os.path.dirname(at)) != at:  # noqa: PTH120 - bytes
        at = parent
        if (there := status(b"", at.lstrip(b"/"))) is not None:
            found.add((there.st_dev, there.st_ino))
    return found


def _open(root: bytes, folder: bytes, wanted: bytes, above: set[tuple[int, int]]) -> _Level | None:
    """The folder's level; None where it does not lead to what is wanted, leads back up, or has gone."""
    if not (folder.startswith(wanted) or wanted.startswith(folder)):
        return None
    slash = wanted.find(b"/", len(folder))

    def call() -> _Level | None:
        with reach(root, folder.rstrip(b"/")) as (path, at):
            fd = os.open(path or b".", _FOLDER, dir_fd=at)
        try:
            here = os.fstat(fd)
            identity = (here.st_dev, here.st_ino)
            if identity in above:
                return None
            if slash > 0:
                # Only one folder leads on, and its neighbours need not be read.
                return _Level(identity, [wanted[len(folder) : slash + 1]], len(folder))
            with os.scandir(fd) as entries:
                left = [os.fsencode(entry.name) + (b"/" if _is_folder(entry) else b"") for entry in entries]
        finally:
            os.close(fd)
        left.sort(reverse=True)
        return _Level(identity, left, len(folder))

    try:
        return patiently(call)
    except OSError as e:
        if e.errno in ABSENT:
            return None
        e.filename = folder
        raise


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link into a folder that may not be searched, or to itself, is no folder to us: it is listed as what it is.
    with suppress(OSError):
        return entry.is_dir()
    return False


def _file(root: bytes, raw: bytes) -> tuple[os.stat_result | None] | None:
    """What to list at the path: (status,), (None,) for a link that leads nowhere, None for what is no file."""
    try:
        there = status(root, raw)
    except PermissionError:
        there = None
    if there is not None:
        return (there,) if stat.S_ISREG(there.st_mode) else None
    link = status(root, raw, follow=False)
    return (None,) if link is not None and stat.S_ISLNK(link.st_mode) else None
