"""Mutants through the real sandboxes of a worker: what becomes of each, and what should not have."""

from __future__ import annotations

import csv
import os
import shutil
import stat
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mutants import Mutant, Seed
from plain_words import odd_words

from tasks.corpus.failures import Category, ConversionError
from tasks.engines.confine import NOBODY
from tasks.engines.markdown import Origin, assemble, assemble_whole
from tasks.engines.protocol import EngineName, EngineResult, Limits, Rendering
from tasks.engines.sandbox import Aborted, Sandbox
from tasks.pool import SandboxPool

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(page_timeout=20, document_timeout=60, memory_mb=1536, max_pages=100)
NOT_WATCHED = {
    ".git",
    ".venv",
    "__pycache__",
    ".pytest_cache",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    ".import_linter_cache",
}
GRACE = 120.0
"""Seconds over a document's limit after which the sandbox is called hung: its child may have to be started on a busy machine."""
MOST_SEED_BYTES = 200_000
MOST_SEED_PAGES = 3


@dataclass
class Ending:
    """What became of one mutant."""

    mutant: Mutant
    outcome: str
    """converted, partial, or the category."""
    message: str
    seconds: float
    defect: str = ""
    """What must never be."""


@dataclass
class Campaign:
    """What became of all of them."""

    endings: list[Ending] = field(default_factory=list)
    children: int = 0
    """Sandbox children that were used."""
    seconds: float = 0.0
    outside: list[str] = field(default_factory=list)
    """Files that were written where none should be."""

    @property
    def defects(self) -> list[Ending]:
        return [ending for ending in self.endings if ending.defect]

    @property
    def looked_at(self) -> list[Ending]:
        """Records that a person should look at, though they are records."""
        return [
            ending
            for ending in self.endings
            if ending.outcome in (Category.CRASHED, Category.ENGINE) or odd_words(ending.message)
        ]

    def lines(self) -> Iterator[str]:
        """For a person."""
        outcomes = Counter(ending.outcome for ending in self.endings)
        yield f"{len(self.endings)} mutants in {self.seconds:.0f} s, {self.children} sandbox children"
        for outcome, count in outcomes.most_common():
            seconds = [ending.seconds for ending in self.endings if ending.outcome == outcome]
            yield f"  {count:6} {outcome}, {sum(seconds) / count:.2f} s each, {max(seconds):.1f} s at most"
        yield "the slowest:"
        for ending in sorted(self.endings, key=lambda ending: -ending.seconds)[:10]:
            yield f"  {ending.seconds:.1f} s {ending.outcome} {ending.mutant}"
        for title, endings in (("to be looked at", self.looked_at), ("DEFECTS", self.defects)):
            yield f"{title}: {len(endings)}"
            for ending in endings:
                yield f"  {ending.mutant}: {ending.outcome} {ending.message[:200]} {ending.defect}".rstrip()
        yield f"written outside: {len(self.outside)}"
        yield from (f"  {line}" for line in self.outside)


def seeds(corpus: Path) -> list[Seed]:
    """Small whole PDFs: the samples and, where there is a corpus, its own; hostile ones only as they are."""
    found = [Seed.of(path.name, path, take_apart=True) for path in sorted((ROOT / "samples").glob("*.pdf"))]
    if not (corpus / "manifest.csv").is_file():
        return found
    with (corpus / "manifest.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["file"])
    for row in rows:
        small = int(row["bytes"]) <= MOST_SEED_BYTES and 1 <= int(row["pages"] or 0) <= MOST_SEED_PAGES
        hostile = row["file"].startswith("hostile/")
        # Scans take ten seconds each: some of them are enough.
        quick = row["has_text_layer"] == "1.0" or hostile or int(row["bytes"]) <= 20_000
        if small and quick and row["expected_outcome"] == "ok":
            found.append(Seed.of(row["file"], corpus / row["file"], take_apart=not hostile))
    return found


def run(mutants: Iterable[Mutant], scratch: Path, *, slots: int, keep: Path, tell: Callable[[str], None]) -> Campaign:
    """Convert them all.

    Args:
        scratch: an empty folder, for the sandboxes.
        keep: where defects and what should be looked at are kept.
        tell: called with a line now and then.
    """
    campaign = Campaign()
    before = watched(scratch)
    sandboxes: list[Sandbox] = []

    def make(folder: Path) -> Sandbox:
        sandboxes.append(Sandbox(EngineName.LAYOUT, LIMITS, threads=1, recycle_after=50, scratch=folder))
        return sandboxes[-1]

    pids: set[int | None] = set()
    waiting = iter(mutants)
    lock = threading.Lock()
    in_hand: dict[int, float] = {}
    begun = time.monotonic()
    pool = SandboxPool(make, slots, scratch / "slots")

    def work(name: int) -> None:
        while True:
            with lock:
                mutant = next(waiting, None)
                if mutant is None:
                    return
                in_hand[name] = time.monotonic()
            ending = _one(pool, mutant, scratch)
            with lock:
                del in_hand[name]
                pids.update(sandbox.pid for sandbox in sandboxes)
                campaign.endings.append(ending)
                if (
                    ending.defect
                    or ending in campaign.looked_at
                    or ending.outcome in (Category.TIMEOUT, Category.MEMORY)
                ):
                    _keep(ending, keep)
                if len(campaign.endings) % 50 == 0:
                    tell(
                        f"{len(campaign.endings)} mutants, {time.monotonic() - begun:.0f} s, {len(campaign.defects)} defects"
                    )

    try:
        (scratch / "files").mkdir()
        pool.start()
        pool.ready(180.0)
        threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in range(slots)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            with lock:
                late = [
                    start for start in in_hand.values() if time.monotonic() - start > LIMITS.document_timeout + GRACE
                ]
            if late:
                pool.kill()  # what hangs ends as Aborted, and is a defect
                for sandbox in sandboxes:
                    sandbox.start()
    finally:
        pool.close()
    pids.discard(None)
    campaign.children, campaign.seconds = len(pids), time.monotonic() - begun
    # Libraries keep caches in their home, which is there; documents and assets are gone.
    left = [str(path.relative_to(scratch)) for path in (scratch / "slots").glob("*/*") if not path.name.startswith(".")]
    campaign.outside = sorted({*watched(scratch) - before, *left})
    return campaign


def _one(pool: SandboxPool, mutant: Mutant, scratch: Path) -> Ending:
    folder = Path(tempfile.mkdtemp(dir=scratch / "files"))
    pdf, assets = folder / "document.pdf", folder / "assets"
    assets.mkdir()
    pdf.write_bytes(mutant.data)
    pages_begun: list[tuple[int, int]] = []
    begun = time.monotonic()

    def ending(outcome: str, message: str = "", defect: str = "") -> Ending:
        return Ending(mutant, outcome, message, time.monotonic() - begun, defect)

    try:
        result = pool.convert(pdf, mutant.seed, [], assets, lambda page, pages: pages_begun.append((page, pages)))
    except ConversionError as error:
        failure = error.failure
        wrong = (
            "no message"
            if not failure.message.strip()
            else "names a path of this machine"
            if str(scratch) in failure.message
            else ""
        )
        return ending(failure.category.value, failure.message, wrong)
    except Aborted:
        return ending("hung", defect=f"over {LIMITS.document_timeout + GRACE:g} s")
    except Exception as error:  # noqa: BLE001 - that nothing else is raised is what is tested
        return ending("raised", repr(error), "not a ConversionError")
    else:
        partial = any(page.gap is not None for page in result.pages)
        return ending("partial" if partial else "converted", "; ".join(result.warnings), _wrong(result, assets))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wrong(result: EngineResult, assets: Path) -> str:
    """What is wrong with a result; "" if nothing."""
    if [page.number for page in result.pages] != list(range(1, len(result.pages) + 1)):
        return "the pages are not numbered through"
    if not result.pages:
        return "no page"
    rendering, origin = Rendering(front_matter=True), Origin(source="x.pdf", sha256="0" * 64, pages=1, engine="layout")
    try:
        whole = result.whole is not None
        text = (
            assemble_whole(result.whole or "", rendering, origin)
            if whole
            else assemble(result.pages, rendering, origin)
        )
        text.encode()
    except UnicodeEncodeError:
        return "the Markdown is no UTF-8"
    if any(asset.path.parent != assets or not asset.path.is_file() for asset in result.assets):
        return "an asset is not where it should be"
    return ""


def _keep(ending: Ending, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{ending.outcome}-{ending.mutant.number}"
    (folder / f"{stem}.pdf").write_bytes(ending.mutant.data)
    (folder / f"{stem}.txt").write_text(
        f"{ending.mutant}\n{ending.outcome} after {ending.seconds:.1f} s: {ending.message}\n{ending.defect}\n",
        errors="replace",
    )


def watched(scratch: Path) -> set[str]:
    """What a sandbox child must not have written: beside its folder, in the project, files of its user's in other places."""
    found = {str(path) for path in scratch.parent.rglob("*") if path != scratch and scratch not in path.parents}
    for path in ROOT.rglob("*"):
        if not NOT_WATCHED & set(path.relative_to(ROOT).parts):
            found.add(str(path))
    if os.geteuid() == 0:
        for folder in (Path(tempfile.gettempdir()), Path.home(), Path("/var/tmp"), Path("/dev/shm")):
            found |= {str(path) for path in folder.glob("*") if _is_nobodys_file(path)}
    return found


def _is_nobodys_file(path: Path) -> bool:
    """Folders are other sandboxes'."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return found.st_uid == NOBODY and not stat.S_ISDIR(found.st_mode)
