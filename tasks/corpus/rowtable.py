"""The manifest's rows in a local file, read in any order: heaviest first, and other partitions from their far ends."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.manifest import Manifest, Row, decode

BYTES_A_PAGE = 50_000
"""What a page weighs beside documents whose pages nobody counted: a usual PDF's bytes a page."""


def weight_of(row: Row) -> int:
    """What a document will cost, as far as is known without opening it: its bytes, or as many for each counted page. Pure."""
    return row.pages * BYTES_A_PAGE if row.pages is not None else row.size


class RowTable:
    """All rows of a manifest by index. Memory: 16 bytes a document; the rows stay on the disk.

    Args:
        path: where the rows go, decompressed: about 150 bytes a document.
        look: called with every row while they are read for the first time.
    """

    def __init__(self, manifest: Manifest, path: Path, look: Callable[[Row], None] = lambda row: None) -> None:
        self._offsets = array("Q", [0])
        self._weights = array("Q")
        at = 0
        with path.open("wb") as file:
            for text, row in manifest.lines():
                line = text.encode()
                file.write(line)
                at += len(line)
                self._offsets.append(at)
                self._weights.append(weight_of(row))
                look(row)
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, index: int) -> Row:
        """The row; any thread."""
        begin, end = self._offsets[index], self._offsets[index + 1]
        return decode(os.pread(self._file, end - begin, begin).decode())

    def weight(self, index: int) -> int:
        """See `weight_of`."""
        return self._weights[index]

    def heaviest_first(self, chosen: NDArray[np.int64]) -> array[int]:
        """The indices in the order in which they are worked on: longest first, so that no long one is left for the end."""
        weights = np.frombuffer(self._weights, dtype=np.uint64)[chosen]
        # Stable: documents of one weight keep the manifest's order. Descending without negating what has no sign.
        order = np.argsort(weights[::-1], kind="stable")[::-1]
        return array("I", chosen[len(chosen) - 1 - order].astype(np.uintc).tobytes())

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)
