"""`pdf-flows gpu-check`: pages rendered in the sandbox, as ever, and handed to the check."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.corpus.failures import ConversionError, UsageError
from tasks.engines.pagememory import RenderedPage
from tasks.engines.protocol import EngineName, Limits
from tasks.engines.sandbox import Sandbox
from tasks.scratch import scratch_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


def render(pdfs: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """All pages of local PDFs, RGB. Raises UsageError, naming the file that has none."""
    pages: list[Any] = []

    def take(page: RenderedPage) -> None:
        if page.gap is None:
            pixels = np.frombuffer(bytes(page.samples), np.uint8)
            pages.append(pixels.reshape(page.height, page.width, 3))

    with scratch_folder() as folder:
        folder.chmod(0o755)
        place = folder / "slot"
        place.mkdir()
        with Sandbox(EngineName.DOLPHIN, Limits(), scratch=place) as sandbox:
            for number, pdf in enumerate(pdfs):
                try:
                    sandbox.render(Path(shutil.copyfile(pdf, place / f"{number}.pdf")), [], take)
                except (OSError, ConversionError) as error:
                    raise UsageError(f"{pdf} cannot be rendered: {error}") from None
    if not pages:
        raise UsageError("there is no page to read")
    return pages
