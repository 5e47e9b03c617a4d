"""`pdf-flows report`: what a run came to, in a few lines, as one JSON object, or as a page."""

from __future__ import annotations

import os
from pathlib import Path

from deployments.say import print_json, say, tell
from tasks.corpus import paths
from tasks.corpus.failures import UsageError
from tasks.corpus.runs import resolve
from tasks.corpus.store import Store
from tasks.fleet.money import duration
from tasks.html import render
from tasks.live_page import output_base
from tasks.lookout import Lookout
from tasks.page import Links, Page, page_of

SHOWN = 10


def report(runs: Store, run_id: str | None, html: str | None, *, as_json: bool) -> int:
    """Read all that the run wrote, and tell. Raises UsageError for a file that can't be written, StoreError."""
    spec = resolve(runs, run_id)
    with Lookout(runs, spec) as lookout:
        facts = lookout.catch_up()
    page = page_of(facts, runs.url, Links(output_base(spec, runs.url, beside=False), _ui()))
    if html is not None:
        _write(Path(html).expanduser(), render(page))
        tell(f"pdf-flows: written: {html}")
    if as_json:
        print_json(_json(page))
    else:
        for line in _lines(page):
            say(line)
        if runs.head(paths.report_page(spec.run_id)) is not None:
            say(f"page: {runs.url.rstrip('/')}/{paths.report_page(spec.run_id)}")
    return page.view.exit_code


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(
            f"--html {path}: {error.strerror or error}; name a file in a folder that can be written"
        ) from None


def _ui() -> str:
    """The Prefect UI, where the environment names it."""
    named = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/").removesuffix(
        "/api"
    )
    return named.rstrip("/")


def _lines(page: Page) -> list[str]:
    view = page.view
    found = [f"run {view.run_id}: {view.state}{f': {view.why}' if view.why else ''}"]
    found.append(
        f"{view.documents:,} documents = {view.converted:,} converted + {view.skipped:,} skipped + {view.failed:,} failed"
        f" + {view.remaining:,} remaining; {view.pages:,} pages"
    )
    if not view.over and view.eta is not None:
        found.append(f"ETA {duration(view.eta.likely)}")
    found += [f"{name}: {value}" for name, value in page.costs]
    if page.interrupted.interruptions:
        lost = duration(page.interrupted.seconds)
        found.append(f"{page.interrupted.interruptions} interruptions, {lost} of machine time came to nothing")
    found += [one.line() for one in page.criteria]
    found += [f"{cause.documents:>7,}  {cause.category} ({cause.phase})" for cause in page.causes]
    if page.doubtful:
        found.append("documents to look at (worst page's score; pdf-flows review shows them):")
        found += [f"  {one.worst:>8}  {one.key} p. {one.page}" for one in page.doubtful[:SHOWN]]
    if page.slowest:
        found.append("slowest documents:")
        found += [f"  {slow.seconds:>8}  {slow.pages:>6,} pages  {slow.key}" for slow in page.slowest[:SHOWN]]
    return found


def _json(page: Page) -> dict[str, object]:
    return {
        **page.view.model_dump(mode="json", exclude={"workers"}),
        "criteria": [one.model_dump(mode="json") for one in page.criteria],
        "interrupted": page.interrupted.model_dump(mode="json"),
        "costs": dict(page.costs),
        "failures": [
            {"category": cause.category, "phase": cause.phase, "documents": cause.documents} for cause in page.causes
        ],
        "slowest": [{"key": slow.key, "took": slow.seconds, "pages": slow.pages} for slow in page.slowest],
        "doubtful": [
            {"key": one.key, "page": one.page, "worst": float(one.worst), "mean": float(one.mean)}
            for one in page.doubtful
        ],
        "versions": page.versions,
        "exit_status": page.view.exit_code,
    }
