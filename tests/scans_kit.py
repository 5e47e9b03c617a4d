"""Scans of text in any script, as tests and benchmarks make them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pymupdf

DPI = 200


def scan_of(paragraphs: Iterable[str]) -> pymupdf.Document:
    """A page with some noise, as a photocopy has it: on it, letters of other scripts look otherwise on their head."""
    source = pymupdf.open()
    page = source.new_page()
    rows = "".join(f'<p dir="auto">{paragraph}</p>' for paragraph in paragraphs)
    page.insert_htmlbox(pymupdf.Rect(60, 60, 540, 780), rows, css="* {font-size: 14px; line-height: 1.6}")
    image = page.get_pixmap(dpi=DPI, colorspace=pymupdf.csGRAY)
    grey = np.frombuffer(image.samples, np.uint8).reshape(image.height, image.width)
    noisy = np.clip(0.9 * grey + 10 + np.random.default_rng(1).normal(0, 12, grey.shape), 0, 255).astype(np.uint8)
    copied = pymupdf.Pixmap(pymupdf.csGRAY, image.width, image.height, noisy.tobytes(), False)
    made = pymupdf.open()
    made.new_page(width=page.rect.width, height=page.rect.height).insert_image(page.rect, pixmap=copied)
    return made
