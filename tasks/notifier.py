"""Tells people of a run, each message once: written down in the run first, sent then."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from tasks.channels import Channel
from tasks.corpus import paths
from tasks.corpus.failures import StoreError
from tasks.corpus.paths import SCHEMA
from tasks.corpus.store import Store
from tasks.messages import About, Message, Standing, due, ended
from tasks.report import Report
from tasks.ticker import Ticker

LOOK_SECONDS = 15.0
WAITS = (1.0, 5.0)
"""Seconds before the second and the third try of a message."""
END_SECONDS = 60.0
"""What the run's end waits for its message at most."""
Log = logging.Logger | logging.LoggerAdapter[Any]


class Told(BaseModel):
    """The record of a message: create-if-absent, before it is sent. So one that is lost is lost, and none comes twice."""

    schema_version: int = SCHEMA
    at: str
    epoch: int
    """Of the parent that sent it."""
    channels: list[str]
    subject: str
    text: str


class Notifier:
    """One parent's messages. A context manager: looks every 15 s within, in a thread of its own; no work waits for it.

    Args:
        look: where the run stands; None before anybody knows.
        channels: none: nothing is written down, either.
        ours: whether the run is still this parent's.
    """

    def __init__(
        self,
        runs: Store,
        epoch: int,
        about: About,
        channels: Sequence[Channel],
        look: Callable[[], Standing | None],
        log: Log,
        *,
        seconds: float = LOOK_SECONDS,
        ours: Callable[[], bool] = lambda: True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._runs, self._epoch, self._about, self._channels = runs, epoch, about, channels
        self._look, self._log, self._ours, self._sleep = look, log, ours, sleep
        self._sent: set[str] | None = None
        self._busy = threading.Lock()
        context = contextvars.copy_context()
        self._ticker = Ticker("notifier", seconds, lambda: context.run(self._tick))

    def __enter__(self) -> Notifier:
        if self._channels:
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop(patience=0.0)

    def conclude(self, report: Report) -> None:
        """Tell of the end; waits for that a minute at most."""
        if not self._channels:
            return
        self._ticker.stop(patience=0.0)
        context = contextvars.copy_context()
        last = threading.Thread(target=lambda: context.run(self._tell, [ended(self._about, report)]), daemon=True)
        last.start()
        last.join(END_SECONDS)
        if last.is_alive():
            self._log.warning("A message was not sent within %.0f s", END_SECONDS)

    def _tick(self) -> None:
        if (standing := self._look()) is not None and self._ours():
            self._tell(due(self._about, standing, self._known()))

    def _tell(self, messages: list[Message]) -> None:
        with self._busy:
            for message in messages:
                try:
                    mine = message.name not in self._known() and self._write_down(message)
                except StoreError as error:
                    # Unsent: without its record it might come again from the next parent.
                    self._log.warning("A message could not be written down, and is not sent: %s", error)
                    continue
                self._known().add(message.name)
                if mine:
                    for channel in self._channels:
                        self._send(channel, message)

    def _known(self) -> set[str]:
        """Names of what this parent or one before it told."""
        if self._sent is None:
            prefix = paths.told(self._about.run_id)
            try:
                self._sent = {info.key[len(prefix) :].removesuffix(".json") for info in self._runs.list(prefix)}
            except StoreError:
                return set()
        return self._sent

    def _write_down(self, message: Message) -> bool:
        told = Told(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            epoch=self._epoch,
            channels=[channel.name for channel in self._channels],
            subject=message.subject,
            text=message.text,
        )
        key = f"{paths.told(self._about.run_id)}{message.name}.json"
        return self._runs.create(key, told.model_dump_json(indent=1).encode())

    def _send(self, channel: Channel, message: Message) -> None:
        for wait in (*WAITS, None):
            try:
                channel.send(message)
            except Exception as error:  # noqa: BLE001 - a boundary: what a block raises is its author's choice
                words = " ".join(str(error).split())[:300] or type(error).__name__
                if wait is None or channel.lost(error):
                    self._log.warning("%s was not told %r: %s", channel.name, message.subject, words)
                    return
                self._sleep(wait)
            else:
                self._log.info("Told %s: %s", channel.name, message.subject)
                return
