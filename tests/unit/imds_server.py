"""A metadata service as EC2's: tokens that expire, 404 until there is something, and all that can go wrong with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "X-aws-ec2-metadata-token"
INSTANCE = {
    "/latest/meta-data/instance-id": "i-0123456789abcdef0",
    "/latest/meta-data/instance-type": "g4dn.xlarge",
    "/latest/meta-data/placement/availability-zone": "us-east-1b",
    "/latest/meta-data/placement/region": "us-east-1",
    "/latest/meta-data/instance-life-cycle": "spot",
}
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


class ImdsServer:
    """What it answers can be changed while it runs."""

    def __init__(self) -> None:
        self.paths = dict(INSTANCE)
        self.tokens: set[str] = set()
        self.issued = 0
        self.requests: list[str] = []
        self.status: int | None = None
        """Instead of any answer to GET."""
        self.hang = 0.0
        """Seconds before each answer."""
        self.garbage: bytes | None = None
        """Instead of HTTP."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_PUT(self) -> None:
                if outer.odd(self):
                    return
                if self.path != "/latest/api/token" or f"{TOKEN}-ttl-seconds" not in self.headers:
                    outer.answer(self, 400)
                    return
                outer.issued += 1
                token = f"token-{outer.issued}"
                outer.tokens.add(token)
                outer.answer(self, 200, token)

            def do_GET(self) -> None:
                if outer.odd(self):
                    return
                if outer.status is not None:
                    outer.answer(self, outer.status)
                elif self.headers.get(TOKEN) not in outer.tokens:
                    outer.answer(self, 401)
                elif self.path in outer.paths:
                    outer.answer(self, 200, outer.paths[self.path])
                else:
                    outer.answer(self, 404)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def odd(self, handler: BaseHTTPRequestHandler) -> bool:
        """Whether it misbehaved."""
        self.requests.append(f"{handler.command} {handler.path}")
        time.sleep(self.hang)
        if self.garbage is not None:
            handler.wfile.write(self.garbage)
            handler.close_connection = True
            return True
        return False

    @staticmethod
    def answer(handler: BaseHTTPRequestHandler, status: int, text: str = "") -> None:
        try:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(text.encode())))
            handler.end_headers()
            handler.wfile.write(text.encode())
        except OSError:
            pass  # whoever asked did not wait


@contextmanager
def imds_server() -> Iterator[ImdsServer]:
    """A running one."""
    fake = ImdsServer()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        fake.server.server_close()
