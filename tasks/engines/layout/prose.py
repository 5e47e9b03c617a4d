"""Lines of one part of a page as Markdown: paragraphs, list items, code. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from tasks.engines.layout.markup import escaped_start, styled
from tasks.engines.layout.textlines import Line, Run

BULLETS: Final = frozenset("•‣◦∙·●○■□▪▫◆◇►▶➢➤✓✔❖–—−*\uf0b7\uf0a7\uf0d8\uf076\ufffd") | frozenset(
    map(chr, range(0x25A0, 0x2600))
)
_BOXES: Final = frozenset("\u2610\u2611\u2612")
_NUMBERED: Final = re.compile(r"(?:\(?\d{1,3}[.)]|\(?[A-Za-z][.)]|\(?[ivxIVX]{1,5}[.)])(?=\s|$)")
_HYPHENS: Final = ("-", "\u2010", "\u00ad")
_NO_SPACE: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef]"
)
_RUN_OF_SPACE: Final = re.compile(r"[ \t\u00a0\u2000-\u200a\u3000]{2,}")


def rows(lines: Sequence[Line], *, right_to_left: bool = False) -> list[list[Line]]:
    """Lines that stand beside each other, row by row from the top."""
    found: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: (line.box[1] + line.box[3], line.box[0])):
        if found and _beside(found[-1], line):
            found[-1].append(line)
        else:
            found.append([line])
    side = -1 if right_to_left else 1
    return [sorted(row, key=lambda line: side * line.box[0]) for row in found]


def paragraph(lines: Sequence[Line], *, right_to_left: bool = False, plain: bool = False) -> str:
    """One paragraph: lines joined, words that were split at a line's end made whole."""
    return _squeezed(styled(_runs(rows(lines, right_to_left=right_to_left)), plain=plain))


def kept_lines(lines: Sequence[Line], *, right_to_left: bool = False) -> str:
    """Each row on a line of its own, except where a word was split."""
    out = ""
    for row in rows(lines, right_to_left=right_to_left):
        text = _squeezed(styled(_runs([row]), plain=True))
        if not text:
            continue
        out = (
            f"{out[:-1]}{text}"
            if _split_word(out, text)
            else f"{out}\n{escaped_start(text)}"
            if out
            else escaped_start(text)
        )
    return out


def list_items(lines: Sequence[Line], *, right_to_left: bool = False) -> list[str]:
    """The items of a list, each with its mark: a number that it has, or a dash."""
    items: list[list[list[Line]]] = []
    found = rows(lines, right_to_left=right_to_left)
    left = min((row[0].box[0] for row in found), default=0.0)
    for row in found:
        text = "".join(line.text for line in row).strip()
        marked = text[:1] in BULLETS or text[:1] in _BOXES
        fresh = (marked and text[1:2] in ("", " ", "\t", "\u00a0")) or _NUMBERED.match(text)
        if not items or (fresh and row[0].box[0] < left + 4):
            items.append([])
        items[-1].append(row)
    texts = [_item(_runs(item)) for item in items]
    return [text for text in texts if text]


def code(lines: Sequence[Line]) -> str:
    """Lines of program text between fences, indented as on the page."""
    found = rows(lines)
    left = min(row[0].box[0] for row in found)
    widths = [
        (run.box[2] - run.box[0]) / len(run.text)
        for row in found
        for line in row
        for run in line.runs
        if len(run.text) > 1
    ]
    width = max(1.0, median(widths)) if widths else 5.0
    out: list[str] = []
    bottom, height = 0.0, max(1.0, median([row[0].box[3] - row[0].box[1] for row in found]))
    for row in found:
        if out and row[0].box[1] - bottom > 0.9 * height:
            out.append("")
        text = ""
        for line in row:
            text = text.ljust(round((line.box[0] - left) / width)) + line.text
        out.append(text.rstrip())
        bottom = row[0].box[3]
    return fenced("\n".join(out))


def fenced(text: str) -> str:
    """Text between fences that nothing in it ends."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


def is_mark(text: str) -> bool:
    """Whether it is the bullet or the number of a list item and nothing else."""
    text = text.strip()
    return (len(text) == 1 and text in BULLETS) or _NUMBERED.fullmatch(text) is not None


def is_code(lines: Sequence[Line]) -> bool:
    """Whether nearly all of it is of one width a character."""
    runs = [run for line in lines for run in line.runs if not run.text.isspace()]
    total = sum(len(run.text.strip()) for run in runs)
    return total > 0 and sum(len(run.text.strip()) for run in runs if run.mono) >= 0.95 * total


def indents(lefts: Sequence[float], step: float = 10.0) -> list[int]:
    """How deep each of some list items, that follow one another, is: 0 for the outermost."""
    stack: list[float] = []
    depths = []
    for left in lefts:
        while stack and left < stack[-1] - step / 2:
            stack.pop()
        if not stack or left > stack[-1] + step / 2:
            stack.append(left)
        depths.append(len(stack) - 1)
    return depths


def joined(texts: Sequence[str]) -> str:
    """Plain lines as one, as `paragraph` does it."""
    out = ""
    for text in texts:
        text = text.strip()
        if not text:
            continue
        if _split_word(out, text):
            out = out[:-1] + text
        elif out and _touching(out, text):
            out += text
        else:
            out = f"{out} {text}" if out else text
    return out


def _item(runs: list[Run]) -> str:
    text = "".join(run.text for run in runs).lstrip()
    if text[:1] in BULLETS:
        rest = list(runs)
        while rest and (stripped := rest[0].text.lstrip()) and stripped[0] in BULLETS:
            rest[0] = replace(rest[0], text=stripped[1:].lstrip())
            if rest[0].text:
                break
            rest.pop(0)
        body = _squeezed(styled(rest))
        return f"- {escaped_start(body)}" if body else ""
    body = _squeezed(styled(runs))
    if not body:
        return ""
    return body if re.match(r"\d{1,9}[.)]\s", body) else f"- {body}" if not body.startswith(("- ", "* ")) else body


def _runs(found: Sequence[Sequence[Line]]) -> list[Run]:
    """All runs of some rows, with the space that belongs between lines, and words made whole."""
    runs: list[Run] = []
    for row in found:
        for place, line in enumerate(row):
            mine = [run for run in line.runs if run.text]
            if not mine:
                continue
            if runs:
                before, after = runs[-1].text, mine[0].text
                if place == 0 and _split_word(before.rstrip(), "".join(run.text for run in mine).lstrip()):
                    runs[-1] = replace(runs[-1], text=before.rstrip()[:-1])
                    mine[0] = replace(mine[0], text=after.lstrip())
                elif not (place == 0 and _touching(before.rstrip(), after.lstrip())):
                    runs[-1] = replace(runs[-1], text=before.rstrip() + " ")
                    mine[0] = replace(mine[0], text=after.lstrip())
                else:
                    runs[-1] = replace(runs[-1], text=before.rstrip())
            runs += [run for run in mine if run.text]
    return runs


def _split_word(before: str, after: str) -> bool:
    return (
        len(before) > 1
        and before.endswith(_HYPHENS)
        and before[-2].isalpha()
        and after[:1].isalpha()
        and (after[:1].islower() or before.endswith("\u00ad"))
    )


def _touching(before: str, after: str) -> bool:
    """Whether two lines are joined without a space: between characters of scripts that have none."""
    return bool(before and after and _NO_SPACE.match(before[-1]) and _NO_SPACE.match(after[0]))


def _beside(row: Sequence[Line], line: Line) -> bool:
    other = row[-1]
    height = min(line.box[3] - line.box[1], other.box[3] - other.box[1])
    common = min(line.box[3], other.box[3]) - max(line.box[1], other.box[1])
    if common < 0.55 * height:
        return False
    # Text that lies over the row's own is another row, drawn too close.
    return all(min(line.box[2], one.box[2]) - max(line.box[0], one.box[0]) < 0.5 * height for one in row)


def _squeezed(text: str) -> str:
    return _RUN_OF_SPACE.sub(" ", unicodedata.normalize("NFC", text)).replace("\u00ad", "").strip()
