"""The device's process: it owns model and reader, and serves one parent. Run as `python -m tasks.engines.dolphin.reading`.

A process of its own, so that the loop that launches work for the GPU shares its interpreter with nobody. Frames as the
sandbox's child; pixels lie in the arena. Messages: read (key, prompt, place, top, left), cancel (keys), stats; each
read is answered, in any order.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from tasks.corpus.failures import PdfFlowsError
from tasks.engines import confine, frames
from tasks.engines.child import line_of, send, take_pipes
from tasks.engines.dolphin.arena import Place, View
from tasks.engines.dolphin.checkpoint import Checkpoint
from tasks.engines.dolphin.device import find, plan
from tasks.engines.dolphin.grammar import Generation, Prompt
from tasks.engines.dolphin.reader import Answer, Reader, Request
from tasks.engines.dolphin.settings import Loaded, ReadingSettings

PULSE_SECONDS = 10.0
"""While it works, it says so this often: a GPU that hangs says nothing."""
PENALTY_1_0 = 1.1
"""Upstream's repetition_penalty, generation 1.0 only."""


def main() -> None:
    """Serve until the pipe is closed."""
    requests, replies = take_pipes()
    start = frames.read(requests)
    if start is None:
        return
    confine.die_with_parent(int(start["parent"]))
    try:
        reader, checkpoint, loaded = load(ReadingSettings.model_validate(start["settings"]))
    except Exception as error:  # noqa: BLE001 - the boundary: whatever torch raises becomes one readable line
        message = str(error) if isinstance(error, PdfFlowsError) else line_of(error)
        send(replies, {"kind": "broken", "message": message})
        return
    view = View(int(start["shared"]))
    send(replies, {"kind": "ready", **loaded.model_dump(mode="json")})
    try:
        serve(reader, checkpoint.tokenizer.text, view, requests, replies)
    except Exception as error:  # noqa: BLE001 - the same boundary
        send(replies, {"kind": "lost", "message": line_of(error)})


def load(settings: ReadingSettings) -> tuple[Reader, Checkpoint, Loaded]:
    """Check, choose, load. Raises UsageErrors that name what is wrong."""
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    checkpoint = Checkpoint(settings.folder)
    device = find(settings.device)
    chosen = plan(checkpoint.config, device, checkpoint.parameters(), settings.dtype, settings.slots)
    # Imported late: a refusal should not wait for it.
    from tasks.engines.dolphin.model import Model
    from tasks.engines.dolphin.probe import generation_of

    model = Model(checkpoint, torch.device(device.kind), getattr(torch, chosen.dtype))
    generation = generation_of(model, checkpoint, settings.generation)
    reader = Reader(
        model,
        checkpoint,
        slots=chosen.slots,
        images=chosen.images,
        penalty=penalty_of(generation),
        stop_loops=settings.stop_loops,
    )
    versions = {
        "generation": generation.value,
        "weights": checkpoint.fingerprint()[:16],
        "dtype": chosen.dtype.value,
        "device": device.kind,
        "torch": torch.__version__,
    }
    loaded = Loaded(
        generation=generation,
        side=checkpoint.side,
        slots=reader.slots,
        device=device.name,
        dtype=chosen.dtype,
        line=chosen.line(device),
        versions=versions,
    )
    return reader, checkpoint, loaded


def penalty_of(generation: Generation) -> float:
    """Of repetition, as upstream's scripts of that generation ask for it."""
    return PENALTY_1_0 if generation is Generation.V1_0 else 1.0


def serve(
    reader: Reader,
    text: Callable[[Prompt, list[int]], str],
    view: View,
    requests: BinaryIO,
    replies: BinaryIO,
) -> None:
    """Read what is asked for until the requests end."""
    arrived: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, arrived), daemon=True).start()
    prompts: dict[int, Prompt] = {}
    first = last = time.monotonic()
    busy = told = 0.0

    def take(message: dict[str, Any]) -> None:
        match message["op"]:
            case "read":
                key, prompt = int(message["key"]), Prompt(message["prompt"])
                prompts[key] = prompt
                pixels = view.pixels(Place(*message["place"]))
                reader.submit(Request(key, prompt, pixels, int(message["top"]), int(message["left"])))
            case "cancel":
                reader.cancel(set(message["keys"]))
            case "stats":
                stats = {name: getattr(reader.stats, name) for name in reader.stats.__slots__}
                send(replies, {"kind": "stats", **stats, "busy": busy, "span": last - first})

    while True:
        try:
            message = arrived.get(block=reader.idle)
        except queue.Empty:
            message = {"op": "none"}
        if message is None:
            return
        if not busy and message["op"] == "read":
            first = time.monotonic()
        take(message)
        while not arrived.empty():
            if (message := arrived.get()) is None:
                return
            take(message)
        if reader.idle:
            continue
        began = time.monotonic()
        for answer in reader.advance():
            send(replies, _reply(answer, text(prompts.get(answer.key, Prompt.TEXT), answer.ids)))
            prompts.pop(answer.key, None)
            last = time.monotonic()
        now = time.monotonic()
        busy += now - began
        if now - told >= PULSE_SECONDS:
            send(replies, {"kind": "pulse"})
            told = now


def _reply(answer: Answer, text: str) -> dict[str, Any]:
    return {
        "kind": "text",
        "key": answer.key,
        "text": text,
        "tokens": len(answer.ids),
        "end": answer.end.value,
        "looped": answer.looped,
    }


def _listen(requests: BinaryIO, arrived: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    try:
        while (message := frames.read(requests)) is not None:
            arrived.put(message)
    finally:
        arrived.put(None)


if __name__ == "__main__":
    main()
