"""What `pdf-flows aws ui` has at its other end: Systems Manager, the agent on the control host, what that serves; and a plugin.

The plugin is a program on PATH that takes its request as the real one does (arguments, the session from an environment
variable) and really forwards: connections to the local port go to the session's StreamUrl, where the agent asks for the
session's token before it hands them on to the port of the machine. No tests.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "a-token-of-the-session"
PLUGIN = """#!{python}
import json, os, socket, sys, threading, urllib.parse
called = {{"pid": os.getpid(), "words": sys.argv[1:], "session": os.environ.get(sys.argv[1])}}
with open({record!r} + ".part", "w") as file:
    json.dump(called, file)
os.rename({record!r} + ".part", {record!r})
if sys.argv[3] != "StartSession":
    sys.exit("unknown operation")
session, wanted = json.loads(os.environ[sys.argv[1]]), json.loads(sys.argv[5])["Parameters"]
stream = urllib.parse.urlsplit(session["StreamUrl"])

def carry(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

def watch(control):
    while control.recv(1):
        pass
    os._exit(1)

def connected(what):
    found = socket.create_connection((stream.hostname, stream.port))
    found.sendall((json.dumps({{"TokenValue": session["TokenValue"], "open": what}}) + "\\n").encode())
    return found

threading.Thread(target=watch, args=(connected(None),), daemon=True).start()
port = int(wanted["localPortNumber"][0])
listener = socket.create_server(("127.0.0.1", port))
while True:
    near, _ = listener.accept()
    far = connected(int(wanted["portNumber"][0]))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=carry, args=pair, daemon=True).start()
"""


class SsmWorld:
    """One control host and the service in between.

    Args:
        folder: where the plugin is put; belongs on PATH.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """Operations that Systems Manager was asked for, with their parameters."""
        self.refusal: str | None = None
        """An error code instead of a session."""
        self.starting = False
        """The control host is up, its server takes connections and says nothing yet."""
        self.asked: list[str] = []
        """Paths that the control host's server was asked for."""
        self.record = folder / "called.json"
        self._control: list[socket.socket] = []
        plugin = folder / "session-manager-plugin"
        plugin.write_text(PLUGIN.format(python=sys.executable, record=str(self.record)))
        plugin.chmod(0o755)
        self._served = _http(self._serve)
        self._service = _http(self._answer)
        self._agent = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Of Systems Manager."""
        return f"http://127.0.0.1:{self._service.server_port}"

    @property
    def called(self) -> dict[str, Any]:
        """How the plugin was called."""
        return dict(json.loads(self.record.read_text()))

    def cut(self) -> None:
        """The session ends at its other end."""
        for connection in self._control:
            connection.close()

    def close(self) -> None:
        """All of it."""
        self.cut()
        self._agent.close()
        for server in (self._served, self._service):
            server.shutdown()
            server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        operation = str(handler.headers["X-Amz-Target"]).partition(".")[2]
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.calls.append((operation, asked))
        if operation == "StartSession" and self.refusal is not None:
            reply(handler, 400, json.dumps({"__type": self.refusal, "message": f"{asked['Target']} is not connected."}))
            return
        session = {"SessionId": "ada-0123"}
        if operation == "StartSession":
            session |= {"TokenValue": TOKEN, "StreamUrl": f"ws://127.0.0.1:{self._agent.getsockname()[1]}/v1/data"}
        reply(handler, 200, json.dumps(session))

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        if self.starting:
            return
        known = {"/api/health": "true", "/": "<title>Prefect</title>"}
        reply(handler, 200 if handler.path in known else 404, known.get(handler.path, ""))

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._agent.accept()
                threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        with suppress(OSError), connection.makefile("rb") as lines:
            said = json.loads(lines.readline())
            if said["TokenValue"] != TOKEN or said["open"] not in (None, 4200):
                connection.close()
            elif said["open"] is None:
                self._control.append(connection)
            else:
                near = socket.create_connection(("127.0.0.1", self._served.server_port))
                back = threading.Thread(target=_carry, args=(near, connection), daemon=True)
                back.start()
                while data := lines.read1():
                    near.sendall(data)


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _http(answer: Any) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None: ...

        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def reply(handler: BaseHTTPRequestHandler, status: int, text: str) -> None:
    """An answer."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text.encode())


@contextmanager
def ssm_world(folder: Path) -> Iterator[SsmWorld]:
    """A running one."""
    world = SsmWorld(folder)
    try:
        yield world
    finally:
        world.close()
