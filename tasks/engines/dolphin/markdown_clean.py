"""Elements to Markdown without upstream's defects (`--markdown clean`, the default). Pure.

Against `markdown_upstream`: LaTeX commands are replaced as whole commands only; an unfinished table is closed and kept, a table
that is no HTML is kept as text; references are kept, and every heading level; code is fenced without a language, by a fence
that it cannot end; a hyphen at a line's end goes only where it splits a word; a list ends with a blank line; no paragraph is
taken for a formula because of one backslash in it; page headers, footers and numbers can be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tasks.engines.dolphin.markdown_upstream import is_chinese, one_line

HEADINGS: Final = {
    "title": 1, "sec": 2, "sub_sec": 3, "sub_sub_sec": 4,
    **{f"sec_{level}": level + 1 for level in range(6)},
}  # fmt: skip
"""Label of either generation: level of its heading."""
MARGINALIA: Final = frozenset({"header", "foot", "footer"})
"""Labels of what stands on every page around the text."""

_COMMANDS: Final = {"upmu": "mu", "bm": "mathbf", "varmathbb": "mathbb"}
"""What no Markdown renderer knows: what they do know."""
_COMMAND = re.compile(r"\\(upmu|bm|varmathbb)(?![A-Za-z])")
_EQUATION_NUMBER = re.compile(r"\\eqno\s*(?:\{\s*\(([^{}]*?)\)\s*\}|\(([^()]*)\))")
_BARE_EQUATION_NUMBER = re.compile(r"\\eqno(?![A-Za-z])")
_SPLIT_WORD = re.compile(r"(?<=[^\W\d_])-\n\s*(?=[^\W\d_])")
_TAG = re.compile(r"<(/?)(table|thead|tbody|tr|td|th)\b[^<>]*>", re.IGNORECASE)
_TABLE_ATTRIBUTES = re.compile(r"<table\b[^<>]*>", re.IGNORECASE)
_TORN_TAG = re.compile(r"</?(?:t[a-z]*(?:\s[^<>]*)?)?\Z", re.IGNORECASE)


def convert(elements: Iterable[tuple[str, str]], *, marginalia: bool = True) -> str:
    """The Markdown of one page's (label, text) pairs in reading order; blocks are a blank line apart.

    Args:
        elements: figures have their image link as text.
        marginalia: keep page headers, footers and numbers.
    """
    whole = ""
    within_list = False
    for label, raw in elements:
        if not marginalia and label in MARGINALIA:
            continue
        if not (text := raw.strip()) or not (block := _block(label, text)):
            continue
        if whole:
            whole += "\n" if within_list and label == "list" else "\n\n"
        whole += block
        within_list = label == "list"
    return whole


def _block(label: str, text: str) -> str:
    if label in HEADINGS:
        return f"{'#' * HEADINGS[label]} {latex(one_line(text))}"
    match label:
        case "list":
            return _item(text)
        case "fig":
            return text
        case "tab":
            return table(text)
        case "equ" | "formula":
            return _formula(text)
        case "code" | "alg":
            return _code(text)
    return join_lines(latex(text))


def latex(text: str) -> str:
    """LaTeX that no Markdown renderer knows replaced by what they do; whole commands only, so `\\bmod` stays."""
    text = text.replace("\\in fty", "\\infty")
    text = _EQUATION_NUMBER.sub(lambda found: f"\\tag{{{(found.group(1) or found.group(2) or '').strip()}}}", text)
    text = _BARE_EQUATION_NUMBER.sub(lambda _: "\\quad", text)
    return _COMMAND.sub(lambda found: "\\" + _COMMANDS[found.group(1)], text)


def join_lines(text: str) -> str:
    """The lines of a paragraph joined; empty lines stay. A hyphen goes where it splits a word in small letters."""
    text = _SPLIT_WORD.sub(lambda found: "" if text[found.end()].islower() else "-", text)
    paragraphs = re.split(r"\n[^\S\n]*\n\s*", text)
    return "\n\n".join(_join(paragraph.split("\n")) for paragraph in paragraphs)


def table(text: str) -> str:
    """The text with every table in it closed: what was cut off ends in its last complete tag, open tags are closed."""
    if not _TAG.search(text):
        return join_lines(text)
    text = _TORN_TAG.sub("", text)
    opened: list[str] = []
    for tag in _TAG.finditer(text):
        name = tag.group(2).lower()
        if not tag.group(1):
            opened.append(name)
        elif name in opened:
            while opened.pop() != name:
                pass
    text += "".join(f"</{name}>" for name in reversed(opened))
    if "<table" not in text.lower():
        text = f"<table>{text}</table>"
    return _TABLE_ATTRIBUTES.sub("<table>", text)


def _join(lines: list[str]) -> str:
    joined = ""
    for line in (line.strip() for line in lines):
        if not line:
            continue
        if joined and not (is_chinese(joined[-1]) and is_chinese(line[0])):
            joined += " "
        joined += line
    return joined


def _item(text: str) -> str:
    lines = [line.strip() for line in latex(text).split("\n") if line.strip()]
    lines[0] = re.sub(r"^[-*\u2022\u2013]\s+", "", lines[0])
    return "- " + "\n  ".join(lines)


def _formula(text: str) -> str:
    bare = latex(text).strip()
    for begin, end in (("$$", "$$"), ("\\[", "\\]"), ("$", "$")):
        if bare.startswith(begin) and bare.endswith(end) and len(bare) > len(begin) + len(end):
            bare = bare[len(begin) : -len(end)].strip()
            break
    if "$" in bare.replace("\\$", ""):
        return join_lines(latex(text))  # several formulas, or text with formulas in it
    bare = re.sub(r"(?:\\\\|\\ |\s)+\Z", "", re.sub(r"\n\s*\n+", "\n", bare))
    return f"$$\n{bare}\n$$" if "\n" in bare else f"$${bare}$$"


def _code(text: str) -> str:
    runs = [len(run) for run in re.findall(r"`{3,}", text)]
    fence = "`" * (max(runs, default=2) + 1)
    return f"{fence}\n{text}\n{fence}"
