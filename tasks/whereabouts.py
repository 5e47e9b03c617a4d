"""Where Prefect has a document: its task run, and the flow run of its worker, whose log tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, TaskRunFilter, TaskRunFilterName
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

from tasks.api import LOST
from tasks.corpus.names import printable

NAMES = 100
"""Documents asked for in one call: each may have a task run for each of its attempts, and 200 come back at most."""
PAGE = 200


class Place(NamedTuple):
    """Of one document. None: there is none, or Prefect does not say."""

    flow_run: UUID | None = None
    """Of the worker."""
    task_run: UUID | None = None


class HasWorker(Protocol):
    """A failed document of an account."""

    @property
    def key(self) -> str: ...
    @property
    def worker(self) -> int | None: ...


def whereabouts(run_id: str, documents: Sequence[HasWorker]) -> dict[str, Place]:
    """Of these documents of the run, by key: a call for every 100 of them. {} where the API can't be reached.

    What has no task run of its own (in very large runs, or not recorded yet) is in its worker's newest flow run.
    """
    of_run = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"run:{run_id}"]))
    try:
        with get_client(sync_client=True) as client:
            found = _task_runs(client, of_run, list(dict.fromkeys(printable(one.key) for one in documents)))
            places = {one.key: found[printable(one.key)] for one in documents if printable(one.key) in found}
            rest = [one for one in documents if one.key not in places and one.worker is not None]
            workers = _worker_runs(client, of_run) if rest else {}
    except LOST:
        return {}
    return places | {one.key: Place(workers[one.worker]) for one in rest if one.worker in workers}


def _task_runs(client: SyncPrefectClient, of_run: FlowRunFilter, names: list[str]) -> dict[str, Place]:
    """The newest of each name."""
    found: dict[str, Place] = {}
    for start in range(0, len(names), NAMES):
        some = client.read_task_runs(
            flow_run_filter=of_run,
            task_run_filter=TaskRunFilter(name=TaskRunFilterName(any_=names[start : start + NAMES])),
            sort=TaskRunSort.EXPECTED_START_TIME_DESC,
            limit=PAGE,
        )
        for run in some:
            found.setdefault(run.name, Place(run.flow_run_id, run.id))
    return found


def _worker_runs(client: SyncPrefectClient, of_run: FlowRunFilter) -> dict[int | None, UUID]:
    """The newest of each worker; of very many workers not all."""
    found: dict[int | None, UUID] = {}
    for run in client.read_flow_runs(flow_run_filter=of_run, sort=FlowRunSort.START_TIME_DESC, limit=PAGE):
        number = next((tag.removeprefix("worker:") for tag in run.tags if tag.startswith("worker:")), "")
        if number.isdigit():
            found.setdefault(int(number), run.id)
    return found
