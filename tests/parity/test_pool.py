"""The whole engine against upstream: fixture PDFs through the sandbox, the preparers and the device's process."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parity import kit
from tasks.engines.dolphin.pool import DolphinPool
from tasks.engines.dolphin.settings import DolphinOptions, MarkdownMode
from tasks.engines.protocol import EngineName, EngineResult, Limits
from tasks.engines.sandbox import Sandbox

both = pytest.mark.parametrize("generation", ["1.0", "1.5"])


@contextmanager
def running(
    folder: Path, name: str, *, limits: Limits | None = None, slots: int = 12, **options: Any
) -> Iterator[DolphinPool]:
    folder.chmod(0o755)
    pool = DolphinPool(
        DolphinOptions(model=str(kit.checkpoint_folder(name)), **options),
        lambda: kit.checkpoint_folder(name),
        lambda place: Sandbox(EngineName.DOLPHIN, limits or Limits(), threads=1, scratch=place),
        folder,
        sandboxes=1,
        preparers=1,
        slots=slots,
        device="cpu",
        threads=1,
    )
    pool.start()
    try:
        pool.ready(120)
        yield pool
    finally:
        pool.close()


def convert(pool: DolphinPool, document: str, folder: Path) -> tuple[EngineResult, list[tuple[Any, bytes]]]:
    """The result, and its assets with what they hold."""
    place = Path(tempfile.mkdtemp(dir=folder))
    copy, assets = place / "copy.pdf", place / "assets"
    shutil.copy(kit.FIXTURES / f"{document}.pdf", copy)
    assets.mkdir()
    result = pool.convert(copy, f"{document}.pdf", [], assets, lambda page, pages: None)
    return result, [(asset, asset.path.read_bytes()) for asset in result.assets]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    # Sandboxes run as nobody under root; pytest's folders are its own.
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    place = tmp_path / "scratch"
    place.mkdir()
    return place


@both
def test_json_and_markdown_are_upstreams(generation: str, scratch: Path) -> None:
    """Byte for byte; both documents at the same time, twice each."""
    documents = [*kit.DOCUMENTS, *kit.DOCUMENTS]
    with (
        running(scratch, generation, markdown="upstream", json_output=True, stop_loops=False) as pool,
        ThreadPoolExecutor(4) as threads,
    ):
        found = list(threads.map(lambda document: convert(pool, document, scratch), documents))
    figures = json.loads(kit.golden(generation, "figures.json").read_text())
    for document, (result, contents) in zip(documents, found, strict=True):
        assert result.whole == kit.golden(generation, "markdown", f"{document}.md").read_text("utf-8")
        by_extension: dict[str, list[tuple[Any, bytes]]] = {"json": [], "png": []}
        for asset, content in contents:
            by_extension[asset.extension].append((asset, content))
        ((_, data),) = by_extension["json"]
        assert data == kit.golden(generation, "recognition_json", f"{document}.json").read_bytes()
        for asset, content in by_extension["png"]:
            assert asset.placeholder in (result.whole or "")
            golden = figures[asset.path.name]
            pixels = np.asarray(Image.open(io.BytesIO(content)))
            assert pixels.shape == (golden["height"], golden["width"], 3)
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == golden["sha256"]


@pytest.mark.slow
def test_clean_markdown_and_full_json(scratch: Path) -> None:
    with running(scratch, "1.5", json_output=True) as pool:
        result, contents = convert(pool, "articles", scratch)
    assert result.whole is None
    assert [page.number for page in result.pages] == list(range(1, len(result.pages) + 1))
    assert result.pages[0].text.startswith("Ocean Journal\n\n# Annual Dolphin Report\n")
    (data,) = (content for asset, content in contents if asset.extension == "json")
    kept = json.loads(data)
    golden = json.loads(kit.golden("1.5", "recognition_json", "articles.json").read_bytes())
    assert kept["total_pages"] == golden["total_pages"]
    first = [(e["label"], e["bbox"], e["text"], e["reading_order"]) for e in kept["pages"][0]["elements"]]
    assert first == [(e["label"], e["bbox"], e["text"], e["reading_order"]) for e in golden["pages"][0]["elements"]]
    assert kept["versions"]["generation"] == "1.5"
    assert {"width", "height", "flags", "gap"} <= kept["pages"][0].keys()
    trusts = [page.trust for page in result.pages]
    assert [page["trust"]["score"] for page in kept["pages"]] == [trust and trust.score for trust in trusts]
    assert kept["trust"]["worst"] == min(trust.score for trust in trusts if trust is not None)
    pictures = {hashlib.sha256(content).hexdigest() + ".png" for asset, content in contents if asset.extension == "png"}
    shown = {e["figure_path"] for page in kept["pages"] for e in page["elements"] if "figure_path" in e}
    assert shown == pictures


@pytest.mark.slow
def test_a_document_is_the_same_alone_and_among_others(scratch: Path) -> None:
    with running(scratch, "1.5", slots=2) as pool:
        alone, _ = convert(pool, "letters", scratch)
    shutil.rmtree(scratch)
    scratch.mkdir()
    with running(scratch, "1.5", slots=16) as pool, ThreadPoolExecutor(6) as threads:
        names = ["letters", "articles", "letters", "articles", "letters", "articles"]
        among = list(threads.map(lambda document: convert(pool, document, scratch)[0], names))
    assert [result.pages for name, result in zip(names, among, strict=True) if name == "letters"] == [alone.pages] * 3


@pytest.mark.slow
def test_loops_are_stopped_and_told(scratch: Path) -> None:
    with running(scratch, "loop", markdown=MarkdownMode.CLEAN, generation="1.5") as pool:
        result, _ = convert(pool, "loop", scratch)
    assert any("repeated itself and was stopped" in warning for warning in result.warnings)


@pytest.mark.slow
def test_layouts_that_name_nothing_are_told(scratch: Path) -> None:
    """As with the other generation's grammar: the pages would be empty, and nobody would know."""
    with running(scratch, "1.5", generation="1.0") as pool:
        result, _ = convert(pool, "letters", scratch)
    assert [page.text for page in result.pages] == ["", ""]
    assert all("names no element" in warning for warning in result.warnings)
    assert len(result.warnings) == 2
