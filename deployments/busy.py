"""The local server's patience: what SQLite was too busy for is tried again inside the server.

Prefect answers 503 when a transaction that began by reading finds that another has written since (SQLITE_BUSY_SNAPSHOT),
having rolled it back. Its Python clients try again; its UI does not: on a loaded machine up to half of the forms that start
a run ended in "Something went wrong".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

BUSY = 503
TRIES = 8
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
LARGEST_BODY = 1 << 20
"""Bytes of a request that are kept for another try; larger ones go through once."""


def create_app() -> App:
    """Prefect's server, patient. For uvicorn."""
    from prefect.server.api.server import create_app as create_prefect

    return Patient(create_prefect())


class Patient:
    """An ASGI application that tries another one again while that answers 503. The last answer goes out, whatever it is."""

    def __init__(self, app: App, tries: int = TRIES, pause: float = FIRST_PAUSE_SECONDS) -> None:
        self._app = app
        self._tries = tries
        self._pause = pause

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not _is_small(scope):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return  # the client left before it had said all
        for left in reversed(range(self._tries)):
            answer = _Answer(send, held_back=left > 0)
            try:
                await self._app(dict(scope), _Replay(body, receive), answer)
            except SQLAlchemyError:
                # Starlette raises what it has answered, for the server's log.
                if not answer.was_busy:
                    raise
            if not answer.was_busy:
                return
            pause = min(LONGEST_PAUSE_SECONDS, self._pause * 2 ** (self._tries - 1 - left))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


class _Answer:
    """Passes an answer on, unless it says busy and is held back."""

    def __init__(self, send: Send, *, held_back: bool) -> None:
        self._send = send
        self._held_back = held_back
        self.was_busy = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == BUSY and self._held_back:
            self.was_busy = True
        if not self.was_busy:
            await self._send(message)


class _Replay:
    """A request's body once more, and then what the client does."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _is_small(scope: Message) -> bool:
    headers: dict[bytes, bytes] = dict(scope.get("headers", []))
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" not in headers and length.isdigit() and int(length) <= LARGEST_BODY


async def _read(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
