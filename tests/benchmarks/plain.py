"""One document by one plain way, for tests/benchmarks/quality.py: a child that may hang, crash and be killed.

    python tests/benchmarks/plain.py TOOL PDF OUT THREADS

Writes the Markdown to OUT and one line of JSON to stdout: wall and CPU seconds, and pages. What is imported before the clock
starts is what an engine that lives for many documents imports once; models that a tool loads on first use are in its time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

MOST_MEMORY = 8 << 30
"""Bytes of address space: plain tools have no limit of their own, and the machine is shared."""
HAS_TEXT = 20
"""Characters from which on a page counts as one with a text layer, as in the corpus's manifest."""
OCR_DPI = 200
MOST_PIXELS = 100_000_000


def pymupdf4llm_default() -> Callable[[str], str]:
    import pymupdf4llm
    from pymupdf4llm.ocr import rapidocr_api

    assert rapidocr_api.full_ocr is not None
    return lambda pdf: str(pymupdf4llm.to_markdown(pdf))


def text_layer() -> Callable[[str], str]:
    import pymupdf

    def run(pdf: str) -> str:
        with pymupdf.open(pdf) as document:
            return "\n\n".join(page.get_text(sort=False) for page in document)

    return run


def text_layer_or_ocr() -> Callable[[str], str]:
    import numpy as np
    import pymupdf
    from rapidocr import RapidOCR

    engine: list[RapidOCR] = []

    def read(page: pymupdf.Page) -> str:
        layer = page.get_text(sort=False)
        scale = OCR_DPI / 72
        if len(layer.strip()) >= HAS_TEXT or page.rect.width * page.rect.height * scale * scale > MOST_PIXELS:
            return str(layer)
        if not engine:
            engine.append(RapidOCR(params={"Global.log_level": "error"}))
        pixmap = page.get_pixmap(dpi=OCR_DPI, colorspace=pymupdf.csRGB, alpha=False)
        image = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3)[:, :, ::-1]
        return "\n".join(engine[0](np.ascontiguousarray(image)).txts or ())

    def run(pdf: str) -> str:
        with pymupdf.open(pdf) as document:
            return "\n\n".join(read(page) for page in document)

    return run


TOOLS: dict[str, Callable[[], Callable[[str], str]]] = {
    "pymupdf4llm": pymupdf4llm_default,
    "text": text_layer,
    "text+ocr": text_layer_or_ocr,
}


def main(tool: str, pdf: str, out: Path, threads: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    told, sys.stdout = sys.stdout, sys.stderr
    from tasks.engines.layout import threads as thread_bounds  # the sandbox's own setting, for a fair comparison

    thread_bounds.bound(threads)
    run = TOOLS[tool]()
    begun, cpu = time.monotonic(), time.process_time()
    text = run(pdf)
    seconds = {"wall": time.monotonic() - begun, "cpu": time.process_time() - cpu}
    out.write_text(text, encoding="utf-8", errors="replace")
    told.write(json.dumps(seconds) + "\n")
    told.flush()
    os._exit(0)  # whatever a library would do at the end is not measured


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
