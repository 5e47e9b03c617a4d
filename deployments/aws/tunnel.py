"""Port forwarding to the control host through SSM: nothing listens on the internet, and no key is needed.

The Session Manager plugin is started as the AWS CLI starts it: the session's token travels in an environment variable, never
among the arguments, which other users of the machine could read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from deployments.aws.account import Account
from deployments.aws.errors import AwsError, boto_errors
from deployments.aws.reach import health
from tasks.corpus.failures import UsageError

PLUGIN = "session-manager-plugin"
DOCUMENT = "AWS-StartPortForwardingSession"
RESPONSE = "AWS_SSM_START_SESSION_RESPONSE"
"""Environment variable that plugins since 1.2.497 read the session from; its name goes as the first argument."""
REMOTE_PORT = 4200
MOST_PORT = 65_535
OPEN_SECONDS = 30.0
INSTALL = (
    "install it (https://docs.aws.amazon.com/systems-manager/latest/userguide/"
    "session-manager-working-with-install-plugin.html)"
)


def command(account: Account, instance: str, local_port: int) -> str:
    """The same by hand, with the AWS CLI. Pure."""
    profile = f" --profile {account.profile}" if account.profile else ""
    return (
        f"aws ssm start-session --target {instance} --document-name {DOCUMENT} "
        f"--parameters portNumber={REMOTE_PORT},localPortNumber={local_port} --region {account.region}{profile}"
    )


def plugin() -> str:
    """Where the plugin is. Raises UsageError."""
    found = shutil.which(PLUGIN)
    if found is None:
        raise UsageError(f"the Session Manager plugin ({PLUGIN}) is not installed: {INSTALL}")
    return found


def refuse_taken(port: int) -> None:
    """Raises UsageError where something listens on the port already, or it is none."""
    if not 1 <= port <= MOST_PORT:
        raise UsageError(f"bad --port {port}: 1 to {MOST_PORT}")
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UsageError(
                f"port {port} of this machine is taken (a local Prefect server?): give another with --port"
            )


@contextlib.contextmanager
def opened(account: Account, instance: str, local_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The plugin's process, forwarding while it lives; it and its session end with the context.

    Raises UsageError (no plugin, port taken), boto3's errors.
    """
    path = plugin()
    refuse_taken(local_port)
    ssm = account.client("ssm")
    parameters: dict[str, Any] = {
        "Target": instance,
        "DocumentName": DOCUMENT,
        "Parameters": {"portNumber": [str(REMOTE_PORT)], "localPortNumber": [str(local_port)]},
    }
    with contextlib.ExitStack() as undo:
        undo.enter_context(_ends_tidily())
        answer = ssm.start_session(**parameters)
        session = {key: answer[key] for key in ("SessionId", "TokenValue", "StreamUrl")}
        undo.callback(_terminate, ssm, session["SessionId"])
        words = [
            path,
            RESPONSE,
            account.region,
            "StartSession",
            account.profile or "",
            json.dumps(parameters),
            ssm.meta.endpoint_url,
        ]
        try:
            process = subprocess.Popen(
                words,
                env={**os.environ, RESPONSE: json.dumps(session)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for us; the plugin ends when we do.
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(f"{path} cannot be started ({error.strerror}): {INSTALL}") from error
        undo.callback(_end, process)
        yield process


def free_port() -> int:
    """A local port that nothing listens on: for whoever does not care which."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _terminate(ssm: Any, session: str) -> None:
    # The session ends with its plugin; that it could not be ended by name must not hide what really went wrong.
    with contextlib.suppress(*boto_errors()):
        ssm.terminate_session(SessionId=session)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    if process.poll() is None:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _ends_tidily() -> Iterator[None]:
    """SIGTERM and the closing of the terminal leave as an exception: else the plugin would stay, and hold its port."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def wait_open(
    process: subprocess.Popen[bytes],
    local_port: int,
    *,
    seconds: float = OPEN_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Until the API answers through the tunnel; returns its address. Raises AwsError."""
    url = f"http://127.0.0.1:{local_port}/api"
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = process.poll()
        if status is not None:
            raise AwsError(f"the tunnel ended (status {status}): is the control host up, and registered with SSM?")
        if health(url) in (200, 401, 403):
            return url
        sleep(0.5)
    raise AwsError(f"nothing answers through the tunnel within {seconds:g} s: is Prefect up on the control host?")
