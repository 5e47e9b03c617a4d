"""Frames between a worker and its sandbox child: JSON behind a length (4 bytes, big-endian), over pipes.

Nothing that a child sends is ever unpickled or evaluated: a child that a document took over can lie, but not reach further.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

MAX_FRAME = 256 * 1024 * 1024
"""Bytes. No honest document's Markdown comes near; a longer frame is refused unread."""

_LENGTH = struct.Struct(">I")


class BadFrame(ValueError):
    """What came through the pipe is no frame."""


def encode(message: dict[str, Any]) -> bytes:
    """The frame of a message. Raises BadFrame where it is longer than MAX_FRAME, UnicodeEncodeError on lone surrogates."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise BadFrame(f"a frame of {len(body)} bytes; at most {MAX_FRAME} fit")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> dict[str, Any]:
    """The message in a frame's body. Raises BadFrame."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadFrame("a frame that is no JSON") from error
    if not isinstance(message, dict):
        raise BadFrame("a frame that is no JSON object")
    return message


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message of a blocking stream; None at its end. Raises BadFrame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise BadFrame(f"a frame of {length} bytes announced")
    body = stream.read(length)
    return decode(body) if len(body) == length else None


class Splitter:
    """Cuts messages out of the bytes of a pipe as they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages completed by `data`. Raises BadFrame."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise BadFrame(f"a frame of {length} bytes announced")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(decode(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages
