"""What running conversions needs of IAM, on a stack that is there: which actions, on what, under which circumstances.

IAM's simulator judges a named resource: asked about `*`, it refuses whoever may do a thing to his own stack only.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import TAG, Identity
from deployments.aws.stack import Stack
from deployments.aws.user_data import LOG_GROUP

ELSEWHERE = ("ec2:RunInstances", "ssm:TerminateSession")
"""Not asked here: `launch` has EC2 check the very request, and a session that can't be ended by name ends with the plugin."""


class Ask(BaseModel):
    """Some actions in the same place."""

    model_config = ConfigDict(frozen=True)

    actions: tuple[str, ...]
    resource: str = "*"
    context: dict[str, str] = {}
    """Condition keys."""


def asks(identity: Identity, region: str, project: str, stack: Stack) -> tuple[Ask, ...]:
    """All that `preflight`, `status`, `stop`, `launch`, `logs`, `ui`, `pool` and the building of images do. Pure.

    A test holds it equal to what the source calls, and the stack's operator role to it.
    """

    def arn(service: str, rest: str, *, owner: str | None = identity.account, where: str = region) -> str:
        return f"arn:{identity.partition}:{service}:{where}:{owner or ''}:{rest}"

    def output(name: str) -> str:
        return stack.output(name) or "none"

    cluster = {"ecs:cluster": arn("ecs", f"cluster/{output('ClusterName')}")}
    tagged = {f"aws:ResourceTag/{TAG}": project}
    group = f"autoScalingGroup:0:autoScalingGroupName/{output('AutoScalingGroupName')}"
    repository = output("RepositoryUri").partition("/")[2]
    logs = arn("logs", f"log-group:{LOG_GROUP}")
    prefix = {"s3:prefix": stack.parameters.get("InputPrefix", "")}
    return (
        Ask(
            actions=(
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
                "ec2:DescribeVolumes",
                "ec2:DescribeVpcEndpoints",
                "ec2:DescribeVpcs",
                "logs:DescribeLogGroups",
                "servicequotas:GetAWSDefaultServiceQuota",
                "servicequotas:GetServiceQuota",
                "servicequotas:ListRequestedServiceQuotaChangeHistoryByQuota",
                "ssm:GetCommandInvocation",
                "tag:GetResources",
            )
        ),
        Ask(
            actions=("autoscaling:SetInstanceProtection", "autoscaling:UpdateAutoScalingGroup"),
            resource=arn("autoscaling", group),
        ),
        Ask(
            actions=(
                "cloudformation:DescribeStackEvents",
                "cloudformation:DescribeStacks",
                "cloudformation:GetTemplate",
                "cloudformation:ListStackResources",
            ),
            resource=stack.id,
        ),
        Ask(
            actions=("codebuild:BatchGetBuilds", "codebuild:StartBuild"),
            resource=arn("codebuild", f"project/{output('BuildProjectName')}"),
        ),
        Ask(
            actions=("ec2:TerminateInstances", "ssm:SendCommand", "ssm:StartSession"),
            resource=arn("ec2", "instance/i-0"),
            context=tagged,
        ),
        Ask(actions=("ecr:DescribeImages",), resource=arn("ecr", f"repository/{repository}")),
        Ask(
            actions=("ecs:ListContainerInstances", "ecs:ListTasks", "ecs:UpdateContainerInstancesState"),
            context=cluster,
        ),
        Ask(
            actions=("ecs:DescribeTasks", "ecs:StopTask"),
            resource=arn("ecs", f"task/{output('ClusterName')}/0"),
            context=cluster,
        ),
        Ask(actions=("logs:CreateLogGroup", "logs:PutRetentionPolicy"), resource=logs),
        Ask(actions=("logs:FilterLogEvents",), resource=f"{logs}:log-stream:worker-0"),
        Ask(
            actions=("s3:ListBucket",),
            resource=arn("s3", output("InputBucket"), owner=None, where=""),
            context=prefix,
        ),
        Ask(
            actions=("s3:PutObject",), resource=arn("s3", f"{output('SourceBucket')}/source.zip", owner=None, where="")
        ),
        Ask(actions=("sns:ListSubscriptionsByTopic",), resource=output("TopicArn")),
        Ask(actions=("ssm:GetParameter",), resource=arn("ssm", "parameter/aws/service/ecs", owner=None)),
    )
