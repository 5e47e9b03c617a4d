"""What the commands of `pdf-flows aws` call, read from their source: preflight asks about just that, the operator may do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aws_calls import actions
from aws_kit import stubbed
from iam_evaluator import allowed, statements
from template_kit import Rendered

from deployments.aws import permissions
from deployments.aws.account import Account, Identity
from deployments.aws.operating import ELSEWHERE, Ask, asks
from deployments.aws.stack import Stack

SOURCES = Path(__file__).parents[2] / "deployments" / "aws"
SET_UP = {"down.py", "kept_buckets.py", "template_store.py"}
"""Modules that only `up` and `down` use."""
CHANGES = {"cloudformation:CreateStack", "cloudformation:DeleteStack", "cloudformation:UpdateStack"}
WITHOUT_ASKING = {
    "sts:GetCallerIdentity",
    "secretsmanager:GetSecretValue",
    "iam:GetRole",
    "iam:SimulatePrincipalPolicy",
}
"""What needs no permission, what the secret's own policy gives, and the asking itself."""
NUMBER, REGION = "123456789012", "us-east-1"
ARN = f"arn:aws:ec2:{REGION}:{NUMBER}"


def called(*, but: set[str]) -> set[str]:
    return set().union(*(actions(path) for path in SOURCES.glob("*.py") if path.name not in but))


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return Rendered()


def stack_of(rendered: Rendered) -> Stack:
    return Stack(
        name="pdf-flows",
        id=f"arn:aws:cloudformation:{REGION}:{NUMBER}:stack/pdf-flows/0a1b",
        status="CREATE_COMPLETE",
        outputs={name: str(value) for name, value in rendered.outputs.items()},
        parameters={"InputPrefix": "input/"},
    )


def asked(rendered: Rendered) -> tuple[Ask, ...]:
    identity = Identity(account=NUMBER, arn=f"arn:aws:sts::{NUMBER}:assumed-role/Operator/ada")
    return asks(identity, REGION, "pdf-flows", stack_of(rendered))


def test_calls_are_found_in_source(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "def f(account):\n"
        "    ec2 = account.client('ec2')\n"
        "    ec2.describe_instances()\n"
        "    account.client('s3').get_paginator('list_objects_v2').paginate()\n"
        "    pages(ec2, 'describe_volumes', 'Volumes')\n"
        "    other.describe_subnets()\n"
    )
    assert actions(source) == {"ec2:DescribeInstances", "s3:ListBucket", "ec2:DescribeVolumes"}


def test_preflight_asks_about_what_the_commands_call(rendered: Rendered) -> None:
    wanted = {action for ask in asked(rendered) for action in ask.actions}
    assert wanted | set(ELSEWHERE) == called(but=SET_UP) - CHANGES - WITHOUT_ASKING


def test_and_before_there_is_a_stack_about_what_up_and_down_call() -> None:
    names = (
        *SET_UP,
        "connection.py",
        "ecs_tasks.py",
        "fleet_state.py",
        "image_build.py",
        "images.py",
        "parameters.py",
        "scale_in.py",
        "stack.py",
        "tunnel.py",
    )
    assert set().union(*(actions(SOURCES / name) for name in names)) <= set(permissions.MANAGED)


def test_the_operator_role_allows_all_of_it(rendered: Rendered) -> None:
    given = statements(rendered, "OperatorRole")
    refused = [
        (action, ask.resource)
        for ask in asked(rendered)
        for action in ask.actions
        if not allowed(given, action, ask.resource, ask.context)
    ]
    assert refused == []


def test_but_not_on_other_things(rendered: Rendered) -> None:
    given = statements(rendered, "OperatorRole")
    for action, resource, context in (
        ("cloudformation:DescribeStacks", f"arn:aws:cloudformation:{REGION}:{NUMBER}:stack/other/1", {}),
        ("cloudformation:UpdateStack", stack_of(rendered).id, {}),
        ("ec2:TerminateInstances", f"{ARN}:instance/i-0", {"aws:ResourceTag/Project": "other"}),
        ("ssm:SendCommand", f"{ARN}:instance/i-0", {}),
        ("ecs:StopTask", f"arn:aws:ecs:{REGION}:{NUMBER}:task/other/1", {}),
        ("iam:SimulatePrincipalPolicy", f"arn:aws:iam::{NUMBER}:role/admin", {}),
    ):
        assert not allowed(given, action, resource, context), action


RUN = {"aws:RequestTag/Project": "pdf-flows"}
MACHINE = {**RUN, "ec2:InstanceType": "g4dn.xlarge", "ec2:MetadataHttpTokens": "required"}
PARTS: tuple[tuple[str, dict[str, str]], ...] = (
    (f"{ARN}:instance/*", MACHINE),
    (f"{ARN}:network-interface/*", RUN),
    (f"{ARN}:volume/*", RUN),
    (f"{ARN}:spot-instances-request/*", RUN),
    (f"{ARN}:subnet/subnet-1", {}),
    (f"{ARN}:security-group/sg-1", {}),
    (f"arn:aws:ec2:{REGION}::image/ami-1", {"ec2:Owner": "amazon"}),
)
"""What RunInstances is checked for (AWS Service Authorization Reference, EC2)."""


def test_the_operator_launches_gpu_machines_with_the_projects_tag_and_no_others(rendered: Rendered) -> None:
    given = statements(rendered, "OperatorRole")
    for resource, context in PARTS:
        assert allowed(given, "ec2:RunInstances", resource, context), resource
        if "aws:RequestTag/Project" in context:
            assert not allowed(given, "ec2:RunInstances", resource, {**context, "aws:RequestTag/Project": "other"})
            made = resource.replace("*", "x-1")
            assert allowed(given, "ec2:CreateTags", made, {"ec2:CreateAction": "RunInstances"})
            assert not allowed(given, "ec2:CreateTags", made)
    for wrong in ({"ec2:InstanceType": "p5.48xlarge"}, {"ec2:MetadataHttpTokens": "optional"}):
        assert not allowed(given, "ec2:RunInstances", PARTS[0][0], MACHINE | wrong)
    assert not allowed(given, "ec2:RunInstances", PARTS[-1][0], {"ec2:Owner": NUMBER})


def test_and_passes_them_their_own_role_only(rendered: Rendered) -> None:
    given = statements(rendered, "OperatorRole")
    to_ec2 = {"iam:PassedToService": "ec2.amazonaws.com"}
    arn = {
        role: str(rendered({"Fn::GetAtt": [role, "Arn"]})) for role in ("PlainRole", "PrefectWorkerRole", "TaskRole")
    }
    assert [role for role in arn if allowed(given, "iam:PassRole", arn[role], to_ec2)] == ["PlainRole"]


def test_each_thing_is_asked_about_by_its_name(rendered: Rendered) -> None:
    stack = stack_of(rendered)
    wanted = asked(rendered)
    refused = "codebuild:StartBuild"

    def answer(ask: Ask) -> dict[str, Any]:
        found = [
            {"EvalActionName": action, "EvalDecision": "implicitDeny" if action == refused else "allowed"}
            for action in ask.actions
        ]
        return {"EvaluationResults": found}

    def request(ask: Ask) -> dict[str, Any]:
        made: dict[str, Any] = {"PolicySourceArn": f"arn:aws:iam::{NUMBER}:user/ada", "ActionNames": list(ask.actions)}
        if ask.resource != "*":
            made["ResourceArns"] = [ask.resource]
        if ask.context:
            made["ContextEntries"] = [
                {"ContextKeyName": k, "ContextKeyValues": [v], "ContextKeyType": "string"}
                for k, v in ask.context.items()
            ]
        return made

    calls = [("simulate_principal_policy", answer(ask), request(ask)) for ask in wanted]
    who = ("get_caller_identity", {"Account": NUMBER, "Arn": f"arn:aws:iam::{NUMBER}:user/ada", "UserId": "x"}, None)
    with stubbed("sts", who) as sts, stubbed("iam", *calls) as iam:
        rights = permissions.read(Account("pdf-flows", region=REGION, clients={"sts": sts, "iam": iam}), stack)
    finding = permissions.judge(rights)
    assert rights.asked == sum(len(ask.actions) for ask in wanted)
    assert finding.words == f"missing: {refused} (simulated by IAM)"
