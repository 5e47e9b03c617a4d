"""What libraries say of broken files, in words for a person who knows PDF files only from outside. Pure."""

from __future__ import annotations

import re
from typing import Final

from tasks.engines import memory

_MOST: Final = 200
"""Characters of a library's own words."""
MUPDF_CODE: Final = re.compile(r"^code=-?\d+: ")
"""How PyMuPDF hands on what MuPDF says."""

_PLAIN: Final[tuple[tuple[str, str], ...]] = (
    (r"cycle in page tree|page tree.*(?:too deep|cycle)", "the list of its pages leads in a circle"),
    (
        r"invalid number of pages|invalid page number|(?:bad|negative) page count",
        "it states a number of pages that cannot be",
    ),
    (
        r"(?:malformed|missing|invalid) page tree|cannot find page|non-page object|page object",
        "the list of its pages is broken",
    ),
    (r"no objects found", "no part of a PDF can be found in it"),
    (r"cycle|recursion|recursive", "parts of it refer to each other in a circle"),
    (r"nest|too deep|stack (?:over|under)flow|too many .*levels", "it is nested too deeply"),
    (r"encryption handler|security handler", "it is protected in a way that is not known here"),
    (r"crypt|aes|password", "its protection is described wrongly"),
    (r"version marker|startxref|xref|trailer", "the table that says where its parts are is broken"),
    (r"too many color components|colou?r ?space|color component", "a colour is defined in a way that cannot be"),
    (r"bad image data|image|pixmap|bitmap|jpe?g|jpx|jbig2|j2k|ccitt|fax", "an image in it is broken or too large"),
    (r"zlib|flate|lzw|inflate|brotli|predictor|decod|filter|compress", "packed data in it is broken"),
    (r"font|glyph|cmap|cff|truetype|freetype", "a font in it is broken"),
    (r"unexpected end|premature|end of (?:file|data|stream)|truncated|eof\b", "it ends too early: cut short, perhaps"),
    (
        r"syntax|lexical|invalid key|malformed|unexpected|expected|token|keyword|illegal|garbage"
        r"|not an? (?:dict|array|number|name|string|stream)",
        "its structure is garbled",
    ),
    (
        r"object.*(?:out of range|number)|(?:invalid|unknown|missing|no) object|out of range",
        "it refers to parts that are not in it",
    ),
)
_PATTERNS: Final = tuple((re.compile(pattern, re.I), words) for pattern, words in _PLAIN)


def plain(words: str, kind: str | None = None) -> str:
    """A library's error message in plain words, its own behind them.

    Args:
        words: one line.
        kind: the exception's class, where it is another's than MuPDF's.
    """
    text = MUPDF_CODE.sub("", words)[:_MOST].strip()
    if memory.words_say_so(text):
        return text  # who asks whether memory ran out has to find it there
    for pattern, meaning in _PATTERNS:
        if text and pattern.search(text):
            return f"{meaning} ({text})"
    own = ", ".join(part for part in (text, kind) if part)
    return f"the library that reads it failed ({own})" if own else "the library that reads it failed without a word"
