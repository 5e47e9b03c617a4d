"""The batched reader against upstream: the same tokens, whatever shares the batch. Goldens: tests/parity/run_upstream.py."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity import kit
from tasks.engines.dolphin.checkpoint import Checkpoint
from tasks.engines.dolphin.images import prepare
from tasks.engines.dolphin.model import Model
from tasks.engines.dolphin.reader import OutOfDeviceMemory, Reader, Request
from tasks.engines.dolphin.reading import PENALTY_1_0
from tasks.engines.dolphin.sequences import End

both = pytest.mark.parametrize("generation", ["1.0", "1.5"])


@functools.cache
def loaded(name: str) -> tuple[Checkpoint, Model]:
    torch.set_num_threads(1)
    checkpoint = Checkpoint(kit.checkpoint_folder(name))
    return checkpoint, Model(checkpoint, torch.device("cpu"), torch.float32)


def reader(name: str, **options: Any) -> Reader:
    checkpoint, model = loaded(name)
    given = {"slots": 8, "stop_loops": False, "penalty": PENALTY_1_0 if name == "1.0" else 1.0} | options
    return Reader(model, checkpoint, **given)


@functools.cache
def prepared(generation: str) -> tuple[tuple[kit.Asked, Any], ...]:
    checkpoint, _ = loaded(generation)
    return tuple((asked, prepare(asked.pixels, checkpoint.side)) for asked in kit.requests(generation))


def request(key: int, asked: kit.Asked, image: Any) -> Request:
    return Request(key, asked.prompt, image.pixels, image.top, image.left)


def read_all(which: Reader, requests: list[Request]) -> dict[int, Any]:
    for each in requests:
        which.submit(each)
    answers = {}
    while not which.idle:
        for answer in which.advance():
            assert answer.key not in answers
            answers[answer.key] = answer
    return answers


@both
def test_one_at_a_time_is_upstreams(generation: str) -> None:
    checkpoint, _ = loaded(generation)
    requests = prepared(generation)
    answers = read_all(reader(generation, slots=1), [request(key, *each) for key, each in enumerate(requests)])
    for key, (asked, _) in enumerate(requests):
        assert answers[key].ids == asked.ids, asked
        assert checkpoint.tokenizer.text(asked.prompt, answers[key].ids) == asked.text
        assert answers[key].end is End.END


SCHEDULES = given(
    seed=st.integers(0, 2**32),
    slots=st.integers(1, 40),
    images=st.integers(1, 9),
    short=st.sampled_from([24, 64, 128, 4096]),
    lookahead=st.integers(0, 2),
    pauses=st.floats(0, 1),
)


@both
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@SCHEDULES
def test_any_schedule_is_upstreams(generation: str, **schedule: Any) -> None:
    read_as(generation, **schedule)


@pytest.mark.soak
@pytest.mark.timeout(0)
@both
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@SCHEDULES
def test_many_schedules_are_upstreams(generation: str, **schedule: Any) -> None:
    read_as(generation, **schedule)


def read_as(generation: str, seed: int, slots: int, images: int, short: int, lookahead: int, pauses: float) -> None:
    """Any number of slots, order of arrival, mix of documents and prompts; rows that move on to the long lane, late work."""
    requests = prepared(generation)
    rng = random.Random(seed)
    order = rng.sample(range(len(requests)), len(requests))
    which = reader(generation, slots=slots, images=images, short=short, lookahead=lookahead)
    answers: dict[int, list[int]] = {}
    while order or not which.idle:
        while order and (which.idle or rng.random() > pauses):
            key = order.pop()
            which.submit(request(key, *requests[key]))
        for answer in which.advance():
            assert answer.key not in answers
            answers[answer.key] = answer.ids
    assert answers == {key: asked.ids for key, (asked, _) in enumerate(requests)}


@pytest.mark.slow
def test_out_of_memory_shrinks_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever memory runs out, every request is answered, as ever; the batch is smaller afterwards."""
    requests = prepared("1.5")
    expected = {key: asked.ids for key, (asked, _) in enumerate(requests)}
    for place, instants in (("encode", (1, 3, 9)), ("prefill", (1, 2)), ("step", (1, 3, 9))):
        for when in instants:
            which = reader("1.5", slots=16, images=4)
            _, model = loaded("1.5")
            owner = model if place == "encode" else model.decoder
            real, calls = getattr(owner, place), []

            def fails(*args: Any, real: Any = real, calls: list[int] = calls, when: int = when) -> Any:
                calls.append(1)
                if len(calls) == when:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
                return real(*args)

            monkeypatch.setattr(owner, place, fails)
            answers = read_all(which, [request(key, *each) for key, each in enumerate(requests)])
            monkeypatch.undo()
            assert {key: answer.ids for key, answer in answers.items()} == expected
            assert which.stats.shrinks == 1
            assert (which.slots, which.images) in {(16, 2), (8, 2)}


def test_no_memory_even_for_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    which = reader("1.5", slots=4)
    _, model = loaded("1.5")

    def fails(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model.decoder, "step", fails)
    with pytest.raises(OutOfDeviceMemory, match="one sequence"):
        read_all(which, [request(0, *prepared("1.5")[0])])


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    which = reader("1.5")
    _, model = loaded("1.5")

    def fails(*_: Any) -> Any:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(model.decoder, "step", fails)
    with pytest.raises(RuntimeError, match="device-side"):
        read_all(which, [request(0, *prepared("1.5")[0])])


def test_cancelled_requests_are_forgotten() -> None:
    requests = prepared("1.5")
    which = reader("1.5", slots=4)
    for key, each in enumerate(requests):
        which.submit(request(key, *each))
    for _ in range(5):
        which.advance()
    which.cancel(set(range(0, len(requests), 2)))
    answers = read_all(which, [])
    assert set(answers) <= set(range(1, len(requests), 2))
    assert all(answers[key].ids == requests[key][0].ids for key in answers)


def test_a_step_serves_many() -> None:
    """Continuous batching: far fewer steps than tokens, and rows that are mostly taken."""
    requests = prepared("1.5")
    which = reader("1.5", slots=16)
    read_all(which, [request(key, *each) for key, each in enumerate(requests)])
    tokens = sum(len(asked.ids) for asked, _ in requests)
    longest = max(len(asked.ids) for asked, _ in requests)
    assert which.stats.steps <= tokens / 16 + longest
    assert which.stats.images == len(requests)


class TestLoops:
    def answer(self, **options: Any) -> Any:
        asked = next(asked for asked in kit.requests("loop", ("loop",)) if len(asked.ids) > 1000)
        checkpoint, _ = loaded("loop")
        image = prepare(asked.pixels, checkpoint.side)
        (answer,) = read_all(reader("loop", **options), [request(0, asked, image)]).values()
        return asked, answer

    @pytest.mark.slow
    def test_strict_runs_to_the_end_and_is_flagged(self) -> None:
        """As upstream, token for token, to the last one that fits - through the long lane."""
        asked, answer = self.answer(stop_loops=False)
        assert answer.ids == asked.ids
        assert (answer.end, answer.looped) == (End.LENGTH, True)

    def test_a_loop_is_stopped_cut_and_flagged(self) -> None:
        asked, answer = self.answer(stop_loops=True)
        assert (answer.end, answer.looped) == (End.LOOP, True)
        assert answer.ids == asked.ids[: len(answer.ids)]
        assert len(answer.ids) < 100
