"""The dolphin engine as a worker sees it: documents in, results out, many at the same time.

A document's pages are rendered in the sandbox one after the other and copied into the arena, as many as there is room
for pages in flight; each is then read by itself: its image is prepared and its layout read, then its elements. So the
device sees the requests of all pages of all documents, the sandbox is free for the next document as soon as the last
page is rendered, and no page waits for another one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from tasks.corpus.failures import Category, ConversionError, Failure, Phase
from tasks.engines.dolphin import result
from tasks.engines.dolphin.arena import Arena, ArenaClosed, Place
from tasks.engines.dolphin.boxes import Box
from tasks.engines.dolphin.clients import DeviceClient, EngineLost, Preparers, ReadText
from tasks.engines.dolphin.grammar import Prompt
from tasks.engines.dolphin.images import prepared_size
from tasks.engines.dolphin.result import ReadElement, ReadPage
from tasks.engines.dolphin.settings import DeviceKind, DolphinOptions, ImageMode, Loaded, MarkdownMode, ReadingSettings
from tasks.engines.ink import written_cells
from tasks.engines.pagememory import MODEL_SIDE, RenderedPage
from tasks.engines.protocol import UNKEPT, Asset, EngineResult, FinishedPage, Journal, Page, parsed
from tasks.engines.sandbox import Aborted, OutOfTime, Sandbox
from tasks.engines.trust import PageTrust

ENGINE_VERSION: Final = "1"
"""Of this engine's own code: changed when the same model gives other texts, boxes or Markdown."""
PAGE_BYTES: Final = (MODEL_SIDE + 4) ** 2 * 3
_CROP_BYTES: Final = 8 << 20
"""Room for the prepared crops of a page in flight."""
_MOST_PAGES: Final = 96


@dataclass(slots=True)
class _Document:
    """One document in hand."""

    name: str
    """Figures are named after it."""
    figures: Path
    journal: Journal
    known: dict[int, ReadPage]
    """Read earlier, by number."""
    pages: list[Future[ReadPage]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    """It failed, or is done: pages need not be read any further."""

    def take_known(self) -> None:
        """The pages that come next, as far as they are known."""
        while (page := self.known.get(len(self.pages) + 1)) is not None:
            self.pages.append(_done(page))

    def finish(self, page: ReadPage, spent: float) -> None:
        """A page is read, or a gap for good."""
        if not self.over.is_set():
            files = [element.figure for element in page.elements if element.figure is not None]
            self.journal.finish(
                FinishedPage(number=page.number, payload=page.model_dump_json(), spent=spent, files=files)
            )


class DolphinPool:
    """One loaded model and what feeds it.

    Args:
        options: what decides the output.
        folder: gives the checkpoint's folder, fetching it where needed; called once, by `ready`.
        make: makes a sandbox that renders, given its own folder.
        scratch: an existing folder for this pool alone.
        sandboxes: how many.
        preparers: how many processes prepare images.
        device: see ReadingSettings; `slots`, too.
        module: what runs as the device's process; tests replace it.
    """

    def __init__(
        self,
        options: DolphinOptions,
        folder: Callable[[], Path],
        make: Callable[[Path], Sandbox],
        scratch: Path,
        *,
        sandboxes: int,
        preparers: int,
        slots: int | None = None,
        device: DeviceKind | None = None,
        threads: int | None = None,
        pages: int | None = None,
        module: str = "tasks.engines.dolphin.reading",
    ) -> None:
        self._options, self._folder, self._scratch, self._module = options, folder, scratch, module
        self._preparing = preparers
        self._slots, self._kind, self._threads, self._pages = slots, device, threads, pages
        self._stopped = threading.Event()
        self._free: list[tuple[Sandbox, Path]] = []
        self._given = threading.Condition()
        self._unrendered = 0
        self._sandboxes: list[Sandbox] = []
        for number in range(sandboxes):
            place = scratch / f"slot-{number}"
            place.mkdir()
            sandbox = make(place)
            self._sandboxes.append(sandbox)
            self._free.append((sandbox, place))
        self._arena: Arena | None = None
        self._device: DeviceClient | None = None
        self._preparers: Preparers | None = None
        self._threadpool: ThreadPoolExecutor | None = None
        self._room = threading.Semaphore(0)
        self._versions: dict[str, str] = {}
        self._side = MODEL_SIDE
        self.documents = 1
        """How many to have in flight, once ready."""
        self.notes: list[str] = []
        """What was chosen, for the log, once ready."""

    def start(self) -> None:
        """Spawn the sandboxes without waiting."""
        for sandbox in self._sandboxes:
            sandbox.start()

    def ready(self, timeout: float) -> dict[str, str]:
        """Fetch, check and load the model; the engine's versions.

        Raises ConversionError (ENGINE) where the model or a sandbox cannot be loaded, UsageErrors about the model, EngineLost.
        """
        folder = self._folder()
        pages = self._pages or pages_in_flight(self._slots or 128)
        arena = self._arena = Arena(pages * (PAGE_BYTES + _CROP_BYTES))
        place = self._scratch / "device"
        place.mkdir()
        settings = ReadingSettings(
            folder=folder,
            generation=self._options.generation,
            device=self._kind,
            dtype=self._options.dtype,
            slots=self._slots,
            stop_loops=self._options.stop_loops,
            threads=self._threads,
        )
        self._device = DeviceClient(settings, arena, place, self._module)
        versions: dict[str, str] = {}
        for sandbox in self._sandboxes:
            versions = sandbox.ready(timeout)
        loaded = self._device.ready()
        self._begin(arena, loaded, pages)
        self._versions = {
            **versions,
            **loaded.versions,
            "dolphin": ENGINE_VERSION,
            "model": self._options.model,
            **({"revision": self._options.revision} if self._options.revision else {}),
            "images": self._options.images.value,
            "markdown": self._options.markdown.value,
        }
        return dict(self._versions)

    def convert(
        self,
        pdf: Path,
        name: str,
        passwords: list[str],
        assets: Path,
        on_page: Callable[[int, int], None],
        journal: Journal = UNKEPT,
    ) -> EngineResult:
        """Convert one document; any number of threads at once.

        Args:
            pdf: a local file, which is moved.
            name: the document's key; figures are named after its last part.
            assets: a folder for figures and JSON; the figures of pages that are done lie in it.
            on_page: called with (page begun or done, pages).
            journal: gets the pages as they are done, in any order, and has those that need not be read again.

        Raises:
            ConversionError: the document failed.
            Aborted: by `kill`, or because the journal stops: then as soon as the pages in flight are done.
            EngineLost: the engine's processes do not stay alive.
        """
        stem = Path(name).stem
        document = _Document(stem, assets, journal, _known(journal, stem, assets))
        pages = document.pages
        with self._given:
            self._unrendered += 1
        try:
            try:
                self._render(pdf, passwords, document, on_page)
            except Aborted:
                if not self._stopped.is_set():
                    wait(pages)  # those in flight: `kill` ends them, too
                raise
            finally:
                with self._given:
                    self._unrendered -= 1
                    self._given.notify_all()
            found = []
            for future in pages:
                found.append(future.result())
                on_page(found[-1].number, len(pages))
            return self._result(found, name, assets)
        except (ArenaClosed, EngineLost):
            if self._stopped.is_set():
                raise Aborted("the engine was stopped") from None
            raise
        finally:
            document.over.set()
            # Whoever removes the folder must not do so below a page that still writes to it.
            wait(pages)

    @property
    def in_hand(self) -> int:
        """As many as there may be: what is claimed is rendered at once, and `appetite` counts what is not."""
        return self.documents

    def appetite(self, timeout: float) -> bool:
        """Whether another document is wanted: as soon as not many wait to be rendered. Waits for it up to `timeout` seconds.

        One-page documents are many in flight at a time, long ones few: nothing is claimed that others could convert sooner.
        """
        with self._given:
            return self._given.wait_for(lambda: self._unrendered < len(self._sandboxes) + 1, timeout)

    def refresh(self) -> None:
        """Replace the sandboxes' children, which may have been harmed by what they did before."""
        for sandbox in self._sandboxes:
            sandbox.recycle()

    def kill(self) -> None:
        """Abort what is in hand: `convert` raises Aborted."""
        self._stopped.set()
        for sandbox in self._sandboxes:
            sandbox.kill()
        with self._given:
            self._given.notify_all()
        if self._arena is not None:
            self._arena.close()
        if self._preparers is not None:
            self._preparers.close()
        if self._device is not None:
            self._device.close()

    def close(self) -> None:
        """End all processes."""
        self.kill()
        for sandbox in self._sandboxes:
            sandbox.close()
        if self._threadpool is not None:
            self._threadpool.shutdown(wait=True, cancel_futures=True)

    def stats(self) -> dict[str, Any]:
        """What the device did so far."""
        assert self._device is not None
        return self._device.stats()

    # -- rendering ------------------------------------------------------------------------------------------------

    def _begin(self, arena: Arena, loaded: Loaded, pages: int) -> None:
        """Now that the model's needs are known."""
        self._side = loaded.side
        pages = min(pages, pages_in_flight(loaded.slots)) if self._pages is None else pages
        self._room = threading.Semaphore(pages)
        self._threadpool = ThreadPoolExecutor(pages, thread_name_prefix="page")
        settings = {
            "side": loaded.side,
            "generation": loaded.generation.value,
            "fast": self._options.images is ImageMode.FAST,
            "strict": self._options.markdown is MarkdownMode.UPSTREAM,
        }
        place = self._scratch / "preparers"
        place.mkdir()
        self._preparers = Preparers(self._preparing, arena, settings, place)
        self._generation = loaded.generation
        # Some documents more than pages: fetching and publishing go on beside.
        self.documents = pages + 4
        self.notes = [f"dolphin {loaded.generation} on {loaded.line}, {pages} pages in flight"]

    def _render(
        self,
        pdf: Path,
        passwords: list[str],
        document: _Document,
        on_page: Callable[[int, int], None],
    ) -> None:
        """Render all pages and have them read; a page over its limits is a gap, like one that cannot be rendered."""
        pages, journal = document.pages, document.journal
        rendered = any(page.width for page in document.known.values())
        paused = 0.0
        over: Failure | None = None

        def spent() -> float:
            return before + time.monotonic() - begun - paused

        def take(page: RenderedPage) -> None:
            nonlocal rendered, paused
            began = time.monotonic()
            at = spent()
            if (known := document.known.get(page.number)) is not None:
                pages.append(_done(known))
            elif page.gap is None:
                assert self._device is not None
                if self._device.lost is not None:
                    raise self._device.lost
                self._wait_for_room(journal)
                try:
                    pixels = np.frombuffer(page.samples, np.uint8, page.height * page.width * 3)
                    pixels = pixels.reshape(page.height, page.width, 3)
                    written = written_cells(pixels[::2, ::2, 1])
                    place = self._arena_open().put(pixels)
                except BaseException:
                    self._room.release()
                    raise
                assert self._threadpool is not None
                scored = partial(result.page_trust, layer=page.layer, written=written)
                pages.append(self._threadpool.submit(self._read_page, page.number, place, document, at, scored))
                rendered = True
            else:
                gap = ReadPage(number=page.number, gap=page.gap)
                pages.append(_done(gap))
                document.finish(gap, at)
            on_page(page.number, page.pages)
            paused += time.monotonic() - began

        sandbox, place = self._sandbox()
        begun = time.monotonic()
        before = journal.spent
        folder = Path(tempfile.mkdtemp(prefix="document-", dir=place))
        try:
            folder.chmod(0o755)
            local = folder / "document.pdf"
            pdf.rename(local)
            journal.begin(among_others=True)
            if journal.stops():
                raise Aborted("stopped before the first page")
            while True:
                document.take_known()
                first = len(pages) + 1
                try:
                    # The document's time does not begin anew behind a page that was lost.
                    sandbox.render(local, passwords, take, first=first, spent=spent())
                except ConversionError as error:
                    if not self._goes_on(error, first, len(pages) + 1):
                        raise
                    if len(pages) + 1 not in document.known:
                        over = error.failure
                        gap = ReadPage(number=len(pages) + 1, gap=over.message)
                        pages.append(_done(gap))
                        document.finish(gap, spent())
                    document.take_known()
                    if len(pages) >= sandbox.inspect(local, passwords).pages:
                        break
                else:
                    break
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self._given:
                self._free.append((sandbox, place))
                self._given.notify_all()
        if pages and not rendered:
            why = f"no page can be rendered: {pages[0].result().gap}"
            if over is not None:
                raise ConversionError.of(over.category, Phase.CONVERT, why, retryable=over.retryable)
            raise ConversionError.of(Category.DAMAGED, Phase.CONVERT, why)

    def _goes_on(self, error: ConversionError, first: int, page: int) -> bool:
        """Whether only the page in hand is lost: it took too long or too much, and not because the machine was busy."""
        failure = error.failure
        return (
            not isinstance(error, OutOfTime)
            and failure.phase is Phase.CONVERT
            and failure.page == page
            and failure.category in (Category.TIMEOUT, Category.MEMORY)
            and (not failure.retryable or first == page)
        )

    def _sandbox(self) -> tuple[Sandbox, Path]:
        with self._given:
            while not self._free:
                if self._stopped.is_set():
                    raise Aborted("the engine was stopped")
                self._given.wait()
            return self._free.pop()

    def _wait_for_room(self, journal: Journal) -> None:
        while not self._room.acquire(timeout=1.0):
            if self._stopped.is_set():
                raise Aborted("the engine was stopped")
            if journal.stops():
                break
        else:
            if not journal.stops():
                return
            self._room.release()
        raise Aborted("stopped before a page")

    def _arena_open(self) -> Arena:
        assert self._arena is not None
        return self._arena

    # -- reading --------------------------------------------------------------------------------------------------

    def _read_page(
        self, number: int, place: Place, document: _Document, spent: float, scored: Callable[[ReadPage], PageTrust]
    ) -> ReadPage:
        """One page, whatever happens to it: a gap if it fails. Raises EngineLost, ArenaClosed."""
        waiting: list[Future[ReadText]] = []
        try:
            page = self._read(number, place, document, waiting)
            page = page.model_copy(update={"trust": scored(page)})
        except ConversionError as error:
            page = ReadPage(number=number, width=place.width, height=place.height, gap=error.failure.message)
        finally:
            self._arena_open().give_back(place)
            if any(not future.done() for future in waiting) and self._device is not None:
                self._device.cancel(waiting)
            self._room.release()
        document.finish(page, spent)
        return page

    def _read(self, number: int, place: Place, document: _Document, waiting: list[Future[ReadText]]) -> ReadPage:
        layout = self._submit(Prompt.LAYOUT, place, None, waiting).result()
        assert self._preparers is not None
        entries = self._preparers.request({"op": "elements", "page": place, "layout": layout.text})
        found: list[tuple[dict[str, Any], Future[ReadText] | str]] = []
        for entry in entries:
            if document.over.is_set():
                raise ConversionError.of(Category.ENGINE, Phase.CONVERT, "the document's conversion has ended")
            if entry["prompt"] is None:
                figure = result.figure_name(document.name, number, entry["order"])
                file = str(document.figures / figure)
                self._preparers.request({"op": "figure", "page": place, "box": entry["crop"], "file": file})
                found.append((entry, figure))
            else:
                crop = Box(*entry["crop"])
                found.append((entry, self._submit(Prompt(entry["prompt"]), place, crop, waiting)))
        self._arena_open().give_back(place)
        return ReadPage(
            number=number,
            width=place.width,
            height=place.height,
            elements=[_element(entry, read) for entry, read in found],
            flags=result.flags_of(layout.end, layout.looped) + ["no-layout"] * bool(layout.text and not entries),
        )

    def _submit(
        self, prompt: Prompt, page: Place, box: Box | None, waiting: list[Future[ReadText]]
    ) -> Future[ReadText]:
        """Prepare the page's image, or a box of it, and have it read."""
        assert self._preparers is not None
        assert self._device is not None
        side = max(page.height, page.width)
        height, width = page.height, page.width
        if box is not None:
            height, width = min(box.y2, side) - box.y1, min(box.x2, side) - box.x1
        arena = self._arena_open()
        place = arena.take(*prepared_size(height, width, self._side))
        try:
            top, left = self._preparers.request({"op": "prepare", "page": page, "box": box, "to": place})
        except BaseException:
            arena.give_back(place)
            raise
        future = self._device.read(prompt, place, top, left)
        waiting.append(future)
        return future

    # -- the result -----------------------------------------------------------------------------------------------

    def _result(self, pages: list[ReadPage], name: str, folder: Path) -> EngineResult:
        options = self._options
        if all(page.gap is not None for page in pages) and pages:
            raise ConversionError.of(Category.ENGINE, Phase.CONVERT, f"no page can be read: {pages[0].gap}")
        figures = [element.figure for page in pages for element in page.elements if element.figure is not None]
        assets = [
            Asset(path=folder / figure, extension="png", placeholder=result.figure_link(figure)) for figure in figures
        ]
        upstream = options.markdown is MarkdownMode.UPSTREAM
        if options.json_output:
            assets.append(self._json(pages, name, folder, figures))
        return EngineResult(
            pages=[
                Page(
                    number=page.number,
                    text="" if upstream else result.page_markdown(page, marginalia=options.marginalia),
                    gap=page.gap,
                    trust=page.scored,
                )
                for page in pages
            ],
            assets=assets,
            warnings=[warning for page in pages for warning in page.warnings],
            whole=result.upstream_markdown(pages, self._generation) if upstream else None,
        )

    def _json(self, pages: list[ReadPage], name: str, folder: Path, figures: list[str]) -> Asset:
        if self._options.markdown is MarkdownMode.UPSTREAM:
            text = result.upstream_json(pages, name)
        else:
            text = result.full_json(
                pages, name, {figure: _published(folder / figure) for figure in figures}, self._versions
            )
        file = folder / "result.json"
        file.write_text(text, encoding="utf-8")
        return Asset(path=file, extension="json", placeholder="")


def _published(figure: Path) -> str:
    """The name that it is published under, beside the JSON."""
    with figure.open("rb") as content:
        return f"{hashlib.file_digest(content, 'sha256').hexdigest()}.png"


def pages_in_flight(slots: int) -> int:
    """How many pages keep so many slots taken.

    A page has some 1,000 tokens and takes at least 300 steps for its layout and then as many as its longest element
    needs: it keeps one or two rows busy on average, not the 20 that it has elements.
    """
    return min(_MOST_PAGES, slots * 2 // 3 + 2)


def _known(journal: Journal, stem: str, assets: Path) -> dict[int, ReadPage]:
    """The pages that the journal has, as far as they make sense and their figures are there."""
    known: dict[int, ReadPage] = {}
    for number, kept in journal.done.items():
        page = parsed(kept.payload, ReadPage)
        if page is None or page.number != number:
            continue
        figures = [(element.figure, element.reading_order) for element in page.elements if element.figure is not None]
        if all(
            name == result.figure_name(stem, number, order) and (assets / name).is_file() for name, order in figures
        ):
            known[number] = page
    return known


def _done(page: ReadPage) -> Future[ReadPage]:
    future: Future[ReadPage] = Future()
    future.set_result(page)
    return future


def _element(entry: dict[str, Any], read: Future[ReadText] | str) -> ReadElement:
    """Waits for the text."""
    shown = {"label": entry["label"], "bbox": Box(*entry["box"]), "reading_order": entry["order"]}
    if isinstance(read, str):
        return ReadElement(**shown, text=f"![Figure]({result.figure_link(read)})", figure=read)
    text = read.result()
    return ReadElement(**shown, text=text.text, flags=result.flags_of(text.end, text.looped))
