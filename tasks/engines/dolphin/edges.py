"""Dolphin 1.0: edges of a box that cut through ink are moved outwards, until they do so less.

Facts from upstream's `adjust_box_edges` (utils/utils.py, branch v1.0), quirks included; it thresholds the whole page again
for every line that it looks at, here that is done once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.engines.dolphin.boxes import Box

_FURTHEST = 15
"""Pixels an edge is moved at most."""
_CLEAN = 0.2
"""A line with a score of at most this is free of ink."""
_EDGES = ((0, -1), (2, 1), (1, -1), (3, 1))
"""Index into the box and direction: left, right, top, bottom. Boxes only widen."""


class Edges:
    """The ink of one padded page (RGB, uint8, side x side x 3)."""

    def __init__(self, padded: NDArray[np.uint8]) -> None:
        import cv2

        grey = cv2.cvtColor(padded, cv2.COLOR_RGB2GRAY)
        self._ink: NDArray[Any] = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)[1]

    def widen(self, box: Box) -> Box:
        """The box with its edges moved outwards, by 15 pixels at most."""
        height, width = self._ink.shape
        most = (width - 1, height - 1, width - 1, height - 1)
        best = list(box)  # unclamped, if nothing better is found
        now = [min(max(value, 0), limit) for value, limit in zip(box, most, strict=True)]
        for index, step in _EDGES:
            best_score = self._score(now, index)
            if best_score <= _CLEAN:
                continue
            for _ in range(_FURTHEST):
                now[index] = min(max(now[index] + step, 0), most[index])
                score = self._score(now, index)
                if score < best_score:
                    best_score, best = score, list(now)
                if score <= _CLEAN:
                    break
        return Box(*best)

    def _score(self, box: list[int], index: int) -> float:
        """How often the line along an edge enters ink (255 each) or leaves it (1 each: uint8 wraps), a pixel; NaN for a dot."""
        x1, y1, x2, y2 = box
        line = self._ink[y1 : y2 + 1, box[index]] if index % 2 == 0 else self._ink[box[index], x1 : x2 + 1]
        changes = np.diff(line)
        return float(changes.sum()) / len(changes) if len(changes) else float("nan")
