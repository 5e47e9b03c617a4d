"""The preparer: a process that makes of page pixels what the model is to see. Run as `python -m tasks.engines.dolphin.preparing`.

It talks frames as the sandbox's child does, and sees no PDF, only pixels in the arena. Several of them feed one device.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.engines import confine, frames
from tasks.engines.child import line_of, send, take_pipes
from tasks.engines.dolphin.arena import Place, View
from tasks.engines.dolphin.boxes import Box, Frame
from tasks.engines.dolphin.edges import Edges
from tasks.engines.dolphin.grammar import Generation
from tasks.engines.dolphin.images import Prepared, prepare, prepare_fast
from tasks.engines.dolphin.page import elements


def main() -> None:
    """Serve one parent until it closes the pipe."""
    requests, replies = take_pipes()
    start = frames.read(requests)
    if start is None:
        return
    confine.die_with_parent(int(start["parent"]))
    preparer = Preparer(View(int(start["shared"])), **start["settings"])
    send(replies, {"kind": "ready"})
    while (request := frames.read(requests)) is not None:
        try:
            reply = {"kind": "result", "result": preparer.serve(request)}
        except Exception as error:  # noqa: BLE001 - the boundary: whatever is raised becomes one line in the reply
            reply = {"kind": "failure", "message": line_of(error)}
        send(replies, reply)


class Preparer:
    """Serves requests about one page's pixels at a time.

    Args:
        view: the arena.
        side: pixels a side of the model's input.
        generation: whose boxes.
        fast: the one-pass resize, which changes pixels.
        strict: upstream's rule for boxes that overlap.
    """

    def __init__(self, view: View, *, side: int, generation: str, fast: bool, strict: bool) -> None:
        self._view, self._side = view, side
        self._generation, self._strict = Generation(generation), strict
        self._prepare = prepare_fast if fast else prepare

    def serve(self, request: dict[str, Any]) -> Any:
        """prepare: pixels of the page, or of a box of the padded page, put at a place.

        elements: of a layout. figure: to a PNG file.
        """
        page = self._view.pixels(Place(*request["page"]))
        match request["op"]:
            case "prepare":
                crop = page if request["box"] is None else cut(page, Box(*request["box"]))
                return self._put(self._prepare(crop, self._side), Place(*request["to"]))
            case "elements":
                frame = Frame(page.shape[1], page.shape[0])
                widen = Edges(padded(page)).widen if self._generation is Generation.V1_0 else None
                found = elements(request["layout"], frame, self._generation, widen, strict=self._strict)
                return [element._asdict() for element in found]
            case "figure":
                Image.fromarray(cut(page, Box(*request["box"]))).save(Path(request["file"]), format="PNG")
                return None
        raise ValueError(f"no request is called {request['op']!r}")

    def _put(self, prepared: Prepared, to: Place) -> list[int]:
        if prepared.pixels.shape[:2] != (to.height, to.width):
            raise ValueError(f"{prepared.pixels.shape[:2]} pixels prepared, room for {(to.height, to.width)}")
        self._view.pixels(to)[:] = prepared.pixels
        return [prepared.top, prepared.left]


def padded(page: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The page (h, w, 3) in a black square, centred, as upstream's `prepare_image` pads it."""
    frame = Frame(page.shape[1], page.shape[0])
    square = np.zeros((frame.side, frame.side, 3), np.uint8)
    square[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width] = page
    return square


def cut(page: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """What a box cuts from the padded page, without padding all of it."""
    frame = Frame(page.shape[1], page.shape[0])
    x2, y2 = min(box.x2, frame.side), min(box.y2, frame.side)
    x1, y1 = box.x1 - frame.left, box.y1 - frame.top
    x2, y2 = x2 - frame.left, y2 - frame.top
    inside = page[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
    if inside.shape[:2] == (y2 - y1, x2 - x1):
        return inside
    crop = np.zeros((y2 - y1, x2 - x1, 3), np.uint8)
    top, left = max(0, -y1), max(0, -x1)
    crop[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return crop


if __name__ == "__main__":
    main()
    sys.exit(0)
