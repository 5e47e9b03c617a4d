"""Standard streams that cannot end a command: closed ones are replaced, and a stderr that nobody reads is given up."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from tasks.corpus.failures import PdfFlowsError


class OutputLost(PdfFlowsError):
    """stdout takes nothing any more (a full disk): what was to be said is lost, what was done is not."""


class LastingStderr(io.TextIOBase):
    """stderr for as long as it takes text, then nothing: losing the log must not lose the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = False

    def write(self, text: str) -> int:
        """All of the text, or nothing, for ever."""
        if not self._lost:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                self._lost = True
        return len(text)

    def flush(self) -> None:
        """As far as the stream takes it."""
        if not self._lost:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._lost = True

    def isatty(self) -> bool:
        """Whether a person is looking."""
        return not self._lost and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream below."""
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def settle() -> None:
    """Give the process three open standard streams. Called before anything else opens a file."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = LastingStderr(sys.stderr)


def write_out(text: str) -> None:
    """Text on stdout, at once. A reader that left (`| head`) is no error. Raises OutputLost."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_stdout()
    except OSError as error:
        _give_up_stdout()
        raise OutputLost(f"stdout cannot be written: {error.strerror}") from error


def _give_up_stdout() -> None:
    """Point stdout at nothing: the interpreter would try to flush what is left at its end, and fail."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
