"""Machines of the rehearsal: each with one GPU, a metadata service and a folder for notices, as the stack's launch
template has them.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
ACTION = "/latest/meta-data/spot/instance-action"


class Host:
    """One Spot machine.

    Args:
        number: of the machine, from 0; its instance id has it.
        folder: where its notice folder is made.
    """

    def __init__(self, number: int, folder: Path, region: str) -> None:
        self.id = f"i-{number:017x}"
        self.notice = folder / self.id / "spot-notice"
        self.notice.mkdir(parents=True)
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
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    @property
    def metadata(self) -> str:
        """Address of its metadata service, which answers only who has a token (version 2)."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def announce(self, seconds: float) -> None:
        """EC2's notice that it will be terminated: in the metadata, and as the file that the host's watcher makes of it."""
        end = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = json.dumps({"action": "terminate", "time": end})
        self._answers[ACTION] = text
        part = self.notice / ".instance-action"
        part.write_text(text)
        part.rename(self.notice / "instance-action")

    def end(self) -> None:
        """It is gone."""
        self.gone = True
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
