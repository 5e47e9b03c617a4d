"""Outputs: the Markdown that is there."""

from __future__ import annotations

from tasks.corpus.names import MARKDOWN, RUNS
from tasks.corpus.store import Store


def existing_outputs(output: Store) -> set[str]:
    """Names of all Markdown that is there: one listing, whatever the number of documents; runs' own room is left out."""
    return {info.key for info in output.list(skip=f"{RUNS}/") if info.key.endswith(MARKDOWN)}
