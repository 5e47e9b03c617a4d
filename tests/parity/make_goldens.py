"""Runs upstream's own code on the cases and keeps what came out. Upstream's code itself is not part of this project.

git clone https://github.com/ByteDance/Dolphin upstream
git -C upstream worktree add ../upstream-1.0 v1.0 && git -C upstream worktree add ../upstream-1.5 v1.5
PYTHONPATH=tests .venv/bin/python tests/parity/make_goldens.py 1.0 ../upstream-1.0
PYTHONPATH=tests .venv/bin/python tests/parity/make_goldens.py 1.5 ../upstream-1.5
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import warnings
from pathlib import Path

from PIL import Image

from parity import cases
from tasks.engines.dolphin.grammar import Generation

GOLDENS = Path(__file__).with_name("goldens")


def main(generation: Generation, upstream: Path) -> None:
    sys.path.insert(0, str(upstream))
    utils = importlib.import_module("utils.utils")
    markdown = importlib.import_module("utils.markdown_utils")
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        placed = []
        for image, boxes in cases.pages(generation):
            padded, dims = utils.prepare_image(Image.fromarray(image))
            before, page = None, []
            for box in boxes:
                *found, before = utils.process_coordinates(box, padded, dims, before)
                page.append([found[:4], found[4:]])
            placed.append(page)
        goldens = {
            "markdown": [
                markdown.MarkdownConverter().convert([{"label": label, "text": text} for label, text in elements])
                for elements in cases.elements(generation)
            ],
            "layouts": [utils.parse_layout_string(layout) for layout in cases.layouts(generation)],
            "boxes": placed,
        }
    for name, values in goldens.items():
        lines = ",\n".join(
            json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=int) for value in values
        )
        (GOLDENS / f"{name}-{generation}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Generation(sys.argv[1]), Path(sys.argv[2]))
