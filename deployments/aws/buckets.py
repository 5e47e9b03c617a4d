"""The buckets of input and output: there, in the region, readable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account
from deployments.aws.errors import code_of
from deployments.aws.findings import Finding
from tasks.corpus.failures import UsageError

PAGES = 200
"""Of 1,000 keys each: so many are counted, the rest estimated as more."""


class Bucket(BaseModel):
    """What was seen of a bucket."""

    model_config = ConfigDict(frozen=True)

    name: str
    prefix: str = ""
    there: bool = True
    region: str | None = None
    listed: bool = True
    """Whether listing below the prefix is allowed."""
    why: str = ""
    """Why not."""
    pdfs: int = 0
    more: bool = False
    """More than were counted."""


def split_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`. Raises UsageError."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise UsageError(f"bad address {url!r}: machines on AWS read and write s3://bucket/prefix")
    return bucket, prefix


def read(account: Account, name: str, prefix: str = "", *, count: bool = False) -> Bucket:
    """Look at a bucket; `count` counts the PDFs below the prefix. Raises boto3's errors where AWS does not answer."""
    from botocore.exceptions import ClientError

    s3 = account.client("s3")
    try:
        answer = s3.head_bucket(Bucket=name)
        region = answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    except ClientError as error:
        code = code_of(error)
        if code in ("404", "NoSuchBucket"):
            return Bucket(name=name, prefix=prefix, there=False)
        # 403 and 301 name the region all the same (S3 API reference, HeadBucket).
        region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return Bucket(name=name, prefix=prefix, region=region, listed=False, why=f"HeadBucket: {code}")
    pdfs, more = 0, False
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=name, Prefix=prefix, PaginationConfig={} if count else {"MaxItems": 1, "PageSize": 1}
        )
        for number, page in enumerate(pages, 1):
            pdfs += sum(item["Key"].lower().endswith(".pdf") for item in page.get("Contents", ()))
            if number >= PAGES:
                more = bool(page.get("IsTruncated"))
                break
    except ClientError as error:
        return Bucket(name=name, prefix=prefix, region=region, listed=False, why=f"ListObjectsV2: {code_of(error)}")
    return Bucket(name=name, prefix=prefix, region=region, pdfs=pdfs, more=more)


def judge(role: str, bucket: Bucket, region: str, *, counted: bool = False) -> Finding:
    """Whether the bucket serves as `role` ("input", "output"). Pure."""
    name = f"{role} bucket"
    where = f"s3://{bucket.name}/{bucket.prefix}"
    if not bucket.there:
        return Finding.fail(name, f"there is no bucket {bucket.name}", "make it, or name another")
    if bucket.region is not None and bucket.region != region:
        remedy = f"use --region {bucket.region}, or a bucket of {region}: between regions every byte is paid for"
        return Finding.fail(name, f"{where} is in {bucket.region}, not in {region}", remedy)
    if not bucket.listed:
        return Finding.fail(name, f"{where} cannot be listed ({bucket.why})", "allow s3:ListBucket on it")
    if not counted:
        return Finding.ok(name, f"{where} in {region}, listing works")
    number = f"more than {bucket.pdfs:,}" if bucket.more else f"{bucket.pdfs:,}"
    words = f"{where} in {region}, {number} PDFs"
    if not bucket.pdfs:
        return Finding.warn(name, words, f"upload some: aws s3 sync <folder> {where}")
    return Finding.ok(name, words)
