"""The sandbox's child: one interpreter, one engine, one document at a time. Run as `python -m tasks.engines.child`.

It talks frames (tasks/engines/frames.py) over what were its stdin and stdout; what libraries print goes to stderr. First
message: start (engine, limits, options, threads, scratch, parent); then inspect and convert until the end of its input.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tasks.engines import confine, frames, memory

if TYPE_CHECKING:
    from tasks.engines.protocol import Engine, Limits

_PAGE_SIZE = resource.getpagesize()


def main() -> None:
    """Serve one parent until it closes the pipe."""
    requests, replies = _take_pipes()
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
        versions = engine.versions
    except Exception as error:  # noqa: BLE001 - the boundary: whatever an engine raises becomes one readable line
        _send(replies, {"kind": "broken", "message": _line(error)})
        return
    confinement.finish()
    confine.die_with_parent(parent)
    _send(replies, {"kind": "ready", "versions": versions, "confinement": confinement.report})
    while (request := frames.read(requests)) is not None:
        confine.limit_cpu(float(request["cpu"]))
        _send(replies, _serve(engine, limits, request, replies) | _memory())


def load(name: str, threads: int, options: dict[str, Any], scratch: Path) -> Engine:
    """The engine of that name, loaded: imports and models. Raises whatever its libraries raise; ValueError for another name."""
    if name == "dummy":
        from tasks.engines.dummy import DummyEngine, DummyOptions

        return DummyEngine(DummyOptions.model_validate(options), scratch)
    if name == "layout":
        from tasks.engines.layout.engine import LayoutEngine, LayoutOptions

        return LayoutEngine(LayoutOptions.model_validate(options), threads)
    raise ValueError(f"no engine is called {name!r}")


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return requests, replies


def _serve(engine: Engine, limits: Limits, request: dict[str, Any], replies: BinaryIO) -> dict[str, Any]:
    from tasks.corpus.failures import Category, ConversionError, Phase

    pdf = Path(request["pdf"])
    reached = 0

    def progress(page: int, pages: int) -> None:
        nonlocal reached
        reached = page
        _send(replies, {"kind": "progress", "page": page, "pages": pages})

    result: Any
    try:
        if request["op"] == "inspect":
            result = engine.inspect(pdf, request["passwords"], limits)
        else:
            result = engine.convert(pdf, Path(request["scratch"]), request["passwords"], limits, progress)
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
            message = _line(error).replace(str(pdf), pdf.name)
            failure = ConversionError.of(Category.ENGINE, Phase.CONVERT, message, page=page).failure
    else:
        return reply
    return {"kind": "failure", "failure": failure.model_dump(mode="json")}


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()).encode(errors="replace").decode()
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _memory() -> dict[str, int]:
    try:
        size, rss = Path("/proc/self/statm").read_text().split()[:2]
    except OSError:
        return {}
    return {"size": int(size) * _PAGE_SIZE, "rss": int(rss) * _PAGE_SIZE}


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(frames.encode(message))
    replies.flush()


if __name__ == "__main__":
    main()
