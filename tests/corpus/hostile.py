"""What a person gets to read about each hostile file of the corpus: category, message, warnings.

    .venv/bin/python tests/corpus/hostile.py [--only 'x-circular*'] > docs/hostile.md

PDF_FLOWS_CORPUS names the corpus. Messages that begin with a library's words are listed at the end, on stderr; the exit status is
then 1.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).resolve().parent)]

from expectations import CORPUS, manifest  # noqa: E402
from plain_words import odd_words  # noqa: E402

from tasks.corpus.failures import ConversionError  # noqa: E402
from tasks.engines.protocol import EngineName, EngineResult, Limits  # noqa: E402
from tasks.engines.sandbox import Sandbox  # noqa: E402

HEAD = """\
# What hostile files end as

Every file of the test corpus's `hostile/` that does not simply become Markdown, and what `pdf-flows failures` or the document's
warnings say of it. What stands in brackets is what the library said, for whoever looks into it. Written by
`tests/corpus/hostile.py`. {converted} others are converted without a word.

| file | what it is | ends as | what is said |
| --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Ending:
    """What became of one file."""

    file: str
    notes: str
    outcome: str
    messages: tuple[str, ...]


def endings(rows: list[dict[str, str]], limits: Limits) -> Iterator[Ending]:
    """One for each row, in order; through one sandbox."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)  # children of a sandbox run as nobody, if we are root
        with Sandbox(EngineName.LAYOUT, limits, threads=2, scratch=scratch) as sandbox:
            for row in rows:
                pdf = Path(shutil.copyfile(CORPUS / row["file"], scratch / "in.pdf"))
                try:
                    result = sandbox.convert(pdf, scratch / "out", [])
                except ConversionError as error:
                    outcome, said = error.failure.category.value, (error.failure.message,)
                else:
                    outcome, said = _converted(result)
                shutil.rmtree(scratch / "out", ignore_errors=True)
                yield Ending(row["file"], row["notes"], outcome, said)


def _converted(result: EngineResult) -> tuple[str, tuple[str, ...]]:
    gaps = tuple(f"page {page.number} could not be converted: {page.gap}" for page in result.pages if page.gap)
    return ("partial" if gaps else "converted"), (*gaps, *result.warnings)


def cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a glob over names")
    parser.add_argument("--most-pages", type=int, default=5000, help="longer documents are left out")
    parser.add_argument("--page-timeout", type=float, default=Limits().page_timeout)
    options = parser.parse_args()
    rows = [
        row
        for row in manifest()
        if row["file"].startswith("hostile/")
        and int(row["pages"] or 0) <= options.most_pages
        and fnmatch.fnmatchcase(Path(row["file"]).name, options.only)
    ]
    if not rows:
        parser.error(f"no such file in {CORPUS}: PDF_FLOWS_CORPUS names the corpus")
    found = []
    for ending in endings(rows, Limits(page_timeout=options.page_timeout)):
        sys.stderr.write(f"{ending.file}: {ending.outcome} {'; '.join(ending.messages)[:200]}\n")
        found.append(ending)
    told = [ending for ending in found if ending.messages]
    sys.stdout.write(HEAD.format(converted=len(found) - len(told)) + "\n")
    for ending in told:
        more = f" (and {len(ending.messages) - 3} more)" if len(ending.messages) > 3 else ""
        said = "; ".join(ending.messages[:3]) + more
        name = Path(ending.file).name
        sys.stdout.write(f"| `{name}` | {cell(ending.notes)} | {ending.outcome} | {cell(said)} |\n")
    odd = [(ending, message, words) for ending in found for message in ending.messages if (words := odd_words(message))]
    sys.stderr.writelines(
        f"not plain: {ending.file}: {', '.join(words)}: {message}\n" for ending, message, words in odd
    )
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
