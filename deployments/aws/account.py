"""An AWS account, as one set of credentials and one region sees it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws.errors import explain
from tasks.corpus.failures import UsageError

TAG = "Project"
"""Everything that belongs to a project carries this tag: what is left over is found by it."""
PROJECT = "pdf-flows"
_RESERVED = ("aws", "ecs", "fargate", "sthree-", "amzn-s3-demo-")
"""ECS refuses capacity providers, S3 buckets whose names begin so (ECS, CreateCapacityProvider; S3, bucket naming rules)."""
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_REGION = re.compile(r"[a-z]{2,3}(?:-[a-z]+)+-[0-9]+")
_SHORTEST, _LONGEST = 3, 21
"""Of the template's ProjectName: what is made of it must fit S3's 63 characters."""


class Identity(BaseModel):
    """Who asks."""

    model_config = ConfigDict(frozen=True)

    account: str
    arn: str

    @property
    def partition(self) -> str:
        """ "aws", "aws-cn" or "aws-us-gov"."""
        return self.arn.split(":")[1] if self.arn.startswith("arn:") else "aws"

    @property
    def root(self) -> bool:
        """Whether it is the account's root user."""
        return self.arn.endswith(":root")

    @property
    def role_name(self) -> str | None:
        """Of an assumed role."""
        resource = self.arn.split(":", 5)[-1]
        return resource.split("/")[1] if resource.startswith("assumed-role/") else None


def check_project(name: str) -> None:
    """Raises UsageError where CloudFormation, ECR, ECS or S3 would refuse what is called after the project."""
    if name.startswith(_RESERVED):
        raise UsageError(
            f"bad project name {name!r}: AWS keeps names that begin with {', '.join(_RESERVED)} to itself: choose another"
        )
    if _NAME.fullmatch(name) is None or not _SHORTEST <= len(name) <= _LONGEST:
        raise UsageError(
            f"bad project name {name!r}: give {_SHORTEST} to {_LONGEST} lower-case letters, digits and single dashes between "
            "them, a letter first"
        )


class Account:
    """Clients for one project in one region; each is made when it is first asked for.

    Args:
        project: the value of the tag `Project`, and the name of the stack.
        region: None takes the environment's or the profile's.
        profile: of ~/.aws/config; None takes AWS_PROFILE's, else the default chain.
        clients: clients to use instead of boto3's, by service name (tests).

    Raises UsageError: no region, no such profile, or a name that something in AWS would refuse.
    """

    def __init__(
        self,
        project: str = PROJECT,
        *,
        region: str | None = None,
        profile: str | None = None,
        clients: Mapping[str, Any] | None = None,
    ) -> None:
        from boto3.session import Session
        from botocore.exceptions import BotoCoreError

        check_project(project)
        try:
            # boto3 reads AWS_DEFAULT_REGION and the profile only; AWS's other SDKs, and its own machines, go by AWS_REGION.
            self._session = Session(profile_name=profile, region_name=region or os.environ.get("AWS_REGION") or None)
        except BotoCoreError as error:
            raise explain(error).error from error
        found = self._session.region_name
        if found and _REGION.fullmatch(found) is None:
            raise UsageError(f"bad AWS region {found!r}: give one like us-east-1")
        if not found:
            raise UsageError("no AWS region is set: give --region, or set AWS_REGION")
        self.project = project
        self.region: str = found
        self.profile = profile
        self._clients: dict[tuple[str, str], Any] = {(name, found): made for name, made in (clients or {}).items()}

    def client(self, service: str, region: str | None = None) -> Any:
        """A boto3 client with short timeouts and standard retries."""
        key = (service, region or self.region)
        if key not in self._clients:
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError

            # Somebody waits at a terminal; S3 and CloudFormation answer in seconds or not at all.
            config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 4})
            try:
                self._clients[key] = self._session.client(service, region_name=key[1], config=config)
            except BotoCoreError:
                raise
            except ValueError as error:
                # No error of boto3's own kind: an endpoint that is no address.
                raise UsageError(
                    f"no client of AWS can be made ({error}): correct AWS_ENDPOINT_URL, or unset it"
                ) from None
        return self._clients[key]

    @cached_property
    def identity(self) -> Identity:
        """Who these credentials belong to. Raises boto3's errors where there are none or they are not valid."""
        found = self.client("sts").get_caller_identity()
        return Identity(account=found["Account"], arn=found["Arn"])

    @property
    def tag_filter(self) -> list[dict[str, Any]]:
        """What EC2's describe calls find the project's things by."""
        return [{"Name": f"tag:{TAG}", "Values": [self.project]}]

    @property
    def tags(self) -> list[dict[str, str]]:
        """To put on what is made."""
        return [{"Key": TAG, "Value": self.project}]
