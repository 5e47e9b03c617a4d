"""Machines of the rehearsal: each with one GPU, a metadata service, a folder for notices, and the watcher between the two, as
the stack's launch template has them.

The watcher is the template's own script, in bash, with this machine's curl. Its `docker` is a stand-in that knows the
machine's container and passes a signal on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from deployments.rehearsal.quiet_server import QuietServer

TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
ACTION = "/latest/meta-data/spot/instance-action"
DOCKER = """#!/bin/sh
# docker ps -q --filter label=KEY=VALUE; docker kill --signal NAME ID
echo "docker $*" >> docker.log
case $1 in
ps) sed -n "s/^${4#label=} //p" containers ;;
kill) echo "$3" > "signals/$4" ;;
esac
"""


class Host:
    """One Spot machine.

    Args:
        number: of the machine, from 0; its instance id has it.
        folder: where its own folder is made.
        watcher: the script that hands notices on.
        poll_seconds: between two of its looks; None: as the script has it.
    """

    def __init__(
        self, number: int, folder: Path, region: str, watcher: str, *, poll_seconds: float | None = None
    ) -> None:
        self.id = f"i-{number:017x}"
        self._folder = folder / self.id
        self.notice = self._folder / "spot-notice"
        for made in (self.notice, self._folder / "bin", self._folder / "signals"):
            made.mkdir(parents=True)
        (self._folder / "containers").touch()
        self.busy = False
        """Its GPU is taken."""
        self.gone = False
        self.until: float | None = None
        """When it is taken away (monotonic), once that was announced."""
        self._answers = {
            "/latest/meta-data/instance-id": self.id,
            "/latest/meta-data/instance-type": "g4dn.xlarge",
            "/latest/meta-data/placement/availability-zone": f"{region}a",
            "/latest/meta-data/placement/region": region,
            "/latest/meta-data/instance-life-cycle": "spot",
        }
        self._server = QuietServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        self._watcher = self._watch(watcher, poll_seconds)

    def _watch(self, script: str, poll_seconds: float | None) -> subprocess.Popen[bytes]:
        (self._folder / "spot-watch").write_text(script)
        docker = self._folder / "bin" / "docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        environment = {
            "PATH": f"{docker.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "NO_PROXY": "127.0.0.1",
            "METADATA": self.metadata,
            "NOTICE_FOLDER": str(self.notice),
        }
        environment |= {"POLL_SECONDS": f"{poll_seconds:g}"} if poll_seconds is not None else {}
        with (self._folder / "spot-watch.log").open("wb") as log:
            return subprocess.Popen(
                ["bash", "spot-watch"],
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def runs(self, container: str, label: str) -> None:
        """What its Docker knows from now on: one container, by its id and a label "KEY=VALUE"."""
        (self._folder / "containers").write_text(f"{label} {container}\n")

    def signalled(self, container: str) -> bool:
        """Whether the container was sent a SIGTERM since the last time that this was asked."""
        file = self._folder / "signals" / container
        if not file.exists():
            return False
        name = file.read_text().strip()
        file.unlink()
        return name == "TERM"

    @property
    def metadata(self) -> str:
        """Address of its metadata service, which answers only who has a token (version 2)."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def announce(self, seconds: float) -> None:
        """EC2's notice that it will be terminated, in the metadata."""
        end = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._answers[ACTION] = json.dumps({"action": "terminate", "time": end})

    def end(self) -> None:
        """It is gone."""
        self.gone = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._watcher.pid, signal.SIGKILL)
        self._watcher.wait()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answers = self._answers

        class Handler(BaseHTTPRequestHandler):
            """IMDSv2."""

            def log_message(self, *args: object) -> None: ...

            def do_PUT(self) -> None:
                self._answer(200 if self.path == "/latest/api/token" else 404, "token")

            def do_GET(self) -> None:
                if self.headers.get(TOKEN) != "token":
                    self._answer(401)
                    return
                text = answers.get(self.path)
                self._answer(404 if text is None else 200, text or "")

            def _answer(self, status: int, text: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        return Handler
