"""Which generation a checkpoint is, where nothing says so: by the layouts that it writes. The files of both look the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.engines.dolphin.checkpoint import BadCheckpoint, Checkpoint
from tasks.engines.dolphin.grammar import Generation, Prompt, parse
from tasks.engines.dolphin.images import prepare
from tasks.engines.dolphin.model import Model
from tasks.engines.dolphin.reader import Reader, Request

_PAGES: Final = 4
_FRACTION = re.compile(r"\[\s*[01]?\.\d")


def generation_of(model: Model, checkpoint: Checkpoint, given: Generation | None) -> Generation:
    """The given generation, or the one that names, or layouts, tell of. Raises BadCheckpoint where nothing does."""
    found = given or checkpoint.recognised() or probe(model, checkpoint)
    if found is None:
        raise BadCheckpoint(
            f"nothing tells whether {checkpoint.folder} is Dolphin 1.0 or 1.5, whose files look the same: give --generation"
        )
    return found


def probe(model: Model, checkpoint: Checkpoint) -> Generation | None:
    """The generation whose grammar the model writes on pages that look like print; None where it writes neither."""
    reader = Reader(model, checkpoint, slots=_PAGES, compiled=False)
    for key, page in enumerate(pages()):
        image = prepare(page, checkpoint.side)
        reader.submit(Request(key, Prompt.LAYOUT, image.pixels, image.top, image.left))
    votes = {Generation.V1_0: 0, Generation.V1_5: 0}
    while not reader.idle:
        for answer in reader.advance():
            layout = checkpoint.tokenizer.text(Prompt.LAYOUT, answer.ids)
            if parse(layout, Generation.V1_5):
                votes[Generation.V1_5] += 1
            elif parse(layout, Generation.V1_0) and _FRACTION.search(layout):
                votes[Generation.V1_0] += 1
    best = max(votes, key=lambda generation: votes[generation])
    return best if votes[best] > sum(votes.values()) / 2 else None


def pages() -> Iterator[NDArray[np.uint8]]:
    """White pages with dark lines of words, the same at every call."""
    rng = np.random.default_rng(0)
    for _ in range(_PAGES):
        page = np.full((896, 693, 3), 255, np.uint8)
        y = 60
        while y < 830:
            height = int(rng.choice((8, 8, 8, 14)))
            x, right = 70, int(rng.integers(300, 620))
            while x < right:
                width = int(rng.integers(8, 50))
                page[y : y + height, x : min(right, x + width)] = int(rng.integers(0, 90))
                x += width + 6
            y += height + int(rng.choice((6, 6, 6, 30)))
        yield page
