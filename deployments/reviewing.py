"""`pdf-flows review`: the worst pages of a run as one HTML page, each one's picture beside its Markdown."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from deployments.say import print_json, say, tell
from tasks.corpus import paths
from tasks.corpus.failures import PdfFlowsError, UsageError
from tasks.corpus.ledger import Record, read_ledger
from tasks.corpus.names import printable
from tasks.corpus.runs import RunSpec, resolve
from tasks.corpus.store import Store, check_readable, open_store
from tasks.engines.protocol import Limits
from tasks.live_page import output_base
from tasks.page import Links
from tasks.page_images import PageImages
from tasks.passwords import read_passwords
from tasks.review import MOST_BYTES, Pictures, Shown, parts_in_words, render, shown_pages
from tasks.scratch import scratch_folder
from tasks.worst_pages import Worst, worst_pages

MOST_PAGES = 500


def review(
    output: Store,
    runs: Store,
    run_id: str | None,
    *,
    most: int,
    to: str,
    source: str | None,
    password_file: str | None,
    as_json: bool,
) -> int:
    """Write the page. Raises UsageError where there is nothing to show or no file can be written, StoreError.

    Args:
        source: where the PDFs are now, if not where the run read them.
    """
    if not 1 <= most <= MOST_PAGES:
        raise UsageError(f"bad --worst {most}: give a number from 1 to {MOST_PAGES}")
    path = Path(to).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--to {to}: name a file in a folder that is there")
    spec = resolve(runs, run_id)
    passwords = read_passwords(password_file)
    worst = worst_pages(read_ledger(runs, [paths.workers(spec.run_id)]), most)
    _refuse_nothing(spec, worst)
    links = Links(output_base(spec, runs.url, beside=False), "")
    notes: list[str] = []
    with ExitStack() as stack:
        pictures = _pictures(stack, spec, source, passwords, notes)
        shown = shown_pages(worst, output, pictures, links, MOST_BYTES)
    try:
        path.write_text(render(spec, worst, shown, notes), encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"--to {to}: {error.strerror or error}; name a file in a folder that can be written") from None
    _say(spec, worst, shown, notes, path, as_json=as_json)
    return 0


def _refuse_nothing(spec: RunSpec, worst: Worst) -> None:
    if not worst.published:
        raise UsageError(f"run {spec.run_id} has converted no document yet: nothing can be reviewed")
    if not worst.pages:
        raise UsageError(
            f"run {spec.run_id} has no scores: its engine ({spec.identity.engine}) gave none, or it was made before there "
            "were any; convert again with --overwrite"
        )


def _pictures(stack: ExitStack, spec: RunSpec, source: str | None, passwords: list[str], notes: list[str]) -> Pictures:
    """What makes pictures; of nothing where the input is gone."""
    where = source or spec.identity.input
    try:
        store = open_store(where)
        check_readable(store)
    except PdfFlowsError as error:
        if source is not None:
            raise
        why = printable(f"the input can't be read: {error}")
        notes.append(f"Without pictures: {why}. Name where the PDFs are now with --input.")

        def none(record: Record, pages: list[int], room: int) -> tuple[dict[int, bytes | str], bool]:
            return dict.fromkeys(pages, "the input can't be read"), True

        return none
    scratch = stack.enter_context(scratch_folder())
    scratch.chmod(0o755)
    limits = Limits.model_validate(spec.identity.limits)
    return stack.enter_context(PageImages(store, scratch, passwords, limits)).of


def _say(spec: RunSpec, worst: Worst, shown: list[Shown], notes: list[str], path: Path, *, as_json: bool) -> None:
    without = sum(not one.image for one in shown)
    for note in notes:
        tell(f"pdf-flows: {note}")
    if as_json:
        print_json(
            {
                "run_id": spec.run_id,
                "documents": worst.published,
                "scored": worst.scored,
                "file": str(path),
                "left_out": len(worst.pages) - len(shown),
                "without_picture": without,
                "pages": [
                    {
                        "key": printable(one.record.key),
                        "page": one.score.page,
                        "score": one.score.score,
                        "parts": one.score.parts,
                        "mean": one.record.trust.mean if one.record.trust is not None else None,
                    }
                    for one in worst.pages
                ],
            }
        )
        return
    for one in worst.pages[:10]:
        doubts = parts_in_words(one.score)
        say(
            f"{one.score.score:.2f}  {printable(one.record.key)} p. {one.score.page}: {doubts[0].words if doubts else ''}"
        )
    if len(worst.pages) > 10:
        say(f"      {len(worst.pages) - 10} more in the file")
    if left_out := len(worst.pages) - len(shown):
        tell(f"pdf-flows: {left_out} pages left out: the file would be over {MOST_BYTES // 1_000_000} MB")
    if without:
        tell(f"pdf-flows: {without} of {len(shown)} pages without a picture; the file says why")
    say(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB, {len(shown)} pages)")
