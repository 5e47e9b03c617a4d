"""Planning values: what things cost beside GPU compute, and how fast a GPU reads. Each with its source; none is a quote.

Prices are us-east-1's, USD, as noted in November 2026 from AWS's public price pages; other regions differ by up to some 30 %.
Throughput figures are estimates: the dolphin engine has not been measured on any GPU of this list (docs/dolphin.md).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

HOURS_A_MONTH = 730.0
"""What AWS divides monthly prices by."""
VOLUME_GB_MONTH = {"gp3": 0.08, "gp2": 0.10, "io1": 0.125, "io2": 0.125, "st1": 0.045, "sc1": 0.015, "standard": 0.05}
"""USD a GB-month, by EBS volume type. Source: AWS, Amazon EBS pricing."""
GP3_MBPS_MONTH = 0.04
"""USD a MB/s-month over 125. Same source."""
GP3_IOPS_MONTH = 0.005
"""USD an IOPS-month over 3,000. Same source."""
ADDRESS = 0.005
"""USD an hour of a public IPv4 address, in use or idle. Source: AWS, Amazon VPC pricing."""
NAT_GATEWAY = 0.045
"""USD an hour, without the traffic. Same source."""
INTERFACE_ENDPOINT = 0.01
"""USD an hour and availability zone. Source: AWS PrivateLink pricing."""
CONTROL = {
    "t3.micro": 0.0104,
    "t3.small": 0.0208,
    "t3.medium": 0.0416,
    "t3.large": 0.0832,
    "t3a.small": 0.0188,
    "t3a.medium": 0.0376,
    "t3a.large": 0.0752,
    "t4g.small": 0.0168,
    "t4g.medium": 0.0336,
    "t4g.large": 0.0672,
    "m7i-flex.large": 0.0958,
}
"""USD an hour on-demand of types that a control host may have. Source: AWS, Amazon EC2 on-demand pricing, Linux."""
PAGES_PER_DOCUMENT = 18.0
"""Of a scientific paper: an assumption of an earlier project with the same task (shared notes on peers), measured by nobody."""


class Gpu(BaseModel):
    """What a machine type is expected to do."""

    model_config = ConfigDict(frozen=True)

    name: str
    vcpus: int = Field(gt=0)
    pages_per_second: float = Field(gt=0)
    """Of one worker with the dolphin engine: a planning value."""
    source: str


_T4 = (
    "0.047 pages/s measured by others with plain Hugging Face decoding on a g4dn.xlarge (200-250 documents of 18 pages "
    "a day), times 5 for batched decoding (4 to 7 by roofline)"
)
_A10G = "the T4's value times 2.5 (A10G and L4 run such models 2 to 3 times as fast)"
GPUS = {
    "g4dn.xlarge": Gpu(name="T4", vcpus=4, pages_per_second=0.23, source=_T4),
    "g4dn.2xlarge": Gpu(name="T4", vcpus=8, pages_per_second=0.23, source=_T4),
    "g5.xlarge": Gpu(name="A10G", vcpus=4, pages_per_second=0.58, source=_A10G),
    "g5.2xlarge": Gpu(name="A10G", vcpus=8, pages_per_second=0.58, source=_A10G),
    "g6.xlarge": Gpu(name="L4", vcpus=4, pages_per_second=0.58, source=_A10G),
    "g6.2xlarge": Gpu(name="L4", vcpus=8, pages_per_second=0.58, source=_A10G),
    "g6e.xlarge": Gpu(name="L40S", vcpus=4, pages_per_second=1.7, source="the L4's value times 3 (roofline)"),
}
"""One GPU with 16 GB or more each. `pdf-flows gpu-check` measures; `--pages-per-second` puts what it says in their place."""


def volume_per_hour(kind: str, gigabytes: float, iops: int | None = None, mbps: int | None = None) -> float:
    """USD an hour of an EBS volume; of an unknown kind as the dearest. Pure."""
    month = VOLUME_GB_MONTH.get(kind, max(VOLUME_GB_MONTH.values())) * gigabytes
    if kind == "gp3":
        month += GP3_MBPS_MONTH * max(0, (mbps or 125) - 125) + GP3_IOPS_MONTH * max(0, (iops or 3000) - 3000)
    return month / HOURS_A_MONTH
