"""Workers by the environment contract, as processes: what the tests of the image's entrypoint and of its environment share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from chaos.seen import RunView

from deployments.rehearsal.container import NAMESPACE

ROOT = Path(__file__).resolve().parents[1]
ENTRYPOINT = ROOT / "worker_image" / "entrypoint.py"
COMMAND = [sys.executable, "-I", "-S", str(ENTRYPOINT)]
"""As the image has it."""
SECRET = "testing-secret"
"""The moto server's AWS_SECRET_ACCESS_KEY (conftest.py)."""


class Contract:
    """An input and an output in a bucket, and containers (as far as processes are any) that convert from one to the other."""

    def __init__(self, moto: Any, folder: Path, workers: int = 5, engine: str = "dummy") -> None:
        self.client, self.folder = moto.client, folder
        self.bucket = moto.new_bucket().removeprefix("s3://")
        self.output_url = f"s3://{self.bucket}/out"
        self.variables = {
            "TOTAL_WORKERS": str(workers),
            "S3_INPUT_BUCKET": self.bucket,
            "S3_INPUT_PREFIX": "in",
            "S3_OUTPUT_BUCKET": self.bucket,
            "S3_OUTPUT_PREFIX": "out/",
            "AWS_DEFAULT_REGION": "us-east-1",
            "ENGINE": engine,
        }
        self.started: list[Container] = []

    def fill(self, count: int, script: str = "", start: int = 0) -> None:
        for number in range(start, start + count):
            self.put(f"doc-{number:03}.pdf", f"%PDF-dummy {script}\n{number}\n".encode())

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"in/{name}", Body=data)

    def start(self, worker: int | None = 0, *arguments: str, elsewhere: bool = False, **more: str) -> Container:
        """A container of the image: the entrypoint with this environment.

        Args:
            elsewhere: in a pid namespace of its own: to others as far away as if it were on another machine. Needs root.
        """
        scratch = self.folder / f"tmp-{len(self.started)}"
        scratch.mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PDF_FLOWS_"))}
        number = {} if worker is None else {"WORKER_ID": str(worker)}
        env = kept | self.variables | number | {"TMPDIR": str(scratch), "HOME": str(scratch)} | more
        env = {name: value for name, value in env.items() if value != "UNSET"}
        command = [*(NAMESPACE if elsewhere else ()), *COMMAND, *arguments]
        self.started.append(Container(scratch / "log", command, env))
        return self.started[-1]

    def view(self, run_id: str | None = None) -> RunView:
        """The run as its objects show it."""
        return RunView(f"{self.output_url}/_runs", run_id)

    def keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def markdown(self) -> list[str]:
        """Names of the documents that are there."""
        return [key.removeprefix("out/") for key in self.keys("out/") if key.endswith(".md")]

    def json(self, key: str) -> Any:
        return json.loads(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def audit(self, run_id: str) -> tuple[int, dict[str, Any]]:
        """`pdf-flows audit` on the run: exit status and account."""
        command = [str(Path(sys.executable).with_name("pdf-flows")), "audit", self.output_url, run_id, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, json.loads(done.stdout or "{}")

    def published(self) -> Counter[int]:
        """How often each document was published, as the ledger says."""
        return Counter(r["index"] for r in self.view().records() if r["outcome"] in ("converted", "recovered"))

    def close(self) -> None:
        for container in self.started:
            container.kill()


class Container:
    """One started entrypoint."""

    def __init__(self, log: Path, command: list[str], env: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.pid = self.process.pid

    @property
    def said(self) -> str:
        """What `docker logs` would show."""
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float = 110.0) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended within {seconds:g} s; it said:\n{self.said[-4000:]}") from None

    def wait_for(self, text: str, seconds: float = 100.0) -> None:
        until = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None and time.monotonic() < until, f"{text!r} is not in:\n{self.said[-4000:]}"
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to all of it, as when its host goes; sandbox children, in sessions of their own, die with their worker."""
        if self.process.poll() is None:
            os.killpg(self.pid, 9)
            self.process.wait()
