"""The store protocol: what the whole storage protocol stands on, and nothing more.

Two backends: folders (`store_folder`) and S3 (`store_s3`). A store is one root (a folder, or a bucket with a prefix); keys
are relative to it, "/"-separated, any characters. Every method raises :class:`StoreError` (its `category` says whether the
store failed, refused or is full) after the backend's own retries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from tasks.corpus.failures import StoreError, UsageError


class ObjectInfo(NamedTuple):
    """One listed object."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Opaque version: S3's ETag without quotes; for folders made of mtime (ns) and size. Dangling links list as "missing"."""


@runtime_checkable
class Store(Protocol):
    """One root of objects. Thread-safe."""

    @property
    def url(self) -> str:
        """The root as the user would write it: `s3://bucket/prefix` or the folder as given."""
        ...

    def display(self, key: str) -> str:
        """The key as log lines show it: with the prefix in the bucket (S3), or with the root folder's name."""
        ...

    def list(self, prefix: str = "", *, skip: str | None = None) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in order of the key's bytes; any number; names of any kind.

        Keys that start with `skip` (a folder, ends with "/", `prefix` must be "") are left out without being listed.

        Folders: names that are not UTF-8 come with surrogate escapes; links to files are followed, links to folders are
        followed unless they lead to an ancestor; dangling links are listed with size 0 and etag "missing"; the store's own
        temporary files are not listed.
        """
        ...

    def read(self, key: str) -> bytes:
        """The object's content. Raises NotFound."""
        ...

    def fetch(self, key: str, to: Path) -> ObjectInfo:
        """Copy the object to a local file in bounded memory; returns what was copied. Raises NotFound."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """The object, or None."""
        ...

    def metadata(self, key: str) -> Mapping[str, str]:
        """The metadata that `create` stored with the object: {} where the backend keeps none. Raises NotFound."""
        ...

    def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        """Create if absent, atomically and durably. False if the key exists; then nothing was changed.

        S3: `PutObject IfNoneMatch="*"`. After a lost response the backend's own retry sees its own object and returns
        False too: callers that must tell own from other's compare `metadata`.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Create or replace, atomically. Only for objects that one life alone writes (heartbeats, reports)."""
        ...

    def move(self, key: str, to: str) -> None:
        """Move an object within the store, replacing nothing: `to` must not exist. Not atomic on S3 (copy, then delete)."""
        ...

    def delete(self, key: str) -> None:
        """Delete; absent is fine."""
        ...

    def probe(self) -> None:
        """Prove that the root can be written with create-if-absent, leaving nothing behind (S3: nothing that may be deleted).

        Raises UsageError with one clear line: not writable, no hard links, no credentials, no such bucket.
        """
        ...


def open_store(url: str, *, writable: bool = False) -> Store:
    """The store for `s3://bucket[/prefix]`, `file:///folder` or a folder.

    Raises UsageError for any other scheme, a bad bucket name, and - unless `writable` - a folder that does not exist.
    """
    from tasks.corpus.store_folder import FolderStore

    if url.startswith("s3://"):
        from tasks.corpus.store_s3 import S3Store  # boto3 takes most of a second to import: folders go without

        return S3Store.from_url(url)
    return FolderStore.from_url(url, create=writable)


def check_readable(store: Store) -> None:
    """The first contact with an input: lists one object, so that a wrong address or missing credentials show at once.

    Raises UsageError with one clear line.
    """
    first = store
    if store.url.startswith("s3://"):
        from tasks.corpus.store_s3 import S3Store

        first = store.impatient() if isinstance(store, S3Store) else store
    try:
        next(iter(first.list()), None)
    except StoreError as e:
        raise UsageError(str(e)) from e


def content_sha256(store: Store, key: str) -> str:
    """sha256 of an object's content, hexadecimal. Raises NotFound."""
    return hashlib.sha256(store.read(key)).hexdigest()
