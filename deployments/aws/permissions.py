"""Who these credentials belong to, and whether they may do what the commands do."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account, Identity
from deployments.aws.errors import DENIED, code_of, message_of
from deployments.aws.findings import Finding
from deployments.aws.operating import Ask, asks
from deployments.aws.stack import Stack

CREDENTIALS = "credentials"
NAME = "permissions"
MANAGED = (
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:SetInstanceProtection",
    "autoscaling:UpdateAutoScalingGroup",
    "cloudformation:CreateStack",
    "cloudformation:DeleteStack",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStacks",
    "cloudformation:GetTemplate",
    "cloudformation:ListStackResources",
    "cloudformation:UpdateStack",
    "codebuild:BatchGetBuilds",
    "codebuild:StartBuild",
    "ec2:DescribeAddresses",
    "ec2:DescribeImages",
    "ec2:DescribeInstances",
    "ec2:DescribeNatGateways",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
    "ec2:DescribeVpcEndpoints",
    "ec2:TerminateInstances",
    "ecr:BatchDeleteImage",
    "ecr:DescribeImages",
    "ecr:ListImages",
    "ecs:DescribeTasks",
    "ecs:ListContainerInstances",
    "ecs:ListTasks",
    "ecs:StopTask",
    "ecs:UpdateContainerInstancesState",
    "iam:DetachGroupPolicy",
    "iam:DetachRolePolicy",
    "iam:DetachUserPolicy",
    "iam:ListEntitiesForPolicy",
    "s3:AbortMultipartUpload",
    "s3:CreateBucket",
    "s3:DeleteBucket",
    "s3:DeleteObject",
    "s3:GetBucketTagging",
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:ListMultipartUploads",
    "s3:PutBucketTagging",
    "s3:PutObject",
    "logs:DescribeLogGroups",
    "secretsmanager:GetSecretValue",
    "ssm:GetParameter",
    "ssm:SendCommand",
    "ssm:StartSession",
    "ssm:TerminateSession",
    "tag:GetResources",
    # And what CloudFormation does in the caller's name.
    "autoscaling:CreateAutoScalingGroup",
    "autoscaling:CreateOrUpdateTags",
    "budgets:ModifyBudget",
    "codebuild:CreateProject",
    "ec2:CreateLaunchTemplate",
    "ec2:CreateTags",
    "ec2:RunInstances",
    "ecr:CreateRepository",
    "ecs:CreateCapacityProvider",
    "ecs:CreateCluster",
    "ecs:RegisterTaskDefinition",
    "events:PutRule",
    "events:PutTargets",
    "iam:CreateInstanceProfile",
    "iam:CreateRole",
    "iam:PassRole",
    "iam:PutRolePolicy",
    "sns:CreateTopic",
    "sns:Subscribe",
    "sqs:CreateQueue",
)
"""What `up` and `down` need; of what CloudFormation does, the foremost. A test reads the rest from the source."""


class Task(StrEnum):
    """What somebody wants to do."""

    SET_UP = "make, change and delete the stack"
    OPERATE = "operate the stack that is there"


class Evidence(StrEnum):
    """How it is known what is allowed."""

    SIMULATED = "simulated by IAM"
    """Identity policies and boundaries; organisation policies (SCPs) as far as IAM's simulator knows them."""
    DRY_RUN = "dry run"
    """EC2 checked `RunInstances` without doing it; nothing else is known."""
    NONE = "not known"


class Rights(BaseModel):
    """What is known about the caller's permissions."""

    model_config = ConfigDict(frozen=True)

    evidence: Evidence
    task: Task = Task.SET_UP
    asked: int = 0
    """How many actions were asked about."""
    missing: tuple[str, ...] = ()
    words: str = ""
    """Why nothing better is known."""


def judge_identity(identity: Identity, region: str) -> Finding:
    """Whose credentials these are. Pure."""
    words = f"account {identity.account} as {identity.arn}, region {region}"
    if identity.root:
        remedy = "this is the root user: make an IAM user or role for daily work"
        return Finding.warn(CREDENTIALS, words, remedy)
    return Finding.ok(CREDENTIALS, words)


def read(account: Account, stack: Stack | None = None) -> Rights:
    """Ask IAM's simulator; where that is not allowed, let EC2 check a RunInstances that it does not do.

    Args:
        stack: what is to be operated; None asks about making one.

    Raises boto3's errors where AWS does not answer at all.
    """
    from botocore.exceptions import ClientError
    from botocore.parsers import ResponseParserError

    identity = account.identity
    task = Task.SET_UP
    wanted: tuple[Ask, ...] = (Ask(actions=MANAGED),)
    if stack is not None:
        task, wanted = Task.OPERATE, asks(identity, account.region, account.project, stack)
    asked = sum(len(ask.actions) for ask in wanted)
    if identity.root:
        return Rights(evidence=Evidence.SIMULATED, task=task, asked=asked)  # the root user may do everything
    try:
        missing = _simulated(account, identity, wanted)
        return Rights(evidence=Evidence.SIMULATED, task=task, asked=asked, missing=tuple(missing))
    except ClientError as error:
        why = f"{error.operation_name}: {code_of(error)}"
    except ResponseParserError:
        why = "SimulatePrincipalPolicy: no AWS answer"
    return dry_run(account, why)


def _simulated(account: Account, identity: Identity, wanted: Sequence[Ask]) -> list[str]:
    iam = account.client("iam")
    arn = identity.arn
    if identity.role_name is not None:
        # The session's ARN has no path; the role's own may have one (AWS SSO's do).
        arn = iam.get_role(RoleName=identity.role_name)["Role"]["Arn"]
    missing: list[str] = []
    for ask in wanted:
        asked: dict[str, Any] = {"PolicySourceArn": arn, "ActionNames": list(ask.actions)}
        if ask.resource != "*":
            asked["ResourceArns"] = [ask.resource]
        if ask.context:
            asked["ContextEntries"] = [
                {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
                for key, value in ask.context.items()
            ]
        while True:
            answer = iam.simulate_principal_policy(**asked)
            missing += [r["EvalActionName"] for r in answer["EvaluationResults"] if r["EvalDecision"] != "allowed"]
            if not answer.get("IsTruncated"):
                break
            asked["Marker"] = answer["Marker"]
    return missing


def dry_run(account: Account, why: str = "", **request: Any) -> Rights:
    """Whether an instance may be started, by EC2's own `DryRun`: it checks the permission and does nothing.

    Args:
        why: nothing better is known.
        request: of RunInstances; the default is one instance of the cheapest type of the account's default network.
    """
    from botocore.exceptions import ClientError

    asked = {"ImageId": "resolve:ssm:" + AMI_PARAMETER, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    asked |= request
    try:
        account.client("ec2").run_instances(**asked, DryRun=True)
    except ClientError as error:
        code = code_of(error)
        if code == "DryRunOperation":
            return Rights(evidence=Evidence.DRY_RUN, asked=1, words=why)
        if code in DENIED:
            return Rights(evidence=Evidence.DRY_RUN, asked=1, missing=("ec2:RunInstances",), words=why)
        return Rights(evidence=Evidence.NONE, words=f"{why}; {code}: {message_of(error)}" if why else message_of(error))
    return Rights(evidence=Evidence.NONE, words=f"{why}; EC2 did not answer the dry run as one")


AMI_PARAMETER = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
"""Public SSM parameter: Amazon's ECS GPU-optimized image, Amazon Linux 2023 (AWS documentation, ECS-optimized AMIs)."""


def judge(rights: Rights) -> Finding:
    """Whether what has to be done may be done. Pure."""
    if rights.missing:
        shown = ", ".join(rights.missing[:8]) + (
            f" and {len(rights.missing) - 8} more" if len(rights.missing) > 8 else ""
        )
        remedy = (
            "let an administrator allow them (deployments/aws/permissions.py has the list), or use other credentials"
        )
        return Finding.fail(NAME, f"missing: {shown} ({rights.evidence})", remedy)
    if rights.evidence is Evidence.SIMULATED:
        words = f"all {rights.asked} actions to {rights.task} are allowed ({rights.evidence})"
        return Finding.ok(NAME, words)
    if rights.evidence is Evidence.DRY_RUN:
        words = f"ec2:RunInstances is allowed ({rights.evidence}); the other permissions could not be asked for"
        return Finding.warn(NAME, words, f"allow iam:SimulatePrincipalPolicy to know them ({rights.words})")
    return Finding.warn(NAME, f"not known ({rights.words})", "go on: what is refused will be named")
