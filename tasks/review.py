"""`review.html`: a run's worst pages, each one's picture beside its Markdown, as one file that loads and runs nothing.

Everything that comes from documents is escaped by the template engine. The browser is told to run no script, to load nothing, and
to take no style but the page's own; pictures are JPEGs that this process made of pixels.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from markupsafe import Markup

from tasks.corpus.failures import NotFound, StoreError
from tasks.corpus.ledger import Record
from tasks.corpus.names import printable
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store
from tasks.corpus.trust import PageScore
from tasks.html import TEMPLATES, policy, template
from tasks.page import Links
from tasks.worst_pages import PageText, Worst, WorstPage, page_text

MOST_BYTES: Final = 20_000_000
"""Of the file: mail and browsers take it."""
_OVERHEAD: Final = 4_000
"""Bytes of a page's own markup, more than enough."""

WORDS: Final = {
    "gap": "the page is missing: it could not be converted",
    "lost": "{:.0%} of the words in the page's text layer are not in the Markdown",
    "invented": "{:.0%} of the Markdown's words are not in the page's text layer",
    "ink": "{:.0%} of what looks like writing lies outside of everything that was read",
    "repeats": "{:.0%} of the words only repeat what stands before them",
    "script": "characters or words make no sense",
    "unsure": "OCR was not sure of {:.0%} of what it read",
    "stopped": "the model was stopped in the midst of a text, or saw no parts on the page",
}
NOTHING: Final = "nothing stands out"

Pictures = Callable[[Record, list[int], int], tuple[dict[int, bytes | str], bool]]
"""See `PageImages.of`."""


class PartRow(NamedTuple):
    """One part of a score."""

    share: float
    words: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A page as the template needs it."""

    number: int
    """Its place, from 1."""
    key: str
    page: int
    pages: int
    score: float
    parts: list[PartRow]
    text: str
    note: str
    image: str
    """A data URI; "" where there is none."""
    why: str
    """Why there is none."""
    link: str
    """Of the document's Markdown; "" where it is not known."""
    mean: float

    @property
    def level(self) -> str:
        """How bad, for the eye."""
        return "bad" if self.score < 0.5 else "warn" if self.score < 0.8 else "good"


def parts_in_words(score: PageScore) -> list[PartRow]:
    """What is doubtful, the worst first."""
    found = sorted(score.parts.items(), key=lambda item: (-item[1], item[0]))
    return [PartRow(value, WORDS.get(name, f"{name}: {{:.2f}}").format(value)) for name, value in found]


def shown_pages(worst: Worst, output: Store, pictures: Pictures, links: Links, most_bytes: int) -> list[Shown]:
    """The pages with pictures and Markdown, the worst first, as many as have room: those behind them are left out."""
    documents: dict[int, list[WorstPage]] = {}
    for one in worst.pages:
        documents.setdefault(one.record.index, []).append(one)
    # Three quarters of the room are the pictures', each with its share; Base64 makes four bytes of three.
    room = int(most_bytes * 0.75 * 0.75 / max(1, len(worst.pages)))
    ready: dict[tuple[int, int], Shown] = {}
    for index, some in documents.items():
        record = some[0].record
        markdown = _markdown(output, record)
        made, same = pictures(record, [one.score.page for one in some], room)
        for one in some:
            text = markdown(one.score.page)
            note = text.note if same else f"The PDF was changed since it was converted. {text.note}".strip()
            picture = made[one.score.page]
            ready[index, one.score.page] = Shown(
                number=0,
                key=printable(record.key),
                page=one.score.page,
                pages=record.pages or 0,
                score=one.score.score,
                parts=parts_in_words(one.score),
                text=text.text,
                note=note,
                image=_data_uri(picture) if isinstance(picture, bytes) else "",
                why=printable(picture) if isinstance(picture, str) else "",
                link=links.of_output(record.name),
                mean=record.trust.mean if record.trust is not None else one.score.score,
            )
    shown: list[Shown] = []
    size = 0
    for number, one in enumerate(worst.pages, 1):
        page = ready[one.record.index, one.score.page]
        # What is escaped grows: at worst every character of the text to five bytes, or an own four bytes.
        size += _OVERHEAD + len(page.image) + len(str(Markup.escape(page.text)).encode(errors="replace"))
        if size > most_bytes:
            break
        shown.append(replace(page, number=number))
    return shown


def render(spec: RunSpec, worst: Worst, shown: list[Shown], notes: list[str]) -> str:
    """The file."""
    style = (TEMPLATES / "report.css").read_text() + (TEMPLATES / "review.css").read_text()
    return template("review.html").render(
        spec=spec,
        input=printable(spec.identity.input),
        output=printable(spec.identity.output),
        worst=worst,
        shown=shown,
        left_out=len(worst.pages) - len(shown),
        notes=notes,
        nothing=NOTHING,
        style=Markup(style),  # noqa: S704 - a file of this project
        policy=policy(style, images=True),
    )


def _markdown(output: Store, record: Record) -> Callable[[int], PageText]:
    """The document's Markdown, page by page; where it can't be read, why."""
    try:
        text = output.read(record.name).decode(errors="replace")
    except NotFound:
        return lambda page: PageText("", "The Markdown is not in the output any more.")
    except StoreError as error:
        why = f"The Markdown can't be read: {printable(str(error))}"
        return lambda page: PageText("", why)
    return lambda page: page_text(text, page, record.pages or 0)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
