"""Partitions: the documents whose index modulo N is k. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def partition_of(index: int, partitions: int) -> int:
    """The partition of a document; `partitions` is the run's (run.json), whatever the number of workers is now."""
    return index % partitions


def partitions_of_worker(worker: int, workers: int, partitions: int) -> list[int]:
    """The partitions that a worker begins with: k, k + workers, ...; none for workers beyond them (they steal).

    Args:
        workers: of the start of the run; those that were added later have numbers beyond it.

    >>> partitions_of_worker(0, 2, 4)
    [0, 2]
    >>> partitions_of_worker(3, 4, 2)
    []
    >>> partitions_of_worker(2, 2, 4)
    []
    """
    if worker < 0 or workers < 1:
        raise ValueError(f"worker {worker} of {workers}")
    return list(range(worker, partitions, workers)) if worker < workers else []


def in_turn(first: int, partitions: int, worker: int) -> list[int]:
    """The order in which a thief visits all partitions: from `first` on, in steps that differ from thief to thief.

    With one step for all, thieves that began among partitions with nothing left would meet at the same next one, and
    fight for the same documents.

    >>> in_turn(1, 5, 0), in_turn(1, 5, 1)
    ([1, 2, 3, 4, 0], [1, 3, 0, 2, 4])
    """
    strides = [stride for stride in range(1, partitions) if math.gcd(stride, partitions) == 1] or [1]
    stride = strides[worker % len(strides)]
    return [(first + step * stride) % partitions for step in range(partitions)]


def documents_of(partitions_: list[int], documents: int, partitions: int) -> NDArray[np.int64]:
    """The documents of some partitions, in order.

    >>> documents_of([0, 2], 7, 4).tolist()
    [0, 2, 4, 6]
    """
    each = [np.arange(p, documents, partitions, dtype=np.int64) for p in partitions_]
    return np.sort(np.concatenate(each)) if each else np.empty(0, dtype=np.int64)


class Bitmap:
    """A set of document indices, one bit each: 125 kB a million."""

    def __init__(self, size: int) -> None:
        self._bits = bytearray((size + 7) // 8)

    def add(self, index: int) -> None:
        """Put in."""
        self._bits[index >> 3] |= 1 << (index & 7)

    def discard(self, index: int) -> None:
        """Take out."""
        self._bits[index >> 3] &= ~(1 << (index & 7)) & 0xFF

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] & (1 << (index & 7)))

    def __len__(self) -> int:
        return int.from_bytes(self._bits, "little").bit_count()

    def outside(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of some documents those that are not in it, in the order given."""
        found: NDArray[np.uint8] = np.frombuffer(self._bits, dtype=np.uint8)[indices >> 3] >> (indices & 7).astype(
            np.uint8
        )
        return indices.compress(found & 1 == 0)

    def __ior__(self, other: Bitmap) -> Bitmap:
        """Put in all that another one of the same size has."""
        both = int.from_bytes(self._bits, "little") | int.from_bytes(other._bits, "little")
        self._bits[:] = both.to_bytes(len(self._bits), "little")
        return self

    def to_bytes(self) -> bytes:
        """As bytes, the lowest bit first."""
        return bytes(self._bits)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Bitmap | None:
        """What `to_bytes` gave; None where that had another size."""
        found = cls(size)
        if len(data) != len(found._bits):
            return None
        found._bits[:] = data
        return found
