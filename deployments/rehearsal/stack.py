"""The parts of the stack that the rehearsal needs, made on moto: cluster, task definition, queue, buckets, log group,
secret.

CloudFormation's template is read, and its task definition is registered by the API: moto makes none of it that its own
RunTask could start (capitalised keys, no capacity provider, no secret).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from deployments.aws.stack import TEMPLATE
from tasks.corpus.failures import UsageError

ACCOUNT, REGION = "123456789012", "us-east-1"
LOG_GROUP = "/aws/ec2/pdf-workers/"
WATCHER = "/usr/local/bin/spot-watch"
ROOM = 1_000_000
"""CPU units and MiB of the one container instance that moto places all tasks on: capacity is the agent's."""


def task_definition(text: str, known: Mapping[str, str]) -> dict[str, Any]:
    """The request of RegisterTaskDefinition for the template's task definition. Pure.

    Args:
        text: the template.
        known: values of parameters, references ("Repository") and attributes ("TaskRole.Arn"); others become their own names.
    """
    template = _load(text)
    conditions = template["Conditions"]
    parameters = {name: str(about.get("Default", "")) for name, about in template["Parameters"].items()}
    values = parameters | dict(known)
    try:
        properties = template["Resources"]["TaskDefinition"]["Properties"]
    except KeyError:
        raise UsageError("the template has no resource TaskDefinition") from None
    found = _camel({name: value for name, value in _value(properties, values, conditions).items() if name != "Tags"})
    (container,) = found["containerDefinitions"]
    # Maps of strings, whose keys are not CloudFormation's.
    options = properties["ContainerDefinitions"][0].get("LogConfiguration", {}).get("Options")
    if options is not None:
        container["logConfiguration"]["options"] = _value(options, values, conditions)
    return dict(found)


def watcher(text: str) -> str:
    """The script that the template's machines run to hand Spot notices on, as it is on them. Pure. Raises UsageError."""
    try:
        data = _load(text)["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]
        script = str(data["Fn::Base64"]["!Sub"])
    except KeyError as error:
        raise UsageError(
            f"the template's launch template has no user data that the rehearsal can read ({error})"
        ) from None
    found = re.search(rf"^cat > {re.escape(WATCHER)} <<'E'\n(.*?)^E$", script, re.DOTALL | re.MULTILINE)
    if found is None:
        raise UsageError(f"the machines' user data writes no {WATCHER}")
    return found[1].replace("${!", "${")


def make(client: Any, project: str, prefect_auth: str) -> dict[str, str]:
    """Make them. The stack's outputs, by the template's names.

    Args:
        client: makes boto3 clients by a service's name.
        project: its name, which is the cluster's, too.
        prefect_auth: what the secret holds.
    """
    ecs, ec2, sqs, s3 = client("ecs"), client("ec2"), client("sqs"), client("s3")
    for bucket in (f"{project}-in", f"{project}-out"):
        s3.create_bucket(Bucket=bucket)
    queue = f"{project}-ecs-events"
    sqs.create_queue(QueueName=queue, Attributes={"VisibilityTimeout": "300"})
    group = f"{LOG_GROUP}{project}/"
    client("logs").create_log_group(logGroupName=group)
    secret = client("secretsmanager").create_secret(Name=f"{project}-api", SecretString=prefect_auth)["ARN"]
    cluster = ecs.create_cluster(clusterName=project)["cluster"]["clusterName"]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    machine = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    document = json.dumps({"instanceId": machine, "region": REGION, "accountId": ACCOUNT})
    ecs.register_container_instance(cluster=cluster, instanceIdentityDocument=document)
    known = {
        "ProjectName": project,
        "AWS::Region": REGION,
        "AWS::Partition": "aws",
        "AWS::AccountId": ACCOUNT,
        "ApiAuthSecret": secret,
        "TaskRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/{project}-task",
        "ExecutionRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/{project}-execution",
        "Repository.RepositoryUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{project}/worker",
    }
    definition = task_definition(TEMPLATE.read_text(encoding="utf-8"), known)
    return {
        "ClusterName": cluster,
        "TaskDefinitionArn": ecs.register_task_definition(**definition)["taskDefinition"]["taskDefinitionArn"],
        "CapacityProviderName": f"{project}-spot",
        "OnDemandCapacityProviderName": f"{project}-on-demand",
        "LogGroupName": group,
        "EventsQueueName": queue,
        "InputBucket": f"{project}-in",
        "OutputBucket": f"{project}-out",
    }


# -- a little of CloudFormation -------------------------------------------------------------------------------------


def _load(text: str) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Keeps CloudFormation's tags as {"!Ref": ...}."""

    def tagged(loader: Any, suffix: str, node: Any) -> dict[str, Any]:
        if isinstance(node, yaml.ScalarNode):
            return {f"!{suffix}": loader.construct_scalar(node)}
        if isinstance(node, yaml.SequenceNode):
            return {f"!{suffix}": loader.construct_sequence(node, deep=True)}
        return {f"!{suffix}": loader.construct_mapping(node, deep=True)}

    Loader.add_multi_constructor("!", tagged)
    found: dict[str, Any] = yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    return found


_NOTHING = object()
"""AWS::NoValue."""


def _value(node: Any, values: Mapping[str, str], conditions: Mapping[str, Any]) -> Any:
    """A node with its functions evaluated, as far as task definitions use them."""
    if isinstance(node, list):
        return [item for each in node if (item := _value(each, values, conditions)) is not _NOTHING]
    if not isinstance(node, dict):
        return node
    if len(node) == 1:
        ((name, given),) = node.items()
        match name:
            case "!Ref" | "!GetAtt":
                return _NOTHING if given == "AWS::NoValue" else values.get(given, given)
            case "!Sub":
                return re.sub(r"\$\{([^}]+)\}", lambda found: values.get(found[1], found[1]), str(given))
            case "!If":
                return _value(given[1 if _holds(conditions[given[0]], values, conditions) else 2], values, conditions)
            case _ if name.startswith("!"):
                raise UsageError(f"the template's task definition uses {name}, which the rehearsal cannot evaluate")
            case _:
                pass
    found = {name: _value(each, values, conditions) for name, each in node.items()}
    return {name: each for name, each in found.items() if each is not _NOTHING}


def _holds(condition: Any, values: Mapping[str, str], conditions: Mapping[str, Any]) -> bool:
    ((name, given),) = condition.items()
    match name:
        case "!Equals":
            first, second = (str(_value(each, values, conditions)) for each in given)
            return first == second
        case "!Not":
            return not _holds(given[0], values, conditions)
        case "!And":
            return all(_holds(each, values, conditions) for each in given)
        case "!Or":
            return any(_holds(each, values, conditions) for each in given)
        case "!Condition":
            return _holds(conditions[given], values, conditions)
        case _:
            raise UsageError(f"the template's conditions use {name}, which the rehearsal cannot evaluate")


def _camel(node: Any) -> Any:
    """CloudFormation's names as the API spells them: `ContainerDefinitions` -> `containerDefinitions`."""
    if isinstance(node, list):
        return [_camel(each) for each in node]
    if isinstance(node, dict):
        return {name[:1].lower() + name[1:]: _camel(each) for name, each in node.items()}
    return node
