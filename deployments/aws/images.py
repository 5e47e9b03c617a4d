"""The two images of a worker: the machine's (AMI) and the container's (ECR)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account
from deployments.aws.errors import code_of
from deployments.aws.findings import Finding
from deployments.aws.permissions import AMI_PARAMETER
from tasks.corpus.failures import UsageError

AMI = "machine image"
NAME = "container image"
LARGE_GB = 20.0
"""Compressed. A volume of 100 GB holds the machine's own 30 and an image two to three times as large unpacked."""
_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<name>[^:@]+)"
    r"(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


ADDRESS = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"
"""Characters of an image's address: what has others no registry takes, and each machine would cost its start to find out."""


class ImageUri(BaseModel):
    """A container image by its address."""

    model_config = ConfigDict(frozen=True)

    uri: str
    account: str | None = None
    """Of ECR; None: it is elsewhere."""
    region: str | None = None
    name: str
    tag: str = "latest"
    digest: str | None = None

    @property
    def registry(self) -> str:
        """What `docker login` is for."""
        return self.uri.split("/", 1)[0]


class Stored(BaseModel):
    """An image that is there."""

    model_config = ConfigDict(frozen=True)

    digest: str
    bytes: int
    """Compressed, as it is pulled."""
    pushed: datetime | None = None


def parse(uri: str) -> ImageUri:
    """An image's address in parts. Pure. Raises UsageError where it is none."""
    if re.fullmatch(ADDRESS, uri) is None:
        raise UsageError(f"bad image {uri!r}: give one like 123456789012.dkr.ecr.us-east-1.amazonaws.com/name:tag")
    match = _ECR.fullmatch(uri)
    if match is None:
        last = uri.rsplit("/", 1)[-1]
        return ImageUri(uri=uri, name=uri, tag=last.partition(":")[2] or "latest")
    return ImageUri(
        uri=uri,
        account=match["account"],
        region=match["region"],
        name=match["name"],
        tag=match["tag"] or "latest",
        digest=match["digest"],
    )


def read_ami(account: Account) -> str:
    """The machine image's id. Raises boto3's errors."""
    return str(account.client("ssm").get_parameter(Name=AMI_PARAMETER)["Parameter"]["Value"])


def read_root_gigabytes(account: Account, ami: str) -> tuple[str, int]:
    """The root device's name and the smallest volume that holds the machine image, in GB. Raises boto3's errors."""
    found = account.client("ec2").describe_images(ImageIds=[ami])["Images"]
    image: dict[str, Any] = found[0] if found else {}
    device = image.get("RootDeviceName") or "/dev/xvda"
    sizes = [
        m["Ebs"].get("VolumeSize", 0) for m in image.get("BlockDeviceMappings", ()) if m.get("DeviceName") == device
    ]
    return device, max(sizes, default=0)


def judge_ami(ami: str, gigabytes: int, region: str) -> Finding:
    """The machine image that would be started. Pure."""
    size = f", {gigabytes} GB" if gigabytes else ""
    return Finding.ok(AMI, f"{ami} in {region}{size} (ECS GPU-optimized, Amazon Linux 2023)")


def read(account: Account, image: ImageUri) -> Stored | None:
    """What ECR holds under the address; None where there is no such image. Raises boto3's errors."""
    from botocore.exceptions import ClientError

    which = {"imageDigest": image.digest} if image.digest is not None else {"imageTag": image.tag}
    try:
        found = account.client("ecr", image.region).describe_images(
            registryId=image.account, repositoryName=image.name, imageIds=[which]
        )["imageDetails"]
    except ClientError as error:
        if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
            return None
        raise
    if not found:
        return None
    return Stored(
        digest=found[0]["imageDigest"], bytes=found[0].get("imageSizeInBytes", 0), pushed=found[0].get("imagePushedAt")
    )


def judge(image: ImageUri, stored: Stored | None, region: str) -> Finding:
    """Whether the workers' image can be had. Pure."""
    if image.account is None:
        words = f"{image.uri} is not in ECR: whether it is there, and how large, is not known"
        return Finding.warn(NAME, words, "copy it to the stack's repository: pulls of ECR in the region cost nothing")
    where = f"{image.name}:{image.tag}" if image.digest is None else f"{image.name}@{image.digest}"
    if stored is None:
        remedy = "build it there: pdf-flows aws up --build (some 20 minutes), or name another with --image"
        return Finding.fail(NAME, f"no image {where} in ECR of {image.region}", remedy)
    gigabytes = stored.bytes / 1e9
    pushed = f", pushed {stored.pushed:%Y-%m-%d %H:%M}" if stored.pushed is not None else ""
    words = f"{where}: {gigabytes:.1f} GB compressed{pushed}, {stored.digest[:19]}"
    if image.region != region:
        return Finding.warn(NAME, words, f"it is in {image.region}, not in {region}: every pull pays for the transfer")
    if gigabytes > LARGE_GB:
        return Finding.warn(NAME, words, "large: each new machine pulls it first; leave weights or CUDA parts out")
    return Finding.ok(NAME, words)
