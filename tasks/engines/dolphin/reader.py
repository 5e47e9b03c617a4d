"""The batched reader: images and prompts in, texts out, with as many as possible in one batch at any time.

Continuous batching: layout requests and element crops of many pages of many documents share one batch; a finished
sequence leaves at once and a waiting one takes its row. What is done next, and why, is in `advance`. Used by one
thread; the same code on CPU and CUDA.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.corpus.failures import PdfFlowsError
from tasks.engines import memory
from tasks.engines.dolphin.checkpoint import Checkpoint
from tasks.engines.dolphin.grammar import Prompt
from tasks.engines.dolphin.loops import LoopWatch, cut
from tasks.engines.dolphin.mbart import Cache
from tasks.engines.dolphin.model import Model
from tasks.engines.dolphin.picker import Picker
from tasks.engines.dolphin.sequences import LONG_ROWS, SHORT, End
from tasks.engines.dolphin.steps import Steps


class OutOfDeviceMemory(PdfFlowsError):
    """Not even one sequence at a time fits the device."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """An image to read. `pixels` are uint8 (h, w, 3) RGB, to be put at (top, left) of a black square."""

    key: int
    prompt: Prompt
    pixels: NDArray[np.uint8]
    top: int
    left: int


class Answer(NamedTuple):
    """What was read. `looped`: it repeated itself, stopped or not."""

    key: int
    ids: list[int]
    end: End
    looped: bool


@dataclass(slots=True, eq=False)
class _Sequence:
    request: Request
    prompt: list[int]
    position: int = 0
    """Of the next token to be given to the decoder, counting the steps that were launched."""
    ids: list[int] = field(default_factory=list)
    watch: LoopWatch = field(default_factory=LoopWatch)
    looped: bool = False
    done: bool = False


@dataclass(slots=True)
class Stats:
    """What the device was made to do."""

    steps: int = 0
    rows: int = 0
    """Tokens that steps gave; rows / steps is how full they were."""
    images: int = 0
    encodes: int = 0
    encode_seconds: float = 0.0
    """Launching time on CUDA, the time itself on the CPU; the next too."""
    step_seconds: float = 0.0
    shrinks: int = 0


class _Lane:
    """Rows of one cache. Live rows lie as far in front as is cheap, since a step computes all up to the last."""

    def __init__(self, cache: Cache, picker: Picker, device: torch.device) -> None:
        self.cache, self.picker = cache, picker
        self.sequences: list[_Sequence | None] = [None] * cache.rows
        self.tokens = torch.zeros(cache.rows, dtype=torch.long, device=device)
        self.positions = torch.zeros(cache.rows, dtype=torch.long, device=device)
        self.moving = torch.zeros(cache.rows, dtype=torch.bool, device=device)
        self._moving: list[bool] = [False] * cache.rows

    @property
    def live(self) -> int:
        return sum(sequence is not None for sequence in self.sequences)

    @property
    def used(self) -> int:
        """One more than the last live row."""
        return max((row + 1 for row, sequence in enumerate(self.sequences) if sequence is not None), default=0)

    @property
    def free(self) -> list[int]:
        return [row for row, sequence in enumerate(self.sequences) if sequence is None]

    def leave(self, row: int) -> None:
        self.sequences[row] = None
        self.positions[row] = 0

    def move(self, rows: set[int]) -> None:
        """Just these rows get a token in the next step."""
        moving = [row in rows for row in range(self.cache.rows)]
        if moving != self._moving:
            self._moving = moving
            self.moving.copy_(torch.tensor(moving))

    def take(self, other: _Lane, source: int, target: int) -> None:
        """A sequence moves here, from another row or another lane."""
        sequence = other.sequences[source]
        assert sequence is not None
        self.cache.copy_row(source, target, sequence.position, other.cache)
        self.picker.copy_row(source, target, other.picker)
        self.tokens[target], self.positions[target] = other.tokens[source], other.positions[source]
        self.sequences[target] = sequence
        other.leave(source)


class _Fetched:
    """Tokens on their way from the device."""

    def __init__(self, tokens: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tokens.device.type == "cuda":
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._tokens = tokens

    def numbers(self) -> list[int]:
        """Waits for them: the only thing of a step that does."""
        if self._event is not None:
            self._event.synchronize()
        return [int(token) for token in self._tokens.tolist()]


class Reader:
    """Reads images.

    Args:
        model: loaded, on its device.
        checkpoint: the model's.
        slots: sequences in the main lane at most; less where the device has no memory for them.
        images: encoded at a time at most.
        penalty: of repetition; 1.0 (none), or 1.1 for generation 1.0.
        stop_loops: stop and cut sequences that repeat themselves; else they are only flagged.
        lookahead: steps launched before the tokens of an earlier one are looked at; 1 keeps a GPU busy meanwhile.
        compiled: compile the encoder and replay steps as graphs; None: on CUDA.
        short: tokens that a row of the main lane holds.
        picker: makes a lane's picker, given its number of rows; for measurements.

    Raises:
        OutOfDeviceMemory: not even one sequence at a time fits.
    """

    def __init__(
        self,
        model: Model,
        checkpoint: Checkpoint,
        *,
        slots: int,
        images: int = 1,
        penalty: float = 1.0,
        stop_loops: bool = True,
        lookahead: int | None = None,
        compiled: bool | None = None,
        short: int = SHORT,
        picker: Callable[[int], Picker] | None = None,
    ) -> None:
        self._model, self._config = model, checkpoint.config
        self._side, self._end = checkpoint.side, checkpoint.tokenizer.end
        self._most = checkpoint.most_tokens
        self._room = self._most - (1 if checkpoint.ends_forced else 0)
        """Tokens, prompt included, after which nothing but the end can come."""
        self._prompts = {prompt: checkpoint.tokenizer.prompt(prompt) for prompt in Prompt}
        self._short = min(max(short, max(map(len, self._prompts.values())) + 2), self._most)
        self._stop_loops = stop_loops
        self._cuda = model.device.type == "cuda"
        self._compiled = self._cuda if compiled is None else compiled
        self._lookahead = int(self._cuda) if lookahead is None else lookahead
        unknown, vocabulary = checkpoint.tokenizer.unknown, checkpoint.config.decoder.vocab_size
        self._picker = picker or (lambda rows: Picker(rows, vocabulary, unknown, model.device, penalty))
        self._waiting: deque[Request] = deque()
        self._launched: deque[tuple[_Fetched, list[tuple[int, _Sequence]]]] = deque()
        self._admitting = False
        self.stats = Stats()
        self.slots = slots
        self.images = max(1, min(images, slots))
        self._lanes: list[_Lane] = []
        self._allocate()

    # -- for the caller -------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is waiting or being read."""
        return not self._waiting and not any(lane.live for lane in self._lanes)

    def submit(self, request: Request) -> None:
        """Let a request wait for a row, behind those submitted before."""
        self._waiting.append(request)

    def cancel(self, keys: set[int]) -> None:
        """Forget requests: no answer comes for them."""
        self._waiting = deque(request for request in self._waiting if request.key not in keys)
        for lane in self._lanes:
            for row, sequence in enumerate(lane.sequences):
                if sequence is not None and sequence.request.key in keys:
                    sequence.done = True
                    lane.leave(row)

    @torch.inference_mode()
    def advance(self) -> list[Answer]:
        """The next piece of work; the answers that it completed.

        Free rows are filled first: a step costs nearly the same for a full batch as for a few rows, so decoding is cheapest while
        every row is taken. Then one token for every row.

        Raises:
            OutOfDeviceMemory: not even one sequence at a time fits. Otherwise what ran out of memory is done again in
            smaller batches.
        """
        try:
            return self._advance()
        except (RuntimeError, MemoryError) as error:
            self._shrink(error)
            return []

    # -- what is done ---------------------------------------------------------------------------------------------

    def _advance(self) -> list[Answer]:
        if self._waiting:
            free = self._lanes[0].free
            # Whole batches of images, or all that there are: one image alone costs a GPU more than its share.
            count = min(len(free), len(self._waiting))
            if count < len(self._waiting):
                count -= count % self.images
            if count:
                self._admitting = True
                self._admit([self._waiting[index] for index in range(count)], free[:count])
                self._admitting = False
        else:
            for lane in self._lanes:
                self._close_ranks(lane)
        for number, lane in enumerate(self._lanes):
            if lane.live:
                self._step(number, lane)
        answers: list[Answer] = []
        while len(self._launched) > self._lookahead:
            answers += self._look(*self._launched.popleft())
        if not answers and self._launched and not any(self._may_step(lane) for lane in self._lanes):
            answers += self._look(*self._launched.popleft())
        if not any(lane.live for lane in self._lanes):
            self._launched.clear()
        return answers

    def _admit(self, requests: list[Request], rows: list[int]) -> None:
        """Encode the images, some at a time, and let all prompts together into their rows."""
        began = time.perf_counter()
        lane, device = self._lanes[0], self._model.device
        for start in range(0, len(requests), self.images):
            some = requests[start : start + self.images]
            states = self._steps.encode(self._images(some))
            self._model.decoder.remember(states, lane.cache, rows[start : start + len(some)])
            self.stats.encodes += 1
        sequences = [_Sequence(request, self._prompts[request.prompt]) for request in requests]
        lengths = [len(sequence.prompt) for sequence in sequences]
        longest = max(lengths)
        ids = torch.tensor([sequence.prompt + [0] * (longest - len(sequence.prompt)) for sequence in sequences])
        at, ends = torch.tensor(rows, device=device), torch.tensor(lengths, device=device)
        logits = self._model.decoder.prefill(ids.to(device), ends, lane.cache, at)
        lane.picker.admit(rows, [sequence.prompt for sequence in sequences], [request.key for request in requests])
        tokens = lane.picker.pick(logits, at, ends - 1)
        lane.picker.note(at, tokens)
        lane.tokens[at], lane.positions[at] = tokens, ends
        fetched = _Fetched(tokens)
        # Only now do the requests leave the queue: had memory run out above, they would still be in it.
        for row, sequence in zip(rows, sequences, strict=True):
            self._waiting.popleft()
            sequence.position = len(sequence.prompt)
            lane.sequences[row] = sequence
        self._launched.append((fetched, list(enumerate(sequences))))
        self.stats.images += len(requests)
        self.stats.encode_seconds += time.perf_counter() - began

    def _images(self, requests: list[Request]) -> Tensor:
        """uint8 (n, side, side, 3): the pixels in their places."""
        images = torch.zeros((len(requests), self._side, self._side, 3), dtype=torch.uint8, device=self._model.device)
        for image, request in zip(images, requests, strict=True):
            height, width, _ = request.pixels.shape
            pixels = torch.from_numpy(np.ascontiguousarray(request.pixels)).to(images.device)
            image[request.top : request.top + height, request.left : request.left + width] = pixels
        return images

    def _step(self, number: int, lane: _Lane) -> None:
        began = time.perf_counter()
        for row, sequence in enumerate(lane.sequences):
            if sequence is not None and sequence.position >= lane.cache.length - 1 and lane is not self._lanes[-1]:
                self._promote(row)
        moving = self._may_step(lane)
        if not moving:
            return
        lane.move({row for row, _ in moving})
        tokens = self._steps.step(number, lane.used, max(sequence.position for _, sequence in _rows(lane)) + 1)
        for _, sequence in moving:
            sequence.position += 1
        self._launched.append((_Fetched(tokens), moving))
        self.stats.steps += 1
        self.stats.rows += len(moving)
        self.stats.step_seconds += time.perf_counter() - began

    def _may_step(self, lane: _Lane) -> list[tuple[int, _Sequence]]:
        """The rows that have room for another token.

        In the main lane those at its end stand still until the long lane takes them.
        """
        last = self._room - 2
        if lane is not self._lanes[-1]:
            last = min(last, lane.cache.length - 2)
        return [(row, sequence) for row, sequence in _rows(lane) if sequence.position <= last]

    def _promote(self, row: int) -> None:
        free = self._lanes[-1].free
        if free:
            self._lanes[-1].take(self._lanes[0], row, free[0])

    def _close_ranks(self, lane: _Lane) -> None:
        """With nothing waiting, the last rows move to where others left: dead rows in between cost as much as live ones."""
        while (used := lane.used) > lane.live:
            lane.take(lane, used - 1, lane.free[0])

    def _look(self, fetched: _Fetched, sequences: list[tuple[int, _Sequence]]) -> list[Answer]:
        """Read what an earlier launch gave."""
        answers = []
        tokens = fetched.numbers()
        for index, sequence in sequences:
            if not sequence.done and (answer := self._take(sequence, tokens[index])) is not None:
                sequence.done = True
                for lane in self._lanes:
                    if sequence in lane.sequences:
                        lane.leave(lane.sequences.index(sequence))
                answers.append(answer)
        return answers

    def _take(self, sequence: _Sequence, token: int) -> Answer | None:
        key = sequence.request.key
        if token == self._end:
            return Answer(key, sequence.ids, End.END, sequence.looped)
        sequence.ids.append(token)
        if not sequence.looped and (tail := sequence.watch.see(token)) is not None:
            sequence.looped = True
            if self._stop_loops:
                return Answer(key, cut(sequence.ids, tail), End.LOOP, True)
        if len(sequence.prompt) + len(sequence.ids) >= self._room:
            return Answer(key, sequence.ids, End.LENGTH, sequence.looped)
        return None

    # -- memory ---------------------------------------------------------------------------------------------------

    def _allocate(self) -> None:
        """Make the lanes, with fewer rows where they do not fit."""
        while True:
            try:
                states, like = self._config.encoder.states, self._model.decoder.embed_tokens.weight
                sizes = [(self.slots, self._short)]
                if self._most > self._short:
                    sizes.append((min(LONG_ROWS, self.slots), self._most))
                self._lanes = [
                    _Lane(
                        Cache(self._config.decoder, rows, length, states, like), self._picker(rows), self._model.device
                    )
                    for rows, length in sizes
                ]
                self._steps = Steps(self._model, self._lanes, images=self.images, compiled=self._compiled)
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
            else:
                return

    def _halve(self, error: BaseException) -> None:
        if not memory.error_says_so(error):
            raise error
        if self.slots == 1:
            raise OutOfDeviceMemory("the device has not even memory for one sequence at a time") from error
        self.slots //= 2
        self.images = max(1, min(self.images // 2, self.slots))
        self._lanes = []
        self.stats.shrinks += 1
        if self._cuda:
            torch.cuda.empty_cache()

    def _shrink(self, error: BaseException) -> None:
        """Go on with smaller batches: fewer images at a time if these were too many, else fewer rows, begun anew."""
        if not memory.error_says_so(error):
            raise error
        admitting, self._admitting = self._admitting, False
        if admitting and self.images > 1:
            self.images //= 2
            self.stats.shrinks += 1
            if self._cuda:
                torch.cuda.empty_cache()
            return
        again = [sequence.request for lane in self._lanes for _, sequence in _rows(lane)]
        self._waiting.extendleft(sorted(again, key=lambda request: request.key, reverse=True))
        self._launched.clear()
        self._halve(error)
        self._allocate()


def _rows(lane: _Lane) -> list[tuple[int, _Sequence]]:
    """The live rows of a lane."""
    return [(row, sequence) for row, sequence in enumerate(lane.sequences) if sequence is not None]
