"""`pdf-flows aws launch`: the machines that it asks for, the script that they run, and what it says when AWS does not want to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aws_kit import REGION, Cloud, call, json_of, own_account
from botocore.exceptions import ClientError, ReadTimeoutError
from conftest import MotoS3
from hypothesis import given
from hypothesis import strategies as st

from deployments.aws import launch
from deployments.aws.account import Account
from deployments.aws.steps import Steps
from deployments.aws.user_data import ENVIRONMENT, LARGEST_BYTES, Boot, contract, refuse_secrets, render
from tasks.corpus.failures import UsageError

REGISTRY = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"
IMAGE = f"{REGISTRY}/pdf-flows/worker:latest"


@pytest.fixture
def cloud(moto_s3: MotoS3) -> Iterator[Cloud]:
    with own_account() as found:
        yield found


@pytest.fixture
def free(cloud: Cloud) -> list[str]:
    """Input, output and image of a launch without a stack."""
    found = []
    for role in ("input", "output"):
        name = f"{role}-{uuid4().hex[:12]}"
        cloud.client("s3").create_bucket(Bucket=name)
        found += [f"--{role}", f"s3://{name}/{role}/"]
    return [*found, "--image", "registry.example/pdf-flows/worker:1"]


@pytest.fixture
def words(cloud: Cloud, free: list[str]) -> list[str]:
    """The words of a launch in a network of the account, without a stack."""
    cloud.client("iam").create_instance_profile(InstanceProfileName="worker")
    _, subnets = cloud.network()
    return ["launch", *free, "--instance-profile", "worker", "--subnets", ",".join(subnets)]


def boot(worker: int = 0, **more: Any) -> Boot:
    environment = contract(
        worker=worker,
        workers=5,
        source=("in", "input/"),
        output=("out", "it's $HOME; rm -rf /"),
        region=REGION,
        retries=3,
    )
    given = {"image": IMAGE, "registry": REGISTRY, "region": REGION, "environment": environment, "max_minutes": 2880}
    return Boot(worker=worker, **{**given, **more})


# ------------------------------------------------------------------------------------------------------ the script, in bash


class Host:
    """A machine of stubs: each command writes its words into a file, a line a call; docker pull fails as often as told."""

    def __init__(self, folder: Path, *, failing_pulls: int = 0, status: int = 0, failing_run: bool = False) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        run = "exit 125" if failing_run else 'printf "%s\\0" "$@" > run'
        stubs = {
            "shutdown": "",
            "sleep": "",
            "systemctl": "",
            "aws": "echo secret-of-the-registry",
            "docker": f"""
case $1 in
  login) cat > /dev/null ;;
  pull) n=$(cat pulls 2>/dev/null || echo 0); echo $((n + 1)) > pulls; [ "$n" -ge {failing_pulls} ] ;;
  run) {run} ;;
  wait) echo {status} ;;
esac""",
        }
        (folder / "bin").mkdir()
        for name, body in stubs.items():
            path = folder / "bin" / name
            path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self.calls}\n{body}\n')
            path.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script.replace("/etc/systemd/system", str(self.folder))],
            cwd=self.folder,
            env={"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def said(self, *commands: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.split()[0] in commands]

    def container(self) -> list[str]:
        return (self.folder / "run").read_text().split("\0")[:-1]


def test_machine_runs_its_container_and_ends(tmp_path: Path) -> None:
    host = Host(tmp_path)
    done = host.run(render(boot(worker=3)))
    assert done.returncode == 0, done.stderr
    assert "pdf-flows: worker 3 ended with status 0" in done.stdout
    # The longest time is set before anything can fail, and the end is the machine's own.
    assert host.said("shutdown") == ["shutdown -h +2880", "shutdown -h now"]
    assert host.calls.read_text().startswith("shutdown -h +2880\nsystemctl enable once.service\n")
    # That time does not outlive a reboot, after which nothing would start the container: it is the end, too.
    assert (
        "ExecStart=/usr/bin/systemctl poweroff\n[Install]\nWantedBy=multi-user.target"
        in (tmp_path / "once.service").read_text()
    )
    assert host.said("docker")[0] == f"docker login --username AWS --password-stdin {REGISTRY}"
    container = host.container()
    assert container[0] == "run"
    assert container[-1] == IMAGE
    options = " ".join(container)
    for option in (
        "--gpus all",
        "--network host",
        "--init",
        "--stop-timeout 110",
        "--log-driver awslogs",
        "--log-opt awslogs-group=/aws/ec2/pdf-workers/",
        "--log-opt awslogs-stream=worker-3",
        "--log-opt awslogs-region=us-east-1",
    ):
        assert option in options
    environment = [container[i + 1] for i, word in enumerate(container) if word == "-e"]
    assert environment == [
        "WORKER_ID=3",
        "TOTAL_WORKERS=5",
        "S3_INPUT_BUCKET=in",
        "S3_INPUT_PREFIX=input/",
        "S3_OUTPUT_BUCKET=out",
        # As it was given, whatever a shell would make of it.
        "S3_OUTPUT_PREFIX=it's $HOME; rm -rf /",
        "AWS_DEFAULT_REGION=us-east-1",
        "MAX_RETRIES=3",
    ]


def test_pull_is_tried_five_times_with_growing_pauses(tmp_path: Path) -> None:
    host = Host(tmp_path, failing_pulls=4)
    assert host.run(render(boot())).returncode == 0
    assert len([line for line in host.said("docker") if line.startswith("docker pull")]) == 5
    assert host.said("sleep") == ["sleep 10", "sleep 20", "sleep 40", "sleep 80"]


def test_machine_ends_where_the_image_cannot_be_pulled(tmp_path: Path) -> None:
    host = Host(tmp_path, failing_pulls=5)
    done = host.run(render(boot()))
    assert done.returncode == 1
    assert "pulling the image failed (try 5 of 5)" in done.stdout
    assert "the image cannot be pulled: ending" in done.stdout
    assert host.said("shutdown")[-1] == "shutdown -h now"
    assert not (tmp_path / "run").exists()


def test_machine_ends_where_the_container_does_not_start_or_fails(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    host = Host(tmp_path / "a", failing_run=True)
    assert "the container cannot be started: ending" in host.run(render(boot())).stdout
    assert host.said("shutdown")[-1] == "shutdown -h now"
    (tmp_path / "b").mkdir()
    failed = Host(tmp_path / "b", status=1)
    assert failed.run(render(boot())).returncode == 1
    assert failed.said("shutdown")[-1] == "shutdown -h now"


def test_image_from_elsewhere_needs_no_login(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.run(render(boot(image="ghcr.io/x/y:1", registry=None))).returncode == 0
    assert host.said("aws") == []
    assert host.said("docker")[0] == "docker pull ghcr.io/x/y:1"


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_any_prefix_is_one_word_to_the_shell(prefix: str) -> None:
    script = render(boot(environment={"S3_INPUT_PREFIX": prefix}))
    line = next(part for part in script.split("\\\n") if "S3_INPUT_PREFIX" in part) if "\n" not in prefix else ""
    if line:
        echoed = subprocess.run(
            ["bash", "-c", "printf '%s\\0' " + line], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
        )
        assert echoed.stdout.decode().split("\0")[:2] == ["-e", f"S3_INPUT_PREFIX={prefix}"]


# ------------------------------------------------------------------------------------------------------------------- secrets


def test_user_data_holds_no_credential(cloud: Cloud, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_a-key-of-prefect")
    assert call(*words, "--workers", "1") == 0
    instance = next(iter(cloud.states()))
    answer = cloud.client("ec2").describe_instance_attribute(InstanceId=instance, Attribute="userData")
    import base64

    script = base64.b64decode(answer["UserData"]["Value"]).decode()
    assert "WORKER_ID=0" in script
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY"):
        assert os.environ[name] not in script
        assert name not in script
    for name, value in (
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("PREFECT_API_KEY", "x"),
        ("HF_TOKEN", "x"),
        ("PREFECT_API_AUTH_STRING", "x"),
        ("NOTE", "AKIA0123456789ABCDEF"),
        ("GITHUB_PAT", "x"),
        ("DB_PASS", "x"),
        ("SIGNING_KEY", "x"),
        ("DB", "postgres://u:pw@h/d"),
        ("PROXY", "http://:pw@proxy:3128"),
        ("NOTE", "ghp_0123456789abcdef0123"),
        ("NOTE", "before -----BEGIN RSA PRIVATE KEY-----"),
    ):
        with pytest.raises(UsageError, match=f"{name} looks like a credential, and user data is no place for one"):
            refuse_secrets({name: value})
        with pytest.raises(UsageError):
            boot(environment={name: value})
    with pytest.raises(UsageError, match="bad environment variable 'A B'"):
        refuse_secrets({"A B": "x"})
    plain = {
        "MONKEY": "x",
        "COMPASS": "x",
        "PATH": "x",
        "URL": "https://h/a:b@c",
        "MODEL": "s3://bucket/k:v",
        "R": "user@host",
    }
    refuse_secrets({"PDF_FLOWS_ENGINE": "dolphin", **plain})


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_what_launch_sets_itself_is_not_replaced(name: str) -> None:
    """With another WORKER_ID two machines would convert the same part, and a part would be left."""
    given = {"source": ("in", ""), "output": ("out", ""), "region": REGION, "retries": 3}
    with pytest.raises(UsageError, match=rf"--env {name} would replace what launch itself sets: give --\w+"):
        contract(worker=1, workers=2, more={name: "0"}, **given)
    assert contract(worker=1, workers=2, more={"ENGINE": "dolphin"}, **given)["ENGINE"] == "dolphin"


def test_a_script_too_large_for_ec2_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than the 16 KB that EC2 takes"):
        render(boot(environment={"LARGE": "x" * LARGEST_BYTES}))


# ------------------------------------------------------------------------------------------------------------------- machines


def test_machines_are_started_tagged_and_not_twice(
    cloud: Cloud, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words, "--workers", "2") == 0
    out, err = capsys.readouterr()
    found = list(launch.find_instances(cloud.account))
    assert [(i.name, i.worker) for i in sorted(found, key=lambda i: i.name)] == [
        ("pdf-worker-0", "0"),
        ("pdf-worker-1", "1"),
    ]
    assert "check permissions, by EC2's dry run ... EC2 would start it" in err
    for i in found:
        assert f"worker {i.worker}: {i.id} g4dn.xlarge us-east-1a  log https://us-east-1.console.aws.amazon.com/" in out
    assert "$252Faws$252Fec2$252Fpdf-workers$252F/log-events/worker-0" in out
    assert out.splitlines()[-1].startswith("still running: 2 instances (")
    group = cloud.client("logs").describe_log_groups()["logGroups"][0]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/aws/ec2/pdf-workers/", 7)
    item = cloud.client("ec2").describe_instances(InstanceIds=[found[0].id])["Reservations"][0]["Instances"][0]
    assert {(t["Key"], t["Value"]) for t in item["Tags"]} >= {("Project", "pdf-flows"), ("WorkerID", found[0].worker)}
    behaviour = cloud.client("ec2").describe_instance_attribute(
        InstanceId=found[0].id, Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    # Again: those that run stay, and one that is gone is started anew.
    cloud.client("ec2").terminate_instances(InstanceIds=[i.id for i in found if i.worker == "1"])
    assert call(*words, "--workers", "2", "--json") == 0
    workers = json_of(capsys)["workers"]
    assert [w["note"] for w in workers] == ["runs already", ""]
    assert len(cloud.states()) == 3
    # With another number of workers each of them takes other documents, and with another input, too.
    elsewhere = [f"{word}more/" if word.startswith("s3://output") else word for word in words]
    for other in ([*words, "--workers", "3"], [*elsewhere, "--workers", "2"]):
        with pytest.raises(UsageError, match=r"i-\w+ \(worker \d\)(, i-\w+ \(worker \d\))? run for another job"):
            call(*other)
        assert capsys.readouterr().err.splitlines()[-1].startswith("still running: 2 instances (")
    assert len(cloud.states()) == 3
    # And `stop` ends them: nobody else would.
    assert call("stop") == 0
    assert set(cloud.states().values()) == {"terminated"}


def test_what_ec2_is_asked_for() -> None:
    """moto keeps little of it: the request itself is looked at."""
    order = an_order()
    asked = launch.request(Account(region=REGION), order, 1, "g5.xlarge", "us-east-1b")
    assert asked["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {
            "SpotInstanceType": "one-time",
            "InstanceInterruptionBehavior": "terminate",
            "MaxPrice": "0.3900",
        },
    }
    assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    ebs = asked["BlockDeviceMappings"][0]["Ebs"]
    assert (ebs["VolumeType"], ebs["Encrypted"], ebs["DeleteOnTermination"]) == ("gp3", True, True)
    assert asked["IamInstanceProfile"] == {"Name": "worker"}
    assert asked["NetworkInterfaces"][0]["SubnetId"] == "subnet-b"
    tags = {tag["Key"]: tag["Value"] for tag in asked["TagSpecifications"][0]["Tags"]}
    job = tags.pop("JobID")
    assert tags == {"Project": "pdf-flows", "Name": "pdf-worker-1", "WorkerID": "1"}
    # Of all workers of a launch, and of no other launch.
    assert job == launch.job(order.environments[0]) != launch.job({**order.environments[0], "TOTAL_WORKERS": "3"})
    kinds = [spec["ResourceType"] for spec in asked["TagSpecifications"]]
    assert kinds == ["instance", "volume", "network-interface", "spot-instances-request"]
    plain = launch.request(
        Account(region=REGION), order.model_copy(update={"on_demand": True}), 1, "g5.xlarge", "us-east-1b"
    )
    assert "InstanceMarketOptions" not in plain


def test_dry_run_shows_the_script_and_starts_nothing(
    cloud: Cloud, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words, "--dry-run", "--max-price", "0.39") == 0
    err = capsys.readouterr().err
    assert "check permissions, by EC2's dry run ... EC2 would start it" in err
    assert "would start pdf-worker-4 (Spot, first try g4dn.xlarge in us-east-1a)" in err
    assert "pdf-worker-0: Spot, at most $0.39/h, g4dn.xlarge in us-east-1a" in err
    assert "docker pull" in err
    assert "5 machines: at most $1.95/h, each ended after 48 h at the latest ($93.60)" in err
    assert cloud.states() == {}
    assert cloud.client("logs").describe_log_groups()["logGroups"] == []


class Ec2:
    """An EC2 that answers with errors by pool, then starts."""

    def __init__(self, **errors: str) -> None:
        self.errors = errors
        self.asked: list[tuple[str, str]] = []

    def get_paginator(self, operation: str) -> Any:
        class Empty:
            def paginate(self, **asked: Any) -> list[dict[str, Any]]:
                return [{"Reservations": []}]

        return Empty()

    def run_instances(self, **asked: Any) -> dict[str, Any]:
        if asked.get("DryRun"):
            raise ClientError(
                {"Error": {"Code": self.errors.get("dry", "DryRunOperation"), "Message": "no"}}, "RunInstances"
            )
        place = asked["NetworkInterfaces"][0]["SubnetId"]
        self.asked.append((asked["InstanceType"], place))
        if (code := self.errors.get(place.replace("-", "_"))) is not None:
            raise ClientError({"Error": {"Code": code, "Message": "so it is"}}, "RunInstances")
        return {"Instances": [{"InstanceId": f"i-{len(self.asked)}"}]}


class Quiet:
    """A client that does whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda **asked: {"Account": "1", "Arn": "arn:aws:iam::1:user/ada"}


def an_order(workers: int = 2) -> launch.Order:
    return launch.Order(
        workers=workers,
        image=IMAGE,
        ami="ami-1",
        place=launch.Place(
            profile="worker", group="sg-1", subnets={"us-east-1a": "subnet-a", "us-east-1b": "subnet-b"}
        ),
        pools=(("g4dn.xlarge", "us-east-1a"), ("g4dn.xlarge", "us-east-1b")),
        max_price=0.39,
        max_minutes=60,
        environments={k: {"WORKER_ID": str(k)} for k in range(workers)},
    )


def launched(ec2: Ec2) -> list[launch.Launched]:
    account = Account(region=REGION, clients={"ec2": ec2, "logs": Quiet(), "sts": Quiet()})
    return launch.launch(account, an_order(), Steps(tell=lambda text: None))


def test_a_pool_without_capacity_is_passed_over() -> None:
    ec2 = Ec2(subnet_a="InsufficientInstanceCapacity")
    assert [(one.instance, one.zone) for one in launched(ec2)] == [("i-2", "us-east-1b"), ("i-4", "us-east-1b")]


def test_no_capacity_anywhere_is_said_once() -> None:
    ec2 = Ec2(subnet_a="InsufficientInstanceCapacity", subnet_b="SpotMaxPriceTooLow")
    first, second = launched(ec2)
    assert first.note == (
        "no capacity in any pool (g4dn.xlarge us-east-1a: InsufficientInstanceCapacity; g4dn.xlarge us-east-1b: "
        "SpotMaxPriceTooLow): try again later, with other --machine-types, or --on-demand"
    )
    assert second.note == "not tried after the failure above"


def test_quota_is_no_matter_of_another_pool() -> None:
    ec2 = Ec2(subnet_a="MaxSpotInstanceCountExceeded")
    first, _ = launched(ec2)
    assert len(ec2.asked) == 1
    assert first.note.startswith("MaxSpotInstanceCountExceeded: so it is: ask for more in the Service Quotas console")


class Lossy:
    """moto's EC2, of which the answer to the second request for a machine is lost: after it was done, or before."""

    def __init__(self, real: Any, *, done: bool) -> None:
        self.real, self.done, self.number = real, done, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run_instances(self, **asked: Any) -> Any:
        if not asked.get("DryRun"):
            self.number += 1
            if self.number == 2:
                if self.done:
                    self.real.run_instances(**asked)
                raise ReadTimeoutError(endpoint_url="https://ec2")
        return self.real.run_instances(**asked)


@pytest.mark.parametrize("done", [False, True])
def test_a_lost_answer_is_no_end_without_an_account(
    cloud: Cloud, words: list[str], done: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(region=REGION, clients={"ec2": Lossy(cloud.client("ec2"), done=done)})
    monkeypatch.setattr("deployments.aws.command_options.Where.account", lambda self: account)
    assert call(*words, "--workers", "3", "--json") == (0 if done else 1)
    said = json_of(capsys)
    first, second, third = said["workers"]
    assert first["instance"] in cloud.states()
    if done:
        assert (second["instance"] in cloud.states(), third["instance"] in cloud.states()) == (True, True)
        assert second["note"] == "EC2's answer was lost; found by its tag"
    else:
        assert (second["instance"], third["instance"]) == (None, None)
        assert second["note"].startswith('AWS does not answer: Read timeout on endpoint URL: "https://ec2"')
        assert "it may have been started: pdf-flows aws status shows it" in second["note"]
    assert said["still_running"].startswith(f"still running: {len(cloud.states())} instance")


def test_what_was_started_is_told_also_where_nothing_more_can_be_asked(
    cloud: Cloud, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(account: Account) -> None:
        raise ReadTimeoutError(endpoint_url="https://ec2")

    monkeypatch.setattr("deployments.aws.worker_commands.look", refuse)
    assert call(*words, "--workers", "1") == 1
    out = capsys.readouterr().out
    (instance,) = cloud.states()
    assert out.startswith(f"worker 0: {instance} ")
    assert out.splitlines()[-1].startswith("still running: not known: AWS does not answer: Read timeout")


def test_a_missing_permission_ends_it_before_anything_is_made() -> None:
    logs = Quiet()
    account = Account(region=REGION, clients={"ec2": Ec2(dry="UnauthorizedOperation"), "logs": logs, "sts": Quiet()})
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        launch.launch(account, an_order(), Steps(tell=lambda text: None))


def test_what_is_missing_is_named(cloud: Cloud, free: list[str]) -> None:
    nowhere, own = f"s3://{uuid4().hex}/", f"{REGISTRY}/pdf-flows/worker:latest"
    for words, message in (
        (["launch"], "there is no stack to take the input from: give --input s3://bucket/prefix"),
        (["launch", *free], "machines need an instance profile"),
        (["launch", "--input", nowhere, *free[2:]], "there is no bucket"),
        (["launch", *free[:2], "--output", nowhere, *free[4:]], "there is no bucket"),
        (["launch", *free[:2], "--output", f"{free[1]}md/", *free[4:]], "the output lies in the input"),
        (["launch", *free[:4], "--image", own], "no image pdf-flows/worker:latest in ECR"),
        (["launch", *free, "--region", "us_east"], "bad AWS region 'us_east': give one like us-east-1"),
        (["launch", *free, "--max-hours", "0"], "bad --max-hours 0"),
        (["launch", *free, "--env", "HF_TOKEN=x"], "HF_TOKEN looks like a credential"),
        (["launch", *free, "--run-id", "a/b"], "bad run id"),
        (["launch", *free[:4], "--instance-profile", "worker"], "there is no stack to take the image from"),
    ):
        with pytest.raises(UsageError) as raised:
            call(*words)
        assert message in str(raised.value)
    assert cloud.states() == {}
