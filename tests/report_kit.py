"""Runs whose names and messages attack whoever shows them, and their pages, read as a browser reads them."""

from __future__ import annotations

from html.parser import HTMLParser

from memory_store import MemoryStore
from watched_run import BEGAN, RUN_ID, WatchedRun

from tasks.corpus.store_folder import FolderStore
from tasks.html import render
from tasks.lookout import Lookout
from tasks.page import Links, page_of
from tasks.report import Report, RunState

HOSTILE = (
    "<script>alert(1)</script>.pdf",
    "\"><img src=x onerror=alert(1)>'.pdf",
    "two\nlines\r.pdf",
    "evil\u202efdp.exe",
    "{{ 7 * 7 }}{% include 'x' %}.pdf",
    "javascript:alert(1).pdf",
    "--></style></title><base href=//evil.example>.pdf",
    "\x1b]0;title\x07.pdf",
    "&lt;already&gt; &amp; escaped.pdf",
)


class Elements(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_run(store: MemoryStore | FolderStore, output: str = "/data/markdown") -> WatchedRun:
    keys = dict(enumerate(HOSTILE)) | {i + len(HOSTILE): f"ok/{key}" for i, key in enumerate(HOSTILE)}
    run = WatchedRun(store, 2 * len(HOSTILE), 1, keys=keys, output=output)
    run.live(0, in_hand=list(HOSTILE), page=3)
    for index, name in enumerate(HOSTILE):
        run.fail(0, index, message=f"message {name}", name="n.md")
        run.record(0, index + len(HOSTILE), seconds={"total": 9.0 + index}, name=f"{keys[index + len(HOSTILE)]}.md")
    run.flush()
    run.work(0, in_hand=list(HOSTILE))
    run.fence(0, 0, HOSTILE[0])
    run.put("parent/0/stop.json", HOSTILE[1].encode())
    run.spend(machines=1)
    return run


def html(run: WatchedRun, links: Links | None = None, **more: object) -> str:
    with Lookout(run.store, run.spec, wall=lambda: BEGAN + 9000) as lookout:
        facts = lookout.catch_up()
    for name, value in more.items():
        setattr(facts, name, value)
    return render(page_of(facts, f"{run.output}/_runs", links or Links("../../", "https://ui.example")))


def report(**changes: object) -> Report:
    given = {
        "run_id": RUN_ID,
        "state": RunState.COMPLETED,
        "input": "/data/pdfs",
        "output": "/data/markdown",
        "documents": 40,
        "converted": 40,
        "skipped": 0,
        "partial": 0,
        "failed": 0,
        "quarantined": 0,
        "remaining": 0,
        "duplicates": 0,
        "pages": 400,
        "seconds": 90.0,
        "pages_per_second": 4.4,
        "engine": "layout",
        "report": "r",
        **changes,
    }
    return Report(**given)
