"""What the images of Dolphin's encoder cost, in CPU seconds of one thread: ours and transformers' processor, in one run.

    .venv/bin/python tests/benchmarks/dolphin_images.py [--corpus FOLDER] [--documents 60] [--json]

`lines`: thin text lines, black on white and coloured noise. `ratio` is the whole processor over `prepare` (whose result the
device rescales and normalises by a table); `ratio_bytes` is the processor without rescaling and normalising.

`mix`: one page of each of some documents, rendered with its longer side at 896 pixels; the page and its text blocks, images
and tables are prepared. `pages_per_second_4` is what four such CPUs can feed: 4 / (seconds of rendering and preparing a page).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pymupdf
from numpy.typing import NDArray
from transformers import DonutImageProcessor

from tasks.engines.dolphin.images import prepare, prepare_fast

ROOT = Path(__file__).resolve().parents[2]
SIDE = 896
LINES = ((816, 20), (700, 24), (530, 18))
_TOO_SMALL = 3
"""Pixels; what is not larger is not read."""
_SHARE = 7
"""One image of so many goes through the processor, too."""

Pixels = NDArray[np.uint8]


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def text_line(width: int, height: int) -> Pixels:
    """A line of text that fills its box, as a view into a page."""
    with pymupdf.open() as document:
        sheet = document.new_page(width=width + 40, height=height + 40)
        sheet.insert_text(
            (20, 20 + height * 0.75), "The quick brown fox jumps over the lazy dog. " * 9, fontsize=height * 0.8
        )
        page = rendered(sheet, 1)
    return page[20 : 20 + height, 20 : 20 + width]


def rendered(sheet: Any, scale: float) -> Pixels:
    """The page as RGB."""
    drawn = sheet.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False)
    return np.frombuffer(drawn.samples, np.uint8).reshape(drawn.height, drawn.width, 3)


def boxes(sheet: Any) -> list[Any]:
    """Where the page's text blocks, images and tables are, in points."""
    found = [pymupdf.Rect(block["bbox"]) for block in sheet.get_text("dict")["blocks"]]
    return found + [pymupdf.Rect(table.bbox) for table in sheet.find_tables().tables]


def documents(corpus: Path, count: int) -> list[Path]:
    """Some documents, of every kind in turn."""
    draw = random.Random(4)
    kinds = [sorted(folder.glob("*.pdf")) for folder in sorted(corpus.iterdir()) if folder.is_dir()]
    for kind in kinds:
        draw.shuffle(kind)
    turns = [kind[turn] for turn in range(max(map(len, kinds))) for kind in kinds if turn < len(kind)]
    return turns[:count]


def lines(whole: DonutImageProcessor, repeat: int) -> list[dict[str, Any]]:
    """Medians for each thin line."""
    noise, rows = np.random.default_rng(0), []
    for width, height in LINES:
        for fill, image in (
            ("text", text_line(width, height)),
            ("noise", noise.integers(0, 256, (height, width, 3), np.uint8)),
        ):
            seconds: dict[str, list[float]] = {"whole": [], "bytes": [], "ours": [], "fast": []}
            for _ in range(repeat):
                seconds["whole"].append(cpu(lambda: whole(image, return_tensors="np")))  # noqa: B023
                seconds["bytes"].append(cpu(lambda: whole(image, do_rescale=False, do_normalize=False)))  # noqa: B023
                seconds["ours"].append(cpu(lambda: prepare(image)))  # noqa: B023
                seconds["fast"].append(cpu(lambda: prepare_fast(image)))  # noqa: B023
            ms = {name: round(median(values) * 1000, 2) for name, values in seconds.items()}
            ratios = {"ratio": round(ms["whole"] / ms["ours"], 1), "ratio_bytes": round(ms["bytes"] / ms["ours"], 1)}
            rows.append({"line": f"{width}x{height}", "fill": fill, "ms": ms, **ratios})
    return rows


def mix(whole: DonutImageProcessor, corpus: Path, count: int) -> dict[str, Any]:
    """Pages of real documents with their crops."""
    draw = random.Random(4)
    render, pages, crops, fast, processor, tried = [], [], [], [], [], []
    for path in documents(corpus, count):
        try:
            with pymupdf.open(path) as document:
                sheet = document[draw.randrange(len(document))]
                scale = SIDE / max(sheet.rect.width, sheet.rect.height)
                render.append(cpu(lambda: rendered(sheet, scale)))  # noqa: B023
                page = rendered(sheet, scale)
                cuts = [box * scale for box in boxes(sheet)]
        except (RuntimeError, ValueError) as error:  # broken or encrypted on purpose
            sys.stderr.write(f"{path.name}: {error}\n")
            continue
        found = [page[max(int(y0), 0) : int(y1), max(int(x0), 0) : int(x1)] for x0, y0, x1, y1 in cuts]
        images = [page, *(crop for crop in found if min(crop.shape[:2]) > _TOO_SMALL)]
        own = [cpu(lambda: prepare(image)) for image in images]  # noqa: B023
        fast.append(sum(cpu(lambda: prepare_fast(image)) for image in images))  # noqa: B023
        # The processor takes long: a share of the images, and ours on the same ones.
        for number in range(len(pages) % _SHARE, len(images), _SHARE):
            processor.append(cpu(lambda: whole(images[number], return_tensors="np")))  # noqa: B023
            tried.append(own[number])
        pages.append(own[0])
        crops.append(own[1:])
    every = [seconds for page in crops for seconds in page]
    a_page = mean(render) + mean(pages) + sum(every) / len(pages)
    return {
        "pages": len(pages),
        "crops": len(every),
        "render_ms": round(mean(render) * 1000, 2),
        "page_image_ms": round(mean(pages) * 1000, 2),
        "crop_ms_median": round(median(every) * 1000, 2),
        "crop_ms_mean": round(mean(every) * 1000, 2),
        "crop_ms_max": round(max(every) * 1000, 2),
        "page_ms": round(a_page * 1000, 1),
        "page_ms_fast": round((mean(render) + mean(fast)) * 1000, 1),
        "processor_ms_mean": round(mean(processor) * 1000, 2),
        "processor_over_ours": round(sum(processor) / sum(tried), 1),
        "pages_per_second_4": round(4 / a_page, 1),
        "pages_per_second_4_fast": round(4 / (mean(render) + mean(fast)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pymupdf.TOOLS.mupdf_display_errors(False)
    size = {"height": SIDE, "width": SIDE}
    whole = DonutImageProcessor(size=size, do_align_long_axis=True, resample=2)
    figures = {"lines": lines(whole, options.repeat), "mix": mix(whole, options.corpus, options.documents)}
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for row in figures["lines"]:
        sys.stdout.write(f"{row}\n")
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in figures["mix"].items()))


if __name__ == "__main__":
    main()
