"""A census of a manifest: how much there was to do when it was frozen, in all and by partition. One pass, a few numbers."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from tasks.corpus.manifest import Row
from tasks.corpus.partition import partition_of
from tasks.corpus.rowtable import weight_of


class Census(BaseModel):
    """What the manifest says."""

    model_config = ConfigDict(frozen=True)

    documents: int = 0
    done: int = 0
    """Outputs that were there: skipped."""
    failed: dict[str, int] = {}
    """Failed before any work, by category."""
    waiting: int = 0
    weight: float = 0.0
    """Of what waits (`tasks/corpus/rowtable.py`)."""
    partitions: list[int] = []
    """Documents that wait, of each partition."""


def take_census(rows: Iterable[Row], partitions: int) -> Census:
    """Count the rows. Raises what reading them raises."""
    documents = done = waiting = weight = 0
    failed: dict[str, int] = {}
    by_partition = [0] * partitions
    for row in rows:
        documents += 1
        if row.done:
            done += 1
        elif row.failure is not None:
            category = row.failure.category.value
            failed[category] = failed.get(category, 0) + 1
        else:
            waiting += 1
            weight += weight_of(row)
            by_partition[partition_of(row.index, partitions)] += 1
    return Census(
        documents=documents, done=done, failed=failed, waiting=waiting, weight=float(weight), partitions=by_partition
    )
