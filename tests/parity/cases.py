"""Cases on which upstream's own code was run: documents that no model wrote, drawn from seeds, odd on purpose."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.engines.dolphin.grammar import Generation

COUNT = 250
"""Cases of each kind and generation."""

_TEXT = [
    *("\n", "\n\n", "\n\n\n", "-\n", " ", "\t", "\u3000", "$", "$$", "\\[", "\\]", "\\(", "\\)", "\\", "\\\\ "),
    *("`", "|", "-", "1."),
    *("\\begin{array}", "\\end{array}", "\\begin{algorithm}", "\\end{algorithm}", "\\begin{algorithmic}", "\\end{algorithmic}"),
    *("\\caption{", "}", "\\label{x}", "\\author{", "\\begin{abstract}", "\\end{abstract}", "\\eqno{(", ")}", "_ {"),
    *("^ {", "_{", "^{"),
    *("\\bm", "\\bmod", "\\quad", "\\leq", "\\leqslant", "\\pm", "\\pmod", "\\varmathbb", "\\in fty", "\\mu", "\\upmu", "\\cdot"),
    *("\\cdots", "\\langle", "<table>", "<table border=1>", "</table>", "<tr>", "</tr>", "<td>", "</td>", "<TABLE>"),
    *("word", "the quick", "\u4e2d\u6587", "\u5b57", "x = 1", "[", ",", "]"),
]  # fmt: skip
_LABELS = {
    Generation.V1_0: (
        *("title", "sec", "sub_sec", "sub_sub_sec", "list", "fig", "tab", "alg", "formula", "reference", "para", "author"),
        *("cap", "foot", "page_separator"),
    ),
    Generation.V1_5: (
        *("sec_0", "sec_1", "sec_2", "sec_5", "list", "fig", "tab", "equ", "code", "reference", "para", "sec_6", "", "foot"),
        "page_separator",
    ),
}  # fmt: skip
_LAYOUT = [
    *("[PAIR_SEP]", "[RELATION_SEP]", "[1,2,3,4]", "[10,20,300,400]", "[para]", "[0.12,0.25,0.75, 0.15]", " title"),
    "[895,895,896,896]",
    *("[0.5,0.5,0.6,0.6] sec", "[1,2,3]", "[meta]", "[", "]", "12", ".5", "1.", ",", " ", "[12, 3,4,5]", "[tab]", "[]", "[ ]"),
    *("[99999999999999999,1,2,3]", "[1,2,3,4][equ]", "sub_sec", "\u00e9"),
]  # fmt: skip
_SIZES = ((693, 896), (896, 693), (50, 40), (897, 300), (7, 3), (300, 301))


def elements(generation: Generation) -> Iterator[list[tuple[str, str]]]:
    """Labels and texts of documents."""
    rng = random.Random(f"elements {generation}")
    for number in range(COUNT):
        found = []
        for _ in range(rng.randrange(1, 5)):
            label = rng.choice(_LABELS[generation])
            text = "".join(rng.choice(_TEXT) for _ in range(rng.randrange(14)))
            found.append((label, f"![Figure](figures/x_{number}.png)" if label == "fig" else text))
        yield found


def layouts(generation: Generation) -> Iterator[str]:
    """Layout strings, most of them garbage."""
    rng = random.Random(f"layouts {generation}")
    for _ in range(COUNT):
        yield "".join(rng.choice(_LAYOUT) for _ in range(rng.randrange(14)))


def pages(generation: Generation) -> Iterator[tuple[NDArray[np.uint8], list[list[float]]]]:
    """Page images (RGB, uint8) with specks and lines, and boxes as the model writes them: overlapping, reversed, too large."""
    rng = random.Random(f"pages {generation}")
    for _ in range(COUNT):
        width, height = rng.choice(_SIZES)
        image = np.full((height, width, 3), 255, np.uint8)
        for _ in range(rng.randrange(40)):
            x, y = rng.randrange(width), rng.randrange(height)
            image[y : y + rng.randrange(1, 12), x : x + rng.randrange(1, 60)] = [rng.randrange(256) for _ in range(3)]
        boxes = [_box(rng, generation) for _ in range(rng.randrange(1, 5))]
        yield image, boxes


def _box(rng: random.Random, generation: Generation) -> list[float]:
    odd = [0.0, 1.0, 1e400, 1.2, 0.5]
    values = [rng.choice(odd) if rng.random() < 0.1 else rng.random() for _ in range(4)]
    if rng.random() < 0.8:
        x1, y1, x2, y2 = values
        values = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
    if generation is Generation.V1_0:
        return [round(value, 2) for value in values]
    return [float(round(value * 896)) if value < 2 else value for value in values]


def as_json(value: Any) -> Any:
    """Tuples as lists, as they come back from a file."""
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value
