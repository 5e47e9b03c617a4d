"""Notices that this machine is about to be taken away: from its host's file, or from the metadata service.

AWS documentation: a Spot instance is told two minutes before it is interrupted, on a best-effort basis; a rebalance
recommendation says that the risk is elevated, and may be followed by nothing. Asking every 5 seconds is what AWS recommends.
In a container the host's watcher writes the file, since the metadata service may be out of the container's reach.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.fleet.imds import Imds

FILE_VARIABLE = "PDF_FLOWS_SPOT_NOTICE_FILE"
FILE = Path("/run/spot-notice/instance-action")
REBALANCE_FILE = "rebalance"
"""Beside the notice file."""
POLL_SECONDS = 5.0
LONGEST_SECONDS = 120.0
"""A notice does not come earlier: an end further away is a clock that is wrong."""
_ACTION = "/meta-data/spot/instance-action"
_REBALANCE = "/meta-data/events/recommendations/rebalance"

_log = logging.getLogger("pdf_flows.notice")


class NoticeKind(StrEnum):
    """What was announced."""

    INTERRUPTION = "interruption"
    """The machine will be terminated, stopped or hibernated: drain."""
    REBALANCE = "rebalance recommendation"
    """It may be: take no long documents."""


class Notice(BaseModel):
    """One announcement."""

    model_config = ConfigDict(frozen=True)

    kind: NoticeKind
    seconds: float | None
    """Until the end, as the notice's own time and this host's clock say: 0 to 120. None where the notice does not say."""
    action: str = ""
    """"terminate", "stop", "hibernate", or what was there instead."""
    source: str = ""
    """Where it was read."""


class _Content(BaseModel):
    action: str = ""
    time: str = ""


def notice_file(env: Mapping[str, str] | None = None) -> Path | None:
    """The host's notice file: the environment's, or the usual place if the host offers it."""
    env = os.environ if env is None else env
    if named := env.get(FILE_VARIABLE):
        return Path(named)
    return FILE if FILE.parent.is_dir() else None


class NoticeWatch:
    """Looks for notices from a thread of its own, from `start` to `stop`. Nothing of it raises into the worker.

    Args:
        on_notice: called once for each kind, from another thread; what it raises ends only that thread.
        file: the host's notice file, which need not exist; None: there is none.
        imds: the metadata service; None: there is none.
        wall: the host's clock, in seconds since 1970.
    """

    def __init__(
        self,
        on_notice: Callable[[Notice], None],
        *,
        file: Path | None,
        imds: Imds | None,
        poll_seconds: float = POLL_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._on_notice = on_notice
        self._file = file
        self._imds = imds
        self._poll_seconds = poll_seconds
        self._wall = wall
        self._seen: set[NoticeKind] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notice-watch", daemon=True)

    @classmethod
    def from_env(cls, on_notice: Callable[[Notice], None], env: Mapping[str, str] | None = None) -> NoticeWatch:
        """As this host is set up."""
        env = os.environ if env is None else env
        return cls(on_notice, file=notice_file(env), imds=Imds.from_env(env))

    def start(self) -> None:
        """The first look is at once: a worker may be started on a machine that is already going."""
        self._thread.start()

    def stop(self, patience: float = 3.0) -> None:
        """No further look; waits for one under way."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout=patience)

    def _run(self) -> None:
        while True:
            self.look()
            if NoticeKind.INTERRUPTION in self._seen or self._end.wait(self._poll_seconds):
                return

    def look(self) -> None:
        """One look at all sources."""
        for kind, find in ((NoticeKind.INTERRUPTION, self._interruption), (NoticeKind.REBALANCE, self._rebalance)):
            if kind in self._seen:
                continue
            notice = find()
            if notice is None:
                continue
            self._seen.add(kind)
            _log.warning("%s of this machine (%s), from %s", notice.kind, notice.action, notice.source)
            threading.Thread(target=self._on_notice, args=(notice,), name="notice", daemon=True).start()

    def _interruption(self) -> Notice | None:
        if self._file is not None and (text := _read(self._file)) is not None:
            return self._notice(NoticeKind.INTERRUPTION, text, str(self._file))
        if self._imds is not None and (text := self._imds.get(_ACTION)):
            return self._notice(NoticeKind.INTERRUPTION, text, "the metadata service")
        return None

    def _rebalance(self) -> Notice | None:
        # Its `noticeTime` is when it was given: it announces no end.
        if self._file is not None and _read(beside := self._file.with_name(REBALANCE_FILE)) is not None:
            return Notice(kind=NoticeKind.REBALANCE, seconds=None, source=str(beside))
        if self._imds is not None and self._imds.get(_REBALANCE):
            return Notice(kind=NoticeKind.REBALANCE, seconds=None, source="the metadata service")
        return None

    def _notice(self, kind: NoticeKind, text: str, source: str) -> Notice:
        """Half-written or odd content is a notice all the same: draining for nothing costs less than not draining."""
        try:
            content = _Content.model_validate_json(text)
        except ValidationError:
            return Notice(kind=kind, seconds=None, action=text.strip()[:80], source=source)
        return Notice(kind=kind, seconds=self._seconds(content.time), action=content.action, source=source)

    def _seconds(self, text: str) -> float | None:
        try:
            end = datetime.fromisoformat(text)
        except ValueError:
            return None
        end = end if end.tzinfo is not None else end.replace(tzinfo=UTC)
        return min(max(end.timestamp() - self._wall(), 0.0), LONGEST_SECONDS)


def _read(file: Path) -> str | None:
    """The text of a file, "" where it is there and cannot be read, None where it is not there (or is a folder)."""
    try:
        if not file.is_file():
            return None
    except OSError:
        return None
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""
