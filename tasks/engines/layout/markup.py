"""Text of a document as text of a Markdown file: nothing in it becomes a tag, a heading, a link or a code span. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from tasks.engines.layout.textlines import Run

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w{1,31};)")
_BACKSLASH = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)")
_STAR = re.compile(r"\*(?!\s)|(?<=\S)\*")
_UNDERSCORE = re.compile(r"(?<![^\W_])_(?=[^\s_])|(?<=[^\s_])_(?![^\W_])")
_LINK = re.compile(r"\[(?=[^\]\n]*\]\s?[(\[:])|\[(?=\^)")
_TILDES = re.compile(r"~(?=~)")
_START = re.compile(r"^(\s*)(#{1,6}(?=\s|$)|>|[+](?=\s)|(?:=+|-{2,}|~{3,})(?=\s*$))")
_NUMBER_START = re.compile(r"^(\s*\d{1,9})([.)])(?=\s|$)")
_DASH_START = re.compile(r"^(\s*)([-*])(?=\s|$)")
_SAFE_LINK = re.compile(r"(?:https?://|mailto:)[^\s<>()\\\"'`]+$", re.IGNORECASE)


def escaped(text: str) -> str:
    """Text within a line."""
    text = _BACKSLASH.sub(r"\\\\", text)
    text = text.replace("`", "\\`").replace("|", "\\|")
    text = _STAR.sub(r"\\*", text)
    text = _UNDERSCORE.sub(r"\\_", text)
    text = _LINK.sub(r"\\[", text)
    text = _TILDES.sub(r"\\~", text)
    return _TAG.sub("&lt;", _ENTITY.sub("&amp;", text))


def escaped_start(text: str, *, keep_lists: bool = True) -> str:
    """A paragraph, escaped already, whose first characters would make it something else.

    Args:
        keep_lists: a dash or a number in front may make a list item of it: in most documents it is one.
    """
    text = _START.sub(r"\1\\\2", text)
    if not keep_lists:
        text = _DASH_START.sub(r"\1\\\2", _NUMBER_START.sub(r"\1\\\2", text))
    return text


def safe_link(target: str) -> bool:
    """Whether a link may be one: to the web or to a mailbox, and nothing that ends it early."""
    return _SAFE_LINK.match(target) is not None


def styled(runs: Sequence[Run], *, plain: bool = False) -> str:
    """Runs of one line, with marks of bold, italic and code where Markdown can have them."""
    parts: list[tuple[tuple[bool, ...], str]] = []
    for style, group in groupby(runs, key=_style):
        text = "".join(run.text for run in group)
        if text.isspace() and parts:
            parts[-1] = (parts[-1][0], parts[-1][1] + text)
        elif parts and parts[-1][0] == style:
            parts[-1] = (style, parts[-1][1] + text)
        else:
            parts.append((style, text))
    out = ""
    for index, (style, text) in enumerate(parts):
        after = parts[index + 1][1] if index + 1 < len(parts) else ""
        out += _marked(text, (False,) * 4 if plain else style, out, after)
    return out


def _style(run: Run) -> tuple[bool, ...]:
    return run.bold, run.italic, run.mono, run.superscript


def _marked(text: str, style: tuple[bool, ...], before: str, after: str) -> str:
    bold, italic, mono, superscript = style
    core = text.strip()
    lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    if not core:
        return text
    if superscript and len(core) <= 12:
        return f"{lead}<sup>{escaped(core)}</sup>{trail}"
    inside = (not lead and _wordlike(before[-1:])) or (not trail and _wordlike(after[:1]))
    if inside or not any(_wordlike(character) for character in core):
        return lead + escaped(core) + trail
    if mono:
        if "`" not in core:
            return f"{lead}`{core}`{trail}"
        return lead + escaped(core) + trail
    marks = "**" * bold + "_" * italic
    return f"{lead}{marks}{escaped(core)}{marks[::-1]}{trail}"


def _wordlike(character: str) -> bool:
    return character.isalnum()
