"""Logits to tokens: greedy, as transformers 4.47.0's generate() picks them with upstream's arguments.

`bad_words_ids` never gives the unknown token; generation 1.0 adds `repetition_penalty` over prompt and answer
(`generation/logits_process.py`: before the bad words, in float32). `min_length=1` has no effect behind a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Picker:
    """Picks for the rows of one lane, and remembers what it has to know of them.

    Args:
        rows: of the lane.
        vocabulary: tokens that there are.
        unknown: the token that is never picked.
        penalty: of repetition; 1.0 is none.
    """

    def __init__(self, rows: int, vocabulary: int, unknown: int, device: torch.device, penalty: float = 1.0) -> None:
        self._unknown, self._penalty = unknown, penalty
        self._seen = torch.zeros((rows, vocabulary), dtype=torch.bool, device=device) if penalty != 1.0 else None

    def admit(self, rows: Sequence[int], prompts: Sequence[Sequence[int]], keys: Sequence[int]) -> None:
        """New sequences in these rows."""
        if self._seen is not None:
            for row, prompt in zip(rows, prompts, strict=True):
                self._seen[row] = False
                self._seen[row, torch.tensor(prompt, device=self._seen.device)] = True

    def copy_row(self, source: int, target: int, other: Picker) -> None:
        """A sequence moves, from another lane or within this one."""
        if self._seen is not None and other._seen is not None:
            self._seen[target] = other._seen[source]

    def pick(self, logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """The tokens (n) for logits (n, vocabulary) of these rows, at these positions. Changes the logits."""
        if self._seen is not None:
            penalised = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
            logits = torch.where(self._seen[rows], penalised, logits)
        logits[:, self._unknown] = -math.inf
        return logits.argmax(-1)

    def note(self, rows: Tensor, tokens: Tensor) -> None:
        """These tokens were written in these rows."""
        if self._seen is not None:
            self._seen[rows, tokens] = True
