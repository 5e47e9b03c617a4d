"""Where to look in a browser. Pure."""

from __future__ import annotations

from urllib.parse import quote

_CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}


def console(region: str, path: str, partition: str = "aws") -> str:
    """A page of the AWS console, e.g. `console("us-east-1", "ec2/home?region=us-east-1#Instances:")`."""
    return f"https://{region}.{_CONSOLES.get(partition, _CONSOLES['aws'])}/{path}"


def instances(region: str, project: str, partition: str = "aws") -> str:
    """EC2's list of the project's instances."""
    return console(region, f"ec2/home?region={region}#Instances:tag:Project={quote(project)}", partition)


def stack(region: str, stack_id: str, partition: str = "aws") -> str:
    """A CloudFormation stack with its events."""
    path = f"cloudformation/home?region={region}#/stacks/events?stackId={quote(stack_id, safe='')}"
    return console(region, path, partition)


def cluster(region: str, name: str, partition: str = "aws") -> str:
    """An ECS cluster's tasks."""
    return console(region, f"ecs/v2/clusters/{quote(name)}/tasks?region={region}", partition)


def build(region: str, project: str, build_id: str, partition: str = "aws") -> str:
    """A CodeBuild build with its log."""
    path = f"codesuite/codebuild/projects/{quote(project)}/build/{quote(build_id)}/?region={region}"
    return console(region, path, partition)


def logs(region: str, group: str, stream: str | None = None, partition: str = "aws") -> str:
    """A CloudWatch log group, or one stream of it."""
    path = f"cloudwatch/home?region={region}#logsV2:log-groups/log-group/{_twice(group)}"
    if stream is not None:
        path += f"/log-events/{_twice(stream)}"
    return console(region, path, partition)


def _twice(name: str) -> str:
    """As the CloudWatch console writes names behind its `#`: percent-encoded twice, `%` as `$`."""
    return quote(quote(name, safe=""), safe="").replace("%", "$")
