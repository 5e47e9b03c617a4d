"""The quote: what a conversion would be, before any work."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict

from tasks.cores import gpus, usable_cores
from tasks.corpus import names
from tasks.corpus.failures import Category, ConversionError, StoreError, UsageError
from tasks.corpus.manifest import Row
from tasks.corpus.outputs import existing_outputs
from tasks.corpus.partition import partition_of
from tasks.corpus.runs import load_manifest, starts
from tasks.corpus.store import Store, open_store
from tasks.engines.protocol import EngineName
from tasks.engines.sandbox import Sandbox
from tasks.options import LauncherName, Options
from tasks.passwords import read_passwords
from tasks.plan import freeze, list_documents, refuse_nothing
from tasks.pool import SandboxPool
from tasks.previous import Previous, notes_on, previous_runs
from tasks.report import read_report
from tasks.scratch import scratch_folder

SAMPLE = 2000
"""Above so many documents, pages are counted in a random sample."""
ASSUMED_PAGES_PER_SECOND = 1.0
"""Of one worker with one core, where no earlier run on the output tells: measured on the corpus (docs/performance.md)."""
ASSUMED_DOLPHIN_ON_CPU = 0.01
"""Of one core: an image takes 5 s of it (docs/performance.md), and a page has some 18."""
SHOWN = 10


class Troubled(BaseModel):
    """A document that will fail, or came twice."""

    model_config = ConfigDict(frozen=True)

    key: str
    what: str


class Quote(BaseModel):
    """Figures and what they rest on."""

    model_config = ConfigDict(frozen=True)

    documents: int
    bytes: int
    done: int
    """Their output is there already."""
    failed_before: int
    """Failed for good before, same content, engine and limits: not tried again."""
    waiting: int
    inspected: int
    pages: int
    """Of the documents waiting: counted, or estimated from the sample."""
    pages_error: int
    """Half width of the 95 % interval of `pages`; 0 where all were counted."""
    broken: int
    encrypted: int
    """No password given fits. Both as counted among the inspected."""
    duplicates: int
    """Documents waiting whose content another one has, too."""
    partitions: list[int]
    """Documents waiting of each worker."""
    seconds: float
    """Expected."""
    pages_per_second: float
    measured: bool
    """Whether the rate is an earlier run's on this output, or assumed."""
    troubled: list[Troubled]
    notes: list[str] = []

    def lines(self) -> list[str]:
        """For people."""
        pages = f"{self.pages:,} pages"
        if self.pages_error:
            pages = f"about {self.pages:,} ± {self.pages_error:,} pages (95 %, from {self.inspected:,} documents)"
        rate = "measured in an earlier run" if self.measured else "assumed"
        lines = [
            f"{self.documents:,} documents, {self.bytes / 1e6:,.1f} MB: {self.done:,} done, "
            f"{self.failed_before:,} failed for good before, {self.waiting:,} waiting",
            f"waiting: {pages}; of {self.inspected:,} looked into, {self.broken:,} broken, {self.encrypted:,} encrypted; "
            f"{self.duplicates:,} duplicates",
            "partitions: " + ", ".join(f"worker {k}: {count:,}" for k, count in enumerate(self.partitions)),
            f"expected time: {_duration(self.seconds)} at {self.pages_per_second:.2f} pages/s ({rate})",
        ]
        return lines + self.notes + [f"  {trouble.key}: {trouble.what}" for trouble in self.troubled]


def quote(options: Options) -> Quote:
    """Look at everything, convert nothing, write nothing but local copies that are deleted at once."""
    source = open_store(options.input)
    refuse_nothing(source)
    passwords = read_passwords(options.password_file)
    runs, outputs = _looked_at(options)
    previous = previous_runs(options, runs) if runs is not None else Previous()
    with scratch_folder() as folder:
        earlier: Iterator[Row] = iter(())
        if runs is not None and previous.whole is not None:
            earlier = load_manifest(runs, previous.whole, folder).rows()
        rows = list(
            freeze(
                list_documents(source, options.limit),
                outputs,
                previous,
                overwrite=options.overwrite,
                retry_failed=options.retry_failed,
                earlier=earlier,
            )
        )
    waiting = [row for row in rows if not row.done and row.failure is None]
    sample = waiting
    if len(waiting) > SAMPLE:
        # Seeded by the listing itself: the same bucket gives the same quote.
        sample = random.Random(len(waiting)).sample(waiting, SAMPLE)  # noqa: S311 - not for secrets
    counts, troubled = _inspect(source, sample, options, passwords)
    pages, error = estimate(counts, len(waiting))
    duplicates = _duplicates(source, waiting)
    rate, measured = _rate(options, runs)
    return Quote(
        documents=len(rows),
        bytes=sum(row.size for row in rows),
        done=sum(row.done for row in rows),
        failed_before=sum(row.failure is not None and not row.done for row in rows),
        waiting=len(waiting),
        inspected=len(sample),
        pages=pages,
        pages_error=error,
        broken=sum(t.what.split(":")[0] not in (Category.ENCRYPTED, Category.STORE) for t in troubled),
        encrypted=sum(t.what.startswith(Category.ENCRYPTED) for t in troubled),
        duplicates=len(duplicates),
        partitions=[
            sum(partition_of(row.index, options.workers) == k for row in waiting) for k in range(options.workers)
        ],
        seconds=round(pages / rate, 1),
        pages_per_second=round(rate, 3),
        measured=measured,
        troubled=[*troubled[:SHOWN], *duplicates[:SHOWN]],
        notes=notes_on(previous, options, sum(row.done for row in rows), sum(row.stale for row in rows)),
    )


def estimate(counts: list[int], population: int) -> tuple[int, int]:
    """Pages in all, and the half width of its 95 % interval, from the pages of a random sample. Pure.

    Normal approximation with finite population correction (Cochran, Sampling Techniques, 2.5); 0 if all were counted.
    """
    if not counts:
        return 0, 0
    if len(counts) >= population:
        return sum(counts), 0
    n = len(counts)
    correction = math.sqrt(1 - n / population)
    error = 1.96 * population * (stdev(counts) if n > 1 else 0.0) / math.sqrt(n) * correction
    return round(fmean(counts) * population), math.ceil(error)


def _looked_at(options: Options) -> tuple[Store | None, set[str]]:
    """`<runs>` and the outputs, as far as they exist: a quote creates nothing."""
    try:
        output = open_store(options.output)
        outputs = existing_outputs(output)
    except UsageError:
        if not options.output.startswith("s3://"):
            return None, set()
        raise
    try:
        return open_store(options.runs_url), outputs
    except UsageError:
        return None, outputs


def _inspect(
    source: Store, rows: list[Row], options: Options, passwords: list[str]
) -> tuple[list[int], list[Troubled]]:
    """Pages of each document (0 for those that can't be opened), and what is wrong with these."""
    slots = min(usable_cores(), max(1, len(rows) // 8))
    counts: list[int] = []
    troubled: list[Troubled] = []
    with scratch_folder() as scratch:
        scratch.chmod(0o755)
        pool = SandboxPool(
            lambda place: Sandbox(options.engine, options.limits, threads=1, recycle_after=500, scratch=place),
            slots,
            scratch,
        )

        def look(row: Row) -> int | Troubled:
            pdf = scratch / f"{row.index}.pdf"
            try:
                source.fetch(row.key, pdf)
                pdf.chmod(0o644)
                with pool.slot() as (sandbox, folder):
                    pdf = pdf.rename(folder / pdf.name)
                    return sandbox.inspect(pdf, passwords).pages
            except ConversionError as error:
                return Troubled(key=names.printable(row.key), what=str(error))
            except StoreError as error:
                return Troubled(key=names.printable(row.key), what=f"{error.category}: {error}")
            finally:
                pdf.unlink(missing_ok=True)

        try:
            with ThreadPoolExecutor(slots + 2) as threads:
                for found in threads.map(look, rows):
                    if isinstance(found, Troubled):
                        troubled.append(found)
                        counts.append(0)
                    else:
                        counts.append(found)
        finally:
            pool.close()
    return counts, troubled


def _duplicates(source: Store, rows: Iterable[Row]) -> list[Troubled]:
    """Documents whose content an earlier one has. S3: same size and ETag; folders: same size, then same sha256."""
    sizes: dict[int, list[Row]] = {}
    for row in rows:
        sizes.setdefault(row.size, []).append(row)
    found: list[Troubled] = []
    with scratch_folder() as folder:
        copy = folder / "copy.pdf"
        for same in sizes.values():
            if len(same) == 1:
                continue
            first: dict[str, Row] = {}
            for row in same:
                content = row.etag
                if not source.url.startswith("s3://"):
                    try:
                        source.fetch(row.key, copy)
                    except StoreError:
                        continue
                    with copy.open("rb") as file:
                        content = hashlib.file_digest(file, "sha256").hexdigest()
                earlier = first.setdefault(content, row)
                if earlier is not row:
                    what = f"the same content as {names.printable(earlier.key)}"
                    found.append(Troubled(key=names.printable(row.key), what=what))
    return found


def _rate(options: Options, runs: Store | None) -> tuple[float, bool]:
    """Pages a second of all workers together: the newest run's with this engine, else assumed."""
    cores = usable_cores()
    assumed = ASSUMED_PAGES_PER_SECOND * min(options.workers, cores)
    if options.engine is EngineName.DOLPHIN and options.launcher is LauncherName.LOCAL and not gpus():
        assumed = ASSUMED_DOLPHIN_ON_CPU * cores
    if runs is None:
        return assumed, False
    for run_id in dict.fromkeys(start.run_id for _, start in reversed(starts(runs))):
        report = read_report(runs, run_id)
        if report is not None and report.engine == options.engine and report.pages_per_second > 0:
            return report.pages_per_second, True
    return assumed, False


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
