"""A device's process in which encoder and decoder are sleeps, as long as a T4 is thought to need; all else is the real thing.

Run by dolphin_starvation.py in place of tasks.engines.dolphin.reading. Durations, from the rooflines in the reports on
the model: an image is 0.41 TFLOP, at half of a T4's 65 TFLOPS 13 ms; a step reads 0.5 GB of weights and 31 MB a
sequence at 300 GB/s, 2 ms + 0.1 ms a row, and takes 5 ms at least. All times 4 / cores: a g4dn.xlarge has 4 vCPUs to
feed its T4.
"""

from __future__ import annotations

import random
import time
import zlib
from typing import Any

import torch

from tasks.cores import usable_cores
from tasks.engines import confine, frames
from tasks.engines.child import send, take_pipes
from tasks.engines.dolphin.arena import View
from tasks.engines.dolphin.checkpoint import Checkpoint
from tasks.engines.dolphin.grammar import Generation, Prompt
from tasks.engines.dolphin.picker import Picker
from tasks.engines.dolphin.reader import Reader, Request
from tasks.engines.dolphin.reading import serve
from tasks.engines.dolphin.settings import DType, Loaded, ReadingSettings

ENCODE_SECONDS = 0.013
STEP_SECONDS, ROW_SECONDS, LEAST_STEP_SECONDS = 0.002, 0.0001, 0.005
SIDE = 896


def time_factor() -> float:
    """By which the device is slower than a T4."""
    return 4 / usable_cores()


class Sleeping:
    """Stands where the model would."""

    def __init__(self, checkpoint: Checkpoint, scale: float) -> None:
        self.config, self.device, self.dtype = checkpoint.config, torch.device("cpu"), torch.float32
        self.decoder = self
        self.embed_tokens = torch.nn.Embedding(4, 4)
        self._scale = scale
        self._late = time.monotonic()

    def _sleep(self, seconds: float) -> None:
        """Sleeps last too long by a tenth of a millisecond each; what is too much is made up for."""
        now = time.monotonic()
        self._late = max(self._late, now - 0.002) + seconds * self._scale
        time.sleep(max(0.0, self._late - now))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self._sleep(ENCODE_SECONDS * len(images))
        return images

    def remember(self, *_: Any) -> None:
        """Nothing."""

    def prefill(self, ids: torch.Tensor, *_: Any) -> torch.Tensor:
        self._sleep(STEP_SECONDS)
        return torch.zeros((len(ids), 1))

    def step(self, tokens: torch.Tensor, *_: Any) -> torch.Tensor:
        self._sleep(max(LEAST_STEP_SECONDS, STEP_SECONDS + ROW_SECONDS * len(tokens)))
        return torch.zeros((len(tokens), 1))


class Lengths(Picker):
    """Ends every sequence after its own number of tokens."""

    def __init__(self, rows: int, end: int, lengths: dict[int, int]) -> None:
        super().__init__(rows, 4, 0, torch.device("cpu"))
        self._end, self._lengths = end, lengths
        self._until = torch.zeros(rows, dtype=torch.long)

    def admit(self, rows: Any, prompts: Any, keys: Any) -> None:
        for row, prompt, key in zip(rows, prompts, keys, strict=True):
            self._until[row] = len(prompt) + self._lengths[key]

    def copy_row(self, source: int, target: int, other: Picker) -> None:
        assert isinstance(other, Lengths)
        self._until[target] = other._until[source]

    def pick(self, logits: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Never twice the same tail: nothing here should look like a loop.
        return torch.where(positions + 1 >= self._until[rows], self._end, 10 + positions % 4000)


class Known(Reader):
    """Knows how long each answer will be: layouts by their boxes, elements by their area."""

    lengths: dict[int, int]

    def submit(self, request: Request) -> None:
        if request.prompt is Prompt.LAYOUT:
            self.lengths[request.key] = 18 * len(boxes(request.key))
        else:
            rng = random.Random(request.key)
            height = request.pixels.shape[0]
            self.lengths[request.key] = max(20, min(400, int(height * rng.uniform(0.6, 1.4))))
        super().submit(request)


def boxes(key: int) -> list[tuple[int, int, int, int]]:
    """15 to 20 elements of a page: lines, and paragraphs of up to a tenth of the page, in one column or two."""
    rng = random.Random(zlib.crc32(str(key).encode()))
    count, columns = rng.randint(15, 20), rng.randint(1, 2)
    width = 640 // columns
    found = []
    for number in range(count):
        left = 128 + (number % columns) * width
        top = 40 + 820 * (number // columns) // (count // columns + 1)
        height = 14 if rng.random() < 0.4 else rng.randint(30, 820 * columns // (count + columns))
        found.append((left, top, left + width - 20, min(890, top + height)))
    return found


def layout(key: int) -> str:
    return "[PAIR_SEP]".join(f"[{x1},{y1},{x2},{y2}][para]" for x1, y1, x2, y2 in boxes(key))


def main() -> None:
    requests, replies = take_pipes()
    start = frames.read(requests)
    assert start is not None
    confine.die_with_parent(int(start["parent"]))
    settings = ReadingSettings.model_validate(start["settings"])
    checkpoint = Checkpoint(settings.folder)
    torch.set_num_threads(1)
    scale = time_factor()
    slots = settings.slots or 48
    lengths: dict[int, int] = {}
    end = checkpoint.tokenizer.end
    reader = Known(
        Sleeping(checkpoint, scale),  # type: ignore[arg-type]
        checkpoint, slots=slots, images=8, picker=lambda rows: Lengths(rows, end, lengths),
    )  # fmt: skip
    reader.lengths = lengths
    reader._side = SIDE
    loaded = Loaded(
        generation=Generation.V1_5,
        side=SIDE,
        slots=slots,
        device="sleeping",
        dtype=DType.FLOAT16,
        line="sleeping",
        versions={},
    )
    send(replies, {"kind": "ready", **loaded.model_dump(mode="json")})
    keys: list[int] = []

    def text(prompt: Prompt, ids: list[int]) -> str:
        # serve() asks for one answer's text after the other; layouts come back as pages of boxes, by their number.
        keys.append(len(keys))
        return layout(len(keys)) if prompt is Prompt.LAYOUT else "text"

    serve(reader, text, View(int(start["shared"])), requests, replies)


if __name__ == "__main__":
    main()
