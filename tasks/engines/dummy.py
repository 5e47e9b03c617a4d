"""The dummy engine: no PDF is parsed, time and outcomes are settable. For tests and for measuring everything around an engine.

Settings are the engine's options (:class:`DummyOptions`); a document whose first line begins with `%PDF-dummy` overrides them
and scripts its outcome, with words separated by blanks, such as `%PDF-dummy pages=3 gap=2 warn`:

    pages=N  seconds=S  cpu  assets=N  text_bytes=N     as the options of that name
    fail=CATEGORY       fails with that category of the taxonomy
    retryable=yes|no    with `fail`: instead of what the category says
    gap=N               page N is missing; the document is partial
    warn                one warning
    crash               SIGSEGV
    exit=N              the child exits with that status
    crash-once          SIGSEGV, but only the first time that this sandbox's scratch folder sees the content
    fail-once=CATEGORY  fails with that category, but only the first time
    hang                sleeps for ever on its first page (starved: a retryable TIMEOUT)
    spin                burns CPU for ever on its first page (a permanent TIMEOUT)
    memory              allocates until the limit refuses
    raise               raises an exception that no engine should
    noise               prints 200 kB to stdout
    on=N                the page that hangs, spins, crashes, exits, hoards memory or raises; 1 if not given
    ways=N              N cheaper ways for each page: on that page all misbehave but the Nth, which works; the Nth is a gap if
                        `gap` names the page
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines.protocol import Asset, EngineResult, Handover, Inspection, Limits, Page, Progress

MARK: Final = b"%PDF-dummy"
ENGINE_VERSION: Final = "2"
"""Changed when the same document gives another text, or a page's payload is another."""

_ON_OPENING: Final = frozenset(
    {
        Category.NOT_A_PDF,
        Category.EMPTY,
        Category.ENCRYPTED,
        Category.UNSUPPORTED_ENCRYPTION,
        Category.DAMAGED,
        Category.NO_PAGES,
        Category.TOO_LARGE,
    }
)


class DummyOptions(BaseModel):
    """What the dummy engine pretends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = 0.0
    """Per page."""
    cpu: bool = False
    """Burn CPU instead of sleeping."""
    pages: int = 1
    assets: int = 0
    """Small files beside the Markdown, per document."""
    text_bytes: int = 100
    """Per page."""


class DummyEngine:
    """An engine without a library behind it."""

    name = "dummy"
    shares = True

    def __init__(self, options: DummyOptions, memory: Path) -> None:
        self._options = options
        self._memory = memory

    @property
    def versions(self) -> dict[str, str]:
        """Only its own."""
        return {"dummy": ENGINE_VERSION}

    def inspect(self, pdf: Path, passwords: list[str], limits: Limits) -> Inspection:
        """As many pages as it would convert. Raises ConversionError where the script says so."""
        script = _script(pdf)
        self._misbehave(script, pdf, converting=False)
        return Inspection(pages=self._settings(script).pages)

    def convert(
        self, pdf: Path, scratch: Path, passwords: list[str], limits: Limits, progress: Progress, handover: Handover
    ) -> EngineResult:
        """Pages of filler text with links to the assets. Raises ConversionError where the script says so."""
        script = _script(pdf)
        settings = self._settings(script)
        if settings.pages > limits.max_pages:
            message = f"{settings.pages} pages; the limit is {limits.max_pages}"
            raise ConversionError.of(Category.TOO_LARGE, Phase.OPEN, message)
        pages = []
        for number in handover.turns(settings.pages):
            page = handover.known(number, Page)
            if page is None:
                page = self._page(number, script, settings, pdf, progress, handover)
                handover.finish(number, page.model_dump_json())
            pages.append(page)
        if handover.helping:
            return EngineResult(pages=[])
        digest = hashlib.sha256(pdf.read_bytes()).hexdigest()
        assets = [_asset(scratch, digest, number) for number in range(settings.assets)]
        if pages and assets:
            pages[0].text += "\n\n" + "\n".join(f"![]({asset.placeholder})" for asset in assets)
        return EngineResult(pages=pages, assets=assets, warnings=["the script says so"] if "warn" in script else [])

    def _page(
        self,
        number: int,
        script: dict[str, str],
        settings: DummyOptions,
        pdf: Path,
        progress: Progress,
        handover: Handover,
    ) -> Page:
        falls, ways = handover.fallen.get(number, ()), int(script.get("ways", 0))
        progress(number, settings.pages, ways - len(falls))
        if number == int(script.get("on", 1)) and (ways == 0 or len(falls) < ways):
            self._misbehave(script, pdf, converting=True)
        _spend(settings.seconds, settings.cpu)
        missing = script.get("gap") == str(number)
        text = "" if missing else _filler(number, settings.text_bytes)
        cause = falls[0].reason if falls else "the script says so"
        way = f"way {len(falls) + 1}" if ways else None
        return Page(number=number, text=text, gap=cause if missing else None, way=way)

    def _settings(self, script: dict[str, str]) -> DummyOptions:
        given = {key: value for key, value in script.items() if key in DummyOptions.model_fields}
        if given.get("cpu") == "":
            given["cpu"] = "yes"
        return DummyOptions.model_validate(self._options.model_dump() | given)

    def _misbehave(self, script: dict[str, str], pdf: Path, *, converting: bool) -> None:
        if "fail" in script:
            retryable = {"yes": True, "no": False}.get(script.get("retryable", ""))
            category = Category(script["fail"])
            phase = Phase.OPEN if category in _ON_OPENING else Phase.CONVERT
            raise ConversionError.of(category, phase, "the script says so", retryable=retryable)
        if not converting:
            return
        if "fail-once" in script and self._first_time(pdf):
            raise ConversionError.of(Category(script["fail-once"]), Phase.CONVERT, "the script says so, once")
        if "crash" in script or ("crash-once" in script and self._first_time(pdf)):
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in script:
            os._exit(int(script["exit"]))
        if "hang" in script:
            time.sleep(1e6)
        if "spin" in script:
            _spend(1e6, cpu=True)
        if "memory" in script:
            hoard = [bytearray(1 << 26)]
            while True:
                hoard.append(bytearray(1 << 26))
        if "raise" in script:
            raise KeyError("the script says so")
        if "noise" in script:
            os.write(1, b"noise\n" * 33_000)

    def _first_time(self, pdf: Path) -> bool:
        mark = self._memory / f".seen-{hashlib.sha256(pdf.read_bytes()).hexdigest()}"
        if mark.exists():
            return False
        mark.touch()
        return True


def _script(pdf: Path) -> dict[str, str]:
    with pdf.open("rb") as file:
        line = file.readline(4096)
    if not line.startswith(MARK):
        return {}
    words = line[len(MARK) :].decode(errors="replace").split()
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _spend(seconds: float, cpu: bool) -> None:
    if not cpu:
        time.sleep(seconds)
        return
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        hashlib.sha256(bytes(100_000)).digest()


def _filler(page: int, size: int) -> str:
    sentence = f"Page {page} of a document that nobody read. "
    return (sentence * (size // len(sentence) + 1))[:size].rstrip()


def _asset(scratch: Path, digest: str, number: int) -> Asset:
    path = scratch / f"{number}.txt"
    path.write_text(f"asset {number} of {digest}\n")
    return Asset(path=path, extension="txt", placeholder=f"asset-{number}")
