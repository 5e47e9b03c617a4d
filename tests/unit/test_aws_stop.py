"""`pdf-flows aws stop`: the order of things; and the tunnel to the control host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from aws_kit import REGION, Cloud, call, own_account, stubbed
from conftest import MotoS3

from deployments.aws import ecs_tasks, stop, tunnel, up
from deployments.aws.account import Account
from deployments.aws.connection import Connection, connected
from deployments.aws.errors import AwsError
from deployments.aws.orchestration import PrefectApi, Run
from deployments.aws.stack import Stack
from deployments.aws.steps import Steps
from tasks.corpus.failures import UsageError

QUICK = stop.Patience(drain=0.0, cancel=0.0, gone=0.0, poll=0.0)


@pytest.fixture
def cloud(moto_s3: MotoS3) -> Iterator[Cloud]:
    with own_account() as found:
        yield found


class World:
    """Prefect, ECS, Auto Scaling and EC2 in one list of what was done, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.runs = [
            Run(id=uuid4(), name="parent", flow="convert-corpus", state="Running"),
            Run(id=uuid4(), name="worker-0", flow="convert-partition", state="Running"),
        ]
        self.tasks = ["arn:t/waits", "arn:t/runs"]
        self.desired = 2
        self.protected = True
        self.instances = {"i-1": "running", "i-2": "running"}

    # Prefect
    url = "http://prefect/api"

    def pause(self, pool: str, paused: bool) -> bool:
        self.done.append(f"pause {pool}")
        return True

    def living(self) -> list[Run]:
        return self.runs

    def cancel(self, runs: Sequence[Run]) -> None:
        self.done += [f"cancel {run.name}" for run in runs]
        # The parent ends; its worker is one that hangs.
        self.runs = [run for run in self.runs if run not in runs]

    def client(self, service: str) -> Any:
        return Service(self, service)


class Service:
    """A client of the world."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name

    def get_paginator(self, operation: str) -> Any:
        answer = {
            "list_tasks": {"taskArns": self.world.tasks},
            "list_container_instances": {"containerInstanceArns": ["arn:ci/1"]},
            "describe_auto_scaling_groups": {
                "AutoScalingGroups": [
                    {
                        "AutoScalingGroupName": "spot",
                        "DesiredCapacity": self.world.desired,
                        "MinSize": 0,
                        "MaxSize": 5,
                        "Instances": [
                            {"InstanceId": i, "ProtectedFromScaleIn": self.world.protected} for i in ("i-1", "i-2")
                        ],
                    }
                ]
            },
            "describe_instances": {
                "Reservations": [
                    {
                        "Instances": [
                            {
                                "InstanceId": id,
                                "InstanceType": "g4dn.xlarge",
                                "State": {"Name": state},
                                "LaunchTime": datetime(2026, 11, 25, tzinfo=UTC),
                            }
                            for id, state in self.world.instances.items()
                            if state != "terminated"
                        ]
                    }
                ]
            },
        }[operation]

        class Pages:
            def paginate(self, **asked: Any) -> list[Any]:
                return [answer]

        return Pages()

    def __getattr__(self, operation: str) -> Any:
        def act(**asked: Any) -> Any:
            if operation == "describe_tasks":
                return {
                    "tasks": [
                        {
                            "taskArn": arn,
                            "lastStatus": "RUNNING",
                            **({"containerInstanceArn": "c"} if "runs" in arn else {}),
                        }
                        for arn in asked["tasks"]
                    ]
                }
            if operation == "terminate_instances":
                self.world.instances |= dict.fromkeys(asked["InstanceIds"], "terminated")
            if operation == "stop_task":
                asked = {"task": asked["task"]}
            self.world.done.append(f"{operation} {' '.join(str(v) for v in asked.values())}")
            return {}

        return act


def test_in_that_order() -> None:
    world = World()
    account = Account(region=REGION, clients={n: world.client(n) for n in ("ecs", "ec2", "autoscaling")})
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE", outputs={"ClusterName": "c"})
    found = stop.stop(
        account, stack, world, Steps(tell=lambda text: None), pool="gpu", patience=QUICK, sleep=lambda s: None
    )
    assert world.done == [
        "pause gpu",
        "update_container_instances_state c ['arn:ci/1'] DRAINING",
        "cancel parent",
        "cancel worker-0",
        # The one that waits for a machine first, or managed scaling would ask for one.
        "stop_task arn:t/waits",
        "stop_task arn:t/runs",
        "set_instance_protection spot ['i-1', 'i-2'] False",
        "update_auto_scaling_group spot 0 0",
        "terminate_instances ['i-1', 'i-2']",
    ]
    assert found == stop.Stopped()


def test_a_dry_run_does_none_of_it() -> None:
    world = World()
    account = Account(region=REGION, clients={n: world.client(n) for n in ("ecs", "ec2", "autoscaling")})
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE", outputs={"ClusterName": "c"})
    said: list[str] = []
    stop.stop(account, stack, world, Steps(dry_run=True, tell=said.append), pool="gpu", patience=QUICK)
    assert world.done == []
    assert said == [
        "would pause the work pool gpu",
        "would close the machines of c to new tasks",
        "would drain: cancel the parents that run, wait up to 0 s for workers",
        "would cancel the flow runs that are left",
        "would stop the tasks of c",
        "would take off scale-in protection in spot",
        "would scale spot to zero",
        "would terminate 2 instances (i-1, i-2)",
    ]


def test_tasks_of_a_cluster_that_is_not_there(cloud: Cloud) -> None:
    assert ecs_tasks.find(cloud.account, "none") == []
    assert ecs_tasks.close_machines(cloud.account, "none") == "0 machines take no new tasks"
    for operation in ("list_tasks", "list_container_instances"):
        with stubbed("ecs", (operation, "ClusterNotFoundException", None)) as ecs:
            account = Account(region=REGION, clients={"ecs": ecs})
            if operation == "list_tasks":
                assert ecs_tasks.find(account, "none") == []
            else:
                assert ecs_tasks.close_machines(account, "none") == "no cluster"


def test_a_task_that_ended_by_itself_is_no_trouble() -> None:
    with stubbed("ecs", ("stop_task", "InvalidParameterException", None)) as ecs:
        account = Account(region=REGION, clients={"ecs": ecs})
        task = ecs_tasks.Task(arn="arn:t", status="RUNNING")
        assert ecs_tasks.stop(account, "c", [task], "why") == "0 stopped"


# ------------------------------------------------------------------------------------------------------------------- tunnel

PLUGIN = """#!{python}
import http.server, json, os, sys
open({record!r}, "w").write(json.dumps([sys.argv[1:], os.environ["AWS_SSM_START_SESSION_RESPONSE"]]))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"true")
    def log_message(self, *words):
        pass
port = int(json.loads(sys.argv[5])["Parameters"]["localPortNumber"][0])
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Session Manager plugin that serves an API itself; returns where it writes how it was called."""
    record = tmp_path / "called"
    path = tmp_path / "session-manager-plugin"
    path.write_text(PLUGIN.format(python=sys.executable, record=str(record)))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return record


def session() -> list[tuple[str, Any, dict[str, Any] | None]]:
    answer = {"SessionId": "ada-1", "TokenValue": "a-token-of-the-session", "StreamUrl": "wss://x"}
    return [("start_session", answer, None), ("terminate_session", {"SessionId": "ada-1"}, None)]


def test_tunnel_is_opened_and_closed_and_its_token_is_no_argument(plugin: Path) -> None:
    port = free_port()
    with stubbed("ssm", *session()) as ssm:
        account = Account(region=REGION, clients={"ssm": ssm})
        with tunnel.opened(account, "i-1", port) as process:
            assert tunnel.wait_open(process, port) == f"http://127.0.0.1:{port}/api"
        assert process.poll() is not None
    words, response = json.loads(plugin.read_text())
    assert words[:4] == ["AWS_SSM_START_SESSION_RESPONSE", REGION, "StartSession", ""]
    assert json.loads(words[4])["Target"] == "i-1"
    assert "a-token-of-the-session" not in " ".join(words)
    assert json.loads(response)["TokenValue"] == "a-token-of-the-session"


def test_connection_through_the_control_host_brings_its_secret(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr("deployments.aws.connection.LOCAL_PORT", port)
    monkeypatch.setattr("deployments.aws.connection.configured_api", lambda: None)
    outputs = {"ControlInstanceId": "i-1", "ApiAuthSecretArn": "arn:aws:secretsmanager:x"}
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE", outputs=outputs)
    secret = ("get_secret_value", {"SecretString": "who:what"}, {"SecretId": "arn:aws:secretsmanager:x"})
    with stubbed("ssm", *session()) as ssm, stubbed("secretsmanager", secret) as secrets:
        account = Account(region=REGION, clients={"ssm": ssm, "secretsmanager": secrets})
        with connected(account, stack) as found:
            assert isinstance(found, Connection)
            assert found.environment() == {
                "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
                "PREFECT_API_AUTH_STRING": "who:what",
            }


def test_without_the_plugin_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsageError) as raised:
        tunnel.plugin()
    assert str(raised.value).startswith(
        "the Session Manager plugin (session-manager-plugin) is not installed: install it (https://"
    )
    monkeypatch.setattr("deployments.aws.connection.configured_api", lambda: None)
    stack = Stack(name="p", id="arn:s", status="CREATE_COMPLETE", outputs={"ControlInstanceId": "i-1"})
    with connected(Account(region=REGION), stack) as found:
        assert isinstance(found, str)
        assert "no Prefect API is set, and the control host's is out of reach: the Session Manager plugin" in found


def test_port_that_is_taken_and_tunnel_that_ends(plugin: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(UsageError, match="is taken"),
            tunnel.opened(Account(region=REGION), "i-1", taken.getsockname()[1]),
        ):
            pass
    ended = subprocess.Popen(["false"])
    ended.wait()
    with pytest.raises(AwsError, match=r"the tunnel ended \(status 1\): is the control host up"):
        tunnel.wait_open(ended, free_port())


def test_command_by_hand() -> None:
    assert tunnel.command(Account(region=REGION, profile=None), "i-1", 4200) == (
        "aws ssm start-session --target i-1 --document-name AWS-StartPortForwardingSession "
        "--parameters portNumber=4200,localPortNumber=4200 --region us-east-1"
    )


def test_ui_without_a_stack(cloud: Cloud) -> None:
    with pytest.raises(UsageError, match="there is no stack pdf-flows in us-east-1: pdf-flows aws up makes it"):
        call("ui")


# ------------------------------------------------------------------------------------------------------ Prefect, as it answers


def test_an_api_that_is_no_api_is_one_line() -> None:
    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(418)
            self.end_headers()

        do_POST = do_PATCH = do_GET

        def log_message(self, *words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(AwsError, match="does not do what it is asked") as raised:
            PrefectApi(f"http://127.0.0.1:{server.server_port}/api").living()
        assert "\n" not in str(raised.value)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_pause_find_and_cancel_on_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real Prefect server: the pool is paused and resumed, the flow runs are found by flow and cancelled."""
    from deployments.server import PrefectServer, ServerSettings

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with PrefectServer.obtain(ServerSettings(home=tmp_path / "home", server_linger=0.0)) as server:
        url = f"{server.ui_url}/api"
        api = PrefectApi(url)
        with httpx.Client(base_url=url, timeout=30) as http:
            assert api.pause("gpu", True) is False
            http.post("/work_pools/", json={"name": "gpu", "type": "process"}).raise_for_status()
            assert api.pause("gpu", True)
            assert http.get("/work_pools/gpu").json()["is_paused"] is True
            assert api.pause("gpu", False)
            assert http.get("/work_pools/gpu").json()["is_paused"] is False
            made: dict[str, UUID] = {}
            for flow in ("convert-corpus", "convert-partition", "another"):
                flow_id = http.post("/flows/", json={"name": flow}).json()["id"]
                answer = http.post("/flow_runs/", json={"flow_id": flow_id, "state": {"type": "RUNNING"}})
                made[flow] = UUID(answer.json()["id"])
            found = api.living()
            assert {run.id for run in found} == {made["convert-corpus"], made["convert-partition"]}
            assert [run.parent for run in found] == [True, False]
            api.cancel(found)
            states = {f: http.get(f"/flow_runs/{id}").json()["state"]["type"] for f, id in made.items()}
            assert states == {"convert-corpus": "CANCELLING", "convert-partition": "CANCELLING", "another": "RUNNING"}
            # `up`: its steps get the API, and the pool that `stop` paused starts workers again.
            assert api.pause("gpu", True)
            asked: list[str] = []
            deploy = [up.Deploy(what="make the work pool", action=lambda a, s, c: asked.append(c.url) or "made")]
            stack, notes = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE"), []
            account = Account(region=REGION)
            up._deploy(account, stack, Steps(tell=lambda text: None), deploy, url, "gpu", notes)
            assert (asked, notes) == ([url], [])
            assert http.get("/work_pools/gpu").json()["is_paused"] is False


def test_up_does_what_needs_prefect_only_where_it_answers(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.aws.connection.configured_api", lambda: None)
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE")
    asked: list[str] = []
    deploy = [up.Deploy(what="make the work pool", action=lambda a, s, c: asked.append(c.url) or "made")]
    notes: list[str] = []
    up._deploy(cloud.account, stack, Steps(tell=lambda text: None), deploy, None, "gpu", notes)
    assert asked == []
    assert notes == [
        "not done: make the work pool: no Prefect API is set: set PREFECT_API_URL, or give --api-url; then pdf-flows aws up again"
    ]
    # With a control host, but without the image that it runs, nothing can answer.
    outputs = {
        "ControlInstanceId": "i-1",
        "RepositoryUri": f"{cloud.number}.dkr.ecr.us-east-1.amazonaws.com/pdf-flows/worker",
    }
    notes = []
    waiting = stack.model_copy(update={"outputs": outputs})
    up._deploy(cloud.account, waiting, Steps(tell=lambda text: None), deploy, None, "gpu", notes)
    assert notes[0].startswith("not done: make the work pool: there is no image ")
    assert "build it (--build), or name one (--image)" in notes[0]
