"""Text of a document as text of a Markdown file: nothing in it becomes a tag, a heading, a link or a code span. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from urllib.parse import quote

from tasks.engines.layout.textlines import Run

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w{1,31};)")
_BACKSLASH = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)")
_STAR = re.compile(r"\*(?!\s)|(?<=\S)\*")
_UNDERSCORE = re.compile(r"(?<![^\W_])_(?=[^\s_])|(?<=[^\s_])_(?![^\W_])")
_LINK = re.compile(r"\[(?=[^\]\n]*\]\s?[(\[:])|\[(?=\^)")
_LINK_END = re.compile(r"\](?=\s?[(\[:])")
_BRACKET = re.compile(r"(?<!\\)((?:\\\\)*)([\[\]])")
_TILDES = re.compile(r"~(?=~)")
_START = re.compile(r"^(\s*)(#{1,6}(?=\s|$)|>|[+](?=\s)|(?:=+|-{2,}|~{3,})(?=\s*$))")
_NUMBER_START = re.compile(r"^(\s*\d{1,9})([.)])(?=\s|$)")
_DASH_START = re.compile(r"^(\s*)([-*])(?=\s|$)")
FIGURE = "\x1f"
NOTE = "\x1e"
"""Around names of figures and footnotes until their links are known; a page's own text has no such characters."""
LONGEST_TARGET = 2_000
_TARGET = "%/:?#[]@!$&*+,;=-._~"
_SAFE_LINK = re.compile(r"(?:https?://|mailto:)[^\s<>()\\\"'`]+$", re.IGNORECASE)


def escaped(text: str) -> str:
    """Text within a line."""
    text = _BACKSLASH.sub(r"\\\\", text)
    text = text.replace("`", "\\`").replace("|", "\\|")
    text = _STAR.sub(r"\\*", text)
    text = _UNDERSCORE.sub(r"\\_", text)
    text = _LINK.sub(r"\\[", _without_ends(text))
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


def web_target(target: str) -> str | None:
    """A link's target as it may stand in one: what would end it early is percent-encoded. None where it may be none."""
    target = target.strip()
    if len(target) > LONGEST_TARGET or not target.lower().startswith(("http://", "https://", "mailto:")):
        return None
    target = quote(target.encode("utf-8", "replace"), safe=_TARGET)
    return _ENTITY.sub("&amp;", target) if safe_link(target) else None


def safe_link(target: str) -> bool:
    """Whether a link may be one: to the web or to a mailbox, and nothing that ends it early."""
    return _SAFE_LINK.match(target) is not None


def linked(text: str, target: str) -> str:
    """Markdown as a link's text, its own brackets escaped already; as it is where there is nothing to click at."""
    core = text.strip()
    if not core:
        return text
    lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{lead}[{core}]({target}){trail}"


def link_text(text: str) -> str:
    """Text within a line and within a link."""
    return _BRACKET.sub(r"\1\\\2", escaped(text))


def styled(runs: Sequence[Run], *, plain: bool = False) -> str:
    """Runs of one line, with links, and with marks of bold, italic and code where Markdown can have them."""
    keyed = groupby(runs, key=lambda run: (run.link, run.note))
    groups = [(where, list(group)) for where, group in keyed]
    out = ""
    for index, ((target, note), group) in enumerate(groups):
        if note is not None:
            out = out.rstrip() + note_label(note) + ("" if group[-1].text == group[-1].text.rstrip() else " ")
            continue
        after = groups[index + 1][1][0].text if index + 1 < len(groups) else ""
        text = _in_styles(group, out, after, plain=plain, within=target is not None)
        out += text if target is None else linked(text, target)
    return out


def note_label(mark: str) -> str:
    """What stands for a footnote, in the text and before the note; the label is known when all pages are."""
    return f"[^{NOTE}{mark}{NOTE}]"


def _without_ends(text: str) -> str:
    """The text without ends of links that began before it: those go on over runs and lines."""
    return _LINK_END.sub(lambda end: end[0] if _opened(text, end.start()) else "\\]", text)


def _opened(text: str, end: int) -> bool:
    return text.rfind("[", 0, end) > text.rfind("]", 0, end)


def _in_styles(runs: Sequence[Run], before: str, behind: str, *, plain: bool, within: bool) -> str:
    """Args: before, behind: the text around the runs; within: they are those of a link."""
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
        after = parts[index + 1][1] if index + 1 < len(parts) else behind
        marked = _marked(text, (False,) * 4 if plain else style, out or before, after, link_text if within else escaped)
        # What would make a link of brackets that an earlier run closes.
        out += f"\\{marked}" if (out or before).endswith("]") and marked.startswith(("(", "[", ":")) else marked
    return out


def _style(run: Run) -> tuple[bool, ...]:
    return run.bold, run.italic, run.mono, run.superscript


def _marked(text: str, style: tuple[bool, ...], before: str, after: str, escape: Callable[[str], str]) -> str:
    bold, italic, mono, superscript = style
    core = text.strip()
    lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    if not core:
        return text
    if superscript and len(core) <= 12:
        return f"{lead}<sup>{escape(core)}</sup>{trail}"
    inside = (not lead and _wordlike(before[-1:])) or (not trail and _wordlike(after[:1]))
    if inside or not any(_wordlike(character) for character in core):
        return lead + escape(core) + trail
    if mono:
        if "`" not in core:
            return f"{lead}`{core}`{trail}"
        return lead + escape(core) + trail
    marks = "**" * bold + "_" * italic
    return f"{lead}{marks}{escape(core)}{marks[::-1]}{trail}"


def _wordlike(character: str) -> bool:
    return character.isalnum()
