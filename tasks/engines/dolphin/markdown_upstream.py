"""Elements to Markdown exactly as upstream writes it, defects included (`--markdown upstream`). Pure.

Rules from upstream's `utils/markdown_utils.py`, branches v1.0 and v1.5; each defect is named where it happens. Goldens of
upstream's own converter: tests/parity/goldens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Final

from tasks.engines.dolphin.grammar import Generation

Rule = Callable[[str], str]

_TABLE = re.compile(r"<table.*?>.*?</table>", re.DOTALL)
_TABLE_TAG = re.compile(r"<table[^>]*>")

_REPLACED_IN_1_5: Final = (
    (r"\upmu", r"\mu"),
    (r"\bm", r"\mathbf "),  # defect: no whole commands: \bmod becomes "\mathbf od"; so for all of them
    (r"\eqno", r"\quad "),
    (r"\quad", r"\quad "),
    (r"\leq", r"\leq "),
    (r"\pm", r"\pm "),
    (r"\varmathbb", r"\mathbb "),
    (r"\in fty", r"\infty"),
    (r"\mu", r"\mu "),
    (r"\cdot", r"\cdot "),
    (r"\langle", r"\langle "),
)


def convert(elements: Iterable[tuple[str, str]], generation: Generation) -> str:
    """The Markdown of (label, text) pairs in reading order.

    Figures have their image link as text; between pages with elements stands ("page_separator", "---").
    """
    rules: Mapping[str, Rule] = _RULES_1_0 if generation is Generation.V1_0 else _RULES_1_5
    other = _paragraph_1_0 if generation is Generation.V1_0 else _paragraph_1_5
    parts = [rules.get(label, other)(text) for label, raw in elements if (text := raw.strip())]
    whole = "".join(parts)
    return _mend_1_0(whole) if generation is Generation.V1_0 else whole


def tables(html: str) -> str:
    """The complete tables in the text, a line each; an unfinished one is lost (defect)."""
    return "\n".join(_TABLE_TAG.sub("<table>", table) for table in _TABLE.findall(html))


def is_chinese(character: str) -> bool:
    """Of the CJK Unified Ideographs block."""
    return "\u4e00" <= character <= "\u9fff"


def join_lines(text: str) -> str:
    """Lines of a paragraph joined; `-` at a line's end always goes, also a true hyphen (defect)."""
    lines = [line.strip() for line in text.strip().replace("-\n", "").split("\n")]
    parts = []
    for line, following in pairwise(lines):
        if not line:
            parts.append("\n")
        elif not following:
            parts.append(line + "\n")
        elif is_chinese(line[-1]) and is_chinese(following[0]):
            parts.append(line)
        else:
            parts.append(line + " ")
    return "".join(parts) + lines[-1]


def one_line(text: str) -> str:
    """A heading's text without newlines."""
    return text.replace("\n", "" if any(map(is_chinese, text)) else " ")


def _heading(mark: str, rule: Rule) -> Rule:
    return lambda text: f"{mark} {rule(one_line(text.strip()))}\n\n"


def _list_item(text: str) -> str:
    return f"- {text}\n"  # defect: nothing ends the list, what follows sticks to it


def _figure(text: str) -> str:
    return f"{text}\n\n"


# -- 1.5 -------------------------------------------------------------------------------------------------------------


def _replace_1_5(text: str) -> str:
    for old, new in _REPLACED_IN_1_5:
        text = text.replace(old, new)
    return text


def _text_1_5(text: str) -> str:
    return join_lines(_replace_1_5(text)) if text else ""


def _paragraph_1_5(text: str) -> str:
    return f"{_text_1_5(text)}\n\n"


def _table_1_5(text: str) -> str:
    return f"{tables(text)}\n\n\n"


def _formula_1_5(text: str) -> str:
    bare = text.strip("$").rstrip("\\ ")
    return f"$${_replace_1_5(bare)}$$\n\n"


def _code_1_5(text: str) -> str:
    return f"```bash\n{text}\n```\n\n"  # defect: whatever the language


_RULES_1_5: Final[Mapping[str, Rule]] = {
    "sec_0": _heading("#", _text_1_5),
    "sec_1": _heading("##", _text_1_5),
    **{f"sec_{level}": _heading("###", _text_1_5) for level in (2, 3, 4, 5)},
    "list": _list_item,
    "fig": _figure,
    "tab": _table_1_5,
    "equ": _formula_1_5,
    "code": _code_1_5,
}


# -- 1.0 -------------------------------------------------------------------------------------------------------------

_MATH_SIGNS: Final = ("_{", "^{", "\\", "_ {", "^ {")
_DELIMITERS: Final = (("$$", "$$"), ("\\[", "\\]"), ("$", "$"), ("\\(", "\\)"))


def _newlines_in_formulas(text: str) -> str:
    """Newlines between delimiters become two backslashes; each kind of delimiter in turn, unpaired ones left alone."""
    for begin, end in _DELIMITERS:
        parts, at = [], 0
        while at < len(text):
            first = text.find(begin, at)
            last = text.find(end, first + len(begin)) if first >= 0 else -1
            if last < 0:
                parts.append(text[at:])
                break
            inner = text[first + len(begin) : last].replace("\n", " \\\\ ")
            parts.append(text[at:first] + begin + inner + end)
            at = last + len(end)
        text = "".join(parts)
    return text


def _text_1_0(text: str) -> str:
    if not text:
        return ""
    if text.strip().startswith("\\begin{array}") and text.strip().endswith("\\end{array}"):
        text = f"$${text}$$"
    elif any(sign in text for sign in _MATH_SIGNS) and "$" not in text and "\\begin" not in text:
        text = f"${text}$"  # defect: the whole paragraph
    return join_lines(_newlines_in_formulas(text))


def _paragraph_1_0(text: str) -> str:
    return f"{_text_1_0(text)}\n\n"


def _table_1_0(text: str) -> str:
    if "<table" in text.lower() or "<tr" in text.lower():
        return f"{tables(text)}\n\n\n"
    first, *others = (line.split() for line in text.split("\n"))
    rows = [first, ["---"] * len(first), *(cells + [""] * (len(first) - len(cells)) for cells in others)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n\n"


def _algorithm_1_0(text: str) -> str:
    text = re.sub(r"\\begin\{algorithm\}(.*?)\\end\{algorithm\}", r"\1", text, flags=re.DOTALL)
    for tag in ("\\begin{algorithm}", "\\end{algorithm}", "\\begin{algorithmic}", "\\end{algorithmic}"):
        text = text.replace(tag, "")
    caption, lines = "", []
    for line in text.strip().split("\n"):
        if "\\caption" in line:
            if found := re.search(r"\\caption\{(.*?)\}", line):
                caption = f"**{found.group(1)}**\n\n"
        elif "\\label" not in line:
            lines.append(line)
    return f"{caption}```\n" + "\n".join(lines) + "\n```\n\n"


def _formula_1_0(text: str) -> str:
    text = _newlines_in_formulas(text)
    return f"{text}\n\n" if "$$" in text or "\\[" in text else f"$${text}$$\n\n"


def _dropped(text: str) -> str:
    return ""


_RULES_1_0: Final[Mapping[str, Rule]] = {
    "title": _heading("#", _text_1_0),
    "sec": _heading("##", _text_1_0),
    "sub_sec": _heading("###", _text_1_0),
    "list": _list_item,
    "fig": _figure,
    "tab": _table_1_0,
    "formula": _formula_1_0,
    "alg": _algorithm_1_0,
    "reference": _dropped,  # defect: the list of references is lost
}


def _mend_1_0(text: str) -> str:
    """The pass over the whole document."""
    text = re.sub(r"\\author\{(.*?)\}", lambda found: _text_1_0(found.group(1)), text, flags=re.DOTALL)
    if found := re.search(r"\$\\author\{(.*?)\}\$", text, re.DOTALL):
        inner = re.search(r"\\author\{(.*?)\}", found.group(0), re.DOTALL)
        if inner:
            text = text.replace(found.group(0), _text_1_0(inner.group(1)))
    text = re.sub(r"\\begin\{abstract\}(.*?)\\end\{abstract\}", r"**Abstract** \1", text, flags=re.DOTALL)
    text = text.replace("\\begin{abstract}", "**Abstract**")
    text = re.sub(r"\\eqno\{\((.*?)\)\}", r"\\tag{\1}", text)
    text = text.replace("\\[ \\\\", "$$ \\\\").replace("\\\\ \\]", "\\\\ $$")
    text = text.replace("_ {", "_{")
    text = re.sub("^ {", "^{", text)  # defect: meant is "^ {" anywhere, what it says is " {" at the very start
    return re.sub(r"\n{3,}", "\n\n", text)
