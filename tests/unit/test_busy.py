"""The local server tries again what SQLite was too busy for."""

from __future__ import annotations

import asyncio
import sqlite3

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from deployments.busy import LARGEST_BODY, Message, Patient, Receive, Send


class Server:
    """Answers busy so many times, then 201 with the body it was given."""

    def __init__(self, busy: int) -> None:
        self.busy = busy
        self.calls = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.calls += 1
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        status = 503 if self.calls <= self.busy else 201
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"busy" if status == 503 else body})
        if status == 503:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))  # as Starlette does


def ask(server: Server, content: bytes | None, method: str = "POST", tries: int = 4) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(Patient(server, tries=tries, pause=0.001), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, "/", content=content)

    return asyncio.run(call())


@pytest.mark.parametrize("busy", [0, 1, 3])
def test_busy_is_tried_again_with_the_same_body(busy: int) -> None:
    server = Server(busy)
    answer = ask(server, b"parameters")
    assert (answer.status_code, answer.content) == (201, b"parameters")
    assert server.calls == busy + 1


def test_a_server_that_stays_busy_says_so_in_the_end() -> None:
    server = Server(99)
    answer = ask(server, b"parameters")
    assert (answer.status_code, answer.content) == (503, b"busy")
    assert server.calls == 4


def test_requests_without_a_body_are_tried_again_too() -> None:
    server = Server(1)
    assert ask(server, None, "GET").status_code == 201


def test_large_bodies_go_through_once() -> None:
    server = Server(1)
    assert ask(server, bytes(LARGEST_BODY + 1)).status_code == 503
    assert server.calls == 1


def test_what_is_no_request_goes_through() -> None:
    seen: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        raise AssertionError("not asked for")

    async def send(message: Message) -> None:
        raise AssertionError("not sent")

    asyncio.run(Patient(app)({"type": "lifespan"}, receive, send))
    assert seen == ["lifespan"]
