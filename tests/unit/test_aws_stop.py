"""`pdf-flows aws stop`: the order of things; and the tunnel to the control host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from aws_kit import REGION, Cloud, call, own_account, stubbed, template
from conftest import MotoS3

from deployments.aws import ecs_tasks, scale_in, stop, tunnel, up
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

    def cancel(self, runs: Sequence[Run]) -> list[str]:
        self.done += [f"cancel {run.name}" for run in runs]
        # The parent ends; its worker is one that hangs.
        self.runs = [run for run in self.runs if run not in runs]
        return []

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


# --------------------------------------------------------------------------------------------------------- something that answers


class FakeApi:
    """An HTTP server that says that it is well, and for the rest what `answer` says: status and body by method and path."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str, str], tuple[int, str]] = lambda method, path: (200, "[]")


@contextmanager
def fake_api() -> Iterator[FakeApi]:
    found = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            known = {"/api/health": (200, "true"), "/api/csrf-token": (404, "{}")}
            path = self.path.partition("?")[0]
            if path not in known:
                found.asked.append((self.command, path))
            status, body = known.get(path) or found.answer(self.command, path)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_PATCH = do_GET

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/api"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


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
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    # This machine's, of another server.
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "another:one")
    outputs = {"ControlInstanceId": "i-1", "ApiAuthSecretArn": "arn:aws:secretsmanager:x"}
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE", outputs=outputs)
    secret = ("get_secret_value", {"SecretString": "who:what"}, {"SecretId": "arn:aws:secretsmanager:x"})
    with stubbed("ssm", *session()) as ssm, stubbed("secretsmanager", secret) as secrets:
        account = Account(region=REGION, clients={"ssm": ssm, "secretsmanager": secrets})
        with connected(account, stack) as found:
            assert isinstance(found, Connection)
            words, _ = json.loads(plugin.read_text())
            port = json.loads(words[4])["Parameters"]["localPortNumber"][0]
            assert found.environment() == {
                "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
                "PREFECT_API_AUTH_STRING": "who:what",
            }
            assert found.of_stack


def test_without_the_plugin_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsageError) as raised:
        tunnel.plugin()
    assert str(raised.value).startswith(
        "the Session Manager plugin (session-manager-plugin) is not installed: install it (https://"
    )
    stack = Stack(name="p", id="arn:s", status="CREATE_COMPLETE", outputs={"ControlInstanceId": "i-1"})
    with connected(Account(region=REGION), stack) as found:
        assert isinstance(found, str)
        assert found.startswith("the control host's API is out of reach: the Session Manager plugin")


def test_a_session_that_cannot_be_ended_hides_nothing(plugin: Path) -> None:
    answers = [session()[0], ("terminate_session", "InternalServerError", None)]
    with stubbed("ssm", *answers) as ssm:
        account = Account(region=REGION, clients={"ssm": ssm})
        with pytest.raises(AwsError, match="the real one"), tunnel.opened(account, "i-1", free_port()):
            raise AwsError("the real one")


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as found:
        yield found


def test_the_stacks_own_prefect_goes_before_this_machines(
    plugin: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On most machines Prefect's settings name the local server of `pdf-flows up`, where a pool of the same name is."""
    monkeypatch.setenv("PREFECT_API_URL", api.url)
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE")
    account = Account(region=REGION)
    control = {"ControlInstanceId": "i-1", "PrefectApiUrl": "http://10.42.0.9:4200/api"}
    with stubbed("ssm", *session()) as ssm:
        through = Account(region=REGION, clients={"ssm": ssm})
        with connected(through, stack.model_copy(update={"outputs": control})) as found:
            assert isinstance(found, Connection)
            assert (found.url != api.url, found.of_stack) == (True, True)
    # That of this machine is used where it is the stack's, and where it is named.
    for own in (api.url, f"{api.url}/"):
        with connected(account, stack.model_copy(update={"outputs": {**control, "PrefectApiUrl": own}})) as found:
            assert found == Connection(url=api.url, of_stack=True)
    with connected(account, stack.model_copy(update={"outputs": control}), api.url) as found:
        assert found == Connection(url=api.url, of_stack=False)
    elsewhere = {"PrefectApiUrl": "https://api.prefect.example/api"}
    with connected(account, stack.model_copy(update={"outputs": elsewhere})) as found:
        assert found == (
            f"the stack's Prefect API https://api.prefect.example/api does not answer from here, and {api.url} "
            "(PREFECT_API_URL) is another: give --api-url if this machine reaches it elsewhere"
        )
    # Without a control host the one that the stack names needs no setting here.
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with connected(account, stack.model_copy(update={"outputs": {"PrefectApiUrl": api.url}})) as found:
        assert found == Connection(url=api.url, of_stack=True)
    # Without a stack there is none that could be asked to stop.
    for none in (None, stack):
        with connected(account, none) as found:
            assert found is None


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


@pytest.mark.parametrize(
    ("status", "body"), [(418, ""), (401, '{"detail": "no"}'), (200, "{}"), (200, "null"), (200, '["x"]'), (200, "<p>")]
)
def test_an_api_that_is_no_api_is_one_line(api: FakeApi, status: int, body: str) -> None:
    api.answer = lambda method, path: (status, body)
    with pytest.raises(AwsError, match="does not do what it is asked") as raised:
        PrefectApi(api.url).living()
    assert "\n" not in str(raised.value)


def test_one_flow_run_that_cannot_be_cancelled_keeps_no_other(api: FakeApi) -> None:
    runs = [Run(id=uuid4(), name=name, flow="convert-partition", state="Running") for name in ("a", "b\x1b", "c", "d")]

    def answer(method: str, path: str) -> tuple[int, str]:
        if str(runs[1].id) in path:
            return 409, '{"detail": "no"}'
        if str(runs[2].id) in path:
            return 404, '{"detail": "not found"}'
        return 201, json.dumps({"state": None, "status": "ACCEPT", "details": {"type": "accept_details"}})

    api.answer = answer
    (refused,) = PrefectApi(api.url).cancel(runs)
    assert refused.startswith("b\\x1b (Client error '409 Conflict'")
    assert [sum(str(run.id) in path for _, path in api.asked) for run in runs] == [1, 1, 1, 1]


@pytest.fixture
def fleet(cloud: Cloud, tmp_path: Path) -> list[str]:
    """A stack with a fleet of two; the command's words before its name are none."""
    path = tmp_path / "template.yaml"
    path.write_text(template(cloud))
    vpc, subnets = cloud.network()
    words = ["--template", str(path), "--vpc", vpc, "--subnets", ",".join(subnets), "--no-deployments"]
    assert call("up", *words, "--workers", "2") == 0
    cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName="pdf-flows-spot", DesiredCapacity=2)
    return words


def closed(cloud: Cloud) -> bool:
    (group,) = scale_in.find_groups(cloud.account)
    return (group.desired, group.maximum) == (0, 0)


@pytest.mark.parametrize("mode", ["refuses all", "another shape", "dies in the middle"])
@pytest.mark.parametrize("command", ["stop", "down"])
def test_a_prefect_that_fails_keeps_no_machine_running(
    cloud: Cloud, fleet: list[str], api: FakeApi, mode: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers /health, and then not as Prefect does."""

    def answer(method: str, path: str) -> tuple[int, str]:
        if mode == "refuses all":
            return 401, '{"detail": "Unauthorized"}'
        if mode == "another shape":
            return 200, '{"items": []}'
        if method == "PATCH":
            return 204, ""
        return 500, ""

    api.answer = answer
    capsys.readouterr()
    assert call(command, "--api-url", api.url) == 1
    out, err = capsys.readouterr()
    assert f"flow runs were not cancelled: the Prefect API at {api.url} does not do what it is asked" in err
    assert out.splitlines()[-1] == "still running: nothing, $0.00/h"
    assert set(cloud.states().values()) == {"terminated"}
    if command == "stop":
        assert closed(cloud)
    else:
        assert scale_in.find_groups(cloud.account) == []


def test_where_the_api_is_not_proven_the_stacks_the_groups_are_closed_too(
    cloud: Cloud, fleet: list[str], api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answer = lambda method, path: (204, "") if method == "PATCH" else (200, "[]")
    assert call("stop", "--api-url", api.url) == 0
    assert f"nothing says that {api.url} is the stack's Prefect" in capsys.readouterr().err
    assert closed(cloud)
    # And where it is: this machine's settings name what the stack names.
    assert call("up", *fleet, "--no-control-host", "--api-url", api.url) == 0
    monkeypatch.setenv("PREFECT_API_URL", api.url)
    assert call("stop") == 0
    assert scale_in.find_groups(cloud.account)[0].maximum == 2
    assert ("PATCH", "/api/work_pools/pdf-flows-workers") in api.asked


def test_the_control_host_is_spared_before_the_stack_tells_of_it(cloud: Cloud) -> None:
    """During the first `up` there are no outputs yet; without a stack it is a machine that is left."""
    (control,), (worker,) = cloud.run(Name="pdf-flows-control"), cloud.run(Name="pdf-worker-0")
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_IN_PROGRESS")
    found = stop.stop(cloud.account, stack, None, Steps(tell=lambda text: None), patience=QUICK)
    assert (cloud.states()[control], cloud.states()[worker]) == ("running", "terminated")
    assert found.notes == (
        "the stack is CREATE_IN_PROGRESS: whoever is at work on it may start machines again: stop again after that",
    )
    found = stop.stop(cloud.account, None, None, Steps(tell=lambda text: None), patience=QUICK)
    assert (cloud.states()[control], found.notes) == ("terminated", ())


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


def test_up_does_what_needs_prefect_only_where_it_answers(cloud: Cloud) -> None:
    stack = Stack(name="pdf-flows", id="arn:s", status="CREATE_COMPLETE")
    asked: list[str] = []
    deploy = [up.Deploy(what="make the work pool", action=lambda a, s, c: asked.append(c.url) or "made")]
    notes: list[str] = []
    up._deploy(cloud.account, stack, Steps(tell=lambda text: None), deploy, None, "gpu", notes)
    assert asked == []
    assert notes == [
        "not done: make the work pool: the stack names no Prefect API: give --api-url; then pdf-flows aws up again"
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
