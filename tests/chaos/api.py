"""The Prefect API that the commands of a home use, asked as its UI asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx


class Api:
    """A home's Prefect API."""

    def __init__(self, home: Path) -> None:
        self.url = str(json.loads((home / "server.json").read_bytes())["url"])

    def post(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.url}/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def run(self, id: str) -> dict[str, Any]:
        """A flow run."""
        answer = httpx.get(f"{self.url}/flow_runs/{id}", timeout=30)
        answer.raise_for_status()
        return dict(answer.json())

    def workers(self, run_id: str) -> list[dict[str, Any]]:
        """The flow runs of a run's workers."""
        found = self.post("flow_runs/filter", flow_runs={"tags": {"all_": [f"run:{run_id}"]}})
        return [run for run in found if any(tag.startswith("worker:") for tag in run["tags"])]
