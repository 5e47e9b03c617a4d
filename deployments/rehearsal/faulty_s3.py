"""A proxy before an S3 server that fails as S3 and networks do: 500s, SlowDown, lost responses, torn bodies, outages."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from deployments.rehearsal.quiet_server import Served

HOP = frozenset({"connection", "expect", "transfer-encoding", "content-length", "keep-alive", "server", "date"})


class FaultyS3(Served):
    """Forwards HTTP requests to `upstream_url` and breaks some of them, drawn from `seed` in order of arrival.

    Rates are shares of the requests and may be changed at any time:

    - `error_rate`: answered 500 InternalError, not forwarded;
    - `slowdown_rate`: answered 503 SlowDown, not forwarded;
    - `lost_response_rate`: forwarded, then the connection is closed without a word;
    - `torn_body_rate`: forwarded, then half of the body is sent (GET only);
    - `slow_rate`: forwarded and answered, `slow_seconds` later.

    `delay` is what every request takes longer, seconds. `unconditional`: If-None-Match is not passed on.

    `counts` says how many requests met which fate ("passed" for none).
    """

    def __init__(
        self,
        upstream_url: str,
        seed: int = 0,
        error_rate: float = 0.0,
        slowdown_rate: float = 0.0,
        lost_response_rate: float = 0.0,
        torn_body_rate: float = 0.0,
        delay: float = 0.0,
        slow_rate: float = 0.0,
        slow_seconds: float = 1.0,
    ) -> None:
        self.upstream = urlsplit(upstream_url)
        self.error_rate = error_rate
        self.slowdown_rate = slowdown_rate
        self.lost_response_rate = lost_response_rate
        self.torn_body_rate = torn_body_rate
        self.delay = delay
        self.slow_rate = slow_rate
        self.slow_seconds = slow_seconds
        self.unconditional = False
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._lock = threading.Lock()
        self._next: list[tuple[str, str]] = []
        self._refusal: tuple[int, str] | None = None
        self._out = threading.Event()
        owner = self

        class Handler(_Handler):
            faulty = owner

        super().__init__(Handler, 0.05)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """While it lasts, every connection is closed without an answer and nothing is forwarded."""
        self._out.set()
        try:
            yield
        finally:
            self._out.clear()

    @contextmanager
    def refusing(self, status: int, code: str) -> Iterator[None]:
        """While it lasts, every request is answered with this S3 error and nothing is forwarded."""
        self._refusal = (status, code)
        try:
            yield
        finally:
            self._refusal = None

    def hit_next(self, method: str, fate: str) -> None:
        """The next request of this method meets this fate: "error", "slowdown", "lost", "torn" or "conflict"."""
        with self._lock:
            self._next.append((method, fate))

    def draw(self, method: str) -> str:
        """The fate of a request that has just arrived."""
        with self._lock:
            fate = self._draw(method)
            self.counts[fate] += 1
            return fate

    def refusal(self) -> tuple[int, str]:
        """Status and S3 error code of `refusing`."""
        return self._refusal or (500, "InternalError")

    def _draw(self, method: str) -> str:
        if self._out.is_set():
            return "outage"
        if self._refusal is not None:
            return "refused"
        for i, (wanted, fate) in enumerate(self._next):
            if wanted == method:
                del self._next[i]
                return fate
        roll = self._random.random()
        for fate, rate in (
            ("error", self.error_rate),
            ("slowdown", self.slowdown_rate),
            ("lost", self.lost_response_rate),
            ("torn", self.torn_body_rate if method == "GET" else 0.0),
            ("slow", self.slow_rate),
        ):
            if roll < rate:
                return fate
            roll -= rate
        return "passed"


def failing(upstream_url: str, share: float) -> FaultyS3:
    """One in which so many of the requests meet one fate or another."""
    return FaultyS3(
        upstream_url,
        error_rate=0.35 * share,
        slowdown_rate=0.35 * share,
        lost_response_rate=0.2 * share,
        torn_body_rate=0.1 * share,
    )


class _Handler(BaseHTTPRequestHandler):
    """One client connection; it holds one connection to the upstream."""

    faulty: FaultyS3
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.onward = http.client.HTTPConnection(
            self.faulty.upstream.hostname or "", self.faulty.upstream.port, timeout=60
        )

    def finish(self) -> None:
        self.onward.close()
        super().finish()

    def handle_any(self) -> None:
        body = self._body()
        if body is None:
            # Its client was killed while it sent: S3 takes nothing of that either.
            self.close_connection = True
            return
        if self.faulty.delay:
            time.sleep(self.faulty.delay)
        match self.faulty.draw(self.command):
            case "outage":
                self.close_connection = True
            case "error":
                self._refuse(500, "InternalError")
            case "slowdown":
                self._refuse(503, "SlowDown")
            case "conflict":
                self._refuse(409, "ConditionalRequestConflict")
            case "refused":
                self._refuse(*self.faulty.refusal())
            case "lost":
                self._forward(body)
                self.close_connection = True
            case "slow":
                time.sleep(self.faulty.slow_seconds)
                self._answer(*self._forward(body), torn=False)
            case fate:
                self._answer(*self._forward(body), torn=fate == "torn")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def _body(self) -> bytes | None:
        """None where it breaks off."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length") or 0)
            whole = self.rfile.read(length)
            return whole if len(whole) == length else None
        parts = []
        while True:
            line = self.rfile.readline()
            if not line.endswith(b"\n"):
                return None
            if not (size := int(line.split(b";")[0], 16)):
                break
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        for again in (True, False):
            try:
                self.onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    left_out = self.faulty.unconditional and name.lower() == "if-none-match"
                    if name.lower() not in HOP and not left_out:
                        self.onward.putheader(name, value)
                self.onward.putheader("Content-Length", str(len(body)))
                self.onward.endheaders(body)
                response = self.onward.getresponse()
                return response, response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # The upstream closed an idle connection: nothing of this request was taken.
                self.onward.close()
                if not again:
                    raise
        raise AssertionError("unreachable")

    def _answer(self, response: http.client.HTTPResponse, content: bytes, *, torn: bool) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if response.status != 204:
            self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if torn else content)
        self.close_connection = self.close_connection or torn

    def _refuse(self, status: int, code: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silent: `counts` tells."""
