"""Settings of the layout engine: what a run is asked for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class LayoutOptions(BaseModel):
    """Settings of the layout engine. Identity of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ocr: bool = True
    """RapidOCR on the pages whose text layer is missing, or not to be trusted."""
    ocr_dpi: int = 150
    """Resolution at which pages are first rendered for OCR; where the text is small, they are rendered again."""
    figures: bool = True
    """Images of the figures, beside the Markdown."""
    marginalia: bool = False
    """Keep running headers, footers and page numbers."""
