"""Buckets that an earlier `down` kept: found by their tags, long after their stack is gone."""

from __future__ import annotations

import re

from deployments.aws.account import TAG, Account
from deployments.aws.errors import code_of

DOCUMENTS = ("InputBucket", "OutputBucket")
"""Logical ids of the buckets with the user's documents: kept unless asked."""
BUCKETS = (*DOCUMENTS, "SourceBucket")
"""All that the template makes."""
_STACK, _LOGICAL = "aws:cloudformation:stack-name", "aws:cloudformation:logical-id"


def made_by_stack(project: str, name: str, tags: dict[str, str]) -> bool:
    """Whether the project's stack made the bucket: the project's tag, and CloudFormation's own or the name that it gives. Pure.

    The project's tag alone is no proof: others tag by project, too, and existing buckets may be given to a stack.
    """
    if tags.get(TAG) != project:
        return False
    if _STACK in tags or _LOGICAL in tags:
        # Nobody but CloudFormation can set or remove these.
        return tags.get(_STACK) == project and tags.get(_LOGICAL) in BUCKETS
    given = "|".join(logical.lower() for logical in BUCKETS)
    return re.fullmatch(rf"{re.escape(project)}-({given})-[a-z0-9]{{12,13}}", name) is not None


def find(account: Account) -> list[str]:
    """Those of the project in the region. Raises boto3's errors."""
    pages = account.client("resourcegroupstaggingapi").get_paginator("get_resources")
    asked = pages.paginate(TagFilters=[{"Key": TAG, "Values": [account.project]}], ResourceTypeFilters=["s3"])
    arns = [item["ResourceARN"] for page in asked for item in page["ResourceTagMappingList"]]
    names = sorted(arn.rsplit(":", 1)[-1] for arn in arns)
    # The tagging service's index lags behind: what is about to be deleted is asked itself.
    return [name for name in names if made_by_stack(account.project, name, _tags(account, name))]


def _tags(account: Account, name: str) -> dict[str, str]:
    from botocore.exceptions import ClientError

    try:
        found = account.client("s3").get_bucket_tagging(Bucket=name, ExpectedBucketOwner=account.identity.account)
    except ClientError as error:
        if code_of(error) not in ("NoSuchBucket", "NoSuchTagSet", "404"):
            raise
        return {}
    return {tag["Key"]: tag["Value"] for tag in found["TagSet"]}
