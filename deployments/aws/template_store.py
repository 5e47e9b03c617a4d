"""A template larger than CloudFormation takes inline lies in a bucket of the account while the stack is made."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from deployments.aws.account import Account
from deployments.aws.errors import code_of
from deployments.aws.stack import INLINE_BYTES


@contextlib.contextmanager
def offered(account: Account, text: str) -> Iterator[dict[str, str]]:
    """What CloudFormation's calls take: the template itself, or where it lies. Bucket and object are gone afterwards."""
    body = text.encode()
    if len(body) <= INLINE_BYTES:
        yield {"TemplateBody": text}
        return
    s3 = account.client("s3")
    bucket = f"{account.project}-templates-{account.identity.account}-{account.region}"[:63].rstrip("-")
    key = f"{hashlib.sha256(body).hexdigest()[:16]}.yaml"
    _make(account, bucket)
    s3.put_object(Bucket=bucket, Key=key, Body=body, ExpectedBucketOwner=account.identity.account)
    try:
        # CloudFormation fetches it: AWS's own address, whatever endpoint this machine was pointed at.
        suffix = "amazonaws.com.cn" if account.identity.partition == "aws-cn" else "amazonaws.com"
        yield {"TemplateURL": f"https://s3.{account.region}.{suffix}/{bucket}/{key}"}
    finally:
        s3.delete_object(Bucket=bucket, Key=key)
        s3.delete_bucket(Bucket=bucket)


def _make(account: Account, bucket: str) -> None:
    from botocore.exceptions import ClientError

    s3 = account.client("s3")
    where = {} if account.region == "us-east-1" else {"LocationConstraint": account.region}
    try:
        s3.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": where} if where else {}))
    except ClientError as error:
        if code_of(error) != "BucketAlreadyOwnedByYou":
            raise
    # Nothing else is set: new buckets are private and encrypted by themselves since 2023 (AWS documentation).
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": account.tags})
