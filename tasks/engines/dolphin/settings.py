"""Settings of the dolphin engine: what a run is asked for, and what its processes are started with. No torch here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from tasks.engines.dolphin.grammar import Generation

DEFAULT_MODEL: Final = "ByteDance/Dolphin-1.5"


class ImageMode(StrEnum):
    """How crops become the model's input."""

    STRICT = "strict"
    """Byte for byte as upstream."""
    FAST = "fast"
    """In one pass: other pixels, now and then another text."""


class MarkdownMode(StrEnum):
    """Whose Markdown rules."""

    CLEAN = "clean"
    UPSTREAM = "upstream"
    """Byte for byte upstream's, defects included."""


class DType(StrEnum):
    """What numbers are computed in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return 4 if self is DType.FLOAT32 else 2


class DeviceKind(StrEnum):
    """Where to compute."""

    CPU = "cpu"
    CUDA = "cuda"


class ReadingSettings(BaseModel):
    """What the device's process is started with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    generation: Generation | None = None
    device: DeviceKind | None = None
    dtype: DType | None = None
    slots: int | None = Field(None, ge=1)
    stop_loops: bool = True
    threads: int | None = Field(None, ge=1)


class Loaded(BaseModel):
    """What it says when it is ready."""

    generation: Generation
    side: int
    slots: int
    device: str
    dtype: DType
    line: str
    versions: dict[str, str]


class DolphinOptions(BaseModel):
    """What decides the output. Identity of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = DEFAULT_MODEL
    revision: str | None = None
    """Of a Hugging Face id; None: the pinned one of a known model."""
    generation: Generation | None = None
    """None: recognised."""
    dtype: DType | None = None
    """None: by the device."""
    images: ImageMode = ImageMode.STRICT
    markdown: MarkdownMode = MarkdownMode.CLEAN
    stop_loops: bool = True
    marginalia: bool = True
    """Keep page headers, footers and numbers (clean Markdown only)."""
    json_output: bool = False
    """Publish the structured result beside the Markdown."""
