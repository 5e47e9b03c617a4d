"""The sandbox: PDFs are opened in child processes only, which are killed on time, memory, page and pixel limits.

A child is a fresh interpreter without credentials (tasks/engines/confine.py says what else it lacks). It is replaced after
a number of documents, after a document whose conversion failed, and when it has grown; its successor warms up while the worker
publishes. The death of a child is a record, never a crash of the worker; where the engine has a cheaper way for the page in
hand, it is not even the document's failure: the next child goes on behind the pages that are done, and takes that way.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self

from pydantic import ValidationError

from tasks.corpus.failures import Category, ConversionError, Failure, PdfFlowsError, Phase
from tasks.engines import confine, frames, memory
from tasks.engines.falls import Falls
from tasks.engines.pagememory import MODEL_SIDE, PageMemory, RenderedPage
from tasks.engines.process import ChildProcess
from tasks.engines.protocol import UNKEPT, EngineName, EngineResult, FinishedPage, Inspection, Journal, Limits
from tasks.engines.shares import LEAST_PAGES, Malformed, Shares

START_TIMEOUT = 180.0
"""Seconds for an interpreter to start and load its engine; 3 to 5 are usual."""

KILLED_STARTS = 3
"""How often a child that was killed while it loaded its engine is replaced before the engine gets the blame."""

_CPU_SLACK = 60.0
_LOOK_SECONDS = 0.5
"""How often a child that waits for a helper's page is looked after."""
_IDLE = 0.02
"""Share of a core: who used less was not kept from it, but waited for what does not come."""
_PLENTY = 1 / 6
"""Share of a page's time: pages that use so much of a core's are rare enough to be taken for ones without an end."""

_LIBRARY_BUG = "a bug in a library that reads the document"
_SIGNAL_WORDS: dict[int, str] = {
    signal.SIGKILL: "from outside, mostly because the machine ran out of memory",
    signal.SIGSEGV: _LIBRARY_BUG,
    signal.SIGBUS: _LIBRARY_BUG,
    signal.SIGFPE: _LIBRARY_BUG,
    signal.SIGILL: _LIBRARY_BUG,
    signal.SIGABRT: "a library that reads the document gave up",
}


class Aborted(PdfFlowsError):
    """The conversion in hand was ended, by `kill` or by its journal. Says nothing about the document."""


class OutOfTime(ConversionError):
    """Over the document's time limit, whatever page was in hand."""


class Sandbox:
    """Runs one engine in one child at a time. Used by one thread; `kill` may come from any.

    Args:
        engine: which engine the children load.
        limits: what a document may cost.
        threads: the most threads that the engine's numeric libraries use.
        recycle_after: documents after which a child is replaced.
        engine_options: the engine's settings, JSON; children read none from the environment.
        scratch: an existing folder that belongs to this sandbox alone. Children can read and write there and nowhere
            else: every document and every document's scratch folder must lie in it.
    """

    def __init__(
        self,
        engine: EngineName,
        limits: Limits,
        *,
        threads: int = 1,
        recycle_after: int = 50,
        engine_options: dict[str, Any] | None = None,
        scratch: Path,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._threads = threads
        self._recycle_after = recycle_after
        self._options = engine_options or {}
        self._scratch = scratch.resolve()
        side = int(self._options.get("side", MODEL_SIDE))
        self._pixels = PageMemory.create(side) if engine is EngineName.DOLPHIN else None
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._spare: ChildProcess | None = None
        self._aborted = False
        self._closed = False
        self._guilty = False
        """A child that was over its time would have been on a machine of its own, too."""
        self._page_seconds = 0.0
        """What the page in hand took when its child ended."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id of the child in use, if there is one."""
        child = self._child
        return child.pid if child is not None else None

    def start(self) -> None:
        """Spawn a child, which loads its engine while we go on. Idempotent; lifts a `kill`. ValueError when closed."""
        with self._lock:
            if self._closed:
                raise ValueError("the sandbox is closed")
            self._aborted = False
            if self._child is None or not self._child.alive:
                self._child = self._spawn()

    def ready(self, timeout: float = START_TIMEOUT) -> dict[str, str]:
        """Wait for the engine; returns the versions of its libraries and models.

        Raises ConversionError (ENGINE) with the cause where the engine cannot be loaded within `timeout` seconds, Aborted.
        """
        return dict(self._ready(timeout)["versions"])

    def confinement(self, timeout: float = START_TIMEOUT) -> dict[str, str]:
        """What confines the child, by subject (network, files, user). Raises as `ready`."""
        return dict(self._ready(timeout)["confinement"])

    def inspect(self, pdf: Path, passwords: list[str]) -> Inspection:
        """Open a document without converting it. Raises ConversionError, Aborted."""
        reply = self._request("inspect", pdf, None, passwords, None)
        try:
            return Inspection.model_validate(reply)
        except ValidationError:
            self._malformed()

    def convert(
        self,
        pdf: Path,
        scratch: Path,
        passwords: list[str],
        progress: Callable[[int, int], None] | None = None,
        journal: Journal = UNKEPT,
        share: Shares | None = None,
    ) -> EngineResult:
        """Convert a document.

        Args:
            pdf: a local file in the sandbox's scratch folder.
            scratch: an empty folder in there, for the assets; made where it does not exist.
            passwords: to try, in order.
            progress: called with (page begun, 1-based; pages) in this thread, or a helper's.
            journal: gets the pages as they are done; what it has is not converted again, and counts for the time limit.
            share: which pages helpers do (`help`); the journal is then theirs, too.

        Raises:
            ConversionError: the document failed.
            OutOfTime: over the document's time limit.
            Aborted: by `kill`, or because the journal stops at this page.
        """
        limit, spent = self._limits.document_timeout, journal.spent
        if spent >= limit:
            message = f"over the document's time limit, {limit:g} s, before it was taken up again"
            raise OutOfTime.of(Category.TIMEOUT, Phase.CONVERT, message, retryable=False)
        scratch.mkdir(exist_ok=True)
        kept = journal if isinstance(journal, Kept) else Kept(journal)
        falls, begun = Falls(self._limits.page_timeout), time.monotonic()
        while True:
            so_far = spent + time.monotonic() - begun
            try:
                reply = self._request(
                    "convert", pdf, scratch, passwords, progress, journal=kept, spent=so_far, falls=falls, share=share
                )
                break
            except ConversionError as error:
                # What it left there is its successor's to make anew.
                if not falls.take(error, isinstance(error, OutOfTime), self._page_seconds, self._guilty):
                    raise
                _empty(scratch)
        try:
            result = EngineResult.model_validate(reply)
        except ValidationError:
            self._malformed()
        self._take_back(scratch, result)
        return result

    def help(
        self,
        number: int,
        pdf: Path,
        scratch: Path,
        passwords: list[str],
        progress: Callable[[int, int], None] | None,
        journal: Kept,
        share: Shares,
        spent: float,
    ) -> bool:
        """Convert pages of a document that another sandbox converts, as `share` gives them out.

        Args:
            number: the helper's.
            spent: seconds of the document's time.

        Returns whether it may go on: it lost its process over a page. Otherwise there is nothing more for it. Raises Aborted.
        """
        falls = Falls(self._limits.page_timeout)
        try:
            self._request(
                "convert",
                pdf,
                scratch,
                passwords,
                progress,
                journal=journal,
                spent=spent,
                falls=falls,
                share=share,
                helper=number,
            )
        except ConversionError as error:
            fall = falls.loss(error, isinstance(error, OutOfTime), self._guilty, helper=True)
            share.lose(number, fall, self._page_seconds)
            return fall is not None
        except BaseException:
            share.lose(number, None)
            raise
        return False

    def usage(self) -> tuple[float, int] | None:
        """CPU seconds and resident bytes of the child in use; None where there is none, or the system does not tell."""
        child = self._child
        if child is None or (cpu := child.cpu_seconds()) is None or (rss := child.resident()) is None:
            return None
        return cpu, rss

    def render(
        self,
        pdf: Path,
        passwords: list[str],
        on_page: Callable[[RenderedPage], None],
        *,
        first: int = 1,
        last: int | None = None,
        spent: float = 0.0,
    ) -> Inspection:
        """Render a document, page after page from number `first` on. Only with an engine that reads pixels.

        Args:
            last: number of the last page that is wanted.
            on_page: called in this thread; a page's pixels are there while it runs, and the time it takes is not the document's.
            spent: seconds of the document's time that went to the pages before the first one.

        Raises as `convert`; OutOfTime over the document's time limit.
        """
        reply = self._request(
            "render", pdf, None, passwords, None, on_page=on_page, first=first, last=last, spent=spent
        )
        try:
            return Inspection.model_validate(reply)
        except ValidationError:
            self._malformed()

    def recycle(self) -> None:
        """Replace the child by a fresh one, which warms up while we go on."""
        with self._lock:
            old, self._child, self._spare = self._child, self._spare, None
            if self._child is None and not self._aborted and not self._closed:
                self._child = self._spawn()
        if old is not None:
            old.kill()

    def kill(self) -> None:
        """End the children now: a conversion in hand raises Aborted, and so does the next unless `start` comes before."""
        self._end_children()

    def close(self) -> None:
        """`kill`, for good; waits until the children are gone."""
        self._closed = True
        for child in self._end_children():
            child.wait(10.0)
        if self._pixels is not None:
            self._pixels.close()
            self._pixels = None

    def _end_children(self) -> list[ChildProcess]:
        with self._lock:
            self._aborted = True
            children = [child for child in (self._child, self._spare) if child is not None]
            self._child = self._spare = None
        for child in children:
            child.kill()
        return children

    def _spawn(self) -> ChildProcess:
        confine.shield_parent()
        _give(self._scratch)
        start = {
            "op": "start",
            "engine": self._engine.value,
            "limits": self._limits.model_dump(),
            "options": self._options,
        }
        shared = self._pixels.descriptor if self._pixels is not None else None
        return ChildProcess(start, threads=self._threads, scratch=self._scratch, shared=shared)

    def _current(self) -> ChildProcess:
        with self._lock:
            if self._aborted:
                raise Aborted("the sandbox was stopped")
            if self._child is None or not self._child.alive:
                self._child = self._spare or self._spawn()
                self._spare = None
            return self._child

    def _ready(self, timeout: float) -> dict[str, Any]:
        kills = 0
        while (child := self._current()).hello is None:
            try:
                hello = child.receive(timeout)
            except queue.Empty:
                child.kill()
                raise self._no_engine(f"not loaded within {timeout:g} s") from None
            if hello is None or hello.get("kind") != "ready":
                child.kill()
                if self._aborted:
                    raise Aborted("the sandbox was stopped")
                child.wait(10.0)
                if hello is None and child.returncode == -signal.SIGKILL and kills < KILLED_STARTS:
                    # Killed from outside while it loaded: that says nothing about the engine, nor about a document.
                    kills += 1
                    continue
                cause = str(hello["message"]) if hello is not None and "message" in hello else ""
                last = child.diagnosis.rpartition("\n")[2]
                raise self._no_engine(cause or last or f"the child ended with status {child.returncode}")
            child.hello = hello
        return child.hello

    def _no_engine(self, cause: str) -> ConversionError:
        return ConversionError.of(
            Category.ENGINE, Phase.OPEN, f"the engine {self._engine.value!r} does not start: {cause}"
        )

    def _request(
        self,
        operation: str,
        pdf: Path,
        scratch: Path | None,
        passwords: list[str],
        progress: Callable[[int, int], None] | None,
        *,
        on_page: Callable[[RenderedPage], None] | None = None,
        journal: Journal = UNKEPT,
        first: int = 1,
        last: int | None = None,
        spent: float = 0.0,
        falls: Falls | None = None,
        share: Shares | None = None,
        helper: int | None = None,
    ) -> Any:
        pdf = pdf.resolve()
        for path in (pdf, *([scratch.resolve()] if scratch else [])):
            if not path.is_relative_to(self._scratch):
                raise ValueError(f"{path.name!r} is not in the sandbox's scratch folder")
        size = pdf.stat().st_size
        if size > self._limits.max_bytes:
            message = f"{size} bytes; the limit is {self._limits.max_bytes}"
            raise ConversionError.of(Category.TOO_LARGE, Phase.OPEN, message)
        if self._ready(START_TIMEOUT).get("shares") is not True:
            share = None
        child = self._current()
        child.documents += 1
        if child.documents == self._recycle_after - 1 and self._spare is None:
            # It loads beside the last document, so that the first of the next child need not wait.
            with self._lock:
                if not self._aborted:
                    self._spare = self._spawn()
        _let_read(pdf)
        if scratch is not None:
            _give(scratch)
        request = {
            "op": operation,
            "pdf": str(pdf),
            "scratch": str(scratch.resolve()) if scratch else None,
            "passwords": passwords,
            "first": first,
            "last": last,
            "cpu": self._limits.document_timeout * self._threads + _CPU_SLACK,
            "share": None if share is None else LEAST_PAGES,
            "helping": helper is not None,
        }
        falls = falls or Falls(self._limits.page_timeout)
        asked = request | {"fallen": falls.dump()}
        child.send(asked | {"done": {} if helper is not None else _fitting(asked, journal)})
        try:
            reply = self._await(child, progress, on_page, journal, first, spent, falls, share, helper)
        except ConversionError:
            raise
        except Aborted:
            # By the journal or the caller, in the midst of the child's work; another is spawned only when somebody asks for it.
            self._drop(child)
            raise
        except BaseException:
            # The caller's `progress` or `on_page` raised, or Ctrl-C: the child must not go on to answer
            # the next request with this one.
            self.recycle()
            raise
        if reply["kind"] == "failure":
            try:
                failure = Failure.model_validate(reply.get("failure"))
            except ValidationError:
                self._malformed()
            # Refusals on opening leave the child as it was, unless it has grown.
            if failure.phase is not Phase.OPEN or self._grown(child, reply):
                self.recycle()
            raise ConversionError(failure)
        if self._grown(child, reply):
            self.recycle()
        return reply.get("result")

    def _grown(self, child: ChildProcess, reply: dict[str, Any]) -> bool:
        limit = self._limits.memory_mb << 20
        rss, size = reply.get("rss"), reply.get("size")
        return (
            child.documents >= self._recycle_after
            or (isinstance(rss, int) and rss > limit / 2)
            or (isinstance(size, int) and size > limit * 3 / 4)
        )

    def _await(
        self,
        child: ChildProcess,
        progress: Callable[[int, int], None] | None,
        on_page: Callable[[RenderedPage], None] | None,
        journal: Journal,
        page: int,
        spent: float,
        falls: Falls,
        share: Shares | None,
        helper: int | None,
    ) -> dict[str, Any]:
        pages = 0
        falls.begin(0, 0)
        page_limit = falls.limit
        begun = page_begun = time.monotonic()
        cpu = page_cpu = child.cpu_seconds()
        while True:
            until_document = begun + self._limits.document_timeout - spent
            until_page = page_begun + page_limit
            try:
                message = child.receive(min(until_document, until_page) - time.monotonic())
            except queue.Empty:
                whole = until_document <= until_page
                busy = _starved(cpu if whole else page_cpu, child.cpu_seconds(), time.monotonic() - page_begun)
                if not whole and busy and page_limit < falls.patience:
                    page_limit = falls.patience
                    continue
                self._page_seconds = time.monotonic() - page_begun
                self._timed_out(
                    child, page, whole, begun if whole else page_begun, cpu if whole else page_cpu, page_limit
                )
            if message is None:
                self._page_seconds = time.monotonic() - page_begun
                self._died(child, page)
            match message.get("kind"):
                case "progress":
                    begun_page, of, ways = message.get("page"), message.get("pages"), message.get("ways")
                    if not isinstance(begun_page, int) or not isinstance(of, int) or not isinstance(ways, int):
                        self._malformed()
                    page, pages = begun_page, of
                    falls.begin(page, ways)
                    page_limit = falls.limit
                    page_begun, page_cpu = time.monotonic(), child.cpu_seconds()
                    if progress is not None:
                        progress(*(share.begin() if share is not None and share.opened else (page, pages)))
                case "opened" | "claim" | "more" if share is not None:
                    try:
                        self._together(child, message, share, helper, journal, falls, until_document)
                    except Malformed:
                        self._malformed()
                    page_begun, page_cpu = time.monotonic(), child.cpu_seconds()
                case "page" if on_page is not None and self._pixels is not None:
                    stopped = time.monotonic()
                    try:
                        rendered = self._pixels.take(message)
                    except ValueError:
                        self._malformed()
                    on_page(rendered)
                    page = rendered.number + 1
                    page_begun, page_cpu = time.monotonic(), child.cpu_seconds()
                    begun += page_begun - stopped
                    child.send({"op": "next"})
                case "finished" if on_page is None:
                    try:
                        self._finished(message, pages, journal, spent + time.monotonic() - begun, share, helper)
                    except Malformed:
                        self._malformed()
                case "result" | "failure":
                    self._page_seconds = time.monotonic() - page_begun
                    return message
                case _:
                    self._malformed()

    def _together(
        self,
        child: ChildProcess,
        message: dict[str, Any],
        share: Shares,
        helper: int | None,
        journal: Journal,
        falls: Falls,
        until: float,
    ) -> None:
        """Answer a child that shares its document with others. Raises Malformed."""
        number = message.get("page" if message["kind"] == "claim" else "pages")
        if not isinstance(number, int):
            raise Malformed("no number")
        match message["kind"]:
            case "more" if helper is not None:
                child.send({"op": "page", "number": share.take(helper, number)})
            case "opened" if helper is None:
                share.open(number)
            case "claim" if helper is None:
                while (mine := share.claim(number, _LOOK_SECONDS)) is None:
                    # A helper has it, and a limit of its own for it.
                    if not child.alive or time.monotonic() >= until:
                        return
                if not mine:
                    child.send({"op": "done", "payload": journal.done[number].payload})
                    return
                if (fallen := share.fall(number)) is not None:
                    falls.add(number, *fallen)
                child.send({"op": "take", "fallen": falls.of(number)})
            case _:
                raise Malformed("not its place")

    def _finished(
        self,
        message: dict[str, Any],
        pages: int,
        journal: Journal,
        spent: float,
        share: Shares | None = None,
        helper: int | None = None,
    ) -> None:
        """A page that the child is done with. Raises Aborted where the journal stops behind it, Malformed."""
        hands = 1 if share is None else share.hands
        try:
            done = FinishedPage(number=message.get("number"), payload=message.get("payload"), spent=spent, hands=hands)
        except ValidationError:
            self._malformed()
        if done.number > pages:
            self._malformed()
        if share is not None and helper is not None:
            share.check(done.number, helper)
        journal.finish(done)
        if share is not None:
            share.finish(done.number, helper)
        if journal.stops():
            raise Aborted(f"stopped behind page {done.number}")

    def _drop(self, child: ChildProcess) -> None:
        """End a child and put none in its place."""
        with self._lock:
            if self._child is child:
                self._child, self._spare = self._spare, None
        child.kill()

    def _timed_out(
        self, child: ChildProcess, page: int, whole: bool, since: float, cpu_before: float | None, page_limit: float
    ) -> NoReturn:
        wall = time.monotonic() - since
        cpu_now = child.cpu_seconds()
        # A child that got less than half of a core was starved by its neighbours: trying again can help.
        starved = _starved(cpu_before, cpu_now, wall)
        used = None if cpu_now is None or cpu_before is None else cpu_now - cpu_before
        self._guilty = used is not None and (used < _IDLE * wall or used > page_limit * _PLENTY)
        self.recycle()
        limit = self._limits.document_timeout if whole else page_limit
        what = "the document's time limit" if whole else f"the time limit of page {page}"
        message = f"over {what}, {limit:g} s" + (" (the machine was busy)" if starved else "")
        kind = OutOfTime if whole else ConversionError
        raise kind.of(Category.TIMEOUT, Phase.CONVERT, message, retryable=starved, page=page)

    def _died(self, child: ChildProcess, page: int) -> NoReturn:
        if self._aborted:
            raise Aborted("the sandbox was stopped")
        self.recycle()
        status = child.returncode
        if child.protocol_error is not None:
            raise ConversionError.of(
                Category.CRASHED, Phase.CONVERT, f"the child sent {child.protocol_error}", page=page
            )
        if status == -signal.SIGXCPU:
            message = "over the CPU time that goes with the document's time limit"
            raise ConversionError.of(Category.TIMEOUT, Phase.CONVERT, message, retryable=False, page=page)
        if status != -signal.SIGKILL and memory.words_say_so(child.diagnosis):
            message = f"over the memory limit, {self._limits.memory_mb} MiB"
            raise ConversionError.of(Category.MEMORY, Phase.CONVERT, message, retryable=False, page=page)
        raise ConversionError.of(Category.CRASHED, Phase.CONVERT, f"the sandbox child {_end(status)}", page=page)

    def _malformed(self) -> NoReturn:
        self.recycle()
        raise ConversionError.of(Category.CRASHED, Phase.CONVERT, "the sandbox child sent a reply that makes no sense")

    def _take_back(self, scratch: Path, result: EngineResult) -> None:
        """Make the assets ours, so that no child can swap one for a link to something that only the worker may read."""
        folder = scratch.resolve()
        if os.geteuid() == 0:
            os.chown(folder, 0, 0)
            folder.chmod(0o700)
        for asset in result.assets:
            inside = asset.path.parent == folder or asset.path.parent == scratch
            if not inside or not _is_plain_file(folder / asset.path.name):
                self._malformed()
            asset.path = folder / asset.path.name


class Kept:
    """A journal whose pages are there for the next child even where nobody else keeps them. Thread-safe."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._pages = dict(journal.done)
        self.spent = journal.spent
        self.begin, self.stops = journal.begin, journal.stops

    @property
    def done(self) -> Mapping[int, FinishedPage]:
        """Pages that need not be converted again."""
        return MappingProxyType(self._pages)

    def finish(self, page: FinishedPage) -> None:
        """Another page is done."""
        self._pages[page.number] = page
        self._journal.finish(page)


def _starved(cpu_before: float | None, cpu_now: float | None, wall: float) -> bool:
    return cpu_now is not None and cpu_before is not None and cpu_now - cpu_before < wall / 2


def _fitting(request: dict[str, Any], journal: Journal) -> dict[str, str]:
    """What the journal has, for the child; nothing where that is no frame: the document begins anew, then."""
    done = {str(number): page.payload for number, page in dict(journal.done).items()}
    if done:
        try:
            frames.encode(request | {"done": done})
        except ValueError:
            return {}
    return done


def _end(status: int | None) -> str:
    if status is None:
        return "could not be started"
    if status >= 0:
        return f"ended by itself, with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        return f"was ended by signal {-status}"
    why = _SIGNAL_WORDS.get(-status)
    return f"was ended by {name}" + (f": {why}" if why else "")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_plain_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _give(folder: Path) -> None:
    """Let the child, who is nobody when we are root, write to a folder."""
    if os.geteuid() == 0:
        shutil.chown(folder, confine.NOBODY, confine.NOBODY)


def _let_read(pdf: Path) -> None:
    mode = stat.S_IMODE(pdf.stat().st_mode)
    if os.geteuid() == 0 and not mode & 0o004:
        pdf.chmod(mode | 0o444)
