"""What a run's own objects say of it while it is shot at: lives, claims, records. In a folder or in a bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.corpus.failures import NotFound, UsageError
from tasks.corpus.store import Store, open_store


@dataclass(frozen=True)
class SeenLife:
    """One life of a worker."""

    worker: int
    attempt: int
    start: dict[str, Any]
    beat: dict[str, Any]
    """{} before the first one."""
    fence: dict[str, Any] | None

    @property
    def name(self) -> str:
        """As the supervisor calls it."""
        return f"{self.worker}/{self.attempt}"

    @property
    def launch(self) -> int | None:
        """Which launch of its worker it came from."""
        number = self.start.get("launch")
        return None if number is None else int(number)

    @property
    def ended(self) -> str:
        """Its last word, "" while it has said none."""
        return str(self.beat.get("ended") or "")


@dataclass(frozen=True)
class SeenClaim:
    """One claim on a document."""

    index: int
    n: int
    worker: int
    attempt: int
    alone: bool
    released: bool

    @property
    def life(self) -> str:
        """Its holder."""
        return f"{self.worker}/{self.attempt}"


class RunView:
    """A run, the newest below `<runs>` unless it is named."""

    def __init__(self, runs: str, run_id: str | None = None) -> None:
        self._runs, self._run_id = runs, run_id
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """`<runs>`; raises UsageError while there is none."""
        self._store = self._store or open_store(self._runs)
        return self._store

    def run_ids(self) -> list[str]:
        """Runs that were started, oldest first; [] while there are none."""
        try:
            keys = [info.key for info in self.store.list("_starts/")]
        except UsageError:
            return []
        return list(dict.fromkeys(json.loads(self.store.read(key))["run_id"] for key in sorted(keys)))

    @property
    def run_id(self) -> str | None:
        """None while there is none."""
        return self._run_id or next(reversed(self.run_ids()), None)

    def keys(self, prefix: str) -> list[str]:
        """Keys below `<run_id>/<prefix>`, without it."""
        run = self.run_id
        if run is None:
            return []
        whole = f"{run}/{prefix}"
        return [info.key[len(whole) :] for info in self.store.list(whole)]

    def json(self, key: str) -> Any:
        """`<run_id>/<key>`, None where it is not there (yet)."""
        try:
            return json.loads(self.store.read(f"{self.run_id}/{key}") or b"null")
        except NotFound:
            return None

    def lives(self, worker: int | None = None) -> list[SeenLife]:
        """All lives, or one worker's, by number."""
        keys = self.keys("workers/")
        found = sorted(tuple(map(int, key.split("/")[:2])) for key in keys if key.endswith("/start.json"))
        lives = []
        for k, attempt in found:
            if worker not in (None, k):
                continue
            prefix = f"workers/{k}/{attempt}/"
            lives.append(
                SeenLife(
                    worker=k,
                    attempt=attempt,
                    start=self.json(f"{prefix}start.json") or {},
                    beat=self.json(f"{prefix}heartbeat.json") or {},
                    fence=self.json(f"{prefix}fenced") if f"{k}/{attempt}/fenced" in keys else None,
                )
            )
        return lives

    def life(self, worker: int, launch: int) -> SeenLife | None:
        """The newest life of a launch, None while there is none."""
        return next((life for life in reversed(self.lives(worker)) if life.launch == launch), None)

    def records(self, life: str | None = None) -> Iterator[dict[str, Any]]:
        """All ledger records, or one life's, in order within a life."""
        run = self.run_id
        prefix = f"workers/{life}/" if life is not None else "workers/"
        for key in sorted(self.keys(prefix)):
            if "ledger-" in key:
                for line in self.store.read(f"{run}/{prefix}{key}").splitlines():
                    yield json.loads(line)

    def first_page(self, life: str) -> float | None:
        """When (seconds since 1970) a life first went to publish something: its first short document's page was done then."""
        return min(
            (float(record["at"]) for record in self.records(life) if record["outcome"] == "intent"), default=None
        )

    def claims(self) -> list[SeenClaim]:
        """All claims, by document and number."""
        keys = self.keys("claims/")
        found = []
        for key in keys:
            _, index, name = key.split("/")
            if name.isdigit():
                holder = self.json(f"claims/{key}")
                found.append(
                    SeenClaim(
                        index=int(index),
                        n=int(name),
                        worker=holder["worker"],
                        attempt=holder["attempt"],
                        alone=holder.get("alone", False),
                        released=f"{key}.released" in keys,
                    )
                )
        return sorted(found, key=lambda claim: (claim.index, claim.n))
