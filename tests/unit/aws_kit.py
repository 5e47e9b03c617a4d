"""What the tests of `pdf-flows aws` share: an AWS account of their own on moto, a small stack, stubbed clients. No tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.loaders import Loader
from botocore.stub import Stubber

from deployments.aws.account import Account
from deployments.aws.commands import aws_app

REGION = "us-east-1"

TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Description: The outputs of the real stack, as far as moto can make what they name, in an existing network.
Parameters:
  ProjectName: {Type: String, Default: pdf-flows}
  Workers: {Type: Number, Default: 5}
  MaxPrice: {Type: String, Default: ""}
  ImageUri: {Type: String, Default: ""}
  ExistingVpcId: {Type: String, Default: ""}
  ExistingSubnetIds: {Type: String, Default: ""}
  ControlZone: {Type: String, Default: ""}
  CreateLogGroup: {Type: String, Default: "true"}
  InputPrefix: {Type: String, Default: input/}
  OutputPrefix: {Type: String, Default: output/}
  NotificationEmail: {Type: String, Default: ""}
  BudgetUsd: {Type: Number, Default: 100}
  PrefectApiUrl: {Type: String, Default: ""}
  PrefectApiPort: {Type: Number, Default: 443}
  ControlHost: {Type: String, Default: "false"}
Conditions:
  OwnLogGroup: !Equals [!Ref CreateLogGroup, "true"]
Resources:
  InputBucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: Retain
    Properties: {Tags: [{Key: Project, Value: !Ref ProjectName}]}
  OutputBucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: Retain
    Properties: {Tags: [{Key: Project, Value: !Ref ProjectName}]}
  SourceBucket: {Type: AWS::S3::Bucket}
  Repository:
    Type: AWS::ECR::Repository
    Properties: {RepositoryName: !Sub "${ProjectName}/worker", EmptyOnDelete: true}
  Group:
    Type: AWS::EC2::SecurityGroup
    Properties: {GroupDescription: tasks, VpcId: !Ref ExistingVpcId}
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement: [{Effect: Allow, Principal: {Service: ec2.amazonaws.com}, Action: "sts:AssumeRole"}]
  StopPolicy:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      PolicyDocument: {Version: "2012-10-17", Statement: [{Effect: Deny, Action: "ecs:RunTask", Resource: "*"}]}
  Profile:
    Type: AWS::IAM::InstanceProfile
    Properties: {Roles: [!Ref Role]}
  LaunchTemplate:
    Type: AWS::EC2::LaunchTemplate
    Properties:
      LaunchTemplateData:
        ImageId: {{resolve}}
        InstanceType: g4dn.xlarge
        SecurityGroupIds: [!Ref Group]
        TagSpecifications:
          - {ResourceType: instance, Tags: [{Key: Project, Value: !Ref ProjectName}]}
          - {ResourceType: volume, Tags: [{Key: Project, Value: !Ref ProjectName}]}
  SpotGroup:
    Type: AWS::AutoScaling::AutoScalingGroup
    Properties:
      AutoScalingGroupName: !Sub "${ProjectName}-spot"
      MinSize: "0"
      MaxSize: !Ref Workers
      NewInstancesProtectedFromScaleIn: true
      VPCZoneIdentifier: !Split [",", !Ref ExistingSubnetIds]
      LaunchTemplate: {LaunchTemplateId: !Ref LaunchTemplate, Version: !GetAtt LaunchTemplate.LatestVersionNumber}
      Tags: [{Key: Project, Value: !Ref ProjectName, PropagateAtLaunch: true}]
  Cluster:
    Type: AWS::ECS::Cluster
    Properties: {ClusterName: !Ref ProjectName}
  WorkerLogGroup:
    Type: AWS::Logs::LogGroup
    Condition: OwnLogGroup
    Properties: {LogGroupName: /aws/ec2/pdf-workers/, RetentionInDays: 7}
  Topic:
    Type: AWS::SNS::Topic
    Properties: {TopicName: !Sub "${ProjectName}-notifications"}
Outputs:
  ClusterName: {Value: !Ref Cluster}
  AutoScalingGroupName: {Value: !Ref SpotGroup}
  InputBucket: {Value: !Ref InputBucket}
  OutputBucket: {Value: !Ref OutputBucket}
  SourceBucket: {Value: !Ref SourceBucket}
  BuildProjectName: {Value: !Sub "${ProjectName}-image"}
  RepositoryUri: {Value: !GetAtt Repository.RepositoryUri}
  TopicArn: {Value: !Ref Topic}
  TaskSecurityGroupId: {Value: !Ref Group}
  SubnetIds: {Value: !Ref ExistingSubnetIds}
  VpcId: {Value: !Ref ExistingVpcId}
  WorkerInstanceProfileName: {Value: !Ref Profile}
  PrefectApiUrl: {Value: !Ref PrefectApiUrl}
"""


@contextmanager
def own_account() -> Iterator[Cloud]:
    """An AWS account of its own on the session's moto server, and its credentials in the environment."""
    number = f"{random.randrange(10**11, 10**12)}"
    role = f"arn:aws:iam::{number}:role/tester"
    keys = boto3.client("sts", region_name=REGION).assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
        patch.setenv("AWS_SESSION_TOKEN", keys["SessionToken"])
        for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_API_AUTH_STRING"):
            patch.delenv(name, raising=False)
        # Reading the models of services is most of what a client costs; sessions would each do it anew.
        patch.setattr("botocore.session.create_loader", lambda path=None: _loader())
        # No Prefect API of the user's own profile.
        patch.setenv("PREFECT_PROFILES_PATH", "/nonexistent/profiles.toml")
        yield Cloud("pdf-flows", number)


class Cloud:
    """One test's own AWS account."""

    def __init__(self, project: str, number: str) -> None:
        self.project = project
        self.number = number
        self.account = Account(project, region=REGION)

    def client(self, service: str) -> Any:
        """A client of the account."""
        return self.account.client(service)

    def network(self) -> tuple[str, list[str]]:
        """A network with two public subnets."""
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        subnets = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"]
            for n, zone in enumerate("ab")
        ]
        return vpc, [subnet["SubnetId"] for subnet in subnets]

    def ami(self) -> str:
        """A machine image that moto has: the same in every account."""
        return _ami(self.client("ssm"))

    def run(self, number: int = 1, **tags: str) -> list[str]:
        """Instances with the project's tag."""
        given = {"Project": self.project} | tags
        answer = self.client("ec2").run_instances(
            ImageId=self.ami(),
            InstanceType="g4dn.xlarge",
            MinCount=number,
            MaxCount=number,
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in given.items()]}
            ],
        )
        return [item["InstanceId"] for item in answer["Instances"]]

    def states(self) -> dict[str, str]:
        """Of all instances of the account."""
        pages = self.client("ec2").get_paginator("describe_instances").paginate()
        return {i["InstanceId"]: i["State"]["Name"] for p in pages for r in p["Reservations"] for i in r["Instances"]}


@cache
def _loader() -> Loader:
    return Loader(include_default_search_paths=True)


@cache
def _known_ami() -> list[str]:
    return []


def _ami(ssm: Any) -> str:
    known = _known_ami()
    if not known:
        name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
        known.append(str(ssm.get_parameter(Name=name)["Parameter"]["Value"]))
    return known[0]


def template(cloud: Cloud) -> str:
    """The small template, with a machine image of moto's."""
    return TEMPLATE.replace("{{resolve}}", cloud.ami())


def call(*words: str) -> int:
    """The command line, as `pdf-flows aws` runs it, without what `deployments.cli` adds. Returns the exit status."""
    status = aws_app(list(words), exit_on_error=False, print_error=False, result_action="return_value")
    return status if isinstance(status, int) else 0


@contextmanager
def stubbed(service: str, *answers: tuple[str, Any, dict[str, Any] | None]) -> Iterator[Any]:
    """A client that gives these answers, in this order, and to nothing else.

    Args:
        answers: operation (in Python's spelling), what comes back (a dict) or the error's code (a str), expected parameters.
    """
    client = boto3.client(service, region_name=REGION, aws_access_key_id="x", aws_secret_access_key="y")
    with Stubber(client) as stub:
        for operation, answer, expected in answers:
            if isinstance(answer, str):
                stub.add_client_error(operation, service_error_code=answer, service_message=f"no {operation}")
            else:
                stub.add_response(operation, answer, expected)
        yield client
        stub.assert_no_pending_responses()


def json_of(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command printed with --json."""
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert len(lines) == 1, out
    return json.loads(lines[0])
