"""Who may do what: proved by evaluating the template's policies, with mutants that the proofs catch; and the table of it all."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from iam_evaluator import allowed, like, listed, policies, statements
from template_kit import Rendered

DOC = Path(__file__).parents[2] / "docs" / "iam.md"
ROLES = (
    "TaskRole",
    "ExecutionRole",
    "InstanceRole",
    "PlainRole",
    "PrefectWorkerRole",
    "OperatorRole",
    "BuildRole",
    "BudgetRole",
)
IN, OUT, SOURCE = "arn:aws:s3:::inputbucket", "arn:aws:s3:::outputbucket", "arn:aws:s3:::sourcebucket"
CLUSTER = "arn:aws:ecs:us-east-1:123456789012:cluster/pdf-flows"
ACCOUNT = "us-east-1:123456789012"
CHECKPOINT = f"{OUT}/output/_runs/r1/checkpoints/abc/dolphin/7"
LOGS = f"arn:aws:logs:{ACCOUNT}:log-group:/aws/ec2/pdf-workers/:log-stream"

Statements = list[dict[str, Any]]
Request = tuple[str, str, dict[str, str]]


def to(action: str, resource: str, **context: str) -> Request:
    """A request. Keys of its context have __ for the colon."""
    return action, resource, {key.replace("__", ":"): value for key, value in context.items()}


MAY: tuple[Request, ...] = (
    to("s3:ListBucket", IN, s3__prefix="input/"),
    to("s3:ListBucket", OUT, s3__prefix="output/"),
    to("s3:ListBucket", OUT, s3__prefix="output/_runs/r1/claims/0/"),
    to("s3:GetObject", f"{IN}/input/a/b.pdf"),
    to("s3:GetObject", f"{OUT}/output/a/b.md"),
    to("s3:GetObject", f"{OUT}/output/_runs/r1/run.json"),
    to("s3:PutObject", f"{OUT}/output/a/b.md"),
    to("s3:PutObject", f"{OUT}/output/_runs/r1/workers/0/1/heartbeat.json"),
    to("s3:DeleteObject", CHECKPOINT),
    to("logs:CreateLogStream", f"{LOGS}:worker-0"),
    to("logs:PutLogEvents", f"{LOGS}:worker-12"),
)
"""What a worker's container needs."""
MAY_NOT: tuple[Request, ...] = (
    # Reading outside its prefixes.
    to("s3:GetObject", f"{IN}/private/a.pdf"),
    to("s3:GetObject", f"{IN}/inputs/a.pdf"),
    to("s3:GetObject", f"{OUT}/other/a.md"),
    to("s3:GetObject", f"{SOURCE}/source.zip"),
    to("s3:GetObject", "arn:aws:s3:::somebody-elses/input/a.pdf"),
    to("s3:GetObjectVersion", f"{OUT}/output/a.md"),
    to("s3:ListBucket", IN),
    to("s3:ListBucket", IN, s3__prefix=""),
    to("s3:ListBucket", IN, s3__prefix="private/"),
    to("s3:ListBucket", OUT, s3__prefix="other/"),
    to("s3:ListBucket", SOURCE, s3__prefix="input/"),
    to("s3:ListAllMyBuckets", "*"),
    # Writing.
    to("s3:PutObject", f"{IN}/input/a.pdf"),
    to("s3:PutObject", f"{OUT}/other/a.md"),
    to("s3:PutObject", f"{SOURCE}/source.zip"),
    to("s3:PutBucketPolicy", OUT),
    to("s3:PutLifecycleConfiguration", OUT),
    # Deleting anything but checkpoints.
    to("s3:DeleteObject", f"{OUT}/output/a/b.md"),
    to("s3:DeleteObject", f"{OUT}/output/checkpoints/b.md"),
    to("s3:DeleteObject", f"{OUT}/output/_runs/r1/run.json"),
    to("s3:DeleteObject", f"{OUT}/output/_runs/r1/claims/0/000000001/1"),
    to("s3:DeleteObject", f"{OUT}/output/_runs/r1/replaced/checkpoints/a.md"),
    to("s3:DeleteObject", f"{OUT}/_runs/r1/checkpoints/a"),
    to("s3:DeleteObject", f"{IN}/input/a.pdf"),
    to("s3:DeleteObject", f"{IN}/output/_runs/r1/checkpoints/a"),
    to("s3:DeleteObjectVersion", CHECKPOINT),
    to("s3:DeleteBucket", OUT),
    # Anything else.
    to("logs:PutLogEvents", f"{LOGS}:build/1"),
    to("logs:PutLogEvents", f"arn:aws:logs:{ACCOUNT}:log-group:/other:log-stream:worker-0"),
    to("logs:CreateLogGroup", f"arn:aws:logs:{ACCOUNT}:log-group:/aws/ec2/pdf-workers/"),
    to("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{ACCOUNT}:secret:apiauthsecret-AbCdEf"),
    to("iam:PassRole", "arn:aws:iam::123456789012:role/operatorrole", iam__PassedToService="ecs-tasks.amazonaws.com"),
    to("sts:AssumeRole", "arn:aws:iam::123456789012:role/operatorrole"),
    to("ecs:RunTask", f"arn:aws:ecs:{ACCOUNT}:task-definition/pdf-flows-worker:1", ecs__cluster=CLUSTER),
    to("ec2:TerminateInstances", f"arn:aws:ec2:{ACCOUNT}:instance/i-1", aws__ResourceTag__Project="pdf-flows"),
)
"""What it must not do."""


def broken(given: Statements) -> list[str]:
    """The rules about a worker's container that these statements break."""
    return [f"may not {request}" for request in MAY if not allowed(given, *request)] + [
        f"may {request}" for request in MAY_NOT if allowed(given, *request)
    ]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return Rendered()


@pytest.mark.parametrize("role", ["TaskRole", "PlainRole", "PrefectWorkerRole"])
def test_who_converts_reads_writes_and_deletes_only_where_it_may(rendered: Rendered, role: str) -> None:
    given = statements(rendered, role)
    others = {"TaskRole": (), "PlainRole": (), "PrefectWorkerRole": ("logs:", "ecs:RunTask")}[role]
    assert [rule for rule in broken(given) if not any(word in rule for word in others)] == []


def test_existing_buckets_and_other_prefixes_move_the_same_fences() -> None:
    given = statements(
        Rendered(
            {"ExistingInputBucket": "mine", "ExistingOutputBucket": "mine", "InputPrefix": "in/", "OutputPrefix": ""}
        ),
        "TaskRole",
    )
    bucket = "arn:aws:s3:::mine"
    assert allowed(given, "s3:GetObject", f"{bucket}/in/a.pdf")
    assert allowed(given, "s3:PutObject", f"{bucket}/a.md")
    assert allowed(given, "s3:DeleteObject", f"{bucket}/_runs/r1/checkpoints/a")
    assert not allowed(given, "s3:DeleteObject", f"{bucket}/a.md")
    assert not allowed(given, "s3:PutObject", f"{IN}/input/a.pdf")


def _each(given: Statements, action: str, change: Callable[[dict[str, Any]], None]) -> Statements:
    """A copy, with `change` made to every statement about the action."""
    mutant = copy.deepcopy(given)
    hit = [s for s in mutant if action in listed(s["Action"])]
    assert hit
    for statement in hit:
        change(statement)
    return mutant


def _without(given: Statements, action: str, effect: str = "Allow") -> Statements:
    return [s for s in copy.deepcopy(given) if not (action in listed(s["Action"]) and s["Effect"] == effect)]


def _wider(statement: dict[str, Any]) -> None:
    statement["Resource"] = [re.sub(r"(:::[a-z]+)/.*", r"\1/*", resource) for resource in listed(statement["Resource"])]


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement.__setitem__(key, value)


FAILURES = f"{OUT}/failures/worker-3-failures.json"


def test_a_plain_worker_writes_its_failures_to_the_original_place_and_others_do_not(rendered: Rendered) -> None:
    for key in (FAILURES, f"{OUT}/failures/worker-3/2025/env-0123.json"):
        assert allowed(statements(rendered, "PlainRole"), "s3:PutObject", key)
    assert not allowed(statements(rendered, "PlainRole"), "s3:PutObject", f"{OUT}/failures/other.json")
    assert not allowed(statements(rendered, "TaskRole"), "s3:PutObject", FAILURES)


MUTANTS: dict[str, Callable[[Statements], Statements]] = {
    "reads whole buckets": lambda g: _each(g, "s3:GetObject", _wider),
    "writes the whole output bucket": lambda g: _each(g, "s3:PutObject", _wider),
    "deletes outputs": lambda g: _without(_each(g, "s3:DeleteObject", _wider), "s3:DeleteObject", "Deny"),
    "deletes anywhere in a run": lambda g: [
        *_without(g, "s3:DeleteObject"),
        {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": f"{OUT}/output/_runs/*"},
    ],
    "deletes what was replaced": lambda g: _without(g, "s3:DeleteObject", "Deny"),
    "deletes nothing": lambda g: _without(g, "s3:DeleteObject"),
    "deletes versions": lambda g: _each(g, "s3:DeleteObject", _set("Action", "s3:DeleteObject*")),
    "lists whole buckets": lambda g: _each(g, "s3:ListBucket", lambda s: s.pop("Condition")),
    "lists nothing": lambda g: _without(g, "s3:ListBucket"),
    "all of S3": lambda g: [*g, {"Effect": "Allow", "Action": "s3:*", "Resource": f"{OUT}/*"}],
    "prefix without its slash": lambda g: _each(
        g, "s3:GetObject", _set("Resource", [f"{IN}/input*", f"{OUT}/output/*"])
    ),
    "another bucket, too": lambda g: _each(
        g, "s3:GetObject", lambda s: s.__setitem__("Resource", [*s["Resource"], f"{SOURCE}/*"])
    ),
    "writes the input": lambda g: _each(g, "s3:PutObject", _set("Resource", [f"{IN}/input/*", f"{OUT}/output/*"])),
    "any log stream": lambda g: _each(g, "logs:PutLogEvents", _set("Resource", f"{LOGS}:*")),
    "reads secrets": lambda g: [*g, {"Effect": "Allow", "Action": "secretsmanager:Get*", "Resource": "*"}],
    "passes roles": lambda g: [*g, {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "*"}],
    "becomes another": lambda g: [*g, {"Effect": "Allow", "Action": "sts:assumerole", "Resource": "*"}],
    "everything": lambda g: [*g, {"Effect": "Allow", "Action": "*", "Resource": "*"}],
    "nothing": lambda g: [*g, {"Effect": "Deny", "Action": "*", "Resource": "*"}],
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_proofs_catch(rendered: Rendered, name: str) -> None:
    given = statements(rendered, "TaskRole")
    assert broken(given) == []
    assert broken(MUTANTS[name](given)) != []


def test_the_evaluator_knows_iams_wildcards_and_does_not_guess() -> None:
    assert like("s3:Get*", "s3:GetObject") and like("S3:GETOBJECT", "s3:GetObject", caseless=True)
    assert like("a/*/c", "a/b/b/c") and not like("a/?/c", "a/bb/c") and not like("a.c", "abc")
    allow = {"Effect": "Allow", "Action": "x:*", "Resource": "*"}
    assert allowed([allow], "x:Y", "r")
    assert not allowed([allow, allow | {"Effect": "Deny", "Action": "x:Y"}], "x:Y", "r")
    conditional = allow | {"Condition": {"StringEquals": {"aws:ResourceTag/Project": ["a", "b"]}}}
    assert allowed([conditional], "x:Y", "r", {"AWS:resourcetag/Project": "b"})
    assert not allowed([conditional], "x:Y", "r") and not allowed(
        [conditional], "x:Y", "r", {"aws:ResourceTag/Project": "c"}
    )
    with pytest.raises(AssertionError, match="NotResource"):
        allowed([{"Effect": "Allow", "Action": "x:*", "NotResource": "*"}], "x:Y", "r")
    with pytest.raises(AssertionError, match="StringLikeIfExists"):
        allowed([allow | {"Condition": {"StringLikeIfExists": {"k": "v"}}}], "x:Y", "r", {"k": "v"})


def test_the_instance_role_in_the_containers_reach_has_no_data(rendered: Rendered) -> None:
    given = statements(rendered, "InstanceRole")
    for action, resource, context in (*MAY, *MAY_NOT):
        assert not allowed(given, action, resource, context), action
    assert allowed(given, "ecs:Poll", "*", {"ecs:cluster": CLUSTER})
    assert not allowed(given, "ecs:Poll", "*", {"ecs:cluster": CLUSTER + "2"})
    assert allowed(given, "ssmmessages:OpenDataChannel", "*")


def test_the_execution_role_pulls_one_repository_and_writes_container_logs(rendered: Rendered) -> None:
    given = statements(rendered, "ExecutionRole")
    repository = f"arn:aws:ecr:{ACCOUNT}:repository/pdf-flows/worker"
    assert allowed(given, "ecr:BatchGetImage", repository)
    assert not allowed(given, "ecr:BatchGetImage", f"arn:aws:ecr:{ACCOUNT}:repository/other")
    assert not allowed(given, "ecr:PutImage", repository)
    assert allowed(given, "logs:PutLogEvents", f"{LOGS}:ecs/prefect/1")
    assert not allowed(given, "logs:PutLogEvents", f"{LOGS}:worker-0")
    other = f"arn:aws:ecr:{ACCOUNT}:repository/other"
    assert allowed(statements(Rendered({"ImageRepositoryArn": other}), "ExecutionRole"), "ecr:BatchGetImage", other)


def test_prefects_worker_runs_the_stacks_task_only_in_its_cluster(rendered: Rendered) -> None:
    given = statements(rendered, "PrefectWorkerRole")
    definition = f"arn:aws:ecs:{ACCOUNT}:task-definition/pdf-flows-worker:3"
    assert allowed(given, "ecs:RunTask", definition, {"ecs:cluster": CLUSTER})
    assert not allowed(given, "ecs:RunTask", definition, {"ecs:cluster": CLUSTER + "2"})
    assert not allowed(given, "ecs:RunTask", definition.replace("-worker", "-other"), {"ecs:cluster": CLUSTER})
    assert not allowed(given, "ecs:RegisterTaskDefinition", "*")
    task = f"arn:aws:ecs:{ACCOUNT}:task/pdf-flows/1"
    assert allowed(given, "ecs:StopTask", task) and not allowed(
        given, "ecs:StopTask", task.replace("pdf-flows", "other")
    )
    assert allowed(given, "ecs:TagResource", task, {"ecs:CreateAction": "RunTask"})
    assert not allowed(given, "ecs:TagResource", task)
    ecs, ec2 = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}, {"iam:PassedToService": "ec2.amazonaws.com"}
    role = "arn:aws:iam::123456789012:role/"
    assert allowed(given, "iam:PassRole", f"{role}taskrole", ecs) and allowed(
        given, "iam:PassRole", f"{role}executionrole", ecs
    )
    assert not allowed(given, "iam:PassRole", f"{role}taskrole", ec2)
    assert not allowed(given, "iam:PassRole", f"{role}operatorrole", ecs)
    queue = f"arn:aws:sqs:{ACCOUNT}:pdf-flows-ecs-events"
    assert all(allowed(given, f"sqs:{a}", queue) for a in ("ReceiveMessage", "DeleteMessage", "GetQueueUrl"))
    assert not allowed(given, "sqs:ReceiveMessage", f"arn:aws:sqs:{ACCOUNT}:pdf-flows-spot-events")


def test_machines_follow_prefects_tasks_and_the_operator_ends_them(rendered: Rendered) -> None:
    """Prefect's role starts and stops tasks; ECS' managed scaling brings machines, and takes them away when they are idle."""
    given, operator = statements(rendered, "PrefectWorkerRole"), statements(rendered, "OperatorRole")
    assert not any(action.startswith("autoscaling:") for s in given for action in listed(s["Action"]))
    group = f"arn:aws:autoscaling:{ACCOUNT}:autoScalingGroup:0-1:autoScalingGroupName/pdf-flows-"
    for action in ("SetInstanceProtection", "UpdateAutoScalingGroup"):
        assert allowed(operator, f"autoscaling:{action}", f"{group}spot")
        assert allowed(operator, f"autoscaling:{action}", f"{group}on-demand")
        assert not allowed(operator, f"autoscaling:{action}", f"{group}other")
    volume, mine = f"arn:aws:ec2:{ACCOUNT}:volume/vol-1", {"aws:ResourceTag/Name": "pdf-flows-control"}
    assert allowed(given, "ec2:AttachVolume", volume, mine) and not allowed(given, "ec2:AttachVolume", volume)
    assert not allowed(given, "ec2:TerminateInstances", f"arn:aws:ec2:{ACCOUNT}:instance/i-1", mine)


def test_the_operator_runs_things_and_changes_no_permission(rendered: Rendered) -> None:
    given = statements(rendered, "OperatorRole")
    instance = f"arn:aws:ec2:{ACCOUNT}:instance/i-1"
    ours, theirs = {"aws:ResourceTag/Project": "pdf-flows"}, {"aws:ResourceTag/Project": "other"}
    for action in ("ssm:StartSession", "ssm:SendCommand", "ec2:TerminateInstances"):
        assert allowed(given, action, instance, ours), action
        assert not allowed(given, action, instance, theirs), action
    assert allowed(given, "s3:PutObject", f"{IN}/input/a.pdf") and allowed(given, "s3:GetObject", f"{OUT}/output/a.md")
    assert allowed(given, "s3:PutObject", f"{OUT}/output/_runs/r1/scale/3.json")
    assert not allowed(given, "s3:PutObject", f"{OUT}/output/a.md")
    assert not allowed(given, "s3:DeleteObject", CHECKPOINT)
    for action in (
        "iam:PassRole",
        "iam:PutRolePolicy",
        "cloudformation:UpdateStack",
        "ec2:RunInstances",
        "ecs:RunTask",
    ):
        assert not allowed(given, action, "*", ours), action


def test_the_build_pushes_to_one_repository(rendered: Rendered) -> None:
    given = statements(rendered, "BuildRole")
    repository = f"arn:aws:ecr:{ACCOUNT}:repository/pdf-flows/worker"
    assert allowed(given, "ecr:PutImage", repository) and not allowed(given, "ecr:PutImage", repository + "2")
    assert allowed(given, "s3:GetObject", f"{SOURCE}/source.zip")
    assert not allowed(given, "s3:GetObject", f"{OUT}/output/a.md") and not allowed(
        given, "s3:PutObject", f"{SOURCE}/x"
    )


def test_the_budget_attaches_one_policy_to_one_role_and_it_stops_new_tasks(rendered: Rendered) -> None:
    given = statements(rendered, "BudgetRole")
    stop = rendered({"Ref": "StopPolicy"})
    worker = "arn:aws:iam::123456789012:role/prefectworkerrole"
    assert allowed(given, "iam:AttachRolePolicy", worker, {"iam:PolicyARN": stop})
    assert not allowed(
        given, "iam:AttachRolePolicy", worker, {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}
    )
    assert not allowed(
        given, "iam:AttachRolePolicy", worker.replace("prefectworker", "operator"), {"iam:PolicyARN": stop}
    )
    after = statements(rendered, "PrefectWorkerRole") + rendered.properties("StopPolicy")["PolicyDocument"]["Statement"]
    definition = f"arn:aws:ecs:{ACCOUNT}:task-definition/pdf-flows-worker:3"
    assert not allowed(after, "ecs:RunTask", definition, {"ecs:cluster": CLUSTER})
    assert allowed(after, "ecs:StopTask", f"arn:aws:ecs:{ACCOUNT}:task/pdf-flows/1")


def test_who_may_read_the_api_secret(rendered: Rendered) -> None:
    """By the secret's own policy; nobody else's policy mentions it."""
    (statement,) = rendered.properties("ApiSecretPolicy")["ResourcePolicy"]["Statement"]
    names = {arn.rsplit("/", 1)[1] for arn in statement["Principal"]["AWS"]}
    assert names == {"executionrole", "prefectworkerrole", "operatorrole"}
    secret = rendered({"Ref": "ApiAuthSecret"})
    for role in ROLES:
        assert not allowed(statements(rendered, role), "secretsmanager:GetSecretValue", secret), role


def test_passwords_are_read_only_where_a_secret_was_named() -> None:
    secret = f"arn:aws:secretsmanager:{ACCOUNT}:secret:pdf/passwords-AbCdEf"
    assert not allowed(statements(Rendered(), "TaskRole"), "secretsmanager:GetSecretValue", secret)
    given = statements(Rendered({"PasswordSecretName": "pdf/passwords"}), "TaskRole")
    assert allowed(given, "secretsmanager:GetSecretValue", secret)
    assert not allowed(given, "secretsmanager:GetSecretValue", secret.replace("passwords", "passwords-2"))


STAR = {
    "autoscaling:DescribeAutoScalingGroups",
    "ce:ListCostAllocationTags",
    "ec2:DescribeAddresses",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstances",
    "ec2:DescribeNatGateways",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:DescribeTags",
    "ec2:DescribeVolumes",
    "ec2:DescribeVpcEndpoints",
    "ec2:DescribeVpcs",
    "ec2messages:AcknowledgeMessage",
    "ec2messages:DeleteMessage",
    "ec2messages:FailMessage",
    "ec2messages:GetEndpoint",
    "ec2messages:GetMessages",
    "ec2messages:SendReply",
    "ecr:GetAuthorizationToken",
    "ecs:DescribeTaskDefinition",
    "ecs:DiscoverPollEndpoint",
    "logs:DescribeLogGroups",
    "servicequotas:GetAWSDefaultServiceQuota",
    "servicequotas:GetServiceQuota",
    "servicequotas:ListRequestedServiceQuotaChangeHistoryByQuota",
    "ssm:GetCommandInvocation",
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
    "tag:GetResources",
}
"""Actions that AWS knows no resource for, or whose resource does not exist before (the SSM agent's own registration)."""


@pytest.mark.parametrize("role", ROLES)
def test_no_wildcard_where_a_resource_can_be_named(rendered: Rendered, role: str) -> None:
    for statement in statements(rendered, role):
        for action in listed(statement["Action"]):
            assert "*" not in action and "?" not in action, action
        if listed(statement["Resource"]) == ["*"] and "Condition" not in statement:
            assert set(listed(statement["Action"])) <= STAR


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_not_larger_than_iam_takes(rendered: Rendered, role: str) -> None:
    """AWS documentation, IAM quotas: 10,240 characters of inline policies a role, white space not counted."""
    assert sum(len(json.dumps(group, separators=(",", ":"))) for group in policies(rendered, role).values()) < 10_000


@pytest.mark.parametrize("role", ROLES)
def test_who_may_take_a_role_on(rendered: Rendered, role: str) -> None:
    (trust,) = rendered.properties(role)["AssumeRolePolicyDocument"]["Statement"]
    services = {
        "TaskRole": "ecs-tasks.amazonaws.com",
        "ExecutionRole": "ecs-tasks.amazonaws.com",
        "InstanceRole": "ec2.amazonaws.com",
        "PlainRole": "ec2.amazonaws.com",
        "PrefectWorkerRole": "ec2.amazonaws.com",
        "BuildRole": "codebuild.amazonaws.com",
        "BudgetRole": "budgets.amazonaws.com",
    }
    expected = {"Service": services[role]} if role in services else {"AWS": "arn:aws:iam::123456789012:root"}
    assert trust["Principal"] == expected
    if services.get(role, "ec2.amazonaws.com") != "ec2.amazonaws.com":
        # Another account's tasks must not make ours serve them.
        assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_without_a_control_host_the_user_takes_prefects_role_on() -> None:
    given = Rendered({"ControlHost": "false", "PrefectApiUrl": "https://prefect", "PrefectSecretName": "prefect/key"})
    (trust,) = given.properties("PrefectWorkerRole")["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}
    secret = f"arn:aws:secretsmanager:{ACCOUNT}:secret:prefect/key-AbCdEf"
    assert allowed(statements(given, "ExecutionRole"), "secretsmanager:GetSecretValue", secret)
    assert not allowed(statements(given, "TaskRole"), "secretsmanager:GetSecretValue", secret)


def test_parents_may_tell_the_stacks_topic_and_no_other(rendered: Rendered) -> None:
    """Which their deployments have as a default (`deployments/aws/pool.py`)."""
    topic = str(rendered.outputs["TopicArn"])
    given = statements(rendered, "PrefectWorkerRole")
    assert allowed(given, "sns:Publish", topic)
    assert not allowed(given, "sns:Publish", topic + "-other")


def table() -> list[str]:
    """The rows of docs/iam.md: role, action, resource, condition, with names for what differs from stack to stack."""
    names = ("InputPrefix", "OutputPrefix", "ProjectName", "PasswordSecretName", "PrefectSecretName")
    spoken = {
        "InputBucket": "<input bucket>",
        "OutputBucket": "<output bucket>",
        "SourceBucket.Arn": "arn:aws:s3:::<source bucket>",
        "Cluster": "<ProjectName>",
        "Topic": "<topic>",
        "StopPolicy": "<StopPolicy>",
        "Repository.Arn": "<repository>",
        "EventsQueue.Arn": "<events queue>",
        "Cluster.Arn": "<cluster>",
        **{f"{role}.Arn": f"<{role}>" for role in ROLES},
    }
    given = Rendered(
        {name: f"<{name}>" for name in names} | {"ImageRepositoryArn": "<ImageRepositoryArn>"},
        pseudo={"AWS::AccountId": "<account>", "AWS::Region": "<region>", "AWS::StackId": "<stack>"},
        conditions={"WithPasswords": True, "GivenSecret": True, "HasControl": True, "OtherRepository": True},
        references=spoken,
    )
    rows = []
    for role in ROLES:
        for name, group in policies(given, role).items():
            for statement in group:
                condition = "; ".join(
                    f"{operator} {key} = {' or '.join(listed(value))}"
                    for operator, keys in statement.get("Condition", {}).items()
                    for key, value in keys.items()
                )
                deny = "**not** " if statement["Effect"] == "Deny" else ""
                for action in sorted(listed(statement["Action"])):
                    for resource in dict.fromkeys(listed(statement["Resource"])):
                        rows.append(
                            f"| {role} | {name} | {deny}{action} | `{resource}` | {f'`{condition}`' if condition else ''} |"
                        )
    return rows


def test_the_table_of_every_action_and_resource_is_the_templates() -> None:
    written = [
        line for line in DOC.read_text(encoding="utf-8").splitlines() if re.match(r"\| \w+Role \| [a-z-]+ \|", line)
    ]
    assert written == table()
