"""The machine that a process runs on: what its bill is reckoned from."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.fleet.imds import Imds

OVERRIDE = "PDF_FLOWS_MACHINE"
"""Environment variable: the machine as JSON, for rehearsals and for hosts that no metadata service describes."""
BOOT_SECONDS = 60.0
"""Paid for before the kernel counts its uptime: the time from the start of the bill to the start of the kernel, at most."""


class Lifecycle(StrEnum):
    """How a machine is paid for."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"
    OWN = "own"
    """Not by the hour: the user's own."""


class Machine(BaseModel):
    """One machine, as it describes itself."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1)
    """Instance id; of an own machine its host name. Workers with the same id share the machine and its bill."""
    type: str | None = None
    zone: str | None = None
    region: str | None = None
    lifecycle: Lifecycle = Lifecycle.OWN
    uptime: float | None = Field(None, ge=0)
    """Seconds since the host's kernel started, at the time of asking. None where the system does not say."""


def this_machine(imds: Imds | None = None, env: Mapping[str, str] | None = None) -> Machine:
    """The machine of the calling process; off EC2 an own one. Costs a laptop about a second, once.

    Args:
        imds: the metadata service; None takes the environment's.
        env: the environment; None takes the process's.

    Raises ValueError where the environment's override is no machine.
    """
    env = os.environ if env is None else env
    if text := env.get(OVERRIDE):
        try:
            given = Machine.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"{OVERRIDE} is no machine: {error.errors()[0]['msg']}") from error
        return given if given.uptime is not None else given.model_copy(update={"uptime": uptime()})
    imds = Imds.from_env(env) if imds is None else imds
    instance = imds.get("/meta-data/instance-id")
    # Other clouds and captive networks may answer at the same address.
    if instance is None or re.fullmatch(r"i-[0-9a-zA-Z]+", instance) is None:
        return Machine(id=socket.gethostname() or "localhost", uptime=uptime())
    zone = imds.get("/meta-data/placement/availability-zone") or None
    region = imds.get("/meta-data/placement/region") or None
    # "on-demand", "spot", "scheduled" or "capacity-block": whatever is not Spot is paid for as on-demand at most.
    spot = imds.get("/meta-data/instance-life-cycle") == Lifecycle.SPOT
    return Machine(
        id=instance,
        type=imds.get("/meta-data/instance-type") or None,
        zone=zone,
        region=region,
        lifecycle=Lifecycle.SPOT if spot else Lifecycle.ON_DEMAND,
        uptime=uptime(),
    )


def uptime(proc: Path = Path("/proc/uptime")) -> float | None:
    """Seconds since the host's kernel started (a container sees its host's), None where the system does not say."""
    try:
        return float(proc.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
