"""`pdf-flows aws` with odd input, in an odd environment and broken off: one line, a status, and nothing lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aws_kit import REGION, Cloud, call, own_account, template
from botocore.exceptions import ClientError
from conftest import MotoS3
from hypothesis import given
from hypothesis import strategies as st

from deployments.aws import stop
from deployments.aws.account import Account
from deployments.aws.declared import declared_parameters
from deployments.aws.orchestration import Run
from deployments.aws.parameters import stack_options
from deployments.aws.planned_run import planned_run
from deployments.aws.reach import health, host_and_port
from deployments.aws.stack import TEMPLATE, Stacks
from deployments.aws.steps import Steps
from deployments.aws.tunnel import refuse_taken
from deployments.aws.user_data import refuse_secrets
from tasks.corpus.failures import UsageError


@pytest.fixture
def cloud(moto_s3: MotoS3) -> Iterator[Cloud]:
    with own_account() as found:
        yield found


@pytest.fixture
def small(cloud: Cloud, tmp_path: Path) -> list[str]:
    """The small template's words, in a network of the account."""
    path = tmp_path / "template.yaml"
    path.write_text(template(cloud))
    vpc, subnets = cloud.network()
    return ["--template", str(path), "--vpc", vpc, "--subnets", ",".join(subnets), "--no-deployments"]


# ------------------------------------------------------------------------------------------------------------ words and numbers


def test_up_refuses_what_would_come_to_nothing(cloud: Cloud) -> None:
    """What CloudFormation would refuse, too: before a bucket and a stack are made, and in a dry run."""
    for words, message in (
        (["--max-price", "auto", "--max-hours", "nan"], "bad --max-hours"),
        (["--max-price", "auto", "--max-hours", "-1"], "bad --max-hours"),
        (["--max-price", "auto", "--workers", "-5"], "bad --workers"),
        (["--max-price", "auto", "--budget", "9" * 400], "bad --budget"),
        (["--max-price", "9" * 400], "bad --max-price"),
        (["--image", ""], "bad --image"),
        (["--image", "name:tag; reboot"], "bad --image"),
        (["--api-url", "http://prefect:99999/api"], "bad --api-url: 'http://prefect:99999/api' is no address"),
        (["--api-url", "https://[::1/api"], "bad --api-url"),
        (["--parameter", "PrefectApiUrl=ftp://prefect"], "bad --api-url: 'ftp://prefect' is no address"),
        (["--parameter", "ProjectName=another"], "--project NAME names the stack"),
        (
            ["--input-prefix", "in"],
            "bad --input-prefix 'in': it has to match ^$|[^*?$/][^*?$]*/ (What workers may read.",
        ),
        (["--output-prefix", "out/*/"], "bad --output-prefix 'out/*/'"),
        (["--control-type", "p5.48xlarge"], "bad --control-type 'p5.48xlarge': one of t3.small, "),
        (["--parameter", "Workers=101"], "bad --workers '101': a number from 1 to 100 (Machines of each kind at most)"),
        (["--parameter", "PrefectApiPort=https"], "bad --parameter PrefectApiPort 'https': a number"),
        (["--parameter", "ControlTemplateVersion=0"], "bad --parameter ControlTemplateVersion '0': it has to match"),
        (["--max-price", "0.0"], "bad --max-price"),
        (["--email", "ada@nowhere"], "bad --email"),
    ):
        with pytest.raises(UsageError) as raised:
            call("up", "--no-deployments", *words, *(["--dry-run"] if "prefix" in message else []))
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    assert Stacks(cloud.account).find() is None
    assert cloud.client("s3").list_buckets()["Buckets"] == []


MAX_PRICE = declared_parameters(TEMPLATE.read_text())["MaxPrice"]


@given(st.floats(min_value=1e-6, max_value=1e9) | st.integers(1, 10**9))
def test_amounts_reach_cloudformation_as_they_are(amount: float) -> None:
    given_ = stack_options(max_price=amount).given()["MaxPrice"]
    assert float(given_) == amount
    assert MAX_PRICE.objection(given_) is None


@pytest.mark.parametrize(
    "text", ["- a", "a", "", "Parameters: [a]", "Parameters: {A: }", "Parameters: {A: {MinValue: x}}"]
)
def test_a_template_that_is_none(text: str) -> None:
    if text == "":
        text = "null"
    with pytest.raises(UsageError, match="the template is none of CloudFormation's"):
        declared_parameters(text)


def test_a_template_without_parameters_has_none() -> None:
    assert declared_parameters("Resources: {A: !Ref B}") == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"pages_per_document": float("nan")}, "bad --pages-per-document"),
        ({"pages_per_document": float("inf"), "documents": 0}, "bad --pages-per-document"),
        ({"documents": 10**400}, "bad --documents"),
        ({"pages": 10**13}, "bad --pages"),
        ({"pages": -1}, "bad --pages"),
        ({"workers": 10**9}, "bad --workers"),
        ({"budget": "9" * 400}, "bad --budget"),
        ({"deadline": "9" * 400 + "d"}, "bad --deadline"),
        ({"deadline": "0h"}, "bad --deadline"),
        ({"max_price": "9" * 400}, "bad --max-price"),
        ({"rates": ["g4dn.xlarge=1e-300"]}, "bad --pages-per-second"),
        ({"rates": ["g4dn.xlarge=nan"]}, "bad --pages-per-second"),
    ],
)
def test_numbers_that_nobody_means(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        planned_run(**{"workers": 5, **words})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logs", "--worker", "-1"], "bad --worker -1: workers are numbered from 0"),
        (["launch", "--workers", "0"], "bad --workers"),
        (["launch", "--retries", "21"], "bad --retries 21: 0 to 20"),
        (["launch", "--max-hours", "nan"], "bad --max-hours nan"),
        (["preflight", "--workers", "-3"], "bad --workers"),
        (["preflight", "--input", "bucket/x"], "bad address 'bucket/x'"),
        (["status", "--region", "nowhere"], "bad AWS region 'nowhere'"),
        (["down", "--project", "../x"], "bad project name '../x'"),
    ],
)
def test_other_commands_with_odd_words(cloud: Cloud, words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        call(*words)
    assert message in str(raised.value)


def test_logs_of_ever(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.client("logs").create_log_group(logGroupName="/aws/ec2/pdf-workers/")
    assert call("logs", "--since", "99999999999d") == 0
    assert capsys.readouterr().err == "no such line in the last 99999999999d\n"


@pytest.mark.parametrize("port", [-1, 0, 65_536, 10**20])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(UsageError, match=f"bad --port {port}: 1 to 65535"):
        refuse_taken(port)


# -------------------------------------------------------------------------------- what does not answer well


@contextlib.contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """A port that says `answer` to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200])
def test_what_is_no_api_does_not_answer(answer: bytes) -> None:
    with listening(answer) as port:
        assert health(f"http://127.0.0.1:{port}/api") == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "prefect/api",
        "ftp://h/api",
        "http:///api",
        "http://h:x/api",
        "http://h:0/api",
        "http://h:65536",
        "http://[::1",
        "http://a b/",
    ],
)
def test_no_address_of_an_api(url: str) -> None:
    assert health(url) == 0
    with pytest.raises(ValueError, match="is no address of a Prefect API: give one like https://host/api"):
        host_and_port(url)


@pytest.mark.parametrize(
    ("url", "place"),
    [("https://h/api", ("h", 443)), ("http://h/api", ("h", 80)), ("http://[::1]:4200/api", ("::1", 4200))],
)
def test_where_an_address_leads(url: str, place: tuple[str, int]) -> None:
    assert host_and_port(url) == place


@pytest.mark.parametrize("command", ["preflight", "up", "status", "stop", "down", "launch", "logs", "ui", "pool"])
def test_an_endpoint_that_is_no_address(command: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:5000")
    with pytest.raises(
        UsageError, match=r"no client of AWS can be made \(Invalid endpoint: localhost:5000\): correct AWS_ENDPOINT_URL"
    ):
        call(command)


# ------------------------------------------------------------------------------------------------------------ refused, broken off


QUICK = stop.Patience(drain=0.0, cancel=0.0, gone=0.0, vanish=0.0, poll=0.0)


class Idle:
    """A Prefect with nothing to do."""

    url = "http://prefect/api"

    def pause(self, pool: str, paused: bool) -> bool:
        return True

    def living(self) -> list[Run]:
        return []

    def cancel(self, runs: Sequence[Run]) -> list[str]:
        return []


class Denied:
    """A client that may not do some of its operations."""

    def __init__(self, real: Any, *operations: str, code: str = "AccessDenied") -> None:
        self._real, self._operations, self._code = real, operations, code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name) if name not in self._operations else self._refuse(name)

    def get_paginator(self, name: str) -> Any:
        if name in self._operations:
            self._refuse(name)()
        return self._real.get_paginator(name)

    def _refuse(self, name: str) -> Any:
        def refuse(**asked: Any) -> None:
            words = "".join(word.title() for word in name.split("_"))
            raise ClientError({"Error": {"Code": self._code, "Message": "not you"}}, words)

        return refuse


@pytest.mark.parametrize(
    ("service", "operations", "note"),
    [
        (
            "ecs",
            ["list_tasks"],
            "tasks were not stopped: AWS refused ListTasks (AccessDenied): not you: allow ListTasks",
        ),
        ("ecs", ["list_container_instances"], "the machines of pdf-flows still take tasks: AWS refused"),
        (
            "autoscaling",
            ["describe_auto_scaling_groups"],
            "the groups were not scaled to zero, and may start machines again",
        ),
        (
            "autoscaling",
            ["update_auto_scaling_group"],
            "pdf-flows-spot was not scaled to zero, and may start machines again",
        ),
        ("autoscaling", ["set_instance_protection"], "protection was not taken off in pdf-flows-spot"),
    ],
)
def test_what_aws_refuses_keeps_no_machine_running(
    cloud: Cloud,
    small: list[str],
    service: str,
    operations: list[str],
    note: str,
) -> None:
    """A missing permission is named, and everything else is done."""
    assert call("up", *small, "--workers", "2") == 0
    cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName="pdf-flows-spot", DesiredCapacity=1)
    cloud.run(Name="pdf-worker-0")
    before = cloud.states()
    assert list(before.values()) == ["running", "running"]
    account = Account(region=REGION, clients={service: Denied(cloud.client(service), *operations)})
    stack = Stacks(account).find()
    found = stop.stop(account, stack, Idle(), Steps(tell=lambda text: None), patience=QUICK, sleep=lambda seconds: None)
    assert [noted.startswith(note) for noted in found.notes] == [True] * len(operations)
    states = cloud.states()
    assert {states[instance] for instance in before} == {"terminated"}


@pytest.mark.parametrize("command", ["stop", "down", "status", "up"])
def test_what_costs_is_said_where_not_even_the_stack_can_be_looked_at(
    cloud: Cloud, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (instance,) = cloud.run(Name="pdf-worker-0")
    denied = Denied(cloud.client("cloudformation"), "describe_stacks")
    account = Account(region=REGION, clients={"cloudformation": denied})
    monkeypatch.setattr("deployments.aws.command_options.Where.account", lambda self: account)
    with pytest.raises(UsageError, match="AWS refused DescribeStacks"):
        call(command, *(["--no-deployments"] if command == "up" else []))
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"still running: 1 instance ({instance} g4dn.xlarge")
    assert cloud.states() == {instance: "running"}


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId"])
def test_credentials_that_end_in_the_middle_end_the_command(cloud: Cloud, code: str) -> None:
    """Nothing else would go, either: one error, not one a step."""
    account = Account(
        region=REGION,
        clients={"autoscaling": Denied(cloud.client("autoscaling"), "describe_auto_scaling_groups", code=code)},
    )
    with pytest.raises(ClientError, match=code):
        stop.stop(account, None, None, Steps(tell=lambda text: None), sleep=lambda seconds: None)


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (["stop"], "deployments.aws.stop.stop"),
        (["down"], "deployments.aws.down.down"),
        (["up", "--no-deployments"], "deployments.aws.up.up"),
    ],
)
def test_ctrl_c_says_what_costs_money_all_the_same(
    cloud: Cloud, command: list[str], where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (instance,) = cloud.run(Name="pdf-worker-0")

    def interrupted(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    with pytest.raises(SystemExit, match="130"):  # what cyclopts makes of it, without deployments.cli
        call(*command)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].startswith("interrupted: what AWS was told to do it goes on with")
    assert lines[-1].startswith(f"still running: 1 instance ({instance} g4dn.xlarge")


# --------------------------------------------------------------------------------------------------------------------- launch


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--env", "ENGINE=magic"],
            "the workers would refuse what they are given: ENGINE=magic: input should be 'layout'",
        ),
        (["--env", "OPTIONS=fast"], "OPTIONS is no JSON object"),
        (["--env", 'OPTIONS={"page_timeout": -1}'], "bad page-timeout"),
        (["--env", 'OPTIONS={"speed": 1}'], "OPTIONS: there is no option 'speed'"),
        (["--env", "LIMIT=0"], "LIMIT=0: "),
        (["--env", "RETRY_FAILED=perhaps"], "RETRY_FAILED=perhaps: "),
        (["--image", ""], "bad image ''"),
        (["--image", "a b"], "bad image 'a b'"),
    ],
)
def test_what_each_container_would_refuse_is_refused_before_a_machine_costs_its_start(
    cloud: Cloud, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This machine's own variables are none of the workers'.
    monkeypatch.setenv("ENGINE", "layout")
    monkeypatch.setenv("OPTIONS", "{}")
    cloud.client("iam").create_instance_profile(InstanceProfileName="worker")
    _, subnets = cloud.network()
    for name in ("in", "out"):
        cloud.client("s3").create_bucket(Bucket=f"{name}-{cloud.number}")
    command = ["launch", "--input", f"s3://in-{cloud.number}", "--output", f"s3://out-{cloud.number}"]
    more = [] if "--image" in words else ["--image", "registry.example/worker:1"]
    with pytest.raises(UsageError) as raised:
        call(*command, "--instance-profile", "worker", "--subnets", ",".join(subnets), *more, *words)
    assert message in str(raised.value)
    assert cloud.states() == {}


def test_the_name_of_a_secret_is_none() -> None:
    refuse_secrets({"PASSWORD_FILE": "secretsmanager:pdf-flows/passwords"})
    for name, value in (("PASSWORD_FILE", "hunter2"), ("PASSWORD", "secretsmanager:x")):
        with pytest.raises(UsageError, match=f"{name} looks like a credential"):
            refuse_secrets({name: value})
