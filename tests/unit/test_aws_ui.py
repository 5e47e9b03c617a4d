"""`pdf-flows aws ui` from end to end: a process of its own, a plugin that forwards, a stack on moto (tests/unit/ssm_world.py)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aws_kit import REGION, Cloud, own_account
from conftest import MotoS3
from ssm_world import TOKEN, SsmWorld, ssm_world

from deployments.aws.tunnel import INSTALL

ROOT = Path(__file__).resolve().parents[2]
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:pdf-flows-api"
STACK = f"""
AWSTemplateFormatVersion: "2010-09-09"
Parameters:
  ProjectName: {{Type: String, Default: pdf-flows}}
Resources:
  Topic: {{Type: AWS::SNS::Topic, Properties: {{TopicName: any}}}}
Outputs:
  ControlInstanceId: {{Value: i-0123456789abcdef0}}
  ApiAuthSecretArn: {{Value: "{SECRET}"}}
"""


@pytest.fixture
def cloud(moto_s3: MotoS3) -> Iterator[Cloud]:
    """An account whose stack has a control host."""
    with own_account() as found:
        found.client("cloudformation").create_stack(StackName="pdf-flows", TemplateBody=STACK, Tags=found.account.tags)
        yield found


@pytest.fixture
def world(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SsmWorld]:
    with ssm_world(tmp_path) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSM", found.url)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        yield found


def as_in_a_terminal() -> None:
    """What a shell starts in the background, or nohup, ignores some signals, and so would whatever that starts."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def ui() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `pdf-flows aws ui ...`, as a terminal does: in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        # As users have it: what goes into a pipe is held back unless the command says otherwise.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "deployments.cli", "aws", "ui", *words],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=as_in_a_terminal,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def opened(process: subprocess.Popen[str], port: int) -> str:
    """What it said until it said the address."""
    assert process.stdout is not None and process.stderr is not None
    said = ""
    for line in process.stdout:
        said += line
        if line == f"Prefect UI: http://127.0.0.1:{port} (Ctrl-C ends)\n":
            return said
    raise AssertionError(said + process.stderr.read())


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 0),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_the_port_leads_to_the_control_host_until_it_is_ended(
    world: SsmWorld, ui: Callable[..., subprocess.Popen[str]], number: signal.Signals, status: int
) -> None:
    port = free_port()
    process = ui("--port", str(port))
    said = opened(process, port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        assert answer.read() == b"<title>Prefect</title>", "of the control host"
    assert world.asked == ["/api/health", "/"]
    assert world.calls == [
        (
            "StartSession",
            {
                "Target": "i-0123456789abcdef0",
                "DocumentName": "AWS-StartPortForwardingSession",
                "Parameters": {"portNumber": ["4200"], "localPortNumber": [str(port)]},
            },
        )
    ]
    plugin = world.called["pid"]
    # Others on this machine see the arguments of all processes.
    seen = command_line(plugin) + command_line(process.pid)
    assert "StartSession" in seen and TOKEN not in seen
    assert TOKEN in world.called["session"], "it has to be somewhere"
    assert f"--target i-0123456789abcdef0 --document-name AWS-StartPortForwardingSession --parameters portNumber=4200,localPortNumber={port} --region {REGION}" in said  # fmt: skip  # noqa: E501
    assert f"--secret-id {SECRET}" in said

    os.killpg(process.pid, number)
    rest, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (status, "")
    assert TOKEN not in said + rest
    assert ended(plugin)
    assert world.calls[1:] == [("TerminateSession", {"SessionId": "ada-0123"})]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_a_session_that_ends_at_its_other_end_is_told(
    world: SsmWorld, ui: Callable[..., subprocess.Popen[str]]
) -> None:
    port = free_port()
    process = ui("--port", str(port))
    opened(process, port)
    world.cut()
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, "the tunnel was closed at its other end\n")
    assert [operation for operation, _ in world.calls] == ["StartSession", "TerminateSession"]


@pytest.mark.slow
def test_a_dry_run_says_how_by_hand_and_opens_nothing(
    world: SsmWorld, ui: Callable[..., subprocess.Popen[str]]
) -> None:
    out, err = (process := ui("--dry-run")).communicate(timeout=20)
    assert (process.returncode, err, world.calls) == (0, "", [])
    assert out.startswith("by hand: aws ssm start-session --target i-0123456789abcdef0 ")


@pytest.mark.parametrize("plugin", ["missing", "no program"])
def test_without_a_plugin_no_session_is_left_open(
    world: SsmWorld, ui: Callable[..., subprocess.Popen[str]], plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plugin == "missing":
        monkeypatch.setenv("PATH", "/nonexistent")
        words = f"the Session Manager plugin (session-manager-plugin) is not installed: {INSTALL}"
    else:
        (path := world.folder / "session-manager-plugin").write_bytes(b"\x7fELF of another machine")
        words = f"{path} cannot be started (Exec format error): {INSTALL}"
    out, err = (process := ui("--port", str(free_port()))).communicate(timeout=20)
    assert (process.returncode, err) == (2, f"pdf-flows: {words}\n")
    assert "Prefect UI:" not in out
    operations = [operation for operation, _ in world.calls]
    assert operations == ([] if plugin == "missing" else ["StartSession", "TerminateSession"])


@pytest.mark.slow
def test_what_keeps_it_from_opening_is_one_line(world: SsmWorld, ui: Callable[..., subprocess.Popen[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, err = (process := ui("--port", str(port))).communicate(timeout=20)
        assert (process.returncode, world.calls) == (2, [])
        assert err == f"pdf-flows: port {port} of this machine is taken (a local Prefect server?): give another with --port\n"  # fmt: skip  # noqa: E501
    world.refusal = "TargetNotConnected"
    _, err = (process := ui("--port", str(free_port()))).communicate(timeout=20)
    assert (process.returncode, err) == (
        3,
        "pdf-flows: AWS refused StartSession (TargetNotConnected): i-0123456789abcdef0 is not connected: the machine is off, "
        "or still starting: `pdf-flows aws status` shows it, and in a minute it may answer\n",
    )


@pytest.mark.slow
def test_ctrl_c_while_it_still_opens_leaves_nothing(world: SsmWorld, ui: Callable[..., subprocess.Popen[str]]) -> None:
    world.starting = True
    process = ui("--port", str(free_port()))
    until = time.monotonic() + 20
    while not world.asked:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    plugin = world.called["pid"]
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (3, "pdf-flows: interrupted; run the same command again to go on\n")
    assert ended(plugin)
    assert [operation for operation, _ in world.calls] == ["StartSession", "TerminateSession"]
