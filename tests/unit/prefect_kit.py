"""A real Prefect server for a module's tests, and what they ask it. No tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

SERVE = """
import sys
from deployments.server import PrefectServer, ServerSettings
with PrefectServer.obtain(ServerSettings()) as server:
    print(server.environment()["PREFECT_API_URL"], flush=True)
    sys.stdin.read()
"""


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """A Prefect server of our own, with an own home in the environment and no other settings of Prefect's; its API's address."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "PDF_FLOWS_"))]:
            patch.delenv(name)
        patch.setenv("PDF_FLOWS_HOME", str(home))
        patch.setenv("PDF_FLOWS_SERVER_LINGER", "1")
        patch.setenv("PREFECT_HOME", str(home / "client"))
        with subprocess.Popen(
            [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None and server.stdin is not None
            try:
                url = server.stdout.readline().strip()
                assert url.startswith("http")
                yield url
            finally:
                server.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(60)


def prefect(api: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Prefect's own command line."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    return subprocess.run(
        command, env=dict(os.environ) | {"PREFECT_API_URL": api}, capture_output=True, text=True, timeout=120
    )


def pool_of(api: str, name: str) -> dict[str, Any]:
    """A work pool, all that the server knows of it."""
    return dict(httpx.get(f"{api}/work_pools/{name}", timeout=30).raise_for_status().json())


def pool_names(api: str) -> set[str]:
    """Of all work pools there."""
    found = httpx.post(f"{api}/work_pools/filter", json={}, timeout=30).raise_for_status().json()
    return {pool["name"] for pool in found}
