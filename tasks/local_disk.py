"""This machine's disk as a document sees it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.corpus.failures import Category, ConversionError, Phase


@contextmanager
def local_disk() -> Iterator[None]:
    """Errors of this machine's disk as the document's failure: a full one must not end the worker."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise ConversionError.of(
            Category.DISK_FULL if full else Category.STORE,
            Phase.FETCH,
            f"no room for the local copy: {error.strerror}" if full else f"the local copy failed: {error.strerror}",
        ) from error
