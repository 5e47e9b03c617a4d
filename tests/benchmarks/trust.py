"""How well the pages' trust scores tell good documents from bad ones, over the corpus's documents with ground truth.

    .venv/bin/python tests/benchmarks/trust.py --out FOLDER [--most-pages 8] [--only scan] [--again]
    .venv/bin/python tests/benchmarks/trust.py --spoil [--most-pages 8] [--only paper]

Each document is converted by the layout engine as a worker has it; its Markdown and its pages' scores stay in FOLDER, and a
second call only counts (`--again` converts anew). Printed are Spearman's rank correlations of the document's score with its true
figures by the corpus's own score.py (edit similarity of documents whose ground truth is whole; recall of all), and what share of
the worst tenth by the truth is among the worst quarter by the score.

`--spoil`: the engine runs in this process. Its CPU seconds are counted, in all and for scores; and each page of 50 characters and
more is scored again with its text spoilt: half of it lost, ending in a loop, a tenth of it unreadable, a fifth of the letters
wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from quality import CORPUS, Document, documents, scorer

from tasks.corpus.failures import ConversionError
from tasks.engines.markdown import Origin, assemble
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.engines.trust import Part, score_of
from tasks.pool import open_pool


def convert_all(every: list[Document], corpus: Path, out: Path) -> None:
    """Markdown, and the pages' scores, of each document that `out` does not have."""
    with tempfile.TemporaryDirectory(prefix="trust-") as name:
        work = Path(name)
        work.chmod(0o711)
        pool = open_pool(EngineName.LAYOUT, {}, Limits(), work, slots=1, threads=1, recycle_after=50)
        pool.start()
        pool.ready(180.0)
        try:
            for number, document in enumerate(every, 1):
                copy = Path(shutil.copyfile(corpus / document.file, work / "document.pdf"))
                copy.chmod(0o644)
                assets = Path(tempfile.mkdtemp(prefix="assets-", dir=work))
                begun = time.monotonic()
                try:
                    result = pool.convert(copy, document.file, [], assets, lambda page, pages: None)
                except ConversionError as error:
                    sys.stderr.write(f"{number}/{len(every)} {document.file}: {error}\n")
                    continue
                pages = [
                    {"page": page.number, "way": page.way, **page.trust.model_dump(mode="json")}
                    for page in result.pages
                    if page.trust is not None
                ]
                origin = Origin(source=document.file, sha256=document.sha256, pages=len(result.pages), engine="layout")
                kept = {
                    "seconds": round(time.monotonic() - begun, 2),
                    "pages": pages,
                    "text": assemble(result.pages, Rendering(), origin),
                }
                _file(out, document).write_text(json.dumps(kept))
                sys.stderr.write(f"{number}/{len(every)} {document.file}: {kept['seconds']} s\n")
        finally:
            pool.close()


def _file(out: Path, document: Document) -> Path:
    return out / (document.file.replace("/", "--") + ".json")


def ranks(values: list[float]) -> Any:
    """Ranks, those of equal values their mean."""
    found = np.asarray(values)
    return np.array([(np.sum(found < value) + np.sum(found <= value) - 1) / 2 for value in found])


def spearman(a: list[float], b: list[float]) -> float:
    """Pearson's correlation of the ranks."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def caught(truth: list[float], score: list[float]) -> tuple[int, int]:
    """How many of the worst tenth by the truth are among the worst quarter by the score, and how many there are."""
    worst = sorted(range(len(truth)), key=lambda i: truth[i])[: max(1, round(len(truth) / 10))]
    shown = sorted(range(len(score)), key=lambda i: score[i])[: max(1, round(len(score) / 4))]
    return len(set(worst) & set(shown)), len(worst)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--spoil", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--most-pages", type=int, default=8)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--files", action="store_true", help="print every document, the worst first")
    options = parser.parse_args()
    corpus = options.corpus.resolve()
    every = [one for one in documents(corpus, options.only, every=False) if one.pages <= options.most_pages]
    if options.spoil:
        return spoil(every, corpus)
    if options.out is None:
        parser.error("name a folder with --out")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    convert_all([one for one in every if options.again or not _file(out, one).is_file()], corpus, out)
    score = scorer(corpus / "score.py")
    rows = []
    for document in every:
        if not _file(out, document).is_file():
            continue
        kept = json.loads(_file(out, document).read_text())
        assert document.truth is not None
        edit, recall, precision = score.score(document.truth.read_text(encoding="utf-8"), kept["text"])
        scores = [score_of({Part(name): value for name, value in page["parts"].items()}) for page in kept["pages"]]
        rows.append((document, sum(scores) / len(scores), edit, recall, precision, kept["pages"]))
    report(rows, files=options.files)
    return 0


@dataclass
class Measured:
    """What the engine did in this process."""

    scores: float = 0.0
    """CPU seconds for them, of the document in hand."""
    plain: list[float] = field(default_factory=list)
    spoilt: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def spoilt(text: str, read: Any) -> Iterator[tuple[str, str, Any]]:
    """What can become of a page: a name, its text then, and what was seen of it then."""
    chance = random.Random(len(text))
    # Lines that OCR does not find are neither in the text nor among the boxes; what lay in a text layer and got lost still is.
    seen = read.seen if read.seen.layer else replace(read.seen, lines=read.seen.lines[::2])
    yield "half lost", "\n\n".join(text.split("\n\n")[::2]) if read.seen.layer else text[: len(text) // 2], seen
    yield "ends in a loop", text + f"\n{' '.join(text.split()[-12:])}" * 30, read.seen
    letters = list(text)
    for at in chance.sample(range(len(letters)), len(letters) // 10):
        letters[at] = "\ufffd"
    yield "a tenth unreadable", "".join(letters), read.seen
    letters = list(text)
    for at in chance.sample(range(len(letters)), len(letters) // 5):
        if letters[at].isalpha():
            letters[at] = chance.choice("abcdefghijklmnopqrstuvwxyz")
    yield "a fifth of the letters wrong", "".join(letters), read.seen


def spoil(every: list[Document], corpus: Path) -> int:
    """CPU seconds of the layout engine by way, and of its scores; and the scores of pages that are spoilt on purpose."""
    from tasks.engines.layout.engine import LayoutEngine, LayoutOptions
    from tasks.engines.layout.page import PageReader
    from tasks.engines.layout.seen import trust_of
    from tasks.engines.protocol import Handover

    spent: dict[str, list[float]] = {}
    found = Measured()
    plain = PageReader.trust

    def timed(self: PageReader, page: Any, read: Any, text: str) -> Any:
        begun = time.process_time()
        trust = plain(self, page, read, text)
        found.scores += time.process_time() - begun
        if len(text) >= 50:
            found.plain.append(trust.score)
            for name, other, seen in spoilt(text, read):
                found.spoilt[name].append(trust_of(page, seen, other).score)
        return trust

    PageReader.trust = timed  # type: ignore[method-assign]
    engine = LayoutEngine(LayoutOptions(), 1)
    with tempfile.TemporaryDirectory(prefix="trust-") as name:
        for number, document in enumerate(every, 1):
            found.scores, begun = 0.0, time.process_time()
            before = len(found.plain)
            try:
                result = engine.convert(
                    corpus / document.file, Path(name), [], Limits(), lambda page, pages, ways=0: None, Handover()
                )
            except ConversionError as error:
                sys.stderr.write(f"{document.file}: {error}\n")
                continue
            took = time.process_time() - begun
            sys.stderr.write(f"{number}/{len(every)} {document.file}\n")
            ways = {page.way or "" for page in result.pages}
            row = spent.setdefault(ways.pop() if len(ways) == 1 else "several ways", [0.0, 0.0, 0.0])
            # Spoilt pages cost four times as much again, which is no part of the conversion.
            extra = found.scores * 4 * (len(found.plain) - before) / len(result.pages)
            for at, value in enumerate((len(result.pages), max(found.scores, took - extra), found.scores)):
                row[at] += value
    for way, (pages, took, scores) in spent.items():
        each = f"{took / pages:.3f} s CPU a page, {1000 * scores / pages:.1f} ms of it for scores"
        print(f"{way}: {pages:.0f} pages, {each}: {scores / (took - scores):.1%} more")
    quarter = sorted(found.plain)[len(found.plain) // 4]
    print(f"{len(found.plain)} pages; a quarter of them score under {quarter:.3f}")
    for name, scores_then in found.spoilt.items():
        lower = sum(now < was - 0.02 for now, was in zip(scores_then, found.plain, strict=True)) / len(found.plain)
        under = sum(now < quarter for now in scores_then) / len(found.plain)
        middle = sorted(scores_then)[len(scores_then) // 2]
        print(f"{name}: {lower:.0%} score lower than as they came, {under:.0%} under that; median {middle:.2f}")
    return 0


def report(rows: list[Any], *, files: bool) -> None:
    """The figures."""

    def line(name: str, chosen: list[Any], truth: Callable[[Any], float]) -> None:
        if len(chosen) < 4:
            return
        a, b = [row[1] for row in chosen], [truth(row) for row in chosen]
        found, of = caught(b, a)
        print(f"{name}: n {len(chosen)}, Spearman {spearman(a, b):.2f}, worst tenth in worst quarter {found} of {of}")

    whole = [row for row in rows if not row[0].part]
    line("edit", whole, lambda row: row[2])
    line("recall, whole truths", whole, lambda row: row[3])
    line("recall", rows, lambda row: row[3])
    line("F1", whole, lambda row: 2 * row[3] * row[4] / max(1e-9, row[3] + row[4]))
    for way in ("layout", "layout-ocr"):
        some = [row for row in whole if all(page["way"] == way for page in row[5])]
        line(f"edit, all pages by {way}", some, lambda row: row[2])
        line(f"recall, all pages by {way}", some, lambda row: row[3])
    if files:
        for document, mine, edit, recall, precision, pages in sorted(rows, key=lambda row: row[1]):
            means: dict[str, float] = {}
            for page in pages:
                for name, value in page["parts"].items():
                    means[name] = means.get(name, 0.0) + value / len(pages)
            parts = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            what = f"recall {recall:.3f}" if document.part else f"{edit:.3f}/{recall:.3f}/{precision:.3f}"
            print(f"{mine:.3f} {document.file}: {what}; {parts}")


if __name__ == "__main__":
    sys.exit(main())
