"""Which words of a page lead where: the places of links, looked up by what lies in them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from tasks.engines.layout.annotations import Link
from tasks.engines.layout.reading_order import union
from tasks.engines.layout.textlines import Word

_MOST_TOUCHING = 50
"""Links that touch one piece of text; others are not looked at."""
_Near = tuple[list[float], str]


class Links:
    """The links of one page."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._targets = [link.target for link in links]
        self._boxes = np.array([link.box for link in links], dtype=float).reshape(len(links), 4)

    def __bool__(self) -> bool:
        return bool(self._targets)

    def at(self, box: Sequence[float]) -> str | None:
        """Where it leads at the middle of a box."""
        return _hit(self._near(box), box)

    def cut(self, span: Mapping[str, Any]) -> Iterable[tuple[Mapping[str, Any], str | None]]:
        """A span of a raw dictionary in pieces that lead to one place each, or nowhere."""
        near = self._near(span["bbox"])
        if not near:
            return [(span, None)]
        pieces = [
            (target, list(group)) for target, group in groupby(span["chars"], lambda char: _hit(near, char["bbox"]))
        ]
        if len(pieces) == 1:
            return [(span, pieces[0][0])]
        return [
            ({**span, "chars": group, "bbox": union([char["bbox"] for char in group])}, target)
            for target, group in pieces
        ]

    def words(self, words: Iterable[Word]) -> list[Word]:
        """Words with their links."""
        return [replace(word, link=target) if (target := self.at(word.box)) is not None else word for word in words]

    def _near(self, box: Sequence[float]) -> list[_Near]:
        """The links whose places touch a box."""
        boxes = self._boxes
        touching = (boxes[:, 0] <= box[2]) & (boxes[:, 2] >= box[0]) & (boxes[:, 1] <= box[3]) & (boxes[:, 3] >= box[1])
        return [(boxes[n].tolist(), self._targets[n]) for n in np.flatnonzero(touching)[:_MOST_TOUCHING]]


def _hit(near: Sequence[_Near], box: Sequence[float]) -> str | None:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return next((target for (x0, y0, x1, y1), target in near if x0 <= x <= x1 and y0 <= y <= y1), None)
