"""Where things are in the Prefect UI, and in AWS's console what lies in S3: what artifacts link to.

Within the UI a link is a path: people may reach it by another address than the run does, through a tunnel for instance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID

from prefect.settings import PREFECT_UI_URL


def ui_address() -> str:
    """Where people find the Prefect UI; "" where that is not known."""
    base = PREFECT_UI_URL.value()
    return str(base).rstrip("/") if base else ""


def _path(rest: str) -> str:
    return urlsplit(ui_address()).path.rstrip("/") + rest


def log_path(flow_run: UUID) -> str:
    """Of a flow run's log."""
    return _path(f"/runs/flow-run/{flow_run}?tab=Logs")


def task_run_path(task_run: UUID) -> str:
    """Of a task run."""
    return _path(f"/runs/task-run/{task_run}")


def artifact_path(artifact: UUID) -> str:
    """Of an artifact."""
    return _path(f"/artifacts/artifact/{artifact}")


def form_path(deployment: UUID, parameters: Mapping[str, Any]) -> str:
    """Of a deployment's run form, with these parameters filled in."""
    # The UI decodes them twice: once as a query, once as what it wrote there itself.
    given = quote(quote(json.dumps(parameters), safe=""), safe="")
    return _path(f"/deployments/deployment/{deployment}/run?parameters={given}")


def console_link(url: str) -> str:
    """Of an object in S3, or of a prefix (it ends with "/"), in AWS's console; "" for what lies elsewhere.

    A browser opens no file of this machine from a page of a server: of folders there are no links.
    """
    if not url.startswith("s3://"):
        return ""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    kind = "buckets" if not key or key.endswith("/") else "object"
    return f"https://console.aws.amazon.com/s3/{kind}/{_quoted(bucket)}?prefix={_quoted(key)}"


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


def link(text: str, target: str) -> str:
    """In Markdown; the text alone where there is nothing to link to.

    Args:
        text: shown as it is, without a bracket or a backslash in it.
    """
    return f"[{text}]({target})" if target else text
