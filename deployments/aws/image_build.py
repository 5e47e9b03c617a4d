"""The workers' image, built in the account by the stack's CodeBuild project: no Docker on this machine."""

from __future__ import annotations

import io
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws import links
from deployments.aws.account import Account
from deployments.aws.errors import AwsError
from tasks.corpus.failures import UsageError

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("deployments", "flows", "requirements", "samples", "tasks", "worker_image")
FILES = ("pyproject.toml", "prefect.yaml", "README.md", "LICENSE", "Makefile", ".dockerignore")
"""What the image is made of: nothing else of the clone goes to the account, tests and local files least of all."""
LARGEST_MB = 50.0
BUILD_SECONDS = 3600.0
KEY = "source.zip"


class Built(BaseModel):
    """A build that went through."""

    model_config = ConfigDict(frozen=True)

    id: str
    minutes: float


def source_zip(root: Path = ROOT) -> bytes:
    """The clone's files that the image needs, as they lie there, but only those that git tracks: others may hold secrets.

    Raises UsageError.
    """
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--", *FOLDERS, *FILES],
            cwd=root,
            capture_output=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{root} is no git clone ({error}): the image is built from one") from None
    names = sorted(name for name in listed.decode().split("\0") if name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            path = root / name
            if not path.is_file() or path.is_symlink():
                continue
            # The same clone gives the same bytes, so that layers are found in the cache.
            info = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
            info.external_attr = (path.stat().st_mode & 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    data = buffer.getvalue()
    if len(data) > LARGEST_MB * 1e6:
        raise UsageError(f"the source of the image has {len(data) / 1e6:.0f} MB: something large lies in the clone")
    return data


def upload(account: Account, bucket: str, data: bytes) -> str:
    """Put the source where CodeBuild finds it."""
    account.client("s3").put_object(Bucket=bucket, Key=KEY, Body=data)
    return f"s3://{bucket}/{KEY}, {len(data) / 1e6:.1f} MB"


def build(
    account: Account,
    project: str,
    bucket: str,
    *,
    tag: str,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    poll_seconds: float = 10.0,
) -> Built:
    """Start a build and wait for its end. Raises AwsError naming the phase that failed, and where its log is."""
    codebuild = account.client("codebuild")
    started = codebuild.start_build(
        projectName=project,
        sourceTypeOverride="S3",
        sourceLocationOverride=f"{bucket}/{KEY}",
        environmentVariablesOverride=[{"name": "IMAGE_TAG", "value": tag, "type": "PLAINTEXT"}],
    )["build"]
    link = links.build(account.region, project, started["id"], account.identity.partition)
    say(f"  log: {link}")
    began, phase = time.monotonic(), ""
    while True:
        found = codebuild.batch_get_builds(ids=[started["id"]])["builds"]
        now: dict[str, Any] = found[0] if found else started
        if now.get("currentPhase", "") != phase:
            phase = now.get("currentPhase", "")
            say(f"  {phase}")
        status = now.get("buildStatus", "IN_PROGRESS")
        if status == "SUCCEEDED":
            return Built(id=started["id"], minutes=(time.monotonic() - began) / 60)
        if status != "IN_PROGRESS":
            raise AwsError(f"the image was not built ({status}): {_why(now)}; log: {link}")
        if time.monotonic() - began > BUILD_SECONDS:
            raise AwsError(f"the image is not built after {BUILD_SECONDS / 60:.0f} minutes; log: {link}")
        sleep(poll_seconds)


def _why(build: dict[str, Any]) -> str:
    for phase in build.get("phases", ()):
        if phase.get("phaseStatus") not in (None, "SUCCEEDED"):
            words = "; ".join(c.get("message", "") for c in phase.get("contexts", ()))
            return f"{phase['phaseType']} {phase['phaseStatus']}" + (f": {words}" if words else "")
    return "CodeBuild gives no reason"
