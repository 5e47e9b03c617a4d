"""What the documentation shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pymupdf

from tasks.engines.opening import open_document
from tasks.engines.protocol import EngineResult, Handover, Inspection, Limits, Page, Progress

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_engine_converts_a_sample(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/engines.md").read_text(), re.S)
    assert len(code.splitlines()) <= 30
    words = {
        "pymupdf": pymupdf,
        "open_document": open_document,
        "Path": Path,
        "EngineResult": EngineResult,
        "Handover": Handover,
        "Inspection": Inspection,
        "Limits": Limits,
        "Page": Page,
        "Progress": Progress,
    }
    exec(code, words)
    engine = words["Shouting"]()
    sample = ROOT / "samples/tides.pdf"
    seen: list[tuple[int, int]] = []
    kept: dict[int, str] = {}

    def progress(page: int, pages: int) -> None:
        seen.append((page, pages))

    result = engine.convert(sample, tmp_path, [], Limits(), progress, Handover({}, kept.__setitem__))
    assert engine.inspect(sample, [], Limits()).pages == len(result.pages)
    assert seen[-1] == (len(result.pages), len(result.pages))
    assert "TIDE" in result.pages[0].text
    seen.clear()
    assert engine.convert(sample, tmp_path, [], Limits(), progress, Handover(kept)) == result
    assert seen == []
