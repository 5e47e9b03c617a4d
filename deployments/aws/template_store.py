"""A template larger than CloudFormation takes inline lies in a bucket of the account while the stack is made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

from deployments.aws.account import Account
from deployments.aws.errors import boto_errors, code_of
from deployments.aws.stack import INLINE_BYTES

TRIES = 10
PAUSE_SECONDS = 3.0
MEANWHILE = ("NoSuchBucket", "OperationAborted")
"""Another `up` deleted the bucket in between, or S3 is still at it."""
IN_USE = ("NoSuchBucket", "BucketNotEmpty", "OperationAborted", "404")
"""Another `up` still needs the bucket, or has deleted it."""


@contextlib.contextmanager
def offered(account: Account, text: str, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[dict[str, str]]:
    """What CloudFormation's calls take: the template itself, or where it lies.

    The object is this call's own, and gone afterwards; so is the bucket, unless another `up` of the project has its own in it.
    """
    body = text.encode()
    if len(body) <= INLINE_BYTES:
        yield {"TemplateBody": text}
        return
    bucket = f"{account.project}-templates-{account.identity.account}-{account.region}"[:63].rstrip("-")
    key = f"{uuid4().hex}.yaml"
    _put(account, bucket, key, body, sleep)
    try:
        # CloudFormation fetches it: AWS's own address, whatever endpoint this machine was pointed at.
        suffix = "amazonaws.com.cn" if account.identity.partition == "aws-cn" else "amazonaws.com"
        yield {"TemplateURL": f"https://s3.{account.region}.{suffix}/{bucket}/{key}"}
    except BaseException:
        # Why the stack was not made is worth more than that the template still lies there.
        with contextlib.suppress(*boto_errors()):
            _take_back(account, bucket, key)
        raise
    _take_back(account, bucket, key)


def _put(account: Account, bucket: str, key: str, body: bytes, sleep: Callable[[float], None]) -> None:
    from botocore.exceptions import ClientError

    s3 = account.client("s3")
    for left in reversed(range(TRIES)):
        try:
            _make(account, bucket)
            s3.put_object(Bucket=bucket, Key=key, Body=body, ExpectedBucketOwner=account.identity.account)
        except ClientError as error:
            if code_of(error) not in MEANWHILE or not left:
                raise
            sleep(PAUSE_SECONDS)
        else:
            return


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


def _take_back(account: Account, bucket: str, key: str) -> None:
    from botocore.exceptions import ClientError

    s3 = account.client("s3")
    try:
        s3.delete_object(Bucket=bucket, Key=key)
        s3.delete_bucket(Bucket=bucket)
    except ClientError as error:
        if code_of(error) not in IN_USE:
            raise
