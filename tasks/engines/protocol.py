"""The Engine protocol: what turns one local PDF into Markdown. `docs/engines.md` has an example of 30 lines.

Engines run inside the sandbox's child process (tasks/engines/child.py): they may crash, hang and leak, and hold no secret.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from tasks.engines.pagememory import RenderedPage


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
    front_matter: bool = Field(False, description="YAML front matter: source key, sha256, pages, engine and versions.")


class Page(BaseModel):
    """One page's result. `number` is 1-based."""

    number: int
    text: str
    gap: str | None = None
    """Why the page is missing; the document is then partial."""


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


Progress = Callable[[int, int], None]
"""Called with (page just begun, 1-based; pages in all): each call restarts the page's clock."""


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
        self, pdf: Path, scratch: Path, passwords: list[str], limits: Limits, progress: Progress
    ) -> EngineResult:
        """Convert one document; `scratch` is an empty folder for assets. Raises ConversionError."""
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
        self, pdf: Path, passwords: list[str], first: int, limits: Limits, emit: Callable[[RenderedPage], None]
    ) -> Inspection:
        """Hand over page after page from number `first` (1-based) on.

        `emit` returns when the next one is wanted. Raises ConversionError.
        """
        ...
