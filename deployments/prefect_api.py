"""Prefect's client for the API that an environment names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.corpus.failures import PdfFlowsError

OTHER_SHAPES = (ValueError, TypeError, LookupError, AttributeError)
"""What Prefect's client raises over an answer that is no answer of Prefect: it does not check."""


@contextlib.contextmanager
def prefect_client(environment: Mapping[str, str], failure: type[PdfFlowsError] = PdfFlowsError) -> Iterator[Any]:
    """A synchronous client. Raises `failure` for what the API or the way to it raises.

    Args:
        environment: PREFECT_API_URL, PREFECT_API_KEY and PREFECT_API_AUTH_STRING; where it lacks one, this process's setting.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    known = {setting.name: setting for setting in (PREFECT_API_URL, PREFECT_API_KEY, PREFECT_API_AUTH_STRING)}
    updates: dict[Any, Any] = {known[name]: value for name, value in environment.items() if name in known}
    try:
        with temporary_settings(updates=updates), get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, PrefectException, RuntimeError, *OTHER_SHAPES) as error:
        words = " ".join(str(error).split())[:300]
        raise failure(
            f"the Prefect API does not do what it is asked ({words}): is it the right one, and up?"
        ) from error
