"""`prefect --no-prompt deploy --all` of a clone, against a local server or the stack's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deployments.automating import Switches, read, restore
from tasks.corpus.failures import PdfFlowsError

DEPLOY_SECONDS = 300.0
FAULTS = ("Error", "error:", "not found", "not exist", "Skipping deployment", "Failed")


def deploy_all(root: Path, environment: Mapping[str, str]) -> None:
    """Deploy every deployment of the clone's prefect.yaml. Raises PdfFlowsError with Prefect's reason.

    Schedule and automation of retry-failures stay switched on where they are: prefect.yaml alone would switch them off.
    """
    before = _switches(environment)
    _deploy_all(root, environment)
    if before is not None:
        restore(environment, before)


def _switches(environment: Mapping[str, str]) -> Switches | None:
    try:
        return read(environment)
    except PdfFlowsError:
        return None  # the first time, or nobody answers, which deploying will say


def _deploy_all(root: Path, environment: Mapping[str, str]) -> None:
    words = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    try:
        done = subprocess.run(
            words,
            cwd=root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEPLOY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PdfFlowsError(f"prefect deploy --all in {root} took more than {DEPLOY_SECONDS:g} s") from error
    # A deployment that fails is a warning in the output and no bad status when others went through.
    lines = [line for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    failed = [line for line in lines if any(word in line for word in FAULTS)]
    if done.returncode or failed:
        reason = " ".join((failed or lines or ["no reason given"])[-1].split())
        raise PdfFlowsError(f"prefect deploy --all in {root} failed (status {done.returncode}): {reason}")
