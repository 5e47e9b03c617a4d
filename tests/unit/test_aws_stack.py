"""`pdf-flows aws up`, `status`, `stop`, `down` on a real CloudFormation API (moto): made, changed, deleted, and what is left."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from aws_kit import REGION, Cloud, call, json_of, own_account, stubbed, template
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from conftest import MotoS3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.aws import fleet_state, kept_buckets, running, scale_in, stop, template_store
from deployments.aws import up as runner
from deployments.aws.account import Account, check_project
from deployments.aws.errors import AwsError
from deployments.aws.parameters import stack_options
from deployments.aws.stack import INLINE_BYTES, TEMPLATE, Stacks
from deployments.aws.steps import Steps
from tasks.corpus.failures import UsageError

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


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
    # Nobody is at the API that the stack names: a pool that was not paused is worth a status.
    capsys.readouterr()
    assert call("down") == 1
    out, err = capsys.readouterr()
    assert "note: the work pool was not paused and no flow run cancelled: the stack's Prefect API" in err
    assert out.splitlines()[-1] == "still running: nothing, $0.00/h"
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


def test_buckets_that_an_earlier_down_kept_are_deleted_when_asked(
    cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*up) == 0
    stack = Stacks(cloud.account).find()
    assert stack is not None
    s3, tags = cloud.client("s3"), {"TagSet": cloud.account.tags}
    s3.put_object(Bucket=stack.outputs["OutputBucket"], Key="output/a.md", Body=b"#")
    # Somebody else's: by the same tag, and by a name such as a stack gives.
    others = {"pdf-flows-archive", "pdf-flows-inputbucket-abc123def456"}
    for name in others:
        s3.create_bucket(Bucket=name)
        s3.put_object(Bucket=name, Key="x", Body=b"x")
    s3.put_bucket_tagging(Bucket="pdf-flows-archive", Tagging=tags)
    assert call("down") == 0
    assert "--delete-buckets deletes them, too" in capsys.readouterr().err
    assert call("down", "--delete-buckets", "--dry-run") == 0
    assert (
        f"would empty the bucket {stack.outputs['OutputBucket']}, which an earlier down kept" in capsys.readouterr().err
    )
    assert call("down", "--delete-buckets") == 0
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == others
    assert [s3.list_objects_v2(Bucket=name)["KeyCount"] for name in others] == [1, 1]


ITS = {"Project": "pdf-flows", kept_buckets._STACK: "pdf-flows", kept_buckets._LOGICAL: "InputBucket"}


@pytest.mark.parametrize(
    ("name", "tags", "made"),
    [
        ("any", ITS, True),
        ("any", ITS | {kept_buckets._LOGICAL: "Archive"}, False),
        ("pdf-flows-inputbucket-abc123def456", ITS | {kept_buckets._STACK: "another"}, False),
        ("any", ITS | {"Project": "another"}, False),
        ("pdf-flows-outputbucket-abc123def456", {"Project": "pdf-flows"}, True),
        ("pdf-flows-sourcebucket-abc123def4567", {"Project": "pdf-flows"}, True),
        ("pdf-flows-outputbucket-mine", {"Project": "pdf-flows"}, False),
        ("pdf-flows-archive-abc123def456", {"Project": "pdf-flows"}, False),
        ("another-outputbucket-abc123def456", {"Project": "pdf-flows"}, False),
        ("pdf-flows-outputbucket-abc123def456", {}, False),
    ],
)
def test_which_buckets_the_stack_made(name: str, tags: dict[str, str], made: bool) -> None:
    assert kept_buckets.made_by_stack("pdf-flows", name, tags) is made


def test_kept_buckets_that_cannot_be_looked_for_are_said(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with stubbed("resourcegroupstaggingapi", *[("get_resources", "AccessDeniedException", None)] * 2) as tagging:
        account = Account(region=REGION, clients={"resourcegroupstaggingapi": tagging})
        monkeypatch.setattr("deployments.aws.command_options.Where.account", lambda self: account)
        assert call("down", "--delete-buckets") == 1
    assert "an earlier down kept were not looked for (GetResources: AccessDeniedException)" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- what is somebody else's

FOREIGN = """
Parameters:
  ProjectName: {{Type: String, Default: {default}}}
Resources:
  SourceBucket: {{Type: "AWS::S3::Bucket"}}
  Queue: {{Type: "AWS::SQS::Queue"}}
"""


@pytest.mark.parametrize("by", ["no tag", "another tag", "tag alone"])
def test_a_stack_of_somebody_else_is_left_alone(
    cloud: Cloud, up: list[str], by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = {"no tag": [], "another tag": [{"Key": "Project", "Value": "web"}]}.get(
        by, [{"Key": "Project", "Value": "payroll"}]
    )
    body = FOREIGN.format(default="payroll" if by != "tag alone" else "web")
    cloudformation, s3 = cloud.client("cloudformation"), cloud.client("s3")
    cloudformation.create_stack(StackName="payroll", TemplateBody=body, Tags=tags)
    (bucket,) = (item["Name"] for item in s3.list_buckets()["Buckets"])
    s3.put_object(Bucket=bucket, Key="salaries.csv", Body=b"x")
    instance = cloud.run(Project="payroll")[0]
    before = cloudformation.describe_stacks(StackName="payroll")["Stacks"]
    for words in (["down"], ["down", "--delete-buckets"], ["stop"], up, ["status"], ["pool"], ["ui"], ["launch"]):
        with pytest.raises(UsageError) as raised:
            call(*words, "--project", "payroll")
        assert str(raised.value) == (
            "the stack payroll in us-east-1 was not made by pdf-flows (it lacks the tag Project=payroll or the parameter "
            "ProjectName=payroll): it is left alone; choose another name with --project"
        )
    assert "..." not in capsys.readouterr().err
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert cloudformation.describe_stacks(StackName="payroll")["Stacks"] == before
    assert len(cloud.client("sqs").list_queues()["QueueUrls"]) == 1
    assert cloud.states()[instance] == "running"


def test_only_the_templates_own_buckets_are_emptied(cloud: Cloud, up: list[str]) -> None:
    """Whoever adds one to the template, with documents that are to stay, has not asked for it to be emptied."""
    path = Path(up[2])
    extra = "Resources:\n  Archive: {Type: AWS::S3::Bucket, DeletionPolicy: Retain}\n"
    path.write_text(path.read_text().replace("Resources:\n", extra))
    assert call(*up) == 0
    archive = {r.logical: r.physical for r in Stacks(cloud.account).resources()}["Archive"]
    s3 = cloud.client("s3")
    s3.put_object(Bucket=archive, Key="x", Body=b"x")
    assert call("down", "--delete-buckets") == 0
    assert s3.list_objects_v2(Bucket=archive)["KeyCount"] == 1
    assert [item["Name"] for item in s3.list_buckets()["Buckets"]] == [archive]


def test_something_left_by_the_hour_is_a_status(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop.Patience, "__init__", _quick(stop.Patience))
    assert call("down") == 0
    tags = {"ResourceType": "volume", "Tags": cloud.account.tags}
    cloud.client("ec2").create_volume(AvailabilityZone="us-east-1a", Size=500, TagSpecifications=[tags])
    capsys.readouterr()
    assert call("down") == 1
    assert capsys.readouterr().out.startswith("still running: 1 volume (vol-")
    assert call("down", "--dry-run") == 0


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
        original(self, **{"gone": 0.2, "vanish": 0.1, "poll": 0.05, **given})

    return make


def test_stop_closes_the_groups_where_prefect_is_out_of_reach(
    cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*up, "--workers", "2", "--no-control-host", "--api-url", "http://127.0.0.1:9/api") == 0
    group = scale_in.find_groups(cloud.account)[0]
    cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group.name, DesiredCapacity=2)
    assert call("stop") == 1
    out, err = capsys.readouterr()
    assert (
        "note: the work pool was not paused and no flow run cancelled: the stack's Prefect API http://127.0.0.1:9/api does not "
        "answer from here"
    ) in err
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


def test_what_status_shows_does_not_act_on_the_terminal(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "evil\x9b2J\u202egnp"  # XML has no other controls
    cloud.run(Name=evil)
    assert call("status") == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert out.count(r"evil\x9b2J\u202egnp") == 2
    assert call("stop", "--dry-run") == 0
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())
    assert call("status", "--json") == 0
    assert json_of(capsys)["state"]["instances"][0]["name"] == evil


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


def stack_answer(status: str) -> dict[str, Any]:
    """What CloudFormation says of a stack of ours."""
    return {
        "Stacks": [
            {
                "StackName": "pdf-flows",
                "StackId": "arn:stack",
                "StackStatus": status,
                "CreationTime": NOON,
                "Tags": [{"Key": "Project", "Value": "pdf-flows"}],
                "Parameters": [{"ParameterKey": "ProjectName", "ParameterValue": "pdf-flows"}],
            }
        ]
    }


def own(id: str, status: str, at: datetime) -> dict[str, Any]:
    """An event of the stack itself."""
    return {**event(id, "pdf-flows", status, at, ""), "PhysicalResourceId": "arn:stack"}


LAST_MONTH = [
    own("12", "UPDATE_ROLLBACK_COMPLETE", NOON - timedelta(days=30)),
    event("11", "OldThing", "UPDATE_FAILED", NOON - timedelta(days=30), "last month's cause"),
    own("10", "UPDATE_IN_PROGRESS", NOON - timedelta(days=30)),
]


def test_the_cause_is_of_this_operation_and_may_be_pages_back() -> None:
    """A hundred events a page, newest first; those of earlier failures are there for 90 days."""
    late = [event(str(1000 + n), f"R{n}", "DELETE_COMPLETE", NOON, "") for n in range(100)]
    early = [
        event("22", "NewThing", "UPDATE_FAILED", NOON, "today's \x1b[31mcause"),
        own("21", "UPDATE_IN_PROGRESS", NOON),
    ]
    pages = [
        ("describe_stack_events", {"StackEvents": late, "NextToken": "more"}, None),
        ("describe_stack_events", {"StackEvents": early + LAST_MONTH}, None),
    ]
    said: list[str] = []
    answers = [
        ("update_stack", {"StackId": "arn:stack"}, None),
        ("describe_stacks", stack_answer("UPDATE_ROLLBACK_COMPLETE"), None),
        *pages,
        *pages,
    ]
    with stubbed("cloudformation", *answers) as client:
        account = Account(region=REGION, clients={"cloudformation": client})
        with pytest.raises(AwsError) as raised:
            Stacks(account, say=said.append).update({"TemplateBody": "x"}, {}, [])
    assert str(raised.value) == (
        "the stack pdf-flows is UPDATE_ROLLBACK_COMPLETE: NewThing UPDATE_FAILED: today's \\x1b[31mcause: mend that, and "
        "pdf-flows aws up again"
    )
    assert len(said) == 101
    assert not any("last month" in line for line in said)


def test_a_stack_that_could_not_be_rolled_back_names_what_is_in_the_way_and_the_way_out(up: list[str]) -> None:
    events = [
        own("33", "UPDATE_ROLLBACK_FAILED", NOON),
        event("32", "SpotGroup", "UPDATE_FAILED", NOON, "its launch template is gone"),
        own("31", "UPDATE_ROLLBACK_IN_PROGRESS", NOON),
        event("30", "NewThing", "CREATE_FAILED", NOON, "quota"),
        own("29", "UPDATE_IN_PROGRESS", NOON),
    ]
    answers = [
        ("describe_stacks", stack_answer("UPDATE_ROLLBACK_FAILED"), None),
        ("describe_stack_events", {"StackEvents": events}, None),
    ]
    with stubbed("cloudformation", *answers) as client, pytest.raises(AwsError) as raised:
        account = Account(region=REGION, clients={"cloudformation": client})
        runner.up(account, stack_options(), Steps(tell=lambda text: None), template=Path(up[2]), deploy=())
    assert str(raised.value) == (
        "the stack pdf-flows is UPDATE_ROLLBACK_FAILED: SpotGroup UPDATE_FAILED: its launch template is gone: mend that and have "
        "CloudFormation go on (aws cloudformation continue-update-rollback --stack-name pdf-flows --region us-east-1), then "
        "pdf-flows aws up again; or pdf-flows aws down"
    )


def test_a_stack_that_was_deleted_meanwhile_is_gone() -> None:
    """By its id a deleted stack is found for 90 days; by its name it is not, and another can be made."""
    answers = [
        ("describe_stacks", stack_answer("DELETE_IN_PROGRESS"), None),
        ("describe_stacks", stack_answer("DELETE_IN_PROGRESS"), {"StackName": "arn:stack"}),
        ("describe_stack_events", {"StackEvents": []}, None),
        ("describe_stacks", stack_answer("DELETE_COMPLETE"), {"StackName": "arn:stack"}),
        ("describe_stack_events", {"StackEvents": []}, None),
    ]
    with stubbed("cloudformation", *answers) as client:
        account = Account(region=REGION, clients={"cloudformation": client})
        assert Stacks(account, sleep=lambda seconds: None).settle() is None


def test_two_ups_at_once(
    cloud: Cloud, up: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes the stack between our look and our asking."""
    settle = Stacks.settle
    looks: list[Any] = [lambda stacks: None, settle]
    monkeypatch.setattr(Stacks, "settle", lambda stacks: looks.pop(0)(stacks))
    with monkeypatch.context() as other:
        other.setattr(Stacks, "settle", settle)
        assert call(*up, "--workers", "3", "--email", "ada@example.org") == 0
    capsys.readouterr()
    assert call(*up, "--workers", "4") == 0
    err = capsys.readouterr().err
    assert "  somebody else has begun to make it: waiting for that" in err
    assert "bring the stack pdf-flows up to date" in err
    stack = Stacks(cloud.account).find()
    assert stack is not None
    # What was asked of this one, and the rest as the other one has it.
    assert (stack.parameters["Workers"], stack.parameters["NotificationEmail"]) == ("4", "ada@example.org")


def test_an_update_beside_another_is_one_line() -> None:
    words = "Stack:arn:stack is in UPDATE_IN_PROGRESS state and can not be updated."
    client = boto3.client("cloudformation", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="y")
    with Stubber(client) as stub:
        stub.add_client_error("update_stack", service_error_code="ValidationError", service_message=words)
        account = Account(region=REGION, clients={"cloudformation": client})
        with pytest.raises(AwsError, match="somebody else is at work on the stack pdf-flows"):
            Stacks(account).update({"TemplateBody": "x"}, {}, [])


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


LARGE = "x: 1\n#" + "x" * INLINE_BYTES


def test_a_template_is_there_as_long_as_its_own_up_needs_it(cloud: Cloud) -> None:
    s3 = cloud.client("s3")

    def there(offered: dict[str, str]) -> bytes:
        bucket, key = offered["TemplateURL"].split("/")[-2:]
        return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    with contextlib.ExitStack() as second:
        with template_store.offered(cloud.account, LARGE) as first:
            other = second.enter_context(template_store.offered(cloud.account, LARGE + "y"))
            assert (there(first), there(other)) == (LARGE.encode(), (LARGE + "y").encode())
        assert there(other) == (LARGE + "y").encode()
    assert s3.list_buckets()["Buckets"] == []
    # Somebody took it away: nothing is left to do.
    with template_store.offered(cloud.account, LARGE) as offered:
        bucket, key = offered["TemplateURL"].split("/")[-2:]
        s3.delete_object(Bucket=bucket, Key=key)
        s3.delete_bucket(Bucket=bucket)


def test_taking_the_template_back_hides_no_error(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**asked: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DeleteObject")

    monkeypatch.setattr(cloud.client("s3"), "delete_object", refuse)
    with pytest.raises(AwsError, match="the real one"), template_store.offered(cloud.account, LARGE):
        raise AwsError("the real one")
    # And where there was none it is said.
    with pytest.raises(ClientError, match="AccessDenied"), template_store.offered(cloud.account, LARGE):
        pass


def test_a_bucket_that_another_up_deletes_in_between_is_made_again(cloud: Cloud) -> None:
    s3 = cloud.client("s3")
    put, waits = s3.put_object, []

    def late(**asked: Any) -> Any:
        if not waits:
            s3.delete_bucket(Bucket=asked["Bucket"])
        return put(**asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "put_object", late)
        with template_store.offered(cloud.account, LARGE, sleep=waits.append) as offered:
            assert "TemplateURL" in offered
    assert waits == [template_store.PAUSE_SECONDS]


# ------------------------------------------------------------------------------------------------------------------------- names

PATTERNS = {
    "CloudFormation": r"[a-zA-Z][-a-zA-Z0-9]{0,127}",
    "ECR": r"(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*",
    "S3": r"(?!xn--|sthree-|amzn-s3-demo-)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "ECS": r"(?!aws|ecs|fargate)[a-zA-Z0-9_-]{1,255}",
}
"""Of the services' API references."""


@cache
def allowed_by_template() -> str:
    nodes = yaml.compose(TEMPLATE.read_text(encoding="utf-8"))
    for wanted in ("Parameters", "ProjectName", "AllowedPattern"):
        nodes = next(value for key, value in nodes.value if key.value == wanted)
    return str(nodes.value)


@given(st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True))
@example("pdf-flows")
@settings(deadline=None)  # the first one reads the template
def test_a_project_name_suits_all_that_is_called_after_it(name: str) -> None:
    try:
        check_project(name)
    except UsageError:
        return
    assert re.fullmatch(allowed_by_template(), name)
    assert re.fullmatch(PATTERNS["CloudFormation"], name)
    assert re.fullmatch(PATTERNS["ECR"], f"{name}/worker")
    assert re.fullmatch(PATTERNS["S3"], f"{name}-templates-123456789012-ap-southeast-2")
    assert re.fullmatch(PATTERNS["ECS"], f"{name}-spot")


@pytest.mark.parametrize(
    "name",
    [
        "Foo",
        "Foo_Bar",
        "ünï",
        "a b",
        "pdf-",
        "p--x",
        "-x",
        "1x2",
        "ab",
        "x" * 22,
        "*",
        "aws-x",
        "ecs-pdf",
        "fargate-1",
        "pdf\n",
    ],
)
def test_a_bad_project_name_is_refused_before_anything(cloud: Cloud, name: str) -> None:
    for command in ("up", "stop", "down", "launch", "status", "preflight"):
        with pytest.raises(UsageError) as raised:
            call(command, f"--project={name}")
        assert str(raised.value).startswith(f"bad project name {name!r}: ")
        assert "\n" not in str(raised.value)


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
        (["up", "--max-hours", "0"], "bad --max-hours"),
        (["up", "--max-hours", "1.5"], "bad --max-hours: Input should be a valid integer"),
        (["up", "--max-hours", "nan"], "bad --max-hours"),
        (["stop", "--drain", "nan"], "bad --drain nan: give seconds, 0 to 86400"),
        (["down", "--drain=-5"], "bad --drain -5"),
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
