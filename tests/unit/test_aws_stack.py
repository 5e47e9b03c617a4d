"""`pdf-flows aws up`, `status`, `stop`, `down` on a real CloudFormation API (moto): made, changed, deleted, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aws_kit import REGION, Cloud, call, json_of, own_account, stubbed, template
from conftest import MotoS3

from deployments.aws import fleet_state, running, scale_in, stop, template_store
from deployments.aws.account import Account
from deployments.aws.errors import AwsError
from deployments.aws.stack import INLINE_BYTES, Stacks
from deployments.aws.steps import Steps
from tasks.corpus.failures import UsageError


@pytest.fixture
def cloud(moto_s3: MotoS3) -> Iterator[Cloud]:
    with own_account() as found:
        yield found


@pytest.fixture
def up(cloud: Cloud, tmp_path: Path) -> list[str]:
    """The words of `aws up` that make the small stack in a network of the account."""
    path = tmp_path / "template.yaml"
    path.write_text(template(cloud))
    vpc, subnets = cloud.network()
    return ["up", "--template", str(path), "--vpc", vpc, "--subnets", ",".join(subnets), "--no-deployments"]


def test_made_changed_and_deleted(cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*up, "--workers", "3") == 0
    out, err = capsys.readouterr()
    assert "make the stack pdf-flows ..." in err
    assert out.splitlines()[-1] == "still running: nothing, $0.00/h"
    stack = Stacks(cloud.account).find()
    assert stack is not None
    assert (stack.status, stack.parameters["Workers"]) == ("CREATE_COMPLETE", "3")
    # Follows from the network: the zone of the first subnet.
    assert stack.parameters["ControlZone"] == "us-east-1a"

    # Again: the same, and other parameters keep their values.
    assert call("up", *up[1:3], "--no-deployments", "--workers", "4") == 0
    assert "bring the stack pdf-flows up to date" in capsys.readouterr().err
    changed = Stacks(cloud.account).find()
    assert changed is not None
    assert (changed.status, changed.parameters["Workers"]) == ("UPDATE_COMPLETE", "4")
    assert changed.parameters["ExistingVpcId"] == stack.parameters["ExistingVpcId"]
    assert scale_in.find_groups(cloud.account)[0].maximum == 4

    bucket = changed.outputs["OutputBucket"]
    cloud.client("s3").put_object(Bucket=bucket, Key="output/a.md", Body=b"#")
    cloud.client("s3").put_object(Bucket=changed.outputs["SourceBucket"], Key="source.zip", Body=b"zip")
    assert call("down") == 0
    out, err = capsys.readouterr()
    assert Stacks(cloud.account).find() is None
    assert out.splitlines()[-1] == "still running: nothing, $0.00/h"
    # Documents are kept, what only building needed is gone.
    assert f"kept: s3://{changed.outputs['InputBucket']}, s3://{bucket} (--delete-buckets deletes them, too)" in err
    assert f"arn:aws:s3:::{bucket}" in err.split("paid for by the month: ")[1]
    buckets = {item["Name"] for item in cloud.client("s3").list_buckets()["Buckets"]}
    assert buckets == {changed.outputs["InputBucket"], bucket}
    # Once more, with nothing left to do.
    assert call("down") == 0
    assert "there is no stack pdf-flows" in capsys.readouterr().err


def test_the_shipped_template_made_changed_and_deleted(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the control host, whose instance moto cannot make from a launch template."""
    vpc, subnets = cloud.network()
    words = [
        "--vpc",
        vpc,
        "--subnets",
        ",".join(subnets),
        "--no-control-host",
        "--api-url",
        "https://api.prefect.cloud/api",
    ]
    assert call("up", "--no-deployments", "--workers", "2", *words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "still running: nothing, $0.00/h"
    groups = scale_in.find_groups(cloud.account)
    assert {group.name: group.maximum for group in groups} == {"pdf-flows-spot": 2, "pdf-flows-on-demand": 2}
    assert call("up", "--no-deployments", "--workers", "3", "--email", "ada@example.com") == 0
    stack = Stacks(cloud.account).find()
    assert stack is not None
    assert (stack.status, stack.parameters["Workers"], stack.parameters["ControlHost"]) == (
        "UPDATE_COMPLETE",
        "3",
        "false",
    )
    # All that the commands go by (but what moto cannot make: capacity providers, the build project).
    for name in (
        "ClusterName",
        "InputBucket",
        "OutputBucket",
        "SourceBucket",
        "RepositoryUri",
        "TopicArn",
        "TaskSecurityGroupId",
        "SubnetIds",
        "VpcId",
        "WorkerInstanceProfileName",
        "PrefectApiUrl",
    ):
        assert name in stack.outputs, name
    assert call("down") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "still running: nothing, $0.00/h"
    assert Stacks(cloud.account).find() is None


def test_dry_runs_change_nothing(cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*up, "--dry-run") == 0
    assert "would make the stack pdf-flows" in capsys.readouterr().err
    assert Stacks(cloud.account).find() is None
    assert call(*up) == 0
    assert call(*up, "--workers", "9", "--dry-run") == 0
    err = capsys.readouterr().err
    assert "would bring the stack pdf-flows up to date\n  Workers: 5 -> 9" in err
    assert call(*up, "--dry-run") == 0
    assert "the stack pdf-flows is as asked: nothing to change" in capsys.readouterr().err
    instance = cloud.run()[0]
    before = cloud.states()
    for command in ("stop", "down"):
        assert call(command, "--dry-run") == 0
        err = capsys.readouterr().err
        assert f"would terminate 1 instances ({instance})" in err
    assert cloud.states() == before
    stack = Stacks(cloud.account).find()
    assert stack is not None
    assert stack.parameters["Workers"] == "5"


def test_buckets_are_deleted_when_asked(cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*up) == 0
    stack = Stacks(cloud.account).find()
    assert stack is not None
    bucket = stack.outputs["OutputBucket"]
    s3 = cloud.client("s3")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=bucket, Key="a.md", Body=body)
    s3.delete_object(Bucket=bucket, Key="a.md")
    assert call("down", "--delete-buckets") == 0
    assert "3 objects and versions deleted" in capsys.readouterr().err
    assert s3.list_buckets()["Buckets"] == []


def test_policies_that_others_hold_do_not_keep_the_stack(cloud: Cloud, up: list[str]) -> None:
    """AWS Budgets attaches the stop policy at 100 %; with it neither policy nor role could be deleted."""
    assert call(*up) == 0
    resources = {r.logical: r.physical for r in Stacks(cloud.account).resources()}
    iam = cloud.client("iam")
    iam.attach_role_policy(RoleName=resources["Role"], PolicyArn=resources["StopPolicy"])
    iam.create_user(UserName="ada")
    iam.attach_user_policy(UserName="ada", PolicyArn=resources["StopPolicy"])
    assert call("down") == 0
    assert iam.list_attached_user_policies(UserName="ada")["AttachedPolicies"] == []


def test_protected_instances_go_first(cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*up) == 0
    group = scale_in.find_groups(cloud.account)[0]
    cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group.name, DesiredCapacity=2)
    plain = cloud.run()[0]
    group = scale_in.find_groups(cloud.account)[0]
    assert len(group.protected) == 2
    # As AWS: without taking the protection off, they stay, whatever is desired.
    scale_in.to_zero(cloud.account, group, closed=False)
    assert len(scale_in.find_groups(cloud.account)[0].instances) == 2
    assert call("down") == 0
    err = capsys.readouterr().err
    steps = (
        "take off scale-in protection in pdf-flows-spot",
        "scale pdf-flows-spot to zero",
        f"({plain})",
        "delete the stack",
    )
    assert [err.index(step) for step in steps] == sorted(err.index(step) for step in steps)
    assert set(cloud.states().values()) == {"terminated"}


def test_instances_that_were_protected_are_terminated_first(cloud: Cloud) -> None:
    found = cloud.run(3)
    steps = Steps(tell=lambda text: None)
    stop._end_instances(cloud.account, found[0], {found[2]}, steps, [])
    assert steps.done[0].what == f"terminate 2 instances ({found[2]}, {found[1]})"
    # The control host is spared.
    assert [cloud.states()[instance] for instance in found] == ["running", "terminated", "terminated"]


def test_down_names_the_instance_that_is_left(
    cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(*up) == 0
    instance = cloud.run()[0]
    cloud.client("ec2").modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": True})
    monkeypatch.setattr(stop, "PATIENCE", stop.Patience(gone=0.1, poll=0.05))
    monkeypatch.setattr(stop.Patience, "__init__", _quick(stop.Patience))
    assert call("down") == 1
    out, err = capsys.readouterr()
    assert f"LEFT: {instance} (g4dn.xlarge on-demand, running): terminate it in the EC2 console" in err
    assert "could not be terminated: " + instance in err
    last = out.splitlines()[-1]
    assert last.startswith(f"still running: 1 instance ({instance} g4dn.xlarge on-demand), 1 volume (vol-")
    assert last.endswith("/h")
    assert "$0.00/h" not in last


def _quick(kind: type[stop.Patience]):  # type: ignore[no-untyped-def]
    original = kind.__init__

    def make(self: stop.Patience, **given: float) -> None:
        original(self, **{"gone": 0.2, "poll": 0.05, **given})

    return make


def test_stop_closes_the_groups_where_prefect_is_out_of_reach(
    cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*up, "--workers", "2") == 0
    group = scale_in.find_groups(cloud.account)[0]
    cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group.name, DesiredCapacity=2)
    assert call("stop") == 1
    out, err = capsys.readouterr()
    assert "note: the work pool was not paused and no flow run cancelled: no Prefect API is set" in err
    assert out.splitlines()[-1] == "still running: nothing, $0.00/h"
    closed = scale_in.find_groups(cloud.account)[0]
    assert (closed.desired, closed.maximum) == (0, 0)
    # `up` opens it again, also where the stack itself is as asked.
    assert call("up", *up[1:3], "--no-deployments") == 0
    assert "open pdf-flows-spot again" in capsys.readouterr().err
    assert scale_in.find_groups(cloud.account)[0].maximum == 2


def test_status(cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("status") == 0
    out = capsys.readouterr().out
    assert "stack pdf-flows in us-east-1: there is none" in out
    assert out.splitlines()[-1] == "still running: nothing, $0.00/h"
    assert call(*up) == 0
    instance = cloud.run(WorkerID="0", Name="pdf-worker-0")[0]
    capsys.readouterr()
    assert call("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stack pdf-flows in us-east-1: CREATE_COMPLETE"
    assert any(line.split()[:2] == [instance, "g4dn.xlarge"] and line.endswith("worker 0") for line in lines)
    assert any(line.startswith("spent so far: $") for line in lines)
    assert any(
        line.startswith("tasks: https://us-east-1.console.aws.amazon.com/ecs/v2/clusters/pdf-flows/") for line in lines
    )
    assert lines[-1].startswith(
        f"still running: 1 instance ({instance} g4dn.xlarge on-demand pdf-worker-0), 1 volume ("
    )
    assert call("status", "--json") == 0
    found = json_of(capsys)
    assert found["state"]["instances"][0]["id"] == instance
    # g4dn.xlarge on-demand in its home region, 30 GB, and the address if moto gave one.
    assert 0.526 < found["usd_per_hour"] < 0.54


def test_a_failed_stack_names_its_cause() -> None:
    """Not the last event, and not those that were cancelled because of the first failure. moto's stacks do not fail."""
    at = datetime(2026, 11, 25, 12, tzinfo=UTC)
    events = [
        event("3", "Vpc", "CREATE_FAILED", at + timedelta(seconds=2), "Resource creation cancelled"),
        event("2", "SpotGroup", "CREATE_FAILED", at + timedelta(seconds=1), "You have exceeded your quota"),
        event("1", "Cluster", "CREATE_COMPLETE", at, ""),
    ]
    stack = {"StackName": "pdf-flows", "StackId": "arn:stack", "StackStatus": "ROLLBACK_COMPLETE", "CreationTime": at}
    answers = [
        ("create_stack", {"StackId": "arn:stack"}, None),
        ("describe_stacks", {"Stacks": [{**stack, "StackStatus": "CREATE_IN_PROGRESS"}]}, None),
        ("describe_stack_events", {"StackEvents": []}, None),
        ("describe_stacks", {"Stacks": [stack]}, None),
        ("describe_stack_events", {"StackEvents": events}, None),
        ("describe_stack_events", {"StackEvents": events}, None),
    ]
    waits: list[float] = []
    with stubbed("cloudformation", *answers) as client:
        account = Account(region=REGION, clients={"cloudformation": client})
        with pytest.raises(AwsError) as raised:
            Stacks(account, sleep=waits.append).create({"TemplateBody": "x"}, {})
    assert str(raised.value) == (
        "the stack pdf-flows is ROLLBACK_COMPLETE: SpotGroup CREATE_FAILED: You have exceeded your quota: mend that, and "
        "pdf-flows aws up again"
    )
    assert waits == [5.0]


def event(id: str, resource: str, status: str, at: datetime, why: str) -> dict[str, Any]:
    return {
        "StackId": "arn:stack",
        "EventId": id,
        "StackName": "pdf-flows",
        "LogicalResourceId": resource,
        "ResourceStatus": status,
        "Timestamp": at,
        **({"ResourceStatusReason": why} if why else {}),
    }


def test_a_large_template_goes_through_a_bucket_that_is_gone_afterwards(
    cloud: Cloud, up: list[str], tmp_path: Path
) -> None:
    large = tmp_path / "large.yaml"
    large.write_text(template(cloud) + "#" * INLINE_BYTES + "\n")
    assert call("up", "--template", str(large), *up[3:]) == 0
    stack = Stacks(cloud.account).find()
    assert stack is not None
    assert stack.status == "CREATE_COMPLETE"
    assert not any("templates" in item["Name"] for item in cloud.client("s3").list_buckets()["Buckets"])
    with template_store.offered(cloud.account, "small: 1") as offered:
        assert offered == {"TemplateBody": "small: 1"}


def test_log_group_that_launch_made_is_not_made_twice(cloud: Cloud, up: list[str]) -> None:
    cloud.client("logs").create_log_group(logGroupName="/aws/ec2/pdf-workers/")
    assert call(*up) == 0
    stack = Stacks(cloud.account).find()
    assert stack is not None
    assert stack.parameters["CreateLogGroup"] == "false"


def test_bad_input(cloud: Cloud, up: list[str], tmp_path: Path) -> None:
    for words, message in (
        (["up", "--vpc", "vpc-0123"], "--vpc and --subnets go together"),
        (["up", "--email", "ada"], "bad --email"),
        (["up", "--no-control-host"], "--no-control-host needs --api-url"),
        (["up", "--workers", "0"], "bad --workers"),
        (["up", "--budget", "much"], "bad --budget: 'much' is no amount of US dollars"),
        (["up", "--parameter", "Nonsense"], "bad --parameter 'Nonsense': give KEY=VALUE"),
        ([*up, "--parameter", "Nonsense=1"], "the template has no parameter Nonsense"),
        (["up", "--build", "--image", "x"], "--build makes the image that --image would replace"),
        (["up", "--template", str(tmp_path / "none.yaml")], "cannot be read"),
        (["up", "--max-price", "auto", "--workers", "100", "--max-hours", "720", "--budget", "5"], "less than a cent"),
    ):
        with pytest.raises(UsageError) as raised:
            call(*words)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


def test_everything_that_costs_is_found_by_its_tag(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    tags = [{"Key": "Project", "Value": "pdf-flows"}]
    vpc, subnets = cloud.network()
    volume = ec2.create_volume(
        AvailabilityZone="us-east-1a",
        Size=100,
        VolumeType="gp3",
        TagSpecifications=[{"ResourceType": "volume", "Tags": tags}],
    )["VolumeId"]
    address = ec2.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}])
    gateway = ec2.create_nat_gateway(
        SubnetId=subnets[0],
        AllocationId=address["AllocationId"],
        TagSpecifications=[{"ResourceType": "natgateway", "Tags": tags}],
    )["NatGateway"]["NatGatewayId"]
    endpoint = ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName="com.amazonaws.us-east-1.logs",
        VpcEndpointType="Interface",
        SubnetIds=subnets,
        TagSpecifications=[{"ResourceType": "vpc-endpoint", "Tags": tags}],
    )["VpcEndpoint"]["VpcEndpointId"]
    stopped, gone = cloud.run(), cloud.run()
    ec2.stop_instances(InstanceIds=stopped)
    ec2.terminate_instances(InstanceIds=gone)
    cloud.run(Project="another")
    state = fleet_state.look(cloud.account)
    found = running.running(state, lambda instance: 1.0)
    by_id = {item.id: item for item in found.items}
    assert gone[0] not in by_id
    # Stopped: no compute, but the disk is paid for, and it may be started again.
    assert by_id[stopped[0]].usd_per_hour == 0.0
    assert by_id[volume].usd_per_hour == pytest.approx(8 / 730)
    assert {i.kind for i in found.items} == {"instance", "volume", "address", "NAT gateway", "interface endpoint"}
    assert by_id[gateway].usd_per_hour == 0.045
    assert by_id[endpoint].usd_per_hour == pytest.approx(0.02)
    assert found.line().startswith(
        f"still running: 1 instance ({stopped[0]} (g4dn.xlarge on-demand, stopped)), 2 volumes ("
    )
