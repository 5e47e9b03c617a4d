"""Names: which key a document's Markdown gets, and how keys are shown. Pure; nothing here reads a store.

`x.pdf` becomes `x.md`; any other spelling of the suffix is kept (`x.PDF` becomes `x.PDF.md`). What a folder cannot hold, or
what the storage protocol reserves, is percent-encoded; what is too long becomes a readable head and a hash. Names are
checked against each other (also as case-insensitive folders see them) when planning: `collision_key` and `settle`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import Final

TEMPORARY: Final = ".pdf-flows-tmp"
"""Name (and prefix of names) of the folder store's temporary files: never listed, never an output's name."""

RUNS: Final = "_runs"
"""First segment of the runs' own keys."""

ASSETS: Final = ".assets"
"""End of the folder that holds a document's figures and JSON."""

MARKDOWN: Final = ".md"

MAX_SEGMENT: Final = 255
"""Bytes of one segment: what ext4, XFS, APFS and NTFS can hold."""

MAX_NAME: Final = 700
"""Bytes of a whole name. S3 allows 1,024: the rest is for the prefix, `.assets/<sha256>.<ext>` and `_runs/.../replaced/`."""

_SETTLED: Final = 9  # "~" and 8 hex digits
_MAX_STEM: Final = MAX_SEGMENT - len(ASSETS)
_SHOWN: Final = 300

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# A literal "%0A" would meet the name of a key with a newline; its "%" is encoded, and only then: "a%20b.pdf" stays readable.
_LOOKS_ENCODED = re.compile(r"%(?=[01][0-9a-f]|7f|c2%[89][0-9a-f]|25)", re.IGNORECASE)
_SPECIAL_ESCAPES = {"%2e": ".", "%2f": "/", "%5f": "_"}
_SPECIAL_ESCAPE = re.compile("|".join(_SPECIAL_ESCAPES), re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
# What can reorder, hide or break a line of a log, terminal or table: controls, line separators, bidi controls, invisible marks.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def is_pdf(key: str) -> bool:
    """Whether the key names a PDF: suffix `.pdf` in any case. Hidden files count, and so does a bare `.pdf`."""
    return key[-4:].lower() == ".pdf"


def unsupported(key: str) -> str | None:
    """Why this key can have no output name, or None: one reason exists, a name that is not UTF-8."""
    return "the name is not UTF-8: rename the file" if _SURROGATE.search(key) else None


def output_name(key: str) -> str:
    """The name of the document's Markdown, relative to the output root.

    Deterministic, valid as a key of every backend, never reserved, and at most `MAX_NAME` bytes with segments that leave room
    for `<name>.assets`. Two keys share a name only as `x.PDF` and `x.PDF.pdf` do (see `settle`).

    Raises:
        ValueError: The key is `unsupported`.
    """
    if reason := unsupported(key):
        raise ValueError(f"{printable(key)}: {reason}")
    *folders, last = key.split("/")
    stem = last[:-4] if last.endswith(".pdf") else last
    segments = [_segment(folder, first=i == 0) for i, folder in enumerate(folders)]
    # A stem stays what it is though it be "", "." or "..": with ".md" it is a name like any other.
    segments.append(_shorten(_guard_temporary(_encode(stem), stem), stem, _MAX_STEM))
    name = "/".join(segments) + MARKDOWN
    return name if _bytes(name) <= MAX_NAME else _shorten_path(segments, key)


def collision_key(name: str) -> str:
    """What two names share that a case-insensitive or normalising folder cannot tell apart (Unicode 3.13, canonical caseless)."""
    if name.isascii():
        return name.lower()  # the same, and most names are
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def settle(name: str, key: str) -> str:
    """The name for the later of two documents whose names collide: `~` and 8 hex digits of the key's SHA-256 before `.md`."""
    folder, slash, last = name.rpartition("/")
    stem = last.removesuffix(MARKDOWN)
    room = min(_MAX_STEM, MAX_NAME - _bytes(folder + slash) - len(MARKDOWN)) - _SETTLED
    return f"{folder}{slash}{_head(stem, room)}~{_digest(key, 8)}{MARKDOWN}"


def assets_prefix(name: str) -> str:
    """The folder of the document's assets, with its slash: `a/x.md` has `a/x.assets/`, `a/x.PDF.md` has `a/x.PDF.assets/`."""
    return f"{name.removesuffix(MARKDOWN)}{ASSETS}/"


def printable(key: str) -> str:
    """The key as logs and reports show it: one line of at most 300 characters, nothing in it that acts on the terminal.

    Controls, line separators, bidi controls, invisible marks and bytes that are not UTF-8 are shown as escapes.
    """
    shown = _UNPRINTABLE.sub(_escape, key)
    if len(shown) <= _SHOWN:
        return shown
    tail = _SHOWN // 3
    return f"{shown[: _SHOWN - tail - 1]}…{shown[-tail:]}"


@lru_cache(maxsize=4096)  # of a million documents most share their folders with the one before
def _segment(raw: str, *, first: bool) -> str:
    """One folder's segment as a name may hold it."""
    return _shorten(_reserve(_encode(raw), raw, first=first), raw, MAX_SEGMENT)


def _encode(raw: str) -> str:
    """Controls percent-encoded, and every "%" that could be mistaken for such a code."""
    return _CONTROL.sub(_percent, _LOOKS_ENCODED.sub("%25", raw))


def _reserve(encoded: str, raw: str, *, first: bool) -> str:
    """Segments that a folder cannot hold or that the protocol reserves, told apart by encoding one character of them."""
    if not raw:
        return "%2F"
    if raw in (".", ".."):
        return "%2E" * len(raw)
    # What reads like one of the codes below is told apart by its "%", so that no two segments meet.
    decoded = _SPECIAL_ESCAPE.sub(lambda m: _SPECIAL_ESCAPES[m[0].lower()], raw)
    if decoded != raw and (decoded == "/" or _is_special(decoded, first=first)):
        encoded = _SPECIAL_ESCAPE.sub(lambda m: "%25" + m[0][1:], encoded)
    if _is_special(raw, first=first):
        if collision_key(raw) == RUNS:
            return "%5F" + encoded[1:]
        if collision_key(raw).endswith((ASSETS, MARKDOWN)):
            head, _, tail = encoded.rpartition(".")
            encoded = f"{head}%2E{tail}"
        if encoded.startswith(".") and _is_temporary(raw):
            encoded = "%2E" + encoded[1:]
    return encoded


def _is_special(segment: str, *, first: bool) -> bool:
    folded = collision_key(segment)
    # A folder `x.md` would stand where the Markdown of `x.pdf` goes.
    return (
        segment in (".", "..")
        or (first and folded == RUNS)
        or folded.endswith((ASSETS, MARKDOWN))
        or folded.startswith(TEMPORARY)
    )


def _is_temporary(segment: str) -> bool:
    return collision_key(segment).startswith(TEMPORARY)


def _guard_temporary(encoded: str, raw: str) -> str:
    """A stem is only reserved where it would hide the output as a temporary file."""
    if _is_temporary(raw):
        return "%2E" + encoded[1:]
    if raw[:3].lower() == "%2e" and _is_temporary("." + raw[3:]):
        return "%25" + encoded[1:]
    return encoded


def _shorten(encoded: str, raw: str, limit: int) -> str:
    """The segment itself, or a readable head and 16 hex digits of its SHA-256: the same for all documents of a folder."""
    if _bytes(encoded) <= limit:
        return encoded
    return f"{_head(encoded, limit - 17)}~{_digest(raw, 16)}"


def _shorten_path(segments: list[str], key: str) -> str:
    """As many of the leading folders as fit well, then a head of the file's name and 16 hex digits of the key's SHA-256."""
    *folders, stem = segments
    kept, room = "", MAX_NAME - 17 - len(MARKDOWN)
    for folder in folders:
        if _bytes(kept) + _bytes(folder) + 1 > room // 2:
            break
        kept += folder + "/"
    head = _head(stem, min(_MAX_STEM - 17, room - _bytes(kept)))
    return f"{kept}{head}~{_digest(key, 16)}{MARKDOWN}"


def _head(text: str, limit: int) -> str:
    """The longest beginning of at most `limit` bytes that cuts no character and no percent code."""
    if _bytes(text) <= limit:
        return text
    cut = text.encode()[:limit].decode(errors="ignore")
    return re.sub(r"%[0-9A-F]?$", "", cut)


def _bytes(text: str) -> int:
    return len(text.encode())


def _digest(key: str, digits: int) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def _escape(match: re.Match[str]) -> str:
    char, code = match[0], ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape carries it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
