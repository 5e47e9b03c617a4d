"""Standard streams that cannot end a command: closed ones are replaced, and one that takes no text any more is given up."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast


class Lasting:
    """A standard stream for as long as it takes text, then nothing: losing the log must not lose the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        """Why nothing is written any more."""

    def write(self, text: str) -> int:
        """All of the text, or nothing, for ever."""
        if self.lost is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """As far as the stream takes it."""
        if self.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.lost = error
        # The interpreter flushes what is left when it ends, and would fail again.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def settle() -> None:
    """Give the process three open standard streams, of which the two for output last."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = cast(TextIO, Lasting(stdout)), cast(TextIO, Lasting(stderr))


def lost_output() -> str | None:
    """Why what was written to stdout did not get there; None where it did, or its reader left on purpose (`| head`)."""
    sys.stdout.flush()
    lost = sys.stdout.lost if isinstance(sys.stdout, Lasting) else None
    return None if lost is None or isinstance(lost, BrokenPipeError) else lost.strerror
