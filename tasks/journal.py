"""Journals: the finished pages of the documents in hand, and when they are saved as checkpoints.

A journal belongs to one document in one life. It remembers the pages that are done, so that a retry in this life and a
resumption in another go on behind them; it writes the unsaved ones when `tasks/saving.py` says so, in threads of its own:
no engine ever waits for a store, and a store that fails costs a log line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock, Thread

from tasks.corpus.checkpoints import Belonging, Checkpoint, Checkpoints, SavedPage
from tasks.corpus.failures import StoreError
from tasks.engines.protocol import FinishedPage
from tasks.saving import SAVE_SECONDS, Saving

LAST_SECONDS = 5.0
"""The most that a document waits for its pages to be saved when its worker has to stop."""
MOST_KEPT = 128 << 20
"""Characters of payloads of one document; pages beyond are not remembered."""
_WRITERS = 4

_log = logging.getLogger(__name__)


class Journals:
    """What the journals of one life share.

    Args:
        checkpoints: where pages are saved; None: nowhere, they are kept for this life's retries only.
        engine: the engine's fingerprint.
        most_pages: that a document may have.
        until: the time by `time.monotonic` at which the worker has to stop; None while it need not.
        interval: seconds of an engine's work that a death may repeat.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        engine: str,
        most_pages: int,
        until: Callable[[], float | None],
        interval: float = SAVE_SECONDS,
    ) -> None:
        self.checkpoints, self.engine, self.most_pages = checkpoints, engine, most_pages
        self.until, self.interval = until, interval
        self.writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="checkpoint")

    def open(self, content: str, index: int, assets: Path) -> DocumentJournal:
        """An empty journal.

        Args:
            content: sha256 of the document, hexadecimal.
            index: the document's.
            assets: the folder of its result's assets; outlives the journal.
        """
        return DocumentJournal(self, Belonging(content, self.engine, index), assets)

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Wait up to `seconds` for what is being written or deleted."""
        closing = Thread(target=self.writers.shutdown, name="checkpoints-close", daemon=True)
        closing.start()
        closing.join(seconds)


class DocumentJournal:
    """A journal, as `tasks/engines/protocol.py` describes it, and what the converter does with it. Thread-safe."""

    def __init__(self, shared: Journals, of: Belonging, assets: Path) -> None:
        self._shared, self._of, self._assets = shared, of, assets
        self._lock = Lock()
        self._saving = Saving(shared.interval)
        self._pages: dict[int, FinishedPage] = {}
        self._unsaved: list[int] = []
        self._size = 0
        self._keys: list[str] = []
        self._writing: Future[None] | None = None
        self._count: int | None = None
        self._spent = 0.0
        self._over = False
        self.resumed = 0
        """Pages that came from a checkpoint."""

    @property
    def content(self) -> str:
        """sha256 of the document that it is for."""
        return self._of.content

    # -- for the engine -------------------------------------------------------------------------------------------

    @property
    def done(self) -> Mapping[int, FinishedPage]:
        """Pages that need not be converted again."""
        with self._lock:
            return dict(self._pages)

    @property
    def spent(self) -> float:
        """Seconds of the document's time limit that went to them."""
        return self._spent

    def begin(self, *, among_others: bool = False) -> None:
        """The engine begins to work on the document."""
        with self._lock:
            self._saving.begin(time.monotonic(), among_others=among_others)

    def finish(self, page: FinishedPage) -> None:
        """Another page is done."""
        with self._lock:
            due = self._saving.finish(time.monotonic(), page.hands)
            self._spent = max(self._spent, page.spent)
            if page.number not in self._pages and self._size + len(page.payload) <= MOST_KEPT:
                self._size += len(page.payload)
                self._pages[page.number] = page
                self._unsaved.append(page.number)
            if due and self._writing is None:
                self._save()

    def stops(self) -> bool:
        """Whether the worker has to stop before the rest of the document could be finished."""
        until = self._shared.until()
        if until is None:
            return False
        with self._lock:
            left = None if self._count is None else self._count - len(self._pages)
            return not self._saving.fits(left, until - time.monotonic())

    # -- for the converter ----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take up what earlier lives saved. Raises StoreError, OSError from the assets' folder."""
        if self._shared.checkpoints is None:
            return
        found: Checkpoint = self._shared.checkpoints.load(self._of, self._shared.most_pages)
        for page in found.pages.values():
            for name, data in page.files.items():
                (self._assets / name).write_bytes(data)
            self._pages[page.number] = FinishedPage(
                number=page.number, payload=page.payload, spent=found.seconds, files=list(page.files)
            )
        self._keys = found.keys
        self._spent = found.seconds
        self._size = sum(len(page.payload) for page in found.pages.values())
        self._saving.saved = bool(found.pages)
        self.resumed = len(found.pages)

    def count(self, pages: int) -> None:
        """How many pages the document has."""
        self._count = pages

    def renewed(self) -> DocumentJournal:
        """A journal with the same pages, whose time begins anew: it ran out because the machine was busy."""
        fresh = DocumentJournal(self._shared, self._of, self._assets)
        with self._lock:
            fresh._pages, fresh._size, fresh._count = dict(self._pages), self._size, self._count
            fresh._unsaved, fresh.resumed = list(self._pages), self.resumed
            saved = self._saving.saved
        if saved:
            with fresh._lock:
                fresh._save()
        self.discard()
        return fresh

    def keep(self, seconds: float = LAST_SECONDS) -> None:
        """Save what is unsaved, if the document is long enough: the worker gives it back. Waits up to `seconds`."""
        until = time.monotonic() + seconds
        with self._lock:
            writing = self._writing
        if writing is not None:
            wait([writing], seconds)
        with self._lock:
            worth = self._saving.worth(self._count or len(self._pages))
            writing = self._save() if self._unsaved and worth and self._writing is None else self._writing
        if writing is not None:
            wait([writing], max(0.0, until - time.monotonic()))

    def discard(self) -> None:
        """The document is settled: its pages need not be saved, and what was is deleted, in a thread of its own."""
        with self._lock:
            self._over, self._unsaved = True, []
            writing, nothing = self._writing, not self._keys
        if self._shared.checkpoints is not None and not (nothing and writing is None):
            self._shared.writers.submit(self._remove, writing)

    # -- writing --------------------------------------------------------------------------------------------------

    def _save(self) -> Future[None] | None:
        """Begin to write what is unsaved; the lock is held."""
        checkpoints = self._shared.checkpoints
        if checkpoints is None or not self._unsaved:
            return None
        numbers, self._unsaved = self._unsaved, []
        pages = [self._pages[number] for number in numbers]
        self._saving.save()
        self._writing = self._shared.writers.submit(self._write, checkpoints, pages, self._spent)
        return self._writing

    def _write(self, checkpoints: Checkpoints, pages: list[FinishedPage], spent: float) -> None:
        keys: list[str] = []
        unsaved = pages
        try:
            for key in checkpoints.write(self._of, (self._saved(page) for page in pages), spent):
                keys.append(key)  # of one that was begun, too
            unsaved = []
        except (StoreError, OSError, UnicodeError) as error:
            if not self._over:
                _log.warning("%d finished pages of document %d are not saved: %s", len(pages), self._of.document, error)
        finally:
            with self._lock:
                self._writing = None
                self._keys += keys
                self._unsaved = [page.number for page in unsaved] + self._unsaved

    def _saved(self, page: FinishedPage) -> SavedPage:
        return SavedPage(page.number, page.payload, {name: (self._assets / name).read_bytes() for name in page.files})

    def _remove(self, writing: Future[None] | None) -> None:
        if writing is not None:
            wait([writing])
        with self._lock:
            keys, self._keys = self._keys, []
        if self._shared.checkpoints is not None:
            self._shared.checkpoints.remove(keys)
