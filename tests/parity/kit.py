"""What the parity tests share: the tiny checkpoints, upstream's goldens, and its requests with their pixels."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pymupdf
from numpy.typing import NDArray

from tasks.engines.dolphin.boxes import Frame
from tasks.engines.dolphin.edges import Edges
from tasks.engines.dolphin.grammar import Generation, Prompt
from tasks.engines.dolphin.page import elements
from tasks.engines.dolphin.preparing import cut, padded

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
DOCUMENTS = ("articles", "letters")


class Asked(NamedTuple):
    """One request of upstream's: the image, what it answered."""

    document: str
    page: int
    prompt: Prompt
    pixels: NDArray[np.uint8]
    text: str
    ids: list[int]


def checkpoint_folder(name: str) -> Path:
    """`1.0`, `1.5` or `loop`."""
    return HERE / "checkpoints" / name


def golden(generation: str, *parts: str) -> Path:
    return HERE.joinpath("goldens", f"upstream-{generation}", *parts)


def render(document: str) -> list[NDArray[np.uint8]]:
    """Pages as upstream renders them."""
    pages = []
    with pymupdf.open(FIXTURES / f"{document}.pdf") as opened:
        for page in opened:
            scale = 896 / max(page.rect.width, page.rect.height)
            pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale))
            pages.append(np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3))
    return pages


@functools.cache
def requests(generation: str, documents: tuple[str, ...] = DOCUMENTS) -> tuple[Asked, ...]:
    """All requests that upstream made, by our own boxes and crops: that these are the same images is asserted."""
    kept: dict[str, list[list[dict[str, Any]]]] = json.loads(golden(generation, "requests.json").read_text("utf-8"))
    rules = Generation.V1_0 if generation == "1.0" else Generation.V1_5
    found: list[Asked] = []
    for document in documents:
        calls = [request for call in kept[document] for request in call]
        of_page = iter(calls)
        request = next(of_page, None)
        for number, page in enumerate(render(document), start=1):
            assert request is not None
            assert request["prompt"] == Prompt.LAYOUT
            layout = request
            crops = {hash_of(page): page}
            frame = Frame(page.shape[1], page.shape[0])
            widen = Edges(padded(page)).widen if rules is Generation.V1_0 else None
            for element in elements(layout["output"], frame, rules, widen):
                crop = cut(page, element.crop)
                crops[hash_of(crop)] = crop
            while request is not None:
                assert request["sha256"] in crops, f"{document}, page {number}: another crop than upstream's"
                pixels = crops[request["sha256"]]
                prompt = Prompt(request["prompt"])
                found.append(Asked(document, number, prompt, pixels, request["output"], without_end(request["ids"])))
                request = next(of_page, None)
                if request is not None and request["prompt"] == Prompt.LAYOUT:
                    break
        assert request is None
    return tuple(found)


def hash_of(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def without_end(ids: list[int]) -> list[int]:
    """The goldens keep the </s> that ends a sequence (id 2 in all tiny checkpoints)."""
    return ids[:-1] if ids and ids[-1] == 2 else ids
