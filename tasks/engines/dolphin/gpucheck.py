"""`pdf-flows gpu-check`: what the tests cannot show without a GPU, shown on the one that is there.

Reads pages in several ways that have to agree, and measures. On the CPU it runs, too, and then compares eager with
eager.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from tasks.engines.dolphin.boxes import Frame
from tasks.engines.dolphin.checkpoint import Checkpoint
from tasks.engines.dolphin.device import Device, Plan, find, plan
from tasks.engines.dolphin.edges import Edges
from tasks.engines.dolphin.grammar import Generation, Prompt
from tasks.engines.dolphin.images import Prepared, prepare
from tasks.engines.dolphin.model import Model
from tasks.engines.dolphin.page import elements
from tasks.engines.dolphin.preparing import cut, padded
from tasks.engines.dolphin.probe import generation_of
from tasks.engines.dolphin.reader import Reader, Request
from tasks.engines.dolphin.reading import penalty_of
from tasks.engines.dolphin.settings import DeviceKind, DType

Asked = list[tuple[Prompt, Prepared]]
Read = list[list[int]]


class GpuReport(BaseModel):
    """What was found."""

    device: str
    chosen: str
    generation: Generation
    requests: int
    tokens: int
    eager_parity: bool
    """Compiled encoder and graphs gave the tokens of the eager code, in float32."""
    batch_parity: bool
    """A batch gave the tokens of one request at a time, in float32."""
    memory_parity: bool
    """After memory ran out in the midst of work, the answers were the same."""
    dtype: DType
    dtype_agreement: float
    """Share of the text that the device's dtype gives as float32 does."""
    pages: int
    pages_per_second: float
    """Reading alone: images were prepared before, and the graphs captured."""
    step_rows: float
    peak_memory_gib: float | None
    usd_per_1000_pages: float | None

    @property
    def passed(self) -> bool:
        """All that has to agree does."""
        return self.eager_parity and self.batch_parity and self.memory_parity


def check(
    folder: Path,
    pages: Sequence[NDArray[np.uint8]],
    *,
    device: DeviceKind | None = None,
    generation: Generation | None = None,
    slots: int | None = None,
    usd_per_hour: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> GpuReport:
    """Run all checks on rendered pages, RGB. Raises UsageErrors about the model and the device."""
    checkpoint = Checkpoint(folder)
    where = find(device)
    exact, fast = (_plan(checkpoint, where, dtype, slots) for dtype in (DType.FLOAT32, None))
    say(fast.line(where))
    model = Model(checkpoint, torch.device(where.kind), torch.float32)
    found = generation_of(model, checkpoint, generation)
    ours = _Check(checkpoint, found, model, exact)
    asked = ours.requests(pages)
    say(f"{len(pages)} pages, {len(asked)} requests")
    eager, _, _ = ours.read(asked, compiled=False)
    alone, _, _ = ours.read(asked, compiled=False, slots=1)
    compiled, _, _ = ours.read(asked)
    with ours.out_of_memory_once():
        short, _, shrinks = ours.read(asked, compiled=False)
    say("float32 read in four ways")
    texts = [checkpoint.tokenizer.text(prompt, ids) for (prompt, _), ids in zip(asked, eager, strict=True)]
    if where.kind == DeviceKind.CUDA:
        del ours, model
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    quick = _Check(checkpoint, found, Model(checkpoint, torch.device(where.kind), getattr(torch, fast.dtype)), fast)
    quick.read(asked)  # captures the graphs
    read, seconds, _ = quick.read(asked)
    others = [checkpoint.tokenizer.text(prompt, ids) for (prompt, _), ids in zip(asked, read, strict=True)]
    return GpuReport(
        device=where.name,
        chosen=fast.line(where),
        generation=found,
        requests=len(asked),
        tokens=sum(map(len, eager)),
        eager_parity=eager == compiled,
        batch_parity=eager == alone,
        memory_parity=eager == short and shrinks > 0,
        dtype=fast.dtype,
        dtype_agreement=round(_agreement(texts, others), 5),
        pages=len(pages),
        pages_per_second=round(len(pages) / seconds, 3),
        step_rows=round(quick.rows, 1),
        peak_memory_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2) if where.kind == DeviceKind.CUDA else None,
        usd_per_1000_pages=round(usd_per_hour * seconds / len(pages) / 3.6, 4) if usd_per_hour is not None else None,
    )


class _Check:
    """One model in one dtype, read with in several ways."""

    def __init__(self, checkpoint: Checkpoint, generation: Generation, model: Model, chosen: Plan) -> None:
        self._checkpoint, self._generation, self._model, self._plan = checkpoint, generation, model, chosen
        self.rows = 0.0

    def requests(self, pages: Sequence[NDArray[np.uint8]]) -> Asked:
        """All requests of the pages: their layouts, and what those name."""
        layouts: Asked = [(Prompt.LAYOUT, prepare(page, self._checkpoint.side)) for page in pages]
        answers, _, _ = self.read(layouts, compiled=False)
        asked = list(layouts)
        for page, ids in zip(pages, answers, strict=True):
            layout = self._checkpoint.tokenizer.text(Prompt.LAYOUT, ids)
            widen = Edges(padded(page)).widen if self._generation is Generation.V1_0 else None
            for element in elements(layout, Frame(page.shape[1], page.shape[0]), self._generation, widen):
                if element.prompt is not None:
                    asked.append((element.prompt, prepare(cut(page, element.crop), self._checkpoint.side)))
        return asked

    def read(self, asked: Asked, *, compiled: bool | None = None, slots: int | None = None) -> tuple[Read, float, int]:
        """Tokens of all requests, seconds, and how often the batch had to shrink."""
        reader = Reader(
            self._model,
            self._checkpoint,
            slots=slots or self._plan.slots,
            images=self._plan.images,
            penalty=penalty_of(self._generation),
            compiled=compiled,
        )
        for key, (prompt, image) in enumerate(asked):
            reader.submit(Request(key, prompt, image.pixels, image.top, image.left))
        answers: dict[int, list[int]] = {}
        began = self._now()
        while not reader.idle:
            answers |= {answer.key: answer.ids for answer in reader.advance()}
        seconds = self._now() - began
        self.rows = reader.stats.rows / max(1, reader.stats.steps)
        return [answers[key] for key in range(len(asked))], seconds, reader.stats.shrinks

    @contextmanager
    def out_of_memory_once(self) -> Iterator[None]:
        """The third step finds no memory."""
        decoder, calls = self._model.decoder, 0
        real = decoder.step

        def fails(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise torch.OutOfMemoryError("out of memory (injected)")
            return real(*arguments)

        decoder.step = fails  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del decoder.step

    def _now(self) -> float:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _plan(checkpoint: Checkpoint, where: Device, dtype: DType | None, slots: int | None) -> Plan:
    return plan(checkpoint.config, where, checkpoint.parameters(), dtype, slots)


def _agreement(texts: Sequence[str], others: Sequence[str]) -> float:
    """1 less the edit distance by length, over all texts."""
    length = sum(max(len(one), len(other)) for one, other in zip(texts, others, strict=True))
    same = sum(
        sum(block.size for block in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks())
        for one, other in zip(texts, others, strict=True)
    )
    return same / length if length else 1.0
