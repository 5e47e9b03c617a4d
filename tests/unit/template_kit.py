"""The CloudFormation template as CloudFormation would see it: parsed, with parameters, conditions and references resolved.

No more of CloudFormation's functions than the template uses; another one is an error, not a guess.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parents[2] / "deployments" / "aws" / "infrastructure.yaml"
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Region": "us-east-1",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/pdf-flows/1",
    "AWS::StackName": "pdf-flows",
}
ZONES = ["us-east-1a", "us-east-1b", "us-east-1c"]
ARNS = {
    "AWS::S3::Bucket": "arn:aws:s3:::{name}",
    "AWS::ECS::Cluster": "arn:aws:ecs:{region}:{account}:cluster/{name}",
    "AWS::ECR::Repository": "arn:aws:ecr:{region}:{account}:repository/{name}",
    "AWS::IAM::Role": "arn:aws:iam::{account}:role/{name}",
    "AWS::IAM::InstanceProfile": "arn:aws:iam::{account}:instance-profile/{name}",
    "AWS::SQS::Queue": "arn:aws:sqs:{region}:{account}:{name}",
    "AWS::Events::Rule": "arn:aws:events:{region}:{account}:rule/{name}",
    "AWS::SNS::Topic": "arn:aws:sns:{region}:{account}:{name}",
    "AWS::IAM::ManagedPolicy": "arn:aws:iam::{account}:policy/{name}",
    "AWS::SecretsManager::Secret": "arn:aws:secretsmanager:{region}:{account}:secret:{name}-AbCdEf",
    "AWS::ECS::TaskDefinition": "arn:aws:ecs:{region}:{account}:task-definition/{name}:1",
}
REFERENCE_IS_ARN = (
    "AWS::SNS::Topic",
    "AWS::IAM::ManagedPolicy",
    "AWS::SecretsManager::Secret",
    "AWS::ECS::TaskDefinition",
)
NAMES = (
    "BucketName",
    "ClusterName",
    "RepositoryName",
    "QueueName",
    "TopicName",
    "AutoScalingGroupName",
    "Name",
    "Family",
)
NOTHING = object()


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms."""


def _short(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short)


@functools.cache
def load(path: Path = TEMPLATE) -> dict[str, Any]:
    """The template with its functions in their long form; not to be changed."""
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return loaded


class Rendered:
    """The template for some parameters.

    Args:
        parameters: what is given; the rest has its default.
        pseudo: other values of AWS::AccountId and the like.
        conditions: what conditions are instead of what follows from the parameters.
        references: what a Ref, or with ".Arn" an attribute, of a resource is instead of a made-up name.
    """

    def __init__(
        self,
        parameters: Mapping[str, str] | None = None,
        *,
        template: Mapping[str, Any] | None = None,
        pseudo: Mapping[str, str] | None = None,
        conditions: Mapping[str, bool] | None = None,
        references: Mapping[str, str] | None = None,
    ) -> None:
        self._template = load() if template is None else template
        self._pseudo = PSEUDO | dict(pseudo or {})
        self._forced = dict(conditions or {})
        self._references = dict(references or {})
        self.parameters: dict[str, Any] = {}
        for name, item in self._template["Parameters"].items():
            value = (parameters or {}).get(name, item["Default"])
            self.parameters[name] = value.split(",") if item["Type"] == "CommaDelimitedList" else value
        unknown = set(parameters or {}) - set(self.parameters)
        assert not unknown, f"no such parameters: {unknown}"
        self.resources: dict[str, Any] = {}
        for name, item in self._template["Resources"].items():
            if "Condition" not in item or self.condition(item["Condition"]):
                self.resources[name] = item | {"Properties": self(item.get("Properties", {}))}
        self.outputs = {
            name: self(item["Value"])
            for name, item in self._template["Outputs"].items()
            if "Condition" not in item or self.condition(item["Condition"])
        }

    def properties(self, name: str) -> Any:
        """Of a resource."""
        return self.resources[name]["Properties"]

    def of_type(self, kind: str) -> dict[str, Any]:
        """Properties of all resources of a type, by logical id."""
        return {name: item["Properties"] for name, item in self.resources.items() if item["Type"] == kind}

    def condition(self, name: str) -> bool:
        """Whether a condition holds."""
        return self._forced[name] if name in self._forced else bool(self(self._template["Conditions"][name]))

    def __call__(self, node: Any) -> Any:
        """A part of the template, resolved."""
        if isinstance(node, list):
            return [found for item in node if (found := self(item)) is not NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, value), *_ = node.items()
            if name == "Ref":
                return self._ref(value)
            if name == "Condition" and isinstance(value, str):
                return self.condition(value)
            if name.startswith("Fn::"):
                return self._function(name.removeprefix("Fn::"), value)
        return {key: found for key, value in node.items() if (found := self(value)) is not NOTHING}

    def _function(self, name: str, value: Any) -> Any:
        match name:
            case "If":
                return self(value[1] if self.condition(value[0]) else value[2])
            case "GetAtt":
                return self._attribute(*value)
            case "Sub":
                text, more = (value, {}) if isinstance(value, str) else value
                return self._substitute(text, {key: self(item) for key, item in more.items()})
            case "Equals":
                return self(value[0]) == self(value[1])
            case "Not":
                return not self(value[0])
            case "And":
                return all(self(item) for item in value)
            case "Or":
                return any(self(item) for item in value)
            case "Select":
                return self(value[1])[int(value[0])]
            case "Join":
                return value[0].join(self(value[1]))
            case "GetAZs":
                return ZONES
            case "Base64":
                return self(value)
        raise AssertionError(f"Fn::{name} is not understood")

    def _substitute(self, text: str, more: Mapping[str, Any]) -> str:
        def one(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in more:
                return str(more[name])
            return str(self._attribute(*name.split(".", 1)) if "." in name else self._ref(name))

        return re.sub(r"\$\{([^}]+)\}", one, text)

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NOTHING
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        if name in self._references:
            return self._references[name]
        kind = self._template["Resources"][name]["Type"]
        return self._arn(name) if kind in REFERENCE_IS_ARN else self._name(name)

    def _attribute(self, name: str, attribute: str) -> Any:
        if (known := f"{name}.{attribute}") in self._references:
            return self._references[known]
        kind = self._template["Resources"][name]["Type"]
        match attribute:
            case "Arn":
                return self._arn(name)
            case "RepositoryUri":
                return f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{self._name(name)}"
            case "QueueName":
                return self._name(name)
            case "AvailabilityZone":
                return self(self._template["Resources"][name]["Properties"]["AvailabilityZone"])
            case "PrivateIp":
                return "10.42.0.10"
            case "LatestVersionNumber":
                return "1"
        raise AssertionError(f"{kind} has no {attribute} here")

    def _name(self, name: str) -> str:
        properties = self._template["Resources"][name].get("Properties", {})
        given = next((properties[key] for key in NAMES if key in properties), None)
        return name.lower() if given is None else str(self(given))

    def _arn(self, name: str) -> str:
        text = ARNS[self._template["Resources"][name]["Type"]]
        return text.format(
            name=self._name(name), region=self._pseudo["AWS::Region"], account=self._pseudo["AWS::AccountId"]
        )


def heredoc(script: str, path: str) -> str:
    """A file that the script writes with `cat > PATH <<E`."""
    found = re.search(rf"^cat >>? {re.escape(path)} <<'?E'?\n(.*?)^E$", script, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the script writes no {path}"
    return found[1]
