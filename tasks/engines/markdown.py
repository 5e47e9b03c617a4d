"""Pages to the document's Markdown. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from tasks.engines.protocol import Page, Rendering

_NEWLINES = re.compile("\r\n?")
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Origin(BaseModel):
    """What the front matter says about a document."""

    model_config = ConfigDict(frozen=True)

    source: str
    """The document's key."""
    sha256: str
    """Of the PDF, hexadecimal."""
    pages: int
    engine: str
    versions: Mapping[str, str] = {}
    attached: Sequence[str] = ()
    """Names of the files that are attached to the PDF."""


def clean(text: str) -> str:
    """Text without C0 controls (but tab and newline), DEL, lone surrogates, U+FFFE and U+FFFF; newlines are \\n."""
    return _UNWANTED.sub("", _NEWLINES.sub("\n", text))


def gap(page: int, reason: str) -> str:
    """The line that stands for a page that could not be converted."""
    return f"[page {page} could not be converted: {' '.join(clean(reason).split())}]"


def ways_of(pages: Sequence[Page]) -> dict[str, list[int]]:
    """The numbers of the pages whose text was come by in each way; those without a way are left out."""
    ways: dict[str, list[int]] = {}
    for page in sorted(pages, key=lambda page: page.number):
        if page.way is not None:
            ways.setdefault(page.way, []).append(page.number)
    return ways


def page_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, such as "1-6,8,10-11"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def assemble(pages: Sequence[Page], rendering: Rendering, origin: Origin) -> str:
    """The document's Markdown: encodes as UTF-8, ends in exactly one newline.

    Pages come in the order of their numbers, a blank line between them; pages without text leave nothing (but their marker).
    """
    parts = [_front_matter(origin)] if rendering.front_matter else []
    for page in sorted(pages, key=lambda page: page.number):
        if rendering.page_markers:
            parts.append(f"<!-- page {page.number} -->")
        body = gap(page.number, page.gap) if page.gap is not None else clean(page.text).strip("\n").rstrip()
        if body:
            parts.append(body)
    return "\n\n".join(parts) + "\n"


def assemble_whole(text: str, rendering: Rendering, origin: Origin) -> str:
    """Markdown that an engine gave as a whole: as it is, behind the front matter if that is wanted."""
    return f"{_front_matter(origin)}\n\n{text}" if rendering.front_matter else text


def _front_matter(origin: Origin) -> str:
    lines = [
        "---",
        f"source: {_scalar(origin.source)}",
        f"sha256: {_scalar(origin.sha256)}",
        f"pages: {origin.pages}",
        f"engine: {_scalar(origin.engine)}",
    ]
    if origin.versions:
        lines.append("versions:")
        lines += [f"  {_scalar(name)}: {_scalar(version)}" for name, version in sorted(origin.versions.items())]
    if origin.attached:
        lines.append("attachments:")
        lines += [f"  - {_scalar(name)}" for name in origin.attached]
    return "\n".join([*lines, "---"])


def _scalar(value: str) -> str:
    """A double-quoted YAML scalar (of 1.1 and 1.2): what is not plainly printable is escaped; lone surrogates become U+FFFD."""
    return '"' + "".join(map(_character, value)) + '"'


def _character(character: str) -> str:
    if short := _SHORT_ESCAPES.get(character):
        return short
    if character.isprintable():
        return character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
