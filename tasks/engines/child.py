"""The sandbox's child: one interpreter, one engine, one document at a time. Run as `python -m tasks.engines.child`.

It talks frames (tasks/engines/frames.py) over what were its stdin and stdout; what libraries print goes to stderr. First
message: start (engine, limits, options, threads, scratch, parent, shared); then inspect, convert and render until the end of its
input. While it renders, each page waits in shared memory until the parent says `next`. While it converts a document together with
others, it asks the parent page by page.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tasks.engines import confine, frames, memory
from tasks.engines.pagememory import MODEL_SIDE, PageMemory, RenderedPage

if TYPE_CHECKING:
    from tasks.engines.protocol import Engine, Fall, Handover, Limits, Renderer

_PAGE_SIZE = resource.getpagesize()


def main() -> None:
    """Serve one parent until it closes the pipe."""
    requests, replies = take_pipes()
    faulthandler.enable()
    start = frames.read(requests)
    if start is None:
        return
    parent, scratch = int(start["parent"]), Path(start["scratch"])
    confine.die_with_parent(parent)
    confine.limit_resources(int(start["limits"]["memory_mb"]))
    confinement = confine.Confinement(scratch, Path(__file__).resolve().parents[1])
    confine.die_with_parent(parent)
    os.umask(0o022)

    from tasks.engines.protocol import Limits

    limits = Limits.model_validate(start["limits"])
    try:
        engine = load(start["engine"], int(start["threads"]), start["options"], scratch)
        pixels = PageMemory.open(int(start["shared"])) if start["shared"] is not None else None
        versions = engine.versions
    except Exception as error:  # noqa: BLE001 - the boundary: whatever an engine raises becomes one readable line
        send(replies, {"kind": "broken", "message": line_of(error)})
        return
    confinement.finish()
    confine.die_with_parent(parent)
    shares = bool(getattr(engine, "shares", False))
    send(replies, {"kind": "ready", "versions": versions, "confinement": confinement.report, "shares": shares})
    while (request := frames.read(requests)) is not None:
        confine.limit_cpu(float(request["cpu"]))
        emit = None if pixels is None else _emitter(pixels, requests, replies)
        send(replies, _serve(engine, limits, request, requests, replies, emit) | _memory())


def load(name: str, threads: int, options: dict[str, Any], scratch: Path) -> Engine | Renderer:
    """The engine of that name, loaded: imports and models. Raises whatever its libraries raise; ValueError for another name."""
    if name == "dummy":
        from tasks.engines.dummy import DummyEngine, DummyOptions

        return DummyEngine(DummyOptions.model_validate(options), scratch)
    if name == "layout":
        from tasks.engines.layout.engine import LayoutEngine
        from tasks.engines.layout.settings import LayoutOptions

        return LayoutEngine(LayoutOptions.model_validate(options), threads)
    if name == "dolphin":
        from tasks.engines.dolphin.rendering import PageRenderer

        return PageRenderer(int(options.get("side", MODEL_SIDE)))
    raise ValueError(f"no engine is called {name!r}")


def _emitter(pixels: PageMemory, requests: BinaryIO, replies: BinaryIO) -> Callable[[RenderedPage], None]:
    """Hands a page to the parent, and waits until it has taken it."""

    def emit(page: RenderedPage) -> None:
        pixels.put(page)
        send(replies, {"kind": "page", **page.facts()})
        _answer(requests, "next")

    return emit


def _answer(requests: BinaryIO, *operations: str) -> dict[str, Any]:
    """What the parent says to a question. Ends this process where it is gone."""
    request = frames.read(requests)
    if request is None or request["op"] not in operations:
        sys.exit(0)
    return request


class _Together:
    """This process's part in a document that several convert."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO, least: int, fallen: dict[int, list[Fall]]) -> None:
        self._requests, self._replies, self._least, self._fallen = requests, replies, least, fallen
        self._asks = False

    def turns(self, pages: int) -> Iterator[int]:
        """All pages, for the one process that puts the document together."""
        self._asks = pages >= self._least
        if self._asks:
            send(self._replies, {"kind": "opened", "pages": pages})
        yield from range(1, pages + 1)

    def elsewhere(self, number: int) -> str | None:
        """A helper's payload of the page; None: it is this process's."""
        from tasks.engines.protocol import Fall

        if not self._asks:
            return None
        send(self._replies, {"kind": "claim", "page": number})
        answer = _answer(self._requests, "take", "done")
        if answer["op"] == "done":
            return str(answer["payload"])
        if fallen := answer["fallen"]:
            self._fallen[number] = [Fall.model_validate(fall) for fall in fallen]
        return None

    def offered(self, pages: int) -> Iterator[int]:
        """The pages that a helper is given, as long as there are any."""
        while True:
            send(self._replies, {"kind": "more", "pages": pages})
            number = _answer(self._requests, "page")["number"]
            if number is None:
                return
            yield int(number)


def _handover(
    request: dict[str, Any], requests: BinaryIO, replies: BinaryIO, finish: Callable[[int, str], None]
) -> Handover:
    from tasks.engines.protocol import Fall, Handover

    done = {int(number): payload for number, payload in request["done"].items()}
    fallen = {int(page): [Fall.model_validate(fall) for fall in falls] for page, falls in request["fallen"].items()}
    if request["share"] is None:
        return Handover(done, finish, fallen)
    together = _Together(requests, replies, int(request["share"]), fallen)
    if request["helping"]:
        return Handover(done, finish, fallen, together.offered, helping=True)
    return Handover(done, finish, fallen, together.turns, together.elsewhere)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """What were stdin and stdout, for frames; what libraries print goes to stderr from here on."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return requests, replies


def _serve(
    engine: Engine | Renderer,
    limits: Limits,
    request: dict[str, Any],
    requests: BinaryIO,
    replies: BinaryIO,
    emit: Callable[[RenderedPage], None] | None,
) -> dict[str, Any]:
    from tasks.corpus.failures import Category, ConversionError, Phase

    pdf = Path(request["pdf"])
    reached = 0

    def progress(page: int, pages: int, ways: int = 0) -> None:
        nonlocal reached
        reached = page
        send(replies, {"kind": "progress", "page": page, "pages": pages, "ways": ways})

    def finish(page: int, payload: str) -> None:
        send(replies, {"kind": "finished", "number": page, "payload": payload})

    result: Any
    try:
        if request["op"] == "inspect":
            result = engine.inspect(pdf, request["passwords"], limits)
        elif request["op"] == "render":
            first, last = int(request["first"]), request["last"]
            result = engine.render(pdf, request["passwords"], first, limits, emit, last)  # type: ignore[union-attr, arg-type]
        else:
            handover = _handover(request, requests, replies, finish)
            scratch = Path(request["scratch"])
            result = engine.convert(pdf, scratch, request["passwords"], limits, progress, handover)  # type: ignore[union-attr]
        reply = {"kind": "result", "result": result.model_dump(mode="json")}
        frames.encode(reply)
    except ConversionError as error:
        failure = error.failure
    except frames.BadFrame:
        failure = ConversionError.of(Category.TOO_LARGE, Phase.CONVERT, "the Markdown would be over 256 MB").failure
    except Exception as error:  # noqa: BLE001 - the boundary: whatever an engine raises becomes a record
        page = reached or None
        if memory.error_says_so(error):
            message = f"over the memory limit, {limits.memory_mb} MiB"
            failure = ConversionError.of(Category.MEMORY, Phase.CONVERT, message, retryable=False, page=page).failure
        else:
            message = f"an error of the engine's own ({line_of(error).replace(str(pdf), pdf.name)})"
            failure = ConversionError.of(Category.ENGINE, Phase.CONVERT, message, page=page).failure
    else:
        return reply
    return {"kind": "failure", "failure": failure.model_dump(mode="json")}


def line_of(error: BaseException) -> str:
    """An exception as one readable line."""
    text = " ".join(str(error).split()).encode(errors="replace").decode()
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _memory() -> dict[str, int]:
    try:
        size, rss = Path("/proc/self/statm").read_text().split()[:2]
    except OSError:
        return {}
    return {"size": int(size) * _PAGE_SIZE, "rss": int(rss) * _PAGE_SIZE}


def send(replies: BinaryIO, message: dict[str, Any]) -> None:
    """A message to the parent."""
    replies.write(frames.encode(message))
    replies.flush()


if __name__ == "__main__":
    main()
