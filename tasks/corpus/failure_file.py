"""`failures/worker-<k>-failures.json`: what worker k could not convert, all its attempts merged, kept current."""

from __future__ import annotations

import shlex
import threading

from pydantic import BaseModel, ValidationError

from tasks.corpus import paths
from tasks.corpus.failures import Failure, NotFound
from tasks.corpus.ledger import Outcome, Record
from tasks.corpus.names import RUNS, printable
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store


class FailedDocument(BaseModel):
    """One entry."""

    index: int
    key: str
    name: str
    outcome: Outcome
    failure: Failure
    attempt: int
    replay: str
    """The command that converts just this document again."""


class FailedDocuments(BaseModel):
    """The file."""

    schema_version: int = SCHEMA
    run_id: str
    worker: int
    failures: list[FailedDocument] = []


def retry_command(output: str, run_id: str, runs: str) -> str:
    """The command that converts a run's failures again, safe to paste into a shell.

    Args:
        runs: where the run is; named in the command where that is not below the output.
    """
    elsewhere = "" if runs.rstrip("/") == f"{output.rstrip('/')}/{RUNS}" else f" --runs={shlex.quote(runs)}"
    return f"pdf-flows retry {shlex.quote(output)} {run_id}{elsewhere}"


def replay_command(output: str, run_id: str, key: str, runs: str) -> str:
    """The command that converts just one document again."""
    return f"{retry_command(output, run_id, runs)} --document={shlex.quote(key)}"


class FailureFile:
    """One worker's file. Thread-safe; `write` puts it only when it changed."""

    def __init__(self, runs: Store, run_id: str, worker: int, output: str) -> None:
        self._runs = runs
        self._key = paths.failures(run_id, worker)
        self._run_id, self._worker, self._output = run_id, worker, output
        self._lock = threading.Lock()
        self._entries: dict[int, FailedDocument] = {}
        self._dirty = False

    def load(self) -> None:
        """Take over what earlier attempts wrote; a file that can't be read is begun anew (the ledger has it all)."""
        try:
            found = FailedDocuments.model_validate_json(self._runs.read(self._key))
        except (NotFound, ValidationError):
            return
        with self._lock:
            self._entries = {entry.index: entry for entry in found.failures} | self._entries

    def note(self, record: Record) -> None:
        """A document's newest outcome: a failure goes in, anything else takes it out."""
        with self._lock:
            if record.failure is not None:
                self._entries[record.index] = FailedDocument(
                    index=record.index,
                    key=printable(record.key),
                    name=printable(record.name),
                    outcome=record.outcome,
                    failure=record.failure,
                    attempt=record.attempt,
                    replay=replay_command(self._output, self._run_id, record.key, self._runs.url),
                )
                self._dirty = True
            elif record.outcome.final and self._entries.pop(record.index, None) is not None:
                self._dirty = True

    def write(self) -> None:
        """Put the file if it changed. Raises StoreError; then it is still to be written."""
        with self._lock:
            if not self._dirty:
                return
            content = FailedDocuments(
                run_id=self._run_id,
                worker=self._worker,
                failures=[self._entries[index] for index in sorted(self._entries)],
            )
            self._dirty = False
        try:
            self._runs.put(self._key, content.model_dump_json(indent=1).encode())
        except BaseException:
            self._dirty = True
            raise
