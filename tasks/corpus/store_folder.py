"""The store in a folder, by the standard library: temporary file, fsync, link(2).

link(2) is create-if-absent on every file system that has it, NFS included; a file system without hard links is refused by
`probe`. Paths are bytes here, so that any name the folder holds can be listed and read whatever the locale says.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote, urlsplit

from tasks.corpus.failures import Category, NotFound, StoreError, UsageError
from tasks.corpus.names import MAX_SEGMENT, TEMPORARY, printable
from tasks.corpus.store import ObjectInfo
from tasks.corpus.walk import ABSENT, patiently, reach, status, walk

MISSING: Final = "missing"
"""The etag of a link that leads nowhere."""

_CHUNK: Final = 1 << 20
_ORPHAN_AGE_NS: Final = 86_400 * 1_000_000_000
_TEMPORARY: Final = TEMPORARY.encode()

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class FolderStore:
    """A folder and everything below it (see :class:`tasks.corpus.store.Store`). Thread-safe: it holds no open file."""

    def __init__(self, root: Path, url: str, *, create: bool) -> None:
        """Use `from_url`. `root` is absolute; `create` says whether the folder may be made."""
        self._root = os.fsencode(root).rstrip(b"/")  # "/" itself becomes "", which joins to absolute paths as well
        self._url = url
        self._shown = root.name
        self._create = create

    @classmethod
    def from_url(cls, url: str, create: bool = False) -> FolderStore:
        """The store for a folder's path (`~` is expanded) or `file:///folder`.

        With `create` the folder may be missing: `probe` or the first write makes it, parents included.

        Raises:
            UsageError: Not the address of a folder; without `create`, no such folder.
        """
        path = _local_path(url)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            if not create:
                raise UsageError(f"no such folder: {printable(url)}") from None
        except OSError as e:
            raise UsageError(f"cannot open the folder {printable(url)}: {e.strerror}: name another folder") from e
        else:
            if not stat.S_ISDIR(mode):
                raise UsageError(f"not a folder: {printable(url)}: name the folder that holds the files")
        return cls(path, url, create=create)

    @property
    def url(self) -> str:
        """The folder as the user gave it."""
        return self._url

    def display(self, key: str) -> str:
        """The key below the folder's own name, on one line: records hold no path of this machine."""
        return printable(f"{self._shown}/{key}")

    def list(self, prefix: str = "", *, skip: str | None = None) -> Iterator[ObjectInfo]:
        """All files whose key starts with `prefix`, in order of the key's bytes, as S3 lists them; no folder `skip` is read.

        Memory: the names in the folders on the way to the file at hand. Raises StoreError naming a folder that cannot be read.
        """
        try:
            wanted, unwanted = (text.encode("utf-8", "surrogateescape") for text in (prefix, skip or ""))
        except UnicodeEncodeError:
            return
        if any(part in (b"", b".", b"..") for part in wanted.split(b"/")[:-1]):
            return
        try:
            for raw, there in walk(self._root, wanted, _TEMPORARY, unwanted):
                key = raw.decode("utf-8", "surrogateescape")
                yield ObjectInfo(key, 0, MISSING) if there is None else ObjectInfo(key, there.st_size, _etag(there))
        except OSError as e:
            folder = e.filename if isinstance(e.filename, bytes) else b""
            if not folder and e.errno == errno.ENOENT and self._create:
                return  # to be made by the first write
            shown = self.display(folder.decode("utf-8", "surrogateescape").rstrip("/"))
            raise StoreError(f"cannot list the folder {shown}: {e.strerror}", _category(e)) from e

    def read(self, key: str) -> bytes:
        """The file's content. Raises NotFound."""

        def call() -> bytes:
            with self._opened(key) as file:
                return file.read()

        with self._errors("read", key):
            return patiently(call)

    def fetch(self, key: str, to: Path) -> ObjectInfo:
        """Copy the file in bounded memory. A file that changes meanwhile comes back with its new etag. Raises NotFound."""

        def call() -> ObjectInfo:
            with self._opened(key) as file:
                size = copy(iter(lambda: file.read(_CHUNK), b""), to)
                return ObjectInfo(key, size, _etag(os.fstat(file.fileno())))

        with self._errors("read", key):
            return patiently(call)

    def head(self, key: str) -> ObjectInfo | None:
        """The file's size and version, or None where no regular file is."""
        raw = _relative(key)
        if raw is None:
            return None
        with self._errors("read", key):
            there = status(self._root, raw)
        return (
            ObjectInfo(key, there.st_size, _etag(there)) if there is not None and stat.S_ISREG(there.st_mode) else None
        )

    def metadata(self, key: str) -> Mapping[str, str]:
        """Always {}: a folder keeps no metadata. Raises NotFound."""
        if self.head(key) is None:
            raise NotFound(key)
        return {}

    def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        """Create if absent: temporary file, fsync, link(2), fsync of the folder. `metadata` is not kept."""
        raw = self._writable(key)
        with self._errors("write", key):
            there = status(self._root, raw, follow=False)
            if there is None:
                self._make_folder(_parent(raw))
                if self._stage(raw, data, self._link):
                    return True
                there = status(self._root, raw, follow=False)
            behind = status(self._root, raw) if there is not None else None
        if there is not None and (behind is None or not stat.S_ISREG(behind.st_mode)):
            kind = "a link that leads nowhere" if behind is None else _kind(behind.st_mode)
            message = f"cannot write {self.display(key)}: {kind} of this name is in the way"
            raise StoreError(message, Category.BLOCKED)
        return False

    def put(self, key: str, data: bytes) -> None:
        """Create or replace: temporary file, fsync, rename(2), fsync of the folder."""
        raw = self._writable(key)
        with self._errors("write", key):
            self._make_folder(_parent(raw))
            self._stage(raw, data, self._rename)

    def move(self, key: str, to: str) -> None:
        """Move by link(2) and unlink(2); a move that was cut short between the two is finished. Raises NotFound."""
        source, target = self._writable(key), self._writable(to)
        if source == target:
            raise StoreError(f"cannot move {self.display(key)} to itself")
        if self.head(key) is None:
            raise NotFound(key)
        with self._errors("move", key):
            self._make_folder(_parent(target))
            try:
                moved = self._link(self._at(source), target)
            except OSError as e:
                if e.errno != errno.EXDEV:
                    raise
                # Below the root, but on another file system: outputs are small enough to be copied in one piece.
                moved = self._stage(target, self.read(key), self._link)
            if not moved:
                raise StoreError(f"cannot move {self.display(key)}: {self.display(to)} exists already")
            self._sync(_parent(target))
            _unlink(self._at(source))
            self._sync(_parent(source))

    def delete(self, key: str) -> None:
        """Delete the file; absent is fine. Folders stay."""
        if (raw := _relative(key)) is not None:
            with self._errors("delete", key):
                patiently(lambda: _unlink(self._at(raw)))

    def probe(self) -> None:
        """Prove that files can be created here if absent; make the folder if need be; sweep day-old temporary files."""
        shown, other = printable(self._url), "choose another output folder or s3://"
        try:
            if self._create:
                self._make_folder(b"")
            linked = self._try_link()
        except OSError as e:
            if e.errno in _FULL:
                raise UsageError(f"no space left for the output {shown}: free some, or {other}") from e
            if e.errno in (errno.ENOTDIR, errno.EEXIST):
                raise UsageError(f"a file is in the way of the output folder {shown}: {other}") from e
            raise UsageError(
                f"cannot write to the output folder {shown}: {e.strerror}: make it writable, or {other}"
            ) from e
        if not linked:
            raise UsageError(f"file system without hard links: {shown}: {other}")

    def _try_link(self) -> bool:
        """Whether link(2) works at the root and refuses what exists. Sweeps while it is at it."""
        name = _unique()
        try:
            try:
                if not self._stage(name, b"", self._link):
                    return False
            except OSError as e:
                # EPERM of link(2) means "no hard links here"; a folder that may not be written failed before, when staging.
                if e.errno in _NO_LINKS and getattr(e, "filename2", None) is not None:
                    return False
                raise
            exclusive = not self._stage(name, b"", self._link)
            # Ages are taken against a file just made, not this machine's clock: the folder may be another machine's.
            self._sweep(os.stat(self._at(name)).st_mtime_ns)  # noqa: PTH116 - bytes
        finally:
            _unlink(self._at(name))
        return exclusive

    def _sweep(self, now_ns: int) -> None:
        """Remove what crashed writers left over a day ago, and the temporary folder if it is empty."""
        folder = self._at(_TEMPORARY)
        with suppress(FileNotFoundError):
            for name in os.listdir(folder):  # noqa: PTH208 - bytes
                left = folder + b"/" + name
                with suppress(FileNotFoundError):
                    if now_ns - os.lstat(left).st_mtime_ns > _ORPHAN_AGE_NS:
                        _unlink(left)
        with suppress(OSError):  # not empty: somebody is writing
            os.rmdir(folder)  # noqa: PTH106

    def _at(self, raw: bytes) -> bytes:
        return self._root + b"/" + raw

    def _writable(self, key: str) -> bytes:
        """The relative path of a key to be written. Raises StoreError where no folder can hold it."""
        raw = _relative(key)
        if raw is None:
            raise StoreError(f"a folder cannot hold a file of this name: {self.display(key)}")
        return raw

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        """OSError as StoreError; what is absent as NotFound when it was to be read or moved."""
        try:
            yield
        except OSError as e:
            if e.errno in ABSENT and verb in ("read", "move"):
                raise NotFound(key) from e
            if e.errno in (errno.ENOTDIR, errno.EEXIST):
                message = f"cannot {verb} {self.display(key)}: a file is in the way of its folder"
                raise StoreError(message, Category.BLOCKED) from e
            raise StoreError(f"cannot {verb} {self.display(key)}: {e.strerror}", _category(e)) from e

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        """The regular file behind the key, unbuffered. Raises NotFound and OSError."""
        raw = _relative(key)
        if raw is None:
            raise NotFound(key)
        with reach(self._root, raw) as (path, at):
            # Without O_NONBLOCK a FIFO that took the file's place would hold the caller for ever.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotFound(key)
        with os.fdopen(fd, "rb") as file:
            yield file

    def _stage(self, raw: bytes, data: bytes, publish: Callable[[bytes, bytes], bool]) -> bool:
        """Write the data to a temporary file, sync it, and publish it under its name; whether `publish` did.

        The temporary file lies in the hidden folder at the root, or beside the target where that is another file system.
        """
        try:
            return self._publish(_TEMPORARY + b"/" + _unique(), raw, data, publish)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
        parent = _parent(raw)
        return self._publish((parent + b"/" if parent else b"") + _unique(), raw, data, publish)

    def _publish(self, temporary: bytes, raw: bytes, data: bytes, publish: Callable[[bytes, bytes], bool]) -> bool:
        staged = self._at(temporary)

        def write() -> None:
            # A failed fsync may have dropped the data for good: trying again means writing a new file.
            with suppress(FileNotFoundError):
                os.unlink(staged)  # noqa: PTH108
            self._write(temporary, data)

        try:
            patiently(write)
            published = publish(staged, raw)
        finally:
            _unlink(staged)
        if published:
            self._sync(_parent(raw))
        return published

    def _write(self, temporary: bytes, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(10):
            try:
                fd = os.open(self._at(temporary), flags, 0o666)
                break
            except FileNotFoundError:
                self._make_folder(_parent(temporary))  # another process' probe may remove it again
        else:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with os.fdopen(fd, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(fd)

    def _link(self, staged: bytes, raw: bytes) -> bool:
        """link(2); False where the name exists and is not this very file (a link whose answer was lost has been made)."""
        target = self._at(raw)
        try:
            patiently(lambda: os.link(staged, target, follow_symlinks=False))
        except FileExistsError:
            there = status(self._root, raw, follow=False)
            return there is not None and os.path.samestat(there, os.lstat(staged))
        return True

    def _rename(self, staged: bytes, raw: bytes) -> bool:
        patiently(lambda: os.replace(staged, self._at(raw)))  # noqa: PTH105
        return True

    def _make_folder(self, raw: bytes) -> None:
        """Make a folder below the root (b"": the root itself, if it may be made) with its parents, durably."""
        path, missing = self._at(raw).rstrip(b"/") or b"/", []
        while not os.path.isdir(path):  # noqa: PTH112
            if len(path) <= len(self._root) and not self._create:
                raise FileNotFoundError(errno.ENOENT, "the folder has gone")
            missing.append(path)
            path = os.path.dirname(path)  # noqa: PTH120
        for path in reversed(missing):
            try:
                os.mkdir(path)  # noqa: PTH102
            except FileExistsError:
                if not os.path.isdir(path):  # noqa: PTH112
                    raise
            _sync_folder(os.path.dirname(path))  # noqa: PTH120

    def _sync(self, raw: bytes) -> None:
        _sync_folder(self._at(raw))


def copy(chunks: Iterator[bytes], to: Path) -> int:
    """Write the chunks to a local file, replacing it; returns bytes. The local file system's errors are StoreErrors.

    Raises:
        StoreError: DISK_FULL or STORE, naming the local file and not the object.
    """
    size = 0
    with _local(to):
        file = to.open("wb", buffering=0)
    with file:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                with _local(to):
                    view = view[file.write(view) :]
            size += len(chunk)
    return size


@contextmanager
def _local(to: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        category = Category.DISK_FULL if e.errno in _FULL else Category.STORE
        raise StoreError(f"cannot write the local copy {printable(to.name)}: {e.strerror}", category) from e


def _local_path(url: str) -> Path:
    """The absolute path that the user's address means."""
    if not url or "\0" in url:
        raise UsageError("no folder given: name a folder or s3://bucket/prefix")
    path = url
    if url.startswith("file:"):
        parts = urlsplit(url)
        path = unquote(parts.path, errors="surrogateescape")
        if parts.netloc not in ("", "localhost") or not url.startswith("file://") or not path or "\0" in path:
            raise UsageError(f"not an address of a local folder: {printable(url)}: write file:///folder")
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url):
        raise UsageError(
            f"unknown kind of address: {printable(url)}: name a folder, file:///folder or s3://bucket/prefix"
        )
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as e:
        raise UsageError(f"no such user's folder: {printable(url)}: write the folder's whole path") from e


def _relative(key: str) -> bytes | None:
    """The key as a path below the root, or None where no file can have it. Never leads out of the root."""
    try:
        raw = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    segments = raw.split(b"/")
    if any(part in (b"", b".", b"..") or len(part) > MAX_SEGMENT or b"\0" in part for part in segments):
        return None
    if any(part.startswith(_TEMPORARY) for part in segments):
        return None
    # Surrogates that spell valid UTF-8 would be a second key for the same file.
    return raw if raw.decode("utf-8", "surrogateescape") == key else None


def _parent(raw: bytes) -> bytes:
    return raw.rpartition(b"/")[0]


def _unique() -> bytes:
    return _TEMPORARY + b"-" + secrets.token_hex(8).encode()


def _etag(there: os.stat_result) -> str:
    return f"{there.st_mtime_ns:x}-{there.st_size:x}"


def _category(e: OSError) -> Category:
    if e.errno in _FULL:
        return Category.DISK_FULL
    return Category.FORBIDDEN if e.errno in _REFUSED else Category.STORE


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a special file"


def _unlink(path: bytes) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError as e:
        if e.errno not in ABSENT | {errno.EISDIR}:
            raise


def _sync_folder(path: bytes) -> None:
    fd = os.open(path or b"/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno != errno.EINVAL:  # some network file systems know no fsync of folders
            raise
    finally:
        os.close(fd)
