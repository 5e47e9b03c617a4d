"""Which parts of a page are worth an image: no icons, lines or backgrounds, and not without end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tasks.engines.layout.reading_order import Box, overlap

MOST_ON_A_PAGE: Final = 40
MOST: Final = 2_000
"""In a document."""
MOST_BYTES: Final = 256_000_000
"""Of all of a document's together."""
_LEAST_SIDE: Final = 24.0
"""Points: what is smaller is an icon or a line."""
_LEAST_AREA: Final = 2_000.0
_THINNEST: Final = 25.0
"""Times that it may be as long as wide."""
_REPEATED: Final = 3
"""Pages with the same image: a logo."""
_LABEL: Final = re.compile(
    r"(?:fig(?:ure|\.)?|abb(?:ildung|\.)?|chart|plate|photo|image|scheme|exhibit|graph|diagram|map|图|図|圖)\s*[\dA-Z]+(?:[.\-–]\d+)*",
    re.IGNORECASE,
)


def worth_it(box: Sequence[float], page: Sequence[float], *, scanned: bool) -> bool:
    """Whether a part of a page is a figure by its size: no icon, no line, no background. Pure.

    Args:
        scanned: the page is one image: what covers most of it is the paper.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    whole = max(1.0, (page[2] - page[0]) * (page[3] - page[1]))
    share = width * height / whole
    return (
        min(width, height) >= _LEAST_SIDE
        and width * height >= _LEAST_AREA
        and max(width, height) <= _THINNEST * min(width, height)
        and share <= (0.6 if scanned else 0.9)
    )


def overlooked(
    images: Iterable[Box], parts: Sequence[Box], lines: Sequence[Box], page: Box, *, scanned: bool
) -> list[Box]:
    """Images that the layout model has no part for, and no text lies on. Pure."""
    found: list[Box] = []
    for image in images:
        if len(found) >= MOST_ON_A_PAGE:
            break
        box = (max(image[0], page[0]), max(image[1], page[1]), min(image[2], page[2]), min(image[3], page[3]))
        if not (box[0] < box[2] and box[1] < box[3] and worth_it(box, page, scanned=scanned)):
            continue
        apart = all(overlap(box, other) < 0.3 and overlap(other, box) < 0.3 for other in (*parts, *found))
        if apart and all(overlap(line, box) < 0.5 for line in lines):
            found.append(box)
    return found


def label(caption: str) -> str:
    """What a caption calls its figure, such as "Figure 3"; "Figure" where it says nothing. Pure."""
    match = _LABEL.match(caption.strip())
    return match[0] if match else "Figure"


def extension(path: Path) -> str:
    """By the first bytes of a file."""
    with path.open("rb") as file:
        return "jpg" if file.read(2) == b"\xff\xd8" else "png"


def without_repeats(files: Mapping[str, Path], pages: Mapping[str, int]) -> dict[str, Path]:
    """The files, in order; of an image that three pages or more have, to the byte, only the first.

    Args:
        pages: that a file is of.
    """
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    on: dict[str, set[int]] = {}
    for name, digest in digests.items():
        on.setdefault(digest, set()).add(pages[name])
    first = {digest: name for name, digest in reversed(digests.items())}
    return {
        name: path for name, path in files.items() if len(on[digests[name]]) < _REPEATED or first[digests[name]] == name
    }
