"""The two things that a device is made to do again and again: encode images, and give every row one more token.

On the CPU they run as they are. On CUDA the encoder is compiled and steps are replayed as CUDA graphs, one for each
size of batch and window, captured when first needed. That is all the CUDA-only code there is besides the asynchronous
fetch in reader.py (docs/dolphin.md: never run on a GPU).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from tasks.engines import memory
from tasks.engines.dolphin.mbart import Cache
from tasks.engines.dolphin.model import Model
from tasks.engines.dolphin.picker import Picker

_WINDOWS: Final = ((512, 64), (1024, 128), (1 << 20, 512))
"""Up to a length, windows of the cache come in multiples of a number: masked places change no result, and shapes are few."""
_ROWS: Final = 8

_log = logging.getLogger(__name__)


def window_of(length: int, most: int) -> int:
    """How many positions to look at for `length` that are taken, `most` being there."""
    multiple = next(multiple for limit, multiple in _WINDOWS if length <= limit)
    return min(-(-length // multiple) * multiple, most)


class Batch(Protocol):
    """The rows of a lane, as tensors that stay where they are."""

    cache: Cache
    picker: Picker
    tokens: Tensor
    """The next token of each row."""
    positions: Tensor
    """Where it goes."""
    moving: Tensor
    """Whether the row moves on; the others give the same token again."""


class Steps:
    """Encodes, and steps through batches.

    Args:
        images: that are encoded at a time; only batches of this size are compiled, since each size costs a minute.
        compiled: compile the encoder and replay steps as graphs (CUDA only).
    """

    def __init__(self, model: Model, batches: Sequence[Batch], *, images: int = 1, compiled: bool) -> None:
        self._model = model
        self._batches = batches
        self._graphs: dict[tuple[int, int, int], Any] | None = {} if compiled else None
        self._pool: Any = None
        self._images = images
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(model.encode) if compiled else None

    def encode(self, images: Tensor) -> Tensor:
        """States of uint8 images (n, side, side, 3)."""
        if self._compiled is not None and len(images) == self._images:
            try:
                return self._compiled(images)
            except Exception as error:
                if memory.error_says_so(error):
                    raise
                # Images without a C compiler are common; the eager encoder is the same, only slower.
                _log.warning("The encoder is not compiled: %s", " ".join(str(error).split())[:200])
                self._compiled = None
        return self._model.encode(images)

    def step(self, number: int, rows: int, length: int) -> Tensor:
        """One more token for the first `rows` rows of a batch, none of whose positions is `length` or more; the tokens (rows)."""
        batch = self._batches[number]
        window = window_of(length, batch.cache.length)
        if self._graphs is None:
            return self._run(batch, rows, window)
        rows = min(-(-rows // _ROWS) * _ROWS, batch.cache.rows)
        key = (number, rows, window)
        if key not in self._graphs:
            self._graphs[key] = self._capture(batch, rows, window)
        self._graphs[key].replay()
        return batch.tokens[:rows].clone()

    def _run(self, batch: Batch, rows: int, window: int) -> Tensor:
        tokens, positions, moving = batch.tokens[:rows], batch.positions[:rows], batch.moving[:rows]
        logits = self._model.decoder.step(tokens, positions, batch.cache, window)
        index = torch.arange(rows, device=tokens.device)
        picked = torch.where(moving, batch.picker.pick(logits, index, positions), tokens)
        batch.picker.note(index, picked)
        tokens.copy_(picked)
        positions.add_(moving)
        return picked

    def _capture(self, batch: Batch, rows: int, window: int) -> Any:
        """A graph of one step. Warming up and capturing run it: what they change is put back."""
        kept = [(tensor, tensor.clone()) for tensor in (batch.tokens, batch.positions, batch.moving)]
        batch.moving.zero_()  # rows that stand still write what is there already
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._run(batch, rows, window)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._run(batch, rows, window)
        self._pool = self._pool or graph.pool()
        for tensor, value in kept:
            tensor.copy_(value)
        return graph
