"""What is doubtful about a page's text, by the text itself, the page's text layer and the ink on it. Pure."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tasks.engines.layout.choice import FEW, broken
from tasks.engines.layout.evidence import text_facts
from tasks.engines.trust import PageTrust, Part, score_of

MOST_LAYER: Final = 200_000
"""Characters of a text layer that a text is held against; more are no page for readers."""
LONGEST_PERIOD: Final = 120
"""Words of a repeated passage."""
LEAST_LOOP: Final = 24
"""Words: what is repeated for less is a list or a table."""
TIMES: Final = 4
"""How often a passage stands there at least to be a loop."""

_COMMENT = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.S)
_LINK = re.compile(r"!\[[^\]]*\]\([^)]*\)|(?<=\])\([^)\s]*\)")
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)", re.S)
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|<>~$&%-])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_HYPHEN = re.compile(r"(\w)[-\u00ad\u2010]\n\s*(\w)")
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(f"[{_ALONE}]|[^\\W_{_ALONE}]+")
_MOJIBAKE = re.compile("[ÃÂâ][\u0080-\u00bf€™œ‚„†‡‰‹“”•–—˜›ž]|ï»¿|\ufffd")


def page_trust(
    text: str,
    *,
    layer: str | None = None,
    reads_pixels: bool = False,
    ink: float | None = None,
    unsure: float | None = None,
    stopped: bool = False,
) -> PageTrust:
    """The score of a page that is there.

    Args:
        text: its Markdown.
        layer: its text layer, where there is one that can be trusted (`trusted_layer`).
        reads_pixels: the text was not made of that layer.
        ink: see `Part.INK`; None where it was not looked at.
        unsure: see `Part.UNSURE`; None where there was no OCR.
        stopped: a model was stopped in the midst of a text, or saw no parts on the page.
    """
    plain = plain_text(text)
    found = words(plain)
    parts: dict[Part, float] = {}
    wanted: list[str] | None = None
    if layer is not None:
        wanted = words(_HYPHEN.sub(r"\1\2", layer))
        parts |= _agreement(found, wanted, both=reads_pixels)
    if ink is not None:
        parts[Part.INK] = ink
    if found:
        # What the page itself repeats is not the engine's doing.
        parts[Part.REPEATS] = max(0.0, repetition(found) - (repetition(wanted) if wanted else 0.0))
        parts[Part.SCRIPT] = nonsense(plain)
    if unsure is not None:
        parts[Part.UNSURE] = unsure
    if stopped:
        parts[Part.STOPPED] = 1.0
    return PageTrust(score=score_of(parts), parts={part: round(value, 4) for part, value in parts.items()})


def trusted_layer(text: str) -> str | None:
    """A page's text layer, if there is enough of it and its words are words."""
    facts = text_facts(text)
    if facts.characters < FEW or len(text) > MOST_LAYER or broken(facts, 1.0) is not None:
        return None
    return text


def plain_text(markdown: str) -> str:
    """Markdown without what is no text: comments, tags, targets of links, formulas, escapes."""
    text = _LINK.sub(" ", _FORMULA.sub(" ", _COMMENT.sub(" ", markdown)))
    return _COMMAND.sub(" ", _ESCAPE.sub(r"\1", html.unescape(text)))


def words(text: str) -> list[str]:
    """Words without regard to case and forms; single characters where a script has no spaces."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def repetition(found: Sequence[str]) -> float:
    """Share of the words that stand in loops: a passage that comes again at once, and again."""
    if len(found) < LEAST_LOOP:
        return 0.0
    seen: dict[tuple[str, ...], int] = {}
    looped = run = period = 0

    def close() -> None:
        nonlocal looped
        if run >= max(LEAST_LOOP - period, (TIMES - 1) * period):
            looped += run

    for at in range(len(found) - 2):
        passage = tuple(found[at : at + 3])
        distance = at - seen.get(passage, -LONGEST_PERIOD - 1)
        seen[passage] = at
        if distance <= LONGEST_PERIOD and distance == period:
            run += 1
            continue
        close()
        period, run = (distance, 1) if distance <= LONGEST_PERIOD else (0, 0)
    if run:
        close()
    return min(1.0, looped / len(found))


def nonsense(plain: str) -> float:
    """How much of a text means nothing, 1 at most: a fifth of its characters, or half of its words, is all of it."""
    facts = text_facts(plain)
    if not facts.characters:
        return 0.0
    garbled = min(1.0, 5 * len(_MOJIBAKE.findall(plain)) / facts.characters)
    voiceless = max(0.0, facts.voiceless - 0.15)
    mixed = facts.mixed if facts.scripts > 1 or facts.mixed > 0.05 else 0.0
    return min(1.0, 5 * facts.bad + garbled + 2 * mixed + 2 * voiceless)


def _agreement(found: Sequence[str], wanted: Sequence[str], *, both: bool) -> dict[Part, float]:
    if not wanted:
        return {}
    have, want = Counter(found), Counter(wanted)
    common = (have & want).total()
    parts = {Part.LOST: 1 - common / len(wanted)}
    if both and found:
        parts[Part.INVENTED] = 1 - common / len(found)
    return parts
