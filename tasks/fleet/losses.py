"""Why a launched worker is not there (any more), from the words of whoever ran it: Prefect, ECS, the operating system. Pure."""

from __future__ import annotations

import re
from enum import StrEnum


class Loss(StrEnum):
    """What became of a launch that did not end in an orderly way."""

    PROCESS = "died"
    """Its process ended without a word: by a signal, out of memory. Its documents may have done it."""
    ERROR = "failed"
    """It ended by itself with an error that it could tell: the store was away, the claim was another's. No document did that."""
    HOST = "machine lost"
    """Its machine is gone. Says nothing about its documents."""
    CAPACITY = "no capacity"
    """It never started: no machine was to be had, or none in time. Waited out for hours."""
    SETUP = "cannot be started"
    """It never started, and trying again will not help by itself: no image, a bad definition, no permission."""
    SILENT = "silent"
    """Its heartbeat stood still: frozen, or its machine was lost without a word."""
    STUCK = "stuck"
    """It beats, and no page gets done."""

    @property
    def blames(self) -> bool:
        """Whether the documents in hand may have been the cause (DESIGN section 4, promise 6)."""
        return self in (Loss.PROCESS, Loss.STUCK)

    @property
    def counts(self) -> bool:
        """Whether many in a row, without any outcome between them, give the worker up."""
        return self in (Loss.PROCESS, Loss.ERROR, Loss.STUCK, Loss.SILENT, Loss.SETUP)


_SETUP = re.compile(
    r"CannotPull|CannotStartContainer|CannotCreateContainer|image pull|ImagePull|ResourceInitialization|"
    r"AccessDenied|not authorized|Invalid\w*Exception|ClientException|"
    r"no tasks or failures were returned",
    re.IGNORECASE,
)
_EMPTY = re.compile("No Container Instances", re.IGNORECASE)
"""Of a cluster: RunTask says InvalidParameterException then, and it is capacity all the same."""
_CAPACITY = re.compile(
    r"RESOURCE:|No Container Instances|capacity is unavailable|InsufficientInstanceCapacity|insufficient capacity|"
    r"TaskFailedToStart|unable to place|PROVISIONING|Failed to submit|MaxSpotInstanceCountExceeded|VcpuLimitExceeded",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"SpotInterruption|Host EC2|instance .{0,80}terminated|spot interruption|no exit code|exit code (None|null)|"
    r"TerminationNotice|ServiceSchedulerInitiated|container instance .{0,80}(stopped|deregistered)",
    re.IGNORECASE,
)


def diagnose(words: str, *, began: bool) -> Loss:
    """The kind of a loss.

    Args:
        words: the state message or stop reason, e.g. of ECS (stopCode and stoppedReason; AWS documentation, "Stopped tasks error
            messages") or of Prefect's observer ("exited with code 137").
        began: its process was seen to run.
    """
    if _HOST.search(words):
        return Loss.HOST
    if not began:
        if _SETUP.search(words) and not _EMPTY.search(words):
            return Loss.SETUP
        return Loss.CAPACITY
    # Nobody says with what status it ended: its machine went with it.
    return Loss.PROCESS
