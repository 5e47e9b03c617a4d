"""A store in memory: the protocol of `tasks/corpus/store.py`, with every request counted as S3 would bill it.

Atomic as S3 is: a request has happened or it has not. What may go wrong with one (it fails, it happens and its answer is lost,
whoever asked dies before or after it) is for whoever asks through a `Port` of `tests/protocol_world.py`.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tasks.corpus.failures import NotFound
from tasks.corpus.store import ObjectInfo

FOLDERS = 3
PAGE = 1000
"""Keys that one LIST request answers with."""

USD = {
    "PUT": 0.005 / 1000,
    "LIST": 0.005 / 1000,
    "COPY": 0.005 / 1000,
    "POST": 0.005 / 1000,
    "GET": 0.0004 / 1000,
    "HEAD": 0.0004 / 1000,
    "DELETE": 0.0,
}
"""AWS price list, S3 Standard, us-east-1."""


class MemoryStore:
    """Objects by key.

    Args:
        keeps_metadata: as S3 does; folders keep none.
        created: called with the key and content of every `create` that took effect.
    """

    def __init__(
        self,
        url: str = "memory",
        *,
        keeps_metadata: bool = True,
        created: Callable[[str, bytes], None] = lambda key, data: None,
    ) -> None:
        self._url, self.keeps_metadata, self.created = url, keeps_metadata, created
        self.objects: dict[str, bytes] = {}
        self._metadata: dict[str, dict[str, str]] = {}
        self._folders: dict[str, list[str]] = {}
        """Keys by their first three folders, each list sorted when it is listed: listings go by folders."""
        self._unsorted: set[str] = set()
        self._tops: dict[str, set[str]] = {}
        """These folders by their first part: a run's are not looked for among a million outputs."""
        self.requests: Counter[str] = Counter()
        """By kind as S3 bills them."""
        self.by_room: Counter[tuple[str, str]] = Counter()
        """By kind and what the key is of: see `room`."""

    @property
    def url(self) -> str:
        return self._url

    @property
    def usd(self) -> float:
        """What S3 would bill for the requests."""
        return sum(count * USD[kind] for kind, count in self.requests.items())

    def display(self, key: str) -> str:
        return key

    def list(self, prefix: str = "", *, skip: str | None = None) -> Iterator[ObjectInfo]:
        found = 0
        for key in self._listed(prefix):
            if skip is not None and key.startswith(skip):
                continue
            if found % PAGE == 0:
                self._count("LIST", prefix)
            found += 1
            if key in self.objects:
                yield self._info(key)
        if not found:
            self._count("LIST", prefix)

    def _listed(self, prefix: str) -> Iterator[str]:
        if prefix.count("/") < FOLDERS:
            found: list[str] = []
            top, inside, _ = prefix.partition("/")
            for folder in self._tops.get(top, ()) if inside else self._folders:
                keys = self._folders[folder]
                if folder.startswith(prefix):
                    found += keys
                elif prefix.startswith(folder):
                    found += (key for key in keys if key.startswith(prefix))
            yield from sorted(found)
            return
        keys = self._sorted(folder_of(prefix))
        at = bisect.bisect_left(keys, prefix)
        while at < len(keys) and keys[at].startswith(prefix):
            yield keys[at]
            at += 1

    def read(self, key: str) -> bytes:
        self._count("GET", key)
        try:
            return self.objects[key]
        except KeyError:
            raise NotFound(key) from None

    def fetch(self, key: str, to: Path) -> ObjectInfo:
        to.write_bytes(self.read(key))
        return self._info(key)

    def head(self, key: str) -> ObjectInfo | None:
        self._count("HEAD", key)
        return self._info(key) if key in self.objects else None

    def metadata(self, key: str) -> Mapping[str, str]:
        self._count("HEAD", key)
        if key not in self.objects:
            raise NotFound(key)
        return dict(self._metadata.get(key, {}))

    def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        self._count("PUT", key)
        if key in self.objects:
            return False
        self._write(key, data, metadata)
        self.created(key, data)
        return True

    def put(self, key: str, data: bytes) -> None:
        self._count("PUT", key)
        self._write(key, data, None)

    def move(self, key: str, to: str) -> None:
        self._count("COPY", key)
        self._write(to, self.objects[key], self._metadata.get(key))
        self.delete(key)

    def delete(self, key: str) -> None:
        self._count("DELETE", key)
        if self.objects.pop(key, None) is not None:
            self._metadata.pop(key, None)
            keys = self._sorted(folder_of(key))
            del keys[bisect.bisect_left(keys, key)]

    def probe(self) -> None:
        """Writable."""

    def _write(self, key: str, data: bytes, metadata: Mapping[str, str] | None) -> None:
        if key not in self.objects:
            folder = folder_of(key)
            keys = self._folders.get(folder)
            if keys is None:
                keys = self._folders[folder] = []
                self._tops.setdefault(folder.partition("/")[0], set()).add(folder)
            if keys and key < keys[-1]:
                self._unsorted.add(folder)
            keys.append(key)
        self.objects[key] = data
        if metadata and self.keeps_metadata:
            self._metadata[key] = dict(metadata)

    def _sorted(self, folder: str) -> list[str]:
        keys = self._folders.get(folder, [])
        if folder in self._unsorted:
            keys.sort()
            self._unsorted.discard(folder)
        return keys

    def _info(self, key: str) -> ObjectInfo:
        data = self.objects[key]
        return ObjectInfo(key, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())

    def _count(self, kind: str, key: str) -> None:
        self.requests[kind] += 1
        self.by_room[kind, room(key)] += 1


class Overwriting(MemoryStore):
    """The mutant: create is a plain PUT that always says yes."""

    def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        self._count("PUT", key)
        self._write(key, data, metadata)
        self.created(key, data)
        return True


def folder_of(key: str) -> str:
    """The first three folders of a key."""
    return "/".join(key.split("/", FOLDERS)[:FOLDERS])


def room(key: str) -> str:
    """What a key is of, e.g. "claims" or "workers heartbeat.json"."""
    parts = key.split("/")
    if len(parts) < 2:
        return "output"
    name = parts[-1]
    for begin in ("ledger", "manifest"):
        if name.startswith(begin):
            return begin
    if parts[1] in ("workers", "parent") and name:
        return f"{parts[1]} {name}"
    return parts[1]
