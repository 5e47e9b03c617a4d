"""Partitions: the documents whose index modulo N is k. Pure."""

from __future__ import annotations


def partition_of(index: int, partitions: int) -> int:
    """The partition of a document; `partitions` is the run's (run.json), whatever the number of workers is now."""
    return index % partitions


def partitions_of_worker(worker: int, workers: int, partitions: int) -> list[int]:
    """The partitions that a worker begins with: k, k + workers, ...; none for workers beyond them (they steal).

    >>> partitions_of_worker(0, 2, 4)
    [0, 2]
    >>> partitions_of_worker(3, 4, 2)
    []
    """
    if not 0 <= worker < workers:
        raise ValueError(f"worker {worker} of {workers}")
    return list(range(worker, partitions, workers))


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
