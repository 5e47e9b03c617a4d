"""Prefect's side of the fleet: the work pool that is paused and resumed, the flow runs that are cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from deployments.aws.errors import AwsError
from deployments.aws.showing import plain
from deployments.prefect_api import OTHER_SHAPES

WORKERS_POOL = "pdf-flows-workers"
PARENTS = ("convert-corpus", "retry-failures")
"""Flows that launch workers."""
WORKER = "convert-partition"
PAGE = 200
SECONDS = 15.0
RETRIES = 2
"""Of each request: somebody waits for machines that cost money, and Prefect's own patience is some minutes."""


class Run(BaseModel):
    """A flow run that is not over."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    name: str
    flow: str
    state: str

    @property
    def parent(self) -> bool:
        """Whether it launches others."""
        return self.flow in PARENTS


class Orchestration(Protocol):
    """What the commands need of Prefect. Raises AwsError where its API does not answer, or not as Prefect's does."""

    @property
    def url(self) -> str:
        """The API's."""
        ...

    def pause(self, pool: str, paused: bool) -> bool:
        """Pause or resume the work pool; False where there is no such pool."""
        ...

    def living(self) -> list[Run]:
        """The project's flow runs that are not over."""
        ...

    def cancel(self, runs: Sequence[Run]) -> list[str]:
        """Ask them to end: each drains, and ends as Cancelled. Returns, in words, those for which that was refused."""
        ...


class PrefectApi:
    """A Prefect API, by Prefect's own client.

    Args:
        url: its address, ending in /api.
        auth: "user:password" of a server with basic authentication; None takes Prefect's own settings.
    """

    def __init__(self, url: str, auth: str | None = None) -> None:
        self._url = url
        self._auth = auth

    @property
    def url(self) -> str:
        return self._url

    def pause(self, pool: str, paused: bool) -> bool:
        from prefect.client.schemas.actions import WorkPoolUpdate
        from prefect.exceptions import ObjectNotFound

        with self._client() as client:
            try:
                client.update_work_pool(pool, WorkPoolUpdate(is_paused=paused))
            except ObjectNotFound:
                return False
            return True

    def living(self) -> list[Run]:
        from prefect.client.schemas.filters import (
            FlowFilter,
            FlowFilterName,
            FlowRunFilter,
            FlowRunFilterState,
            FlowRunFilterStateType,
        )
        from prefect.client.schemas.objects import StateType

        types = [
            StateType.SCHEDULED,
            StateType.PENDING,
            StateType.RUNNING,
            StateType.PAUSED,
            StateType.CANCELLING,
        ]
        found: list[Run] = []
        with self._client() as client:
            # By flow, one after the other: a flow run knows its flow's id only.
            for flow in (*PARENTS, WORKER):
                seen = 0
                while some := client.read_flow_runs(
                    flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
                    flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
                    limit=PAGE,
                    offset=seen,
                ):
                    seen += len(some)
                    # A schedule's run of tomorrow is no run to cancel: it has no machine and begins nothing today.
                    found += [
                        Run(id=run.id, name=run.name, flow=flow, state=run.state_name or "")
                        for run in some
                        if not run.auto_scheduled or run.state_type is not StateType.SCHEDULED
                    ]
        return found

    def cancel(self, runs: Sequence[Run]) -> list[str]:
        import httpx
        from prefect.exceptions import ObjectNotFound, PrefectException
        from prefect.states import Cancelling

        refused: list[str] = []
        with self._client() as client:
            for run in runs:
                try:
                    client.set_flow_run_state(run.id, Cancelling(message="pdf-flows aws stop"))
                except ObjectNotFound:
                    continue  # deleted meanwhile
                except (httpx.HTTPStatusError, PrefectException) as error:
                    # Of one that can't be cancelled the others know nothing.
                    refused.append(f"{plain(run.name)} ({_words(error)})")
        return refused

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.exceptions import PrefectException
        from prefect.settings import (
            PREFECT_API_AUTH_STRING,
            PREFECT_API_REQUEST_TIMEOUT,
            PREFECT_API_URL,
            PREFECT_CLIENT_MAX_RETRIES,
            temporary_settings,
        )

        wanted: dict[Any, Any] = {
            PREFECT_API_URL: self._url,
            PREFECT_API_REQUEST_TIMEOUT: SECONDS,
            PREFECT_CLIENT_MAX_RETRIES: RETRIES,
        }
        if self._auth is not None:
            wanted[PREFECT_API_AUTH_STRING] = self._auth
        try:
            with temporary_settings(updates=wanted), get_client(sync_client=True) as client:
                yield client
        except (httpx.HTTPError, httpx.InvalidURL, PrefectException, RuntimeError, *OTHER_SHAPES) as error:
            raise AwsError(
                f"the Prefect API at {self._url} does not do what it is asked ({_words(error)}): is it the right one, and up?"
            ) from error


def _words(error: Exception) -> str:
    # httpx goes on with where to read about HTTP.
    text = str(error).partition("For more information")[0]
    return plain(" ".join(text.split()).rstrip(" -"))[:300] or type(error).__name__
