"""Conditional writes to a moto server that are atomic, as S3's are.

moto looks whether the object is there and then puts it, with nothing between: of two requests at the same instant both may
create it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def atomic_writes() -> Iterator[None]:
    """For all moto servers of this process, until the end of `with`: one PUT of an object after the other."""
    from moto.s3.responses import S3Response

    put, lock = S3Response.put_object, threading.Lock()

    def put_object(self: S3Response) -> Any:
        with lock:
            return put(self)

    S3Response.put_object = put_object  # type: ignore[method-assign]
    try:
        yield
    finally:
        S3Response.put_object = put  # type: ignore[method-assign]
