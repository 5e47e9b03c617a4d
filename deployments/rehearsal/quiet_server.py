"""An HTTP server for clients that are killed in the midst of a request: here that is what clients are for."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """Says nothing of connections that break off."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent where the client is gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
