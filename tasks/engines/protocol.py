"""The Engine protocol: what turns one local PDF into Markdown. `docs/engines.md` has an example of 30 lines.

Engines run inside the sandbox's child process (tasks/engines/child.py): they may crash, hang and leak, and hold no secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.corpus.failures import Category
from tasks.engines.pagememory import RenderedPage
from tasks.engines.trust import PageTrust


class EngineName(StrEnum):
    """The engines that can be asked for."""

    LAYOUT = "layout"
    DOLPHIN = "dolphin"
    DUMMY = "dummy"


MOST_SECONDS = 30 * 86400.0
"""The longest time limit: kernels count CPU seconds in integers, and JSON knows no infinity."""
MOST_MEMORY_MB = 1 << 24


class Limits(BaseModel):
    """What a document may cost. Identity of a run: a resumed run has the same."""

    model_config = ConfigDict(frozen=True)

    document_timeout: float = Field(
        3600.0, gt=0, le=MOST_SECONDS, description="Seconds of wall clock for one document."
    )
    page_timeout: float = Field(120.0, gt=0, le=MOST_SECONDS, description="Seconds of wall clock for one page.")
    max_pages: int = Field(5000, ge=1, description="Documents with more pages fail as TOO_LARGE.")
    max_bytes: int = Field(2_000_000_000, ge=1, description="Larger files fail as TOO_LARGE.")
    memory_mb: int = Field(
        4096, ge=256, le=MOST_MEMORY_MB, description="Address space of a sandbox child, MiB (RLIMIT_AS)."
    )
    max_pixels: int = Field(
        100_000_000, ge=1, description="Pixels of one rendered page; larger pages are not rendered."
    )


class Rendering(BaseModel):
    """How the Markdown is put together. Identity of a run, too."""

    model_config = ConfigDict(frozen=True)

    page_markers: bool = Field(False, description="A comment `<!-- page N -->` before each page.")
    front_matter: bool = Field(
        False, description="YAML front matter: source key, sha256, pages, engine and versions, names of attached files."
    )


class Page(BaseModel):
    """One page's result. `number` is 1-based."""

    number: int
    text: str
    gap: str | None = None
    """Why the page is missing; the document is then partial."""
    way: str | None = None
    """How its text was come by, in a word, where the engine has several ways."""
    trust: PageTrust | None = None
    """How far the text can be trusted, where the engine can tell."""


class Asset(BaseModel):
    """A file beside the Markdown; `path` is in the scratch folder and is published under its content's sha256."""

    path: Path
    extension: str
    placeholder: str
    """The text in the pages that stands for the asset's final relative link."""


class EngineResult(BaseModel):
    """What an engine returns for a document."""

    pages: list[Page]
    assets: list[Asset] = []
    attached: list[str] = []
    """Names of the files that are attached to the document."""
    warnings: list[str] = []
    whole: str | None = None
    """The document's Markdown, where it is not the pages' one after the other; page markers do not apply to it."""
    seconds: float | None = None
    """What the engine took, without waiting for its turn."""


class Inspection(BaseModel):
    """What opening a document without converting it tells."""

    pages: int
    encrypted: bool = False
    """It was encrypted (and opened, with a password or without one)."""


class Progress(Protocol):
    """Tells that a page is begun, which restarts the page's clock."""

    def __call__(self, page: int, pages: int, ways: int = 0) -> None:
        """Page `page`, 1-based, of `pages` is begun.

        `ways`: how many cheaper ways the engine has for the page should this one cost its process, a named gap among them. With
        one or more, the loss of the process is not the document's failure: the engine is asked again, and learns of the fall.
        """
        ...


class Fall(BaseModel):
    """A process that was lost over a page."""

    model_config = ConfigDict(frozen=True)

    category: Category
    """CRASHED, MEMORY or TIMEOUT."""
    reason: str
    starved: bool = False
    """Of a TIMEOUT: it got less than half of a core, so the same way can do better the next time."""
    helper: bool = False
    """It was a helper, which tried the page before its turn: nothing that came before the page was known to it."""


M = TypeVar("M", bound=BaseModel)


class FinishedPage(BaseModel):
    """A page that an engine is done with: with it, another process on another machine need not convert the page again."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(ge=1)
    payload: str
    """JSON of the engine's own, opaque to everybody else: all that the page adds to the document's result."""
    spent: float = 0.0
    """Seconds of the document's time limit that were spent when it was done."""
    files: list[str] = []
    """Names of files in the result's assets folder that belong to it."""
    hands: int = Field(1, ge=1)
    """How many processes were at work on the document when it was done."""

    @field_validator("payload")
    @classmethod
    def _is_text(cls, payload: str) -> str:
        payload.encode()  # lone surrogates: could not be saved
        return payload


def parsed(payload: str | None, model: type[M]) -> M | None:
    """What a payload says; None where there is none, or one that makes no sense: the page is converted again, then."""
    if payload is None:
        return None
    try:
        return model.model_validate_json(payload)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class Handover:
    """What passes page by page between an engine and who asked for a conversion. An engine that ignores it always begins anew."""

    done: Mapping[int, str] = field(default_factory=dict)
    """Payloads that the same engine finished for the same document earlier, by page number: not to be converted again."""
    finish: Callable[[int, str], None] = lambda number, payload: None
    """Called with (page, payload) as soon as a page is done that was not in `done`. May not return."""
    fallen: Mapping[int, Sequence[Fall]] = field(default_factory=dict)
    """Processes that were lost over pages of this document just now, the first one first, by page number."""
    turns: Callable[[int], Iterable[int]] = lambda pages: range(1, pages + 1)
    """Of an engine that shares: told how many pages there are, it says which to convert, in order."""
    elsewhere: Callable[[int], str | None] = lambda number: None
    """Of an engine that shares: the payload of a page that a helper converted. Waits for one that a helper has in hand."""
    helping: bool = False
    """Another process converts the document, and this one only does pages for it: the result is not used."""

    def known(self, number: int, model: type[M]) -> M | None:
        """The page's payload, if it is done and makes sense. For pages in order, each once: a page that isn't known is taken."""
        found = parsed(self.done.get(number), model)
        return found if found is not None or number in self.done else parsed(self.elsewhere(number), model)


class Journal(Protocol):
    """One document's finished pages, as whoever asked for its conversion keeps them. Any thread."""

    @property
    def done(self) -> Mapping[int, FinishedPage]:
        """Pages that need not be converted again, by number; their files lie in the assets folder."""
        ...

    @property
    def spent(self) -> float:
        """Seconds of the document's time limit that went to them."""
        ...

    def begin(self, *, among_others: bool = False) -> None:
        """The engine begins to work on the document; `among_others`: on many pages of many documents at a time."""
        ...

    def finish(self, page: FinishedPage) -> None:
        """Another page is done. Never waits for a store."""
        ...

    def stops(self) -> bool:
        """Whether to end the conversion at this boundary between two pages, by raising Aborted."""
        ...


class Unkept:
    """The journal of a conversion whose pages nobody keeps."""

    done: Mapping[int, FinishedPage] = {}
    spent = 0.0

    def begin(self, *, among_others: bool = False) -> None:
        """No matter."""

    def finish(self, page: FinishedPage) -> None:
        """No matter."""

    def stops(self) -> bool:
        """Never."""
        return False


UNKEPT = Unkept()


class Engine(Protocol):
    """One loaded engine. Used by one thread."""

    name: str

    @property
    def versions(self) -> dict[str, str]:
        """Libraries and models that decide the output: with the settings they are the engine's fingerprint."""
        ...

    def inspect(self, pdf: Path, passwords: list[str], limits: Limits) -> Inspection:
        """Open only. Raises ConversionError."""
        ...

    def convert(
        self, pdf: Path, scratch: Path, passwords: list[str], limits: Limits, progress: Progress, handover: Handover
    ) -> EngineResult:
        """Convert one document; `scratch` is an empty folder for assets. Raises ConversionError.

        The result is the same, to the byte, whatever pages `handover` has. Assets are made anew: none belongs to a page.

        An engine with an attribute `shares` that is true converts the pages that `handover.turns` names, and asks
        `handover.known` for each in its turn: several processes may then convert a long document together.
        """
        ...


class Renderer(Protocol):
    """What runs in the sandbox for an engine that reads pixels.

    The engine itself is elsewhere (tasks/engines/dolphin/pool.py).
    """

    name: str

    @property
    def versions(self) -> dict[str, str]:
        """As an engine's."""
        ...

    def inspect(self, pdf: Path, passwords: list[str], limits: Limits) -> Inspection:
        """Open only. Raises ConversionError."""
        ...

    def render(
        self,
        pdf: Path,
        passwords: list[str],
        first: int,
        limits: Limits,
        emit: Callable[[RenderedPage], None],
        last: int | None = None,
    ) -> Inspection:
        """Hand over page after page from number `first` (1-based) to `last`, or to the document's end.

        `emit` returns when the next one is wanted. Raises ConversionError.
        """
        ...
