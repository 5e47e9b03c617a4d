"""Runs with scores, their PDFs and their Markdown in real stores, for what shows the worst pages."""

from __future__ import annotations

import pymupdf
from watched_run import WatchedRun

from tasks.corpus.store import Store
from tasks.corpus.trust import PageScore, Trust

HOSTILE = (
    "</pre></style></title><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<style>body { display: none }</style><base href=//evil.example>",
    "--> ]]> &lt;b&gt; {{ 7 * 7 }} {% include 'x' %} javascript:alert(1) \u202eevil",
)


def document(pages: int = 3, *, password: str | None = None) -> bytes:
    """A PDF of so many pages, each of which says its number."""
    with pymupdf.open() as made:
        for number in range(1, pages + 1):
            page = made.new_page(width=300, height=400)
            page.insert_text((40, 80), f"Page {number} as it looks", fontsize=20)
        if password is None:
            return bytes(made.tobytes())
        return bytes(made.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw=password, owner_pw="o"))


def markdown(pages: int, text: str = "as it was read", *, markers: bool = True) -> bytes:
    """What was published of it."""
    parts = [f"<!-- page {n} -->\n\nPage {n} {text}" if markers else f"Page {n} {text}" for n in range(1, pages + 1)]
    return ("\n\n".join(parts) + "\n").encode()


def trust(*scores: tuple[int, float], **parts: float) -> Trust:
    """Of pages by number."""
    found = Trust.of(PageScore(page=page, score=score, parts=parts) for page, score in scores)
    assert found is not None
    return found


def reviewed_run(
    runs: Store, source: Store, output: Store, names: dict[int, str], text: str = "as it was read"
) -> WatchedRun:
    """Documents of three pages; the pages' scores are 0.2, 0.5 and 0.8, less a hundredth of the document's index."""
    run = WatchedRun(runs, len(names), 1, keys=names, input=source.url, output=output.url)
    run.live(0)
    for index, key in names.items():
        source.put(key, document())
        output.put(f"{key[:-4]}.md", markdown(3, text))
        less = index / 100
        scored = trust((1, 0.2 - less), (2, 0.5 - less), (3, 0.8 - less), lost=0.75, ink=0.125)
        run.record(0, index, pages=3, trust=scored)
    run.flush()
    run.work(0)
    return run
