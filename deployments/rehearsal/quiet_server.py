"""An HTTP server for clients that are killed in the midst of a request: here that is what clients are for."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class QuietServer(ThreadingHTTPServer):
    """Says nothing of connections that break off."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent where the client is gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Served:
    """What is served on a port of this machine from `with` to its end."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], look_seconds: float) -> None:
        self._server = QuietServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": look_seconds}, daemon=True
        )

    @property
    def url(self) -> str:
        """The address, for AWS_ENDPOINT_URL and its like."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
