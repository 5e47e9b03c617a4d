"""What the rehearsal does otherwise than AWS: said at its end, so that nobody takes it for more than it is."""

from __future__ import annotations

from deployments.rehearsal.clock import NOTICE, SPEED, here

DIFFERENCES = (
    f"time: notices ({NOTICE:g} s there, {here(NOTICE):g} s here), droughts, ECS's patience with tasks and prices go {SPEED:g} "
    "times as fast; booting a machine, pulling the image and the weights take none; processes, pages and Prefect take theirs",
    "machines: all workers share this one's cores, memory and disk, and no GPU; a container is a process (in a pid namespace, as "
    "root), not Docker's",
    "capacity: machines are there or not; zones, types, Auto Scaling, placement and quotas play no part",
    "prices: made up, 30 to 45 % of on-demand prices; nobody is outbid",
    "permissions: IAM is not enforced, neither the roles' nor yours",
    "set-up: CloudFormation, EventBridge, the image's layers, the control host and the network between them are not run",
    "services: S3, SQS, CloudWatch Logs, Secrets Manager and ECS's API are moto's, without their latencies and limits",
)
