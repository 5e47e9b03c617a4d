"""Text as itself in the Prefect UI, which renders descriptions, summaries and table cells as Markdown. Pure."""

from __future__ import annotations

import re

_MEANS_SOMETHING = re.compile(
    r"[*<>`\[\]~\\&|]"  # emphasis, HTML, code, links, strikethrough, escapes, entities, columns
    r"|(?<!\w)_|_(?!\w)"  # emphasis; within words underscores are just that
    r"|^\s*(?:[#+=-]|\d+[.)](?:\s|$))"  # headings, lists, rules
)


def code(text: str) -> str:
    """The text as a span of code, whatever backticks it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def plain(text: str) -> str:
    """The text as it is where Markdown leaves it alone, else as a span of code."""
    return code(text) if _MEANS_SOMETHING.search(text) else text
